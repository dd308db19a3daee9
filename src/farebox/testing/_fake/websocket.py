"""The server's side of a websocket, as RFC 6455 has it: text in and out, no extensions."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
from typing import Any

from farebox.testing._fake.server import Connection, Incoming

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA


def wants_websocket(incoming: Incoming) -> bool:
    return incoming.headers.get("upgrade", "").lower() == "websocket"


class WebSocket:
    """One connection; `hear` belongs to one thread, anything else may be called from any."""

    def __init__(self, incoming: Incoming, connection: Connection) -> None:
        self.incoming = incoming
        self._connection = connection
        self._lock = threading.Lock()
        key = incoming.headers.get("sec-websocket-key", "") + _MAGIC
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        connection.keep = False
        connection.send(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
            f"sec-websocket-accept: {accept}\r\n\r\n".encode()
        )
        self._stream = connection.reader()

    def hear(self) -> dict[str, Any] | None:
        """The next message, an empty one for what is no JSON object; None once the client has closed or is gone."""
        whole = b""
        while True:
            head = self._stream.read(2)
            if len(head) < 2:
                return None
            length = head[1] & 0x7F
            if length > 125:
                packed = self._stream.read(2 if length == 126 else 8)
                length = int.from_bytes(packed, "big")
            mask = self._stream.read(4) if head[1] & 0x80 else b"\0\0\0\0"
            body = bytes(byte ^ mask[at % 4] for at, byte in enumerate(self._stream.read(length)))
            kind = head[0] & 0x0F
            if kind == _CLOSE:
                self._send(_CLOSE, body[:2])
                return None
            if kind == _PING:
                self._send(_PONG, body)
            elif kind != _PONG:
                whole += body
                if head[0] & 0x80:
                    return _object(whole)

    def say(self, message: Any) -> None:
        self._send(_TEXT, json.dumps(message, separators=(",", ":")).encode())

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say that it is over."""
        self._send(_CLOSE, struct.pack(">H", code) + reason.encode())

    def drop(self) -> None:
        """Be gone, without a word."""
        self._connection.drop()

    def end(self) -> None:
        """Nothing is heard any more: without this the connection stays open as long as anybody knows of it."""
        self._stream.close()

    def _send(self, kind: int, body: bytes) -> None:
        size = len(body)
        if size < 126:
            head = struct.pack(">BB", 0x80 | kind, size)
        elif size < 1 << 16:
            head = struct.pack(">BBH", 0x80 | kind, 126, size)
        else:
            head = struct.pack(">BBQ", 0x80 | kind, 127, size)
        with self._lock:
            self._connection.send(head + body)


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
