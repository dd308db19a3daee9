-- What a person says.  ARGV: 3 its id, 4 for how many seconds that is remembered, 5 'control', 'top_up' or 'reset'.
-- A control: 6 its key, 7 three limits and 1 for killed or 0 for alive, -1 where it says nothing.
-- A top-up: 6 amounts, then the account.  A reset: 6 '', then the account.
local remembered = prefix .. 'e:' .. ARGV[3]
if redis.call('EXISTS', remembered) == 1 then return {'no', now_text} end
if ARGV[5] == 'control' then
  local said = read_list(ARGV[7])
  local was = cjson.decode(redis.call('HGET', prefix .. 'controls', ARGV[6]) or '[-1,-1,-1,-1]')
  for i = 1, 4 do
    if said[i] == -1 then said[i] = was[i] end
    if type(said[i]) == 'string' then is_wide = true end
  end
  redis.call('HSET', prefix .. 'controls', ARGV[6], write_list(widen(said)))
else
  local amounts = ARGV[5] == 'top_up' and read_list(ARGV[6])
  local account = load_account(ARGV[7], ARGV[8], false)
  read_numbers({account})
  if amounts then
    local on_top = widen(account.top_up or {0, 0, 0})
    widen(amounts)
    for i = 1, 3 do on_top[i] = on_top[i] + amounts[i] end
    if account.mark == ' ' then account.mark = '+' end
    save_account(account)
    redis.call('HSET', account.key, 'top_up', write_list(on_top))
  else
    for i = 1, 3 do account.now[3 * i - 2], account.now[3 * i] = number(0), number(0) end
    save_account(account)
  end
end
redis.call('SET', remembered, ARGV[5] .. ' ' .. now_text, 'EX', ARGV[4])
return {'yes', now_text}
