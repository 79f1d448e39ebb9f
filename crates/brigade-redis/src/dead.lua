-- What dead letters have in common. ARGV: clock, the number after which to begin, or ''. Returns the last number that was read, or '' at the end; then per dead letter
-- its number, task, the beginning of its reason, and when it was pushed.
local PAGE, REASON_BYTES = 500, 4000
local numbers = redis.call('ZRANGEBYLEX', key('dead'), ARGV[2] == '' and '-' or '(' .. ARGV[2], '+', 'LIMIT', 0, PAGE)
local answers = {#numbers == PAGE and numbers[PAGE] or ''}
for _, id in ipairs(numbers) do
  local fields = redis.pcall('HMGET', job(id), 'task', 'reason', 'pushed_at')
  if not fields.err then
    local reason = string.match(fields[2] or '', '^[^\n]*')
    local at = #answers
    answers[at + 1], answers[at + 2] = id, fields[1]
    answers[at + 3], answers[at + 4] = cut_at(reason, REASON_BYTES), fields[3] or '0'
  end
end
return answers
