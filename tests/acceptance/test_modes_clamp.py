"""`clamp` lowers the output cap to what the money buys, also one the caller declared; below the useful minimum it refuses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, on_exceed, report
from farebox.testing import FakeProvider
from tests.acceptance.rides import ANTHROPIC, OPENAI, Ride, attempt, bound_of, farebox_usd, nothing_is_left, stormproof
from tests.acceptance.test_modes import TOO_LITTLE, Way, caps, every_way, settled_as_billed, travel

pytestmark = pytest.mark.usefixtures("metered")

USEFUL = 64


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        provider.chunks(4)
        yield provider


def held(ride: Ride, cap: int, *, choices: int = 1) -> int:
    """Nanodollars that a call of `words()` holds: what its input does, and the cap with its slack, by hand."""
    base = bound_of(ride, 100).usd_nanos - 116 * ride.usd_nanos_per_output_token
    return base + choices * (cap + max(16, -(-cap // 100))) * ride.usd_nanos_per_output_token


def most_cap(fits: Callable[[int], bool], declared: int) -> int:
    """The largest cap up to the declared one that fits."""
    return next(cap for cap in itertools.count(declared, -1) if fits(cap) or not cap)


def test_what_is_held_by_hand_is_what_is_held(ride: Ride) -> None:
    assert [held(ride, cap) for cap in (100, 700, 5_000)] == [bound_of(ride, c).usd_nanos for c in (100, 700, 5_000)]


@every_way
def test_calls_are_clamped_to_what_is_left_and_then_refused(ride: Ride, provider: Any, way: Way) -> None:
    # Each answer takes all that it may.
    provider.answer(output_tokens=5_000)
    limit = held(ride, 700) * 5 // 2
    scope = budget("c", usd=farebox_usd(limit), on_exceed="clamp")
    with stormproof(provider, farebox_usd(limit)):
        trip = travel(ride, provider, way, scope, times=30, max_tokens=700)
    spent, expected = 0, []
    for line in provider.bill.lines:
        expected.append(most_cap(lambda cap: spent + held(ride, cap) <= limit, 700))  # noqa: B023, called at once
        spent += line.usd_nanos
    assert caps(provider) == [line.output_tokens for line in provider.bill.lines] == expected
    assert (expected[0], min(expected) >= USEFUL, len(expected) > 2) == (700, True, True)
    assert spent + held(ride, USEFUL) > limit
    assert trip.error is not None
    assert (trip.error.budget, trip.error.kind) == ("c", "exhausted")
    settled_as_billed(trip, provider)


def test_a_cut_answer_is_published_and_the_cap_is_on_record(ride: Ride, provider: Any, client: Any) -> None:
    provider.answer(output_tokens=5_000)
    with budget(usd=farebox_usd(held(ride, 200)), on_exceed="clamp") as b:
        ride.ask(client, max_tokens=700)
    assert [event.did for event in b.decisions] == ["rewrite", "cut"]
    assert b.decisions[1].sent_cap == 200
    (record,) = farebox.calls()
    assert (record.declared_cap, record.sent_cap, record.decision) == (700, 200, "rewrite")
    assert record.bound_usd == farebox_usd(held(ride, 200))


def test_the_decision_says_which_cap_is_sent(ride: Ride, provider: Any, client: Any) -> None:
    with budget(usd=farebox_usd(held(ride, 200)), on_exceed="clamp") as b:
        ride.ask(client, max_tokens=700)
    assert b.decisions[0].sent_cap == 200


def test_the_callers_own_words_are_left_alone(provider: Any, open_client: Any) -> None:
    client, words = open_client(OPENAI), OPENAI.words(max_tokens=700)
    before = dict(words)
    with budget(usd=farebox_usd(held(OPENAI, 200)), on_exceed="clamp"):
        client.chat.completions.create(**words)
    assert words == before
    assert provider.requests[0].body == {**before, "max_tokens": 200}


def test_a_call_is_clamped_to_the_smallest_remainder_of_the_chain(ride: Ride, provider: Any, client: Any) -> None:
    provider.answer(output_tokens=5_000)
    for outer, inner in itertools.permutations([150, 300, 450], 2):
        sent = len(provider.requests)
        scopes = [
            budget("outer", usd=farebox_usd(held(ride, outer)), on_exceed="clamp"),
            budget("between", tokens=bound_of(ride, 600).tokens, on_exceed="clamp"),
            budget("inner", usd=farebox_usd(held(ride, inner)), on_exceed="clamp"),
        ]
        with stormproof(provider), scopes[0] as outside, scopes[1], scopes[2] as inside:
            ride.ask(client, max_tokens=700)
        assert caps(provider)[sent:] == [min(outer, inner)]
        assert [event.did for event in inside.decisions] == ["rewrite", "cut"]
        assert outside.decisions == []


def test_an_outer_block_is_no_leave_to_send_more(ride: Ride, provider: Any, client: Any) -> None:
    # The inner one, short itself, clamps to what the outer one has; where only the outer one is short, it refuses.
    small, large = farebox_usd(held(ride, 150)), farebox_usd(held(ride, 400))
    with budget("outer", usd=small), budget("inner", usd=large, on_exceed="clamp"):
        ride.ask(client, max_tokens=700)
        assert isinstance(attempt(lambda: ride.ask(client, max_tokens=300)), BudgetExceeded)
    assert caps(provider) == [150]
    nothing_is_left()


def test_below_the_useful_minimum_nothing_is_sent(ride: Ride, provider: Any, client: Any) -> None:
    with budget(usd=farebox_usd(held(ride, USEFUL) - 1), on_exceed="clamp") as b:
        with pytest.raises(BudgetExceeded) as refusal:
            ride.ask(client, max_tokens=700)
    assert refusal.value.kind == "oversized"
    assert not provider.requests
    with budget(usd=farebox_usd(held(ride, USEFUL)), on_exceed="clamp"):
        ride.ask(client, max_tokens=700)
    assert caps(provider) == [USEFUL]
    assert b.spent_calls == 0


def test_the_useful_minimum_can_be_set(ride: Ride, provider: Any, client: Any) -> None:
    limit = farebox_usd(held(ride, 200))
    with farebox.configure(useful_output_tokens=300), budget(usd=limit, on_exceed="clamp"):
        with pytest.raises(BudgetExceeded):
            ride.ask(client, max_tokens=700)
    with farebox.configure(useful_output_tokens=20), budget(usd=farebox_usd(held(ride, 30)), on_exceed="clamp"):
        ride.ask(client, max_tokens=700)
    assert caps(provider) == [30]


def test_a_declared_cap_below_the_useful_minimum_is_the_callers_own_choice(
    ride: Ride, provider: Any, client: Any
) -> None:
    with budget(usd=farebox_usd(held(ride, 20)), on_exceed="clamp"):
        ride.ask(client, max_tokens=20)
    with budget(usd=farebox_usd(held(ride, 20) - 1), on_exceed="clamp"), pytest.raises(BudgetExceeded):
        ride.ask(client, max_tokens=20)
    assert caps(provider) == [20]


def test_a_limit_in_tokens_clamps_as_well(ride: Ride, provider: Any, client: Any) -> None:
    provider.answer(output_tokens=5_000)
    limit = bound_of(ride, 250).tokens
    with budget(tokens=limit, on_exceed="clamp") as b:
        ride.ask(client, max_tokens=700)
    assert caps(provider) == [250]
    assert b.spent_tokens == provider.bill.tokens <= limit


def test_several_choices_share_what_is_left(provider: Any, open_client: Any) -> None:
    provider.answer(output_tokens=5_000)
    client, limit = open_client(OPENAI), held(OPENAI, 150, choices=3)
    with stormproof(provider, farebox_usd(limit)), budget(usd=farebox_usd(limit), on_exceed="clamp") as b:
        OPENAI.ask(client, max_tokens=700, n=3)
    assert caps(provider) == [150]
    assert provider.bill.lines[0].output_tokens == 450
    assert b.spent_usd == provider.bill.usd


def test_a_responses_call_is_clamped(provider: Any, open_client: Any) -> None:
    provider.answer(output_tokens=5_000)
    client, limit = open_client(OPENAI), farebox_usd(held(OPENAI, 400))
    with stormproof(provider, limit), budget(usd=limit, on_exceed="clamp") as b:
        client.responses.create(model="gpt-4o-mini", input="hello there, how are you?", max_output_tokens=5_000)
        with pytest.raises(BudgetExceeded):
            client.responses.create(model="gpt-4o-mini", input="hello there, how are you?", max_output_tokens=5_000)
    (sent,) = [request.body["max_output_tokens"] for request in provider.requests]
    assert 300 < sent < 500
    assert b.spent_usd == provider.bill.usd


def test_a_reasoning_model_is_clamped_by_its_own_parameter(provider: Any, open_client: Any) -> None:
    client, words = open_client(OPENAI), OPENAI.words(model="gpt-5-mini", max_completion_tokens=5_000)
    del words["max_tokens"]
    provider.answer(output_tokens=5_000, reasoning_tokens=4_000)
    with stormproof(provider, "0.004"), budget(usd="0.004", on_exceed="clamp") as b:
        client.chat.completions.create(**words)
    (body,) = [request.body for request in provider.requests]
    assert 1_000 < body["max_completion_tokens"] < 5_000
    assert "max_tokens" not in body
    assert b.spent_usd == provider.bill.usd


def test_both_caps_of_a_call_are_lowered(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    with budget(usd=farebox_usd(held(OPENAI, 200)), on_exceed="clamp"):
        list(OPENAI.stream(client, max_tokens=700, extra_body={"max_tokens": 900}))
    assert caps(provider) == [200]


@pytest.mark.parametrize("room", [1_100, 1_500, 2_500, 3_999])
def test_a_thinking_budget_stays_valid_below_the_cap(provider: Any, open_client: Any, room: int) -> None:
    client, limit = open_client(ANTHROPIC), farebox_usd(held(ANTHROPIC, room))
    provider.answer(output_tokens=9_000, reasoning_tokens=5_000)
    with stormproof(provider, limit), budget(usd=limit, on_exceed="clamp") as b:
        ANTHROPIC.ask(client, max_tokens=4_000, thinking={"type": "enabled", "budget_tokens": 3_000})
    (body,) = [request.body for request in provider.requests]
    assert body["max_tokens"] == room
    assert 1_024 <= body["thinking"]["budget_tokens"] <= min(3_000, room - 1)
    assert b.spent_usd == provider.bill.usd


def test_a_thinking_call_that_cannot_think_is_refused(provider: Any, open_client: Any) -> None:
    client, limit = open_client(ANTHROPIC), farebox_usd(held(ANTHROPIC, 1_024))
    with budget(usd=limit, on_exceed="clamp"), pytest.raises(BudgetExceeded):
        ANTHROPIC.ask(client, max_tokens=4_000, thinking={"type": "enabled", "budget_tokens": 3_000})
    assert not provider.requests


def test_a_callable_that_lowers_the_cap_keeps_the_thinking_valid(provider: Any, open_client: Any) -> None:
    client = open_client(ANTHROPIC)
    with budget(usd=TOO_LITTLE, on_exceed=lambda _: on_exceed.Rewrite(max_output_tokens=500)):
        answer = attempt(
            lambda: ANTHROPIC.ask(client, max_tokens=4_000, thinking={"type": "enabled", "budget_tokens": 3_000})
        )
    assert isinstance(answer, (BudgetExceeded, ValueError))
    assert not provider.requests


def test_what_has_no_output_cap_is_refused(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    with budget(usd=TOO_LITTLE, on_exceed="clamp"), pytest.raises(BudgetExceeded):
        client.embeddings.create(model="text-embedding-3-small", input="word " * 4_000)
    assert not provider.requests


def test_a_shortage_of_calls_is_not_met_by_a_lower_cap(ride: Ride, provider: Any, client: Any) -> None:
    with budget(usd=1, calls=1, on_exceed="clamp") as b:
        ride.ask(client)
        with pytest.raises(BudgetExceeded) as refusal:
            ride.ask(client)
    assert refusal.value.unit == "calls"
    assert caps(provider) == [100]
    assert [event.did for event in b.decisions] == ["stop"]


def test_clamp_and_downgrade_go_together(ride: Ride, provider: Any, client: Any) -> None:
    # The outer one changes the model, the inner one finds that not even this fits, and lowers the cap.
    dear = {"openai": "gpt-4o", "anthropic": "claude-opus-4-5"}[ride.name]
    steps = {dear: ride.model}
    limit = farebox_usd(held(ride, 300))
    with stormproof(provider, limit), budget(usd=limit, on_exceed="clamp"):
        with budget(usd=1, at={0.00001: on_exceed.Downgrade(steps)}):
            ride.ask(client, max_tokens=100)
            ride.ask(client, model=dear, max_tokens=5_000)
    assert [request.model for request in provider.requests] == [ride.model] * 2
    assert USEFUL <= caps(provider)[1] < 300
    assert report().total.usd == provider.bill.usd


def test_fifty_at_once_are_clamped_to_what_is_left(ride: Ride, provider: Any, client: Any) -> None:
    provider.answer(output_tokens=5_000)
    limit = farebox_usd(held(ride, 700) * 11 // 2)
    with stormproof(provider, limit), budget(usd=limit, on_exceed="clamp") as b, ThreadPoolExecutor(50) as pool:
        asked = [pool.submit(attempt, lambda: ride.ask(client, max_tokens=700)) for _ in range(50)]
        answers = [one.result() for one in asked]
    refused = [answer for answer in answers if isinstance(answer, BudgetExceeded)]
    assert len(refused) + len(provider.requests) == 50
    assert b.spent_usd == provider.bill.usd <= limit
    assert limit - b.spent_usd < farebox_usd(held(ride, USEFUL))  # nothing useful was left unused
    assert min(caps(provider)) >= USEFUL
    assert b.debt_usd == 0
