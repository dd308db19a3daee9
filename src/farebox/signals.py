"""The bus: where the SDKs and the budgets meet, and where anybody may listen.

    pre_call    before a call is sent           f(provider_name, call)   raising stops the call, nothing is sent
    pre_retry   before a failed attempt's retry  f(provider_name, call)   raising stops the retry
    post_call   after a call has ended          f(provider_name, call)   raising is logged, never reaches the program
    decision    a call was refused, capped, cut, waited or let go past a limit   f(budget_name, decision)
    threshold   spent has reached a rung of `at=`, once per window   f(budget_name, threshold)

    >>> from farebox import signals
    >>> @signals.post_call.connect
    ... def log_cost(provider_name, call):
    ...     print(call.request_model, call.cost_usd)
    >>> signals.post_call.disconnect(log_cost)

`sender` is the provider's name, so `signals.post_call.connect(f, sender="openai")` hears one provider.  Receivers are held
weakly, as everywhere in blinker (pass `weak=False` for a lambda), and run in the order in which they were connected.
Enforcement is not one of them: it runs before the first, and can be neither disconnected nor muted.  It is loaded when the
first call of a process is about to be metered, or else by the first thing that is sent.
"""

from __future__ import annotations

import atexit
import inspect
import itertools
import logging
import os
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import blinker

from farebox._call import Call

_logger = logging.getLogger("farebox")

Receiver = Callable[..., Any]

_connected = itertools.count()


class _Ordered(dict[Any, int]):
    """The set of receiver ids that blinker keeps, iterated in the order in which they were connected."""

    def add(self, item: Any) -> None:
        self.setdefault(item, next(_connected))

    def discard(self, item: Any) -> None:
        self.pop(item, None)

    def __or__(self, other: Any) -> Any:
        both = {**self, **{item: min(place, self.get(item, place)) for item, place in other.items()}}
        return dict(sorted(both.items(), key=lambda pair: pair[1]))


def _nothing(sender: Any, call: Any = None, **fields: Any) -> None:
    """What is enforced on a channel that nobody enforces anything on."""


class Channel(blinker.Signal):
    """A blinker signal with a fixed first receiver, an order, and a fence around the others.

    Attributes:
        faults: How often a receiver of a fenced channel has raised.
    """

    set_class = _Ordered  # type: ignore[assignment]

    def __init__(self, doc: str, *, fenced: bool, enforced: bool = False) -> None:
        super().__init__(doc)
        self.faults = 0
        self._fenced = fenced
        self._enforce: Receiver = self._enforce_first if enforced else _nothing
        self._blamed: dict[tuple[int, int], Callable[[], Any]] = {}

    def enforce_with(self, receiver: Receiver) -> None:
        """Make `receiver` the one that runs before all others; enforcement does so once, when it is imported."""
        self._enforce = receiver

    def _enforce_first(self, *sent: Any, **fields: Any) -> Any:
        """Stands in for enforcement until something is sent: nothing passes without it."""
        import farebox._enforce  # noqa: F401, takes this one's place

        return self._enforce(*sent, **fields)

    def send(self, sender: Any = None, /, **fields: Any) -> list[tuple[Receiver, Any]]:
        """Call enforcement, then every receiver.

        A coroutine function among the receivers is run to its end here if it never suspends, and is a TypeError if it does.
        """
        self._enforce(sender, **fields)
        return self._tell(sender, fields) if self.receivers else []

    async def send_async(self, sender: Any = None, /, **fields: Any) -> list[tuple[Receiver, Any]]:
        """As `send`, awaiting what enforcement and each receiver return before the next one is called."""
        waiting = self._enforce(sender, **fields)
        if waiting is not None:
            await waiting
        return await self._tell_in_turn(sender, fields) if self.receivers else []

    def publish(self, call: Call) -> None:
        """`send(call.provider_name, call=call)`, for what every call goes through: no more than enforcement if nobody listens."""
        self._enforce(call.provider_name, call)
        if self.receivers:
            self._tell(call.provider_name, {"call": call})

    def publish_async(self, call: Call) -> Awaitable[Any] | None:
        """As `publish`; what comes back is to be awaited."""
        waiting: Awaitable[Any] | None = self._enforce(call.provider_name, call)
        return self._tell_after(waiting, call) if self.receivers else waiting

    async def _tell_after(self, waiting: Awaitable[Any] | None, call: Call) -> None:
        if waiting is not None:
            await waiting
        await self._tell_in_turn(call.provider_name, {"call": call})

    def _tell(self, sender: Any, fields: dict[str, Any]) -> list[tuple[Receiver, Any]]:
        answers: list[tuple[Receiver, Any]] = []
        for receiver in () if self.is_muted else self.receivers_for(sender):
            try:
                answer = receiver(sender, **fields)
                answers.append((receiver, _finish(receiver, answer) if inspect.iscoroutine(answer) else answer))
            except Exception as error:
                self._blame(receiver, error)
        return answers

    async def _tell_in_turn(self, sender: Any, fields: dict[str, Any]) -> list[tuple[Receiver, Any]]:
        answers: list[tuple[Receiver, Any]] = []
        for receiver in () if self.is_muted else self.receivers_for(sender):
            try:
                answer = receiver(sender, **fields)
                answers.append((receiver, await answer if inspect.isawaitable(answer) else answer))
            except Exception as error:
                self._blame(receiver, error)
        return answers

    def _blame(self, receiver: Receiver, error: Exception) -> None:
        if not self._fenced:
            raise error
        self.faults += 1
        # A bound method is a new object each time it is asked for: it is known by its function and its owner.
        owner = getattr(receiver, "__self__", receiver)
        known = (id(getattr(receiver, "__func__", receiver)), id(owner))
        blamed = self._blamed.get(known)
        if blamed is None or blamed() is not owner:  # the address of one that is gone is used again
            self._blamed[known] = _reference(owner)
            name = getattr(receiver, "__qualname__", type(receiver).__name__)
            # The message of a foreign error may quote a prompt: its class is enough to find it.
            _logger.error("receiver %s raised %s; logged once, the call is not affected", name, type(error).__name__)


def _reference(thing: Any) -> Callable[[], Any]:
    """Something that gives `thing` while it is there; what can't be referred to weakly is kept."""
    try:
        return weakref.ref(thing)
    except TypeError:
        return lambda: thing


def _finish(receiver: Receiver, coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    name = getattr(receiver, "__qualname__", type(receiver).__name__)
    raise TypeError(f"receiver {name} awaits, but this call is synchronous; connect a plain function")


pre_call: Final = Channel("Before a call is sent.", fenced=False, enforced=True)
pre_retry: Final = Channel("Before an attempt that failed is tried again.", fenced=False, enforced=True)
post_call: Final = Channel("After a call has ended and was paid.", fenced=True, enforced=True)
instrumented: Final = Channel("Calls of a provider are about to be metered.", fenced=False, enforced=True)
decision: Final = Channel("A budget has spoken.", fenced=True)
threshold: Final = Channel("Spent has reached a rung of a budget.", fenced=True)


# Calls that ended in a finalizer: it may run in the middle of anything, so it only appends, and whoever is next to use the
# books settles them first.
late_calls: Final[deque[Call]] = deque()


def settle_late(call: Call) -> None:
    """Have `call` settled by the next one to use the ledger.  Safe in a finalizer: takes no lock, runs no other code."""
    late_calls.append(call)


def settle_late_calls() -> None:
    """Publish the end of every call that a finalizer left."""
    while late_calls:
        try:
            call = late_calls.popleft()
        except IndexError:
            return
        post_call.publish(call)


atexit.register(settle_late_calls)
os.register_at_fork(after_in_child=late_calls.clear)
