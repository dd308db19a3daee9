"""What the storms on stored ledgers share: stores that are slow, locked or down, and the oracle that needs no memory ledger."""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import farebox
from farebox import _config
from farebox.testing import FakeProvider

_numbers = itertools.count(1)


def namespace() -> str:
    """Nobody else's on a server that tests share."""
    return f"storms-{os.getpid()}-{next(_numbers)}"


def until(is_true: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait for what another thread or process does."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """A foreign program that writes the file of a SQLite ledger and does not come to an end."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@contextlib.contextmanager
def locked_for(path: Path, seconds: float) -> Iterator[None]:
    """As `locked`, by a thread that lets go after so long."""
    begun, enough = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(path):
            begun.set()
            enough.wait(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        enough.set()
        thread.join()


class Proxy:
    """A TCP proxy before a server: passes on after a delay each way, or holds answers back; counts connections.

    Delays shift, they do not add up: what is sent at once arrives at once, later.
    """

    def __init__(self, port: int) -> None:
        self.request_delay_seconds = 0.0
        self.answer_delay_seconds = 0.0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._is_over = False
        self._pumps: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while not self._is_over:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            pump = threading.Thread(target=self._pump, args=(near, far), daemon=True)
            self._pumps.append(pump)
            pump.start()

    def _pump(self, near: socket.socket, far: socket.socket) -> None:
        waiting: list[tuple[float, socket.socket, bytes]] = []
        open_ends = {near, far}
        with selectors.DefaultSelector() as selector:
            for one in (near, far):
                selector.register(one, selectors.EVENT_READ)
            try:
                while (near in open_ends or waiting) and not self._is_over:
                    due = min((at for at, _, _ in waiting), default=time.monotonic() + 0.1)
                    for key, _ in selector.select(max(0.0, due - time.monotonic())):
                        source: Any = key.fileobj
                        data = source.recv(65_536)
                        if not data:
                            # What the near side still has on the way arrives, though it is gone.
                            selector.unregister(source)
                            open_ends.discard(source)
                            if source is far:
                                return
                            continue
                        is_request = source is near
                        delay = self.request_delay_seconds if is_request else self.answer_delay_seconds
                        waiting.append((time.monotonic() + delay, far if is_request else near, data))
                    now = time.monotonic()
                    for at, to, data in [one for one in waiting if one[0] <= now]:
                        waiting.remove((at, to, data))
                        with contextlib.suppress(OSError):
                            to.sendall(data)
                if far in open_ends:
                    time.sleep(0.05)  # the server reads before it sees the end
            except OSError:
                pass
            finally:
                near.close()
                far.close()

    def close(self) -> None:
        self._is_over = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in [self._thread, *self._pumps]:
            thread.join()


def standing_row(name: str, unit: str, **tags: str) -> Any:
    """The only row of a standing budget in a unit."""
    (row,) = [row for row in farebox.status(name, **tags) if row.unit == unit]
    return row


@contextlib.contextmanager
def promise_kept(provider: FakeProvider, name: str, limit_usd: Any = None, *, seconds: float = 0.01) -> Iterator[None]:
    """Sample both halves of the promise for a standing budget of the name, all through a storm and after it."""
    over = threading.Event()
    faults: list[str] = []
    samples = 0

    def look() -> None:
        nonlocal samples
        billed = provider.bill.usd  # before the books: both only grow, and holds settle at no less than the bill
        rows = [row for row in farebox.status(name) if row.unit == "usd"]
        held = sum((row.spent + row.reserved for row in rows), Decimal())
        samples += 1
        if held < billed:
            faults.append(f"billed {billed}, but spent and reserved {held}")
        faults.extend(
            f"{row.tags}: spent {row.spent} + reserved {row.reserved} > limit {row.limit} + debt {row.debt}"
            for row in rows
            if row.spent + row.reserved > row.limit + row.debt
        )
        if limit_usd is not None and billed > Decimal(str(limit_usd)):
            faults.append(f"billed {billed} of {limit_usd}")

    def watch() -> None:
        while not over.wait(seconds):
            look()

    watcher = threading.Thread(target=watch, name="promise")
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    look()
    assert samples >= 1
    assert not faults, faults[:3]


def nothing_is_held() -> None:
    """Once all is written: no hold anywhere, and each call in the report exactly once."""
    assert farebox.flush(10)
    total = farebox.report().total
    assert total.reserved_usd == 0
    assert total.reserved_tokens == 0
    for row in farebox.status():
        assert row.reserved == 0, row
    records = farebox.calls()
    assert len({record.call_id for record in records}) == len(records)
    assert not [record for record in records if record.outcome == "open"]
    assert total.calls + total.refused_calls == len(records)


def expire() -> None:
    """Charge what the dead hold, as each ledger does now and then."""
    ledger = _config.state().ledger
    ledger._store.alive_seconds = 0.2  # type: ignore[attr-defined]
    time.sleep(0.3)
    ledger.expire()
