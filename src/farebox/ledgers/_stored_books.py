"""A ledger kept in a database: its accounts, its rows and what was learnt, which are asked of the store and handed on."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import tzinfo
from typing import Any

from farebox.errors import LedgerUnavailable
from farebox.ledgers import Account, Balance, Control, Grain, Grant, Ledger, Snapshot, Sum, View
from farebox.ledgers import _operations as op
from farebox.ledgers._fitting import check_amounts
from farebox.ledgers._keeper import Keeper
from farebox.ledgers._queue import Queue
from farebox.ledgers._store import Store
from farebox.ledgers._views import Glance, Views


class StoredBooks(Ledger):
    """What nobody holds anything by."""

    _store: Store
    _queue: Queue
    _keeper: Keeper
    _views: Views
    #: The name of this process in the store.
    _owner: str
    _row_ids: itertools.count[int]
    _is_closed: bool

    # Accounts

    def adjust(
        self,
        adjust_id: Hashable,
        accounts: Sequence[Account | str],
        usd_nanos: int,
        tokens: int,
        calls: int,
        row: Any = None,
        *,
        turn: tuple[str, int] | None = None,
    ) -> bool:
        check_amounts(abs(usd_nanos), abs(tokens), abs(calls))
        asked = op.adjustment(adjust_id, accounts, (usd_nanos, tokens, calls), row, turn)
        self._submit(asked)
        return asked.answer

    def balance(self, account: Account) -> Balance:
        return self.view(account).balance

    def view(self, account: Account) -> View:
        self._queue.catch_up()
        view = self._store.view(account)
        self._views.see({account.key: Glance.of(view)})
        return view

    def last_view(self, account: Account) -> View | None:
        return self._views.get(account.key)

    def accounts(self, prefix: str) -> list[tuple[str, View]]:
        self._queue.catch_up()
        return self._store.accounts(prefix)

    def control(self, entry_id: str, key: str, said: Control) -> bool:
        asked = op.SayControl(entry_id=entry_id, key=key, said=said)
        self._submit(asked)
        return asked.answer

    def controls(self) -> dict[str, Control]:
        self._queue.catch_up()
        return self._store.controls()

    def top_up(self, entry_id: str, account: Account, usd_nanos: int, tokens: int, calls: int) -> bool:
        check_amounts(usd_nanos, tokens, calls)
        asked = op.TopUp(entry_id=entry_id, account=account, amounts=(usd_nanos, tokens, calls))
        self._submit(asked)
        return asked.answer

    def reset(self, entry_id: str, account: Account) -> bool:
        asked = op.Reset(entry_id=entry_id, account=account)
        self._submit(asked)
        return asked.answer

    def forget(self, account_key: Hashable) -> None:
        hash(account_key)
        self._queue_up(op.Forget(key=str(account_key)))

    # Rows, and what was learnt

    def add_row(self, row: Any) -> None:
        self._queue_up(op.AddRow(row_id=f"{self._owner}+{next(self._row_ids):x}", row=row))

    def snapshot(self) -> Snapshot:
        self._queue.catch_up()
        rows = list(self._store.rows(None, dearest_first=False))
        return Snapshot(rows=rows, in_flight=self._store.in_flight(), totals={})

    def in_flight(self) -> list[tuple[Any, Grant]]:
        self._queue.catch_up()
        return self._store.in_flight()

    def rows(self, since_seconds: float | None = None, *, dearest_first: bool = False) -> Iterator[Any]:
        self._queue.catch_up()
        return self._store.rows(since_seconds, dearest_first=dearest_first)

    def rows_of(self, call_id: str) -> list[Any]:
        self._queue.catch_up()
        return self._store.rows_of(call_id)

    def tally(
        self,
        since_seconds: float | None = None,
        grain: Grain = "ever",
        zone: tzinfo | None = None,
        by: Sequence[str] | None = None,
    ) -> Iterable[Sum]:
        self._queue.catch_up()
        return self._store.tally(since_seconds, grain, zone, by)

    def learn(self, key: str, bucket: int) -> None:
        self._queue_up(op.Learn(key=key, bucket=bucket))

    def learnt(self) -> Mapping[str, Mapping[int, int]]:
        self._queue.catch_up()
        return self._store.learnt()

    def prune(self, before_seconds: float) -> int:
        self._queue.catch_up()
        return self._store.prune(before_seconds)

    # The queue

    def _queue_up(self, operation: op.Operation) -> None:
        """Without waiting for anything: it may be a finalizer that asks."""
        self._queue.add(operation)
        self._keeper.ring()

    def _submit(self, operation: op.Operation) -> None:
        """Have it done now, with all that was queued before it.

        Raises:
            LedgerUnavailable: the store did not answer.
        """
        if self._is_closed:
            raise LedgerUnavailable(f"ledger {self._store.shown} was closed; open it again with configure(ledger=...)")
        self._queue.submit(operation)
