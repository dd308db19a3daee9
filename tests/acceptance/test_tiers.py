"""A request that names no tier is served by the project's default, which only its answers tell: they are listened to."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

import farebox
from farebox import budget, configure
from farebox.testing import FakeProvider
from tests.acceptance.rides import OPENAI

pytestmark = pytest.mark.usefixtures("metered")

#: gpt-4o of OpenAI in USD per million tokens out: the standard price and that of the priority tier.
STANDARD, PRIORITY = Decimal(10), Decimal(17)
MILLION = 10**6


@pytest.fixture
def client(provider: FakeProvider) -> Any:
    with OPENAI.client(provider) as client:
        yield client


def served_as(provider: FakeProvider, tier: str | None, times: int = 2) -> None:
    provider.odd(edit=lambda body: {**body, "service_tier": tier}, times=times)


def ask(client: Any, **words: Any) -> Any:
    """The record of a call that asks for a thousand tokens."""
    messages = [{"role": "user", "content": "Why?"}]
    answer = client.chat.completions.create(model="gpt-4o", messages=messages, max_tokens=1_000, **words)
    list(answer) if words.get("stream") else None
    return farebox.calls()[-1]


def is_held_at(record: Any, price: Decimal) -> bool:
    return price * 1_000 <= record.bound_usd * MILLION < price * Decimal("1.1") * 1_000


@pytest.mark.parametrize("stream", [False, True])
def test_once_a_host_has_served_a_dear_tier_unasked_its_calls_are_held_for_that(
    stream: bool, provider: FakeProvider, client: Any
) -> None:
    provider.answer(output_tokens=1_000, input_tokens=10)
    served_as(provider, "priority")
    with budget(usd=1) as b:
        first, second = ask(client, stream=stream), ask(client, stream=stream)
        assert is_held_at(first, STANDARD)
        assert is_held_at(second, PRIORITY)
        assert first.usd == second.usd == (Decimal("4.25") * 10 + PRIORITY * 1_000) / MILLION
        assert b.debt_usd == first.usd - first.bound_usd > 0  # the first could not know
    assert (first.tier, second.tier, second.served_tier) == ("", "auto", "priority")


def test_a_request_that_names_its_tier_is_held_for_that_one(provider: FakeProvider, client: Any) -> None:
    provider.answer(output_tokens=1_000, input_tokens=10)
    served_as(provider, "priority")
    assert is_held_at(ask(client, service_tier="auto"), PRIORITY)  # who knows better says so, from the first call on
    ask(client)
    served_as(provider, "default")
    assert is_held_at(ask(client, service_tier="default"), STANDARD)
    cheap = ask(client)
    assert is_held_at(cheap, PRIORITY)
    assert cheap.usd == (Decimal("2.5") * 10 + STANDARD * 1_000) / MILLION  # and is paid as it was served


@pytest.mark.parametrize("tier", ["default", "flex", None, "", "nobody-knows"])
def test_what_costs_no_more_changes_nothing(tier: str | None, provider: FakeProvider, client: Any) -> None:
    served_as(provider, tier)
    assert is_held_at(ask(client), STANDARD)
    assert is_held_at(ask(client), STANDARD)


def test_another_ledger_begins_without_what_was_heard(provider: FakeProvider, client: Any) -> None:
    served_as(provider, "priority")
    assert is_held_at(ask(client), STANDARD)
    with configure(ledger="memory://"):
        assert is_held_at(ask(client), STANDARD)
