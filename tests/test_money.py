"""Money at the edge: read as what it prints, held in whole nanodollars, rounded once and upwards."""

from __future__ import annotations

import decimal
from decimal import ROUND_DOWN, Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox._money import MOST_NANOS, picos_to_nanos, show_usd, to_decimal, to_nanos, to_usd
from tests.strategies import nanos, usd_amounts

NANO = Fraction(1, 10**9)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1, 100_000_000),
        (0.1 + 0.2, 300_000_001),  # prints 0.30000000000000004
        (1e-9, 1),
        (1e-10, 1),
        (0.000_000_001_1, 2),
        ("0.50", 500_000_000),
        (1_000, 1_000_000_000_000),
        ("1e-3", 1_000_000),
        (Decimal("0.05"), 50_000_000),
        (3, 3_000_000_000),
        (0, 0),
        (-0.0, 0),
        (9_223_372_036, 9_223_372_036_000_000_000),
    ],
)
def test_an_amount_is_read_as_what_it_prints(value: Any, expected: int) -> None:
    assert to_nanos(value) == expected


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "usd=nan is not finite"),
        (float("inf"), "usd=inf is not finite"),
        (float("-inf"), "usd=-inf is not finite"),
        ("NaN", "usd=NaN is not finite"),
        ("Infinity", "usd=Infinity is not finite"),
        (Decimal("NaN"), "usd=NaN is not finite"),
        (Decimal("sNaN"), "usd=sNaN is not finite"),
        (-1, "usd=-1 is negative"),
        (-1e-12, "usd=-1e-12 is negative"),
        ("-0.01", "usd=-0.01 is negative"),
        (Decimal(-5), "usd=-5 is negative"),
        ("a lot", "usd='a lot' is not a number"),
        ("", "usd='' is not a number"),
        ("1_000", "usd='1_000' is not a number"),
        ("1,5", "usd='1,5' is not a number"),
        ("$5", "usd='$5' is not a number"),
        (9_223_372_037, "usd=9223372037 is more than the 9223372036 USD an account can hold"),
        (1e300, "usd=1e+300 is more than"),
        (Decimal("1e999999"), "usd=1E+999999 is more than"),
    ],
)
def test_what_is_no_amount_is_a_value_error_that_names_it(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match="usd=") as caught:
        to_nanos(value)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("value", ["1e9999999", "1e99999999999999999999", "-1e9999999"])
def test_an_amount_with_an_absurd_exponent_is_a_value_error_too(value: str) -> None:
    with pytest.raises(ValueError, match="usd="):
        to_nanos(value)


@pytest.mark.parametrize("value", [True, False, None, [1], {"usd": 1}, b"1", 1j, object()])
def test_what_is_no_number_is_a_type_error_that_says_what_to_pass(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"usd=.* is a {type(value).__name__}; pass a number or a string"):
        to_nanos(value)


def test_an_error_names_the_parameter_that_it_was_given_as() -> None:
    with pytest.raises(ValueError, match="input_per_million=-1 is negative"):
        to_decimal(-1, "input_per_million")


@given(usd_amounts)
def test_nanos_never_lose_money_and_gain_less_than_one(value: Any) -> None:
    exact = Fraction(str(value)) if isinstance(value, float) else Fraction(value)
    held = Fraction(to_nanos(value), 10**9)
    assert exact <= held < exact + NANO
    assert Fraction(to_usd(to_nanos(value))) == held


@pytest.mark.parametrize("value", ["1." + "0" * 70 + "1", Decimal("1." + "0" * 70 + "1"), "1e-1999999"])
def test_not_even_an_amount_of_seventy_digits_loses_money(value: Any) -> None:
    assert to_nanos(value) == (1_000_000_001 if str(value).startswith("1.") else 1)


@given(nanos)
def test_a_trip_to_usd_and_back_is_exact(amount: int) -> None:
    assert to_nanos(to_usd(amount)) == amount
    assert to_nanos(str(to_usd(amount))) == amount
    assert to_nanos(show_usd(amount)) == amount


@given(st.integers(0, MOST_NANOS))
def test_usd_are_exact_and_plain_over_the_whole_range(amount: int) -> None:
    usd = to_usd(amount)
    assert Fraction(usd) == Fraction(amount, 10**9)
    assert "E+" not in str(usd)
    assert not (f"{usd:f}".endswith("0") and "." in f"{usd:f}")


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "0.00"),
        (1, "0.000000001"),
        (10, "0.00000001"),
        (100_000_000, "0.10"),
        (123_000_000, "0.123"),
        (1_000_000_000, "1.00"),
        (1_500_000_000, "1.50"),
        (10_000_000_000_000, "10000.00"),
        (MOST_NANOS, "9223372036.854775807"),
    ],
)
def test_people_see_two_decimals_at_least_and_no_exponent(amount: int, shown: str) -> None:
    assert show_usd(amount) == shown


@pytest.mark.parametrize(
    ("picos", "expected"), [(0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (10**15 + 1, 10**12 + 1)]
)
def test_a_charge_is_rounded_up_once(picos: int, expected: int) -> None:
    assert picos_to_nanos(picos) == expected


@given(st.integers(0, 10**24))
def test_rounding_a_charge_gains_less_than_a_nano(picos: int) -> None:
    assert picos <= picos_to_nanos(picos) * 1_000 < picos + 1_000


@given(usd_amounts)
def test_the_ambient_decimal_context_changes_nothing(value: Any) -> None:
    expected = to_nanos(value)
    usd, shown = to_usd(expected), show_usd(expected)
    with localcontext(prec=3, rounding=ROUND_DOWN, Emax=5, Emin=-5) as context:
        context.traps[decimal.Inexact] = True
        context.traps[decimal.FloatOperation] = True
        assert to_nanos(value) == expected
        assert str(to_usd(expected)) == str(usd)
        assert show_usd(expected) == shown
