"""Where a budget or a track applies: the stack of scopes, kept in one ContextVar.

The variable holds an immutable linked frame.  Entering links a new frame to the one there; leaving restores its parent after
looking for the frame to leave, since a generator may be closed in another task, where the stack is another.  The objects
`budget(...)` and `track(...)` keep nothing of a run, so one may decorate many functions and be entered many times at once.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from contextvars import ContextVar
from types import AsyncGeneratorType, CoroutineType, GeneratorType, MappingProxyType, TracebackType
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast

from farebox import _config, _threads
from farebox._budget import PATIENCE_SECONDS, Budget
from farebox._budget_words import CountLimit, EachMissing, InputBound, OnUnmetered, OnUnpriced, UsdLimit
from farebox._call import read_tags
from farebox._frames import BudgetFrame, Frame
from farebox._standing import StandingFrame
from farebox._warn import warn
from farebox._windows import Period
from farebox.errors import NotInstrumentedWarning, ScopeEnded
from farebox.on_exceed import OnExceed, Threshold

P = ParamSpec("P")
R = TypeVar("R")

innermost: ContextVar[Frame | None] = ContextVar("farebox_scope", default=None)
_threads.carry_variable(innermost)

F = TypeVar("F", bound=Frame)


class Scope(Generic[F]):
    """A budget or a track: a decorator, and a context manager for `with` and `async with`."""

    def _frame(self, parent: Frame | None) -> F:
        raise NotImplementedError

    def __enter__(self) -> F:
        frame = self._frame(innermost.get())
        innermost.set(frame)
        return frame

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        frame = innermost.get()
        while frame is not None and frame.origin is not self:
            frame = frame.parent
        if frame is None:
            return None
        innermost.set(frame.parent)
        rest = self._end(frame, error)
        if rest is not None and rest is not error:
            raise rest
        return error is not None and rest is None

    async def __aenter__(self) -> F:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self.__exit__(kind, error, traceback)

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
            outer = innermost.get()
            frame = self._frame(outer)
            innermost.set(frame)
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                return self._end_function(frame, error)
            finally:
                innermost.set(outer)
            # What comes back may have yet to run: an `async def __call__`, or a coroutine behind a plain decorator.
            if isinstance(result, CoroutineType):
                return self._run_coroutine(frame, result)
            if isinstance(result, GeneratorType):
                return self._step_generator(frame, result)
            if isinstance(result, AsyncGeneratorType):
                return self._step_async_generator(frame, result)
            self._end(frame)
            return result

        return run

    def _coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def run(*args: Any, **kwargs: Any) -> Any:
            return await self._run_coroutine(self._frame(innermost.get()), function(*args, **kwargs))

        return run

    # A generator belongs to the scope it was called in, wherever it is drained: a web framework drains what a handler
    # returned after the request's scope has ended.

    def _generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            return self._step_generator(self._frame(innermost.get()), function(*args, **kwargs))

        return run

    def _async_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            return self._step_async_generator(self._frame(innermost.get()), function(*args, **kwargs))

        return run

    def _end(self, frame: Frame | None, error: BaseException | None = None) -> BaseException | None:
        """Leave `frame`; returns what is left of `error` once the quiet end of this very frame is taken out of it."""
        if frame is None or frame.origin is not self:
            return error  # carried here: its own scope goes on, elsewhere
        frame.is_left = True
        if isinstance(error, BaseExceptionGroup):
            return error.split(lambda one: isinstance(one, ScopeEnded) and one.frame is frame)[1]
        return None if isinstance(error, ScopeEnded) and error.frame is frame else error

    def _end_function(self, frame: Frame | None, error: BaseException) -> Any:
        """What a function returns instead, where `error` is the quiet end of its frame; else raises what is left of it."""
        rest = self._end(frame, error)
        if rest is not None:
            raise rest
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return error.default  # type: ignore[attr-defined]

    async def _run_coroutine(self, frame: Frame | None, coroutine: Any) -> Any:
        outer = innermost.get()
        innermost.set(frame)
        try:
            result = await coroutine
        except BaseException as error:
            return self._end_function(frame, error)
        finally:
            innermost.set(outer)
        self._end(frame)
        return result

    def _step_generator(self, frame: Frame | None, generator: Any) -> Generator[Any, Any, Any]:
        stepper = _Stepper(frame)
        step, value = generator.send, None
        while True:
            try:
                with stepper:
                    item = step(value)
            except StopIteration as stop:
                self._end(frame)
                return stop.value
            except BaseException as error:
                return self._end_function(frame, error)
            try:
                step, value = generator.send, (yield item)
            except GeneratorExit:
                try:
                    with stepper:
                        generator.close()
                except BaseException as error:
                    rest = self._end(frame, error)
                    if rest is not None:
                        raise rest from None
                self._end(frame)
                raise
            except BaseException as error:
                step, value = generator.throw, error

    async def _step_async_generator(self, frame: Frame | None, generator: Any) -> AsyncGenerator[Any, Any]:
        stepper = _Stepper(frame)
        step, value = generator.asend, None
        while True:
            try:
                with stepper:
                    item = await step(value)
            except StopAsyncIteration:
                self._end(frame)
                return
            except BaseException as error:
                self._end_function(frame, error)
                return
            try:
                step, value = generator.asend, (yield item)
            except GeneratorExit:
                try:
                    with stepper:
                        await generator.aclose()
                except BaseException as error:
                    rest = self._end(frame, error)
                    if rest is not None:
                        raise rest from None
                self._end(frame)
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
        self._outer = innermost.get()
        innermost.set(self._inner)

    def __exit__(self, *_: object) -> None:
        self._inner = innermost.get()
        innermost.set(self._outer)
        self._outer = None


class budget(Scope[BudgetFrame | StandingFrame]):  # noqa: N801, used as a verb, like contextlib.suppress
    """A hard limit on what the calls inside may cost, tokens they may use, or their number.

    >>> from farebox import budget
    >>> with budget("search", usd="0.10", tokens=50_000, calls=20) as b:
    ...     b.remaining_usd
    Decimal('0.1')

    Args:
        name: A label for reports and errors.  Needed with `per=`: the account is kept under it.
        usd: USD, 0 or more; a float is read as what it prints.  Or several limits, by period: `{"day": 5, "month": 50}`.
        tokens: All input, cached too, and all output, reasoning too.  By period as well.
        calls: Calls, not attempts.  By period as well.
        per: Without it each entry of the scope has the full limit.  With it the budget is kept in the ledger, is shared by
            all that use that ledger, and starts again with each `"minute"`, `"hour"`, `"day"`, `"week"` (Monday) or `"month"`
            of `tz`; `"ever"` never does.  `"call"` is the same limit for every single call: it keeps no account and needs no
            name.  For the limits that name no period themselves.
        tz: The time zone whose days these are, such as `"Asia/Tokyo"`.  Another zone is another account.
        each: A tag, or up to four: an account for each value, `each="tenant"`.
        each_missing: A call without that tag is an `"error"`, or all such calls have one account, `"shared"`.
        where: Only calls with these tags, or this `model`, `provider` or `operation`, are held against it; a trailing `*`
            matches any ending: `{"model": "claude-opus-*"}`.
        on_exceed: What happens when a call does not fit: `"block"`, `"downgrade"`, `"clamp"`, `"wait"`, `"truncate"`,
            `"break"`, `"raise"`, `"warn"`, a mode object, or a callable.
        patience: Seconds to wait for calls in flight to settle when that would make room; 0 refuses at once.
        output_cap: At most so many output tokens per choice, whatever a call declares.
        input_bound: `"estimate"` of the input tokens, or `"bytes"`: the proven bound, and what has none is refused.
        on_unpriced: What to do with a model without a price under a usd limit: `"refuse"`, `"warn"`, or `"dearest"`, which
            prices it as the dearest model known.
        on_unmetered: What to do under a usd or tokens limit with a request that may be billed and that farebox can't meter:
            `"refuse"`, `"warn"` once per endpoint, or `"allow"`.  What is sent is counted, and its cost unknown.
        at: Rungs below the limit, lowest first: `{0.8: notify, 0.9: "downgrade"}`.  Once spent reaches that share, a
            callable is called with the `Threshold`, and a mode speaks from then on.
        mode_options: Of the mode: `downgrade={...}` or `[...]`, `timeout=` seconds of `"wait"`, `default=` of `"truncate"`.

    Raises:
        ValueError: a limit that is negative, NaN, infinite or missing, an unknown mode or option, a mode that can do nothing
            about these limits, a rung outside 0 to 1 or out of order, a downgrade that goes up in price or in a circle.  An
            unknown period or zone, a period and no name, a plain limit without `per=` beside one by period, `per=` where every
            limit names its own; `tz=`, `each=` or `where=` without a period; in `each=` more than four tags, none, one twice
            or a built-in dimension; in `where=` what is not known before a call is sent, or a `*` before the end.
        TypeError: a word of the wrong type.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        usd: UsdLimit | None = None,
        tokens: CountLimit | None = None,
        calls: CountLimit | None = None,
        per: Period | None = None,
        tz: str = "UTC",
        each: str | Sequence[str] | None = None,
        each_missing: EachMissing = "error",
        where: Mapping[str, str] | None = None,
        on_exceed: OnExceed = "block",
        patience: float = PATIENCE_SECONDS,
        output_cap: int | None = None,
        input_bound: InputBound = "estimate",
        on_unpriced: OnUnpriced = "refuse",
        on_unmetered: OnUnmetered = "refuse",
        at: Mapping[float, OnExceed | Callable[[Threshold], object]] | None = None,
        **mode_options: Any,
    ) -> None:
        self._budget = Budget.of(
            name,
            usd=usd,
            tokens=tokens,
            calls=calls,
            per=per,
            tz=tz,
            each=each,
            each_missing=each_missing,
            where=where,
            on_exceed=on_exceed,
            patience=patience,
            output_cap=output_cap,
            input_bound=input_bound,
            on_unpriced=on_unpriced,
            on_unmetered=on_unmetered,
            at=at,
            mode_options=mode_options,
        )
        self._budget.check_modes(_config.state().card)

    @property
    def budget_made(self) -> Budget:
        """What it limits and how."""
        return self._budget

    def _frame(self, parent: Frame | None) -> BudgetFrame | StandingFrame:
        if not _config.was_instrumented:
            _warn_not_instrumented(self._budget.name)
        if self._budget.is_standing:
            return StandingFrame(self, parent, self._budget)
        return BudgetFrame(self, parent, self._budget)

    def __repr__(self) -> str:
        return f"<budget {self._budget.name!r} on_exceed={self._budget.mode.name!r}>"


def _warn_not_instrumented(name: str) -> None:
    _config.was_instrumented = True  # once is enough
    warn(
        f"budget {name!r} was entered and no client is instrumented, so it sees no call; "
        "write farebox.instrument() before it",
        NotInstrumentedWarning,
    )


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
    parent, labels = innermost.get(), read_tags(tags)
    if parent is not None and parent.origin is _tagged:
        # Take the place of the last one: a worker that tags each request would hold on to them all.
        labels = MappingProxyType({**parent.tags, **labels})
        parent = parent.parent
    innermost.set(Frame(_tagged, parent, labels))


#: The origin of frames that `tag` links.
_tagged: Final = object()


def detach() -> None:
    """Leave all scopes for the rest of this context: for a long-lived worker that was started inside one."""
    innermost.set(None)


def open_frame(scopes: Iterable[Scope[Any]], outer: Frame | None) -> Frame | None:
    """A new frame of each of these scopes, one in the other, within `outer`: the innermost of them, or `outer` of none.

    For who opens and leaves scopes where no `with` can stand, as the hooks of a test runner.  It is in force once
    `go_on_in` says so.
    """
    for scope in scopes:
        outer = scope._frame(outer)
    return outer


def go_on_in(frame: Frame | None) -> None:
    """Have the rest of this context be in this frame, and in no other; None for none."""
    innermost.set(frame)


def current() -> Frame | None:
    """The innermost frame, or None outside of any scope."""
    return innermost.get()


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """Bind `function` to the scope of now, wherever it is run later: another thread, a pool, a callback."""
    if not callable(function):
        raise TypeError(f"carry({function!r}) got a {type(function).__name__}; pass a function")
    return cast(Callable[P, R], _Carried(innermost.get())(function))


class _Carried(Scope[Frame]):
    """The scope of an earlier moment, entered again: links nothing new."""

    def __init__(self, frame: Frame | None) -> None:
        self._bound = frame

    def _frame(self, parent: Frame | None) -> Frame:
        return self._bound  # type: ignore[return-value]
