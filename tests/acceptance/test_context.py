"""A scope goes where the program goes: threads, pools, tasks, generators, recursion, forks.  And it goes nowhere else."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import multiprocessing
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, carry, current, report, tag, track
from tests.acceptance.rides import OPENAI, Ride, attempt, bound_of, farebox_usd, nothing_is_left, stormproof

pytestmark = pytest.mark.usefixtures("metered")


def tags() -> list[dict[str, str]]:
    return [dict(record.tags) for record in farebox.calls()]


@pytest.fixture
def chat(open_client: Any) -> Any:
    """Asks one question."""
    client = open_client(OPENAI)
    return lambda **changes: OPENAI.ask(client, **changes)


# ── threads and tasks ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_thread_is_gated_and_tagged_by_who_started_it(provider: Any, chat: Any) -> None:
    answers: list[Any] = []
    with track(user="alice"), budget(usd=bound_of(OPENAI).usd(1)):
        threads = [threading.Thread(target=lambda: answers.append(attempt(chat))) for _ in range(2)]
        for thread in threads:
            thread.start()
            thread.join()
    assert [type(answer).__name__ for answer in answers] == ["ChatCompletion", "BudgetExceeded"]
    assert tags() == [{"user": "alice"}] * 2


def test_a_pool_hands_no_scope_from_one_job_to_the_next(chat: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        with track(user="alice"), budget(calls=1):
            pool.submit(chat).result()
        with track(user="bob"), budget(calls=1):
            pool.submit(chat).result()
        pool.submit(chat).result()
        assert pool.submit(current).result() is None
        with track(user="carol"):
            assert list(pool.map(lambda _: chat() and None, range(2))) == [None, None]
        with ThreadPoolExecutor(1) as other, track(user="dave"):
            other.submit(lambda: pool.submit(chat).result()).result()
        assert pool.submit(current).result() is None
    users = [found.get("user") for found in tags()]
    assert users == ["alice", "bob", None, "carol", "carol", "dave"]


def test_a_scope_left_open_in_a_job_stays_in_the_job(chat: Any) -> None:
    def leaves_it_open() -> None:
        budget(calls=0).__enter__()
        tag(user="mallory")

    with ThreadPoolExecutor(1) as pool, track(user="alice"):
        pool.submit(leaves_it_open).result()
        pool.submit(chat).result()
    assert tags() == [{"user": "alice"}]


def test_a_scope_left_open_in_a_job_without_scope_stays_in_the_job(chat: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(tag, user="mallory").result()
        pool.submit(chat).result()
    assert tags() == [{}]


def test_two_users_at_once_are_kept_apart(ride: Ride, provider: Any) -> None:
    async def main() -> None:
        async with ride.async_client(provider) as client:

            async def serve(user: str, count: int) -> None:
                with track(user=user), budget(calls=count):
                    for _ in range(count):
                        await ride.ask(client)
                        await asyncio.sleep(0)
                    with pytest.raises(BudgetExceeded):
                        await ride.ask(client)

            await asyncio.gather(serve("alice", 3), serve("bob", 5))
            assert current() is None

    with stormproof(provider):
        asyncio.run(main())
    assert {row.user: (row.calls, row.refused_calls) for row in report(by="user")} == {"alice": (3, 1), "bob": (5, 1)}


def test_a_task_that_outlives_its_scope_is_still_gated_and_tagged(ride: Ride, provider: Any) -> None:
    async def main() -> None:
        async with ride.async_client(provider) as client:
            left = asyncio.Event()

            async def later() -> Any:
                await left.wait()
                await ride.ask(client)
                return await ride.ask(client)

            with track(user="alice"), budget("brief", usd=bound_of(ride).usd(1)) as brief:
                task = asyncio.create_task(later())
                await asyncio.sleep(0)
            left.set()
            with pytest.raises(BudgetExceeded) as refusal:
                await task
            assert refusal.value.budget == "brief"
            assert brief.spent_calls == 1

    with stormproof(provider, bound_of(ride).usd(1)):
        asyncio.run(main())
    assert tags() == [{"user": "alice"}] * 2


def test_task_groups_to_thread_and_executors_carry_the_scope(ride: Ride, provider: Any, client: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with track(user="alice"), budget(calls=3) as frame:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.to_thread(ride.ask, client))
            await loop.run_in_executor(None, ride.ask, client)
            await asyncio.to_thread(lambda: asyncio.run(in_a_loop_of_its_own()))
            assert frame.spent_calls == 3
            with pytest.raises(BudgetExceeded):
                await asyncio.to_thread(ride.ask, client)
        assert await loop.run_in_executor(None, current) is None

    async def in_a_loop_of_its_own() -> None:
        async with ride.async_client(provider) as other:
            await ride.ask(other)

    asyncio.run(main())
    assert tags() == [{"user": "alice"}] * 4


def test_carry_binds_a_function_to_the_scope_of_now(chat: Any) -> None:
    with track(user="alice"), budget(calls=2) as frame:
        bound = carry(chat)
        bound_context = carry(current)
    with track(user="bob"):
        bound()
        assert bound_context() is frame
        assert dict(current().tags) == {"user": "bob"}
    contextvars.Context().run(bound)
    with pytest.raises(BudgetExceeded):
        bound()
    assert current() is None
    assert tags() == [{"user": "alice"}] * 3
    assert frame.spent_calls == 2


def test_carry_of_nothing_runs_outside_of_any_scope(chat: Any) -> None:
    bound = carry(chat)
    with budget(calls=0):
        bound()
    assert tags() == [{}]


def test_carry_works_for_coroutines_and_generators(ride: Ride, provider: Any) -> None:
    async def main() -> None:
        async with ride.async_client(provider) as client:

            async def ask() -> None:
                await ride.ask(client)

            async def asks() -> AsyncIterator[None]:
                await ride.ask(client)
                yield

            with track(user="alice"):
                ask_later, asks_later = carry(ask), carry(asks)
            with track(user="bob"):
                await ask_later()
                async for _ in asks_later():
                    assert dict(current().tags) == {"user": "bob"}

    asyncio.run(main())
    assert tags() == [{"user": "alice"}] * 2


def test_tag_labels_the_rest_of_a_context_and_no_more(chat: Any) -> None:
    def request(user: str) -> None:
        tag(user=user, empty=None)
        chat()
        with track(feature="search"):
            chat()

    for user in ("alice", "bob"):
        contextvars.copy_context().run(request, user)
    assert current() is None
    assert tags() == [
        {"user": "alice"},
        {"user": "alice", "feature": "search"},
        {"user": "bob"},
        {"user": "bob", "feature": "search"},
    ]


def test_tagging_again_and_again_does_not_grow() -> None:
    for number in range(1_000):
        tag(request=number)
    depth, frame = 0, current()
    while frame is not None:
        depth, frame = depth + 1, frame.parent
    assert depth < 10


# ── generators ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_generators_scope_is_that_of_its_steps_only(chat: Any) -> None:
    @budget("inside", calls=2)
    @track(feature="words")
    def words() -> Iterator[Any]:
        assert current().path == "inside"
        chat()
        yield current()
        chat()
        yield current()
        with pytest.raises(BudgetExceeded):
            chat()

    with track(user="alice"):
        for frame in words():
            assert current() is not frame
            assert current().path == ""
            chat()
    inside, outside = {"user": "alice", "feature": "words"}, {"user": "alice"}
    assert tags() == [inside, outside, inside, outside, inside]


def test_a_with_inside_a_decorated_generator_does_not_leak(chat: Any) -> None:
    @track(feature="words")
    def words() -> Iterator[None]:
        with budget("inside", calls=1) as frame:
            yield
            assert current() is frame
            chat()
            yield
            assert current() is frame

    steps = words()
    next(steps)
    assert current() is None
    chat()
    next(steps)
    assert current() is None
    steps.close()
    assert current() is None
    assert tags() == [{}, {"feature": "words"}]


def test_a_decorated_async_generator_steps_in_any_task_and_context(ride: Ride, provider: Any) -> None:
    async def main() -> None:
        async with ride.async_client(provider) as client:

            @budget("inside", calls=3)
            @track(feature="words")
            async def words() -> AsyncIterator[int]:
                for number in range(3):
                    await ride.ask(client)
                    yield number

            steps = words()

            async def step() -> int:
                number = await anext(steps)
                assert current() is None
                return number

            assert await asyncio.create_task(step(), context=contextvars.Context()) == 0
            assert await step() == 1
            assert await asyncio.create_task(step()) == 2
            await asyncio.create_task(steps.aclose(), context=contextvars.Context())  # type: ignore[attr-defined]
            assert current() is None

    asyncio.run(main())
    assert tags() == [{"feature": "words"}] * 3


def test_a_generator_dropped_or_thrown_into_leaves_no_scope_behind(chat: Any) -> None:
    @budget(calls=1)
    def words() -> Iterator[None]:
        try:
            yield
        finally:
            assert current() is not None

    for end in ("drop", "throw", "close"):
        steps = words()
        next(steps)
        if end == "throw":
            with pytest.raises(KeyError):
                steps.throw(KeyError("x"))
        elif end == "close":
            steps.close()
        del steps
        gc.collect()
        assert current() is None


def test_send_throw_and_return_work_through_a_decorated_generator() -> None:
    @budget(calls=1)
    def echo() -> Any:
        received = []
        while True:
            try:
                received.append((yield len(received)))
            except KeyError:
                return received

    steps = echo()
    assert next(steps) == 0
    assert steps.send("a") == 1
    with pytest.raises(StopIteration) as stop:
        steps.throw(KeyError("x"))
    assert stop.value.value == ["a"]


GENERATOR_STARTS_LATE = (
    "_scope._generator: the parent frame is looked up at the first step, not when the function is called"
)


def test_a_generator_belongs_to_the_scope_it_was_called_in(chat: Any) -> None:
    # A web framework calls the handler in the request's scope and drains what it returned outside of it.
    @budget(calls=5)
    def words() -> Iterator[Any]:
        yield chat()

    with track(user="alice"), budget("request", calls=3) as request:
        steps = words()
    list(steps)
    assert tags() == [{"user": "alice"}]
    assert request.spent_calls == 1


def test_an_async_generator_belongs_to_the_scope_it_was_called_in(ride: Ride, provider: Any) -> None:
    async def main() -> None:
        async with ride.async_client(provider) as client:

            @track(feature="words")
            async def words() -> AsyncIterator[Any]:
                yield await ride.ask(client)

            with track(user="alice"):
                steps = words()
            assert [word async for word in steps]

    asyncio.run(main())
    assert tags() == [{"user": "alice", "feature": "words"}]


# ── recursion ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_frame_of_a_recursion_has_its_own_full_limit_held_against_all_outer(provider: Any, chat: Any) -> None:
    limits: list[Any] = []

    @budget("level", calls=2)
    def dive(depth: int) -> None:
        limits.append(current())
        chat()
        if depth:
            dive(depth - 1)

    with pytest.raises(BudgetExceeded) as refusal:
        dive(5)
    assert refusal.value.scope == "level > level > level"
    assert [frame.spent_calls for frame in limits] == [2, 1, 0]
    assert provider.bill.calls == 2


def test_the_same_budget_entered_at_once_in_many_threads_is_many_frames(provider: Any, chat: Any) -> None:
    shared = budget("shared", calls=2)
    frames: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def job() -> None:
        with shared as frame:
            frames.put(frame)
            for _ in range(3):
                attempt(chat)

    with ThreadPoolExecutor(10) as pool:
        for _ in range(10):
            pool.submit(job)
    assert [frames.get().spent_calls for _ in range(10)] == [2] * 10
    assert provider.bill.calls == 20


def test_current_is_the_innermost_frame() -> None:
    assert current() is None
    with budget(usd=1) as outer:
        assert current() is outer
        with track(user="alice") as tracked:
            assert current() is tracked
            assert tracked.remaining_usd == 1
        assert current() is outer
    assert current() is None


def test_scopes_left_out_of_order_leave_nothing_behind() -> None:
    outer, inner = budget("outer", usd=1), budget("inner", usd=1)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert current() is None
    inner.__exit__(None, None, None)
    assert current() is None


# ── forks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _child(ride: Ride, url: str, found: Any) -> None:
    import openai

    with openai.OpenAI(base_url=url, api_key="fake", max_retries=0) as client:
        first = attempt(lambda: ride.ask(client))
        with budget("own", usd=1) as own:
            ride.ask(client)
            with budget("inner", calls=0):
                inner = attempt(lambda: ride.ask(client))
        still = attempt(lambda: ride.ask(client))
        total = report().total
    found.put(
        {
            "first": (type(first).__name__, getattr(first, "kind", None)),
            "own": (own.spent_usd, own.path),
            "inner": (type(inner).__name__, getattr(inner, "budget", None)),
            "still": (type(still).__name__, getattr(still, "kind", None)),
            "report": (total.calls, total.usd, total.reserved_usd),
            "tags": tags(),
        }
    )


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_cant_share_a_scope_but_may_open_its_own(provider: Any, chat: Any, open_client: Any) -> None:
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    client = open_client(OPENAI)
    with track(user="alice"), budget("parents", usd=1) as parents:
        chat()
        stream = OPENAI.stream(client)
        before = (parents.spent_usd, parents.reserved_usd, parents.spent_calls)
        child = context.Process(target=_child, args=(OPENAI, provider.openai_base_url, found))
        child.start()
        told = found.get(timeout=30)
        child.join(10)
        assert child.exitcode == 0
        assert (parents.spent_usd, parents.reserved_usd, parents.spent_calls) == before
        list(stream)
        chat()
    own_usd = provider.bill.lines[2].usd
    assert told["first"] == told["still"] == ("BudgetExceeded", "forked")
    assert told["own"] == (own_usd, "own")
    assert told["inner"] == ("BudgetExceeded", "inner")
    assert told["report"] == (1, own_usd, 0)
    assert all(row.get("user") == "alice" for row in told["tags"])
    assert provider.bill.calls == 4
    assert parents.spent_calls == 3
    assert parents.spent_usd == provider.bill.usd - own_usd == report().total.usd
    nothing_is_left()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_call_refused_in_a_forked_child_is_counted(provider: Any) -> None:
    context = multiprocessing.get_context("fork")
    found = context.Queue()

    def child() -> None:
        with OPENAI.client(provider) as client:
            attempt(lambda: OPENAI.ask(client))
        found.put(report().total.refused_calls)

    with budget(usd=1):
        process = context.Process(target=child)
        process.start()
        refused = found.get(timeout=30)
        process.join(10)
    assert refused == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_children_forked_while_threads_call_do_not_hang(provider: Any, chat: Any) -> None:
    context = multiprocessing.get_context("fork")
    over = threading.Event()

    def keep_calling() -> None:
        while not over.is_set():
            chat()

    def child() -> None:
        with OPENAI.client(provider) as client, budget(usd=1):
            OPENAI.ask(client)
            report()

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(keep_calling) for _ in range(2)]
        children = [context.Process(target=child) for _ in range(6)]
        for process in children:
            process.start()
        for process in children:
            process.join(20)
        over.set()
        for job in jobs:
            job.result()
    assert [process.exitcode for process in children] == [0] * 6
    nothing_is_left()


def test_the_ledger_of_a_scope_is_that_in_which_it_was_opened(provider: Any, chat: Any) -> None:
    limit = bound_of(OPENAI).usd(1)
    with budget(usd=limit) as frame, farebox.configure(ledger="memory://"):
        chat()
        with pytest.raises(BudgetExceeded):
            chat()
        assert report().total.usd == frame.spent_usd == provider.bill.usd
        nothing_is_left()
    assert frame.spent_usd <= farebox_usd(bound_of(OPENAI).usd_nanos)
