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

import pytest

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
        top.press("\x1b[A")  # an arrow means nothing
        spend(feature="brand-new")
        top.read_until("brand-new")
        top.press("q")
        top.read_until(re.escape(_LEAVES_SCREEN))
        assert top.process.wait(10) == 0
        assert top.is_as_before()


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
