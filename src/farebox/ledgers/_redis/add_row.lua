-- ARGV: 3 its id, 4 for how many seconds that is remembered, 5-9 the row.
local row = row_at(ARGV, 5)
if redis.call('SET', prefix .. 'i:' .. ARGV[3], '1', 'NX', 'EX', ARGV[4]) and row then add_row(row) end
return {'yes', now_text}
