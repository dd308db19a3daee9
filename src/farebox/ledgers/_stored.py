"""A ledger kept in a database: what is the same for all of them.

Settling only queues; a thread of the ledger's own writes it soon, and again until it is written.  What is never written
leaves its bound held: the store charges it once the process is known to be dead, so nothing is ever counted too low.

What a finalizer may call takes no lock: it appends and rings for the thread, each in one C call.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import time
import weakref
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any, ClassVar, Final

from farebox.errors import LedgerUnavailable
from farebox.ledgers import (
    Account,
    Answer,
    Grant,
    Need,
    Noted,
    Shortfall,
    Ticket,
)
from farebox.ledgers import _operations as op
from farebox.ledgers._fitting import check_amounts
from farebox.ledgers._keeper import Keeper
from farebox.ledgers._local_line import Hold, LocalLine, Waiter
from farebox.ledgers._queue import Queue
from farebox.ledgers._store import Store
from farebox.ledgers._stored_books import StoredBooks
from farebox.ledgers._views import Views
from farebox.ledgers._waiting import is_contended

#: How long what was settled may wait for company before it is written, in seconds.
_FLUSH_SECONDS: Final = 0.02
#: Pauses between attempts to reach a store that does not answer: the first, and the longest.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 5.0
#: How often a process says that it is there and looks for those that are not.
_HEARTBEAT_SECONDS: Final = 5.0
_EXIT_SECONDS: Final = 2.0
_PRUNE_SECONDS: Final = 3_600.0
#: A call may have taken this ledger just before it was retired, and not have asked yet.
_RETIRE_SECONDS: Final = 2.0
#: How often to look for dead processes when money is short, and to try again for those who wait.
_SWEEP_SECONDS, _SERVE_SECONDS = 1.0, 0.05
_NOBODY: Final[frozenset[str]] = frozenset()
_NOTHING: Final = Grant(0, 0, 0, 0)
#: Operations after which money may have come free.
_MAKES_ROOM: Final = (op.End, op.Expire, op.Adjust, op.SayControl, op.TopUp, op.Reset)

_logger = logging.getLogger("farebox")


class StoredLedger(StoredBooks):
    """Money of all processes that share a database."""

    blocking: ClassVar[bool] = True

    def __init__(self, store: Store) -> None:
        self._store = store
        #: How long single rows are kept; None: for ever.
        self._keep_seconds: float | None = None
        self._begin()
        _ledgers.add(self)

    def _begin(self) -> None:
        """As one who knows nothing yet: at first, and in a forked child."""
        self._owner = os.urandom(6).hex()
        self._queue = Queue(self._store, self._look_at)
        #: Holds this process may have, by hold id: from before they are asked for until their end is queued.
        self._open: dict[int, Hold] = {}
        self._views = Views()
        self._row_ids = itertools.count(1)
        self._is_closed = False
        #: Ids that will be charged and hold nothing.
        self._expected: set[int] = set()
        #: Since when no call begins here any more.
        self._retired_at: float | None = None
        self._swept_at = 0.0
        self._alive_at = time.monotonic()
        self._pause_seconds = 0.0
        self._pruned_at = 0.0
        self._keeper = Keeper(self, _at_exit)
        self._line = LocalLine()
        self._store.open(self._owner)

    def _after_fork_in_child(self) -> None:
        if self._is_closed:
            return
        try:
            self._begin()
        except LedgerUnavailable as error:
            _logger.error("a forked child could not open its ledger: %s", error)

    def now_seconds(self) -> float:
        return self._store.now_seconds()

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
        if self._line.tickets:
            first = self._line.in_the_way(accounts, owner, self._open)
            if first is not None:
                return first.short
        try:
            return self._reserve(owner, hold_id, accounts, need, call, forced, ttl_seconds, crossing)
        except LedgerUnavailable:
            # Nobody knows whether it is held: it may not be, and if the request still arrives it is to be refused.
            self._end(hold_id, (0, 0, 0), None, is_released=True)
            raise

    def _reserve(self, owner: Hashable, hold_id: int, *asked_for: Any) -> Answer:
        """Past those who wait in line.  Where the store does not answer it is asked again, or released, by id."""
        asked = self._asked(hold_id, *asked_for)
        # Known before it is asked for: whoever is interrupted can release it by id.
        hold = self._open.setdefault(hold_id, Hold(accounts=asked.accounts, owner=owner, call=asked.call))
        answer = self._ask_for(hold_id, asked)
        if type(answer) is not Grant and is_contended(answer) and time.monotonic() - self._swept_at > _SWEEP_SECONDS:
            # What dead processes hold is spent, and no use waiting for.
            self.expire()
            answer = self._ask_for(hold_id, self._asked(hold_id, *asked_for))
        if isinstance(answer, Grant):
            hold.grant = answer
            if not self._keeper.is_there:
                self._keeper.ring()  # somebody has to say that this process is alive
        else:
            self._open.pop(hold_id, None)
        return answer

    def _asked(
        self,
        hold_id: int,
        accounts: Sequence[Account],
        need: Need,
        call: Any,
        forced: Collection[Account],
        ttl_seconds: float | None,
        crossing: Collection[Account],
    ) -> op.Reserve:
        return op.Reserve(
            hold_id=self._name(hold_id),
            accounts=op.unique(accounts),
            need=need,
            forced=frozenset(account.key for account in forced) if forced else _NOBODY,
            crossing=frozenset(account.key for account in crossing) if crossing else _NOBODY,
            ttl_seconds=ttl_seconds,
            call=call,
        )

    def _ask_for(self, hold_id: int, asked: op.Reserve) -> Answer:
        try:
            self._submit(asked)
        except LedgerUnavailable:
            raise
        except Exception:
            self._open.pop(hold_id, None)  # a window that is closed, an amount that is none: nothing is held
            raise
        self._views.see(asked.views)
        if asked.is_over:
            self._open.pop(hold_id, None)  # it ended before: whoever asks again is only told what it was
        assert asked.answer is not None
        return asked.answer

    def extend(self, hold_id: int, usd_nanos: int, tokens: int, *, forced: Collection[Account] = ()) -> Answer | None:
        check_amounts(usd_nanos, tokens, 0)
        hold = self._open.get(hold_id)
        if hold is None:
            return None
        asked = op.Extend(
            hold_id=self._name(hold_id),
            usd_nanos=usd_nanos,
            tokens=tokens,
            forced=frozenset(account.key for account in forced) if forced else _NOBODY,
            accounts=hold.accounts,
        )
        self._submit(asked)
        if isinstance(asked.answer, Grant):
            hold.grant = asked.answer
        return asked.answer

    def settle(self, hold_id: int, usd_nanos: int, tokens: int, calls: int = 1, row: Any = None) -> bool:
        check_amounts(usd_nanos, tokens, calls)
        return self._end(hold_id, (usd_nanos, tokens, calls), row, is_released=False)

    def release(self, hold_id: int, row: Any = None) -> bool:
        return self._end(hold_id, (0, 0, 0), row, is_released=True)

    def _end(self, hold_id: int, amounts: tuple[int, int, int], row: Any, *, is_released: bool) -> bool:
        if self._line.tickets:
            self._line.leave(hold_id)
        hold = self._open.pop(hold_id, None)
        if hold is None:
            return False
        name = hold.noted_as or self._name(hold_id)
        self._queue_up(op.End(hold_id=name, amounts=amounts, row=row, is_released=is_released))
        if hold.grant is None:
            return False
        self._views.settle(hold.accounts, hold.grant, amounts)
        return True

    def charge(
        self, hold_id: int, accounts: Sequence[Account], usd_nanos: int, tokens: int, calls: int = 1, row: Any = None
    ) -> None:
        check_amounts(usd_nanos, tokens, calls)
        self._expected.discard(hold_id)
        unique, amounts = op.unique(accounts), (usd_nanos, tokens, calls)
        self._queue_up(op.Charge(hold_id=self._name(hold_id), accounts=unique, amounts=amounts, row=row))

    def expect(self, hold_id: int) -> None:
        self._expected.add(hold_id)

    # Holds whose end any process may bring

    def note(self, hold_id: int, name: str, memo: str, lives_seconds: float) -> None:
        hold = self._open.get(hold_id)
        if hold is not None and hold.grant is not None:
            self._queue_up(
                op.Note(
                    hold_id=hold.noted_as or self._name(hold_id),
                    name=name,
                    memo=memo,
                    lives_seconds=lives_seconds,
                    call=hold.call,
                )
            )

    def noted(self, name: str) -> Noted | None:
        self._queue.catch_up()
        return self._store.noted(name)

    def collect(self, hold_id: int, noted: Noted) -> None:
        self._open[hold_id] = Hold(accounts=(), owner=None, call=None, grant=_NOTHING, noted_as=noted.hold)

    def expire(self, now: float | None = None, row_of: Callable[[Any, Grant], Any] | None = None) -> int:
        asked = op.Expire(now_seconds=now, row_of=row_of)
        self._swept_at = time.monotonic()
        self._submit(asked)
        return asked.answer

    def keep(self, seconds: float) -> None:
        self._keep_seconds = seconds
        self._pruned_at = -_PRUNE_SECONDS
        self._keeper.ring()

    # The queue

    def _name(self, hold_id: int) -> str:
        return f"{self._owner}{hold_id:x}"

    def _look_at(self, batch: Sequence[op.Operation]) -> None:
        """Something of this process was written."""
        if self._line.tickets and any(isinstance(operation, _MAKES_ROOM) for operation in batch):
            self._keeper.ring()

    def flush(self, timeout: float | None = None) -> bool:
        return self._queue.flush(timeout)

    def retire(self) -> None:
        self._retired_at = time.monotonic()
        self._keeper.ring()

    def close(self) -> None:
        if self._is_closed:
            return
        self.flush(_EXIT_SECONDS)
        self._is_closed = True
        self._keeper.dismiss()
        with self._queue.lock:
            self._store.close()

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
        def ask(need: Need) -> Answer:
            return self._reserve(owner, hold_id, accounts, need, call, forced, ttl_seconds, crossing)

        words: dict[str, Any] = {"owner": owner, "call": call, "forced": forced}
        words |= {"ttl_seconds": ttl_seconds, "crossing": crossing}
        answer = self.reserve(hold_id, accounts, need, **words)
        if not is_contended(answer):
            return answer
        assert isinstance(answer, Shortfall)
        waiter = Waiter(
            hold_id=hold_id,
            accounts=tuple(accounts),
            need=need,
            wake=wake,
            renew=renew,
            place=0,
            ask=ask,
            short=answer,
            **words,
        )
        if not self._line.park(waiter, (self._open, self._views)):
            # The answer may be that of one in line, from before: nothing it was about need be held by now.
            try:
                return ask(need)
            except LedgerUnavailable:
                self._end(hold_id, (0, 0, 0), None, is_released=True)
                raise
        self._keeper.ring()
        return waiter

    def unpark(self, ticket: Ticket) -> Grant | None:
        assert isinstance(ticket, Waiter)
        self._line.leave(ticket.hold_id)
        if ticket.is_claimed_by("waiter"):
            return None
        hold = self._open.get(ticket.hold_id)
        return None if hold is None else hold.grant

    def still_hopeful(self, ticket: Ticket) -> bool:
        assert isinstance(ticket, Waiter)
        return ticket.answer is not None or self._line.may_stay(ticket, (self._open, self._views))

    # The ledger's own thread

    @property
    def is_busy(self) -> bool:
        return bool(self._queue.is_filled or self._open or self._retired_at is not None)

    def work(self) -> float:
        """Write what is queued, serve those who wait, and say that this process is there; seconds until the next time."""
        rounds = self._queue.rounds
        if not self._line.tickets:
            time.sleep(_FLUSH_SECONDS)
        # While others write, what is queued goes along with theirs: this thread would only be in their way.
        has_traffic = self._queue.rounds != rounds
        try:
            if not has_traffic:
                self._queue.catch_up()
            if self._open and time.monotonic() - self._alive_at > _HEARTBEAT_SECONDS:
                self._alive_at = time.monotonic()
                with self._queue.lock:
                    self._store.keep_alive()
                self.expire()
            self._line.serve(self.release)
            if self._keep_seconds is not None and time.monotonic() - self._pruned_at > _PRUNE_SECONDS:
                self._pruned_at = time.monotonic()
                self._store.prune(self.now_seconds() - self._keep_seconds)
        except LedgerUnavailable as error:
            if not self._pause_seconds and not self._is_closed:
                _logger.error("%s; what is queued will be written when it answers", error)
            self._pause_seconds = min(_LONGEST_PAUSE_SECONDS, max(_FIRST_PAUSE_SECONDS, 2 * self._pause_seconds))
            return self._pause_seconds
        self._pause_seconds = 0.0
        is_over = not self._open and not self._expected
        if self._retired_at is not None and is_over and time.monotonic() - self._retired_at > _RETIRE_SECONDS:
            self.close()
        if self._line.tickets or (has_traffic and self._queue.is_filled):
            return _SERVE_SECONDS
        return _HEARTBEAT_SECONDS if self._retired_at is None else _RETIRE_SECONDS


_ledgers: weakref.WeakSet[StoredLedger] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for ledger in list(_ledgers):
        ledger._after_fork_in_child()


def _at_exit() -> None:
    for ledger in list(_ledgers):
        ledger.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
