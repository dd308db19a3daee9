local answer = end_plainly(ARGV)
if answer then
  write_down()
  return answer
end
