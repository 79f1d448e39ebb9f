-- What all scripts share behind `begin.lua` and `record.lua`: the states of a job, flows, and what is new.

-- -- ends of attempts, as statistics and events know them

local function number_of(kind)
  return ({pushed = PUSHED, done = DONE, failed = FAILED, crashed = CRASHED, interrupted = INTERRUPTED, dead = DEAD, cancelled = CANCELLED})[kind]
end

-- An attempt ended so; `ran` is its cost, as its holder says: microseconds of time and of CPU, and bytes of memory, or nothing.
local function end_attempt(id, kind, ran)
  local fields = redis.call('HMGET', job(id), 'task', 'token', 'attempts')
  local task, place = fields[1], number_of(kind)
  -- A job that ended badly counts as that, however it came to it.
  if place and kind ~= 'cancelled' and kind ~= 'dead' then count(task, place) end
  if kind == 'done' or kind == 'failed' or kind == 'crashed' then count_run(task, ran, fields[2]) end
  return {kind = kind, task = task, number = fields[3] or 0, cost = ran}
end

-- A job changed its state in a way that is counted. `attempt`: of `end_attempt`, if one was under way.
local function happened(kind, id, state, reason, attempt)
  local task = attempt and attempt.task
  if not attempt then task = get(id, 'task') end
  if not attempt or attempt.kind ~= kind or kind == 'cancelled' or kind == 'dead' then count(task, number_of(kind)) end
  if attempt then
    record(attempt.kind, id, state, task, attempt.number, reason, attempt.cost)
  else
    record(kind, id, state, task, 0, reason)
  end
end

-- Does something in the queue whose keys begin so. Only jobs of a flow have to do with another queue than their own.
local function within(other, act, ...)
  if other == prefix then return act(...) end
  local own, own_limits = prefix, limits
  prefix = other
  read_limits()
  local answer = act(...)
  prefix, limits = own, own_limits
  return answer
end

-- -- groups of dead letters, kept for an hour after a look at them (`dead.lua`)
--
-- `dead_groups` has the number of each group by its task and the pattern of its reasons, `:next` the last number, and `:at` the job up to which the dead letters are in
-- groups, or `end`. `dead_by_group` has them: number of the group, moment of the push, id. What finds no room for a group of its own is in group 0.

-- Puts a dead letter into its group, or takes it out, by what its hash says.
local function change_group(id, is_new)
  local groups, members = key('dead_groups'), key('dead_by_group')
  local at = redis.call('HGET', groups, ':at')
  if not at or (at ~= 'end' and id > at) then return end
  local of = redis.pcall('HMGET', job(id), 'task', 'reason', 'pushed_at')
  local reason = of[2] or ''
  local line = string.match(reason, '^(.-)\r?\n') or reason
  local name = (of[1] and '+' .. of[1] or '-') .. '\n' .. cut_at((string.gsub(line, '#?%d+', '#')), PATTERN_BYTES_MAX)
  local place = string.format(':%013.0f:', number(of[3])) .. id
  local group = redis.call('HGET', groups, name)
  if is_new then
    if not group and redis.call('HLEN', groups) < GROUPS_READ_MAX then
      group = redis.call('HINCRBY', groups, ':next', 1)
      redis.call('HSET', groups, name, group)
    end
    redis.call('ZADD', members, 0, (group or '0') .. place)
  elseif not group or redis.call('ZREM', members, group .. place) == 0 then
    redis.call('ZREM', members, '0' .. place)
  elseif redis.call('ZLEXCOUNT', members, '[' .. group .. ':', '(' .. group .. ';') == 0 then
    redis.call('HDEL', groups, name)
  end
end

-- -- state: each job is in the sorted set of its state

local function leave(id)
  local fields = redis.call('HMGET', job(id), 'state', 'key', limits[7] and 'partition' or 'state')
  local state, partition = fields[1], fields[3]
  if not state then return end
  redis.call('ZREM', key(state), id)
  if state == 'dead' then pcall(change_group, id, false) end
  if fields[2] and redis.call('HGET', key('out'), fields[2]) == id then redis.call('HDEL', key('out'), fields[2]) end
  if limits[7] and partition then
    if state == 'leased' then redis.call('ZREM', key('leased:' .. partition), id) end
    if state == 'ready' and redis.call('ZREM', key('ready:' .. partition), id) == 1
      and redis.call('EXISTS', key('ready:' .. partition)) == 0 then
      redis.call('ZREM', key('partitions'), partition)
    end
  end
end

local function is_settled(state) return state == 'done' or state == 'dead' or state == 'cancelled' end

local function enter(id, state, score)
  if is_settled(state) then
    redis.call('HSET', job(id), 'state', state, 'ended_at', text(now))
  else
    redis.call('HSET', job(id), 'state', state)
  end
  redis.call('ZADD', key(state), score, id)
  if state == 'dead' then pcall(change_group, id, true) end
end

-- The keys of one job: what a transition of it, and of the one that comes after it in its key, may change.
local function check_job(id)
  check_queue()
  local fields = redis.call('HMGET', job(id), 'key', 'unique_key', 'partition', 'dependent_kind')
  redis.call('LLEN', key('history:' .. id))
  if fields[4] then
    redis.call('HLEN', key('parent_results:' .. id))
    redis.call('LLEN', key('parents:' .. id))
  end
  if fields[1] then
    for _, other in ipairs(redis.call('ZRANGE', key('key:' .. fields[1]), 0, 1)) do redis.pcall('HLEN', job(other)) end
  end
  if fields[2] then redis.call('STRLEN', key('unique_key:' .. fields[2])) end
  if limits[7] and fields[3] then check_sets({'ready:' .. fields[3], 'leased:' .. fields[3]}) end
end

-- Those that hear of a job's end: the one that waits for it, and those behind that, as far as they end with it. `missed`: it does not end well.
local CHAIN_MAX = 50
local function check_behind(id, missed, depth)
  local member = redis.call('HMGET', job(id), 'dependent_queue', 'dependent')
  if not member[2] or depth == CHAIN_MAX then return end
  within(member[1], function()
    check_job(member[2])
    local fields = redis.call('HMGET', job(member[2]), 'parents_left', 'dependent_kind')
    if fields[1] == '1' and (missed or fields[2] == 'barrier') then check_behind(member[2], missed, depth + 1) end
  end)
end

-- Whether a job was removed, as a server does that makes room, or another program has put something else in its place; then nothing of it stays that would
-- hold others up.
local function is_gone(id, partition)
  local has_token = redis.pcall('HEXISTS', job(id), 'token')
  if has_token == 1 then return false end
  local is_foreign = has_token ~= 0
  local states = {'ready', 'scheduled', 'blocked', 'leased', 'retrying', 'done', 'dead', 'cancelled'}
  for _, state in ipairs(states) do redis.call('ZREM', key(state), id) end
  for _, set in ipairs({'jobs', 'late'}) do redis.call('ZREM', key(set), id) end
  redis.call('SREM', key('stops'), id)
  redis.call('UNLINK', key('history:' .. id), key('parent_results:' .. id), key('parents:' .. id))
  if not is_foreign then redis.call('UNLINK', job(id)) end
  if partition then
    redis.call('ZREM', key('leased:' .. partition), id)
    redis.call('ZREM', key('ready:' .. partition), id)
    if redis.call('EXISTS', key('ready:' .. partition)) == 0 then redis.call('ZREM', key('partitions'), partition) end
  end
  return true
end

-- The first of a key's unsettled jobs, and whether others before it are gone.
local function first_of_key(name)
  local was_gone = false
  while true do
    local first = redis.call('ZRANGE', key('key:' .. name), 0, 0)[1]
    if not first or not is_gone(first) then return first, was_gone end
    redis.call('ZREM', key('key:' .. name), first)
    was_gone = true
  end
end

local release_key

-- Of a key's unsettled jobs at most one is ready or leased: 'out' has it. It is the earliest, except while a later one is leased already: a dead
-- letter that is retried is earlier than what ran meanwhile.
local function hold_later(id, name)
  local out = redis.call('HGET', key('out'), name)
  if out and out > id and get(out, 'state') == 'ready' then
    leave(out)
    enter(out, 'blocked', 0)
  end
end

local function may_go(id, name)
  hold_later(id, name)
  local out = redis.call('HGET', key('out'), name)
  local is_lost = out and is_gone(out)
  if out and not is_lost then return false end
  if is_lost then redis.call('HDEL', key('out'), name) end
  local first, was_gone = first_of_key(name)
  if first ~= id then
    -- The one that is gone releases no other.
    if is_lost or was_gone then release_key(name) end
    return false
  end
  return true
end

-- Since when a job waits, if not since its push; a plain job has that in the field that says it is one.
local function wait_since(id, moment)
  redis.call('HSET', job(id), redis.call('HEXISTS', job(id), 'plain') == 1 and 'plain' or 'since', text(moment))
end

-- Ready, or held if it has to wait for others. The job is in no state's set before.
local function make_ready(id)
  local fields = redis.call('HMGET', job(id), 'priority', 'partition', 'key', 'parents_left', 'due')
  if fields[5] then wait_since(id, fields[5]) end
  redis.call('HDEL', job(id), 'due', 'lease_until', 'holder')
  if (tonumber(fields[4]) or 0) > 0 or (fields[3] and not may_go(id, fields[3])) then
    return enter(id, 'blocked', 0)
  end
  local score = -(tonumber(fields[1]) or 0)
  enter(id, 'ready', score)
  if fields[3] then redis.call('HSET', key('out'), fields[3], id) end
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
  local name = get(id, 'key')
  if name then hold_later(id, name) end
  redis.call('HDEL', job(id), 'lease_until', 'holder')
  redis.call('HSET', job(id), 'due', text(due))
  enter(id, state, due)
  ring()
end

-- Lets the first of a key's unsettled jobs go on, if it was held.
function release_key(name)
  local first = first_of_key(name)
  if first and get(first, 'state') == 'blocked' then
    redis.call('ZREM', key('blocked'), first)
    wait_since(first, now)
    make_ready(first)
  end
end

-- -- flows: `dependent` of a job is the job that waits for it, in a queue whose keys begin with `dependent_queue`. That one is held with `parents_left` parents that
-- are not settled and `missed` that ended otherwise than done; 'parent_results:<id>' has what they leave, by place: 'd' and a result, or 'm' and why not.

-- What a job that ended is to the one that waits for it: done with a result, or missed for a reason.
local function fate_done(result) return {done = true, text = result or 'null'} end
local function name_of(id) return queue_name() .. '/' .. string.gsub(id, '^0+', '') end
local function fate_missed(id, how, reason)
  return {done = false, text = 'job ' .. name_of(id) .. ' before it ' .. how .. (reason and ': ' .. reason or '')}
end

local function cut(reason) return cut_at(reason, MISSED_BYTES_MAX) end

local function hands_on(dependent_kind) return dependent_kind == 'front' or dependent_kind == 'collect' or dependent_kind == 'barrier' end

-- The time in which attempts of a job have to begin, if it is bounded, begins now.
local function begin_time(id)
  local within_time = get(id, 'within')
  if not within_time then return end
  redis.call('HSET', job(id), 'begins_by', text(now + within_time))
  redis.call('ZADD', key('late'), now + within_time, id)
end

-- The same for one that was pushed before: it is as if it were pushed now.
local function begin_again(id)
  redis.call('HSET', job(id), 'began_at', text(now))
  redis.call('HDEL', job(id), 'since')
  begin_time(id)
end

-- Whatever else knows of an unsettled job that has left its state.
local function unbind(id)
  local fields = redis.call('HMGET', job(id), 'key', 'unique_key', 'cancel', 'begins_by')
  if fields[4] then redis.call('ZREM', key('late'), id) end
  if fields[1] then redis.call('ZREM', key('key:' .. fields[1]), id) end
  if fields[2] and redis.call('GET', key('unique_key:' .. fields[2])) == id then redis.call('DEL', key('unique_key:' .. fields[2])) end
  if fields[3] then redis.call('SREM', key('stops'), id) end
  return fields[1]
end

local function set_aside(id, reason)
  leave(id)
  local name = unbind(id)
  redis.call('HSET', job(id), 'reason', reason)
  enter(id, 'dead', 0)
  happened('dead', id, 'dead', reason)
  if name then release_key(name) end
  ring()
end

local function parent_results(id)
  local found = redis.call('HGETALL', key('parent_results:' .. id))
  local by_place, last = {}, -1
  for at = 1, #found, 2 do
    local place = tonumber(found[at])
    by_place[place] = found[at + 1]
    last = math.max(last, place)
  end
  local places = {}
  for place = 0, last do
    local left = by_place[place]
    if left then places[#places + 1] = {place, string.sub(left, 1, 1), string.sub(left, 2)} end
  end
  return places
end

-- The payload of a job that is given results, or the result of a barrier; nothing, and why.
local function assemble(id, dependent_kind)
  local results, bytes = {}, #get(id, 'payload') + 2
  for _, place in ipairs(parent_results(id)) do
    table.insert(results, place[3])
    bytes = bytes + #place[3] + 1
  end
  if bytes > PAYLOAD_BYTES_MAX then
    return nil, 'the results of those it waited for have ' .. bytes .. ' bytes and ' .. PAYLOAD_BYTES_MAX .. ' are allowed'
  end
  local list = table.concat(results, ',')
  if dependent_kind == 'barrier' then return '[' .. list .. ']' end
  local rest = string.match(get(id, 'payload'), '^%s*%[(.*)$')
  if not rest then return nil, 'its payload is no array, so no result can be put in front' end
  local comma = string.match(rest, '^%s*%]') and '' or ','
  if dependent_kind == 'front' then return '[' .. list .. comma .. rest end
  return '[[' .. list .. ']' .. comma .. rest
end

local function tell(id, fate)
  local fields = redis.call('HMGET', job(id), 'dependent_queue', 'dependent', 'place')
  if fields[2] then table.insert(untold, {fields[1], fields[2], fields[3], fate}) end
end

-- A job goes on whose parents are all settled.
local function go_on(id)
  local fields = redis.call('HMGET', job(id), 'dependent_kind', 'missed', 'delay', 'at', 'keep')
  local dependent_kind = fields[1]
  if (tonumber(fields[2]) or 0) > 0 and dependent_kind ~= 'finally' then
    local named = {}
    for _, place in ipairs(parent_results(id)) do
      if place[2] == 'm' and #named < MISSED_NAMED_MAX then table.insert(named, place[3]) end
    end
    local missed = table.concat(named, '; ')
    if tonumber(fields[2]) > MISSED_NAMED_MAX then missed = missed .. '; and ' .. text(fields[2] - MISSED_NAMED_MAX) .. ' more' end
    -- What was gathered stays, for when they are retried.
    set_aside(id, 'not run: ' .. missed)
    return tell(id, {done = false, text = missed})
  end
  if hands_on(dependent_kind) then
    local whole, why = assemble(id, dependent_kind)
    if not whole then
      set_aside(id, why)
      return tell(id, fate_missed(id, 'is dead', why))
    end
    redis.call('UNLINK', key('parent_results:' .. id))
    if dependent_kind == 'barrier' then
      leave(id)
      local name = unbind(id)
      redis.call('HSET', job(id), 'result', whole)
      enter(id, 'done', now + (tonumber(fields[5]) or 0))
      happened('done', id, 'done')
      if name then release_key(name) end
      ring()
      return tell(id, fate_done(whole))
    end
    redis.call('HSET', job(id), 'payload', whole)
  end
  redis.call('ZREM', key('blocked'), id)
  begin_again(id)
  local due = tonumber(fields[4]) or (fields[3] and now + tonumber(fields[3])) or 0
  if due > now then make_due(id, 'scheduled', due) else make_ready(id) end
end

-- Counts a member that ended with the job that waits for it.
local function count_member(id, place, fate)
  local fields = redis.call('HMGET', job(id), 'state', 'parents_left', 'dependent_kind')
  -- It may have been cancelled or removed, or have gone on without this one.
  if fields[1] ~= 'blocked' or (tonumber(fields[2]) or 0) == 0 then return end
  local waits = redis.call('HINCRBY', job(id), 'parents_left', -1)
  if not fate.done then redis.call('HINCRBY', job(id), 'missed', 1) end
  if fields[3] ~= 'finally' and (hands_on(fields[3]) or not fate.done) then
    redis.call('HSET', key('parent_results:' .. id), place, fate.done and 'd' .. fate.text or 'm' .. cut(fate.text))
  end
  if waits == 0 then go_on(id) end
end

local function tell_all()
  if telling then return end
  telling = true
  while #untold > 0 do
    local first = table.remove(untold, 1)
    within(first[1], count_member, first[2], first[3], first[4])
  end
  telling = false
end

-- Removes a job. `fate` is what it is to the one that waits for it, which has heard of it if it was settled.
local function remove_job(id, fate)
  local state = get(id, 'state')
  leave(id)
  local name = not is_settled(state) and unbind(id)
  if not is_settled(state) then tell(id, fate) end
  redis.call('ZREM', key('jobs'), id)
  redis.call('UNLINK', job(id), key('history:' .. id), key('parent_results:' .. id), key('parents:' .. id))
  if name then release_key(name) end
  tell_all()
end

-- Settles a job for good. It is removed at `remove_at`, or stays. `attempt`: of `end_attempt`, if one was under way.
local function end_job(id, state, reason, remove_at, fate, attempt)
  leave(id)
  local name = unbind(id)
  redis.call('HDEL', job(id), 'due', 'lease_until', 'holder', 'cancel')
  redis.call('UNLINK', key('parent_results:' .. id))
  if reason then redis.call('HSET', job(id), 'reason', reason) end
  enter(id, state, remove_at or 0)
  happened(state, id, state, reason, attempt)
  if name then release_key(name) end
  ring()
  tell(id, fate)
  tell_all()
end

-- `rest` is the record without its attempt and moment, from the kind on.
local function note(id, rest)
  redis.call('HDEL', job(id), 'plain')
  local at = string.format('{"secs_since_epoch":%.0f,"nanos_since_epoch":%.0f}', math.floor(now / 1000), (now % 1000) * 1000000)
  local record = '{"attempt":' .. (get(id, 'attempts') or '0') .. ',"at":' .. at .. ',' .. rest
  -- Those that no consumer could run in a row are one.
  local unserved = '"kind":"unserved"'
  if string.sub(rest, 1, #unserved) == unserved then
    local last = redis.call('LRANGE', key('history:' .. id), -1, -1)[1]
    if last and string.find(last, unserved, 1, true) then redis.call('RPOP', key('history:' .. id)) end
  end
  redis.call('RPUSH', key('history:' .. id), record)
  redis.call('LTRIM', key('history:' .. id), -HISTORY_MAX, -1)
end

local function cancelled(id, reason, attempt)
  end_job(id, 'cancelled', reason, now + CANCELLED_KEPT, fate_missed(id, 'was cancelled', reason), attempt)
end
local function dead(id, reason, attempt) end_job(id, 'dead', reason, nil, fate_missed(id, 'is dead', reason), attempt) end

local function count_attempt(id, counter)
  if (counter or '') == '' then return end
  redis.call('HINCRBY', job(id), counter, 1)
  if counter == 'unserved' then
    redis.call('HSETNX', job(id), 'unserved_at', text(now))
  elseif counter ~= 'interrupted' then
    redis.call('HDEL', job(id), 'unserved', 'unserved_at')
  end
end

-- Puts a leased job back where it was, unless it is to be cancelled. `ran`: of `end_attempt`.
local function give_back(id, rest, counter, state, after, reason, ran)
  local attempt = end_attempt(id, string.match(rest, '^"kind":"(%a+)"'), ran)
  note(id, rest)
  count_attempt(id, counter)
  local cancel = get(id, 'cancel')
  if cancel then return cancelled(id, cancel, attempt) end
  leave(id)
  local begins_by = get(id, 'begins_by')
  if begins_by then redis.call('ZADD', key('late'), begins_by, id) end
  if after > 0 then
    make_due(id, state, now + after)
  else
    wait_since(id, now)
    make_ready(id)
  end
  record(attempt.kind, id, nil, attempt.task, attempt.number, reason or string.match(rest, '"reason":"([^"]*)"'), attempt.cost)
  local name = get(id, 'key')
  if name then release_key(name) end
end

-- -- what is new

-- Stores a job. Its tokens begin at the time, so that those of a job that was lost with its server's memory never hold one that
-- got its number later. `fields` are names and values of its hash; one that waits for others is held. Its id is given, if it has one already.
local function store(fields, due, waits, given)
  local id = given or id_text(take_numbers(1))
  redis.call('HSET', job(id), 'attempts', 0, 'token', text(now), 'pushed_at', text(now), unpack(fields))
  redis.call('ZADD', key('jobs'), 0, id)
  local name = get(id, 'key')
  if name then redis.call('ZADD', key('key:' .. name), 0, id) end
  if waits then
    enter(id, 'blocked', 0)
  else
    begin_time(id)
    if due > now then make_due(id, 'scheduled', due) else make_ready(id) end
  end
  happened('pushed', id)
  return id
end

-- What a job that is to be stored will change.
local function check_new(fields)
  check_queue()
  for at = 1, #fields, 2 do
    if fields[at] == 'key' then redis.call('ZCARD', key('key:' .. fields[at + 1])) end
    if fields[at] == 'unique_key' then redis.call('STRLEN', key('unique_key:' .. fields[at + 1])) end
    if limits[7] and fields[at] == 'partition' then redis.call('ZCARD', key('ready:' .. fields[at + 1])) end
  end
end

-- The job that a unique key stands for, if it does.
local function job_of_unique(unique_key)
  if unique_key == '' then return false end
  local id = redis.call('GET', key('unique_key:' .. unique_key))
  if id and not is_gone(id) then return id end
  local id_of, until_ = string.match(redis.call('GET', key('period:' .. unique_key)) or '', '^(%d+) (%d+)$')
  return until_ and tonumber(until_) > now and id_of
end

local function keep_unique(unique_key, period, id)
  if unique_key == '' then return end
  redis.call('SET', key('unique_key:' .. unique_key), id)
  if period > 0 then redis.call('SET', key('period:' .. unique_key), id .. ' ' .. text(now + period), 'PX', text(period)) end
end

