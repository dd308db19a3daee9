"""OpenAI's wire format: decisions.  Answers are chosen and not written, and only input is charged.

Field names: openai 3.57.0, `types/decision_create_params.py`, `types/decision.py` (read 2026-11-30).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers._openai_items import Input
from farebox.providers._openai_usage import read_head, read_tier
from farebox.providers._reading import NoStream, UnreadableUsage, count, fields, listed, text_of

PATH: Final = "/decisions"
_READ: Final = frozenset(("input", "model", "prompt_cache_key", "prompt_cache_options", "safety_identifier"))


class Decisions:
    """`POST /decisions`: the input price of the model, with nothing off or on it for the cache, and nothing for output.

    Source: https://apidog.com/pt/blog/openai-decisions-api/ and the documentation of vtcode-llm's `estimate_decisions_cost`
    on docs.rs, which tell it of OpenAI's announcement (read 2026-11-30).  That the premium for long context is asked here too
    is not verified, and presumed.
    """

    def read_request(self, provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        model, given = text_of(body.get("model")), body.get("input")
        items = [given] if isinstance(given, str) else listed(given)
        if not model or not items or not body.get("questions"):
            return None
        call = Call(provider_name, "decisions", PATH, model, server_address)
        read = Input(model)
        for item in items:
            read.add_item(item)
        for name in body.keys() - _READ:
            read.sizes.add_json(body[name])
        read.write_to(call)
        read_tier(call, body)
        call.choices, call.accepts_cap, call.cache_write = 0, False, "none"
        return call

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": call.sent_model} if call.sent_model else {}

    def read_answer(self, call: Call, answer: Any) -> None:
        found = fields(answer)
        read_head(call, found)
        try:
            tokens = count(fields(found.get("usage")), "input_tokens", required=True)
        except UnreadableUsage as reason:
            call.doubt = str(reason)
        else:
            call.usage = Usage(uncached_input_tokens=tokens) if tokens else None

    def stream_reader(self, call: Call) -> NoStream:
        return NoStream()
