"""What every provider needs to read a body: fields, counts, sizes of text.  Nothing here knows a vendor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from operator import is_
from typing import Any, Final

#: More tokens than any context window by a factor of five: a count above it is a fault, not a measure.
MOST_TOKENS: Final = 10_000_000

# Deeper nesting than any real request has; what lies below is counted by its printed size.
_DEEPEST: Final = 32

_PROSE: Final = b" \netaoinshrdlcumwfgypbvkjxqz"
_PROSE_SAMPLE_BYTES: Final = 512
#: A text this short is not worth a look: it counts as dense.
_SHORT_BYTES: Final = 64


# Classes whose instances are no mappings and have a `__dict__`: asking an abstract class each time costs a microsecond.
_models: set[type] = set()
_MOST_MODELS: Final = 1_024


class UnreadableUsage(ValueError):
    """A usage report that cannot be believed; the message names the field and the type found, never its value."""


def fields(thing: Any) -> Mapping[str, Any]:
    """The fields of a JSON object or of an SDK's model, those its SDK does not know yet too; {} for anything else."""
    cls = type(thing)
    if cls is dict:
        return thing  # type: ignore[no-any-return]
    if cls in _models:
        extra = getattr(thing, "__pydantic_extra__", None)
        return {**thing.__dict__, **extra} if extra else thing.__dict__
    if isinstance(thing, Mapping):
        return thing
    if getattr(thing, "__dict__", None) is None:
        return {}
    if len(_models) < _MOST_MODELS:
        _models.add(cls)
        return fields(thing)
    return thing.__dict__  # type: ignore[no-any-return]


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
    """A count as a lenient server would take it: 100, 100.0 or "100"; None for anything else, and above `MOST_TOKENS`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


def text_of(value: Any) -> str:
    """A name as plain text: of an enum of strings its value; "" for what is no text."""
    return value if type(value) is str else str.__str__(value) if isinstance(value, str) else ""


def utf8_size(text: str) -> int:
    """Bytes of `text` in UTF-8; lone surrogates count as the three bytes they would take."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def is_prose(text: str) -> bool:
    """Whether a sample of `text` is mostly lower-case letters and spaces, as prose and code are.

    Such text has at least two bytes a token in every vocabulary measured; base64, digits, dense JSON and scripts
    beyond ASCII may have one.
    """
    if len(text) < _SHORT_BYTES or not text.isascii():
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
        if size < _SHORT_BYTES or not is_prose(text):
            self.dense_bytes += size
        return size

    def add_joined(self, pieces: Iterable[str]) -> None:
        """Count a text that came in pieces."""
        self.add_text("".join(pieces))

    def received_tokens(self) -> int:
        """Tokens that a text which came out of a model took, estimated upwards."""
        return (self.text_bytes + self.dense_bytes + 1) // 2 + self.extra_tokens

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
            return self.add(value, as_part=False)
        self.text_bytes += size
        self.dense_bytes += size
        return size

    def add(self, value: Any, *, as_part: bool = True, depth: int = 0) -> int:
        """Count whatever a message may hold; returns the bytes of text counted.

        `as_part`: `value` is content, where a mapping may be an image or a file.  Elsewhere, as in the arguments of a tool,
        it is JSON of somebody's own, whatever its "type" says.
        """
        if isinstance(value, str):
            return self.add_text(text_of(value))
        if value is None or isinstance(value, (bool, float)):
            self.extra_tokens += 24 if isinstance(value, float) else 4
            return 0
        if isinstance(value, int):
            self.extra_tokens += 8 + value.bit_length() // 3
            return 0
        if depth > _DEEPEST:
            self.extra_tokens += MOST_TOKENS // 10  # no SDK prints such a thing, and no model reads it
            return 0
        if isinstance(value, (list, tuple)):
            return sum(self.add(item, as_part=as_part, depth=depth + 1) for item in value)
        found = fields(value)
        if not found:
            return self.add_text(str(value))
        if found.get("cache_control") is not None:
            self.add_cache_control(found["cache_control"])
        kind = found.get("type")
        if as_part and isinstance(kind, str) and kind in self.media_tokens:
            return self._add_media(kind, found, depth)
        self.extra_tokens += 4 * len(found)
        is_model = not isinstance(value, Mapping)
        return sum(
            self.add_text(str(key)) + self.add(item, as_part=key == "content", depth=depth + 1)
            for key, item in found.items()
            if not (is_model and key.startswith("_"))
        )

    def _add_media(self, kind: str, found: Mapping[str, Any], depth: int) -> int:
        self.extra_tokens += self.media_tokens[kind]
        self.has_audio = self.has_audio or "audio" in kind
        self.has_images = self.has_images or "image" in kind
        source = fields(found.get("source"))
        # Encoded bytes are no text; a document may be text itself, of any length.
        return 0 if source.get("type") not in ("text", "content") else self.add(dict(source), depth=depth + 1)


def _plain(value: Any) -> Any:
    """For `json.dumps`: a model's fields, a class's name and schema, or whatever it prints."""
    schema = getattr(value, "model_json_schema", None)
    if schema is not None and isinstance(value, type):
        return schema()
    found = fields(value)
    return dict(found) if found and not isinstance(value, type) else str(value)


def texts(value: Any, depth: int = 0) -> Iterator[str]:
    """Every text in a structure, but for its keys."""
    if isinstance(value, str):
        yield value
    elif depth < _DEEPEST:
        inner = value if isinstance(value, (list, tuple)) else fields(value).values()
        for item in inner:
            yield from texts(item, depth + 1)


def listed(value: Any) -> list[Any] | None:
    """`value` as a list if it is one, or any other iterable of messages; None for a text, a mapping or no iterable."""
    if type(value) is list:
        return value
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        return None
    return list(value)


def without_iterators(value: Any, depth: int = 0) -> Any:
    """`value` with each iterator in it made a list: it can be read once, and both we and the SDK must.

    The very same object where there is none, else a copy; what it holds is never changed.
    """
    if isinstance(value, (str, int, float, type(None))) or depth > _DEEPEST:
        return value
    if isinstance(value, Iterator):
        return [without_iterators(item, depth + 1) for item in value]
    if isinstance(value, (list, tuple)):
        items = [without_iterators(item, depth + 1) for item in value]
        return value if all(map(is_, items, value)) else items
    if type(value) is dict:
        named = {name: without_iterators(item, depth + 1) for name, item in value.items()}
        return value if all(map(is_, named.values(), value.values())) else named
    return value
