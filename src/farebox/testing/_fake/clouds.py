"""Claude on other companies' clouds: the messages format, with the model in the path and, on Bedrock, streams in frames.

Source of the paths: anthropic 2.14.0, `lib/bedrock/_client.py`, `lib/vertex/_client.py`, `lib/foundry.py`; of the frames:
https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html, a copy (read 2026-11-29).
"""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import attrs

from farebox.testing._fake.dialect import Ask, Count, Event, Reply
from farebox.testing._fake.messages import Messages

_BEDROCK = re.compile(r"^/model/(?P<model>[^/]+)/invoke(?P<stream>-with-response-stream)?$")
_VERTEX = re.compile(r"^.*/publishers/anthropic/models/(?P<model>[^/:]+):(?P<stream>streamR|r)awPredict$")
_FOUNDRY = "/anthropic/v1/messages"


class CloudMessages(Messages):
    """Messages as Bedrock, Vertex and Foundry take them."""

    free_paths: tuple[str, ...] = ()

    def serves(self, method: str, path: str) -> bool:
        return method == "POST" and (path == _FOUNDRY or bool(_BEDROCK.match(path) or _VERTEX.match(path)))

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        found = _BEDROCK.match(path) or _VERTEX.match(path)
        if found is None:
            return super().read(path, body, count)
        ask = super().read("", {**body, "model": unquote(found["model"])}, count)
        return attrs.evolve(ask, stream=found["stream"] not in (None, "r"))

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        is_framed = ask.model.partition(".")[0] in ("anthropic", "us", "eu", "apac", "jp", "au", "global")
        for event in super().events(ask, reply):
            yield _Frame(event.payload, event.name, event.tokens, event.is_content) if is_framed else event


class _Frame(Event):
    """An event as Bedrock sends it: lengths, headers, the event in base64, and two checksums."""

    def encode(self) -> bytes:
        inner = base64.b64encode(json.dumps(self.payload).encode()).decode()
        payload = json.dumps({"bytes": inner}).encode()
        said = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
        headers = b"".join(_text(name) + b"\x07" + _text(value, ">H") for name, value in said.items())
        prelude = struct.pack(">II", len(headers) + len(payload) + 16, len(headers))
        message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
        return message + struct.pack(">I", zlib.crc32(message))


def _text(text: str, length: str = ">B") -> bytes:
    return struct.pack(length, len(text)) + text.encode()
