"""record(): a call that no SDK saw is on the same books, and is never refused."""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import Any

import pytest

import farebox
from farebox import budget, record, track
from farebox._call import Usage
from tests.strategies import MODEL, admit, finish, new_call, price_the_model


def test_a_recorded_call_is_priced_charged_and_reported() -> None:
    price_the_model()
    with track(feature="search"), budget("b", usd=1, tokens=10_000, calls=5) as b:
        record(model=MODEL, provider="local", input_tokens=1_000, output_tokens=500, operation="rerank")
        assert (b.spent_usd, b.spent_tokens, b.spent_calls) == (Decimal("0.002"), 1_500, 1)
        assert (b.reserved_usd, b.debt_usd) == (0, 0)
    (row,) = farebox.calls()
    assert (row.provider_name, row.request_model, row.operation_name) == ("local", MODEL, "rerank")
    assert (row.outcome, row.usd, row.cost_source, row.tags, row.scope) == (
        "completed",
        Decimal("0.002"),
        "manual",
        {"feature": "search"},
        "b",
    )
    assert row.usage is not None
    assert (row.usage.input_tokens, row.usage.output_tokens) == (1_000, 500)


@pytest.mark.parametrize("usd", ["0.005", 0.005, Decimal("0.005")])
def test_what_it_cost_may_be_told(usd: Any) -> None:
    with budget("b", usd=1) as b:
        record(model="my-llm", provider="local", input_tokens=1_000, output_tokens=500, usd=usd)
        assert b.spent_usd == Decimal("0.005")
    assert farebox.calls()[0].cost_source == "manual"
    assert farebox.report().total.unpriced_calls == 0


def test_what_was_told_beats_the_price() -> None:
    price_the_model()
    record(model=MODEL, provider="local", input_tokens=1_000_000, usd=0)
    assert farebox.report().total.usd == 0


def test_a_recorded_call_goes_past_every_limit_as_debt() -> None:
    price_the_model()
    with budget("outer", usd="0.001") as outer, budget("inner", usd="0.01", calls=1, tokens=100) as inner:
        record(model=MODEL, provider="local", usd="0.0006", input_tokens=80)
        record(model=MODEL, provider="local", usd="0.0006", input_tokens=80)
        assert outer.spent_usd == inner.spent_usd == Decimal("0.0012")
        assert (outer.debt_usd, outer.balance.debt_calls) == (Decimal("0.0002"), 0)
        assert (inner.debt_usd, inner.balance.debt_calls, inner.balance.debt_tokens) == (0, 1, 60)
        assert outer.remaining_usd == 0


def test_debt_of_a_recorded_call_is_published() -> None:
    with budget("b", usd="0.001") as b:
        record(model="my-llm", provider="local", usd="0.005")
        assert b.debt_usd == Decimal("0.004")
        assert [event.did for event in b.decisions] == ["debt"]


def test_a_record_takes_nothing_off_the_debt_of_another_call() -> None:
    price_the_model()
    with budget("b", usd=1) as b:
        paid_over_its_bound = admit(new_call(cap=0))
        finish(paid_over_its_bound, usage=Usage(uncached_input_tokens=1_000))
        debt = b.debt_usd
        assert debt == Decimal("0.001") - Decimal("0.000032")
        record(model=MODEL, provider="local", usd="0.005")
        assert b.debt_usd == debt


def test_an_unpriced_record_counts_and_is_not_refused(caplog: pytest.LogCaptureFixture) -> None:
    with budget("b", usd=1) as b:
        record(model="nobody-knows", provider="local", input_tokens=10)
        assert (b.spent_usd, b.spent_tokens, b.spent_calls) == (0, 10, 1)
    total = farebox.report().total
    assert (total.usd, total.calls, total.unpriced_calls) == (0, 1, 1)
    assert "farebox.set_price('nobody-knows'" in caplog.text


def test_a_record_outside_of_any_scope_is_reported() -> None:
    record(model="my-llm", provider="local", usd="0.25")
    assert farebox.report(by="provider").rows[0].provider == "local"
    assert farebox.report().total.usd == Decimal("0.25")


@pytest.mark.parametrize("name", ["input_tokens", "output_tokens"])
@pytest.mark.parametrize("value", [-1, 1.5, 1.0, "10", True, None])
def test_tokens_that_are_no_count_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value!r} is no count; give a whole number, 0 or more"):
        record(model="m", provider="p", **{name: value})
    assert farebox.report().total.calls == 0


@pytest.mark.parametrize(
    ("usd", "error"), [(-1, ValueError), (float("nan"), ValueError), ("x", ValueError), (True, TypeError)]
)
def test_an_amount_that_is_none_is_refused_and_nothing_is_recorded(usd: Any, error: type[Exception]) -> None:
    with budget("b", calls=5) as b:
        with pytest.raises(error, match="usd="):
            record(model="m", provider="p", usd=usd)
        assert (b.spent_calls, b.reserved_calls) == (0, 0)


def test_records_of_many_threads_lose_nothing() -> None:
    with budget("b", calls=10_000) as b:
        bound = farebox.carry(lambda: [record(model="m", provider="p", usd="0.000000001") for _ in range(100)])
        threads = [threading.Thread(target=bound) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (b.spent_calls, b.balance.spent_usd_nanos) == (800, 800)
    assert farebox.report().total.usd == Decimal("0.0000008")


@pytest.mark.parametrize(
    ("price", "used", "usd"),
    [
        ({"per_image": "0.04"}, {"images": 3}, "0.12"),
        ({"per_million_characters": 15}, {"characters": 2_000}, "0.03"),
        ({"per_audio_minute": "0.006"}, {"input_audio_seconds": 90}, "0.009"),
        ({"per_audio_minute": "0.006"}, {"output_audio_seconds": "1.0004"}, "0.0001001"),  # 1,001 milliseconds
        ({"per_video_second": "0.1"}, {"video_seconds": 8.0}, "0.8"),
        ({"input_per_million": 1, "output_per_million": 2}, {"file_searches": 2, "web_searches": 0}, "0.005"),
    ],
)
def test_what_is_paid_by_another_unit_than_tokens_is_recorded_too(price: Any, used: Any, usd: str) -> None:
    farebox.set_price("mine", **price)
    with budget("b", usd=1) as b:
        record(model="mine", provider="openai", **used)
        assert b.spent_usd == Decimal(usd)
    (call,) = farebox.calls()
    assert call.usage is not None
    assert (call.usd, call.usage.total_tokens, call.cost_source) == (Decimal(usd), 0, "manual")
    assert sum(call.usage) > 0


def test_a_price_of_units_is_no_price_of_tokens() -> None:
    with pytest.raises(ValueError, match=r"has no input_per_million; a price needs .* or one of per_image, "):
        farebox.set_price("mine")
    with pytest.raises(ValueError, match="has no output_per_million"):
        farebox.set_price("mine", input_per_million=1, per_image=1)
    with pytest.raises(ValueError, match="per_image=-1 is negative"):
        farebox.set_price("mine", per_image=-1)
