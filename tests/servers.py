"""Private servers for tests: started from the installed program on a free port of the loopback, gone with the test run.

`FAREBOX_TEST_REDIS_URL` names a server to be used for what needs no server of its own.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_START_SECONDS = 10.0
_PROGRAMS = ("redis-server", "valkey-server")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A server with a folder and a port of its own; it can be killed and started again."""

    def __init__(self, folder: Path, *options: str) -> None:
        program = os.environ.get("FAREBOX_TEST_REDIS_SERVER") or next(filter(shutil.which, _PROGRAMS), None)
        if program is None:
            pytest.skip(f"none of {', '.join(_PROGRAMS)} is installed")
        self._program = program
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        defaults = ("--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--port", str(self.port))
        command = [self._program, *defaults, "--dir", str(self._folder), *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, f"{self._program} ended with {self._process.returncode}"
            assert time.monotonic() < end, f"{self._program} does not answer on port {self.port}"
            time.sleep(0.01)

    def _answers(self) -> bool:
        """Whether it takes commands: an answer to PING, if only that it wants a password."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def kill(self) -> None:
        """As a crash: it writes nothing more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A running server, in `folder`; skips the test where none is installed."""
    server = RedisServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def redis_url(folder: Path) -> Iterator[str]:
    """The URL of a server that tests may share: each in its own namespace, and none empties it."""
    given = os.environ.get("FAREBOX_TEST_REDIS_URL")
    if given:
        yield given
    else:
        with redis_server(folder) as server:
            yield server.url
