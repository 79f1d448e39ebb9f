-- Ends leases. Per settlement: id, token, what, and so many of its own:
--   done: the result or '', cost, a line feed, and the record for its history, if it is kept
--   dead: reason, the record for its history, counter or '', cost
--   back: state and pause as 'retrying:100', record, counter or '', reason, cost
--   cancelled: reason, record, cost
--   extend: time
-- A cost is that of the attempt, see `end_attempt`, or ''.
-- Returns per settlement: 0 for a lease that is not (any more), else 1, or for an extension the reason why the job is to be cancelled; or its error.
go_on_without_memory()
local VALUES = {done = 2, dead = 4, back = 5, cancelled = 3, extend = 1}
local answers = {}

local function done(id, result, both)
  local cost, entry = string.match(both, '^(.-)\n(.*)$')
  local fate, keep, attempt = fate_done(result ~= '' and result), get(id, 'keep'), end_attempt(id, 'done', cost)
  if not keep then
    happened('done', id, 'done', nil, attempt)
    remove_job(id, fate)
    return ring()
  end
  note(id, entry)
  if result ~= '' then redis.call('HSET', job(id), 'result', result) end
  end_job(id, 'done', nil, now + tonumber(keep), fate, attempt)
end

local function back(id, where, entry, counter, reason, cost)
  local state, after = string.match(where, '^(%a+):(%d+)$')
  local begins_by = get(id, 'begins_by')
  if state == 'retrying' and begins_by and not get(id, 'cancel') and now + tonumber(after) > tonumber(begins_by) then
    local attempt = end_attempt(id, counter, cost)
    note(id, entry)
    count_attempt(id, counter)
    return dead(id, reason .. NEXT_TOO_LATE, attempt)
  end
  give_back(id, entry, counter, state, tonumber(after), reason, cost)
end

-- `what`: how the attempt ended, unless it is charged.
local function set_apart(id, what, reason, state, entry, cost, counter)
  local attempt = end_attempt(id, (counter or '') == '' and what or counter, cost)
  if entry ~= '' then note(id, entry) end
  count_attempt(id, counter)
  if state == 'dead' then dead(id, reason, attempt) else cancelled(id, reason, attempt) end
end

local function apply(id, what, first, ...)
  check_job(id)
  if what == 'extend' then
    local until_ = steady + tonumber(first)
    redis.call('HSET', job(id), 'lease_until', text(until_))
    redis.call('ZADD', key('leased'), until_, id)
    local partition = limits[7] and get(id, 'partition')
    if partition then redis.call('ZADD', key('leased:' .. partition), until_, id) end
    return get(id, 'cancel') or 1
  end
  check_behind(id, what ~= 'done', 0)
  if what == 'done' then
    done(id, first, ...)
  elseif what == 'back' then
    back(id, first, ...)
  elseif what == 'cancelled' then
    set_apart(id, what, first, 'cancelled', ...)
  else
    local entry, counter, cost = ...
    -- A cancel that was accepted holds, however the attempt ended but well.
    local cancel = get(id, 'cancel')
    set_apart(id, what, cancel or first, cancel and 'cancelled' or 'dead', entry, cost, counter)
  end
  return 1
end

-- Plain jobs that are done.
local plain, is_removed, is_recorded = {}, {}, open_log()

local function settle(at, rest)
  local id, what = ARGV[at], ARGV[at + 2]
  if is_removed[id] then return 0 end
  local held = redis.pcall('HMGET', job(id), 'state', 'token', 'lease_until', 'plain', 'task')
  if held.err then return held end
  if held[1] ~= 'leased' or held[2] ~= ARGV[at + 1] or tonumber(held[3]) < steady then return 0 end
  if what == 'done' and held[4] and not limits[7] then
    plain[#plain + 1] = id
    is_removed[id] = true
    local cost = ARGV[at + 4]
    count(held[5], DONE)
    count_run(held[5], cost, held[2])
    if is_recorded then record('done', id, 'done', held[5], get(id, 'attempts'), nil, string.match(cost, '^[^\n]*')) end
    return 1
  end
  return apart(apply, id, what, unpack(ARGV, at + 3, rest - 1))
end

local at, place = 2, 0
while at <= #ARGV do
  local rest = at + 3 + VALUES[ARGV[at + 2]]
  place = place + 1
  answers[place] = settle(at, rest)
  at = rest
end
if #plain > 0 then
  remove_plain(plain, 'leased')
  ring()
end
tidy()
write_down()
return answers
