-- Rows: one by one in a stream as far as it reaches, and their sums for good, in a hash for each day (UTC).
-- Their sums travel and are kept as a 'p' and eight bytes each, the lowest first; as JSON where one has more than 15 digits.
local MOST_ROWS = 100000

-- Packed sums of the two, or nil where one of them is not packed.
local function plain_sums(before, more)
  if string.byte(more) ~= PACKED then return nil end
  if not before then return more end
  if string.byte(before) ~= PACKED or #before ~= #more then return nil end
  local count = (#more - 1) / 8
  local form = '<' .. string.rep('i8', count)
  local sums, added = {struct.unpack(form, before, 2)}, {struct.unpack(form, more, 2)}
  for i = 1, count do
    local sum = sums[i] + added[i]
    if sum >= LONG or sum <= -LONG then return nil end
    sums[i] = sum
  end
  return 'p' .. struct.pack(form, unpack(sums, 1, count))
end

-- The id of a row is when it ended.  With a clock of its own it is what the server would make of that clock: never
-- before the last one.
local function next_row_id()
  if ARGV[2] == '' then return '*' end
  local milliseconds, count = math.floor(now * 1000), 0
  local last = redis.call('HGET', KEYS[1], 'last_row')
  if last then
    local last_milliseconds, last_count = string.match(last, '^(%d+)-(%d+)$')
    if milliseconds <= tonumber(last_milliseconds) then
      milliseconds, count = tonumber(last_milliseconds), tonumber(last_count) + 1
    end
  end
  local id = string.format('%d-%d', milliseconds, count)
  redis.call('HSET', KEYS[1], 'last_row', id)
  return id
end

-- Puts a row into the stream; its id.
local function write_row(text, began, sums)
  return redis.call('XADD', prefix .. 'rows', 'MAXLEN', '~', MOST_ROWS, next_row_id(), 'row', text, 'began', began,
    'sums', sums)
end
