"""LlamaIndex on the OpenAI SDK, under budgets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, track
from farebox.testing import FakeProvider
from tests.frameworks.oracle import MODEL, books_equal_bill, loop_ends_with_the_budget, loop_is_as_ever, need, stopped

need("llama_index.core", "llama_index.llms.openai", "openai")

from llama_index.core.agent.workflow import FunctionAgent  # noqa: E402
from llama_index.core.llms import ChatMessage  # noqa: E402
from llama_index.llms.openai import OpenAI, OpenAIResponses  # noqa: E402

ASKED = [ChatMessage(role="user", content="Why?")]


def chat(**options: Any) -> OpenAI:
    return OpenAI(**{"model": MODEL, "max_tokens": 500, "reuse_client": False, **options})


MODELS: dict[str, Callable[..., Any]] = {
    "llamaindex with openai chat": chat,
    "llamaindex with openai responses": lambda **options: OpenAIResponses(
        **{"model": MODEL, "max_output_tokens": 500, "reuse_client": False, **options}
    ),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def streamed(llm: Any) -> str:
    return "".join([part.delta or "" async for part in await llm.astream_chat(ASKED)])


WAYS: dict[str, Callable[[Any], str]] = {
    "sync": lambda llm: llm.chat(ASKED).message.content,
    "async": lambda llm: asyncio.run(llm.achat(ASKED)).message.content,
    "stream": lambda llm: "".join(part.delta or "" for part in llm.stream_chat(ASKED)),
    "async stream": lambda llm: asyncio.run(streamed(llm)),
}


@pytest.mark.surface("{model}", kind="{way}", proves=["exact", "unbroken"], of="llama-index-llms-openai")
@pytest.mark.parametrize("way", WAYS)
def test_a_call_is_counted_once_and_answers_as_ever(model: str, provider: FakeProvider, way: str) -> None:
    provider.answer(text="Because it is so.")
    with track(feature="index"), budget("half", usd=0.5) as half:
        assert WAYS[way](MODELS[model]()) == "Because it is so."
    assert half.spent_usd == provider.bill.usd
    books_equal_bill(provider, 1, feature="index")


@pytest.mark.surface("{model}", kind="{way}", proves="refused", of="llama-index-llms-openai")
@pytest.mark.parametrize("way", WAYS)
def test_an_exhausted_budget_sends_nothing_and_is_not_tried_again(
    model: str, provider: FakeProvider, tight: Any, way: str
) -> None:
    with pytest.raises(BudgetExceeded):
        WAYS[way](MODELS[model](max_retries=5))
    assert not provider.requests
    assert farebox.report().total.refused_calls == 1


def test_retries_of_a_failing_server_are_one_call(provider: FakeProvider) -> None:
    provider.fail(500, times=2, headers={"retry-after-ms": "1"})
    with budget(usd=0.5):
        chat(max_retries=3).chat(ASKED)
    assert len(provider.requests) == 3
    books_equal_bill(provider, 1)


def search(query: str) -> str:
    """Look something up."""
    return "nothing found"


async def found(llm: OpenAI, way: str) -> str:
    agent = FunctionAgent(tools=[search], llm=llm, streaming="stream" in way)
    return str(await agent.run("Find it.", max_iterations=500))


LOOP_WAYS = pytest.mark.parametrize("way", ["async", "async stream"])


@pytest.mark.surface(
    "llamaindex agent, a loop of tools", kind="{way}", proves=["exact", "unbroken"], of="llama-index-core"
)
@LOOP_WAYS
def test_an_agent_answers_as_ever(provider: FakeProvider, way: str) -> None:
    loop_is_as_ever(provider, lambda: asyncio.run(found(chat(), way)))


@pytest.mark.surface(
    "llamaindex agent, a loop of tools", kind="{way}", proves=["exact", "refused"], of="llama-index-core"
)
@LOOP_WAYS
def test_an_agent_that_never_ends_is_stopped_by_its_half_dollar(provider: FakeProvider, way: str) -> None:
    loop_ends_with_the_budget(provider, lambda: asyncio.run(found(chat(model="gpt-4.1", max_tokens=4_000), way)))


def test_a_tool_that_calls_a_model_is_stopped_and_the_next_call_is_refused(provider: FakeProvider) -> None:
    """A workflow tells the model what a tool has raised; the model is then out of reach, too."""

    def ask_another(query: str) -> str:
        """Ask another model."""
        return str(chat(model="gpt-4.1-nano").complete(query))

    provider.answer(function="ask_another", text='{"query": "sense"}', output_tokens=50, model=MODEL)
    agent = FunctionAgent(tools=[ask_another], llm=chat())

    async def main() -> None:
        await agent.run("Find it.", max_iterations=100)

    with track(feature="agent"), budget(calls=3), stopped():
        asyncio.run(main())
    assert [call.outcome for call in farebox.calls()][:4] == ["completed"] * 3 + ["refused"]
    assert {call.tags["feature"] for call in farebox.calls()} == {"agent"}
    assert provider.bill.calls == 3
