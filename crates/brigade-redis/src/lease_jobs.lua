-- Hands out jobs of queues with limits and to plain clients, and those that are not plain.

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

-- One after the other, as the limits of the queue and the plain clients that ask allow.
local function one_by_one()
  local first
  repeat first = redis.call('ZRANGE', key('ready'), 0, 0)[1] until not first or not is_gone(first)
  for _, id in ipairs(max > 0 and redis.call('ZRANGE', key('ready'), 0, max - 1) or {}) do
    if manages and redis.call('EXISTS', key('free')) == 0 then break end
    local reason = queue_closed()
    if reason then note_closed(reason) break end
    remember_start('')
    hand_out(id, nil)
  end
end

local function hand_out_by_limits()
  if limits[8] then
    by_turns()
  elseif limits[7] then
    by_place()
  else
    one_by_one()
  end
end

-- Whether a job that is not plain is gone, or has ended instead of being handed out.
local function is_over(id) return goes_with_another(id) or is_broken(id) end

local function take(id)
  check_behind(id, false, 0)
  remove_job(id, fate_done())
end

local function forget_all_collected()
  for _, id in ipairs(redis.call('ZRANGE', key('leased'), 0, PIECE - 1)) do
    local client = get(id, 'client')
    if client then forget_collected(client) end
  end
end

return {
  tick = tick, is_gone = is_gone, is_over = is_over, take = take, hand_out_by_limits = hand_out_by_limits, forget_all_collected = forget_all_collected,
}
