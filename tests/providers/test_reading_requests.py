"""What a request can cost, read off its body: sizes that err upwards, caps, choices; and how it is rewritten."""

from __future__ import annotations

import base64
import copy
from collections import OrderedDict
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from farebox._call import Call
from farebox.prices.bounds import proven_tokens
from farebox.prices.ladders import FEATURES
from farebox.providers import Provider, find_provider, provider_names
from farebox.providers._reading import Sizes, fields, listed, utf8_size, whole_number, without_iterators
from tests.providers.test_pictures import png
from tests.strategies import bound_tokens, json_values

OPENAI = find_provider("openai")
ANTHROPIC = find_provider("anthropic")
BOTH = pytest.mark.parametrize("provider", [OPENAI, ANTHROPIC], ids=lambda provider: provider.name)
PATHS = {"openai": "/chat/completions", "anthropic": "/v1/messages"}


def read(provider: Provider, messages: Any = None, *, host: str = "", **parameters: Any) -> Call:
    """The call of a body that is well-formed but for what is given."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}] if messages is None else messages}
    if provider is ANTHROPIC:
        body["max_tokens"] = 100
    call = provider.read_request(PATHS[provider.name], {**body, **parameters}, host)
    assert call is not None
    return call


def size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


# Which requests are calls.


def test_providers_are_found_by_name() -> None:
    assert {"openai", "anthropic"} <= set(provider_names())
    assert find_provider("openai").name == "openai"
    with pytest.raises(ValueError, match=r"provider 'opnai' is unknown; choose from anthropic.*, openai"):
        find_provider("opnai")


@pytest.mark.parametrize(
    ("provider", "path"),
    [
        (OPENAI, "/chat/completions"),
        (OPENAI, "https://proxy.example/v1/chat/completions"),
        (OPENAI, "/openai/deployments/mine/chat/completions"),
        (ANTHROPIC, "/v1/messages"),
        (ANTHROPIC, "https://proxy.example/anthropic/v1/messages"),
    ],
)
def test_a_call_is_known_by_the_end_of_its_path(provider: Provider, path: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    call = provider.read_request(path, body, "api.example.com")
    assert call is not None
    assert (call.provider_name, call.operation_name, call.endpoint) == (provider.name, "chat", PATHS[provider.name])
    assert (call.request_model, call.server_address, call.messages) == ("m", "api.example.com", 1)


@pytest.mark.parametrize(
    "path", ["/models", "/chat/completions/1", "/v1/messages/count_tokens", "/v1/messages/batches", "", "/"]
)
@BOTH
def test_other_paths_are_not_metered(provider: Provider, path: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    assert provider.read_request(path, body, "") is None


@pytest.mark.parametrize(
    "wrong",
    [
        *({"model": value} for value in (None, "", 5, ["m"], b"m")),
        *({"messages": value} for value in (None, [], "hi", {}, {"role": "user"}, 5, b"hi")),
    ],
    ids=lambda value: getattr(value, "name", repr(value)),
)
@BOTH
def test_a_malformed_body_is_none_of_ours(provider: Provider, wrong: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, **wrong}
    before = copy.copy(body)
    assert provider.read_request(PATHS[provider.name], body, "") is None
    assert body == before
    assert provider.read_request(PATHS[provider.name], {}, "") is None


@pytest.mark.parametrize("cap", [None, -1, True, "many", 10.5, float("nan"), float("inf"), [5], {}])
def test_a_message_without_a_readable_cap_is_left_to_the_api(cap: Any) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": cap}
    assert ANTHROPIC.read_request("/v1/messages", body, "") is None


# Caps and choices.


@pytest.mark.parametrize(
    ("caps", "declared", "accepts"),
    [
        ({}, None, True),
        ({"max_tokens": None, "max_completion_tokens": None}, None, True),
        ({"max_tokens": 100}, 100, True),
        ({"max_completion_tokens": 100}, 100, True),
        ({"max_tokens": 300, "max_completion_tokens": 100}, 300, True),
        ({"max_tokens": 100, "max_completion_tokens": 300}, 300, True),
        ({"max_tokens": "100"}, 100, True),
        ({"max_tokens": 100.0}, 100, True),
        ({"max_tokens": 0}, 0, True),
        ({"max_tokens": -1}, None, False),
        ({"max_tokens": True}, None, False),
        ({"max_tokens": "many"}, None, False),
        ({"max_tokens": "1" * 12}, None, False),
        ({"max_tokens": "१००"}, None, False),
        ({"max_tokens": 99.5}, None, False),
        ({"max_tokens": float("inf")}, None, False),
        ({"max_tokens": 100, "max_completion_tokens": "many"}, None, False),
    ],
)
def test_the_cap_of_a_chat_is_the_larger_of_its_two_names(
    caps: dict[str, Any], declared: int | None, accepts: bool
) -> None:
    call = read(OPENAI, **caps)
    assert (call.declared_cap, call.accepts_cap) == (declared, accepts)


@pytest.mark.parametrize(("cap", "declared"), [(100, 100), ("100", 100), (100.0, 100), (0, 0)])
def test_the_cap_of_a_message_is_read_leniently(cap: Any, declared: int) -> None:
    assert read(ANTHROPIC, max_tokens=cap).declared_cap == declared


@pytest.mark.parametrize(
    ("n", "choices"), [(None, 1), (1, 1), (4, 4), ("3", 3), (2.0, 2), (0, 1), (-2, 1), (True, 1), ("x", 1)]
)
def test_choices_are_read_leniently_and_never_fewer_than_one(n: Any, choices: int) -> None:
    assert read(OPENAI, n=n).choices == choices


@pytest.mark.parametrize("value", [None, True, -1, "", "-1", "1e3", "0x10", b"5", 1.5, float("nan"), [], "\uff19"])
def test_what_is_no_whole_number_is_none(value: Any) -> None:
    assert whole_number(value) is None


# Tiers, caches, reasoning, streams.


def test_the_tier_asked_for_is_kept() -> None:
    assert [read(OPENAI, service_tier=tier).tier for tier in (None, "auto", "flex", "priority", 5)] == [
        "",
        "auto",
        "flex",
        "priority",
        "",
    ]
    assert [read(ANTHROPIC, service_tier=tier).tier for tier in (None, "auto", "standard_only")] == ["", "", "standard"]
    assert read(ANTHROPIC, speed="fast").tier == "fast"
    assert read(ANTHROPIC, speed="standard").tier == ""


EPHEMERAL = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}


@pytest.mark.parametrize(
    ("parameters", "lifetime"),
    [
        ({}, "none"),
        ({"system": [{"type": "text", "text": "s", "cache_control": EPHEMERAL}]}, "5m"),
        ({"system": [{"type": "text", "text": "s", "cache_control": {**EPHEMERAL, "ttl": "5m"}}]}, "5m"),
        ({"system": [{"type": "text", "text": "s", "cache_control": HOUR}]}, "1h"),
        ({"tools": [{"name": "t", "input_schema": {}, "cache_control": EPHEMERAL}]}, "5m"),
        ({"tools": [{"type": "web_search_20250305", "name": "w", "cache_control": HOUR}]}, "1h"),
        ({"cache_control": EPHEMERAL}, "5m"),
        ({"cache_control": HOUR, "system": [{"type": "text", "text": "s", "cache_control": EPHEMERAL}]}, "1h"),
        ({"cache_control": {**EPHEMERAL, "ttl": "7d"}}, "1h"),
        ({"cache_control": None}, "none"),
    ],
    ids=lambda value: getattr(value, "name", repr(value)),
)
def test_the_longest_lived_cache_that_a_message_asks_for_is_known(parameters: dict[str, Any], lifetime: str) -> None:
    assert read(ANTHROPIC, **parameters).cache_write == lifetime


def in_a_tool_result(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t", "content": [part]}


def test_a_cached_text_part_is_seen_also_in_a_tool_result() -> None:
    part = {"type": "text", "text": "t", "cache_control": HOUR}
    assert read(ANTHROPIC, [{"role": "user", "content": [part]}]).cache_write == "1h"
    assert read(ANTHROPIC, [{"role": "user", "content": [in_a_tool_result(part)]}]).cache_write == "1h"


@pytest.mark.parametrize("kind", ["document", "image"])
def test_a_cached_media_part_is_seen(kind: str) -> None:
    part = {"type": kind, "source": {"type": "base64", "data": "AAAA"}, "cache_control": HOUR}
    assert read(ANTHROPIC, [{"role": "user", "content": [part]}]).cache_write == "1h"


def test_a_chat_may_write_a_cache_of_half_an_hour_or_the_lifetime_it_asks_for() -> None:
    assert read(OPENAI).cache_write == "30m"
    assert read(OPENAI, prompt_cache_options={"mode": "implicit", "ttl": "30m"}).cache_write == "30m"
    assert read(OPENAI, prompt_cache_options={"ttl": "12h"}).cache_write == "12h"


def test_a_request_that_asks_for_reasoning_says_so() -> None:
    assert [read(OPENAI, reasoning_effort=effort).reasons for effort in (None, "none", "low", "high")] == [
        False,
        False,
        True,
        True,
    ]
    kinds = ("disabled", "enabled", "adaptive", "between_tools")
    assert [read(ANTHROPIC, thinking={"type": kind}).reasons for kind in kinds] == [False, True, True, True]
    assert not read(ANTHROPIC, thinking=None).reasons


@BOTH
def test_a_stream_is_known_by_its_parameter(provider: Provider) -> None:
    assert [read(provider, stream=value).is_stream for value in (True, False, None)] == [True, False, False]


# Sizes: the law is that nothing a model reads counts for less than its bytes.

texts = st.text(max_size=60)
text_parts = texts.map(lambda text: ([text], {"type": "text", "text": text}))


def joined(pairs: list[tuple[list[str], Any]]) -> tuple[list[str], list[Any]]:
    return [text for found, _ in pairs for text in found], [value for _, value in pairs]


@st.composite
def chats(draw: st.DrawFn) -> tuple[list[str], dict[str, Any]]:
    """A body and every text in it that the model reads."""
    read_by_model: list[str] = []
    messages: list[Any] = []
    for kind in draw(st.lists(st.sampled_from(["plain", "parts", "call", "result", "named"]), min_size=1, max_size=5)):
        text = draw(texts)
        if kind == "plain":
            message: dict[str, Any] = {"role": draw(st.sampled_from(["user", "system", "developer"])), "content": text}
        elif kind == "parts":
            found, parts = joined(draw(st.lists(text_parts, max_size=3)))
            read_by_model += found
            message = {"role": "user", "content": tuple(parts) if draw(st.booleans()) else parts, "name": text}
        elif kind == "call":
            function = {"name": "look_up", "arguments": text}
            message = {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": function}],
            }
        elif kind == "result":
            message = {"role": "tool", "tool_call_id": "1", "content": text}
        else:
            message = {"role": "assistant", "content": None, "refusal": text}
        read_by_model.append(text)
        messages.append(MappingProxyType(message) if draw(st.booleans()) else message)
    body: dict[str, Any] = {"model": "m", "messages": messages}
    if draw(st.booleans()):
        text = draw(texts)
        body["tools"] = [
            {"type": "function", "function": {"name": "f", "description": text, "parameters": draw(json_values)}}
        ]
        read_by_model.append(text)
    if draw(st.booleans()):
        text = draw(texts)
        schema = {"name": "s", "schema": {"description": text}}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
        read_by_model.append(text)
    return read_by_model, body


@given(chats())
def test_every_text_that_a_chat_model_reads_is_counted(chat: tuple[list[str], dict[str, Any]]) -> None:
    read_by_model, body = chat
    before = copy.deepcopy({**body, "messages": [dict(message) for message in body["messages"]]})
    call = OPENAI.read_request("/chat/completions", body, "")
    assert call is not None
    assert call.text_bytes >= sum(map(size, read_by_model))
    assert 0 <= call.dense_bytes <= call.text_bytes
    assert bound_tokens(call) >= call.text_bytes // 2
    assert {**body, "messages": [dict(message) for message in body["messages"]]} == before


@st.composite
def anthropic_bodies(draw: st.DrawFn) -> tuple[list[str], dict[str, Any]]:
    """A body and every text in it that the model reads."""
    read_by_model: list[str] = []
    messages: list[Any] = []
    for kind in draw(st.lists(st.sampled_from(["plain", "parts", "use", "result", "thought"]), min_size=1, max_size=5)):
        text = draw(texts)
        if kind == "plain":
            content: Any = text
        elif kind == "parts":
            found, content = joined(draw(st.lists(text_parts, max_size=3)))
            read_by_model += found
            text = ""
        elif kind == "use":
            content = [{"type": "tool_use", "id": "1", "name": "f", "input": {"q": text, "more": [{"deep": text}]}}]
            read_by_model.append(text)
        elif kind == "result":
            content = [in_a_tool_result({"type": "text", "text": text})]
        else:
            content = [{"type": "thinking", "thinking": text, "signature": "c2ln"}]
        read_by_model.append(text)
        messages.append({"role": "user", "content": content})
    body: dict[str, Any] = {"model": "m", "max_tokens": 5, "messages": messages}
    if draw(st.booleans()):
        found, parts = joined(draw(st.lists(text_parts, min_size=1, max_size=3)))
        body["system"] = parts if draw(st.booleans()) else "".join(found)
        read_by_model += found
    if draw(st.booleans()):
        text = draw(texts)
        body["tools"] = [{"name": "f", "description": text, "input_schema": {"properties": draw(json_values)}}]
        read_by_model.append(text)
    if draw(st.booleans()):
        text = draw(texts)
        body["output_config"] = {"format": {"type": "json_schema", "schema": {"description": text}}}
        read_by_model.append(text)
    return read_by_model, body


@given(anthropic_bodies())
def test_every_text_that_a_message_model_reads_is_counted(message: tuple[list[str], dict[str, Any]]) -> None:
    read_by_model, body = message
    before = copy.deepcopy(body)
    call = ANTHROPIC.read_request("/v1/messages", body, "")
    assert call is not None
    assert call.text_bytes >= sum(map(size, read_by_model))
    assert 0 <= call.dense_bytes <= call.text_bytes
    assert body == before


@pytest.mark.parametrize("text", ["plain", "", "Grüße", "世界", "🚀", "\ud800", "a\x00b"])
def test_bytes_are_those_of_utf_8(text: str) -> None:
    assert utf8_size(text) == size(text)
    assert read(OPENAI, [{"role": "user", "content": text}]).text_bytes == size(text)
    assert read(ANTHROPIC, [{"role": "user", "content": text}]).text_bytes == size(text)


def test_the_sizes_of_the_parts_are_known() -> None:
    call = read(
        OPENAI,
        [
            {"role": "system", "content": "a" * 100},
            {"role": "user", "content": "b" * 10},
            {"role": "user", "content": "c" * 7},
        ],
        tools=[{"type": "function", "function": {"name": "f"}}],
    )
    assert (call.messages, call.system_bytes, call.last_message_bytes) == (3, 100, 7)
    assert call.text_bytes == 117 + call.tools_bytes
    assert call.tools_bytes >= len('[{"type": "function", "function": {"name": "f"}}]')
    other = read(ANTHROPIC, [{"role": "user", "content": "c" * 7}], system="a" * 100)
    assert (other.messages, other.system_bytes, other.last_message_bytes, other.text_bytes) == (1, 100, 7, 107)


def test_an_answer_that_is_sent_back_as_the_sdks_model_is_counted() -> None:
    answer = ChatCompletionMessage.construct(role="assistant", content="x" * 1_000)
    assert read(OPENAI, [{"role": "user", "content": "hi"}, answer]).text_bytes >= 1_002


@pytest.mark.parametrize("kind", [OrderedDict, MappingProxyType], ids=lambda kind: kind.__name__)
@BOTH
def test_a_message_may_be_any_mapping(provider: Provider, kind: Any) -> None:
    plain = read(provider, [{"role": "user", "content": "x" * 99}])
    assert read(provider, [kind({"role": "user", "content": "x" * 99})]).text_bytes == plain.text_bytes


@pytest.mark.parametrize("name", ["user", "metadata", "stop", "safety_identifier", "temperature", "logit_bias"])
def test_what_no_chat_model_reads_does_not_count(name: str) -> None:
    assert read(OPENAI, **{name: "x" * 10_000}).text_bytes == 2


@pytest.mark.parametrize("name", ["response_format", "prediction", "functions", "web_search_options", "something_new"])
def test_a_parameter_that_a_chat_model_may_read_counts(name: str) -> None:
    assert read(OPENAI, **{name: {"text": "x" * 10_000}}).text_bytes >= 10_002


def test_hidden_text_around_messages_and_tools_has_its_allowance() -> None:
    one = read(OPENAI)
    two = read(OPENAI, [{"role": "user", "content": "h"}, {"role": "user", "content": "i"}])
    assert (one.extra_input_tokens, two.extra_input_tokens) == (80, 96)
    assert read(ANTHROPIC, tools=[{"name": "f", "input_schema": {}}]).extra_input_tokens == 80 + 1_024 + 32


def test_a_tool_that_runs_at_the_provider_counts_what_it_may_fetch_as_often_as_it_may_be_used() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    base = 80 + 1_024 + 1_024
    assert read(ANTHROPIC, tools=[{**search, "max_uses": 3}]).extra_input_tokens == base + 3 * 200_000
    assert read(ANTHROPIC, tools=[search]).extra_input_tokens == base + 10 * 200_000
    assert read(ANTHROPIC, tools=[{"type": "bash_20250124", "name": "bash"}]).extra_input_tokens == base
    assert read(OPENAI, web_search_options={}).extra_input_tokens == 80 + 128_000


# Media.

PICTURE = base64.b64encode(bytes(range(256)) * 400).decode()


@pytest.mark.parametrize(
    ("part", "most"),
    [
        ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}, 48_169),
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}, 48_169),
        ({"type": "input_audio", "input_audio": {"data": PICTURE, "format": "wav"}}, 128_000),
    ],
    ids=["image", "linked image", "audio"],
)
def test_a_media_part_of_a_chat_counts_its_maximum_and_not_its_bytes(part: dict[str, Any], most: int) -> None:
    call = read(OPENAI, [{"role": "user", "content": [part]}])
    assert call.text_bytes < 100
    assert most <= call.extra_input_tokens <= most + 200
    assert (call.has_images, call.has_audio) == (most == 48_169, most == 128_000)


@pytest.mark.parametrize("file", [{"file_data": PICTURE}, {"file_id": "file_1"}], ids=["unreadable", "by id"])
def test_a_file_that_can_not_be_read_may_be_all_that_the_model_can_read(file: dict[str, Any]) -> None:
    call = read(OPENAI, [{"role": "user", "content": [{"type": "file", "file": file}]}])
    assert (call.fills_context, call.unbounded) == (True, ("file",))
    assert call.extra_input_tokens < 500


@pytest.mark.parametrize(("kind", "most"), [("image", 4_800), ("document", 200_000), ("container_upload", 200_000)])
@pytest.mark.parametrize("wrap", [lambda part: part, in_a_tool_result], ids=["bare", "in a tool result"])
def test_a_media_part_of_a_message_counts_its_maximum_wherever_it_is(kind: str, most: int, wrap: Any) -> None:
    source = {"type": "base64", "media_type": "x", "data": PICTURE}
    call = read(ANTHROPIC, [{"role": "user", "content": [wrap({"type": kind, "source": source})]}])
    assert call.text_bytes < 100
    assert most <= call.extra_input_tokens <= most + 200
    assert call.has_images == (kind == "image")


WAV = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0" + (16_000).to_bytes(4, "little") + b"\0\0\0\0\x02\0\x10\0data"


def chat_part(kind: str, **inner: Any) -> list[Any]:
    return [{"role": "user", "content": [{"type": kind, kind: inner}]}]


def sent(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_picture_in_a_request_counts_by_its_size_and_its_model() -> None:
    url = "data:image/png;base64," + sent(png(1_024, 1_024))
    chat = chat_part("image_url", url=url)
    none = read(OPENAI, chat_part("image_url", url=url, detail="low"), model="gpt-4o")
    for model, tokens in (("gpt-4o", 765), ("gpt-4o-mini", 25_501), ("gpt-6-sol", 1_229)):
        call = read(OPENAI, chat, model=model)
        assert call.extra_input_tokens - none.extra_input_tokens == tokens - 85
        assert call.unbounded == ()
        assert call.proven_input_tokens < 27_000
    source = {"type": "base64", "media_type": "image/png", "data": sent(png(1_000, 1_000))}
    call = read(
        ANTHROPIC, [{"role": "user", "content": [{"type": "image", "source": source}]}], model="claude-opus-5-5"
    )
    assert 1_334 <= call.extra_input_tokens <= 1_334 + 100
    assert call.unbounded == ()


@pytest.mark.parametrize(("sent_model", "more"), [("gpt-4o-mini", 25_501 - 765), ("gpt-5", 630 - 765), ("gpt-4.1", 0)])
def test_a_picture_counts_for_the_model_that_is_sent(sent_model: str, more: int) -> None:
    call = read(OPENAI, chat_part("image_url", url="data:image/png;base64," + sent(png(1_024, 1_024))), model="gpt-4o")
    before, proven = bound_tokens(call), proven_tokens(call)
    call.sent_model = sent_model
    assert bound_tokens(call) - before == proven_tokens(call) - proven == more


@pytest.mark.parametrize(
    ("provider", "part", "name"),
    [
        (OPENAI, {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}, "image_url"),
        (OPENAI, {"type": "image_url", "image_url": "https://example.com/a.png"}, "image_url"),
        (OPENAI, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}, "image (unreadable)"),
        (OPENAI, {"type": "image_url", "image_url": {"url": "data:image/png,%89PNG"}}, "image (unreadable)"),
        (OPENAI, {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}, "image (unreadable)"),
        (OPENAI, {"type": "image_url", "image_url": {"url": 5}}, "image (unreadable)"),
        (OPENAI, {"type": "image_url"}, "image (unreadable)"),
        (OPENAI, {"type": "file", "file": {"file_id": "file-1"}}, "file"),
        (OPENAI, {"type": "file", "file": {"file_data": PICTURE}}, "file"),
        (OPENAI, {"type": "input_audio", "input_audio": {"data": PICTURE, "format": "wav"}}, "input_audio"),
        (OPENAI, {"type": "input_audio", "input_audio": {"data": PICTURE, "format": "mp3"}}, "input_audio"),
        (OPENAI, {"type": "input_audio", "input_audio": {"data": None, "format": "mp3"}}, "input_audio"),
        (OPENAI, {"type": "video_url", "video_url": {"url": "https://example.com/a"}}, "a part of an unknown type"),
        (ANTHROPIC, {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}, "image_url"),
        (ANTHROPIC, {"type": "image", "source": {"type": "file", "file_id": "file_1"}}, "image_file"),
        (ANTHROPIC, {"type": "image", "source": {"type": "base64", "data": PICTURE}}, "image (unreadable)"),
        (ANTHROPIC, {"type": "image", "source": {"type": "base64", "data": 5}}, "image (unreadable)"),
        (ANTHROPIC, {"type": "image"}, "image (unreadable)"),
        (ANTHROPIC, {"type": "document", "source": {"type": "url", "url": "https://example.com/a"}}, "document_url"),
        (ANTHROPIC, {"type": "document", "source": {"type": "file", "file_id": "file_1"}}, "document_file"),
        (ANTHROPIC, {"type": "document", "source": {"type": "base64", "data": PICTURE}}, "document"),
        (ANTHROPIC, {"type": "container_upload", "file_id": "file_1"}, "container_upload"),
        (ANTHROPIC, {"type": "hologram", "source": {}}, "a part of an unknown type"),
    ],
    ids=lambda value: getattr(value, "name", repr(value)),
)
def test_what_nobody_can_bound_is_named(provider: Provider, part: dict[str, Any], name: str) -> None:
    model = "gpt-4o" if provider is OPENAI else "claude-opus-5-5"
    assert read(provider, [{"role": "user", "content": [part, part]}], model=model).unbounded == (name,)


def test_pictures_for_a_model_of_which_no_rule_is_known_are_named() -> None:
    chat = chat_part("image_url", url="data:image/png;base64," + sent(png(300, 300)))
    assert read(OPENAI, chat, model="my-deployment").unbounded == ("image for my-deployment",)


def test_plain_requests_have_nothing_that_nobody_can_bound() -> None:
    parts = [{"type": "text", "text": "hi"}]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    assert read(OPENAI, [{"role": "user", "content": parts}], tools=[tool]).unbounded == ()
    use = {"type": "tool_use", "id": "1", "name": "f", "input": {"type": "image"}}
    thought = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
    turns = [
        {"role": "assistant", "content": [thought, use]},
        {"role": "user", "content": [in_a_tool_result(parts[0])]},
    ]
    assert read(ANTHROPIC, turns, tools=[{"name": "f", "input_schema": {}}]).unbounded == ()


def test_a_recording_counts_by_its_length() -> None:
    second = sent(WAV + b"\0" * 32_000)  # 16,000 samples of 16 bits
    short = read(OPENAI, chat_part("input_audio", data=second, format="wav"))
    long = read(OPENAI, chat_part("input_audio", data=sent(WAV + b"\0" * 320_000), format="wav"))
    assert long.extra_input_tokens - short.extra_input_tokens == 9 * 20
    assert short.extra_input_tokens < 200
    assert short.unbounded == long.unbounded == ()
    assert short.has_audio
    mp3 = read(OPENAI, chat_part("input_audio", data=sent(b"ID3" + b"\0" * 16_000), format="mp3"))
    assert mp3.extra_input_tokens - short.extra_input_tokens == (17 - 2) * 20  # at 8 kbit a second
    compressed = WAV.replace(b"fmt \x10\0\0\0\x01", b"fmt \x10\0\0\0\x55")
    assert read(OPENAI, chat_part("input_audio", data=sent(compressed + b"\0" * 99), format="wav")).unbounded


def test_a_pdf_is_estimated_by_its_pages_and_has_no_proven_bound() -> None:
    pdf = b"%PDF-1.4\n" + b"<< /Type /Page /Parent 2 0 R >>\n" * 3 + b"<< /Type /Pages >>"
    source = {"type": "base64", "media_type": "application/pdf", "data": sent(pdf)}
    call = read(ANTHROPIC, [{"role": "user", "content": [{"type": "document", "source": source}]}])
    assert 3 * 8_000 <= call.extra_input_tokens <= 3 * 8_000 + 200
    assert call.proven_input_tokens >= 3 * 8_000
    assert call.unbounded == ("document (pdf)",)
    chat = read(OPENAI, chat_part("file", file_data="data:application/pdf;base64," + sent(pdf), filename="a.pdf"))
    assert 3 * 8_000 <= chat.extra_input_tokens <= 3 * 8_000 + 200
    assert chat.unbounded == ("file (pdf)",)
    packed = {**source, "data": sent(pdf + b"<< /Type /ObjStm >>")}
    call = read(ANTHROPIC, [{"role": "user", "content": [{"type": "document", "source": packed}]}])
    assert call.extra_input_tokens >= 200_000


def test_a_text_file_counts_its_text_and_nothing_more() -> None:
    text = "Grüße, " * 1_000
    data = "data:text/plain; charset=utf-8;base64," + sent(text.encode())
    call = read(OPENAI, chat_part("file", file_data=data))
    assert size(text) <= call.text_bytes < size(text) + 100
    assert (call.unbounded, call.extra_input_tokens < 200) == ((), True)
    content = [{"type": "text", "text": text}, {"type": "image", "source": {"type": "url", "url": "u"}}]
    document = {"type": "document", "source": {"type": "content", "content": content}, "title": "t" * 99}
    call = read(ANTHROPIC, [{"role": "user", "content": [document]}], model="claude-opus-5-5")
    assert size(text) + 99 <= call.text_bytes < size(text) + 400
    assert (call.unbounded, call.has_images) == (("image_url",), True)
    broken = "data:text/plain;base64," + sent(b"\xff\xfe")
    assert read(OPENAI, chat_part("file", file_data=broken)).unbounded == ("file",)


def test_documents_that_are_to_be_cited_have_room_for_the_marks_in_their_proven_bound() -> None:
    document = {"type": "document", "source": {"type": "text", "data": "One. Two. Three."}}
    plain, cited = (
        read(ANTHROPIC, [{"role": "user", "content": [{**document, "citations": {"enabled": flag}}]}])
        for flag in (False, True)
    )
    assert cited.extra_input_tokens == plain.extra_input_tokens
    assert cited.proven_input_tokens >= plain.proven_input_tokens + 3 * 16


def test_a_cache_of_twelve_hours_may_be_asked_for_by_a_part() -> None:
    part = {"type": "text", "text": "t", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}
    assert read(OPENAI, [{"role": "user", "content": [part]}]).cache_write == "12h"


def test_audio_that_is_referred_to_by_its_id_has_its_maximum() -> None:
    call = read(OPENAI, [{"role": "assistant", "audio": {"id": "audio_1"}}, {"role": "user", "content": "and?"}])
    assert call.extra_input_tokens >= 128_000
    assert (call.unbounded, call.has_audio) == (("audio (by id)",), True)


@pytest.mark.parametrize(
    ("tool", "name"),
    [
        ({"type": "web_search_20250305", "max_uses": 3}, ()),
        ({"type": "web_search_20250305"}, ("web_search",)),
        ({"type": "web_fetch_20260318", "max_uses": 2, "max_content_tokens": 5_000}, ()),
        ({"type": "web_fetch_20260318"}, ("web_fetch",)),
        (
            {"type": "web_fetch_20260318", "max_uses": 2},
            ("web_fetch",),
        ),  # a document may fill all that the model can read
        ({"type": "code_execution_20260521"}, ("code_execution",)),
        ({"type": "mcp_toolset", "mcp_server_name": "s"}, ("mcp",)),
        ({"type": "advisor_20260301", "model": "claude-opus-5-5"}, ("advisor",)),
        ({"type": "bash_20250124"}, ()),
        ({"name": "web_search", "input_schema": {}}, ()),
    ],
    ids=lambda value: getattr(value, "name", repr(value)),
)
def test_a_tool_that_runs_without_limit_at_the_provider_is_named(tool: dict[str, Any], name: tuple[str, ...]) -> None:
    assert read(ANTHROPIC, tools=[{"name": "t", **tool}]).unbounded == name


@pytest.mark.parametrize(
    ("provider", "parameters", "name"),
    [
        (OPENAI, {"web_search_options": {}}, "web_search_options"),
        (OPENAI, {"tools": [{"type": "web_search"}]}, "tools (run by the server)"),
        (ANTHROPIC, {"mcp_servers": [{"type": "url", "url": "u", "name": "n"}]}, "mcp_servers"),
        (ANTHROPIC, {"container": {"skills": []}}, "container"),
        (ANTHROPIC, {"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management"),
        (ANTHROPIC, {"fallbacks": [{"model": "m"}]}, "fallbacks"),
    ],
    ids=lambda value: getattr(value, "name", repr(value)),
)
def test_parameters_that_add_input_out_of_sight_are_named(
    provider: Provider, parameters: dict[str, Any], name: str
) -> None:
    assert read(provider, **parameters).unbounded == (name,)
    assert read(ANTHROPIC, context_management={"edits": [{"type": "clear_tool_uses_20250919"}]}).unbounded == ()


# What a model must be able to do.


@pytest.mark.parametrize(
    ("provider", "parameters", "features"),
    [
        (OPENAI, {}, ""),
        (OPENAI, {"temperature": 1, "n": 1, "stop": [], "logprobs": False, "presence_penalty": 0}, ""),
        (OPENAI, {"response_format": {"type": "text"}, "user": "u", "seed": 5, "max_tokens": 5}, ""),
        (OPENAI, {"temperature": 0}, "sampling"),
        (OPENAI, {"temperature": 1.0}, ""),
        (OPENAI, {"temperature": [1]}, "sampling"),
        (OPENAI, {"top_p": 0.5, "n": 2, "stop": "x"}, "sampling choices stop"),
        (OPENAI, {"frequency_penalty": 0.1, "logit_bias": {"5": 1}}, "penalties"),
        (OPENAI, {"top_logprobs": 2}, "logprobs"),
        (OPENAI, {"tools": [{"type": "function"}]}, "tools chat_tools"),
        (OPENAI, {"functions": [{"name": "f"}], "reasoning_effort": "none"}, "tools chat_tools_none reasoning_none"),
        (
            OPENAI,
            {"tools": [{"type": "function"}], "tool_choice": "required", "reasoning_effort": "low"},
            "tools chat_tools_reasoning forced_tools reasoning reasoning_effort",
        ),
        (OPENAI, {"tool_choice": "auto"}, ""),
        (OPENAI, {"reasoning_effort": "minimal"}, "reasoning reasoning_minimal"),
        (OPENAI, {"reasoning_effort": "xhigh"}, "reasoning reasoning_xhigh"),
        (OPENAI, {"reasoning_effort": "max"}, "reasoning reasoning_max"),
        (OPENAI, {"response_format": {"type": "json_schema", "json_schema": {}}}, "structured_output"),
        (OPENAI, {"response_format": {"type": "json_object"}}, "json_mode"),
        (OPENAI, {"prediction": {"type": "content", "content": "x"}, "verbosity": "low"}, "prediction verbosity"),
        (OPENAI, {"modalities": ["text", "audio"], "audio": {"voice": "v"}}, "audio_output"),
        (OPENAI, {"web_search_options": {}}, "web_search"),
        (OPENAI, {"messages": chat_part("image_url", url="u")}, "images"),
        (OPENAI, {"messages": chat_part("input_audio", data="")}, "audio"),
        (OPENAI, {"messages": chat_part("file", file_id="f")}, "files"),
        (ANTHROPIC, {"temperature": 1}, ""),
        (ANTHROPIC, {"temperature": 0.5}, "sampling"),
        (ANTHROPIC, {"top_k": 5, "stop_sequences": ["x"]}, "sampling stop"),
        (ANTHROPIC, {"tools": [{"name": "f"}], "tool_choice": {"type": "any"}}, "tools forced_tools"),
        (ANTHROPIC, {"tools": [{"type": "web_search_20250305"}, {"type": "bash_20250124"}]}, "web_search shell"),
        (ANTHROPIC, {"tools": [{"type": "code_execution_20260521"}]}, "code_interpreter"),
        (ANTHROPIC, {"tools": [{"type": "computer_20250124"}, {"type": "mcp_toolset"}]}, "computer_use mcp"),
        (ANTHROPIC, {"thinking": {"type": "enabled", "budget_tokens": 1_024}}, "reasoning reasoning_budget"),
        (ANTHROPIC, {"thinking": {"type": "adaptive"}}, "reasoning reasoning_adaptive"),
        (ANTHROPIC, {"thinking": {"type": "between_tools"}}, "reasoning reasoning_between_tools"),
        (ANTHROPIC, {"thinking": {"type": "disabled"}}, "reasoning_none"),
        (ANTHROPIC, {"output_config": {"effort": "max"}}, "reasoning reasoning_max"),
        (ANTHROPIC, {"output_config": {"format": {"type": "json_schema", "schema": {}}}}, "structured_output"),
        (
            ANTHROPIC,
            {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "So"}]},
            "prefill",
        ),
        (
            ANTHROPIC,
            {"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": "t", "signature": "s"}]}]},
            "reasoning_history",
        ),
        (
            ANTHROPIC,
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image"},
                            {
                                "type": "document",
                                "source": {"type": "text", "data": "d"},
                                "citations": {"enabled": True},
                            },
                        ],
                    }
                ]
            },
            "images files citations",
        ),
    ],
    ids=lambda value: getattr(value, "name", repr(value)),
)
def test_what_a_request_needs_of_its_model_is_known(
    provider: Provider, parameters: dict[str, Any], features: str
) -> None:
    messages = parameters.pop("messages", None)
    found = read(provider, messages, **parameters).features
    assert found == set(features.split())
    assert found <= FEATURES


def test_asking_for_spoken_answers_is_audio() -> None:
    assert read(OPENAI, audio={"voice": "alloy", "format": "wav"}).has_audio


# Odd bodies.


@BOTH
def test_odd_values_in_a_message_raise_nothing(provider: Provider) -> None:
    odd = [
        None,
        5,
        1.5,
        True,
        b"bytes",
        {1: 2},
        {None: None},
        object(),
        [[]],
        {"type": 5},
        {"type": ["image"]},
        {"role": {}},
    ]
    for value in odd:
        assert read(provider, [{"role": "user", "content": value}]).text_bytes >= 0
        assert read(provider, [value]).text_bytes >= 0
        assert read(provider, tools=value).text_bytes >= 0
        assert read(provider, something_new=value, system=value).text_bytes >= 0


def nested(depth: int, text: str) -> Any:
    value: Any = text
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [1, 31, 32, 33, 40, 300])
@BOTH
def test_a_text_counts_however_deep_it_lies(provider: Provider, depth: int) -> None:
    text = "x" * 5_000
    assert bound_tokens(read(provider, [{"role": "user", "content": nested(depth, text)}])) >= 2_500
    assert bound_tokens(read(provider, tools=nested(depth, text))) >= 2_500


@BOTH
def test_a_structure_that_contains_itself_ends(provider: Provider) -> None:
    ring: list[Any] = ["x" * 100]
    ring.append(ring)
    loop: dict[str, Any] = {"text": "x" * 100}
    loop["again"] = loop
    for value in (ring, loop):
        assert read(provider, [{"role": "user", "content": value}]).text_bytes >= 100
        assert read(provider, tools=[value]).text_bytes >= 100


@pytest.mark.parametrize("where", ["content", "tools"])
@BOTH
def test_a_body_too_deep_to_print_is_read(provider: Provider, where: str) -> None:
    bomb = nested(100_000, "x")
    if where == "tools":
        read(provider, tools=[bomb])
    else:
        read(provider, [{"role": "user", "content": bomb}])


# What easily counts for too little.


def blocks() -> Iterator[dict[str, Any]]:
    yield {"type": "text", "text": "x" * 1_000}


def test_iterators_are_listed_once_for_us_and_the_sdk() -> None:
    result = {"type": "tool_result", "tool_use_id": "1", "content": blocks()}
    body = {
        "messages": ({"role": "user", "content": content} for content in (blocks(), [result])),
        "system": blocks(),
        "tools": iter([{"name": "f", "input_schema": {}}]),
        "max_tokens": 5,
        "model": "m",
    }
    listed_once = without_iterators(body)
    assert listed_once["tools"] == [{"name": "f", "input_schema": {}}]
    assert listed_once["messages"][1]["content"][0]["content"] == list(blocks())
    assert isinstance(result["content"], Iterator)  # the caller's own dict is left alone
    call = ANTHROPIC.read_request("/v1/messages", listed_once, "")
    assert call is not None
    assert call.text_bytes >= 3_000


def test_what_holds_no_iterator_is_passed_on_as_it_is() -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}], "n": 1, "stop": ("a", "b")}
    assert without_iterators(body) is body


@given(json_values)
def test_listing_iterators_changes_no_json(value: Any) -> None:
    assert without_iterators(value) is value


def test_an_iterator_in_a_tuple_is_listed_too() -> None:
    found = without_iterators({"messages": ({"role": "user", "content": blocks()},)})
    assert not isinstance(found["messages"][0]["content"], Iterator)


@pytest.mark.parametrize("kind", ["image", "document", "file"])
def test_the_input_of_a_tool_is_text_whatever_its_type_says(kind: str) -> None:
    use = {"type": "tool_use", "id": "1", "name": "create", "input": {"type": kind, "body": "x" * 1_000_000}}
    assert read(ANTHROPIC, [{"role": "assistant", "content": [use]}]).text_bytes >= 1_000_000


def test_a_key_with_an_underscore_counts_in_a_mapping() -> None:
    use = {"type": "tool_use", "id": "1", "name": "f", "input": {"_note": "x" * 1_000}}
    assert read(ANTHROPIC, [{"role": "assistant", "content": [use]}]).text_bytes >= 1_000


def test_a_long_number_counts_its_digits() -> None:
    use = {"type": "tool_use", "id": "1", "name": "f", "input": {"n": 10**1_000}}
    call, without = (
        read(ANTHROPIC, [{"role": "assistant", "content": [part]}]) for part in (use, {**use, "input": {"n": 1}})
    )
    assert bound_tokens(call) >= bound_tokens(without) + 300


def test_extra_fields_of_an_answer_that_is_sent_back_are_counted() -> None:
    answer = ChatCompletionMessage.construct(role="assistant", content="x", reasoning_content="y" * 1_000)  # type: ignore[call-arg]
    assert read(OPENAI, [answer]).text_bytes >= 1_000


def test_a_large_document_of_plain_text_counts_its_text() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "some words " * 200_000}
    call = read(ANTHROPIC, [{"role": "user", "content": [{"type": "document", "source": source}]}])
    assert bound_tokens(call) >= 400_000  # 2.2 MB of short words


# Prose and what is denser.

PROSE = "The quick brown fox jumps over the lazy dog, and then it sleeps for a while. It dreams of hens.\n"
CODE = '''
def answer(question: str, *, depth: int = 3) -> list[str]:
    """Ask until the answer is found."""
    for attempt in range(depth):
        found = [line.strip() for line in ask(question, attempt).splitlines() if line]
        if found:
            return found
    raise LookupError(f"no answer to {question!r}")
'''


TONGUE = "Setiap penumpang membayar sebelum kereta berangkat, dan tak seorang pun boleh naik tanpa tiket resmi. "


def held(text: str) -> float:
    """Tokens a byte that the estimate holds for a text, but for its template and for what rounding takes."""
    sizes = Sizes({})
    assert sizes.add_text(text) == sizes.text_bytes == size(text)
    return (sizes.text_bytes + sizes.dense_bytes) / 2 / sizes.text_bytes - sizes.english_bytes / 6 / sizes.text_bytes


@pytest.mark.parametrize(
    "text",
    [PROSE, PROSE * 100, PROSE * 1_000, PROSE * 40 + CODE, "x" * 20 + PROSE * 9],
    ids=["line", "page", "book", "with code", "with a key"],
)
def test_english_is_held_at_three_bytes_a_token(text: str) -> None:
    assert held(text) == pytest.approx(1 / 3)


@pytest.mark.parametrize("text", [CODE, CODE * 50], ids=["function", "file"])
def test_code_is_held_at_two_bytes_a_token(text: str) -> None:
    assert held(text) == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    "text",
    [
        TONGUE,
        TONGUE * 100,
        PROSE * 3 + TONGUE * 20,
        "Trains run often here, so buy tickets before boarding, said every sign between here, home. ",
    ],
    ids=["line", "page", "after English", "English without an article"],
)
def test_letters_of_another_tongue_are_held_at_three_bytes_for_two_tokens(text: str) -> None:
    assert held(text) == pytest.approx(2 / 3, abs=0.01)


@pytest.mark.parametrize(
    "text",
    [
        PICTURE,
        bytes(range(256)).hex(),
        "[0.123, 4.56, 7890, -12.5e-3, 42]" * 30,
        '{"id": 12345, "n": [1, 2, 3], "t": 1.5}' * 30,
        "これは日本語の文章です。" * 20,
        "这是一个中文句子。",
        "🚀🎉👩‍👩‍👧‍👦" * 10,
        "Ελληνικά",
        PROSE * 10 + "é",
        "HTTP/2 403 X-REQUEST-ID: 8F3A-99C1 " * 20,
        "0123456789" * 100,
        "!?#$%&()*+-/:;<=>@[]^_{|}~" * 10,
        "too short to be worth a look",
        "acgttgcaagct" * 50,
        "qzjxwvkb hgfd ptrlm nsty " * 20,
    ],
    ids=[
        "base64",
        "hex",
        "numbers",
        "json",
        "japanese",
        "chinese",
        "emoji",
        "greek",
        "one é",
        "headers",
        "digits",
        "signs",
        "short",
        "genes",
        "letters of no language",
    ],
)
def test_denser_text_is_held_at_a_byte_a_token(text: str) -> None:
    assert held(text) == 1


def test_a_request_holds_what_its_texts_hold() -> None:
    for text, tokens in ((CODE * 10, len(CODE) * 5), (PICTURE[:1_000], 1_000), ("世界", 6), ("🚀", 4), ("", 0)):
        for provider in (OPENAI, ANTHROPIC):
            assert bound_tokens(read(provider, [{"role": "user", "content": text}])) == tokens + 80
    assert bound_tokens(read(OPENAI, [{"role": "user", "content": PROSE * 6}])) == len(PROSE) * 2 + 80


def test_english_for_claude_is_held_at_two_bytes_a_token_wherever_it_is_served() -> None:
    chat = [{"role": "user", "content": PROSE * 10}]
    for call in (read(ANTHROPIC, chat, model="claude-opus-5-5"), read(OPENAI, chat, model="anthropic/claude-opus-5.5")):
        assert bound_tokens(call) == len(PROSE) * 5 + 80


def test_the_proof_for_claude_takes_two_tokens_a_byte() -> None:
    chat = [{"role": "user", "content": "1ZZ" * 1_000}]
    for provider, model in ((ANTHROPIC, "claude-opus-5-5"), (OPENAI, "anthropic/claude-opus-5.5")):
        other = read(provider, chat, model="m")
        assert proven_tokens(read(provider, chat, model=model)) == proven_tokens(other) + 3_000


# Small readers.


def test_fields_are_those_of_a_mapping_or_a_model() -> None:
    assert fields({"a": 1}) == {"a": 1}
    assert fields(MappingProxyType({"a": 1})) == {"a": 1}
    assert fields(ChatCompletionMessage.construct(role="assistant"))["role"] == "assistant"
    assert [fields(value) for value in (None, 5, "text", b"", [], (), object())] == [{}] * 7


def test_an_iterable_is_listed_and_a_text_or_mapping_is_not() -> None:
    assert listed([1]) == listed((1,)) == listed(iter([1])) == [1]
    assert [listed(value) for value in (None, 5, "text", b"bytes", {"a": 1})] == [None] * 5


# Rewriting.


def rewritten(provider: Provider, body: dict[str, Any], *, host: str = "", **decided: Any) -> dict[str, Any]:
    """What `rewrite` changes, for a call on which so much was decided."""
    call = provider.read_request(PATHS[provider.name], body, host)
    assert call is not None
    for name, value in decided.items():
        setattr(call, name, value)
    before = copy.deepcopy(body)
    changes = provider.rewrite(call, body)
    assert body == before
    assert call.adds_usage_chunk == ("stream_options" in changes)
    return changes


CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
MESSAGE = {**CHAT, "model": "claude-opus-5-5", "max_tokens": 500}


@given(chats(), st.none() | st.integers(1, 9), st.sampled_from(["", "gpt-5"]), st.booleans())
def test_a_rewrite_changes_what_was_decided_and_nothing_else(
    chat: tuple[list[str], dict[str, Any]], cap: int | None, model: str, stream: bool
) -> None:
    body = {**chat[1], "stream": stream}
    call = OPENAI.read_request("/chat/completions", body, "")
    assert call is not None
    call.sent_cap, call.sent_model = cap, model
    before = dict(body)
    changes = OPENAI.rewrite(call, body)
    assert body == before
    expected = {"model"} if model else set()
    expected |= {"stream_options"} if stream else set()
    assert changes.keys() - {"max_tokens", "max_completion_tokens"} == expected
    assert len(changes) == len(expected) + (cap is not None)


def test_nothing_decided_changes_nothing() -> None:
    assert rewritten(OPENAI, CHAT) == {}
    assert rewritten(ANTHROPIC, MESSAGE) == {}
    assert rewritten(ANTHROPIC, {**MESSAGE, "stream": True}) == {}


def test_another_model_and_a_lower_cap_are_sent() -> None:
    assert rewritten(OPENAI, {**CHAT, "max_tokens": 500}, sent_model="gpt-4o-mini", sent_cap=9) == {
        "model": "gpt-4o-mini",
        "max_tokens": 9,
    }
    assert rewritten(ANTHROPIC, MESSAGE, sent_model="claude-haiku-5-5", sent_cap=9) == {
        "model": "claude-haiku-5-5",
        "max_tokens": 9,
    }


@pytest.mark.parametrize(
    ("model", "host", "name"),
    [
        ("gpt-4o", "api.openai.com", "max_completion_tokens"),
        ("gpt-5", "eu.api.openai.com", "max_completion_tokens"),
        ("my-deployment", "mine.openai.azure.com", "max_completion_tokens"),
        ("o3-mini", "proxy.example.com", "max_completion_tokens"),
        ("gpt-5-mini", "proxy.example.com", "max_completion_tokens"),
        ("gpt-6-sol", "localhost", "max_completion_tokens"),
        ("gpt-4o", "proxy.example.com", "max_tokens"),
        ("llama-3.1-8b", "localhost", "max_tokens"),
        ("deepseek-chat", "api.deepseek.com", "max_tokens"),
        ("gpt-4o", "notopenai.com", "max_tokens"),
        ("gpt-4o", "api.openai.com.example.com", "max_tokens"),
        ("gpt-4o", "", "max_tokens"),
    ],
)
def test_a_cap_goes_by_the_name_that_the_server_takes(model: str, host: str, name: str) -> None:
    assert rewritten(OPENAI, {**CHAT, "model": model}, host=host, sent_cap=7) == {name: 7}


def test_the_name_follows_the_model_that_is_sent() -> None:
    assert rewritten(OPENAI, CHAT, host="localhost", sent_model="gpt-5", sent_cap=7) == {
        "model": "gpt-5",
        "max_completion_tokens": 7,
    }


def test_a_cap_goes_by_the_names_that_the_caller_used() -> None:
    assert rewritten(OPENAI, {**CHAT, "max_tokens": 500}, host="api.openai.com", sent_cap=7) == {"max_tokens": 7}
    both = {**CHAT, "max_tokens": 500, "max_completion_tokens": 400}
    assert rewritten(OPENAI, both, sent_cap=7) == {"max_tokens": 7, "max_completion_tokens": 7}
    assert rewritten(OPENAI, {**CHAT, "max_tokens": None, "max_completion_tokens": 400}, sent_cap=7) == {
        "max_completion_tokens": 7
    }


def test_a_cap_goes_by_the_new_name_to_a_model_that_refuses_the_old_one() -> None:
    body = {**CHAT, "max_tokens": 500}
    assert rewritten(OPENAI, body, sent_model="gpt-5-nano") == {
        "model": "gpt-5-nano",
        "max_tokens": None,
        "max_completion_tokens": 500,
    }
    assert rewritten(OPENAI, body, sent_model="o3", sent_cap=7)["max_completion_tokens"] == 7
    assert rewritten(OPENAI, {**body, "max_completion_tokens": 400}, sent_model="o3")["max_completion_tokens"] == 500
    assert rewritten(OPENAI, body, sent_model="gpt-4.1") == {"model": "gpt-4.1"}


THINKING = {
    **MESSAGE,
    "max_tokens": 16_000,
    "thinking": {"type": "enabled", "budget_tokens": 10_000, "display": "omitted"},
}


def test_a_request_that_thinks_cannot_be_sent_with_less_than_its_thinking_needs() -> None:
    def least_cap(**changes: Any) -> int:
        call = ANTHROPIC.read_request("/v1/messages", {**THINKING, **changes}, "")
        assert call is not None
        return call.least_cap

    assert least_cap() == 1_025
    assert least_cap(max_tokens=500) == 500  # the API refuses it, and says why
    assert [least_cap(thinking={"type": kind}) for kind in ("disabled", "adaptive", "between_tools")] == [1, 1, 1]
    assert least_cap(thinking=None) == least_cap(thinking="enabled") == 1


@pytest.mark.parametrize(
    ("sent_cap", "budget"),
    [(16_000, None), (8_000, 5_000), (1_700, 1_062), (1_600, 1_024), (1_025, 1_024), (20_000, None)],
)
def test_thinking_stays_below_a_lowered_cap(sent_cap: int, budget: int | None) -> None:
    changes = rewritten(ANTHROPIC, THINKING, sent_cap=sent_cap)
    assert changes.pop("max_tokens") == sent_cap
    thinking = {"type": "enabled", "budget_tokens": budget, "display": "omitted"}
    assert changes == ({} if budget is None else {"thinking": thinking})


@given(st.integers(1_025, 64_000), st.integers(1_024, 64_000), st.integers(1_025, 64_000))
def test_a_lowered_budget_of_thinking_is_always_valid_and_never_higher(cap: int, budget: int, sent_cap: int) -> None:
    body = {**THINKING, "max_tokens": cap, "thinking": {"type": "enabled", "budget_tokens": budget}}
    changes = rewritten(ANTHROPIC, body, sent_cap=min(sent_cap, cap))
    lowered = changes.get("thinking", body["thinking"])["budget_tokens"]
    assert 1_024 <= lowered <= budget
    if sent_cap < cap:
        assert lowered < changes["max_tokens"]


@pytest.mark.parametrize("kind", ["adaptive", "disabled", "between_tools"])
def test_thinking_without_a_budget_is_left_alone(kind: str) -> None:
    assert rewritten(ANTHROPIC, {**THINKING, "thinking": {"type": kind}}, sent_cap=50) == {"max_tokens": 50}


@pytest.mark.parametrize("budget", [None, "many", -5, 3.5, {}])
def test_a_budget_of_thinking_that_nobody_can_read_is_left_alone(budget: Any) -> None:
    body = {**THINKING, "thinking": {"type": "enabled", "budget_tokens": budget}}
    assert rewritten(ANTHROPIC, body, sent_cap=2_000) == {"max_tokens": 2_000}


@pytest.mark.parametrize(
    ("given_options", "sent"),
    [
        ({}, {"include_usage": True}),
        ({"stream_options": None}, {"include_usage": True}),
        ({"stream_options": {}}, {"include_usage": True}),
        ({"stream_options": {"include_usage": False}}, {"include_usage": True}),
        ({"stream_options": {"include_obfuscation": False}}, {"include_obfuscation": False, "include_usage": True}),
        ({"stream_options": {"include_usage": True}}, None),
    ],
)
def test_a_stream_is_asked_for_its_usage_beside_what_the_caller_asked(given_options: dict[str, Any], sent: Any) -> None:
    changes = rewritten(OPENAI, {**CHAT, "stream": True, **given_options})
    assert changes == ({} if sent is None else {"stream_options": sent})


def test_what_is_no_stream_is_not_asked_for_a_usage_chunk() -> None:
    assert rewritten(OPENAI, {**CHAT, "stream": False}) == {}


@pytest.mark.parametrize("path", ["/chat/completions", "/responses", "/completions", "/embeddings"])
def test_a_host_of_one_region_is_a_tier_of_its_own(path: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "input": "hi", "prompt": "hi"}

    def tiers(host: str) -> tuple[str, str]:
        call = OPENAI.read_request(path, body, host)
        assert call is not None
        OPENAI.read_answer(call, {"service_tier": "default"})
        return call.tier, call.served_tier

    assert tiers("eu.api.openai.com") == ("regional", "default+regional")
    assert tiers("api.openai.com") == tiers("127.0.0.1") == ("", "default")
