"""A small HTTP/1.1 server: one thread per connection, keep-alive, loopback only.

Hand-made rather than `http.server`: a test needs to see the client leave, to close in mid-answer, and to stop at once.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, BinaryIO

import attrs

BACKLOG = 1_024
JOIN_SECONDS = 0.4


class Stopped(ConnectionError):
    """The server is stopping; the request under way is abandoned."""


class ClientGone(ConnectionError):
    """The client has closed the connection before its answer was complete."""


@attrs.frozen
class Incoming:
    """One HTTP request as it came over the wire; header names are in lower case."""

    method: str
    path: str  # without the query
    headers: dict[str, str]
    body: bytes
    query: str = ""


class Connection:
    """The answering side of one connection; used by its own thread only."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.keep = True  # False: close after this answer

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def reader(self) -> BinaryIO:
        """What the client sends from now on."""
        return self._sock.makefile("rb")

    def drop(self) -> None:
        """Close it at once, in both directions."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def answer(self, status: int, headers: Mapping[str, str], body: bytes, *, cut_at: int | None = None) -> None:
        """Send a whole answer; with `cut_at` only that much of the body, and close."""
        head = _head(status, {**headers, "content-length": str(len(body))})
        if cut_at is not None:
            self.keep = False
        self.send(head + body[:cut_at])

    def answer_json(self, status: int, headers: Mapping[str, str], payload: Any) -> None:
        body = json.dumps(payload, separators=(",", ":")).encode()
        self.answer(status, {"content-type": "application/json", **headers}, body)

    def gone(self, within_seconds: float = 0.0) -> bool:
        """Whether the client has closed, or closes within the time; returns as soon as it does."""
        until = time.monotonic() + within_seconds
        self._sock.settimeout(within_seconds)
        try:
            if not self._sock.recv(1, socket.MSG_PEEK):
                return True
        except (BlockingIOError, TimeoutError):
            return False
        except OSError:
            return True
        finally:
            with contextlib.suppress(OSError):
                self._sock.settimeout(None)
        time.sleep(max(0.0, until - time.monotonic()))  # a pipelined request waits: the client is there
        return False


def chunk(data: bytes) -> bytes:
    """A piece of a body in chunked encoding; of no bytes: its end."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream_head(headers: Mapping[str, str]) -> bytes:
    return _head(200, {**headers, "transfer-encoding": "chunked"})


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _read(stream: BinaryIO) -> Incoming | None:
    """The next request, or None when the client has closed. ValueError: it does not speak HTTP."""
    line = stream.readline()
    if not line.strip():
        return None
    method, target, _version = line.decode("latin-1").split()
    headers: dict[str, str] = {}
    while (line := stream.readline()).strip():
        name, _colon, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int(stream.readline(), 16):
            body += stream.read(size)
            stream.readline()
        stream.readline()
    else:
        length = int(headers.get("content-length", 0))
        body = stream.read(length)
        if len(body) < length:
            return None
    path, _mark, query = target.partition("?")
    return Incoming(method, path, headers, body, query)


class Server:
    """Accepts connections on a free port and hands every request to `serve`, in the connection's own thread.

    What `serve` raises is kept in `errors`, apart from connections that broke: clients may leave.
    """

    def __init__(self, serve: Callable[[Incoming, Connection], None], stopping: threading.Event) -> None:
        self._serve = serve
        self._stopping = stopping
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._open: dict[socket.socket, threading.Thread] = {}
        self.port = 0
        self.errors: list[Exception] = []

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(
            target=self._accept, args=(self._listener,), name="fake-provider", daemon=True
        )
        self._acceptor.start()

    def stop(self) -> None:
        """Close every connection and wait shortly for their threads; `stopping` is set already."""
        if self._listener is None or self._acceptor is None:
            return
        with contextlib.suppress(OSError):  # wakes the acceptor
            socket.create_connection(("127.0.0.1", self.port), timeout=JOIN_SECONDS).close()
        until = time.monotonic() + JOIN_SECONDS
        self._acceptor.join(JOIN_SECONDS)
        self._listener.close()
        self._listener = None
        with self._lock:
            under_way = dict(self._open)
            for sock in under_way:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in under_way.values():
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _address = listener.accept()
            except OSError:
                return
            if self._stopping.is_set():
                sock.close()
                return
            thread = threading.Thread(target=self._converse, args=(sock,), name="fake-provider-connection", daemon=True)
            with self._lock:
                self._open[sock] = thread
            thread.start()

    def _converse(self, sock: socket.socket) -> None:
        """Answer one request after the other until either side has had enough."""
        connection = Connection(sock)
        stream = sock.makefile("rb")
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while connection.keep and not self._stopping.is_set():
                try:
                    incoming = _read(stream)
                except ValueError:
                    connection.answer(400, {"connection": "close"}, b"")
                    return
                if incoming is None:
                    return
                connection.keep = incoming.headers.get("connection", "").lower() != "close"
                self._serve(incoming, connection)
        except ConnectionError:
            pass  # the client left, or stop() closed the connection
        except Exception as error:
            self.errors.append(error)
            with contextlib.suppress(OSError):
                message = {"error": {"message": f"the fake provider broke: {error!r}", "type": "server_error"}}
                connection.answer_json(500, {"connection": "close", "x-should-retry": "false"}, message)
        finally:
            stream.close()
            sock.close()
            with self._lock:  # last: stop() waits for whom it finds there
                self._open.pop(sock, None)
