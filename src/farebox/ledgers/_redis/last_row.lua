local last = redis.call('XREVRANGE', prefix .. 'rows', '+', '-', 'COUNT', 1)[1]
return {'yes', now_text, last and last[1] or ''}
