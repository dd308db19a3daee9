"""The modes: what happens when a call does not fit a budget.  One class each; each returns a decision.

    Stop      refuse the call: BudgetExceeded, nothing is sent
    Proceed   let it go past this budget's limit; outer budgets still have their say
    Rewrite   send it to another model or with a lower output cap, if that fits; it is quoted and held again first
    Wait      try again when money comes free, for at most so many seconds; then the mode is asked once more

    >>> from farebox import budget, on_exceed
    >>> def only_small_calls_may_pass(short):
    ...     return on_exceed.Proceed() if short.needed < 0.01 else on_exceed.Stop()
    >>> @budget(usd=0.5, on_exceed=only_small_calls_may_pass)
    ... def answer(question): ...

Who acts on a decision never asks which mode spoke.  A new mode is a class here or, from outside, an entry point of the group
`farebox.modes`.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from importlib.metadata import entry_points
from typing import ClassVar, Final, Literal

import attrs

from farebox._call import Call
from farebox._money import plus
from farebox.errors import Kind, Unit


@attrs.frozen
class Stop:
    """Refuse the call."""


@attrs.frozen
class Proceed:
    """Let the call go past this budget's limit."""


@attrs.frozen(kw_only=True)
class Rewrite:
    """Send the call otherwise: None leaves a part as it is.  A cap is output tokens per choice, and never raises one."""

    model: str | None = None
    max_output_tokens: int | None = attrs.field(default=None)

    @max_output_tokens.validator
    def _check(self, _attribute: object, value: int | None) -> None:
        if value is not None and value < 1:
            raise ValueError(f"max_output_tokens={value} is no cap; give 1 or more, or return Stop()")


@attrs.frozen
class Wait:
    """Wait in line for money to come free, `seconds` at most."""

    seconds: float


Decision = Stop | Proceed | Rewrite | Wait


@attrs.frozen(kw_only=True)
class Short:
    """What a mode decides on: a budget, its numbers, and the call that does not fit.

    `limit`, `spent`, `reserved` and `needed` are in `unit`: Decimal USD, or whole tokens or calls.  `kind` is
    "exhausted", "contended" or "oversized", as in `BudgetExceeded`.
    """

    budget: str
    scope: str
    unit: Unit
    limit: Decimal | int
    spent: Decimal | int
    reserved: Decimal | int
    needed: Decimal | int
    kind: Kind
    call: Call

    @property
    def remaining(self) -> Decimal | int:
        """What the budget could still hold, 0 or more, in `unit`."""
        if isinstance(self.limit, int):
            return max(0, int(self.limit - self.spent - self.reserved))
        left = plus(self.limit, Decimal(self.spent).copy_negate(), Decimal(self.reserved).copy_negate())
        return max(Decimal(0), left)


@attrs.frozen(kw_only=True)
class DecisionEvent:
    """What `signals.decision` carries, and a frame keeps in `decisions`: what was done, and the numbers that led to it.

    `did` is "stop", "proceed", "rewrite" or "wait" when a mode spoke, "cut" when an answer ended at the cap that farebox
    sent, "debt" when a call cost more than its bound.
    """

    did: Literal["stop", "proceed", "rewrite", "wait", "cut", "debt"]
    mode: str
    budget: str
    scope: str
    unit: Unit
    limit: Decimal | int
    spent: Decimal | int
    reserved: Decimal | int
    needed: Decimal | int
    kind: Kind | None
    call_id: str
    model: str


class Mode:
    """What a budget does when a call does not fit.  Holds no per-call state: threads share it.

    Attributes:
        name: What `on_exceed=` calls it.
        waits: A call that would fit once calls in flight settle waits for them before the mode is asked.
        stops: The mode can refuse.  One that can't is no reason to refuse a model without a price, or to cap a call.
    """

    name: ClassVar[str]
    waits: ClassVar[bool] = True
    stops: ClassVar[bool] = True

    def decide(self, short: Short) -> Decision:
        raise NotImplementedError


class Block(Mode):
    """Refuse.  The default."""

    name = "block"

    def decide(self, short: Short) -> Decision:
        return Stop()


class Warn(Mode):
    """Let everything go, never wait; farebox warns once a frame and publishes each decision."""

    name = "warn"
    waits = False
    stops = False

    def decide(self, short: Short) -> Decision:
        return Proceed()


class Ask(Mode):
    """Ask a callable, which returns a decision; None means stop."""

    name = "callable"

    def __init__(self, answer: Callable[[Short], Decision | None]) -> None:
        self._answer = answer

    def decide(self, short: Short) -> Decision:
        decision = self._answer(short)
        if decision is None:
            return Stop()
        if not isinstance(decision, (Stop, Proceed, Rewrite, Wait)):
            asked = getattr(self._answer, "__qualname__", type(self._answer).__name__)
            raise TypeError(
                f"on_exceed={asked} returned a {type(decision).__name__}; "
                "return on_exceed.Stop(), Proceed(), Rewrite(model=...), Wait(seconds=...) or None"
            )
        return decision


OnExceed = str | Mode | Callable[[Short], Decision | None]

_BUILT_IN: Final[dict[str, type[Mode]]] = {mode.name: mode for mode in (Block, Warn)}


def mode_names() -> list[str]:
    """Names that `on_exceed=` knows, sorted."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group="farebox.modes"))})


def read_mode(value: OnExceed) -> Mode:
    """The mode that an `on_exceed=` means.

    Raises:
        ValueError: a name that no mode has; the message lists the choices.
        TypeError: neither a name, a mode object nor a callable.
    """
    if isinstance(value, Mode):
        return value
    if isinstance(value, str):
        if value in _BUILT_IN:
            return _BUILT_IN[value]()
        for point in entry_points(group="farebox.modes", name=value):
            loaded = point.load()
            return read_mode(loaded() if isinstance(loaded, type) else loaded)
        choices = ", ".join(repr(name) for name in mode_names())
        raise ValueError(f"on_exceed={value!r} is no mode; choose from {choices}, or pass a callable")
    if isinstance(value, type):
        raise TypeError(f"on_exceed={value.__name__} is a class; pass an object: on_exceed={value.__name__}()")
    if callable(value):
        return Ask(value)
    raise TypeError(f"on_exceed={value!r} is a {type(value).__name__}; pass a mode's name, a mode or a callable")
