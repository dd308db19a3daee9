-- Holds, as far as ARGV[4] looks at a time.  ARGV: 3 where to go on, 4 how many to look at, 5 the owner of holds without a
-- deadline; '' for those with one.  Answers where to go on, '0' where those were all, and then holds; one may come twice.
local found = nil
if ARGV[5] ~= '' then
  found = redis.call('SSCAN', prefix .. 'o:' .. ARGV[5], ARGV[3], 'COUNT', ARGV[4])
else
  found = redis.call('ZSCAN', prefix .. 'held', ARGV[3], 'COUNT', ARGV[4])
end
local answer = {'yes', now_text, found[1]}
for i = 1, #found[2], ARGV[5] ~= '' and 1 or 2 do
  local id = found[2][i]
  local hold = load_hold(id)
  if hold and hold.state == 'held' then
    answer[#answer + 1] = id
    answer[#answer + 1] = hold.number
    answer[#answer + 1] = hold.grant
    answer[#answer + 1] = hold.call
  end
end
return answer
