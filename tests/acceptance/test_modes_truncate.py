"""`truncate` ends its scope quietly, whatever stands between the call and the scope, and only that scope."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, carry, report, track
from farebox.errors import ScopeEnded
from farebox.testing import FakeProvider
from tests.acceptance.rides import OPENAI, Ride, bound_of, farebox_usd, nothing_is_left, outcomes, stormproof
from tests.acceptance.test_modes import TOO_LITTLE, WAYS, Way, how_many_fit, settled_as_billed, travel

pytestmark = pytest.mark.usefixtures("metered")


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        provider.chunks(4)
        yield provider


def ending(default: Any = None, usd: Any = TOO_LITTLE) -> budget:
    return budget("ends", usd=usd, on_exceed="truncate", default=default)


@pytest.mark.parametrize(
    ("way", "default"),
    [(way, default) for way in WAYS for default in ("so far", None) if default or way.surface == "call"],
    ids=str,
)
def test_a_function_returns_its_default_and_a_generator_just_ends(
    ride: Ride, provider: Any, way: Way, default: Any
) -> None:
    bound = bound_of(ride, is_stream=way.is_stream).usd_nanos
    limit = 2 * bound + bound // 2
    with stormproof(provider, farebox_usd(limit)):
        trip = travel(ride, provider, way, ending(default, farebox_usd(limit)), times=9)
    assert trip.error is None
    assert trip.result == (None if way.shape == "async_generator" else default)
    assert len(trip.answers) == how_many_fit(limit, bound, provider.bill.lines[0].usd_nanos) >= 2
    assert outcomes() == ["completed"] * len(trip.answers) + ["refused"]
    assert [event.did for event in trip.frame.decisions] == ["stop"]
    settled_as_billed(trip, provider)


def test_a_with_block_ends_as_under_contextlib_suppress(ride: Ride, provider: Any, client: Any) -> None:
    reached: list[str] = []
    with ending() as frame:
        reached.append("inside")
        ride.ask(client)
        reached.append("past the call")
    reached.append("after")
    assert reached == ["inside", "after"]
    assert farebox.current() is None
    assert [event.did for event in frame.decisions] == ["stop"]


def test_an_async_with_block_ends_as_well(ride: Ride, provider: Any) -> None:
    async def main() -> str:
        async with ride.async_client(provider) as client, ending():
            await ride.ask(client)
            return "past the call"
        return "after"

    assert asyncio.run(main()) == "after"
    assert not provider.requests


# ── what stands between ──────────────────────────────────────────────────────────────────────────────────────────


def swallowing(ask: Callable[[], Any]) -> Any:
    while True:  # a loop that never gives up
        try:
            ask()
        except Exception:
            continue


def suppressing(ask: Callable[[], Any]) -> Any:
    while True:
        with contextlib.suppress(Exception):
            ask()


def wrapping(ask: Callable[[], Any]) -> Any:
    try:
        ask()
    except Exception as error:
        raise RuntimeError("the model failed") from error
    return "past the call"


def in_a_pool(ask: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(4) as pool:
        return [future.result() for future in [pool.submit(ask) for _ in range(4)]]


def mapped_in_a_pool(ask: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda _: ask(), range(4)))


def in_inner_scopes(ask: Callable[[], Any]) -> Any:
    with track(feature="search"), budget("inner", usd=5), budget("quiet", usd=5, on_exceed="truncate", default="inner"):
        ask()
    return "past the inner scopes"


def in_a_generator(ask: Callable[[], Any]) -> Any:
    @budget("inner", usd=5)
    def steps() -> Any:
        yield 1
        yield ask()

    return list(steps())


def carried(ask: Callable[[], Any]) -> Any:
    run = carry(ask)
    with ThreadPoolExecutor(1) as pool, track(feature="elsewhere"):
        return pool.submit(run).result()


@pytest.mark.parametrize(
    "between",
    [swallowing, suppressing, wrapping, in_a_pool, mapped_in_a_pool, in_inner_scopes, in_a_generator, carried],
)
def test_nothing_on_the_way_keeps_the_program_inside(ride: Ride, provider: Any, client: Any, between: Any) -> None:
    @ending("quiet end")
    def program() -> Any:
        return between(lambda: ride.ask(client))

    assert program() == "quiet end"
    assert not provider.requests
    assert farebox.current() is None
    nothing_is_left()


async def awaited(ask: Callable[[], Any]) -> None:
    with contextlib.suppress(Exception):
        await ask()


async def gathered(ask: Callable[[], Any]) -> None:
    await asyncio.gather(*(ask() for _ in range(5)))


async def in_a_task_group(ask: Callable[[], Any]) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(ask())


async def in_nested_task_groups(ask: Callable[[], Any]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(in_a_task_group(ask))
        group.create_task(gathered(ask))


async def in_a_shielded_task(ask: Callable[[], Any]) -> None:
    await asyncio.shield(asyncio.ensure_future(ask()))


async def with_a_timeout(ask: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        await asyncio.wait_for(ask(), 5)


async def as_completed(ask: Callable[[], Any]) -> None:
    for answer in asyncio.as_completed([ask()]):
        await answer


@pytest.mark.parametrize(
    "between",
    [awaited, gathered, in_a_task_group, in_nested_task_groups, in_a_shielded_task, with_a_timeout, as_completed],
)
def test_nothing_on_the_way_keeps_a_task_inside(ride: Ride, provider: Any, between: Any) -> None:
    async def main() -> Any:
        async with ride.async_client(provider) as client:

            @ending("quiet end")
            async def program() -> str:
                await between(lambda: ride.ask(client))
                return "past the call"

            return await program()

    assert asyncio.run(main()) == "quiet end"
    assert not provider.requests
    nothing_is_left()


def test_a_loop_run_inside_the_scope_ends_with_it(ride: Ride, provider: Any) -> None:
    async def main() -> None:
        async with ride.async_client(provider) as client:
            await in_a_task_group(lambda: ride.ask(client))

    with ending():
        asyncio.run(main())
        pytest.fail("the scope went on")
    assert not provider.requests


def test_to_thread_ends_with_the_scope(ride: Ride, provider: Any, client: Any) -> None:
    @ending("quiet end")
    async def program() -> Any:
        return await asyncio.to_thread(ride.ask, client)

    assert asyncio.run(program()) == "quiet end"


def test_siblings_of_the_call_that_ended_the_scope_are_cancelled_and_hold_nothing(ride: Ride, provider: Any) -> None:
    provider.hang(times=1)
    limit = bound_of(ride).usd_nanos * 3 // 2

    @budget(usd=farebox_usd(limit), on_exceed="truncate", patience=0, default="quiet end")
    async def program(client: Any) -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(ride.ask(client))
            await asyncio.to_thread(provider.wait_until_in_flight, 1)
            group.create_task(ride.ask(client))
        return "past the group"

    async def main() -> str:
        async with ride.async_client(provider) as client:
            return await program(client)

    assert asyncio.run(main()) == "quiet end"
    assert sorted(outcomes()) == ["refused", "unknown"]
    total = report().total
    assert total.usd >= provider.bill.usd > 0
    nothing_is_left()


def test_other_errors_beside_the_quiet_end_are_raised(ride: Ride, provider: Any) -> None:
    async def fails() -> None:
        raise KeyError("the program's own")

    @ending("quiet end")
    async def program(client: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ride.ask(client))
            group.create_task(fails())

    async def main() -> None:
        async with ride.async_client(provider) as client:
            await program(client)

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    assert [type(error) for error in caught.value.exceptions] == [KeyError]
    assert farebox.current() is None


# ── which scope ends ─────────────────────────────────────────────────────────────────────────────────────────────


def test_only_the_scope_of_the_short_budget_ends(ride: Ride, provider: Any, client: Any) -> None:
    limit = bound_of(ride).usd(1)
    reached: list[str] = []
    with budget("outer", usd=1) as outer:
        for _ in range(3):
            with budget("inner", usd=limit, on_exceed="truncate"):
                ride.ask(client)
                reached.append("one")
                ride.ask(client)
                reached.append("two")
        reached.append("on")
    assert reached == ["one", "one", "one", "on"]
    assert outer.spent_usd == provider.bill.usd
    assert outer.spent_calls == 3


def test_recursion_ends_at_the_invocation_that_is_short(provider: Any, open_client: Any) -> None:
    client, limit = open_client(OPENAI), bound_of(OPENAI).usd(1)

    @budget(usd=limit, on_exceed="truncate", default="cut")
    def recurse(depth: int) -> Any:
        OPENAI.ask(client)
        return [recurse(depth - 1)] if depth else "leaf"

    # The outermost has nothing left for the call of the one inside it: it is the outermost that ends.
    assert recurse(2) == "cut"
    assert len(provider.requests) == 1


def test_a_scope_left_long_ago_refuses_instead(ride: Ride, provider: Any, client: Any) -> None:
    go, caught = threading.Event(), []

    def late() -> None:
        go.wait(5)
        try:
            ride.ask(client)
        except BudgetExceeded as error:
            caught.append(error)

    with ending():
        thread = threading.Thread(target=late)
        thread.start()
    go.set()
    thread.join()
    assert [error.budget for error in caught] == ["ends"]
    assert not provider.requests


def test_a_task_that_outlives_its_scope_is_refused(ride: Ride, provider: Any) -> None:
    async def main() -> Any:
        go = asyncio.Event()
        async with ride.async_client(provider) as client:

            async def late() -> None:
                await go.wait()
                await ride.ask(client)

            @ending()
            async def program() -> Any:
                return asyncio.create_task(late())

            task = await program()
            go.set()
            return (await asyncio.gather(task, return_exceptions=True))[0]

    assert isinstance(asyncio.run(main()), BudgetExceeded)


def test_a_generator_drained_after_the_outer_scope_has_ended_is_refused(ride: Ride, provider: Any, client: Any) -> None:
    @track(feature="late")
    def steps() -> Any:
        yield ride.ask(client)

    with ending():
        late = steps()
    with pytest.raises(BudgetExceeded):
        next(late)


def test_a_budget_of_a_client_has_no_scope_to_end_and_refuses(ride: Ride, provider: Any) -> None:
    with ride.client(provider) as client:
        farebox.instrument(client, budgets=[ending()])
        with pytest.raises(BudgetExceeded):
            ride.ask(client)
    assert not provider.requests


def test_a_generator_that_asks_while_it_is_closed_ends_quietly(ride: Ride, provider: Any, client: Any) -> None:
    @ending()
    def steps() -> Any:
        try:
            yield 1
        finally:
            ride.ask(client)

    walk = steps()
    next(walk)
    walk.close()
    assert farebox.current() is None


def test_an_async_generator_that_asks_while_it_is_closed_ends_quietly(ride: Ride, provider: Any) -> None:
    async def main() -> None:
        async with ride.async_client(provider) as client:

            @ending()
            async def steps() -> Any:
                try:
                    yield 1
                finally:
                    await ride.ask(client)

            walk = steps()
            await anext(walk)
            await walk.aclose()

    asyncio.run(main())


def test_a_thread_inside_the_scope_ends_there_and_says_so(
    ride: Ride, provider: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    with ending():
        thread = threading.Thread(target=ride.ask, args=(client,))
        thread.start()
        thread.join()
    assert [hook.exc_type for hook in shown] == [ScopeEnded]
    assert not provider.requests


def test_a_truncated_scope_may_be_entered_again(ride: Ride, provider: Any, client: Any) -> None:
    limit = bound_of(ride).usd(1)

    @budget(usd=limit, on_exceed="truncate", default="cut")
    def program() -> Any:
        ride.ask(client)
        return ride.ask(client)

    assert [program() for _ in range(3)] == ["cut"] * 3
    assert len(provider.requests) == 3


def test_a_truncated_stream_that_is_open_is_not_cut(ride: Ride, provider: Any, client: Any) -> None:
    # Only what starts is refused: what was paid for is read to its end.
    limit = bound_of(ride, is_stream=True).usd(1)
    with ending(usd=limit) as frame:
        stream = ride.stream(client)
        ride.ask(client)
    assert list(stream)
    assert frame.spent_usd == provider.bill.usd
    nothing_is_left()


def test_contended_calls_wait_before_a_scope_is_ended(ride: Ride, provider: Any, client: Any) -> None:
    provider.delay(0.1)
    provider.answer(output_tokens=10)
    limit = bound_of(ride).usd_nanos * 3 // 2
    began = time.monotonic()

    @budget(usd=farebox_usd(limit), on_exceed="truncate", default="cut")
    def program() -> Any:
        with ThreadPoolExecutor(2) as pool:
            return [future.result() for future in [pool.submit(ride.ask, client) for _ in range(2)]]

    assert program() != "cut"
    assert len(provider.requests) == 2
    assert time.monotonic() - began > 0.15
