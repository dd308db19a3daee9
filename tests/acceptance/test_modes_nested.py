"""Modes inside modes: who speaks first, who wins, and that no inner mode masks an outer limit."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, report
from farebox.testing import FakeProvider
from tests.acceptance.rides import Ride, bound_of, farebox_usd, nothing_is_left, stormproof
from tests.acceptance.test_modes import BELOW, DEAR, MODES, PRICES, STOPPING, TOO_LITTLE, models, on

pytestmark = pytest.mark.usefixtures("metered")


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(prices=PRICES) as provider:
        yield provider


def nested(ride: Ride, client: Any, outer: Any, inner: Any, times: int, **words: Any) -> tuple[Any, Any]:
    """Ask so many times, each in a scope of its own where the last one has ended; the last frames."""
    frames: list[Any] = [None, None]

    @outer
    def outside() -> None:
        frames[0] = farebox.current()

        @inner
        def inside() -> None:
            frames[1] = farebox.current()
            for _ in range(times):
                try:
                    ride.ask(client, **words)
                except BudgetExceeded:
                    pass

        inside()

    outside()
    return frames[0], frames[1]


@pytest.mark.parametrize("outer", MODES)
def test_an_inner_mode_never_masks_an_outer_limit(ride: Ride, provider: Any, client: Any, outer: str) -> None:
    bound = bound_of(ride).usd_nanos
    dear = DEAR[ride.name].model
    limit = bound_of(DEAR[ride.name]).usd_nanos * 3 // 2
    for inner in MODES:
        billed, sent = provider.bill.usd, len(provider.requests)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outside, inside = nested(
                ride,
                client,
                budget("outer", usd=farebox_usd(limit), on_exceed=on(outer)),
                budget("inner", usd=farebox_usd(bound), on_exceed=on(inner)),
                times=4,
                model=dear,
            )
        assert outside.spent_usd == inside.spent_usd == provider.bill.usd - billed, inner
        assert outside.reserved_usd == inside.reserved_usd == 0
        for frame, mode in ((outside, outer), (inside, inner)):
            if mode in STOPPING:
                assert frame.spent_usd <= frame.limit_usd, inner
                assert frame.debt_usd == 0
        if outer == inner == "warn":
            assert models(provider)[sent:] == [dear] * 4
        if inner in ("block", "wait", "truncate"):
            assert len(provider.requests) == sent  # a dear call never fits the inner one
    nothing_is_left()


def short_by_one(ride: Ride, mode: str) -> Any:
    return budget(mode, usd=farebox_usd(bound_of(DEAR[ride.name]).usd_nanos - 1), on_exceed=on(mode))


@pytest.mark.parametrize(("outer", "inner"), list(itertools.permutations(["block", "clamp", "downgrade"], 2)))
def test_several_short_budgets_speak_innermost_first_and_a_stop_wins(
    ride: Ride, provider: Any, client: Any, outer: str, inner: str
) -> None:
    outside, inside = nested(
        ride, client, short_by_one(ride, outer), short_by_one(ride, inner), times=1, model=DEAR[ride.name].model
    )
    # What the inner one changed fits the outer one as well, which has nothing to say then.
    expected = {"block": ["stop"], "clamp": ["rewrite"], "downgrade": ["rewrite"]}
    assert [event.did for event in inside.decisions if event.did != "cut"] == expected[inner]
    assert outside.decisions == []
    assert len(provider.requests) == (inner != "block")
    sent_to = {"downgrade": BELOW[ride.name][:1], "clamp": [DEAR[ride.name].model], "block": []}
    assert models(provider) == sent_to[inner]


def test_what_an_inner_mode_rewrote_is_quoted_against_the_outer_budget(ride: Ride, provider: Any, client: Any) -> None:
    cheap = bound_of(ride).usd_nanos
    with stormproof(provider):
        outside, inside = nested(
            ride,
            client,
            budget("outer", usd=farebox_usd(cheap - 1)),
            budget("inner", usd=farebox_usd(cheap), on_exceed="downgrade"),
            times=1,
            model=DEAR[ride.name].model,
        )
    assert not provider.requests
    assert [event.model for event in inside.decisions] == BELOW[ride.name]  # each step is quoted and held anew
    assert [event.did for event in outside.decisions] == ["stop"]
    assert report().total.refused_calls == 1
    nothing_is_left()


def test_an_outer_mode_acts_where_the_inner_budget_has_room(ride: Ride, provider: Any, client: Any) -> None:
    with stormproof(provider):
        outside, inside = nested(
            ride, client, short_by_one(ride, "downgrade"), budget(usd=5), times=1, model=DEAR[ride.name].model
        )
    assert models(provider) == BELOW[ride.name][:1]
    assert [event.did for event in outside.decisions] == ["rewrite"]
    assert inside.decisions == []
    assert inside.spent_usd == outside.spent_usd == provider.bill.usd


@pytest.mark.parametrize("mode", STOPPING)
def test_an_exhausted_budget_says_so_again_without_waiting(ride: Ride, provider: Any, client: Any, mode: str) -> None:
    began = time.monotonic()
    with budget(usd=TOO_LITTLE) as tight:
        for _ in range(10):
            nested(ride, client, budget(usd=0, on_exceed=on(mode)), budget(usd=5), times=5)
    assert not provider.requests
    assert tight.spent_usd == report().total.usd == 0
    assert time.monotonic() - began < 20  # once would be thirty seconds


def test_several_units_of_one_budget_all_hold(ride: Ride, provider: Any, client: Any) -> None:
    bound = bound_of(ride)
    for limits in ({"usd": bound.usd(9), "calls": 2}, {"usd": bound.usd(9), "tokens": bound.tokens * 2}):
        sent = len(provider.requests)
        with budget(on_exceed="clamp", **limits) as b:
            for _ in range(6):
                try:
                    ride.ask(client)
                except BudgetExceeded:
                    pass
        assert len(provider.requests) - sent >= 2
        if "calls" in limits:
            assert b.spent_calls == 2
        else:
            assert b.spent_tokens <= limits["tokens"]
