-- What is made only where it is needed.
local made
local function jobs()
  if not made then
    check_queue()
    made = rest()
  end
  return made
end

-- Mostly nothing has fallen due.
local function is_due()
  if redis.call('ZRANGEBYSCORE', key('leased'), '-inf', '(' .. text(steady), 'LIMIT', 0, 1)[1] then return true end
  return redis.call('EXISTS', key('late'), key('scheduled'), key('retrying'), key('done'), key('cancelled'), key('inbox'), key('incoming'), key('doomed')) > 0
end

if is_due() then jobs().tick() end
-- No more than were moved in before, so that nothing overtakes the rest of a large push.
if redis.call('EXISTS', key('incoming')) == 1 then max = math.min(max, math.floor(PIECE / 2)) end
if manages then
  jobs().forget_all_collected()
  max = math.min(max, redis.call('LLEN', key('free')))
end
say_here(holder)

-- Many at once, where nothing limits how many.
local function hand_out_all(ids)
  local leased, from, taken, all = {}, {}, {}, {}
  for _, id in ipairs(ids) do
    local read_it, fields = pcall(read, id)
    if not read_it or not fields[1] then
      jobs().is_gone(id)
    elseif fields[3] or not jobs().is_over(id) then
      all[id] = fields
    end
  end
  for _, id in ipairs(ids) do
    local fields = all[id]
    if fields then
      local token = answer(id, fields)
      note_lease(id, fields)
      if time > 0 then
        write_lease(id, fields, token)
        from[#from + 1] = id
        leased[#leased + 1], leased[#leased + 2] = lease_until, id
      elseif fields[3] then
        table.insert(taken, id)
      else
        jobs().take(id)
      end
    end
  end
  call_with('ZADD', key('leased'), leased)
  call_with('ZREM', key('ready'), from)
  remove_plain(taken, 'ready')
end

if redis.call('EXISTS', key('paused')) == 0 then
  if manages or limits[1] or limits[2] or limits[7] or limits[8] then
    jobs().hand_out_by_limits()
  elseif max > 0 then
    local ids
    repeat
      ids = redis.call('ZRANGE', key('ready'), 0, max - 1)
      hand_out_all(ids)
      -- Those of no job are gone now.
    until handed > 0 or #ids == 0
  end
end

if time == 0 then tidy() end
if handed > 0 and time > 0 and owner ~= '' then
  redis.call('ZADD', key('holders'), steady + time, owner)
  redis.call('ZREMRANGEBYSCORE', key('holders'), '-inf', text(steady - HOLDERS_KEPT))
  redis.call('PEXPIRE', key('holders'), text(time + HOLDERS_KEPT))
end
if handed == 0 and redis.call('EXISTS', key('paused')) == 0 and (budget <= 0 or redis.call('EXISTS', key('incoming'), key('doomed')) > 0) then
  -- There is more to do than one script does.
  answers[1] = 0
elseif handed == 0 then
  local least = next_due()
  if next_open and (not least or next_open < least) then least = next_open end
  answers[1] = least or -1
end
write_down()
answers[1] = text(answers[1]) .. ' ' .. text(math.max(redis.call('ZCARD', key('consumers')) - 1, 0))
return answers
