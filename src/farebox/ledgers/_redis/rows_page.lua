-- Rows of the stream.  ARGV: 3-4 first and last id, 5 how many.
local answer = {'yes', now_text}
for _, entry in ipairs(redis.call('XRANGE', prefix .. 'rows', ARGV[3], ARGV[4], 'COUNT', tonumber(ARGV[5]))) do
  answer[#answer + 1] = entry[1]
  for i = 2, 6, 2 do answer[#answer + 1] = entry[2][i] end
end
return answer
