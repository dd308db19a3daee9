"""Google's wire format: batches of the Gemini API, whose requests are in the body or in a file that was sent before.

The file is read when it is sent through a metered client, and only what it can use at most is kept, by the file's name.  What
lies in Cloud Storage or BigQuery, as every batch of Vertex AI does, nobody here can read.
Field names: google-genai 3.6.1, `batches.py`, `_BatchJobSource_to_mldev`, `_BatchJob_from_mldev`, and `_transformers.py`,
`t_job_state`; https://ai.google.dev/api/batch-api (a copy, read 2026-11-30).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers._batches import (
    MOST_BYTES,
    UNSEEN_FILE,
    Rows,
    lines_of,
    remember,
    row_of,
    settle,
)
from farebox.providers._google_parts import draws, pick
from farebox.providers._reading import fields, listed, text_of, whole_number
from farebox.providers._unmetered import unseen_call
from farebox.providers._uploads import Upload
from farebox.providers._vision import is_older_gemini

GENERATE: Final = "batchGenerateContent"
EMBED: Final = "asyncBatchEmbedContent"
#: Of Vertex AI.
JOBS: Final = "/batchPredictionJobs"

_EARLIER: Final = re.compile(r"/(batches/[^/:]{1,180})$")
_CONTENT: Final = re.compile(r"(?:^|/)(files/[^/:]+):download$")
_ENDED: Final = ("_FAILED", "_CANCELLED", "_EXPIRED")
#: Where a row has been read before anybody knows the model of its batch: of which generation it is decides what it holds.
_GENERATIONS: Final = {True: "gemini-2.5", False: "gemini-3"}
#: A file whose first bytes name no request is none of a batch.
_HEAD_BYTES: Final = 4_096
_MARK: Final = b'"request"'
_ELSEWHERE: Final = "the requests of this batch lie in Cloud Storage or BigQuery"

#: Reads one request: its verb, its model, and its body.
ReadRow = Callable[[str, str, Mapping[str, Any]], Call | None]

#: What the files that were sent hold, for models of either generation, by their name.
_files: dict[str, dict[bool, Rows]] = {}
#: Files of results, and the batch that they are of.
_results: dict[str, str] = {}


def rows_in(file: Upload, read: ReadRow) -> Callable[[Any], None] | None:
    """What to do with the answer to a request that sends a file; None for a file that holds no requests of a batch."""
    if file.size is None or file.size > MOST_BYTES or _MARK not in file.read(0, min(file.size, _HEAD_BYTES)):
        return None
    rows = {is_older: Rows() for is_older in _GENERATIONS}
    for line in lines_of(file):
        try:
            asked = fields(fields(json.loads(line)).get("request"))
        except (ValueError, RecursionError):
            asked = {}
        for is_older, model in _GENERATIONS.items():
            row = read("embedContent" if "content" in asked else "generateContent", model, asked)
            if row is not None:
                row.request_model = ""  # that of the batch
            rows[is_older].add(row)

    def note(answer: Any) -> None:
        name = text_of(fields(fields(answer).get("file")).get("name"))
        if name:
            remember(_files, name, rows)

    return note


def read_batch(
    provider_name: str, verb: str, model: str, body: Mapping[str, Any], server_address: str, read: ReadRow
) -> Call | None:
    """The call that a batch is; None for one that asks nothing."""
    config = fields(pick(fields(body.get("batch")), "inputConfig"))
    requests, file_name = listed(fields(config.get("requests")).get("requests")), text_of(pick(config, "fileName"))
    if requests:
        rows = Rows()
        for one in requests:
            asked = fields(fields(one).get("request"))
            rows.add(read("embedContent" if verb == EMBED else "generateContent", model, asked))
    elif not file_name:
        return None
    elif (known := _files.get(file_name)) is not None and known[True].count:
        rows = known[is_older_gemini(model)]
    else:
        return unseen_call(provider_name, verb, server_address, UNSEEN_FILE)
    call = rows.call(provider_name, verb, server_address)
    call.request_model, call.cache_write = model, "none"
    call.has_images = call.has_images or draws(model)
    return call


def unread_job(provider_name: str, server_address: str) -> Call:
    """The call of a batch of Vertex AI."""
    return unseen_call(provider_name, JOBS, server_address, _ELSEWHERE)


def earlier_batch(path: str, method: str) -> str:
    """The id of the batch that a request asks after, or whose results it reads; "" for any other request."""
    if method.lower() != "get":
        return ""
    found = _EARLIER.search(path)
    if found is not None:
        return found[1]
    content = _CONTENT.search(path)
    return _results.get(content[1], "") if content is not None else ""


def read_batch_answer(call: Call, answer: Any, read: Callable[[Call, Any], None]) -> None:
    """A batch as it stands, or the file of its results; `read` reads the answer to one request."""
    if isinstance(answer, bytes):
        _settle(call, [_parsed(line) for line in answer.splitlines() if line.strip()], read)
        return
    found = fields(answer)
    said = fields(found.get("metadata")) or found
    output = fields(said.get("output")) or fields(found.get("response"))
    call.response_id = text_of(found.get("name"))[:200] or call.response_id
    inlined = fields(output.get("inlinedResponses") or output.get("inlinedEmbedContentResponses"))
    results, file_name = listed(inlined.get("inlinedResponses")), text_of(output.get("responsesFile"))
    if results is not None:
        _settle(call, results, read)
        return
    if file_name:
        remember(_results, file_name, call.response_id)
    elif text_of(said.get("state")).endswith(_ENDED):
        # Google says of none of these what they cost: those that were answered, whose count it leaves out where it is 0.
        counted = fields(said.get("batchStats"))
        if not counted or counted.get("successfulRequestCount") not in (None, 0, "0"):
            call.doubt = "the batch has ended and does not hand out its results"
        else:
            call.usage = Usage()
        return
    call.is_pending = bool(call.response_id)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _settle(call: Call, results: list[Any], read: Callable[[Call, Any], None]) -> None:
    """Those that have an answer; one with an error has none, and is not charged."""
    rows = []
    if len(results) < call.messages:
        call.doubt = "the results are not those of all requests"
        return
    for one in results:
        found = fields(one)
        answer = fields(found.get("response"))
        if not answer and found.get("error") is None:
            call.doubt = "a line of the results can't be read"
            return
        if answer:
            row = row_of(call, call.endpoint)
            if call.endpoint == EMBED:
                _read_embedding(row, answer)
            else:
                read(row, answer)
            rows.append(row)
    settle(call, rows)


def _read_embedding(row: Call, answer: Mapping[str, Any]) -> None:
    said = pick(answer, "tokenCount") or fields(answer.get("usageMetadata")).get("promptTokenCount")
    tokens = whole_number(said)
    if tokens is None:
        row.doubt = f"tokenCount is {type(said).__name__}"
    else:
        row.usage = Usage(uncached_input_tokens=tokens)
