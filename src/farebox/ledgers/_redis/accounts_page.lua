-- ARGV: 3-4 a range of keys, 5 how many to look at.  Answers the last key looked at, then keys, terms and views; forgets keys
-- whose account is gone.
local names = redis.call('ZRANGEBYLEX', prefix .. 'accounts', ARGV[3], ARGV[4], 'LIMIT', 0, tonumber(ARGV[5]))
local answer = {'yes', now_text, names[#names] or ''}
for _, name in ipairs(names) do
  is_wide = false
  local text = redis.call('HGET', prefix .. 'a:' .. name, 'now')
  if text then
    local _, _, terms = split_account(text)
    if terms == '' then terms = NO_TERMS end
    local account = load_account(name, terms)
    read_numbers({account})
    answer[#answer + 1] = name
    answer[#answer + 1] = terms
    add_views(answer, {account})
  else
    redis.call('ZREM', prefix .. 'accounts', name)
  end
end
return answer
