-- Ends and reserves one after the other, each as its own script would.  ARGV: from 3 on, for each, how many arguments it has,
-- 'end' or 'reserve', and these arguments.  Answers a list with the answer of each; where one has found fault with what it was
-- given, that is its answer, and the others are done.
local answers, at, length = {'yes', now_text}, 3, #ARGV

-- The arguments of the one at `at`, as its own script has them.
local function arguments_at(at)
  return {ARGV[1], ARGV[2], unpack(ARGV, at + 2, at + 1 + ARGV[at])}
end

-- Calls it.  What others before it have changed is written down before an error may end the script.
local function attempt(operation, arguments)
  local is_done, answer = pcall(operation, arguments)
  if is_done then return answer end
  local message = type(answer) == 'table' and answer.err or tostring(answer)
  if string.find(message, 'farebox: ', 1, true) then return {err = message} end
  write_down()
  error(answer, 0)
end

while at <= length do
  local answer = attempt(ARGV[at + 1] == 'end' and end_plainly or reserve_plainly, arguments_at(at))
  if not answer then break end
  answers[#answers + 1] = answer
  at = at + 2 + ARGV[at]
end
if at > length then
  write_down()
  return answers
end
