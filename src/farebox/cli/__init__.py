"""The `farebox` command: what a library can do, for who has a terminal and no program to change.

It needs `farebox[cli]`.  Nothing of it is loaded until it is called: `run` has programs load a part of it that needs neither
click nor rich.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, or those of the process, and return its exit code."""
    try:
        from farebox.cli import _commands
    except ImportError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.stderr.write("farebox: the command needs click and rich; write pip install 'farebox[cli]'\n")
        return 2
    return _commands.run_command(arguments)
