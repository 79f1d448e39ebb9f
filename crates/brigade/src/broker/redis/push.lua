-- Pushes jobs. Per job: due or 0, delay or 0, mark or '', how long the mark holds or 0, the number of names and values, those.
-- Returns per job: its id, and 1 if it is new.
local answers = {}
local at = 2
while at <= #ARGV do
  local due, delay, mark, mark_kept, count = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2], tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  at = at + 5
  local known = marked(mark)
  if known then
    table.insert(answers, known)
    table.insert(answers, 0)
  else
    local fields = {}
    for index = at, at + count - 1 do table.insert(fields, ARGV[index]) end
    if delay > 0 then due = now + delay end
    local id = store(fields, due)
    mark_job(mark, mark_kept, id)
    table.insert(answers, id)
    table.insert(answers, 1)
  end
  at = at + count
end
return answers
