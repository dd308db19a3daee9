-- The sums of the day ARGV[3].
local answer = {'yes', now_text}
for _, text in ipairs(redis.call('HGETALL', prefix .. 'day:' .. ARGV[3])) do answer[#answer + 1] = text end
return answer
