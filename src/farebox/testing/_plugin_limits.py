"""The budgets of a test run: of the run, of each test by an option, of one test by its mark; and where they are in force.

They are scope budgets, opened anew for each run of a test.  Their frame is put around the scope that is there when the test's
set-up begins, outermost, and taken off again after the test, so that scopes of wider fixtures stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

import farebox
from farebox import _scope
from farebox._frames import Frame
from farebox.errors import BudgetExceeded

#: What these budgets are called in errors, reports and decisions: the words that made them.
RUN: Final = "--farebox-budget"
PER_TEST: Final = "--farebox-budget-per-test"
MARK: Final = "@pytest.mark.budget"

_WORDS: Final = ("usd", "tokens", "calls", "on_exceed")
_MODES: Final = ("block", "downgrade", "clamp", "wait", "break", "raise", "warn")
_EXAMPLE: Final = '@pytest.mark.budget(usd="0.05", calls=3)'


def option_budget(name: str, usd: str | None) -> farebox.budget | None:
    """The budget that an option asks for.

    Raises:
        pytest.UsageError: no amount of USD.
    """
    if usd is None:
        return None
    try:
        return farebox.budget(name, usd=usd)
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"{name}={usd}: {error}; write {name}=0.50") from error


def mark_budget(test: str, mark: pytest.Mark) -> farebox.budget:
    """The budget that a `budget` mark asks for; `test` is the id of the test that it is for.

    Raises:
        pytest.UsageError: a word or a value that a test's budget can't have.
    """
    where = f"{test}: @pytest.mark.budget"
    if mark.args:
        raise pytest.UsageError(f"{where}({mark.args[0]!r}) does not say of what; write {_EXAMPLE}")
    words: dict[str, Any] = dict(mark.kwargs)
    for word, value in words.items():
        if word not in _WORDS:
            raise pytest.UsageError(f"{where} has no word {word}={value!r}; choose from {', '.join(_WORDS)}")
    mode = words.get("on_exceed", "block")
    if isinstance(mode, str) and mode not in _MODES:
        why = "would end the test and let it pass" if mode == "truncate" else "is unknown"
        raise pytest.UsageError(f"{where}: on_exceed={mode!r} {why}; choose from {', '.join(_MODES)}")
    try:
        made = farebox.budget(MARK, **words)
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"{where}: {error}; write {_EXAMPLE}") from error
    if made.budget_made.is_standing:
        raise pytest.UsageError(f"{where} has a limit by period, and a test has one limit; write {_EXAMPLE}")
    return made


class Limits:
    """The budgets in force now: that of the run always, those of a test from its set-up to the end of its call."""

    def __init__(self, run: farebox.budget | None, per_test: farebox.budget | None) -> None:
        self._per_test = per_test
        if run is not None:
            _scope.go_on_in(_scope.open_frame([run], _scope.current()))
        #: The scope around the test, and the frame of its budgets in it; None where it has none.
        self._outer: Frame | None = None
        self._frame: Frame | None = None

    def begin(self, of_mark: farebox.budget | None) -> None:
        """Open the budgets of a test, and put them in force."""
        self._outer = _scope.current()
        scopes = [scope for scope in (self._per_test, of_mark) if scope is not None]
        if scopes:
            self._frame = _scope.open_frame(scopes, self._outer)
            _scope.go_on_in(self._frame)

    def end(self, *, even_within: bool) -> None:
        """Take them off; a second time does nothing.

        Args:
            even_within: Also where a fixture's own scope is still open within them, or the program has left another.
        """
        if self._frame is not None and (even_within or _scope.current() is self._frame):
            self._frame = None
            _scope.go_on_in(self._outer)

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """For a fixture that several tests share: the test that happens to ask first does not pay for it."""
        frame = self._frame
        if frame is None:
            yield
            return
        inner = _scope.current()
        _scope.go_on_in(self._outer)
        try:
            yield
        finally:
            now = _scope.current()
            if now is self._outer:
                _scope.go_on_in(inner)
            else:  # the fixture has opened a scope for all tests that share it: ours goes around that
                self._outer = now
                self._frame = frame if now is None else frame.around(now)
                _scope.go_on_in(self._frame)


def stopped_by(error: BaseException | None) -> BudgetExceeded | None:
    """The refusal of one of these budgets that an error is, or came of."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, BudgetExceeded) and one.budget in (RUN, PER_TEST, MARK):
            return one
        if isinstance(one, BaseExceptionGroup):
            waiting.extend(one.exceptions)
        waiting += [one.__cause__, None if one.__suppress_context__ else one.__context__]
    return None
