"""Requests that are plain text are read on a short way of their own: it must come to what the long one comes to."""

from __future__ import annotations

import enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox._call import Call, _Said
from farebox._enforce import after_call, before_call
from farebox.providers import find_provider

_OPENAI: Any = find_provider("openai")
_PATH = "/v1/chat/completions"

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
        "max_completion_tokens": st.integers(0, 100_000),
        "temperature": st.sampled_from([0, 0.2, 1, 1.0]),
        "stream": st.booleans(),
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
    for read in (_OPENAI.read_plain, _OPENAI.read_request):
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
        {"max_completion_tokens": -1},
        {"max_completion_tokens": 10**9},
        {"max_completion_tokens": 5, "max_tokens": 6},
        {"temperature": "0.5"},
        {"n": 2},
        {"stream": True, "stream_options": {"include_usage": True}},
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
