"""What one row adds to a report."""

from __future__ import annotations

from decimal import localcontext
from typing import Any

import attrs
import pytest

from farebox._call import Call, CallRecord
from farebox._tally import Amount, Place, amount, place
from tests.strategies import MODEL, new_call


def ended(**fields: Any) -> Call:
    call = new_call(started_at_seconds=7_199.9)
    for name, value in {"outcome": "completed", "cost_usd_nanos": 0, **fields}.items():
        setattr(call, name, value)
    return call


def test_a_call_belongs_to_its_model_outcome_and_tags() -> None:
    call = ended(tags={"b": "2", "a": "1"})
    assert place(call) == Place("openai", MODEL, "chat", "completed", (("a", "1"), ("b", "2")))
    call.sent_model = "cheaper"
    assert place(call).model == "cheaper"
    assert place(CallRecord.of(call)) == place(call)


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
        (
            {
                "outcome": "corrected",
                "cost_usd_nanos": -5,
                "charged_output_tokens": -2,
                "attempts": 1,
                "cost_source": "estimated",
            },
            Amount(usd_nanos=-5, output_tokens=-2),
        ),
        ({"outcome": "corrected", "cost_usd_nanos": None}, Amount()),
    ],
    ids=repr,
)
def test_a_call_counts_as_what_became_of_it_also_when_it_is_read_back(fields: dict[str, Any], expected: Amount) -> None:
    assert amount(ended(**fields)) == expected
    assert amount(CallRecord.of(ended(**fields))) == expected


def test_amounts_of_a_record_are_exact_in_any_decimal_context() -> None:
    record = CallRecord.of(ended(cost_usd_nanos=9_223_372_036_854_775_807, bound_usd_nanos=123_456_789_012_345_678))
    with localcontext(prec=3):
        assert record.cost_usd_nanos == 9_223_372_036_854_775_807
        assert record.bound_usd_nanos == 123_456_789_012_345_678
    assert attrs.evolve(record, usd=None).cost_usd_nanos is None
