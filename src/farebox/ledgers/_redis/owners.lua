local answer = {'yes', now_text}
for _, owner in ipairs(redis.call('ZRANGE', prefix .. 'owners', 0, -1)) do answer[#answer + 1] = owner end
return answer
