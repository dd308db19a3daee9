"""What farebox adds to a call of an SDK, in microseconds, against the same call without it.

    python benchmarks/overhead.py [--pairs N] [--calls N] [--json FILE] [--markdown FILE]

The SDK is the real one and answers itself in the process.  A bare and a guarded call are made in turns, and the difference
of each pair is taken: what disturbs a machine disturbs both.  It still disturbs: read the spread, and on a busy machine the
ratio rather than the microseconds.  The collector of garbage rests while a call is timed and runs between pairs, for both.

No figure here passes or fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib.metadata
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

from _in_process import (
    ANTHROPIC_REQUEST,
    BARE_CLASSES,
    CHAT_ANSWER,
    CHUNKS,
    CLASSES,
    OPENAI_REQUEST,
    REMEMBERING_CLASSES,
    caller,
    client,
    http_library,
)

import farebox

_WARM_UP: Final = 200
_COLLECT_EVERY: Final = 50
_BLOCKS: Final = 20
_RESAMPLED: Final = 200
_NO_REAL_LIMIT_USD: Final = 1_000_000

Call = Callable[[], Any]


# ── pairs ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Added(NamedTuple):
    """What one thing costs, in µs.  `low` and `high` hold the true median of what is added in 95 of 100 such runs."""

    what: str
    pairs: int
    bare: float
    added: float
    low: float
    high: float
    q1: float
    q3: float

    @property
    def percent(self) -> float:
        return 100 * self.added / self.bare


def _order(i: int) -> tuple[int, int]:
    """bare guarded, guarded bare, and so on: neither is always the one after the other."""
    return (0, 1) if i % 2 == 0 else (1, 0)


def _pair(calls: tuple[Call, Call], pairs: int) -> list[tuple[int, int]]:
    now = time.perf_counter_ns
    taken = []
    for i in range(_WARM_UP + pairs):
        nanos = [0, 0]
        for which in _order(i):
            call = calls[which]
            start = now()
            call()
            nanos[which] = now() - start
        if i >= _WARM_UP:
            taken.append((nanos[0], nanos[1]))
        if i % _COLLECT_EVERY == 0:
            gc.collect()
    return taken


async def _pair_async(calls: tuple[Call, Call], pairs: int) -> list[tuple[int, int]]:
    now = time.perf_counter_ns
    taken = []
    for i in range(_WARM_UP + pairs):
        nanos = [0, 0]
        for which in _order(i):
            call = calls[which]
            start = now()
            await call()
            nanos[which] = now() - start
        if i >= _WARM_UP:
            taken.append((nanos[0], nanos[1]))
        if i % _COLLECT_EVERY == 0:
            gc.collect()
    return taken


def measure(what: str, bare: Call, guarded: Call, *, pairs: int, is_async: bool) -> Added:
    """Time both in turns."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        taken = asyncio.run(_pair_async((bare, guarded), pairs)) if is_async else _pair((bare, guarded), pairs)
    finally:
        gc.enable()
        gc.unfreeze()
    differences = [(with_it - without) / 1_000 for without, with_it in taken]
    q1, median, q3 = statistics.quantiles(differences, n=4)
    low, high = _interval(differences)
    return Added(what, pairs, statistics.median(without for without, _ in taken) / 1_000, median, low, high, q1, q3)


def _interval(differences: list[float]) -> tuple[float, float]:
    """The middle 95 of 100 medians of resampled blocks: neighbours in time are disturbed alike, so whole blocks are drawn."""
    size = max(1, len(differences) // _BLOCKS)
    blocks = [differences[i : i + size] for i in range(0, len(differences), size)]
    drawn = random.Random(1)
    medians = sorted(
        statistics.median([one for block in drawn.choices(blocks, k=len(blocks)) for one in block])
        for _ in range(_RESAMPLED)
    )
    return medians[len(medians) // 40], medians[-1 - len(medians) // 40]


# ── what is paired ───────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def scope(budgets: int) -> Iterator[None]:
    """A track and so many nested budgets."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(farebox.track(feature="search", user_id="alice"))
        for i in range(budgets):
            stack.enter_context(farebox.budget(f"budget-{i}", usd=_NO_REAL_LIMIT_USD))
        yield


def guarded_rows(pairs: int) -> Iterator[Added]:
    """Clients that `instrument()` meters, against bare ones."""
    for (sdk, is_async), cls in CLASSES.items():
        bare, guarded = client(BARE_CLASSES[sdk, is_async]), client(cls)
        asked = OPENAI_REQUEST if sdk == "openai" else ANTHROPIC_REQUEST
        name = f"{sdk} {'async' if is_async else 'sync'}"

        def row(
            what: str,
            *,
            budgets: int,
            stream: bool = False,
            request: dict[str, Any] = asked,
            pair: tuple[Any, Any] = (bare, guarded),
            name: str = name,
            is_async: bool = is_async,
        ) -> Added:
            before = farebox.report().total.calls
            with scope(budgets):
                without, with_it = (caller(one, stream=stream, request=request) for one in pair)
                added = measure(f"{name}: {what}", without, with_it, pairs=pairs, is_async=is_async)
                seen = farebox.report().total.calls - before
            assert seen == pairs + _WARM_UP, f"{seen} calls were metered, not {pairs + _WARM_UP}"
            return added

        yield row("call, track", budgets=0)
        yield row("call, track + 1 budget", budgets=1)
        yield row("call, track + 4 budgets", budgets=4)
        if not is_async:
            remembering = client(REMEMBERING_CLASSES[sdk, is_async])
            yield row(
                "call, track + 1 budget, if the SDK remembered addresses too", budgets=1, pair=(remembering, guarded)
            )
        if sdk == "openai":
            undeclared = {key: value for key, value in asked.items() if key != "max_completion_tokens"}
            yield row("call, track + 1 budget, cap granted", budgets=1, request=undeclared)
            yield row(f"{CHUNKS}-chunk stream, track + 1 budget, usage chunk added", budgets=1, stream=True)
            asked = {**asked, "stream_options": {"include_usage": True}}
        yield row(f"{CHUNKS}-chunk stream, track + 1 budget", budgets=1, stream=True, request=asked)


def passing_row(pairs: int) -> Added:
    """A client that is not metered, in a process where another one is."""
    farebox.instrument(client(CLASSES["openai", False]))
    bare, passing = client(BARE_CLASSES["openai", False]), client(CLASSES["openai", False])
    before = farebox.report().total.calls
    with scope(1):
        calls = [caller(one, stream=False, request=OPENAI_REQUEST) for one in (bare, passing)]
        added = measure("openai sync: call of a client that is not metered", *calls, pairs=pairs, is_async=False)
        assert farebox.report(by=["model"]).total.calls == before
    farebox.uninstrument()
    return added


# ── work, which no noise disturbs ────────────────────────────────────────────────────────────────────────────────


class Work(NamedTuple):
    """Instructions of the interpreter and calls of Python functions: bare, and what is added."""

    what: str
    bare_instructions: int
    added_instructions: int
    bare_calls: int
    added_calls: int


def _work(call: Call) -> tuple[int, int]:
    instructions = calls = 0

    def see(frame: Any, event: str, _: Any) -> Any:
        nonlocal instructions, calls
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        instructions += event == "opcode"
        calls += event == "call"
        return see

    for _ in range(10):
        call()
    before = sys.gettrace()
    sys.settrace(see)
    try:
        call()
    finally:
        sys.settrace(before)
    return instructions, calls


def work_rows() -> Iterator[Work]:
    """Sync calls and streams, counted."""
    for sdk, asked in (("openai", OPENAI_REQUEST), ("anthropic", ANTHROPIC_REQUEST)):
        for stream in (False, True):
            request = {**asked, "stream_options": {"include_usage": True}} if stream and sdk == "openai" else asked
            with scope(1):
                without, with_it = (
                    _work(caller(client(classes[sdk, False]), stream=stream, request=request))
                    for classes in (BARE_CLASSES, CLASSES)
                )
            what = f"{sdk} sync: {f'{CHUNKS}-chunk stream' if stream else 'call'}, track + 1 budget"
            yield Work(what, without[0], with_it[0] - without[0], without[1], with_it[1] - without[1])


# ── parts, in a tight loop ───────────────────────────────────────────────────────────────────────────────────────


class Part(NamedTuple):
    """Best and median of several rounds, in µs."""

    what: str
    best: float
    median: float


def _loop(what: str, once: Call, *, rounds: int = 15, times: int = 4_000) -> Part:
    gc.collect()
    gc.disable()
    try:
        taken = []
        for _ in range(rounds):
            start = time.perf_counter_ns()
            for _ in range(times):
                once()
            taken.append((time.perf_counter_ns() - start) / times / 1_000)
            gc.collect()
    finally:
        gc.enable()
    return Part(what, min(taken), statistics.median(taken))


def part_rows() -> Iterator[Part]:
    """Pieces alone, with everything they touch in the caches: inside a real call each costs two to four times as much."""
    from farebox._call import Call as CallOfFarebox
    from farebox._config import state
    from farebox.ledgers import Account, Need

    def row(number: int) -> CallOfFarebox:
        call = CallOfFarebox(provider_name="openai", operation_name="chat", endpoint="", request_model="gpt-5-mini")
        call.outcome, call.cost_usd_nanos, call.number = "completed", 1_000, number
        return call

    for accounts in (1, 4):
        with farebox.configure(ledger="memory://"):
            ledger, numbers = state().ledger, count(1)
            chain = tuple(Account(("overhead", i), f"budget-{i}", 10**18) for i in range(accounts))
            need = Need(1_000, 2, 900, 1, 1, 500, 500, 500, 500, 0)
            shared = row(0)  # a row costs nothing here but its place

            def pair(ledger: Any = ledger, numbers: Any = numbers, chain: Any = chain, need: Any = need) -> None:
                number = next(numbers)
                ledger.reserve(number, chain, need, owner=1, call=shared)  # noqa: B023
                ledger.settle(number, 1_500, 980, 1, shared)  # noqa: B023

            yield _loop(f"memory ledger: reserve + settle, {accounts} account{'s' * (accounts > 1)}", pair)

    def enter() -> None:
        with farebox.track(feature="search", user_id="alice"), farebox.budget("search", usd=1):
            pass

    yield _loop("enter and leave a track and a budget", enter)


# ── import ───────────────────────────────────────────────────────────────────────────────────────────────────────

#: In the process's own time: others make an import wait, and much of it.
_IMPORT: Final = "{0}\nimport time; t = time.process_time(); {1}; print((time.process_time() - t) * 1000)"
_ARMED: Final = "import farebox; farebox.instrument()"

#: What is timed, and what was done before it: a program that calls an SDK has imported it anyway.
_IMPORTED: Final = {
    "import farebox": "",
    _ARMED: "import openai",
    f"{_ARMED}, and no SDK": "",
    "import openai": "",
    "import anthropic": "",
}


def import_rows(times: int = 20) -> dict[str, list[float]]:
    """Milliseconds of CPU time of each, in fresh processes, in turns, with all bytecode compiled before."""
    taken: dict[str, list[float]] = {what: [] for what in _IMPORTED}
    with tempfile.TemporaryDirectory() as folder:
        cached = {**os.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        for _ in range(times + 1):
            for what, millis in taken.items():
                command = [sys.executable, "-P", "-c", _IMPORT.format(_IMPORTED[what], what.partition(",")[0])]
                # In an empty folder: a program's own settings take as long as they are long.
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=cached, cwd=folder)
                millis.append(float(done.stdout))
    return {what: sorted(millis[1:]) for what, millis in taken.items()}  # the first fills the caches


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────


def resident_kib() -> int:
    """Memory of this process that is in RAM; elsewhere than on Linux its peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak // 1024 if sys.platform == "darwin" else peak
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def retain(calls: int) -> Iterator[tuple[int, int, float]]:
    """(calls so far, resident KiB, µs a call since the row before), with the SDK's `request` replaced by its answer."""
    from openai._base_client import SyncAPIClient
    from openai._models import FinalRequestOptions, construct_type
    from openai.types.chat import ChatCompletion

    answer = construct_type(type_=ChatCompletion, value=CHAT_ANSWER)

    def request(self: Any, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        return options.post_parser(answer)

    SyncAPIClient.request = request  # type: ignore[method-assign, assignment]
    farebox.instrument(only=["openai"])
    sdk_client = client(CLASSES["openai", False])
    options = FinalRequestOptions.construct(method="post", url="/chat/completions", json_data={**OPENAI_REQUEST})
    steps = sorted({0, *(step for step in (20_000, 100_000, 300_000) if step < calls), calls})
    done = 0
    for step in steps:
        start = time.perf_counter()
        with farebox.budget("all", usd=_NO_REAL_LIMIT_USD):
            for i in range(done, step):
                with farebox.track(feature="search", user_id=f"user-{i % 1_000}"):
                    sdk_client.request(ChatCompletion, options)
        micros = (time.perf_counter() - start) * 1e6 / max(1, step - done)
        done = step
        gc.collect()
        yield done, resident_kib(), micros


def memory_rows(calls: int) -> list[tuple[int, int, float]]:
    """`retain` in a process of its own."""
    command = [sys.executable, __file__, "--retain", str(calls)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [(int(done), int(kib), float(micros)) for done, kib, micros in (line.split() for line in lines)]


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────


def surroundings() -> dict[str, str]:
    """Where and with what."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    http = http_library("openai").__name__
    versions = {name: importlib.metadata.version(name) for name in ("farebox", "openai", "anthropic", http)}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **versions,
        "cpu": f"{cpu}, {os.cpu_count()} cores",
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown",
    }


class Page:
    """Prints tables as they come, and keeps them as Markdown."""

    def __init__(self) -> None:
        self.markdown: list[str] = []

    def text(self, line: str) -> None:
        print(line, flush=True)
        self.markdown += [line, ""]

    def table(self, title: str, heads: list[str], rows: Iterator[list[str]], first: int = 64) -> None:
        print(f"\n{title}", flush=True)
        self._line(heads, first)
        self.markdown += [f"### {title}", "", f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
        for row in rows:
            self._line(row, first)
            self.markdown.append(f"| {' | '.join(row)} |")
        self.markdown.append("")

    def _line(self, cells: list[str], first: int) -> None:
        print(cells[0].ljust(first) + "".join(cell.rjust(19) for cell in cells[1:]), flush=True)


def run(pairs: int, calls: int) -> tuple[dict[str, Any], Page]:
    """Everything, printed as it is found."""
    page = Page()
    kept: dict[str, Any] = {"surroundings": surroundings()}
    for name, value in kept["surroundings"].items():
        page.text(f"{name:10} {value}")

    rows: list[Added] = []

    def shown_pairs() -> Iterator[list[str]]:
        def all_rows() -> Iterator[Added]:
            yield passing_row(pairs)
            with farebox.instrument():
                yield from guarded_rows(pairs)

        for row in all_rows():
            rows.append(row)
            spread = f"{row.q1:.1f} .. {row.q3:.1f}"
            median = f"{row.low:.1f} .. {row.high:.1f}"
            yield [row.what, f"{row.bare:.0f}", f"{row.added:+.1f}", median, spread, f"{row.percent:.1f} %"]

    page.table(
        f"Added to a call: medians of {pairs:,} pairs, µs",
        ["what", "bare", "added", "95 % of median", "q1 .. q3 of pairs", "added / bare"],
        shown_pairs(),
    )
    kept["added"] = [{**row._asdict(), "percent": row.percent} for row in rows]

    with farebox.instrument():
        work = list(work_rows())
    kept["work"] = [row._asdict() for row in work]
    page.table(
        "Work of the interpreter, the same in every run",
        ["what", "bare instr.", "added instr.", "bare functions", "added functions", "added / bare"],
        (
            [
                row.what,
                f"{row.bare_instructions:,}",
                f"{row.added_instructions:,}",
                f"{row.bare_calls:,}",
                f"{row.added_calls:,}",
                f"{100 * row.added_instructions / row.bare_instructions:.1f} %",
            ]
            for row in work
        ),
    )

    parts = list(part_rows())
    kept["parts"] = [part._asdict() for part in parts]
    page.table(
        "Parts, in a tight loop, µs",
        ["what", "best", "median"],
        ([part.what, f"{part.best:.2f}", f"{part.median:.2f}"] for part in parts),
    )

    imports = import_rows()
    kept["import_ms"] = imports
    whole = statistics.median(imports["import openai"])
    page.table(
        "Import, ms of CPU time, medians of 20 fresh processes; `instrument()` where openai has been imported, and without any",
        ["what", "median", "fastest", "slowest", "of openai's"],
        (
            [name, f"{(m := statistics.median(ms)):.0f}", f"{ms[0]:.0f}", f"{ms[-1]:.0f}", f"{100 * m / whole:.0f} %"]
            for name, ms in imports.items()
        ),
    )

    memory = memory_rows(calls)
    kept["memory"] = [{"calls": done, "resident_kib": kib, "micros": micros} for done, kib, micros in memory]
    page.table(
        "Memory of the process, memory ledger, SDK stubbed, 1,000 users",
        ["calls", "resident KiB", "bytes a call", "µs a call"],
        (
            [
                f"{done:,}",
                f"{kib:,}",
                "" if i == 0 else f"{(kib - memory[i - 1][1]) * 1024 / (done - memory[i - 1][0]):+.0f}",
                "" if i == 0 else f"{micros:.1f}",
            ]
            for i, (done, kib, micros) in enumerate(memory)
        ),
    )
    page.text(f"load at the end: {surroundings()['load']}")
    return kept, page


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=2_000, help="pairs of calls for each row (default 2000)")
    parser.add_argument("--calls", type=int, default=100_000, help="calls of the memory test, such as 1000000")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    parser.add_argument("--retain", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.retain is not None:
        for done, kib, micros in retain(chosen.retain):
            print(done, kib, micros, flush=True)
        return
    if chosen.pairs < _BLOCKS:
        parser.error(f"--pairs {chosen.pairs} is too few to say anything; {_BLOCKS} or more")
    kept, page = run(chosen.pairs, chosen.calls)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(kept, indent=1) + "\n")
    if chosen.markdown is not None:
        chosen.markdown.write_text("\n".join(page.markdown) + "\n")


if __name__ == "__main__":
    main()
