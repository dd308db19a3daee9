"""What a process has seen of accounts in a database, so that it need not ask for what it only wants to know roughly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import attrs

from farebox.ledgers import Account, Balance, Grant, View
from farebox.ledgers._fitting import Amounts

_MOST_SEEN: Final = 10_000


class Glance(NamedTuple):
    """What a view is made of.  Every call brings some of them, and few are ever looked at.

    Attributes:
        numbers: Those of a `Balance`, in its order; there may be more behind them.
        limits: In force, in usd nanodollars, tokens and calls.
    """

    numbers: tuple[int, ...]
    limits: Amounts
    is_killed: bool

    @classmethod
    def of(cls, view: View) -> Glance:
        limits = view.limit_usd_nanos, view.limit_tokens, view.limit_calls
        return cls(attrs.astuple(view.balance), limits, view.is_killed)

    def view(self) -> View:
        return View(Balance(*self.numbers[:9]), *self.limits, self.is_killed)


class Views(Mapping[str, View]):
    """Accounts as last seen, by key; beyond the bound those that were seen first are forgotten first."""

    def __init__(self) -> None:
        self._seen: dict[str, View | Glance] = {}

    def __getitem__(self, key: str) -> View:
        seen = self._seen[key]
        return seen.view() if isinstance(seen, Glance) else seen

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._seen))

    def __len__(self) -> int:
        return len(self._seen)

    def see(self, views: Mapping[str, View] | Mapping[str, Glance]) -> None:
        """Take note of how accounts are now."""
        self._seen.update(views)
        while len(self._seen) > _MOST_SEEN:
            self._seen.pop(next(iter(self._seen)), None)

    def settle(self, accounts: Iterable[Account], grant: Grant, amounts: Amounts) -> None:
        """Take note of a hold that this process has settled, which the store will be told."""
        for account in accounts:
            seen = self._seen.get(account.key)
            if seen is not None:
                self._seen[account.key] = _settled(
                    seen if isinstance(seen, Glance) else Glance.of(seen), grant, amounts
                )


def _settled(seen: Glance, grant: Grant, amounts: Amounts) -> Glance:
    _, held_usd, held_tokens, held_calls = grant
    usd, tokens, calls = amounts
    su, ru, du, st, rt, dt, sc, rc, dc = seen.numbers[:9]
    numbers = (
        *(su + usd, max(0, ru - held_usd), du),
        *(st + tokens, max(0, rt - held_tokens), dt),
        *(sc + calls, max(0, rc - held_calls), dc),
    )
    return Glance(numbers, seen.limits, seen.is_killed)
