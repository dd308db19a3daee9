"""instructor: answers that are checked, and asked for again where they are not valid."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, track
from farebox.testing import FakeProvider
from tests.frameworks.oracle import CLAUDE, MODEL, books_equal_bill, need, stopped

need("instructor", "openai", "anthropic")

import anthropic  # noqa: E402
import instructor  # noqa: E402
import openai  # noqa: E402
from instructor.core import InstructorRetryException  # noqa: E402
from pydantic import BaseModel  # noqa: E402


class Verdict(BaseModel):
    sure: bool


GOOD, BAD = '{"sure": true}', '{"sure": "maybe"}'
ASKED: dict[str, Any] = {
    "response_model": Verdict,
    "messages": [{"role": "user", "content": "Sure?"}],
    "max_tokens": 500,
}


class Sdk:
    """An SDK behind instructor; it is answered by a call of the tool that instructor asks for."""

    def __init__(self, name: str, model: str, client: Callable[..., Any], async_client: Callable[..., Any]) -> None:
        self.name, self.words = name, {**ASKED, "model": model}
        self.client, self.async_client = client, async_client

    def __str__(self) -> str:
        return self.name


SDKS = [
    Sdk(
        "instructor with openai",
        MODEL,
        lambda: instructor.from_openai(openai.OpenAI()),
        lambda: instructor.from_openai(openai.AsyncOpenAI()),
    ),
    Sdk(
        "instructor with anthropic",
        CLAUDE,
        lambda: instructor.from_anthropic(anthropic.Anthropic()),
        lambda: instructor.from_anthropic(anthropic.AsyncAnthropic()),
    ),
]


@pytest.fixture(params=SDKS, ids=lambda sdk: sdk.name)
def sdk(request: pytest.FixtureRequest) -> Sdk:
    return request.param  # type: ignore[no-any-return]


def partial(sdk: Sdk, **options: Any) -> Any:
    words = {**sdk.words, **options}
    *_, last = sdk.client().chat.completions.create_partial(**words)
    return Verdict.model_validate(last.model_dump())


async def async_partial(sdk: Sdk, **options: Any) -> Any:
    words = {**sdk.words, **options}
    *_, last = [part async for part in sdk.async_client().chat.completions.create_partial(**words)]
    return Verdict.model_validate(last.model_dump())


WAYS: dict[str, Callable[..., Any]] = {
    "sync": lambda sdk, **options: sdk.client().chat.completions.create(**{**sdk.words, **options}),
    "async": lambda sdk, **options: asyncio.run(sdk.async_client().chat.completions.create(**{**sdk.words, **options})),
    "stream": partial,
    "async stream": lambda sdk, **options: asyncio.run(async_partial(sdk, **options)),
}


@pytest.mark.surface("{sdk}", kind="{way}", proves=["exact", "unbroken"])
@pytest.mark.parametrize("way", WAYS)
def test_an_answer_is_counted_once_and_is_as_ever(sdk: Sdk, provider: FakeProvider, way: str) -> None:
    provider.answer(function="Verdict", text=GOOD)
    with track(feature="verdict"), budget("half", usd=0.5) as half:
        assert WAYS[way](sdk).model_dump() == {"sure": True}  # of a class that instructor has made of it
    assert half.spent_usd == provider.bill.usd
    books_equal_bill(provider, 1, feature="verdict")


@pytest.mark.surface("{sdk}", kind="{way}", proves="refused")
@pytest.mark.parametrize("way", WAYS)
def test_an_exhausted_budget_sends_nothing(sdk: Sdk, provider: FakeProvider, tight: Any, way: str) -> None:
    """instructor tries again after what is not valid, and after nothing else."""
    with stopped():
        WAYS[way](sdk, max_retries=4)
    assert not provider.requests
    assert farebox.report().total.refused_calls == 1


@pytest.mark.parametrize("way", ["sync", "async"])
def test_an_answer_that_is_not_valid_is_asked_for_again_and_each_time_is_a_call(
    sdk: Sdk, provider: FakeProvider, way: str
) -> None:
    provider.answer(function="Verdict", text=BAD, times=2)
    provider.answer(function="Verdict", text=GOOD)
    with budget(usd=0.5) as half:
        assert WAYS[way](sdk, max_retries=4).sure
    assert half.spent_calls == 3
    books_equal_bill(provider, 3)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_asking_again_ends_with_the_budget_and_the_stop_is_told(sdk: Sdk, provider: FakeProvider, way: str) -> None:
    provider.answer(function="Verdict", text=BAD, output_tokens=16_000)
    with budget("half", usd=0.5) as half, stopped():
        WAYS[way](sdk, max_retries=500, max_tokens=16_000)
    assert provider.bill.calls > 3
    assert half.spent_usd == provider.bill.usd <= Decimal("0.5")
    assert farebox.report().total.refused_calls == 1


def test_a_stop_is_wrapped_in_instructors_own_error_and_is_its_cause(
    sdk: Sdk, provider: FakeProvider, tight: Any
) -> None:
    """As with everything that the SDK raises: `except InstructorRetryException` has to look at `__cause__`."""
    with pytest.raises(InstructorRetryException) as raised:
        WAYS["sync"](sdk)
    assert isinstance(raised.value.__cause__, BudgetExceeded)
