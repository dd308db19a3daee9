"""What a test asked the provider to do, and which request gets which of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Generic, Literal, TypeVar

import attrs

from farebox.testing._fake.answer import Answer
from farebox.testing._fake.odd import Odd
from farebox.testing._fake.request import Request

T = TypeVar("T")

AnswerSource = Answer | Callable[[Request], Answer]
DropAfter = Literal["arrival", "billing", "chunks"]


@attrs.frozen
class Fail:
    status: int
    message: str
    headers: dict[str, str]


@attrs.frozen
class Drop:
    after: DropAfter
    chunks: int


@attrs.frozen
class Hang:
    seconds: float | None  # None: until the provider stops


@attrs.frozen(kw_only=True)
class Plan:
    """What one request gets; drawn when it arrives."""

    fail: Fail | None = None
    delay_seconds: float | None = None
    answer: AnswerSource = attrs.field(factory=Answer)
    pace_seconds: float | None = None
    chunks: int | None = None
    drop: Drop | None = None
    hang: Hang | None = None
    odd: Odd | None = None


@attrs.define
class _Rule(Generic[T]):
    value: T
    left: int | None  # None: for good
    model: str | None

    def fits(self, model: str) -> bool:
        return self.model is None or fnmatchcase(model, self.model)


class Rules(Generic[T]):
    """Rules of one kind: those for a number of requests first, oldest first, then the newest of those for good."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[_Rule[T]] = []

    def add(self, value: T, times: int | None, model: str | None) -> None:
        if times is not None and times < 1:
            raise ValueError(f"times={times}; it is 1 or more, or None for every request from now on")
        with self._lock:
            if times is None:
                self._rules = [rule for rule in self._rules if rule.left is not None or rule.model != model]
            self._rules.append(_Rule(value, times, model))

    def draw(self, model: str) -> T | None:
        if not self._rules:
            return None
        with self._lock:
            fitting = [rule for rule in self._rules if rule.fits(model)]
            for rule in fitting:
                if rule.left is not None:
                    rule.left -= 1
                    if not rule.left:
                        self._rules.remove(rule)
                    return rule.value
            return fitting[-1].value if fitting else None

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()


class Script:
    """One `Rules` per kind of behaviour."""

    def __init__(self) -> None:
        self.fails: Rules[Fail] = Rules()
        self.delays: Rules[float] = Rules()
        self.answers: Rules[AnswerSource] = Rules()
        self.paces: Rules[float] = Rules()
        self.chunks: Rules[int] = Rules()
        self.drops: Rules[Drop] = Rules()
        self.hangs: Rules[Hang] = Rules()
        self.odds: Rules[Odd] = Rules()

    def draw(self, model: str, *, free: bool) -> Plan:
        """The plan of a good request. One that is to fail, or is free, leaves the other rules to the next."""
        fail, delay_seconds = self.fails.draw(model), self.delays.draw(model)
        if fail is not None or free:
            return Plan(fail=fail, delay_seconds=delay_seconds)
        return Plan(
            delay_seconds=delay_seconds,
            answer=self.answers.draw(model) or Answer(),
            pace_seconds=self.paces.draw(model),
            chunks=self.chunks.draw(model),
            drop=self.drops.draw(model),
            hang=self.hangs.draw(model),
            odd=self.odds.draw(model),
        )

    def clear(self) -> None:
        rules: Any
        for rules in vars(self).values():
            rules.clear()
