"""What a SQLite ledger has answered is on the disk, and where it may not be, it is not answered."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from farebox.errors import LedgerUnavailable
from farebox.ledgers import Grant
from farebox.ledgers import _sqlite_sync as sync
from farebox.ledgers.sqlite import SqliteLedger
from tests.ledgers.contract import NOON, account, fixed, kind_of
from tests.ledgers.forms import FORM

pytestmark = pytest.mark.skipif(
    not sync.CAN_SYNC, reason="this system has no fdatasync: SQLite brings its log to the disk"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "farebox.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Callable[..., SqliteLedger]]:
    ledgers: list[SqliteLedger] = []

    def open_it(query: str = "") -> SqliteLedger:
        ledgers.append(SqliteLedger.open(f"sqlite:///{path}{query}", form=FORM))
        return ledgers[-1]

    yield open_it
    for ledger in ledgers:
        ledger.close()


def _amounts_held(path: Path) -> set[int]:
    """What the file holds, as anybody sees it who reads it."""
    reader = sqlite3.connect(path)
    try:
        return {amount for (amount,) in reader.execute("SELECT usd_nanos FROM held")}
    finally:
        reader.close()


def test_each_hold_that_was_answered_was_committed_before_the_log_was_brought_to_the_disk(
    opened: Callable[..., SqliteLedger], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = opened()
    safe: set[int] = set()
    unsafe: list[int] = []

    def fdatasync(fd: int, really: Callable[[int], None] = os.fdatasync) -> None:
        committed = _amounts_held(path)
        assert os.path.samestat(os.fstat(fd), os.stat(f"{path}-wal"))
        really(fd)
        safe.update(committed)

    monkeypatch.setattr(os, "fdatasync", fdatasync)

    def work(n: int) -> None:
        for amount in range(100 * n + 1, 100 * n + 11):
            assert isinstance(ledger.reserve(amount, [account()], fixed(amount)), Grant)
            if amount not in safe:
                unsafe.append(amount)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not unsafe
    assert len(safe) == 40


def test_a_ledger_that_may_forget_its_last_calls_does_not_wait_for_the_disk(
    opened: Callable[..., SqliteLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = opened("?synchronous=NORMAL")
    monkeypatch.setattr(os, "fdatasync", lambda _fd: pytest.fail("it waited"))
    assert kind_of(ledger.reserve(1, [account()], fixed(5))) == "granted"


def test_a_disk_that_fails_refuses_the_call_and_what_was_on_its_way_is_put_where_it_is_safe(
    opened: Callable[..., SqliteLedger], path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, trip = opened(), account(limit_usd_nanos=100)
    assert kind_of(ledger.reserve(1, [trip], fixed(30))) == "granted"
    ledger.settle(1, 20, 0, row=(NOON, "here", 20))

    def fdatasync(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fdatasync)
        with pytest.raises(
            LedgerUnavailable, match=r"may not be safe on its disk \(Input/output error\); nothing was sent"
        ):
            ledger.reserve(2, [trip], fixed(30))
    # The next one first saves the log: without it, the file alone has all that was committed till then.
    assert kind_of(ledger.reserve(3, [trip], fixed(80))) == "granted"
    copy = tmp_path / "copy.db"
    shutil.copy(path, copy)
    alone = sqlite3.connect(copy)
    assert alone.execute("SELECT spent_usd_nanos FROM accounts").fetchall() == [(20,)]
    alone.close()
    balance = ledger.balance(trip)
    assert (balance.spent_usd_nanos, balance.reserved_usd_nanos) == (20, 80)  # what was refused is given back
    assert list(ledger.rows()) == [(NOON, "here", 20)]


def test_while_somebody_reads_a_log_that_may_not_be_safe_nothing_is_answered(
    opened: Callable[..., SqliteLedger], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = opened("?timeout=0.1")
    assert kind_of(ledger.reserve(1, [account()], fixed(5))) == "granted"

    def fdatasync(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM held").fetchall()
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fdatasync)
        with pytest.raises(LedgerUnavailable):
            ledger.reserve(2, [account()], fixed(5))
    with pytest.raises(LedgerUnavailable, match="is being read"):
        ledger.reserve(3, [account()], fixed(5))
    reader.close()
    assert kind_of(ledger.reserve(4, [account()], fixed(5))) == "granted"
