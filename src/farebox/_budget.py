"""What a budget is: a name, a limit per unit, and a mode.  Where it applies is `_scope`, what it holds is a ledger's."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any, Final

import attrs

from farebox._money import MOST_NANOS, UsdLike, show_usd, to_nanos, to_usd
from farebox.errors import Unit
from farebox.ledgers import NO_LIMIT, Account
from farebox.on_exceed import Mode, OnExceed, read_mode

#: How long a call waits for calls in flight to settle, in seconds.
PATIENCE_SECONDS: Final = 30.0
_LONGEST_WAIT_SECONDS: Final = 10**9


@attrs.frozen(kw_only=True, eq=False)
class Budget:
    """Limits and what to do about them.  `NO_LIMIT` where a unit has none."""

    name: str
    limit_usd_nanos: int
    limit_tokens: int
    limit_calls: int
    mode: Mode
    patience_seconds: float

    @classmethod
    def of(
        cls,
        name: str | None,
        *,
        usd: UsdLike | None,
        tokens: int | None,
        calls: int | None,
        on_exceed: OnExceed,
        patience: float,
        unknown: dict[str, Any],
    ) -> Budget:
        """Check every word of a budget when it is made.

        Raises:
            ValueError: an unknown option, no limit at all, a limit that is negative, not finite or not whole.
            TypeError: a word of the wrong type.
        """
        if unknown:
            word, value = next(iter(unknown.items()))
            raise ValueError(
                f"{word}={value!r} is no option of a budget; choose from name, usd, tokens, calls, on_exceed, patience"
            )
        if name is not None and not isinstance(name, str):
            raise TypeError(
                f"name={name!r} is a {type(name).__name__}; a budget's name is a string: budget('search', usd=1)"
            )
        if usd is None and tokens is None and calls is None:
            raise ValueError("a budget needs a limit; give usd=, tokens= or calls=, such as budget(usd='0.50')")
        return cls(
            name=name or _default_name(usd, tokens, calls),
            limit_usd_nanos=NO_LIMIT if usd is None else to_nanos(usd, "usd"),
            limit_tokens=_whole("tokens", tokens),
            limit_calls=_whole("calls", calls),
            mode=read_mode(on_exceed),
            patience_seconds=_seconds("patience", patience),
        )

    def account(self, key: Any) -> Account:
        """The ledger key that one frame of this budget is kept under."""
        return Account(key, self.name, self.limit_usd_nanos, self.limit_tokens, self.limit_calls)


def in_unit(unit: Unit, amount: int) -> Decimal | int:
    """An amount of the ledger as people read it: Decimal USD, or whole tokens or calls."""
    return to_usd(amount) if unit == "usd" else amount


def show(unit: Unit, amount: int) -> str:
    """An amount of the ledger with its unit, for messages."""
    if unit == "usd":
        return f"{show_usd(amount)} USD"
    return f"{amount} {unit if amount != 1 else unit.removesuffix('s')}"


def _default_name(usd: UsdLike | None, tokens: int | None, calls: int | None) -> str:
    parts = [f"{usd} usd"] if usd is not None else []
    parts += [f"{tokens} tokens"] if tokens is not None else []
    parts += [f"{calls} calls"] if calls is not None else []
    return ", ".join(parts)


def _whole(name: str, value: int | None) -> int:
    if value is None:
        return NO_LIMIT
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; pass a whole number such as {name}=1000")
    if not _is_finite(value):
        raise ValueError(f"{name}={value} is not finite; a limit is 0 or more, for no limit leave {name} out")
    if value < 0:
        raise ValueError(f"{name}={value} is negative; a limit is 0 or more")
    if value != int(value):
        raise ValueError(f"{name}={value} is not whole; write {name}={math.ceil(value)}")
    if value >= MOST_NANOS:
        raise ValueError(f"{name}={value} is more than an account can hold ({MOST_NANOS - 1})")
    return int(value)


def _is_finite(value: float | Decimal) -> bool:
    if isinstance(value, Decimal):
        return value.is_finite()
    return isinstance(value, int) or math.isfinite(value)


def _seconds(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name}={value!r} is a {type(value).__name__}; pass seconds such as {name}=30, 0 refuses at once"
        )
    if not _is_finite(value) or not 0 <= value <= _LONGEST_WAIT_SECONDS:
        raise ValueError(
            f"{name}={value} seconds is no time to wait; give 0 (refuse at once) to {_LONGEST_WAIT_SECONDS}"
        )
    return float(value)
