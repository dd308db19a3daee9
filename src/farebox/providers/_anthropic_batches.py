"""Anthropic's wire format: message batches, whose requests are in the body and whose results are lines.

Field names: anthropic 2.12.0, `types/messages/batch_create_params.py`, `message_batch.py`,
`message_batch_individual_response.py` (read 2026-11-29).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from farebox._call import Call
from farebox.providers._batches import Rows, is_row, row_of, settle
from farebox.providers._reading import fields, listed, text_of

PATH: Final = "/v1/messages/batches"
_MESSAGES: Final = "/v1/messages"
#: How a request of a batch ends.
_ENDS: Final = ("succeeded", "errored", "canceled", "expired")
_EARLIER: Final = re.compile(r"/messages/batches/([^/]+)(?:/results)?$")


def earlier_batch(path: str, method: str) -> str:
    """The id of the batch that a request asks after, or whose results it reads; "" for any other request."""
    found = _EARLIER.search(path)
    return found[1] if found is not None and method.upper() == "GET" else ""


def read_batch(
    provider_name: str,
    body: Mapping[str, Any],
    server_address: str,
    read: Callable[[str, Mapping[str, Any], str], Call | None],
) -> Call | None:
    """The call that a batch is; `read` reads one request of it."""
    requests = listed(body.get("requests"))
    if not requests:
        return None
    rows = Rows()
    for asked in requests:
        rows.add(read(_MESSAGES, fields(fields(asked).get("params")), server_address))
    return rows.call(provider_name, PATH, server_address)


def read_batch_answer(call: Call, answer: Any, read: Callable[[Call, Any], None]) -> None:
    """A batch as it stands, or the lines of its results: those that did not succeed are not charged."""
    lines = answer if isinstance(answer, list) else None
    if lines is None:
        call.response_id = text_of(fields(answer).get("id"))[:200] or call.response_id
        call.is_pending = bool(call.response_id)
        return
    rows = []
    if len(lines) < call.messages:
        call.doubt = "the results are not those of all requests"
        return
    for line in lines:
        found = fields(line)
        result = fields(found.get("result"))
        ended = result.get("type")
        if not is_row(found) or ended not in _ENDS:
            call.doubt = "a line of the results can't be read"
            return
        if ended == "succeeded":
            row = row_of(call, _MESSAGES)
            read(row, result.get("message"))
            rows.append(row)
    settle(call, rows)
