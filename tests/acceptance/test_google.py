"""Google's SDK: every surface is a call, streams end in their own ways, and what is decided reaches the wire."""

from __future__ import annotations

import asyncio
import gc
import importlib
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

pytest.importorskip("google.genai", reason="google-genai is not installed")

from google import genai
from google.genai import errors, types

import farebox
from farebox import BudgetExceeded, budget, instrument, report, signals, uninstrument
from farebox.errors import IncompatibleSDK, UnmeteredCall, UnpricedModel
from farebox.testing import FakeProvider, Price
from tests.acceptance.google_clients import run, vertex_client
from tests.acceptance.rides import (
    CAP,
    GOOGLE,
    attempt,
    bound_of,
    is_charged_by_what_came,
    nothing_is_left,
    only_record,
    outcomes,
    stormproof,
)

FLASH = "gemini-2.5-flash"
LITE = GOOGLE.model


@pytest.fixture
def client(provider: Any) -> Iterator[genai.Client]:
    with GOOGLE.client(provider) as client:
        yield client


@pytest.fixture
def vertex(provider: Any) -> Iterator[genai.Client]:
    with vertex_client(provider) as client:
        yield client


# ── surfaces ─────────────────────────────────────────────────────────────────────────────────────────────────────


def generate(client: Any) -> None:
    assert client.models.generate_content(model=LITE, contents="hello").text.startswith("abc")


def stream(client: Any) -> None:
    assert len(list(client.models.generate_content_stream(model=LITE, contents="hello"))) > 1


def chat(client: Any) -> None:
    assert client.chats.create(model=LITE).send_message("hello").text


def chat_stream(client: Any) -> None:
    assert list(client.chats.create(model=LITE).send_message_stream("hello"))


def generate_async(client: Any) -> None:
    assert run(client, lambda aio: aio.models.generate_content(model=LITE, contents="hello")).text


def stream_async(client: Any) -> None:
    async def read(aio: Any) -> list[Any]:
        return [one async for one in await aio.models.generate_content_stream(model=LITE, contents="hello")]

    assert len(run(client, read)) > 1


def chat_async(client: Any) -> None:
    assert run(client, lambda aio: aio.chats.create(model=LITE).send_message("hello")).text


def raw(client: Any) -> None:
    config = {"should_return_http_response": True}
    answer = client.models.generate_content(model=LITE, contents="hello", config=config)
    assert "usageMetadata" in answer.sdk_http_response.body


def embed(client: Any) -> None:
    assert len(client.models.embed_content(model="gemini-embedding-001", contents=["one", "two"]).embeddings) == 2


def embed_async(client: Any) -> None:
    assert run(client, lambda aio: aio.models.embed_content(model="gemini-embedding-001", contents=["one"])).embeddings


EVERY_SURFACE = pytest.mark.parametrize(
    "ask",
    [generate, stream, chat, chat_stream, generate_async, stream_async, chat_async, raw, embed, embed_async],
    ids=lambda ask: ask.__name__,
)


@pytest.mark.usefixtures("metered")
@EVERY_SURFACE
def test_every_surface_is_one_call_at_the_providers_price(client: Any, provider: Any, ask: Any) -> None:
    with stormproof(provider), budget(usd=1) as paid:
        ask(client)
    record = only_record()
    assert (record.outcome, record.cost_source, record.provider_name) == ("completed", "list", "gcp.gemini")
    assert record.usd == paid.spent_usd == provider.bill.usd > 0
    assert record.response_model in ("", record.request_model)


@pytest.mark.usefixtures("metered")
@EVERY_SURFACE
def test_every_surface_of_vertex_is_one_call_of_its_own_provider(vertex: Any, provider: Any, ask: Any) -> None:
    with stormproof(provider), budget(usd=1) as paid:
        ask(vertex)
    assert "/projects/p/locations/us-central1/" in provider.requests[0].path
    assert (only_record().provider_name, only_record().cost_source) == ("gcp.vertex_ai", "list")
    assert only_record().usd == paid.spent_usd == provider.bill.usd > 0


@pytest.mark.usefixtures("metered")
@EVERY_SURFACE
def test_every_surface_is_refused_before_it_is_sent(client: Any, provider: Any, ask: Any) -> None:
    with budget("none", usd=0), pytest.raises(BudgetExceeded, match="none"):
        ask(client)
    assert not provider.requests
    assert outcomes() == ["refused"]


#: What may be billed and is not read, by the last word of its path.
UNREAD = {
    ":importFile": lambda client: client.file_search_stores.import_file(
        file_search_store_name="fileSearchStores/a", file_name="files/b"
    ),
}


@pytest.mark.usefixtures("metered")
@pytest.mark.parametrize("endpoint", UNREAD)
def test_what_is_not_read_is_refused_under_a_limit(client: Any, provider: Any, endpoint: str) -> None:
    with budget(usd=1), pytest.raises(UnmeteredCall) as refused:
        UNREAD[endpoint](client)
    assert refused.value.endpoint.endswith(endpoint)
    assert not provider.requests


@pytest.mark.usefixtures("metered")
def test_counting_tokens_is_free(client: Any, provider: Any) -> None:
    with budget(usd=0):
        assert client.models.count_tokens(model=LITE, contents="hello").total_tokens > 0
    assert not farebox.calls()


@pytest.mark.usefixtures("metered")
def test_each_turn_of_automatic_function_calling_is_a_call(client: Any, provider: Any) -> None:
    asked = []

    def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return "sunny"

    weather.__annotations__ = {"city": str, "return": str}  # an older SDK can't read them as texts

    provider.answer(function="weather", text='{"city": "Rome"}', times=2)
    provider.answer(text="It is sunny.")
    config = types.GenerateContentConfig(tools=[weather], max_output_tokens=CAP)
    with stormproof(provider), budget(usd=1) as paid:
        answer = client.chats.create(model=LITE).send_message("How is Rome?", config=config)
    assert answer.text == "It is sunny."
    assert asked == ["Rome", "Rome"]
    assert paid.spent_calls == provider.bill.calls == 3
    assert paid.spent_usd == provider.bill.usd


@pytest.mark.usefixtures("metered")
def test_a_turn_that_does_not_fit_is_not_sent(client: Any, provider: Any) -> None:
    provider.answer(function="weather", text="{}")

    def weather() -> str:
        """The weather."""
        return "sunny"

    config = types.GenerateContentConfig(tools=[weather], max_output_tokens=CAP)
    with budget(calls=2), pytest.raises(BudgetExceeded):
        client.chats.create(model=LITE).send_message("How is Rome?", config=config)
    assert provider.bill.calls == 2


@pytest.mark.usefixtures("metered")
def test_a_tier_that_a_header_asks_of_vertex_is_held(vertex: Any) -> None:
    asked = {"X-Vertex-AI-LLM-Shared-Request-Type": "priority"}
    for headers in ({}, asked):
        with budget(usd=1):
            vertex.models.generate_content(
                model="gemini-2.5-flash",
                contents="hi",
                config={"max_output_tokens": CAP, "http_options": {"headers": headers}},
            )
    usual, dear = sorted(farebox.calls(), key=lambda record: record.started_at)
    assert (usual.tier, dear.tier) == ("", "priority")
    assert dear.bound_usd > usual.bound_usd


@pytest.mark.usefixtures("metered")
@pytest.mark.parametrize("words", [{}, {"stream": True}])
def test_vertex_is_metered_by_its_own_path(vertex: Any, provider: Any, words: Any) -> None:
    with stormproof(provider), budget(usd=1) as paid:
        answer = GOOGLE.ask(vertex, **words)
        if words:
            assert list(answer)
    assert provider.requests[0].path.endswith(
        f"/projects/p/locations/us-central1/publishers/google/models/{LITE}:{'streamGenerateContent' if words else 'generateContent'}"
    )
    assert (only_record().request_model, only_record().provider_name) == (LITE, "gcp.vertex_ai")
    assert paid.spent_usd == provider.bill.usd > 0


@pytest.mark.usefixtures("metered")
@pytest.mark.filterwarnings("ignore:Realtime music generation")
def test_a_session_that_makes_music_is_refused_under_a_limit_before_it_is_opened(client: Any, provider: Any) -> None:
    async def open_one(aio: Any) -> None:
        async with aio.live.music.connect(model="lyria-realtime-exp"):
            raise AssertionError

    with budget(usd=1), pytest.raises(UnmeteredCall, match=r"live\.music\."):
        run(client, open_one)
    assert not provider.requests
    assert outcomes() == ["refused"]


@pytest.mark.usefixtures("metered")
@pytest.mark.filterwarnings("ignore::farebox.errors.UnmeteredWarning", "ignore:Realtime music generation")
def test_a_session_that_makes_music_without_a_limit_is_counted(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    live: Any = importlib.import_module("google.genai.live_music")

    class Socket:
        """A server that says it is ready, and no more: what is tested is who opened the session, not what was said."""

        async def __aenter__(self) -> Socket:
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def send(self, text: str) -> None: ...

        async def recv(self, **_: object) -> bytes:
            return b'{"setupComplete": {}}'

    monkeypatch.setattr(live, "connect", lambda *_args, **_kwargs: Socket())

    async def open_one(aio: Any) -> None:
        async with aio.live.music.connect(model="lyria-realtime-exp") as session:
            assert isinstance(session, live.AsyncMusicSession)

    run(client, open_one)
    assert report().total.unmetered_calls == 1
    assert (only_record().outcome, only_record().request_model, only_record().usd) == (
        "completed",
        "lyria-realtime-exp",
        None,
    )


# ── what is decided reaches the wire ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("metered")
def test_a_cap_is_granted_where_the_caller_names_none(client: Any, provider: Any) -> None:
    config = types.GenerateContentConfig(temperature=0.5)
    with budget(usd="0.01"):
        client.models.generate_content(model=LITE, contents="hello", config=config)
    sent = provider.requests[0].body["generationConfig"]
    assert sent == {"temperature": 0.5, "maxOutputTokens": only_record().sent_cap}
    assert config.max_output_tokens is None


@pytest.mark.usefixtures("metered")
def test_without_a_limit_the_request_is_not_touched(client: Any, provider: Any) -> None:
    client.models.generate_content(model=LITE, contents="hello")
    assert "generationConfig" not in provider.requests[0].body
    assert only_record().usd == provider.bill.usd


@pytest.mark.usefixtures("metered")
@pytest.mark.parametrize("spelling", ["maxOutputTokens", "max_output_tokens"])
def test_a_cap_in_extra_body_is_read_and_lowered(client: Any, provider: Any, spelling: str) -> None:
    extra = {"generationConfig": {spelling: 5_000}}
    config: Any = {"max_output_tokens": 10, "http_options": {"extra_body": extra}}
    if spelling != "maxOutputTokens":
        config.pop("max_output_tokens")
    with budget(usd=1, output_cap=50):
        client.models.generate_content(model=LITE, contents="hello", config=config)
    assert provider.requests[0].body["generationConfig"] == {spelling: 50}
    assert only_record().declared_cap == 5_000
    assert extra == {"generationConfig": {spelling: 5_000}}


@pytest.mark.usefixtures("metered")
def test_clamp_lowers_a_declared_cap_and_its_thinking(client: Any, provider: Any) -> None:
    config = types.GenerateContentConfig(
        max_output_tokens=8_000, thinking_config=types.ThinkingConfig(thinking_budget=4_000)
    )
    with budget(usd="0.01", on_exceed="clamp"):
        client.models.generate_content(model=FLASH, contents="hello", config=config)
    sent = provider.requests[0].body["generationConfig"]
    cap = sent["maxOutputTokens"]
    assert cap == only_record().sent_cap < 4_000 + 1
    assert list(sent["thinkingConfig"].values()) == [4_000 * cap // 8_000]
    assert config.thinking_config is not None
    assert config.thinking_config.thinking_budget == 4_000


@pytest.mark.usefixtures("metered")
@pytest.mark.parametrize("is_async", [False, True])
def test_a_downgrade_changes_the_path(client: Any, provider: Any, is_async: bool) -> None:
    words: Any = {"model": "gemini-2.5-pro", "contents": "hello", "config": {"max_output_tokens": 1_000}}
    with stormproof(provider, "0.005"), budget(usd="0.005", on_exceed="downgrade"):
        if is_async:
            answer = run(client, lambda aio: aio.models.generate_content(**words))
        else:
            answer = client.models.generate_content(**words)
    assert answer.model_version == FLASH == provider.bill.lines[0].model
    assert provider.requests[0].path.endswith(f"/models/{FLASH}:generateContent")
    assert (only_record().request_model, only_record().sent_model) == ("gemini-2.5-pro", FLASH)


@pytest.mark.usefixtures("metered")
def test_a_cached_prompt_stays_with_its_model(client: Any, provider: Any) -> None:
    config = {"max_output_tokens": 1_000, "cached_content": "cachedContents/1"}
    with budget(usd="0.005", on_exceed="downgrade"), pytest.raises(BudgetExceeded):
        client.models.generate_content(model="gemini-2.5-pro", contents="hello", config=config)
    assert not provider.requests


@pytest.mark.usefixtures("metered")
def test_a_tuned_model_without_a_price_is_refused_by_name(client: Any, provider: Any) -> None:
    with budget(usd=1), pytest.raises(UnpricedModel, match="tunedModels/mine"):
        client.models.generate_content(model="tunedModels/mine", contents="hello")
    assert not provider.requests


@pytest.mark.usefixtures("metered")
def test_raise_hands_over_the_answer_as_the_sdk_has_it(client: Any, provider: Any) -> None:
    with budget(usd="0.00001", on_exceed="raise"), pytest.raises(BudgetExceeded) as crossed:
        client.models.generate_content(model=LITE, contents="hello", config={"max_output_tokens": CAP})
    assert isinstance(crossed.value.response, types.GenerateContentResponse)
    assert crossed.value.response.text.startswith("abc")
    assert only_record().usd == provider.bill.usd


@pytest.mark.usefixtures("metered")
def test_raise_lets_a_stream_run_to_its_end(client: Any, provider: Any) -> None:
    seen = []
    with budget(usd="0.00001", on_exceed="raise"), pytest.raises(BudgetExceeded):
        seen.extend(chunk.text for chunk in GOOGLE.stream(client))
    assert "".join(seen) == "abc " * CAP
    assert only_record().usd == provider.bill.usd


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────


def long(provider: Any) -> None:
    """Paced, so that the bill stops with the client, and so that what has arrived is known to be all that was made."""
    provider.answer(output_tokens=3_000)
    provider.pace(0.004)


def left_by_break(client: Any) -> None:
    for number, _ in enumerate(GOOGLE.stream(client, max_tokens=4_000)):
        if number == 4:
            break


def left_by_close(client: Any) -> None:
    stream = GOOGLE.stream(client, max_tokens=4_000)
    for _ in range(5):
        next(stream)
    stream.close()
    assert next(stream, None) is None


def left_by_an_error(client: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        for number, _ in enumerate(GOOGLE.stream(client, max_tokens=4_000)):
            if number == 4:
                raise ZeroDivisionError


def left_by_async_break(client: Any) -> None:
    async def read(aio: Any) -> None:
        number = 0
        async for _ in await GOOGLE.stream(aio, max_tokens=4_000):
            number += 1
            if number == 5:
                break
        await asyncio.sleep(0.05)  # the loop closes what was below from callbacks, and would end first

    run(client, read)


def left_by_aclose(client: Any) -> None:
    async def read(aio: Any) -> None:
        stream = await GOOGLE.stream(aio, max_tokens=4_000)
        for _ in range(5):
            await anext(stream)
        await stream.aclose()
        await asyncio.sleep(0.05)

    run(client, read)


LEAVING = [left_by_break, left_by_close, left_by_an_error, left_by_async_break, left_by_aclose]


@pytest.mark.usefixtures("metered")
@pytest.mark.parametrize("leave", LEAVING)
def test_a_stream_left_early_is_charged_for_what_had_arrived(client: Any, provider: Any, leave: Any) -> None:
    long(provider)
    with stormproof(provider), budget(usd=1):
        leave(client)
        gc.collect()
        provider.wait_until_idle()
    record = only_record()
    assert (record.outcome, record.cost_source, record.usage) == ("closed", "estimated", None)
    assert provider.bill.usd <= record.usd
    assert is_charged_by_what_came(record)
    nothing_is_left()


@pytest.mark.usefixtures("metered")
def test_a_stream_that_reasons_unseen_is_charged_its_bound_when_it_is_left(client: Any, provider: Any) -> None:
    long(provider)
    with budget(usd=1):
        next(client.models.generate_content_stream(model=FLASH, contents="hi", config={"max_output_tokens": 4_000}))
    assert only_record().usd == only_record().bound_usd


@pytest.mark.usefixtures("metered")
def test_a_stream_that_is_never_read_is_never_sent(client: Any, provider: Any) -> None:
    with budget(usd=0):
        GOOGLE.stream(client)
    assert not provider.requests
    assert not farebox.calls()


@pytest.mark.usefixtures("metered")
def test_a_cancelled_task_is_presumed_spent(client: Any, provider: Any) -> None:
    provider.hold(after_chunks=2)

    async def main(aio: Any) -> None:
        async def read() -> None:
            async for _ in await GOOGLE.stream(aio):
                got.set()

        got = asyncio.Event()
        task = asyncio.create_task(read())
        await got.wait()
        while not task.cancelled():
            task.cancel()
            await asyncio.wait([task])

    with budget(usd=1):
        run(client, main)
    assert only_record().outcome in ("unknown", "closed")
    assert only_record().usd == only_record().bound_usd
    assert only_record().usd >= provider.bill.usd


@pytest.mark.usefixtures("metered")
def test_an_error_in_a_stream_is_presumed_spent(client: Any, provider: Any) -> None:
    provider.odd(error_after=2)
    with budget(usd=1):
        raised = attempt(lambda: list(GOOGLE.stream(client)))
    # An older SDK hands the error on as a chunk without a text.
    assert only_record().outcome == ("unknown" if isinstance(raised, errors.APIError) else "completed")
    assert only_record().doubt == "an error in the stream"
    assert only_record().usd == only_record().bound_usd


@pytest.mark.usefixtures("metered")
def test_a_stream_without_an_ending_is_presumed_spent(client: Any, provider: Any) -> None:
    def without_a_finish(chunk: Any) -> Any:
        for candidate in chunk["candidates"]:
            candidate.pop("finishReason", None)
        return chunk

    provider.odd(edit=without_a_finish)
    with budget(usd=1):
        assert list(GOOGLE.stream(client))
    assert only_record().doubt == "the stream ended without a finish reason"
    assert only_record().usd == only_record().bound_usd


@pytest.mark.usefixtures("metered")
def test_chunks_of_a_stream_are_what_they_are_without_us(client: Any, provider: Any) -> None:
    def read() -> list[Any]:
        chunks = GOOGLE.stream(client)
        return [chunk.model_dump(exclude={"sdk_http_response", "response_id"}) for chunk in chunks]

    metered = read()
    uninstrument()
    assert read() == metered
    assert len(farebox.calls()) == 1


@pytest.mark.usefixtures("metered")
@pytest.mark.parametrize("fits", [True, False])
def test_what_is_tried_again_over_aiohttp_is_held_and_charged(
    client: Any, provider: Any, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    api: Any = importlib.import_module("google.genai._api_client")
    if not hasattr(api.BaseApiClient, "_get_aiohttp_session"):
        pytest.skip("this google-genai makes a session for each try")
    monkeypatch.setattr(api.random, "randint", lambda *_: -1)  # it waits for 1 to 10 seconds
    provider.drop("billing", times=1)
    limit = bound_of(GOOGLE).usd(2 if fits else 1)
    with stormproof(provider, limit), budget(usd=limit):
        answer = attempt(lambda: run(client, GOOGLE.ask))
    assert isinstance(answer, BudgetExceeded) is not fits
    assert only_record().attempts == provider.bill.calls == (2 if fits else 1)
    assert only_record().usd >= provider.bill.usd


# ── odd bodies ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("metered")
@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    "usage",
    [
        farebox.testing.ABSENT,
        None,
        {},
        {"promptTokenCount": "9"},
        {"promptTokenCount": -1, "candidatesTokenCount": 1},
        {"promptTokenCount": 10**12, "candidatesTokenCount": 1},
        {"promptTokenCount": 9, "candidatesTokenCount": None, "totalTokenCount": "many"},
        [],
    ],
)
def test_a_usage_that_cannot_be_believed_is_charged_its_bound(
    client: Any, provider: Any, usage: Any, is_stream: bool
) -> None:
    provider.odd(usage=usage)
    with stormproof(provider), budget(usd=1):
        answer = attempt(lambda: list(GOOGLE.stream(client)) if is_stream else GOOGLE.ask(client))
    assert len(farebox.calls()) == 1
    record = only_record()
    assert record.cost_source == "estimated"
    assert record.usd == record.bound_usd >= provider.bill.usd
    uninstrument()
    provider.odd(usage=usage)
    bare = attempt(lambda: list(GOOGLE.stream(client)) if is_stream else GOOGLE.ask(client))
    assert type(answer) is type(bare)


@pytest.mark.usefixtures("metered")
def test_a_total_that_no_count_explains_is_charged_as_output(client: Any, provider: Any) -> None:
    provider.odd(usage={"promptTokenCount": 100, "candidatesTokenCount": 10, "totalTokenCount": 150})
    with budget(usd=1):
        GOOGLE.ask(client)
    assert only_record().usd == Decimal(100 * 100 + 50 * 400).scaleb(-9)  # 0.10 and 0.40 USD per million


@pytest.mark.usefixtures("metered")
def test_searches_are_held_and_charged_by_the_models_own_rule(client: Any, provider: Any) -> None:
    provider.answer(web_searches=3, output_tokens=20)
    tools = [types.Tool(google_search=types.GoogleSearch())]
    for model, fee in ((LITE, "0.035"), ("gemini-3.5-flash-lite", "0.042")):
        config = types.GenerateContentConfig(tools=tools, max_output_tokens=CAP)
        with stormproof(provider), budget(usd=1) as paid:
            client.models.generate_content(model=model, contents="hello", config=config)
        assert paid.spent_usd == provider.bill.lines[-1].usd > Decimal(fee)
        assert paid.debt_usd == 0


def as_pictures(payload: dict[str, Any]) -> dict[str, Any]:
    usage = payload["usageMetadata"]
    usage["candidatesTokensDetails"] = [{"modality": "IMAGE", "tokenCount": usage["candidatesTokenCount"]}]
    return payload


@pytest.mark.usefixtures("metered")
@pytest.mark.parametrize("modalities", [None, ["IMAGE"]])
def test_a_model_that_draws_is_held_for_its_pictures_asked_for_or_not(modalities: Any) -> None:
    drawing = "gemini-2.5-flash-image"  # a picture of 1,290 tokens, of 30 USD a million
    with FakeProvider(prices={drawing: Price(input="0.30", output=30, vendor="google")}) as provider:
        provider.answer(output_tokens=1_290)
        provider.odd(edit=as_pictures)
        with GOOGLE.client(provider) as client, budget(usd=1) as paid:
            config = {"max_output_tokens": 1_290, "response_modalities": modalities}
            client.models.generate_content(model=drawing, contents="a cat", config=config)
        assert paid.spent_usd == provider.bill.usd > Decimal("0.0387")
        assert provider.bill.usd <= only_record().bound_usd


# ── installing ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_client_is_metered_by_itself_with_its_own_budget(provider: Any, client: Any) -> None:
    with GOOGLE.client(provider) as other:
        assert instrument(client, tags={"team": "search"}, budgets=[budget("own", calls=1)]) is client
        GOOGLE.ask(other)
        GOOGLE.ask(client)
        with pytest.raises(BudgetExceeded, match="own"):
            run(client, GOOGLE.ask)
        assert [dict(record.tags) for record in farebox.calls()] == [{"team": "search"}] * 2
        assert provider.bill.calls == 2
        uninstrument(client)
        GOOGLE.ask(client)
        assert len(farebox.calls()) == 2


def test_both_ways_count_once_and_undo_puts_back_what_was_there(provider: Any, client: Any) -> None:
    base = type(client._api_client)
    names = ("_request", "_async_request", "_request_once", "_async_request_once")
    was = {name: vars(base)[name] for name in names}
    with instrument(), instrument(only=["google"]):
        instrument(client.aio)
        with budget(usd=1) as paid:
            GOOGLE.ask(client)
        assert paid.spent_calls == len(farebox.calls()) == 1
    uninstrument(client)
    assert {name: vars(base)[name] for name in names} == was


def test_only_others_leaves_google_alone(provider: Any, client: Any) -> None:
    with instrument(only=["openai"]), budget(usd=0):
        GOOGLE.ask(client)
    assert provider.bill.calls == 1
    assert not farebox.calls()


@pytest.mark.parametrize("name", ["_request", "_async_request_once"])
def test_an_sdk_that_looks_different_is_not_touched(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    api: Any = importlib.import_module("google.genai._api_client")

    def changed(self: Any, request: Any) -> None: ...

    monkeypatch.setattr(api.BaseApiClient, name, changed)
    with pytest.raises(IncompatibleSDK, match=name):
        instrument(only=["google"])
    assert vars(api.BaseApiClient)[name] is changed


@pytest.mark.usefixtures("metered")
def test_receivers_hear_google_by_name_and_may_veto(client: Any, provider: Any) -> None:
    def veto(provider_name: str, call: Any) -> None:
        raise PermissionError(provider_name)

    with signals.pre_call.connected_to(veto, sender="gcp.gemini"), budget(usd=1) as paid:
        with pytest.raises(PermissionError, match="gemini"):
            GOOGLE.ask(client)
        with pytest.raises(PermissionError, match="gemini"):
            run(client, GOOGLE.ask)
    assert not provider.requests
    assert paid.spent_usd == paid.reserved_usd == 0
    assert outcomes() == ["vetoed", "vetoed"]


@pytest.mark.usefixtures("metered")
@pytest.mark.parametrize("name", ["gcp.gemini", "google", "gcp.*", "goo*"])
def test_a_standing_budget_is_about_google_by_either_name(client: Any, provider: Any, name: str) -> None:
    ours = budget("ours", calls=1, per="ever", where={"provider": name})
    with farebox.configure(ledger="memory://", budgets=[ours]):
        GOOGLE.ask(client)
        with pytest.raises(BudgetExceeded, match="ours"):
            GOOGLE.ask(client)


@pytest.mark.usefixtures("metered")
def test_the_scope_reaches_threads_and_tasks(client: Any, provider: Any) -> None:
    with budget(usd=1) as paid:
        thread = threading.Thread(target=lambda: list(GOOGLE.stream(client)))
        thread.start()
        thread.join()

        async def ask(aio: Any) -> None:
            await asyncio.gather(*(GOOGLE.ask(aio) for _ in range(3)))

        run(client, ask)
    assert paid.spent_calls == 4
    assert paid.spent_usd == provider.bill.usd == report(by="provider").total.usd


@pytest.mark.usefixtures("metered")
def test_the_bound_of_a_text_is_what_hand_arithmetic_gives(provider: Any) -> None:
    # 25 bytes count as dense, one and a half tokens each at most; 16 for the message and 64 for the request; 100 + 16 out.
    bound = bound_of(GOOGLE)
    assert bound.tokens == 25 + 16 + 64 + CAP + 16
    assert bound.usd_nanos == (25 + 16 + 64) * 100 + (CAP + 16) * 400


def test_an_sdk_whose_interactions_would_not_be_seen_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before its version 3: they went by a client of their own."""
    farebox.uninstrument()
    monkeypatch.setattr("farebox.seams.google.STACK", "google.genai._gone.basesdk")
    with pytest.raises(farebox.errors.IncompatibleSDK, match=r"google\.genai .* is not as farebox knows it"):
        farebox.instrument(only=["google"])
