-- The one script without a fence.  ARGV: 1 an epoch for an empty server, '' to make none, 2 the schema this version writes.
if ARGV[1] ~= '' and redis.call('HSETNX', KEYS[1], 'epoch', ARGV[1]) == 1 then
  redis.call('HSET', KEYS[1], 'schema', ARGV[2])
end
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'schema')
local time = redis.call('TIME')
return {'yes', time[1], meta[1] or '', meta[2] or ''}
