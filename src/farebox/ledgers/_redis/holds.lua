-- Holds: a string each, of these in a row as MessagePack, all of them texts but the number:
--   state, grant, owner, deadline, number, rest, call, and the keys of its accounts
-- `grant` is a list as JSON: cap, usd, tokens, calls.  `rest` is '' or packed in its turn: what each account was let past its
-- limit, the growths, and the row.  A hold that ended keeps what may still be asked of it.
local SECONDS_KEPT = {settled = 600, released = 600, refused = 600, expired = 86400, corrected = 86400}

local function pack_hold(hold)
  local let_past, growths, row, rest = hold.let_past or {}, hold.growths or {}, hold.row or {}, ''
  if next(let_past) or next(growths) or next(row) then rest = cmsgpack.pack(let_past, growths, row) end
  return cmsgpack.pack(hold.state, hold.grant, hold.owner or '', hold.deadline or '', hold.number or '', rest,
    hold.call or '', unpack(hold.keys or {}))
end

local function load_hold(id)
  local text = redis.call('GET', prefix .. 'h:' .. id)
  if not text then return nil end
  local fields = {cmsgpack.unpack(text)}
  local hold = {
    state = fields[1], grant = fields[2], owner = fields[3], deadline = fields[4], number = fields[5], call = fields[7],
    keys = {unpack(fields, 8)}, let_past = {}, growths = {}, row = {},
  }
  if fields[6] ~= '' then hold.let_past, hold.growths, hold.row = cmsgpack.unpack(fields[6]) end
  return hold
end

local function save_hold(id, hold)
  local seconds = SECONDS_KEPT[hold.state]
  if seconds then
    redis.call('SET', prefix .. 'h:' .. id, pack_hold(hold), 'EX', seconds)
  else
    redis.call('SET', prefix .. 'h:' .. id, pack_hold(hold))
  end
end
