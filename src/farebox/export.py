"""Every single call as a line of text, for a spreadsheet or a pipeline: as many as there are, few of them in memory.

>>> from farebox import export
>>> print(*export.csv_lines(since="7d"), sep="", end="")  # doctest: +ELLIPSIS
call_id,started_at,ended_at,...

Calls come in the order they ended, and then those in flight.  Lines end with a newline; a tag that holds one is quoted in
CSV.  Instants are RFC 3339 in UTC, to the microsecond; USD is decimal text, so that no reader makes a float of it unasked.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import attrs

from farebox._asked import Since
from farebox._call import CallRecord, Usage
from farebox._single_calls import find_calls

_FIELDS: Final = tuple(field.name for field in attrs.fields(CallRecord))
#: In CSV each bucket of tokens is a column of its own, where `usage` stands.
_COLUMNS: Final = tuple(column for name in _FIELDS for column in (Usage._fields if name == "usage" else (name,)))

#: A csv writer of Python 3.11 and 3.12 quotes a return or a newline only where it is part of the end of a line.
_LINE_END: Final = "\r\n"

#: What a spreadsheet takes for the beginning of a formula, and the apostrophe that is put before it.
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def csv_lines(*, since: Since = None, where: Mapping[str, str] | None = None) -> Iterator[str]:
    """The calls as CSV, a header first.

    Text that a spreadsheet might run as a formula has an apostrophe before it, and so has text that begins with one: whoever
    reads the file back drops one leading apostrophe.  What is not known is empty; tags are JSON.

    Args:
        since, where: As in `farebox.report`.

    Raises:
        ValueError: a span that can't be read.
        LedgerUnavailable: the ledger did not answer.
    """
    found = find_calls(since, where)

    def lines() -> Iterator[str]:
        write = csv.writer(_Line(), lineterminator=_LINE_END).writerow
        yield write(_COLUMNS)
        for record in found:
            yield write(_cells(record))

    return lines()


def json_lines(*, since: Since = None, where: Mapping[str, str] | None = None) -> Iterator[str]:
    """The calls as JSON, one object a line; what is not known is null.

    Args, Raises: As `csv_lines`.
    """
    return (json.dumps(_object(record), default=_plain) + "\n" for record in find_calls(since, where))


class _Line:
    """A file for a csv writer, which then returns each line."""

    def write(self, line: str) -> str:
        return line.removesuffix(_LINE_END) + "\n"


def _cells(record: CallRecord) -> Iterator[Any]:
    for name in _FIELDS:
        value = getattr(record, name)
        if name == "usage":
            yield from value or [""] * len(Usage._fields)
        elif name in ("tags", "accounts"):
            yield json.dumps(value)
        elif isinstance(value, bool):
            yield "true" if value else "false"
        elif isinstance(value, str):
            yield _harmless(value)
        elif value is None or isinstance(value, int):
            yield value
        else:
            yield _plain(value)


def _harmless(text: str) -> str:
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair can't be written to a file
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _object(record: CallRecord) -> dict[str, Any]:
    fields = {name: getattr(record, name) for name in _FIELDS}
    if record.usage is not None:
        fields["usage"] = record.usage._asdict()
    return fields


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
