"""How the words of `budget(...)` are read: each becomes a checked value, or an error with the line to write."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar, get_args

from farebox._call import DIMENSIONS
from farebox._money import MOST_NANOS, UsdLike, to_nanos
from farebox._windows import PERIODS, Period, read_period
from farebox.errors import Unit
from farebox.ledgers import NO_LIMIT
from farebox.on_exceed import Mode, OnExceed, mode_names, option_names

#: A limit: of usd, of tokens or calls; or several, by the period that each is for.
UsdLimit = UsdLike | Mapping[str, UsdLike]
CountLimit = int | Mapping[str, int]

InputBound = Literal["estimate", "bytes"]
OnUnpriced = Literal["refuse", "warn", "dearest"]
#: What becomes of a request that may be billed and that nobody here can meter.
OnUnmetered = Literal["refuse", "warn", "allow"]
#: What becomes of a call while the ledger does not answer.
OnLedgerError = Literal["closed", "open"]
EachMissing = Literal["error", "shared"]

#: A limit in each unit, `NO_LIMIT` where there is none: usd in nanodollars, tokens, calls.
Limits = tuple[int, int, int]

UNITS: Final[tuple[Unit, ...]] = ("usd", "tokens", "calls")

OPTIONS: Final = (
    "name",
    "usd",
    "tokens",
    "calls",
    "per",
    "tz",
    "each",
    "each_missing",
    "where",
    "on_exceed",
    "patience",
    "output_cap",
    "input_bound",
    "on_unpriced",
    "on_unmetered",
    "at",
)

_LONGEST_WAIT_SECONDS: Final = 10**9
_LARGEST_CAP: Final = 10_000_000
_MOST_EACH: Final = 4
#: What is known of a call before it is sent, and can be matched beside tags.
_MATCHED: Final = ("model", "provider", "operation")

C = TypeVar("C")


def check_options(on_exceed: OnExceed, mode_options: Mapping[str, Any]) -> None:
    """ValueError for a word that neither every budget has nor this mode."""
    own_options = option_names(on_exceed)
    for word, value in mode_options.items():
        if word not in own_options:
            owners = ", ".join(repr(name) for name in mode_names() if word in option_names(name))
            raise ValueError(
                f"{word}={value!r} is no option of a budget with on_exceed={on_exceed!r}"
                + (f", but of {owners}" if owners else "")
                + f"; choose from {', '.join((*OPTIONS, *own_options))}"
            )


def check_mode(word: str, mode: Mode, limits: Limits) -> None:
    """ValueError for a mode that can do nothing about these limits."""
    units = [unit for unit, limit in zip(UNITS, limits, strict=True) if limit != NO_LIMIT]
    if not set(units) & set(mode.units):
        raise ValueError(
            f"{word}={mode.name!r} can do nothing about a limit in {' and '.join(units)}; "
            f"give {' or '.join(f'{unit}=' for unit in mode.units)}, or choose another mode"
        )


# Limits and their periods.


def read_limits(given: Mapping[Unit, UsdLimit | CountLimit], per: Period | None) -> dict[Period | None, Limits]:
    """The limits of each period, the shortest period first; those of a budget without periods under None.

    Args:
        given: The limits as they were written, by unit.
        per: The period of those that name none.

    Raises:
        ValueError: no limit at all, one that is negative, not finite or not whole, an unknown period, a limit without a
            period beside one that has some, `per` where every limit names its own.
        TypeError: an amount that is no number.
    """
    if not given:
        raise ValueError("a budget needs a limit; give usd=, tokens= or calls=, such as budget(usd='0.50')")
    if per is not None:
        read_period(per)
    plain = {unit: limit for unit, limit in given.items() if not isinstance(limit, Mapping)}
    if per is None and plain and len(plain) < len(given):
        said = _show_words(plain)
        raise ValueError(
            f"{said} has no period and another limit of this budget has; write {said}, per='day', or name the period as well"
        )
    if per is not None and not plain:
        raise ValueError(f"per={per!r} is for no limit: each names its own period here; leave per out")
    by_period: dict[Period | None, dict[Unit, int]] = {}
    for unit, limit in given.items():
        if not isinstance(limit, Mapping):
            by_period.setdefault(per, {})[unit] = _amount(unit, limit, unit)
            continue
        if not limit:
            raise ValueError(f"{unit}={limit!r} holds no limit; write one for each period: {unit}={{'day': 100}}")
        for word, amount in limit.items():
            period = read_period(word, f"{unit}={{{word!r}: ...}}")
            by_period.setdefault(period, {})[unit] = _amount(unit, amount, f"{unit}[{word!r}]")
    order: tuple[Period | None, ...] = (None, *PERIODS)
    return {period: _limits(by_period[period]) for period in order if period in by_period}


def _limits(amounts: Mapping[Unit, int]) -> Limits:
    return (amounts.get("usd", NO_LIMIT), amounts.get("tokens", NO_LIMIT), amounts.get("calls", NO_LIMIT))


def _amount(unit: Unit, value: Any, said: str) -> int:
    return to_nanos(value, said) if unit == "usd" else _whole(said, value)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; pass a whole number such as {name}=1000")
    if not is_finite(value):
        raise ValueError(f"{name}={value} is not finite; a limit is 0 or more, for no limit leave {name} out")
    if value < 0:
        raise ValueError(f"{name}={value} is negative; a limit is 0 or more")
    if value >= MOST_NANOS:  # before it is made an int: Decimal("1e999999999") would fill the memory
        raise ValueError(f"{name}={value} is more than an account can hold ({MOST_NANOS - 1})")
    if value != int(value):
        raise ValueError(f"{name}={value} is not whole; write {name}={math.ceil(value)}")
    return int(value)


def read_name(name: str | None, given: Mapping[Unit, UsdLimit | CountLimit], periods: Sequence[Period]) -> str:
    """The name of a budget; one that keeps no account may have none, and is then called what it allows."""
    if name:
        return name
    if any(period != "call" for period in periods):
        words = _show_words(given)
        if not any(isinstance(limit, Mapping) for limit in given.values()):
            words += f", per={periods[0]!r}"
        raise ValueError(
            f"a budget with a period needs a name, which its account is kept under; write budget('org', {words})"
        )
    amounts = {unit: limit["call"] if isinstance(limit, Mapping) else limit for unit, limit in given.items()}
    return ", ".join(f"{amount} {unit}" for unit, amount in amounts.items()) + (" per call" if periods else "")


def _show_words(words: Mapping[Any, object]) -> str:
    """Options as they are written in a program."""
    return ", ".join(f"{word}={value!r}" for word, value in words.items())


# What only a budget with a period has.


def refuse_without_period(*, tz: object, each: object, each_missing: object, where: object) -> None:
    """ValueError for the first of these that was given, to a budget without a period."""
    given = {"tz": (tz, "UTC"), "each": (each, None), "each_missing": (each_missing, "error"), "where": (where, None)}
    for word, (value, default) in given.items():
        if value != default:
            said = f"{word}={value!r}"
            raise ValueError(
                f"{said} needs per=, without which each scope has the whole limit to itself; "
                f"write budget('org', usd=100, per='day', {said})"
            )


def read_each(each: str | Sequence[Any] | None, each_missing: EachMissing) -> tuple[str, ...]:
    """The names of the tags that each have an account per value.

    Raises:
        ValueError: no name, more than four, one twice, one of a built-in dimension, `each_missing` without `each`.
        TypeError: no string and no sequence of strings.
    """
    choice("each_missing", each_missing, get_args(EachMissing))
    if each is None:
        if each_missing != "error":
            raise ValueError(f"each_missing={each_missing!r} needs each=, the tags that may be missing: each='tenant'")
        return ()
    said = f"each={each!r}"
    if not isinstance(each, Sequence):
        raise TypeError(f"{said} is a {type(each).__name__}; write a tag or a list of tags: each='tenant'")
    names = (each,) if isinstance(each, str) else tuple(each)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{said} holds a {type(name).__name__}; a tag's name is a string: each='tenant'")
        if name in DIMENSIONS:
            raise ValueError(
                f"{said} can't have an account per {name}, which is no tag; tag the calls with another name, or use where="
            )
        if name in UNITS:
            raise ValueError(
                f"{said}: {name} is a word of set_limit() and top_up(), which choose accounts by tag; use another"
            )
    if not 1 <= len(names) <= _MOST_EACH or not all(names):
        raise ValueError(f"{said} is no list of tags; name 1 to {_MOST_EACH} of them: each=['tenant', 'user_id']")
    if len(set(names)) != len(names):
        raise ValueError(f"{said} names a tag twice; name each once")
    return names


def read_where(where: Mapping[Any, Any] | None) -> Mapping[str, str]:
    """Which calls a budget is about: a pattern for a tag or for what is known of a call when it starts.  Read-only.

    Raises:
        ValueError: a dimension that is not known yet then, a `*` that is not at the end.
        TypeError: no mapping of strings to strings.
    """
    if where is None:
        return MappingProxyType({})
    if not isinstance(where, Mapping):
        raise TypeError(f"where={where!r} is a {type(where).__name__}; write where={{'model': 'claude-opus-*'}}")
    for name, pattern in where.items():
        said = f"where={{{name!r}: {pattern!r}}}"
        if not isinstance(name, str) or not isinstance(pattern, str):
            wrong = pattern if isinstance(name, str) else name
            raise TypeError(
                f"{said} holds a {type(wrong).__name__}; write names and patterns as strings: where={{'tenant': 'acme'}}"
            )
        if not name or (name in DIMENSIONS and name not in _MATCHED):
            raise ValueError(f"{said} can't be asked of a call that starts; choose {', '.join(_MATCHED)} or a tag")
        if "*" in pattern[:-1]:
            raise ValueError(f"{said} has a * before its end, where it stands for nothing; end with it or leave it out")
    return MappingProxyType(dict(where))


# Single words.


def read_seconds(name: str, value: float) -> float:
    """A time to wait."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name}={value!r} is a {type(value).__name__}; pass seconds such as {name}=30, 0 refuses at once"
        )
    if not is_finite(value) or not 0 <= value <= _LONGEST_WAIT_SECONDS:
        raise ValueError(
            f"{name}={value} seconds is no time to wait; give 0 (refuse at once) to {_LONGEST_WAIT_SECONDS}"
        )
    return float(value)


def read_cap(name: str, value: int | None) -> int:
    """An output cap in tokens; `NO_LIMIT` for None."""
    if value is None:
        return NO_LIMIT
    if type(value) is not int:
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; pass output tokens such as {name}=1000")
    if not 1 <= value <= _LARGEST_CAP:
        raise ValueError(f"{name}={value} is no output cap; give 1 to {_LARGEST_CAP} tokens")
    return value


def choice(name: str, value: C, choices: tuple[C, ...]) -> C:
    """The value, if it is one of these."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; choose from {', '.join(map(repr, choices))}")
    return value


def is_finite(value: float | Decimal) -> bool:
    """Whether a number has a size; an int too large for a float has one."""
    if isinstance(value, Decimal):
        return value.is_finite()
    return isinstance(value, int) or math.isfinite(value)
