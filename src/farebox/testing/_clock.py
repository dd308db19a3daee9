"""A clock that moves only when it is told to."""

from __future__ import annotations

import threading
from datetime import UTC, datetime


class FixedClock:
    """A callable that returns epoch seconds and stands still between `tick`s.

    >>> clock = FixedClock(1_000)
    >>> clock.tick(60)
    1060.0
    >>> clock()
    1060.0
    """

    def __init__(self, now: float | datetime = 1_700_000_000.0) -> None:
        """`now` is epoch seconds or an aware datetime; the default is 2023-11-14T22:13:20Z."""
        self._lock = threading.Lock()
        self._now = _seconds(now)

    def __call__(self) -> float:
        return self._now

    @property
    def now(self) -> float:
        """Epoch seconds; may be set, to epoch seconds or an aware datetime, also backwards."""
        return self._now

    @now.setter
    def now(self, value: float | datetime) -> None:
        with self._lock:
            self._now = _seconds(value)

    def tick(self, seconds: float) -> float:
        """Move on by `seconds` (negative: back) and return the new time."""
        with self._lock:
            self._now += seconds
            return self._now

    def __repr__(self) -> str:
        return f"FixedClock({datetime.fromtimestamp(self._now, UTC).isoformat()})"


def _seconds(value: float | datetime) -> float:
    if not isinstance(value, datetime):
        return float(value)
    if value.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone; pass an aware datetime, such as datetime(..., tzinfo=UTC)")
    return value.timestamp()
