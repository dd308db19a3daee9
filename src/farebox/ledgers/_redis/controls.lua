local answer = {'yes', now_text}
for _, text in ipairs(redis.call('HGETALL', prefix .. 'controls')) do answer[#answer + 1] = text end
return answer
