"""OpenAI's old completions and its embeddings, read off their bodies."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion, CreateEmbeddingResponse

from farebox._call import Call, Usage
from farebox.prices import ladders
from farebox.providers import find_provider
from farebox.testing._fake.completions import Completions as FakeCompletions
from farebox.testing._fake.embeddings import Embeddings as FakeEmbeddings
from tests.strategies import bound_tokens, json_values

OPENAI = find_provider("openai")
OLD, EMBEDDINGS = "/completions", "/embeddings"


def read(path: str, **parameters: Any) -> Call:
    body = {"model": "m", ("prompt" if path == OLD else "input"): "hi", **parameters}
    call = OPENAI.read_request(path, body, "")
    assert call is not None
    return call


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "endpoint", "operation"),
    [
        ("/completions", OLD, "text_completion"),
        ("/v1/completions", OLD, "text_completion"),
        ("/openai/deployments/mine/completions", OLD, "text_completion"),
        ("/v1/embeddings", EMBEDDINGS, "embeddings"),
    ],
)
def test_a_call_is_known_by_the_end_of_its_path(path: str, endpoint: str, operation: str) -> None:
    call = OPENAI.read_request(path, {"model": "m", "prompt": "hi", "input": "hi"}, "api.example.com")
    assert call is not None
    assert (call.endpoint, call.operation_name, call.server_address) == (endpoint, operation, "api.example.com")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (OLD, {"prompt": "hi"}),
        (OLD, {"model": "m", "prompt": {}}),
        (OLD, {"model": "m", "prompt": 5}),
        (EMBEDDINGS, {"input": "hi"}),
        (EMBEDDINGS, {"model": "m"}),
        (EMBEDDINGS, {"model": "m", "input": []}),
        (EMBEDDINGS, {"model": "m", "input": 5}),
    ],
    ids=repr,
)
def test_a_malformed_body_is_none_of_ours(path: str, body: dict[str, Any]) -> None:
    assert OPENAI.read_request(path, body, "") is None


def test_a_completion_without_a_cap_has_the_sixteen_tokens_of_the_api() -> None:
    assert read(OLD).declared_cap == 16
    assert read(OLD, max_tokens=None).declared_cap == 16
    assert read(OLD, max_tokens=100).declared_cap == 100
    assert read(OLD, max_tokens=0).declared_cap == 0
    assert OPENAI.read_request(OLD, {"model": "m", "prompt": "hi"}, "127.0.0.1").declared_cap is None
    unreadable = read(OLD, max_tokens="many")
    assert (unreadable.declared_cap, unreadable.accepts_cap) == (None, False)


@pytest.mark.parametrize(
    ("parameters", "choices"),
    [
        ({}, 1),
        ({"n": 3}, 3),
        ({"n": 2, "best_of": 5}, 5),
        ({"n": 5, "best_of": 2}, 5),
        ({"prompt": ["a", "b", "c"]}, 3),
        ({"prompt": ["a", "b", "c"], "best_of": 4}, 12),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3]], "n": 2}, 4),
        ({"prompt": None, "n": 2}, 2),
        ({"n": 10**6, "prompt": ["a"] * 3}, 2_048 * 128),
    ],
    ids=repr,
)
def test_every_text_that_is_made_is_a_choice(parameters: dict[str, Any], choices: int) -> None:
    assert read(OLD, **parameters).choices == choices


def test_an_embedding_puts_nothing_out() -> None:
    call = read(EMBEDDINGS)
    assert (call.choices, call.accepts_cap, call.declared_cap, call.cache_write) == (0, False, None, "none")
    assert OPENAI.rewrite(call, {}) == {}
    call.sent_model = "other"
    assert OPENAI.rewrite(call, {}) == {"model": "other"}


@pytest.mark.parametrize("path", [OLD, EMBEDDINGS])
@pytest.mark.parametrize(
    ("given_input", "messages", "text_bytes", "ids"),
    [
        ("hello", 1, 5, 0),
        (["hello", "you"], 2, 8, 0),
        ([1] * 500, 1, 0, 500),
        ([[1] * 30, [2] * 40], 2, 0, 70),
        (["żółw"], 1, 7, 0),
        (("a", "b"), 2, 2, 0),
    ],
    ids=repr,
)
def test_texts_count_by_bytes_and_ids_one_by_one(
    path: str, given_input: Any, messages: int, text_bytes: int, ids: int
) -> None:
    call = read(path, **{"prompt" if path == OLD else "input": given_input})
    assert (call.messages, call.text_bytes) == (messages, text_bytes)
    assert ids <= call.extra_input_tokens <= ids + 4 * messages
    assert call.proven_input_tokens >= text_bytes + ids
    assert call.unbounded == ()


def test_a_suffix_is_read_too() -> None:
    assert read(OLD, suffix="x" * 1_000).text_bytes >= 1_002


def test_a_stream_of_completions_is_asked_for_its_usage() -> None:
    body = {"model": "m", "prompt": "hi", "stream": True}
    call = read(OLD, stream=True)
    assert OPENAI.rewrite(call, body) == {"stream_options": {"include_usage": True}}
    assert call.adds_usage_chunk
    asked = {**body, "stream_options": {"include_usage": True}}
    call = read(OLD, **asked)
    assert OPENAI.rewrite(call, asked) == {}
    call.sent_cap = 40
    assert OPENAI.rewrite(call, asked) == {"max_tokens": 40}


@pytest.mark.parametrize(
    ("parameters", "features"),
    [
        ({}, ""),
        ({"n": 2}, "choices"),
        ({"best_of": 2}, "choices"),
        ({"stop": ["."], "logprobs": 2}, "stop logprobs"),
        ({"temperature": 0}, "sampling"),
        ({"temperature": 1}, ""),
        ({"frequency_penalty": 1.0, "logit_bias": {"50256": -100}}, "penalties"),
    ],
    ids=repr,
)
def test_a_completion_names_what_the_model_must_be_able_to_do(parameters: dict[str, Any], features: str) -> None:
    found = read(OLD, **parameters).features
    assert found == set(features.split()) <= ladders.FEATURES


# The fake provider counts in its own way; here by the worst vocabulary there is, a token for each byte.

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
_ids = st.lists(st.integers(0, 200_000), min_size=1, max_size=20)


@given(_texts | st.lists(_texts, min_size=1, max_size=4) | _ids | st.lists(_ids, min_size=1, max_size=4))
def test_no_vocabulary_passes_the_proven_bound(given_input: Any) -> None:
    def a_token_a_byte(text: str) -> int:
        return len(text.encode())

    asked = FakeCompletions().read("/v1/completions", {"model": "m", "prompt": given_input}, a_token_a_byte)
    call = read(OLD, prompt=given_input)
    assert asked.input_tokens <= call.proven_input_tokens
    assert (asked.choices, asked.cap) == (call.choices, call.declared_cap)
    embedded = FakeEmbeddings().read("/v1/embeddings", {"model": "m", "input": given_input}, a_token_a_byte)
    assert embedded.input_tokens <= read(EMBEDDINGS, input=given_input).proven_input_tokens


@given(
    st.sampled_from([OLD, EMBEDDINGS]),
    st.dictionaries(
        st.sampled_from(
            "prompt input n best_of max_tokens stop stream stream_options temperature logprobs suffix".split()
        ),
        json_values,
    ),
)
def test_no_body_raises(path: str, parameters: dict[str, Any]) -> None:
    before = copy.deepcopy(parameters)
    call = OPENAI.read_request(path, {"model": "m", **parameters}, "")
    if call is not None:
        OPENAI.rewrite(call, parameters)
        assert bound_tokens(call) >= 0
    assert parameters == before


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

TOLD = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 30},
}
BUCKETS = Usage(uncached_input_tokens=70, cache_read_tokens=30, visible_output_tokens=50)


def completion(finish_reason: str | None = "stop", text: str = "hi", **changes: Any) -> dict[str, Any]:
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": "gpt-3.5-turbo-instruct",
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}],
        **changes,
    }


@pytest.mark.parametrize("form", ["body", "model"])
def test_a_completion_is_read_into_its_buckets(form: str) -> None:
    body, call = completion("length", usage=TOLD), read(OLD)
    OPENAI.read_answer(call, body if form == "body" else Completion.construct(**body))
    assert call.usage == BUCKETS
    assert (call.response_id, call.response_model, call.is_cut) == ("cmpl-1", "gpt-3.5-turbo-instruct", True)


@pytest.mark.parametrize("form", ["body", "model"])
def test_an_embedding_is_read_into_its_buckets(form: str) -> None:
    told = {"prompt_tokens": 7, "total_tokens": 7}
    body = {"object": "list", "data": [], "model": "text-embedding-3-small", "usage": told}
    call = read(EMBEDDINGS)
    OPENAI.read_answer(call, body if form == "body" else CreateEmbeddingResponse.construct(**body))
    assert call.usage == Usage(uncached_input_tokens=7)
    assert (call.response_model, call.is_cut, call.doubt) == ("text-embedding-3-small", False, "")


@pytest.mark.parametrize("path", [OLD, EMBEDDINGS])
def test_a_usage_that_cannot_be_believed_says_why(path: str) -> None:
    call = read(path)
    OPENAI.read_answer(call, {"usage": {"prompt_tokens": -5, "completion_tokens": 1}})
    assert (call.usage, call.doubt) == (None, "usage.prompt_tokens is out of range")
    call = read(path)
    OPENAI.read_answer(call, {})
    assert (call.usage, call.doubt) == (None, "")


def streamed(chunks: list[Any], *, adds_usage: bool = True, **parameters: Any) -> tuple[Call, list[bool]]:
    call = read(OLD, stream=True, **parameters)
    call.adds_usage_chunk = adds_usage
    reader = OPENAI.stream_reader(call)
    hidden = [reader.see(chunk) for chunk in chunks]
    reader.finish()
    return call, hidden


LAST = completion(usage=TOLD, choices=[])


def test_a_stream_is_read_to_its_usage_which_is_hidden() -> None:
    call, hidden = streamed([completion(None), completion("length", ""), LAST])
    assert (call.usage, call.is_cut, call.response_id) == (BUCKETS, True, "cmpl-1")
    assert hidden == [False, False, True]
    assert streamed([completion(None), completion(), LAST], adds_usage=False)[1] == [False, False, False]


def test_usage_in_every_chunk_counts_only_once_an_end_was_seen() -> None:
    chunk = completion(None, usage=TOLD)
    call, _ = streamed([chunk, chunk])
    assert (call.usage, call.doubt) == (None, "the stream ended before its answer")
    call, hidden = streamed([chunk, completion("stop", usage=TOLD)])
    assert call.usage == BUCKETS
    assert hidden == [False, False]


def test_any_of_several_choices_may_be_the_one_that_is_cut() -> None:
    ends = [completion("length"), *[completion()] * 5]
    assert streamed([*ends, LAST], n=6)[0].is_cut


@given(st.lists(_texts, max_size=8))
def test_a_stream_left_early_counts_what_was_received(pieces: list[str]) -> None:
    call = read(OLD, stream=True)
    OPENAI.stream_reader(call).abandon([completion(None, piece) for piece in pieces])
    size = len("".join(pieces).encode())
    assert size // 2 <= call.received_tokens <= size + 1
    assert call.usage is None


def test_a_stream_left_after_its_end_has_its_usage() -> None:
    call = read(OLD, stream=True)
    OPENAI.stream_reader(call).abandon([completion(), LAST])
    assert call.usage == BUCKETS


@given(st.sampled_from([OLD, EMBEDDINGS]), st.lists(json_values, max_size=4))
def test_no_answer_and_no_chunk_raises(path: str, bodies: list[Any]) -> None:
    call = read(path)
    reader = OPENAI.stream_reader(call)
    for body in bodies:
        OPENAI.read_answer(call, body)
        OPENAI.read_answer(call, {"choices": body, "usage": body, "model": body})
        reader.see(body)
        reader.see({"choices": body, "usage": body})
    reader.finish()
    OPENAI.stream_reader(call).abandon(bodies)
