"""tokenkeeper-ai: a limit in usd per day with the action "block"; its store is a SQLite file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tokenkeeper import guard

UNIT = "usd"
ENTERS_STREAMS = False


@contextlib.contextmanager
def guarded(client: Any, limit: float) -> Iterator[tuple[Any, Callable[[], float]]]:
    guard.install(project="peers")
    guard.set_budget(daily_limit_usd=limit, action="block")
    yield client, lambda: float(guard.total_cost()[0])
    guard.uninstall()
