"""Signals, async exceptions, the garbage collector and forks, at the worst moments: the books stay right.

A short storm runs with every test run, a long one with FAREBOX_STORM=long.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from farebox.ledgers import Account, Balance, Control, Grant, Ticket, View
from farebox.ledgers.memory import MemoryLedger
from tests.ledgers.contract import account, fixed, kind_of, output

SECONDS = 60.0 if os.environ.get("FAREBOX_STORM") == "long" else 2.0


class Interrupt(BaseException):
    """What a signal handler or another thread raises into this one."""


class Traffic:
    """Random work on a ledger with a line; remembers every id before it is used, so that all can be released."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger(keep_rows=50, fold=lambda row: (row[0] % 3, (1, row[1])))
        self.accounts = [account(f"trip {n}", limit_usd_nanos=10**15) for n in range(3)]
        self.narrow = account("narrow", limit_usd_nanos=60, controls=("plan",))
        self.numbers = itertools.count(1)
        self.ids: list[int] = []
        self.random = random.Random(7)

    def step(self) -> None:
        ledger, owner = self.ledger, threading.get_ident()
        hold_id = next(self.numbers)
        self.ids.append(hold_id)
        usd = self.random.randint(0, 30)
        need = output(1, 1, usd + 1, usd + 1) if usd % 3 == 0 else fixed(usd, 1)
        accounts = self.accounts if usd % 2 else [self.narrow, *self.accounts]
        answer: Any = ledger.reserve(hold_id, accounts, need, owner=owner)
        if not isinstance(answer, Grant):
            answer = ledger.park(hold_id, accounts, need, owner=owner, wake=lambda: None)
        if usd % 5 == 0:
            ledger.extend(hold_id, 1, 1)
        what = self.random.randrange(6)
        row = (hold_id, usd)
        if what == 0:
            ledger.release(hold_id, (hold_id, 0))
        elif what == 1:
            ledger.settle_later(hold_id, usd, 1, 1, row)
        elif isinstance(answer, Ticket):
            ledger.still_hopeful(answer)
            ledger.unpark(answer)
        else:
            ledger.settle(hold_id, usd, 1, 1, row)
        if self.random.randrange(50) == 0:
            ledger.reset(f"reset {hold_id}", self.narrow)
            ledger.top_up(f"top-up {hold_id}", self.narrow, usd, 0, 0)
            ledger.control(f"control {hold_id}", "plan", Control(limit_usd_nanos=60 + usd))
            self.ids.append(hold_id := next(self.numbers))
            ledger.charge(hold_id, self.accounts, usd, 0, 1, (hold_id, usd))
            ledger.snapshot()

    def check(self) -> None:
        """The books balance, nobody holds the lock, and releasing all ids leaves nothing held."""
        ledger = self.ledger
        assert not ledger._lock.locked()
        held = [grant.usd_nanos for _, grant in ledger.in_flight()]
        for trip in self.accounts:
            assert ledger.balance(trip).reserved_usd_nanos == sum(held)
            assert ledger.balance(trip).reserved_calls == len(held)
        for hold_id in self.ids:
            ledger.release(hold_id, (hold_id, 0))
        snapshot = ledger.snapshot()
        assert snapshot.in_flight == []
        charged = sum(row[1] for row in snapshot.rows) + sum(sums[1] for sums in snapshot.totals.values())
        for trip in self.accounts:
            balance = ledger.balance(trip)
            assert balance.reserved_usd_nanos == balance.reserved_tokens == balance.reserved_calls == 0
            assert balance.spent_usd_nanos == charged
        assert ledger.balance(self.narrow).reserved_usd_nanos == 0
        assert not ledger._book.queues
        assert not ledger._book.line.tickets
        # Whatever an index named too much is gone, or goes with the next fold.
        assert not ledger._book.held
        assert len(ledger._book.entries) < 50 + 64 + 10
        assert ledger._book.entries.keys() >= {trip.key for trip in self.accounts}


#: What hits a finalizer, or a hook that the collector calls, is lost there, as it is in any program.
may_be_lost = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@may_be_lost
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_a_handler_that_raises_at_any_moment_leaves_the_books_right() -> None:
    traffic, interrupts = Traffic(), 0

    def raise_interrupt(*_: Any) -> None:
        raise Interrupt

    def work() -> None:
        # One shot: the next comes only once this one was caught, or was lost in a finalizer.
        signal.setitimer(signal.ITIMER_REAL, traffic.random.uniform(20e-6, 300e-6))
        lost = time.monotonic() + 0.01
        while time.monotonic() < lost:
            traffic.step()

    before = signal.signal(signal.SIGALRM, raise_interrupt)
    try:
        end = time.monotonic() + SECONDS
        while True:
            try:
                work()  # a function: at the end of a loop with a condition Python 3.13 does not see the `try` around it
            except Interrupt:
                interrupts += 1
            if time.monotonic() > end:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts > 10
    traffic.check()


@may_be_lost
def test_exceptions_thrown_into_threads_leave_the_books_right() -> None:
    traffic, stop, caught = Traffic(), threading.Event(), []

    def work() -> None:
        while not stop.is_set():
            try:
                while not stop.is_set():
                    traffic.step()
            except Interrupt:
                caught.append(1)

    def work_on() -> None:
        # One may arrive while another is being caught.
        for _ in range(100_000):
            with contextlib.suppress(Interrupt):
                with contextlib.suppress(Interrupt):
                    work()
                if stop.is_set():
                    return

    threads = [threading.Thread(target=work_on, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(0.0005)
        ident = traffic.random.choice(threads).ident
        assert ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(Interrupt))
    stop.set()
    for thread in threads:
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs: somebody left the lock held"
    assert len(caught) > 5
    traffic.check()


class Frame:
    """In a cycle, so that only the collector ends it; its end forgets an account and ends a hold."""

    def __init__(self, ledger: MemoryLedger, hold_id: int) -> None:
        self.ledger, self.hold_id = ledger, hold_id
        self.account = Account(f"frame {hold_id}", "frame", limit_usd_nanos=1_000)
        self.itself = self

    def __del__(self) -> None:
        self.ledger.forget(self.account.key)
        if self.hold_id % 2:
            self.ledger.settle_later(self.hold_id, 3, 0, 1, (self.hold_id, 3))
        else:
            self.ledger.release_later(self.hold_id, (self.hold_id, 0))


@pytest.fixture
def collector_all_the_time() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("collector_all_the_time")
def test_finalizers_that_end_calls_neither_deadlock_nor_lose_one() -> None:
    ledger, org = MemoryLedger(keep_rows=10**9), account("org", limit_usd_nanos=10**15)
    counts = [0, 0, 0, 0]

    def work(worker: int) -> None:
        end = time.monotonic() + SECONDS / 2
        while time.monotonic() < end:
            counts[worker] += 1
            hold_id = counts[worker] * 4 + worker
            frame = Frame(ledger, hold_id)
            assert isinstance(ledger.reserve(hold_id, [frame.account, org], fixed(5)), Grant)
            if hold_id % 7 == 0:
                ledger.snapshot()

    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=SECONDS + 30)
    assert not any(thread.is_alive() for thread in threads), "a finalizer waits for a lock its own thread holds"
    gc.collect()
    settled = sum(hold_id % 2 for worker in range(4) for hold_id in range(4 + worker, counts[worker] * 4 + 4, 4))
    assert min(counts) > 10
    assert ledger.balance(org) == Balance(spent_usd_nanos=3 * settled, spent_calls=settled)
    assert len(list(ledger.rows())) == sum(counts)
    assert not any(key for key in ledger._book.entries if isinstance(key, str) and key.startswith("frame"))


# Fork


def in_child(check: Callable[[], None]) -> int:
    """Run `check` in a forked child; 0 where it passed, and a hang is killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(10)
            check()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


needs_fork = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


class TestFork:
    pytestmark = needs_fork

    def test_a_child_forked_while_another_thread_has_the_lock_goes_on(self) -> None:
        ledger, trip = MemoryLedger(), account(limit_usd_nanos=10)
        taken, done = threading.Event(), threading.Event()

        def hold_the_lock() -> None:
            with ledger._lock:
                taken.set()
                done.wait(20)

        thread = threading.Thread(target=hold_the_lock)
        thread.start()
        taken.wait(20)

        def check() -> None:
            assert isinstance(ledger.reserve(1, [trip], fixed(10)), Grant)
            assert ledger.settle(1, 10, 0)

        try:
            assert in_child(check) == 0
        finally:
            done.set()
            thread.join()
        assert ledger.balance(trip) == Balance()

    def test_a_child_inherits_what_was_spent_and_none_of_the_calls(self) -> None:
        ledger, trip = MemoryLedger(keep_rows=1), account(limit_usd_nanos=100)
        for hold_id in (1, 2, 3):
            ledger.reserve(hold_id, [trip], fixed(20, 2))
            ledger.settle(hold_id, 10, 1, row=hold_id)
        ledger.reserve(4, [trip], fixed(60), call="call")
        ticket = ledger.park(5, [trip], fixed(60), owner="waiter", wake=lambda: None)
        ledger._later.append((4, 1, 1, 1, None, "settled"))

        def check() -> None:
            assert ledger.balance(trip) == Balance(spent_usd_nanos=30, spent_tokens=3, spent_calls=3)
            snapshot = ledger.snapshot()
            assert (snapshot.rows, snapshot.in_flight, snapshot.totals) == ([], [], {})
            assert not ledger.settle(4, 50, 0)
            assert not ledger.release(4)
            assert ledger.unpark(ticket) is None  # type: ignore[arg-type]
            assert isinstance(ledger.reserve(6, [trip], fixed(70)), Grant)

        assert in_child(check) == 0
        assert ledger.settle(4, 50, 0) is False  # the parent's own queue did it, at 1
        assert ledger.balance(trip).spent_usd_nanos == 31

    def test_a_child_inherits_what_was_said(self) -> None:
        ledger = MemoryLedger()
        trip = account(limit_usd_nanos=100, controls=("plan",))
        killed = account("killed", controls=("acme",))
        ledger.control("1", "plan", Control(limit_usd_nanos=50))
        ledger.control("2", "acme", Control(is_killed=True))
        ledger.top_up("3", trip, 7, 0, 0)
        ledger.reserve(1, [trip], fixed(20))

        def check() -> None:
            assert ledger.view(trip) == View(Balance(), 57)
            assert ledger.accounts("") == [(trip.key, View(Balance(), 57))]
            assert kind_of(ledger.reserve(2, [trip], fixed(58))) == "oversized"
            assert kind_of(ledger.reserve(2, [killed], fixed(0))) == "exhausted"
            assert ledger.controls() == {"plan": Control(limit_usd_nanos=50), "acme": Control(is_killed=True)}
            assert ledger.control("4", "acme", Control(is_killed=False))
            assert isinstance(ledger.reserve(2, [killed, trip], fixed(57)), Grant)

        assert in_child(check) == 0
        assert kind_of(ledger.reserve(2, [killed], fixed(0))) == "exhausted"
