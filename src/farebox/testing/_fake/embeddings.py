"""The OpenAI embeddings format.  Source of the fields: types of the openai SDK 3.54."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from typing import Any

from farebox.testing._fake.completions import count_prompt, prompts_of
from farebox.testing._fake.dialect import Ask, Count, Event, Fault, Reply
from farebox.testing._fake.openai import REFUSED, OpenAIFormat, missing, model_of

DIMENSIONS = 8
MOST_TOKENS = 8_192  # of one input


class Embeddings(OpenAIFormat):
    paths = ("/v1/embeddings",)

    def response_id(self, number: int) -> str:
        return ""  # an embedding has no id

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        model = model_of(body)
        if "input" not in body:
            raise missing("input")
        inputs = prompts_of(body["input"], "input")
        tokens = [count_prompt(one, count) for one in inputs]
        if max(tokens) > MOST_TOKENS:
            message = (
                f"This model's maximum context length is {MOST_TOKENS} tokens, however you requested {max(tokens)}."
            )
            raise Fault(400, message, REFUSED)
        return Ask(
            model=model,
            stream=False,
            cap=0,
            choices=0,
            wants_usage=False,
            input_tokens=sum(tokens),
            inputs=len(inputs),
            base64=body.get("encoding_format") == "base64",
        )

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        return {"prompt_tokens": reply.input_tokens, "total_tokens": reply.input_tokens}

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        numbers = [0.25] * DIMENSIONS
        packed = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *numbers)).decode()
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": packed if ask.base64 else numbers}
                for index in range(ask.inputs)
            ],
            "model": reply.model,
            "usage": self.usage(reply, 0),
        }

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        return iter(())
