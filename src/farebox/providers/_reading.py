"""What every provider needs to read a body: fields, counts, sizes of text.  Nothing here knows a vendor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

#: More tokens than any context window by a factor of five: a count above it is a fault, not a measure.
MOST_TOKENS: Final = 10_000_000

# Deeper nesting than any real request has; what lies below is counted by its printed size.
_DEEPEST: Final = 32

_PROSE: Final = b" \netaoinshrdlcumwfgypbvkjxqz"
_PROSE_SAMPLE_BYTES: Final = 512


class UnreadableUsage(ValueError):
    """A usage report that cannot be believed; the message names the field and the type found, never its value."""


def fields(thing: Any) -> Mapping[str, Any]:
    """The fields of a JSON object or of an SDK's model; {} for anything else."""
    if type(thing) is dict:
        return thing
    if isinstance(thing, Mapping):
        return thing
    return getattr(thing, "__dict__", None) or {}


def count(usage: Mapping[str, Any], name: str, *, required: bool = False) -> int:
    """A token count of `usage`; absent or null is 0 unless required.

    Raises:
        UnreadableUsage: it is required and absent, or no whole number from 0 to `MOST_TOKENS`.
    """
    value = usage.get(name)
    if value is None and not required:
        return 0
    if type(value) is int and 0 <= value <= MOST_TOKENS:
        return value
    raise UnreadableUsage(f"usage.{name} is {'out of range' if type(value) is int else type(value).__name__}")


def whole_number(value: Any) -> int | None:
    """A count as a lenient server would take it: 100, 100.0 or "100"; None for anything else."""
    if type(value) is int:
        return value if value >= 0 else None
    if isinstance(value, float) and value.is_integer() and value >= 0:
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        return int(value)
    return None


def utf8_size(text: str) -> int:
    """Bytes of `text` in UTF-8; lone surrogates count as the three bytes they would take."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def is_prose(text: str) -> bool:
    """Whether a sample of `text` is mostly lower-case letters and spaces, as prose and code are.

    Such text has at least two bytes a token in every vocabulary measured; base64, digits, dense JSON and scripts
    beyond ASCII may have one.
    """
    if not text.isascii():
        return False
    sample = text[:: len(text) // _PROSE_SAMPLE_BYTES + 1].encode()
    return len(sample.translate(None, _PROSE)) * 3 < len(sample)


class Sizes:
    """Adds up what a model will read: bytes of text, how much of it is dense, and tokens that no text accounts for."""

    __slots__ = (
        "cache_lifetimes",
        "dense_bytes",
        "extra_tokens",
        "has_audio",
        "has_images",
        "media_tokens",
        "text_bytes",
    )

    def __init__(self, media_tokens: Mapping[str, int]) -> None:
        """`media_tokens`: the most tokens that a content part of each media type takes."""
        self.media_tokens = media_tokens
        self.text_bytes = 0
        self.dense_bytes = 0
        self.extra_tokens = 0
        self.has_audio = False
        self.has_images = False
        #: Lifetimes of the prompt caches that parts ask to be written to, "" for the provider's usual one.
        self.cache_lifetimes: set[str] = set()

    def add_text(self, text: str) -> int:
        """Count a text; returns its bytes."""
        size = utf8_size(text)
        self.text_bytes += size
        if not is_prose(text):
            self.dense_bytes += size
        return size

    def add_cache_control(self, control: Any) -> None:
        """Take note of a part that asks to be written to a prompt cache."""
        self.cache_lifetimes.add(str(fields(control).get("ttl") or ""))

    def add_json(self, value: Any) -> int:
        """Count a structure that the provider serialises in its own way; returns the bytes counted.

        Half as much again as its compact form, since an indented one is longer.
        """
        try:
            size = len(json.dumps(value, default=_plain)) * 3 // 2
        except (TypeError, ValueError, RecursionError):
            size = len(str(value)) * 2
        self.text_bytes += size
        self.dense_bytes += size
        return size

    def add(self, value: Any, depth: int = 0) -> int:
        """Count whatever a message may hold; returns the bytes counted."""
        if type(value) is str:
            return self.add_text(value)
        if value is None or isinstance(value, (bool, int, float)):
            self.extra_tokens += 8
            return 0
        if depth > _DEEPEST:
            return self.add_text(str(value))
        if isinstance(value, str):
            return self.add_text(str(value))
        if isinstance(value, (list, tuple)):
            return sum(self.add(item, depth + 1) for item in value)
        found = fields(value)
        if found:
            kind = found.get("type")
            if isinstance(kind, str) and kind in self.media_tokens:
                self.extra_tokens += self.media_tokens[kind]
                self.has_audio = self.has_audio or "audio" in kind
                self.has_images = self.has_images or "image" in kind
                return 0
            if found.get("cache_control") is not None:
                self.add_cache_control(found["cache_control"])
            self.extra_tokens += 4 * len(found)
            return sum(
                self.add_text(str(key)) + self.add(item, depth + 1)
                for key, item in found.items()
                if not str(key).startswith("_")
            )
        return self.add_text(str(value))


def _plain(value: Any) -> Any:
    """For `json.dumps`: a model's fields, a class's name and schema, or whatever it prints."""
    schema = getattr(value, "model_json_schema", None)
    if schema is not None and isinstance(value, type):
        return schema()
    found = fields(value)
    return dict(found) if found and not isinstance(value, type) else str(value)


def listed(value: Any) -> list[Any] | None:
    """`value` as a list if it is one, or any other iterable of messages; None for a text, a mapping or no iterable."""
    if type(value) is list:
        return value
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        return None
    return list(value)
