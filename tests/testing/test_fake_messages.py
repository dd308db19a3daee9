"""The fake provider's messages, through the real Anthropic SDK."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

from farebox.testing import FakeProvider

HELLO: Any = [{"role": "user", "content": "hello"}]  # 2 tokens of text, 3 of the message, 3 of the template


def ask(client: Anthropic, **options: Any) -> Any:
    return client.messages.create(**{"model": "claude-haiku-4-5", "messages": HELLO, "max_tokens": 100, **options})


def test_an_answer_has_the_tokens_it_was_told_to_have(provider: FakeProvider, anthropic_client: Anthropic) -> None:
    provider.answer(output_tokens=20)
    answer = ask(anthropic_client)
    assert answer.content[0].text == "abc " * 20
    assert answer.stop_reason == "end_turn"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (8, 20)


def test_max_tokens_cuts_the_answer_and_says_so(provider: FakeProvider, anthropic_client: Anthropic) -> None:
    provider.answer(output_tokens=200, reasoning_tokens=30)
    answer = ask(anthropic_client)
    assert answer.content[0].text == "abc " * 70
    assert answer.stop_reason == "max_tokens"
    assert answer.usage.output_tokens == 100
    assert answer.usage.output_tokens_details.thinking_tokens == 30


def test_no_tokens_at_all_may_be_asked_for(anthropic_client: Anthropic) -> None:
    answer = ask(anthropic_client, max_tokens=0)
    assert (answer.usage.output_tokens, answer.stop_reason) == (0, "max_tokens")


def test_cached_and_written_tokens_stand_beside_the_input(provider: FakeProvider, anthropic_client: Anthropic) -> None:
    provider.answer(
        output_tokens=1, input_tokens=1_000, cached_tokens=600, cache_write_tokens=200, cache_write_1h_tokens=50
    )
    usage = ask(anthropic_client).usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (150, 600, 250)
    assert usage.cache_creation.ephemeral_5m_input_tokens == 200
    assert usage.cache_creation.ephemeral_1h_input_tokens == 50
    line = provider.bill.lines[0]
    assert (line.input_tokens, line.cached_tokens, line.cache_write_tokens) == (1_000, 600, 200)
    # 150 at 1.00, 600 at 0.10, 200 at 1.25, 50 at 2.00 and 1 at 5.00 USD per million tokens
    assert line.usd_nanos == 150_000 + 60_000 + 250_000 + 100_000 + 5_000


def test_a_stream_has_the_events_of_the_real_one(provider: FakeProvider, anthropic_client: Anthropic) -> None:
    provider.answer(output_tokens=20, cached_tokens=5)
    provider.chunks(2)
    events = list(ask(anthropic_client, stream=True))
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start, delta = events[0].message.usage, events[-2].usage
    assert (start.input_tokens, start.cache_read_input_tokens, start.output_tokens) == (3, 5, 1)
    assert (delta.input_tokens, delta.cache_read_input_tokens, delta.output_tokens) == (3, 5, 20)
    assert events[-2].delta.stop_reason == "end_turn"


def test_a_stream_is_pinged(anthropic_client: Anthropic) -> None:
    with anthropic_client.messages.with_streaming_response.create(
        model="claude-haiku-4-5", messages=HELLO, max_tokens=10, stream=True
    ) as response:
        assert "event: ping" in list(response.iter_lines())


def test_the_stream_helper_of_the_sdk_works(anthropic_client: Anthropic) -> None:
    with anthropic_client.messages.stream(model="claude-opus-4-5", messages=HELLO, max_tokens=50) as stream:
        message: Any = stream.get_final_message()
    assert message.content[0].text == "abc " * 50
    assert (message.usage.output_tokens, message.stop_reason) == (50, "max_tokens")


def test_the_beta_path_is_the_same(provider: FakeProvider, anthropic_client: Anthropic) -> None:
    answer = anthropic_client.beta.messages.create(model="claude-haiku-4-5", messages=HELLO, max_tokens=5)
    assert answer.usage.output_tokens == 5
    assert provider.bill.lines[0].path == "/v1/messages"


def test_counting_tokens_is_free(provider: FakeProvider, anthropic_client: Anthropic) -> None:
    count = anthropic_client.messages.count_tokens(model="claude-haiku-4-5", messages=HELLO, system="be brief")
    assert count.input_tokens == 8 + 2
    assert (provider.bill.calls, provider.requests[0].status) == (0, 200)


def test_tools_bring_their_hidden_prompt_along(anthropic_client: Anthropic) -> None:
    tool = {"name": "f", "input_schema": {"type": "object"}}  # 46 bytes as compact JSON
    assert ask(anthropic_client, tools=[tool]).usage.input_tokens == 8 + 12 + 496
    assert ask(anthropic_client, tools=[tool], tool_choice={"type": "any"}).usage.input_tokens == 8 + 12 + 588


def test_async_clients_are_served(provider: FakeProvider) -> None:
    async def run() -> None:
        async with AsyncAnthropic(base_url=provider.anthropic_base_url, api_key="k") as client:
            plain = await client.messages.create(model="claude-haiku-4-5", messages=HELLO, max_tokens=7)
            assert plain.usage.output_tokens == 7
            async with client.messages.stream(model="claude-haiku-4-5", messages=HELLO, max_tokens=7) as stream:
                assert await stream.get_final_text() == "abc " * 7

    asyncio.run(run())
    assert provider.bill.calls == 2


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"messages": HELLO, "max_tokens": 5}, 400, "model: Field required"),
        ({"model": "claude-haiku-4-5", "max_tokens": 5}, 400, "messages: Field required"),
        ({"model": "claude-haiku-4-5", "messages": HELLO}, 400, "max_tokens: Field required"),
        ({"model": "claude-haiku-4-5", "messages": [], "max_tokens": 5}, 400, "at least one message"),
        ({"model": "claude-haiku-4-5", "messages": HELLO, "max_tokens": "5"}, 400, "valid integer"),
        ({"model": "claude-haiku-4-5", "messages": HELLO, "max_tokens": -1}, 400, "greater than or equal to 0"),
        (
            {
                "model": "claude-haiku-4-5",
                "messages": HELLO,
                "max_tokens": 2_000,
                "thinking": {"type": "enabled", "budget_tokens": 2_000},
            },
            400,
            "`max_tokens` must be greater",
        ),
        ({"model": "gpt-4o", "messages": HELLO, "max_tokens": 5}, 404, "model: gpt-4o"),
    ],
)
def test_what_the_real_api_refuses_is_refused_and_free(
    body: dict[str, Any], status: int, message: str, provider: FakeProvider, anthropic_client: Anthropic
) -> None:
    with pytest.raises(anthropic.APIStatusError, match=message) as refused:
        anthropic_client.post("/v1/messages", cast_to=object, body=body)
    assert refused.value.status_code == status
    error: Any = refused.value.body
    assert error["type"] == "error"
    assert error["error"]["type"] == ("invalid_request_error" if status == 400 else "not_found_error")
    assert error["request_id"] == refused.value.request_id
    assert provider.bill.calls == 0


def test_unknown_paths_are_refused_in_the_format_of_anthropic(anthropic_client: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
        anthropic_client.post("/v1/nothing", cast_to=object, body={})


def test_ids_are_found_on_both_sides(provider: FakeProvider, anthropic_client: Anthropic) -> None:
    answer = ask(anthropic_client)
    line = provider.bill.lines[0]
    assert (answer.id, answer._request_id) == (line.response_id, line.request_id)
