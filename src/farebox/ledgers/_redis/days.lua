-- The days from ARGV[3] on that have sums.
local answer = {'yes', now_text}
for _, day in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'days', ARGV[3], '+inf')) do answer[#answer + 1] = day end
return answer
