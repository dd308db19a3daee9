"""OpenAI's wire format: batches, whose requests are in a file that was sent before.

The file is read when it is sent through a metered client, and only what it can use at most is kept, by the file's id.
A batch of a file that nobody here has seen can't be bounded.
Field names: openai 3.54.0, `types/batch.py`, `types/batch_usage.py`, `types/batch_create_params.py` (read 2026-11-29).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers._batches import UNSEEN_FILE, Rows, is_row, lines_of, remember, row_of, settle
from farebox.providers._openai_usage import RESPONSES, read_head, read_usage
from farebox.providers._reading import fields, listed, text_of
from farebox.providers._unmetered import unseen_call
from farebox.providers._uploads import uploads_of

PATH: Final = "/batches"
_FILES: Final = "/files"
_EARLIER: Final = re.compile(r"/batches/([^/]+)(/cancel)?$")
_CONTENT: Final = re.compile(r"/files/([^/]+)/content$")
_ENDED: Final = frozenset(("completed", "failed", "expired", "cancelled"))

ReadRequest = Callable[[str, Mapping[str, Any], str], Call | None]
ReadAnswer = Callable[[Call, Any], None]

_files: dict[str, Rows] = {}
#: Files of results, and the batch that they are of.
_results: dict[str, str] = {}


def noted(path: str, body: Mapping[str, Any], server_address: str, read: ReadRequest) -> Callable[[Any], None] | None:
    """What to do with the answer to a request that sends the file of a batch; None for any other request."""
    uploads = uploads_of(body.get("file"))
    if not path.endswith(_FILES) or body.get("purpose") != "batch" or not uploads:
        return None
    rows = Rows()
    for line in lines_of(uploads[0]):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        asked = fields(found)
        rows.add(read(text_of(asked.get("url")), fields(asked.get("body")), server_address) if asked else None)

    def note(answer: Any) -> None:
        file_id = text_of(fields(answer).get("id"))
        if file_id:
            remember(_files, file_id, rows)

    return note


def earlier_batch(path: str, method: str) -> str:
    """The id of the batch that a request asks after or stops, or whose results it reads; "" for any other request."""
    found = _EARLIER.search(path)
    if found is not None:
        return found[1] if method.upper() == ("POST" if found[2] else "GET") else ""
    content = _CONTENT.search(path)
    return _results.get(content[1], "") if content is not None else ""


def glance(path: str, answer: Any) -> None:
    """Take note of the files that hold the results of the batches in a list: who lists them may fetch them without a look."""
    for one in (listed(fields(answer).get("data")) or ()) if path.endswith(PATH) else ():
        found = fields(one)
        batch_id, file_id = text_of(found.get("id")), text_of(found.get("output_file_id"))
        if batch_id and file_id:
            remember(_results, file_id, batch_id)


class Batches:
    """`POST /batches`."""

    #: Reads the result of one request; the provider's own, which knows all of its endpoints.
    read_row: ReadAnswer

    def read_request(self, provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        file_id = text_of(body.get("input_file_id"))
        if not file_id:
            return None
        rows = _files.get(file_id)
        if rows is None or rows.count == 0:
            return unseen_call(provider_name, PATH, server_address, UNSEEN_FILE)
        return rows.call(provider_name, PATH, server_address)

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def read_answer(self, call: Call, answer: Any) -> None:
        """What became of a batch, or the file of its results."""
        content = getattr(answer, "content", None)
        if isinstance(content, bytes):
            self._read_results(call, content)
            return
        found = fields(answer)
        if call.is_unmetered or not found:
            call.response_id = text_of(found.get("id"))[:200] or call.response_id
            call.is_pending = bool(call.response_id) and not call.is_unmetered
            return
        read_head(call, found)
        status, file_id = text_of(found.get("status")).lower(), text_of(found.get("output_file_id"))
        if status not in _ENDED:
            call.is_pending = bool(call.response_id)
        elif found.get("output_file_id") is None and not fields(found.get("request_counts")).get("completed"):
            call.usage = Usage()  # none of its requests has an answer
        elif not file_id:
            call.doubt = "the batch has ended and does not hand out its results"
        elif found.get("usage") is not None and any(
            isinstance(count, int) and count for count in fields(found["usage"]).values()
        ):
            call.usage = read_usage(call, found["usage"], RESPONSES)
        else:
            remember(_results, file_id, call.response_id)
            call.is_pending = True

    def _read_results(self, call: Call, content: bytes) -> None:
        rows = []
        lines = [line for line in content.splitlines() if line.strip()]
        for line in lines or [b""]:
            try:
                found = fields(json.loads(line))
            except (ValueError, RecursionError):
                found = {}
            response = fields(found.get("response"))
            status = response.get("status_code")
            if not is_row(found) or (type(status) is not int and not found.get("error")):
                call.doubt = "the results can't be read"
                return
            if status != 200:
                continue
            body = fields(response.get("body"))
            row = row_of(call, _ENDPOINTS.get(text_of(body.get("object")), "/chat/completions"))
            self.read_row(row, body)
            rows.append(row)
        settle(call, rows)

    def stream_reader(self, call: Call) -> Batches:
        return self

    def see(self, chunk: Any) -> bool:
        return False

    def finish(self) -> None:
        """Batches do not stream."""

    def abandon(self, chunks: list[Any]) -> None:
        """Batches do not stream."""


#: Whose endpoint an answer is of, by its "object".
_ENDPOINTS: Final = {"response": "/responses", "list": "/embeddings", "text_completion": "/completions"}
SURFACE: Final = Batches()
