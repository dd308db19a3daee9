"""The memory ledger keeps the contract, stays bounded, and is found by its URL."""

from __future__ import annotations

import gc
import importlib.metadata
import time
import tracemalloc
from collections.abc import Callable, Hashable
from importlib.metadata import EntryPoint
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from farebox.ledgers import Balance, Control, Ledger, RowForm, Span, Sum, cap_within, open_ledger, with_slack
from farebox.ledgers.memory import MemoryLedger
from farebox.testing import FixedClock
from tests.ledgers.contract import NOON, LedgerContract, account, fixed
from tests.ledgers.forms import FORM
from tests.ledgers.machine import LedgerMachine


class TestMemoryLedger(LedgerContract):
    keeps_learnt = False
    keeps_notes = False

    @pytest.fixture
    def make(self, wall: FixedClock) -> Callable[[RowForm], Ledger]:
        return lambda form: open_ledger("memory://", form=form, clock=wall)

    @pytest.fixture
    def now(self) -> Callable[[], float]:
        return time.monotonic


class MemoryMachine(LedgerMachine):
    keeps_notes = False

    def make_ledger(self) -> Ledger:
        return MemoryLedger(form=FORM, clock=lambda: self.time)


def test_the_memory_ledger_agrees_with_the_model() -> None:
    run_state_machine_as_test(MemoryMachine, settings=settings(stateful_step_count=40, deadline=None))


@given(st.integers(-20, 2_000_000))
def test_the_cap_within_some_tokens_is_the_largest_whose_slack_fits(tokens: int) -> None:
    cap = cap_within(tokens)
    if cap >= 0:
        assert with_slack(cap) <= tokens < with_slack(cap + 1)
    else:
        assert tokens < with_slack(0)


# Old rows


def by_feature(row: Any) -> tuple[Any, tuple[int, ...]]:
    return row["feature"], (1, row["usd"])


def fill(ledger: MemoryLedger, features: list[str]) -> None:
    for hold_id, feature in enumerate(features, 1):
        ledger.reserve(hold_id, (), fixed(10), call=feature)
        ledger.settle(hold_id, hold_id, 0, row={"feature": feature, "usd": hold_id})


def test_old_rows_fold_into_totals_and_nothing_is_lost() -> None:
    ledger = MemoryLedger(keep_rows=100, fold=by_feature)
    fill(ledger, ["search", "chat"] * 500)
    snapshot = ledger.snapshot()
    assert 100 <= len(snapshot.rows) <= 112
    assert snapshot.rows[-1]["usd"] == 1_000
    assert snapshot.rows[0]["usd"] == 1_000 - len(snapshot.rows) + 1
    folded = snapshot.totals
    assert set(folded) == {"search", "chat"}
    assert sum(sums[0] for sums in folded.values()) + len(snapshot.rows) == 1_000
    assert sum(sums[1] for sums in folded.values()) + sum(row["usd"] for row in snapshot.rows) == 500_500


def test_the_ids_of_folded_calls_are_unknown_and_charge_nothing() -> None:
    ledger, trip = MemoryLedger(keep_rows=0, fold=by_feature), account()
    ledger.reserve(1, [trip], fixed(10))
    ledger.settle(1, 7, 0, row={"feature": "search", "usd": 7})
    assert list(ledger.rows()) == []
    assert ledger.snapshot().totals == {"search": (1, 7)}
    assert not ledger.settle(1, 7, 0)
    assert not ledger.release(1)
    assert ledger.balance(trip) == Balance(spent_usd_nanos=7, spent_calls=1)


def test_too_many_totals_merge_under_coarser_keys_oldest_first() -> None:
    ledger = MemoryLedger(keep_rows=0, keep_totals=20, fold=by_feature, coarsen=lambda key: key[:1])
    features = [f"{'abc'[n % 3]}{n}" for n in range(300)]
    fill(ledger, features)
    totals = ledger.snapshot().totals
    assert len(totals) <= 20
    assert {"a", "b", "c"} <= set(totals)
    assert features[-1] in totals
    assert sum(sums[1] for sums in totals.values()) == 45_150


@pytest.mark.parametrize("coarsen", [lambda key: key, lambda key: 1 / 0, lambda key: {"a": "b"}.get(key, "a")])
def test_totals_that_get_no_coarser_end_under_one_key(coarsen: Any) -> None:
    ledger = MemoryLedger(keep_rows=0, keep_totals=1, fold=by_feature, coarsen=coarsen)
    fill(ledger, [f"feature {n}" for n in range(300)])
    totals = ledger.snapshot().totals
    assert len(totals) == 1
    assert next(iter(totals.values())) == (300, 45_150)


def test_a_row_that_cannot_be_folded_stays_a_row() -> None:
    ledger = MemoryLedger(keep_rows=10, fold=by_feature)
    ledger.add_row({"no feature": "here"})
    fill(ledger, ["search"] * 100)
    snapshot = ledger.snapshot()
    assert {"no feature": "here"} in snapshot.rows
    assert snapshot.totals["search"][0] + len(snapshot.rows) - 1 == 100


def test_without_a_fold_totals_count_the_rows_that_are_gone() -> None:
    ledger = MemoryLedger(keep_rows=10)
    for number in range(100):
        ledger.add_row(number)
    snapshot = ledger.snapshot()
    assert snapshot.rows == list(range(100 - len(snapshot.rows), 100))
    assert snapshot.totals == {None: (100 - len(snapshot.rows),)}


# Sums by quarter of an hour and place


def at(hour: int, minute: int = 0) -> int:
    return NOON + (hour - 12) * 3_600 + minute * 60


def test_with_a_form_old_rows_become_sums_by_quarter_of_an_hour_and_place() -> None:
    ledger = MemoryLedger(form=FORM, keep_rows=0)
    for row in ((at(12, 14), "a", 1), (at(12, 15) - 1, "a", 2), (at(12, 15), "a", 4), (at(12, 1), "b", 8)):
        ledger.add_row(row)
    assert sorted(ledger.tally()) == [
        Sum("quarter", at(12), "a", (3, 2)),
        Sum("quarter", at(12), "b", (8, 1)),
        Sum("quarter", at(12, 15), "a", (4, 1)),
    ]
    assert list(ledger.tally(at(12, 15))) == [Sum("quarter", at(12, 15), "a", (4, 1))]
    assert list(ledger.tally(at(12, 16))) == []


def test_too_many_sums_become_less_exact_as_the_form_says_and_stay_as_many_nanos() -> None:
    ledger = MemoryLedger(form=FORM, keep_rows=0, keep_totals=8)
    for minute in range(0, 60 * 24 * 3, 15):
        ledger.add_row((at(0, minute), "a", 1))
    sums = list(ledger.tally())
    assert len(sums) <= 8
    assert sum(found.sums[0] for found in sums) == 4 * 24 * 3
    assert {found.place for found in sums} <= {"a", "everywhere"}
    assert Sum("quarter", at(71, 45), "a", (1, 1)) in sums


def test_places_are_known_for_ever_as_long_as_there_is_room_for_them() -> None:
    ledger = MemoryLedger(form=attrs.evolve(FORM, coarser=in_time_only), keep_rows=0, keep_totals=8)
    for hour in range(24 * 400):
        ledger.add_row((at(hour), "abc"[hour % 3], 1))
    found = {place: sum(s.sums[0] for s in ledger.tally() if s.place == place) for place in "abc"}
    assert found == {"a": 3_200, "b": 3_200, "c": 3_200}


def in_time_only(span: Span, starts_at: int, place: Hashable) -> tuple[Span, int, Hashable]:
    return (span, starts_at, place) if span == "ever" else FORM.coarser(span, starts_at, place)


def test_what_has_room_nowhere_else_is_known_by_no_place() -> None:
    ledger = MemoryLedger(form=attrs.evolve(FORM, coarser=lambda *key: key), keep_rows=0, keep_totals=1)
    for number in range(5):
        ledger.add_row((at(number), "a", 1))
    assert list(ledger.tally()) == [Sum("ever", 0, None, (5, 5))]
    assert list(ledger.tally(1)) == []


def test_without_a_form_rows_are_known_by_no_time() -> None:
    ledger = MemoryLedger(keep_rows=8, fold=by_feature)
    fill(ledger, ["search"] * 20)
    sums = list(ledger.tally())
    assert {found.starts_at for found in sums} == {0}
    assert {found.place for found in sums} == {"search"}
    assert sum(found.sums[1] for found in sums) == 210
    assert list(ledger.rows(1)) == []


def test_pruned_rows_fold_wherever_they_stand_and_newer_ones_stay_in_order() -> None:
    ledger = MemoryLedger(form=FORM)
    rows = [(at(hour), "a", hour) for hour in (9, 14, 8, 13, 10)]
    ledger.reserve(1, (), fixed(1), call=(at(7), "a", 0))
    for row in rows:
        ledger.add_row(row)
    assert ledger.prune(at(12)) == 3
    assert list(ledger.rows()) == [rows[1], rows[3]]
    assert sum(found.sums[0] for found in ledger.tally()) == 54
    assert len(ledger._book.ended.keys) == 2
    assert ledger.settle(1, 1, 0, row=(at(7), "a", 1))
    assert list(ledger.rows()) == [rows[1], rows[3], (at(7), "a", 1)]


# Accounts of windows


def test_of_accounts_whose_windows_are_over_the_latest_ten_thousand_are_kept_at_most() -> None:
    wall = FixedClock(NOON)
    ledger = MemoryLedger(wall_clock=wall)
    held = account("held", starts_at=NOON, ends_at=NOON + 1)
    ledger.reserve(1, [held], fixed(1))
    lasting = account("lasting", starts_at=NOON)
    for minute in range(12_000):
        wall.now = NOON + 60 * minute
        trip = account(f"minute {minute:05}", starts_at=int(wall()), ends_at=int(wall()) + 60)
        ledger.reserve(10 + minute, [trip, lasting] if minute == 0 else [trip], fixed(1))
        ledger.settle(10 + minute, 1, 0)
    keys = sorted(key for key, _ in ledger.accounts("key of minute"))
    assert 8_750 <= len(keys) <= 10_000
    assert keys == [f"key of minute {minute:05}" for minute in range(12_000 - len(keys), 12_000)]
    assert ledger.balance(held).reserved_usd_nanos == 1  # somebody will settle it
    assert ledger.balance(lasting).spent_usd_nanos == 1  # it has no end
    assert ledger.settle(1, 1, 0)


def test_open_windows_are_kept_however_many_there_are() -> None:
    wall = FixedClock(NOON)
    ledger = MemoryLedger(wall_clock=wall)
    for tenant in range(10_100):
        ledger.charge(tenant, [account(f"tenant {tenant}", ends_at=NOON + 60)], 1, 0)
    assert len(ledger.accounts("")) == 10_100
    wall.tick(60)
    for tenant in range(1_200):
        ledger.charge(20_000 + tenant, [account(f"tenant {tenant} later", ends_at=NOON + 120)], 1, 0)
    assert 8_750 <= len(ledger.accounts("")) <= 10_000 + 1_250
    assert len([key for key, _ in ledger.accounts("") if key.endswith("later")]) == 1_200


def test_ids_of_entries_are_remembered_as_long_as_rows_are() -> None:
    ledger, trip = MemoryLedger(keep_rows=10), account(controls=("plan",))
    for number in range(1_000):
        ledger.control(f"control {number}", "plan", Control(limit_usd_nanos=number))
        ledger.top_up(f"top-up {number}", trip, 1, 0, 0)
        ledger.reset(f"reset {number}", trip)
    assert not ledger.top_up("top-up 999", trip, 1, 0, 0)
    assert len(ledger._book.entries) < 20
    assert ledger.view(trip).limit_usd_nanos == 1_999


def retained_by(calls: int, start: int, ledger: MemoryLedger) -> None:
    for hold_id in range(start, start + calls):
        trip = account(f"frame {hold_id}")
        ledger.reserve(hold_id, [trip], fixed(10), call=object(), owner=hold_id)
        ledger.settle(hold_id, 5, 0, row={"feature": f"feature {hold_id}", "usd": 5})
        ledger.adjust(("by hand", hold_id), [trip], 1, 0, 0)
        ledger.forget(trip.key)


@pytest.mark.parametrize("calls", [20_000, pytest.param(400_000, marks=pytest.mark.storm)])
def test_memory_is_flat_however_many_calls_there_were(calls: int) -> None:
    ledger = MemoryLedger(keep_rows=500, keep_totals=100, fold=by_feature)
    retained_by(5_000, 1, ledger)
    gc.collect()
    objects = len(gc.get_objects())
    tracemalloc.start()
    try:
        retained_by(calls, 5_001, ledger)
        ledger.snapshot()
        gc.collect()
        # What was there before and is gone now is not counted, so a bound of all that is kept: rows, tombstones, totals.
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
    assert len(gc.get_objects()) < objects + 500


# Finding a ledger


def test_the_url_memory_opens_an_empty_ledger_of_its_own() -> None:
    first, second = open_ledger("memory://"), open_ledger("memory://", keep_rows=5)
    first.adjust("by hand", [account()], 5, 0, 0)
    assert second.balance(account()) == Balance()
    first.close()
    assert first.flush(timeout=1)


@pytest.mark.parametrize("url", ["mongodb://host:1/secret", "memory", "memory:/", "://", ""])
def test_an_unknown_scheme_names_the_choices_and_no_more_of_the_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"choose one of .*memory://") as raised:
        open_ledger(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["memory://somewhere", "memory://?keep_rows=5"])
def test_a_memory_ledger_is_nowhere_else(url: str) -> None:
    with pytest.raises(ValueError, match="neither path nor query"):
        open_ledger(url)


@pytest.mark.parametrize("options", [{"keep_rows": -1}, {"keep_totals": 0}])
def test_bounds_that_keep_nothing_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="keep_"):
        open_ledger("memory://", **options)


def test_other_ledgers_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("shelf", "tests.ledgers.test_memory:Shelf", "farebox.ledgers")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == "farebox.ledgers" else [])
    opened = open_ledger("shelf://top", keep_rows=5)
    assert type(opened).__name__ == "Shelf"
    with pytest.raises(ValueError, match=r"memory://, .*shelf://"):
        open_ledger("cupboard://")


class Shelf(MemoryLedger):
    @classmethod
    def open(cls, url: str = "", **options: Any) -> MemoryLedger:
        assert url == "shelf://top"
        return cls(**options)
