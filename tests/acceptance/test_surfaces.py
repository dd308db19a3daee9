"""What holds for every surface of text, whichever way it is called: the rows of docs/coverage.md."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import attrs
import pytest

import farebox
from farebox import BudgetExceeded, budget, track
from farebox.testing import FakeProvider
from tests.acceptance.rides import ANTHROPIC, CAP, MESSAGES, OPENAI, Ride, nothing_is_left

pytestmark = pytest.mark.usefixtures("metered")

SAID = "Because it is so. " * 4


@attrs.frozen
class Surface:
    """An endpoint of an SDK; `said` reads the text of a whole answer, `part` that of a chunk."""

    name: str
    ride: Ride
    create: Callable[[Any], Any]
    words: dict[str, Any]
    said: Callable[[Any], str]
    part: Callable[[Any], str] | None = None

    def __str__(self) -> str:
        return self.name


def in_message(answer: Any) -> str:
    return "".join(block.text for block in answer.content)


def in_message_event(event: Any) -> str:
    return str(event.delta.text) if event.type == "content_block_delta" else ""


def in_response_event(event: Any) -> str:
    return str(event.delta) if event.type == "response.output_text.delta" else ""


CHAT = {"model": OPENAI.model, "messages": MESSAGES, "max_tokens": CAP}
CLAUDE = {"model": ANTHROPIC.model, "messages": MESSAGES, "max_tokens": CAP}
SURFACES = [
    Surface(
        "openai chat completions",
        OPENAI,
        lambda client: client.chat.completions.create,
        CHAT,
        lambda answer: answer.choices[0].message.content,
        lambda chunk: chunk.choices[0].delta.content or "",  # a program that expects a choice in each chunk
    ),
    Surface(
        "openai responses",
        OPENAI,
        lambda client: client.responses.create,
        {"model": OPENAI.model, "input": "Why?", "max_output_tokens": CAP},
        lambda answer: answer.output_text,
        in_response_event,
    ),
    Surface(
        "openai completions",
        OPENAI,
        lambda client: client.completions.create,
        {"model": "gpt-3.5-turbo-instruct", "prompt": "Why?", "max_tokens": CAP},
        lambda answer: answer.choices[0].text,
        lambda chunk: chunk.choices[0].text,
    ),
    Surface(
        "openai embeddings",
        OPENAI,
        lambda client: client.embeddings.create,
        {"model": "text-embedding-3-small", "input": "Why?"},
        lambda answer: SAID if len(answer.data[0].embedding) > 1 else "",
    ),
    Surface(
        "anthropic messages", ANTHROPIC, lambda client: client.messages.create, CLAUDE, in_message, in_message_event
    ),
    Surface(
        "anthropic beta messages",
        ANTHROPIC,
        lambda client: client.beta.messages.create,
        CLAUDE,
        in_message,
        in_message_event,
    ),
]


def ask(surface: Surface, provider: FakeProvider, kind: str) -> str:
    """What the program gets to read."""
    words = copy.deepcopy(surface.words)
    streams = {"stream": True} if "stream" in kind else {}

    async def main() -> str:
        async with surface.ride.async_client(provider) as client:
            answer = await surface.create(client)(**words, **streams)
            if surface.part is None or not streams:
                return surface.said(answer)
            return "".join([surface.part(chunk) async for chunk in answer])

    if "async" in kind:
        said = asyncio.run(main())
    else:
        with surface.ride.client(provider) as client:
            answer = surface.create(client)(**words, **streams)
            if surface.part is None or not streams:
                said = surface.said(answer)
            else:
                said = "".join(surface.part(chunk) for chunk in answer)
    assert words == surface.words
    return said


WAYS = [
    pytest.param(surface, kind, id=f"{surface.name}, {kind}")
    for surface in SURFACES
    for kind in ("sync", "async", "stream", "async stream")
    if surface.part is not None or "stream" not in kind
]


@pytest.mark.surface("{surface}", kind="{kind}", proves=["exact", "unbroken"])
@pytest.mark.parametrize(("surface", "kind"), WAYS)
def test_a_call_is_recorded_to_the_digit_and_answers_as_ever(surface: Surface, kind: str, provider: Any) -> None:
    provider.answer(text=SAID)
    with track(feature="x"), budget(usd=0.5) as half:
        assert ask(surface, provider, kind) == SAID
    assert half.spent_usd == provider.bill.usd > 0
    (call,) = farebox.calls()
    assert (call.outcome, call.cost_source, call.doubt, call.tags) == ("completed", "list", "", {"feature": "x"})
    assert call.usage.total_tokens == provider.bill.tokens
    nothing_is_left()


@pytest.mark.surface("{surface}", kind="{kind}", proves="refused")
@pytest.mark.parametrize(("surface", "kind"), WAYS)
def test_an_exhausted_budget_sends_nothing(surface: Surface, kind: str, provider: Any) -> None:
    with budget(usd="0.000000001"), pytest.raises(BudgetExceeded):
        ask(surface, provider, kind)
    assert not provider.requests
    nothing_is_left()
