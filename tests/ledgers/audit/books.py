"""The auditor: starts workers and kills them, looks at the accounts meanwhile, and compares the books in the end."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Hashable
from datetime import UTC
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import attrs

from farebox.errors import LedgerUnavailable
from farebox.ledgers import NO_LIMIT, Grain, Ledger
from tests.ledgers.audit.calls import LIMITS, NOTHING, Logs, Opener, Row, Story, account_of, open_plain, place_of
from tests.ledgers.audit.worker import work

LAWS: Final = ("I1", "I2", "I3", "I5", "I7")
UNITS: Final = ("usd", "tokens", "calls")
_GRAINS: Final[tuple[Grain, ...]] = ("ever", "day", "hour")
_STORES: Final = ("farebox.ledgers.sqlite", "farebox.ledgers.redis")
_KILL_SECONDS: Final = (0.1, 0.2)
_STOP_SECONDS: Final = (0.2, 0.8)
_EXPIRE_SECONDS: Final = 0.1
#: Workers first have to start.
_START_SECONDS: Final = 0.5
#: So much later everything has expired, holds of the dead too.
_LONG_AFTER_SECONDS: Final = 3_600.0


@attrs.define
class Findings:
    """What an audit has seen."""

    kills: int = 0
    stops: int = 0
    samples: int = 0
    fullest: float = 0.0
    asked: int = 0
    late: int = 0
    ended: Counter[str] = attrs.field(factory=Counter)
    violations: list[str] = attrs.field(factory=list)

    def __str__(self) -> str:
        ended = ", ".join(f"{count:,} {how}" for how, count in sorted(self.ended.items()))
        return (
            f"{self.kills} kills, {self.stops} stops; {self.asked:,} asked: {ended}, {self.late:,} of them late; "
            f"{self.samples:,} samples, max (spent + reserved) / (limit + debt) {self.fullest:.6f}; {len(self.violations)} violations"
        )


class Auditor:
    """Starts workers, kills them, and looks at the accounts meanwhile."""

    def __init__(self, opener: Opener, url: str, folder: Path, seed: int) -> None:
        self._opener = opener
        self._url = url
        self._folder = folder
        self._random = random.Random(seed)
        self._logs = Logs(folder)
        self._numbers = itertools.count(1)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.ledgers.audit.worker", opener.__module__, *_STORES])
        self.findings = Findings()

    def run(self, seconds: float, workers: int) -> Findings:
        """
        Raises:
            SystemExit: the ledger is not empty.
        """
        ledger = self._opener(self._url, None)
        if ledger.accounts("") or ledger.snapshot().rows:
            raise SystemExit("the ledger is not empty; an audit takes a new one")
        ends_at = time.monotonic() + seconds
        killer = threading.Thread(target=self._kill_some, args=(workers, ends_at))
        killer.start()
        expire_at = 0.0
        while killer.is_alive():
            self._look(ledger)
            if time.monotonic() > expire_at:
                self._expire(ledger)
                expire_at = time.monotonic() + _EXPIRE_SECONDS
        killer.join()
        self._look_at_all(ledger)
        ledger.close()
        self._close_the_books()
        return self.findings

    def _hire(self) -> BaseProcess:
        number = next(self._numbers)
        arguments = (self._opener, self._url, self._folder, number, self._random.randrange(1 << 30))
        worker = self._context.Process(target=work, args=arguments, daemon=True)
        worker.start()
        return worker

    def _kill_some(self, workers: int, ends_at: float) -> None:
        """On a thread of its own, which never waits for the ledger: a worker that stands still may have the lock."""
        draw = self._random
        crew: list[BaseProcess] = []
        try:
            crew += [self._hire() for _ in range(workers)]
            kill_at = stop_at = time.monotonic() + _START_SECONDS
            stopped: dict[int, float] = {}
            while (now := time.monotonic()) < ends_at:
                if now > kill_at:
                    at = draw.randrange(workers)
                    crew[at].kill()
                    crew[at].join()
                    stopped.pop(at, None)
                    crew[at] = self._hire()
                    self.findings.kills += 1
                    kill_at = time.monotonic() + draw.uniform(*_KILL_SECONDS)
                if now > stop_at:
                    at = draw.randrange(workers)
                    os.kill(crew[at].pid or 0, signal.SIGSTOP)
                    stopped[at] = now + draw.uniform(*_STOP_SECONDS)
                    self.findings.stops += 1
                    stop_at = now + 1.0
                for at, until in list(stopped.items()):
                    if now > until:
                        os.kill(crew[at].pid or 0, signal.SIGCONT)
                        del stopped[at]
                time.sleep(0.01)
        finally:
            for worker in crew:
                worker.kill()
                worker.join()

    @staticmethod
    def _expire(ledger: Ledger) -> None:
        try:
            ledger.expire()
        except LedgerUnavailable:
            pass  # a worker that stands still may have the lock

    def _look(self, ledger: Ledger) -> None:
        """At one account, mostly one of the newest, and at what is owed there: what was billed first, then the books."""
        self._logs.read_on()
        keys = list(self._logs.owed)
        if not keys:
            time.sleep(0.01)
            return
        recent = keys[-3 * len(LIMITS) :] if self._random.random() < 0.8 else keys
        self._check(ledger, self._random.choice(recent))
        time.sleep(0.000_5)  # or it takes the processor from those it looks at

    def _look_at_all(self, ledger: Ledger) -> None:
        self._logs.read_on()
        for key in self._logs.owed:
            self._check(ledger, key)

    def _check(self, ledger: Ledger, key: str) -> None:
        owed = self._logs.owed[key].copy()
        account = account_of(key)
        try:
            balance = attrs.astuple(ledger.view(account).balance)
        except LedgerUnavailable:
            return
        self.findings.samples += 1
        for i, (unit, limit) in enumerate(zip(UNITS, LIMITS[account.name], strict=True)):
            spent, reserved, debt = balance[3 * i : 3 * i + 3]
            if min(spent, reserved, debt) < 0:
                self._violated("I2", f"{key} {unit}: spent {spent}, reserved {reserved}, debt {debt}: one is below 0")
            if limit != NO_LIMIT:
                self.findings.fullest = max(self.findings.fullest, (spent + reserved) / (limit + debt))
            if spent + reserved > limit + debt:
                self._violated("I1", f"{key} {unit}: spent {spent} + reserved {reserved} > limit {limit} + debt {debt}")
            if spent + reserved < owed[i]:
                self._violated("I3", f"{key} {unit}: spent {spent} + reserved {reserved} < {owed[i]} billed")

    def _violated(self, law: str, how: str) -> None:
        self.findings.violations.append(f"{law} {how}")

    # At the end

    def _close_the_books(self) -> None:
        """Nobody works any more: compare, let everything expire, and compare again."""
        ledger = self._opener(self._url, lambda: time.time() + _LONG_AFTER_SECONDS)
        self._compare(ledger, "before all expired")
        ledger.expire()
        self._look_at_all(ledger)
        self._compare(ledger, "after all expired")
        if ledger.in_flight():
            self._violated("I2", f"{len(ledger.in_flight())} holds are left after all expired")
        self._judge_rows(list(ledger.rows()))
        ledger.close()
        self.findings.violations += self._logs.wrong

    def _compare(self, ledger: Ledger, when: str) -> None:
        """Balances with rows and holds, sums with rows."""
        rows: list[Row] = list(ledger.rows())
        spent, held = Counter[tuple[str, int]](), Counter[tuple[str, int]]()
        for row in rows:
            for key in self._logs.stories[row.call].keys:
                spent.update({(key, i): amount for i, amount in enumerate(row[2:])})
        for call, grant in ledger.in_flight():
            for key in self._logs.stories[call.call].keys:
                held.update({(key, i): amount for i, amount in enumerate(grant[1:])})
        debts, dues = self._explained_debts(), self._dues()
        for key in self._logs.owed:
            balance = attrs.astuple(ledger.balance(account_of(key)))
            for i, unit in enumerate(UNITS):
                found, reserved, debt = balance[3 * i : 3 * i + 3]
                if found != spent[key, i]:
                    self._violated("I2", f"{key} {unit} {when}: spent {found}, and its rows come to {spent[key, i]}")
                if found > dues[key, i]:
                    self._violated("I5", f"{key} {unit} {when}: spent {found} > {dues[key, i]}, were all charged once")
                if reserved != held[key, i]:
                    self._violated("I2", f"{key} {unit} {when}: reserved {reserved}, and held is {held[key, i]}")
                if debt > debts[key, i]:
                    self._violated("I2", f"{key} {unit} {when}: debt {debt}, and only {debts[key, i]} has a cause")
        each = Counter[tuple[Hashable, int]]()
        for row in rows:
            each.update({(place_of(row), i): amount for i, amount in enumerate((*row[2:], 1))})
        for grain in _GRAINS:
            sums = Counter[tuple[Hashable, int]]()
            for found_sum in ledger.tally(None, grain, UTC):
                sums.update({(found_sum.place, i): amount for i, amount in enumerate(found_sum.sums)})
            if +sums != +each:
                self._violated("I2", f"the sums by {grain} {when} are not those of the rows")

    def _explained_debts(self) -> Counter[tuple[str, int]]:
        """The most debt each account may have."""
        debts = Counter[tuple[str, int]]()
        for story in self._logs.stories.values():
            for key in story.keys:
                for i in range(3):
                    if story.is_charge or key in story.exempt:
                        debts[key, i] += max(story.most[i], (story.end or NOTHING)[i])
                    elif story.end is not None:
                        debts[key, i] += max(0, story.end[i] - story.least[i])
        return debts

    def _dues(self) -> Counter[tuple[str, int]]:
        """The most each account may have spent: of every call its bound, or what it cost where that was more."""
        dues = Counter[tuple[str, int]]()
        for story in self._logs.stories.values():
            for key in story.keys:
                dues.update({(key, i): max(story.most[i], (story.end or NOTHING)[i]) for i in range(3)})
        return dues

    def _judge_rows(self, rows: list[Row]) -> None:
        """Each call has the rows it may have."""
        by_call: dict[str, list[Row]] = {}
        for row in rows:
            by_call.setdefault(row.call, []).append(row)
        for call, story in self._logs.stories.items():
            found = by_call.pop(call, [])
            if len(found) > 1:
                self._violated("I5", f"{call} has {len(found)} rows: {found}")
            if not found and (story.is_granted or (story.is_charge and story.is_written)):
                self._violated("I5", f"{call} was granted or charged and has no row")
            self._count(story, found)
            for row in found:
                charged = row[2:]
                is_bound = not story.is_charge and all(
                    map(lambda low, it, high: low <= it <= high, story.least, charged, story.most)
                )
                if not is_bound and charged != story.end:
                    bound = f"bound {story.least} to {story.most}"
                    self._violated("I5", f"{call} was charged {charged}: {bound}, settled as {story.end}")
        for call in by_call:
            self._violated("I5", f"{call} has a row, and nobody asked for it")

    def _count(self, story: Story, found: list[Row]) -> None:
        self.findings.asked += 1
        if not found:
            self.findings.ended["refused or never arrived"] += 1
        elif story.is_charge:
            self.findings.ended["charged"] += 1
        elif found[0][2:] == NOTHING:
            self.findings.ended["released"] += 1
        elif found[0][2:] == story.end:
            self.findings.ended["settled"] += 1
        else:
            self.findings.ended["expired"] += 1
        self.findings.late += story.is_late


def audit(
    url: str, *, seconds: float, workers: int = 4, seed: int | None = None, opener: Opener = open_plain
) -> Findings:
    """Audit the empty ledger at `url`."""
    with tempfile.TemporaryDirectory() as folder:
        seed = random.randrange(1 << 30) if seed is None else seed
        return Auditor(opener, url, Path(folder), seed).run(seconds, workers)
