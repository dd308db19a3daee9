"""The seam of files that go through Google's SDK, by ways of their own: those that hold the requests of a batch, and its results.

A file is read before it is sent, and only what it can use at most is kept.  Results are read once they have come, wherever they
went.  (google-genai 3.6.1, `_api_client.py` lines 2461, 2614, 2730, 2988; the same four names in
3.0.0; read 2026-11-30.)
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from farebox import _pending
from farebox._call import Call
from farebox._streams import end_call, read_answer
from farebox.providers import Provider, Upload
from farebox.providers._batches import MOST_BYTES
from farebox.seams._patches import CLIENT_MARK, Patches

#: The methods of the API client.
METHODS: Final = ("upload_file", "async_upload_file", "download_file", "async_download_file")

Note = Callable[[Any], None]


class FileProvider(Provider, Protocol):
    """A provider whose batches have their requests and results in files."""

    def file_noted(self, file: Upload) -> Note | None:
        """What to do with the answer to a file that is sent; None for one that holds no requests of a batch."""

    def asks_after(self, path: str, method: str, body: Any) -> tuple[str, str]:
        """The provider and the id of the answer that a request asks after."""


class Files:
    """What is put over the four methods."""

    def __init__(self, seam: Patches, provider: FileProvider, answer_in: Callable[[Any], Any]) -> None:
        self._seam = seam
        self._provider = provider
        self._answer_in = answer_in

    def wraps(self) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
        """Each method and what is put over it."""
        ours = (self._upload, self._async_upload, self._download, self._async_download)
        return tuple(zip(METHODS, ours, strict=True))

    def _upload(self, original: Any) -> Any:
        def upload_file(client: Any, file_path: Any, *args: Any, **kwargs: Any) -> Any:
            note = self._noted(file_path) if self._is_metered(client) else None
            response = original(client, file_path, *args, **kwargs)
            if note is not None:
                note(self._answer_in(response))
            return response

        return upload_file

    def _async_upload(self, original: Any) -> Any:
        async def async_upload_file(client: Any, file_path: Any, *args: Any, **kwargs: Any) -> Any:
            note = None
            if self._is_metered(client):
                note = await asyncio.to_thread(self._noted, getattr(file_path, "wrapped", file_path))
            response = await original(client, file_path, *args, **kwargs)
            if note is not None:
                note(self._answer_in(response))
            return response

        return async_upload_file

    def _download(self, original: Any) -> Any:
        def download_file(client: Any, path: str, *args: Any, **kwargs: Any) -> Any:
            call = _pending.find(*self._asked_after(path))
            if call is None:
                return original(client, path, *args, **kwargs)
            written = _watched(kwargs)
            content = original(client, path, *args, **kwargs)
            self._read(call, content, written)
            self._end(call)
            return content

        return download_file

    def _async_download(self, original: Any) -> Any:
        async def async_download_file(client: Any, path: str, *args: Any, **kwargs: Any) -> Any:
            call = await _pending.afind(*self._asked_after(path))
            if call is None:
                return await original(client, path, *args, **kwargs)
            written = _watched(kwargs)
            content = await original(client, path, *args, **kwargs)
            await asyncio.to_thread(self._read, call, content, written)
            self._end(call)
            return content

        return async_download_file

    def _is_metered(self, client: Any) -> bool:
        return self._seam.is_global > 0 or CLIENT_MARK in client.__dict__

    def _noted(self, file: Any) -> Note | None:
        """What to do with the answer to a file that is sent."""
        try:
            if not isinstance(file, (str, os.PathLike)):
                return self._provider.file_noted(Upload(file))
            with open(file, "rb") as opened:
                return self._provider.file_noted(Upload(opened))
        except OSError:
            return None  # the SDK says so
        except Exception as error:
            self._seam.leave_unread(error)
            return None

    def _asked_after(self, path: str) -> tuple[str, str]:
        """The provider and the id of the earlier answer whose results are asked for; the id is "" for any other file."""
        try:
            return self._provider.asks_after(path.partition("?")[0], "get", {})
        except Exception as error:
            self._seam.leave_unread(error)
            return self._provider.name, ""

    def _read(self, call: Call, content: Any, written: Any) -> None:
        if isinstance(written, _Watched):
            content = written.content()
        elif isinstance(written, (str, os.PathLike)):
            with suppress(OSError), open(written, "rb") as opened:
                content = opened.read()
        if isinstance(content, bytes):
            call.is_pending = False
            read_answer(call, self._provider, content)

    def _end(self, call: Call) -> None:
        if not call.is_pending and _pending.forget(call):
            end_call(call, "completed")


class _Watched:
    """A stream of the caller's, which keeps what is written to it unless that is too much."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._pieces: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, piece: bytes) -> Any:
        self._size += len(piece)
        if self._size <= MOST_BYTES:
            self._pieces.append(piece)
        else:
            self._pieces.clear()
        return self._stream.write(piece)

    def content(self) -> bytes | None:
        """All that was written; None where it was too much."""
        return b"".join(self._pieces) if self._size <= MOST_BYTES else None


def _watched(words: dict[str, Any]) -> Any:
    """Where a file is to be written, by the words of a download, which are changed for a stream."""
    written = words.get("destination")
    if hasattr(written, "write") and not isinstance(written, (str, os.PathLike)):
        written = words["destination"] = _Watched(written)
    return written
