"""How large a picture is, read from the first bytes of its file.  Nothing here decodes pixels or knows a vendor.

Formats: PNG (www.w3.org/TR/png-3, 11.2.1), JPEG (ITU-T T.81, B.2.2), GIF (www.w3.org/Graphics/GIF/spec-gif89a.txt),
WebP (RFC 9649).  Read 2026-11-22.
"""

from __future__ import annotations

import binascii
from typing import Final, NamedTuple

#: Segments that a JPEG may have before its frame header, and blocks that a GIF may have before its first picture: a file
#: of nothing else must not take long.
_MOST_SEGMENTS: Final = 500
#: No decoder takes a picture with a longer side (JPEG and GIF have 16 bits for it, libpng a million pixels).
_LONGEST_SIDE: Final = 1_000_000
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_WITHOUT_LENGTH: Final = frozenset((0x01, *range(0xD0, 0xD9)))
_JPEG_ENDS: Final = frozenset((0xD9, 0xDA))


class Size(NamedTuple):
    """Width and height in pixels, both 1 or more."""

    width: int
    height: int


class _Unreadable(Exception):
    pass


class Base64:
    """A file in base64 of which any stretch can be had without decoding the rest."""

    __slots__ = ("_start", "_text")

    def __init__(self, text: str, start: int = 0) -> None:
        """The base64 is `text[start:]`."""
        self._text, self._start = text, start
        if text.find("\n", start) >= 0 or text.find(" ", start) >= 0:  # wrapped lines: places would be off
            self._text, self._start = "".join(text[start:].split()), 0

    def __len__(self) -> int:
        """Bytes of the file; one or two too many where it is padded."""
        return (len(self._text) - self._start) * 3 // 4

    def read(self, start: int, count: int) -> bytes:
        """`count` bytes from `start` on.

        Raises:
            _Unreadable: the file ends before, or this is no base64.
        """
        first, last = start // 3 * 4, -(-(start + count) // 3) * 4
        found = _decoded(self._text[self._start + first : self._start + last])[start % 3 : start % 3 + count]
        if len(found) < count:
            raise _Unreadable
        return found

    def head(self, count: int) -> bytes:
        """The first `count` bytes; b"" if there are fewer, or this is no base64."""
        try:
            return self.read(0, count)
        except _Unreadable:
            return b""

    def all(self) -> bytes | None:
        """The whole file; None if this is no base64."""
        try:
            return _decoded(self._text[self._start :])
        except _Unreadable:
            return None


def _decoded(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), strict_mode=True)
    except ValueError:  # a character that is none of base64's, or none of ASCII's
        raise _Unreadable from None


def image_size(file: Base64) -> Size | None:
    """The size of a PNG, JPEG, GIF or WebP picture; None for what is no such picture or has no readable header."""
    try:
        head = file.read(0, 12)
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            size = _png(file)
        elif head.startswith(b"\xff\xd8\xff"):
            size = _jpeg(file)
        elif head.startswith((b"GIF87a", b"GIF89a")):
            size = _gif(file)
        elif head.startswith(b"RIFF") and head.endswith(b"WEBP"):
            size = _webp(file)
        else:
            return None
    except _Unreadable:
        return None
    return size if 0 < size.width <= _LONGEST_SIDE and 0 < size.height <= _LONGEST_SIDE else None


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _png(file: Base64) -> Size:
    header = file.read(12, 12)
    if not header.startswith(b"IHDR"):
        raise _Unreadable
    return Size(_big(header[4:8]), _big(header[8:12]))


def _jpeg(file: Base64) -> Size:
    place = 2
    for _ in range(_MOST_SEGMENTS):
        fill, marker = file.read(place, 2)
        if fill != 0xFF or marker in _JPEG_ENDS:
            break
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            place += 2
        elif marker in _JPEG_FRAMES:
            frame = file.read(place + 5, 4)
            return Size(_big(frame[2:]), _big(frame[:2]))
        else:
            place += 2 + max(2, _big(file.read(place + 2, 2)))
    raise _Unreadable


def _gif(file: Base64) -> Size:
    """The larger of the screen and its first picture: decoders widen the screen to what is drawn on it."""
    screen = file.read(6, 5)
    width, height, flags = _little(screen[:2]), _little(screen[2:4]), screen[4]
    place = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    is_inside = False  # an extension, which is a row of blocks that a block of no length ends
    for _ in range(_MOST_SEGMENTS):
        first = file.read(place, 1)
        if is_inside:
            place += 1 + first[0]
            is_inside = first != b"\0"
        elif first == b"!":
            place += 2
            is_inside = True
        elif first == b",":
            left, top, wide, high = (_little(file.read(place + 1 + 2 * number, 2)) for number in range(4))
            return Size(max(width, left + wide), max(height, top + high))
        else:
            break
    raise _Unreadable


def _webp(file: Base64) -> Size:
    chunk = file.read(12, 18)
    kind, data = chunk[:4], chunk[8:]
    if kind == b"VP8X":
        return Size(_little(data[4:7]) + 1, _little(data[7:10]) + 1)
    if kind == b"VP8L" and data[:1] == b"\x2f":
        bits = _little(data[1:5])
        return Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 " and data[3:6] == b"\x9d\x01\x2a":
        return Size(_little(data[6:8]) & 0x3FFF, _little(data[8:10]) & 0x3FFF)
    raise _Unreadable
