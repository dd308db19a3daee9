"""Old rows become sums, and old sums coarser sums: bounded memory that never loses a nano."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import zip_longest
from operator import add
from typing import Any, Final

Sums = tuple[int, ...]
Totals = dict[Hashable, Sums]
#: Makes (key, sums) of a row.  Pure, and must not raise; it runs under the ledger's lock.
Fold = Callable[[Any], tuple[Hashable, Sums]]
#: Makes a coarser key of a key; its own answer for a key says that nothing coarser is known.
Coarsen = Callable[[Any], Hashable]

#: The key under which everything ends up that nothing else has room for.
THE_REST: Final = None


def count_only(row: Any) -> tuple[Hashable, Sums]:
    """The fold of a ledger that was given none: how many rows are gone."""
    return THE_REST, (1,)


def nothing_coarser(key: Any) -> Hashable:
    """The coarsening of a ledger that was given none."""
    return THE_REST


def plus(totals: Totals, key: Hashable, sums: Sums) -> None:
    """Add `sums` to what `totals` has under `key`, position by position."""
    known = totals.get(key)
    if known is None:
        totals[key] = sums
    elif len(known) == len(sums):
        totals[key] = tuple(map(add, known, sums))
    else:
        totals[key] = tuple(a + b for a, b in zip_longest(known, sums, fillvalue=0))


def shrink(totals: Totals, most: int, coarsen: Coarsen) -> None:
    """Merge the oldest keys under coarser ones until a quarter below `most`, so that it need not be done every time."""
    room = max(1, most - most // 4)
    steps_left = 4 * len(totals)  # a coarsening that goes round in circles ends in THE_REST
    while len(totals) > room:
        key = next((key for key in totals if key is not THE_REST), THE_REST)
        sums = totals.pop(key)
        try:
            coarser = coarsen(key) if steps_left > 0 else THE_REST
        except Exception:
            coarser = THE_REST
        steps_left -= 1
        plus(totals, THE_REST if coarser == key else coarser, sums)
