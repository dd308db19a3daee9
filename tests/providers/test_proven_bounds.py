"""The law that `input_bound="bytes"` rests on: no server bills more input than the proven bound, whatever its tokenizer.

The adversary bills one token for every byte of what it makes of a request, and it makes it as long as servers do: it
brings text into normal form, prints tools and their arguments anew, indented and with every other character escaped,
and puts special tokens, roles and preambles around all of it.
"""

from __future__ import annotations

import base64
import json
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from farebox._call import Call
from farebox.prices.bounds import InputEstimate, proven_tokens
from farebox.providers import _reading, find_provider
from farebox.providers._reading import _STEADY, growth, utf8_size
from farebox.testing import FakeProvider
from tests.providers.test_pictures import png

OPENAI = find_provider("openai")
ANTHROPIC = find_provider("anthropic")


def read(provider: Any, body: dict[str, Any]) -> Call:
    call = provider.read_request(provider.chat_path, body, "")
    assert call is not None
    return call


# What a text can become.

#: Characters that grow, combine, reorder or compose when a text is brought into normal form.
RESTLESS = "\ufdfa\ufb2c\U0001d160\u0958\u1e9b\u0323\u0301\u0345\u3099\uff9e\uff76\u1100\u1161\u11a8가각\u09c7\u09be\u00bd\u00b4\u2026\u2155\u3300\ufb03\u0390ﬁé世、\uff01🚀👩\u200d"
odd_texts = st.text(st.sampled_from(RESTLESS + 'ab "\\\n\t\x00\x7f0e+'), max_size=30) | st.text(max_size=30)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
odd_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | odd_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(odd_texts, inner, max_size=4),
    max_leaves=15,
)


def forms(text: str) -> Iterator[str]:
    yield text
    yield unicodedata.normalize("NFC", text)
    yield unicodedata.normalize("NFKC", text)


def most_bytes(text: str) -> int:
    return max(map(utf8_size, forms(text)))


@given(odd_texts)
def test_a_text_never_grows_by_more_than_is_counted(text: str) -> None:
    assert utf8_size(text) + growth(text) >= most_bytes(text)
    assert growth(text) >= 0


@given(st.text(st.sampled_from(RESTLESS), max_size=60))
def test_a_long_text_that_is_looked_at_in_pieces_never_grows_by_more_either(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_reading, "_LONGEST_NORMALISED", 2)
        assert utf8_size(text) + growth(text) >= most_bytes(text)


@pytest.mark.timeout(20)
def test_marks_piled_upon_a_letter_are_read_in_time_that_grows_with_their_number() -> None:
    pile = "a" + "\u0301\u0323" * 200_000  # in one piece: minutes
    assert read(OPENAI, {"model": "m", "messages": [{"role": "user", "content": pile}]}).text_bytes == utf8_size(pile)


def test_the_characters_that_are_taken_not_to_grow_do_not() -> None:
    everything = [chr(number) for number in range(0x30000)]  # beyond, nothing is taken not to grow
    assert not any(_STEADY.fullmatch(chr(number)) for number in range(0x30000, sys.maxunicode + 1, 0x100))
    parts = [unicodedata.decomposition(character).split() for character in everything]
    joins_on = {chr(int(part[1], 16)) for part in parts if len(part) == 2 and not part[0].startswith("<")}
    for character in filter(_STEADY.fullmatch, everything):
        assert most_bytes(character) == utf8_size(character), ascii(character)
        first = unicodedata.normalize("NFKD", character)[0]
        assert not (unicodedata.combining(first) and first in joins_on), ascii(character)


STEADY = [chr(number) for number in range(0x80, 0x30000) if _STEADY.fullmatch(chr(number))]
MARKS = [character for character in STEADY if unicodedata.combining(character)]
COMPOSED = [character for character in STEADY if unicodedata.decomposition(character)]


@settings(max_examples=300)
@given(
    st.text(
        st.sampled_from(STEADY) | st.sampled_from(MARKS) | st.sampled_from(COMPOSED) | st.sampled_from("aeo"),
        max_size=12,
    )
)
def test_characters_that_do_not_grow_do_not_grow_together(text: str) -> None:
    assert _STEADY.fullmatch(text)
    assert most_bytes(text) == utf8_size(text)


def test_the_usual_scripts_are_not_normalised_to_see() -> None:
    for text in (
        "Grüße aus Köln",
        "Привет, мир",
        "Καλημέρα",
        "שלום",
        "مرحبا",
        "你好\uff0c世界\uff01",
        "こんにちは、カナ。",
        "안녕하세요",
        "🚀🎉",
    ):
        assert _STEADY.fullmatch(text)


# What a server prints as JSON.


def printed(value: Any) -> Iterator[str]:
    """JSON as servers print it; the last as JavaScript prints long numbers."""
    for indent in (None, 2, 4):
        for ascii_only in (True, False):
            yield json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    yield json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    yield json.dumps(_with_long_numbers(value), indent=4)


def _with_long_numbers(value: Any) -> Any:
    if isinstance(value, float) and 1e15 <= abs(value) < 1e21:
        return int(value)
    if isinstance(value, dict):
        return {name: _with_long_numbers(item) for name, item in value.items()}
    return [_with_long_numbers(item) for item in value] if isinstance(value, list) else value


def most_printed(value: Any) -> int:
    return max(most_bytes(text) for text in printed(value))


def most_reprinted(arguments: str) -> int:
    """The arguments of a tool are a text that holds JSON: it is put in as it is, as a JSON string, or printed anew."""
    as_text = max(most_bytes(arguments), len(json.dumps(arguments)))
    try:
        value = json.loads(arguments)
    except ValueError:
        return as_text
    return max(
        as_text, *(len(json.dumps(_with_long_numbers(value), ensure_ascii=plain).encode()) for plain in (True, False))
    )


def chat_bill(body: dict[str, Any]) -> int:
    """What the adversary bills for a chat: a token a byte."""
    tools = body.get("tools", ())
    tokens = 576 + (32 * len(tools) + 256 if tools else 0)  # a template's own system prompt, and its preamble to tools
    for message in body["messages"]:
        tokens += 16  # special tokens and the role
        content = message.get("content")
        is_result = message["role"] == "tool"
        for text in [content] if isinstance(content, str) else [part["text"] for part in content or ()]:
            tokens += max(most_bytes(text), len(json.dumps(text)) if is_result else 0)
        for called in message.get("tool_calls", ()):
            function = called["function"]
            tokens += len(json.dumps({"name": function["name"], "parameters": 0})) + most_reprinted(
                function["arguments"]
            )
    for name in ("tools", "response_format"):
        if name in body:
            tokens += most_printed(body[name])
    return tokens


schemas = st.fixed_dictionaries(
    {"type": st.just("object"), "properties": st.dictionaries(odd_texts, odd_json, max_size=3)}
)


@st.composite
def chats(draw: st.DrawFn) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    for kind in draw(st.lists(st.sampled_from(["plain", "parts", "call", "result"]), min_size=1, max_size=5)):
        if kind == "plain":
            messages.append(
                {"role": draw(st.sampled_from(["user", "assistant", "system"])), "content": draw(odd_texts)}
            )
        elif kind == "parts":
            parts = [{"type": "text", "text": text} for text in draw(st.lists(odd_texts, max_size=3))]
            messages.append({"role": "user", "content": parts})
        elif kind == "call":
            arguments = draw(odd_json.map(lambda value: json.dumps(value, separators=(",", ":"))) | odd_texts)
            function = {"name": draw(odd_texts), "arguments": arguments}
            called = {"id": "call_1", "type": "function", "function": function}
            messages.append({"role": "assistant", "content": None, "tool_calls": [called]})
        else:
            messages.append({"role": "tool", "tool_call_id": "call_1", "content": draw(odd_texts)})
    body: dict[str, Any] = {"model": "gpt-4o", "messages": messages}
    if draw(st.booleans()):
        functions = st.fixed_dictionaries({"name": odd_texts, "description": odd_texts, "parameters": schemas})
        body["tools"] = [{"type": "function", "function": draw(functions)} for _ in range(draw(st.integers(1, 3)))]
    if draw(st.booleans()):
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "s", "schema": draw(schemas)}}
    return body


def calling(arguments: str) -> dict[str, Any]:
    called = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"model": "m", "messages": [{"role": "assistant", "content": None, "tool_calls": [called]}]}


@settings(max_examples=200)
@given(chats())
@example(calling("é\x01" * 100))
@example(calling("[" + ",".join(["1e20"] * 100) + "]"))
@example(calling("[" + ",".join(["1"] * 1_000) + "]"))
@example(calling('{"a":"世"}' * 50))
@example({"model": "m", "messages": [{"role": "tool", "content": '"\n\U00010000' * 100}]})
@example({"model": "m", "messages": [{"role": "user", "content": "\ufdfa" * 100}]})
@example(
    {
        "model": "m",
        "messages": [{"role": "user", "content": ""}],
        "tools": [{"type": "function", "function": {"name": "\ufdfa" * 1_000}}],
    }
)
def test_no_chat_is_billed_for_more_than_its_proven_bound(body: dict[str, Any]) -> None:
    assert chat_bill(body) <= read(OPENAI, body).proven_input_tokens


def message_bill(body: dict[str, Any]) -> int:
    """What the adversary bills for a message: a token a byte."""
    tools = body.get("tools", ())
    tokens = 64 + 16 * len(body["messages"]) + (1_024 + 32 * len(tools) if tools else 0)
    system = body.get("system", "")
    contents = [system, *(message["content"] for message in body["messages"])]
    for content in contents:
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                tokens += most_bytes(part["text"])
            elif part["type"] == "tool_use":
                tokens += len("name") + most_bytes(part["name"]) + most_printed(part["input"])
            elif part["type"] == "tool_result":
                tokens += len("result") + most_printed(part["content"])
            else:
                tokens += most_bytes(part["source"]["data"]) + most_bytes(part["title"])
    for name in ("tools", "output_config"):
        if name in body:
            tokens += most_printed(body[name])
    return tokens


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    turns: list[dict[str, Any]] = []
    for kind in draw(
        st.lists(st.sampled_from(["plain", "parts", "use", "result", "document"]), min_size=1, max_size=5)
    ):
        text = draw(odd_texts)
        content: Any = text
        if kind == "parts":
            content = [{"type": "text", "text": text}, {"type": "text", "text": draw(odd_texts)}]
        elif kind == "use":
            given_input = draw(st.dictionaries(odd_texts, odd_json, max_size=3))
            content = [{"type": "tool_use", "id": "toolu_1", "name": text, "input": given_input}]
        elif kind == "result":
            inner: Any = draw(st.sampled_from([text, [{"type": "text", "text": text}]]))
            content = [{"type": "tool_result", "tool_use_id": "toolu_1", "content": inner}]
        elif kind == "document":
            source = {"type": "text", "media_type": "text/plain", "data": text}
            content = [{"type": "document", "source": source, "title": draw(odd_texts)}]
        turns.append({"role": "user", "content": content})
    body: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 10, "messages": turns}
    if draw(st.booleans()):
        body["system"] = draw(odd_texts)
    if draw(st.booleans()):
        tools = st.fixed_dictionaries({"name": odd_texts, "description": odd_texts, "input_schema": schemas})
        body["tools"] = draw(st.lists(tools, min_size=1, max_size=3))
    if draw(st.booleans()):
        body["output_config"] = {"format": {"type": "json_schema", "schema": draw(schemas)}}
    return body


def saying(part: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": [part]}]}


@settings(max_examples=200)
@given(messages())
@example(saying({"type": "tool_use", "id": "1", "name": "f", "input": {"\x1f\U00010000" * 20: None}}))
@example(saying({"type": "tool_use", "id": "1", "name": "f", "input": {"deep": [[[[""] * 200]]]}}))
@example(saying({"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "\x01" * 200}]}))
def test_no_message_is_billed_for_more_than_its_proven_bound(body: dict[str, Any]) -> None:
    assert message_bill(body) <= read(ANTHROPIC, body).proven_input_tokens


@given(chats(), messages())
def test_the_proven_bound_is_never_below_the_estimate_of_plain_prose(
    chat: dict[str, Any], body: dict[str, Any]
) -> None:
    for call in (read(OPENAI, chat), read(ANTHROPIC, body)):
        assert proven_tokens(call) >= call.proven_input_tokens
        assert proven_tokens(call) >= InputEstimate().tokens(call)


# Over HTTP, with the real SDKs.


@pytest.fixture(scope="module")
def greedy() -> Iterator[FakeProvider]:
    """A provider that bills a token a byte."""
    with FakeProvider(tokenizer=utf8_size) as provider:
        yield provider


def without_surrogates(body: Any) -> bool:
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


over_http = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


@over_http
@given(body=chats().filter(without_surrogates), size=st.none() | st.integers(600, 3_000))
def test_the_bill_of_a_chat_is_within_its_proven_bound(
    greedy: FakeProvider, body: dict[str, Any], size: int | None
) -> None:
    if size is not None:
        url = "data:image/png;base64," + base64.b64encode(png(size, size)).decode()
        body["messages"].append({"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]})
    with openai.OpenAI(base_url=greedy.openai_base_url, api_key="k", max_retries=0) as client:
        client.chat.completions.create(**body)
    assert greedy.bill.lines[-1].input_tokens <= read(OPENAI, body).proven_input_tokens


@over_http
@given(body=messages().filter(without_surrogates), size=st.none() | st.integers(900, 3_000))
def test_the_bill_of_a_message_is_within_its_proven_bound(
    greedy: FakeProvider, body: dict[str, Any], size: int | None
) -> None:
    assume("document" not in str(body["messages"]))  # the fake provider bills any document as one picture
    if size is not None:
        source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png(size, size)).decode()}
        body["messages"].append({"role": "user", "content": [{"type": "image", "source": source}]})
    with anthropic.Anthropic(base_url=greedy.anthropic_base_url, api_key="k", max_retries=0) as client:
        client.messages.create(**body)
    assert greedy.bill.lines[-1].input_tokens <= read(ANTHROPIC, body).proven_input_tokens


@pytest.mark.parametrize(("allowed", "made"), [(1, 1), (3, 2), (5, 5)])
def test_searches_that_read_the_prompt_again_are_within_the_proven_bound(
    greedy: FakeProvider, allowed: int, made: int
) -> None:
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "世界 " * 30_000}],
        "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": allowed}],
    }
    greedy.answer(web_searches=made, times=1)
    with anthropic.Anthropic(base_url=greedy.anthropic_base_url, api_key="k", max_retries=0) as client:
        client.messages.create(**body)  # type: ignore[call-overload]
    call = read(ANTHROPIC, body)
    assert greedy.bill.lines[-1].input_tokens >= (made + 1) * 210_000
    assert greedy.bill.lines[-1].input_tokens <= call.proven_input_tokens
    assert call.unbounded == ()
