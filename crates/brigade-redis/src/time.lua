-- -- what time does

-- -- plain clients: `free` is who asked, `to:<client>` what it is given, `handed:<client>` the jobs of that in the same order

-- What a client has collected is gone.
local function forget_collected(client)
  local left = redis.call('LLEN', key('to:' .. client))
  for _ = left + 1, redis.call('LLEN', key('handed:' .. client)) do
    local id = redis.call('LPOP', key('handed:' .. client))
    happened('done', id, 'done')
    remove_job(id, fate_done())
  end
end

-- Takes back what a client has not collected in time: those were handed to it in this order, so it is its first.
local function take_back(id, client)
  forget_collected(client)
  if redis.call('EXISTS', job(id)) == 0 then return end
  redis.call('LPOP', key('to:' .. client))
  redis.call('LPOP', key('handed:' .. client))
  redis.call('HDEL', job(id), 'client')
  give_back(id, '"kind":"interrupted","reason":"no client collected it"}', 'interrupted', 'scheduled', 0)
end

-- What is wrong with one job keeps no other from its turn: it is looked at again after this time.
local PUT_OFF = 60000

-- Does something with each member of a set whose score is at most this, as far as the budget goes.
local function each_due(set, least, most, act)
  if budget <= 0 then return end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key(set), least, most, 'LIMIT', 0, budget)) do
    budget = budget - 1
    local own = prefix
    if not pcall(act, id) then
      prefix, telling, untold = own, false, {}
      read_limits()
      redis.call('ZADD', key(set), 'XX', text((set == 'leased' and steady or now) + PUT_OFF), id)
    end
  end
end

local function end_lease(id)
  local client = not is_gone(id) and get(id, 'client')
  if client then return take_back(id, client) end
  if is_gone(id) then return end
  check_job(id)
  check_behind(id, true, 0)
  redis.call('HINCRBY', job(id), 'lost', 1)
  give_back(id, '"kind":"interrupted","reason":"its lease ran out"}', 'interrupted', 'scheduled', 0)
end

local function end_late(id)
  if is_gone(id) then return end
  local fields = redis.call('HMGET', job(id), 'state', 'failed', 'crashed')
  local attempts = number(fields[2]) + number(fields[3])
  if fields[1] == 'leased' then
    -- Its attempt has begun; what comes of it is seen then.
    redis.call('ZREM', key('late'), id)
    return
  end
  check_job(id)
  check_behind(id, true, 0)
  dead(id, attempts == 0 and NEVER_BEGAN or OUT_OF_TIME .. attempts)
end

local function promote(state)
  return function(id)
    if is_gone(id) then return end
    check_job(id)
    redis.call('ZREM', key(state), id)
    make_ready(id)
  end
end

local function forget_ended(id)
  if is_gone(id) then return end
  check_job(id)
  remove_job(id)
end

-- Any client may push to the inbox.
local function take_in()
  if budget <= 0 or redis.call('LLEN', key('inbox')) == 0 then return end
  check_queue()
  list()
  for _, payload in ipairs(redis.call('LPOP', key('inbox'), spend(budget)) or {}) do store({'payload', payload}, 0) end
end

-- Does a piece of what has fallen due; the next script does the next.
local function tick()
  each_due('leased', '-inf', '(' .. text(steady), end_lease)
  -- Mostly there is nothing else that could fall due.
  local others = redis.call('EXISTS', key('late'), key('scheduled'), key('retrying'), key('done'), key('cancelled'), key('inbox'), key('incoming'),
    key('doomed'))
  if others == 0 then return end
  do_chores(math.floor(PIECE / 2))
  each_due('late', '-inf', '(' .. text(now), end_late)
  each_due('scheduled', '-inf', text(now), promote('scheduled'))
  each_due('retrying', '-inf', text(now), promote('retrying'))
  each_due('done', 1, text(now), forget_ended)
  each_due('cancelled', 1, text(now), forget_ended)
  take_in()
end

-- -- limits

-- Whether nothing more may be handed out, and if so by which limit: 'running', limit, how many run; 'rate', starts, per, free in.
local function closed(leased, starts, running_max, starts_max, per)
  if running_max then
    local running = redis.call('ZCARD', leased)
    if running >= running_max then return {'running', running_max, running} end
  end
  if starts_max then
    redis.call('ZREMRANGEBYSCORE', starts, '-inf', text(steady - per))
    if redis.call('ZCARD', starts) >= starts_max then
      local first = redis.call('ZRANGE', starts, 0, 0, 'WITHSCORES')[2]
      return {'rate', starts_max, per, math.max(math.min(number(first) + per - steady, per), 0)}
    end
  end
  return nil
end

local function queue_closed() return closed(key('leased'), key('starts'), limits[1], limits[2], limits[3]) end

local function partition_closed(partition)
  local leased = key('leased:' .. partition)
  if limits[4] then
    -- What is there still although its lease is over was removed by another program.
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', leased, '-inf', '(' .. text(steady), 'LIMIT', 0, PIECE)) do is_gone(id, partition) end
  end
  return closed(leased, key('starts:' .. partition), limits[4], limits[5], limits[6])
end

-- Keys go by the wall clock. A queue has one key of this kind, so that one can stay until after a step of a day.
local STARTS_KEPT, PARTITION_STARTS_KEPT = 24 * 3600 * 1000, 60 * 1000
local function remember_start(partition)
  local function remember(name, kept)
    redis.call('ZADD', key(name), steady, text(redis.call('INCR', key('start'))))
    redis.call('PEXPIRE', key(name), text(kept))
  end
  if limits[2] then remember('starts', limits[3] + STARTS_KEPT) end
  if limits[5] then remember('starts:' .. partition, limits[6] + PARTITION_STARTS_KEPT) end
end
