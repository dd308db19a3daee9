"""Rows that any ledger can keep, those that write them down too: (when the call began, where it belongs, what it cost)."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from typing import Any

from farebox.ledgers import Grant, PlaceParts, RowForm, Span, Sum

#: Epoch seconds, place, nanodollars.  A call in flight is one too: what it costs is not known yet, and 0.
Row = tuple[float, str, int]


def sum_of(row: Row) -> Sum:
    """Nanodollars, and how many rows."""
    began_at, place, usd_nanos = row
    return Sum("second", int(began_at), place, (usd_nanos, 1))


def id_of(row: Row) -> str:
    """Its place, for want of anything else."""
    return row[1]


def coarser(span: Span, starts_at: int, place: Hashable) -> tuple[Span, int, Hashable]:
    """In time first, then in place: all places are one in the end."""
    if span in ("second", "quarter"):
        return "hour", starts_at // 3_600 * 3_600, place
    if span == "hour":
        return "day", starts_at // 86_400 * 86_400, place
    if span == "day":
        first = datetime.fromtimestamp(starts_at, UTC).replace(day=1)
        return "month", int(first.timestamp()) // 86_400 * 86_400, place
    return "ever", 0, place if span == "month" else "everywhere"


def load(text: str) -> Row:
    began_at, place, usd_nanos = json.loads(text)
    return began_at, place, usd_nanos


def presumed(call: Any, grant: Grant) -> Row:
    began_at, place, _ = call
    return began_at, place, grant.usd_nanos


def part_of(place: Hashable, names: Sequence[str]) -> Hashable:
    """Its one part is called "place"; there are no others."""
    return place if "place" in names else "anywhere"


def part(names: Sequence[str], values: Sequence[str | None]) -> Hashable:
    return dict(zip(names, values, strict=True)).get("place", "anywhere")


FORM = RowForm(
    sum_of=sum_of,
    id_of=id_of,
    coarser=coarser,
    dump=json.dumps,
    load=load,
    dump_place=json.dumps,
    load_place=json.loads,
    presumed=presumed,
    parts=PlaceParts(of=part_of, make=part, path=lambda name: "$" if name == "place" else None),
)
