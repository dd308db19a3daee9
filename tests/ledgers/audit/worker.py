"""A worker: calls at random, noted down, until it is killed."""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from farebox.errors import LedgerUnavailable
from farebox.ledgers import Account, Grant, Ledger, Need, WindowClosed
from farebox.ledgers import _operations as op
from farebox.ledgers._stored import StoredLedger
from tests.ledgers.audit.calls import LIMITS, NOTHING, Amounts, Log, Opener, Row, account_of

_THREADS: Final = 2
_MOST_LATE: Final = 6
#: So long after its time the auditor has let a hold expire.
_EXPIRED_SECONDS: Final = 0.25


@attrs.define
class Open:
    """A call in flight, as its worker knows it."""

    hold_id: int
    row: Row
    bound: Amounts
    #: By when it has expired.
    late_at: float


class Worker:
    """One thread's random work."""

    def __init__(self, ledger: Ledger, log: Log, name: str, numbers: Iterator[int], seed: int) -> None:
        self._ledger = ledger
        self._log = log
        self._name = name
        self._numbers = numbers
        self._random = random.Random(seed)
        self._late: list[Open] = []

    def work(self) -> None:
        while True:
            try:
                self.step()
            except (LedgerUnavailable, WindowClosed):
                pass  # nothing was sent; the ledger gives back what it may hold

    def step(self) -> None:
        """One call, from its reserve to its end; some end some steps later."""
        draw = self._random
        if len(self._late) >= _MOST_LATE or (self._late and draw.random() < 0.2):
            self._end(self._late.pop(draw.randrange(len(self._late))))
        if draw.random() < 0.01:
            self._ledger.expire()
        hold_id = next(self._numbers)
        row = Row(self._ledger.now_seconds(), f"{self._name}-{hold_id}", 0, 0, 0)
        begins = int(row.began_at)
        accounts = [account_of(f"{name}@{begins}") for name in draw.sample(list(LIMITS), draw.choice((1, 2, 2, 3)))]
        if draw.random() < 0.03:
            self._charge(hold_id, row, accounts)
            return
        opened = self._reserve(hold_id, row, accounts)
        if opened is None:
            return
        if draw.random() < 0.1:
            self._extend(opened)
        time.sleep(draw.random() * 0.004)
        if draw.random() < 0.3:
            self._late.append(opened)
        else:
            self._end(opened)

    def _reserve(self, hold_id: int, row: Row, accounts: list[Account]) -> Open | None:
        draw = self._random
        usd, tokens = draw.randrange(2_000), draw.randrange(100)
        need = Need(usd, 0, tokens, 0, 1)
        if draw.random() < 0.2:  # the ledger chooses the cap
            need = Need(usd, 3, tokens, 1, 1, least_cap=1, floor_cap=20, want_cap=50, most_cap=90, share=4)
        forced = [account for account in accounts if draw.random() < 0.02]
        crossing = [account for account in accounts if draw.random() < 0.05]
        # Without a deadline it ends with its process.
        ttl_seconds = draw.choice((None, 0.05, 0.3, 2.0))
        least, most = ((need.usd_nanos(cap), need.tokens(cap), need.calls) for cap in (need.least_cap, need.most_cap))
        keys, exempt = [account.key for account in accounts], [account.key for account in forced + crossing]
        self._log.note("ask", row.call, keys, exempt, least, most)

        def ask() -> Any:
            return self._ledger.reserve(
                hold_id,
                accounts,
                need,
                owner=hold_id,
                call=row,
                forced=forced,
                ttl_seconds=ttl_seconds,
                crossing=crossing,
            )

        answer = ask()
        if not isinstance(answer, Grant):
            return None
        self._log.note("granted", row.call, answer[1:])
        if draw.random() < 0.1:
            try:
                again = ask()
            except LedgerUnavailable:
                self._log.note("given up", row.call)  # whoever can't be told gives the hold back
                raise
            if again != answer:
                self._log.note("wrong", row.call, f"a repeated reserve was answered {again}, and not {answer}")
        late_at = time.monotonic() + _EXPIRED_SECONDS + (1e9 if ttl_seconds is None else ttl_seconds)
        return Open(hold_id, row, answer[1:], late_at)

    def _extend(self, opened: Open) -> None:
        usd, tokens = self._random.randrange(500), self._random.randrange(30)
        self._log.note("grow", opened.row.call, (usd, tokens, 0))
        grown = self._ledger.extend(opened.hold_id, usd, tokens)
        if isinstance(grown, Grant):
            self._log.note("granted", opened.row.call, grown[1:])
            opened.bound = grown[1:]

    def _end(self, opened: Open) -> None:
        draw, call = self._random, opened.row.call
        if time.monotonic() > opened.late_at:
            self._log.note("late", call)
        if draw.random() < 0.15:
            self._log.note("end", call, NOTHING)
            self._ledger.release(opened.hold_id, opened.row)
            self._again(opened, NOTHING)
            return
        usd, tokens, calls = opened.bound
        actual = (draw.randint(0, usd), draw.randint(0, tokens), calls)
        is_over = draw.random() < 0.05
        if is_over:
            actual = (usd + draw.randrange(1_000), tokens + draw.randrange(50), calls)
        self._log.note("bill", call, actual)
        time.sleep(draw.random() * 0.001)
        self._log.note("end", call, actual)
        self._ledger.settle(
            opened.hold_id, *actual, opened.row._replace(usd_nanos=actual[0], tokens=actual[1], calls=1)
        )
        self._again(opened, actual)
        if is_over and self._ledger.flush(5):
            self._log.note("written", call)

    def _again(self, opened: Open, actual: Amounts) -> None:
        """Sometimes it is ended twice, and nothing comes of it."""
        if self._random.random() < 0.1 and self._ledger.settle(opened.hold_id, *actual, row=opened.row):
            self._log.note("wrong", opened.row.call, "it was settled twice, and both times the ledger said yes")

    def _charge(self, hold_id: int, row: Row, accounts: list[Account]) -> None:
        actual = (self._random.randrange(500), self._random.randrange(30), 1)
        row = row._replace(usd_nanos=actual[0], tokens=actual[1], calls=1)
        self._log.note("charge", row.call, [account.key for account in accounts], actual)
        for _ in range(1 + (self._random.random() < 0.2)):
            self._ledger.charge(hold_id, accounts, *actual, row)
        if self._ledger.flush(5):
            self._log.note("written", row.call)


def lose_some(ledger: StoredLedger, draw: random.Random) -> None:
    """Have some requests get lost, some answers, and some requests arrive twice."""
    apply = ledger._store.apply

    def lossy(operations: Sequence[op.Operation]) -> None:
        luck = draw.random()
        if luck < 0.01:
            raise LedgerUnavailable("the request got lost")
        apply(operations)
        if luck < 0.02:
            raise LedgerUnavailable("the answer got lost")
        # A growth that arrives twice may count twice, as the contract says.
        if luck < 0.1 and not any(isinstance(operation, (op.Extend, op.Expire)) for operation in operations):
            apply(operations)

    ledger._store.apply = lossy  # type: ignore[method-assign]


def work(opener: Opener, url: str, folder: Path, number: int, seed: int) -> None:
    """A worker process: works until it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the auditor ends it
    log = Log(folder / f"{number}.log")
    ledger = opener(url, None)
    lose_some(ledger, random.Random(seed))
    numbers = itertools.count(1)
    workers = [Worker(ledger, log, str(number), numbers, seed + 1 + n) for n in range(_THREADS)]
    for worker in workers[1:]:
        threading.Thread(target=worker.work, daemon=True).start()
    workers[0].work()
