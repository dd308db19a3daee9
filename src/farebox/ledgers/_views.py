"""What a process has seen of accounts in a database, so that it need not ask for what it only wants to know roughly."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import attrs

from farebox.ledgers import Account, Balance, Grant, View
from farebox.ledgers._fitting import Amounts

_MOST_SEEN: Final = 10_000
#: What was settled, and is not added up yet.
_MOST_SETTLED: Final = 64
_Settled = tuple[int, Iterable[Account], Grant, Amounts]


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


#: As if seen after everything.
_NEVER: Final[tuple[int, Mapping[str, Glance]]] = (sys.maxsize, {})


class Views(Mapping[str, View]):
    """Accounts as last seen, by key; beyond the bound those that were seen first are forgotten first.

    Many are seen and few are looked at, so what was settled since is added up for those.
    """

    def __init__(self) -> None:
        #: With the number of when it was seen, and among what.
        self._seen: dict[str, tuple[int, Mapping[str, Glance]]] = {}
        #: What this process has settled lately, with the number of when.
        self._settled: deque[_Settled] = deque()
        self._numbers = itertools.count()

    def __getitem__(self, key: str) -> View:
        at, among = self._seen[key]
        glance = among[key]
        for number, accounts, grant, amounts in tuple(self._settled):
            if number > at and any(account.key == key for account in accounts):
                glance = _after(glance, grant, amounts)
        return glance.view()

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._seen))

    def __len__(self) -> int:
        return len(self._seen)

    def see(self, glances: Mapping[str, Glance]) -> None:
        """Take note of how accounts are now."""
        seen = self._seen
        seen.update(dict.fromkeys(glances, (next(self._numbers), glances)))
        while len(seen) > _MOST_SEEN:
            seen.pop(next(iter(seen)), None)

    def settle(self, accounts: Iterable[Account], grant: Grant, amounts: Amounts) -> None:
        """Take note of a hold that this process has settled, which the store will be told."""
        self._settled.append((next(self._numbers), accounts, grant, amounts))
        if len(self._settled) <= _MOST_SETTLED:
            return
        number, accounts, grant, amounts = self._settled.popleft()
        for account in accounts:
            key = account.key
            at, among = self._seen.get(key, _NEVER)
            if at < number:  # else it was seen since, as mostly
                self._seen[key] = (number, {key: _after(among[key], grant, amounts)})


def _after(glance: Glance, grant: Grant, amounts: Amounts) -> Glance:
    """The account once a hold of it was settled."""
    _, held_usd, held_tokens, held_calls = grant
    usd, tokens, calls = amounts
    su, ru, du, st, rt, dt, sc, rc, dc = glance.numbers[:9]
    numbers = (
        *(su + usd, max(0, ru - held_usd), du),
        *(st + tokens, max(0, rt - held_tokens), dt),
        *(sc + calls, max(0, rc - held_calls), dc),
    )
    return Glance(numbers, glance.limits, glance.is_killed)
