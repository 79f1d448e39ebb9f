-- -- what is too much for one script, done piece by piece
--
-- A large push is staged first: `stage:B` of the first queue has its jobs, one element each. That shows nowhere and goes by itself if its
-- producer ends. Then one script gives them numbers, writes `batch:B`, and puts the batch on `incoming` of each of its queues: from then on the push has
-- been made, and each script that uses one of these queues moves a piece of it into the queue, the first jobs first. Elements of `incoming`: the beginning of
-- the keys of the queue that has the stage, a space, B.
--
-- `doomed` has jobs that were cancelled and whose parents are to go with them: the beginning of a queue's keys, and the id.

local DUPLICATES_KEPT = 600000

-- The words of a job as `write_job` of `stage.rs` has them.
local function read_staged(text_of_job)
  local words = cjson.decode(text_of_job)
  local one = {
    queue = words[1], offset = tonumber(words[2]), due = tonumber(words[3]), delay = tonumber(words[4]), unique_key = words[5],
    unique_kept = tonumber(words[6]), dependent_queue = words[7], dependent_offset = words[8], place = words[9], dependent_kind = words[10],
    parents = tonumber(words[11]), fields = {},
  }
  for at = 12, #words do one.fields[at - 11] = words[at] end
  return one
end

-- What a job that waits for others keeps of when it is due: that time begins when they are settled.
local function waiting_fields(fields, dependent_kind, parents, due, delay)
  for _, value in ipairs({'dependent_kind', dependent_kind, 'parents', parents, 'parents_left', parents, 'missed', 0}) do table.insert(fields, value) end
  if due > 0 then
    table.insert(fields, 'at')
    table.insert(fields, due)
  elseif delay > 0 then
    table.insert(fields, 'delay')
    table.insert(fields, delay)
  end
end

local function store_staged(one, bases)
  local id = id_text(bases[one.queue] + one.offset)
  local dependent_id = one.dependent_offset ~= '' and id_text(bases[one.dependent_queue] + one.dependent_offset)
  local known = job_of_unique(one.unique_key)
  if known and known ~= id then return known end
  local due = one.delay > 0 and now + one.delay or one.due
  if one.dependent_kind ~= '' then
    waiting_fields(one.fields, one.dependent_kind, one.parents, one.due, one.delay)
    due = 0
  end
  if dependent_id then
    for _, value in ipairs({'dependent_queue', one.dependent_queue, 'dependent', dependent_id, 'place', one.place}) do table.insert(one.fields, value) end
  end
  check_new(one.fields)
  local state = dependent_id and within(one.dependent_queue, get, dependent_id, 'state')
  store(one.fields, due, one.dependent_kind ~= '', id)
  keep_unique(one.unique_key, one.unique_kept, id)
  if dependent_id then within(one.dependent_queue, function() redis.call('RPUSH', key('parents:' .. dependent_id), one.queue .. id) end) end
  if one.dependent_kind ~= '' and one.parents == 0 then
    go_on(id)
    tell_all()
  end
  -- What waits for it was cancelled before all of its parents were here.
  if dependent_id and state == 'cancelled' then cancelled(id, within(one.dependent_queue, get, dependent_id, 'reason') or 'cancelled') end
end

-- One that cannot be stored as it is, because a key of another program is in its way, is a dead letter: the push was made.
local function store_broken(one, bases, reason)
  local id = id_text(bases[one.queue] + one.offset)
  if is_gone(id) then
    local kept = {}
    for at = 1, #one.fields, 2 do
      if one.fields[at] ~= 'key' and one.fields[at] ~= 'unique_key' then
        table.insert(kept, one.fields[at])
        table.insert(kept, one.fields[at + 1])
      end
    end
    redis.call('HSET', job(id), 'attempts', 0, 'token', text(now), 'pushed_at', text(now), 'reason', reason, unpack(kept))
    redis.call('ZADD', key('jobs'), 0, id)
    enter(id, 'dead', 0)
    happened('pushed', id, 'dead')
    happened('dead', id, 'dead', reason)
  end
end

local function reason_of(failed)
  return 'it could not be stored: ' .. (type(failed) == 'table' and (failed.err or '') or tostring(failed))
end

-- Moves a piece of a batch whose stage is of this queue. Returns how many of it are left.
local function move_staged(batch, count)
  local found = redis.call('HGETALL', key('batch:' .. batch))
  local bases, own = {}, prefix
  for at = 1, #found, 2 do bases[found[at]] = tonumber(found[at + 1]) end
  for queue in pairs(bases) do within(queue, check_queue) end
  redis.call('LLEN', key('stage:' .. batch))
  for _, element in ipairs(redis.call('LPOP', key('stage:' .. batch), spend(count)) or {}) do
    local one = read_staged(element)
    local stored, known = pcall(within, one.queue, store_staged, one, bases)
    prefix = own
    read_limits()
    if not stored then
      pcall(within, one.queue, store_broken, one, bases, reason_of(known))
      prefix, telling, untold = own, false, {}
      read_limits()
    elseif known then
      redis.call('HSET', key('duplicates:' .. batch), one.queue .. one.offset, known)
      redis.call('PEXPIRE', key('duplicates:' .. batch), DUPLICATES_KEPT)
    end
  end
  local left = redis.call('LLEN', key('stage:' .. batch))
  if left == 0 then redis.call('DEL', key('batch:' .. batch)) end
  return left
end

local function move_incoming(count)
  local first = redis.call('LINDEX', key('incoming'), 0)
  if not first then return end
  local home, batch = string.match(first, '^(.*) (%w+)$')
  list()
  if not home or within(home, move_staged, batch, count) == 0 then redis.call('LPOP', key('incoming')) end
  ring()
end

-- A job that has not ended is cancelled, with what it waits for; the holder of a leased one is asked. Returns -1 then, 1 if it ended, else 0.
local function cancel(one, reason)
  local fields = redis.call('HMGET', job(one), 'state', 'parents_left')
  if not fields[1] or is_settled(fields[1]) then return 0 end
  check_job(one)
  check_behind(one, true, 0)
  if fields[1] == 'leased' then
    redis.call('HSET', job(one), 'cancel', reason)
    redis.call('HDEL', job(one), 'plain')
    redis.call('SADD', key('stops'), one)
    ring()
    return -1
  end
  local waits = number(fields[2]) > 0
  cancelled(one, reason)
  return 1, waits
end

local function cancel_doomed(count)
  local first = redis.call('LINDEX', key('doomed'), 0)
  if not first then return end
  local queue, id, own = string.sub(first, 1, -17), string.sub(first, -16), prefix
  local reason = within(queue, get, id, 'reason') or 'cancelled'
  local parents = within(queue, function() return redis.call('LPOP', key('parents:' .. id), spend(count)) end)
  if not parents then redis.call('LPOP', key('doomed')) return end
  for _, member in ipairs(parents) do
    local of, one = string.sub(member, 1, -17), string.sub(member, -16)
    local done, waits = pcall(within, of, function()
      local _, more = cancel(one, reason)
      return more
    end)
    prefix = own
    read_limits()
    if not done then telling, untold = false, {} end
    if done and waits then redis.call('RPUSH', key('doomed'), member) end
  end
end

-- A piece of what there is to do in the queue; whether there is more.
local function do_chores(count)
  move_incoming(math.min(count, budget))
  if budget > 0 then cancel_doomed(math.min(count, budget)) end
  return redis.call('EXISTS', key('incoming'), key('doomed'))
end
