"""Mistral's own SDK, over real HTTP: metered, refused, retried and left like any other call."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import io
import ssl
import threading
import wave
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

pytest.importorskip("mistralai", reason="mistralai is not installed")

import farebox
from farebox import BudgetExceeded, budget, instrument, uninstrument
from farebox.errors import UnmeteredCall, UnpricedModel
from farebox.testing import FakeProvider
from tests.acceptance.rides import attempt, is_charged_by_what_came, nothing_is_left, only_record, outcomes, stormproof

SMALL, MEDIUM = "mistral-small-2603", "mistral-medium-3-5"
MESSAGES = [{"role": "user", "content": "hello there, how are you?"}]
#: Where the SDK keeps its names: since 2.0 below `client`.
ROOT = "mistralai.client" if hasattr(importlib.import_module("mistralai.client"), "Mistral") else "mistralai"
HTTPX: Any = importlib.import_module(f"{ROOT}.httpclient").httpx
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture
def instrumented() -> Iterator[None]:
    with instrument(only=["mistral"]):
        yield


metered = pytest.mark.usefixtures("instrumented")


@contextlib.contextmanager
def opened(provider: FakeProvider, **options: Any) -> Iterator[Any]:
    with HTTPX.Client(verify=_NO_CERTIFICATES) as client:
        yield importlib.import_module(ROOT).Mistral(
            api_key="fake",
            server_url=provider.mistral_base_url,
            client=client,
            async_client=HTTPX.AsyncClient(verify=_NO_CERTIFICATES),
            timeout_ms=20_000,
            **options,
        )


def run(client: Any, main: Callable[[], Any]) -> Any:
    """A coroutine function's answer; what it has sent through is closed in the same loop, and made anew."""

    async def closing() -> Any:
        try:
            return await main()
        finally:
            await client.sdk_configuration.async_client.aclose()
            client.sdk_configuration.async_client = HTTPX.AsyncClient(verify=_NO_CERTIFICATES)

    return asyncio.run(closing())


@pytest.fixture
def client(provider: FakeProvider) -> Iterator[Any]:
    with opened(provider) as client:
        yield client


def words(**changes: Any) -> dict[str, Any]:
    return {"model": SMALL, "messages": MESSAGES, "max_tokens": 100, **changes}


def complete(client: Any, **changes: Any) -> Any:
    return client.chat.complete(**words(**changes))


def stream(client: Any, **changes: Any) -> None:
    with client.chat.stream(**words(**changes)) as events:
        assert len([event.data.choices[0].delta.content for event in events]) > 3


def complete_async(client: Any, **changes: Any) -> Any:
    return run(client, lambda: client.chat.complete_async(**words(**changes)))


def stream_async(client: Any, **changes: Any) -> None:
    async def read() -> int:
        return len([event async for event in await client.chat.stream_async(**words(**changes))])

    assert run(client, read) > 3


def fill_in(client: Any) -> None:
    assert client.fim.complete(model="codestral-2508", prompt="def half(x):", suffix="return y", max_tokens=50).choices


def fill_in_stream(client: Any) -> None:
    assert list(client.fim.stream(model="codestral-2508", prompt="def half(x):", max_tokens=50))


def embed(client: Any) -> None:
    assert len(client.embeddings.create(model="mistral-embed", inputs=["one", "and another one"]).data) == 2


def read_document(client: Any) -> None:
    link = {"type": "document_url", "document_url": "https://example.com/a.pdf"}
    assert len(client.ocr.process(model="mistral-ocr-4-1", document=link, pages=[0, 1]).pages) == 2


def annotate_document(client: Any) -> None:
    link = {"type": "image_url", "image_url": "https://example.com/a.png"}
    form = {"type": "json_object"}
    assert client.ocr.process(model="mistral-ocr-4-1", document=link, document_annotation_format=form).pages


def recording(seconds: int = 2) -> dict[str, Any]:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8_000, 0, "NONE", ""))
        sound.writeframes(bytes(16_000 * seconds))
    return {"file_name": "said.wav", "content": file.getvalue()}


def write_down(client: Any) -> None:
    assert client.audio.transcriptions.complete(model="voxtral-mini-2602", file=recording()).text


def write_down_stream(client: Any) -> None:
    assert list(client.audio.transcriptions.stream(model="voxtral-mini-2602", file=recording()))


def read_stream_as_a_whole(client: Any) -> None:
    with contextlib.suppress(Exception):  # the SDK does not understand an answer that it has asked for itself
        complete(client, stream=True)


WAYS = [
    ("mistralai chat", "sync", complete),
    ("mistralai chat", "stream", stream),
    ("mistralai chat", "async", complete_async),
    ("mistralai chat", "async stream", stream_async),
    ("mistralai chat", "sync", read_stream_as_a_whole),
    ("mistralai fim", "sync", fill_in),
    ("mistralai fim", "stream", fill_in_stream),
    ("mistralai embeddings", "sync", embed),
    ("mistralai ocr", "sync", read_document),
    ("mistralai ocr", "sync", annotate_document),
    ("mistralai transcriptions", "sync", write_down),
    ("mistralai transcriptions", "stream", write_down_stream),
]


@metered
@pytest.mark.parametrize(("name", "kind", "ask"), WAYS)
def test_a_call_is_one_call_at_the_providers_price(
    client: Any, provider: FakeProvider, name: str, kind: str, ask: Any
) -> None:
    with stormproof(provider, 1), budget(usd=1) as paid:
        ask(client)
    record = only_record()
    assert (record.outcome, record.cost_source, record.doubt) == ("completed", "list", "")
    assert record.usd == paid.spent_usd == provider.bill.usd > 0
    assert record.bound_usd >= record.usd
    assert record.provider_name == "mistral_ai"


@metered
@pytest.mark.parametrize(("name", "kind", "ask"), WAYS)
def test_a_call_is_refused_before_it_is_sent(
    client: Any, provider: FakeProvider, name: str, kind: str, ask: Any
) -> None:
    with budget("none", usd=0), contextlib.suppress(BudgetExceeded):
        ask(client)
    assert not provider.requests
    assert outcomes() == ["refused"]


@metered
def test_what_is_decided_reaches_the_wire(client: Any, provider: FakeProvider) -> None:
    with budget(usd="0.01"):
        complete(client, max_tokens=None, temperature=0.5)
    assert provider.requests[0].body["max_tokens"] == only_record().sent_cap
    assert provider.requests[0].body["temperature"] == 0.5
    with budget(usd="0.001", on_exceed="downgrade"):
        assert complete(client, model=MEDIUM, max_tokens=1_000).model == SMALL
    assert provider.requests[1].body["model"] == SMALL


@metered
def test_without_a_limit_the_request_goes_out_as_it_came(client: Any, provider: FakeProvider) -> None:
    answer = complete(client, max_tokens=None)
    assert provider.requests[0].body["max_tokens"] is None
    assert type(answer).__name__ == "ChatCompletionResponse"


@metered
def test_a_parsed_answer_is_counted_once(client: Any, provider: FakeProvider) -> None:
    pydantic = importlib.import_module("pydantic")
    mood = pydantic.create_model("Mood", word=(str, ...))
    provider.answer(text='{"word": "fine"}')
    with budget(usd=1) as paid:
        answer = client.chat.parse(mood, **words())
    assert answer.choices[0].message.parsed.word == "fine"
    assert paid.spent_calls == 1
    assert paid.spent_usd == provider.bill.usd


@metered
def test_a_cached_prompt_costs_what_the_provider_says(client: Any, provider: FakeProvider) -> None:
    provider.answer(output_tokens=10, cached_tokens=500, input_tokens=800)
    with budget(usd=1):
        complete(client)
        stream(client, messages=[{"role": "user", "content": "again " * 300}])
    assert [record.usage.cache_read_tokens for record in farebox.calls()] == [500, 500]
    assert farebox.report().total.usd == provider.bill.usd


# ── attempts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def retrying() -> Any:
    utils = importlib.import_module(f"{ROOT}.utils")
    backoff = utils.BackoffStrategy(1, 2, 1.1, 5_000)
    backoff.jitter_ms = 0
    return utils.RetryConfig("backoff", backoff, True)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK waits up to a second and a bit before it tries again."""
    retries = importlib.import_module(f"{ROOT}.utils.retries")
    monkeypatch.setattr(retries.random, "uniform", lambda least, most: 0.0)


@metered
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("ask", [complete, complete_async, stream, stream_async])
def test_an_attempt_with_an_error_status_is_tried_again_for_nothing(provider: FakeProvider, ask: Any) -> None:
    provider.fail(500, times=2)
    with opened(provider, retry_config=retrying()) as client, stormproof(provider, 1), budget(usd=1) as paid:
        ask(client)
    assert (only_record().attempts, provider.bill.calls, only_record().outcome) == (3, 1, "completed")
    assert paid.spent_usd == provider.bill.usd


@metered
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("ask", [complete, complete_async])
def test_an_attempt_that_died_is_held_and_charged_beside_the_next(provider: FakeProvider, ask: Any) -> None:
    provider.hang(times=1)
    with opened(provider, retry_config=retrying()) as client, stormproof(provider, 1), budget(usd=1) as paid:
        ask(client, timeout_ms=200)
    assert (only_record().attempts, provider.bill.calls, only_record().outcome) == (2, 2, "completed")
    assert paid.spent_usd >= provider.bill.usd
    assert only_record().cost_source == "estimated"


@metered
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("ask", [complete, complete_async])
def test_a_retry_that_the_budget_cannot_hold_is_not_sent(provider: FakeProvider, ask: Any) -> None:
    provider.hang()
    with opened(provider, retry_config=retrying()) as client, budget("tight", usd="0.0001"):
        with pytest.raises(BudgetExceeded, match="tight"):
            ask(client, timeout_ms=200)
        provider.reset()
    assert len(provider.requests) == 1
    assert only_record().usd >= provider.bill.usd


@metered
@pytest.mark.parametrize("ask", [complete, complete_async])
def test_a_timeout_is_presumed_spent(client: Any, provider: FakeProvider, ask: Any) -> None:
    provider.hang(times=1)
    with stormproof(provider, 1), budget(usd=1):
        assert isinstance(attempt(lambda: ask(client, timeout_ms=200)), HTTPX.TimeoutException)
    assert only_record().outcome == "unknown"
    assert only_record().usd == only_record().bound_usd >= provider.bill.usd > 0


@metered
@pytest.mark.parametrize(("status", "error"), [(422, "HTTPValidationError"), (429, "SDKError"), (500, "SDKError")])
@pytest.mark.parametrize("ask", [complete, complete_async, stream, stream_async])
def test_an_error_status_costs_nothing_and_is_the_sdks_own_error(
    client: Any, provider: FakeProvider, ask: Any, status: int, error: str
) -> None:
    provider.fail(status, times=1)
    with budget(usd=1) as paid:
        raised = attempt(lambda: ask(client))
    assert type(raised).__name__ == error
    assert raised.status_code == status
    assert paid.spent_usd == paid.reserved_usd == 0
    assert outcomes() == ["failed"]
    nothing_is_left()


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@metered
@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_that_is_closed_early_is_never_charged_below_the_bill(
    client: Any, provider: FakeProvider, is_async: bool
) -> None:
    provider.answer(output_tokens=3_000)
    provider.pace(0.004)

    async def leave() -> None:
        async with await client.chat.stream_async(**words(max_tokens=4_000)) as events:
            for _ in range(8):
                await anext(events)

    with stormproof(provider, 1), budget(usd=1):
        if is_async:
            run(client, leave)
        else:
            with client.chat.stream(**words(max_tokens=4_000)) as events:
                for _ in range(8):
                    next(events)
        provider.wait_until_idle()
    assert only_record().outcome == "closed"
    assert provider.bill.usd <= only_record().usd
    assert is_charged_by_what_came(only_record())


@metered
@pytest.mark.parametrize("read", [0, 3])
def test_a_stream_that_is_dropped_is_presumed_spent_at_once(client: Any, provider: FakeProvider, read: int) -> None:
    provider.answer(output_tokens=80)
    with budget(usd=1) as paid:
        events = client.chat.stream(**words())
        for _ in range(read):
            next(events)
        gc.disable()
        try:
            del events
            assert paid.reserved_usd == 0
        finally:
            gc.enable()
        assert paid.spent_usd >= provider.bill.usd
    nothing_is_left()


@metered
def test_a_cancelled_stream_is_never_charged_below_the_bill(client: Any, provider: FakeProvider) -> None:
    provider.answer(output_tokens=3_000)
    provider.pace(0.01)

    async def main() -> None:
        started = asyncio.Event()

        async def read() -> None:
            async for _ in await client.chat.stream_async(**words(max_tokens=4_000)):
                started.set()

        task = asyncio.create_task(read())
        await started.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with stormproof(provider, 1), budget(usd=1):
        run(client, main)
        provider.wait_until_idle()
    assert only_record().usd >= provider.bill.usd > 0


@metered
@pytest.mark.parametrize("ask", [stream, stream_async])
def test_a_stream_that_breaks_off_is_presumed_spent(client: Any, provider: FakeProvider, ask: Any) -> None:
    provider.drop("chunks", chunks=3)
    with stormproof(provider, 1), budget(usd=1):
        assert isinstance(attempt(lambda: ask(client)), HTTPX.TransportError)
    assert only_record().outcome == "unknown"
    assert only_record().usd == only_record().bound_usd >= provider.bill.usd


@metered
def test_a_stream_without_usage_is_charged_at_its_bound(client: Any, provider: FakeProvider) -> None:
    provider.odd(edit=lambda payload: {name: value for name, value in payload.items() if name != "usage"})
    with budget(usd=1):
        stream(client)
    assert (only_record().outcome, only_record().cost_source) == ("completed", "estimated")
    assert only_record().usd == only_record().bound_usd >= provider.bill.usd


# ── modes, clients, what is not read ─────────────────────────────────────────────────────────────────────────────────


@metered
def test_one_crossing_call_is_handed_over_with_the_refusal(client: Any, provider: FakeProvider) -> None:
    with budget(usd="0.00001", on_exceed="raise"), pytest.raises(BudgetExceeded) as stop:
        complete(client)
    assert stop.value.response.choices[0].message.content
    read: list[Any] = []
    with budget(usd="0.00001", on_exceed="raise"), pytest.raises(BudgetExceeded):
        read.extend(event.data.choices[0] for event in client.chat.stream(**words()))
    assert read[-1].finish_reason == "length"
    assert farebox.report().total.usd == provider.bill.usd


@metered
def test_of_many_threads_as_many_calls_are_sent_as_the_money_pays_for(client: Any, provider: FakeProvider) -> None:
    provider.answer(output_tokens=100)
    with budget(usd=1):
        complete(client)
    bound = only_record().bound_usd
    with stormproof(provider), budget(usd=bound * 5, patience=0) as paid:
        provider.hold()
        threads = [threading.Thread(target=attempt, args=(lambda: complete(client),)) for _ in range(30)]
        for thread in threads:
            thread.start()
        provider.wait_until_in_flight(5)
        while len([outcome for outcome in outcomes() if outcome == "refused"]) < 25:
            threading.Event().wait(0.005)
        provider.release()
        for thread in threads:
            thread.join()
    assert paid.spent_calls == 5
    assert provider.bill.calls == 6


def test_one_client_is_metered_by_itself(client: Any, provider: FakeProvider) -> None:
    with opened(provider) as other:
        assert instrument(client, budgets=[budget("own", calls=2)]) is client
        complete(other)
        complete(client)
        embed(client)
        for ask in (complete, complete_async, stream):
            with pytest.raises(BudgetExceeded, match="own"):
                ask(client)
        uninstrument(client)
        complete(client)
    assert provider.bill.calls == 4


def test_undo_puts_back_what_was_there() -> None:
    base = importlib.import_module(f"{ROOT}.basesdk").BaseSDK
    events = importlib.import_module(f"{ROOT}.utils.eventstreaming").EventStream
    was = vars(base)["do_request"], vars(events)["__init__"]
    with instrument():
        assert vars(base)["do_request"] is not was[0]
    assert (vars(base)["do_request"], vars(events)["__init__"]) == was


@metered
@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.agents.complete(agent_id="ag_1", messages=MESSAGES),
        lambda client: client.beta.conversations.start(inputs="hello", model=SMALL),
    ],
)
def test_what_runs_at_mistral_is_not_read_and_so_refused_under_a_limit(
    client: Any, provider: FakeProvider, ask: Callable[[Any], Any]
) -> None:
    with budget(usd=1), pytest.raises(UnmeteredCall):
        ask(client)
    assert not provider.requests


@metered
def test_a_websocket_is_noticed_where_it_is_opened(client: Any, provider: FakeProvider) -> None:
    pytest.importorskip("websockets", reason="websockets is not installed")
    pytest.importorskip("mistralai.extra.realtime", reason="this mistralai opens no websocket")
    with budget(usd=1), pytest.raises(UnmeteredCall, match="realtime"):
        run(client, lambda: client.audio.realtime.connect("voxtral-mini-transcribe-realtime-2602"))
    assert not provider.requests


@metered
def test_a_file_is_free(client: Any, provider: FakeProvider) -> None:
    with budget(usd=0):
        attempt(lambda: client.files.upload(file={"file_name": "a.txt", "content": b"hello"}, purpose="ocr"))
    assert [request.path for request in provider.requests] == ["/mistral/v1/files"]
    assert not farebox.calls()


@metered
def test_a_model_without_a_price_is_refused_until_it_has_one(client: Any, provider: FakeProvider) -> None:
    model = "mistral-moderation-2411"
    with budget(usd=1), pytest.raises(UnpricedModel, match=model):
        client.classifiers.moderate(model=model, inputs=["hello there"])
    with (
        farebox.configure(prices=f'{{"{model}": {{"input_per_million": 0.1, "output_per_million": 0}}}}'),
        budget(usd=1),
    ):
        assert client.classifiers.moderate(model=model, inputs=["hello there"]).results
    assert farebox.calls()[-1].usd == provider.bill.usd > 0


@metered
def test_a_document_is_held_for_all_pages_that_it_may_have(client: Any, provider: FakeProvider) -> None:
    link = {"type": "document_url", "document_url": "https://example.com/a.pdf"}
    with budget(usd=5) as paid:
        client.ocr.process(model="mistral-ocr-4-1", document=link)
    assert only_record().bound_usd == Decimal(4)
    assert paid.spent_usd == provider.bill.usd == Decimal("0.012")
    with budget(usd=1), pytest.raises(BudgetExceeded):
        client.ocr.process(model="mistral-ocr-4-1", document=link)
