"""Runs of assistants: held when they begin, paid by what they say at their end, through tools, streams and cancellations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget
from farebox.testing import FakeProvider
from tests.acceptance.rides import OPENAI, needs, nothing_is_left, only_record

pytestmark = [
    pytest.mark.usefixtures("metered"),
    pytest.mark.filterwarnings("ignore:The Assistants API is deprecated:DeprecationWarning"),
]

WORDS: dict[str, Any] = {
    "assistant_id": "asst_1",
    "model": "gpt-4o-mini",
    "max_completion_tokens": 400,
    "max_prompt_tokens": 2_000,
    "tools": [],
}
MESSAGES: Any = [{"role": "user", "content": "Why is that so?"}]
FUNCTIONS: Any = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]
OUTPUTS: Any = [{"tool_call_id": "call_1", "output": "42"}]


@pytest.fixture
def runs(provider: FakeProvider) -> Iterator[Any]:
    with OPENAI.client(provider) as client:
        needs(client.beta, "threads")
        yield client.beta.threads.runs


def polled(runs: Any, **changes: Any) -> Any:
    return runs.create_and_poll(thread_id="thread_1", poll_interval_ms=1, **{**WORDS, **changes})


def raw(runs: Any, **changes: Any) -> Any:
    run = runs.with_raw_response.create("thread_1", **{**WORDS, **changes}).parse()
    return runs.with_raw_response.retrieve(run.id, thread_id="thread_1").parse()


def streamed(runs: Any, **changes: Any) -> Any:
    return list(runs.create("thread_1", stream=True, **{**WORDS, **changes}))


def helped(runs: Any, **changes: Any) -> Any:
    with runs.stream(thread_id="thread_1", **{**WORDS, **changes}) as events:
        events.until_done()


def with_a_thread(runs: Any, **changes: Any) -> Any:
    words = {**WORDS, "thread": {"messages": MESSAGES}, **changes}
    return runs._client.beta.threads.create_and_run_poll(poll_interval_ms=1, **words)


WAYS = [polled, raw, streamed, helped, with_a_thread]


@pytest.mark.parametrize("ask", WAYS)
def test_a_run_costs_what_it_says_at_its_end_and_is_refused_when_it_does_not_fit(
    ask: Callable[..., Any], provider: FakeProvider, runs: Any
) -> None:
    provider.answer(output_tokens=300)
    with budget("runs", usd="0.003") as b:
        with pytest.raises(BudgetExceeded):
            while True:
                ask(runs)
                assert b.spent_usd == provider.bill.usd
        posts = sum(request.method == "POST" for request in provider.requests)
        with pytest.raises(BudgetExceeded):
            ask(runs)
    assert 3 < posts == len(provider.bill.lines) == b.spent_calls
    assert posts == sum(request.method == "POST" for request in provider.requests)
    assert b.debt_usd == 0
    nothing_is_left()


def test_an_async_run_is_paid_too(provider: FakeProvider) -> None:
    async def ask() -> None:
        async with OPENAI.async_client(provider) as client:
            await client.beta.threads.runs.create_and_poll(thread_id="thread_1", poll_interval_ms=1, **WORDS)
            async with client.beta.threads.runs.stream(thread_id="thread_1", **WORDS) as events:
                await events.until_done()

    with budget("runs", usd=1) as b:
        asyncio.run(ask())
    assert (b.spent_calls, b.spent_usd) == (2, provider.bill.usd)


@pytest.mark.parametrize("begins_as_a_stream", [False, True])
@pytest.mark.parametrize("goes_on_as_a_stream", [False, True])
def test_what_its_tools_are_answered_is_part_of_the_run(
    begins_as_a_stream: bool, goes_on_as_a_stream: bool, provider: FakeProvider, runs: Any
) -> None:
    provider.answer(output_tokens=300, function="look_up")
    provider.background(looks=0)
    with budget("runs", usd="0.001", calls=1) as b:
        if begins_as_a_stream:
            *_, last = runs.create("thread_1", stream=True, **WORDS)
            run = last.data
        else:
            run = runs.create("thread_1", **WORDS)
        assert run.status == "requires_action"
        assert b.spent_usd == 0 < provider.bill.usd <= b.reserved_usd
        said = {"thread_id": "thread_1", "tool_outputs": OUTPUTS}
        if goes_on_as_a_stream:
            list(runs.submit_tool_outputs(run.id, stream=True, **said))
        else:
            assert runs.submit_tool_outputs(run.id, **said).status == "completed"
    assert (b.spent_usd, b.reserved_usd) == (provider.bill.usd, 0)
    assert only_record().usage.output_tokens == 300


def test_who_leaves_the_stream_of_a_run_pays_it_when_it_is_asked_after(provider: FakeProvider, runs: Any) -> None:
    provider.answer(output_tokens=300)
    with budget("runs", usd=1) as b:
        with runs.create("thread_1", stream=True, **WORDS) as events:
            run = next(iter(events)).data
        assert b.spent_usd in (0, provider.bill.usd)  # what it said at its end may have arrived already
        runs.retrieve(run.id, thread_id="thread_1")
        assert (b.spent_usd, b.reserved_usd) == (provider.bill.usd, 0)


def test_a_cap_is_sent_where_a_run_has_none(provider: FakeProvider, runs: Any) -> None:
    provider.answer(output_tokens=100_000)
    with pytest.warns(farebox.errors.CutAnswerWarning), budget("runs", usd="0.005") as b:
        polled(runs, max_completion_tokens=None)
    assert 256 <= provider.requests[0].body["max_completion_tokens"] < 10_000
    assert b.spent_usd == provider.bill.usd


def test_a_run_without_a_limit_of_what_it_reads_is_held_for_many_contexts(provider: FakeProvider, runs: Any) -> None:
    with budget("runs", usd="0.01"), pytest.raises(BudgetExceeded):
        polled(runs, max_prompt_tokens=None, tools=FUNCTIONS)
    with budget("runs", usd=1, input_bound="bytes"), pytest.raises(farebox.errors.UnboundedCall, match="thread"):
        polled(runs, max_prompt_tokens=None, tools=FUNCTIONS)
    assert provider.requests == []
    with budget("runs", usd=1) as b:
        polled(runs, max_prompt_tokens=None, tools=FUNCTIONS)
    assert farebox.calls()[-1].bound_tokens > 11 * 128_000
    assert b.spent_usd == provider.bill.usd


def test_a_run_of_a_model_that_only_its_assistant_names_needs_a_price(provider: FakeProvider, runs: Any) -> None:
    with budget("runs", usd=1), pytest.raises(farebox.errors.UnpricedModel, match="assistant:asst_1"):
        polled(runs, model=None)
    assert provider.requests == []
    with budget("runs", usd=10, on_unpriced="dearest") as b:
        polled(runs, model=None)
    assert b.spent_usd == provider.bill.usd
    assert farebox.calls()[-1].response_model == "gpt-4o-mini"


def test_a_session_of_code_is_held_and_paid(provider: FakeProvider, runs: Any) -> None:
    tools = [{"type": "code_interpreter"}]
    with budget("runs", usd="0.02"), pytest.raises(BudgetExceeded):
        polled(runs, tools=tools)
    with budget("runs", usd="0.05") as b:
        polled(runs, tools=tools)
    assert b.spent_usd == provider.bill.usd > Decimal("0.03")


def test_a_run_that_was_stopped_before_it_began_costs_nothing(provider: FakeProvider, runs: Any) -> None:
    provider.background(looks=5)
    with budget("runs", usd=1) as b:
        run = runs.create("thread_1", **WORDS)
        assert runs.cancel(run.id, thread_id="thread_1").status == "cancelled"
    assert (b.spent_usd, b.reserved_usd) == (0, 0)


@pytest.mark.parametrize(
    "said",
    [
        {"usage": None},
        {"usage": {}},
        {"usage": "little"},
        {"usage": {"prompt_tokens": 0, "completion_tokens": 0}, "status": "completed"},
        {"usage": {"prompt_tokens": -1, "completion_tokens": 2}},
        {"usage": {"prompt_tokens": 5}},
        {"status": "of no known kind"},
        {"status": "of no known kind", "usage": {"prompt_tokens": 0, "completion_tokens": 0}},
        {"id": 7},
    ],
    ids=repr,
)
def test_an_end_that_says_nothing_believable_is_charged_at_the_bound(
    said: dict[str, Any], provider: FakeProvider, runs: Any
) -> None:
    provider.odd(edit=lambda run: {**run, "status": "failed", **said})
    with budget("runs", usd=1) as b:
        runs.create("thread_1", **WORDS)
    assert only_record().cost_source == "estimated"
    assert (b.spent_usd, b.reserved_usd) == (only_record().bound_usd, 0)
