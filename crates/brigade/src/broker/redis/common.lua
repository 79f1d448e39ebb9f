-- What every script begins with. A script runs alone on the server and all of it or nothing; it must name no key outside of its queue.
--
-- KEYS[1] is 'brigade:{queue}:', the beginning of each key. All times are the server's, in milliseconds; ARGV[1] says how far a test
-- has moved them: by how much time has passed, and by how much the wall clock was set besides. Leases do not follow the latter. Ids are numbers with leading zeros, so that members of one score are in the order of the pushes.

local prefix = KEYS[1]
local clock = redis.call('TIME')
local passed, set = string.match(ARGV[1], '^(%d+):(-?%d+)$')
local steady = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(passed)
local now = steady + tonumber(set)
local HISTORY_MAX = 20
local CANCELLED_KEPT = 24 * 3600 * 1000

local function key(name) return prefix .. name end
local function job(id) return prefix .. 'job:' .. id end
local function text(number) return string.format('%.0f', number) end
local function get(id, field) return redis.call('HGET', job(id), field) end

-- A server whose memory is full refuses a script at its first write that could need more; after one that needs none, it lets it go on. So
-- what is there can always be handed out and settled, which frees memory; only pushes are refused.
local function go_on_without_memory() redis.call('DEL', key('none')) end

-- Changing this key wakes whoever waits for the queue.
local function ring() redis.call('INCR', key('bell')) end

-- What the queue is limited to.
local limits = {}
for index, value in ipairs(redis.call('HMGET', key('limits'), 'running', 'starts', 'per', 'running_per_partition', 'starts_per_partition', 'per_per_partition', 'by_partition', 'turns')) do
  limits[index] = tonumber(value) or false
end

-- -- state: each job is in the sorted set of its state

local function leave(id, partition)
  local state = get(id, 'state')
  redis.call('ZREM', key(state), id)
  if not limits[7] then return end
  partition = partition or get(id, 'partition')
  if partition then
    if state == 'leased' then redis.call('ZREM', key('leased:' .. partition), id) end
    if state == 'ready' and redis.call('ZREM', key('ready:' .. partition), id) == 1
      and redis.call('EXISTS', key('ready:' .. partition)) == 0 then
      redis.call('ZREM', key('partitions'), partition)
    end
  end
end

local function enter(id, state, score)
  redis.call('HSET', job(id), 'state', state)
  redis.call('ZADD', key(state), score, id)
end

local function is_first_of_key(id, name)
  local first = redis.call('ZRANGE', key('key:' .. name), 0, 0)[1]
  return not first or first == id
end

-- Ready, or held if an earlier job of its key is not settled. The job is in no state's set before.
local function make_ready(id)
  local fields = redis.call('HMGET', job(id), 'priority', 'partition', 'key', 'waits')
  redis.call('HDEL', job(id), 'due', 'lease_until', 'holder')
  if (tonumber(fields[4]) or 0) > 0 or (fields[3] and not is_first_of_key(id, fields[3])) then
    return enter(id, 'held', 0)
  end
  local score = -(tonumber(fields[1]) or 0)
  enter(id, 'ready', score)
  if limits[7] then
    local partition = fields[2]
    if not partition then
      partition = ''
      redis.call('HSET', job(id), 'partition', '')
    end
    redis.call('ZADD', key('ready:' .. partition), score, id)
    redis.call('ZADD', key('partitions'), 0, partition)
  end
  ring()
end

local function make_due(id, state, due)
  redis.call('HDEL', job(id), 'lease_until', 'holder')
  redis.call('HSET', job(id), 'due', text(due))
  enter(id, state, due)
  ring()
end

-- Lets the next job of a key go on.
local function release_key(id, name)
  redis.call('ZREM', key('key:' .. name), id)
  local first = redis.call('ZRANGE', key('key:' .. name), 0, 0)[1]
  if first and get(first, 'state') == 'held' then
    redis.call('ZREM', key('held'), first)
    make_ready(first)
  end
end

-- Whatever else knows of an unsettled job.
local function unbind(id)
  local fields = redis.call('HMGET', job(id), 'key', 'mark', 'cancel')
  if fields[1] then release_key(id, fields[1]) end
  if fields[2] and redis.call('GET', key('mark:' .. fields[2])) == id then redis.call('DEL', key('mark:' .. fields[2])) end
  if fields[3] then redis.call('SREM', key('stops'), id) end
end

local function is_settled(state) return state == 'done' or state == 'dead' or state == 'cancelled' end

local function remove_job(id)
  local state = get(id, 'state')
  leave(id)
  if not is_settled(state) then unbind(id) end
  redis.call('ZREM', key('jobs'), id)
  redis.call('DEL', job(id), key('history:' .. id))
end

-- Settles a job for good. It is removed at `remove_at`, or stays.
local function end_job(id, state, reason, remove_at)
  leave(id)
  unbind(id)
  redis.call('HDEL', job(id), 'due', 'lease_until', 'holder', 'cancel')
  if reason then redis.call('HSET', job(id), 'reason', reason) end
  enter(id, state, remove_at or 0)
  ring()
end

-- `rest` is the record without its attempt and moment, from the kind on.
local function note(id, rest)
  local at = string.format('{"secs_since_epoch":%.0f,"nanos_since_epoch":%.0f}', math.floor(now / 1000), (now % 1000) * 1000000)
  local record = '{"attempt":' .. (get(id, 'attempts') or '0') .. ',"at":' .. at .. ',' .. rest
  redis.call('RPUSH', key('history:' .. id), record)
  redis.call('LTRIM', key('history:' .. id), -HISTORY_MAX, -1)
end

local function cancelled(id, reason) end_job(id, 'cancelled', reason, now + CANCELLED_KEPT) end

-- Puts a leased job back where it was, unless somebody wants it cancelled.
local function give_back(id, rest, counter, state, after)
  note(id, rest)
  if counter ~= '' then redis.call('HINCRBY', job(id), counter, 1) end
  local cancel = get(id, 'cancel')
  if cancel then return cancelled(id, cancel) end
  leave(id)
  if after > 0 then make_due(id, state, now + after) else make_ready(id) end
end

-- -- what is new

-- Stores a job. Its tokens begin at the time, so that those of a job that was lost with its server's memory never hold one that
-- got its number later. `fields` are names and values of its hash.
local function store(fields, due)
  local id = string.format('%016.0f', redis.call('INCR', key('seq')))
  redis.call('HSET', job(id), 'attempts', 0, 'token', text(now), 'pushed_at', text(now), unpack(fields))
  redis.call('ZADD', key('jobs'), 0, id)
  local name = get(id, 'key')
  if name then redis.call('ZADD', key('key:' .. name), 0, id) end
  if due > now then make_due(id, 'scheduled', due) else make_ready(id) end
  return id
end

-- The job that a mark stands for, if it does.
local function marked(mark)
  if mark == '' then return false end
  local id = redis.call('GET', key('mark:' .. mark))
  if id then return id end
  local id_of, until_ = string.match(redis.call('GET', key('period:' .. mark)) or '', '^(%d+) (%d+)$')
  return until_ and tonumber(until_) > now and id_of
end

local function mark_job(mark, period, id)
  if mark == '' then return end
  redis.call('SET', key('mark:' .. mark), id)
  if period > 0 then redis.call('SET', key('period:' .. mark), id .. ' ' .. text(now + period), 'PX', text(period)) end
end

-- -- what time does

local BATCH = 1000

-- -- plain clients: `free` is who asked, `to:<client>` what it is given, `handed:<client>` the jobs of that in the same order

-- What a client has collected is gone.
local function forget_collected(client)
  local left = redis.call('LLEN', key('to:' .. client))
  for _ = left + 1, redis.call('LLEN', key('handed:' .. client)) do
    remove_job(redis.call('LPOP', key('handed:' .. client)))
  end
end

-- Takes back what a client has not collected in time: those were handed to it in this order, so it is its first.
local function take_back(id, client)
  forget_collected(client)
  if redis.call('EXISTS', job(id)) == 0 then return end
  redis.call('LPOP', key('to:' .. client))
  redis.call('LPOP', key('handed:' .. client))
  redis.call('HDEL', job(id), 'client')
  give_back(id, '"kind":"interrupted","reason":"nobody collected it"}', 'interrupted', 'scheduled', 0)
end

local function tick()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('leased'), '-inf', '(' .. text(steady), 'LIMIT', 0, BATCH)) do
    local client = get(id, 'client')
    if client then
      take_back(id, client)
    else
      give_back(id, '"kind":"interrupted","reason":"its lease ran out"}', 'interrupted', 'scheduled', 0)
    end
  end
  for _, state in ipairs({'scheduled', 'retrying'}) do
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', key(state), '-inf', text(now), 'LIMIT', 0, BATCH)) do
      redis.call('ZREM', key(state), id)
      make_ready(id)
    end
  end
  for _, state in ipairs({'done', 'cancelled'}) do
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', key(state), 1, text(now), 'LIMIT', 0, BATCH)) do remove_job(id) end
  end
  for _, payload in ipairs(redis.call('LPOP', key('inbox'), BATCH) or {}) do store({'payload', payload}, 0) end
end

-- -- limits

-- Whether nothing more may be handed out, and if so by which limit: 'running', limit, how many run; 'rate', starts, per, free in.
local function closed(leased, starts, running_max, starts_max, per)
  if running_max then
    local running = redis.call('ZCARD', leased)
    if running >= running_max then return {'running', running_max, running} end
  end
  if starts_max then
    redis.call('ZREMRANGEBYSCORE', starts, '-inf', text(now - per))
    if redis.call('ZCARD', starts) >= starts_max then
      local first = redis.call('ZRANGE', starts, 0, 0, 'WITHSCORES')[2]
      return {'rate', starts_max, per, math.min(tonumber(first) + per - now, per)}
    end
  end
  return nil
end

local function queue_closed() return closed(key('leased'), key('starts'), limits[1], limits[2], limits[3]) end

local function partition_closed(partition)
  return closed(key('leased:' .. partition), key('starts:' .. partition), limits[4], limits[5], limits[6])
end

local function remember_start(partition)
  local function remember(name, per)
    redis.call('ZADD', key(name), now, text(redis.call('INCR', key('start'))))
    redis.call('PEXPIRE', key(name), text(per + 1000))
  end
  if limits[2] then remember('starts', limits[3]) end
  if limits[5] then remember('starts:' .. partition, limits[6]) end
end
