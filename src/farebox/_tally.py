"""What a call adds to a report: where it belongs, and how much it is.

A memory ledger keeps the newest rows one by one and folds older ones into sums, by hour at first, then by day, by month, and
in the end for all time: memory stops growing, and totals never lose a nano.
"""

from __future__ import annotations

from collections.abc import Hashable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from farebox._call import Call

_HOUR_SECONDS: Final = 3_600
#: How exactly a place in time is known, the finest first.
_COARSER: Final = {"hour": "day", "day": "month", "month": "ever"}


class Place(NamedTuple):
    """Where a call belongs.  `seconds` is the start of its hour, day or month (UTC), 0 for "ever"."""

    precision: str
    seconds: int
    provider: str
    model: str
    operation: str
    outcome: str
    tags: tuple[tuple[str, str], ...]


class Amount(NamedTuple):
    """How much it is.  `calls` were sent, `refused_calls` were not; the counts below them are parts of `calls`."""

    usd_nanos: int = 0
    calls: int = 0
    refused_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unpriced_calls: int = 0
    estimated_calls: int = 0
    attempts: int = 0

    def plus(self, other: Amount) -> Amount:
        return Amount(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def place(call: Call) -> Place:
    """Where `call` belongs."""
    hour = int(call.started_at_seconds) // _HOUR_SECONDS * _HOUR_SECONDS
    tags = tuple(sorted(call.tags.items()))
    return Place("hour", hour, call.provider_name, call.model, call.operation_name, call.outcome, tags)


def amount(call: Call) -> Amount:
    """How much `call` is, once it has ended."""
    if call.outcome in ("refused", "vetoed"):
        return Amount(refused_calls=1)
    return Amount(
        usd_nanos=call.cost_usd_nanos or 0,
        calls=1,
        input_tokens=call.charged_input_tokens,
        output_tokens=call.charged_output_tokens,
        unpriced_calls=int(call.cost_usd_nanos is None),
        estimated_calls=int(call.cost_source == "estimated"),
        attempts=call.attempts,
    )


def fold(call: Call) -> tuple[Hashable, tuple[int, ...]]:
    """For a ledger that folds old rows: the sums that a row becomes, and their key."""
    return place(call), tuple(amount(call))


def coarsen(key: Any) -> Hashable:
    """For a ledger that has too many sums: less exact in time first, then without tags."""
    if not isinstance(key, Place):
        return None
    coarser = _COARSER.get(key.precision)
    if coarser is None:
        return key._replace(tags=())
    if coarser == "ever":
        return key._replace(precision="ever", seconds=0)
    start = datetime.fromtimestamp(key.seconds, UTC).replace(hour=0, minute=0, second=0)
    if coarser == "month":
        start = start.replace(day=1)
    return key._replace(precision=coarser, seconds=int(start.timestamp()))
