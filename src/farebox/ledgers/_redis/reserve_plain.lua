-- ARGV: as in reserve.  A limit of more than 15 digits is only compared: it is more than any sum here, also rounded.
local function reserve_plainly(ARGV)
  local asked_usd, asked_tokens, asked_calls = string.match(ARGV[7], '^%[%d+,(%d+),(%d+),(%d+)%]$')
  local hold_key = prefix .. 'h:' .. ARGV[3]
  if not asked_usd then return nil end
  local grant, is_short, count = ARGV[7], false, tonumber(ARGV[9])
  if ARGV[8] ~= '' then
    local cap
    cap, asked_usd, asked_tokens, is_short = pick_plainly(ARGV, tonumber(asked_calls))
    if not cap then return nil end
    grant = string.format('[%d,%d,%d,%d]', cap, asked_usd, asked_tokens, asked_calls)
  end

  local keys, texts, answer = {}, {}, {'held', now_text, grant, ''}
  for n = 1, count do
    local key, terms = ARGV[7 + 3 * n], ARGV[8 + 3 * n]
    local text = read_account(key)
    if not text or string.byte(text) ~= PACKED then return nil end
    local _, spent_usd, reserved_usd, debt_usd, spent_tokens, reserved_tokens, debt_tokens, spent_calls, reserved_calls,
      debt_calls, holds, more = struct.unpack(BALANCES, text)
    local limit_usd, limit_tokens, limit_calls, starts_at, ends_at =
      string.match(terms, LIMITS)
    if more ~= NOTHING_MORE or not ends_at then return nil end
    if now < tonumber(starts_at) or (ends_at ~= '-1' and tonumber(ends_at) <= now) then
      return redis.call('EXISTS', hold_key) == 0 and {'closed', now_text} or nil
    end

    reserved_usd, reserved_tokens, reserved_calls =
      reserved_usd + asked_usd, reserved_tokens + asked_tokens, reserved_calls + asked_calls
    if reserved_usd >= LONG or reserved_tokens >= LONG or reserved_calls >= LONG then return nil end
    if
      (limit_usd ~= '-1' and tonumber(limit_usd) < spent_usd + reserved_usd)
      or (limit_tokens ~= '-1' and tonumber(limit_tokens) < spent_tokens + reserved_tokens)
      or (limit_calls ~= '-1' and tonumber(limit_calls) < spent_calls + reserved_calls)
    then
      if ARGV[9 + 3 * n] == '1' then return nil end
      is_short = true
    end
    keys[n], texts[n] = key, text
    answer[4 + n] = struct.pack(BALANCES, PACKED, spent_usd, reserved_usd, debt_usd, spent_tokens, reserved_tokens,
      debt_tokens, spent_calls, reserved_calls, debt_calls, holds + 1, NOTHING_MORE) .. terms
  end
  for n = 1, is_short and count or 0 do
    if ARGV[9 + 3 * n] == '2' then return nil end  -- it may let it cross
  end
  if is_short then return redis.call('EXISTS', hold_key) == 0 and {'short', now_text, unpack(texts)} or nil end

  local lives, owner = ARGV[5], ARGV[4]
  local deadline = lives == '' and '+inf' or string.format('%.6f', now + tonumber(lives))
  local hold = cmsgpack.pack('held', grant, owner, deadline, next_number(), '', ARGV[6], unpack(keys))
  -- The first write, and nothing where the id was used before.
  if not redis.call('SET', hold_key, hold, 'NX') then return nil end
  for n = 1, count do write_account(keys[n], answer[4 + n]) end
  if lives == '' then
    redis.call('SADD', prefix .. 'o:' .. owner, ARGV[3])
    redis.call('ZADD', prefix .. 'owners', now_text, owner)
  else
    redis.call('ZADD', prefix .. 'held', deadline, ARGV[3])
  end
  return answer
end
