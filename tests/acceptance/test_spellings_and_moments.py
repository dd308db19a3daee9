"""The same call, spelt otherwise or ended at an odd moment: still metered once, and never charged below its bill."""

from __future__ import annotations

import asyncio
import gc
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai._models import FinalRequestOptions

import farebox
from farebox import BudgetExceeded, budget, configure, instrument, report
from tests.acceptance.rides import HTTPX, OPENAI, Ride

BODY = {"model": OPENAI.model, "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 100}


def nothing_below(provider: Any) -> None:
    total = report().total
    assert total.reserved_usd == 0
    assert total.usd >= provider.bill.usd > 0


@pytest.mark.usefixtures("metered")
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("chat/completions", {"body": BODY}),
        ("/chat/completions#x", {"body": BODY}),
        ("/chat/x/../completions", {"body": BODY}),
        ("/chat/completions", {"options": {"extra_json": BODY}}),
    ],
)
def test_however_a_post_spells_it_no_money_is_no_call(
    provider: Any, open_client: Any, path: str, words: dict[str, Any]
) -> None:
    client = open_client(OPENAI)
    with budget(usd=0), pytest.raises(BudgetExceeded):
        client.post(path, cast_to=object, **words)
    assert not provider.requests


@pytest.mark.usefixtures("metered")
def test_options_that_threads_share_are_a_call_each(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    options = FinalRequestOptions.construct(method="post", url="/chat/completions", json_data=BODY)
    with budget(calls=5, patience=0) as b, ThreadPoolExecutor(10) as pool:
        jobs = [pool.submit(client.request, object, options) for _ in range(30)]
    assert sum(job.exception() is None for job in jobs) == b.spent_calls == provider.bill.calls == 5
    assert options.json_data == BODY


@pytest.mark.usefixtures("metered")
def test_a_reader_that_lags_behind_is_charged_what_the_provider_made_meanwhile(
    ride: Ride, provider: Any, client: Any
) -> None:
    provider.answer(output_tokens=3_000)
    provider.chunks(300)
    provider.pace(0.002)
    with budget(usd=1):
        stream = ride.stream(client, max_tokens=3_500)
        for _ in range(12):
            next(iter(stream))
            time.sleep(0.06)
        time.sleep(0.5)  # a busy machine may make one of those reads as slow as if it had waited
        stream.close()
    provider.wait_until_idle()
    nothing_below(provider)


@pytest.mark.usefixtures("metered")
@pytest.mark.parametrize("opened", ["awaited", "wait_for", "task"])
def test_a_stream_dropped_by_a_task_leaves_nothing_reserved(ride: Ride, provider: Any, opened: str) -> None:
    async def main() -> None:
        async with ride.async_client(provider) as client:
            asked = ride.stream(client, max_tokens=100)
            with budget(usd=1) as b:
                if opened == "awaited":
                    stream = await asked
                elif opened == "wait_for":
                    stream = await asyncio.wait_for(asked, 5)
                else:
                    stream = await asyncio.create_task(asked)
                del stream
                gc.collect()
                await asyncio.sleep(0.01)
                assert b.reserved_usd == 0

    asyncio.run(main())
    nothing_below(provider)


def test_undo_in_the_middle_of_a_call_forgets_none_of_its_attempts(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI).with_options(max_retries=2)
    handle = instrument()
    provider.drop("billing", times=2)

    def undo(_: Any) -> None:
        handle.undo()

    client._client.event_hooks = {"request": [undo], "response": []}
    with budget(usd=1):
        OPENAI.ask(client)
    assert provider.bill.calls == 3
    nothing_below(provider)
    client._client.event_hooks = {"request": [], "response": []}
    OPENAI.ask(client)
    assert report().total.calls == 1


@pytest.mark.usefixtures("metered")
def test_prices_taken_back_while_a_stream_is_open_are_still_its_prices(provider: Any, open_client: Any) -> None:
    provider.odd(edit=lambda payload: {**payload, "model": "fine-tuned"}, times=1)
    prices = configure(prices=f'{{"{OPENAI.model}": {{"input_per_million": 100, "output_per_million": 100}}}}')
    with budget(usd=1) as b:
        stream = OPENAI.stream(open_client(OPENAI), max_tokens=100)
        prices.undo()
        list(stream)
    assert b.spent_usd > provider.bill.usd


@pytest.mark.usefixtures("metered")
def test_usage_that_comes_before_the_answer_is_not_its_usage(provider: Any, open_client: Any) -> None:
    first: list[bool] = []

    def usage_first(payload: Any) -> Any:
        if first:
            return payload
        first.append(True)
        return {**payload, "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}}

    provider.answer(output_tokens=3_000)
    provider.pace(0.002)
    provider.odd(edit=usage_first)
    with budget(usd=1):
        stream = OPENAI.stream(open_client(OPENAI), max_tokens=3_500)
        for _, _chunk in zip(range(50), stream, strict=False):
            pass
        stream.close()
    provider.wait_until_idle()
    nothing_below(provider)


@pytest.mark.usefixtures("metered")
def test_a_heartbeat_in_mid_stream_is_shown(provider: Any, open_client: Any) -> None:
    number = iter(range(1_000))
    provider.odd(edit=lambda payload: {**payload, "choices": []} if next(number) == 3 else payload)
    with budget(usd=1):
        chunks = list(OPENAI.stream(open_client(OPENAI), max_tokens=100))
    assert [n for n, chunk in enumerate(chunks) if not chunk.choices] == [3]


@pytest.mark.usefixtures("metered")
@pytest.mark.parametrize("error", [BudgetExceeded("of another call"), OSError("no disk")])
def test_what_a_response_hook_raises_says_nothing_of_the_bill(
    provider: Any, open_client: Any, error: Exception
) -> None:
    client = open_client(OPENAI).with_options(max_retries=0)

    def fail(_: Any) -> None:
        error.status_code = 429  # type: ignore[attr-defined]
        raise error

    client._client.event_hooks = {"request": [], "response": [fail]}
    with budget(usd=1), pytest.raises((BudgetExceeded, OSError, openai.APIConnectionError)):
        OPENAI.ask(client)
    nothing_below(provider)


@pytest.mark.usefixtures("metered")
def test_a_response_that_was_read_can_be_pickled(provider: Any, open_client: Any) -> None:
    with OPENAI.streaming_response(open_client(OPENAI), max_tokens=100) as response:
        response.read()
        http_response = response.http_response
    assert type(http_response) is HTTPX.Response
    assert pickle.loads(pickle.dumps(http_response)).status_code == 200
    assert farebox.calls()[-1].outcome == "completed"
