"""Google's wire format: interactions with an agent, which goes on by itself for as long as it likes.

One that says how many tokens it may use at most, and of which model, can be held: the Antigravity agent does, in its
configuration.  What any other uses has no limit that is written down; of Deep Research there is a longest time and an estimate
(https://ai.google.dev/gemini-api/docs/deep-research, a copy, read 2026-11-30).
Field names: google-genai 3.6.1, `_gaos/types/interactions/createagentinteraction.py`, `antigravityagentconfig.py` ("max total
tokens for the agent run") and `interaction.py`, whose status "budget_exceeded" is its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Part
from farebox.providers._reading import MOST_TOKENS, fields, listed, text_of, whole_number
from farebox.providers._unmetered import unseen_call

_CONFIG: Final = "agent_config"
_CAP: Final = "max_total_tokens"
_CAPPED: Final = "antigravity"
_ENDLESS: Final = "no limit is known of what this agent uses"
_UNSAID: Final = 'this agent has no limit: write agent_config={"type": "antigravity", "max_total_tokens": ..., "model": ...}, both of them'
#: A search brings at least so much before the model, its query and what it found: a task of Deep Research has one for four
#: thousand tokens (the page above).
_LEAST_TOKENS_OF_A_SEARCH: Final = 256
#: A limit may be passed by a little, as caps are.
_SLACK_TOKENS: Final = 16
_SEARCHES: Final = frozenset(("google_search", "google_maps", "retrieval"))


def read_agent_request(provider_name: str, path: str, body: Mapping[str, Any], server_address: str) -> Call:
    """The call that a request to an agent makes, held for all that its configuration allows."""
    config = fields(body.get(_CONFIG))
    if text_of(config.get("type")) != _CAPPED:
        return unseen_call(provider_name, path, server_address, _ENDLESS)
    cap, model = whole_number(config.get(_CAP)), text_of(config.get("model")).removeprefix("models/")
    if not cap or not model:
        return unseen_call(provider_name, path, server_address, _UNSAID)
    call = Call(
        provider_name=provider_name,
        operation_name="invoke_agent",
        endpoint="interactions",
        server_address=server_address,
        request_model=model,
    )
    # All that it reads and writes in all of its turns is in the one figure: held as output, which is dearest, of a turn that may
    # read all of it.
    most = min(cap, MOST_TOKENS)
    call.parts = (Part("", 0, most + most // 100 + _SLACK_TOKENS, longest_input=most),)
    call.choices, call.accepts_cap, call.cache_write, call.messages = 0, False, "none", 1
    call.reasons = call.has_audio = call.has_images = True
    call.is_stream, call.is_background = bool(body.get("stream")), bool(body.get("background"))
    call.is_continuable = body.get("store") is not False
    call.tier = text_of(body.get("service_tier")).lower()
    tools = listed(body.get("tools"))
    if tools is None or any(text_of(fields(tool).get("type")) in _SEARCHES for tool in tools):
        call.most_web_searches = -(-most // _LEAST_TOKENS_OF_A_SEARCH)
        call.unbounded = ("google_search",)
    return call
