-- ARGV: 3 hold id, 4 what it becomes, 5 amounts, 6-10 its row, 11-14 for 'expired': the grant that was seen, until when, how
-- long an owner may have been silent, and the id of its call.  What expired is corrected in turn, as `_turns.py` says.  The keys of its accounts are read from the hold: they lie in the slot of KEYS[1].
local function end_generally(ARGV)
  local becomes = ARGV[4]
  local actual = read_list(ARGV[5])
  local row = row_at(ARGV, 6)
  local hold = load_hold(ARGV[3])
  if not hold then
    if becomes == 'released' then save_hold(ARGV[3], {state = 'refused', grant = '[]'}) end
    return {'no', now_text}
  end
  local was_expired = hold.state == 'expired'
  if was_expired and becomes ~= 'expired' then
    becomes = 'corrected'
  elseif hold.state ~= 'held' then
    return {'no', now_text}
  end
  if becomes == 'expired' then
    -- It may have been extended since it was looked at, or its owner may be back.
    if hold.grant ~= ARGV[11] then return {'no', now_text} end
    if hold.deadline == '+inf' then
      local seen = redis.call('ZSCORE', prefix .. 'owners', hold.owner)
      if hold.note[2] or (seen and now - tonumber(ARGV[13]) <= tonumber(seen)) then return {'no', now_text} end
    elseif (tonumber(ARGV[12]) or now) < tonumber(hold.deadline) then
      return {'no', now_text}
    end
  end

  local held = read_list(hold.grant)
  local accounts = {}
  for n, key in ipairs(hold.keys) do accounts[n] = load_account(key) end
  read_numbers(accounts)
  widen(actual)
  widen(held)
  local zero = number(0)
  local turn
  if was_expired and row and hold.row[5] then
    local count, is_by_hand, taken = 0, false, nil
    repeat
      count = count + 1
      turn = prefix .. 'e:turn ' .. count .. ' of ' .. hold.row[5]
      taken = redis.call('GET', turn)
      is_by_hand = is_by_hand or taken == 'hand'
    until not taken
    local is_dearer, is_cheaper = false, false
    for i = 1, 3 do
      is_dearer, is_cheaper = is_dearer or held[1 + i] < actual[i], is_cheaper or actual[i] < held[1 + i]
    end
    if is_by_hand and (is_cheaper or not is_dearer) then
      forget_note(ARGV[3], hold)
      save_hold(ARGV[3], {state = 'corrected', grant = hold.grant})
      return {'yes', now_text}
    end
  end
  for _, account in ipairs(accounts) do
    local holds = account.now
    if was_expired then
      for i = 1, 3 do
        local change = actual[i] - held[1 + i]
        holds[3 * i - 2] = larger(zero, holds[3 * i - 2] + change)
        holds[3 * i] = holds[3 * i] + larger(zero, change)
      end
      if account.exists then save_account(account) end
    else
      local let_past = hold.let_past[account.name]
      let_past = let_past and widen(cjson.decode(let_past))
      for i = 1, 3 do
        local unused = held[1 + i] - actual[i]
        holds[3 * i - 2] = holds[3 * i - 2] + actual[i]
        holds[3 * i - 1] = larger(zero, holds[3 * i - 1] - held[1 + i])
        if unused < zero then
          holds[3 * i] = holds[3 * i] - unused
        elseif let_past then
          holds[3 * i] = larger(zero, holds[3 * i] - smaller(let_past[i], unused))
        end
      end
      holds[10] = larger(zero, holds[10] - number(1))
      if account.mark == '-' and holds[10] <= zero then
        drop_account(account)
      else
        save_account(account)
      end
    end
  end

  local ended = {state = becomes, grant = hold.grant}
  if was_expired then
    if turn then redis.call('SET', turn, 'late', 'EX', RETENTION_SECONDS) end
    if hold.row[1] then
      redis.call('XDEL', prefix .. 'rows', hold.row[1])
      sum_up(hold.row[2], hold.row[3], hold.row[4], true)
    end
  elseif hold.deadline == '+inf' then
    redis.call('SREM', prefix .. 'o:' .. hold.owner, ARGV[3])
  else
    redis.call('ZREM', prefix .. 'held', ARGV[3])
  end
  if row then
    local id = add_row(row)
    if becomes == 'expired' then ended.row = {id, row.day, row.field, row.sums, ARGV[14]} end
  end
  if becomes == 'expired' then
    ended.keys, ended.note = hold.keys, hold.note
  else
    forget_note(ARGV[3], hold)
  end
  save_hold(ARGV[3], ended)
  return {'yes', now_text}
end
