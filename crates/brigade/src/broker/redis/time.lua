-- -- what time does

local BATCH = 1000

-- -- plain clients: `free` is who asked, `to:<client>` what it is given, `handed:<client>` the jobs of that in the same order

-- What a client has collected is gone.
local function forget_collected(client)
  local left = redis.call('LLEN', key('to:' .. client))
  for _ = left + 1, redis.call('LLEN', key('handed:' .. client)) do
    remove_job(redis.call('LPOP', key('handed:' .. client)), fate_done())
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
    elseif not is_gone(id) then
      redis.call('HINCRBY', job(id), 'lost', 1)
      give_back(id, '"kind":"interrupted","reason":"its lease ran out"}', 'interrupted', 'scheduled', 0)
    end
  end
  -- Mostly there is nothing else that could fall due.
  if redis.call('EXISTS', key('late'), key('scheduled'), key('retrying'), key('done'), key('cancelled'), key('inbox')) == 0 then return end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('late'), '-inf', '(' .. text(now), 'LIMIT', 0, BATCH)) do
    local fields = redis.call('HMGET', job(id), 'state', 'failed', 'crashed')
    local attempts = (tonumber(fields[2]) or 0) + (tonumber(fields[3]) or 0)
    if fields[1] == 'leased' then
      -- Its attempt has begun; what comes of it is seen then.
      redis.call('ZREM', key('late'), id)
    elseif not is_gone(id) then
      dead(id, attempts == 0 and 'no attempt began within the time that it had'
        or 'the time for its attempts is over; it has had ' .. attempts)
    end
  end
  for _, state in ipairs({'scheduled', 'retrying'}) do
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', key(state), '-inf', text(now), 'LIMIT', 0, BATCH)) do
      redis.call('ZREM', key(state), id)
      if not is_gone(id) then make_ready(id) end
    end
  end
  for _, state in ipairs({'done', 'cancelled'}) do
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', key(state), 1, text(now), 'LIMIT', 0, BATCH)) do
      if not is_gone(id) then remove_job(id) end
    end
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
  local leased = key('leased:' .. partition)
  if limits[4] then
    -- What is there still although its lease is over has been removed by somebody.
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', leased, '-inf', '(' .. text(steady), 'LIMIT', 0, BATCH)) do is_gone(id, partition) end
  end
  return closed(leased, key('starts:' .. partition), limits[4], limits[5], limits[6])
end

local function remember_start(partition)
  local function remember(name, per)
    redis.call('ZADD', key(name), now, text(redis.call('INCR', key('start'))))
    redis.call('PEXPIRE', key(name), text(per + 1000))
  end
  if limits[2] then remember('starts', limits[3]) end
  if limits[5] then remember('starts:' .. partition, limits[6]) end
end
