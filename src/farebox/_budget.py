"""What a budget is: a name, a limit per unit, a mode and what else it asks of calls.  Where it applies is `_scope`, what it
holds is a ledger's."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final, Literal

import attrs

from farebox._money import MOST_NANOS, UsdLike, show_usd, to_nanos, to_usd
from farebox.errors import Unit
from farebox.ledgers import NO_LIMIT, Account
from farebox.on_exceed import Mode, OnExceed, Threshold, mode_names, option_names, read_mode

#: How long a call waits for calls in flight to settle, in seconds.
PATIENCE_SECONDS: Final = 30.0
_LONGEST_WAIT_SECONDS: Final = 10**9
_LARGEST_CAP: Final = 10_000_000

InputBound = Literal["estimate", "bytes"]
OnUnpriced = Literal["refuse", "warn", "dearest"]


@attrs.frozen(eq=False)
class Rung:
    """A share of the limit, what spent must reach in each unit, and who is to speak or to be told.

    `thresholds` are in the order usd (nanodollars), tokens, calls; None where there is no such limit.
    """

    share: float
    thresholds: tuple[int | None, ...]
    mode: Mode | None
    notify: Callable[[Threshold], Any] | None


@attrs.frozen(kw_only=True, eq=False)
class Budget:
    """Limits and what to do about them.  `NO_LIMIT` where a unit has none."""

    name: str
    limit_usd_nanos: int
    limit_tokens: int
    limit_calls: int
    mode: Mode
    patience_seconds: float
    #: At most so many output tokens per choice; `NO_LIMIT` where the budget does not say.
    output_cap: int = NO_LIMIT
    #: Whether input is bounded by proof instead of by estimate.
    proves_input: bool = False
    on_unpriced: OnUnpriced = "refuse"
    rungs: tuple[Rung, ...] = ()

    @classmethod
    def of(
        cls,
        name: str | None,
        *,
        usd: UsdLike | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        on_exceed: OnExceed = "block",
        patience: float = PATIENCE_SECONDS,
        output_cap: int | None = None,
        input_bound: InputBound = "estimate",
        on_unpriced: OnUnpriced = "refuse",
        at: Mapping[float, OnExceed | Callable[[Threshold], object]] | None = None,
        mode_options: Mapping[str, Any] | None = None,
    ) -> Budget:
        """Check every word of a budget when it is made.

        Raises:
            ValueError: an unknown option, no limit at all, a limit that is negative, not finite or not whole, a mode that
                can do nothing about these limits, a rung outside 0 to 1 or out of order.
            TypeError: a word of the wrong type.
        """
        if name is not None and not isinstance(name, str):
            raise TypeError(
                f"name={name!r} is a {type(name).__name__}; a budget's name is a string: budget('search', usd=1)"
            )
        if mode_options:
            _check_options(on_exceed, mode_options)
        if usd is None and tokens is None and calls is None:
            raise ValueError("a budget needs a limit; give usd=, tokens= or calls=, such as budget(usd='0.50')")
        limits = (NO_LIMIT if usd is None else to_nanos(usd, "usd"), _whole("tokens", tokens), _whole("calls", calls))
        mode = read_mode(on_exceed, mode_options)
        _check_mode("on_exceed", mode, limits)
        return cls(
            name=name or _default_name(usd, tokens, calls),
            limit_usd_nanos=limits[0],
            limit_tokens=limits[1],
            limit_calls=limits[2],
            mode=mode,
            patience_seconds=_seconds("patience", patience),
            output_cap=_cap("output_cap", output_cap),
            proves_input=_choice("input_bound", input_bound, ("estimate", "bytes")) == "bytes",
            on_unpriced=_choice("on_unpriced", on_unpriced, ("refuse", "warn", "dearest")),
            rungs=_rungs(at, limits),
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


_OPTIONS: Final = (
    "name",
    "usd",
    "tokens",
    "calls",
    "on_exceed",
    "patience",
    "output_cap",
    "input_bound",
    "on_unpriced",
    "at",
)


def _check_options(on_exceed: OnExceed, mode_options: Mapping[str, Any]) -> None:
    own_options = option_names(on_exceed)
    for word, value in mode_options.items():
        if word not in own_options:
            owners = ", ".join(repr(name) for name in mode_names() if word in option_names(name))
            raise ValueError(
                f"{word}={value!r} is no option of a budget with on_exceed={on_exceed!r}"
                + (f", but of {owners}" if owners else "")
                + f"; choose from {', '.join((*_OPTIONS, *own_options))}"
            )


def _check_mode(word: str, mode: Mode, limits: tuple[int, ...]) -> None:
    units = [unit for unit, limit in zip(_UNITS, limits, strict=True) if limit != NO_LIMIT]
    if not set(units) & set(mode.units):
        raise ValueError(
            f"{word}={mode.name!r} can do nothing about a limit in {' and '.join(units)}; "
            f"give {' or '.join(f'{unit}=' for unit in mode.units)}, or choose another mode"
        )


_UNITS: Final[tuple[Unit, ...]] = ("usd", "tokens", "calls")


def _rungs(
    at: Mapping[float, OnExceed | Callable[[Threshold], object]] | None, limits: tuple[int, ...]
) -> tuple[Rung, ...]:
    if at is None:
        return ()
    if not isinstance(at, Mapping):
        raise TypeError(
            f"at={at!r} is a {type(at).__name__}; pass shares of the limit: at={{0.8: notify, 0.9: 'downgrade'}}"
        )
    rungs: list[Rung] = []
    for share, action in at.items():
        if isinstance(share, bool) or not isinstance(share, (int, float, Decimal)):
            raise TypeError(
                f"at={{{share!r}: ...}} is a {type(share).__name__}; a rung is a share of the limit such as 0.8"
            )
        if not _is_finite(share) or not 0 < share <= 1:
            raise ValueError(f"at={{{share}: ...}} is no rung; it is a share of the limit, above 0 and up to 1")
        if rungs and share <= rungs[-1].share:
            raise ValueError(
                f"at={{{rungs[-1].share}: ..., {share}: ...}} is out of order; write the lowest rung first"
            )
        said = f"at={{{share}: ...}}"
        if inspect.iscoroutinefunction(action):
            raise TypeError(f"{said} is an async function, and nobody would await it; pass a plain one")
        mode = None if callable(action) and not isinstance(action, (Mode, type)) else read_mode(action, said=said)
        if mode is not None:
            _check_mode(said, mode, limits)
            if not mode.at_rungs:
                raise ValueError(
                    f"{said}={mode.name!r} can do nothing below the limit; choose block, downgrade, truncate or warn, "
                    "or a callable to be told"
                )
        exact = Decimal(str(share))
        thresholds = tuple(
            None if limit == NO_LIMIT or not limit else int((exact * limit).to_integral_value(ROUND_CEILING))
            for limit in limits
        )
        rungs.append(Rung(float(share), thresholds, mode, action if mode is None else None))  # type: ignore[arg-type]
    return tuple(rungs)


def _cap(name: str, value: int | None) -> int:
    if value is None:
        return NO_LIMIT
    if type(value) is not int:
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; pass output tokens such as {name}=1000")
    if not 1 <= value <= _LARGEST_CAP:
        raise ValueError(f"{name}={value} is no output cap; give 1 to {_LARGEST_CAP} tokens")
    return value


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> Any:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; choose from {', '.join(map(repr, choices))}")
    return value
