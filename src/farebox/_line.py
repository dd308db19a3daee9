"""Waiting, for calls in flight to settle, for a window to turn, or for a store to answer: one thread or one task at a time.

A generator yields what it waits for: a `Line` for money, a `Pause` until an instant, or a `Work` that must not run on an
event loop.  `drive_thread` and `drive_task` run such a generator, and differ only in how they wait.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, Final

import attrs

from farebox import _loops, signals
from farebox._call import Call
from farebox.ledgers import Account, Answer, Ledger, Need, Shortfall, Ticket

#: How often a waiting call looks whether those it waits for still move, in seconds.
_TICK_SECONDS: Final = 0.25


@attrs.frozen(eq=False, kw_only=True)
class Line:
    """A wait for calls in flight to settle: whose, for what, and for how long at most."""

    call: Call
    hold_id: int
    ledger: Ledger
    accounts: tuple[Account, ...]
    need: Need
    owner: object
    forced: tuple[Account, ...]
    crossing: tuple[Account, ...]
    short: Shortfall
    seconds: float
    renew: Callable[[], Need] | None = None

    def enter(self, wake: Callable[[], None]) -> Answer | Ticket:
        return self.ledger.park(
            self.hold_id,
            self.accounts,
            self.need,
            owner=self.owner,
            call=self.call,
            forced=self.forced,
            crossing=self.crossing,
            wake=wake,
            renew=self.renew,
        )

    def deadline(self) -> float:
        own = self.call.timeout_seconds
        return time.monotonic() + (self.seconds if own is None else min(self.seconds, own))

    def is_moving(self, ticket: Ticket) -> bool:
        """Whether those in the way may still make room; looked at on each tick."""
        signals.settle_late_calls()
        return ticket.answer is not None or self.ledger.still_hopeful(ticket)

    def leave(self, ticket: Ticket) -> Answer:
        """Out of the line with what came of it: a grant, also one that came at the last moment, or the shortfall."""
        grant = self.ledger.unpark(ticket)
        return grant or (ticket.answer if isinstance(ticket.answer, Shortfall) else self.short)

    def abandon(self) -> None:
        """Out of the line for good, wherever the wait was cut short: a grant that came at the last moment goes back."""
        self.ledger.release_later(self.hold_id)  # a task that waits may be collected at any moment


@attrs.frozen(eq=False)
class Work:
    """Something a store is asked, which may take a while.

    `undo` takes back what came of it, where the one who asked was cancelled meanwhile.
    """

    run: Callable[[], Any]
    undo: Callable[[], object]


@attrs.frozen(eq=False)
class Pause:
    """Nothing, for so many seconds."""

    seconds: float


Steps = Generator[Line | Work | Pause, Any, Any]


def drive_thread(steps: Steps) -> None:
    """Run `steps` to its end, and let this thread wait wherever it wants to."""
    step: Callable[[], Line | Work | Pause] = functools.partial(next, steps)
    while True:
        try:
            wish = step()
        except StopIteration:
            return
        try:
            answer = _wait_thread(wish) if isinstance(wish, Line) else _do_in_thread(wish)
        except BaseException as error:
            step = functools.partial(steps.throw, error)
        else:
            step = functools.partial(steps.send, answer)


async def drive_task(steps: Steps) -> None:
    """Run `steps` to its end, and let this task wait wherever it wants to."""
    step: Callable[[], Line | Work | Pause] = functools.partial(next, steps)
    while True:
        try:
            wish = step()
        except StopIteration:
            return
        try:
            answer = await (_wait_task(wish) if isinstance(wish, Line) else _do_in_task(wish))
        except BaseException as error:
            step = functools.partial(steps.throw, error)
        else:
            step = functools.partial(steps.send, answer)


def _do_in_thread(wish: Work | Pause) -> Any:
    if isinstance(wish, Work):
        return wish.run()
    if _loops.running() is None:  # a thread that runs an event loop must not stand still
        time.sleep(wish.seconds)
    return None


async def _do_in_task(wish: Work | Pause) -> Any:
    loop = _loops.running()
    if loop is None:  # under a loop that we do not know there is nobody to hand it to, and no way to wait
        return wish.run() if isinstance(wish, Work) else None
    if isinstance(wish, Pause):
        return await loop.sleep(wish.seconds)
    return await _off_loop(loop, wish)


#: Threads that ask stores for event loops: their own, since a program may have filled up the loop's.
_askers: Any = None
_MOST_ASKERS: Final = 32


def _forget_askers() -> None:
    global _askers
    _askers = None


os.register_at_fork(after_in_child=_forget_askers)


def in_background(run: Callable[[], object]) -> Any:
    """Have one of these threads do it; returns its `concurrent.futures.Future`."""
    global _askers
    if _askers is None:
        from concurrent.futures import ThreadPoolExecutor

        _askers = ThreadPoolExecutor(_MOST_ASKERS, thread_name_prefix="farebox-ask")
    try:
        return _askers.submit(run)
    except RuntimeError:  # the main thread has ended, and no pool takes anything any more; other threads go on
        return _done_here(run)


def _done_here(run: Callable[[], object]) -> Any:
    from concurrent.futures import Future

    done: Future[object] = Future()
    try:
        done.set_result(run())
    except Exception as error:
        done.set_exception(error)
    return done


async def _off_loop(loop: _loops.Loop, work: Work) -> Any:
    """Have another thread do it.  Where this task is cancelled meanwhile, what comes of it is taken back."""
    job = in_background(work.run)
    try:
        return await loop.result_of(job)
    except BaseException:
        if not job.cancel():
            job.add_done_callback(lambda done: work.undo())
        raise


def _wait_thread(line: Line) -> Answer:
    if line.seconds <= 0 or _loops.running() is not None:
        return line.short  # a thread that runs an event loop must not stand still
    woken = threading.Lock()
    woken.acquire()
    deadline = line.deadline()
    try:
        ticket = line.enter(woken.release)
        if not isinstance(ticket, Ticket):
            return ticket
        _stand(line, ticket, woken, deadline)
    except BaseException:
        line.abandon()
        raise
    return line.leave(ticket)


def _stand(line: Line, ticket: Ticket, woken: threading.Lock, deadline: float) -> None:
    """Until there is an answer, or none to be waited for."""
    while ticket.answer is None and (left := deadline - time.monotonic()) > 0:
        if not woken.acquire(timeout=min(left, _TICK_SECONDS)) and not line.is_moving(ticket):
            return


async def _wait_task(line: Line) -> Answer:
    loop = _loops.running()
    if line.seconds <= 0 or loop is None:
        return line.short  # under a loop that we do not know there is no way to park
    bell = loop.bell()

    def wake() -> None:
        try:
            bell.ring()
        except RuntimeError:  # the loop is gone, and with it whoever waited
            line.ledger.release_later(line.hold_id)

    deadline = line.deadline()
    try:
        if line.ledger.blocking:
            ticket: Answer | Ticket = await _off_loop(loop, Work(functools.partial(line.enter, wake), line.abandon))
        else:
            ticket = line.enter(wake)
        if not isinstance(ticket, Ticket):
            return ticket
        await _stand_by(line, ticket, bell, deadline)
    except BaseException:
        line.abandon()
        raise
    return line.leave(ticket)


async def _stand_by(line: Line, ticket: Ticket, bell: _loops.Bell, deadline: float) -> None:
    """As `_stand`."""
    while ticket.answer is None and (left := deadline - time.monotonic()) > 0:
        if not await bell.is_heard(min(left, _TICK_SECONDS)) and not line.is_moving(ticket):
            return
