-- ARGV: 3 key, 4 bucket, 5 most keys, 6 most samples of a key.
local learnt = prefix .. 'l:' .. ARGV[3]
redis.call('HINCRBY', learnt, ARGV[4], 1)
if redis.call('HINCRBY', learnt, 'all', 1) > tonumber(ARGV[6]) then
  local counts, all = redis.call('HGETALL', learnt), 0
  for i = 1, #counts, 2 do
    if counts[i] ~= 'all' then
      local half = math.floor(tonumber(counts[i + 1]) / 2)
      all = all + half
      if half == 0 then redis.call('HDEL', learnt, counts[i]) else redis.call('HSET', learnt, counts[i], half) end
    end
  end
  redis.call('HSET', learnt, 'all', all)
end
redis.call('ZADD', prefix .. 'learnt', redis.call('HINCRBY', KEYS[1], 'learnt', 1), ARGV[3])
if redis.call('ZCARD', prefix .. 'learnt') > tonumber(ARGV[5]) then
  redis.call('DEL', prefix .. 'l:' .. redis.call('ZPOPMIN', prefix .. 'learnt')[1])
end
return {'yes', now_text}
