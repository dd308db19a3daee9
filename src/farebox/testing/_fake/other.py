"""Endpoints that the fake provider knows nothing about but what to answer: nothing is read, nothing is charged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farebox.testing._fake.dialect import Ask, Count, Event, Reply
from farebox.testing._fake.openai import OpenAIFormat

ASK = Ask(model="", stream=False, cap=None, choices=0, wants_usage=False, input_tokens=0)


class Other(OpenAIFormat):
    """One path, by its exact text, with the JSON that answers every request to it."""

    def __init__(self, path: str, payload: Any) -> None:
        self.free_paths = (path,)
        self._payload = payload

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        return ASK

    def response_id(self, number: int) -> str:
        return ""

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        return {}

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        return iter(())

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        return {}

    def serves(self, method: str, path: str) -> bool:
        return path in self.free_paths

    def counted(self, input_tokens: int) -> Any:
        return self._payload
