"""What one call adds to a report."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox._call import Call
from farebox._tally import Amount, Place, amount, coarsen, fold, place
from tests.strategies import MODEL, new_call


def ended(**fields: Any) -> Call:
    call = new_call(started_at_seconds=7_199.9)
    for name, value in {"outcome": "completed", "cost_usd_nanos": 0, **fields}.items():
        setattr(call, name, value)
    return call


def test_a_call_belongs_to_its_hour_model_outcome_and_tags() -> None:
    call = ended(tags={"b": "2", "a": "1"})
    assert place(call) == Place("hour", 3_600, "openai", MODEL, "chat", "completed", (("a", "1"), ("b", "2")))
    call.sent_model = "cheaper"
    assert place(call).model == "cheaper"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"cost_usd_nanos": 7, "charged_input_tokens": 3, "charged_output_tokens": 2, "attempts": 2},
            Amount(7, 1, 0, 3, 2, 0, 0, 2),
        ),
        ({"cost_usd_nanos": None, "charged_input_tokens": 3}, Amount(0, 1, 0, 3, 0, 1, 0, 0)),
        ({"cost_usd_nanos": 9, "cost_source": "estimated"}, Amount(9, 1, 0, 0, 0, 0, 1, 0)),
        ({"outcome": "refused", "cost_usd_nanos": None}, Amount(refused_calls=1)),
        ({"outcome": "vetoed"}, Amount(refused_calls=1)),
        ({"outcome": "failed"}, Amount(calls=1)),
    ],
    ids=repr,
)
def test_a_call_counts_as_what_became_of_it(fields: dict[str, Any], expected: Amount) -> None:
    assert amount(ended(**fields)) == expected
    assert fold(ended(**fields)) == (place(ended(**fields)), tuple(expected))


amounts = st.builds(Amount, *[st.integers(0, 2**63)] * len(Amount._fields))


@given(amounts, amounts, amounts)
def test_amounts_add_in_any_order(one: Amount, two: Amount, three: Amount) -> None:
    assert one.plus(two) == two.plus(one)
    assert one.plus(two).plus(three) == one.plus(two.plus(three))
    assert one.plus(Amount()) == one


@given(st.integers(0, 4_000_000_000), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_coarsening_ends_and_never_mixes_models(seconds: int, tags: dict[str, str]) -> None:
    call = ended(tags=tags)
    call.started_at_seconds = float(seconds)
    here = place(call)
    assert here.seconds <= seconds < here.seconds + 3_600
    for _ in range(6):
        coarser = coarsen(here)
        assert isinstance(coarser, Place)
        assert coarser.seconds <= here.seconds
        assert (coarser.provider, coarser.model, coarser.operation, coarser.outcome) == here[2:6]
        here = coarser
    assert here == Place("ever", 0, "openai", MODEL, "chat", "completed", ())
