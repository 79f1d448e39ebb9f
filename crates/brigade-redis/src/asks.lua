-- Notes who asks for jobs here; that goes by itself.
local SAY_EVERY = 20000
local function say_here(holder)
  local said = redis.call('ZSCORE', key('consumers'), holder)
  if said and steady - tonumber(said) < SAY_EVERY then return end
  redis.call('ZADD', key('consumers'), steady, holder)
  redis.call('PEXPIRE', key('consumers'), 3 * SAY_EVERY)
  redis.call('ZREMRANGEBYSCORE', key('consumers'), '-inf', text(steady - 3 * SAY_EVERY))
end

-- In how many milliseconds something falls due by itself.
local function next_due()
  local least
  for _, state in ipairs({'scheduled', 'retrying', 'leased'}) do
    local first = redis.call('ZRANGE', key(state), 0, 0, 'WITHSCORES')[2]
    if first then
      local left = state == 'leased' and tonumber(first) - steady + 1 or tonumber(first) - now
      left = math.max(left, 0)
      if not least or left < least then least = left end
    end
  end
  return least
end
