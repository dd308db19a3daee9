-- Holds: a string each.  Its first line is JSON, and the rest is the call as it was given.
--   [state, grant, owner, deadline, number, keys of its accounts, what each was let past its limit, its growths, its row]
-- `grant` is a list as text: cap, usd, tokens, calls.  A hold that ended keeps what may still be asked of it.
local SECONDS_KEPT = {settled = 600, released = 600, refused = 600, expired = 86400, corrected = 86400}

local function load_hold(id)
  local text = redis.call('GET', prefix .. 'h:' .. id)
  if not text then return nil end
  local line_end = string.find(text, '\n', 1, true)
  local fields = cjson.decode(string.sub(text, 1, line_end - 1))
  return {
    state = fields[1], grant = fields[2], owner = fields[3], deadline = fields[4], number = fields[5], keys = fields[6],
    let_past = fields[7], growths = fields[8], row = fields[9], call = string.sub(text, line_end + 1),
  }
end

local function save_hold(id, hold)
  local text = cjson.encode({
    hold.state, hold.grant, hold.owner or '', hold.deadline or '', hold.number or '', hold.keys or {}, hold.let_past or {},
    hold.growths or {}, hold.row or {},
  }) .. '\n' .. (hold.call or '')
  local seconds = SECONDS_KEPT[hold.state]
  if seconds then
    redis.call('SET', prefix .. 'h:' .. id, text, 'EX', seconds)
  else
    redis.call('SET', prefix .. 'h:' .. id, text)
  end
end
