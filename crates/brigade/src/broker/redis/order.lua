-- What people ask for. ARGV: ahead, what, arguments. Returns how many jobs were changed, or -1 if a holder was asked.
go_on_without_memory()
local what, id = ARGV[2], ARGV[3]
local state = id and get(id, 'state')

if what == 'cancel' then
  if state == 'leased' then
    redis.call('HSET', job(id), 'cancel', ARGV[4])
    redis.call('SADD', key('stops'), id)
    ring()
    return -1
  end
  if not state or is_settled(state) then return 0 end
  cancelled(id, ARGV[4])
  return 1
elseif what == 'retry' then
  if state ~= 'dead' then return 0 end
  local fields = redis.call('HMGET', job(id), 'key', 'mark')
  -- Its mark may stand for another job by now.
  if fields[2] then
    if redis.call('EXISTS', key('mark:' .. fields[2])) == 1 then return 0 end
    redis.call('SET', key('mark:' .. fields[2]), id)
  end
  leave(id)
  redis.call('HDEL', job(id), 'failed', 'crashed', 'reason')
  if fields[1] then redis.call('ZADD', key('key:' .. fields[1]), 0, id) end
  make_ready(id)
  return 1
elseif what == 'delete' then
  if not state or state == 'leased' then return 0 end
  remove_job(id)
  return 1
elseif what == 'purge' then
  local count = 0
  for _, of in ipairs({'ready', 'scheduled', 'held', 'retrying'}) do
    for _, member in ipairs(redis.call('ZRANGE', key(of), 0, tonumber(ARGV[3]) - 1)) do
      if redis.call('EXISTS', job(member)) == 1 then remove_job(member) end
      count = count + 1
    end
  end
  local inbox = redis.call('LLEN', key('inbox'))
  redis.call('DEL', key('inbox'))
  return count + inbox
elseif what == 'pause' then
  return redis.call('SET', key('paused'), '1', 'NX') and 1 or 0
elseif what == 'resume' then
  local resumed = redis.call('DEL', key('paused'))
  ring()
  return resumed
elseif what == 'limit' then
  -- Names and values of the limits; none takes them away.
  for _, partition in ipairs(redis.call('ZRANGE', key('partitions'), 0, -1)) do redis.call('DEL', key('ready:' .. partition)) end
  for _, member in ipairs(redis.call('ZRANGE', key('leased'), 0, -1)) do
    redis.call('DEL', key('leased:' .. (get(member, 'partition') or '')))
  end
  redis.call('DEL', key('limits'), key('partitions'))
  if ARGV[3] then redis.call('HSET', key('limits'), unpack(ARGV, 3)) end
  if redis.call('HGET', key('limits'), 'by_partition') == '1' then
    for _, of in ipairs({'ready', 'leased'}) do
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
  end
  ring()
  return 1
end
return redis.error_reply('brigade: unknown order ' .. what)
