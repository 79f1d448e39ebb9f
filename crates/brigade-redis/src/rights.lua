-- Which of the commands that the scripts use may not be used here: a list of names.
local KINDS = {
  {'EXISTS'}, {'DEL'}, {'UNLINK'}, {'PEXPIRE', '1000'}, {'PTTL'}, {'PERSIST'}, {'SET', '1', 'PX', '1000'}, {'GET'}, {'STRLEN'}, {'DEL'},
  {'HSET', 'f', '1'}, {'HGET', 'f'}, {'HMGET', 'f'}, {'HGETALL'}, {'HLEN'}, {'HEXISTS', 'f'}, {'HINCRBY', 'f', '1'}, {'HSETNX', 'f', '1'}, {'HDEL', 'f'}, {'DEL'},
  {'RPUSH', '1'}, {'LLEN'}, {'LRANGE', '0', '0'}, {'LINDEX', '0'}, {'LREM', '0', '2'}, {'LTRIM', '0', '0'}, {'LPOP'}, {'RPOP'}, {'DEL'},
  {'SADD', '1'}, {'SCARD'}, {'SISMEMBER', '1'}, {'SMEMBERS'}, {'SREM', '1'}, {'DEL'},
  {'ZADD', '1', '1'}, {'ZCARD'}, {'ZSCORE', '1'}, {'ZRANK', '1'}, {'ZCOUNT', '0', '1'}, {'ZRANGE', '0', '0'}, {'ZRANGEBYSCORE', '0', '1'},
  {'ZRANGEBYLEX', '-', '+'}, {'ZREVRANGEBYLEX', '+', '-'}, {'ZREM', '1'}, {'ZREMRANGEBYSCORE', '0', '1'}, {'DEL'}, {'XADD', 'MAXLEN', '~', '1', '*', 'f', '1'}, {'DEL'},
}
go_on_without_memory()
local missing, seen = {}, {}
for _, kind in ipairs(KINDS) do
  local answer = redis.pcall(kind[1], key('rights'), unpack(kind, 2))
  local text_of = type(answer) == 'table' and answer.err and string.lower(answer.err) or ''
  local is_missing = string.find(text_of, 'noperm', 1, true) or string.find(text_of, 'permission', 1, true) or string.find(text_of, 'unknown', 1, true)
    or string.find(text_of, "can't", 1, true)
  if is_missing and not seen[kind[1]] then
    seen[kind[1]] = true
    table.insert(missing, kind[1])
  end
end
return missing
