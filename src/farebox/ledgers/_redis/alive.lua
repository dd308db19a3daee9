-- ARGV: 3 owner, 4 '' where it goes.
if ARGV[4] ~= '' then
  redis.call('ZADD', prefix .. 'owners', now_text, ARGV[3])
elseif redis.call('EXISTS', prefix .. 'o:' .. ARGV[3]) == 1 then
  redis.call('ZADD', prefix .. 'owners', 0, ARGV[3])
else
  redis.call('ZREM', prefix .. 'owners', ARGV[3])
end
return {'yes', now_text}
