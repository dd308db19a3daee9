"""The command as people have it: a process of its own, with a home and a ledger of this test."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

import farebox

Ended = subprocess.CompletedProcess[str]


@attrs.frozen
class Command:
    """Runs `farebox` in a folder of its own, without the settings of whoever runs the tests."""

    folder: Path
    environment: dict[str, str]

    def __call__(
        self, *arguments: str, stdin: str = "", timeout: float = 60, environment: Mapping[str, str] | None = None
    ) -> Ended:
        return subprocess.run(
            self.words(arguments),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=self.folder,
            env={**self.environment, **(environment or {})},
        )

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(self.words(arguments), text=True, cwd=self.folder, env=self.environment, **options)

    @staticmethod
    def words(arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-P", "-m", "farebox", *arguments]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("FAREBOX_") and name not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "NO_COLOR")
    }
    kept |= {
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
        "TERM": "xterm",
    }
    folder = tmp_path / "project"
    folder.mkdir()
    return Command(folder, kept)


Inside = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inside(command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Inside:
    """The command in this process, which is quicker: its exit code, and what is on stdout and stderr."""
    from farebox.cli import main

    def run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.chdir(command.folder)
        for name in ("HOME", "XDG_DATA_HOME", "FAREBOX_LEDGER"):
            if name in command.environment:
                monkeypatch.setenv(name, command.environment[name])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = main(list(arguments))
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def ledger(command: Command) -> Callable[..., None]:
    """Has the command use a ledger, and the test too, with these budgets: `ledger(budgets=[...])`."""

    def use(**words: Any) -> None:
        url = f"sqlite:///{command.folder}/ledger.db"
        command.environment["FAREBOX_LEDGER"] = url
        farebox.configure(ledger=url, **words)

    return use


def buy(usd: str, **tags: str) -> None:
    """Hold an amount under the budgets of this process, and spend it."""
    with farebox.track(**tags), farebox.reserve(usd=usd) as hold:
        hold.settle(usd=usd)
    assert farebox.flush(10)


def spend(count: int = 1, *, model: str = "gpt-4.1", tokens: tuple[int, int] = (1_000, 500), **tags: str) -> None:
    """Put calls on the books: of gpt-4.1 with 1000 tokens in and 500 out, for 0.002 and 0.004 USD."""
    with farebox.track(**tags):
        for _ in range(count):
            farebox.record(model=model, provider="openai", input_tokens=tokens[0], output_tokens=tokens[1])
    assert farebox.flush(10)
