-- The output cap to grant, as pick_cap, and the usd and tokens it takes; or that somebody is short; or nothing where what
-- there is to choose is not plain.  ARGV: as in reserve.
local function pick_plainly(ARGV, calls)
  if string.byte(ARGV[8]) ~= PACKED then return nil end
  local fixed_usd, fixed_tokens, rate_usd, rate_tokens, least_usd, least_tokens, floor_usd, floor_tokens, _, _, most_bought,
    floor_cap, want_cap, most_cap, share = struct.unpack('<' .. string.rep('i8', 15), ARGV[8], 2)
  local buys, is_short_of_floor = most_bought, false

  -- How often `rate` goes into `left`, as far as that is less than what it buys already.
  local function bound(left, rate)
    if left < 0 then
      buys = math.min(buys, -1)
    elseif rate > 0 and left < rate * most_bought then
      buys = math.min(buys, math.floor(left / rate))
    end
  end

  local function is_past(limit, before, reserved, least, floor)
    return limit ~= '-1' and tonumber(limit) < before + (reserved > 0 and floor or least)
  end

  for at = 10, 7 + 3 * ARGV[9], 3 do
    if ARGV[at + 2] ~= '1' then
      local text = read_account(ARGV[at])
      local limit_usd, limit_tokens, limit_calls = string.match(ARGV[at + 1], LIMITS)
      if not text or string.byte(text) ~= PACKED or not limit_usd then return nil end
      local _, spent_usd, reserved_usd, _, spent_tokens, reserved_tokens, _, spent_calls, reserved_calls =
        struct.unpack(BALANCES, text)
      local usd, tokens, all_calls = spent_usd + reserved_usd, spent_tokens + reserved_tokens, spent_calls + reserved_calls
      if limit_usd ~= '-1' then bound(limit_usd - usd - fixed_usd, rate_usd) end
      if limit_tokens ~= '-1' then bound(limit_tokens - tokens - fixed_tokens, rate_tokens) end
      is_short_of_floor = is_short_of_floor
        or is_past(limit_usd, usd, reserved_usd, least_usd, floor_usd)
        or is_past(limit_tokens, tokens, reserved_tokens, least_tokens, floor_tokens)
        or is_past(limit_calls, all_calls, reserved_calls, calls, calls)
    end
  end

  local function cap_within(tokens)
    if tokens <= 1616 then return tokens - 16 end
    return math.floor(tokens * 100 / 101)
  end

  local affordable = cap_within(buys)
  if affordable < floor_cap and is_short_of_floor then return 0, 0, 0, true end
  local cap = want_cap
  if share > 0 then cap = math.max(cap, cap_within(math.floor(buys / share))) end
  cap = math.min(cap, most_cap, affordable)
  if cap < 0 then return nil end
  local room = cap + math.max(16, math.ceil(cap / 100))
  return cap, fixed_usd + rate_usd * room, fixed_tokens + rate_tokens * room, false
end
