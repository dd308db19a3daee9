-- What there is to choose.  `numbers`: fixed, per token, least and floor, each in usd and tokens; and the most it may come to.
local function read_choice(text)
  local list = read_packed(text)
  return {
    numbers = {unpack(list, 1, 10)}, most_bought = tonumber(list[11]), floor_cap = tonumber(list[12]),
    want_cap = tonumber(list[13]), most_cap = tonumber(list[14]), share = tonumber(list[15]),
  }
end

-- The output cap to grant, as `_fitting.pick_cap`: the cap and the amounts it takes, or nil where somebody is short.
local function pick_cap(accounts, choice, least, floor)
  -- `count` times `value`, for a whole count of at most 15 digits.
  local function times(value, count)
    if not is_wide then
      return value * count
    end
    local sum, doubled = pair(0, 0), value
    if count < 0 then count, doubled = 0 - count, sum - value end
    while count > 0 do
      if count % 2 == 1 then sum = sum + doubled end
      doubled, count = doubled + doubled, math.floor(count / 2)
    end
    return sum
  end

  -- How often `rate` goes into `value`, rounded down and at most `most`; -1 where `value` is negative.
  local function how_often(value, rate, most)
    local zero = number(0)
    if value < zero then return -1 end
    if rate <= zero or times(rate, most) <= value then return most end
    if not is_wide then
      return math.floor(value / rate)
    end
    local low, high = 0, most
    while high - low > 1 do
      local middle = math.floor((low + high) / 2)
      if times(rate, middle) <= value then low = middle else high = middle end
    end
    return low
  end

  local function cap_within(tokens)
    if tokens <= 1616 then return tokens - 16 end
    return math.floor(tokens * 100 / 101)
  end

  local numbers, none, buys = choice.numbers, no_limit(), choice.most_bought
  for _, account in ipairs(accounts) do
    if not account.is_forced then
      for i = 1, 2 do
        if i == 1 or account.limit[i] < none then
          local left = account.limit[i] - account.now[3 * i - 2] - account.now[3 * i - 1] - numbers[i]
          buys = math.min(buys, how_often(left, numbers[2 + i], choice.most_bought))
        end
      end
    end
  end
  local affordable = cap_within(buys)
  if affordable < choice.floor_cap and is_short(accounts, least, floor) then return nil end
  local cap = choice.want_cap
  if choice.share > 0 then cap = math.max(cap, cap_within(math.floor(buys / choice.share))) end
  cap = math.min(cap, choice.most_cap, affordable)
  local room = cap + math.max(16, math.ceil(cap / 100))
  return cap, {numbers[1] + times(numbers[3], room), numbers[2] + times(numbers[4], room), least[3]}
end
