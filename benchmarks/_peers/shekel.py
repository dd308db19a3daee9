"""shekel: `with budget(max_usd=...)`, its hard cap."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import shekel

UNIT = "usd"
ENTERS_STREAMS = False


@contextlib.contextmanager
def guarded(client: Any, limit: float) -> Iterator[tuple[Any, Callable[[], float]]]:
    with shekel.budget(max_usd=limit) as budget:
        yield client, lambda: float(budget.spent)
