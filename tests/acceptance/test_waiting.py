"""Contention is not exhaustion: who would fit later waits, who never would is told at once, and nobody waits for himself."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from farebox import BudgetExceeded, budget
from tests.acceptance.rides import Ride, attempt, bound_of, farebox_usd, nothing_is_left, outcomes, stormproof

pytestmark = pytest.mark.usefixtures("metered")

#: Seconds.  Who waits where he should not waits for his patience, which is thirty; a busy machine takes a few for anything.
AT_ONCE = 10


def one_and_a_half(ride: Ride) -> Any:
    """USD for one call at a time, and for two short ones in all."""
    return farebox_usd(bound_of(ride, is_stream=True).usd_nanos * 3 // 2)


class Stopwatch:
    def __enter__(self) -> Stopwatch:
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._began


def wait_for(question: Any, timeout: float = 10.0) -> None:
    """Look until `question()` is true; for what has no event to wait for."""
    until = time.monotonic() + timeout
    while not question():
        assert time.monotonic() < until
        time.sleep(0.001)


def waiters() -> int:
    from farebox import _config

    return len(_config.state().ledger._book.line.tickets)  # type: ignore[attr-defined]


def test_twenty_calls_that_do_not_fit_at_once_all_run(ride: Ride, provider: Any, client: Any) -> None:
    provider.answer(output_tokens=10)
    limit = bound_of(ride).usd(20)
    # Three bounds are free at a time.

    def ask(number: int) -> None:
        ride.ask(client, metadata={"user_id": str(number)} if ride.name == "anthropic" else {"n": str(number)})

    with stormproof(provider, limit), budget("tight", usd=bound_of(ride).usd(5)) as tight:
        provider.hold()
        with ThreadPoolExecutor(20) as pool:
            jobs = []
            for number in range(20):
                jobs.append(pool.submit(ask, number))
                wait_for(lambda: provider.in_flight + waiters() == len(jobs))
            assert provider.in_flight == 5
            assert waiters() == 15
            provider.release()
            for job in jobs:
                job.result(timeout=20)
    assert tight.spent_calls == 20
    key = "user_id" if ride.name == "anthropic" else "n"
    arrived = [int(request.body["metadata"][key]) for request in provider.requests]
    assert sorted(arrived) == list(range(20))
    # First come, first served; between being served and being sent threads may swap, and one may be late by many places: that
    # is 2 for each place.  Served the other way round, or in any order, they are some 5 to 7 places off on average.
    assert sum(abs(place - number) for place, number in enumerate(arrived)) <= 3 * len(arrived)
    assert not [event for event in tight.decisions if event.did == "stop"]


def test_tasks_wait_in_order_and_the_loop_goes_on(ride: Ride, provider: Any) -> None:
    provider.answer(output_tokens=10)
    beats = 0

    async def main() -> None:
        nonlocal beats
        async with ride.async_client(provider) as client:
            provider.hold()
            tasks = [asyncio.create_task(ride.ask(client)) for _ in range(20)]
            while provider.in_flight + waiters() < 20:
                beats += 1
                await asyncio.sleep(0)
            provider.release()
            await asyncio.gather(*tasks)

    with stormproof(provider, bound_of(ride).usd(5)), budget(usd=bound_of(ride).usd(5)):
        asyncio.run(main())
    assert beats
    assert outcomes() == ["completed"] * 20


def test_threads_and_tasks_stand_in_one_line(ride: Ride, provider: Any, client: Any) -> None:
    provider.answer(output_tokens=10)

    async def tasks() -> None:
        async with ride.async_client(provider) as async_client:
            await asyncio.gather(*(ride.ask(async_client) for _ in range(10)))

    with stormproof(provider, bound_of(ride).usd(3)), budget(usd=bound_of(ride).usd(3)), ThreadPoolExecutor(11) as pool:
        jobs = [pool.submit(lambda: asyncio.run(tasks())), *(pool.submit(ride.ask, client) for _ in range(10))]
        for job in jobs:
            job.result(timeout=20)
    assert outcomes() == ["completed"] * 20


def test_what_its_own_thread_holds_is_not_waited_for(ride: Ride, provider: Any, client: Any) -> None:
    with stormproof(provider), budget(usd=bound_of(ride, is_stream=True).usd(1)) as tight:
        with ride.stream(client) as stream:
            next(iter(stream))
            with Stopwatch() as waited, pytest.raises(BudgetExceeded) as refusal:
                ride.ask(client)
            assert refusal.value.kind == "contended"
            assert waited.seconds < AT_ONCE
            assert tight.reserved_calls == 1
            for _ in stream:
                pass


def test_what_its_own_task_holds_is_not_waited_for(ride: Ride, provider: Any) -> None:
    async def main() -> None:
        async with ride.async_client(provider) as client:
            stream = await ride.stream(client)
            with Stopwatch() as waited, pytest.raises(BudgetExceeded) as refusal:
                await ride.ask(client)
            assert refusal.value.kind == "contended"
            assert waited.seconds < AT_ONCE
            assert [chunk async for chunk in stream]

    with stormproof(provider), budget(usd=bound_of(ride, is_stream=True).usd(1)):
        asyncio.run(main())


def test_a_ring_of_two_tasks_refuses_one_and_lets_the_other_run(ride: Ride, provider: Any) -> None:
    async def main() -> list[Any]:
        async with ride.async_client(provider) as client:
            both_open = asyncio.Barrier(2)

            async def hold_and_ask() -> Any:
                stream = await ride.stream(client)
                await both_open.wait()
                try:
                    return await ride.ask(client)
                except BudgetExceeded as error:
                    return error
                finally:
                    async for _ in stream:
                        pass

            return await asyncio.gather(hold_and_ask(), hold_and_ask())

    provider.answer(output_tokens=1)
    limit = farebox_usd(bound_of(ride, is_stream=True).usd_nanos * 5 // 2)
    with stormproof(provider), budget(usd=limit), Stopwatch() as waited:
        answers = asyncio.run(main())
    refused = [answer for answer in answers if isinstance(answer, BudgetExceeded)]
    assert [error.kind for error in refused] == ["contended"]
    assert waited.seconds < AT_ONCE


def test_a_stream_that_stands_still_is_not_waited_for_long(ride: Ride, provider: Any, client: Any) -> None:
    with stormproof(provider), budget(usd=bound_of(ride, is_stream=True).usd(1)):
        with ride.stream(client) as stream:
            next(iter(stream))
            with ThreadPoolExecutor(1) as other, Stopwatch() as waited:
                answer = other.submit(attempt, lambda: ride.ask(client)).result(timeout=10)
            assert isinstance(answer, BudgetExceeded)
            assert answer.kind == "contended"
            assert 0.5 < waited.seconds < AT_ONCE
            for _ in stream:
                pass


def test_a_stream_that_is_being_read_is_waited_for(ride: Ride, provider: Any, client: Any) -> None:
    provider.hold(after_chunks=1)
    provider.answer(output_tokens=10)
    with stormproof(provider), budget(usd=one_and_a_half(ride)), ThreadPoolExecutor(2) as pool:
        reading = pool.submit(lambda: list(ride.stream(client)))
        provider.wait_until_in_flight(1)
        waiting = pool.submit(attempt, lambda: ride.ask(client))
        wait_for(lambda: waiters() == 1)
        threading.Event().wait(
            1.5
        )  # longer than a stream may stand still: this one does not, its reader waits for more
        assert not waiting.done()
        provider.release()
        assert reading.result(timeout=10)
        assert not isinstance(waiting.result(timeout=10), BudgetExceeded)


def test_cancelled_waiters_leave_nothing(ride: Ride, provider: Any) -> None:
    async def main() -> None:
        async with ride.async_client(provider) as client:
            provider.hold()
            first = asyncio.create_task(ride.ask(client))
            while not provider.in_flight:  # noqa: ASYNC110, there is no event to wait for
                await asyncio.sleep(0.001)
            line = [asyncio.create_task(ride.ask(client)) for _ in range(10)]
            while waiters() < 10:  # noqa: ASYNC110, there is no event to wait for
                await asyncio.sleep(0)
            for task in line[:9]:
                task.cancel()
            cancelled = await asyncio.gather(*line[:9], return_exceptions=True)
            assert {type(error) for error in cancelled} == {asyncio.CancelledError}
            assert waiters() == 1
            provider.release()
            await asyncio.gather(first, line[9])

    with stormproof(provider), budget(usd=one_and_a_half(ride)):
        provider.answer(output_tokens=1)
        asyncio.run(main())
    assert len(provider.requests) == 2
    assert sorted(outcomes()) == ["completed"] * 2 + ["refused"] * 9


def test_a_waiter_cancelled_as_money_reaches_it_gives_it_back(ride: Ride, provider: Any) -> None:
    # Cancelled in the same step of the loop in which the first call settles, again and again.
    provider.answer(output_tokens=1)

    async def main() -> None:
        async with ride.async_client(provider) as client:
            for _ in range(20):
                line: list[asyncio.Task[Any]] = []
                first = asyncio.create_task(ride.ask(client))
                first.add_done_callback(lambda _, line=line: [task.cancel() for task in line])
                while not first.done() and len(line) < 3:
                    line.append(asyncio.create_task(ride.ask(client)))
                    await asyncio.sleep(0)
                await asyncio.gather(first, *line, return_exceptions=True)

    with stormproof(provider), budget(usd=100, calls=1_000, tokens=bound_of(ride).tokens * 20):
        with budget("one at a time", usd=bound_of(ride).usd(2)) as tight:
            asyncio.run(main())
        assert tight.reserved_usd == 0


def test_a_waiter_whose_loop_is_closed_leaves_nothing(ride: Ride, provider: Any, client: Any) -> None:
    async def wait_in_line() -> None:
        async with ride.async_client(provider) as other:
            waiting = asyncio.create_task(ride.ask(other))
            while not waiters():  # noqa: ASYNC110, there is no event to wait for
                await asyncio.sleep(0)
        # asyncio.run() cancels it as it leaves.
        assert not waiting.done()

    provider.hold()
    with stormproof(provider), budget(usd=bound_of(ride).usd(1)), ThreadPoolExecutor(1) as pool:
        first = pool.submit(ride.ask, client)
        provider.wait_until_in_flight(1)
        asyncio.run(wait_in_line())
        assert not waiters()
        provider.release()
        first.result(timeout=10)


def test_a_sync_call_on_an_event_loop_thread_never_waits(ride: Ride, provider: Any, client: Any) -> None:
    async def main() -> None:
        with pytest.raises(BudgetExceeded) as refusal:
            ride.ask(client)
        assert refusal.value.kind == "contended"

    provider.hold()
    with stormproof(provider), budget(usd=bound_of(ride).usd(1)), ThreadPoolExecutor(1) as pool:
        first = pool.submit(ride.ask, client)
        provider.wait_until_in_flight(1)
        with Stopwatch() as waited:
            asyncio.run(main())
        provider.release()
        first.result(timeout=10)
    assert waited.seconds < AT_ONCE


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_nobody_waits_longer_than_his_own_timeout(ride: Ride, provider: Any, client: Any, kind: str) -> None:
    async def ask_async() -> None:
        async with ride.async_client(provider) as other:
            await ride.ask(other, timeout=0.4)

    def ask() -> None:
        if kind == "sync":
            ride.ask(client, timeout=0.4)
        else:
            asyncio.run(ask_async())

    provider.hold()
    with stormproof(provider), budget(usd=bound_of(ride).usd(1)), ThreadPoolExecutor(1) as pool:
        first = pool.submit(ride.ask, client)
        provider.wait_until_in_flight(1)
        with Stopwatch() as waited, pytest.raises(BudgetExceeded) as refusal:
            ask()
        provider.release()
        first.result(timeout=10)
    assert refusal.value.kind == "contended"
    assert 0.3 < waited.seconds < AT_ONCE
    assert len(provider.requests) == 1


def test_patience_of_zero_refuses_at_once_and_patience_is_kept(ride: Ride, provider: Any, client: Any) -> None:
    provider.hold()
    with ThreadPoolExecutor(1) as pool:
        for patience in (0, 0.3):
            with budget(usd=bound_of(ride).usd(1), patience=patience):
                first = pool.submit(ride.ask, client)
                provider.wait_until_in_flight(1)
                with Stopwatch() as waited, pytest.raises(BudgetExceeded, match="calls in flight"):
                    ride.ask(client)
                assert patience <= waited.seconds < patience + AT_ONCE
                provider.release(1)
                first.result(timeout=10)
                provider.wait_until_idle()
    nothing_is_left()


def test_an_exhausted_budget_refuses_without_waiting(ride: Ride, provider: Any, client: Any) -> None:
    with stormproof(provider), budget(usd=bound_of(ride).usd(1)):
        ride.ask(client)
        with Stopwatch() as waited:
            for _ in range(10):
                with pytest.raises(BudgetExceeded) as refusal:
                    ride.ask(client)
                assert refusal.value.kind == "exhausted"
    assert waited.seconds < AT_ONCE


def test_a_new_thread_is_not_taken_for_a_dead_one_that_opened_a_stream(ride: Ride, provider: Any, client: Any) -> None:
    # Idents are used again: a new thread has that of the dead one, whose stream a third is reading.
    opened: list[Any] = []
    answers: list[Any] = []
    ident = 0
    over = threading.Event()

    def open_stream() -> None:
        nonlocal ident
        ident = threading.get_ident()
        opened.append(ride.stream(client))

    def ask_if_it_is_the_same() -> None:
        if threading.get_ident() == ident:
            answers.append(attempt(lambda: ride.ask(client)))
        over.wait(20)

    provider.hold(after_chunks=1)
    provider.answer(output_tokens=10)
    with stormproof(provider), budget(usd=one_and_a_half(ride)), ThreadPoolExecutor(1) as reader:
        reader.submit(int).result()
        opener = threading.Thread(target=open_stream)
        opener.start()
        opener.join()
        reading = reader.submit(lambda: list(opened[0]))
        threads = [threading.Thread(target=ask_if_it_is_the_same) for _ in range(100)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 1
        while not waiters() and not answers and time.monotonic() < until:
            time.sleep(0.001)
        provider.release()
        over.set()
        assert reading.result(timeout=10)
        for thread in threads:
            thread.join()
    if not answers:
        pytest.skip("no thread got the ident of the one that ended")
    assert not isinstance(answers[0], BudgetExceeded)


def test_a_new_task_is_not_taken_for_a_dead_one_that_opened_a_stream(ride: Ride, provider: Any) -> None:
    # The same for tasks, whose owner is known by an address that is used again.
    answers: list[Any] = []

    async def main() -> None:
        async with ride.async_client(provider) as client:
            address = 0

            async def open_stream() -> Any:
                nonlocal address
                address = id(asyncio.current_task())
                return await ride.stream(client)

            async def ask_if_it_is_the_same() -> None:
                if id(asyncio.current_task()) == address:
                    try:
                        answers.append(await ride.ask(client))
                    except BudgetExceeded as error:
                        answers.append(error)

            async def read(stream: Any) -> Any:
                return [chunk async for chunk in stream]

            opening = asyncio.create_task(open_stream())
            reading = asyncio.create_task(read(await opening))
            await asyncio.sleep(0.05)
            del opening
            tasks = [asyncio.create_task(ask_if_it_is_the_same()) for _ in range(2_000)]
            await asyncio.sleep(0.05)
            provider.release()
            assert await reading
            await asyncio.gather(*tasks)

    provider.hold(after_chunks=1)
    provider.answer(output_tokens=10)
    with stormproof(provider), budget(usd=one_and_a_half(ride)):
        asyncio.run(main())
    if not answers:
        pytest.skip("no task got the address of the one that ended")
    assert not isinstance(answers[0], BudgetExceeded)
