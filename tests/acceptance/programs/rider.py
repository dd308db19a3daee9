"""A program that rides: it calls a provider through an SDK under the standing budgets of a ledger, and ends in some way.

`python -m tests.acceptance.programs.rider <socket>` imports all there is once, and forks a program for each connection to
that Unix socket: to start Python and two SDKs takes a second each time.  A connection sends a line of JSON, what is asked;
it is the standard input and output of the program then, which prints one JSON object a line, at first its process id, and
reads a line where it waits for its turn.  When the program is gone its exit code is the last line.
"""

from __future__ import annotations

import collections
import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
from typing import Any

import farebox
from farebox import budget, configure
from tests.acceptance.programs import batches
from tests.acceptance.rides import ANTHROPIC, OPENAI, Ride


def say(**words: Any) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def wait_for_turn() -> None:
    sys.stdin.readline()


def budget_of(words: dict[str, Any]) -> budget:
    if "at" in words:  # JSON has no numbers for keys
        words["at"] = {float(share): mode for share, mode in words["at"].items()}
    return budget(words.pop("name", "org"), **{"per": "day", **words})


class _Address:
    """Where a provider of another process is: what `Ride.client` asks of one."""

    def __init__(self, openai_base_url: str, anthropic_base_url: str) -> None:
        self.openai_base_url = openai_base_url
        self.anthropic_base_url = anthropic_base_url


def client_of(asked: dict[str, Any], *, is_async: bool = False, **options: Any) -> tuple[Ride, Any]:
    ride = {"openai": OPENAI, "anthropic": ANTHROPIC}[asked["ride"]]
    address: Any = _Address(asked["openai_base_url"], asked["anthropic_base_url"])
    return ride, (ride.async_client if is_async else ride.client)(address, **options)


def begin(asked: dict[str, Any]) -> None:
    budgets = [budget_of(dict(words)) for words in asked["budgets"]]
    globals()["configured"] = configure(ledger=asked["ledger"], budgets=budgets, prices="{}")
    farebox.instrument()


def ask_many(asked: dict[str, Any]) -> collections.Counter[str]:
    """Each of `threads` threads makes `calls` calls, or calls until it is refused."""
    ride, client = client_of(asked)
    counts: collections.Counter[str] = collections.Counter()
    lock = threading.Lock()

    def run() -> None:
        for _ in range(asked["calls"]):
            try:
                ride.ask(client)
                outcome = "sent"
            except Exception as error:
                outcome = f"{type(error).__name__} {getattr(error, 'kind', '')}".strip()
                if getattr(error, "response", None) is not None and isinstance(error, farebox.BudgetExceeded):
                    outcome = "crossed"
            with lock:
                counts[outcome] += 1

    threads = [threading.Thread(target=run) for _ in range(asked["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    farebox.flush(10)
    return counts


def tell_rungs(asked: dict[str, Any]) -> None:
    told: list[Any] = []
    with configure(budgets=[budget("org", per="day", at={0.2: told.append}, **asked["budgets"][0])]):
        ask_many(asked)
        # Whoever asks in the background has been answered by now, or is first in line.
        farebox.flush(5)
        threading.Event().wait(0.3)
    say(told=len(told))


# ── ways to end ──────────────────────────────────────────────────────────────────────────────────────────────────


def completed(asked: dict[str, Any], *, flushes: bool) -> None:
    ride, client = client_of(asked)
    for _ in range(3):
        ride.ask(client)
    if flushes:
        farebox.flush(10)
    say(done=3)


def in_a_call(asked: dict[str, Any]) -> threading.Thread:
    ride, client = client_of(asked)
    thread = threading.Thread(target=lambda: ride.ask(client), daemon=True)
    thread.start()
    say(in_call=True)
    wait_for_turn()
    return thread


def in_a_stream(asked: dict[str, Any]) -> Any:
    ride, client = client_of(asked)
    stream = ride.stream(client)
    next(iter(stream))
    say(in_call=True)
    wait_for_turn()
    return stream


def flush_on_sigterm(asked: dict[str, Any]) -> None:
    """Its handler writes what is queued, wherever the main thread is just then."""

    def handle(number: int, frame: Any) -> None:
        farebox.flush(timeout=2)
        sys.exit(0)

    signal.signal(signal.SIGTERM, handle)
    ride, client = client_of(asked)
    ride.ask(client)
    say(in_call=True)
    while True:
        with contextlib.suppress(farebox.errors.LedgerUnavailable):  # on a machine that is too busy to write
            ride.ask(client)


def call_at_exit(asked: dict[str, Any]) -> None:
    import atexit

    ride, client = client_of(asked)
    ride.ask(client)
    farebox.flush(5)

    def last() -> None:
        try:
            ride.ask(client)
            say(answered=True)
        except BaseException as error:
            say(answered=False, error=f"{type(error).__name__}: {error}")

    atexit.register(last)


def threads_outlive_main(asked: dict[str, Any]) -> None:
    ride, client = client_of(asked)
    main_thread = threading.main_thread()

    def work() -> None:
        main_thread.join()
        try:
            for _ in range(3):
                ride.ask(client)
            say(answered=True)
        except BaseException as error:
            say(answered=False, error=f"{type(error).__name__}: {error}")

    threading.Thread(target=work).start()


def in_a_child(asked: dict[str, Any], method: str) -> None:
    """A child of multiprocessing that ends normally, after the parent has used the ledger."""
    ride, client = client_of(asked)
    ride.ask(client)
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=completed_in_child, args=(asked, method))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    ride.ask(client)
    say(done=5)


def completed_in_child(asked: dict[str, Any], method: str) -> None:
    if method == "spawn":
        begin(asked)
    ride, client = client_of(asked)
    for _ in range(3):
        ride.ask(client)


def prefork(asked: dict[str, Any]) -> None:
    """As a preloaded server: the ledger is opened and used, then workers are forked that share it by inheritance."""
    ride, client = client_of(asked)
    ride.ask(client)
    farebox.flush(5)
    ready, go = os.pipe()
    children = []
    for _ in range(asked["processes"]):
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(ready, 1)
            code = 1
            try:
                say(counts=ask_many(asked))
                code = 0
            finally:
                farebox.flush(5)
                os._exit(code)
        children.append(child)
    os.close(ready)
    os.close(go)
    codes = [os.waitpid(child, 0)[1] for child in children]
    say(codes=codes)


def fork_with_a_stream_open(asked: dict[str, Any]) -> None:
    """The child inherits an open stream and drops it; the parent reads it to its end."""
    ride, client = client_of(asked)
    stream = ride.stream(client)
    child = os.fork()
    if child == 0:
        del stream
        sys.exit(0)
    os.waitpid(child, 0)
    list(stream)
    farebox.flush(5)
    say(done=1)


# ── batches ──────────────────────────────────────────────────────────────────────────────────────────────────────


def submit(asked: dict[str, Any]) -> None:
    """Submits a batch, says so, and ends: as it is told to, or once it was waited for and has asked after its batch too."""
    kind = batches.KINDS[asked["kind"]]
    with kind.client(_Address(asked["openai_base_url"], asked["anthropic_base_url"])) as client:
        with farebox.track(feature="nightly"), budget("scope", usd=1) as scope:
            batch_id = kind.submit(client)
        if asked["ends"] != "at once":
            farebox.flush(10)
        say(batch=batch_id, call=farebox.calls()[0].call_id)
        if asked["ends"] == "after its batch":
            wait_for_turn()
            there = kind.collect(client, batch_id)
            farebox.flush(10)
            say(there=there, spent=str(scope.spent_usd), reserved=str(scope.reserved_usd))
    if asked["ends"] != "after its batch":
        end_hard("kill -9") if asked["ends"] in ("killed", "at once") else None


def collect(asked: dict[str, Any]) -> None:
    """Collects a batch again and again, beside others."""
    kind = batches.KINDS[asked["kind"]]
    with kind.client(_Address(asked["openai_base_url"], asked["anthropic_base_url"])) as client:
        say(ready=True)
        wait_for_turn()
        there = [kind.collect(client, asked["batch"]) for _ in range(asked["times"])]
        farebox.flush(10)
        say(there=there)


def main(asked: dict[str, Any]) -> None:
    begin(asked)
    way = asked["way"]
    if way == "ask many":
        say(ready=True)
        wait_for_turn()
        say(counts=ask_many(asked))
    elif way == "tell rungs":
        say(ready=True)
        wait_for_turn()
        tell_rungs(asked)
    elif way == "prefork":
        prefork(asked)
    elif way == "submit":
        submit(asked)
    elif way == "collect":
        collect(asked)
    elif way == "fork with a stream open":
        fork_with_a_stream_open(asked)
    elif way == "end of main":
        completed(asked, flushes=False)
    elif way == "sys.exit":
        completed(asked, flushes=False)
        sys.exit(3)
    elif way == "unhandled exception":
        completed(asked, flushes=False)
        raise RuntimeError("unhandled")
    elif way in {"os._exit", "kill -9", "SIGTERM"}:
        completed(asked, flushes=False)
        end_hard(way)
    elif way in {"os._exit after flush", "kill -9 after flush", "SIGTERM after flush"}:
        completed(asked, flushes=True)
        end_hard(way.partition(" after")[0])
    elif way == "daemon thread in a call":
        in_a_call(asked)
    elif way == "kill -9 in a call":
        in_a_call(asked)
        end_hard("kill -9")
    elif way == "SIGTERM in a call":
        in_a_call(asked)
        end_hard("SIGTERM")
    elif way == "os._exit in a call":
        in_a_call(asked)
        end_hard("os._exit")
    elif way == "stream open at shutdown":
        globals()["kept"] = in_a_stream(asked)
    elif way == "kill -9 in a stream":
        kept = in_a_stream(asked)
        end_hard("kill -9")
        del kept
    elif way == "SIGTERM with a handler":
        flush_on_sigterm(asked)
    elif way == "call at exit":
        call_at_exit(asked)
    elif way == "threads outlive main":
        threads_outlive_main(asked)
    elif way in {"child fork", "child spawn"}:
        in_a_child(asked, way.partition(" ")[2])
    else:
        raise ValueError(way)


def end_hard(way: str) -> None:
    if way == "os._exit":
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL if way == "kill -9" else signal.SIGTERM)
    threading.Event().wait(10)


def serve(path: str) -> None:
    """Fork a program for each connection.  Returns in the program, which then ends as any other does."""
    import socket

    import anthropic  # noqa: F401 - once for all programs

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how the watchers end
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                break
            connection.close()
    # The watcher of one program, single-threaded as whoever forks should be.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(connection.fileno(), 0)
    program = os.fork()
    if program:
        os.close(0)
        code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
        connection.sendall(f"{json.dumps({'code': code})}\n".encode())
        os._exit(0)
    os.dup2(connection.fileno(), 1)
    connection.close()
    say(pid=os.getpid())
    main(json.loads(sys.stdin.readline()))


if __name__ == "__main__":
    serve(sys.argv[1])
