"""Each mode in every kind of program, on both SDKs, against the provider's bill; what nests, and who speaks.

`travel` runs a program: a decorated function, coroutine, generator or async generator that asks the model so many times, plainly,
as a stream, or with the SDK's stream helper.  The modes with more to say have modules of their own beside this one.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import pytest

import farebox
from farebox import BudgetExceeded, budget, report
from farebox.on_exceed import Proceed, Rewrite, Stop, Wait
from farebox.testing import FakeProvider, Price
from tests.acceptance.rides import ANTHROPIC, CAP, OPENAI, Ride, bound_of, farebox_usd, nothing_is_left, stormproof

pytestmark = pytest.mark.usefixtures("metered")

#: A dearer model of each SDK, and what the shipped ladders have below it.
DEAR = {
    "openai": attrs.evolve(OPENAI, model="gpt-4o", usd_nanos_per_output_token=10_000),
    "anthropic": attrs.evolve(ANTHROPIC, model="claude-opus-4-5", usd_nanos_per_output_token=25_000),
}
BELOW = {"openai": ["gpt-4o-mini"], "anthropic": ["claude-sonnet-4-6", "claude-haiku-4-5"]}
#: What the fake provider must know beside its own models.
PRICES = {"claude-sonnet-4-6": Price(input=3, output=15, vendor="anthropic")}
TOO_LITTLE = "0.000001"


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(prices=PRICES) as provider:
        provider.chunks(4)
        yield provider


STOPPING = ["block", "wait", "downgrade", "clamp", "truncate", "break", "callable"]
CROSSING = ["raise", "warn"]
MODES = STOPPING + CROSSING


def on(mode: str) -> Any:
    return mode if mode != "callable" else lambda _: Rewrite(max_output_tokens=20)


# ── programs ─────────────────────────────────────────────────────────────────────────────────────────────────────


@attrs.frozen
class Way:
    """How a program asks: in what kind of function, and through which surface of the SDK."""

    shape: str
    surface: str

    def __str__(self) -> str:
        return f"{self.shape}-{self.surface}"

    @property
    def is_async(self) -> bool:
        return self.shape in ("coroutine", "async_generator")

    @property
    def is_stream(self) -> bool:
        return self.surface != "call"


WAYS = [
    Way(shape, surface)
    for shape in ("function", "generator", "coroutine", "async_generator")
    for surface in ("call", "stream", "helper")
]
every_way = pytest.mark.parametrize("way", WAYS, ids=str)
every_stream = pytest.mark.parametrize("way", [way for way in WAYS if way.is_stream], ids=str)


@attrs.define
class Trip:
    """What came of a program."""

    answers: list[Any] = attrs.field(factory=list)
    frame: Any = None
    result: Any = "nothing"
    error: BudgetExceeded | None = None


def ask(ride: Ride, client: Any, surface: str, **words: Any) -> Any:
    if surface == "call":
        return ride.ask(client, **words)
    if surface == "stream":
        return list(ride.stream(client, **words))
    with ride.helper(client, **words) as stream:
        return list(stream)


async def ask_async(ride: Ride, client: Any, surface: str, **words: Any) -> Any:
    if surface == "call":
        return await ride.ask(client, **words)
    if surface == "stream":
        return [chunk async for chunk in await ride.stream(client, **words)]
    async with ride.helper(client, **words) as stream:
        return [event async for event in stream]


def travel(ride: Ride, provider: Any, way: Way, scope: Any, *, times: int, **words: Any) -> Trip:
    """Ask `times` times inside a function that `scope` decorates."""
    trip = Trip()
    try:
        if way.is_async:
            asyncio.run(_travel_async(ride, provider, way, scope, times, words, trip))
        else:
            _travel(ride, provider, way, scope, times, words, trip)
    except BudgetExceeded as error:
        trip.error = error
    assert farebox.current() is None
    return trip


def _travel(ride: Ride, provider: Any, way: Way, scope: Any, times: int, words: Any, trip: Trip) -> None:
    with ride.client(provider) as client:

        def steps() -> Any:
            trip.frame = farebox.current()
            for _ in range(times):
                trip.answers.append(ask(ride, client, way.surface, **words))
                yield len(trip.answers)
            return "arrived"

        if way.shape == "generator":
            walk = scope(steps)()
            try:
                while True:
                    next(walk)
                    assert farebox.current() is None
            except StopIteration as stop:
                trip.result = stop.value
            return

        @scope
        def program() -> Any:
            result = yield_from(steps())
            return result

        trip.result = program()


def yield_from(steps: Any) -> Any:
    """Run a generator to its end."""
    try:
        while True:
            next(steps)
    except StopIteration as stop:
        return stop.value


async def _travel_async(ride: Ride, provider: Any, way: Way, scope: Any, times: int, words: Any, trip: Trip) -> None:
    async with ride.async_client(provider) as client:

        async def steps() -> Any:
            trip.frame = farebox.current()
            for _ in range(times):
                trip.answers.append(await ask_async(ride, client, way.surface, **words))
                yield len(trip.answers)

        if way.shape == "async_generator":
            async for _ in scope(steps)():
                assert farebox.current() is None
            trip.result = "arrived" if len(trip.answers) == times else None
            return

        @scope
        async def program() -> str:
            async for _ in steps():
                pass
            return "arrived"

        trip.result = await program()


def how_many_fit(limit_nanos: int, bound_nanos: int, cost_nanos: int) -> int:
    """Calls one after another until spent + bound > limit."""
    spent = calls = 0
    while spent + bound_nanos <= limit_nanos:
        spent, calls = spent + cost_nanos, calls + 1
    return calls


def settled_as_billed(trip: Trip, provider: Any) -> None:
    """What was spent is what was billed, and nothing is left over."""
    assert trip.frame.spent_usd == report().total.usd == provider.bill.usd
    assert trip.frame.spent_tokens == provider.bill.tokens
    assert trip.frame.spent_calls == provider.bill.calls == len(provider.requests)
    nothing_is_left()


def models(provider: Any) -> list[str]:
    return [request.model for request in provider.requests]


def caps(provider: Any) -> list[Any]:
    return [request.body.get("max_tokens") for request in provider.requests]


# ── block, wait, warn, callables ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("way", "mode"),
    [(way, mode) for way in WAYS for mode in ("block", "wait") if mode == "block" or way.surface == "call"],
    ids=str,
)
def test_block_and_wait_refuse_what_no_longer_fits_and_send_nothing(
    ride: Ride, provider: Any, way: Way, mode: str
) -> None:
    bound = bound_of(ride, is_stream=way.is_stream).usd_nanos
    limit = 2 * bound + bound // 2
    began = time.monotonic()
    with stormproof(provider, farebox_usd(limit)):
        trip = travel(ride, provider, way, budget("b", usd=farebox_usd(limit), on_exceed=mode), times=9)
    assert len(trip.answers) == how_many_fit(limit, bound, provider.bill.lines[0].usd_nanos) >= 2
    assert trip.error is not None
    assert (trip.error.budget, trip.error.unit, trip.error.kind) == ("b", "usd", "exhausted")
    assert trip.error.response is None
    assert report().total.refused_calls == 1
    settled_as_billed(trip, provider)
    assert time.monotonic() - began < 20  # a scope's limit has no window: there is nothing to wait for


@every_way
def test_warn_sends_all(ride: Ride, provider: Any, way: Way) -> None:
    with warnings.catch_warnings(record=True) as warned, stormproof(provider):
        warnings.simplefilter("always")
        trip = travel(ride, provider, way, budget(usd=TOO_LITTLE, on_exceed="warn"), times=3)
    assert (trip.result, len(trip.answers), len(warned)) == ("arrived", 3, 1)
    assert [event.did for event in trip.frame.decisions] == ["proceed"] * 3
    settled_as_billed(trip, provider)


@every_way
def test_a_callable_decides_call_by_call(ride: Ride, provider: Any, way: Way) -> None:
    bound = bound_of(ride, is_stream=way.is_stream).usd_nanos
    answers: list[Any] = [Proceed(), Rewrite(max_output_tokens=17), Stop()]
    asked: list[Any] = []

    def decide(short: Any) -> Any:
        asked.append(short)
        return answers[min(len(asked), 3) - 1]

    with stormproof(provider):
        trip = travel(ride, provider, way, budget(usd=farebox_usd(bound), on_exceed=decide), times=9)
    # One fits, one is waved past the limit; then 17 tokens do not fit either, which is asked about once more.
    assert (len(trip.answers), len(asked)) == (2, 3)
    assert trip.error is not None
    assert [event.did for event in trip.frame.decisions] == ["proceed", "rewrite", "stop"]
    settled_as_billed(trip, provider)


@every_way
def test_output_cap_means_at_most_so_many(ride: Ride, provider: Any, way: Way) -> None:
    with stormproof(provider):
        trip = travel(ride, provider, way, budget(usd=1, output_cap=40), times=2, max_tokens=5_000)
        travel(ride, provider, way, budget(usd=1, output_cap=9_000), times=1, max_tokens=30)
    assert caps(provider) == [40, 40, 30]
    assert [line.output_tokens for line in provider.bill.lines] == [40, 40, 30]
    assert trip.result == "arrived"


@pytest.mark.parametrize("limit", [{"usd": 1}, {"tokens": 50_000}, {"calls": 9}], ids=str)
def test_output_cap_holds_where_the_caller_declares_none(provider: Any, open_client: Any, limit: Any) -> None:
    words = OPENAI.words()
    del words["max_tokens"]
    with budget(usd=2, output_cap=70), budget(output_cap=50, **limit), budget(calls=20, output_cap=60):
        open_client(OPENAI).chat.completions.create(**words)
    (body,) = [request.body for request in provider.requests]
    assert {body.get("max_tokens"), body.get("max_completion_tokens")} == {None, 50}
    assert provider.bill.lines[0].output_tokens == 50


def test_an_output_cap_below_what_the_api_takes_is_refused_by_name(provider: Any, open_client: Any) -> None:
    with budget(usd=1, output_cap=3), pytest.raises(ValueError, match="output_cap=3 is below"):
        OPENAI.ask(open_client(OPENAI))
    assert not provider.requests
    nothing_is_left()


def test_a_warning_of_a_cut_answer_takes_no_warning_of_the_limit_away(provider: Any, open_client: Any) -> None:
    provider.answer(output_tokens=5_000)
    client, words = open_client(OPENAI), OPENAI.words()
    del words["max_tokens"]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with budget("outer", usd="0.01"), budget("inner", usd="0.002", on_exceed="warn") as inner:
            for _ in range(3):
                client.chat.completions.create(**words)
    assert [event.did for event in inner.decisions if event.did != "cut"] == ["proceed"]
    assert sorted(warning.category.__name__ for warning in warned) == ["BudgetWarning", "CutAnswerWarning"]


# ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("mode", ["block", "wait"])
def test_no_wait_outlasts_the_requests_own_timeout(provider: Any, open_client: Any, kind: str, mode: str) -> None:
    ride = OPENAI
    client = open_client(ride)
    provider.hold()
    limit = bound_of(ride).usd_nanos * 3 // 2
    waited: list[float] = []

    def late() -> None:
        began = time.monotonic()
        with pytest.raises(BudgetExceeded) as refusal:
            ride.ask(client.with_options(timeout=0.1))
        assert refusal.value.kind == "contended"
        waited.append(time.monotonic() - began)

    async def late_async() -> None:
        async with ride.async_client(provider, timeout=0.1) as late_client:
            began = time.monotonic()
            with pytest.raises(BudgetExceeded) as refusal:
                await ride.ask(late_client)
            assert refusal.value.kind == "contended"
            waited.append(time.monotonic() - began)

    with budget(usd=farebox_usd(limit), on_exceed=mode), ThreadPoolExecutor() as pool:
        first = pool.submit(ride.ask, client)
        provider.wait_until_in_flight(1)
        if kind == "sync":
            late()
        else:
            asyncio.run(late_async())
        provider.release()
        first.result()
    assert 0.05 < waited[0] < 0.8
    assert len(provider.requests) == 1
    nothing_is_left()


def test_wait_stays_in_line_longer_than_the_patience(ride: Ride, provider: Any, client: Any) -> None:
    provider.delay(0.4, times=1)
    limit = bound_of(ride).usd_nanos * 7 // 4

    # One call costs less than three quarters of its bound, so that the second fits once the first has settled.
    provider.answer(output_tokens=40)
    with stormproof(provider), ThreadPoolExecutor() as pool:
        with budget(usd=farebox_usd(limit), on_exceed="wait", patience=0.05, timeout=5) as b:
            first = pool.submit(ride.ask, client)
            provider.wait_until_in_flight(1)
            ride.ask(client)
            first.result()
    assert b.spent_calls == 2
    assert "wait" in [event.did for event in b.decisions]


def test_wait_refuses_once_its_own_timeout_is_over(ride: Ride, provider: Any, client: Any) -> None:
    provider.hold()
    limit = bound_of(ride).usd_nanos * 3 // 2
    with budget(usd=farebox_usd(limit), on_exceed="wait", patience=0, timeout=0.3) as b:
        with ThreadPoolExecutor() as pool:
            first = pool.submit(ride.ask, client)
            provider.wait_until_in_flight(1)
            began = time.monotonic()
            with pytest.raises(BudgetExceeded) as refusal:
                ride.ask(client)
            waited = time.monotonic() - began
            provider.release()
            first.result()
    assert refusal.value.kind == "contended"
    assert 0.2 < waited < 1.0
    assert [event.did for event in b.decisions] == ["wait", "stop"]


# ── what else a mode must not do ─────────────────────────────────────────────────────────────────────────────────


def ask_with_retry(ride: Ride, provider: Any) -> None:
    with ride.client(provider, max_retries=1, timeout=5.0) as client:
        ride.ask(client)


def test_warn_lets_a_retry_go_as_well(ride: Ride, provider: Any) -> None:
    # The first attempt fits; it and its retry do not.
    provider.drop("billing", times=1)
    limit = bound_of(ride).usd_nanos * 3 // 2
    with warnings.catch_warnings(), budget(usd=farebox_usd(limit), on_exceed="warn") as b:
        warnings.simplefilter("ignore")
        ask_with_retry(ride, provider)
    assert len(provider.requests) == 2
    assert b.spent_usd >= provider.bill.usd


@pytest.mark.parametrize("mode", ["block", "clamp", "downgrade", "wait", "break", "raise"])
def test_no_mode_lets_a_retry_past_what_is_left(ride: Ride, provider: Any, mode: str) -> None:
    provider.drop("billing", times=1)
    limit = bound_of(ride).usd_nanos * 3 // 2
    with budget(usd=farebox_usd(limit), on_exceed=mode) as b, pytest.raises(BudgetExceeded):
        ask_with_retry(ride, provider)
    assert len(provider.requests) == 1
    assert farebox_usd(limit) >= b.spent_usd >= provider.bill.usd


def test_a_wait_that_cannot_wait_is_published_once(provider: Any, open_client: Any) -> None:
    # A thread that runs an event loop never stands still.
    client = open_client(OPENAI)
    provider.hold()

    async def main() -> Any:
        with budget(usd=bound_of(OPENAI).usd(1), on_exceed=lambda _: Wait(5), patience=0) as b:
            async with OPENAI.async_client(provider) as other:
                first = asyncio.create_task(OPENAI.ask(other))
                await asyncio.to_thread(provider.wait_until_in_flight, 1)
                with pytest.raises(BudgetExceeded):
                    OPENAI.ask(client)
                provider.release()
                await first
            return b

    b = asyncio.run(main())
    assert [event.did for event in b.decisions] == ["wait", "stop"]


def test_a_mode_is_asked_outside_of_every_lock(ride: Ride, provider: Any, client: Any) -> None:
    seen: list[Any] = []

    def look(_: Any) -> Any:
        seen.append(farebox.current().balance)  # type: ignore[union-attr]
        report()
        return Stop()

    with budget(usd=TOO_LITTLE, on_exceed=look), pytest.raises(BudgetExceeded):
        ride.ask(client)
    assert len(seen) == 1


def caught(call: Callable[[], Any]) -> BudgetExceeded | None:
    """The refusal of a call; None where it went through."""
    try:
        call()
    except BudgetExceeded as error:
        return error
    return None


def test_no_mode_speaks_while_everything_fits(ride: Ride, provider: Any, client: Any) -> None:
    for mode in MODES:
        with budget(usd=1, on_exceed=on(mode)) as b:
            assert caught(lambda: ride.ask(client)) is None
        assert b.decisions == []
    assert [request.body for request in provider.requests] == [ride.words()] * len(MODES)
    assert caps(provider) == [CAP] * len(MODES)
