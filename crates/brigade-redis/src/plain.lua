-- -- many at once
--
-- A plain job has a field that says so: it has to do with no other job, has no key, unique key, result to be kept nor time in which to begin, and nothing is
-- known of it yet but what is in its hash, in `jobs` and in the set of its state. So many are stored, handed out and removed together, with few commands.
-- Whatever makes it known elsewhere takes the field away. Its value is 1, or the moment since when the job waits.

-- A command with many values; Lua can unpack only so many at once. Even, as some values are pairs.
local VALUES_MAX = 2000
local function call_with(command, name, values)
  for from = 1, #values, VALUES_MAX do
    redis.call(command, name, unpack(values, from, math.min(from + VALUES_MAX - 1, #values)))
  end
end

-- Where plain jobs begin in ARGV, each with the number of its names and values, and where the last one ends.
local function find_plain(at, count)
  local begins = {}
  for place = 1, count do
    begins[place] = at
    at = at + ARGV[at] + 1
  end
  begins[count + 1] = at
  return begins, at
end

-- Stores them; gives the number of the first, which those of the others follow.
local function store_plain(begins)
  local many = #begins - 1
  check_numbers()
  check_sets({'ready', 'jobs'})
  local before, began = take_numbers(many) - 1, text(now)
  local is_recorded = open_log()
  local ids, ready, all = {}, {}, {}
  for place = 1, many do
    local id, first = id_text(before + place), begins[place] + 1
    ids[place] = id
    -- A priority comes first, then the payload and the task.
    local has_priority = ARGV[first] == 'priority'
    ready[2 * place - 1], ready[2 * place] = has_priority and text(-ARGV[first + 1]) or '0', id
    local at = has_priority and first + 4 or first + 2
    local task = at < begins[place + 1] and ARGV[at] == 'task' and ARGV[at + 1]
    count(task, PUSHED)
    if is_recorded then record('pushed', id, 'ready', task) end
    all[2 * place - 1], all[2 * place] = '0', id
  end
  call_with('ZADD', key('ready'), ready)
  call_with('ZADD', key('jobs'), all)
  for place = 1, many do
    redis.call('HSET', job(ids[place]), 'state', 'ready', 'token', began, 'attempts', '0', 'plain', '1', 'pushed_at', began,
      unpack(ARGV, begins[place] + 1, begins[place + 1] - 1))
  end
  ring()
  return ids[1]
end

-- Removes plain jobs.
local function remove_plain(ids, state)
  if #ids == 0 then return end
  check_sets({state, 'jobs'})
  call_with('ZREM', key(state), ids)
  call_with('ZREM', key('jobs'), ids)
  local hashes = {}
  for place, id in ipairs(ids) do hashes[place] = job(id) end
  for from = 1, #hashes, VALUES_MAX do redis.call('UNLINK', unpack(hashes, from, math.min(from + VALUES_MAX - 1, #hashes))) end
end

-- Does what has nothing to do with the rest of a script; its error is its answer.
local function apart(act, ...)
  local done, answer = pcall(act, ...)
  if done then return answer end
  prefix, telling, untold = KEYS[1], false, {}
  read_limits()
  if type(answer) == 'table' then return answer end
  -- Some servers put the place in the script before it.
  return redis.error_reply((string.gsub(answer, '^[^ ]*: %d+: %-?', '')))
end

