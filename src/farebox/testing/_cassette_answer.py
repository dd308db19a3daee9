"""An answer as a cassette keeps it: status, the headers that SDKs read, and the body as people can read it.

    json      a JSON body
    events    server-sent events, in order, one chunk each when played
    text      any other text
    base64    anything else

`ended` is "" where the body came whole, "closed" where the program closed it before its end, or the class of the error of
httpx that it broke off with.  An answer that never came has no status, and that class in `ended`.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from farebox.testing import _cassette_secrets as secrets_

CLOSED: Final = "closed"

_HEADERS: Final = ("content-type", "retry-after", "retry-after-ms", "x-should-retry", "request-id", "x-request-id")
_HALF: Final = re.compile("[\ud800-\udfff]")
_EVENT_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
#: Events after which a program closes a stream that is over.
_LAST_EVENTS: Final = frozenset(
    "message_stop response.completed response.incomplete response.failed error thread.run.completed done".split()
)
#: Statuses that SDKs try again after a pause (https://github.com/openai/openai-python README, "Retries", read 2026-11-29).
_TRIED_AGAIN: Final = frozenset({408, 409, 429})
_LONGEST_PAUSE_SECONDS: Final = 60


@attrs.frozen(kw_only=True)
class Answer:
    """What came back.  `body` is a dict with one of `json`, `events`, `text` or `base64`, empty where there was none."""

    status: int | None = None
    headers: dict[str, str] = attrs.field(factory=dict)
    body: dict[str, Any] = attrs.field(factory=dict)
    ended: str = ""

    def chunks(self) -> Iterator[bytes]:
        """The body as it is played: each event by itself, anything else in one piece."""
        if "events" in self.body:
            for event in self.body["events"]:
                yield _event_bytes(event)
        elif "json" in self.body:
            yield json.dumps(self.body["json"]).encode()
        elif "text" in self.body:
            yield self.body["text"].encode()
        elif "base64" in self.body:
            yield base64.b64decode(self.body["base64"], validate=True)

    def played_headers(self) -> dict[str, str]:
        """The headers, with a pause of a millisecond before a retry: nobody is spared by waiting."""
        status = self.status or 0
        if status not in _TRIED_AGAIN and status < 500:
            return self.headers
        asked = self.headers.get("retry-after", "0")
        try:
            is_short = float(asked) <= _LONGEST_PAUSE_SECONDS  # after a longer one SDKs don't try again
        except ValueError:
            is_short = False
        return {**self.headers, "retry-after-ms": "1"} if is_short else self.headers


def read_answer(
    status: int,
    headers: Mapping[str, str],
    raw: bytes,
    ended: str,
    decode: Callable[[bytes], bytes],
    secrets: Iterable[str],
) -> Answer:
    """An answer that came over the wire.  `decode` takes off its content-encoding, if it can."""
    kept = {name: secrets_.clean_text(headers[name], secrets) for name in _HEADERS if name in headers}
    if "location" in headers:  # where to go on is known by its path: no host is kept
        kept["location"] = secrets_.clean_path(
            re.sub(r"^[a-z]+://[^/]*|\?.*$", "", headers["location"]) or "/", secrets
        )
    try:
        content = decode(raw)
    except Exception:
        found = _decoded_so_far(headers.get("content-encoding", ""), raw)
        if found is None:
            kept["content-encoding"] = headers["content-encoding"]
            return Answer(status=status, headers=kept, body=_binary(raw), ended=ended)
        content = found
    body = _read_body(content, headers.get("content-type", ""))
    if ended == CLOSED and _is_over(body):
        ended = ""
    body = secrets_.clean(body, secrets)
    if status >= 400 and "base64" not in body:
        body = secrets_.clean_error(body)
    return Answer(status=status, headers=kept, body=body, ended=ended)


def _decoded_so_far(encoding: str, raw: bytes) -> bytes | None:
    """Of a compressed body that broke off, what can be read; None where nobody knows."""
    if encoding.lower() not in ("gzip", "deflate"):
        return None
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(raw)
    except zlib.error:
        return None


def _read_body(content: bytes, content_type: str) -> dict[str, Any]:
    if not content:
        return {}
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return _binary(content)
    if content_type.startswith("text/event-stream"):
        return {"events": list(_events(content))}
    if "\r" in text:
        return _binary(content) if not content_type.startswith(("text/", "application/json")) else _text_or_json(text)
    return _text_or_json(text)


def _text_or_json(text: str) -> dict[str, Any]:
    """As JSON only where no more than spaces get lost by it."""
    try:
        return {"json": _exact_json(text)}
    except ValueError:
        return {"text": text}


def _binary(content: bytes) -> dict[str, Any]:
    return {"base64": base64.b64encode(content).decode()}


def _exact_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: no JSON, or one that would be another after it was written again: a name twice, a number that is none.
    """
    found = json.loads(text, object_pairs_hook=_no_name_twice, parse_constant=_no_number)
    if not isinstance(found, (dict, list)):
        raise ValueError("a text is clearer")
    return found


def to_json(value: Any) -> str:
    """On one line, in letters as they are; but for half of a pair of surrogates, which no file can hold."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or not _HALF.search(text) else json.dumps(value)


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(name)


# ── server-sent events ───────────────────────────────────────────────────────────────────────────────────────────


def _events(content: bytes) -> Iterator[Any]:
    """Each event as its fields, where `_event_bytes` makes an equal one of them, else as it came."""
    at = 0
    for end in _EVENT_END.finditer(content):
        yield _event(content[at : end.end()])
        at = end.end()
    if at < len(content):
        yield _event(content[at:])


def _event(raw: bytes) -> Any:
    text = raw.decode()
    named = re.fullmatch(r"(?:event: (?P<event>[^\n]*)\n)?data: (?P<data>[^\n]*)\n\n", text)
    if named is None or "\r" in text:
        return text
    try:
        data = _exact_json(named["data"])
    except ValueError:
        return text
    return {"data": data} if named["event"] is None else {"event": named["event"], "data": data}


def _event_bytes(event: Any) -> bytes:
    if isinstance(event, str):
        return event.encode()
    head = f"event: {event['event']}\n" if "event" in event else ""
    # In ASCII: some readers take U+0085 and U+2028 for ends of lines.
    return f"{head}data: {json.dumps(event['data'])}\n\n".encode()


def _is_over(body: Mapping[str, Any]) -> bool:
    """Whether the last event says that it is the last."""
    last = body["events"][-1] if body.get("events") else ""
    if isinstance(last, str):
        return last.startswith("data: [DONE]")
    return last.get("event", last["data"].get("type") if isinstance(last["data"], dict) else "") in _LAST_EVENTS
