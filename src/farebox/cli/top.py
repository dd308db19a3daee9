"""`farebox top`: a report that is asked for again every second."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Final, NamedTuple

import attrs
import click

from farebox.cli import _doors
from farebox.cli._exits import BAD_INPUT, SIGNAL, Problem
from farebox.cli._output import (
    AMOUNTS,
    Column,
    Shown,
    amount,
    cells_of,
    is_terminal,
    plain_table,
    rich_table,
    say,
    say_json,
    show_instant,
    shows,
    where_option,
)
from farebox.cli._reading import by_option, check_tags, midnight

_REFRESH_SECONDS: Final = 1.0
_CTRL_C: Final = "\x03"

#: By which key rows are sorted, and by what of them.
_ORDERS: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "u": ("usd", lambda row: row.usd + row.reserved_usd),
    "c": ("calls", lambda row: row.calls),
    "t": ("tokens", lambda row: row.input_tokens + row.output_tokens),
    "f": ("refused", lambda row: row.refused_calls),
    "n": ("name", lambda row: tuple(row.tags.values())),
}


class _View(NamedTuple):
    """What is asked, and in which order it is shown."""

    by: tuple[str, ...]
    since: str | None
    where: dict[str, str]
    shown: Shown
    key: str = "u"
    is_reversed: bool = False


@click.command()
@by_option("model")
@click.option("--since", metavar="SPAN", help="Such as 1h; by default since midnight.")
@where_option
@click.option("--once", is_flag=True, help="Print one frame and end.")
@shows
def top(by: tuple[str, ...], since: str | None, where: dict[str, str], once: bool, shown: Shown) -> int:
    """Who spends how much, once a second.

    Keys: u, c, t, f, n sort by usd, calls, tokens, refused, name; r turns the order around; q or Ctrl-C ends.
    """
    _doors.use_ledger()
    view = _View(by, since, where, shown)
    if shown.as_json:
        _say_json(view)
    elif once:
        say(_frame(view))
    elif not (is_terminal() and sys.stdin.isatty()):
        raise Problem("top needs a terminal; elsewhere write farebox top --once", BAD_INPUT)
    else:
        return _live(view)
    return 0


def _rows(view: _View) -> tuple[list[Any], Any]:
    """Rows of the report in the order asked for, and the total."""
    import farebox

    found = farebox.report(
        by=view.by, since=view.since or midnight(view.shown), where=view.where, tz=view.shown.zone_name
    )
    check_tags(found.rows, view.by, view.where)
    name, order = _ORDERS[view.key]
    # Names from a to z, and amounts from the highest down.
    return sorted(found.rows, key=order, reverse=(name != "name") != view.is_reversed), found.total


def _say_json(view: _View) -> None:
    rows, total = _rows(view)
    say_json({"rows": [attrs.asdict(row) for row in rows], "total": attrs.asdict(total)})


def _heading(view: _View, total: Any) -> str:
    since = f"in the last {view.since}" if view.since else "today"
    now = show_instant(datetime.now(UTC), view.shown.zone)
    return f"{now}  {amount(total.usd)} USD {since}, {total.calls} calls, {amount(total.reserved_usd)} USD reserved"


def _columns(view: _View) -> list[Column]:
    return [*map(Column, view.by), *AMOUNTS]


def _cells(rows: list[Any]) -> list[list[str]]:
    return [[*(value or "-" for value in row.tags.values()), *cells_of(row)] for row in rows]


def _frame(view: _View) -> str:
    rows, total = _rows(view)
    return f"{_heading(view, total)}\n\n{plain_table(_columns(view), _cells(rows))}"


# ── live ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _live(view: _View) -> int:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    console = Console()

    def draw() -> Group:
        rows, total = _rows(view)
        name = _ORDERS[view.key][0]
        keys = f"by {name}{', turned around' if view.is_reversed else ''}; keys: u c t f n sort, r turns, q ends"
        most = max(1, console.height - 7)
        more = f"{len(rows) - most} more rows\n" if len(rows) > most else ""
        return Group(
            Text(_heading(view, total)),
            rich_table(_columns(view), _cells(rows[:most])),
            Text(more + keys, style="dim"),
        )

    with (
        _until_signal() as signals,
        _keys() as next_key,
        Live(draw(), console=console, screen=True, auto_refresh=False) as live,
    ):
        while not signals:
            key = next_key(_REFRESH_SECONDS)
            if key in ("q", "Q", _CTRL_C):
                return 0
            if key in _ORDERS:
                view = view._replace(key=key)
            elif key == "r":
                view = view._replace(is_reversed=not view.is_reversed)
            live.update(draw(), refresh=True)
    return 0 if signals[0] == signal.SIGINT else SIGNAL + signals[0]


@contextmanager
def _until_signal() -> Iterator[list[int]]:
    """The signals to end that came: none of them leaves the terminal half changed."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits for a key for so many seconds, "" where none came; the terminal is as before afterwards.

    Ctrl-C is a key as well.
    """
    if sys.platform == "win32":
        yield _next_key_of_windows
        return
    import os
    import select
    import termios
    import tty

    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)

    def next_key(seconds: float) -> str:
        ready, _, _ = select.select([stdin], [], [], seconds)
        if not ready:
            return ""
        # An arrow key comes as several characters, none of which is meant; a closed terminal reads as nothing.
        pressed = os.read(stdin, 64).decode("utf-8", "replace")
        return "q" if not pressed else pressed if len(pressed) == 1 else ""

    tty.setcbreak(stdin)
    ours = termios.tcgetattr(stdin)
    ours[tty.CC][termios.VINTR] = b"\0"  # no character interrupts
    termios.tcsetattr(stdin, termios.TCSADRAIN, ours)
    try:
        yield next_key
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def _next_key_of_windows(seconds: float) -> str:
    import msvcrt

    until = time.monotonic() + seconds
    read: Any = msvcrt
    while time.monotonic() < until:
        if read.kbhit():
            return str(read.getwch())
        time.sleep(0.05)
    return ""
