-- ARGV: 3 hold id, 4 owner, 5 seconds to live or '', 6 the call, 7 cap and amounts, 8 what there is to choose or '',
-- 9 how many accounts follow.
local function reserve_generally(ARGV)
  local asked = read_list(ARGV[7])
  local choice = ARGV[8] ~= '' and read_choice(ARGV[8])
  local accounts = load_accounts(ARGV, 10, tonumber(ARGV[9]))

  local known = load_hold(ARGV[3])
  if known and known.state == 'refused' then return {'refused', now_text} end
  if known then
    return add_views({'held', now_text, known.grant, known.state ~= 'held' and '1' or ''}, accounts)
  end
  for _, account in ipairs(accounts) do
    if now < account.starts_at or (account.ends_at ~= -1 and account.ends_at <= now) then
      return {'closed', now_text}
    end
  end

  local cap, amounts = asked[1], {number(asked[2]), number(asked[3]), number(asked[4])}
  local least, floor, calls = amounts, amounts, amounts[3]
  if choice then
    local numbers = widen(choice.numbers)
    least, floor = {numbers[5], numbers[6], calls}, {numbers[7], numbers[8], calls}
    cap, amounts = pick_cap(accounts, choice, least, floor)
  end
  if not choice and (is_too_much(amounts[1]) or is_too_much(amounts[2])) then
    -- Nothing can be said about such amounts but that somebody was killed.
    for _, account in ipairs(accounts) do
      if account.is_killed then return add_views({'short', now_text}, accounts) end
    end
    return {'error', now_text, 'the amounts ' .. ARGV[7] .. ' are more than an account can hold'}
  end
  if not cap or is_short(accounts, amounts, amounts) then
    let_cross(accounts, least, floor)
    if choice then cap, amounts = pick_cap(accounts, choice, least, floor) end
    if not cap or is_short(accounts, amounts, amounts) then
      return add_views({'short', now_text}, accounts)
    end
  end
  local grant = write_list({number(cap), amounts[1], amounts[2], amounts[3]})
  if is_too_much(amounts[1]) or is_too_much(amounts[2]) then
    return {'error', now_text, 'the amounts ' .. grant .. ' are more than an account can hold'}
  end

  local let_past, keys = {}, {}
  hold_more(accounts, amounts, let_past)
  for n, account in ipairs(accounts) do
    account.now[10] = account.now[10] + number(1)
    save_account(account, true)
    keys[n] = account.name
  end
  local deadline = ARGV[5] == '' and '+inf' or string.format('%.6f', now + tonumber(ARGV[5]))
  save_hold(ARGV[3], {
    state = 'held', grant = grant, owner = ARGV[4], deadline = deadline, keys = keys, let_past = let_past, call = ARGV[6],
    number = next_number(),
  })
  if ARGV[5] == '' then
    redis.call('SADD', prefix .. 'o:' .. ARGV[4], ARGV[3])
    redis.call('ZADD', prefix .. 'owners', now_text, ARGV[4])
  else
    redis.call('ZADD', prefix .. 'held', deadline, ARGV[3])
  end
  return add_views({'held', now_text, grant, ''}, accounts)
end
