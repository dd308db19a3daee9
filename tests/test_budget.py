"""What a budget is: every word of it is checked when it is made, and an error says what to write instead."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import farebox
from farebox import budget
from farebox._budget import show
from farebox.errors import BudgetWarning
from tests.strategies import MODEL, admit, finish, new_call, paid, price_the_model

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "a budget needs a limit; give usd=, tokens= or calls=, such as budget(usd='0.50')"),
        ({"name": "b"}, "a budget needs a limit"),
        ({"usd": None, "tokens": None, "calls": None}, "a budget needs a limit"),
        ({"usd": -1}, "usd=-1 is negative"),
        ({"usd": "-0.01"}, "usd=-0.01 is negative"),
        ({"usd": NAN}, "usd=nan is not finite; an amount is 0 or more, for no limit leave usd out"),
        ({"usd": INF}, "usd=inf is not finite"),
        ({"usd": -INF}, "usd=-inf is not finite"),
        ({"usd": "much"}, "usd='much' is not a number; write it as usd='0.50'"),
        ({"usd": Decimal("1e12")}, "usd=1E+12 is more than the 9223372036 USD an account can hold"),
        ({"tokens": -1}, "tokens=-1 is negative; a limit is 0 or more"),
        ({"tokens": NAN}, "tokens=nan is not finite; a limit is 0 or more, for no limit leave tokens out"),
        ({"tokens": INF}, "tokens=inf is not finite"),
        ({"tokens": 1.5}, "tokens=1.5 is not whole; write tokens=2"),
        ({"tokens": Decimal("0.1")}, "tokens=0.1 is not whole; write tokens=1"),
        ({"tokens": 2**63 - 1}, "tokens=9223372036854775807 is more than an account can hold (9223372036854775806)"),
        ({"calls": -3}, "calls=-3 is negative"),
        ({"calls": -INF}, "calls=-inf is not finite"),
        ({"calls": 2.5}, "calls=2.5 is not whole; write calls=3"),
        ({"usd": 1, "tokens": -1}, "tokens=-1 is negative"),
        ({"usd": 1, "patience": -1}, "patience=-1 seconds is no time to wait; give 0 (refuse at once) to 1000000000"),
        ({"usd": 1, "patience": NAN}, "patience=nan seconds is no time to wait"),
        ({"usd": 1, "patience": INF}, "patience=inf seconds is no time to wait"),
        (
            {"usd": 1, "on_exceed": "blok"},
            "on_exceed='blok' is no mode; choose from 'block', 'break', 'clamp', 'downgrade', 'raise', 'truncate', 'wait', 'warn', or pass a callable",
        ),
        ({"usd": 1, "on_exceed": ""}, "on_exceed='' is no mode; choose from"),
        (
            {"usd": 1, "BLOCK": True},
            "BLOCK=True is no option of a budget with on_exceed='block'; choose from name, usd, tokens, calls, per, tz, each, each_missing, where, on_exceed, patience, output_cap",
        ),
        ({"eur": 1}, "eur=1 is no option of a budget with on_exceed='block'; choose from name, usd,"),
    ],
    ids=repr,
)
def test_a_budget_that_cannot_be_is_refused_with_the_value_the_choices_and_the_line(
    words: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match="=") as caught:
        budget(**words)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"name": 5, "usd": 1}, "name=5 is a int; a budget's name is a string: budget('search', usd=1)"),
        ({"usd": True}, "usd=True is a bool; pass a number or a string such as usd='0.50'"),
        ({"usd": [1]}, "usd=[1] is a list"),
        ({"tokens": "100"}, "tokens='100' is a str; pass a whole number such as tokens=1000"),
        ({"calls": True}, "calls=True is a bool"),
        ({"calls": 1j}, "calls=1j is a complex"),
        ({"usd": 1, "patience": "30"}, "patience='30' is a str; pass seconds such as patience=30, 0 refuses at once"),
        ({"usd": 1, "patience": None}, "patience=None is a NoneType"),
        ({"usd": 1, "patience": True}, "patience=True is a bool"),
        ({"usd": 1, "on_exceed": None}, "on_exceed=None is a NoneType; pass a mode's name, a mode or a callable"),
        ({"usd": 1, "on_exceed": 3}, "on_exceed=3 is a int"),
        (
            {"usd": 1, "on_exceed": farebox.on_exceed.Block},
            "on_exceed=Block is a class; pass an object: on_exceed=Block()",
        ),
    ],
    ids=repr,
)
def test_a_word_of_the_wrong_type_is_a_type_error_that_says_what_to_pass(words: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match="=") as caught:
        budget(**words)
    assert str(caught.value).startswith(said)


def test_the_amount_alone_is_taken_for_a_name_and_the_error_says_so() -> None:
    with pytest.raises(TypeError, match=r"name=0\.5 is a float; a budget's name is a string"):
        budget(0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "words",
    [{"tokens": 10**400}, {"calls": 10**400}, {"usd": 1, "patience": 10**400}],
    ids=["tokens", "calls", "patience"],
)
def test_an_enormous_number_is_a_value_error_too(words: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="="):
        budget(**words)


def test_a_signalling_nan_is_named() -> None:
    with pytest.raises(ValueError, match="tokens=sNaN"):
        budget(tokens=Decimal("sNaN"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "words",
    [
        {"usd": 0},
        {"tokens": 0},
        {"calls": 0},
        {"usd": 0.5, "tokens": 10.0, "calls": Decimal(3)},
        {"usd": 1, "patience": 0},
    ],
    ids=repr,
)
def test_zero_and_whole_floats_are_limits(words: dict[str, Any]) -> None:
    assert budget(**words)


def test_a_budget_without_a_name_is_called_what_it_allows() -> None:
    assert repr(budget(usd=0.5, calls=3)) == "<budget '0.5 usd, 3 calls' on_exceed='block'>"
    assert repr(budget("", tokens=10)) == "<budget '10 tokens' on_exceed='block'>"


# What a limit means.


@given(st.integers(0, 12))
def test_as_many_calls_pass_as_the_limit_says(limit: int) -> None:
    passed = 0
    with budget("b", calls=limit) as b:
        for _ in range(limit + 3):
            try:
                paid(1)
                passed += 1
            except farebox.BudgetExceeded:
                pass
        assert (passed, b.spent_calls) == (limit, limit)


def test_a_call_may_take_exactly_what_is_left_and_not_a_nano_more() -> None:
    price_the_model()
    # A cap of 84 is held with 16 more: 100 tokens at 2,000 nanodollars.
    with budget("b", usd="0.0002"):
        finish(admit(new_call(cap=84)), outcome="failed")
    with budget("b", usd="0.000199999"), pytest.raises(farebox.BudgetExceeded):
        admit(new_call(cap=84))
    with budget("b", tokens=100):
        finish(admit(new_call(cap=84)), outcome="failed")
    with budget("b", tokens=99), pytest.raises(farebox.BudgetExceeded):
        admit(new_call(cap=84))


def test_of_several_units_the_first_to_run_short_speaks() -> None:
    price_the_model()
    with budget("b", usd=1, tokens=500, calls=9) as b:
        with pytest.raises(farebox.BudgetExceeded) as caught:
            admit(new_call(cap=1_000))
        assert (caught.value.unit, caught.value.limit, caught.value.needed) == ("tokens", 500, 1_016)
        assert b.reserved_calls == 0


def test_a_refusal_says_who_needed_what_and_what_there_was() -> None:
    price_the_model()
    with budget("outer", usd="0.001"), budget("inner", usd="0.01"):
        paid(0, 350)  # 0.0007 USD
        with pytest.raises(farebox.BudgetExceeded) as caught:
            admit(new_call(cap=184))  # 200 tokens, 0.0004 USD
    error = caught.value
    assert str(error).splitlines() == [
        "budget 'outer' (0.001 USD) needs 0.0004 USD for hand-priced but has 0.0003 USD remaining",
        "  scope: outer > inner; spent 0.0007 USD, reserved 0.00 USD; waiting is useless: a new scope starts with its full limit",
    ]
    assert (error.budget, error.scope, error.unit, error.kind) == ("outer", "outer > inner", "usd", "exhausted")
    assert (error.limit, error.spent, error.needed) == (Decimal("0.001"), Decimal("0.0007"), Decimal("0.0004"))
    assert (error.reserved, error.resets_at, error.response) == (0, None, None)


def test_a_call_larger_than_the_whole_limit_names_its_cap() -> None:
    price_the_model()
    with budget("b", usd="0.0001"), pytest.raises(farebox.BudgetExceeded) as caught:
        admit(new_call(cap=1_000))
    assert caught.value.kind == "oversized"
    assert "its output cap is 1000 tokens, declare a lower one or raise the limit" in str(caught.value)


def test_a_limit_of_no_calls_is_not_cured_by_a_lower_cap() -> None:
    with budget("b", calls=0), pytest.raises(farebox.BudgetExceeded) as caught:
        admit(new_call(cap=1_000))
    assert "output cap" not in str(caught.value)


def test_a_call_that_its_own_thread_stands_in_the_way_of_is_refused_at_once_as_contended() -> None:
    price_the_model()
    with budget("b", calls=1):
        admit(new_call())
        with pytest.raises(farebox.BudgetExceeded) as caught:
            admit(new_call())
    assert caught.value.kind == "contended"
    assert "finish or close the streams that are open" in str(caught.value)


def test_a_refused_call_is_a_row_and_costs_nothing() -> None:
    with budget("b", calls=0) as b, pytest.raises(farebox.BudgetExceeded):
        admit(new_call())
    (row,) = farebox.calls()
    assert (row.outcome, row.error_class, row.decision, row.usd) == ("refused", "BudgetExceeded", "stop", 0)
    assert [event.did for event in b.decisions] == ["stop"]
    assert farebox.report().total.refused_calls == 1


# Models without a price.


def test_an_unknown_model_under_a_usd_limit_is_refused_with_the_line_to_write() -> None:
    with budget("b", usd=1) as b, pytest.raises(farebox.errors.UnpricedModel) as caught:
        admit(new_call("my-own-llm"))
    error = caught.value
    assert "model 'my-own-llm' of openai has no price, and budget 'b' has a usd limit; nothing was sent" in str(error)
    assert "write: farebox.set_price('my-own-llm', input_per_million=..., output_per_million=...)" in str(error)
    assert (error.provider_name, error.model) == ("openai", "my-own-llm")
    assert (b.reserved_calls, b.spent_calls) == (0, 0)
    assert farebox.report().total.refused_calls == 1


def test_a_misspelt_model_is_answered_with_the_names_that_have_a_price() -> None:
    with budget("b", usd=1), pytest.raises(farebox.errors.UnpricedModel, match=r"priced and similar: .*gpt-4o-mini"):
        admit(new_call("gpt-4o-minni"))


@pytest.mark.parametrize("words", [{"calls": 5}, {"tokens": 100_000}, {"usd": 1, "on_exceed": "warn"}], ids=repr)
def test_an_unknown_model_passes_where_no_usd_limit_can_stop_it(
    words: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    name = f"unknown-{sorted(words)}"
    with budget("b", **words) as b:
        call = paid(10, 5, model=name)
        paid(10, 5, model=name)
    assert call.cost_usd is None
    assert b.spent_tokens == 30
    total = farebox.report().total
    assert (total.usd, total.unpriced_calls, total.calls) == (0, 2, 2)
    assert caplog.text.count("has no price: its calls are counted but not priced") == 1


def test_a_free_model_has_a_price_of_nothing() -> None:
    farebox.set_price("free", input_per_million=0, output_per_million=0)
    with budget("b", usd=0) as b:
        assert paid(1_000, 100, model="free").cost_usd == 0
        assert b.remaining_usd == 0
    assert farebox.report().total.unpriced_calls == 0


# Mode "warn".


def test_a_budget_that_warns_lets_everything_go_and_warns_once() -> None:
    with budget("b", calls=1, on_exceed="warn") as b:
        paid(1)
        with pytest.warns(BudgetWarning, match=rf"budget 'b' \(1 call\) may be passed by {MODEL}") as warned:
            paid(1)
        paid(1)
        assert b.spent_calls == 3
        assert [event.did for event in b.decisions] == ["proceed", "proceed"]
    assert len(warned) == 1


@pytest.mark.parametrize(
    ("unit", "amount", "shown"),
    [
        ("usd", 1_500_000, "0.0015 USD"),
        ("usd", 0, "0.00 USD"),
        ("calls", 1, "1 call"),
        ("calls", 0, "0 calls"),
        ("tokens", 5, "5 tokens"),
    ],
)
def test_amounts_are_shown_with_their_unit(unit: Any, amount: int, shown: str) -> None:
    assert show(unit, amount) == shown
