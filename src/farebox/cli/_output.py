"""How the command shows things: a table of rich on a terminal, aligned plain text elsewhere, or JSON."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:
    _Text = click.ParamType[str]
else:
    _Text = click.ParamType  # generic since click 8.4


class Column(NamedTuple):
    """A column of a table; numbers stand on the right."""

    title: str
    is_number: bool = False


class Shown(NamedTuple):
    """What `--json` and `--tz` say."""

    as_json: bool
    zone_name: str
    zone: tzinfo


class _Zone(_Text):
    name = "zone"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            read_zone(value)
        except (ValueError, OSError):
            self.fail(f"{value!r} is no time zone; write one such as UTC or Asia/Tokyo", param, ctx)
        return str(value)


def read_zone(name: str) -> tzinfo:
    """The zone of an IANA name.

    Raises:
        ValueError: there is none of that name.
    """
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except ZoneInfoNotFoundError as error:
        raise ValueError(str(error)) from error


def shows(function: F) -> F:
    """Gives a command `--json` and `--tz`, and hands them to it as `shown=`."""

    @click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
    @click.option("--tz", "zone_name", type=_Zone(), default="UTC", show_default=True, help="Whose days and hours.")
    @functools.wraps(function)
    def command(*args: Any, as_json: bool, zone_name: str, **kwargs: Any) -> Any:
        return function(*args, shown=Shown(as_json, zone_name, read_zone(zone_name)), **kwargs)

    return command  # type: ignore[return-value]


def where_option(function: F) -> F:
    """Gives a command `--where k=v`, any number of them, as a dict."""

    def read(ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
        return read_pairs(pairs)

    return click.option(
        "--where",
        multiple=True,
        metavar="K=V",
        callback=read,
        help="Only calls with it; a trailing * matches any ending.",
    )(function)


def read_pairs(pairs: Sequence[str]) -> dict[str, str]:
    """`["team=search"]` as a dict.

    Raises:
        click.BadParameter: one without `=` or without a name.
    """
    found = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise click.BadParameter(f"{pair!r} is no pair; write it as team=search")
        found[name] = value
    return found


# ── what is printed ──────────────────────────────────────────────────────────────────────────────────────────────


def say(text: str) -> None:
    """A line, or several, on stdout."""
    click.echo(text)


def note(text: str) -> None:
    """A line on stderr, beside what was asked for."""
    click.echo(f"farebox: {text}", err=True)


def say_json(value: object) -> None:
    """One JSON value; amounts as decimal text, instants as RFC 3339 in UTC."""
    click.echo(json.dumps(value, default=_plain, indent=2))


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return show_instant(value, UTC)
    if isinstance(value, Mapping):
        return dict(value)
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def show_instant(instant: datetime | None, zone: tzinfo) -> str:
    """To the second, with its offset: `2026-11-22T09:30:00Z`."""
    if instant is None:
        return "-"
    return instant.astimezone(zone).isoformat(timespec="seconds").replace("+00:00", "Z")


def amount(value: Decimal | int) -> str:
    """Never an exponent."""
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def harmless(text: str) -> str:
    """Text of a tag or a model as it may go to a terminal: no control character moves the cursor or changes a color."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def say_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], total: Sequence[str] | None = None) -> None:
    """A table with a line for each row, and one for the total where there is one."""
    if is_terminal():
        from rich.console import Console

        Console().print(rich_table(columns, rows, total))
    else:
        say(plain_table(columns, rows, total))


def plain_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], total: Sequence[str] | None = None) -> str:
    """Columns side by side, two spaces between them."""
    lines = [[column.title for column in columns], *([harmless(cell) for cell in row] for row in rows)]
    if total is not None:
        lines.append(list(total))
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column.is_number else cell.ljust(width)
            for column, cell, width in zip(columns, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def rich_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], total: Sequence[str] | None = None) -> Any:
    """The same for rich."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=total is not None)
    for n, column in enumerate(columns):
        table.add_column(
            column.title,
            footer=Text(total[n]) if total is not None else "",
            justify="right" if column.is_number else "left",
            no_wrap=column.is_number,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))
    return table


def is_terminal() -> bool:
    return sys.stdout.isatty()


#: Columns of amounts of calls, as `report` has them, and of `cells_of`.
AMOUNTS: Final = tuple(
    Column(title, True) for title in ("calls", "refused", "tokens in", "tokens out", "usd", "reserved usd")
)


def cells_of(row: Any) -> list[str]:
    """The amounts of a row of a report."""
    numbers = row.calls, row.refused_calls, row.input_tokens, row.output_tokens, row.usd, row.reserved_usd
    return [amount(number) for number in numbers]
