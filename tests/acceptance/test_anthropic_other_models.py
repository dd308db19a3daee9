"""Advisors, fallbacks and compactions: other models work on a call, and are held and charged at their own prices."""

from __future__ import annotations

from typing import Any

import pytest

from farebox import BudgetExceeded, budget, report
from farebox.testing import Answer, FakeProvider, OtherWork
from tests.acceptance.rides import ANTHROPIC, MESSAGES, farebox_usd, nothing_is_left, only_record

pytestmark = pytest.mark.usefixtures("metered")

ADVISOR = {
    "type": "advisor_20260301",
    "name": "advisor",
    "model": "claude-opus-5-5",
    "max_uses": 2,
    "max_tokens": 2_000,
}
ADVICE = OtherWork(model="claude-opus-5-5", input_tokens=900, output_tokens=1_500)
#: What one piece of advice costs: 900 tokens at 4 USD a million and 1,500 at 20.
ADVICE_NANOS = 900 * 4_000 + 1_500 * 20_000


def ask(client: Any, **words: Any) -> Any:
    return client.beta.messages.create(
        **{"model": ANTHROPIC.model, "max_tokens": 300, "messages": MESSAGES, "betas": ["b"], **words}
    )


@pytest.fixture
def client(provider: FakeProvider, open_client: Any) -> Any:
    return open_client(ANTHROPIC)


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_an_advisor_is_charged_at_its_own_price(provider: FakeProvider, client: Any, is_stream: bool) -> None:
    provider.answer(Answer(output_tokens=50, others=(ADVICE, ADVICE)))
    with budget("b", usd=50) as frame:
        answer = ask(client, tools=[ADVISOR], stream=is_stream)
        if is_stream:
            list(answer)
    own = provider.bill.lines[0].usd_nanos
    assert provider.bill.usd_nanos == own + 2 * ADVICE_NANOS
    assert frame.spent_usd == report().total.usd == provider.bill.usd
    record = only_record()
    assert record.usage.fees_nanos == 2 * ADVICE_NANOS  # so that the row adds up at the rates of its one model
    assert frame.spent_tokens == provider.bill.tokens
    assert record.bound_usd >= record.usd
    nothing_is_left()


def test_what_an_advisor_may_cost_is_held_before_it_is_asked(provider: FakeProvider, client: Any) -> None:
    with budget(usd=50):
        ask(client)
        ask(client, tools=[ADVISOR])
    plain, advised = (farebox_usd(int(row.bound_usd.scaleb(9))) for row in report_rows())
    # Two pieces of advice of 2,000 tokens each, at 20 USD a million.
    assert advised - plain >= farebox_usd(2 * 2_000 * 20_000)
    with budget(usd=plain * 2), pytest.raises(BudgetExceeded) as refusal:
        ask(client, tools=[ADVISOR])
    assert refusal.value.kind == "oversized"
    assert len(provider.requests) == 2


def test_an_advisor_without_a_cap_may_write_all_that_its_model_can(provider: FakeProvider, client: Any) -> None:
    with budget(usd=100):
        ask(client, tools=[{**ADVISOR, "max_uses": 1, "max_tokens": None}])
    (record,) = report_rows()
    assert record.bound_usd >= farebox_usd(128_000 * 20_000)


def test_an_advisor_without_a_price_is_held_as_the_dearest_model(provider: FakeProvider, client: Any) -> None:
    with budget("b", usd=100):
        ask(client, tools=[ADVISOR])
        ask(client, tools=[{**ADVISOR, "model": "claude-oracle-9"}])
    known, unknown = (row.bound_usd for row in report_rows())
    assert unknown > known


def test_an_advisor_that_nobody_has_a_price_of_is_charged_as_the_dearest(provider: FakeProvider, client: Any) -> None:
    def rename(answer: dict[str, Any]) -> dict[str, Any]:
        answer["usage"]["iterations"][0]["model"] = "claude-oracle-9"
        return answer

    provider.answer(Answer(output_tokens=50, others=(ADVICE,)))
    provider.odd(edit=rename)
    with budget(usd=100) as frame:
        ask(client, tools=[{**ADVISOR, "model": "claude-oracle-9"}])
    assert frame.spent_usd >= provider.bill.usd
    assert "claude-oracle-9" in only_record().doubt


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_a_fallback_that_answered_is_charged_at_its_price_and_who_declined_at_his(
    provider: FakeProvider, client: Any, is_stream: bool
) -> None:
    declined = OtherWork(model=ANTHROPIC.model, input_tokens=40, output_tokens=10, kind="message")
    provider.answer(Answer(output_tokens=50, served_model="claude-opus-5-5", others=(declined,)))
    with budget("b", usd=5) as frame:
        answer = ask(client, fallbacks=[{"model": "claude-opus-5-5"}], stream=is_stream)
        if is_stream:
            list(answer)
    assert frame.spent_usd == report().total.usd == provider.bill.usd
    record = only_record()
    assert record.response_model == "claude-opus-5-5"
    assert record.bound_usd >= record.usd
    nothing_is_left()


def test_each_fallback_is_held_with_its_own_cap(provider: FakeProvider, client: Any) -> None:
    fallbacks = [{"model": "claude-opus-5-5"}, {"model": "claude-sonnet-5-5", "max_tokens": 4_000}]
    with budget(usd=50):
        ask(client)
        ask(client, fallbacks=fallbacks)
        ask(client, fallbacks="default")
    plain, named, default = (row.bound_usd for row in report_rows())
    assert named - plain >= farebox_usd(300 * 20_000 + 4_000 * 10_000)
    assert default >= 2 * (plain - farebox_usd(5_000))


def test_who_calls_advisors_or_names_fallbacks_is_not_downgraded(provider: FakeProvider, client: Any) -> None:
    for words in ({"tools": [ADVISOR]}, {"fallbacks": [{"model": "claude-opus-5-5"}]}):
        with budget(usd="0.000001", on_exceed="downgrade"), pytest.raises(BudgetExceeded):
            ask(client, model="claude-opus-5-5", **words)
    assert not provider.requests


def report_rows() -> list[Any]:
    import farebox

    return list(farebox.calls())
