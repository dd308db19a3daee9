"""The part of `farebox run` that is inside the program: its budgets, its tag, and how a stop ends the process.

What the program itself says by `configure()` is laid over it and takes none of it away.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final

VARIABLE: Final = "FAREBOX_RUN"
#: The tag that every call of a run has.
TAG: Final = "run"
#: As in `_exits`, which needs click.
_BAD_INPUT: Final = 2
_LEDGER: Final = 4
_STOPPED: Final = 79
_MOST_CAUSES: Final = 100


def arm(note: Callable[[str], None]) -> None:
    """Meter the SDKs of this process, under the budgets of the runs that it is part of.

    Raises:
        SystemExit: that can't be done; with a line on stderr, and nothing sent.
    """
    import farebox
    from farebox import errors

    runs = json.loads(os.environ[VARIABLE])
    try:
        _impose(runs)
        handle = farebox.instrument()
    except (errors.FareboxError, ValueError) as error:
        _say(f"nothing is sent, as it can't be measured: {str(error).partition(chr(10))[0]}")
        is_ledger = isinstance(error, errors.LedgerUnavailable)
        raise SystemExit(_LEDGER if is_ledger else _BAD_INPUT) from None
    from farebox import _instrument

    _instrument._handles.remove(handle)  # uninstrument() is about what the program instrumented
    _end_in_one_line({run["name"] for run in runs}, note)
    note("armed")


def _impose(runs: list[dict[str, Any]]) -> None:
    """Put budgets and a tag over the process that stay, whatever `configure(budgets=..., tags=...)` replaces."""
    import farebox
    from farebox import _config

    # The outermost last, as they speak.
    imposed = [farebox.budget(run["name"], per="ever", **run["budget"]) for run in reversed(runs) if run["budget"]]
    config: Any = _config
    read_budgets, read_tags = config._read_budgets, config.read_tags

    def read_budgets_and_ours(given: Iterable[Any]) -> tuple[Any, ...]:
        found: tuple[Any, ...] = read_budgets([*([given] if hasattr(given, "budget_made") else given), *imposed])
        return found

    def read_tags_and_ours(given: Mapping[str, object]) -> Mapping[str, str]:
        found: Mapping[str, str] = read_tags({**given, TAG: runs[-1]["name"]})
        return found

    with config._lock:
        config._begin()
        config._read_budgets = read_budgets_and_ours
        config.read_tags = read_tags_and_ours
        farebox.configure(budgets=config._base.standing, tags=config._base.tags)


def _end_in_one_line(names: set[str], note: Callable[[str], None]) -> None:
    """Have a stop of these budgets that nobody caught end the process with a line and an exit code of its own."""
    show = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        stop = _stop_behind(error, names)
        if stop is None:
            show(kind, error, traceback)
            return
        if stop is not error:
            show(kind, error, traceback)
        note("stopped")
        _say(f"stopped: {str(stop).partition(chr(10))[0]}")
        raise SystemExit(_STOPPED)

    sys.excepthook = hook


def _stop_behind(error: BaseException | None, names: set[str]) -> BaseException | None:
    """The stop itself, or the one that another error was raised from or in the face of."""
    import farebox

    for _ in range(_MOST_CAUSES):
        if error is None or (isinstance(error, farebox.BudgetExceeded) and error.budget in names):
            return error
        if isinstance(error, BaseExceptionGroup):
            return next(filter(None, (_stop_behind(inner, names) for inner in error.exceptions)), None)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def _say(line: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"farebox: {line}\n")
        sys.stderr.flush()
