"""A memory ledger for each test, under whatever the program configures itself, and gone with the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import farebox
from farebox import _config
from farebox.ledgers import Ledger


class FreshLedgers:
    """Lays an empty ledger over the process's; what a test configures lies over that, until it takes it back.

    The ledger that a class, module, package or session fixture configures stays in force: its tests mean to share it.
    """

    def __init__(self) -> None:
        self._handles: list[_config.Configuration] = []
        self._shared: list[Ledger] = []
        self._is_played = False

    def begin(self, *, is_played: bool = False) -> None:
        """Lay it; where the calls are played from a cassette, also over a stored ledger of a wider fixture's.

        What a cassette plays costs nothing, and must not be charged where money is kept that outlives the run.
        """
        self._is_played = is_played
        top = _top_ledger()
        if not any(ledger is top for ledger in self._shared) or self._is_too_real(top):
            self._lay()

    def _is_too_real(self, ledger: Ledger | None) -> bool:
        return self._is_played and ledger is not None and ledger.blocking

    def _lay(self) -> None:
        with _config._lock:
            _config._begin()
            was_chosen = _is_chosen()
            self._handles.append(farebox.configure(ledger="memory://"))
            # A program that forgot to choose a ledger for its standing budgets should hear of it in tests too.
            _config._layers[-1][1]["is_ledger_chosen"] = was_chosen
            _config._rebuild()

    def end(self) -> None:
        self._is_played = False
        while self._handles:
            handle = self._handles.pop()
            if _config._base is not None:
                handle.undo()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Around the set-up of a fixture that several tests share."""
        before = _top_ledger()
        yield
        after = _top_ledger()
        if after is not None and after is not before:
            self._shared.append(after)
            if self._is_too_real(after):
                self._lay()


def _top_ledger() -> Ledger | None:
    """The ledger in force; None where it is not known yet, as one that a file names is opened on first use."""
    chosen: list[Ledger] = [changes["ledger"] for _, changes in _config._layers if "ledger" in changes]
    if chosen:
        return chosen[-1]
    return None if _config._base is None else _config._base.ledger


def _is_chosen() -> bool:
    assert _config._base is not None
    return (
        _config._unopened is not None
        or _config._base.is_ledger_chosen
        or any(changes.get("is_ledger_chosen", False) for _, changes in _config._layers)
    )
