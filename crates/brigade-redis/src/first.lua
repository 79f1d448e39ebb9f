-- What scripts need before they know whether a job has to do with any other. The rest is in `common.lua`, of which a script for plain jobs makes nothing: a server
-- makes each function of a script for each call.

-- A server whose memory is full refuses a script at its first write that could need more; after one that needs none, it lets it go on. So
-- what is there can always be handed out and settled, which frees memory; only pushes are refused.
local function go_on_without_memory() redis.call('DEL', key('none')) end

-- What one script does at most of what may be many: so the server is never held up for long. What is left is the next one's.
local PIECE = 250
local budget = PIECE
local function spend(count)
  budget = budget - count
  return count
end

-- Changing this key wakes the consumers that wait for the queue, once the script has ended. It goes by itself.
local BELL_KEPT = 30000
local rung = {}
local function ring()
  if rung[prefix] then return end
  rung[prefix] = true
  redis.call('SET', 'brigade:bell:{' .. queue_name() .. '}', '1', 'PX', BELL_KEPT)
end

-- Puts the queue on the list of queues. It is taken off when it is empty, see `tidy`.
local function list() if LIST then redis.call('SADD', LIST, queue_name()) end end

-- A command that meets a key of another type ends the script, and what the script did before stays done. So a script reads the keys that it is
-- going to change before its first write: that read fails as the write would.
local SETS = {'ready', 'scheduled', 'blocked', 'leased', 'retrying', 'done', 'dead', 'cancelled', 'jobs', 'late'}
local checked = {}
local function check_sets(names) for _, name in ipairs(names) do redis.call('ZCARD', key(name)) end end
local function check_numbers()
  if checked[prefix .. 'seq'] then return end
  checked[prefix .. 'seq'] = true
  local last = redis.call('GET', key('seq'))
  if last and not tonumber(last) then redis.call('HLEN', key('seq')) end
  if LIST then redis.call('SISMEMBER', LIST, '') end
end
local function check_queue()
  if checked[prefix] then return end
  checked[prefix] = true
  check_sets(SETS)
  redis.call('HLEN', key('out'))
  redis.call('SCARD', key('stops'))
  check_numbers()
end

-- What the queue is limited to.
local limits

local function read_limits()
  limits = {}
  local names = {'running', 'starts', 'per', 'running_per_partition', 'starts_per_partition', 'per_per_partition', 'by_partition', 'turns'}
  for index, value in ipairs(redis.call('HMGET', key('limits'), unpack(names))) do limits[index] = tonumber(value) or false end
end

read_limits()

-- A queue that is empty leaves nothing behind: its numbers need no memory, as they are times.
local function tidy()
  if redis.call('EXISTS', key('jobs'), key('inbox'), key('incoming'), key('paused'), key('limits'), key('plans')) > 0 then return end
  redis.call('DEL', key('seq'), key('holders'), key('dead_groups'), key('dead_by_group'))
  if LIST then redis.call('SREM', LIST, queue_name()) end
end

-- So many numbers; gives the first. They are the microseconds of the server's clock, or go on from the last if that is ahead: so none comes again
-- after the server has lost what it knew, or the queue was empty.
local function take_numbers(count)
  local first = math.max(number(redis.call('GET', key('seq'))) + 1, clock[1] * 1000000 + clock[2])
  redis.call('SET', key('seq'), text(first + count - 1))
  return first
end
local function id_text(value) return string.format('%016.0f', value) end

-- Ends that the waiting jobs have not counted yet: counting one may end another.
local untold = {}
local telling = false
