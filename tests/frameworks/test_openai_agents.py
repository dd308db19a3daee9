"""The OpenAI Agents SDK, on responses and on chat completions, under budgets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, track
from farebox.testing import FakeProvider
from tests.frameworks.oracle import MODEL, books_equal_bill, loop_ends_with_the_budget, loop_is_as_ever, need

need("agents", "openai")

from agents import (  # noqa: E402
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI  # noqa: E402

#: Traces are sent to OpenAI by a client of its own; they cost nothing.
set_tracing_disabled(True)

MODELS: dict[str, Callable[[str], Any]] = {
    "openai-agents on responses": lambda name: OpenAIResponsesModel(name, AsyncOpenAI(max_retries=2)),
    "openai-agents on chat completions": lambda name: OpenAIChatCompletionsModel(name, AsyncOpenAI(max_retries=2)),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def agent_of(model: str, name: str = MODEL, cap: int = 500, **options: Any) -> Agent[Any]:
    return Agent(name="clerk", model=MODELS[model](name), model_settings=ModelSettings(max_tokens=cap), **options)


async def streamed(agent: Agent[Any], words: Any) -> str:
    run = Runner.run_streamed(agent, "Why?", **words)
    async for _ in run.stream_events():
        pass
    return str(run.final_output)


WAYS: dict[str, Callable[..., str]] = {
    "sync": lambda agent, **words: str(Runner.run_sync(agent, "Why?", **words).final_output),
    "async": lambda agent, **words: str(asyncio.run(Runner.run(agent, "Why?", **words)).final_output),
    "async stream": lambda agent, **words: asyncio.run(streamed(agent, words)),
}


@pytest.mark.surface("{model}", kind="{way}", proves=["exact", "unbroken"])
@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_counted_once_and_answers_as_ever(model: str, provider: FakeProvider, way: str) -> None:
    provider.answer(text="Because it is so.")
    with track(feature="agent"), budget("half", usd=0.5) as half:
        assert WAYS[way](agent_of(model)) == "Because it is so."
    assert half.spent_usd == provider.bill.usd
    books_equal_bill(provider, 1, feature="agent")


@pytest.mark.surface("{model}", kind="{way}", proves="refused")
@pytest.mark.parametrize("way", WAYS)
def test_an_exhausted_budget_sends_nothing_and_is_not_tried_again(
    model: str, provider: FakeProvider, tight: Any, way: str
) -> None:
    with pytest.raises(BudgetExceeded):
        WAYS[way](agent_of(model))
    assert not provider.requests
    assert farebox.report().total.refused_calls == 1


@function_tool
def search(query: str) -> str:
    """Look something up."""
    return "nothing found"


@pytest.mark.surface("openai-agents agent, a loop of tools", kind="{way}", proves=["exact", "unbroken"])
@pytest.mark.parametrize("way", WAYS)
def test_an_agent_answers_as_ever(provider: FakeProvider, way: str) -> None:
    loop_is_as_ever(provider, lambda: WAYS[way](agent_of("openai-agents on responses", tools=[search])))


@pytest.mark.surface("openai-agents agent, a loop of tools", kind="{way}", proves=["exact", "refused"])
@pytest.mark.parametrize("way", WAYS)
def test_an_agent_that_never_ends_is_stopped_by_its_half_dollar(provider: FakeProvider, way: str) -> None:
    agent = agent_of("openai-agents on responses", "gpt-4.1", 4_000, tools=[search])
    loop_ends_with_the_budget(provider, lambda: WAYS[way](agent, max_turns=500))


def test_a_handoff_stays_in_the_scope_of_the_run(model: str, provider: FakeProvider) -> None:
    expert = agent_of(model)
    expert.name = "expert"
    clerk = agent_of(model, handoffs=[expert])
    provider.answer(function="transfer_to_expert", text="{}", output_tokens=20, times=1)
    provider.answer(text="Because.")
    with track(feature="handoff"), budget(usd=0.5):
        assert Runner.run_sync(clerk, "Why?").final_output == "Because."
    books_equal_bill(provider, 2, feature="handoff")


def test_an_agent_as_a_tool_has_its_stop_told_to_the_model_and_the_next_call_is_refused(provider: FakeProvider) -> None:
    """The SDK makes a message to the model of what a tool raises, unless told otherwise; the stop is no exception to that."""
    model = "openai-agents on chat completions"
    inner = agent_of(model, "gpt-4.1-nano")
    outer = agent_of(model, tools=[inner.as_tool("delegate", "Ask somebody else.")])
    provider.answer(function="delegate", text='{"input": "sense"}', output_tokens=50, model=MODEL)
    with budget(calls=3), pytest.raises(BudgetExceeded):
        Runner.run_sync(outer, "Find it.", max_turns=100)
    assert [(call.model, call.outcome) for call in farebox.calls()] == [
        (MODEL, "completed"),
        ("gpt-4.1-nano", "completed"),
        (MODEL, "completed"),
        ("gpt-4.1-nano", "refused"),
        (MODEL, "refused"),
    ]
    assert provider.bill.calls == 3


def test_retries_of_a_failing_server_are_one_call(model: str, provider: FakeProvider) -> None:
    provider.fail(500, times=2, headers={"retry-after-ms": "1"})
    with budget(usd=0.5):
        Runner.run_sync(agent_of(model), "Why?")
    assert len(provider.requests) == 3
    books_equal_bill(provider, 1)
