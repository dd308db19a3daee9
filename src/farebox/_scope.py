"""Where a budget or a track applies: the stack of scopes, kept in one ContextVar.

The variable holds an immutable linked frame.  Entering links a new frame to the one there; leaving restores its parent after
looking for the frame to leave, since a generator may be closed in another task, where the stack is another.  The objects
`budget(...)` and `track(...)` keep nothing of a run, so one may decorate many functions and be entered many times at once.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextvars import ContextVar
from decimal import Decimal
from types import AsyncGeneratorType, CoroutineType, GeneratorType, MappingProxyType, TracebackType
from typing import Any, Final, Generic, Never, ParamSpec, TypeVar, cast

from farebox import _config, _threads, signals
from farebox._budget import PATIENCE_SECONDS, Budget
from farebox._call import EMPTY_TAGS, read_tags
from farebox._money import UsdLike, to_usd
from farebox.ledgers import NO_LIMIT, Account, Balance, Ledger
from farebox.on_exceed import DecisionEvent, OnExceed

P = ParamSpec("P")
R = TypeVar("R")

_KEPT_DECISIONS: Final = 1_000

_account_keys = itertools.count(1)
_scope: ContextVar[Frame | None] = ContextVar("farebox_scope", default=None)
_threads.carry_variable(_scope)

#: Grows in a forked child, so that a frame knows that it was inherited.
_generation = 0


def _next_generation() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_next_generation)


class Frame:
    """One entry of a scope, with the numbers of the innermost budget around it.

    Attributes:
        parent: The frame around this one, or None.
        tags: Labels of this frame and all around it, inner ones win.  Read-only.
        path: Names of the budgets around, outermost first, joined by " > ".
    """

    __slots__ = (
        "__weakref__",
        "_outer_budgets",
        "accounts",
        "caps_output",
        "generation",
        "ledger",
        "origin",
        "parent",
        "path",
        "tags",
    )

    def __init__(self, origin: object, parent: Frame | None, tags: Mapping[str, str]) -> None:
        self.origin = origin
        self.parent = parent
        if parent is None:
            self.generation = _generation
            self._outer_budgets: tuple[BudgetFrame, ...] = ()
            #: The ledger keys of all budgets around, innermost first: the order in which they speak.
            self.accounts: tuple[Account, ...] = ()
            #: Where the accounts of this frame are kept; None while there are none.
            self.ledger: Ledger | None = None
            #: Whether a limit in usd or tokens is in force here, so that a call must have an output cap.
            self.caps_output = False
            self.path = ""
            self.tags = tags
        else:
            self.generation = parent.generation
            self._outer_budgets = parent.budgets
            self.accounts, self.ledger, self.caps_output = parent.accounts, parent.ledger, parent.caps_output
            self.path = parent.path
            self.tags = MappingProxyType({**parent.tags, **tags}) if tags else parent.tags

    def __repr__(self) -> str:
        if not self.budgets:
            return f"<frame {dict(self.tags)}>"
        return f"<frame {self.path!r} {dict(self.tags)} spent {self.spent_usd:f} USD, limit {self.limit_usd}>"

    @property
    def budgets(self) -> tuple[BudgetFrame, ...]:
        """The budget frames in force here, innermost first."""
        return self._outer_budgets

    @property
    def is_inherited(self) -> bool:
        """Whether a forked child got this frame from its parent process, whose money it can't share."""
        return self.generation != _generation

    @property
    def balance(self) -> Balance:
        """All numbers of the innermost budget at one instant; zeros where there is none."""
        signals.settle_late_calls()
        if not self.budgets or self.ledger is None:
            return Balance()
        return self.ledger.balance(self.budgets[0].account)

    @property
    def spent_usd(self) -> Decimal:
        return to_usd(self.balance.spent_usd_nanos)

    @property
    def reserved_usd(self) -> Decimal:
        return to_usd(self.balance.reserved_usd_nanos)

    @property
    def remaining_usd(self) -> Decimal | None:
        """What this budget could still hold, 0 or more; an outer one may have less.  None without a usd limit."""
        limit = self.budgets[0].budget.limit_usd_nanos if self.budgets else NO_LIMIT
        now = self.balance
        return None if limit == NO_LIMIT else to_usd(max(0, limit - now.spent_usd_nanos - now.reserved_usd_nanos))

    @property
    def limit_usd(self) -> Decimal | None:
        """The usd limit; None without one."""
        limit = self.budgets[0].budget.limit_usd_nanos if self.budgets else NO_LIMIT
        return None if limit == NO_LIMIT else to_usd(limit)

    @property
    def debt_usd(self) -> Decimal:
        """By how much charges went past what was held for them."""
        return to_usd(self.balance.debt_usd_nanos)

    @property
    def spent_tokens(self) -> int:
        return self.balance.spent_tokens

    @property
    def reserved_tokens(self) -> int:
        return self.balance.reserved_tokens

    @property
    def spent_calls(self) -> int:
        return self.balance.spent_calls

    @property
    def reserved_calls(self) -> int:
        return self.balance.reserved_calls

    @property
    def decisions(self) -> list[DecisionEvent]:
        """What the innermost budget decided, oldest first; the newest thousand are kept."""
        return list(self.budgets[0].noted) if self.budgets else []


class BudgetFrame(Frame):
    """One entry of a budget: its own full limit, held against every outer frame as well.

    It goes on limiting what was started in it after it was left, and can be read for as long as it is kept.
    """

    __slots__ = ("account", "budget", "has_warned", "noted")

    def __init__(self, origin: object, parent: Frame | None, budget: Budget) -> None:
        super().__init__(origin, parent, EMPTY_TAGS)
        if self.is_inherited:
            # The budgets around belong to the parent process; one opened here is this process's own, and the outermost.
            self.generation = _generation
            self._outer_budgets, self.accounts, self.ledger, self.path, self.caps_output = (), (), None, "", False
        self.budget = budget
        self.has_warned = False
        self.noted: deque[DecisionEvent] = deque(maxlen=_KEPT_DECISIONS)
        self.account = budget.account(("frame", next(_account_keys)))
        self.ledger = self.ledger or _config.state().scope_ledger
        self.accounts = (self.account, *self.accounts)
        has_limit = budget.limit_usd_nanos != NO_LIMIT or budget.limit_tokens != NO_LIMIT
        self.caps_output = self.caps_output or (has_limit and budget.mode.stops)
        self.path = f"{self.path} > {budget.name}" if self.path else budget.name

    def __del__(self) -> None:
        ledger = getattr(self, "ledger", None)
        if ledger is not None and hasattr(self, "account"):
            ledger.forget(self.account.key)

    @property
    def budgets(self) -> tuple[BudgetFrame, ...]:
        # Not kept: a frame that referred to itself would wait for the garbage collector, and its account with it.
        return (self, *self._outer_budgets)

    def note(self, event: DecisionEvent) -> None:
        """Keep a decision of this frame."""
        self.noted.append(event)


F = TypeVar("F", bound=Frame)


class Scope(Generic[F]):
    """A budget or a track: a decorator, and a context manager for `with` and `async with`."""

    def _frame(self, parent: Frame | None) -> F:
        raise NotImplementedError

    def __enter__(self) -> F:
        frame = self._frame(_scope.get())
        _scope.set(frame)
        return frame

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        frame = _scope.get()
        while frame is not None and frame.origin is not self:
            frame = frame.parent
        if frame is not None:
            _scope.set(frame.parent)

    async def __aenter__(self) -> F:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Run each invocation of `function` in a frame of its own: plain, coroutine, generator and async generator alike."""
        if not callable(function):
            raise TypeError(f"{type(self).__name__}(...) decorates a function, not {type(function).__name__}")
        if inspect.isasyncgenfunction(function):
            body: Callable[..., Any] = self._async_generator(function)
        elif inspect.isgeneratorfunction(function):
            body = self._generator(function)
        elif inspect.iscoroutinefunction(function):
            body = self._coroutine(function)
        else:
            body = self._plain(function)
        return cast(Callable[P, R], functools.wraps(function)(body))

    def _plain(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            outer = _scope.get()
            frame = self._frame(outer)
            _scope.set(frame)
            try:
                result = function(*args, **kwargs)
            finally:
                _scope.set(outer)
            # What comes back may have yet to run: an `async def __call__`, or a coroutine behind a plain decorator.
            if isinstance(result, CoroutineType):
                return _run_coroutine(frame, result)
            if isinstance(result, GeneratorType):
                return _step_generator(frame, result)
            return _step_async_generator(frame, result) if isinstance(result, AsyncGeneratorType) else result

        return run

    def _coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def run(*args: Any, **kwargs: Any) -> Any:
            return await _run_coroutine(self._frame(_scope.get()), function(*args, **kwargs))

        return run

    # A generator belongs to the scope it was called in, wherever it is drained: a web framework drains what a handler
    # returned after the request's scope has ended.

    def _generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            return _step_generator(self._frame(_scope.get()), function(*args, **kwargs))

        return run

    def _async_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            return _step_async_generator(self._frame(_scope.get()), function(*args, **kwargs))

        return run


async def _run_coroutine(frame: Frame | None, coroutine: Any) -> Any:
    outer = _scope.get()
    _scope.set(frame)
    try:
        return await coroutine
    finally:
        _scope.set(outer)


def _step_generator(frame: Frame | None, generator: Any) -> Generator[Any, Any, Any]:
    stepper = _Stepper(frame)
    step, value = generator.send, None
    while True:
        try:
            with stepper:
                item = step(value)
        except StopIteration as stop:
            return stop.value
        try:
            step, value = generator.send, (yield item)
        except GeneratorExit:
            with stepper:
                generator.close()
            raise
        except BaseException as error:
            step, value = generator.throw, error


async def _step_async_generator(frame: Frame | None, generator: Any) -> AsyncGenerator[Any, Any]:
    stepper = _Stepper(frame)
    step, value = generator.asend, None
    while True:
        try:
            with stepper:
                item = await step(value)
        except StopAsyncIteration:
            return
        try:
            step, value = generator.asend, (yield item)
        except GeneratorExit:
            with stepper:
                await generator.aclose()
            raise
        except BaseException as error:
            step, value = generator.athrow, error


class _Stepper:
    """Enters a generator's scope for one step and leaves it after, keeping the frame that the body left behind."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, frame: Frame | None) -> None:
        self._inner = frame
        self._outer: Frame | None = None

    def __enter__(self) -> None:
        self._outer = _scope.get()
        _scope.set(self._inner)

    def __exit__(self, *_: object) -> None:
        self._inner = _scope.get()
        _scope.set(self._outer)
        self._outer = None


class budget(Scope[BudgetFrame]):  # noqa: N801, used as a verb, like contextlib.suppress
    """A hard limit on what the calls inside may cost, tokens they may use, or their number.

    >>> from farebox import budget
    >>> with budget("search", usd="0.10", tokens=50_000, calls=20) as b:
    ...     b.remaining_usd
    Decimal('0.1')

    Args:
        name: A label for reports and errors.
        usd: USD, 0 or more; a float is read as what it prints.
        tokens: All input, cached too, and all output, reasoning too.
        calls: Calls, not attempts.
        on_exceed: What happens when a call does not fit: `"block"`, `"warn"`, a mode, or a callable.
        patience: Seconds to wait for calls in flight to settle when that would make room; 0 refuses at once.

    Raises:
        ValueError: a limit that is negative, NaN, infinite or missing, an unknown mode or option.
        TypeError: a word of the wrong type.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        usd: UsdLike | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        on_exceed: OnExceed = "block",
        patience: float = PATIENCE_SECONDS,
        **unknown: Never,
    ) -> None:
        self._budget = Budget.of(
            name, usd=usd, tokens=tokens, calls=calls, on_exceed=on_exceed, patience=patience, unknown=unknown
        )

    def _frame(self, parent: Frame | None) -> BudgetFrame:
        return BudgetFrame(self, parent, self._budget)

    def __repr__(self) -> str:
        return f"<budget {self._budget.name!r} on_exceed={self._budget.mode.name!r}>"


class track(Scope[Frame]):  # noqa: N801, used as a verb
    """Label the calls inside, for reports: `with track(feature="search", user_id="alice"): ...`

    Values are kept as text of at most 256 characters; a value of None sets no label.
    """

    def __init__(self, **tags: object) -> None:
        self._tags = read_tags(tags)

    def _frame(self, parent: Frame | None) -> Frame:
        return Frame(self, parent, self._tags)

    def __repr__(self) -> str:
        return f"<track {dict(self._tags)}>"


def tag(**tags: object) -> None:
    """Label the calls in the rest of this context; for middleware, where no `with` can span the request."""
    parent, labels = _scope.get(), read_tags(tags)
    if parent is not None and parent.origin is _tagged:
        # Take the place of the last one: a worker that tags each request would hold on to them all.
        labels = MappingProxyType({**parent.tags, **labels})
        parent = parent.parent
    _scope.set(Frame(_tagged, parent, labels))


#: The origin of frames that `tag` links.
_tagged: Final = object()


def current() -> Frame | None:
    """The innermost frame, or None outside of any scope."""
    return _scope.get()


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """Bind `function` to the scope of now, wherever it is run later: another thread, a pool, a callback."""
    return cast(Callable[P, R], _Carried(_scope.get())(function))


class _Carried(Scope[Frame]):
    """The scope of an earlier moment, entered again: links nothing new."""

    def __init__(self, frame: Frame | None) -> None:
        self._bound = frame

    def _frame(self, parent: Frame | None) -> Frame:
        return self._bound  # type: ignore[return-value]
