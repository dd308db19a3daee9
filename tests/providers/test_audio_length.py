"""How long a recording is, by what its file says of itself, and how long at most where it says nothing."""

from __future__ import annotations

import io
import struct
import wave

import pytest

from farebox.providers import with_files
from farebox.providers._audio_length import most_milliseconds
from farebox.providers._uploads import Upload

MOST_BYTES = 25 * 2**20


def wav(seconds: float, rate: int = 16_000, channels: int = 2) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(channels)
        written.setsampwidth(2)
        written.setframerate(rate)
        written.writeframes(bytes(int(seconds * rate) * 2 * channels))
    return file.getvalue()


def mp3(frames: int, *, kbits: int = 128, tag: bytes = b"") -> bytes:
    """MPEG 1 layer 3 at 44,100 samples a second: frames of 1,152 samples."""
    index = {32: 1, 128: 9, 320: 14}[kbits]
    length = 144 * kbits * 1_000 // 44_100
    frame = bytes((0xFF, 0xFB, index << 4, 0x00))
    return tag + frame.ljust(length, b"\0") * frames


def with_xing(frames: int) -> bytes:
    first = bytearray(mp3(1))
    first[36:48] = b"Xing" + struct.pack(">II", 1, frames)
    return bytes(first) + mp3(3, kbits=32)


def flac(samples: int, rate: int) -> bytes:
    packed = rate << 44 | 1 << 41 | 15 << 36 | samples
    return b"fLaC\0\0\0\x22" + bytes(10) + packed.to_bytes(8, "big") + bytes(4_000)


def ogg(granules: int, head: bytes) -> bytes:
    page = b"OggS\0\2" + bytes(8) + bytes(14) + head
    return page.ljust(5_000, b"\0") + b"OggS\0\4" + struct.pack("<q", granules) + bytes(200)


OPUS = b"OpusHead\1\2" + bytes(9)
VORBIS = b"\1vorbis" + bytes(4) + b"\2" + struct.pack("<I", 44_100)


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + kind + content


def mp4(ticks: int, scale: int, version: int = 0) -> bytes:
    if version:
        times = bytes([1, 0, 0, 0]) + bytes(16) + struct.pack(">IQ", scale, ticks)
    else:
        times = bytes(4) + bytes(8) + struct.pack(">II", scale, ticks)
    movie = box(b"moov", box(b"mvhd", times.ljust(108, b"\0")) + bytes(50))
    return box(b"ftyp", b"M4A \0\0\0\0") + box(b"mdat", bytes(3_000)) + movie


TAG = b"ID3\4\0\0" + bytes((0, 0, 1, 0)) + bytes(128)
RECORDINGS = {
    "wav": (wav(3.5), 3_500),
    "wav of unknown length": (wav(2).replace(struct.pack("<I", 128_000), b"\0\0\0\0"), 2_000),
    "mp3": (mp3(100), 2_612),  # 100 frames of 1,152 samples, of which the size is cut to whole bytes
    "mp3 with a tag": (mp3(100, tag=TAG), 2_612),
    "mp3 of variable rate": (with_xing(1_000), 26_122),
    "flac": (flac(441_000, 44_100), 10_000),
    "opus": (ogg(48_000 * 7, OPUS), 7_000),
    "vorbis": (ogg(44_100 * 7, VORBIS), 7_000),
    "m4a": (mp4(90_000, 1_000), 90_000),
    "m4a of the newer kind": (mp4(90_000, 1_000, 1), 90_000),
}


@pytest.mark.parametrize(("file", "milliseconds"), RECORDINGS.values(), ids=RECORDINGS)
def test_a_recording_says_how_long_it_is(file: bytes, milliseconds: int) -> None:
    found, is_told = most_milliseconds(Upload(file), MOST_BYTES)
    assert is_told
    assert milliseconds - 10 <= found <= milliseconds + 10


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"RIFF",
        bytes(64_000),
        b"\x1a\x45\xdf\xa3" + bytes(9_000),
        wav(2)[:40],
        mp3(3)[:900] + bytes(20_000),
        mp3(20) + mp3(20, kbits=32),
        b"fLaC" + bytes(60),
        ogg(48_000, b"Speex   "),
        mp4(0, 0),
        mp4(10**6, 1)[:60],
        box(b"ftyp", b"M4A ") + box(b"free", b"")[:4] + b"\0\0\0\0",
    ],
    ids=range(12),
)
def test_one_that_does_not_is_as_long_as_its_size_allows(file: bytes) -> None:
    found, is_told = most_milliseconds(Upload(file), MOST_BYTES)
    if is_told:  # what was cut off may still have said so
        assert found <= len(file) * 1_000 // 500 + 30_000
    else:
        assert found == len(file) * 2 + 1_000


def test_a_file_that_nobody_knows_the_size_of_is_as_long_as_the_largest_that_is_taken() -> None:
    class Pipe(io.RawIOBase):
        def seekable(self) -> bool:
            return False

    found, is_told = most_milliseconds(Upload(Pipe()), MOST_BYTES)
    assert (found, is_told) == (MOST_BYTES * 2 + 1_000, False)


def test_a_file_is_left_where_it_was() -> None:
    opened = io.BytesIO(wav(1))
    opened.seek(7)
    upload = Upload(opened)
    assert (upload.size, upload.read(0, 4), upload.read(10**9, 4), opened.tell()) == (64_044, b"RIFF", b"", 7)


@pytest.mark.parametrize(
    "files",
    [
        [("image[]", b"a"), ("image[]", ("b.png", b"bb", "image/png")), ("mask", io.BytesIO(b"ccc"))],
        [("image", ("a.png", b"a")), ("image", "bb"), ("mask", ("m", b"ccc", "image/png", {}))],
    ],
)
def test_files_are_fields_beside_the_others(files: list[tuple[str, object]]) -> None:
    body = with_files({"prompt": "x"}, files)
    assert [one.size for one in body["image"]] == [1, 2]
    assert (body["mask"].size, body["prompt"]) == (3, "x")
