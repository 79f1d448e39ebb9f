-- What people ask for. ARGV: clock, what, arguments. Returns how many jobs were changed, or -1 if a holder was asked.
go_on_without_memory()
local what, id = ARGV[2], ARGV[3]
local state = id and get(id, 'state')

-- What it waits for, however far back, goes with it: `chores.lua`, the first of it now.
local function cancel_all(first, reason)
  local changed, waits = cancel(first, reason)
  if waits then
    redis.call('RPUSH', key('doomed'), prefix .. first)
    cancel_doomed(budget)
  end
  return changed
end

-- The job that a unique key stands for by now, so that a dead letter cannot have it back.
local function taken(unique_key)
  local other = unique_key and redis.call('GET', key('unique_key:' .. unique_key))
  return other and name_of(other)
end

local function taken_of(one) return taken(get(one, 'unique_key')) end

-- A dead letter is unsettled again: its unique key and its key know of it.
local function bind(one)
  local fields = redis.call('HMGET', job(one), 'key', 'unique_key')
  if fields[2] then redis.call('SET', key('unique_key:' .. fields[2]), one) end
  if fields[1] then redis.call('ZADD', key('key:' .. fields[1]), 0, one) end
end

-- Those behind a dead letter that heard of its end: queue, id, place, whether they ended for that.
local function behind(one)
  local found = {}
  local member = redis.call('HMGET', job(one), 'dependent_queue', 'dependent', 'place')
  while member[2] do
    local fields = within(member[1], function()
      return redis.call('HMGET', job(member[2]), 'state', 'parents_left', 'missed', 'dependent_kind', 'dependent_queue', 'dependent', 'place')
    end)
    local was_told = (tonumber(fields[3]) or 0) > 0
      and ((fields[1] == 'blocked' and tonumber(fields[2]) > 0) or (fields[1] == 'dead' and fields[4] ~= 'finally'))
    if not was_told then break end
    table.insert(found, {queue = member[1], id = member[2], place = member[3], ended = fields[1] == 'dead'})
    if fields[1] ~= 'dead' then break end
    member = {fields[5], fields[6], fields[7]}
  end
  return found
end

local function wait_again(one)
  if one.ended then
    leave(one.id)
    bind(one.id)
    redis.call('HDEL', job(one.id), 'reason', 'ended_at')
  end
  redis.call('HINCRBY', job(one.id), 'parents_left', 1)
  redis.call('HINCRBY', job(one.id), 'missed', -1)
  redis.call('HDEL', key('parent_results:' .. one.id), one.place)
  if one.ended then
    enter(one.id, 'blocked', 0)
    record('retried', one.id, 'blocked', get(one.id, 'task'))
  end
end

-- Gives a dead letter, which is alone, the next number of another queue, and its place among the dead letters there.
local function move(to)
  local fields, history = redis.call('HGETALL', job(id)), redis.call('LRANGE', key('history:' .. id), 0, -1)
  local number = within(to, function()
    list()
    local number = id_text(take_numbers(1))
    redis.call('HSET', job(number), unpack(fields))
    if #history > 0 then redis.call('RPUSH', key('history:' .. number), unpack(history)) end
    redis.call('ZADD', key('jobs'), 0, number)
    enter(number, 'dead', 0)
    return number
  end)
  leave(id)
  record('deleted', id, 'dead', get(id, 'task'))
  redis.call('ZREM', key('jobs'), id)
  redis.call('DEL', job(id), key('history:' .. id))
  tidy()
  return number
end

-- A dead letter is a job again. `edit`: names and values of what is changed of it before.
local function revive(one, edit)
  leave(one)
  for _, field in ipairs({'payload', 'task'}) do
    if edit[field] then redis.call('HSET', job(one), field, edit[field]) end
  end
  bind(one)
  redis.call('HDEL', job(one), 'failed', 'crashed', 'lost', 'unserved', 'unserved_at', 'reason', 'ended_at')
  -- It begins again, with all the time that it had.
  begin_again(one)
  if redis.call('EXISTS', key('parent_results:' .. one)) == 1 then
    -- It never got what its parents left.
    enter(one, 'blocked', 0)
    go_on(one)
    tell_all()
  else
    make_ready(one)
  end
  record('retried', one, nil, get(one, 'task'))
end

-- ARGV: after the id, names and values of what is changed of it before; its queue is the beginning of that queue's keys. Returns the number that it
-- has then, or 0.
local function retry()
  if state ~= 'dead' then return 0 end
  local fields = redis.call('HMGET', job(id), 'dependent_kind', 'missed')
  -- One that was not run because of others has to wait for those.
  if (tonumber(fields[2]) or 0) > 0 and fields[1] ~= 'finally' then return 0 end
  local others = behind(id)
  local edit = {}
  for at = 4, #ARGV, 2 do edit[ARGV[at]] = ARGV[at + 1] end
  if edit.queue and (fields[1] or get(id, 'dependent')) then return redis.error_reply('FLOW it stays in its queue') end
  local unique_key = get(id, 'unique_key')
  local other = within(edit.queue or prefix, taken, unique_key)
  for _, one in ipairs(others) do other = other or (one.ended and within(one.queue, taken_of, one.id)) end
  if other then return redis.error_reply('DUPLICATE ' .. other) end
  check_job(id)
  for _, one in ipairs(others) do within(one.queue, check_job, one.id) end
  local name = get(id, 'key')
  if edit.queue then
    within(edit.queue, function()
      check_queue()
      if name then redis.call('ZCARD', key('key:' .. name)) end
    end)
  end
  for _, one in ipairs(others) do within(one.queue, wait_again, one) end
  if not edit.queue then
    revive(id, edit)
    return tonumber(id)
  end
  local number = move(edit.queue)
  within(edit.queue, revive, number, edit)
  return tonumber(number)
end

-- Removes what waits, in pieces: of the jobs up to a number, after another, and of the inbox so many. What was pushed since is not meant. Without them it
-- says where to begin. Returns how many were removed, then what to go on with; nothing of that if it is over.
local function purge(last, after, inbox, recorded)
  if not last then
    local newest = redis.call('ZREVRANGEBYLEX', key('jobs'), '+', '-', 'LIMIT', 0, 1)[1]
    return {0, newest or '0', '', redis.call('LLEN', key('inbox')), PURGE_EVENTS_MAX}
  end
  inbox, recorded = tonumber(inbox), tonumber(recorded)
  local removed = 0
  local members = redis.call('ZRANGEBYLEX', key('jobs'), after == '' and '-' or '(' .. after, '[' .. last, 'LIMIT', 0, PIECE)
  for _, member in ipairs(members) do
    local waits = ({ready = true, scheduled = true, blocked = true, retrying = true})[redis.pcall('HGET', job(member), 'state')]
    if waits and not is_gone(member) then
      check_job(member)
      check_behind(member, true, 0)
      if recorded > 0 then record('deleted', member, nil, get(member, 'task')) end
      recorded = recorded - 1
      remove_job(member, fate_missed(member, 'was removed'))
      removed = removed + 1
    end
    after = member
  end
  if inbox > 0 then
    local at_once = math.min(inbox, redis.call('LLEN', key('inbox')), 20 * PIECE)
    redis.call('LTRIM', key('inbox'), at_once, -1)
    removed, inbox = removed + at_once, at_once > 0 and inbox - at_once or 0
  end
  if removed > 0 then ring() end
  tidy()
  if #members < PIECE and inbox == 0 then return {removed} end
  return {removed, last, after, inbox, recorded}
end

-- Names and values of the limits; none takes them away. What is counted by partition is counted again.
local function limit()
  for _, partition in ipairs(redis.call('ZRANGE', key('partitions'), 0, -1)) do redis.call('DEL', key('ready:' .. partition)) end
  for _, member in ipairs(redis.call('ZRANGE', key('leased'), 0, -1)) do
    redis.call('DEL', key('leased:' .. (get(member, 'partition') or '')))
  end
  redis.call('DEL', key('limits'), key('partitions'))
  if ARGV[3] then redis.call('HSET', key('limits'), unpack(ARGV, 3)) end
  read_limits()
  for _, of in ipairs(limits[7] and {'ready', 'leased'} or {}) do
    local members = redis.call('ZRANGE', key(of), 0, -1, 'WITHSCORES')
    for at = 1, #members, 2 do
      local partition = get(members[at], 'partition')
      if not partition then
        partition = ''
        redis.call('HSET', job(members[at]), 'partition', '')
      end
      redis.call('ZADD', key(of .. ':' .. partition), members[at + 1], members[at])
      if of == 'ready' then redis.call('ZADD', key('partitions'), 0, partition) end
    end
  end
  ring()
  return 1
end

local function carry_out()
  if what == 'cancel' then
    return cancel_all(id, ARGV[4])
  elseif what == 'withdraw' then
    -- Only before an attempt of it began.
    local begun = redis.call('HMGET', job(id), 'failed', 'crashed')
    if not state or state == 'leased' or is_settled(state) or (tonumber(begun[1]) or 0) + (tonumber(begun[2]) or 0) > 0 then return 0 end
    return cancel_all(id, ARGV[4])
  elseif what == 'retry' then
    return retry()
  elseif what == 'delete' then
    if not state or state == 'leased' or (ARGV[4] and ARGV[4] ~= state) then return 0 end
    check_job(id)
    check_behind(id, true, 0)
    record('deleted', id, state, get(id, 'task'))
    remove_job(id, fate_missed(id, 'was removed'))
    tidy()
    return 1
  elseif what == 'bury' then
    -- A job that was taken and cannot be read, with its payload and the reason.
    check_queue()
    list()
    redis.call('HSET', job(id), 'attempts', 1, 'token', text(steady), 'pushed_at', text(now), 'payload', ARGV[4], 'reason', ARGV[5])
    redis.call('ZADD', key('jobs'), 0, id)
    enter(id, 'dead', 0)
    happened('dead', id, 'dead', ARGV[5])
    ring()
    return 1
  elseif what == 'purge' then
    return purge(ARGV[3], ARGV[4], ARGV[5], ARGV[6])
  elseif what == 'pause' then
    list()
    return redis.call('SET', key('paused'), '1', 'NX') and 1 or 0
  elseif what == 'resume' then
    local resumed = redis.call('DEL', key('paused'))
    ring()
    tidy()
    return resumed
  elseif what == 'limit' then
    return limit()
  end
  return redis.error_reply('brigade: unknown order ' .. what)
end

local answer = carry_out()
write_down()
return answer
