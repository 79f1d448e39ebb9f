-- Stores jobs that are not plain, or are of a queue with limits by partition.

local function read_job(at)
  local one = {
    queue = ARGV[at], due = tonumber(ARGV[at + 1]), delay = tonumber(ARGV[at + 2]), unique_key = ARGV[at + 3], unique_kept = tonumber(ARGV[at + 4]),
    dependent = tonumber(ARGV[at + 5]), dependent_kind = ARGV[at + 6],
  }
  local rest = at + 8 + ARGV[at + 7]
  one.fields = {unpack(ARGV, at + 8, rest - 1)}
  return one, rest
end

local function push_one(one, waits)
  local known = job_of_unique(one.unique_key)
  if known then return {known, 0} end
  if one.dependent_kind ~= '' then
    waiting_fields(one.fields, one.dependent_kind, waits, one.due, one.delay)
    one.due, one.delay = 0, 0
  end
  local due = one.delay > 0 and now + one.delay or one.due
  local id = store(one.fields, due, one.dependent_kind ~= '')
  keep_unique(one.unique_key, one.unique_kept, id)
  list()
  return {id, 1}
end

-- What comes in piece by piece came first: a job with a key or a unique key has to wait for it.
local function has_to_wait(one)
  if redis.call('EXISTS', key('incoming')) == 0 then return false end
  if one.unique_key ~= '' then return true end
  for at = 1, #one.fields, 2 do if one.fields[at] == 'key' then return true end end
  return false
end

-- Whichever unique key of a flow stands for another job: it is stored whole or not at all.
local function taken_mark(jobs)
  local seen = {}
  for _, one in ipairs(jobs) do
    local known = within(one.queue, job_of_unique, one.unique_key) or (one.unique_key ~= '' and seen[one.queue .. one.unique_key])
    if known then return type(known) == 'string' and within(one.queue, name_of, known) or 'another job of this push' end
    seen[one.queue .. one.unique_key] = true
  end
end

local function join(jobs, ids, parents)
  local places = {}
  for position, one in ipairs(jobs) do
    if one.dependent > 0 then
      local place = places[one.dependent] or 0
      places[one.dependent] = place + 1
      local dependent_queue, dependent_id = jobs[one.dependent].queue, ids[one.dependent]
      within(one.queue, function()
        redis.call('HSET', job(ids[position]), 'dependent_queue', dependent_queue, 'dependent', dependent_id, 'place', place)
      end)
      within(dependent_queue, function() redis.call('RPUSH', key('parents:' .. dependent_id), one.queue .. ids[position]) end)
    end
  end
  -- The jobs that wait for these know by now how many they wait for.
  for position, one in ipairs(jobs) do
    if one.dependent_kind ~= '' and not parents[position] then within(one.queue, go_on, ids[position]) end
  end
  tell_all()
end

local function push(jobs)
  local is_flow, parents = false, {}
  for _, one in ipairs(jobs) do
    is_flow = is_flow or one.dependent > 0 or one.dependent_kind ~= ''
    if one.dependent > 0 then parents[one.dependent] = (parents[one.dependent] or 0) + 1 end
  end
  for _, one in ipairs(jobs) do
    if within(one.queue, has_to_wait, one) then return redis.error_reply('INCOMING ' .. one.queue) end
    within(one.queue, check_new, one.fields)
  end
  local taken = is_flow and taken_mark(jobs)
  if taken then return redis.error_reply('DUPLICATE ' .. taken) end
  local answers, ids = {}, {}
  for position, one in ipairs(jobs) do
    local pushed = within(one.queue, push_one, one, parents[position] or 0)
    ids[position] = pushed[1]
    table.insert(answers, pushed[1])
    table.insert(answers, pushed[2])
  end
  if is_flow then join(jobs, ids, parents) end
  return answers
end

-- Plain jobs of a queue with limits by partition; gives the number of the first, which those of the others follow.
local function store_each(begins)
  check_numbers()
  check_queue()
  local first
  for place = 1, #begins - 1 do
    local id = store({'plain', '1', unpack(ARGV, begins[place] + 1, begins[place + 1] - 1)}, 0)
    first = first or id
  end
  return first
end

return read_job, push, store_each
