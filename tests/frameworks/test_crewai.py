"""CrewAI: crews whose agents share a model and a budget."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

import farebox
from farebox import budget, track
from farebox.testing import FakeProvider
from tests.frameworks.oracle import MODEL, books_equal_bill, need, stopped

os.environ.update(CREWAI_DISABLE_TELEMETRY="true", OTEL_SDK_DISABLED="true", CREWAI_TRACING_ENABLED="false")
need("crewai", "openai")

from crewai import LLM, Agent, Crew, Task  # noqa: E402


def crew(provider: FakeProvider, tasks: int = 1) -> Crew:
    """As many agents as tasks, all with one model between them."""
    llm = LLM(model=f"openai/{MODEL}", base_url=provider.openai_base_url, api_key="fake", max_tokens=500)
    agents = [
        Agent(role=f"clerk {number}", goal="answer", backstory="none", llm=llm, verbose=False)
        for number in range(tasks)
    ]
    return Crew(
        agents=agents,
        tasks=[Task(description="Why?", expected_output="a reason", agent=agent) for agent in agents],
        verbose=False,
    )


WAYS: dict[str, Callable[[Crew], Any]] = {"sync": lambda made: made.kickoff()}


@pytest.mark.surface("crewai crew", kind="sync", proves=["exact", "unbroken"])
def test_agents_that_share_a_model_are_each_counted_once(provider: FakeProvider) -> None:
    provider.answer(text="Thought: I know.\nFinal Answer: Because.")
    with track(feature="crew"), budget("half", usd=0.5) as half:
        assert "Because." in crew(provider, tasks=5).kickoff().raw
    assert half.spent_usd == provider.bill.usd
    books_equal_bill(provider, 5, feature="crew")


@pytest.mark.surface("crewai crew", kind="sync", proves="refused")
def test_an_exhausted_budget_sends_nothing(provider: FakeProvider, tight: Any) -> None:
    with stopped():
        crew(provider).kickoff()
    assert not provider.requests
    assert farebox.report().total.calls == 0


def test_a_crew_is_stopped_in_the_middle(provider: FakeProvider) -> None:
    provider.answer(text="Thought: I know.\nFinal Answer: Because.")
    with track(feature="crew"), budget(calls=3), stopped():
        crew(provider, tasks=5).kickoff()
    assert provider.bill.calls == 3
    books_equal_bill(provider, 3, feature="crew")
