"""A signal may raise between any two lines: the books stay whole, and never below the bill."""

from __future__ import annotations

import ast
import inspect
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from linecache import getline
from pathlib import Path
from typing import Any

import pytest

import farebox
from farebox import _config, _enforce, _kept, _streams, budget, report, signals
from farebox.ledgers import _book, memory
from farebox.seams import _patches, stainless
from tests.acceptance.rides import OPENAI, bound_of, farebox_usd

pytestmark = [
    pytest.mark.usefixtures("metered"),
    # Sockets of an HTTP client that was interrupted are closed by the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signals here"),
]


class Interrupted(BaseException):
    """As KeyboardInterrupt, but nobody else's."""


class Alarm:
    """Raises in the main thread every so often, but only while it is armed, and counts how often."""

    def __init__(self) -> None:
        self.armed = False
        self.rings = 0

    def ring(self, *_: object) -> None:
        if self.armed:
            self.rings += 1
            raise Interrupted


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    alarm = Alarm()
    before = signal.signal(signal.SIGUSR1, alarm.ring)
    try:
        yield alarm
    finally:
        signal.signal(signal.SIGUSR1, before)


def interrupted(alarm: Alarm, call: Callable[[], Any], after_seconds: float) -> None:
    """Run `call`, interrupted once, `after_seconds` from its start."""
    timer = threading.Timer(after_seconds, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        alarm.armed = True
        timer.start()
        call()
        alarm.armed = False
    except Interrupted:
        pass
    except Exception:
        pass  # the SDK may make an error of its own of it
    finally:
        alarm.armed = False
        timer.cancel()


def moments_of(call: Callable[[], Any], times: int) -> Iterator[float]:
    """So many moments from the start of `call` to its end, in seconds, however fast this machine is."""
    lengths = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        lengths.append(time.perf_counter() - start)
    return (min(lengths) * number / times for number in range(times))


def books_agree(provider: Any, frame: Any) -> None:
    """Holds add up to what is reserved; nothing is below the bill; nothing is left once it is quiet."""
    ledger = _config.state().ledger
    total = report().total
    held = sum(grant.usd_nanos for _, grant in ledger.in_flight())
    assert total.reserved_usd == frame.reserved_usd == farebox_usd(held)
    assert frame.spent_usd == total.usd
    assert total.usd + total.reserved_usd >= provider.bill.usd, provider.bill_table()


@pytest.mark.parametrize("what", ["ask", "stream", "left"])
def test_interrupts_anywhere_leave_the_books_whole(provider: Any, open_client: Any, alarm: Alarm, what: str) -> None:
    client = open_client(OPENAI)

    def ask() -> None:
        OPENAI.ask(client)

    def stream() -> None:
        list(OPENAI.stream(client))

    def left() -> None:
        with OPENAI.stream(client) as stream:
            next(stream)

    call = {"ask": ask, "stream": stream, "left": left}[what]
    call()
    with farebox.configure(ledger="memory://"):
        baseline = provider.bill.usd_nanos
        with budget(usd=1_000) as frame:
            for moment in moments_of(call, 300):
                interrupted(alarm, call, moment)
            provider.wait_until_idle()
            spent = report().total
            billed = provider.bill.usd_nanos - baseline
            assert spent.usd + spent.reserved_usd >= farebox_usd(billed)
            held = sum(grant.usd_nanos for _, grant in _config.state().ledger.in_flight())
            assert spent.reserved_usd == frame.reserved_usd == farebox_usd(held)
            call()  # the next one pays what an interrupt left
            assert frame.reserved_usd == 0
            assert frame.spent_usd == report().total.usd
    assert alarm.rings > 50


#: Functions that a signal can't cut where a tracer can: between the end of a `try` and the first call of its `finally`.
_NOT_CUT = ("__del__", "<genexpr>", "_try_to_catch_up")

#: Lines before which no signal is noticed: as a `with` ends its line runs once more, and a `finally` makes its first call.
_NOT_CUT_BEFORE = ("with ", "self.open.pop(")

FILES = {
    inspect.getsourcefile(module) for module in (_enforce, _kept, _patches, stainless, _streams, signals, _book, memory)
}


@pytest.mark.parametrize("what", ["ask", "stream", "left"])
def test_an_interrupt_at_every_single_line_leaves_the_books_whole(provider: Any, open_client: Any, what: str) -> None:
    # No luck about it: the n-th line that farebox runs in a call raises, for every n.
    client = open_client(OPENAI)

    def ask() -> None:
        OPENAI.ask(client)

    def stream() -> None:
        list(OPENAI.stream(client))

    def left() -> None:
        with OPENAI.stream(client) as stream:
            next(stream)

    call = {"ask": ask, "stream": stream, "left": left}[what]
    call()
    with farebox.configure(ledger="memory://"):
        call()
        leaks: dict[str, int] = {}
        number = 0
        while True:
            number += 1
            count, where = 0, ""

            def trace(frame: Any, event: str, _: Any, number: int = number) -> Any:
                nonlocal count, where
                if frame.f_code.co_filename not in FILES or frame.f_code.co_name in _NOT_CUT:
                    return None
                line = getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
                if event == "line" and not line.startswith(_NOT_CUT_BEFORE):
                    count += 1
                    if count == number:
                        where = f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno} {frame.f_code.co_name}"
                        sys.settrace(None)
                        raise Interrupted
                return trace

            before = provider.bill.usd_nanos
            with budget(usd=1_000) as frame:
                sys.settrace(trace)
                try:
                    call()
                except (Interrupted, Exception):
                    pass
                finally:
                    sys.settrace(None)
                provider.wait_until_idle()
                billed = farebox_usd(provider.bill.usd_nanos - before)
                if frame.spent_usd + frame.reserved_usd < billed:
                    leaks[f"below the bill: {where}"] = number
                farebox.report()
                if frame.reserved_usd:
                    leaks[f"held for good: {where}"] = number
            if not where:
                break
    assert not leaks, "\n".join(leaks)
    assert number > 50


def loops_that_do_not_end_in_their_try(tree: ast.AST, within: str = "") -> Iterator[tuple[int, str]]:
    """Lines of loops with a condition, and the `try` or `with` in the same function that every error must reach."""
    for node in ast.iter_child_nodes(tree):
        inside = within
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inside = ""
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            said = ", ".join(ast.unparse(item.context_expr) for item in node.items)
            inside = within if said == "suppress(Exception)" else f"with {said}"
        elif isinstance(node, ast.Try):
            caught = ["" if one.type is None else ast.unparse(one.type) for one in node.handlers]
            if node.finalbody or {"", "BaseException"} & set(caught):
                inside = "try"
        elif within and isinstance(node, ast.While) and not isinstance(node.test, ast.Constant):
            yield node.lineno, within
        yield from loops_that_do_not_end_in_their_try(node, inside)


def test_no_loop_with_a_condition_stands_where_an_interrupt_must_be_caught() -> None:
    # Its jump back is outside of the `try` or `with` around it, and since Python 3.13 an interrupt may come right there:
    # https://github.com/python/cpython/issues/130279.  In a function of its own the loop is safe.
    package = Path(farebox.__file__).parent
    found = [
        f"{path.relative_to(package)}:{line} in {within}"
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] not in ("testing", "cli")  # they hold no money
        for line, within in loops_that_do_not_end_in_their_try(ast.parse(path.read_text("utf-8")))
    ]
    assert not found


def test_threads_are_not_disturbed_by_interrupts_of_the_main_thread(
    provider: Any, open_client: Any, alarm: Alarm
) -> None:
    client, interrupted_client = open_client(OPENAI), open_client(OPENAI)
    over = threading.Event()
    failures: list[BaseException] = []

    def keep_calling() -> None:
        while not over.is_set():
            try:
                OPENAI.ask(client)
            except BaseException as error:
                failures.append(error)

    limit = bound_of(OPENAI).usd_nanos * 4
    with budget(usd=1_000) as frame, budget(usd=farebox_usd(limit * 1_000)):
        threads = [threading.Thread(target=keep_calling) for _ in range(3)]
        for thread in threads:
            thread.start()
        for moment in moments_of(lambda: OPENAI.ask(interrupted_client), 100):
            interrupted(alarm, lambda: OPENAI.ask(interrupted_client), moment)
        over.set()
        for thread in threads:
            thread.join()
        provider.wait_until_idle()
        books_agree(provider, frame)
        OPENAI.ask(client)
        assert frame.reserved_usd == 0
    assert not failures
