"""What the state of a Google batch, or the file of its results, says of its use."""

from __future__ import annotations

import json
from typing import Any

import pytest

from farebox.providers import find_provider
from farebox.types import Usage

PROVIDER = find_provider("google")
PATH = "/v1beta/models/gemini-2.5-flash:batchGenerateContent"
ROW = {"request": {"contents": [{"parts": [{"text": "hello"}]}], "generationConfig": {"maxOutputTokens": 10}}}
#: As https://ai.google.dev/gemini-api/docs/batch-api has them (a copy, read 2026-11-30).
ANSWER = {"candidates": [], "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 3, "totalTokenCount": 8}}
DONE = Usage(uncached_input_tokens=5, visible_output_tokens=3)


def batch() -> Any:
    call = PROVIDER.read_request(PATH, {"batch": {"inputConfig": {"requests": {"requests": [ROW, ROW]}}}}, "")
    assert call is not None
    assert (call.operation_name, call.messages, call.tier) == ("batch", 2, "batch")
    return call


def found(state: str = "SUCCEEDED", **metadata: Any) -> dict[str, Any]:
    return {"name": "batches/1", "metadata": {"state": f"BATCH_STATE_{state}", **metadata}}


def inlined(*results: Any) -> dict[str, Any]:
    return {"output": {"inlinedResponses": {"inlinedResponses": list(results)}}}


@pytest.mark.parametrize(
    ("answer", "usage", "is_pending"),
    [
        (found("PENDING"), None, True),
        (found("RUNNING"), None, True),
        (found(), None, True),  # ended, and its results are not there yet
        (found(output={"responsesFile": "files/a"}), None, True),
        (found(**inlined({"response": ANSWER}, {"error": {"code": 3}})), DONE, False),
        (found("CANCELLED", **inlined({"response": ANSWER}, {"error": {"code": 1}})), DONE, False),
        (found(**inlined({"response": ANSWER}, {"response": {"candidates": []}})), None, False),
        (found(**inlined({"response": ANSWER}, "no result")), None, False),
        (found(**inlined()), None, False),
        (found("FAILED"), None, False),  # nobody says that none was answered
        (found("FAILED", batchStats={"requestCount": "2"}), Usage(), False),
        (found("EXPIRED", batchStats={"requestCount": "2", "failedRequestCount": "2"}), Usage(), False),
        (found("CANCELLED", batchStats={"requestCount": "2", "successfulRequestCount": "1"}), None, False),
        (b"\n".join([json.dumps({"response": ANSWER}).encode(), b'{"error": {}}', b""]), DONE, False),
        (b'{"response": {', None, False),
        (b"", None, False),
        ([], None, False),
        ({"name": 3}, None, False),
    ],
)
def test_what_a_batch_has_used(answer: Any, usage: Usage | None, is_pending: bool) -> None:
    call = batch()
    PROVIDER.read_answer(call, answer)
    assert (call.usage, call.is_pending) == (usage, is_pending)
    if usage is None and not is_pending and answer and call.response_id:
        assert call.doubt


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"batch": []},
        {"batch": {"inputConfig": {"requests": 3}}},
        {"batch": {"inputConfig": {"requests": {"requests": []}}}},
        {"batch": {"inputConfig": {"fileName": ["files/a"]}}},
    ],
)
def test_a_batch_that_asks_nothing_is_none(body: Any) -> None:
    assert PROVIDER.read_request(PATH, body, "") is None


def test_a_row_that_is_none_is_named() -> None:
    requests = {"requests": [ROW, {"request": 3}, "row"]}
    call = PROVIDER.read_request(PATH, {"batch": {"input_config": {"requests": requests}}}, "")
    assert call is not None
    assert (call.messages, len(call.unbounded)) == (3, 2)
