"""Old rows become sums, and old sums coarser sums: bounded memory that never loses a nano."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from itertools import zip_longest
from operator import add
from typing import Any, Final

import attrs

from farebox.ledgers import RowForm, Sum
from farebox.ledgers._records import Sums

Totals = dict[Hashable, Sums]
#: Makes (key, sums) of a row.  Pure, and must not raise; it runs under the ledger's lock.
Fold = Callable[[Any], tuple[Hashable, Sums]]
#: Makes a coarser key of a key; its own answer for a key says that nothing coarser is known.
Coarsen = Callable[[Any], Hashable]

#: The key under which everything ends up that nothing else has room for.
THE_REST: Final = None

_QUARTER_SECONDS: Final = 900
#: More than any key takes to become as coarse as it gets.
_MOST_STEPS: Final = 16


def count_only(row: Any) -> tuple[Hashable, Sums]:
    """The fold of a ledger that was given none: how many rows are gone."""
    return THE_REST, (1,)


def nothing_coarser(key: Any) -> Hashable:
    """The coarsening of a ledger that was given none."""
    return THE_REST


@attrs.frozen
class Folding:
    """How rows become sums: `sum_of` one that is kept, `fold` and `coarsen` of those that are not, `total` names these.

    `id_of` says which call a row is of; "" where nobody knows.
    """

    sum_of: Callable[[Any], Sum]
    id_of: Callable[[Any], str]
    fold: Fold
    coarsen: Coarsen
    total: Callable[[Any, Sums], Sum]

    @classmethod
    def by_hand(cls, fold: Fold, coarsen: Coarsen) -> Folding:
        """Of rows of which it is not known when they began: all at 0."""

        def sum_of(row: Any) -> Sum:
            place, sums = fold(row)
            return Sum("second", 0, place, sums)

        return cls(
            sum_of=sum_of,
            id_of=lambda row: "",
            fold=fold,
            coarsen=coarsen,
            total=lambda key, sums: Sum("ever", 0, key, sums),
        )

    @classmethod
    def by_form(cls, form: RowForm) -> Folding:
        """By the quarter of an hour in which they began, and by place; keys are (span, starts_at, place)."""

        def fold(row: Any) -> tuple[Hashable, Sums]:
            _, starts_at, place, sums = form.sum_of(row)
            return ("quarter", starts_at // _QUARTER_SECONDS * _QUARTER_SECONDS, place), sums

        def total(key: Any, sums: Sums) -> Sum:
            if key is THE_REST:
                return Sum("ever", 0, None, sums)
            span, starts_at, place = key
            return Sum(span, starts_at, place, sums)

        coarsen: Coarsen = lambda key: form.coarser(*key)  # noqa: E731
        return cls(sum_of=form.sum_of, id_of=form.id_of, fold=fold, coarsen=coarsen, total=total)


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
    """Merge the oldest keys under coarser ones until a quarter below `most`, so that it need not be done every time.

    Those that get no coarser stay as long as there are others that do.
    """
    room = max(1, most - most // 4)
    oldest = deque(key for key in totals if key is not THE_REST)
    steps_left = _MOST_STEPS * len(totals)  # a coarsening that goes round in circles ends in THE_REST
    stuck = 0
    while len(totals) > room:
        key = oldest.popleft()
        try:
            coarser = coarsen(key) if steps_left > 0 else THE_REST
        except Exception:
            coarser = THE_REST
        steps_left -= 1
        if coarser != key:
            stuck = 0
        elif stuck < len(oldest):
            stuck += 1
            oldest.append(key)
            continue
        else:
            coarser = THE_REST
        sums = totals.pop(key)
        if coarser is not THE_REST and coarser not in totals:
            oldest.append(coarser)
        plus(totals, coarser, sums)
