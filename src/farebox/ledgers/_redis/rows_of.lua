-- Texts of rows that hold ARGV[6].  ARGV: 3-4 first and last id to look at, 5 how many.  The first answer is the id of the last
-- row that was looked at, '' where there was none.
local entries = redis.call('XRANGE', prefix .. 'rows', ARGV[3], ARGV[4], 'COUNT', tonumber(ARGV[5]))
local answer = {'yes', now_text, entries[1] and entries[#entries][1] or ''}
for _, entry in ipairs(entries) do
  if string.find(entry[2][2], ARGV[6], 1, true) then answer[#answer + 1] = entry[2][2] end
end
return answer
