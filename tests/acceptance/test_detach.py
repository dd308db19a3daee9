"""detach(): a long-lived worker leaves the scope that it was started in, and nobody else does."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import farebox
from farebox import (
    BudgetExceeded,
    budget,
    carry,
    configure,
    current,
    detach,
    instrument,
    report,
    tag,
    track,
    uninstrument,
)
from tests.acceptance.rides import OPENAI, Ride, attempt, bound_of, nothing_is_left, stormproof

pytestmark = pytest.mark.usefixtures("metered")


@pytest.fixture
def ask(ride: Ride, client: Any) -> Callable[[], Any]:
    return lambda: ride.ask(client)


def refused_by(answer: Any) -> str | None:
    """The budget that refused a call; None where it went through."""
    return answer.budget if isinstance(answer, BudgetExceeded) else None


def served(jobs: Iterator[Callable[[], Any]], starts_detached: bool) -> Any:
    """A worker that outlives the scope it is started in: answers jobs until there is no more."""
    if starts_detached:
        detach()
    for job in jobs:
        job()


@pytest.mark.parametrize("starts_detached", [True, False])
def test_a_long_lived_thread_is_freed_of_the_scope_that_started_it(
    ask: Any, provider: Any, starts_detached: bool
) -> None:
    jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def work() -> None:
        served(iter(jobs.get, None), starts_detached)

    with stormproof(provider):
        with track(request=1), budget("request", calls=1) as request:
            worker = threading.Thread(target=work)
            worker.start()
            ask()
            jobs.put(lambda: done.put((attempt(ask), current())))
            answer, frame = done.get(timeout=20)
            assert refused_by(answer) == (None if starts_detached else "request")
            assert (frame is None) is starts_detached
            assert current() is request
        jobs.put(lambda: done.put(attempt(ask)))
        assert refused_by(done.get(timeout=20)) == (None if starts_detached else "request")
        jobs.put(None)
        worker.join()
    assert request.spent_calls == 1
    assert report().total.calls == (3 if starts_detached else 1)
    assert len([record for record in farebox.calls() if "request" in record.tags]) == (1 if starts_detached else 3)
    nothing_is_left()


def test_a_detached_worker_enters_scopes_of_its_own(ask: Any, provider: Any) -> None:
    def work() -> None:
        detach()
        with track(job="night"), budget("own", calls=1) as own:
            assert own.path == "own"
            ask()
            assert refused_by(attempt(ask)) == "own"
        assert current() is None
        found.append(own.spent_usd)

    found: list[Any] = []
    with track(user="alice"), budget("request", calls=1) as request:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert request.spent_calls == 0
    assert found == [provider.bill.usd]
    assert [dict(record.tags) for record in farebox.calls()] == [{"job": "night"}] * 2


def test_a_detached_task_leaves_its_creator_and_its_siblings_inside(ride: Ride, provider: Any) -> None:
    async def main() -> Any:
        async with ride.async_client(provider) as client:

            async def ask(leaves: bool) -> Any:
                if leaves:
                    detach()
                await asyncio.sleep(0)
                return await ride.ask(client), current()

            with budget("request", calls=2) as request:
                answers = await asyncio.gather(*(asyncio.create_task(ask(number == 1)) for number in range(3)))
                assert [frame for _, frame in answers] == [request, None, request]
                assert current() is request
                with pytest.raises(BudgetExceeded):
                    await ride.ask(client)
            return request

    with stormproof(provider):
        request = asyncio.run(main())
    assert (request.spent_calls, provider.bill.calls) == (2, 3)


def test_a_coroutine_awaited_in_place_detaches_whoever_awaits_it(provider: Any, ask: Any) -> None:
    """It has no context of its own: only a decorated one gives back what was there."""

    async def leave() -> None:
        detach()

    @budget("own", calls=0)
    async def leave_own() -> Any:
        detach()
        return await asyncio.to_thread(ask)

    async def main() -> None:
        with budget("request", calls=0) as request:
            await leave_own()
            assert current() is request
            await leave()
            assert current() is None

    asyncio.run(main())
    assert provider.bill.calls == 1


@pytest.mark.parametrize("kind", ["thread pool", "to_thread"])
def test_a_worker_of_a_pool_is_detached_for_one_job(ask: Any, kind: str) -> None:
    def leaving() -> Any:
        detach()
        return current(), refused_by(attempt(ask))

    def staying() -> Any:
        return current()

    with budget("request", calls=0) as request:
        if kind == "thread pool":
            with ThreadPoolExecutor(1) as pool:
                answers = [pool.submit(job).result() for job in (leaving, staying, leaving, staying)]
        else:

            async def main() -> list[Any]:
                return [await asyncio.to_thread(job) for job in (leaving, staying, leaving, staying)]

            answers = asyncio.run(main())
        assert current() is request
    assert answers == [(None, None), request, (None, None), request]


def test_a_worker_of_a_pool_that_is_started_by_a_job_belongs_to_no_scope(ask: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        with budget("request", calls=0) as request:
            assert pool.submit(current).result() is request
        assert pool.submit(current).result() is None
        pool.submit(detach).result()
        with budget("next", calls=0):
            assert refused_by(pool.submit(attempt, ask).result()) == "next"


def test_a_generator_leaves_its_scope_for_the_steps_that_follow(ask: Any, provider: Any) -> None:
    @budget("generator", calls=1)
    def steps() -> Iterator[Any]:
        yield refused_by(attempt(ask))
        yield refused_by(attempt(ask))
        detach()
        yield refused_by(attempt(ask)), current()
        with budget("own", calls=0):
            yield refused_by(attempt(ask))
        yield current()

    with budget("consumer", calls=9) as consumer:
        seen = []
        for step in steps():
            seen.append(step)
            assert current() is consumer
    assert seen == [None, "generator", (None, None), "own", None]
    assert consumer.spent_calls == 1
    assert provider.bill.calls == 2


def test_an_async_generator_leaves_its_scope_for_the_steps_that_follow(ride: Ride, provider: Any) -> None:
    async def main() -> list[Any]:
        async with ride.async_client(provider) as client:

            @budget("generator", calls=1)
            async def steps() -> AsyncIterator[Any]:
                yield (await ride.ask(client)).id
                detach()
                yield (await ride.ask(client)).id
                yield current()

            seen = []
            with budget("consumer", calls=1) as consumer:
                async for step in steps():
                    seen.append(step)
                    assert current() is consumer
            return seen

    seen = asyncio.run(main())
    assert seen[2] is None
    assert seen[:2] == [line.response_id for line in provider.bill.lines]


def test_a_decorated_function_detaches_only_itself(ask: Any) -> None:
    @budget("own", calls=0)
    def leaves() -> Any:
        detach()
        return refused_by(attempt(ask))

    with budget("request", calls=0) as request:
        assert leaves() is None
        assert current() is request
        assert refused_by(attempt(ask)) == "request"


def test_a_block_that_was_detached_ends_as_it_would_have(ask: Any) -> None:
    with pytest.raises(ZeroDivisionError), budget("outer", calls=0), budget("inner", calls=0):
        detach()
        ask()
        raise ZeroDivisionError
    assert current() is None


def test_detach_outside_of_any_scope_does_nothing(ask: Any, provider: Any) -> None:
    detach()
    detach()
    ask()
    assert provider.bill.calls == 1


def test_detach_takes_the_labels_of_tag_along_and_leaves_those_of_the_process(ask: Any) -> None:
    tag(user="alice")
    with configure(tags={"app": "shop"}):
        ask()
        detach()
        ask()
        tag(user="bob")
        ask()
    expected: list[dict[str, str]] = [{"app": "shop", "user": "alice"}, {"app": "shop"}, {"app": "shop", "user": "bob"}]
    assert [dict(record.tags) for record in farebox.calls()] == expected


def test_what_was_carried_before_keeps_its_scope(ask: Any, ride: Ride, client: Any, provider: Any) -> None:
    with track(user="alice"), budget("request", calls=3) as request:
        bound = carry(ask)
        generator = carry(lambda: (ride.ask(client) for _ in range(1)))
        detach()
        bound()
        assert current() is None
        assert next(iter(generator()))
        thread = threading.Thread(target=bound)
        thread.start()
        thread.join()
    assert refused_by(attempt(bound)) == "request"
    ask()
    assert request.spent_calls == 3
    assert [record.tags.get("user") for record in farebox.calls()] == ["alice"] * 4 + [None]
    assert provider.bill.calls == 4


def test_what_is_carried_after_belongs_to_no_scope(ask: Any) -> None:
    with budget("request", calls=0):
        detach()
        free = carry(ask)
    with budget("other", calls=0) as other:
        assert free()
        assert current() is other


def test_what_was_started_before_settles_where_it_began(ride: Ride, provider: Any, client: Any) -> None:
    with stormproof(provider), budget("request", usd=1) as request:
        stream = ride.stream(client)
        detach()
        list(stream)
        ride.ask(client)
    assert request.spent_usd == provider.bill.lines[0].usd
    assert (request.reserved_usd, request.spent_calls) == (0, 1)


def test_a_call_in_line_stays_in_its_scope(ride: Ride, provider: Any, client: Any) -> None:
    """A thread that waits for the scope's money is not freed by another that leaves."""
    provider.answer(output_tokens=20)
    provider.hold()
    limit = bound_of(ride).usd(1)
    with budget("request", usd=limit) as request, ThreadPoolExecutor() as pool:
        first = pool.submit(ride.ask, client)
        provider.wait_until_in_flight(1)
        second = pool.submit(lambda: attempt(lambda: ride.ask(client)))
        detach()
        provider.release()
        first.result()
        # What is left after the first is less than the bound of the second: it is refused by the scope it was started in.
        assert refused_by(second.result()) == "request"
    assert request.spent_calls == provider.bill.calls == 1


def test_the_budget_of_a_client_stays_on_a_detached_worker(provider: Any, open_client: Any) -> None:
    client = instrument(open_client(OPENAI), tags={"team": "x"}, budgets=[budget("mine", calls=1)])
    try:
        with budget("request", calls=0):
            detach()
            OPENAI.ask(client)
            assert refused_by(attempt(lambda: OPENAI.ask(client))) == "mine"
    finally:
        uninstrument(client)
    assert report(where={"team": "x"}).total.calls == provider.bill.calls == 1
