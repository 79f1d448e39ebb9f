-- Ends leases. Per settlement: id, token, what, and so many of its own:
--   done: the result or '', the record for its history, if it is kept
--   dead: reason, the record for its history, counter or ''
--   back: state and pause as 'retrying:100', record, counter or '', reason or ''
--   cancelled: reason, record
--   extend: time
-- Returns per settlement: 0 for a lease that is not (any more), else 1, or for an extension the reason why the job is to be cancelled; or its error.
go_on_without_memory()
local VALUES = {done = 2, dead = 3, back = 4, cancelled = 2, extend = 1}
local answers = {}

local function done(id, result, record)
  local fate, keep = fate_done(result ~= '' and result), get(id, 'keep')
  if not keep then
    remove_job(id, fate)
    return ring()
  end
  note(id, record)
  if result ~= '' then redis.call('HSET', job(id), 'result', result) end
  end_job(id, 'done', nil, now + tonumber(keep), fate)
end

local function back(id, where, record, counter, reason)
  local state, after = string.match(where, '^(%a+):(%d+)$')
  local begins_by = get(id, 'begins_by')
  if state == 'retrying' and begins_by and not get(id, 'cancel') and now + tonumber(after) > tonumber(begins_by) then
    note(id, record)
    count_attempt(id, counter)
    return dead(id, reason .. NEXT_TOO_LATE)
  end
  give_back(id, record, counter, state, tonumber(after))
end

local function apply(id, what, first, record, counter, reason)
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
    done(id, first, record)
  elseif what == 'back' then
    back(id, first, record, counter, reason)
  else
    if record ~= '' then note(id, record) end
    count_attempt(id, counter)
    -- A cancel that was accepted holds, however the attempt ended but well.
    local cancel = get(id, 'cancel')
    if what == 'dead' and not cancel then dead(id, first) else cancelled(id, what == 'dead' and cancel or first) end
  end
  return 1
end

-- Plain jobs that are done.
local plain, is_removed = {}, {}

local function settle(at, rest)
  local id, what = ARGV[at], ARGV[at + 2]
  if is_removed[id] then return 0 end
  local held = redis.pcall('HMGET', job(id), 'state', 'token', 'lease_until', 'plain')
  if held.err then return held end
  if held[1] ~= 'leased' or held[2] ~= ARGV[at + 1] or tonumber(held[3]) < steady then return 0 end
  if what == 'done' and held[4] and not limits[7] then
    plain[#plain + 1] = id
    is_removed[id] = true
    return 1
  end
  return apart(apply, id, what, unpack(ARGV, at + 3, rest - 1))
end

local at, count = 2, 0
while at <= #ARGV do
  local rest = at + 3 + VALUES[ARGV[at + 2]]
  count = count + 1
  answers[count] = settle(at, rest)
  at = rest
end
if #plain > 0 then
  remove_plain(plain, 'leased')
  ring()
end
tidy()
return answers
