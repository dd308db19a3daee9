"""Keeps threads out of SQLite while another one forks.

A child gets a copy of SQLite's own locks as they are: one held by a thread that the child has not got is held there for
ever, and its first call would never return.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: How long a fork waits for those inside; one that waits for another process's lock is not waited for.
_LONGEST_SECONDS, _PAUSE_SECONDS = 1.0, 0.000_1

#: Held from before a fork until after it.
_gate = threading.Lock()
_inside: Final[set[int]] = set()


@contextmanager
def inside_sqlite() -> Iterator[None]:
    """Around everything that calls SQLite; what waits for long stays outside."""
    thread = threading.get_ident()
    with _gate:
        _inside.add(thread)
    try:
        yield
    finally:
        _inside.discard(thread)


def _before_fork() -> None:
    _gate.acquire()
    deadline = time.monotonic() + _LONGEST_SECONDS
    while _inside - {threading.get_ident()} and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)


def _after_fork_in_parent() -> None:
    _gate.release()


def _after_fork_in_child() -> None:
    global _gate
    _gate = threading.Lock()
    _inside.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
