"""A program that runs in a process of its own, as a test sees it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from typing import Any


class Program:
    """A running `rider`, and what it says."""

    def __init__(self, path: str, asked: dict[str, Any]) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(path)
        self._lines = self._socket.makefile("r")
        self._socket.sendall(f"{json.dumps(asked)}\n".encode())
        self.pid: int = self.hear()["pid"]
        self._code: int | None = None

    def hear(self) -> dict[str, Any]:
        line = self._lines.readline()
        assert line
        said = json.loads(line)
        assert "code" not in said, f"it ended with {said['code']}"
        return said  # type: ignore[no-any-return]

    def go(self) -> None:
        self._socket.sendall(b"\n")

    def end(self) -> int:
        """Wait for its end; its exit code, or the negative number of the signal."""
        while self._code is None:
            line = self._lines.readline()
            assert line
            self._code = json.loads(line).get("code")
        return self._code

    def close(self) -> None:
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._lines.close()
        self._socket.close()
