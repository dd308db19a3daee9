"""pydantic-ai's agents on the OpenAI and Anthropic SDKs, under budgets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, track
from farebox.testing import FakeProvider
from tests.frameworks.oracle import (
    CLAUDE,
    MODEL,
    books_equal_bill,
    is_stop,
    loop_ends_with_the_budget,
    loop_is_as_ever,
    need,
)

need("pydantic_ai", "openai", "anthropic")

from pydantic import BaseModel  # noqa: E402
from pydantic_ai import Agent  # noqa: E402
from pydantic_ai.usage import UsageLimits  # noqa: E402

MODELS = {
    "pydantic-ai with openai chat": f"openai-chat:{MODEL}",
    "pydantic-ai with openai responses": f"openai-responses:{MODEL}",
    "pydantic-ai with anthropic": f"anthropic:{CLAUDE}",
}
SETTINGS: Any = {"max_tokens": 500}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def agent_of(model: str, **options: Any) -> Agent[Any, Any]:
    return Agent(MODELS[model], model_settings=SETTINGS, **options)


async def streamed(agent: Agent[Any, str], words: Any) -> str:
    async with agent.run_stream("Why?", **words) as run:
        return "".join([part async for part in run.stream_text(delta=True)])


WAYS: dict[str, Callable[..., Any]] = {
    "sync": lambda agent, **words: agent.run_sync("Why?", **words).output,
    "async": lambda agent, **words: asyncio.run(agent.run("Why?", **words)).output,
    "async stream": lambda agent, **words: asyncio.run(streamed(agent, words)),
}


@pytest.mark.surface("{model}", kind="{way}", proves=["exact", "unbroken"], of="pydantic-ai-slim")
@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_counted_once_and_answers_as_ever(model: str, provider: FakeProvider, way: str) -> None:
    provider.answer(text="Because it is so.")
    with track(feature="agent"), budget("half", usd=0.5) as half:
        assert WAYS[way](agent_of(model)) == "Because it is so."
    assert half.spent_usd == provider.bill.usd
    books_equal_bill(provider, 1, feature="agent")


@pytest.mark.surface("{model}", kind="{way}", proves="refused", of="pydantic-ai-slim")
@pytest.mark.parametrize("way", WAYS)
def test_an_exhausted_budget_sends_nothing_and_is_not_tried_again(
    model: str, provider: FakeProvider, tight: Any, way: str
) -> None:
    with pytest.raises(BudgetExceeded):
        WAYS[way](agent_of(model, retries=5))
    assert not provider.requests
    assert farebox.report().total.refused_calls == 1


def test_an_answer_that_is_not_valid_is_asked_for_again_and_each_time_is_a_call(provider: FakeProvider) -> None:
    class Verdict(BaseModel):
        sure: bool

    provider.answer(function="final_result", text='{"sure": "maybe"}', times=2)
    provider.answer(function="final_result", text='{"sure": true}')
    agent = agent_of("pydantic-ai with openai chat", output_type=Verdict, retries=3)
    with budget(usd=0.5) as half:
        assert agent.run_sync("Sure?").output == Verdict(sure=True)
    assert half.spent_calls == 3
    books_equal_bill(provider, 3)


def test_asking_again_ends_with_the_budget(provider: FakeProvider) -> None:
    class Verdict(BaseModel):
        sure: bool

    provider.answer(function="final_result", text='{"sure": "maybe"}')
    agent = agent_of("pydantic-ai with openai chat", output_type=Verdict, retries=30)
    with budget(calls=4), pytest.raises(BudgetExceeded):
        agent.run_sync("Sure?")
    books_equal_bill(provider, 4)


def searching(name: str, cap: int) -> Agent[Any, str]:
    agent: Agent[Any, str] = Agent(f"openai-chat:{name}", model_settings={"max_tokens": cap})

    @agent.tool_plain
    def search(query: str) -> str:
        """Look something up."""
        return "nothing found"

    return agent


@pytest.mark.surface(
    "pydantic-ai agent, a loop of tools", kind="{way}", proves=["exact", "unbroken"], of="pydantic-ai-slim"
)
@pytest.mark.parametrize("way", WAYS)
def test_an_agent_answers_as_ever(provider: FakeProvider, way: str) -> None:
    loop_is_as_ever(provider, lambda: WAYS[way](searching(MODEL, 500)))


@pytest.mark.surface(
    "pydantic-ai agent, a loop of tools", kind="{way}", proves=["exact", "refused"], of="pydantic-ai-slim"
)
@pytest.mark.parametrize("way", WAYS)
def test_an_agent_that_never_ends_is_stopped_by_its_half_dollar(provider: FakeProvider, way: str) -> None:
    loop_ends_with_the_budget(
        provider, lambda: WAYS[way](searching("gpt-4.1", 4_000), usage_limits=UsageLimits(request_limit=None))
    )


def test_an_agent_within_a_tool_is_held_to_the_same_budget_and_its_stop_stops_both(provider: FakeProvider) -> None:
    """Sync tools run in threads of pydantic-ai's own."""
    inner = agent_of("pydantic-ai with anthropic")
    outer = agent_of("pydantic-ai with openai chat")

    @outer.tool_plain
    def delegate(query: str) -> str:
        """Ask somebody else."""
        with track(by="inner"):
            return str(asyncio.run(inner.run(query)).output)

    provider.answer(function="delegate", text='{"query": "sense"}', output_tokens=50, model=MODEL)
    with track(feature="team"), budget(calls=4), pytest.raises(BudgetExceeded) as stop:
        outer.run_sync("Find it.")
    assert is_stop(stop.value)
    assert [(call.provider_name, call.tags.get("by"), call.outcome) for call in farebox.calls()] == [
        ("openai", None, "completed"),
        ("anthropic", "inner", "completed"),
        ("openai", None, "completed"),
        ("anthropic", "inner", "completed"),
        ("openai", None, "refused"),
    ]
    assert provider.bill.calls == 4
    assert {call.tags["feature"] for call in farebox.calls()} == {"team"}


def test_a_tool_that_swallows_the_stop_only_delays_it_to_the_next_call(provider: FakeProvider) -> None:
    inner = agent_of("pydantic-ai with anthropic")
    outer = agent_of("pydantic-ai with openai chat")

    @outer.tool_plain
    async def delegate(query: str) -> str:
        """Ask somebody else."""
        try:
            return str((await inner.run(query)).output)
        except Exception as error:
            return f"that failed: {type(error).__name__}"

    provider.answer(function="delegate", text='{"query": "sense"}', output_tokens=50, model=MODEL)
    with budget(calls=3), pytest.raises(BudgetExceeded):
        outer.run_sync("Find it.")
    assert [call.outcome for call in farebox.calls()] == ["completed"] * 3 + ["refused"] * 2
    assert provider.bill.calls == 3


def test_retries_of_a_failing_server_are_one_call(model: str, provider: FakeProvider) -> None:
    provider.fail(500, times=2, headers={"retry-after-ms": "1"})
    with budget(usd=0.5):
        agent_of(model).run_sync("Why?")
    assert len(provider.requests) == 3
    books_equal_bill(provider, 1)
