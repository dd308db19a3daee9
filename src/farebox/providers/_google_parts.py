"""What the contents of a Gemini request put in front of a model: texts, calls of functions, pictures, recordings, files.

The API takes every field in two spellings, `inlineData` and `inline_data`, and its SDK sends both in one body.

Field names: google-genai 3.6.1, `types.py`, `Part` (read 2026-11-29).  Tokens: https://ai.google.dev/gemini-api/docs/tokens and
.../docs/media-resolution (copies, read 2026-11-29).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from farebox.providers._images import Base64, image_size
from farebox.providers._media import UNREADABLE_IMAGE, most_seconds, read_document
from farebox.providers._reading import Part, Sizes, fields, listed, text_of
from farebox.providers._vision import Picture

#: What a file counts as that can't be read or bounded: all that most Geminis read at once.
MOST_MEDIA_TOKENS: Final = 1_048_576
_AUDIO_TOKENS_PER_SECOND: Final = 32
#: A page of a PDF: 258 tokens up to Gemini 2.5, since 3 up to 1,120 and its text.
_TOKENS_PER_PAGE: Final = 2_300
_RECORDINGS: Final = {
    "audio/mp3": "mp3",
    "audio/mpeg": "mp3",
    "audio/mpga": "mp3",
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
}
_ROLES: Final = ("user", "model")
_MEDIA: Final = ("inlineData", "inline_data", "fileData", "file_data")
#: What says how a media part is to be read, and is not read itself.
_OF_MEDIA: Final = frozenset(
    ("mediaResolution media_resolution videoMetadata video_metadata mediaProcessing media_processing").split()
)


def draws(model: str) -> bool:
    """Whether a model may answer with pictures where a request names no modalities: those that draw do.

    Source: https://ai.google.dev/gemini-api/docs/image-generation, "Output types" (a copy, read 2026-11-29).
    """
    return "-image" in model


def pick(found: Mapping[str, Any], name: str) -> Any:
    """The value of a field in either spelling, that of the API first."""
    value = found.get(name)
    return found.get(_snake(name)) if value is None else value


def key_of(found: Mapping[str, Any], name: str) -> str:
    """The spelling that `found` has of a field; that of the API where it has none."""
    other = _snake(name)
    return other if name not in found and other in found else name


_spellings: dict[str, str] = {}


def _snake(name: str) -> str:
    """`maxOutputTokens` as `max_output_tokens`; only for names of ours."""
    known = _spellings.get(name)
    if known is None:
        known = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
        _spellings[name] = known
    return known


class Contents:
    """Adds up the contents of one request."""

    def __init__(self, resolution: str = "") -> None:
        """`resolution`: what the request says of all its media, such as "MEDIA_RESOLUTION_LOW"."""
        self.sizes = Sizes({})
        self.messages = 0
        self.last_bytes = 0
        self.last_role = ""
        #: By the names of `prices.ladders.FEATURES`.
        self.features: set[str] = set()
        self._resolution = resolution

    def add(self, contents: Any) -> None:
        """Count `contents`: a list of `Content`, or what the API itself refuses."""
        for content in listed(contents) or [contents]:
            found = content if type(content) is dict else fields(content)
            self.messages += 1
            if not found:
                self.last_bytes = self.sizes.add(content, as_part=False)
                continue
            self.last_role = text_of(found.get("role"))
            self.last_bytes = self.add_parts(found.get("parts"))
            if len(found) != 2 or self.last_role not in _ROLES:
                beside = {name: value for name, value in found.items() if name != "parts" and value is not None}
                if beside and (len(beside) > 1 or self.last_role not in _ROLES):
                    self.last_bytes += self.sizes.add(beside, as_part=False)

    def add_parts(self, parts: Any) -> int:
        """Count the parts of one content; returns their bytes of text."""
        size = 0
        for part in listed(parts) or ([] if parts is None else [parts]):
            text = part.get("text") if type(part) is dict and len(part) == 1 else None
            size += self.sizes.add_text(text) if type(text) is str else self._add_part(part)
        return size

    def _add_part(self, part: Any) -> int:
        found = fields(part)
        if not found:
            return self.sizes.add(part, as_part=False)
        size, rest = 0, {}
        for name, value in found.items():
            if value is None or (name in _OF_MEDIA and any(map(found.get, _MEDIA))):
                continue
            if name in _MEDIA:
                size += self._add_media(fields(value), self._resolution_of(found))
            elif name == "text" and type(value) is str:
                size += self.sizes.add_text(value)
            elif name in ("functionResponse", "function_response"):
                size += self._add_response(fields(value))
            else:
                rest[name] = value
                if name in ("thoughtSignature", "thought_signature"):
                    self.features.add("reasoning_history")
        return size + (self.sizes.add_json(rest) if rest else 0)

    def _add_response(self, response: Mapping[str, Any]) -> int:
        """What a function returned, which may hold pictures and files."""
        rest = {name: value for name, value in response.items() if name != "parts"}
        return self.sizes.add_json(rest) + self.add_parts(response.get("parts"))

    def _resolution_of(self, part: Mapping[str, Any]) -> str:
        asked = pick(part, "mediaResolution")
        level = text_of(fields(asked).get("level") or asked) or self._resolution
        return level.lower().removeprefix("media_resolution_")

    def _add_media(self, held: Mapping[str, Any], resolution: str) -> int:
        """A file, in the request or elsewhere."""
        media_type = text_of(pick(held, "mimeType")).lower()
        kind = media_type.partition("/")[0]
        self.features.add({"image": "images", "audio": "audio", "video": "video"}.get(kind, "files"))
        self.sizes.has_images = self.sizes.has_images or kind == "image"
        self.sizes.has_audio = self.sizes.has_audio or kind in ("audio", "video")
        return self._take(media_part(held.get("data"), media_type, resolution), held)

    def _take(self, part: Part, held: Mapping[str, Any]) -> int:
        sizes = self.sizes
        sizes.extra_tokens += part.tokens + 4 * len(held)
        sizes.surplus += part.most - part.tokens
        if part.picture is not None:
            sizes.add_picture(part.picture)
        if part.unbounded:
            sizes.name_unbounded(part.unbounded)
        rest = {name: value for name, value in held.items() if name != "data" and value is not None}
        return sizes.add_json(rest) + (0 if part.text is None else sizes.add(part.text))


def media_part(data: Any, media_type: str, resolution: str) -> Part:
    """A file by its base64, or without it one that lies elsewhere."""
    kind = media_type.partition("/")[0]
    # The SDK has made base64 for URLs of it.
    file = Base64(data.replace("-", "+").replace("_", "/")) if isinstance(data, str) else None
    if kind == "image":
        size = None if file is None else image_size(file)
        unbounded = "" if size is not None else "image_url" if file is None else UNREADABLE_IMAGE
        return Part(picture=Picture(size, resolution), unbounded=unbounded)
    if file is not None and kind == "audio":
        seconds = most_seconds(file, _RECORDINGS.get(media_type))
        tokens = MOST_MEDIA_TOKENS if seconds is None else seconds * _AUDIO_TOKENS_PER_SECOND
        return Part(tokens, tokens, unbounded="audio" if seconds is None else "")
    if file is not None and kind != "video":
        return read_document(file, media_type, MOST_MEDIA_TOKENS, "file", _TOKENS_PER_PAGE)
    name = f"{kind or 'file'}{'_url' if file is None else ''}"
    return Part(MOST_MEDIA_TOKENS, MOST_MEDIA_TOKENS, unbounded=name)
