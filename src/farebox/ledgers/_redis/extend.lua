-- ARGV: 3 hold id, 4 an id of this growth, 5 how much more, 6 how many accounts follow.
local more = read_list(ARGV[5])
local hold = load_hold(ARGV[3])
if not hold or hold.state ~= 'held' then return {'none', now_text} end
if hold.growths[ARGV[4]] then return {'held', now_text, hold.grant} end
local held = read_list(hold.grant)
local accounts = load_accounts(ARGV, 7, tonumber(ARGV[6]))
widen(more)
widen(held)
if is_short(accounts, more, more) then
  return add_views({'short', now_text, hold.grant}, accounts)
end
for i = 1, 3 do held[1 + i] = held[1 + i] + more[i] end
local grant = write_list(held)
if is_too_much(held[2]) or is_too_much(held[3]) then
  return {'error', now_text, 'the amounts ' .. grant .. ' are more than an account can hold'}
end
hold_more(accounts, more, hold.let_past)
for _, account in ipairs(accounts) do save_account(account) end
hold.grant = grant
hold.growths[ARGV[4]] = 1
save_hold(ARGV[3], hold)
return {'held', now_text, grant}
