"""How a hard budget admits calls that declare no output cap: who runs, who waits, who is cut, who is refused.

    python benchmarks/admission.py [--quick] [--write] [--calls N] [--budgets X ...] [--patience S]

The real SDK, in threads and in tasks, calls a fake provider over HTTP.  How long an answer wants to be is drawn from a
fixed seed for each call; the provider takes half a second and ten milliseconds for each of its tokens, scaled down.  A
budget is a multiple of what the calls would cost uncut.  *Cold* starts knowing nothing; *warm* has seen 150 such calls.
*Knowing* is what no policy does: every call declares the cap that 98 of 100 such answers stay below.

Cuts, refusals and the peak are the provider's own count.  Times are of this machine: read them as ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import platform
import random
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, NamedTuple

import attrs
import openai

import farebox
from farebox import BudgetExceeded
from farebox.errors import CutAnswerWarning
from farebox.testing import Answer, FakeProvider, Price, Request

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "explanation" / "admission.md"
BEGIN, END = "<!-- admission table -->", "<!-- end of admission table -->"

INPUT_TOKENS: Final = 500
PROMPT: Final = "word " * (INPUT_TOKENS * 4 // 5)
START_SECONDS, SECONDS_A_TOKEN = 0.5, 0.01
WARM_CALLS: Final = 150
#: In seconds of the model's time: nobody gives up waiting, and how long they wait is measured.
PATIENCE_SECONDS: Final = 1_000_000
#: Runs at a time, in processes: most of a run is waiting.
AT_ONCE: Final = 4

PLAIN, REASONING = "gpt-4.1", "gpt-5"
MOST_TOKENS: Final = {PLAIN: 32_768, REASONING: 128_000}
#: USD per million tokens, in and out: the same in farebox and at the provider, and equal, so that only lengths differ.
PRICE: Final = (2, 10)

Draw = Callable[[random.Random], int]


def around(median: int, spread: float) -> Draw:
    """Lognormal."""
    return lambda rnd: int(rnd.lognormvariate(math.log(median), spread)) + 1


def either(share: float, one: Draw, other: Draw) -> Draw:
    return lambda rnd: (one if rnd.random() < share else other)(rnd)


SMALL = around(300, 0.8)
HEAVY = around(300, 1.4)
LONG = around(8_000, 0.6)
MIXED = either(0.8, around(100, 0.4), around(3_000, 0.4))
REASONED = around(7_750, 0.7)  # 95 of 100 between 2,000 and 30,000


class Workload(NamedTuple):
    """`calls` in all, `width` at a time; a second of the model's takes `scale` seconds."""

    name: str
    width: int
    calls: int
    draw: Draw
    scale: float
    model: str = PLAIN
    tasks: bool = False


WORKLOADS: Final = {
    work.name: work
    for work in (
        Workload("small, one after another", 1, 60, SMALL, 0.002),
        Workload("heavy tail, one after another", 1, 60, HEAVY, 0.002),
        Workload("reasoning, one after another", 1, 20, REASONED, 0.0005),
        Workload("20 small, all at once", 20, 20, SMALL, 0.03),
        Workload("70 small, 50 at a time", 50, 70, SMALL, 0.08, tasks=True),
        Workload("300 small, 60 at a time", 60, 300, SMALL, 0.15, tasks=True),
        Workload("40 long, 20 at a time", 20, 40, LONG, 0.004),
        Workload("100 heavy tail, 50 at a time", 50, 100, HEAVY, 0.03, tasks=True),
        Workload("100 short or long, 50 at a time", 50, 100, MIXED, 0.05, tasks=True),
        Workload("10 reasoning, all at once", 10, 10, REASONED, 0.0012, REASONING),
        Workload("30 reasoning, 10 at a time", 10, 30, REASONED, 0.0015, REASONING),
        Workload("80 reasoning, 40 at a time", 40, 80, REASONED, 0.004, REASONING, tasks=True),
        Workload("20 small of a reasoning model, at once", 20, 20, SMALL, 0.03, REASONING),
        Workload("60 small of a reasoning model, 20 at a time", 20, 60, SMALL, 0.03, REASONING, tasks=True),
    )
}
QUICK: Final = (
    "20 small, all at once",
    "70 small, 50 at a time",
    "10 reasoning, all at once",
    "reasoning, one after another",
)
BUDGETS: Final = (0.6, 1.25, 2.0)
KINDS: Final = ("cold", "warm", "knowing")


# ── one run ──────────────────────────────────────────────────────────────────────────────────────────────────────


@attrs.define
class Desk:
    """The model behind the provider: says of each call how long its answer wants to be, and takes its time."""

    wants: list[int]
    scale: float
    in_flight: int = 0
    peak: int = 0
    cut: int = 0
    answered: int = 0
    came: dict[int, float] = attrs.field(factory=dict)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def answer(self, request: Request) -> Answer:
        assert request.body is not None
        number = request.body["seed"]
        want = self.wants[number]
        cap = request.body.get("max_completion_tokens") or request.body.get("max_tokens") or want
        with self._lock:
            self.came[number] = time.monotonic()
            self.answered += 1
            self.cut += cap < want
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
        time.sleep(self.scale * (START_SECONDS + SECONDS_A_TOKEN * min(want, cap)))
        with self._lock:
            self.in_flight -= 1
        return Answer(output_tokens=want, text="", input_tokens=INPUT_TOKENS)


class Run(NamedTuple):
    """What came of one run; seconds are the model's."""

    used: float
    done: int
    refused: int
    cut: int
    seconds: float
    peak: int
    longest_wait: float


def _request(work: Workload, number: int, cap: int | None) -> dict[str, Any]:
    declared = {} if cap is None else {"max_completion_tokens": cap}
    return {"model": work.model, "messages": [{"role": "user", "content": PROMPT}], "seed": number, **declared}


Clock = dict[int, tuple[float, float]]
"""When each call began, and when it was over."""


def _in_threads(work: Workload, url: str, count: int, cap: int | None, clock: Clock) -> int:
    with openai.OpenAI(base_url=url, api_key="fake", max_retries=0) as client:

        def call(number: int) -> bool:
            begun = time.monotonic()
            try:
                client.chat.completions.create(**_request(work, number, cap))
            except BudgetExceeded:
                return True
            finally:
                clock[number] = begun, time.monotonic()
            return False

        with ThreadPoolExecutor(work.width) as pool:
            return sum(pool.map(call, range(count)))


async def _in_tasks(work: Workload, url: str, count: int, cap: int | None, clock: Clock) -> int:
    free = asyncio.Semaphore(work.width)
    async with openai.AsyncOpenAI(base_url=url, api_key="fake", max_retries=0) as client:

        async def call(number: int) -> bool:
            async with free:
                begun = time.monotonic()
                try:
                    await client.chat.completions.create(**_request(work, number, cap))
                except BudgetExceeded:
                    return True
                finally:
                    clock[number] = begun, time.monotonic()
                return False

        return sum(await asyncio.gather(*(call(number) for number in range(count))))


def _go(
    work: Workload,
    wants: list[int],
    scale: float,
    limit: Decimal | None,
    cap: int | None = None,
    patience: float = PATIENCE_SECONDS,
) -> Run:
    """All calls of `work` under one budget; None: without any."""
    desk, clock = Desk(wants, scale), Clock()
    with FakeProvider(prices={work.model: Price(*PRICE)}) as provider:
        provider.answer(desk.answer)
        url = provider.openai_base_url

        def calls() -> int:
            if work.tasks:
                return asyncio.run(_in_tasks(work, url, len(wants), cap, clock))
            return _in_threads(work, url, len(wants), cap, clock)

        if limit is None:
            refused = calls()
        else:
            with farebox.budget("work", usd=limit, patience=patience * (scale or 1)):
                refused = calls()
        used = 0.0 if limit is None else float(provider.bill.usd / limit)
    assert desk.answered + refused == len(wants)
    assert used <= 1, f"{used:.2%} of the budget was billed"
    seconds = max(over for _, over in clock.values()) - min(begun for begun, _ in clock.values())
    waited = max((came - clock[number][0] for number, came in desk.came.items()), default=0.0)
    return Run(used, desk.answered, refused, desk.cut, seconds / (scale or 1), desk.peak, waited / (scale or 1))


# ── a workload ───────────────────────────────────────────────────────────────────────────────────────────────────


class Row(NamedTuple):
    """A workload under one budget, all seeds together."""

    budget: float
    kind: str
    runs: list[Run]
    unlimited: list[float]

    def mean(self, name: str) -> float:
        return statistics.fmean(getattr(run, name) for run in self.runs)

    @property
    def cut(self) -> float:
        return sum(run.cut for run in self.runs) / max(1, sum(run.done for run in self.runs))

    @property
    def slower(self) -> float:
        return statistics.fmean(run.seconds / free for run, free in zip(self.runs, self.unlimited, strict=True))

    def misses(self) -> Iterator[str]:
        """What it misses of the aims, which are for budgets that the whole need fits in."""
        if self.budget <= 1 or self.kind == "knowing":
            return
        if any(run.refused for run in self.runs):
            yield "refuses"
        if self.cut > (0.05 if self.kind == "cold" else 0.02):
            yield "cuts"
        if self.slower > 2:
            yield "slow"


def _cost(wants: list[int]) -> Decimal:
    dollars_in, dollars_out = PRICE
    return Decimal(len(wants) * INPUT_TOKENS * dollars_in + sum(wants) * dollars_out).scaleb(-6)


def measure(name: str, least_calls: int, budgets: tuple[float, ...], patience: float) -> list[Row]:
    """Every budget of one workload, in this process; so many seeds that each row has `least_calls` or more."""
    work = WORKLOADS[name]
    seeds = -(-least_calls // work.calls)
    most = MOST_TOKENS[work.model]
    many = sorted(work.draw(random.Random(f"{name} {i}")) for i in range(20_000))
    declared = min(most, many[len(many) * 98 // 100])
    # Where the need does not fit, declared caps are refused rather than cut: nothing to compare with.
    rows = [(budget, kind) for kind in KINDS for budget in budgets if kind != "knowing" or budget > 1]
    runs: dict[tuple[float, str], list[Run]] = {row: [] for row in rows}
    unlimited = []
    warnings.simplefilter("ignore", CutAnswerWarning)
    with farebox.instrument():
        with _clean(work):
            _go(work, [1] * work.width, 0, None)  # what the SDK loads with its first calls is nobody's time
        for seed in range(seeds):
            rnd = random.Random(f"{name} {seed}")
            wants = [min(most, work.draw(rnd)) for _ in range(work.calls)]
            past = [min(most, work.draw(rnd)) for _ in range(WARM_CALLS)]
            with _clean(work):
                unlimited.append(_go(work, wants, work.scale, None).seconds)
            with _clean(work):
                _go(work, past, 0, Decimal(1_000_000))
                # The widest first: what a tight budget cuts is learnt from, too.
                for budget in sorted(budgets, reverse=True):
                    limit = _cost(wants) * Decimal(str(budget))
                    runs[budget, "warm"].append(_go(work, wants, work.scale, limit, None, patience))
            for budget in budgets:
                limit = _cost(wants) * Decimal(str(budget))
                with _clean(work):
                    runs[budget, "cold"].append(_go(work, wants, work.scale, limit, None, patience))
                if (budget, "knowing") in runs:
                    with _clean(work):
                        runs[budget, "knowing"].append(_go(work, wants, work.scale, limit, declared, patience))
    return [Row(budget, kind, found, unlimited) for (budget, kind), found in runs.items()]


def _clean(work: Workload) -> Any:
    """A process that has learnt nothing yet."""
    prices = f'{{"{work.model}": {{"input_per_million": {PRICE[0]}, "output_per_million": {PRICE[1]}}}}}'
    return farebox.configure(ledger="memory://", prices=prices)


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────

HEADS: Final = ("workload", "budget", "used", "done", "refused", "cut", "time", "most at once", "longest wait, s")


def lines(name: str, rows: list[Row]) -> Iterator[str]:
    """A line of Markdown for each budget: cold, warm, knowing; what misses an aim is bold."""
    for budget in sorted({row.budget for row in rows}):
        same = sorted((row for row in rows if row.budget == budget), key=lambda row: KINDS.index(row.kind))
        cells = [
            (
                f"{row.mean('used'):.0%}",
                f"{row.mean('done'):.1f}".removesuffix(".0"),
                _bold(f"{row.mean('refused'):.1f}".removesuffix(".0"), "refuses" in row.misses()),
                _bold(f"{row.cut:.1%}", "cuts" in row.misses()),
                _bold(f"{row.slower:.1f}", "slow" in row.misses()),
                f"{row.mean('peak'):.0f}",
                f"{row.mean('longest_wait'):.0f}" if WORKLOADS[name].width > 1 else "–",
            )
            for row in same
        ]
        yield f"| {name} | {budget:g} × | {' | '.join(' · '.join(column) for column in zip(*cells, strict=True))} |"


def _bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold else text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="four workloads, one seed: half a minute")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument("--calls", type=int, default=100, help="at least so many calls in each row (default 100)")
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS, help="as multiples of the need")
    parser.add_argument("--patience", type=float, default=PATIENCE_SECONDS, help="of each call, in model seconds")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only workloads with one of these in their name")
    chosen = parser.parse_args()
    names = [name for name in WORKLOADS if not chosen.quick or name in QUICK]
    if chosen.only:
        names = [name for name in names if any(word in name for word in chosen.only)]
    least_calls = 1 if chosen.quick else chosen.calls

    table = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    print("\n".join(table), flush=True)
    misses, start = [], time.monotonic()
    with ProcessPoolExecutor(AT_ONCE, mp_context=get_context("spawn")) as pool:
        jobs = {name: pool.submit(measure, name, least_calls, tuple(chosen.budgets), chosen.patience) for name in names}
        for name, job in jobs.items():
            rows = job.result()
            for line in lines(name, rows):
                print(line, flush=True)
                table.append(line)
            misses += [
                f"{name}, {row.budget:g} ×, {row.kind}: {', '.join(found)}"
                for row in rows
                if (found := [*row.misses()])
            ]
    print(f"\n{time.monotonic() - start:.0f} s; {len(misses)} rows miss an aim", *misses, sep="\n", file=sys.stderr)
    if chosen.write:
        with_what = f"openai {openai.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores"
        table = [f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC with {with_what}.", "", *table]
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        PAGE.write_text("\n".join((before + BEGIN, "", *table, "", END + rest.split(END)[1])), encoding="utf-8")


if __name__ == "__main__":
    main()
