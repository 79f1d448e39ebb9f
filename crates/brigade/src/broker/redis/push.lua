-- Pushes jobs, which may be of several queues and joined to flows. Per job: the beginning of its queue's keys, due or 0, delay or 0, mark or '', how long the mark
-- holds or 0, the position of the job that waits for it or 0, what it does with its members if it waits or '', the number of names and values, those.
-- Returns per job: its id, and 1 if it is new.
local jobs, is_flow, members = {}, false, {}
local at = 2
while at <= #ARGV do
  local one = {
    queue = ARGV[at], due = tonumber(ARGV[at + 1]), delay = tonumber(ARGV[at + 2]), mark = ARGV[at + 3], mark_kept = tonumber(ARGV[at + 4]),
    next = tonumber(ARGV[at + 5]), gather = ARGV[at + 6], fields = {},
  }
  local count = tonumber(ARGV[at + 7])
  at = at + 8
  for index = at, at + count - 1 do table.insert(one.fields, ARGV[index]) end
  at = at + count
  table.insert(jobs, one)
  is_flow = is_flow or one.next > 0 or one.gather ~= ''
  if one.next > 0 then members[one.next] = (members[one.next] or 0) + 1 end
end

-- A flow is stored whole or not at all, so this comes before the first write.
if is_flow then
  local seen = {}
  for _, one in ipairs(jobs) do
    local known = within(one.queue, marked, one.mark) or (one.mark ~= '' and seen[one.queue .. one.mark])
    if known then return redis.error_reply('DUPLICATE ' .. one.mark) end
    seen[one.queue .. one.mark] = true
  end
end

local function push(one, waits)
  local known = marked(one.mark)
  if known then return {known, 0} end
  if one.gather ~= '' then
    for _, value in ipairs({'gather', one.gather, 'members', waits, 'waits', waits, 'missed', 0}) do table.insert(one.fields, value) end
    if one.due > 0 then
      table.insert(one.fields, 'at')
      table.insert(one.fields, one.due)
    elseif one.delay > 0 then
      table.insert(one.fields, 'delay')
      table.insert(one.fields, one.delay)
    end
    one.due, one.delay = 0, 0
  end
  local due = one.delay > 0 and now + one.delay or one.due
  local id = store(one.fields, due, one.gather ~= '')
  mark_job(one.mark, one.mark_kept, id)
  return {id, 1}
end

local answers, ids = {}, {}
for position, one in ipairs(jobs) do
  local pushed = within(one.queue, push, one, members[position] or 0)
  ids[position] = pushed[1]
  table.insert(answers, pushed[1])
  table.insert(answers, pushed[2])
end

if is_flow then
  local places = {}
  for position, one in ipairs(jobs) do
    if one.next > 0 then
      local place = places[one.next] or 0
      places[one.next] = place + 1
      local next_queue, next_id = jobs[one.next].queue, ids[one.next]
      within(one.queue, function()
        redis.call('HSET', job(ids[position]), 'next_queue', next_queue, 'next', next_id, 'place', place)
      end)
      within(next_queue, function() redis.call('RPUSH', key('members:' .. next_id), one.queue .. ids[position]) end)
    end
  end
  -- Whoever waits for these knows by now how many it waits for.
  for position, one in ipairs(jobs) do
    if one.gather ~= '' and not members[position] then within(one.queue, go_on, ids[position]) end
  end
  tell_all()
end
return answers
