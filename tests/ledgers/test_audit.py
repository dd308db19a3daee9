"""Processes are killed while they spend money, and the books hold; three ledgers that are wrong on purpose do not.

Five seconds for each store run with every test run, a minute with FAREBOX_STORM=long.
"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from farebox.ledgers import Account, Answer, Grant, Need, Shortfall
from farebox.ledgers._sqlite_place import read_url
from farebox.ledgers.redis import RedisLedger
from farebox.ledgers.sqlite import SqliteLedger, SqliteStore
from tests.ledgers.audit.calls import FORM
from tests.ledgers.contract import account, fixed
from tests.servers import redis_server

SECONDS = 60.0 if os.environ.get("FAREBOX_STORM") == "long" else 5.0
_PROJECT = Path(__file__).resolve().parents[2]


def audited(url: str, seconds: float, opener: str = "") -> tuple[bool, str]:
    """Whether the books held, and what the auditor says."""
    command = [sys.executable, "-m", "tests.ledgers.audit", "--ledger", url, "--seconds", str(seconds)]
    if opener:
        command += ["--opener", f"{__name__}:{opener}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=_PROJECT, check=False)
    sys.stdout.write(done.stdout)
    assert "violations" in done.stdout, done.stderr
    return done.returncode == 0, done.stdout


# Stores that hold


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and SIGSTOP")
def test_killed_processes_leave_a_sqlite_ledger_right(tmp_path: Path) -> None:
    holds, said = audited(f"sqlite:///{tmp_path}/audit.db", SECONDS)
    assert holds, said


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and SIGSTOP")
def test_killed_processes_leave_a_redis_ledger_right(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        holds, said = audited(f"{server.url}?timeout=5", SECONDS)
    assert holds, said


# Ledgers that are wrong on purpose: an audit that nothing can fail says nothing


class ChecksThenHolds(SqliteLedger):
    """Looks whether it fits, and then holds: others may have held meanwhile."""

    def reserve(self, hold_id: int, accounts: Sequence[Account], need: Need, **how: Any) -> Answer:
        short = self.short_of(accounts, need, how["forced"])
        time.sleep(0.002)  # the race that it always has, on a machine that is too busy to lose it
        return short or super().reserve(hold_id, [Account(one.key, one.name) for one in accounts], need, **how)

    def short_of(self, accounts: Sequence[Account], need: Need, forced: Collection[Account]) -> Shortfall | None:
        usd, tokens, calls = need.usd_nanos(need.want_cap), need.tokens(need.want_cap), need.calls
        for one in accounts:
            has = self.balance(one)
            if one not in forced and (
                has.spent_usd_nanos + has.reserved_usd_nanos + usd > one.limit_usd_nanos
                or has.spent_tokens + has.reserved_tokens + tokens > one.limit_tokens
                or has.spent_calls + has.reserved_calls + calls > one.limit_calls
            ):
                return Shortfall(one, "usd", one.limit_usd_nanos, has.spent_usd_nanos, 0, usd, "exhausted")
        return None


class ChargesAfterwards(ChecksThenHolds):
    """Looks whether it fits, and charges what was billed: in between it knows of nothing."""

    def reserve(self, hold_id: int, accounts: Sequence[Account], need: Need, **how: Any) -> Answer:
        self._accounts = {**getattr(self, "_accounts", {}), hold_id: accounts}
        grant = Grant(need.want_cap, need.usd_nanos(need.want_cap), need.tokens(need.want_cap), need.calls)
        return self.short_of(accounts, need, how["forced"]) or grant

    def settle(self, hold_id: int, usd_nanos: int, tokens: int, calls: int = 1, row: Any = None) -> bool:
        accounts = self._accounts.pop(hold_id, None)
        if accounts is not None:
            self.charge(hold_id, accounts, usd_nanos, tokens, calls, row)
        return accounts is not None


class SettlesAnew(SqliteLedger):
    """Charges a call as often as it is told to."""

    _extra_ids = itertools.count(1_000_000_000)

    def reserve(self, hold_id: int, accounts: Sequence[Account], need: Need, **how: Any) -> Answer:
        self._accounts = {**getattr(self, "_accounts", {}), hold_id: accounts}
        return super().reserve(hold_id, accounts, need, **how)

    def settle(self, hold_id: int, usd_nanos: int, tokens: int, calls: int = 1, row: Any = None) -> bool:
        done = super().settle(hold_id, usd_nanos, tokens, calls, row)
        if not done:
            self.charge(next(self._extra_ids), self._accounts[hold_id], usd_nanos, tokens, calls, row)
        return done


def _opened(cls: type[SqliteLedger], url: str, clock: Callable[[], float] | None) -> SqliteLedger:
    return cls(SqliteStore(read_url(url), FORM, time.time if clock is None else clock))


def open_that_checks_then_holds(url: str, clock: Callable[[], float] | None) -> SqliteLedger:
    return _opened(ChecksThenHolds, url, clock)


def open_that_charges_afterwards(url: str, clock: Callable[[], float] | None) -> SqliteLedger:
    return _opened(ChargesAfterwards, url, clock)


def open_that_settles_anew(url: str, clock: Callable[[], float] | None) -> SqliteLedger:
    return _opened(SettlesAnew, url, clock)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and SIGSTOP")
@pytest.mark.parametrize(
    ("opener", "law"),
    [
        ("open_that_checks_then_holds", "I1"),
        ("open_that_charges_afterwards", "I3"),
        ("open_that_settles_anew", "I5"),
    ],
)
def test_the_audit_finds_a_ledger_that_is_wrong(tmp_path: Path, opener: str, law: str) -> None:
    for seconds in (3.0, 6.0, 12.0, 24.0):  # a busy machine may not get as far as the limit in a short time
        holds, said = audited(f"sqlite:///{tmp_path}/wrong{seconds:.0f}.db", seconds, opener)
        if not holds:
            break
    assert not holds, said
    assert f"\n  {law} " in said, said


# One round trip


class CountingProxy:
    """Passes bytes on to a server, and counts how often the client spoke after the server had answered."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.round_trips = 0
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            self._sockets += [client, server]
            threading.Thread(target=self._exchange, args=(client, server), daemon=True).start()

    def _exchange(self, client: socket.socket, server: socket.socket) -> None:
        has_answered = threading.Event()
        has_answered.set()

        def back() -> None:
            while said := _received(server):
                has_answered.set()
                client.sendall(said)

        threading.Thread(target=back, daemon=True).start()
        while said := _received(client):
            if has_answered.is_set():
                has_answered.clear()
                self.round_trips += 1
            server.sendall(said)

    def close(self) -> None:
        for one in self._sockets:
            one.close()


def _received(one: socket.socket) -> bytes:
    try:
        return one.recv(65_536)
    except OSError:
        return b""


@contextmanager
def proxied_ledger(folder: Path) -> Iterator[tuple[RedisLedger, CountingProxy]]:
    with redis_server(folder) as server:
        proxy = CountingProxy(server.port)
        ledger = RedisLedger.open(f"redis://127.0.0.1:{proxy.port}/0?timeout=5")
        try:
            yield ledger, proxy
        finally:
            ledger.close()
            proxy.close()


def test_a_reserve_is_one_round_trip_and_carries_what_was_settled_before(tmp_path: Path) -> None:
    with proxied_ledger(tmp_path) as (ledger, proxy):
        trips = [account("trip", limit_usd_nanos=10**9), account("user"), account("team")]
        assert isinstance(ledger.reserve(1, trips, fixed(40)), Grant)
        counts = []
        for hold_id in range(2, 102):
            before = proxy.round_trips
            ledger.settle(hold_id - 1, 25, 0)
            assert isinstance(ledger.reserve(hold_id, trips, fixed(40)), Grant)
            counts.append(proxy.round_trips - before)
        # The ledger's own thread may write what was settled in between, now and then.
        assert sorted(counts)[: len(counts) * 9 // 10] == [1] * 90
        assert ledger.balance(trips[0]).spent_calls == 100
