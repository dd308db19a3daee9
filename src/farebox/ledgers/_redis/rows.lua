-- Rows: one by one in a stream as far as it reaches, and their sums for good, in a hash for each day (UTC).
local MOST_ROWS = 100000

-- The row that is described from ARGV[first] on: its text, when it began, the day and field its sums belong to, and the
-- sums.  nil where there is none: its day is ''.
local function row_at(first)
  if ARGV[first + 2] == '' then return nil end
  local was_wide = is_wide
  read_list(ARGV[first + 4])
  is_wide = was_wide
  return {text = ARGV[first], began = ARGV[first + 1], day = ARGV[first + 2], field = ARGV[first + 3], sums = ARGV[first + 4]}
end

-- Adds `sums` to those of the day, or takes them off.
local function sum_up(day, field, sums, is_taken_off)
  local key = prefix .. 'day:' .. day
  local before = redis.call('HGET', key, field)
  if not before then redis.call('ZADD', prefix .. 'days', day, day) end
  if before or is_taken_off then
    is_wide = false
    local known, more = read_list(before or '[]'), read_list(sums)
    for i = 1, math.max(#known, #more) do
      local a, b = number(known[i] or 0), number(more[i] or 0)
      known[i] = is_taken_off and a - b or a + b
    end
    sums = write_list(known)
  end
  redis.call('HSET', key, field, sums)
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

-- Writes the row down, after everything that needs `is_wide`; its id.
local function add_row(row)
  sum_up(row.day, row.field, row.sums, false)
  return redis.call('XADD', prefix .. 'rows', 'MAXLEN', '~', MOST_ROWS, next_row_id(),
    'row', row.text, 'began', row.began, 'sums', row.sums)
end
