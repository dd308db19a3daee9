"""What people say of the accounts of a SQLite ledger: once for each id, and kept."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

import attrs

from farebox.ledgers import Control
from farebox.ledgers import _operations as op
from farebox.ledgers._fitting import check_amounts
from farebox.ledgers._sqlite_books import EMPTY, UNSEEN, Books
from farebox.ledgers._turns import Turn, text_of

ADJUSTMENT: Final = "adjustment"
LATE: Final = "late answer"
_CONTROL, _TOP_UP, _RESET = "control", "top up", "reset"


class Entries:
    """The entries of one transaction."""

    def __init__(self, connection: sqlite3.Connection, books: Books) -> None:
        self._connection = connection
        self._books = books

    def say_control(self, asked: op.SayControl, now: float) -> None:
        asked.answer = False
        if not self.is_new(asked.entry_id):
            return
        said = asked.said.over(self._books.controls.get(asked.key, Control()))
        values = (said.limit_usd_nanos, said.limit_tokens, said.limit_calls, said.is_killed)
        check_amounts(*(value or 0 for value in values[:3]))
        self.enter(_CONTROL, asked.entry_id, asked.key, attrs.astuple(asked.said), now)
        self._connection.execute("INSERT OR REPLACE INTO controls VALUES (?, ?, ?, ?, ?)", (asked.key, *values))
        self._books.controls[asked.key] = said
        asked.answer = True

    def top_up(self, asked: op.TopUp, now: float) -> None:
        asked.answer = False
        if not self.is_new(asked.entry_id):
            return
        key = asked.account.key
        standing = self._books.standings.get(key, UNSEEN)
        usd, tokens, calls = (had + more for had, more in zip(standing.top, asked.amounts, strict=True))
        check_amounts(usd, tokens, calls)
        self.enter(_TOP_UP, asked.entry_id, key, asked.amounts, now)
        self._books.standings[key] = attrs.evolve(standing, top=(usd, tokens, calls))
        self._books.has_tops = True
        self._books.put({key: self._books.balances.get(key, EMPTY)})
        asked.answer = True

    def reset(self, asked: op.Reset, now: float) -> None:
        asked.answer = False
        key = asked.account.key
        if not self.is_new(asked.entry_id):
            return
        _, ru, _, _, rt, _, _, rc, _, open_holds = self._books.balances.get(key, EMPTY)
        self.enter(_RESET, asked.entry_id, key, (), now)
        self._books.put({key: (0, ru, 0, 0, rt, 0, 0, rc, 0, open_holds)})
        asked.answer = True

    def is_new(self, entry_id: str) -> bool:
        """Whether nothing was said under this id, as far as the ledger remembers."""
        return not self._connection.execute("SELECT 1 FROM entries WHERE id = ?", (entry_id,)).fetchall()

    def was_by_hand(self, turn: Turn) -> bool | None:
        """Whether a turn was taken by hand; None where nobody has taken it."""
        taken = self._connection.execute("SELECT kind FROM entries WHERE id = ?", (text_of(turn),)).fetchall()
        return taken[0][0] == ADJUSTMENT if taken else None

    def enter(self, kind: str, entry_id: str, key: str, said: Sequence[object], now: float) -> None:
        entry = (entry_id, kind, now, key, json.dumps(said))
        self._connection.execute("INSERT INTO entries (id, kind, said_at, key, said) VALUES (?, ?, ?, ?, ?)", entry)
