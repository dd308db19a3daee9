"""What the exit codes of the command mean, and the error that ends it with one line and one of them."""

from __future__ import annotations

from typing import Final

import click

#: `doctor` found something that does not work.
FOUND_PROBLEM: Final = 1
#: A word, a file or a number that can't be read.
BAD_INPUT: Final = 2
#: There is no such ledger, call, model, budget or tag.
NOT_FOUND: Final = 3
#: The ledger did not answer.
LEDGER: Final = 4
#: The budget of `run` stopped the program.
STOPPED: Final = 79
#: As shells say it: a program that can't be started, one that is not there, and what a signal ended.
NOT_STARTED: Final = 126
NO_PROGRAM: Final = 127
SIGNAL: Final = 128
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141


class Problem(click.ClickException):
    """Ends the command with one line and this exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.ends_with = exit_code
