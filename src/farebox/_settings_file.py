"""The file that settings are in: where it lies, what it says, and on which line.

It is a `farebox.toml`, or a `pyproject.toml` with a table `[tool.farebox]`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

import attrs

CONFIG_VARIABLE: Final = "FAREBOX_CONFIG"
FILE_NAME: Final = "farebox.toml"

_PROJECT_FILE_NAME: Final = "pyproject.toml"
_PROJECT_TABLE: Final = ("tool", "farebox")
#: What is in every TOML document that has a table or a key of that name, and in few others: most need not be parsed.
_OF_US: Final = re.compile(rb"""(?m)farebox["']?[ \t]*[.=]|^[ \t]*\[.*farebox""")
_MOST_BYTES: Final = 1_000_000
_MOST_LINES_OF_A_VALUE: Final = 200

#: Keys of tables and indexes of arrays, from the top of a TOML document down.
Place = tuple[str | int, ...]


@attrs.frozen
class SettingsFile:
    """A file that was read: its words as TOML has them, floats as `Decimal`, and the table of it that they lie in."""

    path: Path
    words: Mapping[str, Any] = attrs.field(repr=False)
    text: str = attrs.field(repr=False)
    table: Place = ()

    def wrong(self, place: Place, message: str) -> ValueError:
        """An error about what lies at `place` among the words, with the file and the line before the message."""
        line = self.line(place)
        return ValueError(f"{self.path}{'' if line is None else f', line {line}'}: {message}")

    def line(self, place: Place) -> int | None:
        """The line on which what lies at `place` among the words begins; None where that is not sure."""
        return line_of(self.text, (*self.table, *place))

    def header(self, name: str) -> str:
        """The name of a table of settings as this file writes it."""
        return ".".join(map(str, (*self.table, name)))


def find_file(environ: Mapping[str, str], folder: Path) -> SettingsFile | None:
    """The file that `FAREBOX_CONFIG` names, or the nearest one in `folder` and those it lies in; None where there is none.

    Raises:
        ValueError: it can't be read, or is no TOML; the file that was named is not there, or has no such table.
    """
    named = environ.get(CONFIG_VARIABLE)
    if named is not None and not named.strip():
        return None
    try:
        folder = folder.absolute()
    except OSError:  # somebody removed the working directory, so nothing lies in it
        pass
    if named is None:
        return _nearest_file(folder)
    path = folder / named
    data = _read(path, said=f"{CONFIG_VARIABLE}={named!r}")
    if path.name != _PROJECT_FILE_NAME:
        return _whole_file(path, data)
    found = _table_of_project(path, data)
    if found is None:
        raise ValueError(
            f"{CONFIG_VARIABLE}={named!r} has no table [tool.farebox]; write one, or name a file that has settings"
        )
    return found


def _nearest_file(folder: Path) -> SettingsFile | None:
    for place in (folder, *folder.parents):
        path = place / FILE_NAME
        if os.path.isfile(path):
            return _whole_file(path, _read(path))
        path = place / _PROJECT_FILE_NAME
        if os.path.isfile(path) and (found := _table_of_project(path, _read(path))) is not None:
            return found
    return None


def _whole_file(path: Path, data: bytes) -> SettingsFile:
    text = _decode(path, data)
    return SettingsFile(path, _parse(path, text), text)


def _table_of_project(path: Path, data: bytes) -> SettingsFile | None:
    """The settings of a pyproject.toml; None where it has no table of ours, also where it is broken and not about us."""
    if not _OF_US.search(data):
        return None
    text = _decode(path, data)
    tool = _parse(path, text).get("tool")
    if not isinstance(tool, dict) or "farebox" not in tool:
        return None
    words = tool["farebox"]
    file = SettingsFile(path, words, text, _PROJECT_TABLE)
    if not isinstance(words, dict):
        raise file.wrong(
            (), "tool.farebox is no table; write [tool.farebox] on a line of its own, and settings below it"
        )
    return file


def _read(path: Path, said: str = "") -> bytes:
    said = said or str(path)
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: no path at all, with a null character in it
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"{said} can't be read: {reason}\n"
            f"write the path of a TOML file, such as {CONFIG_VARIABLE}={FILE_NAME}, or {CONFIG_VARIABLE}= to read no file"
        ) from None
    if len(data) > _MOST_BYTES:
        raise ValueError(
            f"{said} is larger than the {_MOST_BYTES} bytes that settings may take; "
            f"name another file with {CONFIG_VARIABLE}, or write {CONFIG_VARIABLE}= to read none"
        )
    return data


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text, parse_float=_read_float)
    except RecursionError:
        raise ValueError(f"{path} is no TOML that can be read: its values are nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path} is no valid TOML: {error}") from None


def _read_float(text: str) -> Decimal:
    """A float as it is written, exactly; what no float can hold is infinite."""
    nearest = float(text)
    if not math.isfinite(nearest):
        return Decimal(nearest)
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of twenty digits
        raise ValueError(f"{text[:40]} is no amount; write it out, such as 0.001") from None


def line_of(text: str, place: Place) -> int | None:
    """The line, from 1, on which what lies at `place` of a valid TOML document begins; None where that is not sure.

    Not sure is what lies somewhere in a value of several lines.
    """
    table: Place = ()
    last_index: dict[Place, int] = {}
    for line, line_count, said, is_header in _statements(text):
        if is_header:
            table = _table_below(said, last_index)
            if table[: len(place)] == place:
                return line
        elif place[: len(table)] == table:
            below = place[len(table) :]
            if _holds(said, below):
                return line if line_count == 1 or len(below) == 1 else None
    return None


def _statements(text: str) -> Iterator[tuple[int, int, dict[str, Any], bool]]:
    """Each header and each key with its value: the first line, how many there are, what it says, whether it is a header.

    A statement is valid TOML by itself, and the first lines of one are not: so the parser says where each ends.
    """
    import tomllib

    lines = text.replace("\r\n", "\n").split("\n")
    start = 0
    while start < len(lines):
        for end in range(start + 1, min(start + _MOST_LINES_OF_A_VALUE, len(lines)) + 1):
            try:
                said = tomllib.loads("\n".join(lines[start:end]))
            except (ValueError, RecursionError):
                continue
            if said:
                yield start + 1, end - start, said, lines[start].lstrip().startswith("[")
            start = end
            break
        else:
            return


def _table_below(header: Mapping[str, Any], last_index: dict[Place, int]) -> Place:
    """The place of the table that a header opens; `last_index` has that of the last table of each array, and is kept up."""
    place: Place = ()
    inner: Any = header
    while inner:
        [(key, inner)] = inner.items()
        place = (*place, key)
        if isinstance(inner, list):
            last_index[place] = last_index.get(place, -1) + 1
            inner = None
        if place in last_index:
            place = (*place, last_index[place])
    return place


def _holds(value: Any, place: Place) -> bool:
    for key in place:
        is_there = key in value if isinstance(value, dict) else isinstance(value, list) and key in range(len(value))
        if not is_there:
            return False
        value = value[key]
    return True
