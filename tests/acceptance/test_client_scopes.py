"""instrument(client, tags=..., budgets=[...]): what one client brings along holds outermost, in whatever scope it is used.

How much a client's budget has taken is read from what it admits and what its refusals say, never from its frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, configure, instrument, report, track, uninstrument
from farebox.errors import UnboundedCall
from farebox.testing import FakeProvider
from tests.acceptance.rides import (
    ANTHROPIC,
    CAP,
    OPENAI,
    RIDES,
    Ride,
    attempt,
    bound_of,
    farebox_usd,
    nothing_is_left,
    only_record,
    outcomes,
    stormproof,
)
from tests.acceptance.test_modes import BELOW, DEAR, PRICES, how_many_fit

FORKING = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def measured(fresh: None) -> None:
    for ride in RIDES:
        bound_of(ride)


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(prices=PRICES) as provider:
        yield provider


@pytest.fixture
def own(open_client: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Makes clients that are instrumented by themselves, and takes that back after the test."""
    made: list[Any] = []

    def make(ride: Ride, **words: Any) -> Any:
        made.append(instrument(open_client(ride), **words))
        return made[-1]

    yield make
    for client in made:
        uninstrument(client)


@pytest.fixture(params=["alone", "with the global one"])
def also(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whether all clients of the process are instrumented beside."""
    with instrument() if request.param != "alone" else contextlib.nullcontext():
        yield


def refusal_of(call: Callable[[], Any]) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as refused:
        call()
    return refused.value


def tags_of_calls() -> list[dict[str, str]]:
    return [dict(record.tags) for record in farebox.calls()]


# ── labels ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("also")
def test_the_labels_of_a_client_are_on_its_calls_under_those_of_a_scope(ride: Ride, own: Any) -> None:
    client = own(ride, tags={"team": "search", "tier": 1})
    with configure(tags={"app": "shop", "team": "nobody"}):
        ride.ask(client)
        with track(team="ads", user="alice"):
            ride.ask(client.with_options(timeout=9))
            list(ride.stream(client))
    assert tags_of_calls() == [
        {"app": "shop", "team": "search", "tier": "1"},
        *[{"app": "shop", "team": "ads", "tier": "1", "user": "alice"}] * 2,
    ]
    assert farebox.current() is None


def test_a_report_splits_what_clients_spent_by_their_labels(ride: Ride, provider: Any, own: Any) -> None:
    searching, selling = own(ride, tags={"team": "search"}), own(ride, tags={"team": "sales"})
    with budget(usd=1):
        for client, tokens in ((searching, 10), (selling, 30), (searching, 50)):
            provider.answer(output_tokens=tokens)
            ride.ask(client)
    paid = [line.usd for line in provider.bill.lines]
    rows = {row.tags["team"]: (row.usd, row.calls) for row in report(by=["team"])}
    assert rows == {"search": (paid[0] + paid[2], 2), "sales": (paid[1], 1)}
    assert report(where={"team": "sales"}).total.usd == paid[1]


def test_the_labels_of_a_client_are_on_no_call_of_another(ride: Ride, own: Any, open_client: Any) -> None:
    own(ride, tags={"team": "search"})
    with instrument():
        ride.ask(open_client(ride))
    assert tags_of_calls() == [{}]


def test_a_refused_call_has_the_labels_of_its_client(ride: Ride, own: Any) -> None:
    client = own(ride, tags={"team": "search"}, budgets=[budget("none", calls=0)])
    refusal_of(lambda: ride.ask(client))
    assert (only_record().outcome, dict(only_record().tags)) == ("refused", {"team": "search"})


# ── one limit, in whatever scope ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("also")
def test_the_budget_of_a_client_is_one_for_all_scopes_and_copies(ride: Ride, provider: Any, own: Any) -> None:
    client = own(ride, budgets=[budget("mine", calls=5)])
    copy = client.with_options(timeout=9)
    ride.ask(client)
    with budget("first", calls=9) as first:
        ride.ask(copy)
        ride.ask(copy.copy())
    with track(feature="x"), budget("second", calls=9) as second:
        ride.ask(client.copy())
        with ThreadPoolExecutor() as pool:
            pool.submit(ride.ask, client).result()
        refused = refusal_of(lambda: ride.ask(copy))
    assert (refused.budget, refused.scope, refused.spent) == ("mine", "mine > second", 5)
    assert (refused.limit, refused.unit, refused.kind) == (5, "calls", "exhausted")
    assert (first.spent_calls, second.spent_calls) == (2, 2)
    for one in (client, copy, client.copy(), copy.with_options(timeout=3)):
        assert refusal_of(lambda one=one: ride.ask(one)).scope == "mine"  # type: ignore[misc]
    assert report().total.calls == provider.bill.calls == 5
    assert report().total.usd == provider.bill.usd
    nothing_is_left()


@pytest.mark.usefixtures("also")
def test_the_budget_of_a_client_is_not_held_against_others(
    ride: Ride, provider: Any, own: Any, open_client: Any
) -> None:
    poor, rich = own(ride, budgets=[budget("poor", calls=0)]), own(ride, budgets=[budget("rich", calls=9)])
    refusal_of(lambda: ride.ask(poor))
    ride.ask(rich)
    ride.ask(open_client(ride))
    assert provider.bill.calls == 2


@pytest.mark.usefixtures("also")
def test_a_call_counts_once_in_a_clients_usd(ride: Ride, provider: Any, own: Any) -> None:
    bound, cost = bound_of(ride).usd_nanos, ride.usd_nanos_per_output_token * CAP
    client = own(ride, budgets=[budget("mine", usd=farebox_usd(4 * bound))])
    with stormproof(provider, farebox_usd(4 * bound)):
        done = 0
        while not isinstance(attempt(lambda: ride.ask(client)), BudgetExceeded):
            done += 1
    assert done == how_many_fit(4 * bound, bound, provider.bill.lines[0].usd_nanos) == provider.bill.calls
    assert provider.bill.lines[0].usd_nanos >= cost
    assert refusal_of(lambda: ride.ask(client)).spent == provider.bill.usd


def ways(ride: Ride, client: Any) -> Iterator[Callable[[], Any]]:
    yield lambda: ride.ask(client)
    yield lambda: list(ride.stream(client))
    yield lambda: drained(ride.helper(client))
    yield lambda: ride.raw(client).parse()
    yield lambda: read(ride.streaming_response(client))


def drained(manager: Any) -> Any:
    with manager as events:
        return list(events)


def read(manager: Any) -> Any:
    with manager as response:
        return response.read()


@pytest.mark.usefixtures("also")
def test_every_way_to_ask_is_held_against_the_budget_of_the_client(ride: Ride, provider: Any, own: Any) -> None:
    client = own(ride, budgets=[budget("mine", usd=1, calls=5)], tags={"a": 1})
    for way in ways(ride, client):
        assert way()
    for way in ways(ride, client):
        assert refusal_of(way).budget == "mine"
    assert outcomes() == ["completed"] * 5 + ["refused"] * 5
    assert len(provider.requests) == 5
    assert report(where={"a": "1"}).total.usd == provider.bill.usd
    nothing_is_left()


@pytest.mark.usefixtures("also")
def test_an_async_client_brings_its_budget_along_into_tasks(ride: Ride, provider: Any) -> None:
    async def main() -> list[Any]:
        async with ride.async_client(provider) as client:
            instrument(client, tags={"team": "x"}, budgets=[budget("mine", calls=10)])
            clients = [client, client.copy(), client.with_options(timeout=9)]

            async def ask(number: int) -> Any:
                with budget("each", calls=1):
                    if number % 2:
                        return await ride.ask(clients[number % 3])
                    return [chunk async for chunk in await ride.stream(clients[number % 3])]

            try:
                return await asyncio.gather(*map(ask, range(50)), return_exceptions=True)
            finally:
                uninstrument(client)

    with stormproof(provider):
        answers = asyncio.run(main())
    refused = [answer for answer in answers if isinstance(answer, BudgetExceeded)]
    assert {error.scope for error in refused} == {"mine > each"}
    assert len(refused) == 40
    assert provider.bill.calls == 10
    assert {row.tags["team"] for row in report(by=["team"])} == {"x"}


@pytest.mark.usefixtures("also")
def test_fifty_threads_in_scopes_of_their_own_share_the_budget_of_a_client(ride: Ride, provider: Any, own: Any) -> None:
    client = own(ride, budgets=[budget("mine", calls=10)])

    def ask() -> Any:
        with budget("each", usd=1):
            return attempt(lambda: ride.ask(client.with_options(timeout=9)))

    with stormproof(provider), ThreadPoolExecutor(50) as pool:
        answers = [future.result() for future in [pool.submit(ask) for _ in range(50)]]
    assert sum(isinstance(answer, BudgetExceeded) for answer in answers) == 40
    assert provider.bill.calls == 10


def test_fifty_threads_never_pass_the_usd_of_a_client(ride: Ride, provider: Any, own: Any) -> None:
    limit = farebox_usd(10 * bound_of(ride).usd_nanos)
    client = own(ride, budgets=[budget("mine", usd=limit)])

    def ask() -> Any:
        with track(kind="storm"):
            return attempt(lambda: ride.ask(client))

    with stormproof(provider, limit), ThreadPoolExecutor(50) as pool:
        answers = [future.result() for future in [pool.submit(ask) for _ in range(50)]]
    refused = sum(isinstance(answer, BudgetExceeded) for answer in answers)
    assert provider.bill.calls == 50 - refused >= 10
    assert {error.kind for error in answers if isinstance(error, BudgetExceeded)} == {"exhausted"}


def test_calls_of_several_scopes_wait_for_each_other_where_only_their_client_is_short(
    ride: Ride, provider: Any, own: Any
) -> None:
    """One bound and a half: the second call, in a scope of its own, fits once the first has settled."""
    provider.answer(output_tokens=30)
    provider.hold()
    limit = farebox_usd(bound_of(ride).usd_nanos * 3 // 2)
    client = own(ride, budgets=[budget("mine", usd=limit)])

    def ask(name: str) -> Any:
        with budget(name, usd=1):
            return ride.ask(client)

    with stormproof(provider, limit), ThreadPoolExecutor() as pool:
        futures = [pool.submit(ask, "a")]
        provider.wait_until_in_flight(1)
        futures.append(pool.submit(ask, "b"))
        with pytest.raises(TimeoutError):
            provider.wait_until_in_flight(2, timeout=0.2)
        provider.release()
        assert all(future.result().id for future in futures)
    assert provider.bill.calls == 2


def test_without_patience_a_call_is_refused_while_another_scope_holds_the_client(
    ride: Ride, provider: Any, own: Any
) -> None:
    provider.hold()
    client = own(ride, budgets=[budget("mine", usd=farebox_usd(bound_of(ride).usd_nanos * 3 // 2), patience=0)])
    with ThreadPoolExecutor() as pool:
        first = pool.submit(ride.ask, client)
        provider.wait_until_in_flight(1)
        with budget("other", usd=1) as other:
            refused = refusal_of(lambda: ride.ask(client))
        provider.release()
        first.result()
    assert (refused.kind, refused.budget, refused.scope) == ("contended", "mine", "mine > other")
    assert (other.spent_usd, other.reserved_usd, other.spent_calls) == (0, 0, 0)


def test_a_refusal_by_the_client_leaves_the_scopes_untouched(ride: Ride, own: Any) -> None:
    client = own(ride, budgets=[budget("mine", usd="0.000001")])
    with budget("outer", usd=1) as outer, budget("inner", tokens=9_999, calls=3) as inner:
        refusal_of(lambda: ride.ask(client))
    for frame in (outer, inner):
        assert (frame.reserved_usd, frame.reserved_tokens, frame.reserved_calls, frame.spent_calls) == (0, 0, 0, 0)
        assert not frame.decisions
    nothing_is_left()


def test_the_scope_speaks_before_the_client_and_its_inner_budget_before_the_outer(ride: Ride, own: Any) -> None:
    client = own(ride, budgets=[budget("outer", calls=1), budget("inner", calls=1)])
    with budget("scope", calls=1):
        ride.ask(client)
        refused = refusal_of(lambda: ride.ask(client))
    assert (refused.budget, refused.scope) == ("scope", "outer > inner > scope")
    refused = refusal_of(lambda: ride.ask(client))
    assert (refused.budget, refused.scope) == ("inner", "outer > inner")


def test_the_first_of_several_budgets_to_run_short_speaks(ride: Ride, provider: Any, own: Any) -> None:
    client = own(ride, budgets=[budget("dollars", usd=1), budget("words", tokens=1), budget("times", calls=5)])
    refused = refusal_of(lambda: ride.ask(client))
    assert (refused.budget, refused.unit) == ("words", "tokens")
    instrument(client, budgets=[budget("dollars", usd=1), budget("words", tokens=9_999), budget("times", calls=2)])
    ride.ask(client)
    ride.ask(client)
    refused = refusal_of(lambda: ride.ask(client))
    assert (refused.budget, refused.unit, refused.spent) == ("times", "calls", 2)
    assert provider.bill.calls == 2


def test_what_a_clients_budget_asks_of_calls_holds_in_every_scope(provider: Any, own: Any) -> None:
    client = own(OPENAI, budgets=[budget("mine", calls=9, output_cap=40, input_bound="bytes")])
    with budget(calls=9, output_cap=60):
        OPENAI.ask(client)
    with budget(calls=9, output_cap=30):
        OPENAI.ask(client)
    picture = {"type": "image_url", "image_url": {"url": "https://example.test/a.png"}}
    with budget("other", calls=9), pytest.raises(UnboundedCall, match="'mine'"):
        OPENAI.ask(client, messages=[{"role": "user", "content": [picture]}])
    assert [request.body["max_tokens"] for request in provider.requests] == [40, 30]


def test_a_stream_settles_in_the_clients_budget_that_it_began_in(ride: Ride, provider: Any, own: Any) -> None:
    client = own(ride, budgets=[budget("mine", calls=1)])
    with instrument():
        with stormproof(provider):
            stream = ride.stream(client)
            next(iter(stream))
            instrument(client, budgets=[budget("next", calls=2)])
            list(stream)
        ride.ask(client)
        ride.ask(client)
        assert refusal_of(lambda: ride.ask(client)).spent == 2
    assert report().total.usd == provider.bill.usd


# ── modes and rungs ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["block", "wait", "truncate", "break"])
def test_a_client_that_is_short_stops_its_calls_with_an_error(ride: Ride, provider: Any, own: Any, mode: str) -> None:
    """Also in mode "truncate": there is no block of code to leave."""
    words: dict[str, Any] = {"default": "quiet"} if mode == "truncate" else {}
    client = own(ride, budgets=[budget("mine", usd="0.000001", on_exceed=mode, **words)])
    went_on = []

    @budget("own", usd=1)
    def program() -> str:
        assert refusal_of(lambda: ride.ask(client)).budget == "mine"
        went_on.append(True)
        return "loud"

    assert program() == "loud"
    with budget("block", usd=1):
        refusal_of(lambda: list(ride.stream(client)))
        went_on.append(True)
    refusal_of(lambda: ride.ask(client))
    assert went_on == [True, True]
    assert not provider.requests
    assert outcomes() == ["refused"] * 3


def test_a_client_downgrades(provider: Any, own: Any) -> None:
    for ride in DEAR.values():
        # The output alone of the dear model: less than a call of it holds, more than one of the next cheaper model.
        bound = ride.usd_nanos_per_output_token * CAP
        client = own(ride, budgets=[budget("mine", usd=farebox_usd(bound), on_exceed="downgrade")])
        with budget("scope", usd=1) as scope:
            ride.ask(client)
        assert provider.requests[-1].model == BELOW[ride.name][0]
        assert not scope.decisions
    assert report().total.usd == provider.bill.usd
    nothing_is_left()


def test_a_client_clamps_to_the_smallest_remainder_of_the_whole_chain(ride: Ride, provider: Any, own: Any) -> None:
    limit = farebox_usd(bound_of(ride).usd_nanos)
    client = own(ride, budgets=[budget("mine", usd=limit, on_exceed="clamp")])
    provider.answer(output_tokens=5_000)
    with stormproof(provider, limit), budget("scope", usd=1):
        ride.ask(client, max_tokens=4_000)
    assert 64 <= provider.requests[0].body["max_tokens"] <= 100
    with pytest.raises(BudgetExceeded):
        ride.ask(client, max_tokens=4_000)
    assert len(provider.requests) == 1


def test_a_client_that_only_warns_sends_all_and_masks_no_scope(ride: Ride, provider: Any, own: Any) -> None:
    client = own(ride, budgets=[budget("mine", usd="0.000001", on_exceed="warn")])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with budget("scope", calls=2):
            ride.ask(client)
            ride.ask(client)
            assert refusal_of(lambda: ride.ask(client)).budget == "scope"
    assert [str(warning.message)[:13] for warning in warned] == ["budget 'mine'"]
    assert provider.bill.calls == 2


def test_a_client_in_mode_raise_lets_one_call_cross_and_then_is_a_gate(ride: Ride, provider: Any, own: Any) -> None:
    client = own(ride, budgets=[budget("mine", usd="0.000001", on_exceed="raise")])
    with budget("scope", usd=1) as scope:
        crossed = refusal_of(lambda: ride.ask(client))
        assert crossed.response.id == only_record().response_id
        assert crossed.spent == scope.spent_usd == provider.bill.usd
        assert refusal_of(lambda: ride.ask(client)).response is None
    assert provider.bill.calls == 1
    assert outcomes() == ["completed", "refused"]


def test_an_outer_scope_holds_a_client_in_mode_raise(ride: Ride, provider: Any, own: Any) -> None:
    client = own(ride, budgets=[budget("mine", usd="0.000001", on_exceed="raise")])
    with budget("scope", usd="0.000002"):
        assert refusal_of(lambda: ride.ask(client)).budget == "scope"
    assert not provider.requests


def test_the_rungs_of_a_client_are_entered_by_calls_of_all_scopes(ride: Ride, provider: Any, own: Any) -> None:
    reached: list[Any] = []
    client = own(ride, budgets=[budget("mine", calls=4, at={0.5: reached.append, 0.75: "block"})])
    ride.ask(client)
    with budget("scope", calls=9):
        ride.ask(client.copy())
        assert [(threshold.share, threshold.spent, threshold.budget) for threshold in reached] == [(0.5, 2, "mine")]
        ride.ask(client)
        refused = refusal_of(lambda: ride.ask(client))
    assert "75%" in str(refused)
    assert refused.budget == "mine"
    assert len(reached) == 1
    assert provider.bill.calls == 3


# ── again, and taken back ────────────────────────────────────────────────────────────────────────────────────────


def test_instrumented_again_without_a_word_a_client_keeps_what_it_has(ride: Ride, own: Any) -> None:
    client = own(ride, tags={"team": "x"}, budgets=[budget("mine", calls=1)])
    ride.ask(client)
    instrument(client)
    assert refusal_of(lambda: ride.ask(client)).budget == "mine"
    assert tags_of_calls() == [{"team": "x"}] * 2


def test_other_budgets_take_the_place_of_the_first_and_labels_that_of_their_names(ride: Ride, own: Any) -> None:
    client = own(ride, tags={"team": "x", "old": 1}, budgets=[budget("mine", calls=1)])
    ride.ask(client)
    instrument(client, tags={"team": "y"}, budgets=[budget("next", calls=1)])
    ride.ask(client)
    refused = refusal_of(lambda: ride.ask(client.copy()))
    assert (refused.budget, refused.scope, refused.spent) == ("next", "next", 1)
    assert tags_of_calls() == [{"team": "x", "old": "1"}, {"team": "y", "old": "1"}, {"team": "y", "old": "1"}]


def test_other_labels_alone_do_not_lift_the_limit(ride: Ride, own: Any) -> None:
    client = own(ride, budgets=[budget("mine", calls=1)])
    ride.ask(client)
    instrument(client, tags={"team": "y"})
    assert refusal_of(lambda: ride.ask(client)).budget == "mine"


def test_to_instrument_a_copy_does_not_lift_the_limit_of_its_original(ride: Ride, own: Any) -> None:
    client = own(ride, tags={"team": "x"}, budgets=[budget("mine", calls=1)])
    copy = client.with_options(timeout=9)
    instrument(copy)
    try:
        ride.ask(copy)
        assert refusal_of(lambda: ride.ask(copy)).budget == "mine"
        assert tags_of_calls() == [{"team": "x"}] * 2
    finally:
        uninstrument(copy)


def test_a_copy_goes_on_when_its_original_is_gone(ride: Ride, provider: Any) -> None:
    copy = instrument(ride.client(provider), budgets=[budget("mine", calls=1)]).with_options(timeout=9)
    gc.collect()
    try:
        ride.ask(copy)
        assert refusal_of(lambda: ride.ask(copy)).budget == "mine"
    finally:
        copy.close()


@pytest.mark.usefixtures("also")
def test_taken_back_a_client_has_neither_labels_nor_limits(ride: Ride, provider: Any, own: Any) -> None:
    client = own(ride, tags={"team": "x"}, budgets=[budget("mine", calls=0)])
    refusal_of(lambda: ride.ask(client))
    uninstrument(client)
    uninstrument(client)
    with budget("scope", usd=1):
        ride.ask(client)
        ride.ask(client.with_options(timeout=9))
    assert provider.bill.calls == 2
    assert [tags for tags in tags_of_calls() if tags] == [{"team": "x"}]
    instrument(client)
    ride.ask(client)
    assert "team" not in tags_of_calls()[-1]


def test_taking_back_the_global_one_leaves_a_client_its_own(ride: Ride, provider: Any, own: Any) -> None:
    client = own(ride, tags={"team": "x"}, budgets=[budget("mine", calls=1)])
    with instrument():
        ride.ask(client)
    uninstrument()
    assert refusal_of(lambda: ride.ask(client)).spent == 1


def test_a_ledger_configured_later_does_not_give_a_client_its_limit_anew(ride: Ride, own: Any) -> None:
    client = own(ride, budgets=[budget("mine", calls=1)])
    ride.ask(client)
    with configure(ledger="memory://"), budget("scope", calls=9):
        refusal_of(lambda: ride.ask(client))


# ── forks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def in_a_child(program: Callable[[], Any]) -> Any:
    """What `program` returns in a forked child."""
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    child = context.Process(target=lambda: found.put(program()))
    child.start()
    told = found.get(timeout=30)
    child.join(10)
    assert child.exitcode == 0
    return told


def told_by(answer: Any) -> Any:
    return (answer.kind, answer.scope, str(answer)) if isinstance(answer, BudgetExceeded) else type(answer).__name__


@FORKING
def test_a_forked_child_cant_share_the_budget_of_a_client(ride: Ride, provider: Any, own: Any) -> None:
    client = own(ride, budgets=[budget("mine", calls=5)])

    def program() -> Any:
        plain = told_by(attempt(lambda: ride.ask(client)))
        with budget("own", usd=1):
            return plain, told_by(attempt(lambda: ride.ask(client.copy())))

    (kind, scope, text), inside = in_a_child(program)
    assert (kind, scope) == ("forked", "mine")
    assert "'mine'" in text
    assert inside[:2] == ("forked", "mine > own")
    assert not provider.requests
    ride.ask(client)


@FORKING
def test_a_forked_child_is_told_which_budget_it_cant_share(ride: Ride, own: Any) -> None:
    client = own(ride, budgets=[budget("mine", calls=5)])

    def program() -> Any:
        with budget("own", usd=1):
            return told_by(attempt(lambda: ride.ask(client)))

    _, _, text = in_a_child(program)
    assert text.startswith("budget 'mine' was opened in the parent process")


@FORKING
def test_a_forked_child_may_use_a_client_that_only_has_labels(ride: Ride, provider: Any, own: Any) -> None:
    client = own(ride, tags={"team": "x"})

    def program() -> Any:
        with budget("own", usd=1) as frame:
            return told_by(attempt(lambda: ride.ask(client).id)), frame.spent_calls

    assert in_a_child(program) == ("str", 1)


@FORKING
def test_labels_of_the_parent_do_not_keep_a_child_from_a_client_of_its_own(ride: Ride, provider: Any) -> None:
    def program() -> Any:
        with ride.client(provider) as client:
            instrument(client, budgets=[budget("childs", calls=1)])
            first = attempt(lambda: ride.ask(client).id)
            return told_by(first), told_by(attempt(lambda: ride.ask(client)))[0]

    with track(user="alice"):
        assert in_a_child(program) == ("str", "exhausted")


@FORKING
def test_a_forked_child_may_instrument_the_client_anew(ride: Ride, own: Any) -> None:
    client = own(ride, budgets=[budget("mine", calls=1)])

    def program() -> Any:
        instrument(client, budgets=[budget("childs", calls=1)])
        first = attempt(lambda: ride.ask(client).id)
        return told_by(first), told_by(attempt(lambda: ride.ask(client)))[0]

    assert in_a_child(program) == ("str", "exhausted")


# ── bad words ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ({"budgets": [3]}, r"budgets=\[3\] holds a int"),
        ({"budgets": [track(a=1)]}, "holds a track"),
        ({"budgets": [budget]}, "holds a type"),
        ({"budgets": "mine"}, r"write budgets=\[budget"),
        ({"budgets": budget(usd=1)}, r"write budgets=\[budget"),
        ({"budgets": 3}, r"budgets=3.*write budgets=\[budget"),
        ({"tags": "team"}, "tags='team'"),
        ({"tags": [("team", 1)]}, "tags="),
        pytest.param({"tags": {1: 2}}, "1"),
    ],
    ids=repr,
)
def test_words_of_the_wrong_type_are_refused_by_name(words: Any, named: str, open_client: Any) -> None:
    client = open_client(OPENAI)
    with pytest.raises(TypeError, match=named):
        instrument(client, **words)
    assert not isinstance(OPENAI.ask(client), BudgetExceeded)
    assert not farebox.calls()


@pytest.mark.parametrize(
    ("words", "named"),
    [({"only": ["openai"]}, "only="), ({"threads": False}, "threads="), ({"budget": []}, "budgets")],
    ids=repr,
)
def test_options_that_do_not_go_with_a_client_are_refused_by_name(words: Any, named: str, open_client: Any) -> None:
    with pytest.raises(ValueError, match=named):
        instrument(open_client(OPENAI), **words)


def test_labels_and_budgets_need_a_client() -> None:
    for words in ({"tags": {"a": 1}}, {"budgets": [budget(usd=1)]}):
        with pytest.raises(ValueError, match="one client"):
            instrument(**words)  # type: ignore[arg-type]


def test_what_is_no_client_is_refused_by_name(open_client: Any) -> None:
    for thing in ("openai", open_client(OPENAI).chat, type(open_client(ANTHROPIC)), 3):
        with pytest.raises(TypeError, match=r"openai\.OpenAI"):
            instrument(thing)


# ── nothing instrumented ─────────────────────────────────────────────────────────────────────────────────────────

PLAIN = """
import asyncio, contextlib, warnings
import farebox
from farebox import budget
warnings.simplefilter("always")

def record(usd):
    farebox.record(model="m", provider="local", input_tokens=1, output_tokens=1, usd=usd)

@budget("f", usd=1)
def function(): record("0.1")

@budget("c", usd=1)
async def coroutine(): record("0.1")

@budget("g", usd=1)
def generator(): yield record("0.1")

async def main():
    await coroutine()  # here

async def entered():
    async with budget("w", usd=1): pass  # here

def pushed():
    with contextlib.ExitStack() as stack:
        stack.enter_context(budget("s", usd=1))  # here

"""


def warned_in(tmp_path: Path, program: str) -> list[str]:
    """Run a program of its own; the lines of it that were warned about, or the files if not its own."""
    path = tmp_path / "program.py"
    path.write_text(PLAIN + program)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60, check=True)
    lines = path.read_text().splitlines()
    found = []
    for line in done.stderr.splitlines():
        if "NotInstrumentedWarning" in line:
            place, number, said = line.split(":", 2)
            assert "write farebox.instrument()" in said
            found.append(lines[int(number) - 1].strip() if place == str(path) else place)
    return found


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("with budget(usd=1): pass", "with budget(usd=1): pass"),
        ("function()", "function()"),
        ("asyncio.run(main())", "await coroutine()  # here"),
        ("list(generator())", "list(generator())"),
        ("asyncio.run(entered())", 'async with budget("w", usd=1): pass  # here'),
        pytest.param("pushed()", 'stack.enter_context(budget("s", usd=1))  # here'),
    ],
    ids=["with", "function", "coroutine", "generator", "async with", "ExitStack"],
)
def test_a_budget_without_an_instrumented_client_warns_once_at_the_programs_line(
    program: str, line: str, tmp_path: Path
) -> None:
    again = "\nfunction()\nasyncio.run(main())\nlist(generator())\nfor _ in range(3):\n    with budget(usd=1): record('0.1')"
    assert warned_in(tmp_path, program + again) == [line]


@pytest.mark.parametrize(
    ("program", "warnings"),
    [
        ("farebox.instrument().undo()\nfunction()", 0),
        ("record('0.1')\nwith farebox.track(a=1): record('0.1')\nfor _ in range(3): function()", 1),
        ("import openai\nfarebox.instrument(openai.OpenAI(api_key='x'), budgets=[budget(usd=1)])\nfunction()", 0),
        ("try: farebox.instrument('x')\nexcept TypeError: pass\nfunction()", 1),
    ],
    ids=["instrument()", "record only", "one client", "no client"],
)
def test_who_has_instrumented_or_only_records_is_not_told_again(program: str, warnings: int, tmp_path: Path) -> None:
    assert len(warned_in(tmp_path, program)) == warnings


def test_where_the_warning_is_an_error_the_next_entry_is_not_told_again(tmp_path: Path) -> None:
    program = (
        "warnings.simplefilter('error')\n"
        "try: function()\n"
        "except farebox.errors.NotInstrumentedWarning: assert farebox.current() is None\n"
        "else: raise SystemExit(1)\n"
        "with budget(usd=1) as b: record('0.1')\n"
        "assert str(b.spent_usd) == '0.1'"
    )
    assert warned_in(tmp_path, program) == []


def test_a_thread_started_in_a_scope_keeps_to_the_client_and_the_scope(ride: Ride, provider: Any, own: Any) -> None:
    client = own(ride, budgets=[budget("mine", calls=2)])
    scopes: list[str] = []

    def work() -> None:
        ride.ask(client)
        scopes.append(farebox.current().path)  # type: ignore[union-attr]

    with budget("scope", usd=Decimal(1)) as scope:
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert scopes == ["scope"] * 2
    assert scope.spent_calls == 2
    assert refusal_of(lambda: ride.ask(client)).spent == 2
