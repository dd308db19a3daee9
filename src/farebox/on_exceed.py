"""The modes: what happens when a call does not fit a budget.  One class each; each returns a decision.

    Stop      refuse the call: BudgetExceeded, nothing is sent; or end the scope quietly
    Proceed   let it go past this budget's limit; outer budgets still have their say
    Rewrite   send it to another model or with a lower output cap, if that fits; it is quoted and held again first
    Wait      try again when money comes free, for at most so many seconds; then the mode is asked once more
    None      the mode can do nothing: the call is refused, or, at a rung below the limit, goes as it was asked

    >>> from farebox import budget, on_exceed
    >>> def only_small_calls_may_pass(short):
    ...     return on_exceed.Proceed() if short.needed < 0.01 else on_exceed.Stop()
    >>> @budget(usd=0.5, on_exceed=only_small_calls_may_pass)
    ... def answer(question): ...

Who acts on a decision never asks which mode spoke.  A new mode is a class here or, from outside, an entry point of the group
`farebox.modes`.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, Final, Literal

import attrs

from farebox._call import Call
from farebox._money import plus
from farebox.errors import Kind, Unit
from farebox.prices import RateCard, ladders


@attrs.frozen
class Stop:
    """Refuse the call.

    `ends_scope`: leave the budget's scope quietly instead of raising `BudgetExceeded`; a function returns `default`.
    """

    ends_scope: bool = False
    default: Any = None


@attrs.frozen
class Proceed:
    """Let the call go past this budget's limit.

    `raises_after`: one such call at a time, and if it did pass the limit, `BudgetExceeded` with its response once it is over.
    """

    raises_after: bool = False


@attrs.frozen(kw_only=True)
class Rewrite:
    """Send the call otherwise: what is left out stays as it is.

    Attributes:
        model: Another model of the same provider.
        max_output_tokens: The output cap to send, per choice; never raises one.
        fits_cap: Lower the output cap to what the money of all budgets in scope buys, down to the useful minimum.
        raises_when_cut: `BudgetExceeded` at the end of an answer that reached the cap so lowered.
    """

    model: str | None = None
    max_output_tokens: int | None = attrs.field(default=None)
    fits_cap: bool = False
    raises_when_cut: bool = False

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
    "exhausted", "contended" or "oversized", as in `BudgetExceeded`.  At a rung of `at=`, `rung` is its share of the
    limit and the call may well fit; at the limit it is None.
    """

    budget: str
    scope: str
    unit: Unit
    limit: Decimal | int
    spent: Decimal | int
    reserved: Decimal | int
    needed: Decimal | int
    kind: Kind
    resets_at: datetime | None = None
    #: How long it is until then, by the ledger's clock.
    resets_in_seconds: float | None = None
    rung: float | None = None
    call: Call

    @property
    def waited_seconds(self) -> float:
        """How long ago the call began."""
        return time.time() - self.call.started_at_seconds

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
    sent, "debt" when a call cost more than its bound, "unmetered" when a request was let go that nobody can bound.  `model` and `sent_cap` are as they will be sent, or were.
    """

    did: Literal["stop", "proceed", "rewrite", "wait", "cut", "debt", "unmetered"]
    mode: str
    budget: str
    scope: str
    unit: Unit
    limit: Decimal | int
    spent: Decimal | int
    reserved: Decimal | int
    needed: Decimal | int
    kind: Kind | None
    resets_at: datetime | None = None
    rung: float | None = None
    call_id: str
    model: str
    sent_cap: int | None = None


@attrs.frozen(kw_only=True)
class Threshold:
    """What `signals.threshold` carries: spent has reached a rung of `at=`, for the first time in this window.

    `share` is the rung, such as 0.8; `limit` and `spent` are in `unit`: Decimal USD, or whole tokens or calls.
    """

    budget: str
    scope: str
    unit: Unit
    share: float
    limit: Decimal | int
    spent: Decimal | int


class Mode:
    """What a budget does when a call does not fit.  Holds no per-call state: threads share it.

    The keywords of its `__init__` are options of `budget(...)`: `budget(usd=1, on_exceed="wait", timeout=60)`.

    Attributes:
        name: What `on_exceed=` calls it.
        units: What it can do something about; a budget that limits nothing of it can't have this mode.
        waits: A call that would fit once calls in flight settle waits for them before the mode is asked.
        at_rungs: The mode can do something below the limit, too, as a value of `at=`.
        prefers_whole: Where the output cap is farebox's to choose, the mode is asked before the call is sent with less than
            such calls usually need.
        stops: The mode can refuse.  One that can't is no reason to refuse a model without a price, or to cap a call.
    """

    name: ClassVar[str]
    units: ClassVar[tuple[Unit, ...]] = ("usd", "tokens", "calls")
    waits: ClassVar[bool] = True
    at_rungs: ClassVar[bool] = True
    prefers_whole: ClassVar[bool] = False
    stops: ClassVar[bool] = True

    def check(self, card: RateCard) -> None:
        """Look at the prices when a budget is made; ValueError where this mode makes no sense with them."""

    def decide(self, short: Short) -> Decision | None:
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


#: What can be done by another model; OpenTelemetry has a word of its own for how Gemini is asked.
_GENERATES: Final = ("chat", "generate_content")


class Downgrade(Mode):
    """The next cheaper model that fits, else refuse.

    Args:
        downgrade: `{"gpt-5": "gpt-5-mini"}` or `["gpt-5", "gpt-5-mini", "gpt-5-nano"]`, the dearest first; without it the
            shipped ladders of the current models.

    Raises:
        ValueError: a map that goes up in price, or in a circle.
    """

    name = "downgrade"
    units = ("usd",)
    prefers_whole = True  # an answer on a cheaper model is more than a stump on a dear one

    def __init__(self, downgrade: Mapping[str, str] | Sequence[str] | None = None) -> None:
        self._steps = None if downgrade is None else ladders.check_map(downgrade)

    def check(self, card: RateCard) -> None:
        if self._steps is not None:
            ladders.check_map(self._steps, card)

    def decide(self, short: Short) -> Decision | None:
        call = short.call
        if short.unit != "usd" or call.operation_name not in _GENERATES:
            return None
        if short.rung is not None and call.sent_model:
            return None  # one step below what was asked for
        is_chosen = self._steps is not None
        for model in self._below(call):
            needs = (call.features, call.most_input_tokens, call.declared_cap)
            if ladders.covers(call.provider_name, model, *needs, is_chosen=is_chosen):
                return Rewrite(model=model)
        return None

    def _below(self, call: Call) -> Sequence[str]:
        if self._steps is None:
            return ladders.cheaper(call.provider_name, call.model)
        below: list[str] = []
        while (lower := ladders.next_in(self._steps, below[-1] if below else call.model)) is not None:
            below.append(lower)
        return below


class Clamp(Mode):
    """Lower the output cap, also one the caller declared, to what the money buys; below the useful minimum refuse."""

    name = "clamp"
    units = ("usd", "tokens")
    at_rungs = False

    def decide(self, short: Short) -> Decision | None:
        if short.unit == "calls" or not short.call.can_lower_cap:
            return None
        return Rewrite(fits_cap=True)


class WaitForMoney(Mode):
    """Wait for calls in flight to settle and for the window to turn, in all `timeout` seconds at most; then refuse.

    The limit of a scope has no window: once it is exhausted the call is refused at once.
    """

    name = "wait"
    waits = False  # it is its own wait
    at_rungs = False

    def __init__(self, timeout: float = 60.0) -> None:
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise TypeError(f"timeout={timeout!r} is a {type(timeout).__name__}; pass seconds such as timeout=60")
        if not 0 <= timeout < math.inf:
            raise ValueError(f"timeout={timeout} is no time to wait; give seconds, 0 or more")
        self._timeout_seconds = float(timeout)

    def decide(self, short: Short) -> Decision | None:
        left = self._timeout_seconds - short.waited_seconds
        if left <= 0:
            return None
        if short.kind == "contended":
            return Wait(left)
        if short.resets_in_seconds is None or short.resets_in_seconds > left:
            return None
        return Wait(left)


class Truncate(Mode):
    """End the scope quietly: a decorated function returns `default`, a `with` block and a generator just end."""

    name = "truncate"

    def __init__(self, default: Any = None) -> None:
        self._default = default

    def decide(self, short: Short) -> Decision:
        return Stop(ends_scope=True, default=self._default)


class Break(Mode):
    """Refuse; but a stream whose declared cap is more than what is left gets what is left, and is cut there."""

    name = "break"
    units = ("usd", "tokens")
    at_rungs = False

    def decide(self, short: Short) -> Decision | None:
        call = short.call
        if short.unit == "calls":
            return None
        if not call.is_stream or call.declared_cap is None or not call.can_lower_cap:
            return None
        return Rewrite(fits_cap=True, raises_when_cut=True)


class Raise(Mode):
    """Let one call cross the limit, then raise with its response; what comes after is refused before it is sent."""

    name = "raise"
    at_rungs = False

    def decide(self, short: Short) -> Decision | None:
        return None if short.spent >= short.limit else Proceed(raises_after=True)


class Ask(Mode):
    """Ask a callable, which returns a decision; None means stop."""

    name = "callable"

    def __init__(self, answer: Callable[[Short], Decision | None]) -> None:
        self._answer = answer

    def decide(self, short: Short) -> Decision | None:
        decision = self._answer(short)
        if decision is not None and not isinstance(decision, (Stop, Proceed, Rewrite, Wait)):
            asked = getattr(self._answer, "__qualname__", type(self._answer).__name__)
            raise TypeError(
                f"on_exceed={asked} returned a {type(decision).__name__}; "
                "return on_exceed.Stop(), Proceed(), Rewrite(model=...), Wait(seconds=...) or None"
            )
        return decision


OnExceed = str | Mode | Callable[[Short], Decision | None]

_BUILT_IN: Final[dict[str, type[Mode]]] = {
    mode.name: mode for mode in (Block, Downgrade, Clamp, WaitForMoney, Truncate, Break, Raise, Warn)
}


def mode_names() -> list[str]:
    """Names that `on_exceed=` knows, sorted."""
    from importlib.metadata import entry_points

    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group="farebox.modes"))})


def option_names(value: OnExceed) -> list[str]:
    """The options that a mode called by name takes, beside those of every budget; a mode object has its own already."""
    found = _called(value, "on_exceed") if isinstance(value, str) else None
    return list(inspect.signature(found).parameters) if isinstance(found, type) else []


def read_mode(value: OnExceed, options: Mapping[str, Any] | None = None, *, said: str = "on_exceed") -> Mode:
    """The mode that an `on_exceed=` means; `options` go to the class of one called by name.

    `said` is the word that errors name.

    Raises:
        ValueError: a name that no mode has; the message lists the choices.
        TypeError: neither a name, a mode object nor a callable.
    """
    if isinstance(value, Mode):
        return value
    if isinstance(value, str):
        found = _called(value, said)
        return read_mode(found(**(options or {})) if isinstance(found, type) else found)
    if isinstance(value, type):
        raise TypeError(f"{said}={value.__name__} is a class; pass an object: {said}={value.__name__}()")
    if inspect.iscoroutinefunction(value):
        raise TypeError(
            f"{said}={value.__qualname__} is an async function, and nobody would await it; pass a plain one"
        )
    if callable(value):
        return Ask(value)
    raise TypeError(f"{said}={value!r} is a {type(value).__name__}; pass a mode's name, a mode or a callable")


def _called(name: str, said: str) -> Any:
    """The class of a mode, or whatever else an entry point of that name is."""
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    from importlib.metadata import entry_points

    for point in entry_points(group="farebox.modes", name=name):
        return point.load()
    choices = ", ".join(repr(name) for name in mode_names())
    raise ValueError(f"{said}={name!r} is no mode; choose from {choices}, or pass a callable")
