"""tokenkeeper-ai without its cache: what was spent is read again for each call, not every five seconds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tokenkeeper import guard

from _peers import tokenkeeper

UNIT = tokenkeeper.UNIT
ENTERS_STREAMS = tokenkeeper.ENTERS_STREAMS


@contextlib.contextmanager
def guarded(client: Any, limit: float) -> Iterator[tuple[Any, Callable[[], float]]]:
    with tokenkeeper.guarded(client, limit) as both:
        guard.guard_instance().cache_ttl = 0
        yield both
