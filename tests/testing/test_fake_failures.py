"""Errors, lost connections, silence and odd bodies, as the real SDKs meet them; the bill stays true through all."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import anthropic
import openai
import pytest
from anthropic import Anthropic
from openai import AsyncOpenAI, OpenAI

from farebox.testing import ABSENT, FakeProvider

HELLO: Any = [{"role": "user", "content": "hello"}]
MINI = 150, 600  # nanodollars per token of gpt-4o-mini: input, output
WHOLE = 8 * MINI[0] + 300 * MINI[1]  # an answer as nobody told it
AT_ONCE = {"retry-after-ms": "1"}


def ask(client: OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, **options)


def ask_claude(client: Anthropic, **options: Any) -> Any:
    return client.messages.create(model="claude-haiku-4-5", messages=HELLO, max_tokens=100, **options)


def text_of(chunks: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


# --- error statuses ------------------------------------------------------------------------------------------------


def test_a_failure_is_free_and_the_sdk_retries_it(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.fail(500, times=2, headers=AT_ONCE)
    ask(openai_client.with_options(max_retries=2))
    assert [request.status for request in provider.requests] == [500, 500, 200]
    assert [request.headers["x-stainless-retry-count"] for request in provider.requests] == ["0", "1", "2"]
    assert provider.bill.usd_nanos == WHOLE


@pytest.mark.parametrize(
    ("status", "openai_error", "anthropic_error", "anthropic_type"),
    [
        (401, openai.AuthenticationError, anthropic.AuthenticationError, "authentication_error"),
        (429, openai.RateLimitError, anthropic.RateLimitError, "rate_limit_error"),
        (500, openai.InternalServerError, anthropic.InternalServerError, "api_error"),
        (529, openai.InternalServerError, anthropic.InternalServerError, "overloaded_error"),
    ],
)
def test_failures_have_the_shape_of_their_vendor(
    status: int,
    openai_error: type[openai.APIStatusError],
    anthropic_error: type[anthropic.APIStatusError],
    anthropic_type: str,
    provider: FakeProvider,
    openai_client: OpenAI,
    anthropic_client: Anthropic,
) -> None:
    provider.fail(status, times=2, headers={"x-extra": "1"}, message="no luck")
    with pytest.raises(openai_error, match="no luck") as raised:
        ask(openai_client, stream=True)
    assert raised.value.response.headers["x-extra"] == "1"
    assert raised.value.request_id == provider.requests[0].request_id
    with pytest.raises(anthropic_error, match="no luck") as refused:
        ask_claude(anthropic_client)
    assert refused.value.body["error"]["type"] == anthropic_type  # type: ignore[index]
    assert provider.bill.calls == 0


def test_a_failure_leaves_the_other_behaviours_to_the_next_request(
    provider: FakeProvider, openai_client: OpenAI
) -> None:
    provider.answer(output_tokens=1, times=1)
    provider.fail()
    with pytest.raises(openai.InternalServerError):
        ask(openai_client)
    assert ask(openai_client).usage.completion_tokens == 1


def test_behaviours_can_be_for_one_model_only(
    provider: FakeProvider, openai_client: OpenAI, anthropic_client: Anthropic
) -> None:
    provider.fail(model="claude-*", times=None)
    ask(openai_client)
    for _ in range(2):
        with pytest.raises(anthropic.InternalServerError):
            ask_claude(anthropic_client)


# --- lost connections ----------------------------------------------------------------------------------------------


def test_a_connection_dropped_on_arrival_is_not_charged(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.drop(after="arrival")
    with pytest.raises(openai.APIConnectionError):
        ask(openai_client)
    assert provider.bill.calls == 0
    assert [request.status for request in provider.requests] == [None]


@pytest.mark.parametrize("stream", [False, True])
def test_a_connection_dropped_after_billing_is_charged(
    stream: bool, provider: FakeProvider, openai_client: OpenAI
) -> None:
    provider.drop(after="billing")
    with pytest.raises(openai.APIConnectionError):
        ask(openai_client, stream=stream)
    assert provider.bill.usd_nanos == WHOLE
    assert not provider.bill.lines[0].finished


def test_a_retry_after_a_drop_is_charged_a_second_time(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.drop()
    ask(openai_client.with_options(max_retries=1))
    assert [(line.usd_nanos, line.finished) for line in provider.bill.lines] == [(WHOLE, False), (WHOLE, True)]


def test_a_plain_answer_can_break_off(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.drop(after="chunks")
    with pytest.raises(openai.APIConnectionError):
        ask(openai_client)
    assert provider.bill.usd_nanos == WHOLE


@pytest.mark.parametrize(("billing", "output_tokens"), [("whole", 300), ("generated", 24)])
def test_a_stream_can_break_off(billing: Any, output_tokens: int) -> None:
    with (
        FakeProvider(stream_billing=billing) as provider,
        OpenAI(base_url=provider.openai_base_url, api_key="k") as client,
    ):
        provider.chunks(37)  # 8 tokens in the first chunks
        provider.drop(after="chunks", chunks=3)
        seen = []
        with pytest.raises(openai.APIConnectionError):
            for chunk in ask(client, stream=True):
                seen.append(chunk)  # noqa: PERF402  (what came before the break counts)
        assert text_of(seen) == "abc " * 24
        line = provider.bill.lines[0]
        assert (line.output_tokens, line.finished) == (output_tokens, False)
        assert line.usd_nanos == 8 * MINI[0] + output_tokens * MINI[1]


# --- silence -------------------------------------------------------------------------------------------------------


def test_a_hanging_request_is_charged_and_times_out(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.hang()
    with pytest.raises(openai.APITimeoutError):
        ask(openai_client.with_options(timeout=0.1))
    assert provider.bill.usd_nanos == WHOLE
    provider.wait_until_idle()
    assert not provider.bill.lines[0].finished


def test_every_timed_out_attempt_is_charged(provider: FakeProvider, anthropic_client: Anthropic) -> None:
    provider.hang()
    client = anthropic_client.with_options(max_retries=1, timeout=0.4)
    ask_claude(client)
    assert [line.finished for line in provider.bill.lines] == [False, True]


def test_a_hang_may_end_with_the_answer(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.hang(0.05)
    assert ask(openai_client).usage.completion_tokens == 300


def test_a_delayed_request_is_charged_though_its_client_left(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.delay(0.6, times=1)
    with pytest.raises(openai.APITimeoutError):
        ask(openai_client.with_options(timeout=0.05))
    assert provider.bill.calls == 0
    provider.wait_until_idle()
    assert provider.bill.usd_nanos == WHOLE


# --- streams whose client leaves -----------------------------------------------------------------------------------


def test_a_paced_stream_that_is_left_is_charged_as_far_as_it_came(
    provider: FakeProvider, openai_client: OpenAI
) -> None:
    provider.pace(10)
    provider.answer(output_tokens=100, reasoning_tokens=20)
    provider.chunks(10)
    with ask(openai_client, stream=True) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
    provider.wait_until_idle()  # long before the next chunk would come
    line = provider.bill.lines[0]
    assert (line.output_tokens, line.reasoning_tokens, line.finished) == (28, 20, False)
    assert line.usd_nanos == 8 * MINI[0] + 28 * MINI[1]


def test_a_paced_stream_that_is_read_is_charged_in_full(provider: FakeProvider, anthropic_client: Anthropic) -> None:
    provider.pace(0.01)
    provider.chunks(5)
    started = time.monotonic()
    list(ask_claude(anthropic_client, stream=True))
    assert time.monotonic() - started >= 0.04
    assert provider.bill.lines[0].output_tokens == 100
    assert provider.bill.lines[0].finished


def test_a_cancelled_task_is_noticed(provider: FakeProvider) -> None:
    provider.pace(10)
    provider.chunks(50)

    async def run() -> None:
        async with AsyncOpenAI(base_url=provider.openai_base_url, api_key="k") as client:
            stream = await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True)

            reached = asyncio.Event()

            async def read() -> None:
                async for chunk in stream:
                    if chunk.choices[0].delta.content:
                        reached.set()

            task = asyncio.create_task(read())
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    provider.wait_until_idle()
    assert provider.bill.lines[0].output_tokens == 6


def test_a_stream_billed_whole_is_charged_though_it_is_left(provider: FakeProvider, openai_client: OpenAI) -> None:
    with ask(openai_client, stream=True) as stream:
        next(stream)
    assert provider.bill.usd_nanos == WHOLE


# --- odd bodies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "usage", [None, {}, "lots", {"prompt_tokens": -5, "completion_tokens": "7", "total_tokens": 10**30}]
)
def test_usage_can_be_anything(usage: Any, provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.odd(usage=usage)
    body = openai_client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO)
    assert body.http_response.json()["usage"] == usage
    assert provider.bill.usd_nanos == WHOLE


def test_usage_can_be_absent_or_changed(
    provider: FakeProvider, openai_client: OpenAI, anthropic_client: Anthropic
) -> None:
    provider.odd(usage=ABSENT, times=2)
    assert ask(openai_client).usage is None
    events = list(ask_claude(anthropic_client, stream=True))
    assert "usage" not in events[0].message.model_fields_set
    provider.odd(usage=lambda usage: {**usage, "completion_tokens": 1})
    assert ask(openai_client).usage.completion_tokens == 1


def test_the_payload_can_be_edited(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.odd(edit=lambda payload: {**payload, "service_tier": "flex", "choices": []}, times=1)
    answer = ask(openai_client)
    assert (answer.service_tier, answer.choices) == ("flex", [])
    provider.odd(edit=lambda payload: payload if payload["choices"][0]["delta"] else None)
    assert all(chunk.choices[0].delta.model_fields_set for chunk in ask(openai_client, stream=True))


def test_events_that_are_edited_away_are_charged(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.pace(0)
    provider.odd(edit=lambda payload: None if payload["choices"][0]["delta"].get("content") else payload)
    assert text_of(ask(openai_client, stream=True)) == ""
    assert provider.bill.usd_nanos == WHOLE


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", None),
        ("not json", None),
        (lambda body: body[:40], None),
        ("<html>Bad gateway</html>", "text/html"),
        ("null", None),
    ],
)
def test_the_body_can_be_anything(body: Any, content_type: Any, provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.odd(body=body, content_type=content_type)
    answer = openai_client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO)
    text = answer.http_response.text
    if callable(body):
        assert text.startswith('{"id":"chatcmpl-fake-000001"')
        assert len(text) == 40
    else:
        assert text == (body.decode() if isinstance(body, bytes) else body)
    assert answer.http_response.headers["content-type"] == content_type or "application/json"
    assert provider.bill.usd_nanos == WHOLE
    assert provider.bill.lines[0].finished


def test_a_stream_can_be_cut_and_end_properly(provider: FakeProvider, anthropic_client: Anthropic) -> None:
    provider.odd(body=lambda body: body[: body.index(b"event: message_delta")])
    assert [event.type for event in ask_claude(anthropic_client, stream=True)][-1] == "content_block_stop"


def test_usage_can_come_with_every_chunk(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.chunks(3)
    provider.answer(output_tokens=30, reasoning_tokens=3)
    provider.odd(stream_usage="each")
    counts = [chunk.usage.completion_tokens for chunk in ask(openai_client, stream=True)]
    assert counts == [3, 12, 21, 30, 30]


def test_usage_can_stay_away_though_asked_for(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.odd(stream_usage="never")
    chunks = list(ask(openai_client, stream=True, stream_options={"include_usage": True}))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_usage_can_come_with_a_choice(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.odd(stream_usage="with_choice")
    *_, last = ask(openai_client, stream=True, stream_options={"include_usage": True})
    assert (last.usage.completion_tokens, len(last.choices)) == (300, 1)


def test_a_chunk_can_trail_the_usage(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.odd(stream_usage="trailing")
    *_, usage, last = ask(openai_client, stream=True, stream_options={"include_usage": True})
    assert usage.usage.completion_tokens == 300
    assert (last.usage, last.choices) == (None, [])


def test_events_can_be_unknown(provider: FakeProvider, openai_client: OpenAI, anthropic_client: Anthropic) -> None:
    provider.odd(unknown_events=True, times=2)
    kinds = [getattr(chunk, "type", None) for chunk in ask(openai_client, stream=True)]
    assert kinds.count("farebox.surprise") == kinds.count(None) > 0
    with anthropic_client.messages.stream(model="claude-haiku-4-5", messages=HELLO, max_tokens=9) as stream:
        assert stream.get_final_text() == "abc " * 9


def test_a_stream_can_end_in_an_error(
    provider: FakeProvider, openai_client: OpenAI, anthropic_client: Anthropic
) -> None:
    provider.odd(error_after=2, times=2)
    with pytest.raises(openai.APIError, match="Overloaded"):
        list(ask(openai_client, stream=True))
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        list(ask_claude(anthropic_client, stream=True))
    assert [line.output_tokens for line in provider.bill.lines] == [300, 100]
