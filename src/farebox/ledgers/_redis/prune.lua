-- Lets go of rows that ended before ARGV[3], in milliseconds.
return {'yes', now_text, redis.call('XTRIM', prefix .. 'rows', 'MINID', ARGV[3])}
