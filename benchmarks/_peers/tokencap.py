"""tokencap: `wrap(client, limit=...)`, which blocks at the limit; its limits are tokens, its store is a SQLite file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tokencap

UNIT = "tokens"
ENTERS_STREAMS = True


@contextlib.contextmanager
def guarded(client: Any, limit: float) -> Iterator[tuple[Any, Callable[[], float]]]:
    wrapped = tokencap.wrap(client, limit=int(limit), quiet=True)
    yield wrapped, lambda: float(tokencap.get_status().dimensions["session"].used)
    tokencap.teardown()
