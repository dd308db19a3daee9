"""A websocket server of a test: on loopback, on a port of its own, gone with the test."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from websockets.sync.server import Server, ServerConnection, serve


@contextlib.contextmanager
def serving(talk: Callable[[ServerConnection], None], **options: Any) -> Iterator[int]:
    """The port of a server that has `talk` speak with whoever connects."""
    server: Server = serve(talk, "127.0.0.1", 0, compression=None, **options)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield int(server.socket.getsockname()[1])
    finally:
        server.shutdown()
        thread.join()
