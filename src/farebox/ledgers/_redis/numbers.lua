-- Exact whole numbers.  Up to 15 digits they are doubles, and sums of a few of them are exact.  Where one of a script is
-- longer (`is_wide`), all are {high, low}: high * 1e15 + low, 0 <= low < 1e15.  The same code runs with either.
-- Lists of them travel and are kept as JSON, the long ones in quotes: cjson would make a double of them.
local MOST = '9223372036854775807'
local is_wide = false
local wide_number = {}

local function pair(high, low)
  if low >= LONG then
    high, low = high + 1, low - LONG
  elseif low < 0 then
    high, low = high - 1, low + LONG
  end
  return setmetatable({high, low}, wide_number)
end

wide_number.__add = function(a, b) return pair(a[1] + b[1], a[2] + b[2]) end
wide_number.__sub = function(a, b) return pair(a[1] - b[1], a[2] - b[2]) end
wide_number.__lt = function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end
wide_number.__le = function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] <= b[2]) end

-- Reads a list, and says what is none before anything is written: an error takes back no write.
local function read_list(text)
  if not string.find(text, '^%[[%d,"%- ]*%]$') or string.find(text, '-0', 1, true) then
    error('farebox: ' .. text .. ' is no list of whole numbers')
  end
  if string.find(text, '"', 1, true) then is_wide = true end
  return cjson.decode(text)
end

-- A number of a list, once it is known how wide those of this script are.
local function number(value)
  if not is_wide then
    return tonumber(value)
  end
  if type(value) == 'number' then
    local high = math.floor(value / LONG)
    return pair(high, value - high * LONG)
  end
  local digits = string.match(value, '%d+')
  local parsed = pair(tonumber(string.sub(digits, 1, -16)) or 0, tonumber(string.sub(digits, -15)))
  if string.sub(value, 1, 1) == '-' then
    return pair(0, 0) - parsed
  end
  return parsed
end

-- The numbers of a list, in place.
local function widen(list)
  if is_wide then
    for i = 1, #list do list[i] = number(list[i]) end
  end
  return list
end

local function text_of(value)
  if not is_wide then
    return string.format('%d', value)
  end
  local sign = ''
  if value[1] < 0 then
    sign, value = '-', pair(0, 0) - value
  end
  if value[1] == 0 then
    return sign .. string.format('%d', value[2])
  end
  return sign .. string.format('%d%015d', value[1], value[2])
end

-- A list of numbers as JSON.
local function write_list(list)
  local length = #list
  if length == 0 then return '[]' end
  if not is_wide and math.max(unpack(list)) < LONG and -LONG < math.min(unpack(list)) then
    if length == 10 then
      return string.format('[%d,%d,%d,%d,%d,%d,%d,%d,%d,%d]', unpack(list))
    end
    return string.format('[' .. string.rep('%d,', length - 1) .. '%d]', unpack(list))
  end
  local texts = {}
  for i = 1, length do
    local text = text_of(list[i])
    texts[i] = #text > 15 and '"' .. text .. '"' or text
  end
  return '[' .. table.concat(texts, ',') .. ']'
end

-- A list that is packed, a 'p' and eight bytes for each number, the lowest first; or else JSON.
local function read_packed(text)
  if string.byte(text) ~= PACKED then return read_list(text) end
  local list = {struct.unpack('<' .. string.rep('i8', (#text - 1) / 8), text, 2)}
  list[#list] = nil  -- where the next would begin
  return list
end

local function write_packed(list)
  if is_wide or math.max(unpack(list)) >= LONG or math.min(unpack(list)) <= -LONG then return write_list(list) end
  return 'p' .. struct.pack('<' .. string.rep('i8', #list), unpack(list))
end

local function larger(a, b)
  if a < b then return b end
  return a
end

local function smaller(a, b)
  if b < a then return b end
  return a
end

local function is_too_much(value)
  return is_wide and number(MOST) < value
end

-- How much of `more` lies past `limit` when it is put on top of `before`.
local function past(before, more, limit)
  if not (limit < before + more) then return number(0) end
  return larger(number(0), smaller(more, before + more - limit))
end
