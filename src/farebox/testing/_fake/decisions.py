"""The OpenAI decisions format.  Source of the fields: types of the openai SDK 3.57."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farebox.testing._fake.dialect import Ask, Count, Event, Reply, count_content, count_json
from farebox.testing._fake.openai import OpenAIFormat, missing, model_of


class Decisions(OpenAIFormat):
    paths = ("/v1/decisions",)

    def response_id(self, number: int) -> str:
        return ""  # a decision has no id

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        model, given, questions = model_of(body), body.get("input"), body.get("questions")
        if not given:
            raise missing("input")
        if not isinstance(questions, list) or not questions:
            raise missing("questions")
        items = [{"content": given}] if isinstance(given, str) else given
        tokens = sum(count_content(item.get("content"), count) for item in items)
        return Ask(
            model=model,
            stream=False,
            cap=0,
            choices=0,
            wants_usage=False,
            input_tokens=tokens + count_json(questions, count),
            inputs=len(questions),
        )

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        return {
            "input_tokens": reply.input_tokens,
            "input_tokens_details": {"cache_write_tokens": reply.input_tokens, "cached_tokens": 0},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": reply.input_tokens + 7,
        }

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        predicate = {"type": "predicate", "name": None, "probability": 0.75}
        return {"model": reply.model, "answers": [predicate] * ask.inputs, "usage": self.usage(reply, 0)}

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        return iter(())
