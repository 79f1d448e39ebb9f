-- Which of many queues have something to do. ARGV: clock, holder, then the beginning of each queue's keys. Returns per queue in how many milliseconds there may
-- be something: 0 for now, -1 for not by time.
go_on_without_memory()
local answers = {}
for at = 3, #ARGV do
  prefix = ARGV[at]
  local left = -1
  if redis.call('EXISTS', key('jobs'), key('inbox'), key('incoming'), key('doomed')) > 0 then
    say_here(ARGV[2])
    if redis.call('EXISTS', key('ready'), key('inbox'), key('incoming'), key('doomed')) > 0 then
      left = redis.call('EXISTS', key('paused')) == 1 and -1 or 0
    else
      left = next_due() or -1
    end
  end
  answers[at - 2] = left
end
return answers
