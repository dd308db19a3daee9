"""The scope goes into threads and pools while farebox is asked to carry it, and nothing else does, and nobody keeps it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import farebox
from farebox import _threads, budget, current, track
from tests.strategies import paid

START, SUBMIT = threading.Thread.start, ThreadPoolExecutor.submit


@pytest.fixture
def carrying() -> Iterator[None]:
    _threads.carry_into_threads()
    yield
    _threads.stop_carrying()


def in_a_thread(function: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def in_a_timer(function: Callable[[], Any]) -> Any:
    found: list[Any] = []
    timer = threading.Timer(0, lambda: found.append(function()))
    timer.start()
    timer.join()
    return found[0]


def in_a_subclass(function: Callable[[], Any]) -> Any:
    found: list[Any] = []

    class Worker(threading.Thread):
        def run(self) -> None:
            found.append(function())

    worker = Worker()
    worker.start()
    worker.join()
    return found[0]


def in_a_pool(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def by_map(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return next(iter(pool.map(lambda _: function(), [None])))


WAYS = [in_a_thread, in_a_timer, in_a_subclass, in_a_pool, by_map]
EACH_WAY = pytest.mark.parametrize("run", WAYS, ids=lambda run: run.__name__)


@EACH_WAY
@pytest.mark.usefixtures("carrying")
def test_the_scope_is_there(run: Any) -> None:
    with budget("b", calls=5) as b, track(feature="f") as frame:
        assert run(current) is frame
        run(lambda: paid(1))
        assert b.spent_calls == 1
        assert current() is frame
    assert run(current) is None


@EACH_WAY
def test_the_scope_is_not_there_when_nobody_asked(run: Any) -> None:
    with budget("b", calls=5):
        assert run(current) is None


@EACH_WAY
@pytest.mark.usefixtures("carrying")
def test_nothing_else_of_the_context_is_carried(run: Any) -> None:
    mine = contextvars.ContextVar("mine", default="default")
    mine.set("set")
    with track(feature="f"):
        assert run(mine.get) == "default"


@EACH_WAY
@pytest.mark.usefixtures("carrying")
def test_what_happens_to_the_scope_in_there_stays_in_there(run: Any) -> None:
    with track(feature="f") as frame:
        run(lambda: farebox.tag(user_id="alice"))
        assert current() is frame
        assert run(lambda: dict(current().tags)) == {"feature": "f"}  # type: ignore[union-attr]


@pytest.mark.usefixtures("carrying")
def test_a_pools_worker_keeps_no_scope_for_the_next_task() -> None:
    with ThreadPoolExecutor(1) as pool:
        with track(feature="first") as first:
            assert pool.submit(current).result() is first  # starts the worker
        assert pool.submit(current).result() is None
        with track(feature="second") as second:
            assert pool.submit(current).result() is second

        def fail() -> None:
            raise KeyError

        with track(feature="third"), pytest.raises(KeyError):
            pool.submit(fail).result()
        assert pool.submit(current).result() is None


@pytest.mark.usefixtures("carrying")
def test_a_pool_passes_arguments_and_answers_as_ever() -> None:
    def add(*numbers: int, fn: int = 0, self: int = 0) -> int:
        return sum(numbers) + fn + self

    with track(feature="f"), ThreadPoolExecutor(2) as pool:
        assert pool.submit(add, 1, 2, fn=3, self=4).result() == 10
        assert list(pool.map(add, [1, 2], [3, 4])) == [4, 6]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(add, 1).result() == 1


@pytest.mark.usefixtures("carrying")
def test_the_scope_of_a_pool_that_is_shut_down_stays_where_it_was() -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with track(feature="f") as frame:
        with pytest.raises(RuntimeError, match="shutdown"):
            pool.submit(current)
        assert current() is frame


@pytest.mark.usefixtures("carrying")
def test_to_thread_and_tasks_carry_the_scope_with_or_without() -> None:
    async def main() -> None:
        with track(feature="f") as frame:
            assert await asyncio.to_thread(current) is frame
            assert await asyncio.get_running_loop().run_in_executor(None, current) is frame

            async def task() -> object:
                return current()

            assert await asyncio.create_task(task()) is frame
        assert await asyncio.to_thread(current) is None

    asyncio.run(main())


@pytest.mark.usefixtures("carrying")
def test_fifty_threads_at_a_limit_for_five_let_five_through() -> None:
    barrier, passed = threading.Barrier(50), []

    def ask() -> None:
        barrier.wait()
        try:
            paid(1)
            passed.append(1)
        except farebox.BudgetExceeded:
            pass

    with budget("b", calls=5, patience=0) as b:
        threads = [threading.Thread(target=ask) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(passed) <= 5, b.spent_calls) == (True, len(passed))
        assert b.reserved_calls == 0


# What stays behind.


@pytest.mark.usefixtures("carrying")
def test_a_pool_keeps_no_frame_alive() -> None:
    with ThreadPoolExecutor(1) as pool:
        with budget("b", calls=1) as b:
            pool.submit(current).result()
        frame = weakref.ref(b)
        del b
        pool.submit(lambda: None).result()
        gc.collect()
        assert frame() is None


@pytest.mark.usefixtures("carrying")
def test_a_thread_that_is_gone_keeps_no_frame_alive() -> None:
    with budget("b", calls=1) as b:
        in_a_thread(current)
    frame = weakref.ref(b)
    del b
    gc.collect()
    assert frame() is None


@pytest.mark.usefixtures("carrying")
def test_a_thread_that_has_ended_keeps_no_frame_alive() -> None:
    with budget("b", calls=1) as b:
        thread = threading.Thread(target=current)
        thread.start()
        thread.join()
    frame = weakref.ref(b)
    del b
    gc.collect()
    assert not thread.is_alive()
    assert frame() is None


# Doing and undoing.


def test_undoing_puts_back_what_was_there() -> None:
    _threads.carry_into_threads()
    assert (threading.Thread.start, ThreadPoolExecutor.submit) != (START, SUBMIT)
    _threads.stop_carrying()
    assert (threading.Thread.start, ThreadPoolExecutor.submit) == (START, SUBMIT)


def test_as_many_must_stop_as_have_started() -> None:
    _threads.carry_into_threads()
    _threads.carry_into_threads()
    _threads.stop_carrying()
    with track(feature="f") as frame:
        assert in_a_thread(current) is frame
        _threads.stop_carrying()
        assert in_a_thread(current) is None
    assert threading.Thread.start is START


def test_what_another_tool_wrapped_over_ours_passes_through_after_undoing(monkeypatch: pytest.MonkeyPatch) -> None:
    _threads.carry_into_threads()
    ours, seen = threading.Thread.start, []

    def traced(self: threading.Thread) -> None:
        seen.append(self)
        ours(self)

    monkeypatch.setattr(threading.Thread, "start", traced)
    with track(feature="f") as frame:
        assert in_a_thread(current) is frame
        _threads.stop_carrying()
        assert threading.Thread.start is traced
        assert in_a_thread(current) is None
    assert len(seen) == 2
    monkeypatch.setattr(threading.Thread, "start", START)
    assert ThreadPoolExecutor.submit is SUBMIT


def test_instrument_carries_and_stops_with_its_handle() -> None:
    with track(feature="f") as frame:
        with farebox.instrument(only=["openai"]):
            with farebox.instrument(only=["openai"]):
                assert in_a_thread(current) is frame
            assert in_a_thread(current) is frame
        assert in_a_thread(current) is None
        with farebox.instrument(only=["openai"], threads=False):
            assert in_a_thread(current) is None
            assert threading.Thread.start is START
    assert (threading.Thread.start, ThreadPoolExecutor.submit) == (START, SUBMIT)


def test_a_handle_undone_twice_undoes_only_its_own() -> None:
    with track(feature="f") as frame:
        outer, inner = farebox.instrument(only=["openai"]), farebox.instrument(only=["openai"])
        inner.undo()
        inner.undo()
        assert in_a_thread(current) is frame
        outer.undo()
        assert in_a_thread(current) is None


def test_uninstrument_takes_back_every_handle() -> None:
    handles = [farebox.instrument(only=["openai"]) for _ in range(4)]
    try:
        farebox.uninstrument()
        assert threading.Thread.start is START
    finally:
        for handle in handles:
            handle.undo()


def test_a_function_that_is_carried_keeps_its_name() -> None:
    def named() -> None:
        """Says nothing."""

    wrapped = _threads.carried(named, None)
    assert (wrapped.__name__, wrapped.__doc__) == ("named", "Says nothing.")
