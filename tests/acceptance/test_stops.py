"""A stop stays stopped: it reaches the program unchanged, no loop gets past it, and each refused call is counted."""

from __future__ import annotations

import asyncio
import logging
import pickle
import warnings
from typing import Any

import anthropic
import openai
import pytest

import farebox
from farebox import BudgetExceeded, budget, on_exceed, report, signals
from farebox.errors import BudgetWarning, UnpricedModel
from farebox.on_exceed import Proceed, Rewrite, Stop, Wait
from tests.acceptance import rides
from tests.acceptance.rides import (
    ANTHROPIC,
    OPENAI,
    Ride,
    bound_of,
    farebox_usd,
    needs,
    nothing_is_left,
    outcomes,
    stormproof,
)

pytestmark = pytest.mark.usefixtures("metered")

TOO_LITTLE = "0.000001"


@pytest.fixture
def told() -> Any:
    """Every decision that is published."""
    heard: list[Any] = []

    def hear(_: str, decision: Any) -> None:
        heard.append(decision)

    with signals.decision.connected_to(hear):
        yield heard


def helped(ride: Ride, client: Any) -> None:
    with ride.helper(client) as stream:
        list(stream)


def streamed_raw(ride: Ride, client: Any) -> None:
    with ride.streaming_response(client) as response:
        response.read()


def parsed(ride: Ride, client: Any) -> None:
    needs(ride.api(client), "parse")(**ride.words())


WAYS = [Ride.ask, Ride.stream, Ride.raw, helped, streamed_raw, parsed]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_stop_reaches_the_program_unchanged_and_is_not_retried(ride: Ride, provider: Any, way: Any) -> None:
    with ride.client(provider, max_retries=5) as client, budget("tight", usd=TOO_LITTLE):
        with pytest.raises(BudgetExceeded) as refusal:
            way(ride, client)
    error = refusal.value
    assert error.__cause__ is None
    assert (error.budget, error.unit, error.kind) == ("tight", "usd", "oversized")
    assert error.needed > error.limit
    assert not isinstance(error, (openai.OpenAIError, anthropic.AnthropicError))
    assert not provider.requests
    assert outcomes() == ["refused"]
    assert report().total.refused_calls == 1
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    nothing_is_left()


@pytest.mark.parametrize("way", ["ask", "stream", "helper", "raw"])
def test_an_async_stop_reaches_the_program_unchanged(ride: Ride, provider: Any, way: str) -> None:
    async def main() -> None:
        async with ride.async_client(provider, max_retries=5) as client:
            with pytest.raises(BudgetExceeded):
                if way == "helper":
                    async with ride.helper(client) as stream:
                        await anext(aiter(stream))
                else:
                    await getattr(ride, way)(client)

    with budget(usd=TOO_LITTLE):
        asyncio.run(main())
    assert not provider.requests
    assert outcomes() == ["refused"]


def test_a_loop_that_swallows_everything_sends_nothing_more(ride: Ride, provider: Any, client: Any) -> None:
    limit = bound_of(ride).usd(2)
    with stormproof(provider, limit), budget(usd=limit) as tight:
        for _ in range(50):
            try:
                ride.ask(client)
            except Exception:
                pass
        sent = len(provider.requests)
        for _ in range(50):
            try:
                ride.ask(client)
            except Exception:
                pass
    assert len(provider.requests) == sent == tight.spent_calls
    total = report().total
    assert (total.calls, total.refused_calls) == (sent, 100 - sent)
    assert len([event for event in tight.decisions if event.did == "stop"]) == 100 - sent


def test_a_stop_thrown_on_as_another_error_is_still_a_stop(ride: Ride, provider: Any, client: Any) -> None:
    @budget(usd=TOO_LITTLE)
    def agent() -> None:
        for _ in range(5):
            with pytest.raises(RuntimeError):
                try:
                    ride.ask(client)
                except Exception as error:
                    raise RuntimeError("model failed") from error
        raise RuntimeError("gave up")

    with pytest.raises(RuntimeError, match="gave up"):
        agent()
    assert not provider.requests
    assert report().total.refused_calls == 5


def test_an_oversized_call_is_told_which_cap_is_too_high(ride: Ride, provider: Any, client: Any) -> None:
    with budget("small", usd=bound_of(ride).usd(2)), pytest.raises(BudgetExceeded) as refusal:
        ride.ask(client, max_tokens=31_999)
    assert refusal.value.kind == "oversized"
    assert "31999" in str(refusal.value)
    assert "small" in str(refusal.value).splitlines()[0]


def test_a_stop_says_nothing_of_prompts_or_keys(ride: Ride, provider: Any) -> None:
    with ride.client(provider, api_key="sk-very-secret") as client, budget(usd=TOO_LITTLE):
        with pytest.raises(BudgetExceeded) as refusal:
            ride.ask(client, messages=[{"role": "user", "content": "my deepest secret"}])
    for text in (str(refusal.value), repr(farebox.calls()), str(report(by="model"))):
        assert "secret" not in text


# ── warn ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_warn_sends_everything_warns_once_and_publishes_each(
    ride: Ride, provider: Any, client: Any, told: list[Any]
) -> None:
    with warnings.catch_warnings(record=True) as warned, budget("loud", usd=TOO_LITTLE, on_exceed="warn") as loud:
        warnings.simplefilter("always")
        for _ in range(5):
            ride.ask(client)
        list(ride.stream(client))
    assert [warning.category for warning in warned] == [BudgetWarning]
    assert len(provider.requests) == 6
    assert (
        [(event.did, event.budget) for event in told]
        == [("proceed", "loud")] * 6
        == [(event.did, event.budget) for event in loud.decisions]
    )
    assert loud.spent_usd == provider.bill.usd
    nothing_is_left()


def test_a_warning_points_at_the_programs_own_line(ride: Ride, provider: Any, client: Any) -> None:
    with warnings.catch_warnings(record=True) as warned, budget(usd=TOO_LITTLE, on_exceed="warn"):
        warnings.simplefilter("always")
        ride.ask(client)
    assert [warning.filename for warning in warned] == [rides.__file__]


def test_warn_never_waits(ride: Ride, provider: Any, client: Any) -> None:
    with warnings.catch_warnings(), budget(usd=bound_of(ride, is_stream=True).usd(1), on_exceed="warn"):
        warnings.simplefilter("ignore")
        streams = [ride.stream(client) for _ in range(4)]
        assert len(provider.requests) == 4
        for stream in streams:
            list(stream)
    nothing_is_left()


def test_warn_does_not_touch_the_request(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    words = OPENAI.words()
    del words["max_tokens"]
    with warnings.catch_warnings(), budget(usd=TOO_LITTLE, on_exceed="warn"):
        warnings.simplefilter("ignore")
        client.chat.completions.create(**words)
    assert provider.requests[0].body == words


def test_warn_inside_block_never_masks_the_outer_limit(ride: Ride, provider: Any, client: Any) -> None:
    limit = bound_of(ride).usd(1)
    with stormproof(provider, limit), budget("outer", usd=limit), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with budget("inner", usd=TOO_LITTLE, on_exceed="warn"):
            ride.ask(client)
            with pytest.raises(BudgetExceeded) as refusal:
                ride.ask(client)
    assert refusal.value.budget == "outer"
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "depth",
    [
        2,
        15,
        20,
    ],
)
def test_warn_lets_go_at_any_depth(provider: Any, open_client: Any, depth: int) -> None:
    client = open_client(OPENAI)

    @budget(usd=TOO_LITTLE, on_exceed="warn")
    def recurse(left: int) -> None:
        if left:
            recurse(left - 1)
        else:
            OPENAI.ask(client)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recurse(depth)
    assert len(provider.requests) == 1


# ── callables ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_callable_is_asked_with_the_numbers(ride: Ride, provider: Any, client: Any) -> None:
    asked: list[Any] = []

    def note(short: Any) -> None:
        asked.append(short)

    limit = bound_of(ride).usd(1)
    with budget("named", usd=limit, on_exceed=note) as frame, pytest.raises(BudgetExceeded):
        ride.ask(client)
        ride.ask(client)
    (short,) = asked
    assert (short.budget, short.unit, short.kind) == ("named", "usd", "exhausted")
    assert short.spent == frame.spent_usd == provider.bill.usd
    assert short.needed == farebox_usd(bound_of(ride).usd_nanos)
    assert short.limit == farebox_usd(bound_of(ride).usd_nanos)
    assert short.call.request_model == ride.model
    assert short.remaining == short.limit - short.spent


def boom(_: Any) -> Any:
    raise KeyError("the program's own")


#  what the callable returns            what the program gets    sent
ANSWERS: list[tuple[Any, Any, int]] = [
    (lambda _: Stop(),                  BudgetExceeded,          0),
    (lambda _: None,                    BudgetExceeded,          0),
    (lambda _: Proceed(),               None,                    1),
    (lambda _: Wait(0.01),              BudgetExceeded,          0),
    (lambda _: Wait(0),                 BudgetExceeded,          0),
    (lambda _: Wait(-1),                BudgetExceeded,          0),
    (lambda _: Rewrite(),               BudgetExceeded,          0),
    (lambda _: Rewrite(max_output_tokens=16),   None,            1),
    (lambda _: Rewrite(max_output_tokens=10**6), BudgetExceeded, 0),
    (lambda _: True,                    TypeError,               0),
    (lambda _: "block",                 TypeError,               0),
    (lambda _: Stop,                    TypeError,               0),
    (boom,                              KeyError,                0),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(("answer", "error", "sent"), ANSWERS)
def test_a_callable_decides(ride: Ride, provider: Any, kind: str, answer: Any, error: Any, sent: int) -> None:
    async def ask_async() -> None:
        async with ride.async_client(provider) as client:
            await ride.ask(client, max_tokens=300)

    def ask() -> None:
        if kind == "async":
            asyncio.run(ask_async())
        else:
            with ride.client(provider) as client:
                ride.ask(client, max_tokens=300)

    with stormproof(provider), budget(usd=bound_of(ride).usd(1), on_exceed=answer) as frame:
        if error is None:
            ask()
        else:
            with pytest.raises(error):
                ask()
    assert len(provider.requests) == sent
    assert report().total.refused_calls == (not sent)
    assert frame.spent_usd == provider.bill.usd
    if answer is not ANSWERS[2][0]:
        assert frame.spent_usd <= farebox_usd(bound_of(ride).usd_nanos)


def test_a_rewrite_to_a_cheaper_model_is_sent_to_it(ride: Ride, provider: Any, client: Any) -> None:
    dear = {"openai": "gpt-4o", "anthropic": "claude-opus-4-5"}[ride.name]
    limit = bound_of(ride).usd(1)
    with stormproof(provider, limit), budget(usd=limit, on_exceed=lambda _: Rewrite(model=ride.model)) as frame:
        ride.ask(client, model=dear)
    assert provider.requests[0].model == provider.bill.lines[0].model == ride.model
    assert frame.spent_usd == provider.bill.usd
    (record,) = farebox.calls()
    assert record.request_model == dear
    assert record.decision == "rewrite"


def test_a_rewrite_to_a_model_that_does_not_fit_is_stopped(ride: Ride, provider: Any, client: Any) -> None:
    dear = {"openai": "gpt-4o", "anthropic": "claude-opus-4-5"}[ride.name]
    with budget(usd=TOO_LITTLE, on_exceed=lambda _: Rewrite(model=dear)), pytest.raises(BudgetExceeded):
        ride.ask(client)
    assert not provider.requests
    nothing_is_left()


def test_rewrites_round_and_round_come_to_an_end(provider: Any, open_client: Any) -> None:
    models = iter(["gpt-4o", "gpt-4o-mini"] * 100)
    client = open_client(OPENAI)
    with budget(usd=TOO_LITTLE, on_exceed=lambda _: Rewrite(model=next(models))), pytest.raises(BudgetExceeded):
        OPENAI.ask(client)
    assert not provider.requests
    assert outcomes() == ["refused"]


def test_a_rewrite_to_a_model_without_a_price_is_refused_once(ride: Ride, provider: Any, client: Any) -> None:
    with budget(usd=TOO_LITTLE, on_exceed=lambda _: Rewrite(model="nobody-knows")), pytest.raises(UnpricedModel):
        ride.ask(client)
    assert not provider.requests
    assert report().total.refused_calls == 1
    nothing_is_left()


def test_a_rewritten_stream_and_an_extra_body_are_capped(ride: Ride, provider: Any, client: Any) -> None:
    limit = bound_of(ride).usd(1)
    with stormproof(provider, limit), budget(usd=limit, on_exceed=lambda _: Rewrite(max_output_tokens=17)):
        list(ride.stream(client, max_tokens=200, extra_body={"max_tokens": 5_000}))
    assert provider.bill.lines[0].output_tokens == 17


def test_an_inner_proceed_never_masks_an_outer_limit(ride: Ride, provider: Any, client: Any) -> None:
    limit = bound_of(ride).usd(1)
    asked: list[str] = []

    def wave_through(short: Any) -> Any:
        asked.append(short.budget)
        return Proceed()

    with stormproof(provider, limit), budget("outer", usd=limit):
        with budget("middle", usd=TOO_LITTLE, on_exceed=wave_through):
            with budget("inner", calls=0, on_exceed=wave_through):
                ride.ask(client)
                with pytest.raises(BudgetExceeded) as refusal:
                    ride.ask(client)
    assert refusal.value.budget == "outer"
    assert asked[:2] == ["inner", "middle"]
    assert len(provider.requests) == 1


def test_a_mode_that_calls_an_llm_itself_is_gated_too(ride: Ride, provider: Any, client: Any) -> None:
    depth = 0

    def ask_a_judge(short: Any) -> Any:
        nonlocal depth
        depth += 1
        if depth < 5:
            ride.ask(client)
        return Stop()

    with budget(usd=TOO_LITTLE, on_exceed=ask_a_judge), pytest.raises(BudgetExceeded):
        ride.ask(client)
    assert not provider.requests
    assert depth == 5
    nothing_is_left()


def test_a_failing_decision_receiver_changes_nothing(
    ride: Ride, provider: Any, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: str, decision: Any) -> None:
        raise KeyError("the receiver's own")

    faults = signals.decision.faults
    with signals.decision.connected_to(fails), caplog.at_level(logging.CRITICAL, "farebox"):
        with budget(usd=TOO_LITTLE), pytest.raises(BudgetExceeded):
            ride.ask(client)
        with budget(usd=TOO_LITTLE, on_exceed=lambda _: Proceed()):
            ride.ask(client)
    assert signals.decision.faults == faults + 2
    assert outcomes() == ["refused", "completed"]


def test_budgets_of_nothing_send_nothing(provider: Any, open_client: Any) -> None:
    for ride in (OPENAI, ANTHROPIC):
        client = open_client(ride)
        for limit in ({"usd": 0}, {"tokens": 0}, {"calls": 0}):
            with budget(**limit), pytest.raises(BudgetExceeded) as refusal:
                ride.ask(client)
            assert refusal.value.kind == "oversized"
    assert not provider.requests


def test_a_model_without_a_price_is_refused_under_usd_only(ride: Ride, provider: Any, client: Any) -> None:
    with budget(usd=1), pytest.raises(UnpricedModel, match="set_price"):
        ride.ask(client, model="nobody-knows")
    assert not provider.requests
    with budget(tokens=10_000), pytest.raises((openai.NotFoundError, anthropic.NotFoundError)):
        ride.ask(client, model="nobody-knows")
    assert sorted(outcomes()) == ["failed", "refused"]


def test_a_free_model_runs_under_a_budget_of_nothing(provider: Any, open_client: Any) -> None:
    from farebox.testing import FakeProvider, Price

    with FakeProvider(prices={"my-llm": Price(input=0, output=0)}) as free, OPENAI.client(free) as client:
        farebox.set_price("my-llm", input_per_million=0, output_per_million=0)
        with budget(usd=0) as nothing:
            OPENAI.ask(client, model="my-llm")
        assert nothing.spent_calls == 1
        with budget(usd=0, tokens=10), pytest.raises(BudgetExceeded):
            OPENAI.ask(client, model="my-llm")
        assert free.bill.calls == 1


def test_modes_are_checked_when_a_budget_is_made() -> None:
    for wrong in ("blok", 7, on_exceed.Block):
        with pytest.raises((ValueError, TypeError)):
            budget(usd=1, on_exceed=wrong)
