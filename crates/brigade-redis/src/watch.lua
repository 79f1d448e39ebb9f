-- Has events be recorded from now on. ARGV: clock. Returns number and moment of the last one, and the first number that was recorded since it began.
local name = (LIST and 'brigade:' or prefix) .. 'recorded'
local found = redis.call('HMGET', name, 'until', 'number', 'moment', 'begun')
local last, moment, begun = number(found[2]), number(found[3]), found[4]
go_on_without_memory()
if number(found[1]) <= steady then
  -- What happened meanwhile is missing, which the gap in the numbers shows.
  last = math.max(last + 1, clock[1] * 1000000 + clock[2])
  moment = math.max(moment, clock[1] * 1000 + math.floor(clock[2] / 1000))
  begun = text(last)
  redis.call('HSET', name, 'number', text(last), 'moment', text(moment), 'begun', begun)
end
redis.call('HSET', name, 'until', text(steady + RECORDED_FOR))
redis.call('PEXPIRE', name, 2 * RECORDED_FOR)
return {text(last), text(moment), begun}
