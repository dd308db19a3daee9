"""Requests in flight, and a gate that holds them there."""

from __future__ import annotations

import threading
from collections import deque

import attrs


@attrs.define(eq=False)
class Ticket:
    """A request's place at the gate; `after_chunks` None waits before anything is billed."""

    after_chunks: int | None
    passed: threading.Event = attrs.field(factory=threading.Event)


class Gate:
    """Counts what is in flight; while held, later arrivals wait in the order they came."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._in_flight = 0
        self._held = False
        self._after_chunks: int | None = None
        self._waiting: deque[Ticket] = deque()

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def arrive(self) -> Ticket:
        with self._changed:
            self._in_flight += 1
            ticket = Ticket(self._after_chunks)
            if self._held:
                self._waiting.append(ticket)
            else:
                ticket.passed.set()
            self._changed.notify_all()
            return ticket

    def leave(self, ticket: Ticket) -> None:
        with self._changed:
            self._in_flight -= 1
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            self._changed.notify_all()

    def hold(self, after_chunks: int | None) -> None:
        with self._changed:
            self._held = True
            self._after_chunks = after_chunks

    def release(self, count: int | None = None) -> None:
        """Let the `count` earliest go on; None opens the gate for all, also for those to come."""
        with self._changed:
            if count is None:
                self._held = False
                self._after_chunks = None
                count = len(self._waiting)
            for _ in range(min(count, len(self._waiting))):
                self._waiting.popleft().passed.set()

    def wait_until(self, at_least: int | None, timeout: float) -> bool:
        """Wait until `at_least` requests are in flight, or, with None, until none is."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._in_flight == 0 if at_least is None else self._in_flight >= at_least, timeout
            )
