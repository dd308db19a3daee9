"""Calls whose answer said that it will be there later: they stay held until somebody asks after it."""

from __future__ import annotations

import os
from typing import Final

from farebox._call import Call

#: Beyond this many the oldest is given up.
_MOST_PENDING: Final = 10_000

_calls: dict[tuple[str, str], Call] = {}


def keep(call: Call) -> Call | None:
    """Keep `call` until its answer is asked after; returns one that is given up: the oldest, or one that nobody can ask after."""
    call.activity = None
    if not call.response_id:
        return call
    name = call.provider_name, call.response_id
    before, _calls[name] = _calls.get(name), call
    if before is not None and before is not call:
        return before  # two of one name: the answer will be of one of them
    return _calls.pop(next(iter(_calls)), None) if len(_calls) > _MOST_PENDING else None


def any_are() -> bool:
    """Whether there is anything to ask after."""
    return bool(_calls)


def find(provider_name: str, response_id: str) -> Call | None:
    """The call that an answer of this id belongs to, while it is pending."""
    return _calls.get((provider_name, response_id))


def forget(call: Call) -> bool:
    """It is being settled: True for the one who is to do it."""
    return _calls.pop((call.provider_name, call.response_id), None) is not None


os.register_at_fork(after_in_child=_calls.clear)
