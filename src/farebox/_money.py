"""USD <-> integer nanodollars: the only place that rounds money.

Every ledger counts in integer nanodollars (1 USD = 1_000_000_000).  Prices per token are integer picodollars, so that a
price of 0.01 USD per million tokens is the whole number 10_000.  A charge is summed exactly in picodollars and rounded
once, upwards.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, InvalidOperation, Overflow
from typing import Final

NANOS_PER_USD: Final = 1_000_000_000
PICOS_PER_NANO: Final = 1_000

#: The largest amount an account can hold: what fits in a signed 64-bit integer, 9.2 billion USD.
MOST_NANOS: Final = 2**63 - 1

UsdLike = Decimal | int | float | str

# Our own context: the ambient one belongs to the program and may round to three digits.
_EXACT: Final = Context(prec=60, rounding=ROUND_CEILING)


def to_decimal(value: UsdLike, name: str = "usd") -> Decimal:
    """Read an amount as what it prints: the float 0.1 is Decimal("0.1").

    Raises:
        TypeError: `value` is no number or string.
        ValueError: it is negative, infinite, not a number, or more than an account can hold.
    """
    if isinstance(value, bool) or not isinstance(value, (Decimal, int, float, str)):
        raise TypeError(
            f"{name}={value!r} is a {type(value).__name__}; pass a number or a string such as {name}='0.50'"
        )
    try:
        amount = value if isinstance(value, Decimal) else _EXACT.create_decimal(str(value))
    except InvalidOperation:
        raise ValueError(f"{name}={value!r} is not a number; write it as {name}='0.50'") from None
    except Overflow:
        raise ValueError(f"{name}={value} is more than an account can hold") from None
    if not amount.is_finite():
        raise ValueError(f"{name}={value} is not finite; an amount is 0 or more, for no limit leave {name} out")
    if amount < 0:
        raise ValueError(f"{name}={value} is negative; an amount is 0 or more")
    if amount > MOST_NANOS // NANOS_PER_USD:
        raise ValueError(f"{name}={value} is more than the {MOST_NANOS // NANOS_PER_USD} USD an account can hold")
    return amount


def to_nanos(value: UsdLike, name: str = "usd") -> int:
    """Nanodollars of an amount of USD, rounded up."""
    scaled = _EXACT.multiply(to_decimal(value, name), Decimal(NANOS_PER_USD))
    return int(scaled.to_integral_value(rounding=ROUND_CEILING, context=_EXACT))


def to_signed_nanos(value: UsdLike, name: str = "usd") -> int:
    """Nanodollars of a change of an amount, which may be negative, rounded up: a cost is never made too small.

    Raises:
        TypeError, ValueError: as `to_decimal`, but for the sign.
    """
    text = str(value).strip()
    if isinstance(value, bool) or not text.startswith("-"):
        return to_nanos(value, name)
    scaled = _EXACT.multiply(to_decimal(text[1:], name), Decimal(NANOS_PER_USD))
    return -int(scaled.to_integral_value(rounding=ROUND_FLOOR, context=_EXACT))


def to_usd(nanos: int) -> Decimal:
    """USD of an amount of nanodollars, exactly, without trailing zeros."""
    usd = Decimal(nanos).scaleb(-9, context=_EXACT).normalize(context=_EXACT)
    return usd if usd.as_tuple().exponent <= 0 else usd.quantize(Decimal(1), context=_EXACT)  # type: ignore[operator]


def plus(*amounts: Decimal) -> Decimal:
    """The sum of amounts, exactly, whatever decimal context the program has set."""
    total = Decimal(0)
    for amount in amounts:
        total = _EXACT.add(total, amount)
    return total


def show_usd(nanos: int) -> str:
    """An amount for people: never an exponent, at least two decimals, no trailing zeros after them."""
    text = f"{to_usd(nanos):f}"
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals.ljust(2, '0')}"


def picos_to_nanos(picos: int) -> int:
    """Round a sum of picodollars up to nanodollars: the one rounding of a charge."""
    return -(-picos // PICOS_PER_NANO)
