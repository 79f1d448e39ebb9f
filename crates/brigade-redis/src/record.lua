-- What happens to jobs is counted, and recorded for those who read events. It is gathered while a script runs and written at its end, by `write_down`.

-- -- statistics
--
-- `minute:M` counts one minute: a hash of numbers by a letter and a task. `minute` is the last M. When the next begins, that hash is packed into
-- `minutes:H` of its hour: one field per minute, two digits, and task, with letters and numbers as text; those of one letter add up. `tasks:H` has the tasks of an
-- hour that are counted by name. None of them is kept for longer than a day.

-- What is counted, by the places of the letters: seven numbers, then waits and runs, each by the bounds of `Durations`, one for what took longer, and one for their sum.
-- PUSHED, DONE .. CANCELLED, WAITS and RUNS are those places.
-- By the beginning of a queue's keys, task and place.
local counted = {}
local last_queue, last_task, last_counts
local function counts_of(task)
  if last_queue == prefix and last_task == task then return last_counts end
  local tasks = counted[prefix]
  if not tasks then
    tasks = {}
    counted[prefix] = tasks
  end
  local counts = tasks[task or '']
  if not counts then
    counts = {}
    tasks[task or ''] = counts
  end
  last_queue, last_task, last_counts = prefix, task, counts
  return counts
end

local function count(task, place)
  local counts = counts_of(task)
  counts[place] = (counts[place] or 0) + 1
end

-- `of`: waits or runs.
local bounds
local function count_time(task, of, millis)
  bounds = bounds or BOUNDS
  local counts, place = counts_of(task), 1
  while place <= #bounds and bounds[place] < millis do place = place + 1 end
  place = of + place
  counts[place] = (counts[place] or 0) + 1
  if millis >= 1 then
    local sum = of + 20
    counts[sum] = (counts[sum] or 0) + math.floor(millis)
  end
end

-- The run of an attempt, if its cost is known, else since its lease, of which the token is about the moment.
local function count_run(task, cost, token)
  local micros = cost and string.match(cost, '^%d+')
  count_time(task, RUNS, micros and micros / 1000 or math.max(steady - number(token), 0))
end

-- The first of a minute: the one before is packed.
local function begin_minute(queue, minute)
  redis.call('PEXPIRE', queue .. 'minute:' .. text(minute), STATISTICS_KEPT)
  local last = tonumber(redis.call('GET', queue .. 'minute') or nil)
  redis.call('SET', queue .. 'minute', text(minute), 'PX', STATISTICS_KEPT)
  if LIST then
    redis.call('ZADD', COUNTED_QUEUES, minute, string.match(queue, '^brigade:{(.*)}:$'))
    redis.call('ZREMRANGEBYSCORE', COUNTED_QUEUES, '-inf', minute - STATISTICS_KEPT / 60000)
  end
  if not last or last == minute then return end
  local from, into = queue .. 'minute:' .. text(last), queue .. 'minutes:' .. text(math.floor(last / 60))
  local found, tasks = redis.call('HGETALL', from), {}
  for at = 1, #found, 2 do
    local task = string.sub(found[at], 2)
    tasks[task] = (tasks[task] or '') .. string.sub(found[at], 1, 1) .. found[at + 1]
  end
  for task, counts in pairs(tasks) do
    local field = string.format('%02d', last % 60) .. task
    redis.call('HSET', into, field, (redis.call('HGET', into, field) or '') .. counts)
  end
  redis.call('PEXPIRE', into, STATISTICS_KEPT + 2 * 3600000)
  redis.call('UNLINK', from)
end

local function write_counts(queue, tasks)
  local minute = math.floor(now / 60000)
  local name, is_new = queue .. 'minute:' .. text(minute), false
  for task, counts in pairs(tasks) do
    local is_named = task == ''
    for place, many in pairs(counts) do
      local letter = string.sub(LETTERS, place, place)
      if redis.call('HINCRBY', name, letter .. task, many) == many then
        -- There was none before.
        is_new = true
        if not is_named then
          local named = queue .. 'tasks:' .. text(math.floor(minute / 60))
          is_named = redis.call('SISMEMBER', named, task) == 1
          if not is_named and redis.call('SCARD', named) < TASKS_COUNTED_MAX then
            is_named = true
            redis.call('SADD', named, task)
            redis.call('PEXPIRE', named, 2 * 3600000)
          end
        end
        if not is_named then
          redis.call('HDEL', name, letter .. task)
          redis.call('HINCRBY', name, letter .. OTHER_TASKS, many)
        end
      end
    end
  end
  if is_new and redis.call('PTTL', name) < 0 then begin_minute(queue, minute) end
end

-- -- events
--
-- `events` is a stream, of all queues together, or where those may be on several servers one of each queue. `recorded` says until when it is written, the number of
-- its last event, which counts up by one, and the moment of that. Ids are made of both, so a gap in the numbers shows that events are missing.

-- By the beginning of its keys; false where nothing is recorded.
local logs = {}
local function open_log()
  local name = LIST and 'brigade:' or prefix
  local log = logs[name]
  if log == nil then
    local found = redis.pcall('HMGET', name .. 'recorded', 'until', 'number', 'moment')
    log = not found.err and number(found[1]) > steady and {number = number(found[2]), moment = number(found[3])}
    logs[name] = log
  end
  return log
end

local function cut_at(reason, bytes)
  if #reason <= bytes then return reason end
  local at = bytes
  while at > 0 and string.byte(reason, at + 1) >= 128 and string.byte(reason, at + 1) < 192 do at = at - 1 end
  return string.sub(reason, 1, at)
end

-- `state`: after that; it is looked up if it is not given. `attempt`: its number, if it is about one.
local function record(kind, id, state, task, attempt, reason, cost)
  local log = open_log()
  if not log then return end
  log[#log + 1] = {'kind', kind, 'queue', queue_name(), 'job', id, 'state', state or get(id, 'state') or '', 'task', task or '', 'attempt', attempt or 0,
    'at', text(now), 'reason', cut_at(reason or '', EVENT_REASON_BYTES_MAX), 'cost', cost or ''}
end

local function write_events(name, log)
  local moment = math.max(log.moment, clock[1] * 1000 + math.floor(clock[2] / 1000))
  for place, event in ipairs(log) do
    redis.call('XADD', name .. 'events', 'MAXLEN', '~', EVENTS_KEPT, text(moment) .. '-' .. text(log.number + place), unpack(event))
  end
  redis.call('HSET', name .. 'recorded', 'number', text(log.number + #log), 'moment', text(moment))
  redis.call('PEXPIRE', name .. 'events', 2 * RECORDED_FOR)
end

-- What every script ends with. A key of another program that is in the way changes nothing of what was done.
local function write_down()
  for queue, tasks in pairs(counted) do pcall(write_counts, queue, tasks) end
  for name, log in pairs(logs) do
    if log and #log > 0 then pcall(write_events, name, log) end
  end
end
