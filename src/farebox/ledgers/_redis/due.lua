-- Holds whose time is over, at most ARGV[5].  ARGV: 3 until when, '' for now, 4 how long an owner may have been silent, 6 the
-- owner who asks, and so is there.
local most = tonumber(ARGV[5])
if redis.call('ZSCORE', prefix .. 'owners', ARGV[6]) then
  redis.call('ZADD', prefix .. 'owners', now_text, ARGV[6])
end
local until_text = ARGV[3] ~= '' and ARGV[3] or now_text
local answer, count = {'yes', now_text}, 0

-- Puts a hold into the answer, or takes it off the list it stands on: it is gone, or outlives its process.
local function look_at(id, remove, list)
  local hold = load_hold(id)
  if not hold or hold.state ~= 'held' then
    redis.call(remove, list, id)
  elseif hold.note[2] and hold.deadline == '+inf' then
    hold.deadline = hold.note[2]
    save_hold(id, hold)
    redis.call(remove, list, id)
    redis.call('ZADD', prefix .. 'held', hold.deadline, id)
  elseif count < most then
    count = count + 1
    answer[3 * count], answer[3 * count + 1], answer[3 * count + 2] = id, hold.grant, hold.call
  end
end

local silent_since = string.format('(%.6f', now - tonumber(ARGV[4]))
for _, owner in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'owners', '-inf', silent_since, 'LIMIT', 0, most)) do
  local list = prefix .. 'o:' .. owner
  local ids = redis.call('SRANDMEMBER', list, most)
  if #ids == 0 then redis.call('ZREM', prefix .. 'owners', owner) end
  for _, id in ipairs(ids) do look_at(id, 'SREM', list) end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'held', '-inf', until_text, 'LIMIT', 0, most)) do
  look_at(id, 'ZREM', prefix .. 'held')
end
return answer
