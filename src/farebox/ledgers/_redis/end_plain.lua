-- ARGV: as in end.
local function end_plainly(ARGV)
  local becomes, hold_key = ARGV[4], prefix .. 'h:' .. ARGV[3]
  if becomes == 'expired' then return nil end
  local text = redis.call('GET', hold_key)
  if not text then return nil end
  local hold = {cmsgpack.unpack(text)}
  local held_usd, held_tokens, held_calls = string.match(hold[2], '^%[%d+,(%d+),(%d+),(%d+)%]$')
  local usd, tokens, calls = string.match(ARGV[5], '^%[(%d+),(%d+),(%d+)%]$')
  if hold[1] ~= 'held' or hold[6] ~= '' or not held_usd or not usd then return nil end
  local day_key, place, is_first_of_field, sums
  if ARGV[8] ~= '' then
    day_key, place = prefix .. 'day:' .. ARGV[8], ARGV[8] .. '|' .. ARGV[9]
    local before = known_sums[place] or redis.call('HGET', day_key, ARGV[9])
    is_first_of_field, sums = not before, plain_sums(before, ARGV[10])
    if not sums then return nil end
  end

  local more_usd, more_tokens, more_calls = usd - held_usd, tokens - held_tokens, calls - held_calls
  local texts = {}
  for n = 8, #hold do
    local text = read_account(hold[n])
    if not text or string.byte(text) ~= PACKED then return nil end
    local _, spent_usd, reserved_usd, debt_usd, spent_tokens, reserved_tokens, debt_tokens, spent_calls, reserved_calls,
      debt_calls, holds, more, at = struct.unpack(BALANCES, text)
    if more ~= NOTHING_MORE and more ~= TOP_UP then return nil end
    spent_usd, spent_tokens, spent_calls = spent_usd + usd, spent_tokens + tokens, spent_calls + calls
    if spent_usd >= LONG or spent_tokens >= LONG or spent_calls >= LONG then return nil end
    reserved_usd, reserved_tokens, reserved_calls, holds =
      reserved_usd - held_usd, reserved_tokens - held_tokens, reserved_calls - held_calls, holds - 1
    if reserved_usd < 0 then reserved_usd = 0 end
    if reserved_tokens < 0 then reserved_tokens = 0 end
    if reserved_calls < 0 then reserved_calls = 0 end
    if holds < 0 then holds = 0 end
    if more_usd > 0 or more_tokens > 0 or more_calls > 0 then
      debt_usd = debt_usd + math.max(0, more_usd)
      debt_tokens = debt_tokens + math.max(0, more_tokens)
      debt_calls = debt_calls + math.max(0, more_calls)
      if debt_usd >= LONG or debt_tokens >= LONG or debt_calls >= LONG then return nil end
    end
    texts[n] = struct.pack(BALANCES, PACKED, spent_usd, reserved_usd, debt_usd, spent_tokens, reserved_tokens, debt_tokens,
      spent_calls, reserved_calls, debt_calls, holds, more) .. string.sub(text, at)
  end

  for n = 8, #hold do write_account(hold[n], texts[n]) end
  if hold[4] == '+inf' then
    redis.call('SREM', prefix .. 'o:' .. hold[3], ARGV[3])
  else
    redis.call('ZREM', prefix .. 'held', ARGV[3])
  end
  if sums then
    if is_first_of_field then redis.call('ZADD', prefix .. 'days', ARGV[8], ARGV[8]) end
    known_sums[place], changed_sums[place] = sums, {day_key, ARGV[9]}
    write_row(ARGV[6], ARGV[7], ARGV[10])
  end
  redis.call('SET', hold_key, cmsgpack.pack(becomes, hold[2], '', '', '', '', ''), 'EX', 600)
  return {'yes', now_text}
end
