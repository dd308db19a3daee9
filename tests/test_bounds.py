"""The law that budgets rest on: what a call is held for is never below what it is charged, within the caps it was sent with."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import farebox
from farebox._call import Call, Usage
from farebox.ledgers import cap_within, with_slack
from farebox.prices import RateCard
from farebox.prices.bounds import InputEstimate
from farebox.providers import find_provider
from tests.strategies import (
    MODEL,
    admit,
    bound_tokens,
    finish,
    new_call,
    price_the_model,
)

CARD = RateCard()
OPENAI = find_provider("openai")
ANTHROPIC = find_provider("anthropic")
WRITES = {
    "5m": "cache_write_5m_tokens",
    "30m": "cache_write_30m_tokens",
    "1h": "cache_write_1h_tokens",
    "12h": "cache_write_12h_tokens",
}
UP_TO = {"none": [], "5m": ["5m"], "30m": ["5m", "30m"], "1h": ["5m", "30m", "1h"], "12h": list(WRITES)}


# The law.


def shared_out(draw: st.DrawFn, whole: int, names: list[str]) -> dict[str, int]:
    shares, left = {}, whole
    for name in draw(st.permutations(names)):
        shares[name] = draw(st.integers(0, left))
        left -= shares[name]
    return shares


@st.composite
def requests_and_usages(draw: st.DrawFn) -> tuple[Call, Usage]:
    """A request as a provider reads it, and a usage that its server may report within the caps."""
    text = draw(st.sampled_from(["hi", "some words of prose " * 200, "0f3a" * 500, "世界" * 100]))
    n, cap = 1, draw(st.integers(1, 5_000))
    call: Call | None
    if draw(st.booleans()):
        model = draw(
            st.sampled_from(["gpt-4o", "gpt-5-mini", "gpt-5.4", "gpt-6-sol", "gpt-audio", "o3", "gpt-4o-mini"])
        )
        n = draw(st.integers(1, 5))
        content: Any = text
        if draw(st.booleans()):
            content = [
                {"type": "text", "text": text},
                {"type": draw(st.sampled_from(["image_url", "input_audio", "file"]))},
            ]
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "n": n,
            "max_tokens": cap,
        }
        if draw(st.booleans()):
            body["service_tier"] = draw(st.sampled_from(["flex", "priority", "default"]))
        call = OPENAI.read_request("/chat/completions", body, "")
    else:
        part: dict[str, Any] = {"type": "text", "text": text}
        if draw(st.booleans()):
            part["cache_control"] = {"type": "ephemeral", "ttl": draw(st.sampled_from(["5m", "1h"]))}
        model = draw(st.sampled_from(["claude-opus-5-5", "claude-sonnet-4-5", "claude-3-haiku", "claude-haiku-5-5"]))
        body = {"model": model, "messages": [{"role": "user", "content": [part]}], "max_tokens": cap}
        if draw(st.booleans()):
            body["speed"] = "fast"
        call = ANTHROPIC.read_request("/v1/messages", body, "")
    assert call is not None
    into = ["uncached_input_tokens", "cache_read_tokens", *(WRITES[name] for name in UP_TO[call.cache_write])]
    out = ["visible_output_tokens", "reasoning_tokens"]
    if call.has_audio:
        into, out = [*into, "input_audio_tokens", "cache_read_audio_tokens"], [*out, "output_audio_tokens"]
    if call.has_images:
        into, out = [*into, "input_image_tokens"], [*out, "output_image_tokens"]
    most_in, most_out = bound_tokens(call), n * with_slack(cap)
    whole_in = draw(st.integers(0, most_in) | st.just(most_in))
    whole_out = draw(st.integers(0, most_out) | st.just(most_out))
    return call, Usage(**shared_out(draw, whole_in, into), **shared_out(draw, whole_out, out))


@settings(max_examples=300)
@given(requests_and_usages())
def test_a_call_is_held_for_at_least_what_it_is_charged(drawn: tuple[Call, Usage]) -> None:
    call, usage = drawn
    with farebox.configure(ledger="memory://"), farebox.budget("b", usd=1_000_000) as b:
        admit(call)
        held, held_tokens = call.bound_usd_nanos, call.bound_tokens
        assert held == b.balance.reserved_usd_nanos
        rates = CARD.find(call.provider_name, call.model, call.started_at_seconds, call.tier)
        assert rates is not None
        assert rates.charge_nanos(usage) <= held
        finish(call, usage=usage)
        assert call.cost_usd_nanos == rates.charge_nanos(usage)
        assert usage.total_tokens <= held_tokens
        assert b.balance.debt_usd_nanos == b.balance.debt_tokens == b.balance.reserved_usd_nanos == 0


@settings(max_examples=30)
@given(st.integers(1, 4_000), st.integers(1, 4), st.integers(0, 5_000))
def test_a_bound_is_the_line_that_hand_arithmetic_gives(cap: int, n: int, text_bytes: int) -> None:
    with farebox.configure(ledger="memory://", prices="{}"):
        price_the_model()
        with farebox.budget("b", usd=1_000) as b:
            call = admit(new_call(cap=cap, choices=n, text_bytes=text_bytes, extra_input_tokens=7))
            read, slack = -(-text_bytes // 2) + 7, max(16, -(-cap // 100))
            assert b.balance.reserved_usd_nanos == read * 1_000 + (cap + slack) * n * 2_000
            assert b.reserved_tokens == read + (cap + slack) * n
            finish(call, outcome="failed")


def test_the_fees_of_a_search_tool_are_part_of_the_bound() -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]
    body = {
        "model": "claude-opus-5-5",
        "max_tokens": 10,
        "messages": [{"role": "user", "content": "hi"}],
        "tools": tools,
    }
    call = ANTHROPIC.read_request("/v1/messages", body, "")
    assert call is not None
    usage = Usage(uncached_input_tokens=bound_tokens(call), visible_output_tokens=10 + 16, web_searches=5)
    admit(call)
    finish(call, usage=usage)
    assert call.cost_usd_nanos is not None
    assert call.cost_usd_nanos <= call.bound_usd_nanos


@pytest.mark.parametrize(
    "parameters", [{"max_tokens": 10**18}, {"n": 10**18}, {"max_tokens": "99999999999", "n": 10**9}]
)
def test_an_absurd_cap_is_left_to_the_api(parameters: dict[str, Any]) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **parameters}
    call = OPENAI.read_request("/chat/completions", body, "")
    assert call is not None
    admit(call)


# Slack.


@pytest.mark.parametrize(
    ("cap", "held"), [(0, 16), (1, 17), (1_600, 1_616), (1_601, 1_618), (10_000, 10_100), (10_001, 10_102)]
)
def test_a_cap_is_held_with_room_for_what_providers_overran_theirs(cap: int, held: int) -> None:
    assert with_slack(cap) == held


@given(st.integers(16, 10**9))
def test_the_cap_that_fits_is_the_largest_one_that_does(room: int) -> None:
    cap = cap_within(room)
    assert with_slack(cap) <= room < with_slack(cap + 1)


@given(st.integers(0, 15))
def test_no_cap_fits_into_less_than_its_slack(room: int) -> None:
    assert cap_within(room) < 0


# What is learnt from a miss.


def text_call(model: str = MODEL, **fields: Any) -> Call:
    """A call of 2,000 bytes of prose: 1,000 tokens."""
    return new_call(model, text_bytes=2_000, **fields)


def test_an_estimate_that_was_too_low_is_raised_by_a_tenth_more() -> None:
    estimate = InputEstimate()
    assert estimate.tokens(text_call()) == 1_000
    estimate.learn(text_call(), 1_000, 1_500)
    assert estimate.tokens(text_call()) == 1_660  # 100 percent x 1.5 x 1.1, and one for rounding: 166
    assert estimate.tokens(text_call("another")) == 1_000
    assert estimate.tokens(text_call(provider_name="anthropic")) == 1_000


def test_one_miss_at_most_doubles_an_estimate() -> None:
    estimate = InputEstimate()
    for expected in (2_000, 4_000, 8_000, 8_000):
        estimate.learn(text_call(), 1_000, 1_000_000)
        assert estimate.tokens(text_call()) == expected


def test_an_estimate_that_held_is_left_alone() -> None:
    estimate = InputEstimate()
    for estimated, actual in ((1_000, 1_000), (1_000, 10), (0, 500)):
        estimate.learn(text_call(), estimated, actual)
        assert estimate.tokens(text_call()) == 1_000


def test_a_raised_estimate_comes_down_a_hundredth_at_a_time_where_it_is_too_high() -> None:
    estimate = InputEstimate()
    estimate.learn(text_call(), 1_000, 1_500)
    estimate.learn(text_call(), 1_660, 1_500)  # within a tenth: stays
    assert estimate.tokens(text_call()) == 1_660
    estimate.learn(text_call(), 1_660, 1_000)
    assert estimate.tokens(text_call()) == 1_650
    for _ in range(200):
        estimate.learn(text_call(), 1_660, 0)
    assert estimate.tokens(text_call()) == 1_000


def test_answers_and_the_misses_among_them_are_counted() -> None:
    estimate = InputEstimate()
    for estimated, actual in ((1_000, 900), (1_000, 1_000), (1_000, 1_001), (2_000, 1_500), (0, 5), (10, 50)):
        estimate.learn(text_call(), estimated, actual)
    assert (estimate.answers, estimate.misses) == (6, 3)


def test_the_misses_of_the_process_are_read_off_an_estimate() -> None:
    price_the_model()
    for actual in (900, 1_001, 5_000):
        finish(admit(text_call()), usage=Usage(uncached_input_tokens=actual))
    found = farebox.estimate(MODEL, "hi", provider="openai", max_output_tokens=5)
    assert (found.answers, found.misses) == (3, 2)


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10**7)), max_size=20))
def test_what_is_learnt_never_takes_an_estimate_out_of_its_bounds(answers: list[tuple[int, int]]) -> None:
    estimate = InputEstimate()
    for estimated, actual in answers:
        before = estimate.tokens(text_call())
        estimate.learn(text_call(), estimated, actual)
        after = estimate.tokens(text_call())
        assert 1_000 <= after <= 8_000
        if actual > estimated:
            assert after >= min(8_000, 2 * before, before * actual // estimated)
        else:
            assert before - 10 <= after <= before


def test_no_more_than_a_thousand_models_are_remembered() -> None:
    estimate = InputEstimate()
    for number in range(1_100):
        estimate.learn(text_call(f"model-{number}"), 10, 12)
    assert estimate.tokens(text_call("model-0")) == 1_330  # 1.2 x 1.1 and one
    assert estimate.tokens(text_call("model-1099")) == 1_000


def test_a_call_that_read_more_than_its_bound_is_charged_in_full_and_the_next_is_held_for_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    price_the_model()
    with farebox.budget("b", usd=1) as b:
        call = admit(new_call(cap=0, text_bytes=2_000))
        assert call.bound_usd_nanos == 1_000 * 1_000 + 16 * 2_000
        finish(call, usage=Usage(uncached_input_tokens=1_500))
        assert call.cost_usd_nanos == 1_500_000
        assert b.balance.debt_usd_nanos == 1_500_000 - 1_032_000
        assert [event.did for event in b.decisions] == ["debt"]
        assert admit(new_call(cap=0, text_bytes=2_000)).bound_usd_nanos == 1_660 * 1_000 + 16 * 2_000
    assert f"{MODEL} cost 0.0015 USD with a bound of 0.001032 USD" in caplog.text


# Calls that end otherwise.


@pytest.mark.parametrize(
    ("outcome", "usd_nanos", "calls"),
    [("failed", 0, 0), ("vetoed", 0, 0), ("unknown", 232_000, 1), ("dropped", 232_000, 1), ("completed", 232_000, 1)],
)
def test_without_usage_a_call_is_charged_its_bound_or_was_not_billed(outcome: Any, usd_nanos: int, calls: int) -> None:
    price_the_model()
    with farebox.budget("b", usd=1) as b:
        call = finish(admit(new_call(cap=100)), outcome=outcome)  # 116 tokens at 2,000
        assert (b.balance.spent_usd_nanos, b.spent_calls, b.reserved_calls) == (usd_nanos, calls, 0)
        assert (call.cost_usd_nanos, call.cost_source) == (usd_nanos, "estimated" if usd_nanos else "list")


def test_a_closed_stream_is_charged_for_what_arrived_and_a_margin() -> None:
    farebox.set_price("gpt-4o", input_per_million=1, output_per_million=2)  # does not reason
    with farebox.budget("b", usd=1) as b:
        call = admit(new_call("gpt-4o", cap=5_000))
        call.received_tokens = 101
        finish(call, outcome="closed")
        assert b.spent_tokens == 101 + 512 + 16
        assert b.balance.spent_usd_nanos == (101 + 512 + 16) * 2_000


@pytest.mark.parametrize("change", [{"received_tokens": 0}, {"may_reason": True}], ids=repr)
def test_a_closed_stream_of_which_nobody_knows_what_it_made_is_charged_its_bound(change: dict[str, Any]) -> None:
    farebox.set_price("gpt-4o", input_per_million=1, output_per_million=2)
    with farebox.budget("b", usd=1) as b:
        call = admit(new_call("gpt-4o", cap=5_000, reasons="may_reason" in change))
        call.received_tokens = change.get("received_tokens", 100)
        finish(call, outcome="closed")
        assert b.balance.spent_usd_nanos == 5_050 * 2_000
