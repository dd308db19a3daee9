"""The line for money: who gets it next, who may pass, and who waits in vain."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.ledgers import Account, Balance, Control, Grant, Need, Shortfall, Ticket, WindowClosed
from farebox.ledgers.memory import MemoryLedger
from tests.ledgers.contract import account, fixed, kind_of, output


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Call:
    """A call that last sent or read something at `moved_at`."""

    def __init__(self, moved_at: float = 100.0) -> None:
        self.moved_at = moved_at

    def idle_seconds(self, now: float) -> float:
        return now - self.moved_at


class Station:
    """A ledger with a clock by hand; who was woken, in order."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.ledger = MemoryLedger(clock=self.clock, **options)
        self.woken: list[int] = []

    def hold(self, hold_id: int, usd: int, *accounts: Account, owner: Any = None, call: Any = None) -> None:
        answer = self.ledger.reserve(hold_id, accounts, fixed(usd), owner=owner, call=call)
        assert isinstance(answer, Grant), answer

    def park(self, hold_id: int, need: int | Need, *accounts: Account, owner: Any = None, call: Any = None) -> Any:
        need = fixed(need) if isinstance(need, int) else need
        return self.ledger.park(
            hold_id,
            accounts,
            need,
            owner=f"owner {hold_id}" if owner is None else owner,
            call=call,
            wake=lambda: self.woken.append(hold_id),
        )


@pytest.fixture
def station() -> Station:
    return Station()


@pytest.fixture
def trip() -> Account:
    return account("trip", limit_usd_nanos=100)


def nobody_waits(ledger: MemoryLedger) -> bool:
    return not ledger._book.queues and not ledger._book.line.tickets


def test_what_fits_is_granted_without_waiting(station: Station, trip: Account) -> None:
    assert station.park(1, 60, trip) == Grant(0, 60, 0, 1)
    assert nobody_waits(station.ledger)


def test_a_settle_hands_the_money_to_the_first_in_line(station: Station, trip: Account) -> None:
    station.hold(1, 100, trip)
    tickets = [station.park(hold_id, 50, trip) for hold_id in (2, 3, 4)]
    assert [ticket.answer for ticket in tickets] == [None, None, None]
    station.ledger.settle(1, 0, 0)
    assert station.woken == [2, 3]
    assert [kind_of(ticket.answer) for ticket in tickets[:2]] == ["granted", "granted"]
    assert tickets[2].answer is None
    assert station.ledger.balance(trip).reserved_usd_nanos == 100
    station.ledger.release(3)
    assert station.woken == [2, 3, 4]
    assert nobody_waits(station.ledger)


@pytest.mark.parametrize(
    "give_back",
    [
        lambda ledger, trip: ledger.settle(1, 40, 0),
        lambda ledger, trip: ledger.release(1),
        lambda ledger, trip: ledger.settle_later(1, 40, 0),
        lambda ledger, trip: ledger.release_later(1),
        lambda ledger, trip: ledger.adjust("refund", [trip], -60, 0, 0),
        lambda ledger, trip: (ledger.expire(1_000.0), ledger.release(2)),
    ],
    ids=["settle", "release", "settle_later", "release_later", "adjust", "correct"],
)
def test_every_way_of_giving_money_back_hands_it_over(station: Station, trip: Account, give_back: Any) -> None:
    station.ledger.adjust("spent", [trip], 60, 0, 0)
    station.hold(1, 20, trip)
    station.ledger.reserve(2, [trip], fixed(20), ttl_seconds=60)
    ticket = station.park(3, 20, trip)
    assert isinstance(ticket, Ticket)
    give_back(station.ledger, trip)
    assert ticket.answer is not None
    assert station.woken == [3]


def test_the_waiter_is_woken_outside_the_lock(trip: Account) -> None:
    ledger, seen = MemoryLedger(), []
    ledger.reserve(1, [trip], fixed(100))
    ledger.park(2, [trip], fixed(50), owner=2, wake=lambda: seen.append(ledger.snapshot()))
    ledger.release(1)
    assert len(seen[0].in_flight) == 1


def test_a_wake_that_fails_keeps_nobody_else_from_being_woken(trip: Account) -> None:
    ledger, woken = MemoryLedger(), []

    def fail() -> None:
        raise RuntimeError("Event loop is closed")

    ledger.reserve(1, [trip], fixed(100))
    ledger.park(2, [trip], fixed(10), owner=2, wake=fail)
    ledger.park(3, [trip], fixed(10), owner=3, wake=lambda: woken.append(3))
    assert ledger.release(1)
    assert woken == [3]


def test_an_interrupt_while_waking_is_raised_once_all_others_were_woken(trip: Account) -> None:
    ledger, woken = MemoryLedger(), []

    def interrupt() -> None:
        raise KeyboardInterrupt

    ledger.reserve(1, [trip], fixed(100))
    ledger.park(2, [trip], fixed(10), owner=2, wake=interrupt)
    ledger.park(3, [trip], fixed(10), owner=3, wake=lambda: woken.append(3))
    with pytest.raises(KeyboardInterrupt):
        ledger.release(1)
    assert woken == [3]


def test_a_waiter_that_is_gone_passes_the_money_on_however_many_are_gone(trip: Account) -> None:
    ledger, woken = MemoryLedger(), []
    ledger.reserve(1, [trip], fixed(100))
    for hold_id in range(2, 2_000):
        ledger.park(hold_id, [trip], fixed(100), owner=hold_id, wake=lambda gone=hold_id: ledger.release(gone))  # type: ignore[misc]
    ledger.park(2_000, [trip], fixed(100), owner=2_000, wake=lambda: woken.append(2_000))
    ledger.release(1)
    assert woken == [2_000]


# Who may pass


def test_a_newcomer_stands_behind_those_who_wait(station: Station, trip: Account) -> None:
    station.hold(1, 60, trip)
    station.park(2, 50, trip)
    answer = station.ledger.reserve(3, [trip], fixed(50))
    assert kind_of(answer) == "contended"
    station.ledger.settle(1, 0, 0)
    assert station.woken == [2]


def test_a_newcomer_that_shares_no_short_account_stands_behind_nobody(station: Station, trip: Account) -> None:
    other = account("other", limit_usd_nanos=100)
    station.hold(1, 60, trip)
    station.park(2, 50, other, trip)
    assert kind_of(station.ledger.reserve(3, [other], fixed(100))) == "granted"


def test_sixteen_smaller_calls_overtake_a_waiter_and_no_more(station: Station, trip: Account) -> None:
    station.hold(1, 80, trip)
    station.park(2, 50, trip)
    for hold_id in range(10, 26):
        assert kind_of(station.ledger.reserve(hold_id, [trip], fixed(1))) == "granted"
        station.ledger.release(hold_id)
    assert station.ledger.reserve(26, [trip], fixed(1)) == Shortfall(trip, "usd", 100, 0, 80, 1, "contended")


def test_a_smaller_waiter_passes_one_that_does_not_fit_yet(station: Station, trip: Account) -> None:
    station.hold(1, 90, trip)
    station.hold(2, 10, trip)
    station.park(3, 90, trip)
    station.park(4, 10, trip)
    station.ledger.release(2)
    assert station.woken == [4]
    station.ledger.release(4)
    station.ledger.release(1)
    assert station.woken == [4, 3]


def test_a_waiter_takes_its_place_along_to_the_next_short_account(station: Station, trip: Account) -> None:
    other = account("other", limit_usd_nanos=100)
    station.hold(1, 100, trip)
    station.hold(2, 100, other)
    first = station.park(3, 60, trip, other)
    second = station.park(4, 60, other)
    station.ledger.release(1)
    assert first.answer is None
    station.ledger.release(2)
    assert station.woken == [3]
    assert second.answer is None
    station.ledger.release(3)
    assert station.woken == [3, 4]


@pytest.mark.parametrize("own_limit", [100, 50])
def test_who_waits_for_a_holder_lets_that_holder_pass(station: Station, own_limit: int) -> None:
    trip = account("trip", limit_usd_nanos=own_limit, controls=("plan",))
    station.ledger.control("1", "plan", Control(limit_usd_nanos=100))
    station.hold(1, 70, trip, owner="a")
    big = station.park(2, 100, trip, owner="b")
    for hold_id in range(10, 26):
        assert kind_of(station.ledger.reserve(hold_id, [trip], fixed(1), owner="c")) == "granted"
        station.ledger.release(hold_id)
    # b waits for a: were a to stand behind b, neither would ever move
    assert kind_of(station.ledger.reserve(3, [trip], fixed(20), owner="a")) == "contended"
    assert station.park(3, 20, trip, owner="a") == Grant(0, 20, 0, 1)
    station.ledger.release(1)
    station.ledger.release(3)
    assert isinstance(big.answer, Grant)


def test_a_waiter_runs_on_less_than_its_floor_once_nobody_else_holds_anything(station: Station, trip: Account) -> None:
    station.hold(1, 50, trip)
    ticket = station.park(2, output(10, 60, 80, 80), trip)
    assert isinstance(ticket, Ticket)
    station.ledger.settle(1, 50, 0)
    assert ticket.answer == Grant(34, 50, 0, 1)


def test_a_waiter_is_asked_anew_what_it_needs_whenever_there_is_room(station: Station, trip: Account) -> None:
    station.hold(1, 60, trip)
    station.hold(2, 30, trip)
    needs = [output(10, 80, 80, 80), output(10, 40, 40, 40)]
    ticket = station.ledger.park(
        3, [trip], needs[0], owner=3, wake=lambda: station.woken.append(3), renew=lambda: needs[0]
    )
    assert isinstance(ticket, Ticket)
    station.ledger.settle(2, 20, 0)
    assert ticket.answer is None  # 20 are left, and 16 of them are slack
    needs.pop(0)
    station.ledger.settle(1, 20, 0)
    assert ticket.answer == Grant(40, 56, 0, 1)
    assert station.woken == [3]


def test_what_a_waiter_needs_by_now_lets_in_those_behind_it_as_well(station: Station, trip: Account) -> None:
    station.hold(1, 50, trip)
    station.hold(2, 40, trip)
    need = output(1, 70, 70, 70)
    tickets = [station.ledger.park(n, [trip], need, owner=n, wake=lambda: None, renew=lambda: need) for n in (3, 4, 5)]
    need = output(1, 4, 4, 4)
    station.ledger.settle(1, 0, 0)
    assert [ticket.answer for ticket in tickets] == [Grant(4, 20, 0, 1)] * 3  # type: ignore[union-attr]


# What people say meanwhile


@pytest.mark.parametrize(
    "say",
    [
        lambda ledger, trip: ledger.control("1", "plan", Control(limit_usd_nanos=110)),
        lambda ledger, trip: ledger.top_up("1", trip, 10, 0, 0),
        lambda ledger, trip: ledger.reset("1", trip),
    ],
    ids=["limit", "top-up", "reset"],
)
def test_what_makes_room_hands_it_over(station: Station, say: Any) -> None:
    trip = account("trip", limit_usd_nanos=100, controls=("plan",))
    station.ledger.charge(1, [trip], 10, 0)
    station.hold(2, 60, trip)
    ticket, behind = station.park(3, 40, trip), station.park(4, 40, trip)
    say(station.ledger, trip)
    assert ticket.answer == Grant(0, 40, 0, 1)
    assert behind.answer is None
    assert station.woken == [3]


def test_a_kill_sends_away_all_who_wait(station: Station) -> None:
    trip, org = account("trip", limit_usd_nanos=100), account("org", controls=("org",))
    station.hold(1, 60, trip)
    tickets = [station.park(hold_id, 50, trip, org) for hold_id in (2, 3)]
    station.ledger.control("1", "org", Control(is_killed=True))
    for ticket in tickets:
        assert station.ledger.still_hopeful(ticket)
        assert isinstance(ticket.answer, Shortfall)
        assert (ticket.answer.account, ticket.answer.is_killed) == (org, True)
    assert nobody_waits(station.ledger)
    assert kind_of(station.park(4, 1, trip, org)) == "exhausted"


def test_who_waits_is_refused_once_the_limit_is_too_low_for_it(station: Station) -> None:
    trip = account("trip", limit_usd_nanos=100, controls=("plan",))
    station.hold(1, 60, trip)
    ticket = station.park(2, 50, trip)
    station.ledger.control("1", "plan", Control(limit_usd_nanos=40))
    assert kind_of(ticket.answer) == "oversized"
    assert station.woken == [2]


def test_waiting_is_of_use_by_the_limit_in_force(station: Station) -> None:
    trip = account("trip", limit_usd_nanos=100, controls=("plan",))
    station.ledger.control("1", "plan", Control(limit_usd_nanos=200))
    station.hold(1, 100, trip, owner="me")
    station.hold(2, 60, trip, owner="you")
    # what others hold makes room for 100 on top of the 100 of its own: by the limit of 100 it would wait in vain
    assert isinstance(station.park(3, 100, trip, owner="me"), Ticket)
    assert station.ledger.reserve(4, [trip], fixed(100), owner="c") == Shortfall(
        trip, "usd", 200, 0, 160, 100, "contended"
    )


def test_a_newcomer_behind_others_is_told_the_limit_in_force(station: Station) -> None:
    trip = account("trip", limit_usd_nanos=100, controls=("plan",))
    station.ledger.control("1", "plan", Control(limit_usd_nanos=200))
    station.hold(1, 160, trip)
    station.park(2, 50, trip)
    for hold_id in range(10, 26):
        station.hold(hold_id, 1, trip)
        station.ledger.release(hold_id)
    assert station.ledger.reserve(26, [trip], fixed(1)) == Shortfall(trip, "usd", 200, 0, 160, 1, "contended")


# Windows that close meanwhile


def day(starts_at: int) -> Account:
    return account(f"day {starts_at}", limit_usd_nanos=100, starts_at=starts_at, ends_at=starts_at + 100)


@pytest.mark.parametrize("who", ["the one who gives back", "the waiter"])
def test_who_waits_for_a_window_that_closes_is_sent_to_ask_the_next_one(who: str) -> None:
    wall = Clock()
    station, trip = Station(wall_clock=wall), day(100)
    station.hold(1, 60, trip)
    ticket = station.park(2, 50, trip)
    wall.seconds = 200.0
    if who == "the waiter":
        assert station.ledger.still_hopeful(ticket)
    else:
        assert station.ledger.settle(1, 10, 0)
        assert station.woken == [2]
    assert ticket.answer == Shortfall(trip, "usd", 100, 0, 60, 50, "contended")
    assert station.ledger.unpark(ticket) is None
    assert nobody_waits(station.ledger)
    assert kind_of(station.park(2, 50, day(200))) == "granted"


def test_nobody_waits_for_a_window_that_is_closed() -> None:
    station = Station(wall_clock=Clock())
    with pytest.raises(WindowClosed):
        station.park(1, 50, day(200))
    assert nobody_waits(station.ledger)
    assert not station.ledger.release(1)


@pytest.mark.parametrize("ask", [Station.hold, Station.park])
def test_a_closed_window_keeps_nobody_from_being_woken(trip: Account, ask: Any) -> None:
    station = Station(wall_clock=Clock())
    station.hold(1, 100, trip)
    ticket = station.park(2, 50, trip)
    station.ledger._later.append((1, 0, 0, 0, None, "released"))  # a finalizer's: this operation does it
    with pytest.raises(WindowClosed):
        ask(station, 3, 1, day(200))
    assert isinstance(ticket.answer, Grant)
    assert station.woken == [2]


# Waiting in vain


def test_waiting_ends_when_it_became_useless(station: Station, trip: Account) -> None:
    station.hold(1, 60, trip)
    tickets = [station.park(hold_id, 50, trip) for hold_id in range(2, 40)]
    station.ledger.settle(1, 60, 0)
    assert {kind_of(ticket.answer) for ticket in tickets} == {"exhausted"}
    assert station.woken == list(range(2, 40))
    assert nobody_waits(station.ledger)


def test_what_can_never_fit_is_not_parked(station: Station, trip: Account) -> None:
    station.hold(1, 60, trip)
    assert kind_of(station.park(2, 101, trip)) == "oversized"
    station.ledger.adjust("by hand", [trip], 30, 0, 0)
    assert kind_of(station.park(2, 71, trip)) == "exhausted"
    assert nobody_waits(station.ledger)


def test_an_owner_does_not_wait_for_its_own_hold(station: Station, trip: Account) -> None:
    station.hold(1, 60, trip, owner="me", call=Call())
    assert kind_of(station.park(2, 50, trip, owner="me")) == "contended"
    assert nobody_waits(station.ledger)


def test_an_owner_waits_for_others_although_it_holds_some_itself(station: Station, trip: Account) -> None:
    station.hold(1, 40, trip, owner="me")
    station.hold(2, 40, trip, owner="you")
    assert isinstance(station.park(3, 50, trip, owner="me"), Ticket)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_a_ring_of_waiters_refuses_one_and_the_others_proceed(station: Station, size: int) -> None:
    trips = [account(f"trip {n}", limit_usd_nanos=100) for n in range(size)]
    for n in range(size):
        station.hold(n + 1, 60, trips[n], owner=n)
    answers = [station.park(100 + n, 60, trips[(n + 1) % size], owner=n) for n in range(size)]
    assert [isinstance(answer, Ticket) for answer in answers] == [True] * (size - 1) + [False]
    assert kind_of(answers[-1]) == "contended"
    station.ledger.release(size)  # the refused one unwinds
    for n in range(size - 2, -1, -1):
        assert isinstance(answers[n].answer, Grant)
        station.ledger.release(100 + n)
        station.ledger.release(n + 1)
    assert station.woken == [100 + n for n in range(size - 2, -1, -1)]


def test_nobody_waits_for_a_call_that_stands_still(station: Station, trip: Account) -> None:
    station.hold(1, 60, trip, owner="reader", call=Call(moved_at=99.0))
    assert kind_of(station.park(2, 50, trip)) == "contended"
    assert nobody_waits(station.ledger)


def test_a_waiter_gives_up_once_everybody_in_its_way_stands_still(station: Station, trip: Account) -> None:
    call = Call(moved_at=100.0)
    station.hold(1, 60, trip, owner="reader", call=call)
    ticket = station.park(2, 50, trip)
    station.clock.seconds = 100.9
    assert station.ledger.still_hopeful(ticket)
    station.clock.seconds = 101.0
    assert not station.ledger.still_hopeful(ticket)
    call.moved_at = 100.5
    assert station.ledger.still_hopeful(ticket)
    assert station.ledger.unpark(ticket) is None
    assert not station.ledger.still_hopeful(ticket)
    assert nobody_waits(station.ledger)


def test_a_waiter_is_not_taken_for_standing_still_because_it_waits(station: Station, trip: Account) -> None:
    other = account("other", limit_usd_nanos=100)
    station.hold(1, 60, trip, owner="a", call=Call(moved_at=0.0))
    station.hold(2, 60, other, owner="b", call=Call())
    assert isinstance(station.park(3, 60, other, owner="a"), Ticket)
    assert isinstance(station.park(4, 60, trip, owner="c"), Ticket)


def test_a_tick_finds_a_grant_whose_wake_was_lost(station: Station, trip: Account) -> None:
    station.hold(1, 60, trip)
    ticket = station.park(2, 50, trip)
    # a signal cut the hand-over short between the hold and the answer
    book = station.ledger._book
    book.end(1, 0, 0, 0, None, "released")
    ticket.answer = None
    assert station.ledger.still_hopeful(ticket)
    assert ticket.answer == Grant(0, 50, 0, 1)
    assert station.ledger.unpark(ticket) == ticket.answer


# Leaving


def test_a_waiter_that_left_leaves_nothing_behind(station: Station, trip: Account) -> None:
    station.hold(1, 60, trip)
    ticket = station.park(2, 50, trip)
    assert station.ledger.unpark(ticket) is None
    assert station.ledger.unpark(ticket) is None
    station.ledger.release(1)
    assert station.woken == []
    assert ticket.answer is None
    assert station.ledger.balance(trip) == Balance()
    assert nobody_waits(station.ledger)


def test_a_waiter_that_left_makes_room_for_those_behind_it(station: Station, trip: Account) -> None:
    station.hold(1, 60, trip)
    first = station.park(2, 100, trip)
    for hold_id in range(10, 26):
        station.hold(hold_id, 1, trip)
        station.ledger.release(hold_id)
    second = station.park(3, 40, trip)
    assert isinstance(second, Ticket)
    station.ledger.unpark(first)
    assert station.woken == [3]


def test_a_grant_that_came_at_the_last_moment_is_handed_back(station: Station, trip: Account) -> None:
    station.hold(1, 60, trip)
    ticket = station.park(2, 50, trip)
    station.ledger.release(1)
    assert station.ledger.unpark(ticket) == Grant(0, 50, 0, 1)
    assert station.ledger.release(2)
    assert station.ledger.unpark(ticket) is None
    assert station.ledger.balance(trip) == Balance()


def test_whoever_was_interrupted_while_parking_releases_by_id(station: Station, trip: Account) -> None:
    station.hold(1, 60, trip)
    ticket = station.park(2, 50, trip)
    assert not station.ledger.release(2)
    assert not station.ledger.still_hopeful(ticket)
    assert nobody_waits(station.ledger)


# Threads


def ride(ledger: MemoryLedger, hold_id: int, need: Need, accounts: list[Account]) -> Any:
    """Reserve, and wait where that is worth it, as a thread does."""
    answer: Any = ledger.reserve(hold_id, accounts, need, owner=threading.get_ident())
    if kind_of(answer) != "contended":
        return answer
    lock = threading.Lock()
    lock.acquire()
    ticket = ledger.park(hold_id, accounts, need, owner=threading.get_ident(), wake=lock.release)
    if not isinstance(ticket, Ticket):
        return ticket
    while ticket.answer is None:
        if not lock.acquire(timeout=5) and not ledger.still_hopeful(ticket):
            return ledger.unpark(ticket)
    return ticket.answer


def test_a_hundred_threads_at_a_limit_for_five_all_pass_and_never_six_at_once() -> None:
    ledger, trip = MemoryLedger(), account(limit_usd_nanos=59)
    counted, inside, most, passed = threading.Lock(), 0, 0, 0

    def thread(hold_id: int) -> None:
        nonlocal inside, most, passed
        for turn in range(5):
            answer = ride(ledger, hold_id * 10 + turn, fixed(11), [trip])
            assert isinstance(answer, Grant), answer
            with counted:
                inside += 1
                most = max(most, inside)
                passed += 1
            with counted:
                inside -= 1
            assert ledger.settle(hold_id * 10 + turn, 0, 0)

    threads = [threading.Thread(target=thread, args=(n,), daemon=True) for n in range(1, 101)]
    for started in threads:
        started.start()
    for started in threads:
        started.join(timeout=30)
    assert passed == 500
    assert most <= 5
    assert ledger.balance(trip) == Balance(spent_calls=500)
    assert nobody_waits(ledger)


# Any line at all


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ride", "ride", "ride", "end", "end", "leave", "tick"]),
            st.integers(0, 5),
            st.sets(st.integers(0, 2), min_size=1),
            st.integers(1, 100),
            st.integers(0, 30),
        ),
        max_size=60,
    )
)
def test_whoever_waits_is_answered_before_the_last_hold_ends(steps: list[Any]) -> None:
    station = Station()
    ledger = station.ledger
    trips = [account(f"trip {n}", limit_usd_nanos=100) for n in range(3)]
    holds: dict[int, int] = {}  # id -> owner
    waiting: dict[int, tuple[Any, int]] = {}  # id -> ticket, owner

    def look() -> None:
        for hold_id, (ticket, owner) in list(waiting.items()):
            if ticket.answer is not None:
                del waiting[hold_id]
                assert hold_id in station.woken
                if isinstance(ticket.answer, Grant):
                    holds[hold_id] = owner

    for hold_id, (what, owner, where, usd, actual) in enumerate(steps, 1):
        parked = {waiter for _, waiter in waiting.values()}
        if what == "ride" and owner not in parked:
            accounts = [trips[n] for n in sorted(where)]
            need = fixed(usd) if usd % 2 else output(1, usd // 2 + 1, usd)
            answer: Any = ledger.reserve(hold_id, accounts, need, owner=owner)
            if kind_of(answer) == "contended":
                answer = station.park(hold_id, need, *accounts, owner=owner)
            if isinstance(answer, Ticket):
                waiting[hold_id] = answer, owner
            elif isinstance(answer, Grant):
                holds[hold_id] = owner
        elif what == "end":
            free = [held for held, holder in holds.items() if holder not in parked]
            if free:
                ended = free[actual % len(free)]
                del holds[ended]
                ledger.settle(ended, actual if actual < 10 else 0, 0)
        elif what == "leave" and waiting:
            left = list(waiting)[actual % len(waiting)]
            ticket, _ = waiting.pop(left)
            if ledger.unpark(ticket):
                ledger.release(left)
        elif what == "tick" and waiting:
            tick = list(waiting)[actual % len(waiting)]
            if not ledger.still_hopeful(waiting[tick][0]):
                assert ledger.unpark(waiting.pop(tick)[0]) is None
            elif waiting[tick][0].answer is not None:
                station.woken.append(tick)
        look()

    # Those who can move do; a waiter looks at its ticket when nobody does.
    for _ in range(10 * len(steps) + 10):
        parked = {waiter for _, waiter in waiting.values()}
        free = [held for held, holder in holds.items() if holder not in parked]
        if free:
            del holds[free[0]]
            assert ledger.settle(free[0], 0, 0)
        else:
            for hold_id, (ticket, _) in list(waiting.items()):
                if not ledger.still_hopeful(ticket):
                    assert ledger.unpark(waiting.pop(hold_id)[0]) is None
                elif ticket.answer is not None:
                    station.woken.append(hold_id)
        look()
    assert not waiting
    assert not holds
    assert nobody_waits(ledger)
    for trip in trips:
        assert ledger.balance(trip).reserved_usd_nanos == 0
        assert ledger.balance(trip).debt_usd_nanos <= 10 * len(steps)
