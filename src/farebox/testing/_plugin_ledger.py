"""A memory ledger for each test, under whatever the program configures itself, and gone with the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
        top = _config.ledger_in_force()
        if not any(ledger is top for ledger in self._shared) or self._is_too_real(top):
            self._lay()

    def _is_too_real(self, ledger: Ledger | None) -> bool:
        return self._is_played and ledger is not None and ledger.blocking

    def _lay(self) -> None:
        self._handles.append(_config.lay_ledger())

    def end(self) -> None:
        self._is_played = False
        while self._handles:
            self._handles.pop().undo()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Around the set-up of a fixture that several tests share."""
        before = _config.ledger_in_force()
        yield
        after = _config.ledger_in_force()
        if after is not None and after is not before:
            self._shared.append(after)
            if self._is_too_real(after):
                self._lay()
