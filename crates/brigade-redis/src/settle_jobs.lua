-- Ends leases of jobs that are not plain, or end otherwise than done.

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

return apply
