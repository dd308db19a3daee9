"""asyncio is not the only event loop that SDKs run on: the promise on uvloop and on trio, where those are installed."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

import farebox
from farebox import BudgetExceeded, budget, configure
from farebox.testing import FixedClock
from tests.acceptance.rides import (
    Ride,
    bound_of,
    farebox_usd,
    is_charged_by_what_came,
    nothing_is_left,
    only_record,
    outcomes,
    spent_at_least_the_bill,
    stormproof,
)
from tests.acceptance.test_retries import ERRORS
from tests.acceptance.test_stream_endings import long

pytestmark = [
    pytest.mark.usefixtures("metered"),
    # trio says so of each generator of an SDK's that nobody has closed.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

#: `run(main)`, on one of the loops.
Run = Callable[[Callable[[], Awaitable[Any]]], Any]

LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.fixture
def run(loop: str) -> Run:
    return lambda main: anyio.run(main, **LOOPS[loop])


async def until(question: Callable[[], bool]) -> None:
    """Look until `question()` is true; for what has no event to wait for."""
    for _ in range(10_000):
        if question():
            return
        await anyio.sleep(0.001)
    raise AssertionError


# ── calls and streams ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_call_that_fits_simply_works(ride: Ride, provider: Any, run: Run) -> None:
    async def main() -> None:
        async with ride.async_client(provider) as client:
            await ride.ask(client)
            async for _ in await ride.stream(client):
                pass

    with stormproof(provider), budget(usd=1) as paid:
        run(main)
    assert outcomes() == ["completed"] * 2
    assert paid.spent_usd == provider.bill.usd


def test_a_call_that_does_not_fit_is_not_sent(ride: Ride, provider: Any, run: Run) -> None:
    async def main() -> None:
        async with ride.async_client(provider) as client:
            await ride.ask(client)

    with budget(usd="0.000001"), pytest.raises(BudgetExceeded) as refusal:
        run(main)
    assert refusal.value.kind == "oversized"
    assert not provider.requests


@pytest.mark.parametrize(
    "how", ["closed", "with", "cancelled while reading", "cancelled before its headers", "dropped"]
)
def test_a_stream_that_is_left_early_is_charged_once_and_not_below_its_bill(
    ride: Ride, provider: Any, run: Run, loop: str, how: str
) -> None:
    long(provider)

    async def leave(client: Any) -> None:
        if how == "cancelled before its headers":
            provider.hang()
            with anyio.move_on_after(0.1):
                await ride.stream(client, max_tokens=1_000)
            return
        if how == "cancelled while reading":
            provider.hold(after_chunks=3)
        stream = await ride.stream(client, max_tokens=1_000)
        chunks = aiter(stream)
        if how == "with":
            async with stream:
                for _ in range(5):
                    await anext(chunks)
            return
        for _ in range(3 if how.startswith("cancelled") else 5):
            await anext(chunks)
        if how.startswith("cancelled"):
            with anyio.move_on_after(0.1):
                async for _ in chunks:
                    pass
        if how == "closed":
            await stream.close()

    async def main() -> None:
        async with ride.async_client(provider) as client:
            await leave(client)
        await anyio.sleep(0.01)

    with budget(usd=1) as paid:
        run(main)
        provider.release()
        provider.wait_until_idle()
        spent_at_least_the_bill(provider)
    assert paid.spent_usd == only_record().usd
    # Only under asyncio can it be said what had arrived.
    assert is_charged_by_what_came(only_record()) == (how in ("closed", "with") and loop != "trio")
    nothing_is_left()


def test_attempts_that_die_are_held_and_charged(ride: Ride, provider: Any, run: Run) -> None:
    provider.drop("billing", times=3)

    async def main() -> None:
        async with ride.async_client(provider, max_retries=2) as client:
            await ride.ask(client)

    limit = bound_of(ride).usd(2)
    with stormproof(provider, limit), budget(usd=limit), pytest.raises(BudgetExceeded):
        run(main)
    assert provider.bill.calls == only_record().attempts == 2


# ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["memory", "sqlite", "redis"])
def tight(request: pytest.FixtureRequest, tmp_path: Path, ride: Ride) -> Iterator[Any]:
    """A standing budget with room for two calls at a time, and for twenty short ones."""
    if request.param == "memory":
        url = "memory://"
    elif request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'ledger.db'}"
    else:
        from tests.acceptance.programs.stores import namespace
        from tests.servers import redis_url

        with redis_url(tmp_path) as server:
            yield from use(f"{server}?namespace={namespace()}&timeout=5", ride)
        return
    yield from use(url, ride)


def use(url: str, ride: Ride) -> Iterator[Any]:
    org = budget("org", usd=farebox_usd(bound_of(ride).usd_nanos * 5 // 2), per="day")
    with configure(ledger=url, budgets=[org]):
        yield


@pytest.mark.usefixtures("tight")
def test_calls_that_fit_once_others_have_settled_wait_for_them(ride: Ride, provider: Any, run: Run) -> None:
    provider.answer(output_tokens=1)
    provider.hold()
    beats = 0

    async def main() -> None:
        nonlocal beats
        async with ride.async_client(provider) as client, anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(lambda: ride.ask(client))
            await until(lambda: provider.in_flight == 2)
            for _ in range(20):
                beats += 1
                await anyio.sleep(0.005)
            assert provider.in_flight == 2
            provider.release()

    run(main)
    assert beats
    assert outcomes() == ["completed"] * 6
    assert provider.bill.calls == 6


@pytest.mark.usefixtures("tight")
def test_who_is_cancelled_in_line_leaves_nothing_behind(ride: Ride, provider: Any, run: Run) -> None:
    provider.hold()

    async def main() -> None:
        async with ride.async_client(provider) as client, anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(lambda: ride.ask(client))
            await until(lambda: provider.in_flight == 2)
            with anyio.move_on_after(0.1) as waiting:
                await ride.ask(client)
            assert waiting.cancelled_caught
            provider.release()

    run(main)
    farebox.flush()
    assert provider.bill.calls == 2
    total = farebox.report().total
    assert total.reserved_usd == 0
    assert sorted(outcomes()) == ["completed", "completed", "refused"]


def test_what_its_own_task_holds_is_not_waited_for(ride: Ride, provider: Any, run: Run) -> None:
    long(provider)

    async def main() -> None:
        async with ride.async_client(provider) as client, await ride.stream(client) as stream:
            await anext(aiter(stream))
            await ride.ask(client)

    began = time.monotonic()
    limit = farebox_usd(bound_of(ride, is_stream=True).usd_nanos * 3 // 2)
    with budget(usd=limit), pytest.raises(BudgetExceeded) as refusal:
        run(main)
    assert refusal.value.kind == "contended"
    assert time.monotonic() - began < 10  # its patience is thirty


def test_a_sync_call_in_a_task_does_not_make_the_loop_stand_still(
    ride: Ride, provider: Any, client: Any, run: Run
) -> None:
    provider.hold()

    async def main() -> None:
        async with ride.async_client(provider) as async_client, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: ride.ask(async_client))
            await until(lambda: provider.in_flight == 1)
            began = time.monotonic()
            with pytest.raises(BudgetExceeded) as refusal:
                ride.ask(client)
            assert refusal.value.kind == "contended"
            assert time.monotonic() - began < 0.5
            provider.release()

    with budget(usd=bound_of(ride).usd(1)):
        run(main)
    assert provider.bill.calls == 1


def test_a_call_waits_for_its_window_to_turn(ride: Ride, provider: Any, run: Run) -> None:
    clock = FixedClock(datetime(2026, 11, 22, 23, 59, 59, 900_000, tzinfo=UTC))
    provider.answer(output_tokens=1)

    async def main() -> None:
        async with ride.async_client(provider) as client:
            await ride.ask(client)
            with pytest.raises(BudgetExceeded):  # the clock stands still, and so does the window
                await ride.ask(client)
            clock.tick(1)
            await ride.ask(client)

    once = budget("once", calls=1, per="day", on_exceed="wait", timeout=1)
    with configure(ledger="memory://", clock=clock, budgets=[once]):
        run(main)
    assert provider.bill.calls == 2


def test_a_connection_that_is_refused_is_not_charged(ride: Ride, provider: Any, run: Run) -> None:
    async def main() -> None:
        async with ride.async_client(provider, max_retries=1, base_url="http://127.0.0.1:1") as client:
            await ride.ask(client)

    with budget(usd=1) as paid, pytest.raises(ERRORS):
        run(main)
    assert paid.spent_usd == 0
    assert outcomes() == ["failed"]
