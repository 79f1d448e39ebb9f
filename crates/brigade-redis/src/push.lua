-- Stores what several callers push at the same time. ARGV: clock; the number of plain jobs, and of each the number of names and values, those; then per push of
-- others the number of its jobs, which may be of several queues and joined to flows, and per job: the beginning of its queue's keys, due or 0, delay or 0, unique key
-- or '', how long the unique key holds or 0, the position of the job that waits for it or 0, what it does with its parents if it waits or '', the number of names and values, those.
-- Returns the number of the first plain job, the others follow, or 0 if there is none; and per push a list of the id of each job and 1 if it is new. An
-- error stands in the place of what it is about, and nothing of that is stored: INCOMING if a large push of the queue has to be moved into it first.
-- The first write: what the server refuses now, it refuses for all, and nothing of it is stored.
check_numbers()
ring()
list()
local plain, at = tonumber(ARGV[2]), 3
local begins, read_job, push, store_each
if plain > 0 then begins, at = find_plain(at, plain) end
if limits[7] or at <= #ARGV then read_job, push, store_each = rest() end
local answers = {0}
if plain > 0 then answers[1] = apart(limits[7] and store_each or store_plain, begins) end
while at <= #ARGV do
  local jobs, count = {}, tonumber(ARGV[at])
  at = at + 1
  for position = 1, count do jobs[position], at = read_job(at) end
  table.insert(answers, apart(push, jobs))
end
write_down()
return answers
