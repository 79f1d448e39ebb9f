-- Gives back what a process held that is gone. ARGV: clock, the name of that process, what happened, from which place of those that are leased on, and the channel to which it
-- listens while it is there, or ''. Returns the place to go on from, or -1, and how many leases it had up to here.
go_on_without_memory()
check_queue()
if ARGV[5] ~= '' and redis.call('PUBSUB', 'NUMSUB', ARGV[5])[2] > 0 then return {-1, 0} end
local PAGE = 2000
local from, count = tonumber(ARGV[4]), 0
local page = redis.call('ZRANGE', key('leased'), from, from + PAGE - 1)
local kept = 0
for _, id in ipairs(page) do
  if count == PIECE then break end
  if is_gone(id) then
    count = count + 1
  elseif get(id, 'owner') == ARGV[2] then
    check_job(id)
    check_behind(id, true, 0)
    redis.call('HINCRBY', job(id), 'lost', 1)
    give_back(id, ARGV[3], 'interrupted', 'scheduled', 0)
    count = count + 1
  else
    kept = kept + 1
  end
end
write_down()
if count + kept == #page and #page < PAGE then
  redis.call('ZREM', key('holders'), ARGV[2])
  return {-1, count}
end
return {from + kept, count}
