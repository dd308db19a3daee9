return end_generally(ARGV)
