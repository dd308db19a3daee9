"""What an answer says it used, in buckets worked out by hand: one file in data/ is one answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anthropic.types
import openai.types.chat
import pytest
from anthropic.types.beta import BetaMessage
from hypothesis import given
from hypothesis import strategies as st

from farebox._call import Call, Usage
from farebox.providers import Provider, find_provider
from farebox.providers._reading import fields
from tests.strategies import cuts, new_call, tokens

RECORDED = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(Path(__file__).parent.glob("data/*.json"))
}
WHOLE = [name for name, found in RECORDED.items() if "answer" in found]
STREAMED = [name for name, found in RECORDED.items() if "chunks" in found]

OPENAI = find_provider("openai")
ANTHROPIC = find_provider("anthropic")
BOTH = pytest.mark.parametrize("provider", [OPENAI, ANTHROPIC], ids=lambda provider: provider.name)


def provider_of(name: str) -> Provider:
    return find_provider(RECORDED[name]["provider"])


def call_of(name: str, **fields: Any) -> Call:
    return new_call(provider_name=RECORDED[name]["provider"], **{"cache_write": "known", **fields})


def as_model(provider: str, body: Any) -> Any:
    """The object that the SDK makes of a body, without checking it."""
    kind: Any = openai.types.chat.ChatCompletion if provider == "openai" else anthropic.types.Message
    if provider == "openai" and body.get("object") == "chat.completion.chunk":
        kind = openai.types.chat.ChatCompletionChunk
    elif provider == "anthropic" and body["type"] != "message":
        kind = {
            "message_start": anthropic.types.RawMessageStartEvent,
            "message_delta": anthropic.types.RawMessageDeltaEvent,
            "content_block_start": anthropic.types.RawContentBlockStartEvent,
            "content_block_delta": anthropic.types.RawContentBlockDeltaEvent,
        }.get(body["type"], anthropic.types.RawMessageStopEvent)
    return kind.construct(**body)


def streamed(provider: Provider, call: Call, chunks: list[Any]) -> list[bool]:
    """Read a stream to its end; for each chunk whether it is hidden."""
    reader = provider.stream_reader(call)
    hidden = [reader.see(chunk) for chunk in chunks]
    reader.finish()
    return hidden


def assert_is_as_recorded(call: Call, found: Mapping[str, Any]) -> None:
    assert call.usage == Usage(**found["buckets"])
    assert [call.usage.input_tokens, call.usage.output_tokens] == found["totals"]
    assert (call.response_model, call.served_tier, call.is_cut) == (found["model"], found["tier"], found["is_cut"])
    assert call.response_id
    assert call.doubt == ""


# Recorded answers.


@pytest.mark.parametrize("form", ["body", "model"])
@pytest.mark.parametrize("name", WHOLE)
def test_a_recorded_answer_is_read_into_its_buckets(name: str, form: str) -> None:
    found, call = RECORDED[name], call_of(name)
    answer = found["answer"] if form == "body" else as_model(found["provider"], found["answer"])
    provider_of(name).read_answer(call, answer)
    assert_is_as_recorded(call, found)


@pytest.mark.parametrize("form", ["body", "model"])
@pytest.mark.parametrize("name", STREAMED)
def test_a_recorded_stream_is_read_into_its_buckets(name: str, form: str) -> None:
    found, call = RECORDED[name], call_of(name, is_stream=True)
    chunks = found["chunks"] if form == "body" else [as_model(found["provider"], chunk) for chunk in found["chunks"]]
    hidden = streamed(provider_of(name), call, chunks)
    assert_is_as_recorded(call, found)
    assert not any(hidden)


@pytest.mark.parametrize("name", WHOLE)
def test_reading_an_answer_changes_nothing_in_it(name: str) -> None:
    found = RECORDED[name]
    before = json.dumps(found["answer"])
    provider_of(name).read_answer(call_of(name), found["answer"])
    assert json.dumps(found["answer"]) == before


def test_a_beta_message_is_read_as_a_message_is() -> None:
    call = call_of("anthropic_message_cached")
    ANTHROPIC.read_answer(call, BetaMessage.construct(**RECORDED["anthropic_message_cached"]["answer"]))
    assert_is_as_recorded(call, RECORDED["anthropic_message_cached"])


@pytest.mark.parametrize("name", [name for name in STREAMED if name.startswith("openai")])
def test_only_the_usage_chunk_that_farebox_asked_for_is_hidden(name: str) -> None:
    chunks, call = RECORDED[name]["chunks"], call_of(name, is_stream=True)
    call.adds_usage_chunk = True
    hidden = streamed(OPENAI, call, chunks)
    assert [chunk for chunk, is_hidden in zip(chunks, hidden, strict=True) if is_hidden] == [chunks[-1]]
    assert chunks[-1]["choices"] == []


# Streams that are left early.


@pytest.mark.parametrize("name", STREAMED)
def test_a_stream_that_was_left_early_counts_a_token_for_two_bytes_at_least(name: str) -> None:
    found, call = RECORDED[name], call_of(name, is_stream=True)
    reader = provider_of(name).stream_reader(call)
    reader.abandon(
        [chunk for chunk in found["chunks"] if chunk.get("type") != "message_delta" and chunk.get("choices") != []]
    )
    assert call.usage is None
    assert found["received_bytes"] // 2 <= call.received_tokens
    assert call.received_tokens <= sum(len(json.dumps(chunk, ensure_ascii=False).encode()) for chunk in found["chunks"])
    assert call.response_id


@pytest.mark.parametrize("name", STREAMED)
def test_a_stream_that_was_left_at_once_had_received_nothing(name: str) -> None:
    call = call_of(name, is_stream=True)
    provider_of(name).stream_reader(call).abandon([])
    assert (call.usage, call.received_tokens, call.doubt) == (None, 0, "")


def abandoned(provider: Provider, pieces: list[str]) -> int:
    """Tokens counted for a stream of these pieces of text that was left early."""
    call = new_call(provider_name=provider.name, is_stream=True)
    chunks: list[Any]
    if provider is OPENAI:
        chunks = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    else:
        chunks = [{"type": "content_block_delta", "delta": {"type": "text_delta", "text": piece}} for piece in pieces]
    provider.stream_reader(call).abandon(chunks)
    return call.received_tokens


@BOTH
@given(text=st.text(max_size=80), data=st.data())
def test_what_had_arrived_counts_for_half_its_bytes_at_least_wherever_it_was_cut(
    provider: Provider, text: str, data: st.DataObject
) -> None:
    tokens = abandoned(provider, data.draw(cuts(text)))
    assert tokens >= len(text.encode("utf-8", "surrogatepass")) // 2


PROSE = "some words of ordinary prose that a model may well say " * 20


@BOTH
def test_what_had_arrived_counts_the_same_wherever_it_was_cut(provider: Provider) -> None:
    words = [f"{word} " for word in PROSE.split()]
    assert abandoned(provider, words) == abandoned(provider, [PROSE])


def test_a_message_that_was_left_after_its_last_word_is_charged_by_its_usage() -> None:
    found, call = RECORDED["anthropic_stream"], call_of("anthropic_stream", is_stream=True)
    ANTHROPIC.stream_reader(call).abandon([chunk for chunk in found["chunks"] if chunk["type"] != "message_stop"])
    assert call.usage == Usage(**found["buckets"])


def test_a_chat_that_was_left_after_its_usage_chunk_is_charged_by_its_usage() -> None:
    found, call = RECORDED["openai_stream"], call_of("openai_stream", is_stream=True)
    OPENAI.stream_reader(call).abandon(found["chunks"])
    assert call.usage == Usage(**found["buckets"])


def test_usage_that_grows_with_every_chunk_is_not_final_when_the_stream_was_left() -> None:
    call = call_of("openai_stream", is_stream=True)
    OPENAI.stream_reader(call).abandon(RECORDED["openai_stream_with_usage_in_every_chunk"]["chunks"][:3])
    assert call.usage is None
    assert call.received_tokens == len("a b c d")


# Streamed and whole.

details = st.none() | st.just({})


@st.composite
def openai_usages(draw: st.DrawFn) -> dict[str, Any]:
    """Any report whose parts fit into its totals."""
    whole_in, whole_out = draw(tokens.map(lambda n: n + 1)), draw(tokens)
    parts = ("cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens")
    left, into = whole_in, {}
    for name in draw(st.permutations(parts)):
        into[name] = draw(st.integers(0, left))
        left -= into[name]
    reasoned = draw(st.integers(0, whole_out))
    out = {"reasoning_tokens": reasoned, "audio_tokens": draw(st.integers(0, whole_out - reasoned))}
    return {
        "prompt_tokens": whole_in,
        "completion_tokens": whole_out,
        "total_tokens": whole_in + whole_out,
        "prompt_tokens_details": draw(st.just(into) | details),
        "completion_tokens_details": draw(st.just(out) | details),
    }


@st.composite
def anthropic_usages(draw: st.DrawFn) -> dict[str, Any]:
    """Any report as the API makes them."""
    five, hour = draw(tokens), draw(tokens)
    out = draw(tokens)
    return {
        "input_tokens": draw(tokens) + 1,
        "output_tokens": out,
        "cache_read_input_tokens": draw(tokens | st.none()),
        "cache_creation_input_tokens": five + hour,
        "cache_creation": draw(
            st.just({"ephemeral_5m_input_tokens": five, "ephemeral_1h_input_tokens": hour}) | st.none()
        ),
        "output_tokens_details": draw(st.none() | st.builds(dict, thinking_tokens=st.integers(0, out))),
        "server_tool_use": draw(st.none() | st.builds(dict, web_search_requests=st.integers(0, 9))),
    }


@given(openai_usages(), st.booleans())
def test_the_buckets_of_a_chat_add_up_to_the_totals_that_openai_reports(usage: dict[str, Any], as_sdk: bool) -> None:
    call = new_call()
    body = {"id": "1", "model": "m", "choices": [], "usage": usage}
    OPENAI.read_answer(call, as_model("openai", body) if as_sdk else body)
    assert call.usage is not None
    assert call.usage.input_tokens == usage["prompt_tokens"]
    assert call.usage.output_tokens == usage["completion_tokens"]
    assert call.usage.total_tokens == usage["total_tokens"]
    assert min(tuple(call.usage)) >= 0


@given(anthropic_usages(), st.booleans())
def test_the_buckets_of_a_message_add_up_to_the_totals_that_anthropic_reports(
    usage: dict[str, Any], as_sdk: bool
) -> None:
    call = new_call(provider_name="anthropic", cache_write="1h")
    body = {"id": "1", "type": "message", "model": "m", "usage": usage}
    ANTHROPIC.read_answer(call, as_model("anthropic", body) if as_sdk else body)
    assert call.usage is not None
    told = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    assert call.usage.input_tokens == sum(usage[name] or 0 for name in told)
    assert call.usage.output_tokens == usage["output_tokens"]
    assert min(tuple(call.usage)) >= 0


@given(openai_usages(), st.lists(st.text(max_size=5), max_size=6), st.booleans(), st.booleans())
def test_a_streamed_chat_is_charged_as_a_whole_one(
    usage: dict[str, Any], pieces: list[str], in_every_chunk: bool, as_sdk: bool
) -> None:
    whole, parts = new_call(), new_call(is_stream=True)
    OPENAI.read_answer(whole, {"id": "1", "model": "m", "choices": [{"finish_reason": "stop"}], "usage": usage})
    part = {**usage, "completion_tokens": 0, "completion_tokens_details": None} if in_every_chunk else None
    chunks: list[Any] = [
        *({"id": "1", "model": "m", "choices": [{"delta": {"content": piece}}], "usage": part} for piece in pieces),
        {"id": "1", "model": "m", "choices": [{"delta": {}, "finish_reason": "stop"}], "usage": part},
        {"id": "1", "model": "m", "choices": [], "usage": usage},
    ]
    chunks = [{**chunk, "object": "chat.completion.chunk"} for chunk in chunks]
    streamed(OPENAI, parts, [as_model("openai", chunk) for chunk in chunks] if as_sdk else chunks)
    assert (parts.usage, parts.is_cut, parts.response_id) == (whole.usage, whole.is_cut, whole.response_id)


@given(anthropic_usages(), st.lists(st.text(max_size=5), max_size=6), st.booleans(), st.booleans())
def test_a_streamed_message_is_charged_as_a_whole_one(
    usage: dict[str, Any], pieces: list[str], repeats: bool, as_sdk: bool
) -> None:
    whole, parts = (new_call(provider_name="anthropic", cache_write="5m") for _ in range(2))
    ANTHROPIC.read_answer(whole, {"id": "1", "model": "m", "stop_reason": "end_turn", "usage": usage})
    late = ("output_tokens", "output_tokens_details", "server_tool_use")
    said = {name: value for name, value in usage.items() if repeats or name in late}
    said.pop("cache_creation", None)
    events: list[Any] = [
        {"type": "message_start", "message": {"id": "1", "model": "m", "type": "message",
                                             "usage": {**usage, "output_tokens": 1, "server_tool_use": None, "output_tokens_details": None}}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}} for piece in pieces),
        {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 1}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": said},
        {"type": "message_stop"},
    ]  # fmt: skip
    streamed(ANTHROPIC, parts, [as_model("anthropic", event) for event in events] if as_sdk else events)
    assert (parts.usage, parts.is_cut, parts.response_id) == (whole.usage, whole.is_cut, whole.response_id)


@pytest.mark.parametrize("last", ["stop", None])
def test_a_streamed_chat_is_cut_if_any_of_its_choices_is(last: str | None) -> None:
    """With n=2 the other choice may end later; Azure sends a chunk with the verdict of its content filter last."""
    call = new_call(is_stream=True)
    chunks = [
        {"id": "1", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]},
        {"id": "1", "model": "m", "choices": [{"index": 1, "delta": {}, "finish_reason": last}]},
    ]
    streamed(OPENAI, call, chunks)
    assert call.is_cut


# Reports that cannot be believed.

ABSURD = [-1, True, False, "12", 12.5, 12.0, [12], {"n": 12}, 10**30]


@pytest.mark.parametrize("value", ABSURD, ids=repr)
@pytest.mark.parametrize(
    ("where", "name"),
    [
        ((), "prompt_tokens"),
        ((), "completion_tokens"),
        (("prompt_tokens_details",), "cached_tokens"),
        (("prompt_tokens_details",), "cache_write_tokens"),
        (("prompt_tokens_details",), "audio_tokens"),
        (("prompt_tokens_details",), "image_tokens"),
        (("completion_tokens_details",), "reasoning_tokens"),
        (("completion_tokens_details",), "audio_tokens"),
    ],
)
def test_a_chat_with_an_absurd_count_has_no_usage_and_says_which(where: tuple[str, ...], name: str, value: Any) -> None:
    usage: dict[str, Any] = {"prompt_tokens": 100, "completion_tokens": 100}
    usage |= {"prompt_tokens_details": {"cached_tokens": 1}, "completion_tokens_details": {"reasoning_tokens": 1}}
    (usage[where[0]] if where else usage)[name] = value
    call = new_call()
    OPENAI.read_answer(call, {"id": "1", "model": "m", "choices": [], "usage": usage})
    assert call.usage is None
    assert f"usage.{name} is" in call.doubt
    assert call.response_id == "1"
    assert str(value) not in call.doubt or isinstance(value, (bool, int))


@pytest.mark.parametrize("value", ABSURD, ids=repr)
@pytest.mark.parametrize(
    ("where", "name"),
    [
        ((), "input_tokens"),
        ((), "output_tokens"),
        ((), "cache_read_input_tokens"),
        ((), "cache_creation_input_tokens"),
        (("cache_creation",), "ephemeral_5m_input_tokens"),
        (("output_tokens_details",), "thinking_tokens"),
        (("server_tool_use",), "web_search_requests"),
    ],
)
def test_a_message_with_an_absurd_count_has_no_usage_and_says_which(
    where: tuple[str, ...], name: str, value: Any
) -> None:
    usage: dict[str, Any] = {"input_tokens": 100, "output_tokens": 100, "cache_creation_input_tokens": 50}
    usage |= {"cache_creation": {"ephemeral_5m_input_tokens": 50}, "output_tokens_details": {}, "server_tool_use": {}}
    (usage[where[0]] if where else usage)[name] = value
    call = new_call(provider_name="anthropic")
    ANTHROPIC.read_answer(call, {"id": "1", "model": "m", "usage": usage})
    assert call.usage is None
    assert f"usage.{name} is" in call.doubt


@pytest.mark.parametrize(
    "usage", [{}, "100", 100, [100], True, {"total_tokens": 5}, {"prompt_tokens": 1}, {"input_tokens": 1}]
)
@BOTH
def test_usage_without_its_totals_is_none_with_a_doubt(provider: Provider, usage: Any) -> None:
    call = new_call(provider_name=provider.name)
    provider.read_answer(call, {"id": "1", "model": "m", "usage": usage})
    assert call.usage is None
    assert call.doubt.startswith("usage.")


@pytest.mark.parametrize(
    "answer", [None, "", "text", b"bytes", [], 5, {}, {"usage": None}, {"id": 5, "model": None}, object()]
)
@BOTH
def test_an_answer_without_usage_leaves_it_unknown_and_raises_nothing(provider: Provider, answer: Any) -> None:
    call = new_call(provider_name=provider.name)
    provider.read_answer(call, answer)
    assert (call.usage, call.doubt, call.response_id, call.response_model) == (None, "", "", "")
    reader = provider.stream_reader(call)
    assert reader.see(answer) is False
    reader.finish()
    reader.abandon([answer])
    assert call.usage is None


@pytest.mark.parametrize(
    "keys", [("prompt_tokens_details", "cached_tokens"), ("prompt_tokens_details", "cache_write_tokens")]
)
def test_a_part_above_its_whole_is_no_discount(keys: tuple[str, str]) -> None:
    call = new_call()
    usage = {"prompt_tokens": 100, "completion_tokens": 10, keys[0]: {keys[1]: 101}}
    OPENAI.read_answer(call, {"usage": usage})
    assert call.usage == Usage(uncached_input_tokens=100, visible_output_tokens=10)


def test_dear_parts_above_their_whole_stay_dear() -> None:
    call = new_call()
    into = {"cached_tokens": 90, "audio_tokens": 80, "image_tokens": 40}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": into}
    usage["completion_tokens_details"] = {"reasoning_tokens": 8, "audio_tokens": 12}
    OPENAI.read_answer(call, {"usage": usage})
    assert call.usage == Usage(input_audio_tokens=80, input_image_tokens=20, output_audio_tokens=10)


def test_more_thinking_than_output_is_all_of_it() -> None:
    call = new_call(provider_name="anthropic")
    usage = {"input_tokens": 1, "output_tokens": 10, "output_tokens_details": {"thinking_tokens": 12}}
    ANTHROPIC.read_answer(call, {"usage": usage})
    assert call.usage == Usage(uncached_input_tokens=1, reasoning_tokens=10)


@pytest.mark.parametrize(
    ("asked", "five", "hour"), [("5m", 100, 0), ("1h", 0, 100), ("none", 0, 100), ("known", 0, 100)]
)
def test_cache_writes_without_their_split_count_as_the_longest_lifetime_asked_for(
    asked: Any, five: int, hour: int
) -> None:
    call = new_call(provider_name="anthropic", cache_write=asked)
    ANTHROPIC.read_answer(call, {"usage": {"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 100}})
    assert call.usage is not None
    assert (call.usage.cache_write_5m_tokens, call.usage.cache_write_1h_tokens) == (five, hour)


def test_cache_writes_that_their_split_leaves_out_count_as_the_dearer_kind() -> None:
    call = new_call(provider_name="anthropic", cache_write="5m")
    usage = {"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 100}
    ANTHROPIC.read_answer(call, {"usage": {**usage, "cache_creation": {"ephemeral_5m_input_tokens": 30}}})
    assert call.usage is not None
    assert (call.usage.cache_write_5m_tokens, call.usage.cache_write_1h_tokens) == (30, 70)


@given(st.text(min_size=1, max_size=400))
def test_names_from_outside_are_kept_short(name: str) -> None:
    for provider in (OPENAI, ANTHROPIC):
        call = new_call(provider_name=provider.name)
        provider.read_answer(call, {"id": name, "model": name, "service_tier": name, "usage": {"service_tier": name}})
        assert (call.response_id, call.response_model) == (name[:200], name[:200])
        assert call.served_tier == name[:40]


@BOTH
def test_a_call_that_read_nothing_is_not_believed(provider: Provider) -> None:
    """Some servers report zeros instead of nothing; no request is empty."""
    call = new_call(provider_name=provider.name)
    provider.read_answer(
        call, {"usage": {"prompt_tokens": 0, "completion_tokens": 5, "input_tokens": 0, "output_tokens": 5}}
    )
    assert call.usage is None
    assert call.doubt.endswith("_tokens is 0")


# What is easily read too low.


def test_usage_fields_that_the_sdk_does_not_know_yet_are_read_all_the_same() -> None:
    usage = openai.types.CompletionUsage.construct(prompt_tokens=5, completion_tokens=5, brand_new_tokens=5)  # type: ignore[call-arg]
    assert "brand_new_tokens" not in vars(usage)  # the SDK keeps it elsewhere
    assert fields(usage)["brand_new_tokens"] == fields(usage)["prompt_tokens"] == 5


def test_what_a_compaction_used_is_added_to_the_usage() -> None:
    call = new_call(provider_name="anthropic")
    turn = {"type": "message", "input_tokens": 23_000, "output_tokens": 1_000}
    compaction = {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_500}
    usage = {"input_tokens": 23_000, "output_tokens": 1_000, "iterations": [compaction, turn]}
    ANTHROPIC.read_answer(call, {"usage": usage})
    assert call.usage is not None
    assert (call.usage.input_tokens, call.usage.output_tokens) == (203_000, 4_500)


def test_what_an_advisor_used_is_kept_apart_from_the_usage() -> None:
    call = new_call(provider_name="anthropic")
    advice = {"type": "advisor_message", "model": "claude-opus-5-5", "input_tokens": 800, "output_tokens": 1_600}
    turns = [{"type": "message", "input_tokens": 400, "output_tokens": 90}, advice]
    ANTHROPIC.read_answer(call, {"usage": {"input_tokens": 400, "output_tokens": 90, "iterations": turns}})
    assert call.usage is not None
    assert (call.usage.input_tokens, call.usage.output_tokens) == (400, 90)
    assert call.others == (("claude-opus-5-5", Usage(uncached_input_tokens=800, visible_output_tokens=1_600)),)


def test_inference_kept_in_one_region_is_served_in_the_regional_tier() -> None:
    call = new_call(provider_name="anthropic")
    usage = {"input_tokens": 1, "output_tokens": 1, "service_tier": "standard", "inference_geo": "us"}
    ANTHROPIC.read_answer(call, {"usage": usage})
    assert "regional" in call.served_tier


@pytest.mark.parametrize(
    ("provider_name", "asked", "answered", "served"),
    [
        ("anthropic", "", "global", "standard"),
        ("anthropic", "", "not_available", "standard"),
        ("anthropic", "", None, "standard"),
        ("anthropic", "regional", "global", "standard"),
        ("anthropic", "regional", "not_available", "standard+regional"),
        ("anthropic", "regional", "", "standard+regional"),
        ("anthropic", "regional", None, "standard+regional"),
        ("gcp.vertex_ai", "regional", "global", "standard+regional"),
        ("gcp.vertex_ai", "regional", "not_available", "standard+regional"),
    ],
)
def test_only_an_answer_that_names_another_region_is_charged_less_than_the_one_asked_for(
    provider_name: str, asked: str, answered: str | None, served: str
) -> None:
    call = new_call(provider_name=provider_name, tier=asked)
    usage = {"input_tokens": 1, "output_tokens": 1, "service_tier": "standard", "inference_geo": answered}
    ANTHROPIC.read_answer(call, {"usage": usage})
    assert call.served_tier == served


def test_cache_writes_of_a_chat_count_as_the_lifetime_asked_for() -> None:
    call = new_call(cache_write="12h")
    OPENAI.read_answer(
        call,
        {"usage": {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cache_write_tokens": 9}}},
    )
    assert call.usage == Usage(cache_write_12h_tokens=9, visible_output_tokens=1)
