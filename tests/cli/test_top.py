"""`farebox top`, in one frame and at a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

import farebox
from farebox.cli._output import Column, Shown
from farebox.cli._screens import Question, RowsScreen, _folded, fitted
from farebox.cli.top import _Pages, keys_in
from farebox.errors import LedgerUnavailable
from tests.cli.conftest import Command, spend

Use = Callable[..., None]
_LEAVES_SCREEN = "\x1b[?1049l"


class Terminal:
    """A terminal of 30 lines and 120 columns with `farebox top` at it."""

    def __init__(self, command: Command, *arguments: str) -> None:
        self.ours, self.theirs = pty.openpty()
        self.before = termios.tcgetattr(self.theirs)
        self.said = ""
        self.process = subprocess.Popen(
            Command.words(["top", *arguments]),
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            cwd=command.folder,
            env={**command.environment, "COLUMNS": "120", "LINES": "30"},
        )

    def press(self, key: str) -> None:
        os.write(self.ours, key.encode())

    def read_until(self, pattern: str) -> str:
        """What it shows next, until that is there; what was shown before is forgotten."""
        self.said = ""
        until = time.monotonic() + 30
        while not re.search(pattern, self.said, re.DOTALL):
            assert time.monotonic() < until, f"{pattern} is not in {self.said!r}"
            if select.select([self.ours], [], [], 0.1)[0]:
                self.said += os.read(self.ours, 65_536).decode("utf-8", "replace")
        return self.said

    def is_as_before(self) -> bool:
        return termios.tcgetattr(self.theirs) == self.before


@contextmanager
def terminal(command: Command, *arguments: str) -> Iterator[Terminal]:
    opened = Terminal(command, *arguments)
    try:
        yield opened
    finally:
        opened.process.kill()
        opened.process.wait()
        os.close(opened.ours)
        os.close(opened.theirs)


def test_one_frame_is_plain_text(command: Command, ledger: Use) -> None:
    ledger()
    spend(2, feature="search")
    heading, empty, *table = command("top", "--once", "--by", "feature").stdout.splitlines()
    assert heading.endswith("Z  0.012 USD today, 2 calls, 0 USD reserved")
    assert (empty, table[1].split()) == ("", "search 2 0 2000 1000 0.012 0".split())
    found = json.loads(command("top", "--json", "--since", "1h").stdout)
    assert found["total"]["usd"] == "0.012"


def test_it_shows_what_is_new_and_sorts_by_keys(command: Command, ledger: Use) -> None:
    ledger()
    spend(feature="dear")
    spend(3, feature="cheap", model="gpt-4.1-nano")
    with terminal(command, "--by", "feature") as top:
        top.read_until("dear.*cheap.*by usd")
        top.press("c")
        top.read_until("cheap.*dear.*by calls")
        top.press("r")
        top.read_until("dear.*cheap.*by calls, turned around")
        top.press("\x1b[24~\x1b[1;5C?")  # which mean nothing
        spend(feature="brand-new")
        top.read_until("brand-new")
        top.press("q")
        top.read_until(re.escape(_LEAVES_SCREEN))
        assert top.process.wait(10) == 0
        assert top.is_as_before()


def test_a_row_opens_its_calls_and_a_call_how_its_cost_came_about(command: Command, ledger: Use) -> None:
    ledger()
    spend(tokens=(1_234, 567), feature="search")
    spend(feature="search")
    spend(tokens=(9_000, 900), feature="answer")
    dear, _ = (call for call in farebox.calls() if call.tags["feature"] == "search")
    with terminal(command, "--by", "feature") as top:
        top.read_until("> answer.*  search.*1 of 2, by usd")
        top.press("\x1b[B")
        top.read_until("  answer.*> search.*2 of 2")
        spend(5, feature="search")  # by now it is the dearest: what was chosen stays so
        top.read_until("> search.*  answer.*1 of 2")
        top.press("\r")
        top.read_until(r"calls of feature=search.*> \d\d:\d\d:\d\d.*1234 +567 +0\.007004 .*1 of 7, by usd")
        top.press("b")
        top.read_until("1000 +500 +0.006 .*by begin")
        top.press("G\r")
        said = top.read_until("which is the same.*esc back, q ends")
        assert f"{dear.call_id}: openai gpt-4.1" in said
        assert re.search(r"uncached input tokens +1234 +2\.00 per million +0\.002468", said)
        top.press("\x1b")
        top.read_until("calls of feature=search.*7 of 7, by begin")
        top.press("\x7f")
        top.read_until("1 of 2, by usd")
        top.press("\x1b")  # there is nothing further back
        top.press("q")
        top.read_until(re.escape(_LEAVES_SCREEN))
        assert top.process.wait(10) == 0
        assert top.is_as_before()


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("uq", ["u", "q"]),
        ("\x1b", ["escape"]),
        ("\x1b\x1b[B\x1bOA", ["escape", "down", "up"]),
        ("\r\n\x7f", ["enter", "enter", "backspace"]),
        ("\x1b[5~\x1b[6~\x1b[H\x1b[4~gG", ["page up", "page down", "home", "end", "home", "end"]),
        ("\x1b[24~\x1b[1;5C\x1b[?25lü", ["ü"]),
        ("", []),
    ],
)
def test_keys_are_what_a_terminal_tells(typed: str, keys: list[str]) -> None:
    assert keys_in(typed) == keys


@given(
    st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30), st.integers(0, 10**9)), max_size=5),
    st.integers(20, 120),
)
def test_a_table_is_as_wide_as_the_terminal_at_most(rows: list[tuple[str, str, int]], width: int) -> None:
    columns = [Column("feature"), Column("model"), Column("calls", True), Column("usd", True)]
    cells = [[feature, model, str(usd), str(usd)] for feature, model, usd in rows]
    lines = fitted(columns, cells, width, ("calls",))
    assert len(lines) == 1 + len(rows)
    assert max(cell_len(line) for line in lines) <= width
    assert all(line.rstrip().endswith(str(row[2])) for line, row in zip(lines[1:], rows, strict=True))


@given(st.text(st.sampled_from("ab 東 "), max_size=60), st.integers(4, 20))
def test_a_long_line_is_folded_and_loses_nothing_but_space(line: str, width: int) -> None:
    folded = _folded(line, width)
    assert max(map(cell_len, folded)) <= width
    assert "".join(folded).replace(" ", "") == line.replace(" ", "")


def test_a_ledger_that_does_not_answer_is_said_below_what_was_known(
    ledger: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger()
    spend(feature="search")
    pages = _Pages(RowsScreen(Question(("feature",), None, {}, Shown(False, "UTC", UTC))))
    assert "> search" in pages.drawn(80, 20).plain
    monkeypatch.setattr("farebox.cli._screens.ask", _raise_unavailable)
    pages.press("\r")
    pages._load()
    shown = pages.drawn(80, 20).plain.splitlines()
    assert "> search" in shown[3]
    assert shown[-1] == "the ledger is away"
    monkeypatch.undo()
    pages._load()
    assert "away" not in pages.drawn(80, 20).plain


def _raise_unavailable(question: Question) -> None:
    raise LedgerUnavailable("the ledger is away\nand more")


@pytest.mark.parametrize(("how", "code"), [("key", 0), (signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_ctrl_c_leaves_the_terminal_as_it_was(
    command: Command, ledger: Use, how: str | signal.Signals, code: int
) -> None:
    ledger()
    spend(feature="search")
    with terminal(command) as top:
        top.read_until("gpt-4.1.*by usd")
        if isinstance(how, str):
            top.press("\x03")
        else:
            top.process.send_signal(how)
        top.read_until(re.escape(_LEAVES_SCREEN))
        assert top.process.wait(10) == code
        assert "Traceback" not in top.said
        assert top.is_as_before()
