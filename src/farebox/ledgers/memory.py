"""The ledger in process memory: a lock around `_book`, and what must happen outside of that lock.

Two rules keep it safe from signals, finalizers and forks.  The lock is only ever taken by `with`: between an `acquire()`
and a `try:` a signal would leave it held for good.  And a finalizer, which may run inside an operation of its own
thread, takes no lock: it appends to `_later`, and whoever has the lock next does it.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from datetime import tzinfo
from typing import Any, Final

from farebox.ledgers import (
    Account,
    Answer,
    Balance,
    Control,
    Grain,
    Grant,
    Ledger,
    Need,
    RowForm,
    Snapshot,
    Sum,
    Ticket,
    View,
    WindowClosed,
)
from farebox.ledgers._book import Book
from farebox.ledgers._ended import HELD, RELEASED, SETTLED
from farebox.ledgers._fitting import check_amounts
from farebox.ledgers._totals import Coarsen, Fold, Folding, count_only, nothing_coarser
from farebox.ledgers._waiting import NEWCOMER, Parked, is_contended

#: How long a look at a balance waits for an operation under way.
_LONGEST_LOOK_SECONDS: Final = 0.5


class MemoryLedger(Ledger):
    """Money of one process.  Also the reference the other ledgers are compared with.

    Args:
        keep_rows: Ended calls to keep one by one; older ones are folded into totals, and their ids become unknown.
        keep_totals: Most keys of totals; the oldest are merged under coarser keys until they fit.
        fold: Makes (key, sums) of a row.  Without it totals hold the number of rows gone, under None.
        coarsen: Makes a coarser key of a key.  Without it, and where it knows nothing coarser, that is None.
        form: Makes both, by quarter of an hour and by place.  Without it rows are known by no time, and all began at 0.
        clock: Seconds; deadlines and standing still are measured with it.
        wall_clock: Epoch seconds; windows open and close by it.

    `fold` and `coarsen` run under the lock: they must not call the ledger.  A row that `fold` raises for stays a row.
    Ids of adjustments and entries become unknown as those of calls do.  Accounts of windows that are over are dropped, the
    oldest first, once there are more than ten thousand accounts whose window ends.
    """

    def __init__(
        self,
        *,
        keep_rows: int = 10_000,
        keep_totals: int = 4_096,
        fold: Fold = count_only,
        coarsen: Coarsen = nothing_coarser,
        form: RowForm | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if keep_rows < 0:
            raise ValueError(f"keep_rows={keep_rows} is negative; 0 keeps totals only")
        if keep_totals < 1:
            raise ValueError(f"keep_totals={keep_totals} leaves no room for a total; it is 1 or more")
        self._folding = Folding.by_hand(fold, coarsen) if form is None else Folding.by_form(form)
        self._wall_clock = wall_clock
        folding = self._folding
        self._start(Book(keep_rows, keep_totals, folding.fold, folding.coarsen, clock, wall_clock, folding.id_of))
        _ledgers.add(self)

    def _start(self, book: Book) -> None:
        self._lock = threading.Lock()
        self._book = book
        self._wakes = book.wakes
        self._later: deque[tuple[Any, ...]] = deque()
        self._waking: int | None = None

    @classmethod
    def open(
        cls,
        url: str = "memory://",
        *,
        form: RowForm | None = None,
        clock: Callable[[], float] = time.time,
        **options: Any,
    ) -> MemoryLedger:
        """`clock`: epoch seconds, for windows; that of the machine where it is not given."""
        if url != "memory://":
            raise ValueError(f"{url!r} is not a memory ledger's URL; it is 'memory://' and has neither path nor query")
        return cls(form=form, wall_clock=clock, **options)

    def now_seconds(self) -> float:
        return self._wall_clock()

    def _after_fork_in_child(self) -> None:
        # Another thread of the parent may have held the lock, and it does not exist here.
        self._start(self._book.inherited())

    # Holds

    def reserve(
        self,
        hold_id: int,
        accounts: Sequence[Account],
        need: Need,
        *,
        owner: Hashable = None,
        call: Any = None,
        forced: Collection[Account] = (),
        ttl_seconds: float | None = None,
        crossing: Collection[Account] = (),
    ) -> Answer:
        try:
            with self._lock:
                if self._later:
                    self._drain()
                answer = self._book.reserve(
                    hold_id, accounts, need, owner, call, forced, ttl_seconds, NEWCOMER, crossing
                )
        except WindowClosed:
            self._catch_up()
            raise
        if self._later or self._wakes:
            self._catch_up()
        return answer

    def extend(self, hold_id: int, usd_nanos: int, tokens: int, *, forced: Collection[Account] = ()) -> Answer | None:
        check_amounts(usd_nanos, tokens, 0)
        with self._lock:
            self._drain()
            answer = self._book.extend(hold_id, usd_nanos, tokens, forced)
        self._catch_up()
        return answer

    def settle(self, hold_id: int, usd_nanos: int, tokens: int, calls: int = 1, row: Any = None) -> bool:
        check_amounts(usd_nanos, tokens, calls)
        with self._lock:
            if self._later:
                self._drain()
            done = self._book.end(hold_id, usd_nanos, tokens, calls, row, SETTLED)
        if self._later or self._wakes:
            self._catch_up()
        return done

    def release(self, hold_id: int, row: Any = None) -> bool:
        with self._lock:
            if self._later:
                self._drain()
            done = self._book.end(hold_id, 0, 0, 0, row, RELEASED)
        if self._later or self._wakes:
            self._catch_up()
        return done

    def expire(self, now: float | None = None, row_of: Callable[[Any, Grant], Any] | None = None) -> int:
        with self._lock:
            self._drain()
            expired = self._book.expire(now, row_of)
        self._catch_up()
        return expired

    def charge(
        self, hold_id: int, accounts: Sequence[Account], usd_nanos: int, tokens: int, calls: int = 1, row: Any = None
    ) -> None:
        check_amounts(usd_nanos, tokens, calls)
        with self._lock:
            self._drain()
            self._book.charge(hold_id, accounts, (usd_nanos, tokens, calls), row)
        self._catch_up()

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
        with self._lock:
            self._drain()
            done = self._book.adjust(adjust_id, accounts, (usd_nanos, tokens, calls), row, turn)
        self._catch_up()
        return done

    def balance(self, account: Account) -> Balance:
        return self.view(account).balance

    def view(self, account: Account) -> View:
        # Waits for the lock, and not for ever: it may be asked within a finalizer, in an operation of its own thread.
        if self._later:
            self._try_to_catch_up(_LONGEST_LOOK_SECONDS)
        else:
            self._wake_up()
        return self._book.terms.view(account)

    def last_view(self, account: Account) -> View | None:
        return self._book.terms.view(account) if account.key in self._book.entries else None

    def accounts(self, prefix: str) -> list[tuple[str, View]]:
        with self._lock:
            self._drain()
            found = self._book.terms.views(prefix)
        self._catch_up()
        return found

    def control(self, entry_id: str, key: str, said: Control) -> bool:
        with self._lock:
            self._drain()
            done = self._book.control(entry_id, key, said)
        self._catch_up()
        return done

    def controls(self) -> dict[str, Control]:
        return dict(self._book.terms.said())

    def top_up(self, entry_id: str, account: Account, usd_nanos: int, tokens: int, calls: int) -> bool:
        check_amounts(usd_nanos, tokens, calls)
        with self._lock:
            self._drain()
            done = self._book.top_up(entry_id, account, (usd_nanos, tokens, calls))
        self._catch_up()
        return done

    def reset(self, entry_id: str, account: Account) -> bool:
        with self._lock:
            self._drain()
            done = self._book.reset(entry_id, account)
        self._catch_up()
        return done

    def forget(self, account_key: Hashable) -> None:
        hash(account_key)  # what can't be a key fails here and not in the next operation of somebody else
        self._later.append((account_key,))

    # Rows

    def add_row(self, row: Any) -> None:
        with self._lock:
            self._book.add_row(row)
        self._catch_up()

    def snapshot(self) -> Snapshot:
        with self._lock:
            self._drain()
            snapshot = self._book.snapshot()
        self._catch_up()
        return snapshot

    def rows(self, since_seconds: float | None = None, *, dearest_first: bool = False) -> Iterator[Any]:
        found, sum_of = self.snapshot().rows, self._folding.sum_of
        if since_seconds is not None:
            found = [row for row in found if sum_of(row).starts_at >= since_seconds]
        if dearest_first:
            found.sort(key=lambda row: sum_of(row).sums[0], reverse=True)
        return iter(found)

    def rows_of(self, call_id: str) -> list[Any]:
        id_of = self._folding.id_of
        return [row for row in self.snapshot().rows if id_of(row) == call_id]

    def tally(
        self,
        since_seconds: float | None = None,
        grain: Grain = "ever",
        zone: tzinfo | None = None,
        by: Sequence[str] | None = None,
    ) -> Iterable[Sum]:
        """As the contract says; what is kept one by one is answered to the second, and places are whole."""
        snapshot, folding = self.snapshot(), self._folding
        sums = [folding.sum_of(row) for row in snapshot.rows]
        sums += [folding.total(key, total) for key, total in snapshot.totals.items()]
        return sums if since_seconds is None else [found for found in sums if found.starts_at >= since_seconds]

    def prune(self, before_seconds: float) -> int:
        sum_of = self._folding.sum_of
        with self._lock:
            self._drain()
            pruned = self._book.ended.prune(lambda row: sum_of(row).starts_at < before_seconds)
        self._catch_up()
        return pruned

    # What finalizers left to do, and whom to wake

    def settle_later(self, hold_id: int, usd_nanos: int, tokens: int, calls: int = 1, row: Any = None) -> None:
        check_amounts(usd_nanos, tokens, calls)
        self._later.append((hold_id, usd_nanos, tokens, calls, row, SETTLED))
        self._try_to_catch_up()

    def release_later(self, hold_id: int, row: Any = None) -> None:
        self._later.append((hold_id, 0, 0, 0, row, RELEASED))
        self._try_to_catch_up()

    def _try_to_catch_up(self, seconds: float = 0.0) -> None:
        lock = self._lock
        got: list[bool] = []
        try:
            # Taken and noted down within one C call, for the same reason that every other lock is taken by `with`.
            got.extend(map(lock.acquire, (True,), (seconds,)))
            if got[0]:
                self._drain()
        finally:
            if got and got[0]:
                lock.release()
        self._wake_up()

    def _catch_up(self) -> None:
        if self._later:
            with self._lock:
                self._drain()
        self._wake_up()

    def _drain(self) -> None:
        """Under the lock.  Done first and taken off the list after, because doing it twice changes nothing."""
        later, book = self._later, self._book
        while later:
            item = later[0]
            if len(item) == 1:
                book.forgotten.add(item[0])
                book.drop_forgotten()
            else:
                book.end(*item)
            later.popleft()

    def _wake_up(self) -> None:
        """Without the lock.  A wake that calls the ledger finds its thread waking others already, and does not nest."""
        if not self._wakes or self._waking == threading.get_ident():
            return
        self._waking = threading.get_ident()
        try:
            self._wake_all()
        finally:
            self._waking = None

    def _wake_all(self) -> None:
        interrupt: BaseException | None = None
        while self._wakes:
            try:
                self._wakes.popleft()()
            except Exception:
                pass  # its waiter is gone, or another thread took the last one: the others are still to be woken
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    # The line

    def park(
        self,
        hold_id: int,
        accounts: Sequence[Account],
        need: Need,
        *,
        wake: Callable[[], None],
        owner: Hashable = None,
        call: Any = None,
        forced: Collection[Account] = (),
        ttl_seconds: float | None = None,
        renew: Callable[[], Need] | None = None,
        crossing: Collection[Account] = (),
    ) -> Answer | Ticket:
        ticket = Parked(
            hold_id=hold_id,
            accounts=tuple(accounts),
            need=need,
            owner=owner,
            call=call,
            forced=forced,
            ttl_seconds=ttl_seconds,
            wake=wake,
            renew=renew,
            place=NEWCOMER,
            crossing=crossing,
        )
        book = self._book
        try:
            with self._lock:
                self._drain()
                answer = book.try_for(ticket)
                is_parked = False
                if is_contended(answer) and book.is_hopeful(ticket):
                    is_parked = True
                    ticket.place = book.line.next_place()
                    book.line.stand(ticket, answer)
        except WindowClosed:
            self._catch_up()
            raise
        self._catch_up()
        return ticket if is_parked else answer

    def unpark(self, ticket: Ticket) -> Grant | None:
        assert isinstance(ticket, Parked)
        book = self._book
        with self._lock:
            self._drain()
            book.leave_line(ticket)
            record = book.entries.get(ticket.hold_id)
            grant = record[1] if record is not None and record[0] is HELD else None
        self._catch_up()
        return grant

    def still_hopeful(self, ticket: Ticket) -> bool:
        assert isinstance(ticket, Parked)
        book = self._book
        with self._lock:
            self._drain()
            hopeful = ticket.answer is not None or not ticket.left
            if hopeful and ticket.answer is None:
                # Finds also a hold that was made for it, where a signal cut the hand-over short before the answer.
                hopeful = book.try_again(ticket)
        self._catch_up()
        return hopeful


_ledgers: weakref.WeakSet[MemoryLedger] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for ledger in list(_ledgers):
        ledger._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
