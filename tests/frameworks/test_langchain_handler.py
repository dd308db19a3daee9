"""The callback handler for LangChain's models of other vendors: Mistral's, which sends by HTTP of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, track
from farebox.testing import ABSENT, FakeProvider, Price
from tests.frameworks.oracle import MODEL, books_equal_bill, need

need("langchain_core", "langchain_mistralai", "langchain_openai")

from langchain.agents import create_agent  # noqa: E402
from langchain_core.caches import InMemoryCache  # noqa: E402
from langchain_core.language_models import GenericFakeChatModel  # noqa: E402
from langchain_core.messages import AIMessage, HumanMessage  # noqa: E402
from langchain_core.tools import tool  # noqa: E402
from langchain_mistralai import ChatMistralAI  # noqa: E402
from langchain_openai import ChatOpenAI  # noqa: E402

from farebox.integrations.langchain import BudgetHandler, is_metered  # noqa: E402

SMALL = "mistral-small-2506"


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """Mistral speaks OpenAI's format; its price here is 0.10 and 0.30 USD per million tokens."""
    with FakeProvider(prices={SMALL: Price("0.1", "0.3")}) as provider:
        with farebox.configure(prices='{"mistral-small-2506": {"input_per_million": 0.1, "output_per_million": 0.3}}'):
            yield provider


@pytest.fixture
def chat(provider: FakeProvider) -> Callable[..., ChatMistralAI]:
    def made(**options: Any) -> ChatMistralAI:
        words = {"model": SMALL, "max_tokens": 500, "max_retries": 1, "callbacks": [BudgetHandler()], **options}
        return ChatMistralAI(endpoint=provider.openai_base_url, api_key="fake", **words)

    return made


def with_usage_at_the_end(event: dict[str, Any]) -> dict[str, Any]:
    """Mistral sends it unasked, in the chunk that says why the answer has ended."""
    if event["choices"] and event["choices"][0]["finish_reason"]:
        return {**event, "usage": {"prompt_tokens": 20, "completion_tokens": 100, "total_tokens": 120}}
    return event


async def collected(stream: Any) -> str:
    return "".join([str(part.text) async for part in stream])


WAYS: dict[str, Callable[[Any], str]] = {
    "sync": lambda model: str(model.invoke("Why?").text),
    "async": lambda model: str(asyncio.run(model.ainvoke("Why?")).text),
    "stream": lambda model: "".join(str(part.text) for part in model.stream("Why?")),
    "async stream": lambda model: asyncio.run(collected(model.astream("Why?"))),
}


@pytest.mark.surface(
    "LangChain's other vendors, by BudgetHandler", kind="{way}", proves=["exact", "unbroken"], of="langchain-core"
)
@pytest.mark.parametrize("way", WAYS)
def test_a_call_of_another_vendor_is_counted_once_and_answers_as_ever(chat: Any, provider: Any, way: str) -> None:
    provider.answer(text="Because it is so.", output_tokens=100, input_tokens=20)
    if "stream" in way:
        provider.odd(edit=with_usage_at_the_end, times=None)
    with track(feature="other"), budget("half", usd=0.5) as half:
        assert WAYS[way](chat()) == "Because it is so."
    assert half.spent_usd == provider.bill.usd
    books_equal_bill(provider, 1, feature="other")
    (call,) = farebox.calls()
    assert (call.provider_name, call.request_model, call.response_model) == ("mistral_ai", SMALL, SMALL)
    assert (call.cost_source, call.doubt) == ("manual", "")


@pytest.mark.surface("LangChain's other vendors, by BudgetHandler", kind="{way}", proves="refused", of="langchain-core")
@pytest.mark.parametrize("way", WAYS)
def test_an_exhausted_budget_sends_nothing(chat: Any, provider: Any, tight: Any, way: str) -> None:
    with pytest.raises(BudgetExceeded) as stop:
        WAYS[way](chat())
    assert (stop.value.budget, stop.value.kind) == ("tight", "oversized")
    assert not provider.requests
    assert [call.outcome for call in farebox.calls()] == ["refused"]


@pytest.mark.parametrize("way", WAYS)
def test_what_an_instrumented_sdk_counts_is_left_alone(provider: Any, way: str) -> None:
    provider.answer(text="Because.")
    model = ChatOpenAI(model=MODEL, max_tokens=500, callbacks=[BudgetHandler()])
    with budget(calls=1) as one:
        assert WAYS[way](model) == "Because."
    assert one.spent_calls == 1
    books_equal_bill(provider, 1)


def test_without_instrument_the_handler_counts_for_every_vendor(provider: Any) -> None:
    farebox.uninstrument()
    with budget(usd=0.5):
        ChatOpenAI(model=MODEL, max_tokens=500, callbacks=[BudgetHandler()]).invoke("Why?")
    books_equal_bill(provider, 1)
    assert farebox.calls()[0].endpoint == "langchain ChatOpenAI"


def test_only_what_imports_a_metered_sdk_is_left_to_it() -> None:
    assert is_metered(tuple(ChatOpenAI.lc_id()))
    assert not is_metered(tuple(ChatMistralAI.lc_id()))
    assert not is_metered(tuple(GenericFakeChatModel.lc_id()))
    assert not is_metered(("nowhere", "ChatOpenAI"))


def test_a_class_can_be_left_to_what_counts_below_it(chat: Any, provider: Any, tight: Any) -> None:
    chat(callbacks=[BudgetHandler(leave=["ChatMistralAI"])]).invoke("Why?")
    assert len(provider.requests) == 1
    assert not farebox.calls()


def test_calls_that_would_fit_one_after_the_other_wait_in_threads_and_in_tasks(chat: Any, provider: Any) -> None:
    """A call holds 500 tokens, 0.00016 USD or so, and costs a hundredth of it."""
    provider.answer(text="No.")
    with budget(usd="0.0004") as b:
        chat().batch(["Why?"] * 8)
        asyncio.run(chat().abatch(["Why?"] * 8))
    assert b.debt_usd == 0
    books_equal_bill(provider, 16)


def test_one_budget_for_threads_sends_what_it_has_money_for(chat: Any, provider: Any) -> None:
    provider.answer(output_tokens=500)
    with budget(usd="0.0009") as b:  # five answers of 500 tokens are 0.00075 USD
        answers = chat().batch(["Why?"] * 20, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BudgetExceeded)]
    assert 0 < provider.bill.calls == 20 - len(refused) <= 5
    assert provider.bill.usd == b.spent_usd <= Decimal("0.0009")


def test_an_answer_from_the_cache_costs_nothing_and_is_no_call(chat: Any, provider: Any) -> None:
    model = chat(cache=InMemoryCache())
    with budget(calls=2) as b:
        for _ in range(5):
            model.invoke("Why?")
        assert b.spent_calls == 1
    assert [call.outcome for call in farebox.calls()] == ["completed"] + ["vetoed"] * 4
    assert farebox.report().total.usd == provider.bill.usd


def test_a_failed_call_gives_back_what_it_held(chat: Any, provider: Any) -> None:
    provider.fail(400, times=1)
    with budget(usd=0.5) as b, pytest.raises(Exception, match="400"):
        chat().invoke("Why?")
    assert (b.spent_usd, b.reserved_usd) == (0, 0)
    assert [call.outcome for call in farebox.calls()] == ["failed"]


@pytest.mark.parametrize("after", ["billing", "chunks"])
def test_a_call_that_nobody_knows_the_end_of_is_charged_at_its_bound(chat: Any, provider: Any, after: Any) -> None:
    provider.drop(after, times=None)
    with budget(usd=0.5) as b, pytest.raises(Exception, match=r"."):
        chat().invoke("Why?")
    (call,) = farebox.calls()
    assert (call.outcome, call.cost_source, b.reserved_usd) == ("unknown", "estimated", 0)
    assert b.spent_usd == call.bound_usd >= provider.bill.usd / provider.bill.calls


def test_an_answer_without_usage_is_charged_at_its_bound_and_marked(chat: Any, provider: Any) -> None:
    provider.odd(usage=ABSENT)
    with budget(usd=0.5) as b:
        chat().invoke("Why?")
    (call,) = farebox.calls()
    assert (call.outcome, call.cost_source, call.doubt) == ("completed", "estimated", "no usage")
    assert b.spent_usd == call.bound_usd


def test_a_stream_that_is_left_early_is_charged_for_what_came(chat: Any, provider: Any) -> None:
    provider.answer(output_tokens=5_000)
    with budget(usd=0.5) as b:
        stream = chat(max_tokens=10_000).stream("Why?")
        for _ in range(5):
            next(stream)
        stream.close()
        assert b.reserved_usd == 0
    (call,) = farebox.calls()
    assert (call.outcome, call.is_stream) == ("closed", True)
    assert 0 < b.spent_usd < call.bound_usd


def test_several_prompts_of_which_one_does_not_fit_leave_nothing_held(chat: Any, provider: Any) -> None:
    with budget(usd="0.0002") as b, pytest.raises(BudgetExceeded):
        chat().generate([[HumanMessage("Why?")], [HumanMessage("Why? " * 2_000)]])
    assert (b.spent_usd, b.reserved_usd) == (0, 0)
    assert not provider.requests


def test_modes_that_would_change_a_call_refuse_it_and_raise_lets_one_cross(chat: Any, provider: Any) -> None:
    for mode in ("clamp", "downgrade"):
        with budget(usd="0.00001", on_exceed=mode), pytest.raises(BudgetExceeded):
            chat().invoke("Why?")
    assert not provider.requests
    provider.answer(output_tokens=500)
    with budget(usd="0.0001", on_exceed="raise"):
        with pytest.raises(BudgetExceeded) as crossed:
            chat().invoke("Why?")
        with pytest.raises(BudgetExceeded):
            chat().invoke("Why?")
    assert crossed.value.response.generations
    assert provider.bill.calls == 1


def test_truncate_ends_the_function_quietly(chat: Any, provider: Any) -> None:
    @budget(calls=2, on_exceed="truncate", default="that is all")
    def ask() -> str:
        while True:
            chat().invoke("Why?")

    assert ask() == "that is all"
    assert provider.bill.calls == 2


def test_an_agent_of_another_vendor_is_stopped_in_the_middle(chat: Any, provider: Any) -> None:
    @tool
    def search(query: str) -> str:
        """Look something up."""
        return "nothing found"

    provider.answer(function="search", text='{"query": "sense"}', output_tokens=400)
    agent = create_agent(chat(), tools=[search])
    with track(feature="agent"), budget(usd="0.002") as b, pytest.raises(BudgetExceeded):
        agent.invoke({"messages": [("user", "Find it.")]}, {"recursion_limit": 500})
    assert provider.bill.calls > 5
    assert provider.bill.usd == b.spent_usd <= Decimal("0.002")
    books_equal_bill(provider, len(provider.requests), feature="agent")


def test_a_model_without_a_price_is_refused_under_a_usd_limit(provider: Any) -> None:
    model = GenericFakeChatModel(messages=iter([AIMessage("a")]), callbacks=[BudgetHandler()])
    with budget(usd=1), pytest.raises(farebox.errors.UnpricedModel):
        model.invoke("Why?")
