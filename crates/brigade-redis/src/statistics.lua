-- What was counted. ARGV: clock, then hours. Returns the number of the minute that is being counted or '', its hash, and the hash of each hour.
local minute = redis.call('GET', key('minute'))
local answers = {minute or '', minute and redis.call('HGETALL', key('minute:' .. minute)) or {}}
for at = 2, #ARGV do answers[at + 1] = redis.call('HGETALL', key('minutes:' .. ARGV[at])) end
return answers
