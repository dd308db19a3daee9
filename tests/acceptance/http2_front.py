"""A server of HTTP/2, in the clear and known beforehand, in front of a provider that speaks HTTP/1.1.

Each stream is a request of its own to the provider; when a client resets a stream or leaves, the provider sees it leave.
"""

from __future__ import annotations

import http.client
import importlib
import socket
import threading
from contextlib import suppress
from typing import Any

_HOP_BY_HOP = ("connection", "transfer-encoding", "keep-alive", "host", "content-length")


class Front:
    """While it is entered it listens at `port`; `connections` counts those that were opened, `most_streams` what one had at once."""

    def __init__(self, provider_port: int) -> None:
        self.provider_port = provider_port
        self.connections = 0
        self.most_streams = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._open: list[socket.socket] = []

    def __enter__(self) -> Front:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._socket, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                self._open.append(client)
                threading.Thread(target=_Connection(self, client).serve, daemon=True).start()


class _Connection:
    def __init__(self, front: Front, client: socket.socket) -> None:
        self.front = front
        self._client = client
        config = importlib.import_module("h2.config").H2Configuration(client_side=False, header_encoding="utf-8")
        self._h2: Any = importlib.import_module("h2.connection").H2Connection(config)
        self._events: Any = importlib.import_module("h2.events")
        self._room = threading.Condition()
        self._heads: dict[int, list[tuple[str, str]]] = {}
        self._bodies: dict[int, bytes] = {}
        self._backends: dict[int, http.client.HTTPConnection] = {}
        self._gone: set[int] = set()

    def serve(self) -> None:
        try:
            with self._room:
                self._h2.initiate_connection()
                self._flush()
            while data := self._client.recv(65_536):
                with self._room:
                    for event in self._h2.receive_data(data):
                        self._take(event)
                    self._flush()
                    self._room.notify_all()
        except (OSError, self._h2_error()):
            pass
        finally:
            with self._room:
                for stream in list(self._backends):
                    self._leave(stream)
                self._room.notify_all()
            self._client.close()

    def _h2_error(self) -> Any:
        return importlib.import_module("h2.exceptions").H2Error

    def _take(self, event: Any) -> None:
        events = self._events
        if isinstance(event, events.RequestReceived):
            self._heads[event.stream_id], self._bodies[event.stream_id] = event.headers, b""
        elif isinstance(event, events.DataReceived):
            self._bodies[event.stream_id] += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, events.StreamEnded):
            stream = event.stream_id
            self._backends[stream] = http.client.HTTPConnection("127.0.0.1", self.front.provider_port)
            self.front.most_streams = max(self.front.most_streams, len(self._backends))
            threading.Thread(target=self._answer, args=(stream,), daemon=True).start()
        elif isinstance(event, events.StreamReset):
            self._leave(event.stream_id)

    def _leave(self, stream: int) -> None:
        self._gone.add(stream)
        backend = self._backends.pop(stream, None)
        if backend is not None and backend.sock is not None:
            with suppress(OSError):
                backend.sock.shutdown(socket.SHUT_RDWR)

    def _answer(self, stream: int) -> None:
        backend = self._backends[stream]
        head = dict(self._heads.pop(stream))
        headers = {name: value for name, value in head.items() if name[0] != ":" and name not in _HOP_BY_HOP}
        try:
            backend.request(head[":method"], head[":path"], self._bodies.pop(stream), headers)
            answer = backend.getresponse()
            said = [(name.lower(), value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP]
            with self._room:
                self._h2.send_headers(stream, [(":status", str(answer.status)), *said])
                self._flush()
            while data := answer.read1(16_384):
                self._send(stream, data)
            if not answer.isclosed() and answer.length:
                raise http.client.IncompleteRead(b"")
            with self._room:
                if stream not in self._gone:
                    self._h2.end_stream(stream)
                    self._flush()
        except Exception:  # the provider or the client has left
            with self._room, suppress(Exception):
                if stream not in self._gone:
                    self._h2.reset_stream(stream, error_code=2)
                    self._flush()
        finally:
            with self._room:
                self._backends.pop(stream, None)
            backend.close()

    def _send(self, stream: int, data: bytes) -> None:
        while data:
            with self._room:
                while stream not in self._gone and not self._h2.local_flow_control_window(stream):
                    self._room.wait(1)
                if stream in self._gone:
                    raise ConnectionResetError
                most = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
                self._h2.send_data(stream, data[:most])
                self._flush()
                data = data[most:]

    def _flush(self) -> None:
        self._client.sendall(self._h2.data_to_send())
