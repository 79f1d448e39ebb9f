-- Makes a large push that was staged. ARGV: clock; its name; its number of jobs; the number of unique keys that may stand for no other job, and for each
-- the beginning of its queue's keys and the unique key; then per queue the beginning of its keys and how many jobs it gets.
-- Returns the first number of each queue. An error, and nothing of the push is made.
local batch, count, unique_keys = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local at = 5
if unique_keys > 0 and redis.call('EXISTS', key('incoming')) == 1 then return redis.error_reply('INCOMING ' .. prefix) end
for _ = 1, unique_keys do
  local known = within(ARGV[at], job_of_unique, ARGV[at + 1])
  if known then return redis.error_reply('DUPLICATE ' .. within(ARGV[at], name_of, known)) end
  at = at + 2
end
if redis.call('LLEN', key('stage:' .. batch)) ~= count then return redis.error_reply('UNSTAGED the push took too long') end
for queue = at, #ARGV, 2 do
  within(ARGV[queue], function()
    check_queue()
    redis.call('LLEN', key('incoming'))
    if LIST then redis.call('SISMEMBER', LIST, '') end
  end)
end
local home, answers = prefix, {}
-- The first write: what the server refuses now, nothing of it is made.
redis.call('HSET', key('batch:' .. batch), 'made', '1')
redis.call('HDEL', key('batch:' .. batch), 'made')
for queue = at, #ARGV, 2 do
  local first = within(ARGV[queue], function()
    list()
    redis.call('RPUSH', key('incoming'), home .. ' ' .. batch)
    ring()
    return take_numbers(tonumber(ARGV[queue + 1]))
  end)
  redis.call('HSET', key('batch:' .. batch), ARGV[queue], text(first))
  table.insert(answers, text(first))
end
redis.call('PERSIST', key('stage:' .. batch))
return answers
