"""Rows and their sums, as read from a Redis ledger: rows by pages of the stream, sums by days.

Everything is added up here and not in the server, which all calls wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar, cast

from farebox.ledgers import Grain, RowForm, Span, Sum
from farebox.ledgers import _redis_scripts as scripts
from farebox.ledgers._redis_asks import unpacked
from farebox.ledgers._redis_link import Command, Link

_PAGE_ROWS: Final = 500
_PAGE_DAYS: Final = 8
_DAY_SECONDS, _QUARTER_SECONDS = 86_400, 900
_Key = TypeVar("_Key")


class _Entry(NamedTuple):
    """One row of the stream."""

    entry_id: bytes
    text: bytes
    began_seconds: float
    sums: Sequence[int]


class Reader:
    """Reads what a store's scripts wrote; `call` makes a script's command for this store."""

    def __init__(self, link: Link, form: RowForm, call: Callable[..., Command]) -> None:
        self._link = link
        self._form = form
        self._call = call

    def rows(self, since_seconds: float | None, *, dearest_first: bool) -> Iterator[Any]:
        """As `Ledger.rows`, of the rows that were there when the first is asked for.

        Raises:
            LedgerUnavailable: while iterating.
        """
        if not dearest_first:
            for entry in self._entries(since_seconds):
                yield self._form.load(entry.text.decode())
            return
        # Costs and ids first, which are small: of the texts only those that are asked for are read, a page at a time.
        costs = [
            (-(entry.sums[0] if entry.sums else 0), n, entry.entry_id)
            for n, entry in enumerate(self._entries(since_seconds))
        ]
        costs.sort()
        for at in range(0, len(costs), _PAGE_ROWS):
            page = [
                self._call(scripts.ROWS_PAGE, entry_id, entry_id, 1) for _, _, entry_id in costs[at : at + _PAGE_ROWS]
            ]
            for reply in self._link.run(page):
                for entry in _entries_of(reply):
                    yield self._form.load(entry.text.decode())

    def rows_of(self, call_id: str) -> list[Any]:
        """As `Ledger.rows_of`: the server looks, and sends those that hold the id."""
        found: list[Any] = []
        last, first = self._link.run_one(self._call(scripts.LAST_ROW))[2], b"-"
        while last:
            reply = self._link.run_one(self._call(scripts.ROWS_OF, first, last, _PAGE_ROWS, call_id))
            found += [self._form.load(text.decode()) for text in reply[3:]]
            if reply[2] in (b"", last):
                break
            first = _after(reply[2])
        return [row for row in found if self._form.id_of(row) == call_id]

    def tally(self, since_seconds: float | None, grain: Grain, by: Sequence[str] | None) -> Iterator[Sum]:
        """As `Ledger.tally`: by quarters of an hour, which fit the hours and days of every zone, a page of days at a time.

        Of the quarter that `since_seconds` lies in, what began later comes from the rows, as far as the stream reaches.
        """
        first_day = 0 if since_seconds is None else int(since_seconds // _DAY_SECONDS)
        whole_from = since_seconds
        if since_seconds is not None and since_seconds % _QUARTER_SECONDS:
            whole_from = (since_seconds // _QUARTER_SECONDS + 1) * _QUARTER_SECONDS
            for entry in self._entries(since_seconds):
                if entry.began_seconds < whole_from:
                    total = self._form.sum_of(self._form.load(entry.text.decode()))
                    if total.span == "second":  # its place is whole, which is as good
                        yield Sum("second", int(entry.began_seconds), total.place, total.sums)
        # A span that is longer than a day may begin before the day that is asked for, but not after it.
        days = self._link.run_one(self._call(scripts.DAYS, first_day))[2:]
        places = _Places(self._form, by)
        ever: dict[int, list[int]] = {}
        for at in range(0, len(days), _PAGE_DAYS):
            spans: dict[tuple[Span, int, int], list[int]] = {}
            for reply in self._link.run([self._call(scripts.DAY, day) for day in days[at : at + _PAGE_DAYS]]):
                for field, packed in zip(reply[2::2], reply[3::2], strict=True):
                    span_text, starts_text, place_text = field.decode().split("|", 2)
                    span = cast("Span", span_text)
                    starts_at = int(starts_text)
                    if whole_from is not None and starts_at < whole_from:
                        continue
                    sums = unpacked(packed)
                    if not any(sums):
                        continue  # all of it was corrected to nothing
                    place = places.number(place_text)
                    if since_seconds is None and grain == "ever":
                        _add(ever, place, sums)
                    else:
                        _add(spans, (span, starts_at, place), sums)
            for (span, starts_at, place), added in spans.items():
                yield Sum(span, starts_at, places.found[place], tuple(added))
        for place, added in ever.items():
            yield Sum("ever", 0, places.found[place], tuple(added))

    def _entries(self, since_seconds: float | None) -> Iterator[_Entry]:
        last = self._link.run_one(self._call(scripts.LAST_ROW))[2]
        first = b"-"
        while last:
            reply = self._link.run_one(self._call(scripts.ROWS_PAGE, first, last, _PAGE_ROWS))
            entry = None
            for entry in _entries_of(reply):
                if since_seconds is None or entry.began_seconds >= since_seconds:
                    yield entry
            if entry is None or entry.entry_id == last:
                return
            first = _after(entry.entry_id)


def _entries_of(reply: Any) -> Iterator[_Entry]:
    for at in range(2, len(reply), 4):
        entry_id, text, began, sums = reply[at : at + 4]
        yield _Entry(entry_id, text, float(began), unpacked(sums))


def _after(entry_id: bytes) -> bytes:
    """The next id that an entry may have."""
    milliseconds, _, number = entry_id.partition(b"-")
    return b"%s-%d" % (milliseconds, int(number) + 1)


class _Places:
    """Places as far as they are told apart, numbered."""

    def __init__(self, form: RowForm, by: Sequence[str] | None) -> None:
        self._form = form
        self._by = by if form.parts is not None else None
        self.found: list[Hashable] = []
        self._by_text: dict[str, int] = {}
        self._by_place: dict[Hashable, int] = {}

    def number(self, text: str) -> int:
        number = self._by_text.get(text)
        if number is None:
            place = self._form.load_place(text)
            if self._by is not None and self._form.parts is not None:
                place = self._form.parts.of(place, self._by)
            number = self._by_text[text] = self._by_place.setdefault(place, len(self.found))
            if number == len(self.found):
                self.found.append(place)
        return number


def _add(sums_by: dict[_Key, list[int]], key: _Key, sums: Sequence[int]) -> None:
    known = sums_by.setdefault(key, [])
    known += [0] * (len(sums) - len(known))
    for n, amount in enumerate(sums):
        known[n] += amount
