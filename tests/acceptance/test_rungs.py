"""Rungs below a limit, on real calls: told once, acted on from the next call on, against the provider's bill."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, on_exceed, report, signals
from farebox.on_exceed import Threshold
from farebox.testing import FakeProvider
from tests.acceptance.rides import Ride, attempt, bound_of, farebox_usd, nothing_is_left, stormproof
from tests.acceptance.test_modes import (
    BELOW,
    DEAR,
    PRICES,
    Way,
    every_way,
    models,
    settled_as_billed,
    travel,
)

pytestmark = pytest.mark.usefixtures("metered")


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(prices=PRICES) as provider:
        provider.chunks(4)
        yield provider


def limit_of(ride: Ride, calls: int) -> Any:
    return farebox_usd(bound_of(ride).usd_nanos * calls)


def below(share: float, limit: Any, spent: Any) -> bool:
    return bool(spent < farebox_usd(round(share * int(limit.scaleb(9)))))


@every_way
def test_a_program_steps_down_at_a_rung_and_is_refused_at_the_next(ride: Ride, provider: Any, way: Way) -> None:
    told: list[Threshold] = []
    dear, next_below = DEAR[ride.name], BELOW[ride.name][0]
    limit = limit_of(dear, 4)
    scope = budget("b", usd=limit, at={0.25: told.append, 0.5: "downgrade", 0.75: "block"})
    with stormproof(provider, limit):
        trip = travel(ride, provider, way, scope, times=60, model=dear.model)
    # By hand: each call goes where what was spent before it says.
    spent, expected = 0, []
    for line in provider.bill.lines:
        expected.append(dear.model if below(0.5, limit, farebox_usd(spent)) else next_below)
        assert below(0.75, limit, farebox_usd(spent))
        spent += line.usd_nanos
    assert models(provider) == expected
    assert set(expected) == {dear.model, next_below}
    assert not below(0.75, limit, trip.frame.spent_usd)
    assert trip.error is not None
    assert "rung at 75%" in str(trip.error)
    assert [one.share for one in told] == [0.25]
    assert {event.did for event in trip.frame.decisions[:-1]} == {"rewrite"}
    settled_as_billed(trip, provider)


@pytest.mark.parametrize("crowd", ["threads", "tasks"])
def test_fifty_at_once_enter_each_rung_once(ride: Ride, provider: Any, client: Any, crowd: str) -> None:
    told: list[Threshold] = []
    heard: list[Threshold] = []
    shares = [0.05, 0.2, 0.4, 0.6, 0.8]

    def hear(_: str, threshold: Threshold) -> None:
        heard.append(threshold)

    async def main() -> None:
        async with ride.async_client(provider) as other:
            await asyncio.gather(*(ride.ask(other) for _ in range(50)), return_exceptions=True)

    limit = limit_of(ride, 20)
    rungs = dict.fromkeys(shares, told.append)
    with stormproof(provider, limit), signals.threshold.connected_to(hear), budget("outer", usd=1):
        with budget("b", usd=limit, calls=50, at=rungs) as b:
            if crowd == "tasks":
                asyncio.run(main())
            else:
                with ThreadPoolExecutor(50) as pool:
                    for _ in range(50):
                        pool.submit(attempt, lambda: ride.ask(client))
    reached = [("calls", share) for share in shares if share * 50 <= b.spent_calls]
    reached += [("usd", share) for share in shares if not below(share, limit, b.spent_usd)]
    assert sorted((one.unit, one.share) for one in told) == reached
    assert sorted(map(repr, heard)) == sorted(map(repr, told))
    assert len(reached) >= 5
    nothing_is_left()


def test_a_rung_is_told_once_the_money_is_settled(ride: Ride, provider: Any, client: Any) -> None:
    seen: list[Any] = []

    def look(threshold: Threshold) -> None:
        total = report().total
        seen.append((threshold.spent, total.usd, total.reserved_usd, provider.bill.usd))

    with budget(usd=limit_of(ride, 2), at={0.1: look}):
        ride.ask(client)
    ((spent, reported, reserved, billed),) = seen
    assert (spent, reported, reserved) == (billed, billed, 0)


def test_a_callable_that_raises_keeps_no_answer_from_its_caller(
    ride: Ride, provider: Any, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: Threshold) -> None:
        raise KeyError("hello there, how are you?")

    with caplog.at_level(logging.ERROR, "farebox"), budget(usd=limit_of(ride, 3), at={0.1: fails, 0.2: fails}) as b:
        assert ride.ask(client)
        assert list(ride.stream(client))
    assert b.spent_usd == provider.bill.usd
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "hello there" not in caplog.text


def test_a_callable_may_ask_a_model_itself_and_is_gated_too(ride: Ride, provider: Any, client: Any) -> None:
    answers: list[Any] = []

    def ask_another(_: Threshold) -> None:
        answers.append(attempt(lambda: ride.ask(client)))

    limit = limit_of(ride, 1)
    with stormproof(provider, limit), budget(usd=limit, at={0.1: ask_another}) as b:
        ride.ask(client)
    assert [type(answer) for answer in answers] == [BudgetExceeded]
    assert b.spent_usd == provider.bill.usd


def test_a_downgrade_that_finds_no_lower_model_lets_the_call_go_as_asked(
    ride: Ride, provider: Any, client: Any
) -> None:
    cheapest = BELOW[ride.name][-1]
    with budget(usd=limit_of(ride, 4), at={0.01: "downgrade"}) as b:
        for _ in range(3):
            ride.ask(client, model=cheapest)
    assert models(provider) == [cheapest] * 3
    assert b.decisions == []


def test_one_step_down_however_many_budgets_are_at_a_rung(ride: Ride, provider: Any, client: Any) -> None:
    dear = DEAR[ride.name]
    rungs: Any = {0.01: "downgrade"}
    with budget(usd=limit_of(dear, 9), at=rungs), budget(usd=limit_of(dear, 9), at=rungs):
        for _ in range(3):
            ride.ask(client, model=dear.model)
    assert models(provider) == [dear.model, BELOW[ride.name][0], BELOW[ride.name][0]]


def test_a_rung_and_the_limit_speak_one_after_the_other(ride: Ride, provider: Any, client: Any) -> None:
    # The rung steps down once; at the limit the budget steps down as far as it takes.
    dear = DEAR[ride.name]
    limit = limit_of(dear, 2)
    with stormproof(provider, limit), budget(usd=limit, on_exceed="downgrade", at={0.3: "downgrade"}) as b:
        while not isinstance(attempt(lambda: ride.ask(client, model=dear.model)), BudgetExceeded):
            pass
    sent = models(provider)
    assert sent == sorted(sent, key=[dear.model, *BELOW[ride.name]].index)
    assert set(sent) == {dear.model, *BELOW[ride.name]}
    assert b.spent_usd == provider.bill.usd
    nothing_is_left()


def test_a_rung_inside_masks_no_limit_outside(ride: Ride, provider: Any, client: Any) -> None:
    limit = limit_of(ride, 2)
    wave = on_exceed.Ask(lambda _: on_exceed.Proceed())
    with stormproof(provider, limit), budget("outer", usd=limit), budget("inner", usd=1, at={0.00001: wave}):
        answers = [attempt(lambda: ride.ask(client)) for _ in range(5)]
    refused = [answer for answer in answers if isinstance(answer, BudgetExceeded)]
    assert {error.budget for error in refused} == {"outer"}
    assert len(refused) + len(provider.requests) == 5
    nothing_is_left()


def test_an_outer_rung_refuses_what_an_inner_rung_rewrote(ride: Ride, provider: Any, client: Any) -> None:
    dear = DEAR[ride.name]
    with budget("outer", usd=limit_of(dear, 9), at={0.01: "block"}) as outer:
        with budget("inner", usd=limit_of(dear, 9), at={0.01: "downgrade"}):
            ride.ask(client, model=dear.model)
            with pytest.raises(BudgetExceeded) as refusal:
                ride.ask(client, model=dear.model)
    assert refusal.value.budget == "outer"
    assert [event.did for event in outer.decisions] == ["stop"]
    assert len(provider.requests) == 1
    nothing_is_left()


def test_a_stream_enters_a_rung_when_it_has_ended(ride: Ride, provider: Any, client: Any) -> None:
    told: list[Threshold] = []
    with budget(usd=limit_of(ride, 4), at={0.1: told.append}):
        stream = ride.stream(client)
        next(iter(stream))
        assert told == []
        list(stream)
        assert len(told) == 1


def test_a_stream_that_was_closed_enters_a_rung_with_the_next_call(ride: Ride, provider: Any, client: Any) -> None:
    told: list[Threshold] = []
    with budget(usd=limit_of(ride, 9), at={0.01: told.append, 0.9: told.append}):
        stream = ride.stream(client)
        next(iter(stream))
        stream.close()
        ride.ask(client)
    assert [one.share for one in told] == [0.01]


def test_a_truncating_rung_ends_the_scope(ride: Ride, provider: Any, client: Any) -> None:
    @budget(usd=limit_of(ride, 9), at={0.2: on_exceed.Truncate(default="so far")})
    def program() -> Any:
        for _ in range(50):
            ride.ask(client)

    assert program() == "so far"
    assert 1 < len(provider.requests) < 6
    assert report().total.usd == provider.bill.usd
    assert farebox.current() is None
