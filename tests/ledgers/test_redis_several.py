"""Operations that one script does together come to the same as one after the other."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.ledgers import Account, Control, Grant, _redis_asks
from farebox.ledgers import _operations as op
from farebox.ledgers import _redis_scripts as scripts
from farebox.ledgers.redis import RedisLedger, RedisStore
from farebox.testing import FixedClock
from tests.ledgers.contract import NOON, fixed
from tests.ledgers.forms import FORM
from tests.servers import redis_url

_numbers = itertools.count(1)
#: Beyond 15 digits a script's own numbers are not exact, and the short way is not gone.
WIDE = 2**62 + 12_345


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_url(tmp_path_factory.mktemp("redis")) as url:
        yield url


def _opened(url: str) -> RedisLedger:
    namespace = f"several-{os.getpid()}-{next(_numbers)}"
    return RedisLedger.open(url, namespace=namespace, timeout=5, form=FORM, clock=FixedClock(NOON))


def _store(ledger: RedisLedger) -> RedisStore:
    assert isinstance(ledger._store, RedisStore)
    return ledger._store


ACCOUNTS = {
    "a": Account("a", "a", limit_usd_nanos=1_000),
    "b": Account("b", "b", limit_calls=4, controls=("plan",)),
    "c": Account("c", "c"),
    "gone": Account("gone", "gone", ends_at=int(NOON)),
}
holds = st.integers(1, 6)
amounts = st.integers(0, 400) | st.sampled_from((WIDE, 10**15))
step = st.one_of(
    st.tuples(st.just("reserve"), holds, st.sets(st.sampled_from(sorted(ACCOUNTS)), max_size=3).map(sorted), amounts),
    st.tuples(st.just("settle"), holds, amounts),
    st.tuples(st.just("settle"), holds, amounts),
    st.tuples(st.just("release"), holds),
    st.tuples(st.just("learn"), holds),
)


def _operation(what: Any) -> op.Operation:
    verb, hold, *words = what
    hold_id = f"hold {hold}"
    if verb == "reserve":
        accounts, need = tuple(ACCOUNTS[name] for name in words[0]), fixed(words[1], 3)
        call = (NOON, "there", 0)
        return op.Reserve(
            hold_id=hold_id,
            accounts=accounts,
            need=need,
            forced=frozenset("c"),
            crossing=frozenset("a"),
            ttl_seconds=None,
            call=call,
        )
    if verb == "learn":
        return op.Learn(key="key", bucket=hold)
    usd = words[0] if words else 0
    row = (NOON, "here", usd) if usd < WIDE else None
    return op.End(hold_id=hold_id, amounts=(usd, 2, 1), row=row, is_released=verb == "release")


def _said(operation: op.Operation) -> Any:
    """Its answer, and what it saw of its accounts."""
    error = type(operation.error)
    if isinstance(operation, op.Reserve):
        return error, operation.answer, operation.is_over, dict(operation.views)
    return error


@given(st.lists(st.lists(step, min_size=1, max_size=20), max_size=4))
@settings(max_examples=100, deadline=None)
def test_what_is_asked_together_is_answered_as_one_after_the_other(url: str, batches: list[list[Any]]) -> None:
    together, apart = _opened(url), _opened(url)
    try:
        for ledger in (together, apart):
            ledger.control("killed", "other", Control(is_killed=True))
        for batch in batches:
            asked, same = [list(map(_operation, batch)) for _ in range(2)]
            _store(together).apply(asked)
            for one in same:
                _store(apart).apply([one])
            assert [_said(one) for one in asked] == [_said(one) for one in same]
            assert sorted(together.accounts("")) == sorted(apart.accounts(""), key=lambda found: found[0])
        assert together.in_flight() == apart.in_flight()
        assert list(together.rows()) == list(apart.rows())
        assert sorted(together.tally()) == sorted(apart.tally())
        assert together.learnt() == apart.learnt()
    finally:
        together.close()
        apart.close()


def test_what_is_no_number_is_told_to_the_one_who_said_it_and_the_others_are_done(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = _opened(url)
    _store(ledger).apply([_operation(("reserve", n, ["c"], 10)) for n in (1, 2, 3)])
    really = _redis_asks.number_list
    monkeypatch.setattr(_redis_asks, "number_list", lambda numbers: really(numbers).replace("[8,", "[8.5,"))
    ends = [_operation(("settle", n, usd)) for n, usd in ((1, 7), (2, 8), (3, 7))]
    _store(ledger).apply(ends)
    assert [type(end.error) for end in ends] == [type(None), ValueError, type(None)]
    assert "[8.5,2,1] is no list of whole numbers" in str(ends[1].error)
    balance = ledger.balance(ACCOUNTS["c"])
    assert (balance.spent_usd_nanos, balance.reserved_usd_nanos) == (14, 10)
    ledger.close()


def test_calls_in_flight_stand_in_the_order_in_which_they_were_reserved(url: str) -> None:
    ledger = RedisLedger.open(url, namespace=f"order-{os.getpid()}-{next(_numbers)}", timeout=5)
    store = _store(ledger)
    for batch in ((1, 5, 3), (2,), (6, 4)):
        store.apply([_operation(("reserve", n, ["c"], 10 * n)) for n in batch])
    assert [grant.usd_nanos for _, grant in ledger.in_flight()] == [10, 50, 30, 20, 60, 40]
    ledger.close()


def test_two_that_reserve_while_two_settle_take_one_call_of_a_script(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = _opened(url)
    store = _store(ledger)
    store.apply([_operation(("reserve", n, ["a", "c"], 10)) for n in (1, 2)])
    sent: list[Any] = []
    really = store._link.run

    def run(commands: Any) -> Any:
        sent.extend(commands)
        return really(commands)

    monkeypatch.setattr(store._link, "run", run)
    asked = [_operation(("settle", n, 7)) for n in (1, 2)] + [_operation(("reserve", n, ["a"], 20)) for n in (3, 4)]
    store.apply(asked)
    assert [command[:2] for command in sent] == [(b"EVALSHA", scripts.SEVERAL.sha)]
    assert [one.answer for one in asked if isinstance(one, op.Reserve)] == [Grant(0, 20, 3, 1)] * 2
    balance = ledger.balance(ACCOUNTS["a"])
    assert (balance.spent_usd_nanos, balance.reserved_usd_nanos) == (14, 40)
    ledger.close()
