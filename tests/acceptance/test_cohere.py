"""Cohere's own SDK, over real HTTP: metered, refused, retried and left like any other call."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import inspect
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("cohere", reason="cohere is not installed")

import httpx

import farebox
from farebox import BudgetExceeded, budget, instrument, uninstrument
from farebox.errors import UnmeteredCall, UnpricedModel
from farebox.testing import FakeProvider
from tests.acceptance.rides import attempt, is_charged_by_what_came, nothing_is_left, only_record, outcomes, stormproof

COMMAND_R, COMMAND_A = "command-r-08-2024", "command-a-03-2025"
MESSAGES = [{"role": "user", "content": "hello there, how are you?"}]
AT_ONCE = {"retry-after-ms": "1", "retry-after": "0"}
cohere: Any = importlib.import_module("cohere")
HTTP: Any = importlib.import_module("cohere.core.http_client")
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture
def instrumented() -> Iterator[None]:
    with instrument(only=["cohere"]):
        yield


metered = pytest.mark.usefixtures("instrumented")


@contextlib.contextmanager
def opened(provider: FakeProvider, kind: str = "ClientV2") -> Iterator[Any]:
    with httpx.Client(verify=_NO_CERTIFICATES) as client:
        yield getattr(cohere, kind)("fake", base_url=provider.cohere_base_url, httpx_client=client, timeout=20)


@pytest.fixture
def client(provider: FakeProvider) -> Iterator[Any]:
    with opened(provider) as client:
        client.old = cohere.Client(
            "fake",
            base_url=provider.cohere_base_url,
            httpx_client=client._client_wrapper.httpx_client.httpx_client,
            timeout=20,
        )
        yield client


def run(client: Any, main: Callable[[Any], Any]) -> Any:
    """What a coroutine function of an async client answers, at the same address."""

    async def closing() -> Any:
        async with httpx.AsyncClient(verify=_NO_CERTIFICATES) as http:
            url = client._client_wrapper.get_base_url()
            return await main(cohere.AsyncClientV2("fake", base_url=url, httpx_client=http, timeout=20))

    return asyncio.run(closing())


def words(**changes: Any) -> dict[str, Any]:
    return {"model": COMMAND_R, "messages": MESSAGES, "max_tokens": 100, **changes}


def chat(client: Any, **changes: Any) -> Any:
    return client.chat(**words(**changes))


def stream(client: Any, **changes: Any) -> None:
    assert len(list(client.chat_stream(**words(**changes)))) > 3


def chat_async(client: Any, **changes: Any) -> Any:
    return run(client, lambda other: other.chat(**words(**changes)))


def stream_async(client: Any, **changes: Any) -> None:
    async def read(other: Any) -> int:
        return len([event async for event in other.chat_stream(**words(**changes))])

    assert run(client, read) > 3


def old_chat(client: Any) -> None:
    assert client.old.chat(model=COMMAND_R, message="hello there", max_tokens=20).text


def old_stream(client: Any) -> None:
    assert len(list(client.old.chat_stream(model=COMMAND_R, message="hello there", max_tokens=50))) > 3


def generate(client: Any) -> None:
    assert len(client.old.generate(model=COMMAND_R, prompt="hello", max_tokens=20, num_generations=2).generations) == 2


def embed(client: Any) -> None:
    client.embed(model="embed-v4.0", texts=["one", "another"], input_type="search_query", embedding_types=["float"])


def rerank(client: Any) -> None:
    assert len(client.rerank(model="rerank-v3.5", query="why?", documents=["one", "another"]).results) == 2


WAYS = [
    ("cohere chat", "sync", chat),
    ("cohere chat", "stream", stream),
    ("cohere chat", "async", chat_async),
    ("cohere chat", "async stream", stream_async),
    ("cohere v1 chat", "sync", old_chat),
    ("cohere v1 chat", "stream", old_stream),
    ("cohere generate", "sync", generate),
    ("cohere embed", "sync", embed),
    ("cohere rerank", "sync", rerank),
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
    assert record.provider_name == "cohere"


@metered
@pytest.mark.parametrize(("name", "kind", "ask"), WAYS)
def test_a_call_is_refused_before_it_is_sent(
    client: Any, provider: FakeProvider, name: str, kind: str, ask: Any
) -> None:
    with budget("none", usd=0), pytest.raises(BudgetExceeded, match="none"):
        ask(client)
    assert not provider.requests
    assert outcomes() == ["refused"]


@metered
@pytest.mark.parametrize("ask", [chat, stream, chat_async, stream_async])
def test_what_is_decided_reaches_the_wire(client: Any, provider: FakeProvider, ask: Any) -> None:
    with budget(usd="0.01"):
        ask(client, max_tokens=None, temperature=0.5)
    assert provider.requests[0].body is not None
    assert provider.requests[0].body["max_tokens"] == only_record().sent_cap
    assert provider.requests[0].body["temperature"] == 0.5
    with budget(usd="0.005", on_exceed="downgrade", downgrade={COMMAND_A: COMMAND_R}):
        ask(client, model=COMMAND_A, max_tokens=1_000)
    assert provider.requests[1].body is not None
    assert provider.requests[1].body["model"] == COMMAND_R


@metered
@pytest.mark.parametrize("ask", [chat, chat_async])
def test_an_attempt_with_an_error_status_is_tried_again_for_nothing(
    client: Any, provider: FakeProvider, ask: Any
) -> None:
    provider.fail(500, times=2, headers=AT_ONCE)
    with stormproof(provider, 1), budget(usd=1) as paid:
        ask(client, request_options={"max_retries": 4})
    assert (only_record().attempts, provider.bill.calls, only_record().outcome) == (3, 1, "completed")
    assert paid.spent_usd == provider.bill.usd


@metered
@pytest.mark.parametrize("ask", [chat, chat_async])
def test_an_attempt_that_died_is_held_and_charged_beside_the_next(
    client: Any, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    if "retry_remote_protocol_errors" not in inspect.getsource(HTTP):
        pytest.skip("this cohere tries nothing again that died without an answer")
    monkeypatch.setattr(HTTP, "_retry_timeout_from_retries", lambda retries: 0.001)
    provider.drop("billing", times=1)
    with stormproof(provider, 1), budget(usd=1) as paid:
        ask(client, request_options={"retry_remote_protocol_errors": True})
    assert (only_record().attempts, provider.bill.calls, only_record().outcome) == (2, 2, "completed")
    assert paid.spent_usd >= provider.bill.usd
    provider.drop("billing", times=1)
    tight = only_record().bound_usd * 3 / 4  # of two attempts
    with budget("tight", usd=tight), pytest.raises(BudgetExceeded, match="tight"):
        ask(client, request_options={"retry_remote_protocol_errors": True})
    assert len(provider.requests) == 3


@metered
@pytest.mark.parametrize("ask", [chat, chat_async])
def test_a_timeout_is_presumed_spent(client: Any, provider: FakeProvider, ask: Any) -> None:
    provider.hang(times=1)
    with stormproof(provider, 1), budget(usd=1):
        raised = attempt(lambda: ask(client, request_options={"timeout_in_seconds": 0.2}))
    assert isinstance(raised, httpx.TimeoutException)
    assert only_record().outcome == "unknown"
    assert only_record().usd == only_record().bound_usd >= provider.bill.usd > 0


@metered
@pytest.mark.parametrize(("status", "error"), [(422, "UnprocessableEntityError"), (429, "TooManyRequestsError")])
@pytest.mark.parametrize("ask", [chat, chat_async, stream, stream_async])
def test_an_error_status_costs_nothing_and_is_the_sdks_own_error(
    client: Any, provider: FakeProvider, ask: Any, status: int, error: str
) -> None:
    provider.fail(status, times=5, headers=AT_ONCE)
    with budget(usd=1) as paid:
        raised = attempt(lambda: ask(client, request_options={"max_retries": 0}))
    assert type(raised).__name__ == error
    assert paid.spent_usd == paid.reserved_usd == 0
    assert outcomes() == ["failed"]
    nothing_is_left()


@metered
@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_that_is_left_early_is_never_charged_below_the_bill(
    client: Any, provider: FakeProvider, is_async: bool
) -> None:
    provider.answer(output_tokens=3_000)
    provider.pace(0.004)

    async def leave(other: Any) -> None:
        events = other.chat_stream(**words(max_tokens=4_000))
        for _ in range(8):
            await anext(events)
        await events.aclose()

    with stormproof(provider, 1), budget(usd=1):
        if is_async:
            run(client, leave)
        else:
            events = client.chat_stream(**words(max_tokens=4_000))
            for _ in range(8):
                next(events)
            gc.disable()
            try:
                del events  # which is how most people leave it
            finally:
                gc.enable()
        provider.wait_until_idle()
    assert only_record().outcome == "closed"
    assert provider.bill.usd <= only_record().usd
    assert is_charged_by_what_came(only_record())


@metered
def test_a_cancelled_stream_is_never_charged_below_the_bill(client: Any, provider: FakeProvider) -> None:
    provider.answer(output_tokens=3_000)
    provider.pace(0.01)

    async def main(other: Any) -> None:
        started = asyncio.Event()

        async def read() -> None:
            async for _ in other.chat_stream(**words(max_tokens=4_000)):
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
@pytest.mark.parametrize("ask", [stream, stream_async, old_stream])
def test_a_stream_that_breaks_off_is_presumed_spent(client: Any, provider: FakeProvider, ask: Any) -> None:
    provider.drop("chunks", chunks=3)
    with stormproof(provider, 1), budget(usd=1):
        assert isinstance(attempt(lambda: ask(client)), httpx.TransportError)
    assert only_record().outcome == "unknown"
    assert only_record().usd == only_record().bound_usd >= provider.bill.usd


@metered
def test_a_stream_that_nobody_reads_is_never_sent(client: Any, provider: FakeProvider) -> None:
    with budget(usd=1):
        client.chat_stream(**words())
    assert not provider.requests
    assert not farebox.calls()


@metered
def test_one_crossing_call_is_handed_over_with_the_refusal(client: Any, provider: FakeProvider) -> None:
    with budget(usd="0.00001", on_exceed="raise"), pytest.raises(BudgetExceeded) as stop:
        chat(client)
    assert stop.value.response.message.content[0].text
    read: list[Any] = []
    with budget(usd="0.00001", on_exceed="raise"), pytest.raises(BudgetExceeded):
        read.extend(client.chat_stream(**words()))
    assert read[-1].type == "message-end"
    assert farebox.report().total.usd == provider.bill.usd


@metered
def test_of_many_threads_as_many_calls_are_sent_as_the_money_pays_for(client: Any, provider: FakeProvider) -> None:
    provider.answer(output_tokens=100)
    with budget(usd=1):
        chat(client)
    with stormproof(provider), budget(usd=only_record().bound_usd * 5, patience=0) as paid:
        provider.hold()
        threads = [threading.Thread(target=attempt, args=(lambda: chat(client),)) for _ in range(20)]
        for thread in threads:
            thread.start()
        provider.wait_until_in_flight(5)
        while outcomes().count("refused") < 15:
            threading.Event().wait(0.005)
        provider.release()
        for thread in threads:
            thread.join()
    assert paid.spent_calls == 5
    assert provider.bill.calls == 6


def test_one_client_is_metered_by_itself(client: Any, provider: FakeProvider) -> None:
    with opened(provider, "Client") as other:
        assert instrument(client, budgets=[budget("own", calls=2)]) is client
        other.v2.chat(**words())
        chat(client)
        embed(client)
        for ask in (chat, stream):
            with pytest.raises(BudgetExceeded, match="own"):
                ask(client)
        uninstrument(client)
        chat(client)
    assert provider.bill.calls == 4


def test_undo_puts_back_what_was_there() -> None:
    was = dict(vars(HTTP.HttpClient)), dict(vars(HTTP.AsyncHttpClient))
    with instrument():
        assert vars(HTTP.HttpClient)["request"] is not was[0]["request"]
    assert (dict(vars(HTTP.HttpClient)), dict(vars(HTTP.AsyncHttpClient))) == was


@metered
@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.old.chat(model=COMMAND_R, message="news?", connectors=[{"id": "web-search"}]),
        lambda client: client.old.classify(inputs=["good"], examples=[{"text": "a", "label": "b"}]),
        lambda client: client.embed(
            model="embed-v4.0", images=["data:image/png;base64,AA"], input_type="image", embedding_types=["float"]
        ),
    ],
)
def test_what_has_no_bound_or_no_price_is_not_read_and_so_refused_under_a_limit(
    client: Any, provider: FakeProvider, ask: Callable[[Any], Any]
) -> None:
    with budget(usd=1), pytest.raises(UnmeteredCall):
        ask(client)
    assert not provider.requests


@metered
def test_a_client_of_a_cloud_has_that_clouds_name_and_so_its_prices() -> None:
    pytest.importorskip("boto3", reason="boto3 is not installed")
    client = cohere.BedrockClient(aws_region="us-east-1", aws_access_key="fake", aws_secret_key="fake")
    with client, budget(usd=1), pytest.raises(UnpricedModel, match="command"):
        client.chat(model="cohere.command-text-v14", message="hello")
    assert only_record().provider_name == "aws.bedrock"


@metered
def test_counting_tokens_is_free(client: Any, provider: FakeProvider) -> None:
    with budget(usd=0):
        assert client.old.tokenize(text="hello there", model=COMMAND_R, offline=False).tokens
    assert len(provider.requests) == 1
    assert not farebox.calls()


@metered
def test_many_long_documents_are_held_for_as_many_searches(client: Any, provider: FakeProvider) -> None:
    with budget(usd=1):
        client.rerank(model="rerank-v3.5", query="why?", documents=["a document"] * 150)
        client.rerank(model="rerank-v3.5", query="why?", documents=["word " * 400] * 50)
    short, long = farebox.calls()
    assert (short.usage.search_units, long.usage.search_units) == (2, 1)
    assert short.bound_usd == short.usd
    assert long.bound_usd > long.usd
    assert farebox.report().total.usd == provider.bill.usd
