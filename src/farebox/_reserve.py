"""reserve(): money held for what no SDK sees, such as a paid tool or another transport, under the same budgets."""

from __future__ import annotations

from types import TracebackType

from farebox import signals
from farebox._call import Call, Usage
from farebox._money import UsdLike, to_nanos
from farebox._scope import track


class Hold:
    """What `reserve` returns: holds on entry, and is settled, released, or charged in full when its block is left.

    >>> import farebox
    >>> with farebox.budget(usd=1) as b, farebox.reserve(usd="0.20", tool="search") as hold:
    ...     hold.settle(usd="0.13")
    >>> b.spent_usd
    Decimal('0.13')
    """

    def __init__(self, call: Call, tags: dict[str, object]) -> None:
        self._call = call
        self._tags = tags
        self._is_entered = False

    def _begin(self) -> None:
        if self._is_entered:
            raise RuntimeError("this hold was entered before; reserve(...) anew for each use")
        self._is_entered = True

    def __enter__(self) -> Hold:
        self._begin()
        try:
            with track(**self._tags):
                signals.pre_call.publish(self._call)
        except BaseException as error:
            self._undo(error)
            raise
        return self

    async def __aenter__(self) -> Hold:
        self._begin()
        self._call.is_async = True
        try:
            with track(**self._tags):
                waiting = signals.pre_call.publish_async(self._call)
                if waiting is not None:
                    await waiting
        except BaseException as error:
            self._undo(error)
            raise
        return self

    def _undo(self, error: BaseException) -> None:
        """Entering was stopped: by a receiver, by a cancellation, or by a budget, which has seen to it itself."""
        call = self._call
        if call.outcome != "open":
            return
        call.outcome, call.error_class = "vetoed", type(error).__name__
        if isinstance(error, GeneratorExit):
            signals.settle_late(call)  # collected while it waited, maybe in the middle of a ledger's operation
        else:
            signals.post_call.publish(call)

    def settle(self, *, usd: UsdLike = 0, tokens: int = 0) -> None:
        """Charge what it came to: USD, and tokens where a budget counts them.  Once: what is settled stays so.

        Raises:
            ValueError: an amount that is negative or not finite, tokens that are no whole number.
            BudgetExceeded: it was let past a limit by a budget in mode `"raise"`.
        """
        usd_nanos, used = to_nanos(usd, "usd"), _tokens(tokens)
        if not self._is_entered:
            raise RuntimeError("nothing is held yet; settle inside of `with reserve(...) as hold:`")
        call = self._call
        if call.outcome == "open":
            call.outcome = "completed"
            call.known_usd_nanos = usd_nanos
            call.usage = Usage(uncached_input_tokens=used)
            signals.post_call.publish(call)
            if call.raises is not None:
                raise call.raises

    def release(self) -> None:
        """Nothing was billed: give everything back."""
        if self._call.outcome == "open":
            self._call.outcome = "failed"
            signals.post_call.publish(self._call)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Nobody said what it came to: presumed spent.
        if self._call.outcome == "open":
            self._call.outcome = "unknown"
            self._call.error_class = "" if error is None else type(error).__name__
            signals.post_call.publish(self._call)
            if error is None and self._call.raises is not None:
                raise self._call.raises

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


def reserve(
    *, usd: UsdLike = 0, tokens: int = 0, provider: str = "", operation: str = "execute_tool", **tags: object
) -> Hold:
    """Hold an amount against every budget in scope; use it with `with` or `async with`.

    Entering waits, is refused or goes past a limit as the budgets say, as a call of an SDK does.

    Args:
        usd: USD that it costs at most.
        tokens: Tokens that it uses at most.
        provider: Who bills, for reports.
        operation: OpenTelemetry's name of what is done.
        tags: Labels for reports, such as `tool="search"`.

    Raises:
        ValueError: an amount that is negative or not finite, tokens that are no whole number.
    """
    call = Call(provider_name=provider, operation_name=operation, endpoint="", request_model="")
    call.fixed_usd_nanos, call.fixed_tokens = to_nanos(usd, "usd"), _tokens(tokens)
    call.is_fixed = True
    call.choices = 0
    call.accepts_cap = False
    return Hold(call, tags)


def _tokens(tokens: int) -> int:
    if type(tokens) is not int or tokens < 0:
        raise ValueError(f"tokens={tokens!r} is no count; give a whole number, 0 or more")
    return tokens
