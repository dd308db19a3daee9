"""Requests that are plain text are read on a short way of their own: it must come to what the long one comes to."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._models import construct_type
from openai.types.chat import ChatCompletion

from farebox._call import Call, _Said
from farebox._enforce import after_call, before_call
from farebox._streams import read_answer
from farebox.providers import find_provider
from farebox.providers.anthropic import Anthropic
from farebox.providers.openai import OpenAI
from farebox.seams import seam_of

_OPENAI: Any = find_provider("openai")
_PATH = "/v1/chat/completions"
_READS = (_OPENAI.read_plain, _OPENAI.read_request)

#: What is read off a request: all that `_Said` names, with and without a default.
_READ = sorted(
    {*_Said.__annotations__, "provider_name", "operation_name", "endpoint", "request_model", "server_address"}
)

texts = st.text(max_size=300) | st.sampled_from(
    [
        "The quick brown fox jumps over the lazy dog, and comes back. " * 20,
        "for (int i = 0; i < n; ++i) { sum += values[i]; }\n" * 9,
        "Die Geschichte der Stadt beginnt im Jahre des Herrn, und niemand weiss es. " * 9,
        "ACGT" * 100,
        "\ufdfa" * 40,
    ]
)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "developer"]), "content": texts}),
    min_size=1,
    max_size=5,
)
bodies = st.fixed_dictionaries(
    {"model": st.sampled_from(["gpt-5-mini", "gpt-4.1", "my-own"]), "messages": messages},
    optional={
        "max_completion_tokens": st.integers(1, 100_000),
        "temperature": st.sampled_from([0, 0.2, 1, 1.0]),
        "stream": st.booleans(),
        "stream_options": st.just({"include_usage": True}),
    },
)
hosts = st.sampled_from(["api.openai.com", "eu.api.openai.com", "localhost", "shop.openai.azure.com"])


def said(call: Call) -> dict[str, Any]:
    return {name: getattr(call, name) for name in _READ if name != "is_plain"}


@given(bodies, hosts)
def test_a_plain_request_says_the_same_read_either_way(body: dict[str, Any], host: str) -> None:
    plain, whole = _OPENAI.read_plain(_PATH, body, host), _OPENAI.read_request(_PATH, body, host)
    assert (plain.is_plain, whole.is_plain) == (True, False)
    assert said(plain) == said(whole)


@given(bodies)
def test_a_plain_request_is_held_for_the_same_read_either_way(body: dict[str, Any]) -> None:
    body = {**body, "model": "gpt-5-mini"}
    bounds = set()
    for read in _READS:
        call = read(_PATH, body, "api.openai.com")
        before_call("openai", call)
        bounds.add((call.bound_usd_nanos, call.bound_tokens, call.plan.need))
        call.outcome = "failed"
        after_call("openai", call)
    assert len(bounds) == 1


class Role(enum.StrEnum):
    USER = "user"


_TEXT = {"role": "user", "content": "Why?"}


@pytest.mark.parametrize(
    "said",
    [
        {"messages": []},
        {"messages": iter([_TEXT])},
        {"messages": [{"role": "user", "content": iter(["Why?"])}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]},
        {"messages": [{**_TEXT, "name": "bob"}]},
        {"messages": [{"role": "tool", "content": "42"}]},
        {"messages": [_TEXT, object()]},
        {"model": None},
        {"model": Role.USER},
        {"model": "gpt-4o-search-preview"},
        {"max_completion_tokens": 1.5},
        {"max_completion_tokens": True},
        {"max_completion_tokens": 0},
        {"max_completion_tokens": 0, "max_tokens": 6},
        {"max_completion_tokens": None, "max_tokens": 6},
        {"max_completion_tokens": -1},
        {"max_completion_tokens": 10**9},
        {"max_completion_tokens": 5, "max_tokens": 6},
        {"temperature": "0.5"},
        {"temperature": None},
        {"stream": None},
        {"n": 2},
        {"stream": True, "stream_options": {"include_usage": False, "more": object()}},
        {"tools": []},
        {"service_tier": "flex"},
        {"extra": object()},
    ],
)
def test_what_says_more_goes_the_long_way(said: dict[str, Any]) -> None:
    body = {"model": "gpt-4.1", "messages": [_TEXT], **said}
    assert _OPENAI.read_plain(_PATH, body, "api.openai.com") is None


def test_another_endpoint_goes_the_long_way() -> None:
    assert _OPENAI.read_plain("/v1/responses", {"model": "gpt-4.1", "messages": [_TEXT]}, "api.openai.com") is None


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

_ANSWER: dict[str, Any] = {
    "id": "chatcmpl-1",
    "created": 1,
    "model": "gpt-5-mini-2025-08-07",
    "object": "chat.completion",
    "service_tier": "default",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "So.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
}
_COUNTS = st.integers(0, 3) | st.just(10_000_001) | st.none()
details = st.none() | st.dictionaries(
    st.sampled_from(["cached_tokens", "audio_tokens", "cache_write_tokens", "reasoning_tokens", "unheard_of"]), _COUNTS
)


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    """Answers as they mostly are, with something odd here and there."""
    usage = {
        "prompt_tokens": draw(st.integers(1, 9_000) | _COUNTS),
        "completion_tokens": draw(st.integers(0, 9_000) | _COUNTS),
        "total_tokens": 1,
        "prompt_tokens_details": draw(details),
        "completion_tokens_details": draw(details),
    }
    choice = {**_ANSWER["choices"][0], "finish_reason": draw(st.sampled_from(["stop", "length", "tool_calls"]))}
    odd: dict[str, Any] = {
        "id": draw(st.sampled_from(["chatcmpl-1", "x" * 300, None])),
        "service_tier": draw(st.sampled_from(["default", "flex", None, "y" * 60])),
        "choices": draw(st.sampled_from([[choice], [choice, choice], []])),
    }
    return {**_ANSWER, "usage": draw(st.none() | st.just(usage)), **odd}


def as_model(answer: dict[str, Any]) -> Any:
    return construct_type(type_=ChatCompletion, value=answer)


@given(answers(), hosts, st.sampled_from([as_model, dict]))
def test_an_answer_to_a_plain_request_says_the_same_read_either_way(
    answer: dict[str, Any], host: str, form: Callable[[dict[str, Any]], Any]
) -> None:
    came = form(answer)
    calls = [read(_PATH, {"model": "gpt-4.1", "messages": [_TEXT]}, host) for read in _READS]
    for call in calls:
        _OPENAI.read_answer(call, came)
    assert came_of(calls[0]) == came_of(calls[1])


def came_of(call: Call) -> tuple[object, ...]:
    return call.usage, call.doubt, call.response_id, call.response_model, call.served_tier, call.is_cut


@pytest.mark.parametrize("answer", [None, {}, "no", 7, object(), [], {"choices": 3, "usage": "none"}])
def test_what_is_no_answer_is_no_error_either_way(answer: object) -> None:
    for read in _READS:
        call = read(_PATH, {"model": "gpt-4.1", "messages": [_TEXT]}, "api.openai.com")
        read_answer(call, _OPENAI, answer)
        assert call.usage is None


# ── providers that derive from those ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [OpenAI, Anthropic])
def test_a_provider_that_reads_otherwise_than_the_one_it_is_made_of_reads_everything(kind: Any) -> None:
    def shorts(**own: Any) -> tuple[bool, bool]:
        seam: Any = seam_of(type("Own", (kind,), own)())
        return callable(seam.read_plain), callable(seam.read_plain_answer)

    assert shorts(name="own") == (True, True)
    assert shorts(read_request=lambda *_: None) == (False, True)
    assert shorts(read_answer=lambda *_: None) == (True, False)
    assert shorts(read_request=lambda *_: None, read_plain=lambda *_: None) == (True, True)


@pytest.mark.parametrize(
    ("kind", "path", "host"), [(OpenAI, _PATH, "api.openai.com"), (Anthropic, "/v1/messages", "api.anthropic.com")]
)
def test_a_provider_of_another_name_has_it_either_way(kind: Any, path: str, host: str) -> None:
    own = type("Own", (kind,), {"name": "own"})()
    body = {"model": "own-1", "max_tokens": 9, "messages": [{"role": "user", "content": "Why?"}]}
    assert own.read_plain(path, body, host).provider_name == own.read_request(path, body, host).provider_name == "own"
