-- Holds: a string each, of these in a row as MessagePack, all of them texts but the number:
--   state, grant, owner, deadline, number, rest, call, and the keys of its accounts
-- `grant` is a list as JSON: cap, usd, tokens, calls.  `rest` is '' or packed in its turn: what each account was let past its
-- limit, the growths, the row, and the note: the name that its answer is known by, and until when that is waited for.  A hold
-- that ended keeps what may still be asked of it.
local SECONDS_KEPT = {settled = 600, released = 600, refused = 600, expired = 86400, corrected = 86400}
local NOTED_SECONDS = 30 * 86400

local function pack_hold(hold)
  local let_past, growths, row, note, rest = hold.let_past or {}, hold.growths or {}, hold.row or {}, hold.note or {}, ''
  if next(let_past) or next(growths) or next(row) or next(note) then
    rest = cmsgpack.pack(let_past, growths, row, note)
  end
  return cmsgpack.pack(hold.state, hold.grant, hold.owner or '', hold.deadline or '', hold.number or '', rest,
    hold.call or '', unpack(hold.keys or {}))
end

local function load_hold(id)
  local text = redis.call('GET', prefix .. 'h:' .. id)
  if not text then return nil end
  local fields = {cmsgpack.unpack(text)}
  local hold = {
    state = fields[1], grant = fields[2], owner = fields[3], deadline = fields[4], number = fields[5], call = fields[7],
    keys = {unpack(fields, 8)}, let_past = {}, growths = {}, row = {}, note = {},
  }
  if fields[6] ~= '' then hold.let_past, hold.growths, hold.row, hold.note = cmsgpack.unpack(fields[6]) end
  hold.note = hold.note or {}  -- of an older version
  return hold
end

local function save_hold(id, hold)
  local seconds = SECONDS_KEPT[hold.state]
  if hold.state == 'expired' and hold.note and hold.note[1] then seconds = NOTED_SECONDS end
  if seconds then
    redis.call('SET', prefix .. 'h:' .. id, pack_hold(hold), 'EX', seconds)
  else
    redis.call('SET', prefix .. 'h:' .. id, pack_hold(hold))
  end
end

-- Once a hold has ended nobody is to find it by the name of its answer, which may be that of another by now.
local function forget_note(id, hold)
  local key = hold.note[1] and prefix .. 'n:' .. hold.note[1]
  local noted = key and redis.call('GET', key)
  if noted and cmsgpack.unpack(noted) == id then redis.call('DEL', key) end
end
