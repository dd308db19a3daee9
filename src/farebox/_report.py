"""Questions to the ledger: report() for sums, calls() for single calls."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any, Final

import attrs

from farebox import _config, signals
from farebox._call import DIMENSIONS, CallRecord
from farebox._money import UsdLike, plus, show_usd, to_nanos, to_usd
from farebox._tally import Amount, Place, amount, place

Since = str | timedelta | datetime | None

_TIMES: Final = ("hour", "day", "week", "month")
_SPAN_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MOST_SHOWN: Final = 20


@attrs.frozen(kw_only=True)
class ReportRow:
    """Sums over the calls of one group.

    Attributes:
        tags: The values the rows were grouped by; "" where a call has no such tag.
        usd: Spent.  `reserved_usd`: held for calls in flight; a bill is never above the two together.
        calls: Sent, in flight ones too.  `refused_calls`: not sent.
        unpriced_calls: Of `calls`, those whose model has no price: they add nothing to `usd`.
        estimated_calls: Of `calls`, those charged at a bound, because their usage is unknown.
    """

    tags: Mapping[str, str]
    usd: Decimal
    reserved_usd: Decimal
    calls: int
    refused_calls: int
    input_tokens: int
    output_tokens: int
    reserved_tokens: int
    unpriced_calls: int
    estimated_calls: int
    attempts: int

    def __getattr__(self, name: str) -> str:
        # row.feature for row.tags["feature"]; only called for names that are no field.
        if not name.startswith("_") and name in self.tags:
            return self.tags[name]
        raise AttributeError(f"a report row has no {name!r}; it has {', '.join([*self.tags, *_ROW_FIELDS])}")


_ROW_FIELDS: Final = tuple(field.name for field in attrs.fields(ReportRow))


@attrs.frozen
class _Entry:
    """One call, or the sums of many that belong to the same place."""

    place: Place
    amount: Amount
    reserved_usd_nanos: int = 0
    reserved_tokens: int = 0
    record: Any = None


class Report:
    """Rows by group, dearest first, and their total; `assert_under` makes a test of it."""

    def __init__(self, entries: list[_Entry], by: tuple[str, ...]) -> None:
        self._entries = entries
        self.by = by
        groups: dict[tuple[str, ...], list[_Entry]] = {}
        for entry in entries:
            groups.setdefault(tuple(_value(entry.place, name) for name in by), []).append(entry)
        self.rows = sorted(
            (_row(dict(zip(by, values, strict=True)), found) for values, found in groups.items()),
            key=lambda row: (plus(row.usd, row.reserved_usd).copy_negate(), tuple(row.tags.values())),
        )
        self.total = _row({}, entries)

    def __iter__(self) -> Iterator[ReportRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def assert_under(
        self,
        *,
        usd: UsdLike | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        where: Mapping[str, str] | None = None,
        allow_empty: bool = False,
        **tags: str,
    ) -> None:
        """Fail unless spent and reserved together are at most the given amounts.

        Args:
            usd, tokens, calls: At most so much; give at least one.
            where, **tags: Only the calls with these tags, or built-in dimensions such as `model`.
            allow_empty: Pass although nothing was measured.

        Raises:
            AssertionError: more than that, a call without a price under `usd`, or no call at all.
            ValueError: no limit given, or a negative one.
        """
        if usd is None and tokens is None and calls is None:
            raise ValueError(
                "assert_under needs a limit; give usd=, tokens= or calls=, such as assert_under(usd='0.05')"
            )
        for name, value in (("tokens", tokens), ("calls", calls)):
            if value is not None and (type(value) is not int or value < 0):
                raise ValueError(f"{name}={value!r} is no limit; give a whole number, 0 or more")
        most = None if usd is None else to_usd(to_nanos(usd, "usd"))
        asked = {**(where or {}), **tags}
        part = Report([entry for entry in self._entries if _matches(entry.place, asked)], self.by or ("model",))
        total = part.total
        what = f" of {', '.join(f'{name}={value}' for name, value in asked.items())}" if asked else ""
        if not total.calls and not allow_empty:
            seen = sorted({f"{name}={value}" for entry in self._entries for name, value in entry.place.tags})[
                :_MOST_SHOWN
            ]
            raise AssertionError(
                f"no call{what} was measured; is it instrumented? (allow_empty=True lets this pass)"
                + (f"\ntags seen: {', '.join(seen)}" if seen else "")
            )
        faults = []
        if most is not None:
            spent = plus(total.usd, total.reserved_usd)
            if spent > most:
                faults.append(f"{spent:f} USD is more than {most:f} USD")
            if total.unpriced_calls:
                faults.append(f"{total.unpriced_calls} calls have no price, so their cost is unknown")
        used = total.input_tokens + total.output_tokens + total.reserved_tokens
        if tokens is not None and used > tokens:
            faults.append(f"{used} tokens are more than {tokens}")
        if calls is not None and total.calls > calls:
            faults.append(f"{total.calls} calls are more than {calls}")
        if faults:
            raise AssertionError(f"calls{what}: {'; '.join(faults)}\n{part}{part._dearest()}")

    def _dearest(self) -> str:
        records = [entry.record for entry in self._entries if entry.record is not None and entry.record.cost_usd_nanos]
        if not records:
            return ""
        call = max(records, key=lambda found: found.cost_usd_nanos)
        return (
            f"\ndearest call: {call.call_id} {call.model} {show_usd(call.cost_usd_nanos)} USD, "
            f"{call.charged_input_tokens} tokens in, {call.charged_output_tokens} out, {call.outcome}"
        )

    def __str__(self) -> str:
        return _table(self)

    def __repr__(self) -> str:
        return f"<Report by {', '.join(self.by) or 'nothing'}: {len(self.rows)} rows, {self.total.usd:f} USD>"


def report(by: str | Iterable[str] = (), *, since: Since = None, where: Mapping[str, str] | None = None) -> Report:
    """What was spent, and is held for calls in flight, by this process's ledger.

    Args:
        by: Tags, and built-in dimensions: provider, model, operation, outcome, hour, day, week, month (UTC).
        since: `"7d"`, `"1h"`, a timedelta, or an aware datetime.  Calls that began then or later; of calls so old that they
            were folded into sums, those whose hour, day or month did.
        where: Only calls with these tags or dimensions; a trailing `*` matches any ending.

    Raises:
        ValueError: a span that can't be read.
    """
    names = (by,) if isinstance(by, str) else tuple(by)
    return Report(_entries(since, where or {}), names)


def calls(*, since: Since = None, where: Mapping[str, str] | None = None) -> list[CallRecord]:
    """The single calls that the ledger still keeps one by one, refused ones and those in flight too, oldest first."""
    found = [entry.record for entry in _entries(since, where or {}) if entry.record is not None]
    return [CallRecord.of(call) for call in sorted(found, key=lambda call: call.number)]


def _entries(since: Since, where: Mapping[str, str]) -> list[_Entry]:
    signals.settle_late_calls()
    snapshot = _config.state().ledger.snapshot()
    entries = [_Entry(place(call), amount(call), record=call) for call in snapshot.rows]
    entries += [
        _Entry(place(call), Amount(calls=1, attempts=call.attempts), grant.usd_nanos, grant.tokens, call)
        for call, grant in snapshot.in_flight
        if call is not None
    ]
    entries += [
        _Entry(key if isinstance(key, Place) else Place("ever", 0, "", "", "", "", ()), Amount(*sums))
        for key, sums in snapshot.totals.items()
    ]
    earliest = _earliest(since)
    return [
        entry
        for entry in entries
        if (entry.record.started_at_seconds if entry.record is not None else entry.place.seconds) >= earliest
        and _matches(entry.place, where)
    ]


def _earliest(since: Since) -> float:
    if since is None:
        return float("-inf")
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise ValueError(
                f"since={since!r} has no time zone; write datetime.now(UTC) - timedelta(hours=1), or since='1h'"
            )
        return since.timestamp()
    if isinstance(since, timedelta):
        return datetime.now(UTC).timestamp() - since.total_seconds()
    parts = re.fullmatch(r"(\d{1,6})([smhdw])", str(since))
    if parts is None:
        raise ValueError(f"since={since!r} is no span; write a number and s, m, h, d or w, such as since='7d'")
    return datetime.now(UTC).timestamp() - int(parts[1]) * _SPAN_SECONDS[parts[2]]


def _value(where: Place, name: str) -> str:
    if name in _TIMES:
        return _bucket(where, name)
    if name in DIMENSIONS:
        return str(getattr(where, name))
    return dict(where.tags).get(name, "")


def _bucket(where: Place, name: str) -> str:
    if where.precision == "ever":
        return "earlier"
    start = datetime.fromtimestamp(where.seconds, UTC)
    if name == "month":
        return f"{start:%Y-%m}"
    if where.precision == "month" or (where.precision == "day" and name == "hour"):
        return "earlier"
    if name == "week":
        year, week, _ = start.isocalendar()
        return f"{year}-W{week:02}"
    return f"{start:%Y-%m-%d}" if name == "day" else f"{start:%Y-%m-%dT%H}:00Z"


def _matches(where: Place, asked: Mapping[str, str]) -> bool:
    return all(fnmatchcase(_value(where, name), _pattern(str(value))) for name, value in asked.items())


def _pattern(value: str) -> str:
    """Only a trailing `*` is special."""
    stem, star = (value[:-1], "*") if value.endswith("*") else (value, "")
    return re.sub(r"([*?[])", r"[\1]", stem) + star


def _row(tags: dict[str, str], entries: Iterable[_Entry]) -> ReportRow:
    total, usd_nanos, tokens = Amount(), 0, 0
    for entry in entries:
        total = total.plus(entry.amount)
        usd_nanos += entry.reserved_usd_nanos
        tokens += entry.reserved_tokens
    fields = total._asdict()
    return ReportRow(
        tags=tags,
        usd=to_usd(fields.pop("usd_nanos")),
        reserved_usd=to_usd(usd_nanos),
        reserved_tokens=tokens,
        **fields,
    )


_COLUMNS: Final = ("calls", "refused_calls", "input_tokens", "output_tokens", "usd", "reserved_usd")


def _table(of: Report) -> str:
    """Columns for people: the groups, then the sums, then a total."""
    shown = of.rows[:_MOST_SHOWN]
    lines = [[*of.by, "calls", "refused", "tokens in", "tokens out", "usd", "reserved"]]
    lines += [[*(value or "-" for value in row.tags.values()), *_cells(row)] for row in shown]
    if len(of.rows) > len(shown):
        lines.append([f"({len(of.rows) - len(shown)} more)", *[""] * (len(lines[0]) - 1)])
    if of.by:
        lines.append(["total", *[""] * (len(of.by) - 1), *_cells(of.total)])
    else:
        lines = [lines[0], _cells(of.total)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.ljust(w) if n < len(of.by) else cell.rjust(w)
            for n, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    notes = [
        f"{getattr(of.total, name)} {name.replace('_', ' ')}"
        for name in ("unpriced_calls", "estimated_calls")
        if getattr(of.total, name)
    ]
    return "\n".join([*(line.rstrip() for line in text), *(["of which " + ", ".join(notes)] if notes else [])])


def _cells(row: ReportRow) -> list[str]:
    return [f"{getattr(row, name):f}" if name.endswith("usd") else str(getattr(row, name)) for name in _COLUMNS]
