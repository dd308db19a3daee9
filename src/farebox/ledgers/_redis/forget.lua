-- ARGV: 3 the key of the account.
local account = load_account(ARGV[3])
if account.exists then
  if account.now[10] == 0 then
    drop_account(account)
  else
    redis.call('HSET', account.key, 'now', account.now_text .. '-' .. account.noted)
  end
end
return {'yes', now_text}
