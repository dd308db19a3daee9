local answer = reserve_plainly(ARGV)
if answer then
  write_down()
  return answer
end
