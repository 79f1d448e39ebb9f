-- What is being counted. ARGV: clock. Returns the number of the minute or '', its hash, and the hash of the hour into which it is packed at its end.
local minute = tonumber(redis.call('GET', key('minute')) or nil)
if not minute then return {''} end
local current = redis.call('HGETALL', key('minute:' .. text(minute)))
return {text(minute), current, redis.call('HGETALL', key('minutes:' .. text(math.floor(minute / 60))))}
