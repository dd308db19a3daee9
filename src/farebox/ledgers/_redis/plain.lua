-- Most calls are plain: no account is new, has a top-up or controls, or lets past, and no number has more than 15 digits,
-- so that sums of a few are exact as doubles.  For them reserve and end have a short way, which decides and writes the same
-- as the general one below it.  It makes no closures or tables it can do without, they are most of what a script costs; and
-- it answers nil, before any write, where a call is not plain.
local LONG = 1e15
-- The limits and the window of terms without controls.
local LIMITS = '^%["?(%-?%d+)"?,"?(%-?%d+)"?,"?(%-?%d+)"?,(%-?%d+),(%-?%d+),%[%]%]$'
-- What an account's text begins with: a 'p', its balances and number of holds, and a letter.
local PACKED, BALANCES, NOTHING_MORE, TOP_UP = 112, '<Bi8i8i8i8i8i8i8i8i8i8B', 32, 43

-- Accounts and sums that were read or written here: what several operations in a row do to one is written once, by
-- `write_down`.
local known_accounts, changed_accounts, known_sums, changed_sums = {}, {}, {}, {}

local function read_account(key)
  local text = known_accounts[key]
  if text == nil then
    text = redis.call('HGET', prefix .. 'a:' .. key, 'now')
    known_accounts[key] = text
  end
  return text
end

local function write_account(key, text)
  known_accounts[key], changed_accounts[key] = text, true
end

local function write_down()
  for key in pairs(changed_accounts) do redis.call('HSET', prefix .. 'a:' .. key, 'now', known_accounts[key]) end
  for place, at in pairs(changed_sums) do redis.call('HSET', at[1], at[2], known_sums[place]) end
end

-- What the number of a hold is: later ones have larger ones.
local function next_number()
  if serial then
    serial = serial + 1
    return serial
  end
  return redis.call('HINCRBY', KEYS[1], 'holds', 1)
end
