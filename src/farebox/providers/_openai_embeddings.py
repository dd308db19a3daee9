"""OpenAI's wire format: embeddings.  Nothing is put out, and only input is charged.

Field names: openai 3.54.0, `types/embedding_create_params.py`, `types/create_embedding_response.py` (read 2026-11-22).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call
from farebox.providers._openai_completions import add_prompt, prompts_of, set_sizes
from farebox.providers._openai_usage import EMBEDDINGS, read_head, read_usage
from farebox.providers._reading import NoStream, Sizes, fields, text_of

PATH: Final = "/embeddings"


class Embeddings:
    """`POST /embeddings`."""

    def read_request(self, provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        model, inputs = text_of(body.get("model")), prompts_of(body.get("input"))
        if not model or not inputs:
            return None
        call = Call(
            provider_name=provider_name,
            operation_name="embeddings",
            endpoint=PATH,
            server_address=server_address,
            request_model=model,
        )
        sizes = Sizes({})
        for one in inputs:
            call.last_message_bytes = add_prompt(sizes, one)
        call.choices, call.accepts_cap = 0, False
        call.cache_write, call.messages = "none", len(inputs)
        set_sizes(call, sizes)
        return call

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": call.sent_model} if call.sent_model else {}

    def read_answer(self, call: Call, answer: Any) -> None:
        found = fields(answer)
        read_head(call, found)
        call.usage = read_usage(call, found.get("usage"), EMBEDDINGS)

    def stream_reader(self, call: Call) -> NoStream:
        return NoStream()
