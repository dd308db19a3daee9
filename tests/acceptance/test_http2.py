"""HTTP/2, where many calls share one connection: `http2=True`, for who has installed h2."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import anthropic
import openai
import pytest

import farebox
from farebox import BudgetExceeded, budget
from tests.acceptance.rides import (
    NO_CERTIFICATES,
    Ride,
    bound_of,
    nothing_is_left,
    only_record,
    outcomes,
    spent_at_least_the_bill,
    stormproof,
)
from tests.acceptance.test_retries import ERRORS
from tests.acceptance.test_stream_endings import long

pytest.importorskip("h2", reason="h2 is not installed")

from tests.acceptance.http2_front import Front

pytestmark = pytest.mark.usefixtures("metered")

#: Long enough for `long` to be left in the middle.
CAP = 2_000


@pytest.fixture
def front(provider: Any) -> Iterator[Front]:
    with Front(urlsplit(provider.openai_base_url).port or 0) as front:
        yield front
    assert front.connections == 1


@pytest.fixture
def made(ride: Ride, provider: Any, front: Front) -> Callable[..., Any]:
    """Makes a client, or an async one, that speaks HTTP/2 from the start."""
    sdk = openai if ride.name == "openai" else anthropic
    base = urlsplit(provider.openai_base_url if ride.name == "openai" else provider.anthropic_base_url)
    url = f"http://127.0.0.1:{front.port}{base.path}"

    def make(kind: str, **options: Any) -> Any:
        http = sdk.DefaultAsyncHttpxClient if kind == "async" else sdk.DefaultHttpxClient
        options = {"http_client": http(http1=False, http2=True, verify=NO_CERTIFICATES), "base_url": url, **options}
        return (ride.async_client if kind == "async" else ride.client)(provider, **options)

    return make


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_calls_and_streams_are_charged_their_bill(ride: Ride, provider: Any, made: Any, kind: str) -> None:
    async def ask_async() -> None:
        async with made("async") as client:
            await ride.ask(client)
            async for _ in await ride.stream(client):
                pass

    with stormproof(provider), budget(usd=1) as paid:
        if kind == "async":
            asyncio.run(ask_async())
        else:
            with made("sync") as client:
                ride.ask(client)
                list(ride.stream(client))
    assert outcomes() == ["completed"] * 2
    assert paid.spent_usd == provider.bill.usd


def close(stream: Any) -> None:
    for _, _ in zip(range(5), stream, strict=False):
        pass
    stream.close()


def leave_by_with(stream: Any) -> None:
    with stream:
        next(iter(stream))


def drop(stream: Any) -> None:
    for _ in stream:
        break


@pytest.mark.parametrize(("leave", "outcome"), [(close, "closed"), (leave_by_with, "closed"), (drop, "dropped")])
def test_a_stream_that_is_left_early_is_charged_its_bound(
    ride: Ride, provider: Any, made: Any, leave: Callable[[Any], None], outcome: str
) -> None:
    long(provider)
    with budget(usd=1), made("sync") as client:
        leave(ride.stream(client, max_tokens=CAP))
        gc.collect()
        provider.wait_until_idle(timeout=20)
        spent_at_least_the_bill(provider)
        assert only_record().outcome == outcome
        assert only_record().usd == only_record().bound_usd
        nothing_is_left()
        provider.answer(output_tokens=10)
        ride.ask(client)  # the connection goes on


@pytest.mark.parametrize(
    ("how", "outcome"), [("closed", "closed"), ("with", "closed"), ("cancelled", "unknown"), ("dropped", "dropped")]
)
def test_an_async_stream_that_is_left_early_is_charged_its_bound(
    ride: Ride, provider: Any, made: Any, how: str, outcome: str
) -> None:
    long(provider)

    async def leave(client: Any) -> None:
        stream = await ride.stream(client, max_tokens=CAP)
        if how == "with":
            async with stream:
                await anext(aiter(stream))
        elif how == "cancelled":
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    async for _ in stream:
                        pass
        else:
            async for _ in stream:
                break
            if how == "closed":
                await stream.close()

    async def main() -> None:
        async with made("async") as client:
            await leave(client)
            gc.collect()
            await asyncio.sleep(0.01)
            await asyncio.to_thread(provider.wait_until_idle, 20)
            spent_at_least_the_bill(provider)
            assert only_record().outcome == outcome
            assert only_record().usd == only_record().bound_usd
            nothing_is_left()
            provider.answer(output_tokens=10)
            await ride.ask(client)

    with budget(usd=1):
        asyncio.run(main())


def test_who_leaves_disturbs_nobody_on_the_same_connection(ride: Ride, provider: Any, made: Any, front: Front) -> None:
    long(provider)

    async def main() -> None:
        async with made("async") as client:

            async def drain() -> None:
                async for _ in await ride.stream(client, max_tokens=CAP):
                    pass

            async def leave() -> None:
                stream = await ride.stream(client, max_tokens=CAP)
                chunks = aiter(stream)
                for _ in range(5):
                    await anext(chunks)
                await stream.close()

            drained = [asyncio.create_task(drain()) for _ in range(4)]
            for _ in range(4):
                await asyncio.gather(leave(), leave())
            async with asyncio.timeout(20):
                await asyncio.gather(*drained)

    with stormproof(provider), budget(usd=1):
        asyncio.run(main())
        provider.wait_until_idle(timeout=20)
    assert sorted(outcomes()) == ["closed"] * 8 + ["completed"] * 4
    assert front.most_streams >= 4


def test_threads_on_one_connection_are_charged_each_for_itself(
    ride: Ride, provider: Any, made: Any, front: Front
) -> None:
    long(provider)

    def drain(client: Any) -> None:
        list(ride.stream(client, max_tokens=CAP))

    def leave(client: Any) -> None:
        close(ride.stream(client, max_tokens=CAP))

    with stormproof(provider), budget(usd=1), made("sync") as client, ThreadPoolExecutor(8) as pool:
        ride.ask(client)
        jobs = [pool.submit(work, client) for work in (drain, leave) * 4]
        for job in jobs:
            job.result(timeout=30)
        provider.wait_until_idle(timeout=20)
    assert sorted(outcomes()) == ["closed"] * 4 + ["completed"] * 5
    assert front.most_streams >= 4


def test_fifty_at_once_stay_within_the_limit(ride: Ride, provider: Any, made: Any) -> None:
    provider.answer(output_tokens=10)
    limit = bound_of(ride).usd(10)

    async def main() -> list[Any]:
        async with made("async") as client:
            return await asyncio.gather(*(ride.ask(client) for _ in range(50)), return_exceptions=True)

    with stormproof(provider, limit), budget(usd=limit):
        answers = asyncio.run(main())
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert all(isinstance(answer, BudgetExceeded) for answer in refused)
    assert provider.bill.calls == 50 - len(refused) >= 10


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_attempts_that_are_reset_are_held_and_charged(
    ride: Ride, provider: Any, made: Any, kind: str, is_stream: bool
) -> None:
    provider.drop("billing", times=3)

    async def ask_async() -> None:
        async with made("async", max_retries=2) as client:
            await ride.ask(client, stream=is_stream)

    def ask() -> None:
        with made("sync", max_retries=2) as client:
            ride.ask(client, stream=is_stream)

    limit = bound_of(ride, is_stream=is_stream).usd(2)
    with stormproof(provider, limit), budget(usd=limit), pytest.raises(BudgetExceeded):
        asyncio.run(ask_async()) if kind == "async" else ask()
    assert provider.bill.calls == only_record().attempts == 2


def test_a_connection_that_breaks_is_presumed_spent_for_all_its_streams(
    ride: Ride, provider: Any, made: Any, front: Front
) -> None:
    long(provider)

    async def main() -> list[Any]:
        async with made("async") as client:

            async def drain() -> None:
                async for _ in await ride.stream(client, max_tokens=CAP):
                    pass

            async def cut() -> None:
                await asyncio.sleep(0.1)
                front.__exit__()

            found = await asyncio.gather(drain(), drain(), drain(), cut(), return_exceptions=True)
            return found[:3]

    with budget(usd=1) as paid:
        raised = asyncio.run(main())
        provider.wait_until_idle(timeout=20)
        spent_at_least_the_bill(provider)
    transports = tuple({type(error) for error in raised})
    assert len(raised) == 3
    assert all(isinstance(error, Exception) for error in raised), transports
    assert outcomes() == ["unknown"] * 3
    assert paid.spent_usd == sum(record.bound_usd for record in farebox.calls())
    assert ERRORS
