-- Accounts: a hash each.  top_up: what was put on top of its limits.  now, all else as one text, since every call reads and
-- writes it: first (spent, reserved, debt) in usd, tokens and calls, and the number of open holds, packed as sums of rows are or
-- as JSON.  Then one letter: '-' for one to be dropped with its last hold, '+' for one with a top-up, ' ' for others.  Then the terms it was
-- last used with, '' for none yet: three limits, its window's start and end, -1 for none, and keys of controls.
local RETENTION_SECONDS = 40 * 86400
local EMPTY_TEXT = 'p' .. string.rep('\0', 80)
local NO_TERMS = '[-1,-1,-1,-1,-1,[]]'

-- Lets what people said go over the limits; whether somebody killed the account.
local function under_controls(limits, keys)
  local is_killed = false
  for _, said in ipairs(redis.call('HMGET', prefix .. 'controls', unpack(keys))) do
    if said then
      -- Three limits, -1 where it says nothing, and 1 for killed, 0 for alive.
      local list = cjson.decode(said)
      for i = 1, 3 do
        if list[i] ~= -1 then limits[i] = list[i] end
      end
      is_killed = is_killed or list[4] == 1
    end
  end
  return is_killed
end

-- The parts of an account's text: its balances, a letter and terms.
local function split_account(text)
  local letter_at = string.byte(text) == PACKED and 82 or string.find(text, ']', 1, true) + 1
  return string.sub(text, 1, letter_at - 1), string.sub(text, letter_at, letter_at), string.sub(text, letter_at + 1)
end

-- An account under these terms; '' are those it was last used with, and without terms it has no limits.
local function load_account(key, terms_text, is_forced, is_crossing)
  local account_key = prefix .. 'a:' .. key
  local was = redis.call('HGET', account_key, 'now')
  local now_text, mark, noted = split_account(was or EMPTY_TEXT .. ' ')
  if terms_text == '' then terms_text = noted ~= '' and noted or NO_TERMS end
  local terms = terms_text and cjson.decode(terms_text) or {-1, -1, -1, -1, -1, {}}
  local keys, is_killed = terms[6], false
  local top_up = mark ~= ' ' and redis.call('HGET', account_key, 'top_up')
  if keys[1] then is_killed = under_controls(terms, keys) end
  if top_up then
    if string.find(top_up, '"', 1, true) then is_wide = true end
    top_up = cjson.decode(top_up)
  end
  local is_changed = keys[1] or top_up
  if is_changed then
    -- Its limits are written into the answer.
    for i = 1, 3 do
      if type(terms[i]) == 'string' then is_wide = true end
    end
  end
  return {
    name = key, key = account_key, exists = was, now = read_packed(now_text), now_text = now_text, mark = mark,
    noted = noted, terms = terms_text, limit = terms, starts_at = terms[4], ends_at = terms[5], top_up = top_up,
    is_killed = is_killed, is_changed = is_changed, is_forced = is_forced,
    is_crossing = is_crossing,
  }
end

-- A limit that is none: no amount reaches it.
local function no_limit()
  return is_wide and number(MOST) or math.huge
end

-- Once all are loaded it is known how wide the numbers of this script are.
local function read_numbers(accounts)
  local none = no_limit()
  for _, account in ipairs(accounts) do
    local limit, top_up = account.limit, account.top_up
    widen(account.now)
    for i = 1, 3 do
      if limit[i] == -1 or limit[i] == MOST then
        limit[i] = none
      else
        limit[i] = number(limit[i])
        if top_up then limit[i] = smaller(limit[i] + number(top_up[i]), none) end
      end
    end
  end
end

-- The accounts that are described from ARGV[first] of a script on, three arguments each: key, terms, and '1' where it may not
-- refuse, '2' where it lets one cross.
local function load_accounts(ARGV, first, count)
  local accounts = {}
  for n = 1, count do
    local at = first + (n - 1) * 3
    accounts[n] = load_account(ARGV[at], ARGV[at + 1], ARGV[at + 2] == '1', ARGV[at + 2] == '2')
  end
  read_numbers(accounts)
  return accounts
end

-- Writes an account down; what it is used with only where `notes_terms`: it is held or charged then.
local function save_account(account, notes_terms)
  account.now_text = write_packed(account.now)
  if notes_terms then account.noted = account.terms end
  redis.call('HSET', account.key, 'now', account.now_text .. account.mark .. account.noted)
  if not account.exists then
    account.exists = true
    redis.call('ZADD', prefix .. 'accounts', 0, account.name)
    if account.ends_at ~= -1 then
      local seconds = math.max(86400, account.ends_at + RETENTION_SECONDS - now)
      redis.call('PEXPIRE', account.key, string.format('%d', seconds * 1000))
    end
  end
end

local function drop_account(account)
  redis.call('DEL', account.key)
  redis.call('ZREM', prefix .. 'accounts', account.name)
end

-- Puts what accounts hold after an answer: a text each.  It begins with their balances, and has two lines more where the
-- limits are not those of its terms: the limits, and '1' where it is killed.
local function add_views(answer, accounts)
  local length = #answer
  for n, account in ipairs(accounts) do
    local text = account.now_text
    if account.is_changed then
      local limits, none = {}, no_limit()
      for i = 1, 3 do limits[i] = account.limit[i] < none and '"' .. text_of(account.limit[i]) .. '"' or '-1' end
      text = text .. '\n[' .. table.concat(limits, ',') .. ']\n' .. (account.is_killed and '1' or '')
    end
    answer[length + n] = text
  end
  return answer
end

-- Whether an account refuses: `floor` must fit where others hold some of the unit, `least` where nobody does.
local function is_short(accounts, least, floor)
  local zero = number(0)
  for _, account in ipairs(accounts) do
    if account.is_killed then return true end
    if not account.is_forced then
      local holds, limit = account.now, account.limit
      for i = 1, 3 do
        local reserved = holds[3 * i - 1]
        local required = least[i]
        if zero < reserved then required = floor[i] end
        if limit[i] < holds[3 * i - 2] + reserved + required then return true end
      end
    end
  end
  return false
end

-- Of accounts that are short, forces those that let one cross, now that nobody is past a limit of theirs and none is spent.
local function let_cross(accounts, least, floor)
  for _, account in ipairs(accounts) do
    local may_cross = account.is_crossing and is_short({account}, least, floor)
    for i = 1, 3 do
      local spent, reserved, limit = account.now[3 * i - 2], account.now[3 * i - 1], account.limit[i]
      may_cross = may_cross and spent < limit and spent + reserved <= limit
    end
    account.is_forced = account.is_forced or may_cross
  end
end

-- Holds `amounts` more in all accounts; what of it the forced ones were let past their limit is debt, and added to
-- `let_past`, lists by account key.
local function hold_more(accounts, amounts, let_past)
  for _, account in ipairs(accounts) do
    local holds = account.now
    if account.is_forced then
      local over = widen(cjson.decode(let_past[account.name] or '[0,0,0]'))
      for i = 1, 3 do
        local more = past(holds[3 * i - 2] + holds[3 * i - 1], amounts[i], account.limit[i])
        holds[3 * i], over[i] = holds[3 * i] + more, over[i] + more
      end
      let_past[account.name] = write_list(over)
    end
    for i = 1, 3 do holds[3 * i - 1] = holds[3 * i - 1] + amounts[i] end
  end
end
