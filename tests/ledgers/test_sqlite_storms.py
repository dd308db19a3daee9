"""The SQLite ledger among processes that fill one limit, fork, are killed, stand still, and run out of disk."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from farebox.errors import LedgerUnavailable
from farebox.ledgers import Balance, Grant
from farebox.ledgers import _operations as op
from farebox.ledgers._sqlite_place import read_url
from farebox.ledgers.sqlite import SqliteLedger, SqliteStore
from tests.ledgers.contract import NOON, account, fixed, kind_of
from tests.ledgers.forms import FORM

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork and no POSIX locks on this system")

HEAD = """
import itertools, os, signal, sys, threading, time
from farebox.ledgers import Grant
from farebox.ledgers.sqlite import SqliteLedger
from tests.ledgers.contract import NOON, account, fixed
from tests.ledgers.forms import FORM

ledger = SqliteLedger.open(sys.argv[1], form=FORM)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/farebox.db"


@pytest.fixture
def ledger(url: str) -> Iterator[SqliteLedger]:
    ledger = SqliteLedger.open(url, form=FORM)
    yield ledger
    ledger.close()


@pytest.fixture
def start(url: str) -> Iterator[Start]:
    """Starts another program with a ledger opened."""
    children: list[subprocess.Popen[str]] = []

    def start(script: str, *arguments: str, query: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", HEAD + textwrap.dedent(script), url + query, *arguments]
        root = str(Path(__file__).resolve().parents[2])
        child = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(child)
        return child

    yield start
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()


def line_from(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def owners(url: str) -> list[Path]:
    return list(read_url(url).owners_path.iterdir())


def test_processes_with_threads_fill_one_limit_exactly(ledger: SqliteLedger, url: str, start: Start) -> None:
    children = [
        start(
            """
            trip, ids, granted = account(limit_usd_nanos=3_000), itertools.count(1), []

            def work():
                while True:
                    hold_id = next(ids)
                    answer = ledger.reserve(hold_id, [trip, account(f"of {os.getpid()}")], fixed(10))
                    if isinstance(answer, Grant):
                        granted.append(hold_id)
                        ledger.settle(hold_id, 10, 0, row=(NOON, "search", 10))
                    elif answer.kind == "exhausted":
                        return

            print("ready", flush=True)
            input()
            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            print(len(granted), flush=True)
            """
        )
        for _ in range(4)
    ]
    for child in children:
        assert line_from(child) == "ready"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    granted = [int(line_from(child)) for child in children]
    assert [child.wait() for child in children] == [0] * 4
    assert sum(granted) == 300
    assert min(granted) > 0
    assert ledger.balance(account()) == Balance(spent_usd_nanos=3_000, spent_calls=300)
    assert sum(view.balance.spent_usd_nanos for _, view in ledger.accounts("key of of ")) == 3_000
    assert [found.sums for found in ledger.tally()] == [(3_000, 300)]
    assert len(list(ledger.rows())) == 300
    assert len(owners(url)) == 1  # who ends takes its file along


def test_what_a_killed_process_held_is_charged_at_its_bound(ledger: SqliteLedger, url: str, start: Start) -> None:
    child = start(
        """
        ledger.reserve(1, [account()], fixed(7), call=(NOON, "search", 0))
        ledger.reserve(2, [account()], fixed(5), call=(NOON, "chat", 0), ttl_seconds=3_600)
        print("held", flush=True)
        input()
        """
    )
    assert line_from(child) == "held"
    assert ledger.expire() == 0
    assert ledger.balance(account()).reserved_usd_nanos == 12
    child.kill()
    child.wait()
    assert ledger.expire() == 1
    assert ledger.balance(account()) == Balance(7, 5, 0, 0, 0, 0, 1, 1, 0)  # the other one has a time of its own
    assert list(ledger.rows()) == [(NOON, "search", 7)]
    assert len(owners(url)) == 1  # and whether its process lives does not matter to it
    assert ledger.expire(time.time() + 3_601) == 1
    assert ledger.balance(account()).reserved_usd_nanos == 0


def test_money_of_a_killed_process_comes_free_for_who_needs_it(ledger: SqliteLedger, start: Start) -> None:
    trip = account(limit_usd_nanos=10)
    child = start(
        """
        ledger.reserve(1, [account(limit_usd_nanos=10)], fixed(4))
        print("held", flush=True)
        input()
        """
    )
    assert line_from(child) == "held"
    assert kind_of(ledger.reserve(1, [trip], fixed(7))) == "contended"
    child.kill()
    child.wait()
    ledger.expire()
    assert kind_of(ledger.reserve(2, [trip], fixed(7))) == "exhausted"  # it is spent: nobody waits for it
    assert kind_of(ledger.reserve(3, [trip], fixed(6))) == "granted"


def test_a_process_that_stands_still_is_not_dead(ledger: SqliteLedger, start: Start) -> None:
    child = start(
        """
        ledger.reserve(1, [account()], fixed(7))
        print("held", flush=True)
        input()
        ledger.settle(1, 3, 0)
        ledger.flush()
        print("settled", flush=True)
        """
    )
    assert line_from(child) == "held"
    child.send_signal(signal.SIGSTOP)
    assert ledger.expire() == 0
    child.send_signal(signal.SIGCONT)
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()
    assert line_from(child) == "settled"
    assert ledger.balance(account()) == Balance(spent_usd_nanos=3, spent_calls=1)


def test_a_process_whose_file_was_removed_shows_up_again(ledger: SqliteLedger, url: str) -> None:
    (before,) = owners(url)
    before.unlink()
    ledger._store.keep_alive()
    assert owners(url) == [before]


def in_child(work: Callable[[], int]) -> int:
    """Run it in a forked child; the child's exit code is what `work` returns, 100 where it raises."""
    pid = os.fork()
    if pid == 0:
        code = 100
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_holds_for_itself_and_never_ends_what_its_parent_holds(ledger: SqliteLedger, url: str) -> None:
    trip = account(limit_usd_nanos=20)
    ledger.reserve(1, [trip], fixed(7), call=(NOON, "search", 0))

    def child() -> int:
        assert not ledger.settle(1, 3, 0)
        assert ledger.expire() == 0  # the parent is there
        assert isinstance(ledger.reserve(1, [trip], fixed(5)), Grant)
        assert ledger.balance(trip).reserved_usd_nanos == 12
        assert len(owners(url)) == 2
        assert ledger.settle(1, 4, 0, row=(NOON, "chat", 4))
        ledger.reserve(2, [trip], fixed(6), call=(NOON, "left", 0))
        ledger.flush()
        return 7  # without a word: what it held is for others to find

    assert in_child(child) == 7
    ledger.expire()  # as the ledger itself does now and then
    assert ledger.balance(trip) == Balance(10, 7, 0, 0, 0, 0, 2, 1, 0)
    assert ledger.settle(1, 2, 0, row=(NOON, "search", 2))
    assert list(ledger.rows()) == [(NOON, "chat", 4), (NOON, "left", 6), (NOON, "search", 2)]
    assert len(owners(url)) == 1


def test_a_child_that_ends_in_its_own_way_leaves_the_parent_its_files(start: Start, ledger: SqliteLedger) -> None:
    child = start(
        """
        ledger.reserve(1, [account()], fixed(7))
        ledger.balance(account())
        if os.fork() == 0:
            sys.exit(0)  # with all that an interpreter does at its end, to what it inherited too
        os.wait()
        assert ledger.settle(1, 3, 0)
        assert isinstance(ledger.reserve(2, [account()], fixed(5)), Grant)
        print("held", flush=True)
        input()
        """
    )
    assert line_from(child) == "held"
    assert ledger.expire() == 0
    assert ledger.balance(account()) == Balance(3, 5, 0, 0, 0, 0, 1, 1, 0)


@pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks:DeprecationWarning")
def test_forking_amid_the_work_of_others_stops_nobody(ledger: SqliteLedger) -> None:
    trip, is_over, settled = account(), threading.Event(), []

    def work(first: int) -> None:
        for hold_id in range(first, first + 100_000):
            if is_over.is_set():
                return
            ledger.reserve(hold_id, [trip], fixed(2))
            ledger.settle(hold_id, 1, 0, row=(NOON, "search", 1))
            list(ledger.rows(NOON + 1))
            settled.append(hold_id)

    threads = [threading.Thread(target=work, args=(number * 1_000_000 + 1,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(15):

            def child() -> int:
                signal.alarm(20)
                assert isinstance(ledger.reserve(1, [account("child")], fixed(3)), Grant)
                ledger.settle(1, 3, 0)
                return 0 if ledger.flush(10) else 1

            assert in_child(child) == 0
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    ledger.flush()
    assert ledger.balance(account("child")).spent_usd_nanos == 45
    assert ledger.balance(trip) == Balance(spent_usd_nanos=len(settled), spent_calls=len(settled))


# Others that hold the lock


def test_a_foreign_connection_that_holds_the_lock_is_waited_for_and_then_given_up(
    url: str, ledger: SqliteLedger
) -> None:
    hasty, trip = SqliteLedger.open(f"{url}?timeout=0.2", form=FORM), account()
    foreign = sqlite3.connect(read_url(url).path, isolation_level=None, check_same_thread=False)
    foreign.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(LedgerUnavailable, match="did not answer"):
        hasty.reserve(1, [trip], fixed(5))
    assert time.monotonic() - began > 0.15
    let_go = threading.Timer(0.3, foreign.execute, ["ROLLBACK"])
    let_go.start()
    assert isinstance(ledger.reserve(1, [trip], fixed(5)), Grant)  # five seconds of patience
    let_go.join()
    foreign.close()
    assert isinstance(hasty.reserve(2, [trip], fixed(5)), Grant)
    assert hasty.balance(trip) == Balance(reserved_usd_nanos=10, reserved_calls=2)
    hasty.close()


def test_a_process_stopped_while_it_writes_makes_others_give_up_and_loses_nothing(url: str, start: Start) -> None:
    child = start(
        """
        ledger.reserve(1, [account()], fixed(7))
        from farebox.ledgers import _sqlite_batch
        write = _sqlite_batch.Batch.run

        def slow(self):
            write(self)
            print("inside", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)

        _sqlite_batch.Batch.run = slow
        ledger.adjust("by hand", [account()], 5, 0, 0)
        _sqlite_batch.Batch.run = write
        ledger.settle(1, 6, 0)
        ledger.flush()
        print("done", flush=True)
        """
    )
    ledger = SqliteLedger.open(f"{url}?timeout=0.3", form=FORM)
    assert line_from(child) == "inside"
    began = time.monotonic()
    with pytest.raises(LedgerUnavailable, match=r"written by another process for more than 0.3 seconds"):
        ledger.reserve(1, [account()], fixed(5))
    assert time.monotonic() - began > 0.25
    assert ledger._store.view(account()).balance.reserved_usd_nanos == 7  # reading goes on
    deadline = time.monotonic() + 10
    line = ""
    while line != "done" and time.monotonic() < deadline:
        child.send_signal(signal.SIGCONT)
        line = line_from(child)
    assert line == "done"
    assert isinstance(ledger.reserve(2, [account()], fixed(5)), Grant)
    assert ledger.balance(account()) == Balance(11, 5, 0, 0, 0, 0, 1, 1, 0)
    ledger.close()


def test_a_process_killed_while_it_writes_leaves_no_half_of_it(ledger: SqliteLedger, start: Start) -> None:
    child = start(
        """
        from farebox.ledgers import _sqlite_books
        write = _sqlite_books.Books.write

        def never_ends(self, now_seconds):
            write(self, now_seconds)
            os.kill(os.getpid(), signal.SIGKILL)

        ledger.adjust("by hand", [account()], 5, 0, 0)
        _sqlite_books.Books.write = never_ends
        ledger.adjust("half", [account(), account("other")], 5, 0, 0)
        """
    )
    assert child.wait() == -signal.SIGKILL
    assert ledger.balance(account()).spent_usd_nanos == 5
    assert ledger.adjust("half", [account(), account("other")], 5, 0, 0)
    assert ledger.balance(account("other")).spent_usd_nanos == 5


# A full disk


def test_a_full_disk_refuses_calls_and_forgets_nothing(url: str) -> None:
    """No file system of its own to fill: SQLite is told that the file may not grow, and says the same as of a full disk."""
    store = SqliteStore(read_url(url), FORM, time.time)
    store.open("abc")
    assert store._writer is not None
    (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
    store._writer.execute(f"PRAGMA max_page_count={pages + 4}")
    trip, kept = account(), 0
    with pytest.raises(LedgerUnavailable, match="full"):
        while kept < 1_000:
            row = (NOON, "x" * 500, 1)
            store.apply([op.Charge(hold_id=str(kept), accounts=(trip,), amounts=(1, 0, 1), row=row)])
            kept += 1
    assert 0 < kept < 1_000
    assert store.view(trip).balance == Balance(spent_usd_nanos=kept, spent_calls=kept)
    assert len(list(store.rows(None, dearest_first=False))) == kept
    store._writer.execute(f"PRAGMA max_page_count={pages + 400}")
    store.apply([op.Charge(hold_id=str(kept), accounts=(trip,), amounts=(1, 0, 1), row=None)])
    assert store.view(trip).balance.spent_usd_nanos == kept + 1
    store.close()


def test_settles_that_find_no_room_are_written_once_there_is_some(url: str) -> None:
    ledger, trip = SqliteLedger.open(f"{url}?timeout=0.1", form=FORM), account()
    for hold_id in range(1, 6):
        assert isinstance(ledger.reserve(hold_id, [trip], fixed(10)), Grant)
    foreign = sqlite3.connect(read_url(url).path, isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    for hold_id in range(1, 6):
        assert ledger.settle(hold_id, 4, 0, row=(NOON, "search", 4))
    assert not ledger.flush(0.3)
    foreign.execute("ROLLBACK")
    foreign.close()
    assert ledger.flush(10)
    assert ledger.balance(trip) == Balance(spent_usd_nanos=20, spent_calls=5)
    assert len(list(ledger.rows())) == 5
    ledger.close()


def test_a_ledger_that_nobody_keeps_lets_go_of_its_files(url: str) -> None:
    """Its descriptors, its file among the owners and its thread: a program may open many."""
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for _ in range(20):
        ledger = SqliteLedger.open(url, form=FORM)
        ledger.reserve(1, [account()], fixed(1))
        ledger.release(1)
        ledger.balance(account())
        ledger.close()
        del ledger
    gc.collect()
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert after <= before + 2
    assert owners(url) == []


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # what hits a hook of the collector is lost
def test_an_interrupt_anywhere_leaves_the_books_right(url: str) -> None:
    """A signal raises in the middle of a reserve, a little later each time."""

    class Interrupt(BaseException):
        pass

    def interrupt(*_: Any) -> None:
        raise Interrupt

    ledger = SqliteLedger.open(f"{url}?synchronous=NORMAL", form=FORM)
    trip, granted = account(), 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for hold_id in range(1, 400):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.000_05 + (hold_id % 37) * 0.000_03)
                    granted += isinstance(ledger.reserve(hold_id, [trip], fixed(2)), Grant)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                pass
            ledger.release(hold_id)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert granted > 0
    assert ledger.flush(10)
    assert ledger.balance(trip) == Balance()
    assert ledger.in_flight() == []
    ledger.close()
