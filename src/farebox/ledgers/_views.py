"""What a process has seen of accounts in a database, so that it need not ask for what it only wants to know roughly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from farebox.ledgers import Account, Balance, Grant, View
from farebox.ledgers._fitting import Amounts

_MOST_SEEN: Final = 10_000


class Views(dict[str, View]):
    """Accounts as last seen, by key; beyond the bound those that were seen first are forgotten first."""

    def see(self, views: Mapping[str, View]) -> None:
        """Take note of how accounts are now."""
        self.update(views)
        while len(self) > _MOST_SEEN:
            self.pop(next(iter(self)), None)

    def settle(self, accounts: Iterable[Account], grant: Grant, amounts: Amounts) -> None:
        """Take note of a hold that this process has settled, which the store will be told."""
        for account in accounts:
            view = self.get(account.key)
            if view is not None:
                self[account.key] = _settled(view, grant, amounts)


def _settled(view: View, grant: Grant, amounts: Amounts) -> View:
    was, (_, held_usd, held_tokens, held_calls), (usd, tokens, calls) = view.balance, grant, amounts
    balance = Balance(
        was.spent_usd_nanos + usd,
        max(0, was.reserved_usd_nanos - held_usd),
        was.debt_usd_nanos,
        was.spent_tokens + tokens,
        max(0, was.reserved_tokens - held_tokens),
        was.debt_tokens,
        was.spent_calls + calls,
        max(0, was.reserved_calls - held_calls),
        was.debt_calls,
    )
    return View(balance, view.limit_usd_nanos, view.limit_tokens, view.limit_calls, view.is_killed)
