-- Ends leases. Per settlement: id, token, what, and so many of its own:
--   done: the result or '', cost, a line feed, and the record for its history, if it is kept
--   dead: reason, the record for its history, counter or '', cost
--   back: state and pause as 'retrying:100', record, counter or '', reason, cost
--   cancelled: reason, record, cost
--   extend: time
-- A cost is that of the attempt, see `end_attempt`, or ''.
-- Returns per settlement: 0 for a lease that is not (any more), else 1, or for an extension the reason why the job is to be cancelled; or its error.
go_on_without_memory()
local VALUES = {done = 2, dead = 4, back = 5, cancelled = 3, extend = 1}
local answers = {}

-- For all that is not a plain job that is done.
local apply

-- Plain jobs that are done.
local plain, is_removed, is_recorded = {}, {}, open_log()

local function settle(at, after)
  local id, what = ARGV[at], ARGV[at + 2]
  if is_removed[id] then return 0 end
  local held = redis.pcall('HMGET', job(id), 'state', 'token', 'lease_until', 'plain', 'task')
  if held.err then return held end
  if held[1] ~= 'leased' or held[2] ~= ARGV[at + 1] or tonumber(held[3]) < steady then return 0 end
  if what == 'done' and held[4] and not limits[7] then
    plain[#plain + 1] = id
    is_removed[id] = true
    local cost = ARGV[at + 4]
    count(held[5], DONE)
    count_run(held[5], cost, held[2])
    if is_recorded then record('done', id, 'done', held[5], get(id, 'attempts'), nil, string.match(cost, '^[^\n]*')) end
    return 1
  end
  apply = apply or rest()
  return apart(apply, id, what, unpack(ARGV, at + 3, after - 1))
end

local at, place = 2, 0
while at <= #ARGV do
  local after = at + 3 + VALUES[ARGV[at + 2]]
  place = place + 1
  answers[place] = settle(at, after)
  at = after
end
if #plain > 0 then
  remove_plain(plain, 'leased')
  ring()
end
tidy()
write_down()
return answers
