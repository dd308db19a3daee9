"""The event loop that runs here, asyncio's (or one that stands in for it, as uvloop's) or trio's, and how its tasks wait.

Nothing is imported for it: a loop that nobody has loaded doesn't run.
"""

from __future__ import annotations

import sys
import weakref
from contextlib import suppress
from typing import Any, Protocol


class Bell(Protocol):
    """What a task waits for."""

    def ring(self) -> None:
        """From any thread.  RuntimeError: its loop is gone, and with it whoever waited."""

    async def is_heard(self, seconds: float) -> bool:
        """Wait for it, and for so long at most; whether it was rung."""


class Loop(Protocol):
    """How the running task waits."""

    async def sleep(self, seconds: float) -> None: ...

    def bell(self) -> Bell: ...

    async def result_of(self, job: Any) -> Any:
        """What a `concurrent.futures.Future` comes to.  A task that is cancelled leaves it to itself."""


def running() -> Loop | None:
    """The loop that runs in this thread; None where there is none, or one that nobody here knows."""
    trio = _trio()
    if trio is not None:
        return _Trio(trio)
    asyncio = sys.modules.get("asyncio")
    loop = None if asyncio is None else asyncio._get_running_loop()
    return None if loop is None else _Asyncio(asyncio, loop)


def current_task() -> object | None:
    """Who the running task is; None where no loop runs, or one that nobody here knows."""
    asyncio = sys.modules.get("asyncio")
    task = asyncio.current_task() if asyncio is not None and asyncio._get_running_loop() is not None else None
    if task is None:
        trio = _trio()
        if trio is None:
            return None
        task = trio.lowlevel.current_task()
    owner = weakref.ref(task)  # weakly: its result may be the very stream that the hold is for
    hash(owner)  # now: of a task that is gone it can't be taken any more
    return owner


def _trio() -> Any:
    """The package, where a task of its runs here."""
    found: Any = sys.modules.get("trio")
    lowlevel = getattr(found, "lowlevel", None)  # it may just be being imported
    return found if lowlevel is not None and lowlevel.in_trio_task() else None


class _Asyncio:
    def __init__(self, asyncio: Any, loop: Any) -> None:
        self._asyncio = asyncio
        self._loop = loop

    async def sleep(self, seconds: float) -> None:
        await self._asyncio.sleep(seconds)

    def bell(self) -> Bell:
        return _AsyncioBell(self._asyncio, self._loop)

    async def result_of(self, job: Any) -> Any:
        answer = self._asyncio.wrap_future(job, loop=self._loop)
        try:
            return await self._asyncio.shield(answer)
        except BaseException:
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else will ask for it
            raise


class _AsyncioBell:
    def __init__(self, asyncio: Any, loop: Any) -> None:
        self._asyncio = asyncio
        self._loop = loop
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._loop.call_soon_threadsafe(self._event.set)

    async def is_heard(self, seconds: float) -> bool:
        try:
            async with self._asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        return True


class _Trio:
    def __init__(self, trio: Any) -> None:
        self._trio = trio

    async def sleep(self, seconds: float) -> None:
        await self._trio.sleep(seconds)

    def bell(self) -> Bell:
        return _TrioBell(self._trio)

    async def result_of(self, job: Any) -> Any:
        bell = self.bell()

        def ring(_: Any) -> None:
            with suppress(RuntimeError):
                bell.ring()

        job.add_done_callback(ring)
        await bell.is_heard(float("inf"))
        return job.result()


class _TrioBell:
    def __init__(self, trio: Any) -> None:
        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._event = trio.Event()

    def ring(self) -> None:
        self._token.run_sync_soon(self._event.set)

    async def is_heard(self, seconds: float) -> bool:
        with self._trio.move_on_after(seconds):
            await self._event.wait()
            return True
        return False
