"""LangChain's chat models of OpenAI and Anthropic, under budgets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, track
from farebox.testing import FakeProvider
from tests.frameworks.oracle import CLAUDE, MODEL, books_equal_bill, loop_ends_with_the_budget, loop_is_as_ever, need

need("langchain", "langchain_openai", "langchain_anthropic")

import openai  # noqa: E402
from langchain.agents import create_agent  # noqa: E402
from langchain_anthropic import ChatAnthropic  # noqa: E402
from langchain_core.caches import InMemoryCache  # noqa: E402
from langchain_core.tools import tool  # noqa: E402
from langchain_openai import ChatOpenAI, OpenAIEmbeddings  # noqa: E402
from pydantic import BaseModel  # noqa: E402

MODELS = {
    "langchain-openai": lambda **options: ChatOpenAI(model=MODEL, max_tokens=500, **options),
    "langchain-openai responses": lambda **options: ChatOpenAI(
        model=MODEL, max_tokens=500, use_responses_api=True, **options
    ),
    "langchain-anthropic": lambda **options: ChatAnthropic(model=CLAUDE, max_tokens=500, **options),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return MODELS[request.param]


def text_of(message: Any) -> str:
    return str(message.text)


async def collected(stream: Any) -> str:
    return "".join([text_of(chunk) async for chunk in stream])


WAYS: dict[str, Callable[[Any, Any], str]] = {
    "sync": lambda chat, asked: text_of(chat.invoke(asked)),
    "async": lambda chat, asked: text_of(asyncio.run(chat.ainvoke(asked))),
    "stream": lambda chat, asked: "".join(text_of(chunk) for chunk in chat.stream(asked)),
    "async stream": lambda chat, asked: asyncio.run(collected(chat.astream(asked))),
}


@pytest.mark.surface("{model}", kind="{way}", proves=["exact", "unbroken"])
@pytest.mark.parametrize("way", WAYS)
def test_a_call_is_counted_once_and_answers_as_ever(model: Any, provider: FakeProvider, way: str) -> None:
    provider.answer(text="Because. " * 20)
    with track(feature="search"), budget("half", usd=0.5) as half:
        assert WAYS[way](model(), "Why?") == "Because. " * 20
    assert half.spent_usd == provider.bill.usd
    books_equal_bill(provider, 1, feature="search")


@pytest.mark.surface("{model}", kind="{way}", proves="refused")
@pytest.mark.parametrize("way", WAYS)
def test_an_exhausted_budget_sends_nothing_and_is_not_tried_again(
    model: Any, provider: FakeProvider, tight: Any, way: str
) -> None:
    with pytest.raises(BudgetExceeded):
        WAYS[way](model(max_retries=5), "Why?")
    assert not provider.requests
    assert farebox.report().total.refused_calls == 1


def test_batch_goes_through_a_pool_of_langchains_own_and_stays_in_its_scope(model: Any, provider: FakeProvider) -> None:
    with track(feature="batch"), budget(usd=0.5):
        answers = model().batch(["Why?"] * 8, config={"max_concurrency": 4})
        asyncio.run(model().abatch(["Why?"] * 8))
    assert len(answers) == 8
    books_equal_bill(provider, 16, feature="batch")


def test_a_batch_under_a_budget_for_five_calls_sends_five(model: Any, provider: FakeProvider) -> None:
    with budget(calls=5):
        answers = model().batch(["Why?"] * 12, return_exceptions=True)
    assert len([answer for answer in answers if isinstance(answer, BudgetExceeded)]) == 7
    books_equal_bill(provider, 5)


def test_a_cached_answer_costs_nothing_and_passes_an_exhausted_budget(model: Any, provider: FakeProvider) -> None:
    chat = model(cache=InMemoryCache())
    with budget(calls=1) as one:
        first = chat.invoke("Why?")
        assert text_of(chat.invoke("Why?")) == text_of(first)
        with pytest.raises(BudgetExceeded):
            chat.invoke("Why not?")
    assert one.spent_calls == 1
    books_equal_bill(provider, 1)


def test_with_retry_may_call_again_but_sends_nothing(provider: FakeProvider, tight: Any) -> None:
    """Its default is to try again after every Exception: each try is refused by itself, before it is sent."""
    chat = MODELS["langchain-openai"]().with_retry(stop_after_attempt=3, wait_exponential_jitter=False)
    with pytest.raises(BudgetExceeded):
        chat.invoke("Why?")
    assert not provider.requests


def test_a_fallback_is_held_to_the_same_budget(provider: FakeProvider) -> None:
    """A stop is an exception like any other to `with_fallbacks`: it asks the next model, which must fit by itself."""
    dear = ChatOpenAI(model="gpt-4.1", max_tokens=30_000)
    cheap = ChatOpenAI(model=MODEL, max_tokens=100)
    with budget(usd="0.01"):
        dear.with_fallbacks([cheap]).invoke("Why?")
    assert [line.model for line in provider.bill.lines] == [MODEL]
    assert [call.outcome for call in farebox.calls()] == ["refused", "completed"]


def test_retries_of_a_failing_server_are_one_call(model: Any, provider: FakeProvider) -> None:
    provider.fail(500, times=2, headers={"retry-after-ms": "1"})
    with budget(usd=0.5):
        model(max_retries=3).invoke("Why?")
    assert len(provider.requests) == 3
    books_equal_bill(provider, 1)


def test_structured_output_is_counted_once(provider: FakeProvider) -> None:
    class Verdict(BaseModel):
        sure: bool

    provider.answer(text='{"sure": true}')
    with budget(usd=0.5):
        verdict = MODELS["langchain-openai"]().with_structured_output(Verdict).invoke("Sure?")
    assert verdict == Verdict(sure=True)
    books_equal_bill(provider, 1)


def test_embeddings_are_counted_once(provider: FakeProvider) -> None:
    with budget(usd=0.5):
        OpenAIEmbeddings(model="text-embedding-3-small", check_embedding_ctx_length=False).embed_documents(["a", "b"])
    books_equal_bill(provider, 1)


def test_astream_events_tells_of_the_stream_and_settles_it(model: Any, provider: FakeProvider) -> None:
    async def main() -> list[str]:
        return [event["event"] async for event in model().astream_events("Why?", version="v2")]

    with track(feature="events"), budget(usd=0.5):
        events = asyncio.run(main())
    assert events[0] == "on_chat_model_start"
    assert events[-1] == "on_chat_model_end"
    assert events.count("on_chat_model_stream") > 10
    books_equal_bill(provider, 1, feature="events")


def test_a_stream_that_is_left_early_is_charged_and_holds_nothing(model: Any, provider: FakeProvider) -> None:
    provider.pace(0.02)  # else all of it is there by the time that it is left
    with budget(usd=0.5) as half:
        stream = model().stream("Why?")
        for _ in range(3):
            next(stream)
        stream.close()
        assert half.reserved_usd == 0
    assert half.spent_usd >= provider.bill.usd
    (call,) = farebox.calls()
    # langchain-anthropic leaves its stream to the collector, which is charged as if all of the cap was used.
    assert call.outcome in ("closed", "dropped")


@tool
def search(query: str) -> str:
    """Look something up."""
    return "nothing found"


def agent(model: str, cap: int) -> Any:
    own = openai.DefaultAsyncHttpxClient()  # the one that LangChain keeps can't be used in a second event loop
    return create_agent(ChatOpenAI(model=model, max_tokens=cap, http_async_client=own), tools=[search])


LOOP: Any = {"messages": [("user", "Find it.")]}
LOOP_WAYS: dict[str, Callable[..., str]] = {
    "sync": lambda agent, **words: text_of(agent.invoke(LOOP, words)["messages"][-1]),
    "async": lambda agent, **words: text_of(asyncio.run(agent.ainvoke(LOOP, words))["messages"][-1]),
    "stream": lambda agent, **words: "".join(
        text_of(part) for part, _ in agent.stream(LOOP, words, stream_mode="messages")
    ),
    "async stream": lambda agent, **words: asyncio.run(streamed_by(agent, words)),
}


async def streamed_by(agent: Any, words: Any) -> str:
    return "".join([text_of(part) async for part, _ in agent.astream(LOOP, words, stream_mode="messages")])


@pytest.mark.surface("langchain agent, a loop of tools", kind="{way}", proves=["exact", "unbroken"])
@pytest.mark.parametrize("way", LOOP_WAYS)
def test_an_agent_answers_as_ever(provider: FakeProvider, way: str) -> None:
    loop_is_as_ever(provider, lambda: LOOP_WAYS[way](agent(MODEL, 500)))


@pytest.mark.surface("langchain agent, a loop of tools", kind="{way}", proves=["exact", "refused"])
@pytest.mark.parametrize("way", LOOP_WAYS)
def test_an_agent_that_never_ends_is_stopped_by_its_half_dollar(provider: FakeProvider, way: str) -> None:
    loop_ends_with_the_budget(provider, lambda: LOOP_WAYS[way](agent("gpt-4.1", 4_000), recursion_limit=500))


def test_after_its_stop_an_agent_gets_what_still_fits_and_no_more(provider: FakeProvider) -> None:
    provider.answer(function="search", text='{"query": "sense"}', output_tokens=2_000)
    with budget("agent", usd=0.1):
        for _ in range(4):
            with contextlib.suppress(BudgetExceeded):
                agent("gpt-4.1", 4_000).invoke(LOOP, {"recursion_limit": 500})
    assert provider.bill.usd <= Decimal("0.1")
    books_equal_bill(provider, len(provider.requests))


def test_an_agents_tool_that_calls_a_model_is_stopped_too_and_so_is_the_agent(provider: FakeProvider) -> None:
    """Tools report errors of theirs to the model by default only where they are told to: a stop is not one to talk over."""
    asked = []

    @tool
    def ask_another(query: str) -> str:
        """Ask another model."""
        asked.append(query)
        return str(ChatOpenAI(model=MODEL, max_tokens=100).invoke(query).text)

    provider.answer(function="ask_another", text='{"query": "sense"}', output_tokens=50, model="gpt-4.1")
    agent = create_agent(ChatOpenAI(model="gpt-4.1", max_tokens=100), tools=[ask_another])
    with budget(calls=5), pytest.raises(BudgetExceeded):
        agent.invoke({"messages": [("user", "Find it.")]}, {"recursion_limit": 500})
    assert len(asked) == 3
    books_equal_bill(provider, 5)
