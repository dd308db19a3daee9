"""What a process has seen of accounts in a database, so that it need not ask for what it only wants to know roughly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import attrs

from farebox.ledgers import Account, Balance, Grant, View
from farebox.ledgers._fitting import Amounts

_MOST_SEEN: Final = 10_000
_tuple = tuple.__new__


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
        seen = self._seen
        seen.update(views)
        while len(seen) > _MOST_SEEN:
            seen.pop(next(iter(seen)), None)

    def settle(self, accounts: Iterable[Account], grant: Grant, amounts: Amounts) -> None:
        """Take note of a hold that this process has settled, which the store will be told."""
        _, held_usd, held_tokens, held_calls = grant
        usd, tokens, calls = amounts
        for account in accounts:
            key = account.key
            seen = self._seen.get(key)
            if seen is None:
                continue
            numbers, limits, is_killed = seen if isinstance(seen, Glance) else Glance.of(seen)
            su, ru, du, st, rt, dt, sc, rc, dc = numbers[:9]
            ru, rt, rc = ru - held_usd, rt - held_tokens, rc - held_calls
            if ru < 0 or rt < 0 or rc < 0:
                ru, rt, rc = max(0, ru), max(0, rt), max(0, rc)
            now = (su + usd, ru, du, st + tokens, rt, dt, sc + calls, rc, dc)
            self._seen[key] = _tuple(Glance, (now, limits, is_killed))
