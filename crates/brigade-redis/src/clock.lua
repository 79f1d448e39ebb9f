-- Changes by how much the time of a server is corrected, unless another client has done so since. ARGV: clock, the server, the version that the client knows, the
-- change. Returns version and correction.
local stored = redis.call('HGET', key('corrections'), ARGV[2]) or '0:0'
local version, correction = string.match(stored, '^(%d+):(-?%d+)$')
version, correction = tonumber(version or 0), tonumber(correction or 0)
if version == tonumber(ARGV[3]) then
  version, correction = version + 1, correction + tonumber(ARGV[4])
  redis.call('HSET', key('corrections'), ARGV[2], text(version) .. ':' .. text(correction))
end
return {version, text(correction)}
