return reserve_generally(ARGV)
