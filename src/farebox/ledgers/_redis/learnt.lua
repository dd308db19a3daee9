-- Counts of all keys, as key, number of buckets, then bucket and count.
local answer = {'yes', now_text}
for _, key in ipairs(redis.call('ZRANGE', prefix .. 'learnt', 0, -1)) do
  local counts = redis.call('HGETALL', prefix .. 'l:' .. key)
  answer[#answer + 1] = key
  answer[#answer + 1] = counts
end
return answer
