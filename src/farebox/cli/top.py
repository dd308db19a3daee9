"""`farebox top`: a report that is asked for again every second, and what is behind it."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import attrs
import click

from farebox.cli import _doors
from farebox.cli._exits import BAD_INPUT, SIGNAL, Problem
from farebox.cli._output import Shown, is_terminal, plain_table, say, say_json, shows, where_option
from farebox.cli._reading import by_option
from farebox.cli._screens import Question, RowsScreen, Screen, ask
from farebox.errors import LedgerUnavailable

_REFRESH_SECONDS: Final = 1.0
#: A ledger is asked for at most this share of the time.
_MOST_BUSY: Final = 0.2
#: How long the rest of what one key sends may take to come.
_REST_SECONDS: Final = 0.05
_CTRL_C: Final = "\x03"


@click.command()
@by_option("model")
@click.option("--since", metavar="SPAN", help="Such as 1h; by default since midnight.")
@where_option
@click.option("--once", is_flag=True, help="Print one frame and end.")
@shows
def top(by: tuple[str, ...], since: str | None, where: dict[str, str], once: bool, shown: Shown) -> int:
    """Who spends how much, once a second.

    Keys: the arrows choose a row, enter shows the calls behind it and then how the cost of one came about, escape goes back;
    u, c, t, f, n sort by usd, calls, tokens, refused, name; r turns the order around; q or Ctrl-C ends.
    """
    _doors.use_ledger()
    question = Question(by, since, where, shown)
    if shown.as_json:
        rows, total = ask(question)
        say_json({"rows": [attrs.asdict(row) for row in rows], "total": attrs.asdict(total)})
    elif once:
        say(_frame(question))
    elif not (is_terminal() and sys.stdin.isatty()):
        raise Problem("top needs a terminal; elsewhere write farebox top --once", BAD_INPUT)
    else:
        return _live(RowsScreen(question))
    return 0


def _frame(question: Question) -> str:
    screen = RowsScreen(question)
    screen.load()
    cells = [screen.cells(row) for row in screen.items]
    return f"{screen.head()}\n\n{plain_table(screen.columns, cells)}"


# ── live ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Pages:
    """The pages that were opened, the last on top, asked anew when it is time."""

    def __init__(self, first: Screen) -> None:
        self._open = [first]
        self._next_at = 0.0
        self._fault = ""
        self._load(is_first=True)

    def _load(self, *, is_first: bool = False) -> None:
        began = time.monotonic()
        try:
            self._open[-1].load()
            self._fault = ""
        except LedgerUnavailable as error:
            if is_first:
                raise
            self._fault = str(error).partition("\n")[0]  # what was known before stays there
        now = time.monotonic()
        self._next_at = now + max(_REFRESH_SECONDS, (now - began) / _MOST_BUSY)

    def wait_seconds(self) -> float:
        return max(0.0, self._next_at - time.monotonic())

    def look_again(self) -> None:
        """Ask, where it is time."""
        if not self.wait_seconds():
            self._load()

    def press(self, key: str) -> None:
        if key in ("escape", "backspace", "left"):
            if len(self._open) > 1:
                self._open.pop()
                self._load()
            return
        opened = self._open[-1].press("enter" if key == "right" else key)
        if opened is not None:
            self._open.append(opened)
            self._load()

    def drawn(self, width: int, height: int) -> Any:
        from rich.text import Text

        lines = self._open[-1].lines(width, height - bool(self._fault))
        if self._fault:
            lines.append(Text(self._fault, style="bold red"))
        for line in lines:
            line.truncate(width, overflow="ellipsis")
        return Text("\n", no_wrap=True, end="").join(lines)


def _live(first: Screen) -> int:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    pages = _Pages(first)

    def drawn() -> Any:
        return pages.drawn(console.width, console.height)

    with (
        _until_signal() as signals,
        _keys() as next_keys,
        Live(drawn(), console=console, screen=True, auto_refresh=False) as live,
    ):
        while not signals:
            for key in next_keys(min(_REFRESH_SECONDS, pages.wait_seconds())):
                if key in ("q", "Q", _CTRL_C):
                    return 0
                pages.press(key)
            pages.look_again()
            live.update(drawn(), refresh=True)
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
def _keys() -> Iterator[Callable[[float], list[str]]]:
    """A function that waits for keys for so many seconds and says which came; the terminal is as before afterwards.

    Ctrl-C is a key as well.
    """
    if sys.platform == "win32":
        yield _next_keys_of_windows
        return
    import os
    import select
    import termios
    import tty

    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)

    def next_keys(seconds: float) -> list[str]:
        if not select.select([stdin], [], [], seconds)[0]:
            return []
        pressed = os.read(stdin, 1_024)
        # An arrow is an escape and more; over a slow line the rest comes later.
        while pressed.endswith((b"\x1b", b"\x1b[", b"\x1bO")) and select.select([stdin], [], [], _REST_SECONDS)[0]:
            rest = os.read(stdin, 1_024)
            if not rest:
                break
            pressed += rest
        return keys_in(pressed.decode("utf-8", "replace")) if pressed else ["q"]  # a closed terminal reads as nothing

    tty.setcbreak(stdin)
    ours = termios.tcgetattr(stdin)
    ours[tty.CC][termios.VINTR] = b"\0"  # no character interrupts
    termios.tcsetattr(stdin, termios.TCSADRAIN, ours)
    try:
        yield next_keys
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


#: What terminals send for keys that are no character, as xterm has it (ECMA-48 sequences; with CSI or SS3).
_SEQUENCES: Final = {
    **{
        f"\x1b{mark}{letter}": name
        for mark in "[O"
        for letter, name in zip("ABCDHF", "up down right left home end".split(), strict=True)
    },
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[1~": "home",
    "\x1b[4~": "end",
    "\x1b[7~": "home",
    "\x1b[8~": "end",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\b": "backspace",
    "g": "home",
    "G": "end",
    "\x06": "page down",
    "\x02": "page up",
}
_SEQUENCE: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1bO.|.", re.DOTALL)


def keys_in(text: str) -> list[str]:
    """The keys that a terminal tells of: characters as they are, others by name; sequences that mean nothing here are left out."""
    found = []
    for pressed in _SEQUENCE.findall(text):
        if pressed == "\x1b":
            found.append("escape")
        elif pressed in _SEQUENCES or len(pressed) == 1:
            found.append(_SEQUENCES.get(pressed, pressed))
    return found


#: What follows a "\xe0" or "\0" of Windows for keys that are no character.
_OF_WINDOWS: Final = {
    "H": "up",
    "P": "down",
    "M": "right",
    "K": "left",
    "I": "page up",
    "Q": "page down",
    "G": "home",
    "O": "end",
}


def _next_keys_of_windows(seconds: float) -> list[str]:
    import msvcrt

    until = time.monotonic() + seconds
    read: Any = msvcrt
    while time.monotonic() < until:
        if read.kbhit():
            pressed = str(read.getwch())
            if pressed in ("\0", "\xe0"):
                return [_OF_WINDOWS.get(str(read.getwch()), "")]
            return keys_in(pressed)
        time.sleep(0.05)
    return []
