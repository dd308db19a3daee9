"""Many processes on one budget, and processes that end in every way there is.

What another process sees after one has ended, once it has looked for the dead (`expire`, which each ledger does every few
seconds).  Never less than the bill:

    how a process ends                          calls that were answered        calls in flight
    ─────────────────────────────────────────   ─────────────────────────────   ────────────────────────────
    end of main, sys.exit, unhandled exception  exact                           charged at their bound
    end of a multiprocessing child              exact                           charged at their bound
    SIGTERM with a handler that ends by exit    exact                           charged at their bound
    SIGTERM, SIGKILL, os._exit after flush()    exact                           charged at their bound
    SIGTERM, SIGKILL, os._exit                  the last 20 ms or so: bound     charged at their bound
    a stream open at shutdown                   exact                           charged at its bound, or exact

A call that is charged at its bound and has lost its end keeps a row, with `cost_source="estimated"`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, _config, track
from tests.acceptance.programs.stores import expire, nothing_is_held, promise_kept, standing_row, until
from tests.acceptance.rides import OPENAI, Ride, attempt, bound_of, farebox_usd

pytestmark = pytest.mark.usefixtures("metered")

ROOT = Path(__file__).parents[2]


# ── many processes ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.timeout(110)
def test_of_all_calls_of_many_processes_exactly_what_fits_is_sent(
    provider: Any, url: str, start: Any, use: Any
) -> None:
    processes, threads, calls, fit = 4, 8, 4, 40
    words = {"usd": "1", "calls": fit, "patience": 0}
    use(url, words)
    provider.answer(output_tokens=3)
    programs = [start("ask many", ledger=url, budgets=[words], threads=threads, calls=calls) for _ in range(processes)]
    for program in programs:
        assert program.hear() == {"ready": True}
    with promise_kept(provider, "org", 1, seconds=0.05):
        for program in programs:
            program.go()
        told = [program.hear() for program in programs]
        assert [program.end() for program in programs] == [0] * processes
    counts = {outcome for one in told for outcome in one["counts"]}
    assert counts <= {"sent", "BudgetExceeded exhausted", "BudgetExceeded contended"}
    assert sum(one["counts"].get("sent", 0) for one in told) == fit == len(provider.requests)
    assert standing_row("org", "usd").spent == provider.bill.usd == farebox.report().total.usd
    assert standing_row("org", "calls").spent == fit
    total = farebox.report().total
    assert (total.calls, total.refused_calls) == (fit, processes * threads * calls - fit)
    nothing_is_held()


@pytest.mark.storm
@pytest.mark.timeout(300)
def test_eight_processes_of_eight_threads_wait_for_each_other_until_the_money_is_gone(
    provider: Any, url: str, start: Any, use: Any
) -> None:
    bound = bound_of(OPENAI)
    words = {"usd": bound.usd(10)}
    use(url, words)
    provider.answer(output_tokens=60)
    programs = [start("ask many", ledger=url, budgets=[words], threads=8, calls=8) for _ in range(8)]
    for program in programs:
        program.hear()
    with promise_kept(provider, "org", bound.usd(10), seconds=0.05):
        for program in programs:
            program.go()
        told = [program.hear() for program in programs]
        assert [program.end() for program in programs] == [0] * 8
    cost = provider.bill.lines[0].usd_nanos
    assert len(provider.requests) == (bound.usd_nanos * 9) // cost + 1
    assert {outcome for one in told for outcome in one["counts"]} == {"sent", "BudgetExceeded exhausted"}
    nothing_is_held()


@pytest.mark.timeout(60)
def test_forked_workers_share_the_ledger_that_was_opened_before(provider: Any, url: str, start: Any, use: Any) -> None:
    words = {"usd": "1", "calls": 20, "patience": 0}
    use(url, words)
    provider.answer(output_tokens=3)
    with promise_kept(provider, "org", 1, seconds=0.05):
        program = start("prefork", ledger=url, budgets=[words], processes=4, threads=4, calls=3)
        told = [program.hear() for _ in range(5)]
        assert program.end() == 0
    assert told.pop() == {"codes": [0, 0, 0, 0]}
    assert 1 + sum(one["counts"].get("sent", 0) for one in told) == 20 == len(provider.requests)
    assert {outcome for one in told for outcome in one["counts"]} <= {
        "sent",
        "BudgetExceeded exhausted",
        "BudgetExceeded contended",
    }
    assert standing_row("org", "usd").spent == provider.bill.usd == farebox.report().total.usd
    nothing_is_held()


def test_a_stream_that_a_forked_child_inherits_is_the_parents(provider: Any, url: str, start: Any, use: Any) -> None:
    use(url, {"usd": "1"})
    program = start("fork with a stream open", ledger=url, budgets=[{"usd": "1"}])
    assert program.hear() == {"done": 1}
    assert program.end() == 0
    assert standing_row("org", "usd").spent == provider.bill.usd
    assert farebox.report().total.calls == 1
    nothing_is_held()


# ── ways to end ──────────────────────────────────────────────────────────────────────────────────────────────────

EXACT = [
    "end of main",
    "sys.exit",
    "unhandled exception",
    "os._exit after flush",
    "kill -9 after flush",
    "SIGTERM after flush",
]
HARD = ["os._exit", "kill -9", "SIGTERM"]


@pytest.mark.parametrize("way", EXACT)
def test_what_was_answered_is_exact(provider: Any, url: str, start: Any, use: Any, way: str) -> None:
    use(url, {"usd": "1"})
    program = start(way, ledger=url, budgets=[{"usd": "1"}])
    program.hear()
    program.end()
    assert provider.bill.calls == 3
    assert standing_row("org", "usd").spent == provider.bill.usd == farebox.report().total.usd
    nothing_is_held()


@pytest.mark.parametrize("way", HARD)
def test_what_was_answered_and_not_written_is_charged_at_its_bound(
    provider: Any, url: str, start: Any, use: Any, way: str
) -> None:
    use(url, {"usd": "1"})
    program = start(way, ledger=url, budgets=[{"usd": "1"}])
    program.hear()
    program.end()
    row = standing_row("org", "usd")
    assert row.spent + row.reserved >= provider.bill.usd
    expire()
    row = standing_row("org", "usd")
    assert provider.bill.usd <= row.spent <= farebox_usd(3 * bound_of(OPENAI).usd_nanos)
    assert farebox.report().total.calls == 3
    assert farebox.report().total.usd == row.spent
    nothing_is_held()


@pytest.mark.parametrize(
    "way", ["daemon thread in a call", "kill -9 in a call", "SIGTERM in a call", "os._exit in a call"]
)
def test_a_call_in_flight_is_charged_at_its_bound(provider: Any, url: str, start: Any, use: Any, way: str) -> None:
    use(url, {"usd": "1"})
    provider.hold()
    program = start(way, ledger=url, budgets=[{"usd": "1"}])
    program.hear()
    provider.wait_until_in_flight(1)
    assert standing_row("org", "usd").reserved == farebox_usd(bound_of(OPENAI).usd_nanos)
    program.go()
    program.end()
    row = standing_row("org", "usd")
    assert row.spent + row.reserved == farebox_usd(bound_of(OPENAI).usd_nanos)
    expire()
    row = standing_row("org", "usd")
    assert (row.spent, row.reserved) == (farebox_usd(bound_of(OPENAI).usd_nanos), 0)
    (record,) = farebox.calls()
    assert record.cost_source == "estimated"
    provider.release()


@pytest.mark.parametrize("way", ["stream open at shutdown", "kill -9 in a stream"])
def test_an_open_stream_is_never_counted_below_its_bill(
    provider: Any, url: str, start: Any, use: Any, way: str
) -> None:
    use(url, {"usd": "1"})
    provider.answer(output_tokens=60)
    provider.pace(0.01)
    program = start(way, ledger=url, budgets=[{"usd": "1"}])
    program.hear()
    program.go()
    program.end()
    provider.wait_until_idle()
    row = standing_row("org", "usd")
    assert row.spent + row.reserved >= provider.bill.usd
    expire()
    row = standing_row("org", "usd")
    assert row.reserved == 0
    assert provider.bill.usd <= row.spent <= farebox_usd(bound_of(OPENAI, is_stream=True).usd_nanos)
    assert farebox.report().total.calls == 1


@pytest.mark.parametrize("way", ["child fork", "child spawn"])
def test_a_child_of_multiprocessing_writes_what_it_has_when_it_ends(
    provider: Any, url: str, start: Any, use: Any, way: str
) -> None:
    use(url, {"usd": "1"})
    program = start(way, ledger=url, budgets=[{"usd": "1"}])
    assert program.hear() == {"done": 5}
    assert program.end() == 0
    assert provider.bill.calls == 5
    assert standing_row("org", "usd").spent == provider.bill.usd == farebox.report().total.usd
    nothing_is_held()


def test_a_handler_of_sigterm_may_flush(provider: Any, url: str, start: Any, use: Any) -> None:
    use(url, {"usd": "1"})
    provider.answer(output_tokens=1)
    programs = [start("SIGTERM with a handler", ledger=url, budgets=[{"usd": "1"}]) for _ in range(3)]
    for number, program in enumerate(programs):
        program.hear()
        time.sleep(0.05 + 0.03 * number)
        os.kill(program.pid, signal.SIGTERM)
        assert program.end() == 0
    provider.wait_until_idle()
    row = standing_row("org", "usd")
    assert row.spent + row.reserved >= provider.bill.usd
    expire()
    assert standing_row("org", "usd").spent >= provider.bill.usd


@pytest.mark.parametrize("way", ["call at exit", "threads outlive main"])
def test_a_program_may_call_while_it_ends(provider: Any, url: str, start: Any, use: Any, way: str) -> None:
    # A rung is reached by the first of them: somebody has to be asked whether it was told.
    use(url, {"calls": 5})
    program = start(way, ledger=url, budgets=[{"calls": 5, "at": {"0.4": "warn"}}])
    assert program.hear() == {"answered": True}
    assert program.end() == 0
    assert standing_row("org", "calls").spent == len(provider.requests) > 0
    nothing_is_held()


# ── contention, and what people say ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.timeout(60)
def test_a_call_waits_for_one_of_another_process(
    provider: Any, url: str, start: Any, use: Any, open_client: Any
) -> None:
    client = open_client(OPENAI)
    words = {"usd": str(farebox_usd(bound_of(OPENAI).usd_nanos * 3 // 2))}
    use(url, words)
    provider.answer(output_tokens=2)
    provider.hold()
    program = start("ask many", ledger=url, budgets=[words], threads=1, calls=1)
    program.hear()
    program.go()
    provider.wait_until_in_flight(1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(attempt, lambda: OPENAI.ask(client))
        until(lambda: _config.state().ledger._line.tickets)  # type: ignore[attr-defined]
        time.sleep(0.2)
        assert not waiting.done()
        provider.release()
        answer = waiting.result(timeout=20)
    assert not isinstance(answer, Exception), answer
    program.end()
    assert len(provider.requests) == 2
    nothing_is_held()


def test_what_this_very_thread_holds_is_not_waited_for(
    ride: Ride, provider: Any, url: str, use: Any, client: Any
) -> None:
    use(url, {"usd": str(farebox_usd(bound_of(ride, is_stream=True).usd_nanos * 3 // 2))})
    stream = ride.stream(client)
    began = time.monotonic()
    error = attempt(lambda: ride.ask(client))
    assert isinstance(error, BudgetExceeded)
    assert error.kind == "contended"
    assert time.monotonic() - began < 10  # and not thirty
    assert list(stream)
    nothing_is_held()


def test_who_came_first_is_served_first(provider: Any, url: str, use: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    use(url, {"usd": str(farebox_usd(bound_of(OPENAI).usd_nanos * 3 // 2))})
    provider.answer(output_tokens=1)
    provider.hold()
    line = _config.state().ledger._line  # type: ignore[attr-defined]

    def ask(number: int) -> None:
        with track(number=number):
            OPENAI.ask(client)

    with ThreadPoolExecutor(7) as pool:
        pool.submit(ask, 0)
        provider.wait_until_in_flight(1)
        calls = []
        for number in range(1, 6):
            calls.append(pool.submit(ask, number))
            until(lambda number=number: len(line.tickets) == number)
        provider.release()
        for call in calls:
            call.result(timeout=20)
    served = [int(record.tags["number"]) for record in sorted(farebox.calls(), key=lambda record: record.started_at)]
    order = [record.tags["number"] for record in farebox.calls()]  # in the order they ended: one at a time
    assert served == list(range(6))
    assert order == [str(number) for number in range(6)]
    nothing_is_held()


def test_what_another_process_says_holds_for_the_next_call_here(
    provider: Any, url: str, use: Any, open_client: Any
) -> None:
    ride, client = OPENAI, open_client(OPENAI)
    use(url, {"calls": 5, "each": "tenant"})

    def said_elsewhere(line: str) -> None:
        code = f"import farebox; farebox.configure(ledger={url!r}); {line}"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "FAREBOX_CONFIG": ""})

    with track(tenant="acme"):
        ride.ask(client)
        assert farebox.flush(5)
        said_elsewhere("farebox.set_limit('org', calls=1, tenant='acme')")
        with pytest.raises(BudgetExceeded, match="1 call per day"):
            ride.ask(client)
        said_elsewhere("farebox.top_up('org', calls=1, tenant='acme')")
        stream = ride.stream(client)
        said_elsewhere("farebox.kill('org', tenant='acme')")
        assert list(stream)  # it goes on
        with pytest.raises(BudgetExceeded, match="was killed"):
            ride.ask(client)
        assert farebox.flush(5)
        said_elsewhere("farebox.unkill('org', tenant='acme'); farebox.reset('org', tenant='acme')")
        ride.ask(client)
    assert len(provider.requests) == 3
    nothing_is_held()


@pytest.mark.timeout(60)
def test_a_rung_is_told_once_by_all_processes_together(provider: Any, url: str, start: Any, use: Any) -> None:
    # Each says so by a warning of its own where its mode speaks; the mark in the ledger is one.
    words = {"calls": 100}
    use(url, words)
    told = [start("tell rungs", ledger=url, budgets=[words], threads=2, calls=5) for _ in range(3)]
    heard = [program.hear() for program in told]
    for program in told:
        program.go()
    heard = [program.hear()["told"] for program in told]
    assert [program.end() for program in told] == [0, 0, 0]
    assert sum(heard) == 1
    assert standing_row("org", "calls").spent == 30


def test_raise_lets_one_call_cross_also_where_two_processes_share_the_budget(
    provider: Any, url: str, start: Any, use: Any, open_client: Any
) -> None:
    client = open_client(OPENAI)
    words = {"usd": str(farebox_usd(bound_of(OPENAI).usd_nanos // 2)), "on_exceed": "raise"}
    use(url, words)
    provider.answer(output_tokens=1_000)
    provider.hold()
    program = start("ask many", ledger=url, budgets=[words], threads=1, calls=1)
    program.hear()
    program.go()
    provider.wait_until_in_flight(1)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(attempt, lambda: OPENAI.ask(client))
        until(lambda: _config.state().ledger._line.tickets)  # type: ignore[attr-defined]
        time.sleep(0.2)
        assert not second.done()
        provider.release()
        error = second.result(timeout=40)
    assert isinstance(error, BudgetExceeded)
    assert (error.kind, error.response) == ("exhausted", None)
    assert program.hear()["counts"] == {"crossed": 1}
    program.end()
    assert len(provider.requests) == 1
    nothing_is_held()


@pytest.mark.parametrize("way", ["kill -9 in a call", "refused"])
def test_a_crossing_call_whose_process_dies_has_crossed_and_one_that_failed_has_not(
    provider: Any, url: str, start: Any, use: Any, open_client: Any, way: str
) -> None:
    client = open_client(OPENAI)
    words = {"usd": str(farebox_usd(bound_of(OPENAI).usd_nanos // 2)), "on_exceed": "raise"}
    use(url, words)
    provider.answer(output_tokens=1_000)
    if way == "refused":
        provider.fail(status=400)
        program = start("ask many", ledger=url, budgets=[words], threads=1, calls=1)
        program.hear()
        program.go()
        program.hear()
    else:
        provider.hold()
        program = start(way, ledger=url, budgets=[words])
        program.hear()
        provider.wait_until_in_flight(1)
        program.go()
    program.end()
    provider.release()
    expire()
    error = attempt(lambda: OPENAI.ask(client))
    assert isinstance(error, BudgetExceeded)
    assert (error.response is not None) == (way == "refused")
    assert standing_row("org", "usd").debt > 0
    nothing_is_held()


@pytest.mark.timeout(110)
def test_of_all_calls_of_many_processes_one_passes_the_limit(provider: Any, url: str, start: Any, use: Any) -> None:
    limit = bound_of(OPENAI).usd_nanos * 9 // 2
    words = {"usd": str(farebox_usd(limit)), "on_exceed": "raise"}
    use(url, words)
    provider.answer(output_tokens=1_000)
    programs = [start("ask many", ledger=url, budgets=[words], threads=4, calls=4) for _ in range(3)]
    for program in programs:
        program.hear()
    for program in programs:
        program.go()
    told = [program.hear()["counts"] for program in programs]
    assert [program.end() for program in programs] == [0] * 3
    # As long as something is left one more is sent, and no two of those that do not fit.
    cost = provider.bill.lines[0].usd_nanos
    assert len(provider.requests) == -(-limit // cost)
    assert {outcome for one in told for outcome in one} <= {"sent", "crossed", "BudgetExceeded exhausted"}
    assert sum(one.get("crossed", 0) for one in told) <= 1  # each goes by what its process has seen
    assert standing_row("org", "usd").spent == provider.bill.usd
    nothing_is_held()
