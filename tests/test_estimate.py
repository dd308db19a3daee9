"""estimate(): what hand arithmetic gives, and what a budget would hold; nothing is sent and nothing is held."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import farebox
from farebox import estimate
from farebox.providers import find_provider
from tests.strategies import MODEL, admit, finish, price_the_model

PROSE = "some words of ordinary prose " * 20  # 580 bytes


def test_an_estimate_is_what_hand_arithmetic_gives() -> None:
    price_the_model()
    found = estimate(MODEL, PROSE, provider="openai", max_output_tokens=400)
    assert (found.provider_name, found.model, found.price_version) == ("openai", MODEL, "manual")
    # 580 bytes / 4, and 80 tokens of template / 4; a quarter of the cap.
    assert (found.input_tokens, found.output_tokens) == (145 + 20, 100)
    assert found.expected_usd == Decimal("0.000365")
    # 580 bytes / 2 and 80, at the dearest input rate: a cache write at 1.25; 400 and 16 more out.
    assert (found.bound_input_tokens, found.max_output_tokens) == (370, 400)
    assert found.bound_usd == Decimal("0.0004625") + Decimal("0.000832")


def test_an_estimate_of_a_listed_model_by_the_price_page() -> None:
    found = estimate("claude-opus-5-5", PROSE, max_output_tokens=400)  # 4 in, 20 out
    assert found.provider_name == "anthropic"
    assert found.expected_usd == Decimal("0.00266")  # 165 x 4 + 100 x 20
    assert found.bound_usd == Decimal("0.0098")  # 370 x 4 + 416 x 20


def test_without_a_cap_the_models_own_maximum_counts() -> None:
    found = estimate("gpt-4o", PROSE)
    assert found.max_output_tokens == 16_384
    assert found.output_tokens == 500


@pytest.mark.parametrize("n", [1, 3])
def test_choices_are_paid_for_each(n: int) -> None:
    price_the_model()
    found = estimate(MODEL, PROSE, provider="openai", max_output_tokens=400, n=n)
    assert found.output_tokens == 100 * n
    assert found.bound_usd == Decimal("0.0004625") + n * Decimal("0.000832")


def test_what_such_calls_used_before_is_expected_again() -> None:
    price_the_model()
    farebox._config.state().needs.site("openai", MODEL, "").learn(12, False)
    assert estimate(MODEL, PROSE, provider="openai", max_output_tokens=400).output_tokens == 12
    assert estimate(MODEL, PROSE, provider="openai", max_output_tokens=5).output_tokens == 5


def test_messages_and_parameters_are_read_as_the_sdk_takes_them() -> None:
    price_the_model()
    plain = estimate(MODEL, [{"role": "user", "content": PROSE}], provider="openai", max_output_tokens=5)
    assert plain == estimate(MODEL, PROSE, provider="openai", max_output_tokens=5)
    tools = [{"type": "function", "function": {"name": "f", "description": PROSE}}]
    assert (
        estimate(MODEL, PROSE, provider="openai", max_output_tokens=5, tools=tools).bound_input_tokens
        >= plain.bound_input_tokens + 580
    )
    with_system = estimate("claude-opus-5-5", PROSE, max_output_tokens=5, system=PROSE)
    assert with_system.bound_input_tokens == 370 + 290


@given(st.text(max_size=200), st.integers(0, 3_000), st.integers(1, 4))
def test_an_estimate_bounds_what_a_budget_holds_for_the_same_call(text: str, cap: int, n: int) -> None:
    with farebox.configure(ledger="memory://", prices="{}"):
        price_the_model()
        found = estimate(MODEL, text, provider="openai", max_output_tokens=cap, n=n)
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": cap, "n": n}
        call = find_provider("openai").read_request("/chat/completions", body, "")
        assert call is not None
        with farebox.budget("b", usd=1_000) as b:
            admit(call)
            assert b.reserved_usd == found.bound_usd
            finish(call, outcome="failed")
        assert found.expected_usd <= found.bound_usd


def test_an_estimate_holds_nothing_and_leaves_no_row() -> None:
    price_the_model()
    with farebox.budget("b", usd=1) as b:
        estimate(MODEL, PROSE)
        assert (b.reserved_usd, b.reserved_calls) == (0, 0)
    assert farebox.calls() == []


def test_a_model_without_a_price_is_refused_with_the_line_to_write() -> None:
    with pytest.raises(farebox.errors.UnpricedModel) as caught:
        estimate("my-own-llm", "hi")
    assert "write farebox.set_price('my-own-llm', input_per_million=..., output_per_million=...)" in str(caught.value)


ANTHROPIC_FIRST = (
    "_estimate.py, _read: provider_names() is sorted, so 'anthropic' is asked first: a model with a price of one's own is read as "
    "a message (`n` is lost and the bound with it), and a misspelt gpt has no similar names.  Ask openai first, all for names"
)


def test_a_misspelt_model_is_answered_with_similar_names_whoever_has_them() -> None:
    with pytest.raises(farebox.errors.UnpricedModel, match=r"priced and similar: .*gpt-4o"):
        estimate("gpt-4oo", "hi")


def test_a_model_that_any_provider_may_have_is_estimated_with_all_its_choices() -> None:
    price_the_model()
    one, three = (estimate(MODEL, PROSE, max_output_tokens=400, n=n) for n in (1, 3))
    assert three.output_tokens == 3 * one.output_tokens


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"max_output_tokens": -1}, "max_output_tokens=-1 is no cap; give a whole number, 0 or more"),
        ({"max_output_tokens": 1.5}, "max_output_tokens=1.5 is no cap"),
        ({"max_output_tokens": True}, "max_output_tokens=True is no cap"),
        ({"max_output_tokens": "9"}, "max_output_tokens='9' is no cap"),
        ({"provider": "opnai"}, "provider 'opnai' is unknown; choose from anthropic, cohere, google, mistral, openai"),
        ({"messages": []}, "messages is empty; pass a text, or messages as the SDK takes them"),
    ],
    ids=repr,
)
def test_what_cannot_be_estimated_is_refused_by_name(words: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        estimate("gpt-4o", **{"messages": "hi", **words})
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_cap_given_as_the_sdk_takes_it_counts(name: str) -> None:
    assert estimate("gpt-4o", "hi", **{name: 50}).max_output_tokens == 50
