"""Responses over a real websocket: each is a call as over HTTP, held and rewritten before it is asked for, and paid."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, report, signals, track
from farebox.errors import UnmeteredCall
from farebox.ledgers import _waiting
from farebox.testing import FakeProvider
from tests.acceptance.rides import CAP, OPENAI, attempt, nothing_is_left, only_record, stormproof

pytest.importorskip("openai._websocket_connection", reason="this openai has no websockets that can be read")
pytest.importorskip("websockets.sync.client", reason="websockets is not installed, or too old")

pytestmark = [
    pytest.mark.usefixtures("metered"),
    pytest.mark.filterwarnings(
        "ignore:connect.. must be used as a context manager:DeprecationWarning"
    ),  # the SDK's own
]
MODEL = "gpt-4o-mini"
WORDS: Any = {"model": MODEL, "input": "How much is a ride?"}
SEARCH: Any = [{"type": "web_search"}]


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def client(provider: FakeProvider, open_client: Any) -> Any:
    return open_client(OPENAI, base_url=provider.openai_base_url)


@pytest.fixture
def connection(client: Any) -> Iterator[Any]:
    with client.responses.connect() as connection:
        yield connection


ENDS = ("response.completed", "response.incomplete")


def listen(connection: Any, until: tuple[str, ...] = ENDS) -> list[Any]:
    """The events that arrive, up to the first of these kinds."""
    events = []
    while not events or events[-1].type not in until:
        events.append(connection.recv())
    return events


def ask(connection: Any, **words: Any) -> Any:
    connection.response.create(**{**WORDS, **words})
    return listen(connection)[-1].response


def in_order() -> list[Any]:
    return sorted(farebox.calls(), key=lambda record: record.started_at)


@pytest.mark.surface("openai responses.connect", kind="sync", proves=["exact", "unbroken"])
def test_each_response_costs_what_the_provider_bills(provider: FakeProvider, connection: Any) -> None:
    provider.answer(output_tokens=40, cached_tokens=3)
    with budget(usd=1) as b, track(feature="agent"):
        first = ask(connection)
        provider.answer(output_tokens=500, reasoning_tokens=100)
        second = ask(connection, previous_response_id=first.id)
        assert (b.spent_usd, b.reserved_usd, b.spent_calls) == (provider.bill.usd, 0, 2)
    # (8 x 0.15 + 3 x 0.075 + 40 x 0.6) dollars a million: 11 tokens of input, as the provider counts them
    assert provider.bill.lines[0].usd == Decimal("0.000025425")
    total = report(where={"feature": "agent", "model": MODEL, "operation": "chat"}).total
    assert (total.usd, total.calls, total.output_tokens) == (provider.bill.usd, 2, 540)
    assert [record.response_id for record in in_order()] == [first.id, second.id]
    assert second.output_text == "abc " * 400
    assert report().total.unmetered_calls == 0
    nothing_is_left()


@pytest.mark.surface("openai responses.connect", kind="async", proves=["exact", "unbroken", "refused"])
def test_async_connections_cost_the_same(provider: FakeProvider) -> None:
    async def main() -> None:
        async with (
            OPENAI.async_client(provider, base_url=provider.openai_base_url) as client,
            client.responses.connect() as connection,
        ):
            with budget(usd=1) as b:
                await connection.response.create(**WORDS)
                async for event in connection:
                    if event.type == "response.completed":
                        break
                assert (b.spent_usd, b.reserved_usd) == (provider.bill.usd, 0)
            with budget(usd=0), pytest.raises(BudgetExceeded):
                await connection.response.create(**WORDS)

    asyncio.run(main())
    assert [record.outcome for record in in_order()] == ["completed", "refused"]
    assert provider.bill.calls == len(provider.requests) == 1
    nothing_is_left()


@pytest.mark.surface("openai responses.connect", kind="sync", proves="refused")
def test_where_nothing_is_left_it_is_refused_and_nothing_is_sent(provider: FakeProvider, connection: Any) -> None:
    with budget("none", usd=0), pytest.raises(BudgetExceeded, match="none"):
        connection.response.create(**WORDS)
    with budget(usd=1) as b:
        ask(connection)  # the connection goes on
        assert b.spent_usd == provider.bill.usd
    assert len(provider.requests) == 1
    nothing_is_left()


def test_the_bound_is_held_while_it_answers_and_the_cap_is_sent(provider: FakeProvider, connection: Any) -> None:
    with budget(usd="0.01") as b:
        connection.response.create(**WORDS, instructions="Be brief.")
        reserved = b.reserved_usd
        listen(connection)
        assert b.spent_usd == provider.bill.usd <= reserved <= Decimal("0.01")
    (request,) = provider.requests
    assert request.body is not None
    assert 0 < request.body["max_output_tokens"] == only_record().sent_cap < 16_384
    assert request.body["instructions"] == "Be brief."


def test_a_budget_in_each_mode_means_what_it_means_over_http(provider: FakeProvider, connection: Any) -> None:
    provider.answer(output_tokens=2_000)
    with budget(usd="0.005", on_exceed="downgrade"):
        assert ask(connection, model="gpt-4.1", max_output_tokens=3_000).model in ("gpt-4.1-mini", "gpt-4.1-nano")
    with budget(usd="0.001", on_exceed="clamp"):
        assert ask(connection, max_output_tokens=3_000).status == "incomplete"
    with budget(usd="0.001", on_exceed="truncate"):
        ask(connection, max_output_tokens=3_000)
        raise AssertionError("the scope had ended")
    with budget(usd="0.0001", on_exceed="raise"), pytest.raises(BudgetExceeded) as crossed:
        ask(connection, max_output_tokens=3_000)
    assert crossed.value.__dict__["response"]["status"] == "completed"
    assert sum(record.usd or 0 for record in farebox.calls()) == provider.bill.usd
    nothing_is_left()


def test_tools_that_run_at_the_provider_are_charged_with_their_fees(provider: FakeProvider, connection: Any) -> None:
    provider.answer(output_tokens=40, web_searches=2, file_searches=1)
    tools: Any = [*SEARCH, {"type": "file_search", "vector_store_ids": ["vs_1"]}]
    with budget(usd=2) as b:
        ask(connection, tools=tools, max_tool_calls=3)
        assert (
            b.spent_usd == provider.bill.usd > Decimal("0.0225")
        )  # 2 x 10 and 2.50 dollars a thousand, and the tokens
    record = only_record()
    assert record.usd is not None
    assert record.usd <= record.bound_usd


def test_what_went_before_counts_as_input_again(provider: FakeProvider, connection: Any) -> None:
    provider.answer(output_tokens=900)
    earlier = ask(connection, max_output_tokens=1_000, store=False)
    connection.response.create(**WORDS, max_output_tokens=16, previous_response_id=earlier.id)
    record = next(record for record in farebox.calls() if record.declared_cap == 16)
    assert 900 < record.bound_tokens < 1_500
    listen(connection, ("error",))  # the provider has not stored it
    assert sum(record.usd or 0 for record in farebox.calls()) == provider.bill.usd


def test_lanes_answer_out_of_order_and_each_pays_for_its_own(provider: FakeProvider, connection: Any) -> None:
    provider.answer(output_tokens=10, model=MODEL)
    provider.answer(output_tokens=500, model="gpt-4.1-mini")
    provider.hold()
    with budget("slow", usd=1) as slow:
        connection.response.create(**WORDS, stream_id="a b")
        provider.wait_until_in_flight(1)
    with budget("quick", usd=1) as quick:
        connection.response.create(**{**WORDS, "model": "gpt-4.1-mini"}, stream_id="a")
        provider.wait_until_in_flight(2)
    provider.reset()
    ended = [listen(connection)[-1] for _ in range(2)]
    assert {event.stream_id for event in ended} == {"a b", "a"}
    cost = {line.model: line.usd for line in provider.bill.lines}
    assert (slow.spent_usd, quick.spent_usd) == (cost[MODEL], cost["gpt-4.1-mini"])
    nothing_is_left()


def test_one_lane_answers_in_the_order_of_asking(provider: FakeProvider, connection: Any) -> None:
    for count in (10, 20, 30):
        provider.answer(output_tokens=count, times=1)
    for name in ("first", "second", "third"):
        with track(name=name):
            connection.response.create(**WORDS)
    for _ in range(3):
        listen(connection)
    said = {record.tags["name"]: record.usage.output_tokens for record in farebox.calls() if record.usage}
    assert said == {"first": 10, "second": 20, "third": 30}


def test_what_the_provider_refuses_costs_nothing(provider: FakeProvider, connection: Any) -> None:
    provider.fail(429)
    with budget(usd=1) as b:
        connection.response.create(**WORDS, stream_id="a")
        connection.response.create(**WORDS, stream_id="b", previous_response_id="resp_unknown")
        for _ in range(2):
            listen(connection, ("error",))
        assert (b.spent_usd, b.reserved_usd) == (0, 0)
        ask(connection)
        assert b.spent_usd == provider.bill.usd
    assert [record.outcome for record in in_order()] == ["failed", "failed", "completed"]


def test_an_error_in_the_midst_of_an_answer_is_presumed_spent(provider: FakeProvider, connection: Any) -> None:
    provider.odd(error_after=2)
    with budget(usd=1) as b:
        connection.response.create(**WORDS)
        listen(connection, ("error",))
        record = only_record()
        assert record.usd == record.bound_usd == b.spent_usd > provider.bill.usd
    assert (record.outcome, record.cost_source) == ("unknown", "estimated")


@pytest.mark.parametrize("end", ["lose", "close", "drop"])
def test_what_is_not_answered_is_presumed_spent(client: Any, provider: FakeProvider, end: str) -> None:
    provider.answer(output_tokens=24)  # more than a few events, and nobody reads as far as that the socket is closed
    with budget(usd=1) as b:
        connection = client.responses.connect().enter()
        if end == "lose":
            provider.drop("chunks", chunks=2)
            connection.response.create(**WORDS)
            attempt(lambda: listen(connection))
            connection.close()
        else:
            connection.response.create(**WORDS)
            raw = connection._connection
            if end == "close":
                connection.close()
            del connection
            gc.collect()
            raw.close()
            signals.settle_late_calls()
        record = only_record()
        assert record.usd == record.bound_usd == b.spent_usd >= provider.bill.usd
        assert b.reserved_usd == 0
    assert record.outcome == {"lose": "unknown", "close": "closed", "drop": "dropped"}[end]
    nothing_is_left()


@pytest.mark.parametrize("usage", [None, {"input_tokens": "12", "output_tokens": 3}, "much"])
def test_a_usage_that_can_t_be_believed_is_charged_at_the_bound(
    provider: FakeProvider, connection: Any, usage: Any
) -> None:
    provider.odd(usage=usage)
    with budget(usd=1) as b:
        ask(connection)
        assert only_record().usd == only_record().bound_usd == b.spent_usd
    assert only_record().cost_source == "estimated"


def test_who_needs_what_an_answer_holds_that_nobody_reads_does_not_wait_for_it(
    client: Any, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_waiting, "IDLE_SECONDS", 0.05)
    refused: list[Any] = []

    def other() -> None:
        refused.append(attempt(lambda: client.responses.create(**WORDS, max_output_tokens=500)))

    with budget(usd="0.0005", patience=20):
        connection.response.create(**WORDS, max_output_tokens=500)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(15)
        listen(connection)
    assert isinstance(refused[0], BudgetExceeded)
    assert refused[0].kind == "contended"


def test_a_storm_of_writers_and_one_reader_stays_within_the_limit(provider: FakeProvider, connection: Any) -> None:
    provider.answer(output_tokens=CAP)
    words = {**WORDS, "max_output_tokens": CAP}
    connection.response.create(**words)
    listen(connection)
    limit = only_record().bound_usd * 5
    asked: list[str] = []

    def write(lane: str) -> None:
        for _ in range(5):
            try:
                connection.response.create(**words, stream_id=lane)
            except BudgetExceeded:
                return
            asked.append(lane)

    def read() -> None:
        while not is_over.is_set() or len(ended) < len(asked):
            with contextlib.suppress(TimeoutError):
                event = connection.recv() if len(ended) < len(asked) else None
                ended.extend([event] if event is not None and event.type in ENDS else [])

    is_over, ended = threading.Event(), []
    with budget(usd=f"{limit:f}", patience=0) as b, stormproof(provider):
        writers = [threading.Thread(target=write, args=(f"lane {n}",)) for n in range(6)]
        reader = threading.Thread(target=read)
        for thread in (*writers, reader):
            thread.start()
        for thread in writers:
            thread.join()
        is_over.set()
        reader.join()
        assert b.reserved_usd == 0
        assert b.spent_usd == provider.bill.usd - provider.bill.lines[0].usd <= limit
    assert provider.bill.calls == len(asked) + 1 >= 6


# ── steering ─────────────────────────────────────────────────────────────────────────────────────────────────────


def begin(provider: FakeProvider, connection: Any, **words: Any) -> str:
    """Ask, and have the answer stop at its second chunk; its id."""
    provider.hold(after_chunks=1)
    connection.response.create(**WORDS, **words)
    return str(
        listen(connection, ("response.output_text.delta", "response.function_call_arguments.delta"))[0].response.id
    )


def test_what_steers_an_answer_is_held_before_it_is_sent_and_is_a_call_of_its_own(
    provider: FakeProvider, connection: Any
) -> None:
    provider.answer(output_tokens=200)
    with budget(usd=1) as b:
        steered = begin(provider, connection, max_output_tokens=300)
        with budget("none", usd=0), pytest.raises(BudgetExceeded, match="none"):
            connection.response.steer(input="No: by boat", previous_response_id=steered)
        with track(feature="steer"):
            connection.response.steer(input="Or rather by train", previous_response_id=steered)
            connection.response.steer(input="the night one", previous_response_id=steered)
        listen(connection, ("response.steer.accepted",))
        listen(connection, ("response.steer.accepted",))
        provider.reset()
        provider.answer(output_tokens=250)
        first, second = (listen(connection)[-1].response for _ in range(2))
        assert first.incomplete_details.reason == "steered"
        assert second.previous_response_id == steered
        assert (b.spent_usd, b.reserved_usd) == (provider.bill.usd, 0)
    # The first of two that steer is answered by the same answer as the last, and costs nothing.
    assert [record.outcome for record in in_order()] == ["completed", "refused", "failed", "completed"]
    last = in_order()[-1]
    assert (last.response_id, last.declared_cap, last.tags["feature"]) == (second.id, 300, "steer")
    assert last.usd is not None
    assert last.usd <= last.bound_usd < Decimal("0.001")
    nothing_is_left()


def test_steering_that_fails_or_is_put_off_costs_nothing_and_is_read_with_the_next_request(
    provider: FakeProvider, connection: Any
) -> None:
    provider.answer(output_tokens=20, function="look", text="{}")
    with budget(usd=1) as b:
        steered = begin(provider, connection, max_output_tokens=100)
        connection.response.steer(input="sheep " * 2_000, previous_response_id=steered)
        listen(connection, ("response.steer.accepted",))
        provider.reset()
        listen(connection, ("response.steer.pending",))
        assert (b.spent_usd, b.reserved_usd) == (provider.bill.usd, 0)
        connection.response.steer(input="Too late", previous_response_id=steered)
        listen(connection, ("response.steer.failed",))
        assert b.reserved_usd == 0
        output: Any = [{"type": "function_call_output", "call_id": "call_1", "output": "a boat"}]
        connection.response.create(model=MODEL, input=output, previous_response_id=steered, max_output_tokens=100)
        listen(connection)
        assert b.spent_usd == provider.bill.usd
    last = in_order()[-1]
    assert provider.bill.lines[-1].input_tokens > 2_000
    assert last.usd is not None
    assert last.usd <= last.bound_usd
    nothing_is_left()


def test_after_a_refusal_to_steer_an_answer_can_be_gone_on_from_as_usual(
    provider: FakeProvider, connection: Any
) -> None:
    steered = begin(provider, connection, max_output_tokens=100)
    with budget(usd=0), pytest.raises(BudgetExceeded):
        connection.response.steer(input="No: by boat", previous_response_id=steered)
    provider.reset()
    listen(connection)
    with budget(usd="0.01") as b:
        ask(connection, previous_response_id=steered, max_output_tokens=100)
        assert (b.spent_usd, b.reserved_usd) == (provider.bill.lines[-1].usd, 0)
    assert [record.outcome for record in in_order()] == ["completed", "refused", "completed"]
    nothing_is_left()


def test_an_answer_that_nobody_asked_for_is_held_when_it_begins(provider: FakeProvider, connection: Any) -> None:
    """Such as the one after a response that somebody steered who was not seen."""
    with budget(usd=1) as b:
        type(connection).send_raw.__wrapped__(
            connection, '{"type": "response.create", "model": "gpt-4o-mini", "input": "hi"}'
        )
        listen(connection, ("response.created",))
        assert b.reserved_usd > Decimal("0.019")  # all that the model can read: 128,000 x 0.15 dollars a million
        listen(connection)
        assert (b.spent_usd, b.reserved_usd) == (provider.bill.usd, 0)


# ── odd things ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_made_ready_without_an_answer_is_held_for_its_input_alone(
    provider: FakeProvider, connection: Any
) -> None:
    with budget(usd=1) as b:
        ready = ask(connection, generate=False)
        record = only_record()
        assert record.bound_usd < Decimal("0.0001")
        assert b.spent_usd == provider.bill.usd
        ask(connection, previous_response_id=ready.id)
        assert b.spent_usd == provider.bill.usd
    assert record.sent_cap is None


def test_what_nobody_can_read_is_refused_under_a_limit(provider: FakeProvider, connection: Any) -> None:
    with budget(usd=1), pytest.raises(UnmeteredCall):
        connection.send({"type": "response.create", "input": "hi"})
    with budget(calls=1):
        connection.send({"type": "response.create", "input": "hi"})
        listen(connection, ("error",))
    assert provider.bill.calls == 0


def test_odd_events_pass_as_they_are(provider: FakeProvider, connection: Any) -> None:
    with budget(usd=1):
        connection.send_raw('{"type": "dreams.begin", "sheep": [1, {"deep": null}]}')
        listen(connection, ("error",))
        for odd in ("no JSON", "[]", b"\xff", '{"type": []}'):
            connection.send_raw(odd)
            listen(connection, ("error",))
        connection.send_raw('{"type": "response.steer", "previous_response_id": 7, "input": {}}')
        listen(connection, ("response.steer.failed",))
        connection.send_raw(
            '{"type": "response.create", "model": "gpt-4o-mini", "input": "hi", "tools": 7, "stream_id": [7]}'
        )
        listen(connection)
    assert only_record().usd == provider.bill.usd


def test_without_a_budget_an_event_is_sent_as_it_came(provider: FakeProvider, connection: Any) -> None:
    ask(connection, temperature=0.5)
    (request,) = provider.requests
    assert request.body == {**WORDS, "temperature": 0.5, "stream": True}


def test_what_is_sent_before_there_is_a_connection_is_held_then(client: Any, provider: FakeProvider) -> None:
    manager = client.responses.connect()
    with budget(usd=0), pytest.raises(BudgetExceeded):
        manager.send({"type": "response.create", **WORDS})
    with budget(usd=1) as b:
        manager.send({"type": "response.create", **WORDS})
        assert b.reserved_usd > 0
        with manager as connection:
            listen(connection)
    assert b.spent_usd == provider.bill.usd
    nothing_is_left()


def test_a_beta_connection_is_one_unmetered_call(client: Any) -> None:
    with budget(usd=1), pytest.raises(UnmeteredCall, match="beta"), client.beta.responses.connect():
        raise AssertionError("it was opened")
