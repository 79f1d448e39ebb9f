-- Stores a schedule, removes it, or pushes the jobs of its ticks and moves it on; all of it only if it still is what the caller looked at.
-- ARGV: clock, name, the beginning of the keys of the queue in which the caller saw it, the plan and the tick that the caller saw (both '' for none), the new
-- plan (or '' to remove it), job and tick, then per job to push: its unique key or '', the number of names and values, those. The new one is of this queue.
-- Returns 0 if it is another by now, else 1, and per job the one that is there already for its unique key, or ''.
local name, seen_in = ARGV[2], ARGV[3]
local function seen() return {redis.call('HGET', key('plans'), name) or '', redis.call('ZSCORE', key('ticks'), name) or ''} end
local found = within(seen_in, seen)
if found[1] ~= ARGV[4] or found[2] ~= ARGV[5] then return {0} end
redis.call('HLEN', key('plans'))
redis.call('HLEN', key('planned'))
redis.call('ZCARD', key('ticks'))

local function remove()
  redis.call('HLEN', key('planned'))
  redis.call('HDEL', key('plans'), name)
  redis.call('HDEL', key('planned'), name)
  redis.call('ZREM', key('ticks'), name)
  tidy()
end
if ARGV[6] == '' then
  within(seen_in, remove)
  return {1}
end

local jobs, at = {}, 9
while at <= #ARGV do
  local rest = at + 2 + ARGV[at + 1]
  local one = {unique_key = ARGV[at], fields = {unpack(ARGV, at + 2, rest - 1)}}
  check_new(one.fields)
  if one.unique_key ~= '' and redis.call('EXISTS', key('incoming')) == 1 then return redis.error_reply('INCOMING ' .. prefix) end
  table.insert(jobs, one)
  at = rest
end
if seen_in ~= prefix and found[1] ~= '' then within(seen_in, remove) end
-- What the server refuses now, it refuses for all.
redis.call('HSET', key('plans'), name, ARGV[6])
redis.call('HSET', key('planned'), name, ARGV[7])
local answers = {1}
for _, one in ipairs(jobs) do
  local known = job_of_unique(one.unique_key)
  table.insert(answers, known or '')
  if not known then keep_unique(one.unique_key, 0, store(one.fields, 0)) end
end
redis.call('ZADD', key('ticks'), ARGV[8], name)
list()
ring()
write_down()
return answers
