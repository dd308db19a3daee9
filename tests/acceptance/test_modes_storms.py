"""Every row of the mode table under fifty threads and fifty tasks, two deep: the promise is sampled all the while."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, report
from farebox.errors import ScopeEnded
from farebox.testing import FakeProvider
from tests.acceptance.rides import Ride, bound_of, farebox_usd, nothing_is_left, stormproof
from tests.acceptance.test_modes import BELOW, DEAR, MODES, PRICES, STOPPING, ask, ask_async, models, on

pytestmark = pytest.mark.usefixtures("metered")

CROWD = 50


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(prices=PRICES) as provider:
        provider.chunks(4)
        yield provider


@contextlib.contextmanager
def promised(*frames: Any) -> Iterator[None]:
    """Sample `spent + reserved <= limit + debt` of every frame while the storm lasts."""
    over, faults = threading.Event(), []

    def look() -> None:
        for frame in frames:
            now = frame.balance  # one instant
            limit = frame.budget.limit_usd_nanos
            if now.spent_usd_nanos + now.reserved_usd_nanos > limit + now.debt_usd_nanos:
                faults.append((frame.path, now))

    def watch() -> None:
        while not over.wait(0.001):
            look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    look()
    assert not faults, faults[:3]


def surface_of(number: int) -> str:
    return "stream" if number % 2 else "call"


def by_threads(ride: Ride, provider: Any, words: Any) -> None:
    with ride.client(provider) as client, ThreadPoolExecutor(CROWD) as pool:
        asked = [pool.submit(ask, ride, client, surface_of(number), **words) for number in range(CROWD)]
        for one in asked:
            with contextlib.suppress(BudgetExceeded):
                one.result()


def by_tasks(ride: Ride, provider: Any, words: Any) -> None:
    async def main() -> None:
        async with ride.async_client(provider) as client:

            async def one(number: int) -> None:
                with contextlib.suppress(BudgetExceeded):
                    await ask_async(ride, client, surface_of(number), **words)

            async with asyncio.TaskGroup() as crowd:
                for number in range(CROWD):
                    crowd.create_task(one(number))

    asyncio.run(main())


@pytest.mark.parametrize("crowd", [by_threads, by_tasks])
@pytest.mark.parametrize("place", ["inner", "outer"])
@pytest.mark.parametrize("mode", MODES)
def test_a_crowd_of_fifty_two_deep(ride: Ride, provider: Any, mode: str, place: str, crowd: Any) -> None:
    dear = DEAR[ride.name]
    bound = bound_of(dear).usd_nanos
    scopes = {
        "outer": budget("outer", usd=farebox_usd(bound * (9 if place == "inner" else 4))),
        "inner": budget("inner", usd=farebox_usd(bound * (9 if place == "outer" else 4))),
    }
    scopes[place] = budget(mode, usd=farebox_usd(bound * 4), on_exceed=on(mode))
    ended = False
    with warnings.catch_warnings(), stormproof(provider):
        warnings.simplefilter("ignore")
        frames: list[Any] = []
        watch = contextlib.ExitStack()
        with watch, scopes["outer"] as outside:
            frames.append(outside)
            with scopes["inner"] as inside:
                frames.append(inside)
                watch.enter_context(promised(outside, inside))
                try:
                    crowd(ride, provider, {"model": dear.model})
                except BaseException as error:
                    ended = isinstance(error, (ScopeEnded, BaseExceptionGroup))
                    raise
        provider.wait_until_idle()
    outside, inside = frames
    short = inside if place == "inner" else outside
    assert ended == (mode == "truncate")
    billed, total = provider.bill, report().total
    assert outside.spent_usd == inside.spent_usd == total.usd >= billed.usd
    if not ended:  # tasks that were cancelled with it are presumed to have been billed
        assert total.usd == billed.usd
        assert total.calls + total.refused_calls == CROWD
        assert len(provider.requests) == outside.spent_calls == total.calls
    for frame in (outside, inside):
        assert frame.reserved_usd == 0
        if frame is not short or mode in STOPPING:
            assert frame.debt_usd == 0
            assert frame.spent_usd <= frame.limit_usd
    if mode in ("block", "wait", "break", "truncate"):
        assert set(models(provider)) == {dear.model}
        assert len(provider.requests) >= 4
    if mode == "downgrade":
        assert set(models(provider)) <= {dear.model, *BELOW[ride.name]}
        assert BELOW[ride.name][-1] in models(provider)
    if mode == "warn":  # the other one is a gate all the same
        assert (len(provider.requests) >= 9, total.refused_calls > 0) == (True, True)
    nothing_is_left()


def test_both_sdks_and_all_modes_in_one_crowd(provider: Any, open_client: Any) -> None:
    # Each worker has a mode of its own inside one budget that all of them share.
    from tests.acceptance.rides import RIDES

    clients = [(ride, open_client(ride)) for ride in RIDES]
    limit = farebox_usd(sum(bound_of(DEAR[ride.name]).usd_nanos for ride in RIDES) * 4)
    ended: list[Any] = []

    def work(number: int) -> None:
        ride, client = clients[number % 2]
        mode = MODES[number % len(MODES)]
        dear = DEAR[ride.name]
        usd = farebox_usd(bound_of(dear).usd_nanos * 5 // 4)
        with budget(mode, usd=usd, on_exceed=on(mode), at={0.5: lambda _: None}) as own:
            ended.append(own)
            for _ in range(3):
                with contextlib.suppress(BudgetExceeded):
                    ask(ride, client, surface_of(number), model=dear.model)
        if mode in STOPPING:
            assert own.spent_usd <= usd

    with warnings.catch_warnings(), stormproof(provider, limit), budget("shared", usd=limit) as shared:
        warnings.simplefilter("ignore")
        with promised(shared), ThreadPoolExecutor(25) as pool:
            for one in [pool.submit(work, number) for number in range(45)]:
                one.result()
    assert shared.spent_usd == provider.bill.usd == sum(own.spent_usd for own in ended) <= limit
    assert shared.debt_usd == 0
    assert {row.provider for row in farebox.report(by="provider")} == {"openai", "anthropic"}
