-- Groups of dead letters. ARGV: clock. Returns nothing while some are not in groups yet, of which it adds a piece; then per group: name, how many, and the first and last of
-- `dead_by_group`.
local PAGE, KEPT = 500, 3600000
go_on_without_memory()
local groups, members = key('dead_groups'), key('dead_by_group')
local at = redis.call('HGET', groups, ':at')
-- What a server removes to make room, and what other programs change, is not taken out of its group.
if at == 'end' and redis.call('ZCARD', members) ~= redis.call('ZCARD', key('dead')) then at = nil end
if not at then
  redis.call('DEL', groups, members)
  at = ''
end
local answers = {}
if at ~= 'end' then
  local ids = redis.call('ZRANGEBYLEX', key('dead'), at == '' and '-' or '(' .. at, '+', 'LIMIT', 0, PAGE)
  redis.call('HSET', groups, ':at', #ids == PAGE and ids[PAGE] or 'end')
  for _, id in ipairs(ids) do change_group(id, true) end
else
  local found = redis.call('HGETALL', groups)
  local function add(name, group)
    local from, to = '[' .. group .. ':', '(' .. group .. ';'
    local first = redis.call('ZRANGEBYLEX', members, from, to, 'LIMIT', 0, 1)[1]
    if not first then return end
    local last = redis.call('ZREVRANGEBYLEX', members, to, from, 'LIMIT', 0, 1)[1]
    local place = #answers
    answers[place + 1], answers[place + 2] = name, redis.call('ZLEXCOUNT', members, from, to)
    answers[place + 3], answers[place + 4] = first, last
  end
  for place = 1, #found, 2 do
    if found[place] ~= ':at' and found[place] ~= ':next' then add(found[place], found[place + 1]) end
  end
  add('', '0')
end
redis.call('PEXPIRE', groups, KEPT)
redis.call('PEXPIRE', members, KEPT)
return answers
