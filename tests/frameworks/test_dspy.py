"""DSPy, which calls through LiteLLM: predictions, its cache, its threads, and what it tries again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

import farebox
from farebox import budget, track
from farebox.testing import FakeProvider
from tests.frameworks.oracle import (
    FOUND,
    MODEL,
    books_equal_bill,
    loop_ends_with_the_budget,
    loop_is_as_ever,
    need,
    stopped,
)

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch one when it is imported
need("dspy", "openai")

import dspy  # noqa: E402

SAID = "[[ ## answer ## ]]\nBecause.\n\n[[ ## completed ## ]]"


@pytest.fixture(autouse=True)
def language_model(provider: FakeProvider) -> Iterator[None]:
    provider.answer(text=SAID)
    with dspy.context(lm=model_at(provider)):
        yield


def model_at(provider: FakeProvider, name: str = MODEL, **options: Any) -> dspy.LM:
    words = {
        "api_base": provider.openai_base_url,
        "api_key": "fake",
        "max_tokens": 500,
        "cache": False,
        "num_retries": 2,
    }
    return dspy.LM(f"openai/{name}", **{**words, **options})


def ask(**inputs: Any) -> str:
    return str(dspy.Predict("question -> answer")(question="Why?", **inputs).answer)


async def ask_async() -> str:
    return str((await dspy.Predict("question -> answer").acall(question="Why?")).answer)


WAYS = {"sync": ask, "async": lambda: asyncio.run(ask_async())}


@pytest.mark.surface("dspy predictions", kind="{way}", proves=["exact", "unbroken"])
@pytest.mark.parametrize("way", WAYS)
def test_a_prediction_is_counted_once_and_is_as_ever(provider: FakeProvider, way: str) -> None:
    with track(feature="dspy"), budget("half", usd=0.5) as half:
        assert WAYS[way]() == "Because."
    assert half.spent_usd == provider.bill.usd
    books_equal_bill(provider, 1, feature="dspy")


@pytest.mark.surface("dspy predictions", kind="{way}", proves="refused")
@pytest.mark.parametrize("way", WAYS)
def test_an_exhausted_budget_sends_nothing_however_often_it_is_tried(
    provider: FakeProvider, tight: Any, way: str
) -> None:
    with stopped():
        WAYS[way]()
    assert not provider.requests
    assert farebox.report().total.calls == 0


def test_a_cached_prediction_costs_nothing(provider: FakeProvider) -> None:
    with dspy.context(lm=model_at(provider, cache=True)), budget(calls=1):
        assert ask(config={"rollout_id": provider.openai_base_url}) == ask(
            config={"rollout_id": provider.openai_base_url}
        )
    books_equal_bill(provider, 1)


def test_parallel_predictions_in_threads_of_dspys_own_share_one_budget(provider: FakeProvider) -> None:
    predict = dspy.Predict("question -> answer")
    pairs = [(predict, dspy.Example(question=f"Why {number}?").with_inputs("question")) for number in range(8)]
    with track(feature="parallel"), budget(usd=0.5):
        dspy.Parallel(num_threads=4, disable_progress_bar=True)(pairs)
    books_equal_bill(provider, 8, feature="parallel")


def test_parallel_predictions_beyond_the_budget_are_not_sent(provider: FakeProvider) -> None:
    predict = dspy.Predict("question -> answer")
    pairs = [(predict, dspy.Example(question=f"Why {number}?").with_inputs("question")) for number in range(8)]
    with budget(calls=3) as three:  # with fewer errors allowed it would leave threads behind that go on calling
        answers = dspy.Parallel(num_threads=2, max_errors=100, disable_progress_bar=True)(pairs)
    assert [answer is not None for answer in answers].count(True) == three.spent_calls == 3
    books_equal_bill(provider, 3)


def search(query: str) -> str:
    """Look something up."""
    return "nothing found"


def react() -> str:
    return str(dspy.ReAct("question -> answer", tools=[search], max_iters=500)(question="Why?").answer)


async def react_async() -> str:
    agent = dspy.ReAct("question -> answer", tools=[search], max_iters=500)
    return str((await agent.acall(question="Why?")).answer)


REACT = {"sync": react, "async": lambda: asyncio.run(react_async())}
LOOP_WAYS = pytest.mark.parametrize("way", REACT)


def step(tool: str) -> str:
    said = {
        "next_thought": "Hm.",
        "next_tool_name": tool,
        "next_tool_args": '{"query": "x"}' if tool == "search" else "{}",
    }
    return "\n\n".join(f"[[ ## {name} ## ]]\n{text}" for name, text in [*said.items(), ("completed", "")])


def finds(provider: FakeProvider) -> None:
    provider.answer(text=step("search"), times=1)
    provider.answer(text=step("finish"), times=1)
    provider.answer(text=f"[[ ## reasoning ## ]]\nSo.\n\n[[ ## answer ## ]]\n{FOUND}\n\n[[ ## completed ## ]]")


def never_finds(provider: FakeProvider) -> None:
    provider.answer(text=step("search"), output_tokens=2_000)


@pytest.mark.surface("dspy agent, a loop of tools", kind="{way}", proves=["exact", "unbroken"])
@LOOP_WAYS
def test_an_agent_answers_as_ever(provider: FakeProvider, way: str) -> None:
    loop_is_as_ever(provider, REACT[way], finds)


@pytest.mark.surface("dspy agent, a loop of tools", kind="{way}", proves=["exact", "refused"])
@LOOP_WAYS
def test_an_agent_that_never_ends_is_stopped_by_its_half_dollar(provider: FakeProvider, way: str) -> None:
    with dspy.context(lm=model_at(provider, "gpt-4.1", max_tokens=4_000)):
        loop_ends_with_the_budget(provider, REACT[way], never_finds)
