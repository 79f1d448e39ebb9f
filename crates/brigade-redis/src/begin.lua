-- What every script begins with. A script runs alone on the server and all of it or nothing; it must name no key outside of its queue.
--
-- KEYS[1] is 'brigade:{queue}:', the beginning of each key; KEYS[2] the list of queues, unless a cluster may have that elsewhere. All times are the server's, in milliseconds. `now` is its wall
-- clock, which decides when jobs and schedules fall due; leases and rates use `steady`, which does not follow a step of the wall clock. ARGV[1] is 'passed:set:correction:expected:tolerance':
-- the first two say how far a test has moved the time, and the wall clock besides; the others are described in `server_time.rs`. Ids are numbers with leading zeros, so that members of one score
-- are in the order of the pushes.

local prefix, LIST = KEYS[1], KEYS[2]
local clock = redis.call('TIME')
local passed, set, correction, expected, tolerance = string.match(ARGV[1], '^(%d+):(-?%d+):(-?%d+):(%d*):(%d+)$')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if expected ~= '' and math.abs(now - tonumber(expected)) > tonumber(tolerance) then
  return redis.error_reply('STEPPED the server has another time than this client expects')
end
local steady = now + tonumber(passed) + tonumber(correction)
now = now + tonumber(passed) + tonumber(set)

local function key(name) return prefix .. name end
local function job(id) return prefix .. 'job:' .. id end
local function text(number) return string.format('%.0f', number) end
local function get(id, field) return redis.call('HGET', job(id), field) end
local function number(value) return tonumber(value) or 0 end
local function queue_name() return string.match(prefix, '^brigade:{(.*)}:$') end

