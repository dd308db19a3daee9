"""What every ledger does: inherit `LedgerContract`, give it a `ledger` and a `now`, and it is tested.

`now` reads the clock that the ledger measures deadlines with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from farebox.ledgers import Account, Balance, Grant, Ledger, Need, Shortfall

LONG_AFTER = 1_000_000.0


def account(name: str = "search", **limits: int) -> Account:
    return Account(f"key of {name}", name, **limits)


def fixed(usd: int = 0, tokens: int = 0, calls: int = 1) -> Need:
    """A need that leaves nothing to choose."""
    return Need(fixed_usd_nanos=usd, fixed_tokens=tokens, tokens_per_token=0, calls=calls)


def output(least: int, floor: int = 0, want: int = 0, most: int = 0, share: int = 0, usd: int = 0) -> Need:
    """A need of one nanodollar per output token on top of `usd`."""
    floor = floor or least
    want = want or floor
    return Need(
        fixed_usd_nanos=usd,
        usd_nanos_per_token=1,
        tokens_per_token=0,
        least_cap=least,
        floor_cap=floor,
        want_cap=want,
        most_cap=most or want,
        share=share,
    )


def kind_of(answer: Any) -> str:
    return answer.kind if isinstance(answer, Shortfall) else "granted"


class LedgerContract:
    @pytest.fixture
    def ledger(self) -> Ledger:
        raise NotImplementedError

    @pytest.fixture
    def now(self) -> Callable[[], float]:
        raise NotImplementedError

    # Every operation in every state, twice.

    def bring(self, ledger: Ledger, state: str, trip: Account, now: Callable[[], float]) -> None:
        """Hold 1 in `state`: bound 40 nanodollars, 4 tokens, 1 call; where it was charged, 25, 2 and 1."""
        if state == "unknown":
            return
        assert isinstance(ledger.reserve(1, [trip], fixed(40, 4), ttl_seconds=60), Grant)
        if state in ("expired", "corrected"):
            assert ledger.expire(now() + LONG_AFTER) == 1
        if state in ("settled", "corrected"):
            assert ledger.settle(1, 25, 2, 1)
        if state == "released":
            assert ledger.release(1)

    GRANT = Grant(0, 40, 4, 1)

    @pytest.mark.parametrize(
        ("state", "operation", "first", "second", "spent", "reserved"),
        [
            ("unknown", "reserve", GRANT, GRANT, (0, 0, 0), (40, 4, 1)),
            ("unknown", "extend", None, None, (0, 0, 0), (0, 0, 0)),
            ("unknown", "settle", False, False, (0, 0, 0), (0, 0, 0)),
            ("unknown", "release", False, False, (0, 0, 0), (0, 0, 0)),
            ("unknown", "expire", 0, 0, (0, 0, 0), (0, 0, 0)),
            ("held", "reserve", GRANT, GRANT, (0, 0, 0), (40, 4, 1)),
            ("held", "extend", Grant(0, 45, 5, 1), Grant(0, 50, 6, 1), (0, 0, 0), (50, 6, 1)),
            ("held", "settle", True, False, (30, 3, 1), (0, 0, 0)),
            ("held", "release", True, False, (0, 0, 0), (0, 0, 0)),
            ("held", "expire", 1, 0, (40, 4, 1), (0, 0, 0)),
            ("settled", "reserve", GRANT, GRANT, (25, 2, 1), (0, 0, 0)),
            ("settled", "extend", None, None, (25, 2, 1), (0, 0, 0)),
            ("settled", "settle", False, False, (25, 2, 1), (0, 0, 0)),
            ("settled", "release", False, False, (25, 2, 1), (0, 0, 0)),
            ("settled", "expire", 0, 0, (25, 2, 1), (0, 0, 0)),
            ("released", "reserve", GRANT, GRANT, (0, 0, 0), (0, 0, 0)),
            ("released", "extend", None, None, (0, 0, 0), (0, 0, 0)),
            ("released", "settle", False, False, (0, 0, 0), (0, 0, 0)),
            ("released", "release", False, False, (0, 0, 0), (0, 0, 0)),
            ("released", "expire", 0, 0, (0, 0, 0), (0, 0, 0)),
            ("expired", "reserve", GRANT, GRANT, (40, 4, 1), (0, 0, 0)),
            ("expired", "extend", None, None, (40, 4, 1), (0, 0, 0)),
            ("expired", "settle", True, False, (30, 3, 1), (0, 0, 0)),
            ("expired", "release", True, False, (0, 0, 0), (0, 0, 0)),
            ("expired", "expire", 0, 0, (40, 4, 1), (0, 0, 0)),
            ("corrected", "reserve", GRANT, GRANT, (25, 2, 1), (0, 0, 0)),
            ("corrected", "extend", None, None, (25, 2, 1), (0, 0, 0)),
            ("corrected", "settle", False, False, (25, 2, 1), (0, 0, 0)),
            ("corrected", "release", False, False, (25, 2, 1), (0, 0, 0)),
            ("corrected", "expire", 0, 0, (25, 2, 1), (0, 0, 0)),
        ],
    )
    def test_an_operation_moves_a_hold_forward_once(
        self,
        ledger: Ledger,
        now: Callable[[], float],
        state: str,
        operation: str,
        first: object,
        second: object,
        spent: tuple[int, ...],
        reserved: tuple[int, ...],
    ) -> None:
        trip = account(limit_usd_nanos=100)
        operations: dict[str, Callable[[], object]] = {
            "reserve": lambda: ledger.reserve(1, [trip], fixed(40, 4)),
            "extend": lambda: ledger.extend(1, 5, 1),
            "settle": lambda: ledger.settle(1, 30, 3, 1),
            "release": lambda: ledger.release(1),
            "expire": lambda: ledger.expire(now() + LONG_AFTER),
        }
        self.bring(ledger, state, trip, now)
        assert operations[operation]() == first
        assert operations[operation]() == second
        balance = ledger.balance(trip)
        assert (balance.spent_usd_nanos, balance.spent_tokens, balance.spent_calls) == spent
        assert (balance.reserved_usd_nanos, balance.reserved_tokens, balance.reserved_calls) == reserved
        assert (balance.debt_usd_nanos, balance.debt_tokens, balance.debt_calls) == (0, 0, 0)

    @pytest.mark.parametrize("operation", ["settle_later", "release_later"])
    @pytest.mark.parametrize("state", ["unknown", "held", "settled", "released", "expired", "corrected"])
    def test_what_is_done_later_is_done_by_the_next_read(
        self, ledger: Ledger, now: Callable[[], float], state: str, operation: str
    ) -> None:
        trip = account(limit_usd_nanos=100)
        self.bring(ledger, state, trip, now)
        for _ in range(2):
            if operation == "settle_later":
                ledger.settle_later(1, 30, 3, 1)
            else:
                ledger.release_later(1)
        charged = 30 if operation == "settle_later" else 0
        expected = {"unknown": 0, "released": 0, "settled": 25, "corrected": 25}.get(state, charged)
        assert ledger.balance(trip).spent_usd_nanos == expected
        assert ledger.balance(trip).reserved_usd_nanos == 0

    # Reserve

    def test_a_trip_of_one_dollar_a_day(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=100)
        assert kind_of(ledger.reserve(1, [trip], fixed(60))) == "granted"
        assert kind_of(ledger.reserve(2, [trip], fixed(60))) == "contended"
        assert ledger.settle(1, 25, 0)
        assert ledger.balance(trip) == Balance(spent_usd_nanos=25, spent_calls=1)
        assert kind_of(ledger.reserve(2, [trip], fixed(60))) == "granted"

    @pytest.mark.parametrize(
        ("unit", "need"), [("usd", fixed(usd=11)), ("tokens", fixed(tokens=11)), ("calls", fixed(calls=11))]
    )
    def test_each_unit_has_its_limit(self, ledger: Ledger, unit: str, need: Need) -> None:
        limits = {"usd": "limit_usd_nanos", "tokens": "limit_tokens", "calls": "limit_calls"}
        answer = ledger.reserve(1, [account(**{limits[unit]: 10})], need)
        assert isinstance(answer, Shortfall)
        assert (answer.unit, answer.limit, answer.needed, answer.kind) == (unit, 10, 11, "oversized")

    def test_a_refused_call_leaves_every_account_untouched(self, ledger: Ledger) -> None:
        wide, narrow = account("wide", limit_usd_nanos=100), account("narrow", limit_usd_nanos=10)
        assert kind_of(ledger.reserve(1, [wide, narrow], fixed(11))) == "oversized"
        assert kind_of(ledger.reserve(2, [narrow, wide], fixed(11))) == "oversized"
        assert ledger.balance(wide) == ledger.balance(narrow) == Balance()
        assert ledger.in_flight() == []
        assert not ledger.settle(1, 5, 5)

    def test_a_call_is_held_against_every_account_at_once(self, ledger: Ledger) -> None:
        inner, outer = account("inner"), account("outer")
        ledger.reserve(1, (inner, outer), fixed(7, 8))
        held = Balance(reserved_usd_nanos=7, reserved_tokens=8, reserved_calls=1)
        assert ledger.balance(inner) == ledger.balance(outer) == held

    def test_an_account_given_twice_is_held_once(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=10)
        assert kind_of(ledger.reserve(1, [trip, trip], fixed(10))) == "granted"
        assert ledger.balance(trip).reserved_usd_nanos == 10
        ledger.settle(1, 4, 0)
        assert ledger.balance(trip) == Balance(spent_usd_nanos=4, spent_calls=1)

    def test_a_call_without_accounts_is_a_call_in_flight(self, ledger: Ledger) -> None:
        call = object()
        assert ledger.reserve(1, (), fixed(7, 8), call=call) == Grant(0, 7, 8, 1)
        assert ledger.in_flight() == [(call, Grant(0, 7, 8, 1))]
        assert ledger.settle(1, 5, 5)
        assert ledger.in_flight() == []

    def test_what_exactly_fits_is_granted(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=2**63 - 1)
        assert kind_of(ledger.reserve(1, [trip], fixed(2**63 - 2))) == "granted"
        assert kind_of(ledger.reserve(2, [trip], fixed(1))) == "granted"
        assert kind_of(ledger.reserve(3, [account("none", limit_usd_nanos=0)], fixed(0))) == "granted"

    def test_waiting_is_said_to_be_useless_where_it_is(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=100)
        assert kind_of(ledger.reserve(1, [trip], fixed(101))) == "oversized"
        ledger.reserve(2, [trip], fixed(60))
        assert kind_of(ledger.reserve(3, [trip], fixed(50))) == "contended"
        ledger.settle(2, 60, 0)
        answer = ledger.reserve(3, [trip], fixed(50))
        assert answer == Shortfall(trip, "usd", 100, 60, 0, 50, "exhausted")

    def test_the_first_short_account_speaks_unless_a_later_one_is_beyond_waiting(self, ledger: Ledger) -> None:
        first, second, spent = (account(name, limit_usd_nanos=10) for name in ("first", "second", "spent"))
        ledger.reserve(1, [first, second], fixed(6))
        ledger.adjust("by hand", [spent], 10, 0, 0)
        answer = ledger.reserve(2, [second, first], fixed(6))
        assert isinstance(answer, Shortfall)
        assert (answer.account, answer.kind) == (second, "contended")
        answer = ledger.reserve(2, [second, first, spent], fixed(6))
        assert isinstance(answer, Shortfall)
        assert (answer.account, answer.kind) == (spent, "exhausted")

    # The cap

    def test_the_wanted_cap_is_granted_where_it_fits(self, ledger: Ledger) -> None:
        answer = ledger.reserve(1, [account(limit_usd_nanos=5_000)], output(100, 200, 400, 9_000, usd=7))
        assert answer == Grant(400, 400 + 16 + 7, 0, 1)

    def test_a_share_of_what_is_left_is_granted_where_that_is_more(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=16_000)
        # a sixteenth of it buys 1,000 tokens, of which 16 are slack
        assert ledger.reserve(1, [trip], output(1, 1, 100, 9_000, share=16)) == Grant(984, 1_000, 0, 1)
        assert ledger.reserve(2, [trip], output(1, 1, 100, 500, share=16)) == Grant(500, 516, 0, 1)

    def test_the_smallest_remainder_of_all_accounts_sizes_the_cap(self, ledger: Ledger) -> None:
        wide, narrow = account("wide", limit_usd_nanos=10_000), account("narrow", limit_usd_nanos=116)
        assert ledger.reserve(1, [wide, narrow], output(10, 50, 1_000, 9_000)) == Grant(100, 116, 0, 1)

    def test_tokens_size_the_cap_as_money_does(self, ledger: Ledger) -> None:
        need = Need(fixed_tokens=50, least_cap=1, floor_cap=10, want_cap=500, most_cap=500)
        assert ledger.reserve(1, [account(limit_tokens=166)], need) == Grant(100, 0, 166, 1)

    def test_less_than_the_floor_is_granted_only_where_nobody_else_holds_anything(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=216)
        need = output(20, 150, 300, 300)
        ledger.reserve(1, [trip], fixed(100))
        assert kind_of(ledger.reserve(2, [trip], need)) == "contended"
        ledger.settle(1, 100, 0)
        assert ledger.reserve(2, [trip], need) == Grant(100, 116, 0, 1)

    def test_below_the_least_cap_it_is_exhausted(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=135)
        ledger.adjust("by hand", [trip], 100, 0, 0)
        assert kind_of(ledger.reserve(1, [trip], output(20, 150, 300, 300))) == "exhausted"
        assert kind_of(ledger.reserve(1, [trip], output(19, 150, 300, 300))) == "granted"
        assert kind_of(ledger.reserve(2, [trip], output(120, 150, 300, 300))) == "oversized"

    def test_a_shortage_elsewhere_does_not_ask_for_the_floor(self, ledger: Ledger) -> None:
        busy, short = account("busy", limit_usd_nanos=10_000), account("short", limit_usd_nanos=50)
        ledger.reserve(1, [busy], fixed(100))
        assert ledger.reserve(2, [busy, short], output(10, 500, 500)) == Grant(34, 50, 0, 1)

    def test_large_caps_keep_a_slack_of_one_percent(self, ledger: Ledger) -> None:
        answer = ledger.reserve(1, [account(limit_usd_nanos=20_000)], output(1, 1, 30_000, 30_000))
        assert isinstance(answer, Grant)
        assert answer.cap == 19_801  # 19,801 and a slack of 199 make 20,000; 19,802 would need 20,001
        assert answer.usd_nanos == 20_000

    # Forced

    def test_a_forced_account_never_refuses_and_takes_debt(self, ledger: Ledger) -> None:
        soft, hard = account("soft", limit_usd_nanos=10), account("hard", limit_usd_nanos=100)
        assert kind_of(ledger.reserve(1, [soft, hard], fixed(15), forced=[soft])) == "granted"
        assert ledger.balance(soft) == Balance(reserved_usd_nanos=15, debt_usd_nanos=5, reserved_calls=1)
        assert ledger.balance(hard).debt_usd_nanos == 0
        assert kind_of(ledger.reserve(2, [soft, hard], fixed(15), forced=[soft])) == "granted"
        assert ledger.balance(soft).debt_usd_nanos == 20
        assert kind_of(ledger.reserve(3, [soft, hard], fixed(80), forced=[soft])) == "contended"
        assert kind_of(ledger.reserve(4, [soft], fixed(0))) == "contended"

    def test_what_a_forced_hold_did_not_use_is_no_debt(self, ledger: Ledger) -> None:
        soft = account("soft", limit_usd_nanos=10)
        ledger.reserve(1, [soft], fixed(50), forced=[soft])
        assert ledger.balance(soft).debt_usd_nanos == 40
        assert ledger.settle(1, 12, 0)
        assert ledger.balance(soft).debt_usd_nanos == 2
        ledger.reserve(2, [soft], fixed(50), forced=[soft])
        assert ledger.release(2)
        assert ledger.balance(soft) == Balance(spent_usd_nanos=12, debt_usd_nanos=2, spent_calls=1)

    def test_a_forced_account_does_not_size_the_cap(self, ledger: Ledger) -> None:
        soft, hard = account("soft", limit_usd_nanos=10), account("hard", limit_usd_nanos=116)
        answer = ledger.reserve(1, [soft, hard], output(10, 10, 500, 500), forced=[soft])
        assert answer == Grant(100, 116, 0, 1)

    # Extend

    def test_a_retry_grows_the_hold_in_all_accounts_or_in_none(self, ledger: Ledger) -> None:
        wide, narrow = account("wide", limit_usd_nanos=100), account("narrow", limit_usd_nanos=50)
        ledger.reserve(1, [wide, narrow], fixed(20, 2))
        assert ledger.extend(1, 20, 2) == Grant(0, 40, 4, 1)
        before = ledger.balance(wide), ledger.balance(narrow)
        answer = ledger.extend(1, 20, 2)
        assert isinstance(answer, Shortfall)
        assert (answer.account, answer.kind, answer.needed, answer.reserved) == (narrow, "oversized", 20, 40)
        assert (ledger.balance(wide), ledger.balance(narrow)) == before
        assert ledger.settle(1, 40, 4)
        assert ledger.balance(wide) == Balance(spent_usd_nanos=40, spent_tokens=4, spent_calls=1)

    def test_a_retry_can_be_contended_or_exhausted(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=100)
        ledger.reserve(1, [trip], fixed(20))
        ledger.reserve(2, [trip], fixed(70))
        assert kind_of(ledger.extend(1, 20, 0)) == "contended"
        ledger.settle(2, 70, 0)
        assert kind_of(ledger.extend(1, 20, 0)) == "exhausted"
        assert kind_of(ledger.extend(1, 10, 0)) == "granted"

    def test_a_retry_in_a_forced_account_takes_debt(self, ledger: Ledger) -> None:
        soft = account(limit_usd_nanos=10)
        ledger.reserve(1, [soft], fixed(8), forced=[soft])
        assert kind_of(ledger.extend(1, 8, 0)) == "oversized"  # it was let past once, and is asked again
        assert kind_of(ledger.extend(1, 8, 0, forced=[soft])) == "granted"
        assert ledger.balance(soft).debt_usd_nanos == 6

    # Settle, expire, adjust

    def test_what_a_call_cost_above_its_bound_is_debt(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=100)
        ledger.reserve(1, [trip], fixed(60, 6))
        ledger.settle(1, 130, 7, 2)
        assert ledger.balance(trip) == Balance(130, 0, 70, 7, 0, 1, 2, 0, 1)
        assert kind_of(ledger.reserve(2, [trip], fixed(1))) == "exhausted"

    def test_only_a_hold_whose_time_is_over_expires(self, ledger: Ledger, now: Callable[[], float]) -> None:
        trip = account()
        ledger.reserve(1, [trip], fixed(10))
        ledger.reserve(2, [trip], fixed(20), ttl_seconds=LONG_AFTER / 2)
        ledger.reserve(3, [trip], fixed(40), ttl_seconds=LONG_AFTER * 2)
        assert ledger.expire() == 0
        assert ledger.expire(now() + LONG_AFTER) == 1
        assert ledger.balance(trip) == Balance(20, 50, 0, 0, 0, 0, 1, 2, 0)

    def test_a_late_settle_above_the_bound_is_debt_too(self, ledger: Ledger, now: Callable[[], float]) -> None:
        trip = account(limit_usd_nanos=100)
        ledger.reserve(1, [trip], fixed(40), ttl_seconds=1)
        ledger.expire(now() + LONG_AFTER)
        assert ledger.settle(1, 50, 0)
        assert ledger.balance(trip) == Balance(spent_usd_nanos=50, debt_usd_nanos=10, spent_calls=1)

    def test_an_adjustment_happens_once(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=100)
        assert ledger.adjust("invoice", [trip], 30, 3, 1)
        assert not ledger.adjust("invoice", [trip], 30, 3, 1)
        assert ledger.balance(trip) == Balance(spent_usd_nanos=30, spent_tokens=3, spent_calls=1)

    def test_a_refund_never_takes_spent_below_zero(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=100)
        ledger.adjust("by hand", [trip], 30, 3, 1)
        assert ledger.adjust("refund", [trip], -20, -5, 0)
        assert ledger.balance(trip) == Balance(spent_usd_nanos=10, spent_calls=1)

    def test_what_an_adjustment_takes_past_the_limit_is_debt(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=100)
        ledger.reserve(1, [trip], fixed(60))
        ledger.adjust("by hand", [trip], 50, 0, 0)
        assert ledger.balance(trip).debt_usd_nanos == 10

    @pytest.mark.parametrize("wrong", [-1, 2**63, 0.5, "1", None])
    def test_an_amount_that_is_none_is_refused_before_anything_changes(self, ledger: Ledger, wrong: Any) -> None:
        trip = account()
        ledger.reserve(1, [trip], fixed(5))
        before = ledger.balance(trip)
        attempts: list[Callable[[], object]] = [
            lambda: ledger.reserve(2, [trip], fixed(wrong)),
            lambda: ledger.reserve(2, [trip], fixed(0, wrong)),
            lambda: ledger.extend(1, wrong, 0),
            lambda: ledger.settle(1, wrong, 0),
            lambda: ledger.settle(1, 0, wrong),
            lambda: ledger.settle(1, 0, 0, wrong),
            lambda: ledger.settle_later(1, 0, wrong),
        ]
        for attempt in attempts:
            with pytest.raises((ValueError, TypeError) if wrong in ("1", None) else ValueError):
                attempt()
        assert ledger.balance(trip) == before
        assert len(ledger.in_flight()) == 1

    def test_an_account_key_is_no_int(self, ledger: Ledger) -> None:
        with pytest.raises(ValueError, match="account key 7 is an int"):
            ledger.reserve(1, [Account(7, "seven")], fixed(5))
        assert ledger.in_flight() == []

    # Accounts

    def test_an_account_nobody_used_is_empty(self, ledger: Ledger) -> None:
        assert ledger.balance(account()) == Balance()

    def test_a_forgotten_account_starts_again(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=10)
        ledger.adjust("by hand", [trip], 10, 0, 0)
        ledger.forget(trip.key)
        assert kind_of(ledger.reserve(1, [trip], fixed(10))) == "granted"
        ledger.forget("never seen")
        assert ledger.balance(trip).reserved_usd_nanos == 10

    def test_a_forgotten_account_stays_until_its_last_hold_ends(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=10)
        ledger.reserve(1, [trip], fixed(4))
        ledger.reserve(2, [trip], fixed(4))
        ledger.forget(trip.key)
        ledger.settle(1, 4, 0)
        assert ledger.balance(trip).spent_usd_nanos == 4
        assert kind_of(ledger.reserve(3, [trip], fixed(4))) == "contended"
        ledger.settle(2, 4, 0)
        assert ledger.balance(trip) == Balance()

    # Rows

    def test_a_call_is_in_flight_until_it_is_a_row(self, ledger: Ledger) -> None:
        first, second = object(), object()
        ledger.reserve(1, (), fixed(5), call=first)
        ledger.reserve(2, (), fixed(6), call=second)
        assert ledger.in_flight() == [(first, Grant(0, 5, 0, 1)), (second, Grant(0, 6, 0, 1))]
        ledger.settle(2, 3, 0, row="second")
        ledger.add_row("refused")
        ledger.release(1, row="first")
        assert ledger.in_flight() == []
        assert ledger.rows() == ["second", "refused", "first"]

    def test_a_hold_that_ends_without_a_row_leaves_none(self, ledger: Ledger) -> None:
        ledger.reserve(1, (), fixed(5), call="call")
        ledger.settle(1, 3, 0)
        snapshot = ledger.snapshot()
        assert (snapshot.rows, snapshot.in_flight) == ([], [])

    def test_an_expired_call_has_the_row_it_is_given_until_it_is_corrected(
        self, ledger: Ledger, now: Callable[[], float]
    ) -> None:
        ledger.reserve(1, (), fixed(5), call="call", ttl_seconds=1)
        ledger.expire(now() + LONG_AFTER, row_of=lambda call, grant: (call, grant.usd_nanos))
        assert ledger.rows() == [("call", 5)]
        ledger.settle(1, 3, 0, row=("call", 3))
        assert ledger.rows() == [("call", 3)]

    # Many at once

    def test_of_a_hundred_threads_at_a_limit_for_five_exactly_five_pass(self, ledger: Ledger) -> None:
        inner, outer = account("inner", limit_usd_nanos=70), account("outer", limit_usd_nanos=59)
        start, passed = threading.Barrier(100), []

        def ask(hold_id: int) -> None:
            start.wait()
            if isinstance(ledger.reserve(hold_id, [inner, outer], fixed(11)), Grant):
                passed.append(hold_id)

        threads = [threading.Thread(target=ask, args=(hold_id,)) for hold_id in range(1, 101)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(passed) == 5
        assert ledger.balance(inner) == ledger.balance(outer)
        assert ledger.balance(inner).reserved_usd_nanos == 55
