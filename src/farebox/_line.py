"""Waiting in line for calls in flight to settle: one thread or one task at a time, and only when money is short.

The ledger keeps the line and hands money over; here is how a thread parks and how a task does.  `Line` is what a generator
yields when it wants to wait; `drive_thread` and `drive_task` run such a generator, and differ only in how they wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Final

import attrs

from farebox import signals
from farebox._call import Call
from farebox.ledgers import Account, Answer, Ledger, Need, Shortfall, Ticket

#: How often a waiting call looks whether those it waits for still move, in seconds.
_TICK_SECONDS: Final = 0.25


@attrs.frozen(eq=False, kw_only=True)
class Line:
    """A wait for calls in flight to settle: whose, for what, and for how long at most."""

    call: Call
    ledger: Ledger
    accounts: tuple[Account, ...]
    need: Need
    owner: object
    forced: tuple[Account, ...]
    short: Shortfall
    seconds: float
    renew: Callable[[], Need] | None = None

    def enter(self, wake: Callable[[], None]) -> Answer | Ticket:
        return self.ledger.park(
            self.call.number,
            self.accounts,
            self.need,
            owner=self.owner,
            call=self.call,
            forced=self.forced,
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
        self.ledger.release_later(self.call.number)  # a task that waits may be collected at any moment


Steps = Generator[Line, Answer, None]


def drive_thread(steps: Steps) -> None:
    """Run `steps` to its end, parking this thread wherever it wants to wait."""
    answer: Answer | None = None
    while True:
        try:
            line = next(steps) if answer is None else steps.send(answer)
        except StopIteration:
            return
        try:
            answer = _wait_thread(line)
        except BaseException as error:
            steps.throw(error)
            raise


async def drive_task(steps: Steps) -> None:
    """Run `steps` to its end, parking this task wherever it wants to wait."""
    answer: Answer | None = None
    while True:
        try:
            line = next(steps) if answer is None else steps.send(answer)
        except StopIteration:
            return
        try:
            answer = await _wait_task(line)
        except BaseException as error:
            steps.throw(error)
            raise


def _wait_thread(line: Line) -> Answer:
    import asyncio  # here and not above: it is the slowest import of all, and few calls ever wait

    if line.seconds <= 0 or asyncio._get_running_loop() is not None:
        return line.short  # a thread that runs an event loop must not stand still
    woken = threading.Lock()
    woken.acquire()
    deadline = line.deadline()
    try:
        ticket = line.enter(woken.release)
        if not isinstance(ticket, Ticket):
            return ticket
        while ticket.answer is None and (left := deadline - time.monotonic()) > 0:
            if not woken.acquire(timeout=min(left, _TICK_SECONDS)) and not line.is_moving(ticket):
                break
    except BaseException:
        line.abandon()
        raise
    return line.leave(ticket)


async def _wait_task(line: Line) -> Answer:
    import asyncio

    loop = asyncio._get_running_loop()
    if line.seconds <= 0 or loop is None:
        return line.short  # under another event loop there is no way to park
    woken = asyncio.Event()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(woken.set)
        except RuntimeError:  # the loop is gone, and with it whoever waited
            line.ledger.release(line.call.number)

    deadline = line.deadline()
    try:
        ticket = line.enter(wake)
        if not isinstance(ticket, Ticket):
            return ticket
        while ticket.answer is None and (left := deadline - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left, _TICK_SECONDS)):
                    await woken.wait()
            except TimeoutError:
                if not line.is_moving(ticket):
                    break
    except BaseException:
        line.abandon()
        raise
    return line.leave(ticket)
