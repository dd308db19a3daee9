"""Files that a request sends along, looked into without being read: what is sent is left where it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any


class Upload:
    """One file of a multipart body.

    Attributes:
        size: Bytes; None where nobody can say, as of a pipe.
    """

    __slots__ = ("_content", "size")

    def __init__(self, content: Any) -> None:
        self._content = content.encode() if isinstance(content, str) else content
        self.size = _size(self._content)

    def read(self, start: int, count: int) -> bytes:
        """Up to `count` bytes from `start` on; b"" where they can't be had."""
        content = self._content
        if isinstance(content, (bytes, bytearray, memoryview)):
            return bytes(content[start : start + count])
        if self.size is None:
            return b""
        with suppress(Exception):
            at = content.tell()
            try:
                content.seek(start)
                found = content.read(count)
            finally:
                content.seek(at)
            return found if isinstance(found, bytes) else b""
        return b""


def _size(content: Any) -> int | None:
    if isinstance(content, (bytes, bytearray, memoryview)):
        return len(content)
    with suppress(Exception):
        if content.seekable():
            at = content.tell()
            try:
                return int(content.seek(0, 2))
            finally:
                content.seek(at)
    return None


def with_files(body: Mapping[str, Any], files: Any) -> dict[str, Any]:
    """The fields of a multipart body and its files: an `Upload` by name, or a list of them where a name comes again.

    `files` is what httpx takes: a mapping, or pairs, of names to contents or to tuples of a file name and its content.
    """
    pairs: Iterable[Any] = files.items() if isinstance(files, Mapping) else files
    found: dict[str, list[Upload]] = {}
    for name, file in pairs:
        content = file[1] if isinstance(file, tuple) else file
        found.setdefault(str(name).removesuffix("[]"), []).append(Upload(content))
    return {**body, **{name: uploads[0] if len(uploads) == 1 else uploads for name, uploads in found.items()}}


def uploads_of(value: Any) -> list[Upload]:
    """The files in a field."""
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, Upload)]
