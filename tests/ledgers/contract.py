"""What every ledger does: inherit `LedgerContract`, give it a `make`, and it is tested.

`wall` is the clock that decides about windows.  `now` reads the clock that deadlines are measured with: the same for a
store, another one for a ledger in memory.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, ClassVar

import pytest

from farebox.ledgers import (
    NO_LIMIT,
    Account,
    Balance,
    Control,
    Grain,
    Grant,
    Ledger,
    Need,
    RowForm,
    Shortfall,
    Sum,
    View,
    WindowClosed,
)
from farebox.testing import FixedClock
from tests.ledgers.forms import FORM, Row

LONG_AFTER = 1_000_000.0
#: A full hour, and a full day.
NOON = int(datetime(2026, 6, 15, 12, tzinfo=UTC).timestamp())
MIDNIGHT = NOON + 12 * 3_600
#: A call in flight, as a form carries it.
CALL: Row = (NOON, "search", 0)


def account(name: str = "search", **fields: Any) -> Account:
    return Account(f"key of {name}", name, **fields)


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


def tell(ledger: Ledger, trip: Account, story: str) -> None:
    """Do what a story says, line by line: a step, what it answers, and then `spent held debt of limit` of the account.

    Holds have a letter, entries a number.  A refusal by a killed account reads `killed`.
    """
    steps: dict[str, Callable[..., Any]] = {
        "reserve": lambda hold, usd: ledger.reserve(ord(hold), [trip], fixed(int(usd))),
        "force": lambda hold, usd: ledger.reserve(ord(hold), [trip], fixed(int(usd)), forced=[trip]),
        "cross": lambda hold, usd: ledger.reserve(ord(hold), [trip], fixed(int(usd)), crossing=[trip]),
        "extend": lambda hold, usd: ledger.extend(ord(hold), int(usd), 0),
        "push": lambda hold, usd: ledger.extend(ord(hold), int(usd), 0, forced=[trip]),
        "settle": lambda hold, usd: ledger.settle(ord(hold), int(usd), 0),
        "release": lambda hold: ledger.release(ord(hold)),
        "charge": lambda hold, usd: ledger.charge(ord(hold), [trip], int(usd), 0),
        "adjust": lambda entry, usd: ledger.adjust(entry, [trip], int(usd), 0, 0),
        "limit": lambda entry, key, usd: ledger.control(entry, key, Control(limit_usd_nanos=int(usd))),
        "kill": lambda entry, key: ledger.control(entry, key, Control(is_killed=True)),
        "unkill": lambda entry, key: ledger.control(entry, key, Control(is_killed=False)),
        "top-up": lambda entry, usd: ledger.top_up(entry, trip, int(usd), 0, 0),
        "reset": lambda entry: ledger.reset(entry, trip),
        "forget": lambda: ledger.forget(trip.key),
    }
    for line in story.strip().splitlines():
        step, expected, numbers = (part.strip() for part in line.split("|"))
        verb, *words = step.split()
        answer = steps[verb](*words)
        if isinstance(answer, Shortfall):
            assert answer.account is trip, line
            said = "killed" if answer.is_killed else answer.kind
            assert answer.kind == "exhausted" or not answer.is_killed, line
        else:
            said = {True: "yes", False: "no", None: "done"}.get(answer, "granted")
        view = ledger.view(trip)
        seen = view.balance
        shown = f"{seen.spent_usd_nanos} {seen.reserved_usd_nanos} {seen.debt_usd_nanos} of {view.limit_usd_nanos}"
        assert (said, shown.split()) == (expected, numbers.split()), line
        assert view.is_killed is (said == "killed") or not isinstance(answer, Shortfall), line


def by_place_and_time(sums: Iterable[Sum], grain: Grain, zone: tzinfo) -> dict[Any, tuple[int, int]]:
    """Nanodollars and number of rows by place and, as exactly as `grain` says, by time."""
    usd_nanos: Counter[Any] = Counter()
    rows: Counter[Any] = Counter()
    for found in sums:
        began = datetime.fromtimestamp(found.starts_at, zone)
        times = {"hour": began.strftime("%Y-%m-%d %H"), "day": began.strftime("%Y-%m-%d"), "ever": ""}
        usd_nanos[found.place, times[grain]] += found.sums[0]
        rows[found.place, times[grain]] += found.sums[1]
    return {key: (usd_nanos[key], rows[key]) for key in usd_nanos}


class LedgerContract:
    #: Whether it keeps what was learnt for programs that start later.
    keeps_learnt: ClassVar[bool] = True
    #: Whether several processes use it, and one may end what another holds.
    keeps_notes: ClassVar[bool] = True

    @pytest.fixture
    def make(self, wall: FixedClock) -> Callable[[RowForm], Ledger]:
        """Opens an empty ledger that reads `wall`; it need not be closed."""
        raise NotImplementedError

    @pytest.fixture
    def wall(self) -> FixedClock:
        return FixedClock(NOON)

    @pytest.fixture
    def now(self, wall: FixedClock) -> Callable[[], float]:
        return wall

    @pytest.fixture
    def ledger(self, make: Callable[[RowForm], Ledger]) -> Ledger:
        return make(FORM)

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
        assert ledger.reserve(1, (), fixed(7, 8), call=CALL) == Grant(0, 7, 8, 1)
        assert ledger.in_flight() == [(CALL, Grant(0, 7, 8, 1))]
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

    # Crossing

    def test_one_at_a_time_crosses_a_limit_until_it_is_spent(self, ledger: Ledger) -> None:
        story = """
            reserve a 60 | granted   |   0  60   0 of 100
            cross b 50   | granted   |   0 110  10 of 100
            cross c 30   | contended |   0 110  10 of 100
            release b    | yes       |   0  60   0 of 100
            cross c 30   | granted   |   0  90   0 of 100
            cross d 50   | granted   |   0 140  40 of 100
            reserve e 1  | contended |   0 140  40 of 100
            settle d 5   | yes       |   5  90   0 of 100
            settle a 60  | yes       |  65  30   0 of 100
            cross f 500  | granted   |  65 530 495 of 100
            cross g 500  | contended |  65 530 495 of 100
            settle f 40  | yes       | 105  30  35 of 100
            cross g 1    | exhausted | 105  30  35 of 100
            top-up 1 50  | yes       | 105  30  35 of 150
            cross g 20   | granted   | 105  50  40 of 150
            kill 2 stop  | yes       | 105  50  40 of 150
            cross h 1    | killed    | 105  50  40 of 150
        """
        tell(ledger, account(limit_usd_nanos=100, controls=("stop",)), story)

    def test_a_limit_of_nothing_and_one_that_is_spent_exactly_are_not_crossed(self, ledger: Ledger) -> None:
        for name, limit in (("nothing", 0), ("spent", 10)):
            trip = account(name, limit_usd_nanos=limit)
            ledger.adjust(name, [trip], limit, 0, 0)
            answer = ledger.reserve(1, [trip], fixed(7), crossing=[trip])
            assert answer == Shortfall(trip, "usd", limit, limit, 0, 7, "exhausted")

    def test_who_crosses_and_dies_has_crossed(self, ledger: Ledger, now: Callable[[], float]) -> None:
        trip = account(limit_usd_nanos=10)
        assert kind_of(ledger.reserve(1, [trip], fixed(15), ttl_seconds=1, crossing=[trip])) == "granted"
        assert ledger.expire(now() + LONG_AFTER) == 1
        assert kind_of(ledger.reserve(2, [trip], fixed(15), crossing=[trip])) == "exhausted"
        assert ledger.release(1)  # it was never sent, as it turns out
        assert kind_of(ledger.reserve(2, [trip], fixed(15), crossing=[trip])) == "granted"

    def test_no_unit_is_crossed_where_another_is_spent_or_crossed(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=10, limit_tokens=100, limit_calls=3)
        assert kind_of(ledger.reserve(1, [trip], fixed(5, 120), crossing=[trip])) == "granted"
        assert ledger.reserve(2, [trip], fixed(7, 0), crossing=[trip]) == Shortfall(
            trip, "tokens", 100, 0, 120, 0, "contended"
        )
        assert kind_of(ledger.reserve(3, [trip], fixed(2, 0), crossing=[trip])) == "contended"
        assert ledger.settle(1, 1, 90)
        assert kind_of(ledger.reserve(4, [trip], fixed(2, 0, 2), crossing=[trip])) == "granted"
        assert ledger.settle(4, 2, 10, 2)
        assert ledger.reserve(5, [trip], fixed(8, 0, 0), crossing=[trip]) == Shortfall(
            trip, "tokens", 100, 100, 0, 0, "exhausted"
        )
        assert kind_of(ledger.reserve(5, [trip], fixed(7, 0, 0), crossing=[trip])) == "granted"  # it fits

    def test_who_crosses_must_fit_all_other_accounts(self, ledger: Ledger) -> None:
        soft, hard = account("soft", limit_usd_nanos=10), account("hard", limit_usd_nanos=100)
        assert kind_of(ledger.reserve(1, [soft, hard], fixed(101), crossing=[soft])) == "oversized"
        assert ledger.balance(soft) == ledger.balance(hard) == Balance()
        both = account("both", limit_usd_nanos=50)
        assert kind_of(ledger.reserve(2, [soft, both, hard], fixed(60), crossing=[soft, both])) == "granted"
        assert (ledger.balance(soft).debt_usd_nanos, ledger.balance(both).debt_usd_nanos) == (50, 10)
        # What waiting can't cure speaks before what it can.
        spent = account("spent", limit_usd_nanos=0)
        answer = ledger.reserve(3, [soft, spent], fixed(60), crossing=[soft, spent])
        assert isinstance(answer, Shortfall)
        assert (answer.account, answer.kind) == (spent, "exhausted")

    def test_an_account_that_is_crossed_does_not_size_the_cap(self, ledger: Ledger) -> None:
        soft, hard = account("soft", limit_usd_nanos=120), account("hard", limit_usd_nanos=416)
        answer = ledger.reserve(1, [soft, hard], output(10, 100, 500, 500), crossing=[soft])
        assert answer == Grant(104, 120, 0, 1)  # it fits
        ledger.settle(1, 115, 0)
        answer = ledger.reserve(2, [soft, hard], output(10, 100, 500, 500), crossing=[soft])
        assert answer == Grant(285, 301, 0, 1)

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

    def test_an_account_that_is_adjusted_by_its_key_goes_by_the_limits_it_was_last_held_under(
        self, ledger: Ledger
    ) -> None:
        trip = account(limit_usd_nanos=100, controls=("plan",))
        ledger.reserve(1, [trip], fixed(60))
        ledger.settle(1, 60, 0)
        assert ledger.adjust("invoice", [trip.key, "nobody", trip.key.upper()], 30, 3, 0)
        assert not ledger.adjust("invoice", [trip.key], 30, 3, 0)
        assert ledger.balance(trip) == Balance(spent_usd_nanos=90, spent_tokens=3, spent_calls=1)
        ledger.control("1", "plan", Control(limit_usd_nanos=95))
        assert ledger.adjust("another", [trip.key], 8, 0, 0)
        spent = Balance(spent_usd_nanos=98, debt_usd_nanos=3, spent_tokens=3, spent_calls=1)
        assert ledger.accounts("key of") == [(trip.key, View(spent, 95))]  # and nobody else
        assert kind_of(ledger.reserve(2, [trip], fixed(1))) == "exhausted"
        assert ledger.adjust("refund", [trip.key], -50, 0, 0)
        assert kind_of(ledger.reserve(2, [trip], fixed(40))) == "granted"

    def test_an_account_whose_window_is_over_can_be_adjusted_by_its_key(self, ledger: Ledger, wall: FixedClock) -> None:
        old = account("old", limit_usd_nanos=100, starts_at=NOON, ends_at=NOON + 3_600)
        wall.now = NOON
        ledger.reserve(1, [old], fixed(20))
        ledger.settle(1, 20, 0)
        wall.now = NOON + 86_400
        assert ledger.adjust("refund", [old.key], -5, 0, 0)
        assert ledger.view(old) == View(Balance(spent_usd_nanos=15, spent_calls=1), 100)

    def test_who_corrects_a_call_has_seen_all_that_was_corrected_before(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=100)
        ledger.reserve(1, [trip], fixed(40), call=CALL)
        ledger.settle(1, 40, 0, 1, (NOON, "search", 40))
        off = (NOON, "search", -30)
        assert ledger.adjust("first", [trip], -30, 0, 0, off, turn=("search", 1))
        assert not ledger.adjust("second", [trip], -30, 0, 0, off, turn=("search", 1))
        assert not ledger.adjust("first", [trip], -30, 0, 0, off, turn=("search", 2))
        assert ledger.adjust("another call", [trip], 1, 0, 0, (NOON, "lookup", 1), turn=("lookup", 1))
        assert ledger.adjust("second", [trip], -10, 0, 0, (NOON, "search", -10), turn=("search", 2))
        assert ledger.balance(trip) == Balance(spent_usd_nanos=1, spent_calls=1)
        assert [row[2] for row in ledger.snapshot().rows] == [40, -30, 1, -10]

    #: Of a call that expired at 40: what a person takes off it, what its late answer says, what it comes to then, and whether a
    #: person who has seen the person's correction alone may make another.
    LATE: ClassVar[list[tuple[int, tuple[int, int] | None, int, bool]]] = [
        (0, (25, 2), 25, False),  # nobody has corrected it
        (0, (60, 6), 60, False),
        (0, None, 0, False),  # released
        (-30, (25, 2), 10, True),  # what a person said counts
        (-30, None, 10, True),
        (-30, (40, 4), 10, True),
        (-30, (25, 9), 10, True),
        (-30, (60, 4), 30, False),  # unless the bill is dearer
        (30, (25, 2), 70, True),
    ]

    @pytest.mark.parametrize(("by_hand", "late", "comes_to", "goes_on"), LATE)
    def test_a_late_answer_to_a_call_that_was_corrected_by_hand(
        self,
        ledger: Ledger,
        now: Callable[[], float],
        by_hand: int,
        late: tuple[int, int] | None,
        comes_to: int,
        goes_on: bool,
    ) -> None:
        trip, other = account(), 7
        ledger.adjust("another call", [trip], other, 0, 0, (NOON, "lookup", other))
        ledger.reserve(1, [trip], fixed(40, 4), call=CALL, ttl_seconds=60)
        assert ledger.expire(now() + LONG_AFTER, FORM.presumed) == 1
        turn = 1
        if by_hand:
            assert ledger.adjust("by hand", [trip], by_hand, 0, 0, (NOON, "search", by_hand), turn=("search", 1))
            turn = 2
        for _ in range(2):  # the second is told to a hold that has ended
            if late is None:
                ledger.release(1, CALL)
            else:
                ledger.settle(1, *late, 1, (NOON, "search", late[0]))
        assert ledger.adjust("more", [trip], 5, 0, 0, (NOON, "search", 5), turn=("search", turn)) is goes_on
        if not goes_on:
            assert ledger.adjust("more", [trip], 5, 0, 0, (NOON, "search", 5), turn=("search", turn + 1))
        assert ledger.balance(trip).spent_usd_nanos == other + comes_to + 5
        assert sum(found.sums[0] for found in ledger.tally()) == other + comes_to + 5
        assert sum(row[2] for row in ledger.rows_of("search")) == comes_to + 5

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
            lambda: ledger.charge(3, [trip], wrong, 0),
            lambda: ledger.charge(3, [trip], 0, 0, wrong),
            lambda: ledger.top_up("wrong", trip, 0, wrong, 0),
        ]
        for attempt in attempts:
            with pytest.raises((ValueError, TypeError) if wrong in ("1", None) else ValueError):
                attempt()
        assert ledger.balance(trip) == before
        assert len(ledger.in_flight()) == 1

    def test_an_account_key_is_no_int(self, ledger: Ledger) -> None:
        with pytest.raises(ValueError, match=r"account key 7 is an? int"):
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

    # Charged without a hold

    def test_what_is_known_only_afterwards_is_charged_once_and_never_refused(self, ledger: Ledger) -> None:
        story = """
            charge a 60  | done      |  60 0  0 of 100
            charge a 60  | done      |  60 0  0 of 100
            charge a 99  | done      |  60 0  0 of 100
            settle a 10  | no        |  60 0  0 of 100
            release a    | no        |  60 0  0 of 100
            charge b 70  | done      | 130 0 30 of 100
            reserve c 1  | exhausted | 130 0 30 of 100
            charge d 5   | done      | 135 0 35 of 100
        """
        tell(ledger, account(limit_usd_nanos=100), story)

    def test_a_charge_past_what_is_held_is_debt_and_its_id_may_not_be_that_of_a_hold(self, ledger: Ledger) -> None:
        story = """
            reserve a 40 | granted |  0 40  0 of 100
            charge a 5   | done    |  0 40  0 of 100
            charge b 80  | done    | 80 40 20 of 100
            release a    | yes     | 80  0 20 of 100
            charge a 5   | done    | 80  0 20 of 100
        """
        tell(ledger, account(limit_usd_nanos=100), story)

    def test_a_charge_counts_in_each_unit_of_all_its_accounts(self, ledger: Ledger) -> None:
        inner, outer = account("inner", limit_calls=1), account("outer", limit_tokens=10)
        ledger.charge(1, [inner, outer, inner], 5, 12, 3, row=(NOON, "search", 5))
        assert ledger.balance(inner) == Balance(5, 0, 0, 12, 0, 0, 3, 0, 2)
        assert ledger.balance(outer) == Balance(5, 0, 0, 12, 0, 2, 3, 0, 0)
        assert list(ledger.rows()) == [(NOON, "search", 5)]
        assert ledger.in_flight() == []

    # What people say: limits

    def test_an_account_nobody_used_has_its_limits_in_force(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=100, limit_calls=7, controls=("plan",))
        assert ledger.last_view(trip) is None
        assert ledger.view(trip) == View(Balance(), 100, NO_LIMIT, 7, is_killed=False)
        ledger.control("1", "plan", Control(limit_usd_nanos=50, limit_tokens=9, is_killed=True))
        assert ledger.view(trip) == View(Balance(), 50, 9, 7, is_killed=True)

    def test_what_was_seen_last_is_what_is_there(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=100)
        ledger.reserve(1, [trip], fixed(30, 3))
        assert ledger.last_view(trip) == ledger.view(trip) == View(Balance(0, 30, 0, 0, 3, 0, 0, 1, 0), 100)

    def test_a_limit_that_was_set_is_in_force_for_all_that_name_its_key(self, ledger: Ledger) -> None:
        first, second = account("first", controls=("plan",)), account("second", controls=("plan",))
        other = account("other", controls=("other plan",))
        assert ledger.control("1", "plan", Control(limit_usd_nanos=10))
        assert kind_of(ledger.reserve(1, [first], fixed(11))) == "oversized"
        assert kind_of(ledger.reserve(1, [second], fixed(11))) == "oversized"
        assert kind_of(ledger.reserve(1, [other], fixed(11))) == "granted"

    def test_the_most_specific_key_wins_whatever_was_said_last(self, ledger: Ledger) -> None:
        story = """
            limit 1 plan     50 | yes       | 0   0 0 of  50
            reserve a 60        | oversized | 0   0 0 of  50
            limit 2 acme    200 | yes       | 0   0 0 of 200
            limit 3 plan     70 | yes       | 0   0 0 of 200
            reserve a 150       | granted   | 0 150 0 of 200
            limit 4 acme    140 | yes       | 0 150 0 of 140
        """
        tell(ledger, account(limit_usd_nanos=100, controls=("plan", "acme")), story)

    def test_a_key_that_says_nothing_of_a_unit_leaves_it_as_it_is(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=100, limit_tokens=100, limit_calls=100, controls=("plan", "acme"))
        ledger.control("1", "plan", Control(limit_usd_nanos=50))
        ledger.control("2", "acme", Control(limit_tokens=60))
        assert ledger.view(trip) == View(Balance(), 50, 60, 100)
        ledger.control("3", "plan", Control(limit_calls=0))
        assert ledger.view(trip) == View(Balance(), 50, 60, 0)
        assert ledger.controls() == {
            "plan": Control(limit_usd_nanos=50, limit_calls=0),
            "acme": Control(limit_tokens=60),
        }

    def test_below_what_is_used_a_limit_refuses_and_takes_nothing_away(self, ledger: Ledger) -> None:
        story = """
            reserve a 60     | granted   |  0 60 0 of 100
            limit 1 plan 50  | yes       |  0 60 0 of  50
            reserve b 1      | contended |  0 60 0 of  50
            settle a 55      | yes       | 55  0 0 of  50
            reserve b 1      | exhausted | 55  0 0 of  50
            limit 2 plan 80  | yes       | 55  0 0 of  80
            reserve b 26     | exhausted | 55  0 0 of  80
            reserve b 25     | granted   | 55 25 0 of  80
        """
        tell(ledger, account(limit_usd_nanos=100, controls=("plan",)), story)

    def test_a_retry_goes_by_the_limit_of_now(self, ledger: Ledger) -> None:
        story = """
            reserve a 90      | granted   | 0  90 0 of 100
            extend a 20       | oversized | 0  90 0 of 100
            limit 1 plan 200  | yes       | 0  90 0 of 200
            extend a 20       | granted   | 0 110 0 of 200
            limit 2 plan 100  | yes       | 0 110 0 of 100
            extend a 0        | oversized | 0 110 0 of 100
        """
        tell(ledger, account(limit_usd_nanos=100, controls=("plan",)), story)

    def test_debt_is_what_goes_past_the_limit_of_now(self, ledger: Ledger) -> None:
        story = """
            limit 1 plan 50  | yes     |  0  0  0 of 50
            force a 60       | granted |  0 60 10 of 50
            push a 5         | granted |  0 65 15 of 50
            charge b 5       | done    |  5 65 20 of 50
            adjust 2 5       | yes     | 10 65 25 of 50
            settle a 30      | yes     | 40  0 10 of 50
        """
        tell(ledger, account(limit_usd_nanos=100, controls=("plan",)), story)

    def test_the_limit_of_now_sizes_the_cap(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=10_000, limit_tokens=10_000, controls=("plan",))
        ledger.control("1", "plan", Control(limit_usd_nanos=116))
        assert ledger.reserve(1, [trip], output(10, 10, 500, 500)) == Grant(100, 116, 0, 1)
        ledger.release(1)
        ledger.control("2", "plan", Control(limit_usd_nanos=10_000, limit_tokens=66))
        need = Need(least_cap=1, floor_cap=10, want_cap=500, most_cap=500)
        assert ledger.reserve(2, [trip], need) == Grant(50, 0, 66, 1)

    # What people say: kills

    def test_a_killed_account_holds_nothing_more_and_keeps_what_it_holds(self, ledger: Ledger) -> None:
        story = """
            reserve a 40   | granted |  0 40 0 of 100
            kill 1 plan    | yes     |  0 40 0 of 100
            reserve b 1    | killed  |  0 40 0 of 100
            force b 1      | killed  |  0 40 0 of 100
            extend a 1     | killed  |  0 40 0 of 100
            push a 1       | killed  |  0 40 0 of 100
            reserve a 40   | granted |  0 40 0 of 100
            settle a 30    | yes     | 30  0 0 of 100
            charge d 5     | done    | 35  0 0 of 100
            adjust 2 5     | yes     | 40  0 0 of 100
            unkill 3 plan  | yes     | 40  0 0 of 100
            reserve b 1    | granted | 40  1 0 of 100
        """
        tell(ledger, account(limit_usd_nanos=100, controls=("plan",)), story)

    def test_an_account_is_killed_while_one_of_its_keys_says_so(self, ledger: Ledger) -> None:
        story = """
            kill 1 plan      | yes     | 0 0 0 of 100
            unkill 2 acme    | yes     | 0 0 0 of 100
            reserve a 1      | killed  | 0 0 0 of 100
            limit 3 plan 50  | yes     | 0 0 0 of  50
            reserve a 1      | killed  | 0 0 0 of  50
            kill 4 acme      | yes     | 0 0 0 of  50
            unkill 5 plan    | yes     | 0 0 0 of  50
            reserve a 1      | killed  | 0 0 0 of  50
            unkill 6 acme    | yes     | 0 0 0 of  50
            reserve a 1      | granted | 0 1 0 of  50
        """
        tell(ledger, account(limit_usd_nanos=100, controls=("plan", "acme")), story)

    def test_a_killed_account_speaks_before_all_others_and_nothing_is_held(self, ledger: Ledger) -> None:
        short, killed = account("short", limit_usd_nanos=1), account("killed", limit_usd_nanos=9, controls=("plan",))
        ledger.charge(1, [killed], 3, 0)
        ledger.control("1", "plan", Control(is_killed=True))
        answer = ledger.reserve(2, [short, killed], fixed(5))
        assert answer == Shortfall(killed, "usd", 9, 3, 0, 5, "exhausted", is_killed=True)
        assert ledger.balance(short) == Balance()
        assert ledger.in_flight() == []

    # What people say: more of it, and from the start

    def test_a_top_up_is_put_on_top_of_whatever_limit_is_in_force(self, ledger: Ledger) -> None:
        story = """
            charge a 100      | done      | 100  0 0 of 100
            reserve b 10      | exhausted | 100  0 0 of 100
            top-up 1 50       | yes       | 100  0 0 of 150
            top-up 1 50       | no        | 100  0 0 of 150
            reserve b 50      | granted   | 100 50 0 of 150
            top-up 2 5        | yes       | 100 50 0 of 155
            extend b 5        | granted   | 100 55 0 of 155
            limit 3 plan 120  | yes       | 100 55 0 of 175
            reset 4           | yes       |   0 55 0 of 175
        """
        tell(ledger, account(limit_usd_nanos=100, controls=("plan",)), story)

    def test_a_top_up_adds_to_this_window_only(self, ledger: Ledger) -> None:
        today, tomorrow = (
            account(f"plan on {day}", limit_usd_nanos=10, limit_calls=20, controls=("plan",)) for day in (1, 2)
        )
        assert ledger.top_up("1", today, 5, 3, 0)
        assert ledger.view(today) == View(Balance(), 15, NO_LIMIT, 20)
        assert ledger.view(tomorrow) == View(Balance(), 10, NO_LIMIT, 20)

    def test_a_forgotten_account_forgets_what_it_was_topped_up_by_and_not_what_was_said(self, ledger: Ledger) -> None:
        story = """
            limit 1 plan 50  | yes  | 0 0 0 of 50
            top-up 2 5       | yes  | 0 0 0 of 55
            forget           | done | 0 0 0 of 50
        """
        tell(ledger, account(limit_usd_nanos=100, controls=("plan",)), story)

    def test_a_reset_takes_away_what_was_spent_and_owed_and_not_what_is_held(self, ledger: Ledger) -> None:
        story = """
            reserve a 30  | granted |  0  30  0 of 100
            charge b 90   | done    | 90  30 20 of 100
            reset 1       | yes     |  0  30  0 of 100
            reset 1       | no      |  0  30  0 of 100
            settle a 40   | yes     | 40   0 10 of 100
            reset 1       | no      | 40   0 10 of 100
        """
        tell(ledger, account(limit_usd_nanos=100), story)

    def test_nothing_that_ends_after_a_reset_takes_anything_below_zero(
        self, ledger: Ledger, now: Callable[[], float]
    ) -> None:
        trip = account(limit_usd_nanos=100)
        story = """
            force a 150  | granted |  0 150 50 of 100
            reset 1      | yes     |  0 150  0 of 100
            settle a 10  | yes     | 10   0  0 of 100
        """
        tell(ledger, trip, story)
        ledger.reserve(1, [trip], fixed(40), ttl_seconds=1)
        ledger.expire(now() + LONG_AFTER)
        ledger.reset("2", trip)
        assert ledger.settle(1, 25, 0)
        assert ledger.balance(trip) == Balance()

    def test_a_reset_goes_for_every_unit(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=1, limit_tokens=1, limit_calls=1)
        ledger.reserve(1, [trip], fixed(5, 6, 7), forced=[trip])
        ledger.charge(2, [trip], 5, 6, 7)
        assert ledger.reset("1", trip)
        assert ledger.balance(trip) == Balance(0, 5, 0, 0, 6, 0, 0, 7, 0)

    def test_what_was_said_once_is_not_said_again(self, ledger: Ledger) -> None:
        trip = account(limit_usd_nanos=100, controls=("plan",))
        assert ledger.control("1", "plan", Control(limit_usd_nanos=50))
        assert ledger.control("2", "plan", Control(limit_usd_nanos=60))
        assert not ledger.control("1", "plan", Control(limit_usd_nanos=50))
        assert not ledger.control("1", "another", Control(is_killed=True))
        assert ledger.controls() == {"plan": Control(limit_usd_nanos=60)}
        assert ledger.view(trip).limit_usd_nanos == 60

    # Windows

    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [(-86_400, "closed"), (-0.001, "closed"), (0, "open"), (3_599.999, "open"), (3_600, "closed")],
    )
    def test_a_window_takes_holds_from_its_start_to_just_before_its_end(
        self, ledger: Ledger, wall: FixedClock, seconds: float, expected: str
    ) -> None:
        trip = account(starts_at=NOON, ends_at=NOON + 3_600)
        wall.now = NOON + seconds
        if expected == "open":
            assert ledger.reserve(1, [trip], fixed(5)) == Grant(0, 5, 0, 1)
            return
        with pytest.raises(WindowClosed) as raised:
            ledger.reserve(1, [trip], fixed(5))
        assert raised.value.now_seconds == pytest.approx(NOON + seconds, abs=1e-6)
        assert ledger.balance(trip) == Balance()
        assert ledger.in_flight() == []
        wall.now = NOON  # and the id was not used
        assert ledger.reserve(1, [trip], fixed(5)) == Grant(0, 5, 0, 1)

    def test_the_clock_of_windows_is_the_one_that_is_asked(self, ledger: Ledger, wall: FixedClock) -> None:
        ledger.reserve(1, [account()], fixed(5))
        assert ledger.now_seconds() == pytest.approx(wall(), abs=1.0)

    @pytest.mark.parametrize("fields", [{"starts_at": NOON + 1}, {"ends_at": NOON}])
    def test_one_closed_window_holds_up_all_accounts_forced_and_short_ones_too(
        self, ledger: Ledger, fields: dict[str, int]
    ) -> None:
        short, closed = account("short", limit_usd_nanos=1), account("closed", **fields)
        for accounts, forced in (([short, closed], ()), ([closed, short], (closed,))):
            with pytest.raises(WindowClosed):
                ledger.reserve(1, accounts, fixed(5), forced=forced)
        assert ledger.balance(short) == ledger.balance(closed) == Balance()

    def test_what_was_held_in_a_window_ends_in_it(
        self, ledger: Ledger, wall: FixedClock, now: Callable[[], float]
    ) -> None:
        old = account("old", limit_usd_nanos=100, starts_at=NOON, ends_at=NOON + 3_600)
        new = account("new", limit_usd_nanos=100, starts_at=NOON + 3_600, ends_at=NOON + 7_200)
        for hold_id in (1, 2):
            ledger.reserve(hold_id, [old], fixed(20), ttl_seconds=1 if hold_id == 2 else None)
        wall.now = NOON + 3_600
        assert ledger.reserve(1, [old], fixed(20)) == Grant(0, 20, 0, 1)  # it was granted while the window was open
        assert ledger.extend(1, 5, 0) == Grant(0, 25, 0, 1)
        assert ledger.settle(1, 15, 0)
        assert ledger.expire(now() + LONG_AFTER) == 1
        assert ledger.balance(old) == Balance(spent_usd_nanos=35, spent_calls=2)
        ledger.charge(3, [old], 1, 0, 0)
        assert ledger.adjust("invoice", [old], 2, 0, 0)
        assert ledger.settle(2, 10, 0)
        assert ledger.balance(old) == Balance(spent_usd_nanos=28, spent_calls=2)
        assert ledger.balance(new) == Balance()
        assert kind_of(ledger.reserve(4, [new], fixed(100))) == "granted"

    # Accounts by the beginning of their keys

    def test_accounts_are_listed_by_the_beginning_of_their_keys(self, ledger: Ledger) -> None:
        first, second = (
            Account(f"plan/{name}", name, limit_usd_nanos=100, controls=("plan",)) for name in ("a%", "b_")
        )
        ledger.reserve(
            1, [first, second, Account("plan", "plan"), Account("PLAN/a", "A"), Account("my plan/a", "a")], fixed(7)
        )
        ledger.charge(2, [Account("plan/c", "c", limit_usd_nanos=100)], 3, 0, 0)
        held = Balance(reserved_usd_nanos=7, reserved_calls=1)
        assert dict(ledger.accounts("plan/")) == {
            "plan/a%": View(held, 100),
            "plan/b_": View(held, 100),
            "plan/c": View(Balance(spent_usd_nanos=3), 100),  # what was only charged is known as well
        }
        ledger.settle(1, 5, 0)
        ledger.control("1", "plan", Control(limit_usd_nanos=50, is_killed=True))
        ledger.top_up("2", first, 8, 0, 0)
        spent = Balance(spent_usd_nanos=5, spent_calls=1)
        assert dict(ledger.accounts("plan/a%")) == {"plan/a%": View(spent, 58, is_killed=True)}
        assert dict(ledger.accounts("plan/b_")) == {"plan/b_": View(spent, 50, is_killed=True)}
        assert ledger.accounts("nobody") == []
        assert len(ledger.accounts("")) == 6

    # Rows

    def test_a_call_is_in_flight_until_it_is_a_row(self, ledger: Ledger) -> None:
        first, second = (NOON, "search", 0), (NOON + 1, "chat", 0)
        ledger.reserve(1, (), fixed(5), call=first)
        ledger.reserve(2, (), fixed(6), call=second)
        assert sorted(ledger.in_flight()) == [(first, Grant(0, 5, 0, 1)), (second, Grant(0, 6, 0, 1))]
        ledger.settle(2, 3, 0, row=(NOON + 1, "chat", 3))
        ledger.add_row((NOON + 2, "refused", 0))
        ledger.release(1, row=(NOON, "search", 0))
        assert ledger.in_flight() == []
        assert list(ledger.rows()) == [(NOON + 1, "chat", 3), (NOON + 2, "refused", 0), (NOON, "search", 0)]
        assert ledger.snapshot().rows == list(ledger.rows())

    def test_a_hold_that_ends_without_a_row_leaves_none(self, ledger: Ledger) -> None:
        ledger.reserve(1, (), fixed(5), call=CALL)
        ledger.settle(1, 3, 0)
        snapshot = ledger.snapshot()
        assert (snapshot.rows, snapshot.in_flight) == ([], [])
        assert list(ledger.tally()) == []

    def test_an_expired_call_has_the_row_it_is_given_until_it_is_corrected(
        self, ledger: Ledger, now: Callable[[], float]
    ) -> None:
        ledger.reserve(1, (), fixed(5), call=CALL, ttl_seconds=1)
        ledger.expire(now() + LONG_AFTER, row_of=lambda call, grant: (call[0], call[1], grant.usd_nanos))
        assert list(ledger.rows()) == [(NOON, "search", 5)]
        ledger.settle(1, 3, 0, row=(NOON, "search", 3))
        assert list(ledger.rows()) == [(NOON, "search", 3)]
        assert by_place_and_time(ledger.tally(), "ever", UTC) == {("search", ""): (3, 1)}

    def test_what_was_recorded_or_corrected_by_hand_leaves_a_row_once(self, ledger: Ledger) -> None:
        for _ in range(2):
            ledger.charge(1, [], 5, 0, row=(NOON, "search", 5))
            ledger.adjust("refund", [account()], -2, 0, 0, row=(NOON, "search", -2))
        assert list(ledger.rows()) == [(NOON, "search", 5), (NOON, "search", -2)]
        assert by_place_and_time(ledger.tally(), "ever", UTC) == {("search", ""): (3, 2)}

    #: When they began, where they belong, what they cost; in the order in which they end.
    ROWS: ClassVar[list[Row]] = [
        (NOON + 50, "search", 30),
        (NOON, "chat", 10),
        (NOON + 3_600, "search", 20),
        (NOON + 3_599, "search", 5),
        (MIDNIGHT - 1, "search", 40),
        (MIDNIGHT, "chat", 1),
        (MIDNIGHT + 86_400 * 40, "chat", 2),
    ]

    def fill(self, ledger: Ledger, now: Callable[[], float]) -> None:
        """Let `ROWS` end in all the ways there are."""
        trip = account()
        for hold_id, row in enumerate(self.ROWS, 1):
            usd_nanos = row[2]
            ledger.reserve(hold_id, [trip], fixed(usd_nanos + 2), call=(*row[:2], 0), ttl_seconds=60)
            if hold_id == 2:  # expired and corrected
                ledger.settle(1, self.ROWS[0][2], 0, row=self.ROWS[0])
                ledger.expire(now() + LONG_AFTER, row_of=lambda call, grant: (call[0], call[1], grant.usd_nanos))
                ledger.settle(hold_id, usd_nanos, 0, row=row)
            elif hold_id == 3:
                ledger.release(hold_id)
                ledger.charge(100, [trip], usd_nanos, 0, row=row)
            elif hold_id == 4:
                ledger.release(hold_id)
                ledger.adjust("by hand", [trip], usd_nanos, 0, 0, row=row)
            elif hold_id == 5:
                ledger.settle_later(hold_id, usd_nanos, 0, row=row)
                ledger.balance(trip)
            elif hold_id == 6:
                ledger.release(hold_id)
                ledger.add_row(row)
            elif hold_id == 7:
                ledger.settle(hold_id, usd_nanos, 0, row=row)

    def test_rows_come_in_the_order_they_ended(self, ledger: Ledger, now: Callable[[], float]) -> None:
        self.fill(ledger, now)
        assert list(ledger.rows()) == self.ROWS
        assert list(ledger.rows(NOON + 3_599)) == self.ROWS[2:]
        assert list(ledger.rows(NOON + 3_600)) == [row for row in self.ROWS if row[0] >= NOON + 3_600]
        assert list(ledger.rows(NOON + 86_400 * 400)) == []

    def test_the_dearest_rows_come_first_where_that_is_asked(self, ledger: Ledger, now: Callable[[], float]) -> None:
        self.fill(ledger, now)
        assert [row[2] for row in ledger.rows(dearest_first=True)] == [40, 30, 20, 10, 5, 2, 1]
        assert [row[2] for row in ledger.rows(NOON + 51, dearest_first=True)] == [40, 20, 5, 2, 1]

    def test_the_rows_of_one_call_are_found_by_its_id(self, ledger: Ledger, wall: FixedClock) -> None:
        wall.now = NOON
        for hold_id in range(2, 1_200):  # more than a page
            ledger.add_row((NOON, f"other {hold_id}", 1))
        ledger.reserve(1, (), fixed(5), call=(NOON, "search", 0))
        assert ledger.rows_of("search") == []  # it is in flight
        ledger.settle(1, 5, 0, row=(NOON, "search", 5))
        ledger.add_row((NOON, "a search", 7))
        ledger.adjust("refund", (), -2, 0, 0, row=(NOON, "search", -2))
        assert ledger.rows_of("search") == [(NOON, "search", 5), (NOON, "search", -2)]
        assert ledger.rows_of("nobody") == ledger.rows_of("sear") == []
        ledger.prune(NOON + 1)
        assert ledger.rows_of("search") == []

    @pytest.mark.parametrize("grain", ["hour", "day", "ever"])
    @pytest.mark.parametrize("east", [0, 9, 5.75, -3.5])
    @pytest.mark.parametrize("since", [None, NOON + 3_600, MIDNIGHT])
    def test_a_tally_is_the_sum_over_all_rows(
        self, ledger: Ledger, now: Callable[[], float], grain: Grain, east: float, since: float | None
    ) -> None:
        self.fill(ledger, now)
        zone = timezone(timedelta(hours=east))
        each = [FORM.sum_of(row) for row in self.ROWS if since is None or row[0] >= since]
        assert by_place_and_time(ledger.tally(since, grain, zone), grain, zone) == by_place_and_time(each, grain, zone)

    @pytest.mark.parametrize("by", [["place"], ["nothing"], []])
    @pytest.mark.parametrize("grain", ["hour", "day", "ever"])
    @pytest.mark.parametrize("since", [None, NOON + 3_600, NOON + 3_599])
    def test_a_tally_by_parts_of_places_comes_to_the_same(
        self, ledger: Ledger, now: Callable[[], float], grain: Grain, since: float | None, by: list[str]
    ) -> None:
        self.fill(ledger, now)
        assert FORM.parts is not None
        rows = [FORM.sum_of(row) for row in self.ROWS if since is None or row[0] >= since]
        each = [found._replace(place=FORM.parts.of(found.place, by)) for found in rows]
        # A ledger may leave places whole.
        found = [
            total if total.place == "anywhere" else total._replace(place=FORM.parts.of(total.place, by))
            for total in ledger.tally(since, grain, UTC, by)
        ]
        assert by_place_and_time(found, grain, UTC) == by_place_and_time(each, grain, UTC)

    def test_what_is_said_and_what_is_held_is_no_row(self, ledger: Ledger) -> None:
        trip = account(controls=("plan",))
        ledger.reserve(1, [trip], fixed(5), call=CALL)
        ledger.control("1", "plan", Control(limit_usd_nanos=50))
        ledger.top_up("2", trip, 5, 0, 0)
        ledger.reset("3", trip)
        ledger.adjust("4", [trip], 5, 0, 0)
        assert list(ledger.rows()) == list(ledger.tally()) == []

    def test_rows_that_are_pruned_are_gone_one_by_one_and_still_in_the_sums(
        self, ledger: Ledger, wall: FixedClock
    ) -> None:
        trip = account()
        rows: list[Row] = [(NOON, "search", 30), (NOON + 1, "chat", 10), (MIDNIGHT + 5, "search", 4)]
        for hold_id, row in enumerate(rows, 1):
            wall.now = row[0]
            ledger.charge(hold_id, [trip], row[2], 0, row=row)
            ledger.balance(trip)
        assert ledger.prune(MIDNIGHT) == 2
        assert ledger.prune(MIDNIGHT) == 0
        assert list(ledger.rows()) == [rows[2]]
        assert by_place_and_time(ledger.tally(), "ever", UTC) == {("search", ""): (34, 2), ("chat", ""): (10, 1)}
        assert by_place_and_time(ledger.tally(MIDNIGHT), "ever", UTC) == {("search", ""): (4, 1)}
        assert ledger.balance(trip).spent_usd_nanos == 44

    # Notes, by which another process ends a hold: here another id does

    def note(self, ledger: Ledger, trip: Account, lives_seconds: float = 86_400) -> Any:
        """Hold 1 of 40 nanodollars is noted as "batch 7"; what is known by that name."""
        assert isinstance(ledger.reserve(1, [trip], fixed(40, 4), call=CALL, ttl_seconds=60), Grant)
        ledger.note(1, "batch 7", "half price", lives_seconds)
        noted = ledger.noted("batch 7")
        if not self.keeps_notes:
            assert noted is None
            pytest.skip("it is of one process only")
        return noted

    @pytest.mark.parametrize(
        ("state", "end", "spent"),
        [
            ("held", "settle", 30),
            ("held", "release", 0),
            ("expired", "settle", 30),
            ("expired", "release", 0),
        ],
    )
    def test_a_hold_that_was_noted_is_ended_once_whoever_does_it(
        self, ledger: Ledger, now: Callable[[], float], state: str, end: str, spent: int
    ) -> None:
        trip, row = account(limit_usd_nanos=100), (NOON, "search", spent)
        noted = self.note(ledger, trip)
        assert noted.memo == "half price"
        if state == "expired":
            assert ledger.expire(now() + LONG_AFTER) == 1
            assert ledger.balance(trip).spent_usd_nanos == 40
            assert ledger.noted("batch 7") == noted
        for hold_id in (2, 3):
            ledger.collect(hold_id, noted)
        for hold_id in (2, 3, 1, 2):
            _ = ledger.settle(hold_id, 30, 3, 1, row) if end == "settle" else ledger.release(hold_id, row)
        balance = ledger.balance(trip)
        assert (balance.spent_usd_nanos, balance.reserved_usd_nanos, balance.debt_usd_nanos) == (spent, 0, 0)
        assert balance.spent_calls == (end == "settle")
        assert list(ledger.rows()) == [row]
        assert by_place_and_time(ledger.tally(), "ever", UTC) == {("search", ""): (spent, 1)}
        assert ledger.noted("batch 7") is None
        assert ledger.in_flight() == []

    def test_what_was_collected_and_has_no_end_yet_stays_held(self, ledger: Ledger) -> None:
        trip = account()
        noted = self.note(ledger, trip)
        ledger.collect(2, noted)
        ledger.note(2, "batch 7", "a third of the price", 86_400)
        assert ledger.noted("batch 7").memo == "a third of the price"  # type: ignore[union-attr]
        assert ledger.balance(trip).reserved_usd_nanos == 40
        assert ledger.in_flight() == [(CALL, Grant(0, 40, 4, 1))]
        assert ledger.settle(1, 30, 3)
        assert ledger.balance(trip).spent_usd_nanos == 30

    def test_a_hold_that_was_noted_lives_as_long_as_its_answer_may_take(
        self, ledger: Ledger, now: Callable[[], float]
    ) -> None:
        noted = self.note(ledger, account(), lives_seconds=3_600)
        assert ledger.expire(now() + 3_500) == 0
        assert ledger.noted("batch 7") == noted
        assert ledger.expire(now() + 3_700) == 1

    def test_a_note_does_not_shorten_the_life_of_a_hold(self, ledger: Ledger, now: Callable[[], float]) -> None:
        self.note(ledger, account(), lives_seconds=5)
        assert ledger.expire(now() + 55) == 0
        assert ledger.expire(now() + 65) == 1

    def test_a_note_gives_no_deadline_to_a_hold_whose_process_lives(
        self, ledger: Ledger, now: Callable[[], float]
    ) -> None:
        ledger.reserve(1, [account()], fixed(40), call=CALL)
        ledger.note(1, "batch 7", "", 5)
        assert ledger.expire(now() + LONG_AFTER) == 0
        assert ledger.in_flight() == [(CALL, Grant(0, 40, 0, 1))]

    def test_a_name_is_that_of_the_hold_it_was_given_to_last(self, ledger: Ledger, now: Callable[[], float]) -> None:
        trip = account()
        self.note(ledger, trip)
        ledger.reserve(2, [trip], fixed(7))
        ledger.note(2, "batch 7", "another", 86_400)
        noted = ledger.noted("batch 7")
        assert noted is not None
        assert noted.memo == "another"
        assert ledger.settle(1, 30, 3)
        assert ledger.noted("batch 7") == noted
        ledger.collect(3, noted)
        assert ledger.settle(3, 5, 0)
        assert ledger.balance(trip).spent_usd_nanos == 35
        assert ledger.noted("batch 7") is None

    def test_a_hold_has_the_name_it_was_given_last(self, ledger: Ledger) -> None:
        self.note(ledger, account())
        ledger.note(1, "batch 8", "full price", 86_400)
        noted = ledger.noted("batch 8")
        assert noted is not None
        assert noted.memo == "full price"
        assert ledger.noted("batch 7") is None

    def test_what_is_not_held_can_not_be_noted(self, ledger: Ledger) -> None:
        trip = account()
        ledger.note(1, "batch 1", "", 60)
        for hold_id, end in ((2, lambda: ledger.settle(2, 1, 0)), (3, lambda: ledger.release(3))):
            ledger.reserve(hold_id, [trip], fixed(7))
            end()
            ledger.note(hold_id, f"batch {hold_id}", "", 60)
        assert [ledger.noted(f"batch {number}") for number in range(1, 5)] == [None] * 4

    # What was learnt

    def test_what_was_learnt_is_counted_where_it_is_kept(self, ledger: Ledger) -> None:
        for bucket in (3, 3, 5):
            ledger.learn("a model", bucket)
        ledger.learn("another", 3)
        learnt = {key: dict(counts) for key, counts in ledger.learnt().items()}
        assert learnt == ({"a model": {3: 2, 5: 1}, "another": {3: 1}} if self.keeps_learnt else {})

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
