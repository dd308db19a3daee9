"""CrewAI: crews whose agents share a model and a budget."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

import farebox
from farebox import budget, track
from farebox.testing import Answer, FakeProvider, Request
from tests.frameworks.oracle import MODEL, books_equal_bill, loop_ends_with_the_budget, loop_is_as_ever, need, stopped

os.environ.update(CREWAI_DISABLE_TELEMETRY="true", OTEL_SDK_DISABLED="true", CREWAI_TRACING_ENABLED="false")
need("crewai", "openai")

from crewai import LLM, Agent, Crew, Task  # noqa: E402
from crewai.tools import tool  # noqa: E402


def crew(provider: FakeProvider, tasks: int = 1, model: str = MODEL, cap: int = 500, **options: Any) -> Crew:
    """As many agents as tasks, all with one model between them."""
    llm = LLM(model=f"openai/{model}", base_url=provider.openai_base_url, api_key="fake", max_tokens=cap)
    agents = [
        Agent(role=f"clerk {number}", goal="answer", backstory="none", llm=llm, verbose=False, **options)
        for number in range(tasks)
    ]
    return Crew(
        agents=agents,
        tasks=[Task(description="Why?", expected_output="a reason", agent=agent) for agent in agents],
        verbose=False,
    )


WAYS: dict[str, Callable[[Crew], str]] = {
    "sync": lambda made: str(made.kickoff().raw),
    "async": lambda made: str(asyncio.run(made.akickoff()).raw),
}
EVERY_WAY = pytest.mark.parametrize("way", WAYS)


@pytest.mark.surface("crewai crew", kind="{way}", proves=["exact", "unbroken"])
@EVERY_WAY
def test_agents_that_share_a_model_are_each_counted_once(provider: FakeProvider, way: str) -> None:
    provider.answer(text="Thought: I know.\nFinal Answer: Because.")
    with track(feature="crew"), budget("half", usd=0.5) as half:
        assert "Because." in WAYS[way](crew(provider, tasks=5))
    assert half.spent_usd == provider.bill.usd
    books_equal_bill(provider, 5, feature="crew")


@pytest.mark.surface("crewai crew", kind="{way}", proves="refused")
@EVERY_WAY
def test_an_exhausted_budget_sends_nothing(provider: FakeProvider, tight: Any, way: str) -> None:
    """CrewAI tries a task again after whatever was raised, `max_retry_limit` times; each is refused before it is sent."""
    with stopped():
        WAYS[way](crew(provider, max_retry_limit=1))
    assert not provider.requests
    assert (farebox.report().total.calls, farebox.report().total.refused_calls) == (0, 2)


def test_a_crew_is_stopped_in_the_middle(provider: FakeProvider) -> None:
    provider.answer(text="Thought: I know.\nFinal Answer: Because.")
    with track(feature="crew"), budget(calls=3), stopped():
        crew(provider, tasks=5).kickoff()
    assert provider.bill.calls == 3
    books_equal_bill(provider, 3, feature="crew")


@tool("search")
def search(query: str) -> str:
    """Look something up."""
    return "nothing found"


@pytest.mark.surface("crewai agent, a loop of tools", kind="{way}", proves=["exact", "unbroken"])
@EVERY_WAY
def test_an_agent_answers_as_ever(provider: FakeProvider, way: str) -> None:
    loop_is_as_ever(provider, lambda: WAYS[way](crew(provider, tools=[search])))


def never_finds(provider: FakeProvider) -> None:
    """Each time by other words: an agent that asks the same five times is stopped by CrewAI."""

    def asks(request: Request) -> Answer:
        return Answer(function="search", text=f'{{"query": "sense {request.number}"}}', output_tokens=2_000)

    provider.answer(asks)


@pytest.mark.surface("crewai agent, a loop of tools", kind="{way}", proves=["exact", "refused"])
@EVERY_WAY
def test_an_agent_that_never_ends_is_stopped_by_its_half_dollar(provider: FakeProvider, way: str) -> None:
    made = crew(provider, model="gpt-4.1", cap=4_000, tools=[search], max_iter=500)
    loop_ends_with_the_budget(provider, lambda: WAYS[way](made), never_finds)
