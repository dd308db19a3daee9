-- ARGV: 3 the key it is remembered under, 4 for how many seconds, 5 amounts, 6-10 its row, 11 how many accounts follow, and
-- behind them the id of its turn where it has one.
-- Amounts may be negative: it is an adjustment then.  Accounts without terms, '', are passed over where they are unknown.
local amounts = read_list(ARGV[5])
local row = row_at(ARGV, 6)
local remembered = prefix .. ARGV[3]
local turn = ARGV[12 + 3 * ARGV[11]]
turn = turn and prefix .. 'e:' .. turn
if redis.call('EXISTS', remembered) == 1 or (turn and redis.call('EXISTS', turn) == 1) then return {'no', now_text} end
local accounts = load_accounts(ARGV, 12, tonumber(ARGV[11]))
widen(amounts)
for n, account in ipairs(accounts) do
  if account.exists or ARGV[10 + 3 * n] ~= '' then
    local holds = account.now
    for i = 1, 3 do
      local over = past(holds[3 * i - 2] + holds[3 * i - 1], amounts[i], account.limit[i])
      holds[3 * i] = holds[3 * i] + over
      holds[3 * i - 2] = larger(number(0), holds[3 * i - 2] + amounts[i])
    end
    save_account(account, true)
  end
end
-- As a hold that ended, so that a reserve of the same id is answered.
local grant = write_list({number(0), amounts[1], amounts[2], amounts[3]})
redis.call('SET', remembered, pack_hold({state = 'settled', grant = grant}), 'EX', ARGV[4])
if turn then redis.call('SET', turn, 'hand', 'EX', ARGV[4]) end
if row then add_row(row) end
return {'yes', now_text}
