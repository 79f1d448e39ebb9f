-- Stores a schedule, removes it, or pushes the jobs of its ticks and moves it on; all of it only if it still is what the caller looked at.
-- ARGV: clock, name, the plan and the tick that the caller saw (both '' for none), the new plan (or '' to remove it), job and tick, then per job to push: its
-- mark or '', the number of names and values, those. Returns 0 if it is another by now, else 1, and per job the one that is
-- there already for its mark, or ''.
local name = ARGV[2]
local plans, jobs, ticks = key('plans'), key('planned'), key('ticks')
if (redis.call('HGET', plans, name) or '') ~= ARGV[3] or (redis.call('ZSCORE', ticks, name) or '') ~= ARGV[4] then return {0} end
if ARGV[5] == '' then
  redis.call('HDEL', plans, name)
  redis.call('HDEL', jobs, name)
  redis.call('ZREM', ticks, name)
  return {1}
end
redis.call('HSET', plans, name, ARGV[5])
redis.call('HSET', jobs, name, ARGV[6])
redis.call('ZADD', ticks, ARGV[7], name)
local answers = {1}
local at = 8
while at <= #ARGV do
  local mark, count = ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  local known = marked(mark)
  table.insert(answers, known or '')
  if not known then
    local fields = {}
    for index = at, at + count - 1 do table.insert(fields, ARGV[index]) end
    mark_job(mark, 0, store(fields, 0))
  end
  at = at + count
end
ring()
return answers
