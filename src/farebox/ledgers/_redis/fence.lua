-- Begins every script.  KEYS[1] is the key of the ledger's own facts; all its other keys begin as that one does and lie
-- in the same slot.  ARGV[1] is the epoch this process has worked with, ARGV[2] its clock, '' for the server's.
local prefix = string.sub(KEYS[1], 1, -5)
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then
  return {'lost', '0'}
end
local now_text, serial = ARGV[2], nil
if now_text == '' then
  local time = redis.call('TIME')
  now_text = time[1] .. '.' .. string.format('%06d', tonumber(time[2]))
  serial = time[1] * 1000000 + time[2]
end
local now = tonumber(now_text)
