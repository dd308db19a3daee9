"""The fake provider's responses, old completions and embeddings, through the real OpenAI SDK."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import openai
import pytest
from anthropic import Anthropic
from openai import AsyncOpenAI, OpenAI

from farebox.testing import FakeProvider

# "hello" is 2 tokens of text, 3 of the message, 3 of the template
WEATHER: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


def ask(client: OpenAI, **options: Any) -> Any:
    return client.responses.create(**{"model": "gpt-5-mini", "input": "hello", **options})


# ── responses ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_response_has_the_tokens_it_was_told_to_have(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=20, reasoning_tokens=5, cached_tokens=4, cache_write_tokens=2)
    answer = ask(openai_client)
    assert answer.output_text == "abc " * 15
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert (answer.status, answer.incomplete_details) == ("completed", None)
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (8, 20, 28)
    assert (usage.input_tokens_details.cached_tokens, usage.input_tokens_details.cache_write_tokens) == (4, 2)
    assert usage.output_tokens_details.reasoning_tokens == 5
    line = provider.bill.lines[0]
    assert (line.path, line.response_id, line.request_id) == ("/v1/responses", answer.id, answer._request_id)
    # USD per million tokens: input 0.25 (4 read from the cache at 0.025), output 2
    assert line.usd_nanos == 4 * 250 + 4 * 25 + 20 * 2_000


def test_a_cap_cuts_a_response_and_says_so(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=100)
    answer = ask(openai_client, max_output_tokens=16)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.output_text == "abc " * 16
    assert provider.bill.lines[0].output_tokens == 16


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({"input": [{"role": "user", "content": "hello"}]}, 8),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}]}, 8),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "hello"}]}, 8),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]}, 6 + 765),
        ({"input": [{"type": "reasoning", "id": "r", "summary": []}]}, 6 + 11),  # 43 bytes as compact JSON
        ({"instructions": "hello"}, 8 + 5),
        ({"tools": [WEATHER]}, 8 + 17),  # 67 bytes
        ({"tools": [{"type": "web_search"}]}, 8 + 6 + 300),  # 21 bytes
        ({"text": {"format": {"type": "json_object"}}}, 8 + 6),  # 22 bytes
        ({"extra_body": {"prompt": {"id": "p", "variables": {"a": "hello"}}}}, 8 + 200 + 2),
    ],
    ids=repr,
)
def test_all_that_a_response_reads_is_counted(
    options: dict[str, Any], tokens: int, provider: FakeProvider, openai_client: OpenAI
) -> None:
    assert ask(openai_client, **options).usage.input_tokens == tokens
    counted = openai_client.responses.input_tokens.count(**{"model": "gpt-5-mini", "input": "hello", **options})
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", tokens)
    assert provider.bill.calls == 1


def test_a_stream_of_a_response_is_the_whole_of_it(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=20, reasoning_tokens=4)
    events = list(ask(openai_client, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "abc " * 16
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[0].response.usage is None
    assert events[-1].type == "response.completed"
    whole = ask(openai_client)
    assert events[-1].response.usage == whole.usage
    plain, streamed = sorted(provider.bill.lines, key=lambda line: line.stream)
    assert (plain.usd_nanos, plain.tokens) == (streamed.usd_nanos, streamed.tokens)


def test_a_stream_that_is_cut_ends_incomplete(provider: FakeProvider, openai_client: OpenAI) -> None:
    *_, last = ask(openai_client, stream=True, max_output_tokens=20)
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.usage.output_tokens == 20


def test_a_paced_stream_is_charged_as_it_is_generated(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=4_000)
    provider.pace(0.002)
    with ask(openai_client, stream=True) as events:
        for number, _ in enumerate(events):
            if number == 10:
                break
    provider.wait_until_idle()
    (line,) = provider.bill.lines
    assert not line.finished
    assert 0 < line.output_tokens < 1_000


def test_the_helpers_of_the_sdk_work(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(function="weather", text='{"city": "Paris"}', reasoning_tokens=7)
    with openai_client.responses.stream(model="gpt-5-mini", input="hello", tools=[WEATHER]) as stream:
        final = stream.get_final_response()
    (call,) = [item for item in final.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Paris"})
    assert final.output_text == ""

    async def run() -> str:
        async with (
            AsyncOpenAI(base_url=provider.openai_base_url, api_key="k") as client,
            client.responses.stream(model="gpt-5-mini", input="hello") as stream,
        ):
            return (await stream.get_final_response()).output_text

    provider.answer(text="twelve bytes")
    assert asyncio.run(run()) == "twelve bytes"


def test_web_searches_are_charged_and_read_again(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=10, web_searches=3)
    answer = ask(openai_client, tools=[{"type": "web_search"}], max_tool_calls=2)
    assert [item.type for item in answer.output] == ["web_search_call", "web_search_call", "message"]
    prompt = 8 + 6 + 300
    # the prompt once, then with one result of 1,000 tokens, then with two
    assert answer.usage.input_tokens == prompt + (prompt + 1_000) + (prompt + 2_000)
    (line,) = provider.bill.lines
    assert line.web_searches == 2
    assert line.usd_nanos == answer.usage.input_tokens * 250 + 10 * 2_000 + 2 * 10_000_000
    assert ask(openai_client).usage.input_tokens == 8  # without the tool


def test_what_a_response_goes_on_from_is_read_again(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=20)
    first = ask(openai_client)
    second = ask(openai_client, previous_response_id=first.id)
    assert second.usage.input_tokens == 8 + 20 + 8
    assert ask(openai_client, previous_response_id=second.id).usage.input_tokens == 36 + 20 + 8
    for tokens in (8, 36):
        assert ask(openai_client, conversation="conv_1").usage.input_tokens == tokens
    kept_by_nobody = ask(openai_client, store=False)
    for unknown in (kept_by_nobody.id, "resp_unknown"):
        with pytest.raises(openai.BadRequestError, match="not found"):
            ask(openai_client, previous_response_id=unknown)


def test_an_answer_in_the_background_is_found_later(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.background(looks=2)
    queued = ask(openai_client, background=True)
    assert (queued.status, queued.usage, queued.output_text) == ("queued", None, "")
    assert provider.bill.lines[0].output_tokens == 300  # it is being made, whoever looks
    found = [openai_client.responses.retrieve(queued.id) for _ in range(4)]
    assert [one.status for one in found] == ["in_progress", "in_progress", "completed", "completed"]
    assert found[-1].usage is not None
    assert (found[-1].usage.output_tokens, found[-1].output_text) == (300, "abc " * 300)
    *_, last = openai_client.responses.retrieve(queued.id, stream=True)
    assert last.type == "response.completed"
    assert provider.bill.calls == 1


def test_an_answer_in_the_background_can_be_stopped(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.background(looks=1)
    queued = ask(openai_client, background=True)
    stopped = openai_client.responses.cancel(queued.id)
    assert (stopped.status, stopped.usage) == ("cancelled", None)
    assert openai_client.responses.retrieve(queued.id).status == "cancelled"
    provider.reset()
    finished = ask(openai_client, background=True)
    assert openai_client.responses.cancel(finished.id).status == "completed"
    with pytest.raises(openai.BadRequestError, match="synchronous"):
        openai_client.responses.cancel(ask(openai_client).id)
    with pytest.raises(openai.NotFoundError, match="resp_unknown"):
        openai_client.responses.retrieve("resp_unknown")


def test_a_stream_in_the_background_is_charged_whole(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=400)
    provider.pace(0.001)
    with ask(openai_client, background=True, stream=True) as events:
        assert next(events).response.background is True
    provider.wait_until_idle()
    assert provider.bill.lines[0].output_tokens == 400


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"max_output_tokens": 15}, "integer_below_min_value"),
        ({"max_output_tokens": "20"}, "invalid_type"),
        ({"input": 5}, "invalid_type"),
        ({"extra_body": {"input": None}}, "missing_required_parameter"),
        ({"extra_body": {"model": None}}, "missing_required_parameter"),
        ({"conversation": "c", "previous_response_id": "r"}, "mutually_exclusive_parameters"),
    ],
    ids=repr,
)
def test_what_the_real_api_refuses_is_refused_and_free(
    options: dict[str, Any], code: str, provider: FakeProvider, openai_client: OpenAI
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(openai_client, **options)
    assert refused.value.code == code
    assert provider.bill.calls == 0


def test_a_request_that_asks_after_an_answer_can_fail(provider: FakeProvider, openai_client: OpenAI) -> None:
    answer = ask(openai_client)
    provider.fail(503)
    with pytest.raises(openai.InternalServerError):
        openai_client.responses.retrieve(answer.id)
    assert openai_client.responses.retrieve(answer.id).usage == answer.usage


@pytest.mark.parametrize("looks", [-1])
def test_a_number_of_looks_is_not_negative(looks: int, provider: FakeProvider) -> None:
    with pytest.raises(ValueError, match=r"looks=-1; it is 0 or more"):
        provider.background(looks)


def test_functions_are_called_in_every_format(
    provider: FakeProvider, openai_client: OpenAI, anthropic_client: Anthropic
) -> None:
    provider.answer(function="f", text='{"a": 1}')
    messages: Any = [{"role": "user", "content": "hello"}]
    chat = openai_client.chat.completions.create(model="gpt-4o-mini", messages=messages)
    (call,) = chat.choices[0].message.tool_calls or ()
    assert (chat.choices[0].finish_reason, chat.choices[0].message.content) == ("tool_calls", None)
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("f", '{"a": 1}')
    with openai_client.chat.completions.stream(model="gpt-4o-mini", messages=messages) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed is not None
    assert streamed[0].function.arguments == '{"a": 1}'
    claude: Any = {"model": "claude-haiku-4-5", "messages": messages, "max_tokens": 100}
    for message in (
        anthropic_client.messages.create(**claude),
        anthropic_client.messages.stream(**claude).__enter__().get_final_message(),
    ):
        (block,) = message.content
        assert block.type == "tool_use"
        assert (message.stop_reason, block.name, block.input) == ("tool_use", "f", {"a": 1})
    assert [line.output_tokens for line in provider.bill.lines] == [2, 2, 2, 2]


def test_claude_searches_as_often_as_it_may(provider: FakeProvider, anthropic_client: Anthropic) -> None:
    provider.answer(output_tokens=10, web_searches=5)
    message = anthropic_client.messages.create(
        model="claude-haiku-4-5",
        messages=[{"role": "user", "content": "hello"}],
        tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}],
        max_tokens=100,
    )
    assert message.usage.server_tool_use is not None
    assert message.usage.server_tool_use.web_search_requests == 2
    (line,) = provider.bill.lines
    assert line.usd_nanos == line.input_tokens * 1_000 + 10 * 5_000 + 2 * 10_000_000


# ── old completions ──────────────────────────────────────────────────────────────────────────────────────────────


def complete(client: OpenAI, **options: Any) -> Any:
    return client.completions.create(**{"model": "gpt-3.5-turbo-instruct", "prompt": "hello", **options})


@pytest.mark.parametrize(
    ("options", "tokens_in", "tokens_out", "shown"),
    [
        ({}, 2, 16, 1),
        ({"max_tokens": 40}, 2, 40, 1),
        ({"max_tokens": 1_000}, 2, 300, 1),
        ({"n": 3}, 2, 48, 3),
        ({"n": 2, "best_of": 4}, 2, 64, 2),
        ({"prompt": ["hello", "you"]}, 3, 32, 2),
        ({"prompt": [1, 2, 3, 4, 5]}, 5, 16, 1),
        ({"prompt": [[1, 2], [3, 4, 5]], "n": 2}, 5, 64, 4),
    ],
    ids=repr,
)
def test_a_completion_is_made_as_often_as_it_is_asked_for(
    options: dict[str, Any],
    tokens_in: int,
    tokens_out: int,
    shown: int,
    provider: FakeProvider,
    openai_client: OpenAI,
) -> None:
    answer = complete(openai_client, **options)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (tokens_in, tokens_out)
    assert len(answer.choices) == shown
    assert {choice.finish_reason for choice in answer.choices} == {"stop" if tokens_out == 300 else "length"}
    # USD per million tokens: input 1.50, output 2
    assert provider.bill.usd_nanos == tokens_in * 1_500 + tokens_out * 2_000


def test_a_stream_of_completions_is_the_whole_of_them(provider: FakeProvider, openai_client: OpenAI) -> None:
    chunks = list(complete(openai_client, stream=True, n=2, max_tokens=20))
    for index in (0, 1):
        said = [choice.text for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert "".join(said) == "abc " * 20
    assert all(chunk.usage is None for chunk in chunks)
    *_, last = complete(openai_client, stream=True, stream_options={"include_usage": True})
    assert (last.choices, last.usage.completion_tokens) == ([], 16)
    assert [line.output_tokens for line in provider.bill.lines] == [40, 16]


@pytest.mark.parametrize(
    "options",
    [
        {"n": 3, "best_of": 2},
        {"stream": True, "best_of": 2},
        {"extra_body": {"prompt": 5}},
        {"extra_body": {"prompt": []}},
    ],
    ids=repr,
)
def test_a_completion_that_the_real_api_refuses_is_refused(
    options: dict[str, Any], provider: FakeProvider, openai_client: OpenAI
) -> None:
    with pytest.raises(openai.BadRequestError):
        complete(openai_client, **options)
    assert provider.bill.calls == 0


# ── embeddings ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "tokens", "count"),
    [("hello", 2, 1), (["hello", "you"], 3, 2), ([1, 2, 3], 3, 1), ([[1], [2, 3]], 3, 2)],
    ids=repr,
)
@pytest.mark.parametrize("form", ["float", "base64", None])
def test_embeddings_are_charged_by_their_input(
    given: Any, tokens: int, count: int, form: Any, provider: FakeProvider, openai_client: OpenAI
) -> None:
    options = {} if form is None else {"encoding_format": form}
    answer = openai_client.embeddings.create(model="text-embedding-3-large", input=given, **options)
    assert len(answer.data) == count
    if form != "base64":
        assert answer.data[0].embedding == [0.25] * 8
    assert answer.usage.prompt_tokens == tokens
    assert provider.bill.usd == Decimal("0.13") * tokens / 1_000_000
    assert provider.bill.lines[0].output_tokens == 0


def test_an_input_that_is_too_long_is_refused(provider: FakeProvider, openai_client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="8192"):
        openai_client.embeddings.create(model="text-embedding-3-small", input=[[1] * 8_193])
    assert provider.bill.calls == 0
