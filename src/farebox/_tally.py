"""What one row adds to a report: where it belongs, and how much it is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, NamedTuple

from farebox._call import BATCH, UNMETERED, Call, CallRecord

#: The decision of a correction that says what a call cost whose model has no price.
PRICED: Final = "priced"


class Place(NamedTuple):
    """Where a call belongs, whenever it began.  `tags` are sorted by name."""

    provider: str
    model: str
    operation: str
    outcome: str
    tags: tuple[tuple[str, str], ...]


class Part(Place):
    """A place of which only some is known; the rest is empty."""

    __slots__ = ()


def part_of(where: Hashable, names: Sequence[str]) -> Part:
    """Only these dimensions and tags of a place."""
    assert isinstance(where, Place)
    return part(names, [value_at(where, name) for name in names])


def part(names: Sequence[str], values: Sequence[str | None]) -> Part:
    """A place with these dimensions and tags, as far as they have a value."""
    known = {name: value for name, value in zip(names, values, strict=True) if value}
    provider, model, operation, outcome = (known.pop(name, "") for name in Place._fields[:-1])
    return Part(provider, model, operation, outcome, tuple(sorted(known.items())))


def value_at(where: Place, name: str) -> str:
    """A dimension that is no time, or a tag; "" where there is none of that name."""
    if name in Place._fields and name != "tags":
        return str(getattr(where, name))
    return next((value for tag, value in where.tags if tag == name), "")


class Amount(NamedTuple):
    """How much it is.  `calls` were sent, `refused_calls` were not; the counts below them are parts of `calls`.

    Databases have a column for each, and for no more.
    """

    usd_nanos: int = 0
    calls: int = 0
    refused_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unpriced_calls: int = 0
    estimated_calls: int = 0
    attempts: int = 0


def place(row: Call | CallRecord) -> Place:
    """Where `row` belongs."""
    return Place(row.provider_name, row.model, row.operation_name, row.outcome, tuple(sorted(row.tags.items())))


def amount(row: Call | CallRecord) -> Amount:
    """How much `row` is, once it has ended."""
    outcome, usd_nanos = row.outcome, row.cost_usd_nanos
    if outcome in ("refused", "vetoed"):
        return Amount(refused_calls=1)
    if outcome == "corrected":
        # The call was counted when it ended; if it had no price then, it has one now.
        unpriced_calls = -int(row.decision == PRICED)
        return Amount(usd_nanos or 0, 0, 0, row.charged_input_tokens, row.charged_output_tokens, unpriced_calls)
    return Amount(
        usd_nanos=usd_nanos or 0,
        calls=1 if row.operation_name != BATCH else row.messages,
        input_tokens=row.charged_input_tokens,
        output_tokens=row.charged_output_tokens,
        unpriced_calls=int(usd_nanos is None),
        estimated_calls=int(row.cost_source == "estimated" and row.operation_name != UNMETERED),
        attempts=row.attempts,
    )
