-- From the first on that is not plain.
while at <= length do
  local arguments, is_end = arguments_at(at), ARGV[at + 1] == 'end'
  local answer = attempt(is_end and end_plainly or reserve_plainly, arguments)
  if not answer then
    -- The general way reads and writes by itself, also numbers that are wide.
    write_down()
    known_accounts, changed_accounts, known_sums, changed_sums, is_wide = {}, {}, {}, {}, false
    answer = attempt(is_end and end_generally or reserve_generally, arguments)
  end
  answers[#answers + 1] = answer
  at = at + 2 + ARGV[at]
end
write_down()
return answers
