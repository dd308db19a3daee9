"""How long a recording is, read from what its file says of itself.  Nothing here decodes sound or knows a vendor.

Formats: WAV (RIFF, with the data chunk's size), MP3 (ISO/IEC 11172-3 2.4.2.3, Xing and Info headers), FLAC (RFC 9639, 8.2),
Ogg (RFC 3533, with RFC 7845 for Opus), MP4 (ISO/IEC 14496-12, 8.2.2).  Read 2026-11-29.
"""

from __future__ import annotations

import struct
from typing import Final, Protocol

#: The least bytes of a second of any recording that is not looked into: Opus at 6 kbit/s takes 750.
_LEAST_BYTES_A_SECOND: Final = 500
#: Boxes of an MP4, and chunks of a WAV, that are looked at.
_MOST_BOXES: Final = 200
#: Frames of an MP3 that must agree before its size tells its length.
_FRAMES_COMPARED: Final = 6
_MP3_KBITS: Final = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_RATES: Final = (44_100, 48_000, 32_000)
_OGG_TAIL: Final = 65_536


class File(Protocol):
    """What can be looked into: its bytes, or None where nobody knows how many there are."""

    size: int | None

    def read(self, start: int, count: int) -> bytes: ...


def most_milliseconds(file: File, most_bytes: int) -> tuple[int, bool]:
    """How long a recording is at most, and whether the file says so itself; an unreadable one is bounded by its size.

    `most_bytes`: what the provider takes; the size of a file that has none.
    """
    size = file.size
    if size:
        try:
            seconds = _seconds(file, size)
        except (struct.error, IndexError, ZeroDivisionError):
            seconds = None
        if seconds is not None and 0 < seconds < 10**7:
            return int(seconds * 1_000) + 1, True
    return (most_bytes if size is None else size) * 1_000 // _LEAST_BYTES_A_SECOND + 1_000, False


def _seconds(file: File, size: int) -> float | None:
    head = file.read(0, 64)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _wav(file, size)
    if head[:4] == b"fLaC":
        packed = int.from_bytes(head[18:26], "big")
        return (packed & (2**36 - 1)) / (packed >> 44)
    if head[:4] == b"OggS":
        return _ogg(file, size)
    if head[4:8] == b"ftyp":
        return _mp4(file, size)
    if head[:3] == b"ID3":
        skipped = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        return _mp3(file, size, skipped)
    return _mp3(file, size, 0)


def _wav(file: File, size: int) -> float | None:
    at, bytes_a_second = 12, 0
    for _ in range(_MOST_BOXES):
        head = file.read(at, 24)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] == b"fmt ":
            bytes_a_second = int.from_bytes(head[16:20], "little")
        elif head[:4] == b"data":
            # A size that a stream did not know is longer than the file.
            return min(length or size, size - at) / bytes_a_second
        if len(head) < 8:
            return None
        at += 8 + length + length % 2
    return None


def _frame(file: File, at: int) -> tuple[int, int, int, int] | None:
    """Version, kbit/s, samples a second and length of the MP3 frame at a place; None where there is none."""
    head = file.read(at, 4)
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2 or head[1] & 0x18 == 0x08:
        return None
    version = {0x18: 1, 0x10: 2, 0x00: 4}[head[1] & 0x18]  # MPEG 1, 2, 2.5
    rate_index, kbit_index = head[2] >> 2 & 3, head[2] >> 4
    if rate_index == 3 or kbit_index in (0, 15):
        return None
    rate = _MP3_RATES[rate_index] // version
    kbits = _MP3_KBITS[1 if version == 1 else 2][kbit_index]
    samples = 1_152 if version == 1 else 576
    return version, kbits, rate, samples * kbits * 125 // rate + (head[2] >> 1 & 1)


def _mp3(file: File, size: int, start: int) -> float | None:
    first = _frame(file, start)
    if first is None:
        return None
    version, kbits, rate, length = first
    side = file.read(start + 4, 64)
    for mark in (b"Xing", b"Info"):
        found = side.find(mark)
        if found >= 0 and side[found + 7] & 1:
            frames = int.from_bytes(file.read(start + 4 + found + 8, 4), "big")
            return frames * (1_152 if version == 1 else 576) / rate
    at = start
    for _ in range(_FRAMES_COMPARED):
        at += length
        frame = _frame(file, at)
        if frame is None and at >= size:
            break
        if frame is None or frame[1] != kbits:
            return None
        length = frame[3]
    return (size - start) / (kbits * 125)


def _ogg(file: File, size: int) -> float | None:
    head = file.read(0, 128)
    opus, vorbis = head.find(b"OpusHead"), head.find(b"\x01vorbis")
    if opus >= 0:
        rate = 48_000
    elif vorbis >= 0:
        rate = int.from_bytes(head[vorbis + 12 : vorbis + 16], "little")
    else:
        return None
    tail = file.read(max(0, size - _OGG_TAIL), _OGG_TAIL)
    last = tail.rfind(b"OggS")
    granules = int.from_bytes(tail[last + 6 : last + 14], "little") if last >= 0 else 0
    return float(granules) / rate if granules < 2**62 else None


def _mp4(file: File, size: int) -> float | None:
    at, end = 0, size
    for _ in range(_MOST_BOXES):
        head = file.read(at, 48)
        length = int.from_bytes(head[:4], "big")
        start = 8
        if length == 1:
            length, start = int.from_bytes(head[8:16], "big"), 16
        if head[4:8] == b"moov":
            at, end = at + start, at + length
            continue
        if head[4:8] == b"mvhd":
            body = head[start:]
            if body[0] == 1:
                scale, ticks = struct.unpack(">IQ", body[20:32])
            else:
                scale, ticks = struct.unpack(">II", body[12:20])
            return float(ticks / scale)
        if length < 8 or at + length >= end:
            return None
        at += length
    return None
