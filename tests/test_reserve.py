"""reserve(): held before it is used, charged once, under the same budgets as calls."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, on_exceed, report, reserve, track
from farebox.errors import BudgetWarning


def test_it_holds_on_entry_and_charges_what_it_came_to() -> None:
    with budget(usd=1) as b:
        with reserve(usd="0.20", tokens=7) as hold:
            assert (b.reserved_usd, b.reserved_tokens, b.reserved_calls) == (Decimal("0.2"), 7, 1)
            hold.settle(usd="0.13", tokens=5)
            assert (b.spent_usd, b.reserved_usd) == (Decimal("0.13"), 0)
    assert (b.spent_tokens, b.spent_calls, b.reserved_calls) == (5, 1, 0)


def test_left_without_a_word_it_is_charged_in_full() -> None:
    with budget(usd=1) as b, reserve(usd="0.20", tokens=7):
        pass
    assert (b.spent_usd, b.spent_tokens, b.reserved_usd) == (Decimal("0.2"), 7, 0)
    (record,) = farebox.calls()
    assert (record.outcome, record.cost_source, record.error_class) == ("unknown", "estimated", "")


def test_left_by_an_error_it_is_charged_in_full_and_the_error_goes_on() -> None:
    with budget(usd=1) as b, pytest.raises(KeyError), reserve(usd="0.20"):
        raise KeyError("the tool's own")
    assert b.spent_usd == Decimal("0.2")
    (record,) = farebox.calls()
    assert (record.outcome, record.error_class) == ("unknown", "KeyError")


def test_released_it_costs_nothing() -> None:
    with budget(usd=1) as b, reserve(usd="0.20") as hold:
        hold.release()
        assert b.reserved_usd == 0
    assert (b.spent_usd, b.spent_calls) == (0, 0)
    assert report().total.usd == 0


@pytest.mark.parametrize("first", ["settle", "release"])
def test_what_was_said_first_stays_so(first: str) -> None:
    with budget(usd=1) as b, reserve(usd="0.20") as hold:
        if first == "settle":
            hold.settle(usd="0.13")
        hold.release()
        hold.settle(usd="0.19")
    assert b.spent_usd == (Decimal("0.13") if first == "settle" else 0)
    assert len(farebox.calls()) == 1


def test_more_than_was_held_is_charged_in_full_and_becomes_debt() -> None:
    with budget("b", usd="0.25") as b, reserve(usd="0.20") as hold:
        hold.settle(usd="0.30")
    assert (b.spent_usd, b.debt_usd) == (Decimal("0.3"), Decimal("0.1"))
    assert [event.did for event in b.decisions] == ["debt"]
    with budget("c", usd="0.25"), pytest.raises(BudgetExceeded), reserve(usd="0.26"):
        pass


def test_what_does_not_fit_is_refused_on_entry_and_holds_nothing() -> None:
    entered: list[str] = []
    with budget("outer", usd="0.50") as outer, budget("inner", usd="0.10") as inner:
        with pytest.raises(BudgetExceeded) as refusal, reserve(usd="0.20"):
            entered.append("in")
    assert not entered
    assert (refusal.value.budget, refusal.value.kind) == ("inner", "oversized")
    assert refusal.value.needed == Decimal("0.2")
    assert outer.reserved_usd == inner.reserved_usd == outer.spent_usd == 0
    assert report().total.refused_calls == 1


def test_each_unit_of_a_budget_holds() -> None:
    for limits in ({"usd": "0.1"}, {"tokens": 10}, {"calls": 0}):
        with budget(**limits), pytest.raises(BudgetExceeded) as refusal, reserve(usd="0.11", tokens=11):
            pass
        assert refusal.value.unit == next(iter(limits))


def test_tags_are_on_the_record_and_not_on_what_runs_inside() -> None:
    with budget(usd=1), track(feature="search"), reserve(usd="0.2", provider="acme", operation="crawl", tool="web"):
        assert farebox.current().tags == {"feature": "search"}  # type: ignore[union-attr]
    (record,) = farebox.calls()
    assert record.tags == {"feature": "search", "tool": "web"}
    assert (record.provider_name, record.operation_name, record.request_model) == ("acme", "crawl", "")
    (row,) = report(by=["tool", "provider"])
    assert (row.tags["tool"], row.provider, row.usd) == ("web", "acme", Decimal("0.2"))


def test_it_is_recorded_outside_of_every_scope_as_well() -> None:
    with reserve(usd="0.20") as hold:
        hold.settle(usd="0.13")
    assert report().total.usd == Decimal("0.13")


def test_it_needs_no_price_under_a_usd_limit() -> None:
    with budget(usd=1) as b, budget(usd=1, input_bound="bytes", output_cap=10, on_unpriced="refuse"):
        with reserve(usd="0.20", tokens=5):
            pass
    assert b.spent_usd == Decimal("0.2")


def test_one_object_of_nothing_counts_a_call() -> None:
    with budget(calls=2) as b:
        for _ in range(2):
            with reserve() as hold:
                hold.settle()
        with pytest.raises(BudgetExceeded), reserve():
            pass
    assert b.spent_calls == 2


@pytest.mark.parametrize(
    "words",
    [{"usd": -1}, {"usd": "x"}, {"usd": float("nan")}, {"tokens": -1}, {"tokens": 1.5}, {"tokens": True}],
    ids=str,
)
def test_amounts_are_checked_when_it_is_made_and_when_it_is_settled(words: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        reserve(**words)
    with budget(usd=1) as b, reserve(usd="0.2") as hold:
        with pytest.raises((ValueError, TypeError)):
            hold.settle(**words)
        assert b.reserved_usd == Decimal("0.2")
        hold.settle(usd="0.1")
    assert b.spent_usd == Decimal("0.1")


def test_a_tag_with_the_name_of_a_dimension_is_refused_before_anything_is_held() -> None:
    with budget(usd=1) as b, pytest.raises(ValueError, match="model"):
        with reserve(usd="0.2", model="x"):
            pass
    assert (b.spent_usd, b.reserved_usd) == (0, 0)


# ── modes ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["block", "wait", "downgrade", "clamp", "break"])
def test_what_a_mode_can_do_nothing_about_is_refused(mode: str) -> None:
    with budget(usd="0.1", on_exceed=mode) as b, pytest.raises(BudgetExceeded), reserve(usd="0.2"):
        pass
    assert [event.did for event in b.decisions] == ["stop"]


def test_warn_lets_it_go() -> None:
    with budget(usd="0.1", on_exceed="warn") as b, pytest.warns(BudgetWarning), reserve(usd="0.2"):
        pass
    assert b.spent_usd == Decimal("0.2")


def test_truncate_ends_the_scope() -> None:
    @budget(usd="0.1", on_exceed="truncate", default="cut")
    def program() -> str:
        with reserve(usd="0.2"):
            return "inside"

    assert program() == "cut"


@pytest.mark.parametrize("answer", [on_exceed.Rewrite(model="x"), on_exceed.Rewrite(max_output_tokens=5)])
def test_it_cannot_be_rewritten(answer: Any) -> None:
    with budget(usd="0.1", on_exceed=lambda _: answer) as b, pytest.raises(BudgetExceeded), reserve(usd="0.2"):
        pass
    assert [event.did for event in b.decisions] == ["stop"]


def test_a_rewrite_at_a_rung_lets_it_go_as_asked() -> None:
    with budget(usd=1, at={0.1: on_exceed.Ask(lambda _: on_exceed.Rewrite(max_output_tokens=5))}) as b:
        for _ in range(2):
            with reserve(usd="0.2"):
                pass
    assert b.spent_usd == Decimal("0.4")


def test_raise_lets_one_cross_and_is_a_gate_afterwards() -> None:
    with budget(usd="0.3", on_exceed="raise") as b:
        for _ in range(2):
            try:
                with reserve(usd="0.2"):
                    pass
            except BudgetExceeded:
                pass
        with pytest.raises(BudgetExceeded), reserve(usd="0.2"):
            pass
    assert (b.spent_usd, b.debt_usd) == (Decimal("0.4"), Decimal("0.1"))


@pytest.mark.parametrize("ending", ["settle", "leave"])
def test_the_one_that_crossed_raises_once_it_is_over(ending: str) -> None:
    with budget("r", usd="0.3", on_exceed="raise"):
        with reserve(usd="0.2"):
            pass
        with pytest.raises(BudgetExceeded), reserve(usd="0.2") as hold:
            if ending == "settle":
                hold.settle(usd="0.2")


# ── waiting, threads and tasks ───────────────────────────────────────────────────────────────────────────────────


def test_it_waits_for_others_to_settle() -> None:
    with budget(usd="0.3") as b, ThreadPoolExecutor(2) as pool:
        held, done = threading.Event(), threading.Event()

        def first() -> None:
            with reserve(usd="0.2") as hold:
                held.set()
                done.wait(5)
                hold.settle(usd="0.05")

        def second() -> float:
            held.wait(5)
            began = time.monotonic()
            with reserve(usd="0.2") as hold:
                waited = time.monotonic() - began
                hold.settle(usd="0.05")
            return waited

        one, two = pool.submit(farebox.carry(first)), pool.submit(farebox.carry(second))
        held.wait(5)
        time.sleep(0.1)
        done.set()
        one.result()
        assert two.result() > 0.05
    assert b.spent_usd == Decimal("0.1")


def test_a_task_waits_without_blocking_its_loop() -> None:
    async def use(seconds: float) -> None:
        async with reserve(usd="0.2") as hold:
            await asyncio.sleep(seconds)
            hold.settle(usd="0.05")

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(use(0.02))

    with budget(usd="0.3") as b:
        asyncio.run(main())
    assert b.spent_usd == Decimal("0.15")


def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with reserve(usd="0.2") as hold:
            waiting = asyncio.create_task(use())
            await asyncio.sleep(0.02)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            hold.settle(usd="0.05")

    async def use() -> None:
        async with reserve(usd="0.2"):
            pytest.fail("it was granted")

    with budget(usd="0.3") as b:
        asyncio.run(main())
    assert (b.spent_usd, b.reserved_usd, b.spent_calls) == (Decimal("0.05"), 0, 1)


def test_of_fifty_threads_as_many_get_through_as_the_money_lasts_for() -> None:
    start = threading.Barrier(50)
    refused: list[BudgetExceeded] = []

    def rush() -> None:
        start.wait()
        try:
            with reserve(usd="0.01") as hold:
                hold.settle(usd="0.01")
        except BudgetExceeded as error:
            refused.append(error)

    with budget("outer", usd=1) as outer, budget("inner", usd="0.10") as inner:
        threads = [threading.Thread(target=farebox.carry(rush)) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(refused) == 40
    assert {error.budget for error in refused} == {"inner"}
    assert inner.spent_usd == outer.spent_usd == Decimal("0.10")
    assert inner.debt_usd == inner.reserved_usd == 0


# ── used otherwise than meant ────────────────────────────────────────────────────────────────────────────────────


def test_settled_without_having_been_entered_it_says_so() -> None:
    with budget(usd=1), pytest.raises(RuntimeError, match="with"):
        reserve(usd="0.2").settle(usd="0.13")


def test_entered_a_second_time_it_says_so() -> None:
    with budget(usd=1):
        hold = reserve(usd="0.2")
        with hold:
            pass
        with pytest.raises(RuntimeError), hold:
            pass
