"""The fake provider: `provider` is its face, `exchange` the story of one request, `server` the plumbing.

chat, messages      the two formats, behind the contract of `dialect`
answer, odd, script what a test asked it to do
gate                requests in flight, and holding them there
bill, prices        what it charges
request             what it saw
"""
