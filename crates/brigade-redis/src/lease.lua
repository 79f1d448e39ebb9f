-- Hands out jobs. ARGV: clock, holder, how many at most, the time of the lease or 0 to take; in the role of a manager, -1 and the time in which
-- plain clients have to collect. Last, the name of this process, by which others know whether it is gone.
-- Returns in how many milliseconds another may be ready (-1: not by time) and how many other processes ask for jobs here, as one text, then per job: id, token, failed, crashed, lost, unserved, its first moment and when its time began in one text, payload, task or false,
-- options or false. At most PIECE of them.
go_on_without_memory()
local owner = ARGV[#ARGV]
local holder, max, time = ARGV[2], math.min(tonumber(ARGV[3]), PIECE), tonumber(ARGV[4])
local manages = time == -1
local LEASED_VALUES = 4
check_queue()
check_sets({'consumers', 'holders'})
tick()
-- No more than were moved in before, so that nothing overtakes the rest of a large push.
if redis.call('EXISTS', key('incoming')) == 1 then max = math.min(max, math.floor(PIECE / 2)) end
if manages then
  time = tonumber(ARGV[5])
  for _, id in ipairs(redis.call('ZRANGE', key('leased'), 0, PIECE - 1)) do
    local client = get(id, 'client')
    if client then forget_collected(client) end
  end
  max = math.min(max, redis.call('LLEN', key('free')))
end
say_here(holder)

local answers = {-1}
local handed = 0
local next_open = nil

-- To the plain client that has waited for longest. It asks again when it is free again, so whatever else it asked counts no more.
local function hand_to_client(id, partition)
  local client = redis.call('LPOP', key('free'))
  redis.call('LREM', key('free'), 0, client)
  forget_collected(client)
  redis.call('RPUSH', key('to:' .. client), get(id, 'payload'))
  redis.call('RPUSH', key('handed:' .. client), id)
  redis.call('HSET', job(id), 'client', client)
  return client
end

-- What is not there is looked for in the whole hash, so not for what a plain job has not. 15: since when it waits, if that is kept.
local function read(id)
  local fields = redis.call('HMGET', job(id), 'token', 'attempts', 'plain', 'payload', 'task', 'options', 'pushed_at')
  local began_at = fields[7]
  fields[7] = false
  if fields[1] and not fields[3] then
    local names = {'failed', 'crashed', 'key', 'cancel', 'lost', 'unserved', 'unserved_at', 'began_at', 'since'}
    for place, value in ipairs(redis.call('HMGET', job(id), unpack(names))) do fields[6 + place] = value end
  end
  fields[14] = fields[14] or began_at
  return fields
end

-- Puts a job into the answer; gives its token.
local function answer(id, fields)
  -- Never one again that a holder may have from before the server fell back to an older state.
  local token = text(math.max(number(fields[1]) + 1, steady))
  local at = LEASED_VALUES * handed
  handed = handed + 1
  answers[at + 2] = id .. ' ' .. token .. ' ' .. (fields[7] or '0') .. ' ' .. (fields[8] or '0')
    .. ' ' .. (fields[11] or '0') .. ' ' .. (fields[12] or '0') .. ' ' .. (fields[13] or '0')
    .. ' ' .. (fields[14] or '0')
  answers[at + 3], answers[at + 4], answers[at + 5] = fields[4], fields[5], fields[6]
  return token
end

local lease_until = text(steady + time)

local is_recorded = open_log()

-- It was handed out; what is taken is done.
local function note_lease(id, fields)
  local since = fields[15] or fields[14]
  if fields[3] and fields[3] ~= '1' then since = fields[3] end
  count_time(fields[5], WAITS, math.max(now - number(since), 0))
  if time == 0 then count(fields[5], DONE) end
  if not is_recorded then return end
  local attempt = text(number(fields[2]) + 1)
  record('leased', id, 'leased', fields[5], attempt)
  if time == 0 then record('done', id, 'done', fields[5], attempt) end
end

-- Holders extend their leases, and are known for longer than the first would last.
local HOLDERS_KEPT = 24 * 3600 * 1000

local function write_lease(id, fields, token)
  redis.call('HSET', job(id), 'state', 'leased', 'token', token, 'attempts', text(number(fields[2]) + 1), 'lease_until', lease_until,
    'holder', holder, 'owner', owner)
  if fields[10] then redis.call('HDEL', job(id), 'cancel') end
  if fields[9] then redis.call('HSET', key('out'), fields[9], id) end
end

-- A member of a job that was cancelled goes with it, if that was too much for one script.
local is_doomed_queue = redis.call('EXISTS', key('doomed')) == 1
local function goes_with_another(id)
  if not is_doomed_queue then return false end
  local member = redis.call('HMGET', job(id), 'dependent_queue', 'dependent')
  if not member[2] then return false end
  local fields = within(member[1], function() return redis.call('HMGET', job(member[2]), 'state', 'reason') end)
  if fields[1] ~= 'cancelled' then return false end
  cancel(id, fields[2] or 'cancelled')
  return true
end

-- A job whose keys are in part of another program is a dead letter, and keeps no other from its turn.
local function is_broken(id, partition)
  if pcall(check_job, id) then return false end
  redis.call('ZREM', key('ready'), id)
  if partition then
    redis.pcall('ZREM', key('ready:' .. partition), id)
    if redis.call('EXISTS', key('ready:' .. partition)) == 0 then redis.call('ZREM', key('partitions'), partition) end
  end
  local reason = 'a key of another program is in its way'
  redis.call('HSET', job(id), 'reason', reason)
  enter(id, 'dead', 0)
  happened('dead', id, 'dead', reason)
  return true
end

local function hand_out(id, partition)
  if is_gone(id, partition) or goes_with_another(id) or is_broken(id, partition) then return end
  local fields = read(id)
  if manages then holder = hand_to_client(id, partition) end
  local token = answer(id, fields)
  note_lease(id, fields)
  if time == 0 then
    -- No settlement will follow.
    return remove_job(id, fate_done())
  end
  leave(id)
  write_lease(id, fields, token)
  redis.call('ZADD', key('leased'), lease_until, id)
  if limits[7] then redis.call('ZADD', key('leased:' .. partition), lease_until, id) end
end

-- Many at once, where nothing limits how many.
local function hand_out_all(ids)
  local leased, from, taken, all = {}, {}, {}, {}
  for _, id in ipairs(ids) do
    local read_it, fields = pcall(read, id)
    if not read_it or not fields[1] then
      is_gone(id)
    elseif fields[3] or not (goes_with_another(id) or is_broken(id)) then
      all[id] = fields
    end
  end
  for _, id in ipairs(ids) do
    local fields = all[id]
    if fields then
      local token = answer(id, fields)
      note_lease(id, fields)
      if time > 0 then
        write_lease(id, fields, token)
        from[#from + 1] = id
        leased[#leased + 1], leased[#leased + 2] = lease_until, id
      elseif fields[3] then
        table.insert(taken, id)
      else
        check_behind(id, false, 0)
        remove_job(id, fate_done())
      end
    end
  end
  call_with('ZADD', key('leased'), leased)
  call_with('ZREM', key('ready'), from)
  remove_plain(taken, 'ready')
end

local function note_closed(reason)
  if reason and reason[1] == 'rate' and (not next_open or reason[4] < next_open) then next_open = reason[4] end
end

local function first_of(partition) return redis.call('ZRANGE', key('ready:' .. partition), 0, 0, 'WITHSCORES') end

-- The partition with ready jobs that comes after this one, from the beginning again after the last.
local function next_partition(after)
  return redis.call('ZRANGEBYLEX', key('partitions'), '(' .. after, '+', 'LIMIT', 0, 1)[1]
    or redis.call('ZRANGE', key('partitions'), 0, 0)[1]
end

local function by_turns()
  local turn = redis.call('HGET', key('limits'), 'turn') or ''
  local began = turn
  while handed < max and not (manages and redis.call('EXISTS', key('free')) == 0) do
    local reason = queue_closed()
    if reason then note_closed(reason) break end
    local after, first_closed, found = turn, nil, nil
    while not found do
      local partition = next_partition(after)
      if not partition or partition == first_closed then break end
      local shut = partition_closed(partition)
      if shut then
        note_closed(shut)
        first_closed = first_closed or partition
        after = partition
      else
        found = partition
      end
    end
    if not found then break end
    turn = found
    remember_start(found)
    hand_out(first_of(found)[1], found)
  end
  if turn ~= began then redis.call('HSET', key('limits'), 'turn', turn) end
end

-- In the order of priority and place, past the partitions that are closed: the first of each, the best of these.
local function by_place()
  local firsts = {}
  for _, partition in ipairs(redis.call('ZRANGE', key('partitions'), 0, -1)) do
    local shut = partition_closed(partition)
    if shut then
      note_closed(shut)
    else
      local first = first_of(partition)
      table.insert(firsts, {tonumber(first[2]), first[1], partition})
    end
  end
  while handed < max and #firsts > 0 and not (manages and redis.call('EXISTS', key('free')) == 0) do
    local reason = queue_closed()
    if reason then note_closed(reason) break end
    local best = 1
    for index, first in ipairs(firsts) do
      if first[1] < firsts[best][1] or (first[1] == firsts[best][1] and first[2] < firsts[best][2]) then best = index end
    end
    local partition = firsts[best][3]
    remember_start(partition)
    hand_out(firsts[best][2], partition)
    local first = first_of(partition)
    local shut = partition_closed(partition)
    note_closed(shut)
    if shut or not first[1] then
      table.remove(firsts, best)
    else
      firsts[best] = {tonumber(first[2]), first[1], partition}
    end
  end
end

if redis.call('EXISTS', key('paused')) == 0 then
  if limits[8] then
    by_turns()
  elseif limits[7] then
    by_place()
  elseif manages or limits[1] or limits[2] then
    local first
    repeat first = redis.call('ZRANGE', key('ready'), 0, 0)[1] until not first or not is_gone(first)
    for _, id in ipairs(max > 0 and redis.call('ZRANGE', key('ready'), 0, max - 1) or {}) do
      if manages and redis.call('EXISTS', key('free')) == 0 then break end
      local reason = queue_closed()
      if reason then note_closed(reason) break end
      remember_start('')
      hand_out(id, nil)
    end
  elseif max > 0 then
    local ids
    repeat
      ids = redis.call('ZRANGE', key('ready'), 0, max - 1)
      hand_out_all(ids)
      -- Those of no job are gone now.
    until handed > 0 or #ids == 0
  end
end

if time == 0 then tidy() end
if handed > 0 and time > 0 and owner ~= '' then
  redis.call('ZADD', key('holders'), steady + time, owner)
  redis.call('ZREMRANGEBYSCORE', key('holders'), '-inf', text(steady - HOLDERS_KEPT))
  redis.call('PEXPIRE', key('holders'), text(time + HOLDERS_KEPT))
end
if handed == 0 and redis.call('EXISTS', key('paused')) == 0 and (budget <= 0 or redis.call('EXISTS', key('incoming'), key('doomed')) > 0) then
  -- There is more to do than one script does.
  answers[1] = 0
elseif handed == 0 then
  local least = next_due()
  if next_open and (not least or next_open < least) then least = next_open end
  answers[1] = least or -1
end
write_down()
answers[1] = text(answers[1]) .. ' ' .. text(math.max(redis.call('ZCARD', key('consumers')) - 1, 0))
return answers
