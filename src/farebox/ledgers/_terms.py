"""What is in force for an account: its limits as people changed them, and whether it is killed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from farebox._money import MOST_NANOS
from farebox.ledgers import Account, Balance, Control, Shortfall, View
from farebox.ledgers._fitting import EMPTY, UNCHANGED, Amounts, Limits, limits_of

_SILENT: Final = Control()

#: The entry of what is in force by key.
CONTROLS: Final = object()


class Terms:
    """What people said, in the entries of a `_book`; `has_any` may say too much, never too little.

    Until somebody says something, each account's own limits are in force.
    """

    def __init__(self, entries: dict[Any, Any]) -> None:
        entries[CONTROLS] = {}
        self.has_any = False
        self._entries = entries

    def said(self) -> dict[str, Control]:
        """What is in force by key: never changed, only replaced."""
        return self._entries[CONTROLS]  # type: ignore[no-any-return]

    def controlled(self, key: str, said: Control) -> dict[Any, Any]:
        """What changes where `said` is put in force under `key`; this and the two below change nothing themselves."""
        self.has_any = True
        before = self.said()
        return {CONTROLS: {**before, key: said.over(before.get(key, Control()))}}

    def topped_up(self, account: Account, amounts: Amounts) -> dict[Any, Any]:
        self.has_any = True
        was = self._entries.get(account.key, EMPTY)
        (usd, tokens, calls), (more_usd, more_tokens, more_calls) = was[10], amounts
        return {account.key: (*was[:10], (usd + more_usd, tokens + more_tokens, calls + more_calls), was[11])}

    def reset(self, account: Account) -> dict[Any, Any]:
        was = self._entries.get(account.key, EMPTY)
        return {account.key: (0, was[1], 0, 0, was[4], 0, 0, was[7], 0, was[9], was[10], was[11])}

    def in_force(self, accounts: Iterable[Account]) -> Limits:
        """Limits in force by account key; empty while nobody has said anything about any account."""
        if not self.has_any:
            return UNCHANGED
        entries, said = self._entries, self.said()
        return {account.key: _limits(account, said, entries.get(account.key, EMPTY)[10]) for account in accounts}

    def killed(self, accounts: Iterable[Account], needed: int) -> Shortfall | None:
        """The answer of the first killed account to one who needs so many nanodollars; None where none is killed."""
        said = self.said()
        for account in accounts:
            if said and _is_killed(account, said):
                was = self._entries.get(account.key, EMPTY)
                limit = _limits(account, said, was[10])[0]
                return Shortfall(account, "usd", limit, was[0], was[1], needed, "exhausted", is_killed=True)
        return None

    def view(self, account: Account) -> View:
        said, was = self.said(), self._entries.get(account.key, EMPTY)
        return View(Balance(*was[:9]), *_limits(account, said, was[10]), _is_killed(account, said))

    def views(self, prefix: str) -> list[tuple[str, View]]:
        """Of all accounts whose key is a string that begins so."""
        return [
            (key, self.view(was[11] or Account(key, key)))
            for key, was in self._entries.items()
            if isinstance(key, str) and key.startswith(prefix)
        ]


def _limits(account: Account, said: Mapping[str, Control], on_top: Amounts) -> Amounts:
    """Limits in usd nanodollars, tokens and calls, with what was put `on_top` of them."""
    in_force = _SILENT
    for key in account.controls:
        in_force = said.get(key, _SILENT).over(in_force)
    usd, tokens, calls = limits_of(account)
    return (
        min(MOST_NANOS, (usd if in_force.limit_usd_nanos is None else in_force.limit_usd_nanos) + on_top[0]),
        min(MOST_NANOS, (tokens if in_force.limit_tokens is None else in_force.limit_tokens) + on_top[1]),
        min(MOST_NANOS, (calls if in_force.limit_calls is None else in_force.limit_calls) + on_top[2]),
    )


def _is_killed(account: Account, said: Mapping[str, Control]) -> bool:
    return any(said.get(key, _SILENT).is_killed for key in account.controls)
