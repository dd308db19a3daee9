"""What pictures, recordings and documents put in front of a model, read from the parts of OpenAI's and Anthropic's formats."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from farebox.providers._images import Base64, image_size
from farebox.providers._reading import Part, fields, text_of
from farebox.providers._vision import Picture, has_openai_scheme

UNREADABLE_IMAGE: Final = "image (unreadable)"

# A PDF becomes the text and a picture of each page: 1,600 to 2,500 tokens a page were measured
# (https://huggingface.co/datasets/JOHNISKING/pdf-token-cost, read 2026-11-22).
_TOKENS_PER_PAGE: Final = 8_000
#: A longer PDF is not searched for its pages: that would take longer than a call may be kept waiting.
_LONGEST_SEARCHED: Final = 2_000_000
_PAGE: Final = re.compile(rb"/Type\s*/Page(?![A-Za-z])")

#: Audio tokens a second of recording: one for every 100 ms (https://platform.openai.com/docs/guides/realtime-costs, read
#: 2026-11-22); twice that, since no page says so of chat completions.
_AUDIO_TOKENS_PER_SECOND: Final = 20
#: The least that a second of MP3 takes: 8 kbit (ISO/IEC 13818-3, 2.4.2.3).
_LEAST_MP3_BYTES: Final = 1_000
_PCM_FORMATS: Final = frozenset((1, 3))


def _opened(url: Any) -> tuple[Base64, str] | None:
    """The file in a data URL and its media type; None for any other URL, and where it is not in base64."""
    if not isinstance(url, str) or url[:5].lower() != "data:":
        return None
    comma = url.find(",", 5, 500)
    head = url[5:comma].lower()
    return (Base64(url, comma + 1), head.partition(";")[0].strip()) if comma > 0 and "base64" in head else None


def read_openai_part(model: str, kind: str, found: Mapping[str, Any], most: int) -> Part:
    """A part of OpenAI's formats: `image_url`, `input_image`, `input_audio`, `file`, `input_file`.

    `most` is what a part of this kind takes at most.
    """
    if "image" in kind:
        link = found.get("image_url")
        url = fields(link).get("url") or link
        detail = text_of(fields(link).get("detail") or found.get("detail"))
        if url is None and found.get("file_id") is not None:
            return Part(picture=Picture(None, detail), unbounded="image_file")
        return _openai_image(model, url, detail)
    if "audio" in kind:
        sound = fields(found.get("input_audio"))
        data = sound.get("data")
        tokens = _audio_tokens(data, sound.get("format")) if isinstance(data, str) else None
        return Part(most, most, unbounded=kind) if tokens is None else Part(min(tokens, most), min(tokens, most))
    held = fields(found.get("file"))
    data = held.get("file_data") or found.get("file_data")
    opened = _opened(data) or ((Base64(data), "") if isinstance(data, str) else None)
    part = Part(most, most, unbounded=kind) if opened is None else read_document(*opened, most, kind)
    name = held.get("filename")  # in a response it stands beside the file
    return part if name is None else part._replace(text=[name] if part.text is None else [name, part.text])


def _openai_image(model: str, url: Any, detail: str) -> Part:
    opened = _opened(url)
    size = None if opened is None else image_size(opened[0])
    picture = Picture(size, detail)
    if size is None:
        is_link = isinstance(url, str) and opened is None and url[:5].lower() != "data:"
        return Part(picture=picture, unbounded="image_url" if is_link else UNREADABLE_IMAGE)
    return Part(picture=picture, unbounded="" if has_openai_scheme(model) else f"image for {model[:100]}")


def read_anthropic_part(kind: str, found: Mapping[str, Any], most: int) -> Part:
    """A part of Anthropic's format: `image`, `document`, `file`, `container_upload`."""
    source = found.get("source")
    held, data = fields(source).get("type"), fields(source).get("data")
    if kind == "image":
        size = image_size(Base64(data)) if held == "base64" and isinstance(data, str) else None
        if size is not None:
            return Part(picture=Picture(size))
        is_link = held in ("url", "file")
        return Part(picture=Picture(None), unbounded=f"image_{held}" if is_link else UNREADABLE_IMAGE)
    if held == "text":
        return Part(text=data)
    if held == "content":
        return Part(text=fields(source).get("content"))
    if held == "base64" and isinstance(data, str):
        return read_document(Base64(data), text_of(fields(source).get("media_type")), most, kind)
    return Part(most, most, unbounded=f"{kind}_{held}" if held in ("url", "file") else kind)


def read_document(file: Base64, media_type: str, most: int, kind: str, tokens_per_page: int = _TOKENS_PER_PAGE) -> Part:
    """A file sent along.  A plain text is read as it is; nobody can bound a PDF, whose text is compressed."""
    if len(file) <= _LONGEST_SEARCHED and (content := file.all()) is not None:
        if media_type.startswith("text/") or media_type == "application/json":
            try:
                return Part(text=content.decode())
            except UnicodeDecodeError:
                return Part(most, most, unbounded=kind)
        pages = len(_PAGE.findall(content)) if content.startswith(b"%PDF") and b"/ObjStm" not in content else 0
        if pages:
            return Part(pages * tokens_per_page, pages * tokens_per_page, unbounded=f"{kind} (pdf)")
    return Part(most, most, unbounded=kind)


def _audio_tokens(data: str, form: Any) -> int | None:
    """Most tokens of a recording by its length; None where that can't be read."""
    opened = _opened(data)
    seconds = most_seconds(Base64(data) if opened is None else opened[0], form)
    return None if seconds is None else seconds * _AUDIO_TOKENS_PER_SECOND


def most_seconds(file: Base64, form: Any) -> int | None:
    """The most seconds that a recording lasts, "mp3" or "wav", by the length of its file; None where that can't be read."""
    if form == "mp3" and (file.head(3) == b"ID3" or file.head(1) == b"\xff"):
        bytes_a_second = _LEAST_MP3_BYTES
    elif form == "wav":
        bytes_a_second = _wav_bytes_a_second(file)
    else:
        bytes_a_second = 0
    return None if bytes_a_second < 1 else len(file) // bytes_a_second + 1


def _wav_bytes_a_second(file: Base64) -> int:
    """Of an uncompressed WAV whose first chunk is its format, as nearly all have it; else 0."""
    head = file.head(36)
    if (
        not head.startswith(b"RIFF")
        or head[8:16] != b"WAVEfmt "
        or int.from_bytes(head[20:22], "little") not in _PCM_FORMATS
    ):
        return 0
    channels, rate, bits = (int.from_bytes(head[at:to], "little") for at, to in ((22, 24), (24, 28), (34, 36)))
    return channels * rate * bits // 8
