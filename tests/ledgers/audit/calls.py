"""What a call of an audit is: how a ledger keeps it, what its worker notes down, and what the notes come to."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import attrs

from farebox.ledgers import NO_LIMIT, Account, RowForm, Span, Sum, open_ledger
from farebox.ledgers._stored import StoredLedger

Amounts = tuple[int, int, int]
NOTHING: Final[Amounts] = (0, 0, 0)

#: Limits of a window in nanodollars, tokens and calls.  They are reached within it, each at another time.
LIMITS: Final[dict[str, Amounts]] = {
    "org": (300_000, NO_LIMIT, NO_LIMIT),
    "team": (150_000, NO_LIMIT, 300),
    "plan": (NO_LIMIT, 8_000, NO_LIMIT),
    "user": (50_000, 5_000, NO_LIMIT),
    "tool": (NO_LIMIT, NO_LIMIT, 80),
}

#: Opens the ledger at a URL; the clock is in place of the store's own.
Opener = Callable[[str, Callable[[], float] | None], StoredLedger]


class Row(NamedTuple):
    """As the ledger keeps it; of a call in flight the amounts are 0."""

    began_at: float
    call: str
    usd_nanos: int
    tokens: int
    calls: int


def _sum_of(row: Row) -> Sum:
    return Sum("second", int(row.began_at), place_of(row), (row.usd_nanos, row.tokens, row.calls, 1))


def place_of(row: Row) -> str:
    return f"worker {int(row.call.partition('-')[0]) % 5}"


def _coarser(span: Span, starts_at: int, place: Hashable) -> tuple[Span, int, Hashable]:
    return "ever", 0, place


FORM: Final = RowForm(
    sum_of=_sum_of,
    id_of=lambda row: "",
    coarser=_coarser,
    dump=json.dumps,
    load=lambda text: Row(*json.loads(text)),
    dump_place=json.dumps,
    load_place=json.loads,
    presumed=lambda call, grant: call._replace(usd_nanos=grant.usd_nanos, tokens=grant.tokens, calls=grant.calls),
)


def open_plain(url: str, clock: Callable[[], float] | None) -> StoredLedger:
    """The ledger at `url`; `clock` in place of the store's own."""
    ledger = open_ledger(url, form=FORM, **({} if clock is None else {"clock": clock}))
    assert isinstance(ledger, StoredLedger)
    return ledger


def account_of(key: str) -> Account:
    """An account of one second: its name and when it begins."""
    name, _, begins = key.partition("@")
    return Account(key, name, *LIMITS[name], starts_at=int(begins), ends_at=int(begins) + 1)


class Log:
    """What a worker notes down: one line each, kept by the kernel once it is written, whatever becomes of the worker."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, what: str, call: str, *rest: object) -> None:
        os.write(self._fd, json.dumps([what, call, *rest]).encode() + b"\n")


@attrs.define
class Story:
    """One call as its worker noted it down."""

    keys: list[str]
    exempt: list[str] = attrs.field(factory=list)
    #: Its bound is within these two.
    least: Amounts = NOTHING
    most: Amounts = NOTHING
    is_granted: bool = False
    is_charge: bool = False
    bill: Amounts | None = None
    end: Amounts | None = None
    is_written: bool = False
    is_late: bool = False

    @property
    def owed(self) -> Amounts:
        """What the books may not be below on its account."""
        if self.bill is None:
            return NOTHING
        if self.is_written:
            return self.bill
        # What a call cost above its bound is known to nobody but its worker until it is written.
        usd, tokens, calls = map(min, self.bill, self.least)
        return usd, tokens, calls


class Logs:
    """The logs of all workers so far, read on from where they were left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: Counter[Path] = Counter()
        self.stories: dict[str, Story] = {}
        self.owed: dict[str, list[int]] = {}
        self.wrong: list[str] = []

    def read_on(self) -> None:
        for path in self._folder.glob("*.log"):
            with path.open("rb") as file:
                file.seek(self._read[path])
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read[path] += len(whole)
            for line in whole.splitlines():
                self._take(*json.loads(line))

    def _take(self, what: str, call: str, *rest: Any) -> None:
        if what == "ask":
            keys, exempt, least, most = rest
            self.stories[call] = Story(keys, exempt, tuple(least), tuple(most))
            for key in keys:
                self.owed.setdefault(key, [0, 0, 0])
            return
        if what == "charge":
            keys, actual = rest
            self.stories[call] = Story(keys, is_charge=True, bill=tuple(actual), end=tuple(actual))
            for key in keys:
                self.owed.setdefault(key, [0, 0, 0])
            return
        story = self.stories[call]
        before = story.owed
        match what:
            case "granted":
                story.is_granted, story.least = True, tuple(rest[0])
                story.most = _larger(story.most, story.least)
            case "grow":
                story.most = _plus(story.most, rest[0])
            case "bill":
                story.bill = tuple(rest[0])
            case "end":
                story.end = tuple(rest[0])
            case "written":
                story.is_written = True
            case "given up":
                story.is_granted = False
            case "late":
                story.is_late = True
            case "wrong":
                self.wrong.append(f"I7 {call}: {rest[0]}")
        for key in story.keys:
            owed = self.owed[key]
            for i in range(3):
                owed[i] += story.owed[i] - before[i]


def _plus(one: Sequence[int], other: Sequence[int]) -> Amounts:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _larger(one: Amounts, other: Amounts) -> Amounts:
    return max(one[0], other[0]), max(one[1], other[1]), max(one[2], other[2])
