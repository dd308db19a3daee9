"""Questions to the ledger about single calls: calls(), and which are behind a row of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC
from itertools import islice
from typing import Final, cast

from farebox import _config, signals
from farebox._asked import Since, earliest_second, matcher_of, moment_of, reader_of
from farebox._buckets import TIMES, Buckets, Time
from farebox._call import Call, CallRecord
from farebox._tally import Place
from farebox._windows import read_zone
from farebox.ledgers import Ledger, Sum

#: Rows to look at for the calls behind a row: somebody waits for them at a terminal.
_MOST_LISTED: Final = 20_000


def calls(*, since: Since = None, where: Mapping[str, str] | None = None) -> list[CallRecord]:
    """The single calls that the ledger still keeps one by one, refused ones and those in flight too, oldest first.

    `farebox.export` has the same without holding all of them in memory.

    Args:
        since, where: As in `report`.

    Raises:
        ValueError: a span that can't be read.
        LedgerUnavailable: the ledger did not answer.
    """
    return sorted(find_calls(since, where), key=lambda call: (call.started_at, call.call_id))


def find_calls(since: Since = None, where: Mapping[str, str] | None = None) -> Iterator[CallRecord]:
    """As `calls`, one at a time: in the order they ended, and then those in flight."""
    earliest, matches = earliest_second(since), matcher_of(where or {}, Buckets(UTC))

    def find(ledger: Ledger) -> Iterator[CallRecord]:
        signals.settle_late_calls()
        # In flight first: a call that ends meanwhile is then in both, and is told once.
        in_flight = {call.call_id: _record(call) for call, _ in ledger.in_flight() if call is not None}
        for row in ledger.rows(earliest):
            in_flight.pop(row.call_id, None)
            if matches is None or matches(moment_of(row)):
                yield _record(row)
        for record in in_flight.values():
            moment = moment_of(record)
            if (earliest is None or moment.starts_at >= earliest) and (matches is None or matches(moment)):
                yield record

    return find(_config.state().ledger)


def calls_behind(
    group: Mapping[str, str], *, since: Since, where: Mapping[str, str], tz: str, most: int
) -> list[CallRecord]:
    """The calls of one row of a report: those in flight, and the `most` dearest, as far as they are kept and among the dearest.

    Args:
        group: The `tags` of the row.
        since, where, tz: Those of the report.
    """
    buckets, earliest = Buckets(read_zone(tz)), earliest_second(since)
    matches = matcher_of(where, buckets)
    readers = {name: reader_of(name) for name in group if name not in TIMES}

    def is_in(moment: Sum) -> bool:
        if matches is not None and not matches(moment):
            return False
        return all(
            (readers[name](cast("Place", moment.place)) if name in readers else _time(buckets, name, moment)) == value
            for name, value in group.items()
        )

    signals.settle_late_calls()
    ledger = _config.state().ledger
    open_calls = (call for call, _ in ledger.in_flight() if call is not None)
    found = [_record(call) for call in open_calls if earliest is None or call.started_at_seconds >= earliest]
    found = [call for call in found if is_in(moment_of(call))]
    ended = islice(ledger.rows(earliest, dearest_first=True), _MOST_LISTED)
    known = {call.call_id for call in found}
    found += islice((_record(row) for row in ended if row.call_id not in known and is_in(moment_of(row))), most)
    return found


def _time(buckets: Buckets, name: str, moment: Sum) -> str:
    return buckets[cast("Time", name)].name(moment.span, moment.starts_at)


def find_call(call_id: str) -> list[CallRecord]:
    """The call of that id, ended or in flight, and corrections of it; [] where it is not kept."""
    signals.settle_late_calls()
    ledger = _config.state().ledger
    in_flight = [_record(call) for call, _ in ledger.in_flight() if getattr(call, "call_id", None) == call_id]
    return [_record(row) for row in ledger.rows_of(call_id)] or in_flight


def _record(row: Call | CallRecord) -> CallRecord:
    return CallRecord.of(row) if isinstance(row, Call) else row
