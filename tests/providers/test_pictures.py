"""What a picture takes: its size from the first bytes of its file, and the tokens of that size by model.

The files in tests/data/pictures were drawn with Pillow 12; their names and sizes are in `FILES`.
"""

from __future__ import annotations

import base64
import random
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.providers._images import Base64, Size, image_size
from farebox.providers._vision import Picture, anthropic_image_tokens, has_openai_scheme, openai_image_tokens

FOLDER = Path(__file__).parents[1] / "data" / "pictures"
FILES = {
    "plain.png": (300, 200),
    "plain.jpg": (331, 217),
    "progressive.jpg": (333, 219),
    "exif-and-icc.jpg": (64, 48),
    "plain.gif": (120, 90),
    "comment.gif": (121, 91),
    "animated.gif": (140, 100),
    "lossy.webp": (401, 301),
    "lossless.webp": (402, 302),
    "extended.webp": (403, 303),
}
SOURCES = {name: (FOLDER / name).read_bytes() for name in FILES}


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def size_of(data: bytes) -> Size | None:
    return image_size(Base64(encoded(data)))


def png(width: int, height: int) -> bytes:
    """A PNG of one colour, as small as they get: its bytes say nothing of its tokens."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" * (1 + (width + 7) // 8)) * height, 9) if width * height < 10**8 else b""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# Sizes.


@pytest.mark.parametrize("name", FILES)
def test_the_size_of_a_picture_is_read_off_its_header(name: str) -> None:
    assert size_of(SOURCES[name]) == FILES[name]


@pytest.mark.parametrize("name", FILES)
def test_a_picture_in_a_data_url_or_in_wrapped_lines_is_read_as_well(name: str) -> None:
    text = encoded(SOURCES[name])
    assert image_size(Base64("data:image/png;base64," + text, 22)) == FILES[name]
    assert image_size(Base64(base64.encodebytes(SOURCES[name]).decode())) == FILES[name]
    assert image_size(Base64(text.rstrip("="))) == FILES[name]


@pytest.mark.parametrize("name", FILES)
def test_a_picture_that_breaks_off_is_read_in_full_or_not_at_all(name: str) -> None:
    for length in range(len(SOURCES[name])):
        assert size_of(SOURCES[name][:length]) in (None, FILES[name])


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_any_size_of_a_png_is_read(width: int, height: int) -> None:
    assert size_of(png(min(width, 5_000), min(height, 5_000))) == (min(width, 5_000), min(height, 5_000))
    huge = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height)
    assert size_of(huge) == (width, height)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a picture at all, but long enough to be one",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 0, 100),
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 2**31, 100),
        b"\xff\xd8\xff\xd9" + b"\0" * 40,
        b"\xff\xd8" + b"\xff" * 10_000,
        b"\xff\xd8" + b"\xff\xe1\0\0" * 10_000,
        b"\xff\xd8\xff\xc0\0\x11\x08\0\0\x01\0" + b"\0" * 40,  # its height is said after the picture
        b"GIF89a\x01\0\x01\0\0\0\0" + b"!\xfe" + b"\x01x" * 100_000,
        b"GIF89a\x01\0\x01\0\0\0\0;",
        b"RIFF\0\0\0\0WEBPVP8 " + b"\0" * 40,
        b"RIFF\0\0\0\0WAVEfmt " + b"\0" * 40,
        b"%PDF-1.7 " + b"\0" * 40,
        b"<svg xmlns='http://www.w3.org/2000/svg' width='10' height='10'/>",
    ],
    ids=range(15),
)
def test_what_is_no_readable_picture_has_no_size(data: bytes) -> None:
    began = time.thread_time()
    assert size_of(data) is None
    assert time.thread_time() - began < 0.5  # a file of nothing but empty segments is given up


@pytest.mark.parametrize("text", ["", "=", "====", "é" * 40, "!" * 40, "iVBORw0KGgo*AAAANSUhEUgAA", "\ud800" * 30, "A"])
def test_what_is_no_base64_has_no_size(text: str) -> None:
    assert image_size(Base64(text)) is None
    assert Base64(text).head(10) == b""


@given(st.binary(max_size=300), st.sampled_from(sorted(FILES)), st.integers(0, 60))
def test_no_file_raises(noise: bytes, name: str, at: int) -> None:
    damaged = SOURCES[name][:at] + noise + SOURCES[name][at + len(noise) :]
    size = size_of(damaged)
    assert size is None or min(size) >= 1
    image_size(Base64(noise.decode("latin-1")))


def test_a_gif_is_as_large_as_what_is_drawn_on_it() -> None:
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0)
    assert size_of(screen + b"," + struct.pack("<HHHHB", 10, 20, 3_000, 2_000, 0) + b"\0" * 9) == (3_010, 2_020)


def test_only_the_header_of_a_large_picture_is_decoded() -> None:
    data = encoded(SOURCES["plain.png"] + random.Random(1).randbytes(30_000_000))
    tracemalloc.start()
    assert image_size(Base64(data)) == FILES["plain.png"]
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_any_stretch_of_a_file_can_be_had() -> None:
    data = bytes(range(256))
    file = Base64("head," + encoded(data), 5)
    assert len(file) in (256, 257, 258)
    for start in range(0, 250, 7):
        assert file.read(start, 5) == data[start : start + 5]
    assert file.all() == data
    assert Base64("****").all() is None


# Tokens: hand arithmetic with the rules of the vendors' pages, and what was measured.


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        ("gpt-4o", (1_024, 1_024), "high", 765),  # 85 + 170 x 4, the page's own example
        ("gpt-4o-2024-08-06", (2_048, 4_096), "", 1_105),  # 85 + 170 x 6, likewise
        ("gpt-4o", (4_096, 8_192), "low", 85),
        ("gpt-4o", (150, 150), "auto", 255),  # the price page's calculator
        ("gpt-4o", (512, 512), "", 255),
        ("gpt-4o", (513, 512), "", 425),
        ("gpt-4o", (8_000, 10), "", 85 + 170 * 4),
        ("openai/gpt-4o", (1_024, 1_024), "", 765),
        ("ft:gpt-4o-2024-08-06:me::1", (1_024, 1_024), "", 765),
        ("gpt-4o-mini", (1_024, 1_024), "", 2_833 + 5_667 * 4),
        ("gpt-4o-mini", (1_024, 1_024), "low", 2_833),
        ("gpt-4.1", (1_024, 1_024), "", 765),
        ("gpt-4.1-mini", (1_024, 1_024), "", 1_659),  # 1,024 x 1.62 = 1,658.88
        ("gpt-4.1-nano", (1_024, 1_024), "", 2_520),  # 1,024 x 2.46 = 2,519.04
        ("o4-mini", (4_000, 4_000), "", 2_642),  # 1,536 x 1.72 = 2,641.92
        ("gpt-5", (1_024, 1_024), "", 630),  # 70 + 140 x 4
        ("gpt-5-2025-08-07", (1_024, 1_024), "", 630),
        ("gpt-5-mini", (1_024, 1_024), "", 1_659),
        ("gpt-5.1", (512, 512), "", 441),  # 16 x 16 patches of 1.72
        ("gpt-5.1", (32, 32), "", 210),  # 70 + 140, more than 1 patch
        ("gpt-5.4", (4_000, 3_000), "", 3_000),  # 2,500 x 1.2
        ("gpt-5.4", (4_000, 3_000), "original", 12_000),
        ("gpt-5.4-mini", (4_000, 3_000), "original", 2_489),  # 1,536 x 1.62 = 2,488.32
        ("gpt-5.5", (4_032, 3_024), "auto", 12_000),  # 11,868 were measured
        ("gpt-6-sol", (4_032, 3_024), "", 14_364),  # 126 x 95 x 1.2, as measured
        ("gpt-6-sol", (4_032, 3_024), "high", 3_000),  # 2,942 were measured
        ("gpt-6-sol", (4_032, 3_024), "low", 308),
        ("gpt-6-astra", (1_024, 1_024), "", 1_229),  # as measured
        ("gpt-6-astra", (10**6, 10**6), "", 922_000),
    ],
)
def test_openais_rules_for_pictures(model: str, size: tuple[int, int], detail: str, tokens: int) -> None:
    for turned in (size, size[::-1]):
        assert openai_image_tokens(model, Picture(Size(*turned), detail)) == tokens
    assert has_openai_scheme(model)


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    [
        ("claude-opus-5-5", (1_000, 1_000), 1_334),  # 36 x 36 = 1,296 patches; 1,000,000 / 750 by the older rule
        ("claude-opus-5-5", (200, 200), 64),
        ("claude-opus-4-7", (4_000, 3_000), 4_800),
        ("claude-haiku-4-5", (4_000, 3_000), 1_616),  # 1,592 were measured
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", (4_000, 3_000), 1_616),
        ("claude-sonnet-4-20250514", (4_000, 3_000), 1_616),
        ("claude-3-haiku-20240307", (8_000, 8_000), 1_616),
        ("my-claude", (4_000, 3_000), 4_800),
    ],
)
def test_anthropics_rules_for_pictures(model: str, size: tuple[int, int], tokens: int) -> None:
    for turned in (size, size[::-1]):
        assert anthropic_image_tokens(model, Picture(Size(*turned))) == tokens


SCALED_DOWN = "gpt-4o gpt-4o-mini gpt-4.1-nano o3 o4-mini gpt-5 gpt-5-mini gpt-5.1 gpt-5.2 gpt-5.4 gpt-5.5".split()
DETAILS = st.sampled_from(["", "low", "high", "auto", "original", "?"])
SIDES = st.integers(1, 20_000)


@given(st.sampled_from(SCALED_DOWN), SIDES, SIDES, DETAILS)
def test_no_picture_takes_more_than_one_of_unknown_size(model: str, width: int, height: int, detail: str) -> None:
    picture = Picture(Size(width, height), detail)
    assert 0 < openai_image_tokens(model, picture) <= openai_image_tokens(model, Picture(None, detail))
    for claude in ("claude-opus-5-5", "claude-haiku-4-5"):
        assert 0 < anthropic_image_tokens(claude, picture) <= anthropic_image_tokens(claude, Picture(None))


@given(SIDES, SIDES)
def test_a_model_that_nobody_knows_takes_no_less_than_any_known_one(width: int, height: int) -> None:
    picture = Picture(Size(width, height))
    assert not has_openai_scheme("my-deployment")
    for model in (*SCALED_DOWN, "gpt-6-sol"):
        assert openai_image_tokens(model, picture) <= openai_image_tokens("my-deployment", picture)


def scaled(width: int, height: int, factor: float) -> tuple[int, int]:
    return max(1, round(width * factor)), max(1, round(height * factor))


@given(SIDES, SIDES)
def test_tiles_are_no_fewer_than_scaling_step_by_step_gives(width: int, height: int) -> None:
    """As OpenAI's page tells it: into a square of 2,048, then the shorter side to 768, then squares of 512."""
    w, h = scaled(width, height, min(1, 2_048 / max(width, height)))
    w, h = scaled(w, h, min(1, 768 / min(w, h)))
    tiles = -(-w // 512) * -(-h // 512)
    assert openai_image_tokens("gpt-4o", Picture(Size(width, height))) >= 85 + 170 * tiles


@given(SIDES, SIDES)
def test_patches_are_no_fewer_than_scaling_by_a_root_gives(width: int, height: int) -> None:
    """As OpenAI's page tells it: shrunk by a root to the budget, then to whole patches."""
    patches = -(-width // 32) * -(-height // 32)
    if patches > 1_536:
        factor = (1_536 * 32 * 32 / (width * height)) ** 0.5
        wide, high = width * factor / 32, height * factor / 32
        factor *= min(int(wide) / wide, int(high) / high) if min(wide, high) >= 1 else 1
        w, h = scaled(width, height, factor)
        patches = min(1_536, -(-w // 32) * -(-h // 32))
    assert openai_image_tokens("gpt-5.2", Picture(Size(width, height))) >= patches * 1.2
