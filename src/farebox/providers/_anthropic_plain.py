"""A message that is plain text, and the answer to it that says what most do: read on a short way, as nearly all are.

What it comes to is what the long way in `anthropic` and `_anthropic_usage` comes to; a test holds them to each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call
from farebox._usage import plain_usage
from farebox.providers._reading import COUNTS, fields, weigh

MESSAGES: Final = "/v1/messages"
OWN_SERVER: Final = "api.anthropic.com"
TOKENS_PER_MESSAGE: Final = 16
TOKENS_PER_REQUEST: Final = 64
#: The class that the SDK hands on what was not given as; older ones have it too, and leave it out of a body.
_OMITTED: Final = "Omit"
#: Where inference costs 1.1 times as much (docs.anthropic.com/en/docs/about-claude/pricing, read 2026-11-21).
DEAR_REGIONS: Final = ("us",)
_LONGEST: Final = 200
_NONE_OR_COUNT: Final = (int, type(None))


def read_plain(provider: Any, path: str, body: Mapping[str, Any], server_address: str) -> Call | None:
    """The call of a request that says nothing out of the ordinary; None for any other, which goes the long way."""
    if server_address != OWN_SERVER or not path.endswith(MESSAGES):
        return None
    model, messages, cap, system = body.get("model"), body.get("messages"), body.get("max_tokens"), body.get("system")
    if type(model) is not str or type(messages) is not list or not model or not messages:
        return None
    if type(cap) is not int or cap not in COUNTS:
        return None
    said = tuple(body.values())
    known, count = 3, len(said)
    last = said[-1]
    if type(last).__name__ == _OMITTED:
        count -= said.count(last)
    if type(system) is str:
        known = 4
    if count != known:
        return None

    text_bytes = dense_bytes = surplus = system_bytes = last_bytes = 0
    role = None
    for message in messages:
        if type(message) is not dict or len(message) != 2:
            return None
        content, role = message.get("content"), message.get("role")
        if type(content) is not str or role not in ("user", "assistant"):
            return None
        last_bytes, dense, _, more = weigh(content)
        text_bytes += last_bytes
        dense_bytes += dense
        surplus += more
    if role != "user":
        return None  # it begins the answer, or is no answer to anything
    if type(system) is str and system:
        system_bytes, dense, _, more = weigh(system)
        text_bytes += system_bytes
        dense_bytes += dense
        surplus += more
    call = Call(provider.name, "chat", MESSAGES, model, OWN_SERVER)
    call.is_plain = True
    call.cache_write = "none"
    call.declared_cap = cap
    call.messages = count = len(messages)
    call.last_message_bytes = last_bytes
    call.text_bytes, call.dense_bytes = text_bytes, dense_bytes
    call.extra_input_tokens = extra_tokens = TOKENS_PER_REQUEST + TOKENS_PER_MESSAGE * count
    call.proven_input_tokens = text_bytes + surplus + extra_tokens
    if system_bytes:
        call.system_bytes = system_bytes
    return call


def read_plain_answer(call: Call, answer: Any) -> bool:
    """Read an answer of the SDK's own class that says what most do; False where it says more, or is anything else."""
    try:
        found = answer.__dict__
        usage = found["usage"]
        used, beside = usage.__dict__, usage.__pydantic_extra__
        if beside:
            used = {**used, **beside}  # what a later API says than its SDK knows
        tokens_in, tokens_out, served = used["input_tokens"], used["output_tokens"], used["service_tier"]
        if type(tokens_in) is not int or type(tokens_out) is not int or not tokens_in:
            return False
        if tokens_in not in COUNTS or tokens_out not in COUNTS or call.tier:
            return False
        for written_or_cached in used["cache_creation_input_tokens"], used["cache_read_input_tokens"]:
            if written_or_cached or type(written_or_cached) not in _NONE_OR_COUNT:
                return False
        for name in _OUT_OF_THE_ORDINARY:
            if used.get(name) is not None:
                return False
        if used.get("speed") not in _USUAL_SPEEDS or used.get("inference_geo") in DEAR_REGIONS:
            return False
        details = used.get("output_tokens_details")
        if details is not None:
            thought = fields(details).get("thinking_tokens")
            if thought or type(thought) not in _NONE_OR_COUNT:
                return False
        response_id, model = found["id"], found["model"]
        if type(response_id) is not str or type(model) is not str or len(response_id) + len(model) > _LONGEST:
            return False
        is_cut = found["stop_reason"] == "max_tokens"
    except (AttributeError, KeyError, TypeError):
        return False
    call.is_cut = is_cut
    call.response_id, call.response_model = response_id, model
    if type(served) is str:
        call.served_tier = served[:40]
    call.usage = plain_usage(tokens_in, tokens_out)
    return True


#: What a usage has that is more than input and output.
_OUT_OF_THE_ORDINARY: Final = ("server_tool_use", "iterations")
_USUAL_SPEEDS: Final = (None, "standard")
