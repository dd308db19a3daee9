"""`raise`: one call may cross the limit, and is raised with its answer; afterwards the budget is a gate.  `break`: a stream gets
what is left, and raises where that cuts it."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, on_exceed, report
from farebox.testing import FakeProvider
from tests.acceptance.rides import OPENAI, Ride, attempt, bound_of, farebox_usd, nothing_is_left, outcomes, stormproof
from tests.acceptance.test_modes import (
    PRICES,
    TOO_LITTLE,
    Way,
    ask,
    caps,
    every_stream,
    every_way,
    settled_as_billed,
    travel,
)

pytestmark = pytest.mark.usefixtures("metered")


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(prices=PRICES) as provider:
        provider.chunks(4)
        yield provider


def crossed_by_the_second(ride: Ride, is_stream: bool = False) -> Any:
    """A limit that holds one call, and that the costs of two go past."""
    return farebox_usd(bound_of(ride, is_stream=is_stream).usd_nanos + 1_000)


# ── raise ────────────────────────────────────────────────────────────────────────────────────────────────────────


@every_way
def test_the_crossing_call_is_raised_once_it_is_over(ride: Ride, provider: Any, way: Way) -> None:
    limit = crossed_by_the_second(ride, way.is_stream)
    with stormproof(provider):
        trip = travel(ride, provider, way, budget("r", usd=limit, on_exceed="raise"), times=5)
    assert len(provider.requests) == 2
    assert trip.error is not None
    assert (trip.error.budget, trip.error.unit, trip.error.kind) == ("r", "usd", "exhausted")
    assert trip.error.spent == trip.frame.spent_usd == provider.bill.usd > limit == trip.error.limit
    assert len(trip.answers) == 1
    assert outcomes() == ["completed"] * 2
    assert trip.frame.debt_usd == provider.bill.usd - limit
    settled_as_billed(trip, provider)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_answer_comes_with_the_error(ride: Ride, provider: Any, client: Any, kind: str) -> None:
    async def ask_async() -> Any:
        async with ride.async_client(provider) as other:
            return await ride.ask(other)

    with budget(usd=crossed_by_the_second(ride), on_exceed="raise"):
        first = ride.ask(client)
        with pytest.raises(BudgetExceeded) as caught:
            ride.ask(client) if kind == "sync" else asyncio.run(ask_async())
    answer = caught.value.response
    assert type(answer) is type(first)
    assert answer.id == provider.bill.lines[1].response_id
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("surface", ["stream", "helper"])
def test_every_chunk_of_a_crossing_stream_comes_before_the_error(
    ride: Ride, provider: Any, client: Any, surface: str
) -> None:
    heard: list[Any] = []
    with budget(usd=crossed_by_the_second(ride, is_stream=True), on_exceed="raise"):
        whole = ask(ride, client, surface)
        with pytest.raises(BudgetExceeded) as caught:
            if surface == "stream":
                listen(ride.stream(client), heard)
            else:
                with ride.helper(client) as stream:
                    listen(stream, heard)
    assert len(heard) == len(whole)
    assert caught.value.spent == provider.bill.usd


def listen(stream: Any, heard: list[Any]) -> None:
    """Keep every chunk in `heard`, also those before an error."""
    for chunk in stream:
        heard.append(chunk)  # noqa: PERF402, `extend` would keep none of them


def test_afterwards_the_budget_is_a_gate(ride: Ride, provider: Any, client: Any) -> None:
    with stormproof(provider), budget(usd=crossed_by_the_second(ride), on_exceed="raise", patience=0) as b:
        answers = [attempt(lambda: ride.ask(client)) for _ in range(6)]
    assert [isinstance(answer, BudgetExceeded) for answer in answers[2:]] == [True] * 4
    assert {answer.kind for answer in answers[2:]} == {"exhausted"}
    assert len(provider.requests) == b.spent_calls == 2
    assert b.spent_usd == provider.bill.usd
    nothing_is_left()


def test_a_crossing_call_that_stays_below_the_limit_raises_nothing(ride: Ride, provider: Any, client: Any) -> None:
    # Two bounds do not fit, two costs do: the limit is not passed, and the next may cross it.
    provider.answer(output_tokens=1)
    limit = farebox_usd(bound_of(ride).usd_nanos + 1_000)
    with budget(usd=limit, on_exceed="raise") as b:
        for _ in range(4):
            ride.ask(client)
    assert b.spent_usd == provider.bill.usd < limit
    assert b.debt_usd == 0
    assert outcomes() == ["completed"] * 4


def test_the_crossing_call_must_fit_every_outer_budget(ride: Ride, provider: Any, client: Any) -> None:
    outer_limit = bound_of(ride).usd_nanos * 3 // 2
    with stormproof(provider, farebox_usd(outer_limit)), budget("outer", usd=farebox_usd(outer_limit)) as outer:
        with budget("inner", usd=crossed_by_the_second(ride), on_exceed="raise"):
            ride.ask(client)
            with pytest.raises(BudgetExceeded) as refusal:
                ride.ask(client)
    assert refusal.value.budget == "outer"
    assert len(provider.requests) == 1
    assert outer.debt_usd == 0


def test_the_innermost_of_two_that_were_crossed_is_the_one_that_raises(ride: Ride, provider: Any, client: Any) -> None:
    limit = crossed_by_the_second(ride)
    with budget("outer", usd=limit, on_exceed="raise") as outer, budget("inner", usd=limit, on_exceed="raise"):
        ride.ask(client)
        with pytest.raises(BudgetExceeded) as caught:
            ride.ask(client)
    assert caught.value.budget == "inner"
    assert outer.debt_usd > 0
    nothing_is_left()


def test_a_call_that_fails_while_it_crosses_lets_another_cross(ride: Ride, provider: Any, client: Any) -> None:
    with budget(usd=crossed_by_the_second(ride), on_exceed="raise") as b:
        ride.ask(client)
        provider.fail(status=500)
        answer = attempt(lambda: ride.ask(client))
        assert not isinstance(answer, BudgetExceeded)
        assert b.spent_calls == 1
        attempt(lambda: ride.ask(client))
        assert b.spent_calls == 2
    assert b.spent_usd == provider.bill.usd


def test_an_abandoned_stream_that_crossed_opens_no_second_crossing(ride: Ride, provider: Any, client: Any) -> None:
    with budget(usd=crossed_by_the_second(ride, is_stream=True), on_exceed="raise", patience=0.1) as b:
        list(ride.stream(client))
        crossing = ride.stream(client)
        assert isinstance(attempt(lambda: ride.stream(client)), BudgetExceeded)
        assert len(provider.requests) == 2
        crossing.close()
        assert isinstance(attempt(lambda: ride.stream(client)), BudgetExceeded) == (b.spent_usd >= (b.limit_usd or 0))
    assert b.spent_usd >= provider.bill.usd
    nothing_is_left()


def test_no_unit_that_is_exhausted_is_crossed(ride: Ride, provider: Any, client: Any) -> None:
    # One call is all that `calls` allows; that the money lasts for half of another must not open the gate.
    with budget(usd=crossed_by_the_second(ride), calls=1, on_exceed="raise") as b:
        answers = [attempt(lambda: ride.ask(client)) for _ in range(3)]
    assert [isinstance(answer, BudgetExceeded) for answer in answers] == [False, True, True]
    assert b.spent_calls == len(provider.requests) == 1


def test_a_crossing_in_tokens_is_raised_also_beside_a_limit_in_usd(ride: Ride, provider: Any, client: Any) -> None:
    limit = bound_of(ride).tokens
    for limits in ({"tokens": limit}, {"tokens": limit, "usd": 1}):
        with budget(on_exceed="raise", **limits) as b:
            ride.ask(client)
            with pytest.raises(BudgetExceeded) as caught:
                ride.ask(client)
        assert caught.value.unit == "tokens"
        assert caught.value.spent == b.spent_tokens > limit
        assert caught.value.response is not None


@pytest.mark.parametrize("surface", [Ride.ask, Ride.raw])
def test_a_crossing_call_is_not_sent_again_by_the_sdk(ride: Ride, provider: Any, surface: Any) -> None:
    with ride.client(provider, max_retries=5) as client, budget(usd=crossed_by_the_second(ride), on_exceed="raise"):
        surface(ride, client)
        with pytest.raises(BudgetExceeded) as caught:
            surface(ride, client)
    assert caught.value.response is not None
    assert len(provider.requests) == 2
    assert outcomes() == ["completed"] * 2


def test_a_response_that_is_read_in_pieces_raises_at_its_end(ride: Ride, provider: Any, client: Any) -> None:
    with budget(usd=crossed_by_the_second(ride), on_exceed="raise") as b:
        ride.ask(client)
        with pytest.raises(BudgetExceeded), ride.streaming_response(client) as response:
            assert b"".join(response.iter_bytes())
    assert b.spent_usd == provider.bill.usd
    nothing_is_left()


def test_a_budget_of_nothing_is_a_gate_from_the_start(ride: Ride, provider: Any, client: Any) -> None:
    for limits in ({"usd": 0}, {"tokens": 0}, {"calls": 0}):
        with budget(on_exceed="raise", **limits), pytest.raises(BudgetExceeded):
            ride.ask(client)
    assert not provider.requests


def test_a_limit_in_calls_is_never_crossed(ride: Ride, provider: Any, client: Any) -> None:
    with budget(calls=3, on_exceed="raise") as b:
        answers = [attempt(lambda: ride.ask(client)) for _ in range(5)]
    assert [isinstance(answer, BudgetExceeded) for answer in answers] == [False] * 3 + [True] * 2
    assert b.spent_calls == 3


def test_a_crossing_call_under_truncate_inside_is_raised_all_the_same(ride: Ride, provider: Any, client: Any) -> None:
    with budget("outer", usd=crossed_by_the_second(ride), on_exceed="raise"), pytest.raises(BudgetExceeded):
        with budget("inner", usd=1, on_exceed="truncate"):
            ride.ask(client)
            ride.ask(client)
    assert len(provider.requests) == 2


# ── break ────────────────────────────────────────────────────────────────────────────────────────────────────────


def half_of_a_stream(ride: Ride) -> Any:
    """So much that a stream of 1,000 tokens fits once, and its beginning once more."""
    return farebox_usd(bound_of(ride, 1_000, is_stream=True).usd_nanos * 3 // 2)


@every_stream
def test_a_stream_gets_what_is_left_and_is_cut_there(ride: Ride, provider: Any, way: Way) -> None:
    provider.answer(output_tokens=900)
    limit = half_of_a_stream(ride)
    with stormproof(provider, limit):
        trip = travel(ride, provider, way, budget("b", usd=limit, on_exceed="break"), times=5, max_tokens=1_000)
    first, second = caps(provider)
    assert (first, 64 < second < 900) == (1_000, True)
    assert [line.output_tokens for line in provider.bill.lines] == [900, second]
    assert trip.error is not None
    assert (trip.error.budget, trip.error.kind) == ("b", "exhausted")
    assert trip.error.spent <= trip.error.limit
    assert trip.frame.debt_usd == 0
    assert [event.did for event in trip.frame.decisions] == ["rewrite", "cut"]
    settled_as_billed(trip, provider)


def test_a_stream_that_ends_before_the_cut_is_whole(ride: Ride, provider: Any, client: Any) -> None:
    provider.answer(output_tokens=30)
    limit = farebox_usd(bound_of(ride, 1_000, is_stream=True).usd_nanos * 3 // 4)
    with stormproof(provider, limit), budget(usd=limit, on_exceed="break") as b:
        assert list(ride.stream(client, max_tokens=1_000))
    assert caps(provider)[0] < 1_000
    assert [event.did for event in b.decisions] == ["rewrite"]
    assert b.spent_usd == provider.bill.usd


def test_break_refuses_what_is_no_stream(ride: Ride, provider: Any, client: Any) -> None:
    limit = farebox_usd(bound_of(ride, 1_000).usd_nanos * 3 // 4)
    with budget(usd=limit, on_exceed="break") as b:
        for words in ({"max_tokens": 1_000}, {"max_tokens": 5_000}):
            with pytest.raises(BudgetExceeded):
                ride.ask(client, **words)
    assert not provider.requests
    assert [event.did for event in b.decisions] == ["stop"] * 2


def test_break_refuses_a_stream_that_would_get_no_useful_beginning(ride: Ride, provider: Any, client: Any) -> None:
    limit = farebox_usd(bound_of(ride, 63, is_stream=True).usd_nanos)
    with budget(usd=limit, on_exceed="break"), pytest.raises(BudgetExceeded):
        ride.stream(client, max_tokens=1_000)
    assert not provider.requests
    with budget(usd=farebox_usd(bound_of(ride, 64, is_stream=True).usd_nanos), on_exceed="break"):
        assert attempt(lambda: list(ride.stream(client, max_tokens=1_000)))
    assert caps(provider) == [64]


def test_a_stream_is_cut_at_the_smallest_remainder_of_the_chain(ride: Ride, provider: Any, client: Any) -> None:
    provider.answer(output_tokens=5_000)
    small, large = (bound_of(ride, cap, is_stream=True).usd_nanos for cap in (200, 500))
    with stormproof(provider, farebox_usd(small)), budget("outer", usd=farebox_usd(small)):
        with budget("inner", usd=farebox_usd(large), on_exceed="break"):
            attempt(lambda: list(ride.stream(client, max_tokens=1_000)))
    assert caps(provider) == [200]


def test_a_cut_stream_in_tokens(provider: Any, open_client: Any) -> None:
    client, bound = open_client(OPENAI), bound_of(OPENAI, 300, is_stream=True)
    provider.answer(output_tokens=5_000)
    with budget(tokens=bound.tokens, on_exceed="break") as b:
        attempt(lambda: list(OPENAI.stream(client, max_tokens=2_000)))
    assert caps(provider) == [300]
    assert b.spent_tokens == provider.bill.tokens <= bound.tokens


def test_a_stream_that_ends_at_the_cap_its_caller_declared_was_not_cut(ride: Ride, provider: Any, client: Any) -> None:
    # What was short when the mode was asked is there when the call is held again: it goes as its caller wrote it.
    provider.answer(output_tokens=5_000)
    bound = bound_of(ride, 500, is_stream=True).usd_nanos

    class Late(on_exceed.Break):
        def decide(self, short: Any) -> Any:
            decision = super().decide(short)
            hold.release()
            return decision

    with budget(usd=farebox_usd(bound * 3 // 2), on_exceed=Late(), patience=0):
        with farebox.reserve(usd=farebox_usd(bound)) as hold:
            assert list(ride.stream(client, max_tokens=500))
    assert caps(provider) == [500]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_whose_server_ignores_the_cap_is_broken_off(ride: Ride, kind: str) -> None:
    limit = farebox_usd(bound_of(ride, 100, is_stream=True).usd_nanos)
    heard: list[Any] = []
    with FakeProvider(stream_billing="generated") as provider:
        provider.answer(output_tokens=3_000, overrun_tokens=3_000)
        provider.chunks(3_000)
        provider.pace(0.0005)

        async def main() -> None:
            async with ride.async_client(provider) as client:
                async for chunk in await ride.stream(client, max_tokens=1_000):
                    heard.append(chunk)  # noqa: PERF401, a comprehension would keep none of them

        with budget(usd=limit, on_exceed="break") as b, pytest.raises(BudgetExceeded) as caught:
            if kind == "async":
                asyncio.run(main())
            else:
                with ride.client(provider) as client:
                    listen(ride.stream(client, max_tokens=1_000), heard)
        provider.wait_until_idle()
        assert caps(provider) == [100]
        assert 100 < len(heard) < 200
        assert caught.value.kind == "exhausted"
        assert b.spent_usd >= provider.bill.usd
        assert provider.bill.lines[0].output_tokens < 1_500
    nothing_is_left()


def test_a_stream_of_several_choices_is_heard_to_its_cap(provider: Any, open_client: Any) -> None:
    provider.answer(output_tokens=900)
    provider.chunks(900)
    client = open_client(OPENAI)
    base = bound_of(OPENAI, 100, is_stream=True).usd_nanos - 116 * 600
    with budget(usd=farebox_usd(base + 3 * 216 * 600), on_exceed="break") as b:
        heard: list[Any] = []
        with pytest.raises(BudgetExceeded):
            listen(OPENAI.stream(client, max_tokens=1_000, n=3), heard)
    assert caps(provider) == [200]
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in heard) == 600
    assert outcomes() == ["completed"]
    assert b.spent_usd == provider.bill.usd


def test_break_says_no_more_than_block_once_it_is_exhausted(ride: Ride, provider: Any, client: Any) -> None:
    with budget(usd=TOO_LITTLE, on_exceed="break"):
        for _ in range(5):
            assert isinstance(attempt(lambda: ride.stream(client)), BudgetExceeded)
    assert not provider.requests
    assert report().total.refused_calls == 5


# ── many at once ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_of_fifty_exactly_one_crosses_and_the_rest_are_refused(
    ride: Ride, provider: Any, client: Any, kind: str
) -> None:
    # Costs are close to bounds: four fit, the fifth crosses.
    provider.answer(output_tokens=2_000)
    limit = farebox_usd(bound_of(ride, 2_000).usd_nanos * 9 // 2)

    async def main() -> list[Any]:
        async with ride.async_client(provider) as other:
            return await asyncio.gather(*(ride.ask(other, max_tokens=2_000) for _ in range(50)), return_exceptions=True)

    def rush() -> Any:
        return attempt(lambda: ride.ask(client, max_tokens=2_000))

    with stormproof(provider), budget(usd=1) as outer, budget(usd=limit, on_exceed="raise") as b:
        if kind == "tasks":
            answers = asyncio.run(main())
        else:
            with ThreadPoolExecutor(50) as pool:
                answers = [one.result() for one in [pool.submit(rush) for _ in range(50)]]
    errors = [answer for answer in answers if isinstance(answer, BudgetExceeded)]
    (crossing,) = [error for error in errors if error.response is not None]
    assert crossing.response.id == provider.bill.lines[-1].response_id
    assert len(provider.requests) == b.spent_calls == 5
    assert len(errors) == 46
    assert b.spent_usd == outer.spent_usd == provider.bill.usd > limit
    assert b.spent_usd <= limit + b.debt_usd
    assert sorted(outcomes()) == ["completed"] * 5 + ["refused"] * 45
    nothing_is_left()


class Slow(on_exceed.Raise):
    """While the second call is being decided on, somebody else crosses and is done, as a thread may be."""

    def __init__(self, meddle: Any) -> None:
        self.meddle = meddle
        self.asked = 0

    def decide(self, short: Any) -> Any:
        self.asked += 1
        decision = super().decide(short)
        if self.asked == 1:
            self.meddle()
        return decision


def test_nobody_crosses_who_was_decided_on_before_another_crossed(ride: Ride, provider: Any, client: Any) -> None:
    answers: list[Any] = []
    mode = Slow(lambda: answers.append(attempt(lambda: ride.ask(client))))
    limit = crossed_by_the_second(ride)
    with budget(usd=limit, on_exceed=mode) as b:
        ride.ask(client)
        answers.append(attempt(lambda: ride.ask(client)))
    assert [answer.response is not None for answer in answers] == [True, False]
    assert b.spent_calls == len(provider.requests) == 2


def test_a_call_that_stayed_below_the_limit_is_not_blamed_for_the_next(
    ride: Ride, provider: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.answer(output_tokens=1, times=2)
    answers: list[Any] = []
    limit = farebox_usd(bound_of(ride).usd_nanos + 1_000)
    with budget(usd=limit, on_exceed="raise") as b:
        ride.ask(client)
        settle: Any = b.ledger.settle  # type: ignore[union-attr]
        meddlers = [lambda: answers.extend(attempt(lambda: ride.ask(client)) for _ in range(2))]

        def settle_and_meddle(*words: Any) -> Any:
            """As soon as a crossing is over, somebody else crosses and is done, as a thread may be."""
            done = settle(*words)
            if meddlers:
                meddlers.pop()()
            return done

        monkeypatch.setattr(b.ledger, "settle", settle_and_meddle)
        answers.append(attempt(lambda: ride.ask(client)))
    blamed = [answer for answer in answers if isinstance(answer, BudgetExceeded) and answer.response is not None]
    assert len(blamed) == 1
    assert b.spent_usd == provider.bill.usd > limit
