"""Every error and warning farebox raises, drawn as a tree.

FareboxError
├── BudgetExceeded        a budget is short; the call was not sent
├── UnpricedModel         a model without a price, under a usd limit
├── UnboundedCall         a call whose use nobody can bound, under a limit that must bound it
├── UnmeteredCall         a request that may be billed and that farebox can't meter, under a limit in usd or tokens
├── MissingTag            a call without the tag that a budget keeps one account for each value of
├── LedgerUnavailable     a ledger that did not answer; nothing was sent
│   └── LedgerLost        a ledger that is not the one this process has worked with: emptied, replaced or restored
└── IncompatibleSDK       an SDK whose seams are not where they were; raised by instrument()

ScopeEnded                a budget in mode "truncate" leaves its scope; caught there, and by no `except Exception`

FareboxWarning
├── BudgetWarning         a budget in mode "warn" was passed
├── UnpricedWarning       a call was recorded without a price
├── UnmeteredWarning      a request that may be billed was sent, and farebox can't meter it
├── CutAnswerWarning      an answer ended at the output cap that farebox sent
└── NotInstrumentedWarning  a budget was entered, and no client is instrumented

None of them derives from an SDK's error, so no retry loop for provider errors catches a budget's stop.  All take their
message first and every field as a keyword with a default, because others do not survive pickling.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

Kind = Literal["exhausted", "contended", "oversized", "forked"]
Unit = Literal["usd", "tokens", "calls"]


class FareboxError(Exception):
    """Base of every error that farebox raises on purpose."""


class BudgetExceeded(FareboxError):
    """A call does not fit its budget.

    Attributes:
        budget: Name of the budget that is short.
        scope: Path of the scopes around the call, outermost first, such as `"nightly > summarise"`.
        unit: `"usd"`, `"tokens"` or `"calls"`; `limit`, `spent`, `reserved` and `needed` are in it.
        kind: `"exhausted"`: waiting is useless until the window turns.  `"contended"`: it would fit once calls in flight
            settle.  `"oversized"`: this call alone needs more than the whole limit.  `"forked"`: the scope was
            inherited by a forked child and can't be shared with it.
        resets_at: When the limit starts again (aware, UTC); None for a budget that ends with its scope.
        response: The response of the call that crossed the limit, where it was let cross; else None.
    """

    def __init__(
        self,
        message: str = "a budget is exceeded",
        *,
        budget: str = "",
        scope: str = "",
        unit: Unit = "usd",
        limit: Decimal | int = 0,
        spent: Decimal | int = 0,
        reserved: Decimal | int = 0,
        needed: Decimal | int = 0,
        kind: Kind = "exhausted",
        resets_at: datetime | None = None,
        response: Any = None,
    ) -> None:
        super().__init__(message)
        self.budget = budget
        self.scope = scope
        self.unit: Unit = unit
        self.limit = limit
        self.spent = spent
        self.reserved = reserved
        self.needed = needed
        self.kind: Kind = kind
        self.resets_at = resets_at
        self.response = response


class UnpricedModel(FareboxError):
    """A usd budget cannot bound a call to a model it knows no price of; nothing was sent."""

    def __init__(self, message: str = "a model has no price", *, provider_name: str = "", model: str = "") -> None:
        super().__init__(message)
        self.provider_name = provider_name
        self.model = model


class UnboundedCall(FareboxError):
    """A limit must bound what nobody can: a part of the input under `input_bound="bytes"`; nothing was sent.

    Attributes:
        what: The names of those parts, such as `("image_url",)`.
    """

    def __init__(
        self, message: str = "a call cannot be bounded", *, budget: str = "", what: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.budget = budget
        self.what = what


class UnmeteredCall(FareboxError):
    """A request may be billed, nobody here can read it, and a budget has a limit in usd or tokens; nothing was sent.

    Attributes:
        endpoint: The path of the request, `{id}` in place of what looks like one.
    """

    def __init__(
        self,
        message: str = "a call cannot be metered",
        *,
        budget: str = "",
        provider_name: str = "",
        endpoint: str = "",
    ) -> None:
        super().__init__(message)
        self.budget = budget
        self.provider_name = provider_name
        self.endpoint = endpoint


class ScopeEnded(BaseException):
    """Takes the program out of the scope of a budget in mode `"truncate"`.

    Seen by nobody but in a thread or task that outlives what it was started in.  It derives from BaseException, as
    `asyncio.CancelledError` does, so that no handler of errors on the way keeps the program inside.
    """

    def __init__(self, message: str = "a scope has ended", *, frame: Any = None, default: Any = None) -> None:
        super().__init__(message)
        self.frame = frame
        self.default = default


class MissingTag(FareboxError):
    """A call without the tag that a budget keeps one account for each value of; it was not sent."""

    def __init__(self, message: str = "a tag is missing", *, budget: str = "", tag: str = "") -> None:
        super().__init__(message)
        self.budget = budget
        self.tag = tag


class LedgerUnavailable(FareboxError):
    """A ledger did not answer, so nobody knows what is left; the call was not sent."""


class LedgerLost(LedgerUnavailable):
    """A ledger is not the one this process has worked with: it was emptied, replaced, or restored from a backup.

    What was spent is not known any more, so nothing is sent until `configure(ledger=...)` accepts it as it is.
    """


class IncompatibleSDK(FareboxError):
    """An SDK lacks a seam that `instrument()` needs; nothing was instrumented."""


class FareboxWarning(UserWarning):
    """Base of every warning."""


class BudgetWarning(FareboxWarning):
    """A budget in mode "warn" was passed; warned once per frame."""


class UnpricedWarning(FareboxWarning):
    """A call was recorded without a price; warned once per model."""


class UnmeteredWarning(FareboxWarning):
    """A request that may be billed was sent, and farebox can't meter it; warned once per endpoint."""


class CutAnswerWarning(FareboxWarning):
    """An answer ended at the output cap that farebox sent; warned once per budget."""


class NotInstrumentedWarning(FareboxWarning):
    """A budget was entered while no client is instrumented, so it sees no call; warned once."""
