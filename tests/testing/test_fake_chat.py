"""The fake provider's chat completions, through the real OpenAI SDK."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from farebox.testing import FakeProvider

HELLO: Any = [{"role": "user", "content": "hello"}]  # 2 tokens of text, 3 of the message, 3 of the template


def ask(client: OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(**{"model": "gpt-4o-mini", "messages": HELLO, **options})


def test_an_answer_has_the_tokens_it_was_told_to_have(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=20)
    answer = ask(openai_client)
    assert answer.choices[0].message.content == "abc " * 20
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (8, 20, 28)


def test_without_being_told_an_answer_has_300_tokens(openai_client: OpenAI) -> None:
    assert ask(openai_client).usage.completion_tokens == 300


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_cap_cuts_the_answer_and_says_so(name: str, provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=20)
    answer = ask(openai_client, **{name: 15})
    assert answer.choices[0].message.content == "abc " * 15
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 15


def test_an_answer_as_long_as_its_cap_is_not_cut(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=15)
    assert ask(openai_client, max_completion_tokens=15).choices[0].finish_reason == "stop"


def test_reasoning_comes_first_and_is_part_of_the_output(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=100, reasoning_tokens=60)
    answer = ask(openai_client, model="gpt-5-mini", max_completion_tokens=70)
    assert answer.choices[0].message.content == "abc " * 10
    assert answer.usage.completion_tokens == 70
    assert answer.usage.completion_tokens_details.reasoning_tokens == 60
    answer = ask(openai_client, model="gpt-5-mini", max_completion_tokens=50)
    assert answer.choices[0].message.content == ""
    assert answer.usage.completion_tokens_details.reasoning_tokens == 50


def test_cached_tokens_are_part_of_the_prompt(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=1, cached_tokens=5)
    usage = ask(openai_client).usage
    assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (8, 5)
    provider.answer(output_tokens=1, cached_tokens=5_000)
    assert ask(openai_client).usage.prompt_tokens_details.cached_tokens == 8


def test_a_given_text_is_said_and_counted(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(text="twelve bytes")
    answer = ask(openai_client)
    assert answer.choices[0].message.content == "twelve bytes"
    assert answer.usage.completion_tokens == 3
    answer = ask(openai_client, max_tokens=2)
    assert answer.choices[0].message.content == "twelve b"


def test_every_choice_says_as_much_under_its_own_cap(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=30, reasoning_tokens=10)
    answer = ask(openai_client, n=3, max_completion_tokens=25)
    assert [choice.message.content for choice in answer.choices] == ["abc " * 15] * 3
    assert answer.usage.completion_tokens == 75
    assert answer.usage.completion_tokens_details.reasoning_tokens == 30
    assert provider.bill.lines[0].output_tokens == 75


def test_an_answer_may_overrun_its_cap(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=100, overrun_tokens=2)
    answer = ask(openai_client, max_tokens=10)
    assert answer.usage.completion_tokens == 12
    assert answer.choices[0].finish_reason == "length"


def test_tools_and_parts_and_schemas_are_counted(openai_client: OpenAI) -> None:
    parts = [{"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]
    assert ask(openai_client, messages=[{"role": "user", "content": parts}]).usage.prompt_tokens == 8 + 765
    tool = {"type": "function", "function": {"name": "f"}}  # 44 bytes as compact JSON
    assert ask(openai_client, tools=[tool]).usage.prompt_tokens == 8 + 11
    schema = {"type": "json_object"}  # 22 bytes
    assert ask(openai_client, response_format=schema).usage.prompt_tokens == 8 + 6


def test_a_tokenizer_can_be_given() -> None:
    with (
        FakeProvider(tokenizer=lambda text: len(text.encode())) as provider,
        OpenAI(base_url=provider.openai_base_url, api_key="k") as client,
    ):
        provider.answer(text="żółw")
        usage = ask(client).usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (11, 7)
        assert ask(client, max_tokens=4).choices[0].message.content == "żó"


def test_a_stream_is_the_whole_answer_in_chunks(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=20)
    chunks = list(ask(openai_client, stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "abc " * 6, "abc " * 7, "abc " * 7, None]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_asked_for_usage_ends_with_it(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=20, cached_tokens=3)
    provider.chunks(10)
    *chunks, last = ask(openai_client, stream=True, stream_options={"include_usage": True}, max_tokens=12)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "abc " * 12
    assert len(chunks) == 1 + 10 + 1
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (8, 12)
    assert last.usage.prompt_tokens_details.cached_tokens == 3


def test_a_stream_and_a_plain_answer_are_charged_the_same(provider: FakeProvider, openai_client: OpenAI) -> None:
    ask(openai_client, n=2)
    list(ask(openai_client, n=2, stream=True))
    plain, stream = provider.bill.lines
    assert (plain.usd_nanos, plain.tokens) == (stream.usd_nanos, stream.tokens)
    assert (plain.stream, stream.stream) == (False, True)


def test_the_stream_helper_of_the_sdk_works(openai_client: OpenAI) -> None:
    with openai_client.chat.completions.stream(model="gpt-4o-mini", messages=HELLO) as stream:
        assert stream.get_final_completion().choices[0].message.content == "abc " * 300


def test_async_clients_are_served(provider: FakeProvider) -> None:
    async def run() -> None:
        async with AsyncOpenAI(base_url=provider.openai_base_url, api_key="k") as client:
            plain = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
            assert plain.usage is not None
            assert plain.usage.completion_tokens == 300
            stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            assert text == "abc " * 300

    asyncio.run(run())
    assert provider.bill.calls == 2


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"model": ""}, 400, None),
        ({"messages": []}, 400, "empty_array"),
        ({"messages": "hello"}, 400, "invalid_type"),
        ({"extra_body": {"messages": None}}, 400, "invalid_type"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, 400, "invalid_parameter_combination"),
        ({"max_tokens": 0}, 400, "integer_below_min_value"),
        ({"max_tokens": "5"}, 400, "invalid_type"),
        ({"model": "gpt-5-mini", "max_tokens": 5}, 400, "unsupported_parameter"),
        ({"model": "o4-mini", "max_tokens": 5}, 400, "unsupported_parameter"),
        ({"stream_options": {"include_usage": True}}, 400, None),
        ({"model": "gpt-0"}, 404, "model_not_found"),
        ({"model": "claude-haiku-4-5"}, 404, "model_not_found"),
    ],
)
def test_what_the_real_api_refuses_is_refused_and_free(
    options: dict[str, Any], status: int, code: str | None, provider: FakeProvider, openai_client: OpenAI
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        ask(openai_client, **options)
    assert refused.value.status_code == status
    assert refused.value.code == code
    assert refused.value.type == "invalid_request_error"
    assert provider.bill.calls == 0
    assert provider.requests[0].status == status


def test_unknown_paths_are_refused_in_the_format_of_openai(provider: FakeProvider, openai_client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"Invalid URL \(POST /v1/moderations\)"):
        openai_client.moderations.create(input="y")
    with pytest.raises(openai.NotFoundError, match="GET /v1/models"):
        openai_client.models.list()
    assert provider.bill.calls == 0


def test_malformed_json_is_refused(openai_client: OpenAI) -> None:
    headers = {"content-type": "application/json"}
    for content in (b'{"model": ', b"[]", b"", b"\xff"):
        with pytest.raises(openai.BadRequestError, match="could not parse the JSON body"):
            openai_client.post("/chat/completions", cast_to=object, content=content, options={"headers": headers})


def test_ids_are_found_on_both_sides(provider: FakeProvider, openai_client: OpenAI) -> None:
    answer = ask(openai_client)
    line = provider.bill.lines[0]
    assert (answer.id, answer._request_id) == (line.response_id, line.request_id)
    assert provider.requests[0].request_id == line.request_id
