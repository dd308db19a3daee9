"""As test_plain_requests, for Claude: what is read on the short way comes to what the long one comes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic._models import construct_type
from anthropic.types import Message
from anthropic.types.beta import BetaMessage
from hypothesis import given
from hypothesis import strategies as st

from farebox._enforce import after_call, before_call
from farebox.providers import find_provider
from tests.providers.test_plain_requests import came_of, said, texts

_ANTHROPIC: Any = find_provider("anthropic")
_DATA = Path(__file__).parent / "data"
_PATH, _HOST = "/v1/messages", "api.anthropic.com"
_OMIT: Any = anthropic.omit if hasattr(anthropic, "omit") else type("Omit", (), {})()
_HELLO = {"role": "user", "content": "Why?"}

turns = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": texts}), max_size=4)
bodies = st.builds(
    lambda turns, last, **rest: {**rest, "messages": [*turns, {"role": "user", "content": last}]},
    turns,
    texts,
    model=st.sampled_from(["claude-sonnet-4-6", "claude-opus-4-8", "my-own"]),
    max_tokens=st.integers(1, 100_000),
)
systems = st.sampled_from(["given", "omitted", "left out"])


def as_sent(body: dict[str, Any], system: str, text: str) -> dict[str, Any]:
    """A body as the SDK hands it on: what was not given comes last, or not at all."""
    head = {**body, "system": text} if system == "given" else body
    return (
        head
        if system == "left out"
        else {**head, "tools": _OMIT, "thinking": _OMIT, **({} if text else {"stream": _OMIT})}
    )


@given(bodies, systems, texts)
def test_a_plain_message_says_the_same_read_either_way(body: dict[str, Any], system: str, text: str) -> None:
    given = {**body, "system": text} if system == "given" else body
    plain, whole = (
        _ANTHROPIC.read_plain(_PATH, as_sent(body, system, text), _HOST),
        _ANTHROPIC.read_request(_PATH, given, _HOST),
    )
    assert plain.is_plain
    assert whole.is_plain
    assert said(plain) == said(whole)


@given(bodies)
def test_a_plain_message_is_held_for_the_same_read_either_way(body: dict[str, Any]) -> None:
    body = {**body, "model": "claude-sonnet-4-6"}
    bounds = set()
    for read in (_ANTHROPIC.read_plain, _ANTHROPIC.read_request):
        call = read(_PATH, body, _HOST)
        before_call("anthropic", call)
        bounds.add((call.bound_usd_nanos, call.bound_tokens, call.plan.need))
        call.outcome = "failed"
        after_call("anthropic", call)
    assert len(bounds) == 1


@pytest.mark.parametrize(
    "said",
    [
        {"messages": []},
        {"messages": iter([_HELLO])},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]},
        {"messages": [{**_HELLO, "name": "bob"}]},
        {"messages": [{"role": "system", "content": "42"}]},
        {"messages": [_HELLO, {"role": "assistant", "content": "Because"}]},
        {"messages": [_HELLO, object()]},
        {"model": None},
        {"max_tokens": 1.5},
        {"max_tokens": True},
        {"max_tokens": -1},
        {"max_tokens": 10**9},
        {"max_tokens": _OMIT},
        {"system": [{"type": "text", "text": "Be brief."}]},
        {"temperature": 0.5},
        {"stream": True},
        {"tools": []},
        {"service_tier": "standard_only"},
        {"stop_sequences": ["x"], "tools": _OMIT},
        {"extra": None},
    ],
)
def test_what_says_more_goes_the_long_way(said: dict[str, Any]) -> None:
    body = {"model": "claude-sonnet-4-6", "max_tokens": 9, "messages": [_HELLO], **said}
    assert _ANTHROPIC.read_plain(_PATH, body, _HOST) is None


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("/v1/messages/batches", _HOST),
        ("/v1/complete", _HOST),
        (_PATH, "localhost"),
        (_PATH, "us-east5-aiplatform.googleapis.com"),
    ],
)
def test_another_endpoint_or_server_goes_the_long_way(path: str, host: str) -> None:
    assert _ANTHROPIC.read_plain(path, {"model": "claude-x", "max_tokens": 9, "messages": [_HELLO]}, host) is None


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

_USAGE = {
    "input_tokens": 900,
    "output_tokens": 80,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": None,
    "service_tier": "standard",
}
_COUNTS = [0, 1, 10_000_000, 10_000_001, -1, True, "7", 1.0, None]
_ODD: dict[str, list[Any]] = {
    "input_tokens": _COUNTS,
    "output_tokens": _COUNTS,
    "cache_creation_input_tokens": [*_COUNTS, False, "", 0.0],
    "cache_read_input_tokens": [*_COUNTS, False, "", 0.0],
    "service_tier": ["priority", None, "y" * 60, 3],
    "inference_geo": ["us", "global", "not_available", "", 3, ["us"]],
    "speed": ["standard", "fast", 3],
    "server_tool_use": [{"web_search_requests": 2}],
    "output_tokens_details": [
        *({"thinking_tokens": count} for count in (0, 1, 200, False, "", None)),
        {},
        {"thinking_tokens": 0, "unheard_of": 7},
        7,
    ],
    "iterations": [[], [{"type": "compaction", "input_tokens": 5, "output_tokens": 6}]],
    "unheard_of": [7],
}
_ODD_HEAD: dict[str, list[Any]] = {
    "usage": [None, {}, 7],
    "id": ["x" * 300, None],
    "model": ["claude-opus-4-8", "y" * 300, None],
    "stop_reason": ["max_tokens", None],
}


_ONE_BY_ONE = [
    *({"usage": {**_USAGE, name: value}} for name, values in _ODD.items() for value in values),
    *({name: value} for name, values in _ODD_HEAD.items() for value in values),
]


def assert_read_alike(answer: dict[str, Any], kind: type, tier: str) -> None:
    head = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "So."}], "usage": _USAGE}
    came: Any = construct_type(type_=kind, value={**head, "id": "msg_1", "model": "claude-sonnet-4-6", **answer})
    body = {"model": "claude-sonnet-4-6", "max_tokens": 9, "messages": [_HELLO]}
    plain, whole = _ANTHROPIC.read_plain(_PATH, body, _HOST), _ANTHROPIC.read_request(_PATH, body, _HOST)
    plain.tier = whole.tier = tier
    if _ANTHROPIC.read_plain_answer(plain, came):
        _ANTHROPIC.read_answer(whole, came)
        assert came_of(plain) == came_of(whole)
        assert not whole.others
    else:
        assert came_of(plain) == came_of(_ANTHROPIC.read_plain(_PATH, body, _HOST))  # nothing is read by half


@pytest.mark.parametrize("kind", [Message, BetaMessage])
@pytest.mark.parametrize("answer", [{}, *_ONE_BY_ONE], ids=str)
def test_an_answer_with_one_thing_odd_says_the_same_read_either_way(answer: dict[str, Any], kind: type) -> None:
    for tier in ("", "regional"):
        assert_read_alike(answer, kind, tier)


_ODD_ITEMS = st.sampled_from([(name, value) for name, values in _ODD.items() for value in values])


@given(
    st.lists(_ODD_ITEMS, max_size=4).map(dict), st.sampled_from(_ONE_BY_ONE), st.sampled_from([Message, BetaMessage])
)
def test_an_answer_with_much_that_is_odd_says_the_same_read_either_way(
    usage: dict[str, Any], head: dict[str, Any], kind: type
) -> None:
    assert_read_alike({"usage": {**_USAGE, **usage}, **head}, kind, "")


@pytest.mark.parametrize("kind", [Message, BetaMessage])
@pytest.mark.parametrize(
    "said", [{}, {"output_tokens_details": {"thinking_tokens": 0}}, {"inference_geo": "not_available"}]
)
def test_the_answers_that_most_get_are_read_on_the_short_way(said: dict[str, Any], kind: type) -> None:
    answer = json.loads((_DATA / "anthropic_message.json").read_text("utf-8"))["answer"]
    came: Any = construct_type(type_=kind, value={**answer, "usage": {**answer["usage"], **said}})
    call = _ANTHROPIC.read_plain(_PATH, {"model": "claude-sonnet-4-6", "max_tokens": 9, "messages": [_HELLO]}, _HOST)
    assert _ANTHROPIC.read_plain_answer(call, came)
    assert (call.usage.input_tokens, call.usage.output_tokens, call.response_id) == (10, 20, answer["id"])


@pytest.mark.parametrize("answer", [None, {}, "no", 7, object(), []])
def test_what_is_no_answer_is_not_read_on_the_short_way(answer: object) -> None:
    call = _ANTHROPIC.read_plain(_PATH, {"model": "claude-sonnet-4-6", "max_tokens": 9, "messages": [_HELLO]}, _HOST)
    assert not _ANTHROPIC.read_plain_answer(call, answer)
