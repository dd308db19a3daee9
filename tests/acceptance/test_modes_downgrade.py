"""`downgrade`: the next cheaper model that fits and can do what is asked, else a refusal."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, on_exceed, report
from farebox.testing import FakeProvider, Price
from tests.acceptance.rides import ANTHROPIC, OPENAI, Ride, attempt, bound_of, farebox_usd, nothing_is_left, stormproof
from tests.acceptance.test_modes import BELOW, DEAR, PRICES, Way, every_way, models, settled_as_billed, travel

pytestmark = pytest.mark.usefixtures("metered")

#: Nanodollars per input and output token, by hand; OpenAI may write any prompt to its cache, at a quarter more.
RATES = {
    "gpt-4o": (2_500 * 1.25, 10_000),
    "gpt-4o-mini": (150 * 1.25, 600),
    "claude-opus-4-5": (5_000, 25_000),
    "claude-sonnet-4-6": (3_000, 15_000),
    "claude-haiku-4-5": (1_000, 5_000),
}
#: One pixel.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    known = {
        **PRICES,
        "deepseek-v4-pro": Price(input=1, output=2, vendor="openai"),
        "plain-text-llm": Price(input="0.1", output="0.1"),
    }
    with FakeProvider(prices=known) as provider:
        provider.chunks(4)
        yield provider


def bound_nanos(ride: Ride, model: str, cap: int = 100) -> int:
    """What a call of `words()` to that model holds: its input at the input rate, its cap and 16 tokens of slack."""
    went_in, came_out = RATES[model]
    return math.ceil((bound_of(ride).tokens - 116) * went_in) + (cap + max(16, cap // 100)) * came_out


def test_the_hand_made_bounds_are_those_that_are_held(ride: Ride) -> None:
    for one in (ride, DEAR[ride.name]):
        assert bound_nanos(ride, one.model) == bound_of(one).usd_nanos


def sent_to(ride: Ride, limit: int, costs: dict[str, int], times: int) -> list[str]:
    """Whom calls go to, one after another: the first of the ladder that fits, until none does."""
    spent, found = 0, []
    for _ in range(times):
        fits = [m for m in [DEAR[ride.name].model, *BELOW[ride.name]] if spent + bound_nanos(ride, m) <= limit]
        if not fits:
            break
        found.append(fits[0])
        spent += costs[fits[0]]
    return found


@every_way
def test_calls_step_down_the_ladder_and_then_are_refused(ride: Ride, provider: Any, way: Way) -> None:
    dear = DEAR[ride.name].model
    limit = bound_nanos(ride, dear) * 2
    scope = budget("b", usd=farebox_usd(limit), on_exceed="downgrade")
    with stormproof(provider, farebox_usd(limit)):
        trip = travel(ride, provider, way, scope, times=40, model=dear)
    costs = {line.model: line.usd_nanos for line in provider.bill.lines}
    assert models(provider) == sent_to(ride, limit, {**dict.fromkeys(RATES, 0), **costs}, 40)
    assert models(provider)[0] == dear
    assert models(provider)[-1] == BELOW[ride.name][-1]
    if trip.result == "nothing":
        assert trip.error is not None
        assert (trip.error.budget, trip.error.kind) == ("b", "exhausted")
        assert trip.frame.remaining_usd < farebox_usd(bound_nanos(ride, BELOW[ride.name][-1]))
    assert {record.request_model for record in farebox.calls()} == {dear}
    settled_as_billed(trip, provider)


def limit_below(ride: Ride, model: str) -> Any:
    """So much that the model does not fit, and what is below it does."""
    return farebox_usd(bound_nanos(ride, model) - 1)


@pytest.mark.parametrize("spelt", ["map", "list", "object"])
def test_a_map_or_a_list_says_where_to_step(ride: Ride, provider: Any, client: Any, spelt: str) -> None:
    dear, cheapest = DEAR[ride.name].model, BELOW[ride.name][-1]
    steps: Any = [dear, cheapest] if spelt == "list" else {dear: cheapest}
    words = {"on_exceed": "downgrade", "downgrade": steps}
    if spelt == "object":
        words = {"on_exceed": on_exceed.Downgrade(steps)}
    with stormproof(provider), budget(usd=limit_below(ride, dear), **words) as b:
        ride.ask(client, model=dear)
        refusal = attempt(lambda: ride.ask(client, model="nobody-knows"))
    assert models(provider) == [cheapest]
    assert [event.model for event in b.decisions] == [cheapest]
    assert isinstance(refusal, farebox.errors.UnpricedModel)


def test_a_map_steps_further_down_where_the_next_does_not_fit(ride: Ride, provider: Any, client: Any) -> None:
    dear, *below = DEAR[ride.name].model, *BELOW[ride.name]
    between = "gpt-4.1" if ride is OPENAI else "claude-sonnet-4-6"
    ladder = [dear, between, below[-1]]
    with budget(usd=farebox_usd(bound_nanos(ride, below[-1])), on_exceed="downgrade", downgrade=ladder):
        ride.ask(client, model=dear)
    assert models(provider) == [below[-1]]


def test_a_model_that_is_on_no_ladder_and_in_no_map_is_refused(ride: Ride, provider: Any, client: Any) -> None:
    farebox.set_price("my-llm", input_per_million=100, output_per_million=100)
    with budget(usd="0.001", on_exceed="downgrade") as b, pytest.raises(BudgetExceeded):
        ride.ask(client, model="my-llm")
    with budget(usd="0.000001", on_exceed="downgrade", downgrade={"other": "thing"}), pytest.raises(BudgetExceeded):
        ride.ask(client)
    assert not provider.requests
    assert [event.did for event in b.decisions] == ["stop"]


def test_a_dated_name_steps_down_like_its_family(provider: Any, open_client: Any) -> None:
    client, dated = open_client(OPENAI), "gpt-4o-2024-08-06"
    with budget(usd=limit_below(OPENAI, "gpt-4o"), on_exceed="downgrade"):
        OPENAI.ask(client, model=dated)
    assert models(provider) == ["gpt-4o-mini"]


def test_a_dated_name_steps_down_a_map_like_its_family(provider: Any, open_client: Any) -> None:
    client, dated = open_client(OPENAI), "gpt-4o-2024-08-06"
    steps = {"gpt-4o": "gpt-4o-mini"}
    with budget(usd=limit_below(OPENAI, "gpt-4o"), on_exceed="downgrade", downgrade=steps):
        OPENAI.ask(client, model=dated)
    assert models(provider) == ["gpt-4o-mini"]


def test_the_next_call_is_asked_again_for_the_model_it_named(ride: Ride, provider: Any, client: Any) -> None:
    # The first has to step down because another holds the money, and the second finds it back.
    dear, cheapest = DEAR[ride.name].model, BELOW[ride.name][-1]
    limit = bound_nanos(ride, dear) + bound_nanos(ride, cheapest)
    provider.answer(output_tokens=1)
    with budget(usd=farebox_usd(limit), on_exceed="downgrade", patience=0):
        with farebox.reserve(usd=farebox_usd(bound_nanos(ride, dear))) as hold:
            ride.ask(client, model=dear)
            hold.release()
        ride.ask(client, model=dear)
    assert models(provider)[1] == dear
    assert models(provider)[0] != dear


def test_contended_money_is_waited_for_before_the_model_is_changed(ride: Ride, provider: Any) -> None:
    dear = DEAR[ride.name].model
    provider.answer(output_tokens=10)
    provider.delay(0.1, times=1)
    limit = farebox_usd(bound_nanos(ride, dear) * 3 // 2)

    async def main() -> None:
        async with ride.async_client(provider) as client:
            await asyncio.gather(*(ride.ask(client, model=dear) for _ in range(2)))

    with stormproof(provider, limit), budget(usd=limit, on_exceed="downgrade"):
        asyncio.run(main())
    assert models(provider) == [dear] * 2


def test_a_longer_answer_than_the_cheaper_model_gives_is_not_sent_to_it(provider: Any, open_client: Any) -> None:
    # gpt-4.1 puts out 32,768 tokens, gpt-4o-mini 16,384.
    client, steps = open_client(OPENAI), {"gpt-4.1": "gpt-4o-mini"}
    with budget(usd="0.2", on_exceed="downgrade", downgrade=steps), pytest.raises(BudgetExceeded):
        OPENAI.ask(client, model="gpt-4.1", max_tokens=30_000)
    assert not provider.requests
    with budget(usd="0.1", on_exceed="downgrade", downgrade=steps):
        OPENAI.ask(client, model="gpt-4.1", max_tokens=16_000)
    assert models(provider) == ["gpt-4o-mini"]


# ── what a cheaper model must be able to do ──────────────────────────────────────────────────────────────────────

TOOL = {"name": "look", "description": "Looks it up.", "parameters": {"type": "object", "properties": {}}}


def with_tools(ride: Ride) -> dict[str, Any]:
    if ride is OPENAI:
        return {"tools": [{"type": "function", "function": TOOL}]}
    return {"tools": [{"name": "look", "description": "Looks it up.", "input_schema": TOOL["parameters"]}]}


def with_an_image(ride: Ride) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    if ride is ANTHROPIC:
        part = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, part]}]}


@pytest.mark.parametrize("needs", [with_tools, with_an_image])
def test_a_call_goes_to_a_cheaper_model_that_can_do_it(ride: Ride, provider: Any, client: Any, needs: Any) -> None:
    dear = DEAR[ride.name].model
    limit = farebox_usd(bound_nanos(ride, dear, cap=4_000))
    with stormproof(provider, limit), budget(usd=limit, on_exceed="downgrade"):
        ride.ask(client, model=dear, max_tokens=5_000, **needs(ride))
    assert models(provider) == BELOW[ride.name][:1]
    nothing_is_left()


@pytest.mark.parametrize("needs", [with_tools, with_an_image])
def test_a_model_that_somebody_named_is_believed_to_do_it(ride: Ride, provider: Any, client: Any, needs: Any) -> None:
    farebox.set_price("plain-text-llm", input_per_million="0.1", output_per_million="0.1")
    dear = DEAR[ride.name].model
    limit = farebox_usd(bound_nanos(ride, dear, cap=4_000))
    with budget(usd=limit, on_exceed="downgrade", downgrade={dear: "plain-text-llm"}):
        ride.ask(client, model=dear, max_tokens=5_000, **needs(ride))
    assert models(provider) == ["plain-text-llm"]


def test_a_map_passes_over_what_is_known_not_to_do_it(provider: Any, open_client: Any) -> None:
    client, ladder = open_client(OPENAI), ["gpt-4o", "deepseek-v4-pro", "gpt-4o-mini"]
    farebox.set_price("deepseek-v4-pro", input_per_million=1, output_per_million=2)
    limit = farebox_usd(bound_nanos(OPENAI, "gpt-4o", cap=2_000))
    for needs, model in (({}, "deepseek-v4-pro"), (with_an_image(OPENAI), "gpt-4o-mini")):
        with budget(usd=limit, on_exceed="downgrade", downgrade=ladder):
            OPENAI.ask(client, model="gpt-4o", max_tokens=3_000, **needs)
        assert models(provider)[-1] == model


def test_embeddings_are_never_downgraded(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    steps = {"text-embedding-3-large": "text-embedding-3-small"}
    with budget(usd="0.0001", on_exceed="downgrade", downgrade=steps) as b, pytest.raises(BudgetExceeded):
        client.embeddings.create(model="text-embedding-3-large", input="word " * 4_000)
    assert not provider.requests
    assert [event.did for event in b.decisions] == ["stop"]


def test_a_responses_call_steps_down_as_well(provider: Any, open_client: Any) -> None:
    client, limit = open_client(OPENAI), farebox_usd(bound_nanos(OPENAI, "gpt-4o", cap=400))
    with stormproof(provider, limit), budget(usd=limit, on_exceed="downgrade") as b:
        client.responses.create(model="gpt-4o", input="hello there, how are you?", max_output_tokens=500)
    assert models(provider) == ["gpt-4o-mini"]
    assert b.spent_usd == provider.bill.usd


def test_the_answer_is_charged_at_the_rates_of_the_model_that_gave_it(ride: Ride, provider: Any, client: Any) -> None:
    dear = DEAR[ride.name].model
    with budget(usd=limit_below(ride, dear), on_exceed="downgrade") as b:
        ride.ask(client, model=dear)
    (record,) = farebox.calls()
    assert (record.request_model, record.response_model) == (dear, BELOW[ride.name][0])
    assert (record.decision, record.cost_source) == ("rewrite", "list")
    assert record.usd == b.spent_usd == provider.bill.usd
    assert [row.model for row in report(by="model")] == BELOW[ride.name][:1]


# ── what is wrong with it is said when the budget is made ────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ({"gpt-4o": "gpt-4o"}, "circle"),
        ({"gpt-4o": "gpt-4o-mini", "gpt-4o-mini": "gpt-4o"}, "circle"),
        (["gpt-4o", "gpt-4o-mini", "gpt-4o"], "circle"),
        ({"gpt-4o-mini": "gpt-4o"}, "goes up in price"),
        (["gpt-5-nano", "gpt-5-mini"], "goes up in price"),
        ({"claude-haiku-4-5": "claude-opus-4-5"}, "goes up in price"),
        ({}, "no step"),
        (["gpt-4o"], "no step"),
    ],
)
def test_a_map_that_is_no_way_down_is_refused_when_the_budget_is_made(steps: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        budget(usd=1, on_exceed="downgrade", downgrade=steps)


def test_downgrade_needs_a_limit_in_usd() -> None:
    for limits in ({"tokens": 100}, {"calls": 5}):
        with pytest.raises(ValueError, match=r"downgrade.*can do nothing"):
            budget(on_exceed="downgrade", **limits)


def test_a_shortage_of_tokens_or_calls_is_not_met_by_a_cheaper_model(ride: Ride, provider: Any, client: Any) -> None:
    dear = DEAR[ride.name].model
    for limits in ({"tokens": 10}, {"calls": 0}):
        with budget(usd=5, on_exceed="downgrade", **limits), pytest.raises(BudgetExceeded):
            ride.ask(client, model=dear)
    assert not provider.requests


@pytest.mark.parametrize("outer_mode", ["block", "clamp", "downgrade", "warn"])
def test_where_nobody_declared_a_cap_a_whole_answer_on_a_cheaper_model_comes_before_a_stump(
    provider: Any, open_client: Any, outer_mode: str
) -> None:
    provider.answer(output_tokens=300)
    client, dear = open_client(OPENAI), DEAR["openai"].model
    with (
        budget("outer", usd=1, on_exceed=outer_mode),
        stormproof(provider, "0.1"),
        budget("b", usd="0.1", on_exceed="downgrade") as b,
        pytest.raises(BudgetExceeded),
    ):
        while True:
            OPENAI.ask(client, model=dear, max_tokens=None)
    lines = provider.bill.lines
    sent = models(provider)
    assert sent == sorted(sent, key=[dear, *BELOW["openai"]].index)  # down the ladder, and never up again
    assert {line.output_tokens for line in lines if line.model != sent[-1]} == {300}
    assert sum(line.output_tokens < 300 for line in lines) <= 1  # the last one on the cheapest, where the chain ends
    assert b.spent_usd == provider.bill.usd > farebox_usd(99_000_000)
