"""How many calls a second each ledger takes, and how long a call waits to reserve.

    python benchmarks/ledger.py [--seconds N] [--only STORE ...] [--write]

A pair is a reserve, in three accounts, and its settle with a row: one account is shared by all, one is of the process and one
of the thread.  A settle is queued, as always; a pair counts once it is written, so what is queued in the end is flushed
inside the time.  Beside it stands what the machine does at most: how often its disk takes a write, and its Redis answers;
and below it, for each store, the least that any program must do for the same promise (`least`).

No figure here passes or fails.  `--write` puts the tables into docs/explanation/ledger-figures.md.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import itertools
import multiprocessing
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

try:
    import fcntl
except ImportError:  # Windows: no bare transactions
    fcntl = None  # type: ignore[assignment]

from _pages import surroundings, table, write

from farebox._call import Call, Usage
from farebox._rows import FORM
from farebox.ledgers import NO_LIMIT, Account, Grant, Ledger, Need, open_ledger

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "explanation" / "ledger-figures.md"
STORES: Final = ("memory", "sqlite FULL", "sqlite NORMAL", "redis")
#: Processes, and threads of each.
CREWS: Final = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (4, 1), (4, 8))
_WARM_UP: Final = 50
#: About what a pair says to Redis, and is answered.
_ASKED_BYTES, _ANSWER_BYTES = 1_500, 400
_SERVERS: Final = ("redis-server", "valkey-server")
_START_SECONDS: Final = 10.0
_LONGEST_START_SECONDS: Final = 60.0


# ── pairs ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Work(NamedTuple):
    """What one process did: when, how much CPU its threads took in seconds, and how long each of its reserves took, in µs."""

    began: float
    ended: float
    cpu: float
    micros: array[float]


def _call() -> Call:
    """A row as a chat call leaves it."""
    call = Call(provider_name="openai", operation_name="chat", endpoint="/chat/completions", request_model="gpt-5-mini")
    call.tags = {"app": "shop", "feature": "search", "user_id": "alice"}
    call.outcome, call.cost_usd_nanos, call.usage = (
        "completed",
        900_000,
        Usage(uncached_input_tokens=900, visible_output_tokens=80),
    )
    return call


def _pairs(
    ledger: Ledger, accounts: Sequence[Account], numbers: Iterator[int], is_over: Callable[[], bool]
) -> array[float]:
    need, row, now, micros = Need(1_000_000, 0, 1_000, 0, 1), _call(), time.perf_counter, array("d")
    while not is_over():
        hold_id = next(numbers)
        began = now()
        answer = ledger.reserve(hold_id, accounts, need, owner=hold_id, call=row)
        micros.append((now() - began) * 1e6)
        assert isinstance(answer, Grant), answer
        ledger.settle(hold_id, 900_000, 980, 1, row)
    return micros


def _accounts(process: int, thread: int) -> list[Account]:
    keys = ("org", f"process {process}", f"thread {process}.{thread}")
    return [Account(key, key, NO_LIMIT - 1) for key in keys]


def work(url: str, process: int, threads: int, seconds: float, start: Any, results: Any) -> None:
    """One process: opens the ledger, waits for the others, works."""
    ledger = open_ledger(url, form=FORM)
    numbers = itertools.count(1)
    done: list[array[float]] = []

    def thread(n: int) -> None:
        left = itertools.count()
        accounts = _accounts(process, n)
        _pairs(ledger, accounts, numbers, lambda: next(left) >= _WARM_UP)
        ready.wait()
        ready.wait()  # the flush, and the others
        ends_at = time.monotonic() + seconds
        done.append(_pairs(ledger, accounts, numbers, lambda: time.monotonic() >= ends_at))

    ready = threading.Barrier(threads + 1, timeout=_LONGEST_START_SECONDS)
    crew = [threading.Thread(target=thread, args=(n,)) for n in range(threads)]
    for one in crew:
        one.start()
    ready.wait()
    ledger.flush()
    gc.collect()
    gc.freeze()
    start.wait()
    began, cpu = time.monotonic(), time.process_time()
    ready.wait()
    for one in crew:
        one.join()
    ledger.flush()
    ended, cpu = time.monotonic(), time.process_time() - cpu
    results.put(Work(began, ended, cpu, array("d", itertools.chain.from_iterable(done))))
    ledger.close()


class Rate(NamedTuple):
    """Pairs a second, µs a reserve takes, and µs of CPU a pair takes, of the server's too."""

    crew: str
    pairs: float
    p50: float
    p99: float
    most: float
    cpu: float

    def cells(self) -> list[str]:
        return [self.crew, *(f"{number:,.0f}" for number in self[1:])]


def _rate(crew: str, works: Sequence[Work], server_seconds: float) -> Rate:
    micros = sorted(itertools.chain.from_iterable(one.micros for one in works))
    taken = max(one.ended for one in works) - min(one.began for one in works)
    p50, p99 = micros[len(micros) // 2], micros[len(micros) * 99 // 100]
    cpu = (sum(one.cpu for one in works) + server_seconds) / len(micros) * 1e6
    return Rate(crew, len(micros) / taken, p50, p99, micros[-1], cpu)


def rate(url: str, processes: int, threads: int, seconds: float, server_cpu: Callable[[], float]) -> Rate:
    """So many processes and threads at once, at a new ledger; `server_cpu` says what its server has taken so far, in seconds."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(processes, timeout=_LONGEST_START_SECONDS), context.Queue()
    crew = [
        context.Process(target=work, args=(url, number, threads, seconds, start, results))
        for number in range(processes)
    ]
    for one in crew:
        one.start()
    before = server_cpu()
    works = [results.get(timeout=seconds + _LONGEST_START_SECONDS) for _ in crew]
    taken = server_cpu() - before
    for one in crew:
        one.join()
    return _rate(f"{processes} × {threads}", works, taken)


# ── stores ───────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def redis_server(folder: Path) -> Iterator[int | None]:
    """The port of a server of its own, which writes to disk every second; None where none is installed."""
    program = next(filter(shutil.which, _SERVERS), None)
    if program is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [
        program,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "yes",
        "--dir",
        str(folder),
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)
        yield port
    finally:
        server.terminate()
        server.wait()


def server_says(port: int, section: str) -> dict[str, str]:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"INFO %s\r\n" % section.encode())
        said = connection.recv(65_536).decode()
    return dict(line.partition(":")[::2] for line in said.splitlines())


def server_cpu(port: int | None) -> float:
    """Seconds that the server has taken so far."""
    if port is None:
        return 0.0
    found = server_says(port, "cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def server_version(port: int) -> str:
    found = server_says(port, "server")
    return f"{'Valkey' if 'valkey_version' in found else 'Redis'} {found.get('valkey_version', found['redis_version'])}"


def url_of(store: str, folder: Path, port: int | None) -> str:
    """A new ledger."""
    name = f"{store.replace(' ', '-')}-{time.monotonic_ns()}"
    if store.startswith("sqlite"):
        return f"sqlite:///{folder}/{name}.db?synchronous={store.partition(' ')[2]}&timeout=30"
    return f"redis://127.0.0.1:{port}/0?namespace={name}&timeout=5" if store == "redis" else "memory://"


# ── what the machine does ────────────────────────────────────────────────────────────────────────────────────────


def syncs(folder: Path, seconds: float) -> float:
    """Writes of 4 kB a second that the disk says it has, one after the other."""
    fd = os.open(folder / "syncs", os.O_RDWR | os.O_CREAT)
    page, count, began = os.urandom(4_096), 0, time.monotonic()
    try:
        while time.monotonic() - began < seconds:
            os.pwrite(fd, page, 4_096 * (count % 1_000))
            os.fdatasync(fd)
            count += 1
        return count / (time.monotonic() - began)
    finally:
        os.close(fd)


def together(processes: int, work: Callable[..., None], *given: Any) -> list[Any]:
    """What so many processes at once put into their results."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(processes, timeout=_LONGEST_START_SECONDS), context.Queue()
    crew = [context.Process(target=work, args=(*given, start, results)) for _ in range(processes)]
    for one in crew:
        one.start()
    found = [results.get(timeout=_LONGEST_START_SECONDS) for _ in crew]
    for one in crew:
        one.join()
    return found


def ping(port: int, seconds: float, start: Any, results: Any) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start.wait()
        count, began = 0, time.monotonic()
        while time.monotonic() - began < seconds:
            connection.sendall(b"PING\r\n")
            connection.recv(64)
            count += 1
        results.put(count / (time.monotonic() - began))


# ── the least ────────────────────────────────────────────────────────────────────────────────────────────────────
# What any program must do that keeps the same promise here, and nothing else: no accounts, no limits, no rows, no sums.


def bare_transactions(path: str, pages: int, pairs: int, seconds: float, start: Any, results: Any) -> None:
    """Transactions of so many pages, one process at a time, each of them on the disk before the next of its process."""
    turn = os.open(f"{path}-turn", os.O_RDWR | os.O_CREAT)
    fcntl.lockf(turn, fcntl.LOCK_EX)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS pages (number INTEGER PRIMARY KEY, page BLOB)")
    fcntl.lockf(turn, fcntl.LOCK_UN)
    written = os.urandom(4_096 * (pages - 1) - 100)  # the last page is that of the table
    number = os.getpid() * 1_000_000

    def transaction() -> None:
        fcntl.lockf(turn, fcntl.LOCK_EX)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO pages VALUES (?, ?)", (number, written))
        connection.execute("COMMIT")
        fcntl.lockf(turn, fcntl.LOCK_UN)
        os.fdatasync(log)

    fcntl.lockf(turn, fcntl.LOCK_EX)
    connection.execute("INSERT INTO pages VALUES (?, ?)", (number, written))
    fcntl.lockf(turn, fcntl.LOCK_UN)
    log, micros = os.open(f"{path}-wal", os.O_RDWR), array("d")
    start.wait()
    began, cpu = time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        number += 1
        before = time.perf_counter()
        transaction()
        micros.extend([(time.perf_counter() - before) * 1e6] * pairs)
    results.put(Work(began, time.monotonic(), time.process_time() - cpu, micros))


def bare_scripts(port: int, seconds: float, start: Any, results: Any) -> None:
    """Round trips of a script that does nothing with as much as a pair says, and answers as much as a pair is answered."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        text = b"return {ARGV[1]}"
        name = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        parts = (b"EVALSHA", name, b"0", b"x" * _ANSWER_BYTES, *(b"x" * 40,) * (_ASKED_BYTES // 40))
        asked = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        connection.sendall(b"*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$%d\r\n%s\r\n" % (len(text), text))
        connection.recv(1_024)
        micros = array("d")
        start.wait()
        began, cpu = time.monotonic(), time.process_time()
        while time.monotonic() - began < seconds:
            before = time.perf_counter()
            connection.sendall(asked)
            left = len(b"*1\r\n$%d\r\n\r\n" % _ANSWER_BYTES) + _ANSWER_BYTES
            while left:
                left -= len(connection.recv(65_536))
            micros.append((time.perf_counter() - before) * 1e6)
        results.put(Work(began, time.monotonic(), time.process_time() - cpu, micros))


def least(store: str, folder: Path, port: int | None, seconds: float) -> Iterator[list[str]]:
    """Lines of the table of `store`, beside which its own are to be read."""
    for processes in (1, 4):
        before = server_cpu(port)
        if store == "redis":
            works = together(processes, bare_scripts, port, seconds)
            yield _rate(f"bare scripts, {processes} × 1", works, server_cpu(port) - before).cells()
        elif store == "sqlite FULL" and fcntl is not None and hasattr(os, "fdatasync"):
            for pairs, pages in ((1, 8), (8, 12)):
                path = f"{folder}/bare-{time.monotonic_ns()}"
                works = together(processes, bare_transactions, path, pages, pairs, seconds)
                yield _rate(f"bare transactions of {pairs}, {processes} × 1", works, 0.0).cells()


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────


def measured(stores: Sequence[str], seconds: float, folder: Path) -> Iterator[str]:
    """Lines of Markdown, as they are found."""
    with redis_server(folder) as port:
        versions = [f"SQLite {sqlite3.sqlite_version}"]
        if port is not None:
            versions.append(server_version(port))
        yield surroundings(*versions)
        yield ""
        rows = [["4 kB written and synced, one after the other", f"{syncs(folder, min(1.0, seconds)):,.0f}"]]
        if port is not None:
            rows += [
                [f"Redis PING, {n} process{'es' * (n > 1)}", f"{sum(together(n, ping, port, min(1.0, seconds))):,.0f}"]
                for n in (1, 4)
            ]
        yield from table(["what the machine does", "a second"], rows)
        for store in stores:
            if store == "redis" and port is None:
                continue
            yield from ("", f"### {store}", "")
            crews = [crew for crew in CREWS if store != "memory" or crew[0] == 1]
            head = ["processes × threads", "pairs/s", "reserve p50, µs", "p99", "most", "CPU of a pair, µs"]
            taken = partial(server_cpu, port if store == "redis" else None)
            rates = (rate(url_of(store, folder, port), *crew, seconds, taken) for crew in crews)
            cells = itertools.chain((one.cells() for one in rates), least(store, folder, port, seconds))
            yield from table(head, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each line (default 3)")
    parser.add_argument("--only", nargs="+", choices=STORES, default=STORES, metavar="STORE", help="; ".join(STORES))
    parser.add_argument("--folder", type=Path, help="where the files are made: it chooses the disk")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    chosen = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        for line in measured(chosen.only, chosen.seconds, Path(folder)):
            print(line, flush=True)
            lines.append(line)
    if chosen.write:
        write(PAGE, "pairs", lines)


if __name__ == "__main__":
    main()
