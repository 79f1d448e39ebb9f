-- The facts for why a job is not running. Returns false if there is no job with the id, else its hash as a list, whether its queue is paused, whether a
-- worker is known, the job that holds its key and that one's state, the queue's and the partition's closed limit, how many ready jobs come before.
local id = ARGV[2]
go_on_without_memory()
check_queue()
tick()
write_down()
if redis.call('EXISTS', job(id)) == 0 then return false end
local fields = redis.call('HMGET', job(id), 'key', 'partition', 'state', 'priority')
local before_in_key, state_of_that = false, false
if fields[1] then
  local first = redis.call('ZRANGE', key('key:' .. fields[1]), 0, 0)[1]
  if first and first ~= id then before_in_key, state_of_that = first, get(first, 'state') end
end
local asked = redis.call('ZCOUNT', key('consumers'), text(steady - 60000), '+inf') + redis.call('ZCARD', key('leased'))
local before = 0
if fields[3] == 'ready' then
  local of = limits[8] and key('ready:' .. (fields[2] or '')) or key('ready')
  before = redis.call('ZRANK', of, id) or 0
end
return {
  redis.call('HGETALL', job(id)), redis.call('LRANGE', key('history:' .. id), -1, -1), redis.call('EXISTS', key('paused')), asked,
  before_in_key, state_of_that, queue_closed() or false, partition_closed(fields[2] or '') or false, before, text(steady),
}
