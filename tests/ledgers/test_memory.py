"""The memory ledger keeps the contract, stays bounded, and is found by its URL."""

from __future__ import annotations

import gc
import importlib.metadata
import time
import tracemalloc
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from farebox.ledgers import Balance, Ledger, cap_within, open_ledger, with_slack
from farebox.ledgers.memory import MemoryLedger
from tests.ledgers.contract import LedgerContract, account, fixed
from tests.ledgers.machine import LedgerMachine


class TestMemoryLedger(LedgerContract):
    @pytest.fixture
    def ledger(self) -> Ledger:
        return MemoryLedger()

    @pytest.fixture
    def now(self) -> Callable[[], float]:
        return time.monotonic


class MemoryMachine(LedgerMachine):
    def make_ledger(self) -> Ledger:
        return MemoryLedger(clock=lambda: self.time)


def test_the_memory_ledger_agrees_with_a_model_of_forty_lines() -> None:
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
    assert ledger.rows() == []
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
