"""What one row adds to a report: where it belongs, and how much it is."""

from __future__ import annotations

from typing import Final, NamedTuple

from farebox._call import UNMETERED, Call, CallRecord

#: The decision of a correction that says what a call cost whose model has no price.
PRICED: Final = "priced"


class Place(NamedTuple):
    """Where a call belongs, whenever it began.  `tags` are sorted by name."""

    provider: str
    model: str
    operation: str
    outcome: str
    tags: tuple[tuple[str, str], ...]


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
        calls=1,
        input_tokens=row.charged_input_tokens,
        output_tokens=row.charged_output_tokens,
        unpriced_calls=int(usd_nanos is None),
        estimated_calls=int(row.cost_source == "estimated" and row.operation_name != UNMETERED),
        attempts=row.attempts,
    )
