"""Which calls a question is about: since when, and with which dimensions and tags."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Final

from farebox._buckets import TIMES, Buckets
from farebox._call import Call, CallRecord
from farebox._tally import Place, place
from farebox.ledgers import Sum

Since = str | timedelta | datetime | None
Matches = Callable[[Sum], bool]

_SPAN_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MOST_PLACES_KNOWN: Final = 10_000


def earliest_second(since: Since) -> int | None:
    """The second from which on calls are meant, epoch seconds: rounded down, as the times of sums are."""
    if since is None:
        return None
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise ValueError(
                f"since={since!r} has no time zone; write datetime.now(UTC) - timedelta(hours=1), or since='1h'"
            )
        return math.floor(since.timestamp())
    if isinstance(since, timedelta):
        return math.floor(datetime.now(UTC).timestamp() - since.total_seconds())
    parts = re.fullmatch(r"(\d{1,6})([smhdw])", str(since))
    if parts is None:
        raise ValueError(f"since={since!r} is no span; write a number and s, m, h, d or w, such as since='7d'")
    return math.floor(datetime.now(UTC).timestamp()) - int(parts[1]) * _SPAN_SECONDS[parts[2]]


def matcher_of(where: Mapping[str, str], buckets: Buckets) -> Matches | None:
    """Says whether a sum has these tags and dimensions; None where any has."""
    asked = [(name, str(value).removesuffix("*"), str(value).endswith("*")) for name, value in where.items()]
    if not asked:
        return None
    of_place = [(reader_of(name), stem, starts) for name, stem, starts in asked if name not in TIMES]
    of_time = [(buckets[name], stem, starts) for name, stem, starts in asked if name in TIMES]

    @lru_cache(_MOST_PLACES_KNOWN)
    def fits(where: Place) -> bool:
        return all(_fits(read(where), stem, starts) for read, stem, starts in of_place)

    def matches(found: Sum) -> bool:
        return fits(found.place) and all(
            _fits(bucket.name(found.span, found.starts_at), stem, starts) for bucket, stem, starts in of_time
        )

    return matches


def _fits(value: str, stem: str, starts: bool) -> bool:
    return value.startswith(stem) if starts else value == stem


def reader_of(name: str) -> Callable[[Place], str]:
    """Reads a dimension that is no time, or a tag off a place; "" where there is none of that name."""
    if name in Place._fields and name != "tags":
        return attrgetter(name)

    def read(where: Place) -> str:
        for tag, value in where.tags:
            if tag == name:
                return value
        return ""

    return read


def moment_of(row: Call | CallRecord) -> Sum:
    """Where and when a row belongs."""
    return Sum("second", int(row.started_at_seconds), place(row), ())
