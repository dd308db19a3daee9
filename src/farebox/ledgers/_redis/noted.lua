-- What was noted by the name ARGV[3]: the id of the hold, and what who brings its end needs to know.
local noted = redis.call('GET', prefix .. 'n:' .. ARGV[3])
if not noted then return {'no', now_text} end
local id, memo = cmsgpack.unpack(noted)
local hold = load_hold(id)
if not hold or (hold.state ~= 'held' and hold.state ~= 'expired') then return {'no', now_text} end
return {'yes', now_text, id, memo}
