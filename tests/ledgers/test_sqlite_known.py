"""What a SQLite ledger remembers from one transaction to the next is never older than what others have written."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farebox.errors import LedgerUnavailable
from farebox.ledgers import Balance, Control, Grant
from farebox.ledgers import _operations as op
from farebox.ledgers._sqlite_place import read_url
from farebox.ledgers.sqlite import SqliteLedger, SqliteStore
from tests.ledgers.contract import NOON, account, fixed, kind_of
from tests.ledgers.forms import FORM


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/farebox.db"


@pytest.fixture
def ledger(url: str) -> Iterator[SqliteLedger]:
    ledger = SqliteLedger.open(url, form=FORM)
    yield ledger
    ledger.close()


@pytest.fixture
def other(url: str, ledger: SqliteLedger) -> Iterator[SqliteLedger]:
    """Another ledger of the same file, with connections of its own as another process has them."""
    other = SqliteLedger.open(url, form=FORM)
    yield other
    other.close()


def test_what_another_one_spends_between_two_calls_counts_for_the_second(
    ledger: SqliteLedger, other: SqliteLedger
) -> None:
    trip = account(limit_usd_nanos=100)
    for round_ in range(1, 5):
        assert kind_of(ledger.reserve(2 * round_, [trip], fixed(10))) == "granted"
        assert kind_of(other.reserve(2 * round_ + 1, [trip], fixed(10))) == "granted"
        ledger.settle(2 * round_, 10, 0, row=(NOON, "here", 10))
        other.settle(2 * round_ + 1, 10, 0, row=(NOON, "there", 10))
        ledger.flush()
        other.flush()
    assert kind_of(ledger.reserve(20, [trip], fixed(21))) == "exhausted"  # 80 of 100 are spent
    assert kind_of(ledger.reserve(21, [trip], fixed(20))) == "granted"
    assert sorted(ledger.rows()) == [(NOON, "here", 10)] * 4 + [(NOON, "there", 10)] * 4


def test_a_limit_that_another_one_lowers_holds_from_the_next_call_on(ledger: SqliteLedger, other: SqliteLedger) -> None:
    trip = account(limit_usd_nanos=100, controls=("trip",))
    assert kind_of(ledger.reserve(1, [trip], fixed(10))) == "granted"
    other.control("lower", "trip", Control(limit_usd_nanos=15))
    assert kind_of(ledger.reserve(2, [trip], fixed(10))) == "contended"
    other.control("raise", "trip", Control(limit_usd_nanos=20))
    assert kind_of(ledger.reserve(3, [trip], fixed(10))) == "granted"
    other.top_up("more", trip, 5, 0, 0)
    assert kind_of(ledger.reserve(4, [trip], fixed(5))) == "granted"


def test_a_hold_that_another_one_expired_is_corrected_and_not_charged_twice(
    ledger: SqliteLedger, other: SqliteLedger
) -> None:
    trip = account()
    ledger.reserve(1, [trip], fixed(10), call=(NOON, "search", 0), ttl_seconds=0.0)
    assert other.expire(time.time() + 1) == 1
    ledger.settle(1, 4, 0, row=(NOON, "search", 4))
    assert ledger.balance(trip) == Balance(spent_usd_nanos=4, spent_calls=1)
    assert list(ledger.rows()) == [(NOON, "search", 4)]


def test_an_id_that_was_used_stays_used_whatever_was_asked_for_since(ledger: SqliteLedger) -> None:
    trip = account(limit_usd_nanos=100)
    for hold_id in (5, 9, 7):
        assert kind_of(ledger.reserve(hold_id, [trip], fixed(10))) == "granted"
        ledger.settle(hold_id, 10, 0)
    for hold_id in (5, 9, 7):
        assert ledger.reserve(hold_id, [trip], fixed(10)) == Grant(0, 10, 0, 1)  # what it was, and nothing is held
    assert ledger.balance(trip) == Balance(spent_usd_nanos=30, spent_calls=3)


def test_a_hold_given_up_while_the_file_was_locked_is_refused_when_it_is_asked_for_again(url: str) -> None:
    ledger, trip = SqliteLedger.open(f"{url}?timeout=0.1", form=FORM), account()
    foreign = sqlite3.connect(read_url(url).path, isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailable):
        ledger.reserve(1, [trip], fixed(10))
    foreign.execute("ROLLBACK")
    foreign.close()
    with pytest.raises(LedgerUnavailable, match="given up before"):
        ledger.reserve(1, [trip], fixed(10))
    assert ledger.balance(trip) == Balance()
    ledger.close()


def test_a_transaction_that_was_rolled_back_is_not_remembered(url: str) -> None:
    store = SqliteStore(read_url(url), FORM, time.time)
    store.open("abc")
    trip = account(limit_usd_nanos=100)

    def reserve(hold_id: str, call: object) -> op.Reserve:
        forced, need = frozenset[str](), fixed(10)
        return op.Reserve(hold_id=hold_id, accounts=(trip,), need=need, forced=forced, ttl_seconds=None, call=call)

    store.apply([reserve("abc1", None)])
    assert store._writer is not None
    (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
    store._writer.execute(f"PRAGMA max_page_count={pages}")
    failed = reserve("abc2", (NOON, "x" * 50_000, 0))
    with pytest.raises(LedgerUnavailable, match="full"):
        store.apply([op.End(hold_id="abc1", amounts=(7, 0, 1), row=None), failed])
    store._writer.execute(f"PRAGMA max_page_count={pages + 400}")
    again = reserve("abc2", None)
    store.apply([op.End(hold_id="abc1", amounts=(8, 0, 1), row=None), again])
    assert again.answer == Grant(0, 10, 0, 1)
    assert store.view(trip).balance == Balance(
        spent_usd_nanos=8, reserved_usd_nanos=10, spent_calls=1, reserved_calls=1
    )
    store.close()


STEPS = st.lists(st.tuples(st.booleans(), st.sampled_from(["reserve", "settle", "adjust", "forget"])), max_size=30)


@given(steps=STEPS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_two_that_take_turns_in_any_order_keep_one_set_of_books(
    steps: list[tuple[bool, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two accounts; the oracle is what one would count by hand."""
    url = f"sqlite:///{tmp_path_factory.mktemp('turns')}/farebox.db"
    pair = SqliteLedger.open(url, form=FORM), SqliteLedger.open(url, form=FORM)
    trip, spent, calls, rows = account(), 0, 0, 0
    held: tuple[list[int], list[int]] = ([], [])
    for number, (is_second, what) in enumerate(steps, 1):
        ledger, mine = pair[is_second], held[is_second]
        if what == "reserve":
            assert kind_of(ledger.reserve(number, [trip], fixed(10))) == "granted"
            mine.append(number)
        elif what == "settle" and mine:
            ledger.settle(mine.pop(), 7, 0, row=(NOON, "search", 7))
            spent, calls, rows = spent + 7, calls + 1, rows + 1
        elif what == "adjust":
            ledger.adjust(f"step {number}", [trip], number, 0, 0)
            spent += number
        elif what == "forget" and not any(held):
            ledger.flush()
            ledger.forget(trip.key)
            spent = calls = 0
        ledger.flush()
        expected = Balance(
            spent_usd_nanos=spent,
            spent_calls=calls,
            reserved_usd_nanos=10 * sum(map(len, held)),
            reserved_calls=sum(map(len, held)),
        )
        assert [one.balance(trip) for one in pair] == [expected, expected]
    assert sum(total.sums[1] for total in pair[0].tally()) == rows
    for one in pair:
        one.close()
