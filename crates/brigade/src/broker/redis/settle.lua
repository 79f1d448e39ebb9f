-- Ends leases. Per settlement six arguments: id, token, what, and three of its own:
--   done: how long the job stays or '', the result or '', ''
--   dead: reason, the record for its history or '', counter or ''
--   back: state and pause as 'retrying:100', record, counter or ''
--   cancelled: reason, record or '', ''
--   extend: time, '', ''
-- Returns per settlement: 0 for a lease that is not (any more), else 1, or for an extension the reason why the job is to be cancelled.
go_on_without_memory()
local answers = {}

local function apply(id, what, first, record, counter)
  if what == 'extend' then
    local until_ = steady + tonumber(first)
    redis.call('HSET', job(id), 'lease_until', text(until_))
    redis.call('ZADD', key('leased'), until_, id)
    return get(id, 'cancel') or 1
  end
  if what == 'done' then
    local fate = fate_done(record ~= '' and record)
    if first == '' then
      remove_job(id, fate)
      ring()
    else
      if record ~= '' then redis.call('HSET', job(id), 'result', record) end
      end_job(id, 'done', nil, now + tonumber(first), fate)
    end
  elseif what == 'back' then
    local state, after = string.match(first, '^(%a+):(%d+)$')
    give_back(id, record, counter, state, tonumber(after))
  else
    if record ~= '' then note(id, record) end
    if counter ~= '' then redis.call('HINCRBY', job(id), counter, 1) end
    if what == 'dead' then dead(id, first) else cancelled(id, first) end
  end
  return 1
end

for at = 2, #ARGV, 6 do
  local id, token = ARGV[at], ARGV[at + 1]
  local held = redis.call('HMGET', job(id), 'state', 'token', 'lease_until')
  if held[1] == 'leased' and held[2] == token and tonumber(held[3]) >= steady then
    table.insert(answers, apply(id, ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]))
  else
    table.insert(answers, 0)
  end
end
return answers
