"""Cohere's wire format: what requests are held for, what of an answer is believed, and what is not read at all."""

from __future__ import annotations

from typing import Any

import pytest

from farebox._call import Call
from farebox.providers import find_provider
from farebox.providers.cohere import ServerTool

HOST = "api.cohere.com"
PROVIDER = find_provider("cohere")


def read(path: str, **body: Any) -> Call:
    call = PROVIDER.read_request(path, {"model": "command-r-08-2024", **body}, HOST)
    assert call is not None
    return call


def chat(**changes: Any) -> Call:
    return read("/v2/chat", messages=[{"role": "user", "content": "hello there"}], **changes)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat", {"message": "news?", "connectors": [{"id": "web-search"}]}),
        ("/v2/embed", {"images": ["data:image/png;base64,AA"]}),
        ("/v2/embed", {"inputs": [{"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]}),
    ],
)
def test_what_has_no_bound_or_no_price_is_not_read(path: str, body: dict[str, Any]) -> None:
    with pytest.raises(ServerTool):
        read(path, **body)


def test_documents_and_tools_are_part_of_the_input() -> None:
    plain = chat()
    assert chat(documents=["word " * 100]).text_bytes >= plain.text_bytes + 500
    tool = {"type": "function", "function": {"name": "f", "description": "word " * 100, "parameters": {}}}
    assert chat(tools=[tool]).text_bytes >= plain.text_bytes + 500


def test_a_stored_conversation_may_fill_the_context() -> None:
    call = read("/v1/chat", message="and then?", conversation_id="1")
    assert call.fills_context
    assert call.unbounded == ("conversation_id",)


@pytest.mark.parametrize(
    ("path", "documents", "query", "searches"),
    [
        ("/v2/rerank", ["a"], "why?", 1),
        ("/v2/rerank", ["a"] * 100, "why?", 1),
        ("/v2/rerank", ["a"] * 101, "why?", 2),
        ("/v2/rerank", ["a" * 3_000] * 100, "why?", 7),
        ("/v2/rerank", ["a" * 100_000] * 100, "why?", 9),  # which are cut off at 4,096 tokens
        ("/v1/rerank", [{"text": "a" * 100_000}], "why?", 3),  # which are not
        ("/v2/rerank", ["a" * 3_000] * 100, "why " * 300, 31),
    ],
)
def test_documents_are_held_for_the_searches_that_they_may_be(
    path: str, documents: list[Any], query: str, searches: int
) -> None:
    assert read(path, documents=documents, query=query).most_units == {"search_units": searches}


@pytest.mark.parametrize(
    "billed",
    [
        None,
        {},
        {"input_tokens": 5},
        {"input_tokens": 5, "output_tokens": None},
        {"input_tokens": "5", "output_tokens": 5},
        {"input_tokens": True, "output_tokens": 5},
        {"input_tokens": -1.0, "output_tokens": 5},
        {"input_tokens": 0, "output_tokens": 0},
        {"input_tokens": float("nan"), "output_tokens": 5},
        {"input_tokens": float("inf"), "output_tokens": 5},
        "many",
    ],
)
def test_odd_billed_units_are_not_believed(billed: Any) -> None:
    call = chat()
    PROVIDER.read_answer(call, {"id": "1", "finish_reason": "COMPLETE", "usage": {"billed_units": billed}})
    assert call.usage is None
    assert call.doubt


def test_searches_that_are_billed_as_none_are_not_believed() -> None:
    call = read("/v2/rerank", documents=["a", "b"], query="why")
    PROVIDER.read_answer(call, {"id": "1", "results": [], "meta": {"billed_units": {"search_units": 0}}})
    assert (call.usage, call.doubt) == (None, "billed_units.search_units is 0")


def test_billed_units_are_rounded_up_and_are_not_the_tokens_that_were_read() -> None:
    call = chat()
    usage = {
        "billed_units": {"input_tokens": 5.2, "output_tokens": 7.0},
        "tokens": {"input_tokens": 500, "output_tokens": 9},
    }
    PROVIDER.read_answer(call, {"id": "1", "finish_reason": "MAX_TOKENS", "usage": usage})
    assert call.usage is not None
    assert (call.usage.input_tokens, call.usage.output_tokens, call.is_cut) == (6, 7, True)


@pytest.mark.parametrize(
    ("path", "metering"),
    [
        ("/v2/chat", "metered"),
        ("/v1/generate", "metered"),
        ("/v1/tokenize", "free"),
        ("/v1/check-api-key", "free"),
        ("/v1/classify", "unmetered"),
        ("/v2/audio/transcriptions", "unmetered"),
        ("/v2/batches", "unmetered"),
        ("/v2/batches/1:cancel", "free"),
        ("/v3/anything", "unmetered"),
    ],
)
def test_what_becomes_of_a_path(path: str, metering: str) -> None:
    assert PROVIDER.metering(path) == metering
