"""Odd bodies: what gateways, bugs and bad days do to an answer. The bill is not touched by any of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Final, Literal

import attrs

from farebox.testing._fake.dialect import Ask, Dialect, Event, Fault, Reply


class _Word(Enum):
    ABSENT = "ABSENT"
    UNCHANGED = "UNCHANGED"

    def __repr__(self) -> str:
        return self.value


ABSENT: Final = _Word.ABSENT  # odd(usage=ABSENT): no usage at all
UNCHANGED: Final = _Word.UNCHANGED

StreamUsage = Literal["each", "never", "with_choice", "trailing"]
Body = str | bytes | Callable[[bytes], bytes]


@attrs.frozen(kw_only=True)
class Odd:
    """How one answer is bent; see `FakeProvider.odd`."""

    body: Body | None = None
    content_type: str | None = None
    usage: Any = UNCHANGED
    edit: Callable[[dict[str, Any]], Any] | None = None
    stream_usage: StreamUsage | None = None
    unknown_events: bool = False
    error_after: int | None = None

    def raw(self, body: bytes) -> bytes:
        """The bytes to send in place of the whole body."""
        if self.body is None:
            return body
        if callable(self.body):
            return self.body(body)
        return self.body.encode() if isinstance(self.body, str) else self.body

    def payload(self, payload: Any) -> Any:
        """A whole answer, or one event, with its usage replaced and edited."""
        if self.usage is not UNCHANGED:
            payload = self._with_usage(payload)
        return payload if self.edit is None else self.edit(payload)

    def _with_usage(self, payload: dict[str, Any]) -> dict[str, Any]:
        for name in ("message", "response"):  # of message_start, and of the last event of a response
            inner = payload.get(name)
            if isinstance(inner, dict) and "usage" in inner:
                return {**payload, name: self._with_usage(inner)}
        usage = "usageMetadata" if "usageMetadata" in payload else "usage"
        if payload.get(usage) is None:  # the chunks before the last carry "usage": null
            return payload
        if self.usage is ABSENT:
            return {name: value for name, value in payload.items() if name != usage}
        return {**payload, usage: self.usage(payload[usage]) if callable(self.usage) else self.usage}

    def events(
        self, events: Iterator[Event], dialect: Dialect, ask: Ask, reply: Reply, request_id: str
    ) -> Iterator[Event]:
        """The stream, bent. An edit that returns None drops the event."""
        if self.stream_usage is not None and dialect.vendor == "openai":
            events = self._with_stream_usage(events, dialect, ask, reply)
        if self.unknown_events:
            events = _with_unknown(events)
        sent = 0
        unsent_tokens = 0  # of events that were dropped: generated, so charged with the next one
        for event in events:
            if self.error_after is not None and event.is_content:
                if sent == self.error_after:
                    yield dialect.error_event(Fault(529, "Overloaded", code="overloaded"), request_id)
                    return
                sent += 1
            if isinstance(event.payload, str):
                yield event
            elif (payload := self.payload(event.payload)) is not None:
                yield attrs.evolve(event, payload=payload, tokens=event.tokens + unsent_tokens)
                unsent_tokens = 0
            else:
                unsent_tokens += event.tokens

    def _with_stream_usage(self, events: Iterator[Event], dialect: Dialect, ask: Ask, reply: Reply) -> Iterator[Event]:
        output_tokens = reply.reasoning_tokens
        for event in events:
            output_tokens += event.tokens
            if isinstance(event.payload, str):
                yield event
                continue
            is_usage = ask.wants_usage and not event.payload["choices"]
            if self.stream_usage == "each":
                usage = dialect.usage(reply, output_tokens)
                yield attrs.evolve(event, payload={**event.payload, "usage": usage})
            elif not is_usage:
                yield event
            elif self.stream_usage == "with_choice":
                choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": None}
                yield attrs.evolve(event, payload={**event.payload, "choices": [choice]})
            elif self.stream_usage == "trailing":
                yield event
                yield attrs.evolve(event, payload={**event.payload, "usage": None})


def _with_unknown(events: Iterator[Event]) -> Iterator[Event]:
    """An event of a type that no client knows, after every event but the last."""
    for event in events:
        yield event
        if event.payload != "[DONE]":
            yield Event({"type": "farebox.surprise", "surprise": True}, "farebox.surprise")
