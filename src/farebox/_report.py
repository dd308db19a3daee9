"""Questions to the ledger: report() for sums, calls() for single calls."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property, lru_cache
from itertools import islice, zip_longest
from operator import attrgetter
from typing import Final, cast

import attrs

from farebox import _config, signals
from farebox._buckets import TIMES, Buckets
from farebox._call import UNMETERED, Call, CallRecord
from farebox._money import UsdLike, plus, show_usd, to_nanos, to_usd
from farebox._tally import Amount, Part, Place, place
from farebox._windows import read_zone
from farebox.ledgers import Grain, Grant, Ledger, Sum

Since = str | timedelta | datetime | None
_Figures = tuple[int, ...]

_SPAN_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MOST_SHOWN: Final = 20
_WIDTH: Final = len(Amount._fields)
_MOST_PLACES_KNOWN: Final = 10_000
#: Rows to look at for the dearest call: a test that fails should say so soon.
_MOST_LOOKED_AT: Final = 100_000


@attrs.frozen(kw_only=True)
class ReportRow:
    """Sums over the calls of one group.

    Attributes:
        tags: The values the rows were grouped by; "" where a call has no such tag.
        usd: Spent.  `reserved_usd`: held for calls in flight; a bill is never above the two together.
        calls: Sent, in flight ones too.  `refused_calls`: not sent.
        unpriced_calls: Of `calls`, those of an unknown cost, as their model has no price: they add nothing to `usd`.
        unmetered_calls: Of `unpriced_calls`, requests that may have been billed and that farebox could not read.
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
    unmetered_calls: int

    def __getattr__(self, name: str) -> str:
        # row.feature for row.tags["feature"]; only called for names that are no field.
        if not name.startswith("_") and name in self.tags:
            return self.tags[name]
        raise AttributeError(f"a report row has no {name!r}; it has {', '.join([*self.tags, *_ROW_FIELDS])}")


_ROW_FIELDS: Final = tuple(field.name for field in attrs.fields(ReportRow))


_Matches = Callable[[Sum], bool]


def _matcher(where: Mapping[str, str], buckets: Buckets) -> _Matches | None:
    """Says whether a sum has these tags and dimensions; None where any has."""
    asked = [(name, str(value).removesuffix("*"), str(value).endswith("*")) for name, value in where.items()]
    if not asked:
        return None
    of_place = [(_reader(name), stem, starts) for name, stem, starts in asked if name not in TIMES]
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


def _reader(name: str) -> Callable[[Place], str]:
    """Reads a dimension that is no time, or a tag off a place; "" where there is none of that name."""
    if name in Place._fields and name != "tags":
        return attrgetter(name)

    def read(where: Place) -> str:
        for tag, value in where.tags:
            if tag == name:
                return value
        return ""

    return read


def _grouped(sums: list[Sum], by: tuple[str, ...], buckets: Buckets) -> dict[tuple[str, ...], _Figures]:
    """What the sums of each group come to, by the values of its names.

    Tuples and ints only, and no step for nothing: there may be a hundred thousand sums.
    """
    names = [name for name in by if name not in TIMES]
    times = [name for name in by if name in TIMES]
    readers = [_reader(name) for name in names]
    at_times = [buckets[name].name for name in times]
    # By the identity of a place, which the list keeps alive: sums often share one, and hashing takes as long as reading.
    values_at: dict[int, tuple[str, ...]] = {}
    groups: dict[tuple[str, ...], list[_Figures]] = {}
    for span, starts_at, where, figures in sums:
        values = values_at.get(id(where))
        if values is None:
            values = values_at[id(where)] = tuple([read(where) for read in readers])  # type: ignore[arg-type]
        for name_at in at_times:
            values = (*values, name_at(span, starts_at))
        group = groups.get(values)
        if group is None:
            groups[values] = [figures]
        else:
            group.append(figures)
    in_order = [[*names, *times].index(name) for name in by]
    return {tuple([values[n] for n in in_order]): _added(found) for values, found in groups.items()}


def _added(figures: Collection[_Figures]) -> _Figures:
    return tuple(map(sum, zip_longest(*figures, fillvalue=0)))


@attrs.frozen(eq=False)
class _Question:
    """Which calls a report is about."""

    ledger: Ledger
    #: Epoch seconds.
    since: int | None
    grain: Grain
    buckets: Buckets
    matches: _Matches | None
    #: The dimensions and tags that matter; None: all.
    names: tuple[str, ...] | None

    def matcher(self, where: Mapping[str, str]) -> _Matches | None:
        """As `_matcher`.

        Raises:
            ValueError: a time that is not known so exactly, because nobody asked for it.
        """
        for name in where:
            if name in TIMES and self.grain != "hour" and _grain({name}) != self.grain:
                raise ValueError(
                    f"{name}={where[name]!r}: this report holds no {name}s; write report(by={name!r}) for it"
                )
        return _matcher(where, self.buckets)

    def sums(self) -> list[Sum]:
        """What the ledger answers.  Some have three more figures: nanodollars and tokens
        held for calls in flight, and calls that could not be metered."""
        signals.settle_late_calls()
        # In flight first: a call that ends meanwhile is counted twice then; the other way round it might not be at all.
        found = [_held(call, grant) for call, grant in self.ledger.in_flight() if call is not None]
        if self.since is not None:
            found = [held for held in found if held.starts_at >= self.since]
        zone = self.buckets.zone
        for ended in self.ledger.tally(self.since, self.grain, None if zone is UTC else zone, self.names):
            if isinstance(ended.place, Place) and len(ended.sums) <= _WIDTH:
                found.append(ended if ended.place.operation != UNMETERED else _unmetered(ended))
            else:  # of nowhere any more, or with figures that only a newer version knows
                known = ended.place if isinstance(ended.place, Place) else _NOWHERE
                found.append(ended._replace(place=known, sums=ended.sums[:_WIDTH]))
        return found if self.matches is None else list(filter(self.matches, found))

    def dearest(self, also: _Matches | None) -> Call | CallRecord | None:
        """The single call that cost most, if it is still kept and among the dearest."""
        for row in islice(self.ledger.rows(self.since, dearest_first=True), _MOST_LOOKED_AT):
            if not row.cost_usd_nanos:
                return None
            if row.outcome != "corrected" and all(
                matches is None or matches(_moment(row)) for matches in (self.matches, also)
            ):
                return cast("Call | CallRecord", row)
        return None


_NOWHERE: Final = Place("", "", "", "", ())


def _held(call: Call | CallRecord, grant: Grant) -> Sum:
    figures = (*Amount(calls=1, attempts=call.attempts), grant.usd_nanos, grant.tokens, 0)
    return _moment(call)._replace(sums=figures)


def _unmetered(ended: Sum) -> Sum:
    """The sums of requests that nobody could read, with how many of them may have been billed."""
    amount = Amount(*ended.sums)
    return ended._replace(sums=(*amount, 0, 0, amount.unpriced_calls))


def _moment(row: Call | CallRecord) -> Sum:
    """Where and when a row belongs."""
    return Sum("second", int(row.started_at_seconds), place(row), ())


class Report:
    """Rows by group, dearest first, and their total; `assert_under` makes a test of it."""

    def __init__(self, sums: list[Sum], by: tuple[str, ...], question: _Question) -> None:
        self._sums = sums
        self._question = question
        self.by = by
        self._groups = _grouped(sums, by, question.buckets)
        self.total = _row({}, _added(self._groups.values()))

    @cached_property
    def rows(self) -> list[ReportRow]:
        """One for each group."""
        dearest_first = sorted(self._groups.items(), key=lambda group: (-_spent_and_reserved(group[1]), group[0]))
        return [_row(dict(zip(self.by, values, strict=True)), figures) for values, figures in dearest_first]

    def __iter__(self) -> Iterator[ReportRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self._groups)

    def assert_under(
        self,
        *,
        usd: UsdLike | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        where: Mapping[str, str] | None = None,
        allow_empty: bool = False,
        allow_unmetered: bool = False,
        **tags: str,
    ) -> None:
        """Fail unless spent and reserved together are at most the given amounts.

        Args:
            usd, tokens, calls: At most so much; give at least one.
            where, **tags: Only the calls with these tags, or built-in dimensions such as `model`.
            allow_empty: Pass although nothing was measured.
            allow_unmetered: Pass although requests were sent whose use and cost nobody knows.

        Raises:
            AssertionError: more than that, a call without a price under `usd`, a request under `usd` or `tokens` that farebox
                could not read, or no call at all.
            ValueError: no limit given, or a negative one; a time in `where` that the report was not asked about.
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
        matches = self._question.matcher(asked)
        by = self.by or ("model",)
        sums = self._told_apart({*by, *asked})
        part = Report(sums if matches is None else list(filter(matches, sums)), by, self._question)
        total = part.total
        what = f" of {', '.join(f'{name}={value}' for name, value in asked.items())}" if asked else ""
        if not total.calls and not allow_empty:
            whole = self._told_apart(None)
            tags_seen = {tag for found in whole for tag in cast("Place", found.place).tags}
            seen = [f"{name}={value}" for name, value in sorted(tags_seen)[:_MOST_SHOWN]]
            raise AssertionError(
                f"no call{what} was measured; is it instrumented? (allow_empty=True lets this pass)"
                + (f"\ntags seen: {', '.join(seen)}" if seen else "")
            )
        faults = []
        if most is not None:
            spent = plus(total.usd, total.reserved_usd)
            if spent > most:
                faults.append(f"{spent:f} USD is more than {most:f} USD")
            if unpriced := total.unpriced_calls - total.unmetered_calls:
                faults.append(f"{unpriced} calls have no price, so their cost is unknown")
        if total.unmetered_calls and not allow_unmetered and not (usd is None and tokens is None):
            faults.append(f"{total.unmetered_calls} calls could not be metered, so what they used is unknown")
        used = total.input_tokens + total.output_tokens + total.reserved_tokens
        if tokens is not None and used > tokens:
            faults.append(f"{used} tokens are more than {tokens}")
        if calls is not None and total.calls > calls:
            faults.append(f"{total.calls} calls are more than {calls}")
        if faults:
            raise AssertionError(f"calls{what}: {'; '.join(faults)}\n{part}{part._dearest(matches)}")

    def _told_apart(self, names: set[str] | None) -> list[Sum]:
        """The sums with these dimensions and tags, or all, known of each; the ledger is asked again where it added them up."""
        question, known = self._question, self._question.names
        if known is None or (names is not None and names.difference(TIMES) <= set(known)):
            return self._sums
        if not any(type(found.place) is Part for found in self._sums):
            return self._sums
        wanted = None if names is None else tuple(names.difference(TIMES).union(known))
        return attrs.evolve(question, names=wanted).sums()

    def _dearest(self, matches: _Matches | None) -> str:
        call = self._question.dearest(matches) if self.total.usd else None
        if call is None:
            return ""
        return (
            f"\ndearest call: {call.call_id} {call.model} {show_usd(call.cost_usd_nanos or 0)} USD, "
            f"{call.charged_input_tokens} tokens in, {call.charged_output_tokens} out, {call.outcome}"
        )

    def __str__(self) -> str:
        return _table(self)

    def __repr__(self) -> str:
        return f"<Report by {', '.join(self.by) or 'nothing'}: {len(self.rows)} rows, {self.total.usd:f} USD>"


def report(
    by: str | Iterable[str] = (), *, since: Since = None, where: Mapping[str, str] | None = None, tz: str = "UTC"
) -> Report:
    """What was spent, and is held for calls in flight, by all who share this process's ledger.

    Args:
        by: Tags, and built-in dimensions: provider, model, operation, outcome, hour, day, week, month.
        since: `"7d"`, `"1h"`, a timedelta, or an aware datetime.  Calls that began in that second or later; of calls so old
            that only sums are kept of them, those whose hour, day or month did.
        where: Only calls with these tags or dimensions; a trailing `*` matches any ending.
        tz: Whose hours, days, weeks and months are meant, such as `"Asia/Tokyo"`.  What is not known that exactly any more
            comes as "earlier".

    Raises:
        ValueError: a span that can't be read, an unknown time zone.
        LedgerUnavailable: the ledger did not answer.
    """
    return report_on(_config.state().ledger, by, since=since, where=where, tz=tz)


def report_on(
    ledger: Ledger,
    by: str | Iterable[str] = (),
    *,
    since: Since = None,
    where: Mapping[str, str] | None = None,
    tz: str = "UTC",
) -> Report:
    """As `report`, about the calls of any ledger whose rows are calls."""
    names = (by,) if isinstance(by, str) else tuple(by)
    asked, buckets = where or {}, Buckets(read_zone(tz))
    question = _Question(
        ledger,
        _earliest(since),
        _grain({*names, *asked}),
        buckets,
        _matcher(asked, buckets),
        # By operation always: it tells which calls could not be metered.
        tuple(dict.fromkeys(name for name in (*names, *asked, "operation") if name not in TIMES)),
    )
    return Report(question.sums(), names, question)


def _grain(names: set[str]) -> Grain:
    """How exactly the times of calls must be known for these dimensions."""
    return "hour" if "hour" in names else "day" if names.intersection(TIMES) else "ever"


def tag_names() -> set[str]:
    """Names of the tags that calls of this process's ledger have."""
    question = _Question(_config.state().ledger, None, "ever", Buckets(UTC), None, None)
    return {name for found in question.sums() for name, _ in cast("Place", found.place).tags}


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
    earliest, matches = _earliest(since), _matcher(where or {}, Buckets(UTC))

    def find(ledger: Ledger) -> Iterator[CallRecord]:
        signals.settle_late_calls()
        # In flight first: a call that ends meanwhile is then in both, and is told once.
        in_flight = {call.call_id: _record(call) for call, _ in ledger.in_flight() if call is not None}
        for row in ledger.rows(earliest):
            in_flight.pop(row.call_id, None)
            if matches is None or matches(_moment(row)):
                yield _record(row)
        for record in in_flight.values():
            moment = _moment(record)
            if (earliest is None or moment.starts_at >= earliest) and (matches is None or matches(moment)):
                yield record

    return find(_config.state().ledger)


def find_call(call_id: str) -> list[CallRecord]:
    """The call of that id, ended or in flight, and corrections of it; [] where it is not kept."""
    signals.settle_late_calls()
    ledger = _config.state().ledger
    in_flight = [_record(call) for call, _ in ledger.in_flight() if getattr(call, "call_id", None) == call_id]
    return [_record(row) for row in ledger.rows_of(call_id)] or in_flight


def _record(row: Call | CallRecord) -> CallRecord:
    return CallRecord.of(row) if isinstance(row, Call) else row


def _earliest(since: Since) -> int | None:
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


def _spent_and_reserved(figures: _Figures) -> int:
    """Nanodollars."""
    return figures[0] + (figures[_WIDTH] if len(figures) > _WIDTH else 0)


def _row(tags: dict[str, str], figures: _Figures) -> ReportRow:
    amount = Amount(*figures[:_WIDTH])
    reserved_usd_nanos, reserved_tokens, unmetered_calls = figures[_WIDTH:] or (0, 0, 0)
    return ReportRow(
        tags=tags,
        usd=to_usd(amount.usd_nanos),
        reserved_usd=to_usd(reserved_usd_nanos),
        calls=amount.calls,
        refused_calls=amount.refused_calls,
        input_tokens=amount.input_tokens,
        output_tokens=amount.output_tokens,
        reserved_tokens=reserved_tokens,
        unpriced_calls=amount.unpriced_calls,
        estimated_calls=amount.estimated_calls,
        attempts=amount.attempts,
        unmetered_calls=unmetered_calls,
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
        for name in ("unpriced_calls", "unmetered_calls", "estimated_calls")
        if getattr(of.total, name)
    ]
    return "\n".join([*(line.rstrip() for line in text), *(["of which " + ", ".join(notes)] if notes else [])])


def _cells(row: ReportRow) -> list[str]:
    return [f"{getattr(row, name):f}" if name.endswith("usd") else str(getattr(row, name)) for name in _COLUMNS]
