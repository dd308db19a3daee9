"""Accounts of windows: open only now, and dropped some time after.  Works on the entries of a `_book`, by its rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from farebox.ledgers import Account, WindowClosed
from farebox.ledgers._fitting import EMPTY, check_key

#: Accounts of windows that end, above which those that are over are dropped: the oldest first, down to seven eighths.
MOST_CLOSINGS: Final = 10_000


class Closings:
    """When the windows of accounts end, by account key; `ends` may name too much, never too little."""

    def __init__(self, entries: dict[Any, Any], wall_clock: Callable[[], float]) -> None:
        self.ends: dict[Any, int] = {}
        self._entries = entries
        self._wall_clock = wall_clock
        self._most = MOST_CLOSINGS

    def check(self, accounts: Iterable[Account]) -> None:
        """Before a hold.

        Raises:
            WindowClosed: a window is not now.
        """
        now = self._wall_clock()
        for account in accounts:
            starts_at, ends_at = account.starts_at, account.ends_at
            if (starts_at is not None and now < starts_at) or (ends_at is not None and now >= ends_at):
                raise WindowClosed(now)
        self.note(accounts)
        self.drop_closed()  # none of these, whose windows are open

    def note(self, accounts: Iterable[Account]) -> None:
        """Before any other operation that writes to these accounts."""
        for account in accounts:
            check_key(account.key)
            if account.ends_at is not None:
                self.ends[account.key] = account.ends_at

    def drop_closed(self) -> None:
        """Where there are too many, drop the accounts whose windows are over; none that a hold is open on."""
        ends = self.ends
        if len(ends) <= self._most:
            return
        now = self._wall_clock()
        for key in sorted(ends, key=ends.__getitem__):
            if ends[key] > now or len(ends) <= MOST_CLOSINGS - MOST_CLOSINGS // 8:
                break
            if self._entries.get(key, EMPTY)[9] == 0:
                self.drop(key)
        # Where few could go it is not tried again at once.
        self._most = max(MOST_CLOSINGS, len(ends) + MOST_CLOSINGS // 8)

    def drop(self, account_key: Any) -> None:
        """Drop this account; an unknown one is ignored."""
        self._entries.pop(account_key, None)
        self.ends.pop(account_key, None)
