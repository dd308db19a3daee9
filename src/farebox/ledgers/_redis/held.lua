-- Holds by rank, from ARGV[3] to ARGV[4].
local answer = {'yes', now_text}
for _, id in ipairs(redis.call('ZRANGE', prefix .. 'held', ARGV[3], ARGV[4])) do
  local hold = load_hold(id) or {number = '', grant = '', call = ''}
  answer[#answer + 1] = id
  answer[#answer + 1] = hold.number
  answer[#answer + 1] = hold.grant
  answer[#answer + 1] = hold.call
end
return answer
