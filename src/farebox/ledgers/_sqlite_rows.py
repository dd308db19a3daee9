"""Rows of a SQLite ledger, and what they come to: sums by place and span of time, written along with each row.

The offsets of today's time zones are whole quarters of an hour, so hours and days of any zone are made of sums over
quarters, and rows can be let go of without a report noticing.  Hours and days of UTC are there to be quick.
"""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import chain
from operator import add
from typing import Any, Final, NamedTuple

from farebox._money import MOST_NANOS
from farebox.ledgers import Grain, RowForm, Sum
from farebox.ledgers._sqlite_schema import put

_QUARTER_SECONDS, _HOUR_SECONDS, _DAY_SECONDS = 900, 3_600, 86_400
#: Lengths of the spans that are summed, in seconds; each is a multiple of those before it.
_LENGTHS: Final = (_QUARTER_SECONDS, _HOUR_SECONDS, _DAY_SECONDS)
#: Sums a row can have: one column each.
WIDTH: Final = 8
_COLUMNS: Final = ", ".join(f"s{i}" for i in range(WIDTH))
#: Years 5 to 9987.
_EARLIEST_SECONDS, _LATEST_SECONDS = -62_000_000_000, 253_000_000_000
_PAGE_ROWS: Final = 1_000
_MOST_PLACES_KNOWN: Final = 10_000

_INSERT_ROWS: Final = f"INSERT INTO rows (seq, ended_at, starts_at, place, {_COLUMNS}, row) VALUES"
_INSERT_SUMS: Final = f"INSERT INTO rollups (length, begins, place, {_COLUMNS}) VALUES"
_ADD_SUMS: Final = f"ON CONFLICT DO UPDATE SET {', '.join(f's{i} = s{i} + excluded.s{i}' for i in range(WIDTH))}"


#: Lends a connection to read with.
Reading = Callable[[], AbstractContextManager[sqlite3.Connection]]


class Row(NamedTuple):
    """A row as it is written down: when it began, the text of its place, its sums, its own text."""

    starts_at: float
    place: str
    sums: tuple[int, ...]
    text: str


#: What is written down of a row, or why nothing can be.
Text = Row | Exception


def text_of(form: RowForm, row: Any) -> Text:
    """What is kept of `row`; the error where the form does not know it, or it does not fit the columns."""
    try:
        return _written(form, row)
    except Exception as error:
        return error


def call_text(form: RowForm, call: Any) -> str | Exception:
    """A call in flight as text, or why there is none."""
    try:
        text = form.dump(call)
        text.encode()
    except Exception as error:
        return error
    return text


def _written(form: RowForm, row: Any) -> Row:
    _, starts_at, place, sums = form.sum_of(row)
    if len(sums) > WIDTH:
        raise ValueError(f"a row has {len(sums)} sums; a SQLite ledger keeps at most {WIDTH}")
    if sums and (max(sums) > MOST_NANOS or min(sums) < -MOST_NANOS):
        raise ValueError(f"a row has a sum beyond {MOST_NANOS}: {sums}")
    if not _EARLIEST_SECONDS < starts_at < _LATEST_SECONDS:
        raise ValueError(f"a row begins at {starts_at} epoch seconds, which no calendar has")
    text = form.dump(row)
    text.encode()  # what UTF-8 can't write fails here, and not the whole batch later
    return Row(float(starts_at), _place_text(form.dump_place, place), sums, text)


@lru_cache(maxsize=_MOST_PLACES_KNOWN)
def _place_text(dump_place: Callable[[Hashable], str], place: Hashable) -> str:
    text = dump_place(place)
    text.encode()
    return text


class Places:
    """Numbers of places, as far as this process knows them: they are given once and never change."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int]] = {}
        self._unsure: list[str] = []

    def number(self, connection: sqlite3.Connection, place: str, width: int) -> int:
        """The number of `place`, within a transaction; rows there have up to `width` sums."""
        known = self._known.get(place)
        if known is not None and known[1] >= width:
            return known[0]
        number, width = connection.execute(
            "INSERT INTO places (place, width) VALUES (?, ?) "
            "ON CONFLICT (place) DO UPDATE SET width = max(width, excluded.width) RETURNING id, width",
            (place, width),
        ).fetchall()[0]
        if len(self._known) >= _MOST_PLACES_KNOWN:
            self._known.clear()
        self._known[place] = (number, width)
        self._unsure.append(place)
        return int(number)

    def is_committed(self) -> None:
        self._unsure.clear()

    def is_rolled_back(self) -> None:
        for place in self._unsure:
            self._known.pop(place, None)
        self._unsure.clear()


class NewRows:
    """The rows of one batch, and what they add to the sums."""

    def __init__(self, connection: sqlite3.Connection, places: Places) -> None:
        self._connection = connection
        self._places = places
        self._rows: dict[int, tuple[Any, ...]] = {}
        #: By quarter and place.
        self._sums: dict[tuple[int, int], Sequence[int]] = {}
        #: The number of the row after the last; 0: not known.
        self.next_seq = 0

    def add(self, row: Row, ended_at: float) -> int:
        """Keep a row; its number."""
        if not self.next_seq:
            (last,) = self._connection.execute("SELECT max(seq) FROM rows").fetchall()[0]
            self.next_seq = (last or 0) + 1
        seq = self.next_seq
        self.next_seq += 1
        place = self._places.number(self._connection, row.place, len(row.sums))
        sums = row.sums + (0,) * (WIDTH - len(row.sums))
        self._rows[seq] = (seq, ended_at, row.starts_at, place, *sums, row.text)
        self._count(row.starts_at, place, sums)
        return seq

    def take_back(self, seq: int) -> None:
        """Remove a row, of this batch or an earlier one, and what it came to; one that is gone is ignored."""
        mine = self._rows.pop(seq, None)
        if mine is None:
            found = self._connection.execute(
                f"DELETE FROM rows WHERE seq = ? RETURNING starts_at, place, {_COLUMNS}", (seq,)
            ).fetchall()
            if not found:
                return
            starts_at, place, *sums = found[0]
        else:
            starts_at, place, sums = mine[2], mine[3], mine[4 : 4 + WIDTH]
        self._count(starts_at, place, [-number for number in sums])

    def _count(self, starts_at: float, place: int, sums: Sequence[int]) -> None:
        span = (int(starts_at // _QUARTER_SECONDS) * _QUARTER_SECONDS, place)
        before = self._sums.get(span)
        self._sums[span] = sums if before is None else tuple(map(add, before, sums))

    def write(self) -> None:
        if self._rows:
            put(self._connection, _INSERT_ROWS, list(self._rows.values()))
        if self._sums:
            spans: dict[tuple[int, int, int], Sequence[int]] = {}
            for (begins, place), sums in self._sums.items():
                for length in _LENGTHS:
                    span = (length, begins // length * length, place)
                    before = spans.get(span)
                    spans[span] = sums if before is None else tuple(map(add, before, sums))
            put(self._connection, _INSERT_SUMS, [(*span, *sums) for span, sums in spans.items()], _ADD_SUMS)


# Reading


def select_rows(reading: Reading, since_seconds: float | None, *, dearest_first: bool) -> Iterator[list[str]]:
    """The texts of rows, by the page; between two pages nothing is held open."""
    if since_seconds is None and not dearest_first:
        select = f"SELECT seq, row FROM rows WHERE seq > ? ORDER BY seq LIMIT {_PAGE_ROWS}"
        last = -1
        while True:
            with reading() as connection:
                page = connection.execute(select, (last,)).fetchall()
            if not page:
                return
            last = page[-1][0]
            yield [text for _, text in page]
    # Eight bytes for each row, read from the index: the rows themselves are read by the page.
    order = "s0 DESC, seq" if dearest_first else "seq"
    where, arguments = ("", ()) if since_seconds is None else ("WHERE starts_at >= ?", (since_seconds,))
    with reading() as connection:
        found = connection.execute(f"SELECT seq FROM rows {where} ORDER BY {order}", arguments)
        seqs = array("q", (seq for (seq,) in found))
    for start in range(0, len(seqs), _PAGE_ROWS):
        wanted = seqs[start : start + _PAGE_ROWS]
        with reading() as connection:
            select = f"SELECT seq, row FROM rows WHERE seq IN ({', '.join(map(str, wanted))})"
            texts = dict(connection.execute(select).fetchall())
        yield [texts[seq] for seq in wanted if seq in texts]


def select_rows_of(connection: sqlite3.Connection, call_id: str) -> list[str]:
    """The texts of rows that hold `call_id`, by a look at all of them."""
    found = connection.execute("SELECT row FROM rows WHERE instr(row, ?) ORDER BY seq", (call_id,))
    return [text for (text,) in found.fetchall()]


def tally(
    connection: sqlite3.Connection,
    form: RowForm,
    since_seconds: float | None,
    grain: Grain,
    zone: tzinfo | None,
    by: Sequence[str] | None,
) -> list[Sum]:
    """What all rows come to that began at `since_seconds` or later, by place or parts of it and by hour or day of `zone`.

    Exact for zones whose offset is whole quarters.  Where `since_seconds` is within a quarter, that quarter is summed from
    its rows: what was pruned of it does not count.
    """
    group, places, place_of = _places_by(connection, form, by, is_asked_once=grain == "ever")
    if grain == "ever":
        spans, arguments = _spans_since(since_seconds, _DAY_SECONDS)
        if places:  # there are fewer places than spans: they are added up before their texts are looked at
            spans = f"SELECT place, {_TOTALS} FROM ({spans}) GROUP BY place"
        found = connection.execute(
            f"{places and f'WITH {places} '}SELECT 0, {group}, {_TOTALS} FROM ({spans}){places and _OF_PLACES} GROUP BY {group}",
            arguments,
        ).fetchall()
        starts = {0: 0}
    else:
        zone = zone or UTC
        least, most = connection.execute(
            "SELECT min(begins), max(begins) FROM rollups WHERE length = ?", (_DAY_SECONDS,)
        ).fetchall()[0]
        if least is None:
            return []
        # From a day before: the hour that the first row lies in may begin there, in a zone off by half an hour.
        segments = _segments(zone, least - _DAY_SECONDS, most + _DAY_SECONDS)
        spans, arguments = _spans_since(since_seconds, _longest(grain, segments))
        begin = f"max({_begin(_HOUR_SECONDS)} - shift, first)" if grain == "hour" else _begin(_DAY_SECONDS)
        found = connection.execute(
            f"WITH segments (first, until, shift) AS (VALUES {', '.join(['(?, ?, ?)'] * len(segments))}) "
            f"{places and f', {places} '}SELECT {begin} AS span, {group}, {_TOTALS} "
            f"FROM segments CROSS JOIN ({spans}){places and _OF_PLACES} "
            f"WHERE begins >= first AND begins < until GROUP BY span, {group}",
            (*chain.from_iterable(segments), *arguments),
        ).fetchall()
        starts = {span: span if grain == "hour" else _midnight(span, zone) for span in {row[0] for row in found}}
    sums = []
    for span, which, *numbers in found:
        if numbers[0] is None:  # the sum of nothing
            continue
        place, width = place_of(which)
        sums.append(Sum(grain, starts[span], place, tuple(numbers[:width])))
    return sums


_TOTALS: Final = ", ".join(f"sum(s{i}) AS s{i}" for i in range(WIDTH))
_OF_PLACES: Final = " JOIN parts ON parts.id = place"
#: The first that is told what to work out once, and not for each span.
_KNOWS_MATERIALIZED: Final = (3, 35)


def _places_by(
    connection: sqlite3.Connection, form: RowForm, by: Sequence[str] | None, *, is_asked_once: bool
) -> tuple[str, str, Callable[[Any], tuple[Any, int]]]:
    """SQL to group by; the common table `parts` that it is of, "" where none is needed; and a group's place and width."""
    paths = None if by is None or form.parts is None else [form.parts.path(name) for name in by]
    if paths is not None and None not in paths and sqlite3.sqlite_version_info >= _KNOWS_MATERIALIZED:
        assert by is not None
        assert form.parts is not None
        ((width,),) = connection.execute("SELECT coalesce(max(width), 0) FROM places").fetchall()
        names, make = by, form.parts.make
        if not paths:
            return "NULL", "", lambda _: (make((), ()), width)
        # Of more than one path it makes a list as JSON, in which text is as it was, be it half a surrogate pair.
        shown = ", ".join("'{}'".format(str(path).replace("'", "''")) for path in (paths[0], *paths))
        kept = "" if is_asked_once else "MATERIALIZED "
        parts = f"parts AS {kept}(SELECT id, json_extract(place, {shown}) AS part FROM places)"
        return "part", parts, lambda part: (make(names, json.loads(part)[1:]), width)
    places = {
        number: (form.load_place(place), width)
        for number, place, width in connection.execute("SELECT id, place, width FROM places").fetchall()
    }
    return "place", "", places.__getitem__


def _spans_since(since_seconds: float | None, longest: int) -> tuple[str, tuple[float, ...]]:
    """A SELECT of where spans begin, place and sums, as long as they may be, and its arguments."""
    whole = f"SELECT begins, place, {_COLUMNS} FROM rollups WHERE length = ?"
    if since_seconds is None:
        return whole, (longest,)
    selects: list[str] = []
    arguments: list[float] = []
    until = 0
    for length in reversed(_LENGTHS[: _LENGTHS.index(longest) + 1]):
        first = -int(-since_seconds // length) * length
        if not selects:
            selects, arguments = [f"{whole} AND begins >= ?"], [length, first]
        elif first < until:
            selects.append(f"{whole} AND begins >= ? AND begins < ?")
            arguments += [length, first, until]
        until = first
    if since_seconds < until:
        selects.append(f"SELECT ?, place, {_COLUMNS} FROM rows WHERE starts_at >= ? AND starts_at < ?")
        arguments += [until - _QUARTER_SECONDS, since_seconds, until]
    return " UNION ALL ".join(selects), tuple(arguments)


def _longest(grain: Grain, segments: Sequence[tuple[int, int, int]]) -> int:
    """The longest spans that local hours or days are whole numbers of, in all segments."""
    for length in (_DAY_SECONDS, _HOUR_SECONDS) if grain == "day" else (_HOUR_SECONDS,):
        if all(not (first % length or shift % length) for first, _, shift in segments):
            return length
    return _QUARTER_SECONDS


def _begin(length_seconds: int) -> str:
    """SQL: the start of the local hour or day of a span, in local seconds; its own division rounds towards zero."""
    local = "(begins + shift)"
    return f"({local} - (({local} % {length_seconds}) + {length_seconds}) % {length_seconds})"


def _segments(zone: tzinfo, least: int, most: int) -> list[tuple[int, int, int]]:
    """(from, until, utc offset), in seconds, of the times of constant offset from `least` to before `most`; whole quarters."""
    segments = []
    begins, shift = least, _shift(zone, least)
    low = least
    while low < most:
        high = min(low + _DAY_SECONDS, most)
        if _shift(zone, high) == shift:
            low = high
            continue
        # The clock is moved within this day: by halves to the first quarter that shows it.
        while high - low > _QUARTER_SECONDS:
            middle = low + (high - low) // _QUARTER_SECONDS // 2 * _QUARTER_SECONDS
            if _shift(zone, middle) == shift:
                low = middle
            else:
                high = middle
        segments.append((begins, high, shift))
        begins, shift, low = high, _shift(zone, high), high
    segments.append((begins, most, shift))
    return segments


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _shift(zone: tzinfo, seconds: int) -> int:
    offset = (_EPOCH + timedelta(seconds=seconds)).astimezone(zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())


def _midnight(local_seconds: int, zone: tzinfo) -> int:
    """The first instant of a local date, given as seconds of its own clock since 1970-01-01."""
    date = _EPOCH.replace(tzinfo=zone) + timedelta(seconds=local_seconds)
    return int(date.timestamp())


# Letting go

#: The tables that `prune` goes through.  In this order: whoever still knows an expired hold also finds its row.
PRUNED: Final = ("ended", "rows")
_KEYS: Final = {"ended": "id", "rows": "seq"}


def page_to_prune(connection: sqlite3.Connection, table: str, after: Any, before_seconds: float) -> list[Any]:
    """The next keys of what ended before then; the first where `after` is None."""
    key, first = _KEYS[table], "" if table == "ended" else -1
    select = f"SELECT {key} FROM {table} WHERE {key} > ? AND ended_at < ? ORDER BY {key} LIMIT {_PAGE_ROWS}"
    found = connection.execute(select, (first if after is None else after, before_seconds))
    return [key for (key,) in found.fetchall()]


def delete_page(connection: sqlite3.Connection, table: str, page: Sequence[Any]) -> int:
    """Delete what has these keys; how many rows of calls that were."""
    connection.executemany(f"DELETE FROM {table} WHERE {_KEYS[table]} = ?", [(key,) for key in page])
    return len(page) if table == "rows" else 0
