"""A model without a price under a usd limit: refused by name, let go with a warning, or bounded as the dearest."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, report
from farebox.errors import UnpricedModel, UnpricedWarning
from farebox.testing import FakeProvider, Price
from tests.acceptance.rides import Ride, bound_of, nothing_is_left

pytestmark = pytest.mark.usefixtures("metered")


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(prices={"our-own-llm": Price(input=1, output=2)}) as provider:
        yield provider


def test_it_is_refused_and_the_line_to_write_is_named(ride: Ride, provider: Any, client: Any) -> None:
    for words in ({}, {"on_unpriced": "refuse"}):
        with budget("b", usd=1, **words), pytest.raises(UnpricedModel, match=r"set_price\('our-own-llm'"):
            ride.ask(client, model="our-own-llm")
    assert not provider.requests
    assert report().total.refused_calls == 2


def test_with_warn_it_goes_and_is_counted_without_a_cost(ride: Ride, provider: Any, client: Any) -> None:
    from farebox import _speak

    _speak._warned_unpriced.clear()
    with warnings.catch_warnings(record=True) as warned, budget(usd="0.000001", on_unpriced="warn") as b:
        warnings.simplefilter("always")
        for _ in range(2):
            ride.ask(client, model="our-own-llm")
    assert [warning.category for warning in warned] == [UnpricedWarning]
    assert (b.spent_usd, b.spent_calls, report().total.unpriced_calls) == (0, 2, 2)
    assert b.spent_tokens == provider.bill.tokens
    assert [record.usd for record in farebox.calls()] == [None, None]


def test_with_dearest_it_is_held_and_charged_as_the_dearest_model_known(ride: Ride, provider: Any, client: Any) -> None:
    with budget(usd=1, on_unpriced="dearest") as b:
        ride.ask(client, model="our-own-llm")
    (record,) = farebox.calls()
    assert record.bound_usd * 10**9 > bound_of(ride).usd_nanos
    assert b.spent_usd > provider.bill.usd
    assert record.usd == b.spent_usd
    with budget(usd=b.spent_usd / 2, on_unpriced="dearest"), pytest.raises(BudgetExceeded):
        ride.ask(client, model="our-own-llm")
    assert len(provider.requests) == 1
    nothing_is_left()


def test_of_nested_budgets_the_strictest_is_heard(ride: Ride, provider: Any, client: Any) -> None:
    with budget("strict", usd=1), budget(usd=1, on_unpriced="warn"), pytest.raises(UnpricedModel, match="strict"):
        ride.ask(client, model="our-own-llm")
    with budget(usd=1, on_unpriced="warn"), budget(usd=1, on_unpriced="dearest") as b:
        ride.ask(client, model="our-own-llm")
    assert b.spent_usd > 0
    assert len(provider.requests) == 1


def test_it_is_no_reason_to_refuse_where_no_money_is_limited_or_nothing_can_stop(
    ride: Ride, provider: Any, client: Any
) -> None:
    for scope in (budget(tokens=10_000), budget(calls=5), budget(usd="0.000001", on_exceed="warn")):
        with scope as b, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ride.ask(client, model="our-own-llm")
        assert b.spent_calls == 1
    assert len(provider.requests) == 3


def test_a_word_that_is_no_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="on_unpriced='ignore' is unknown; choose from 'refuse', 'warn', 'dearest'"):
        budget(usd=1, on_unpriced="ignore")  # type: ignore[arg-type]
