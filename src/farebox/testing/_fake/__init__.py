"""The fake provider: `provider` is its face, `exchange` the story of one request, `server` the plumbing.

chat, responses, completions, embeddings, messages
                    the formats, behind the contract of `dialect`; `openai` is what the first four share
stored              answers that can be asked after
lanes               responses over a `websocket`
answer, odd, script what a test asked it to do
gate                requests in flight, and holding them there
bill, prices        what it charges
request             what it saw
"""
