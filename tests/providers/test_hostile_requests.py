"""Requests that are made to be read too low, or for too long."""

from __future__ import annotations

import threading
from typing import Any

import pydantic
import pytest

from farebox.providers import Provider
from tests.providers.test_reading_requests import ANTHROPIC, BOTH, OPENAI, read

LONG: Any = "x" * 5_000


@pytest.mark.parametrize(
    ("provider", "message"),
    [
        (ANTHROPIC, {"role": "user", "content": "hi", "name": LONG}),
        (ANTHROPIC, {"role": LONG, "content": "hi"}),
        (OPENAI, {"role": LONG, "content": "hi"}),
        (OPENAI, {"role": "user", "content": "hi", "_name": LONG}),
        (OPENAI, {"role": "user", "content": [{"type": "input_audio", "input_audio": {}, "text": LONG}]}),
        (
            OPENAI,
            {
                "role": "user",
                "content": [{"type": "file", "file": {"filename": LONG, "file_data": "data:text/plain;base64,YQ=="}}],
            },
        ),
    ],
    ids=["member", "role", "role of a chat", "underscore", "beside a recording", "file name"],
)
def test_no_text_of_a_message_is_out_of_sight(provider: Provider, message: dict[str, Any]) -> None:
    call = read(provider, [message])
    assert call.text_bytes >= 5_000
    assert call.proven_input_tokens >= 5_000


@pytest.mark.parametrize(
    "content",
    [
        [{"type": f"kind {number}"} for number in range(30_000)],
        [{"type": "text", "text": "a", "cache_control": {"ttl": f"{number}"}} for number in range(30_000)],
        [{"type": "image", "source": {"type": "url", "url": "https://example.com"}}] * 30_000,
    ],
    ids=["types", "lifetimes", "pictures"],
)
@pytest.mark.timeout(10)
@BOTH
def test_a_body_of_many_odd_parts_is_read_in_time_that_grows_with_their_number(
    provider: Provider, content: Any
) -> None:
    assert read(provider, [{"role": "user", "content": content}]).messages == 1


def test_the_names_of_what_nobody_can_bound_are_few_and_short() -> None:
    tools = [{"type": f"{number}{LONG}"} for number in range(100)]
    call = OPENAI.read_request("/responses", {"model": "m", "input": "hi", "tools": tools}, "")
    assert call is not None
    assert 0 < len(call.unbounded) <= 32
    assert max(map(len, call.unbounded)) <= 100


class WithoutSchema(pydantic.BaseModel):
    model_config = {"arbitrary_types_allowed": True}
    ready: threading.Event | None = None


@pytest.mark.parametrize("thing", [WithoutSchema, {10**5_000: 1}, {"a": 10**5_000}], ids=["class", "name", "number"])
@BOTH
def test_what_no_json_can_hold_is_read_all_the_same(provider: Provider, thing: Any) -> None:
    assert read(provider, [{"role": "user", "content": thing}]).messages == 1
    assert read(provider, tools=[thing]).messages == 1


def test_a_cap_beyond_belief_does_not_let_a_message_pass_unseen() -> None:
    assert read(ANTHROPIC, max_tokens=10**9).declared_cap == 10_000_000


def test_thoughts_between_tools_may_take_more_than_the_cap() -> None:
    thinking = {"type": "enabled", "budget_tokens": 10_000}
    assert read(ANTHROPIC, max_tokens=4_000, thinking=thinking).declared_cap == 14_000
    assert read(ANTHROPIC, max_tokens=10_001, thinking=thinking).declared_cap == 10_001


@pytest.mark.parametrize(
    ("model", "name"), [("gpt-4.1", "max_tokens"), ("gpt-5", "max_completion_tokens")], ids=["takes predictions", "new"]
)
def test_a_cap_along_with_a_prediction_has_the_name_that_goes_with_it(model: str, name: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "prediction": {"content": "ho"}}
    call = OPENAI.read_request("/chat/completions", body, "api.openai.com")
    assert call is not None
    call.sent_cap = 50
    assert OPENAI.rewrite(call, body) == {name: 50}


@pytest.mark.parametrize(
    "item",
    [{"role": LONG, "content": "hi"}, {"role": "user", "content": "hi", "_name": LONG}],
    ids=["role", "underscore"],
)
def test_no_text_of_an_item_is_out_of_sight(item: dict[str, Any]) -> None:
    call = OPENAI.read_request("/responses", {"model": "m", "input": [item]}, "")
    assert call is not None
    assert call.text_bytes >= 5_000
