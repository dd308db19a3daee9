"""Operations on their way to a store: many threads share one transaction, and nothing queued is lost but with its process.

Whoever needs an answer and finds nobody at it takes the lock and gives the store all that stands in the queue, its own
operation among it; the others wait for a bell of their own, which rings when theirs is done or when it is their turn to take
the lock.  Whose operations are done together wake one another, each the next.  So a lone thread writes at once and on its own
thread, many write together, and what was settled goes along with the next reserve.

The lock is only ever taken by `with`: between an `acquire()` and a `try:` a signal would leave it held for good.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from farebox.errors import LedgerLost, LedgerUnavailable
from farebox.ledgers._operations import Operation
from farebox.ledgers._store import Store

#: Operations given to the store at a time.
_MOST_AT_ONCE: Final = 64
#: Operations kept for a store that does not answer; beyond it the oldest are dropped, and their bounds stay charged.
_MOST_QUEUED: Final = 100_000
_PAUSE_SECONDS: Final = 0.1
#: How long those who came together lately are waited for: a fraction of what a transaction takes.
_GATHER_SECONDS: Final = 0.000_05
#: After this long whoever waits looks for himself: whoever owed him the bell may have been interrupted.
_LOOK_SECONDS: Final = 0.05

_logger = logging.getLogger("farebox")


class Queue:
    """Operations in the order they are to be done.

    Args:
        when_done: Told of each batch that was done, under the lock.
    """

    def __init__(self, store: Store, when_done: Callable[[Sequence[Operation]], None]) -> None:
        #: Held by the one thread that talks to the store.
        #: Reentrant: a signal handler may ask in the middle of what its own thread does here, and is refused.
        self.lock = threading.RLock()
        self._is_applying = False
        self._store = store
        self._when_done = when_done
        self._waiting: deque[Operation] = deque()
        #: About how many came together lately, where several threads did.
        self._company = 0
        self._has_dropped = False
        #: How many batches were written.
        self.rounds = 0

    @property
    def is_filled(self) -> bool:
        """Whether anything is still to be done."""
        return bool(self._waiting)

    def add(self, operation: Operation) -> None:
        """Have it done some time.  Waits for nothing: it may be a finalizer that asks."""
        self._waiting.append(operation)
        if len(self._waiting) > _MOST_QUEUED:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        dropped = self._waiting.popleft()
        if dropped.is_awaited:
            dropped.error = LedgerUnavailable(f"ledger {self._store.shown} does not answer, and too much waits for it")
        if not self._has_dropped:
            self._has_dropped = True
            _logger.error(
                "ledger %s does not answer and %d operations wait for it; the oldest are dropped, their bounds stay charged",
                self._store.shown,
                _MOST_QUEUED,
            )

    def submit(self, operation: Operation) -> None:
        """Have it done now, with all that stands before it.

        Raises:
            LedgerUnavailable: the store did not answer.
        """
        bell = operation.bell = threading.Lock()
        bell.acquire()
        try:
            self._waiting.append(operation)
            self._see_done(operation, bell)
        except BaseException:
            operation.is_awaited = False  # interrupted: nobody reads its answer, but it may be on its way
            raise
        finally:
            _ring(operation.next_bell)
        if operation.error is not None:
            raise operation.error

    def _see_done(self, operation: Operation, bell: threading.Lock) -> None:
        while not operation.is_done and operation.error is None:
            if not self._try_to_apply(operation):
                bell.acquire(timeout=_LOOK_SECONDS)

    def catch_up(self) -> None:
        """Have all done that stands here, so that a process reads what it wrote.

        Raises:
            LedgerUnavailable: the store did not answer; what stands here is kept.
        """
        while True:
            with self.lock:  # also where nothing stands here: another thread may just be writing what did
                if not self._waiting:
                    return
                error = self._apply_some()
            self._ring_first()
            if error is not None:
                raise error

    def _try_to_apply(self, asked: Operation) -> bool:
        """Give the store what stands first; False where somebody is at it."""
        lock = self.lock
        got: list[bool] = []
        try:
            # Taken and noted down within one C call, for the same reason that it is taken by `with` elsewhere.
            got.extend(map(lock.acquire, (False,)))
            if got[0]:
                error = self._apply_some(asked)
                if error is not None and not asked.is_done and asked.error is None:
                    asked.error = error
        finally:
            if got and got[0]:
                lock.release()
        if got[0]:
            self._ring_first()
        return got[0]

    def _ring_first(self) -> None:
        """After the lock was given back: it is the turn of the first who waits."""
        # Mostly nobody does; what is only queued stands before them.
        for operation in list(self._waiting) if self._waiting else ():
            if operation.bell is not None and operation.is_awaited:
                _ring(operation.bell)
                return

    def flush(self, timeout: float | None) -> bool:
        """As `catch_up`, trying for `timeout` seconds at most; False where something is left."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                self.catch_up()
            except LedgerLost:
                return False
            except LedgerUnavailable:
                if deadline is not None and time.monotonic() >= deadline:
                    return False
                time.sleep(_PAUSE_SECONDS)
            else:
                return True

    def _apply_some(self, asked: Operation | None = None) -> LedgerUnavailable | None:
        """Under the lock: give the store what stands first; what it did not do and nobody awaits stands there again."""
        if self._is_applying:
            return LedgerUnavailable(
                f"ledger {self._store.shown} was asked by a signal handler in the middle of an operation"
            )
        self._is_applying = True
        try:
            return self._apply_first(asked)
        finally:
            self._is_applying = False

    def _apply_first(self, asked: Operation | None) -> LedgerUnavailable | None:
        batch: list[Operation] = []
        if len(self._waiting) < self._company:
            time.sleep(_GATHER_SECONDS)
        try:
            self._take(batch)
            if batch:
                self._store.apply(batch)
        except LedgerUnavailable as error:
            self._put_back(batch, error)
            return error
        except BaseException:
            self._put_back(batch, None)  # a signal: each is done at most once, so all may be given again
            raise
        finally:
            awaited = sum(operation.is_awaited for operation in batch)
            self._company = max(self._company - 1, len(batch) if awaited > 1 else 0)
        # Each who is woken wakes the next: woken at once they would only wait for the interpreter, and be woken twice.
        next_bell: threading.Lock | None = None
        for operation in reversed(batch):
            if operation.bell is not None and operation.is_awaited and operation is not asked:
                operation.next_bell, next_bell = next_bell, operation.bell
            operation.is_done = True
        _ring(next_bell)
        self.rounds += 1
        self._has_dropped = False
        self._when_done(batch)
        return None

    def _take(self, batch: list[Operation]) -> None:
        """Move to `batch` what stands first."""
        while self._waiting and len(batch) < _MOST_AT_ONCE:
            operation = self._waiting[0]
            if operation.error is None:  # else whoever waited for it was told so, and it is not done behind their back
                batch.append(operation)
            self._waiting.popleft()

    def _put_back(self, batch: Sequence[Operation], error: LedgerUnavailable | None) -> None:
        if error is not None:
            # Also for those behind the batch: what nobody awaits stands before them until the store answers.
            for operation in list(self._waiting):
                if operation.is_awaited:
                    operation.error = error
                    _ring(operation.bell)
        for operation in reversed(batch):
            if error is not None and operation.is_awaited:
                operation.error = error
                _ring(operation.bell)
            else:
                self._waiting.appendleft(operation)


def _ring(bell: threading.Lock | None) -> None:
    if bell is not None and bell.locked():
        try:
            bell.release()
        except RuntimeError:
            pass  # another thread has rung it meanwhile
