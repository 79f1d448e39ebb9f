-- Hands out jobs. ARGV: clock, holder, how many at most, the time of the lease or 0 to take; in the role of a manager, -1 and the time in which
-- plain clients have to collect. Last, the name of this process, by which others know whether it is gone.
-- Returns in how many milliseconds another may be ready (-1: not by time) and how many other processes ask for jobs here, as one text, then per job: id, token, failed, crashed, lost, unserved, its first moment and when its time began in one text, payload, task or false,
-- options or false. At most PIECE of them.
go_on_without_memory()
local owner = ARGV[#ARGV]
local holder, max, time = ARGV[2], math.min(tonumber(ARGV[3]), PIECE), tonumber(ARGV[4])
local manages = time == -1
if manages then time = tonumber(ARGV[5]) end
local LEASED_VALUES = 4
-- What plain jobs need; for others see `jobs`.
check_sets({'ready', 'leased', 'jobs', 'consumers', 'holders'})

local answers = {-1}
local handed = 0
local next_open = nil

-- What is not there is looked for in the whole hash, so not for what a plain job has not. 15: since when it waits, if that is kept.
local function read(id)
  local fields = redis.call('HMGET', job(id), 'token', 'attempts', 'plain', 'payload', 'task', 'options', 'pushed_at')
  local began_at = fields[7]
  fields[7] = false
  if fields[1] and not fields[3] then
    local names = {'failed', 'crashed', 'key', 'cancel', 'lost', 'unserved', 'unserved_at', 'began_at', 'since'}
    for place, value in ipairs(redis.call('HMGET', job(id), unpack(names))) do fields[6 + place] = value end
  end
  fields[14] = fields[14] or began_at
  return fields
end

-- Puts a job into the answer; gives its token.
local function answer(id, fields)
  -- Never one again that a holder may have from before the server fell back to an older state.
  local token = text(math.max(number(fields[1]) + 1, steady))
  local at = LEASED_VALUES * handed
  handed = handed + 1
  answers[at + 2] = id .. ' ' .. token .. ' ' .. (fields[7] or '0') .. ' ' .. (fields[8] or '0')
    .. ' ' .. (fields[11] or '0') .. ' ' .. (fields[12] or '0') .. ' ' .. (fields[13] or '0')
    .. ' ' .. (fields[14] or '0')
  answers[at + 3], answers[at + 4], answers[at + 5] = fields[4], fields[5], fields[6]
  return token
end

local lease_until = text(steady + time)

local is_recorded = open_log()

-- It was handed out; what is taken is done.
local function note_lease(id, fields)
  local since = fields[15] or fields[14]
  if fields[3] and fields[3] ~= '1' then since = fields[3] end
  count_time(fields[5], WAITS, math.max(now - number(since), 0))
  if time == 0 then count(fields[5], DONE) end
  if not is_recorded then return end
  local attempt = text(number(fields[2]) + 1)
  record('leased', id, 'leased', fields[5], attempt)
  if time == 0 then record('done', id, 'done', fields[5], attempt) end
end

-- Holders extend their leases, and are known for longer than the first would last.
local HOLDERS_KEPT = 24 * 3600 * 1000

local function write_lease(id, fields, token)
  redis.call('HSET', job(id), 'state', 'leased', 'token', token, 'attempts', text(number(fields[2]) + 1), 'lease_until', lease_until,
    'holder', holder, 'owner', owner)
  if fields[10] then redis.call('HDEL', job(id), 'cancel') end
  if fields[9] then redis.call('HSET', key('out'), fields[9], id) end
end
