"""Calls whose answer said that it will be there later: they stay held until somebody asks after it."""

from __future__ import annotations

import os
from typing import Final, Protocol

from farebox._call import Call

#: Beyond this many the oldest is given up.
_MOST_PENDING: Final = 10_000

_calls: dict[tuple[str, str], Call] = {}


class Elsewhere(Protocol):
    """Where other processes leave their pending calls, and find those of this one.  None of it raises."""

    def leave(self, call: Call) -> None:
        """This one is pending here.  Waits for nothing."""

    def find(self, provider_name: str, response_id: str) -> Call | None:
        """The call that waits for this answer, made anew."""
        ...

    async def afind(self, provider_name: str, response_id: str) -> Call | None:
        """As `find`, without standing in the way of an event loop."""
        ...

    def take(self, call: Call) -> bool:
        """One that was found is being settled: True for the one who is to do it."""
        ...


_elsewhere: Elsewhere | None = None


def share_with(elsewhere: Elsewhere) -> None:
    """Have pending calls known to other processes too."""
    global _elsewhere
    _elsewhere = elsewhere


def keep(call: Call) -> Call | None:
    """Keep `call` until its answer is asked after; returns one that is given up: the oldest, or one that nobody can ask after."""
    call.activity = None
    if not call.response_id:
        return call
    name = call.provider_name, call.response_id
    before, _calls[name] = _calls.get(name), call
    if _elsewhere is not None:
        _elsewhere.leave(call)
    if before is not None and before is not call:
        return before  # two of one name: the answer will be of one of them
    return _calls.pop(next(iter(_calls)), None) if len(_calls) > _MOST_PENDING else None


def find(provider_name: str, response_id: str) -> Call | None:
    """The pending call that an answer of this id belongs to, of this process or another; None where the id is ""."""
    call = _calls.get((provider_name, response_id))
    if call is not None or not response_id or _elsewhere is None:
        return call
    return _elsewhere.find(provider_name, response_id)


async def afind(provider_name: str, response_id: str) -> Call | None:
    """As `find`, for a task."""
    call = _calls.get((provider_name, response_id))
    if call is not None or not response_id or _elsewhere is None:
        return call
    return await _elsewhere.afind(provider_name, response_id)


def forget(call: Call) -> bool:
    """It is being settled: True for the one who is to do it."""
    if _calls.pop((call.provider_name, call.response_id), None) is not None:
        return True
    return _elsewhere is not None and _elsewhere.take(call)


os.register_at_fork(after_in_child=_calls.clear)
