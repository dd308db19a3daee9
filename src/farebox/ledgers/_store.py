"""What a database must do for a ledger to be kept in it; the rest of the contract is `_stored`'s."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import tzinfo
from typing import Any

from farebox.ledgers import Account, Control, Grain, Grant, Noted, Sum, View
from farebox.ledgers._operations import Operation


class Store(abc.ABC):
    """One database, as one process sees it.

    `apply` and `keep_alive` are called by one thread at a time, everything else by any thread at any time.  All raise
    LedgerUnavailable where the database does not answer, LedgerLost where it is not the one that was opened.
    """

    #: What messages call it: a URL without password.
    shown: str
    #: Seconds after which a process that did not `keep_alive` may be taken for dead.
    alive_seconds: float = 30.0

    @abc.abstractmethod
    def open(self, owner: str) -> None:
        """Connect, check, create what is missing, and remember which store this is; `owner` names this process in it.

        Called first, and again in a forked child with another owner: what was inherited is let go of, not closed.
        """

    @abc.abstractmethod
    def apply(self, operations: Sequence[Operation]) -> None:
        """Do all in order and answer each, durably: when this returns they survive a crash of this process.

        An operation that can't be done gets its `error`, and the others are done.  Where this raises, any of them may or
        may not have been done, and those that nobody awaits will be given again.
        """

    @abc.abstractmethod
    def keep_alive(self) -> None:
        """Say that this process is there."""

    @abc.abstractmethod
    def now_seconds(self) -> float:
        """Epoch seconds by the store's clock, as last known, without asking."""

    @abc.abstractmethod
    def view(self, account: Account) -> View: ...

    @abc.abstractmethod
    def accounts(self, prefix: str) -> list[tuple[str, View]]: ...

    @abc.abstractmethod
    def controls(self) -> dict[str, Control]: ...

    @abc.abstractmethod
    def noted(self, name: str) -> Noted | None: ...

    @abc.abstractmethod
    def in_flight(self) -> list[tuple[Any, Grant]]: ...

    @abc.abstractmethod
    def rows(self, since_seconds: float | None, *, dearest_first: bool) -> Iterator[Any]: ...

    @abc.abstractmethod
    def rows_of(self, call_id: str) -> list[Any]: ...

    @abc.abstractmethod
    def tally(
        self, since_seconds: float | None, grain: Grain, zone: tzinfo | None, by: Sequence[str] | None = None
    ) -> Iterable[Sum]: ...

    @abc.abstractmethod
    def learnt(self) -> Mapping[str, Mapping[int, int]]: ...

    @abc.abstractmethod
    def prune(self, before_seconds: float) -> int: ...

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of the database; say that this process is gone, so that what it holds need not be waited for."""
