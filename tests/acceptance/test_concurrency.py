"""A budget for ten calls admits ten, however many ask at once and in whatever way they ask."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import farebox
from farebox import BudgetExceeded, budget, report, track
from farebox.testing import FakeProvider
from tests.acceptance.rides import (
    ALL_RIDES,
    GOOGLE,
    OPENAI,
    RIDES,
    WITH_GOOGLE,
    Ride,
    attempt,
    bound_of,
    farebox_usd,
    outcomes,
    stormproof,
)

CROWD = 50
ADMITTED = 10

pytestmark = pytest.mark.usefixtures("metered")


def by_threads(ride: Ride, provider: Any, done: queue.SimpleQueue[Any], let_go: Callable[[], None]) -> None:
    start = threading.Barrier(CROWD)
    with ride.client(provider) as client:

        def rush() -> None:
            start.wait()
            done.put(attempt(lambda: ride.ask(client)))

        threads = [threading.Thread(target=rush) for _ in range(CROWD)]
        for thread in threads:
            thread.start()
        let_go()
        for thread in threads:
            thread.join()


def by_pool(ride: Ride, provider: Any, done: queue.SimpleQueue[Any], let_go: Callable[[], None]) -> None:
    start = threading.Barrier(CROWD)
    with ride.client(provider) as client, ThreadPoolExecutor(CROWD) as pool:

        def rush() -> None:
            start.wait()
            done.put(attempt(lambda: ride.ask(client)))

        for _ in range(CROWD):
            pool.submit(rush)
        let_go()


def by_tasks(ride: Ride, provider: Any, done: queue.SimpleQueue[Any], let_go: Callable[[], None]) -> None:
    async def main() -> None:
        start = asyncio.Event()
        async with ride.async_client(provider) as client:

            async def rush() -> None:
                await start.wait()
                try:
                    done.put(await ride.ask(client))
                except BudgetExceeded as error:
                    done.put(error)

            async with asyncio.TaskGroup() as crowd:
                for _ in range(CROWD):
                    crowd.create_task(rush())
                start.set()
                await asyncio.to_thread(let_go)

    asyncio.run(main())


def by_to_thread(ride: Ride, provider: Any, done: queue.SimpleQueue[Any], let_go: Callable[[], None]) -> None:
    start = threading.Barrier(CROWD)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(CROWD + 1))
        with ride.client(provider) as client:

            def rush() -> None:
                start.wait()
                done.put(attempt(lambda: ride.ask(client)))

            await asyncio.gather(*(asyncio.to_thread(rush) for _ in range(CROWD)), asyncio.to_thread(let_go))

    asyncio.run(main())


WAYS = [by_threads, by_pool, by_tasks, by_to_thread]
#: Google's SDK is sent through by the same threads and tasks: two ways show it.
RUSHES = [(ride, way) for ride in RIDES for way in WAYS] + [
    pytest.param(GOOGLE, way, marks=WITH_GOOGLE) for way in (by_threads, by_tasks)
]


@pytest.mark.parametrize(("ride", "way"), RUSHES)
def test_of_fifty_at_once_exactly_ten_are_sent(ride: Ride, provider: Any, way: Any) -> None:
    bound = bound_of(ride)
    limit = bound.usd(ADMITTED)
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    refused: list[Any] = []
    provider.hold()

    def let_go() -> None:
        refused.extend(done.get(timeout=20) for _ in range(CROWD - ADMITTED))
        provider.wait_until_in_flight(ADMITTED)
        assert done.empty()
        provider.release()

    with budget("crowd", usd=limit, patience=0) as crowd, stormproof(provider, limit):
        way(ride, provider, done, let_go)
    assert [type(answer) for answer in refused] == [BudgetExceeded] * len(refused)
    assert {error.kind for error in refused} == {"contended"}
    assert len(provider.requests) == provider.bill.calls == ADMITTED == crowd.spent_calls
    assert sorted(outcomes()) == ["completed"] * ADMITTED + ["refused"] * (CROWD - ADMITTED)
    assert crowd.reserved_usd == 0
    assert crowd.debt_usd == 0


@pytest.mark.parametrize(("ride", "way"), RUSHES)
def test_who_waits_is_sent_for_as_long_as_the_money_lasts(ride: Ride, provider: Any, way: Any) -> None:
    # An exact law: calls of the same bound and cost run until spent + bound > limit.
    provider.answer(output_tokens=60)
    bound = bound_of(ride)
    limit = bound.usd(ADMITTED)
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with budget("crowd", usd=limit) as crowd, stormproof(provider, limit):
        way(ride, provider, done, lambda: None)
    cost = provider.bill.lines[0].usd_nanos
    fit = (bound.usd_nanos * ADMITTED - bound.usd_nanos) // cost + 1
    answers = [done.get() for _ in range(CROWD)]
    refused = [answer for answer in answers if isinstance(answer, BudgetExceeded)]
    assert len(provider.requests) == CROWD - len(refused) == fit > ADMITTED
    assert {error.kind for error in refused} == {"exhausted"}
    assert crowd.spent_usd == provider.bill.usd


@pytest.mark.parametrize("unit", ["tokens", "calls"])
def test_limits_in_tokens_and_in_calls_hold_as_well(ride: Ride, provider: Any, unit: str) -> None:
    bound = bound_of(ride)
    limit = {"tokens": ADMITTED * bound.tokens, "calls": ADMITTED}[unit]
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    refused: list[Any] = []
    provider.hold()

    def let_go() -> None:
        refused.extend(done.get(timeout=20) for _ in range(CROWD - ADMITTED))
        provider.release()

    with budget(patience=0, **{unit: limit}), stormproof(provider):
        by_threads(ride, provider, done, let_go)
    assert provider.bill.calls == ADMITTED
    assert {error.unit for error in refused} == {unit}
    if unit == "tokens":
        assert provider.bill.tokens <= limit


def test_ten_of_thirty_streams_are_opened(ride: Ride, provider: Any, client: Any) -> None:
    limit = bound_of(ride, is_stream=True).usd(ADMITTED)
    with stormproof(provider, limit), budget(usd=limit) as opened:
        streams, refused = [], []
        for _ in range(30):
            answer = attempt(lambda: ride.stream(client))
            (refused if isinstance(answer, BudgetExceeded) else streams).append(answer)
        assert len(streams) == ADMITTED == len(provider.requests)
        assert {error.kind for error in refused} == {"contended"}  # held by this very thread: nobody waits for it
        assert opened.reserved_usd > 0
        for stream in streams:
            assert list(stream)
    assert opened.spent_usd == provider.bill.usd


def test_ten_of_thirty_async_streams_are_opened_by_thirty_tasks(ride: Ride, provider: Any) -> None:
    limit = bound_of(ride, is_stream=True).usd(ADMITTED)

    async def main() -> None:
        async with ride.async_client(provider) as client:
            opened = await asyncio.gather(*(ride.stream(client) for _ in range(30)), return_exceptions=True)
            streams = [stream for stream in opened if not isinstance(stream, BaseException)]
            assert {type(stream) for stream in opened} - {type(streams[0])} == {BudgetExceeded}
            assert len(streams) == ADMITTED == len(provider.requests)
            for stream in streams:
                assert [chunk async for chunk in stream]

    with stormproof(provider, limit), budget(usd=limit, patience=0):
        asyncio.run(main())


def test_nested_budgets_are_all_held_or_none(ride: Ride, provider: Any, client: Any) -> None:
    bound = bound_of(ride)
    jobs, calls_each, fit = 5, 4, 3
    refused: queue.SimpleQueue[BudgetExceeded] = queue.SimpleQueue()
    provider.hold()

    def ask() -> None:
        answer = attempt(lambda: ride.ask(client))
        if isinstance(answer, BudgetExceeded):
            refused.put(answer)

    def job() -> None:
        with budget("inner", usd=bound.usd(2), patience=0) as inner, ThreadPoolExecutor(calls_each) as pool:
            for _ in range(calls_each):
                pool.submit(ask)
        assert inner.spent_calls <= 2
        assert inner.reserved_calls == 0

    with stormproof(provider, bound.usd(fit)), budget("outer", usd=bound.usd(fit), patience=0) as outer:
        threads = [threading.Thread(target=job) for _ in range(jobs)]
        for thread in threads:
            thread.start()
        names = {refused.get(timeout=20).budget for _ in range(jobs * calls_each - fit)}
        assert provider.in_flight == fit
        provider.release()
        for thread in threads:
            thread.join()
    assert "outer" in names
    assert outer.spent_calls == fit
    assert outer.spent_usd == provider.bill.usd == report().total.usd


LAYERS = {"a": 2, "b": 3, "c": 5}


@pytest.fixture(scope="module")
def standing() -> Iterator[tuple[FakeProvider, Any]]:
    with FakeProvider() as provider, OPENAI.client(provider) as client:
        yield provider, client


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(list(LAYERS)),
    tracks=st.lists(st.integers(0, 2), max_size=2),
    unit=st.sampled_from(["usd", "tokens", "calls"]),
)
def test_the_order_of_nesting_never_changes_who_pays(standing: Any, order: Any, tracks: Any, unit: str) -> None:
    provider, client = standing
    before = provider.bill.usd
    bound = bound_of(OPENAI)
    frames: dict[str, Any] = {}

    def nest(layers: list[str]) -> list[Any]:
        if not layers:
            return [attempt(lambda: OPENAI.ask(client, n=1)) for _ in range(4)]
        fit = LAYERS[layers[0]]
        # Two calls cost less than two bounds, so a limit of n bounds is one of n calls for sure only up to the first refusal.
        limit = {"usd": bound.usd(fit), "tokens": bound.tokens * fit, "calls": fit}[unit]
        with budget(layers[0], patience=0, **{unit: limit}) as frame:
            frames[layers[0]] = frame
            if len(layers) in tracks:
                with track(depth=len(layers)):
                    return nest(layers[1:])
            return nest(layers[1:])

    answers = nest(list(order))
    spent = {(frame.spent_usd, frame.spent_tokens, frame.spent_calls) for frame in frames.values()}
    assert len(spent) == 1
    assert spent.pop()[0] == provider.bill.usd - before
    refused = [answer for answer in answers if isinstance(answer, BudgetExceeded)]
    assert {error.budget for error in refused} == {"a"}
    assert all(not isinstance(answer, BudgetExceeded) for answer in answers[:2])


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])), ids=str)
def test_the_smallest_of_three_budgets_decides_in_any_order(order: Any, provider: Any, open_client: Any) -> None:
    client, bound = open_client(OPENAI), bound_of(OPENAI)
    provider.hold()
    one, two, three = (budget(f"of {fit}", usd=bound.usd(fit), patience=0) for fit in order)
    with stormproof(provider, bound.usd(1)), one, two, three, ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(attempt, lambda: OPENAI.ask(client)) for _ in range(5)]
        provider.wait_until_in_flight(1)
        while sum(call.done() for call in calls) < 4:
            threading.Event().wait(0.001)
        provider.release()
    errors = [call.result() for call in calls if isinstance(call.result(), BudgetExceeded)]
    assert [error.budget for error in errors] == ["of 1"] * 4
    assert provider.bill.calls == 1


def test_all_sdks_ride_on_one_budget(provider: Any, open_client: Any) -> None:
    bounds = [bound_of(ride) for ride in ALL_RIDES]
    limit = farebox_usd(5 * sum(bound.usd_nanos for bound in bounds))
    clients = [(ride, open_client(ride)) for ride in ALL_RIDES]
    with stormproof(provider, limit), budget(usd=limit) as shared, ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(attempt, lambda r=ride, c=client: r.ask(c)) for ride, client in clients * 15]
        kinds = {type(answer.result()).__name__ for answer in answers}
    assert kinds <= {"ChatCompletion", "Message", "GenerateContentResponse", "BudgetExceeded"}
    assert shared.spent_usd == provider.bill.usd == report(by="provider").total.usd
    assert {row.provider for row in farebox.report(by="provider")} == {one.provider_name for one in farebox.calls()}
    assert len(report(by="provider")) == len(ALL_RIDES)
