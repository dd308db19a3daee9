"""farebox: `instrument()` once, and a budget around the calls."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import farebox

UNIT = "usd"
ENTERS_STREAMS = False


@contextlib.contextmanager
def guarded(client: Any, limit: float) -> Iterator[tuple[Any, Callable[[], float]]]:
    with farebox.instrument(), farebox.budget("peers", usd=limit, on_exceed="block"):
        yield client, lambda: float(farebox.report().total.usd)
