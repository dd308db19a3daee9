-- Rows in general.

-- The row that is described from ARGV[first] on: its text, when it began, the day and field its sums belong to, and the
-- sums.  nil where there is none: its day is ''.
local function row_at(ARGV, first)
  if ARGV[first + 2] == '' then return nil end
  local was_wide = is_wide
  read_packed(ARGV[first + 4])
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
    local known, more = read_packed(before or '[]'), read_packed(sums)
    for i = 1, math.max(#known, #more) do
      local a, b = number(known[i] or 0), number(more[i] or 0)
      known[i] = is_taken_off and a - b or a + b
    end
    sums = write_packed(known)
  end
  redis.call('HSET', key, field, sums)
end

-- Writes the row down, after everything that needs `is_wide`; its id.
local function add_row(row)
  sum_up(row.day, row.field, row.sums, false)
  return write_row(row.text, row.began, row.sums)
end
