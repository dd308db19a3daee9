-- Whichever process sees the end of a hold may bring it.  ARGV: 3 hold id, 4 the name that the answer is known by, 5 what who
-- brings it needs to know, 6 for how many seconds it is waited for, 7 the call as it is now,
-- '' where who notes does not know it.
local hold = load_hold(ARGV[3])
if not hold or (hold.state ~= 'held' and hold.state ~= 'expired') then return {'no', now_text} end
local until_text = string.format('%.6f', now + tonumber(ARGV[6]))
if hold.note[1] ~= ARGV[4] then forget_note(ARGV[3], hold) end
hold.note = {ARGV[4], until_text}
if hold.state == 'held' then
  if ARGV[7] ~= '' then hold.call = ARGV[7] end
  if hold.deadline ~= '+inf' and tonumber(hold.deadline) < tonumber(until_text) then
    hold.deadline = until_text
    redis.call('ZADD', prefix .. 'held', until_text, ARGV[3])
  end
end
save_hold(ARGV[3], hold)
local seconds = string.format('%d', math.ceil(tonumber(ARGV[6])) + NOTED_SECONDS)
redis.call('SET', prefix .. 'n:' .. ARGV[4], cmsgpack.pack(ARGV[3], ARGV[5]), 'EX', seconds)
return {'yes', now_text}
