"""Questions to the ledger about sums: report()."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC
from decimal import Decimal
from functools import cached_property
from itertools import islice, zip_longest
from typing import Final, cast

import attrs

from farebox import _config, signals
from farebox._asked import Matches, Since, earliest_second, matcher_of, moment_of, reader_of
from farebox._buckets import TIMES, Buckets
from farebox._call import UNMETERED, Call, CallRecord
from farebox._money import UsdLike, plus, show_usd, to_nanos, to_usd
from farebox._tally import Amount, Part, Place
from farebox._windows import read_zone
from farebox.ledgers import Grain, Grant, Ledger, Sum

_Figures = tuple[int, ...]

_MOST_SHOWN: Final = 20
_WIDTH: Final = len(Amount._fields)
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


def _grouped(sums: list[Sum], by: tuple[str, ...], buckets: Buckets) -> dict[tuple[str, ...], _Figures]:
    """What the sums of each group come to, by the values of its names.

    Tuples and ints only, and no step for nothing: there may be a hundred thousand sums.
    """
    names = [name for name in by if name not in TIMES]
    times = [name for name in by if name in TIMES]
    readers = [reader_of(name) for name in names]
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
    matches: Matches | None
    #: The dimensions and tags that matter; None: all.
    names: tuple[str, ...] | None

    def matcher(self, where: Mapping[str, str]) -> Matches | None:
        """As `matcher_of`.

        Raises:
            ValueError: a time that is not known so exactly, because nobody asked for it.
        """
        for name in where:
            if name in TIMES and self.grain != "hour" and _grain({name}) != self.grain:
                raise ValueError(
                    f"{name}={where[name]!r}: this report holds no {name}s; write report(by={name!r}) for it"
                )
        return matcher_of(where, self.buckets)

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

    def dearest(self, also: Matches | None) -> Call | CallRecord | None:
        """The single call that cost most, if it is still kept and among the dearest."""
        for row in islice(self.ledger.rows(self.since, dearest_first=True), _MOST_LOOKED_AT):
            if not row.cost_usd_nanos:
                return None
            if row.outcome != "corrected" and all(
                matches is None or matches(moment_of(row)) for matches in (self.matches, also)
            ):
                return cast("Call | CallRecord", row)
        return None


_NOWHERE: Final = Place("", "", "", "", ())


def _held(call: Call | CallRecord, grant: Grant) -> Sum:
    figures = (*Amount(calls=grant.calls, attempts=call.attempts), grant.usd_nanos, grant.tokens, 0)
    return moment_of(call)._replace(sums=figures)


def _unmetered(ended: Sum) -> Sum:
    """The sums of requests that nobody could read, with how many of them may have been billed."""
    amount = Amount(*ended.sums)
    return ended._replace(sums=(*amount, 0, 0, amount.unpriced_calls))


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

    def _dearest(self, matches: Matches | None) -> str:
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
        earliest_second(since),
        _grain({*names, *asked}),
        buckets,
        matcher_of(asked, buckets),
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
