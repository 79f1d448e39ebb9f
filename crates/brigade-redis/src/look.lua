-- Has everything happen whose time has come, before queues are looked at. ARGV: clock, whether they are to be counted ('1' or ''), the beginning of each queue's keys.
-- Returns per queue an empty list or its counts: whether it is paused, its limits, the elements of its inbox, the jobs of each state, whether more comes in, since when
-- its first ready job waits. An error stands in the place of what it is about. Fewer answers than queues: this was enough for one script.
go_on_without_memory()
local STATES = {'scheduled', 'ready', 'blocked', 'leased', 'retrying', 'done', 'dead', 'cancelled'}

local function first_since()
  local first = redis.call('ZRANGE', key('ready'), 0, 0)[1]
  if not first then return '' end
  local fields = redis.call('HMGET', job(first), 'plain', 'since', 'began_at', 'pushed_at')
  if fields[1] and fields[1] ~= '1' then return fields[1] end
  return fields[2] or fields[3] or fields[4] or ''
end

local function bring_up_to_date()
  check_queue()
  tick()
end

local function look()
  local own = prefix
  if not pcall(bring_up_to_date) then
    -- There is something to see all the same.
    prefix, telling, untold = own, false, {}
    read_limits()
  end
  if ARGV[2] == '' then return {} end
  local found = {redis.call('EXISTS', key('paused')), redis.call('HGET', key('limits'), 'json') or '', redis.call('LLEN', key('inbox'))}
  for place, state in ipairs(STATES) do found[3 + place] = redis.call('ZCARD', key(state)) end
  found[12], found[13] = redis.call('EXISTS', key('incoming')), first_since()
  return found
end

local answers = {}
for at = 3, #ARGV do
  if at > 3 and budget <= 0 then break end
  answers[at - 2] = apart(within, ARGV[at], look)
end
write_down()
return answers
