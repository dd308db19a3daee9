"""What ended, in order: rows one by one as long as there is room, and the totals of those before them.

It works on the entries of a `_book`, and by its rules: one `dict.update` puts rows in place as totals, and only then they
leave the entries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

from farebox.ledgers._totals import Coarsen, Fold, Totals, plus, shrink

HELD: Final = "held"
SETTLED: Final = "settled"
RELEASED: Final = "released"
EXPIRED: Final = "expired"
CORRECTED: Final = "corrected"
ENTERED: Final = "entered"
ADDED: Final = "added"
_FOLDED: Final = "folded"

#: The entry of the totals.
TOTALS: Final = object()

#: Rows folded at a time: amortises the copy of the totals, and is short enough for one call to pay.
_FOLD_AT_ONCE: Final = 64


class Ended:
    """Keys of what ended, oldest first; `keys` may name too much, never too little.

    Args:
        entries: Of the book; a record is (state, grant, row, ...), and a row of None is none.
    """

    def __init__(self, entries: dict[Any, Any], keep_rows: int, keep_totals: int, fold: Fold, coarsen: Coarsen) -> None:
        entries[TOTALS] = {}
        self.keys: deque[Any] = deque()
        #: How many keys make it time to `fold_oldest`.
        self.most = keep_rows + min(_FOLD_AT_ONCE, keep_rows // 8)
        self._entries = entries
        self._keep_rows = keep_rows
        self._keep_totals = keep_totals
        self._fold = fold
        self._coarsen = coarsen

    def rows(self) -> list[Any]:
        return [row for _, row in self._rows()]

    def totals(self) -> Totals:
        return dict(self._entries[TOTALS])

    def fold_oldest(self) -> None:
        keys = self.keys
        oldest = list(islice(keys, min(len(keys) - self._keep_rows, 2 * _FOLD_AT_ONCE)))
        for key in self._fold_away(oldest):
            keys.append(key)  # stays a row
        for key in oldest:
            self._drop_folded(key)
            keys.popleft()

    def prune(self, is_old: Callable[[Any], bool]) -> int:
        """Fold the rows that are old, wherever they stand, and say how many."""
        old = [key for key, row in self._rows() if is_old(row)]
        kept = self._fold_away(old)
        for key in old:
            self._drop_folded(key)
        self.keys = deque(key for key in self.keys if key in self._entries)
        return len(old) - len(kept)

    def _rows(self) -> list[tuple[Any, Any]]:
        records = [(key, self._entries[key]) for key in dict.fromkeys(self.keys) if key in self._entries]
        return [(key, record[2]) for key, record in records if record[0] is not HELD and record[2] is not None]

    def _fold_away(self, keys: Iterable[Any]) -> list[Any]:
        """Rows turn into totals in one step; those that can't stay, and are returned."""
        entries = self._entries
        totals = self.totals()
        changes: dict[Any, Any] = {}
        kept = []
        for key in dict.fromkeys(keys):
            record = entries.get(key)
            if record is None or record[0] is HELD or record[0] is _FOLDED:
                continue
            if record[2] is not None:
                try:
                    total, sums = self._fold(record[2])
                    plus(totals, total, sums)
                except Exception:
                    kept.append(key)
                    continue
            changes[key] = (_FOLDED, record[1], None)
        if len(totals) > self._keep_totals:
            shrink(totals, self._keep_totals, self._coarsen)
        changes[TOTALS] = totals
        entries.update(changes)
        return kept

    def _drop_folded(self, key: Any) -> None:
        record = self._entries.get(key)
        if record is not None and record[0] is _FOLDED:
            del self._entries[key]
