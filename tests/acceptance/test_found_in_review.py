"""What a reading of the whole found: places where the books and the bill, or the docs and the code, came apart."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from decimal import Decimal
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, on_exceed, reserve, signals
from tests.acceptance.rides import CAP, OPENAI, Ride, attempt, bound_of, farebox_usd

pytestmark = pytest.mark.usefixtures("metered")

AT_ONCE = {"retry-after-ms": "1"}


def less_than_a_call(ride: Ride, is_stream: bool = False) -> Decimal:
    return farebox_usd(bound_of(ride, is_stream=is_stream).usd_nanos * 9 // 10)


# ── retries ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["raise", lambda short: on_exceed.Proceed()], ids=["raise", "callable"])
def test_a_call_that_crosses_is_not_tried_again(ride: Ride, provider: Any, open_client: Any, mode: Any) -> None:
    provider.drop("billing", times=2)
    with budget(usd=less_than_a_call(ride), on_exceed=mode, patience=0) as b, pytest.raises(BudgetExceeded):
        ride.ask(open_client(ride, max_retries=2))
    assert len(provider.requests) == 1
    assert b.spent_usd == farebox_usd(bound_of(ride).usd_nanos) >= provider.bill.usd
    assert b.reserved_usd == 0


def test_a_refused_retry_is_charged_for_no_attempt_that_was_not_made(
    ride: Ride, provider: Any, open_client: Any
) -> None:
    # The first attempt is answered with an error status, the second is lost, and there is no money for a third.
    bound = bound_of(ride).usd_nanos
    provider.fail(status=500, headers=AT_ONCE)
    with budget(usd=farebox_usd(bound * 3 // 2)) as b:
        provider.drop("billing")
        with pytest.raises(BudgetExceeded):
            ride.ask(open_client(ride, max_retries=3))
    assert len(provider.requests) == 2
    assert (b.spent_usd, b.debt_usd) == (farebox_usd(bound), 0)


def test_who_stops_a_retry_pays_for_the_attempt_that_was_made(ride: Ride, provider: Any, open_client: Any) -> None:
    def veto(provider_name: str, call: Any) -> None:
        raise RuntimeError("no retry")

    provider.drop("billing")
    with budget(usd=1) as b, signals.pre_retry.connected_to(veto), pytest.raises(RuntimeError):
        ride.ask(open_client(ride, max_retries=2))
    assert len(provider.requests) == 1
    assert b.spent_usd == farebox_usd(bound_of(ride).usd_nanos)


def test_a_task_cancelled_before_its_retry_pays_for_the_attempt_that_was_made(ride: Ride, provider: Any) -> None:
    async def main() -> Any:
        async with ride.async_client(provider, max_retries=2) as client:
            with budget(usd=1) as b:
                asked = asyncio.create_task(ride.ask(client))
                while b.reserved_usd < 2 * farebox_usd(bound_of(ride).usd_nanos):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                asked.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asked
                return b

    provider.drop("billing")
    b = asyncio.run(main())
    assert len(provider.requests) == 1
    assert b.spent_usd == farebox_usd(bound_of(ride).usd_nanos)


# ── raise ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_who_waits_for_a_crossing_waits_no_longer_than_its_patience(ride: Ride, provider: Any, client: Any) -> None:
    began, enough = threading.Event(), threading.Event()

    def read_slowly() -> None:
        with ride.stream(client) as stream:
            for _ in stream:
                began.set()
                if enough.is_set():
                    break

    provider.chunks(50)
    provider.pace(0.05)
    with budget(usd=less_than_a_call(ride, True), on_exceed="raise", patience=0.3):
        reader = threading.Thread(target=read_slowly)
        reader.start()
        assert began.wait(10)
        asked_at = time.monotonic()
        refused = attempt(lambda: ride.ask(client, max_tokens=CAP // 4))
        waited = time.monotonic() - asked_at
        enough.set()
        reader.join()
    assert isinstance(refused, BudgetExceeded)
    assert refused.kind == "contended"
    assert waited < 1.0


@pytest.mark.parametrize("mode", ["raise", "block"])
def test_a_stream_closed_by_a_finalizer_inside_the_ledger_waits_for_no_lock(
    ride: Ride, provider: Any, client: Any, mode: str
) -> None:
    # The collector may run a finalizer that closes a stream while its thread is in the middle of an operation.
    usd = less_than_a_call(ride, True) if mode == "raise" else 1
    with budget(usd=usd, on_exceed=mode) as b:
        seen: list[Decimal] = []

        def look(provider_name: str, call: Any) -> None:
            seen.append(b.spent_usd)

        def close() -> None:
            stream = ride.stream(client)
            next(iter(stream))
            ledger: Any = b.ledger
            with ledger._lock:
                stream.close()

        with signals.post_call.connected_to(look):
            closing = threading.Thread(target=close, daemon=True)
            closing.start()
            closing.join(10)
        assert not closing.is_alive()
    assert len(seen) == 1
    assert b.spent_usd > 0 == b.reserved_usd


# ── reserve ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_hold_that_a_receiver_stops_is_given_back() -> None:
    def veto(provider_name: str, call: Any) -> None:
        raise RuntimeError("no")

    with budget(usd=1) as b, signals.pre_call.connected_to(veto):
        with pytest.raises(RuntimeError), reserve(usd="0.2"):
            raise AssertionError("entered")
        assert (b.reserved_usd, b.spent_usd, b.reserved_calls) == (0, 0, 0)
    assert [call.outcome for call in farebox.calls()] == ["vetoed"]


def test_a_hold_that_is_cancelled_in_a_receiver_is_given_back() -> None:
    async def slow(provider_name: str, call: Any) -> None:
        await asyncio.sleep(30)

    async def hold() -> None:
        async with reserve(usd="0.2"):
            raise AssertionError("entered")

    async def main() -> Any:
        with budget(usd=1) as b, signals.pre_call.connected_to(slow):
            holding = asyncio.create_task(hold())
            while not b.reserved_usd:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            holding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await holding
        return b

    b = asyncio.run(main())
    assert (b.reserved_usd, b.spent_usd) == (0, 0)


# ── the budgets of one client ────────────────────────────────────────────────────────────────────────────────────


def test_the_limit_of_a_client_holds_over_a_change_of_the_ledger(provider: Any, open_client: Any) -> None:
    client = farebox.instrument(open_client(OPENAI), budgets=[budget("client", calls=2)])
    OPENAI.ask(client)
    OPENAI.ask(client)
    with farebox.configure(ledger="memory://"), budget("scope", usd=1), pytest.raises(BudgetExceeded, match="client"):
        OPENAI.ask(client)
    assert provider.bill.calls == 2


@pytest.mark.parametrize("words", [{}, {"tags": {"team": "search"}}], ids=["plain", "tags"])
@pytest.mark.parametrize("is_copy", [False, True], ids=["itself", "copy"])
def test_a_client_instrumented_again_keeps_its_budgets(
    provider: Any, open_client: Any, words: Any, is_copy: bool
) -> None:
    client = farebox.instrument(open_client(OPENAI), tags={"app": "shop"}, budgets=[budget("client", calls=1)])
    OPENAI.ask(client)
    again = farebox.instrument(client.with_options(timeout=9.0) if is_copy else client, **words)
    with pytest.raises(BudgetExceeded, match="client"):
        OPENAI.ask(again)
    assert dict(farebox.calls()[-1].tags) == {"app": "shop", **words.get("tags", {})}
    assert provider.bill.calls == 1


def in_a_forked_child(work: Any) -> str:
    """What `work` returns, or the class of what it raises, in a child of this process."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = str(work())
        except BaseException as error:
            said = type(error).__name__
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    said = os.read(read, 1000).decode()
    os.close(read)
    return said


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_the_tags_of_a_client_made_before_a_fork_close_no_budget_of_the_child(provider: Any, open_client: Any) -> None:
    client = farebox.instrument(open_client(OPENAI), tags={"app": "shop"})

    def work() -> str:
        with budget("child", usd=1) as b:
            OPENAI.ask(client)
        return f"{b.spent_calls}"

    assert in_a_forked_child(work) == "1"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_client_with_a_budget_of_the_childs_own_asks_inside_a_track_of_the_parent(provider: Any) -> None:
    def work() -> str:
        with OPENAI.client(provider) as client:
            farebox.instrument(client, budgets=[budget("child", calls=1)])
            OPENAI.ask(client)
            try:
                OPENAI.ask(client)
            except BudgetExceeded as error:
                return error.kind
        return "nothing held"

    with farebox.track(feature="search"):
        assert in_a_forked_child(work) in ("exhausted", "oversized")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_names_the_budget_that_was_inherited(provider: Any, open_client: Any) -> None:
    client = farebox.instrument(open_client(OPENAI), budgets=[budget("parents", usd=1)])

    def work() -> str:
        with budget("childs", usd=1):
            try:
                OPENAI.ask(client)
            except BudgetExceeded as error:
                return error.budget
        return "sent"

    assert in_a_forked_child(work) == "parents"


# ── answers that are asked after ─────────────────────────────────────────────────────────────────────────────────


def test_an_answer_asked_after_in_pieces_reaches_its_reader_and_settles(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    provider.background(1)
    with budget(usd=1) as b:
        begun = client.responses.create(model="gpt-4.1", input="hi", background=True, max_output_tokens=400)
        for status in ("in_progress", "completed"):
            assert b.spent_usd == 0 < b.reserved_usd
            with client.responses.with_streaming_response.retrieve(begun.id) as answer:
                assert answer.json()["status"] in (status, "queued" if status == "in_progress" else status)
        assert (b.spent_usd, b.reserved_usd) == (provider.bill.usd, 0)


def test_an_answer_asked_after_and_not_read_stays_held(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    with budget(usd=1) as b:
        begun = client.responses.create(model="gpt-4.1", input="hi", background=True, max_output_tokens=400)
        with client.responses.with_streaming_response.retrieve(begun.id):
            pass
        assert b.spent_usd == 0 < b.reserved_usd
        client.responses.retrieve(begun.id)
        assert (b.spent_usd, b.reserved_usd) == (provider.bill.usd, 0)


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_async_function_that_is_to_decide_is_refused_when_the_budget_is_made() -> None:
    async def decide(short: Any) -> None:
        return None

    with pytest.raises(TypeError, match=r"on_exceed=.*decide is an async function"):
        budget(usd=1, on_exceed=decide)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ({"budgets": budget(usd=1)}, r"budgets=<budget .*> is a budget; write budgets=\[budget"),
        ({"budgets": None}, r"budgets=None is a NoneType; write budgets=\[budget"),
        ({"tags": "search"}, r"tags='search' is a str; write tags=\{'team'"),
    ],
)
def test_a_word_of_the_wrong_type_is_named_with_the_line_to_write(open_client: Any, words: Any, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        farebox.instrument(open_client(OPENAI), **words)


def test_only_a_function_can_be_carried() -> None:
    with pytest.raises(TypeError, match=r"carry\(5\) got a int"):
        farebox.carry(5)  # type: ignore[arg-type]
