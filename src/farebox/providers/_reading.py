"""What every provider needs to read a body: fields, counts, sizes of text.  Nothing here knows a vendor."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import is_
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from farebox.providers._vision import Picture

#: More tokens than any context window by a factor of five: a count above it is a fault, not a measure.
MOST_TOKENS: Final = 10_000_000
#: Counts that can be believed.  Ask only whether an int is in it: a range looks for anything else one by one.
COUNTS: Final = range(MOST_TOKENS + 1)

# Deeper nesting than any real request has; what lies below is counted by its printed size.
_DEEPEST: Final = 32

# What is told apart by its letters, and how: docs/explanation/bounds.md, measured by benchmarks/bounds.py.
_LETTERS: Final = b" \netaoinshrdlcumwfgypbvkjxqz"
_SAMPLE_BYTES: Final = 512
#: A text this short is not worth a look: it counts as dense.
_SHORT_BYTES: Final = 64
#: What is made of letters and is no language, such as DNA or keys, has few e; English has one of ten, Indonesian of fourteen.
_LETTERS_PER_E: Final = 20
#: English has an e in 10 bytes and "the" in 60 to 120.  Vietnamese without its accents has the one and not the other.
_ENGLISH_BYTES_PER_E: Final = 15
_ENGLISH_BYTES_PER_THE: Final = 128
#: Of " of " and " and " together, where "the" is rarer.
_ENGLISH_BYTES_PER_WORD: Final = 128
#: English is looked for in so many bytes in the middle of a text.
_WINDOW: Final = 1_024


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
        try:
            extra = thing.__pydantic_extra__
        except AttributeError:
            return thing.__dict__  # type: ignore[no-any-return]
        return {**thing.__dict__, **extra} if extra else thing.__dict__
    if isinstance(thing, Mapping):
        return thing
    if getattr(thing, "__dict__", None) is None or isinstance(thing, type):
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
    if type(value) is int and value in COUNTS:
        return value
    raise UnreadableUsage(f"usage.{name} is {'out of range' if type(value) is int else type(value).__name__}")


def whole_number(value: Any) -> int | None:
    """A count as a lenient server would take it: 100, 100.0 or "100"; None for anything else, and above `MOST_TOKENS`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)
    return value if type(value) is int and value in COUNTS else None


def name_of(key: Any) -> str:
    """The name of a field: in JSON a text, in a dict of Python's anything."""
    try:
        return str(key)
    except ValueError:  # a number too long to be printed, which no SDK prints either
        return ""


def text_of(value: Any) -> str:
    """A name as plain text: of an enum of strings its value; "" for what is no text."""
    return value if type(value) is str else str.__str__(value) if isinstance(value, str) else ""


def utf8_size(text: str) -> int:
    """Bytes of `text` in UTF-8; lone surrogates count as the three bytes they would take."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


# Characters that no normal form makes longer, nor any row of them.  No more than the usual scripts: a text with any other
# character is normalised to see.
_STEADY: Final = re.compile(
    "[\0-\xa7\xa9\xab-\xae\xb0\xb1\xb6\xb7\xbb\xbf-\u0131\u0134-\u013e\u0141-\u0148\u014a-\u017e\u0180-\u01c3\u0218-\u02af"
    "\u0386-\u03ce\u0400-\u0482\u048a-\u052f\u0531-\u0556\u0561-\u0586\u05d0-\u05ea\u060c-\u060f\u061b\u061f-\u0652\u0660-\u066f"
    "\u0900-\u0928\u092a-\u0930\u0932\u0933\u0935-\u0939\u093d-\u0950\u0960-\u097f\u0e01-\u0e32\u0e34-\u0e5b\u10d0-\u10fa\u1e00-\u1e99\u1ea0-\u1eff\u2010-\u2016\u2018-\u2023"
    "\u2030-\u2032\u2039-\u203b\u2190-\u222b\u2500-\u27bf\u3001-\u3029\u3041-\u3096\u309d\u309e\u30a0-\u30fe\u3400-\u9fff"
    "\uac00-\ud7a3\uff01-\uff5e\U0001f300-\U0001faff]*"
)


#: A row of combining marks is put in order in the square of its length: a longer text is looked at in pieces.
_LONGEST_NORMALISED: Final = 256
#: By how much more two pieces can grow as one: the marks of the first reach the last letter of the one before, and take the
#: longest that one Unicode character is made of apart.
_GROWTH_OF_A_SEAM: Final = 16


def growth(text: str) -> int:
    """How many bytes longer `text` can become where a tokenizer brings it into normal form (NFC or NFKC) first.

    U+FDFA alone grows from 3 bytes to 33.  Not for lone surrogates, which no server takes.
    """
    if text.isascii() or _STEADY.fullmatch(text):
        return 0
    if len(text) > _LONGEST_NORMALISED:
        pieces = range(0, len(text), _LONGEST_NORMALISED)
        return sum(growth(text[at : at + _LONGEST_NORMALISED]) + _GROWTH_OF_A_SEAM for at in pieces)
    forms = (utf8_size(unicodedata.normalize(form, text)) for form in ("NFC", "NFKC"))
    return max(0, max(forms) - utf8_size(text))


def printed_growth(text: str) -> int:
    """How many bytes longer `text` can become where a server prints it as JSON, or reads it as JSON and prints it anew."""
    separators = text.count(",") + text.count(":")
    exponents = len(_EXPONENT.findall(text))  # 1e20 may come out as 100000000000000000000
    return len(json.dumps(text)) - utf8_size(text) + separators + _LONGEST_NUMBER * exponents


_EXPONENT: Final = re.compile(r"[0-9][eE]")
#: Characters of a JSON number of double precision.
_LONGEST_NUMBER: Final = 24
#: What servers indent by, if they do: the templates of Llama 3.1 print tools so
#: (https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct, tokenizer_config.json, read 2026-11-22).
_INDENT: Final = 4


class Part(NamedTuple):
    """What one part of a message that is no text puts in front of a model.

    `tokens` is an estimate that errs upwards, `most` what it can be at most; `picture` and `text` come on top of it.
    `text` is a text, or a list of content, that the model reads as such.  `unbounded` names what nobody can bound from the
    request; then `most` is only the most that such a thing is known to take.
    """

    tokens: int = 0
    most: int = 0
    picture: Picture | None = None
    text: Any = None
    unbounded: str = ""


def weigh(text: str) -> tuple[int, int, int, int]:
    """Bytes of a text, how many of them count as dense and as English, and by how many a server may make it longer."""
    if not text.isascii():
        size = utf8_size(text)
        return size, size, 0, growth(text)
    size = len(text)
    if size >= _SHORT_BYTES:
        sample = text[:: size // _SAMPLE_BYTES + 1].encode()
        looked_at, signs = len(sample), len(sample.translate(None, _LETTERS))
        if signs * 3 < looked_at:
            es = sample.count(b"e")
            if es * _LETTERS_PER_E >= looked_at - sample.count(b" "):
                if signs * 5 >= looked_at:
                    return size, 0, 0, 0
                window = min(size, _WINDOW)
                start = (size - window) // 2
                end = start + window
                if (
                    es * _ENGLISH_BYTES_PER_E >= looked_at
                    and text.count("the", start, end) * _ENGLISH_BYTES_PER_THE >= window
                ):
                    return size, 0, size, 0
                if signs * 8 < looked_at:  # no code
                    words = text.count(" of ", start, end) + text.count(" and ", start, end)
                    if words * _ENGLISH_BYTES_PER_WORD < window:
                        return size, size // 3, 0, 0  # another tongue: a half and a sixth
                return size, 0, 0, 0
    return size, size, 0, 0


AnySet = frozenset[str] | set[str]


def _with(known: AnySet, name: str) -> set[str]:
    """A set and one more; no copy each time, as a body may hold any number of them."""
    if isinstance(known, frozenset):
        return {*known, name}
    known.add(name)
    return known


class Sizes:
    """Adds up what a model will read: bytes of text, how much of it is dense or English, and tokens that no text accounts for.

    Two figures come of it.  The estimate takes a token for every dense byte, for every three of English, for every two of
    anything else, and `extra_tokens`.  The bound that no vocabulary passes takes every byte, `extra_tokens`, and `surplus`:
    the bytes by which a server may make the text longer before its model reads it.
    """

    # Class attributes: most requests are plain text and pay for four of these.
    text_bytes = 0
    dense_bytes = 0
    english_bytes = 0
    extra_tokens = 0
    surplus = 0
    has_audio = False
    has_images = False
    #: Lifetimes of the prompt caches that parts ask to be written to, "" for the provider's usual one.
    cache_lifetimes: AnySet = frozenset()
    #: The "type" of every part that is no plain text.
    kinds: AnySet = frozenset()
    pictures: Sequence[Picture] = ()
    #: Names of what nobody can bound.
    unbounded: tuple[str, ...] = ()
    #: Looks closer at a media part of a type, which takes at most so many tokens; without it each counts with its most.
    read_part: Callable[[str, Mapping[str, Any], int], Part] | None = None

    def __init__(self, media_tokens: Mapping[str, int]) -> None:
        """`media_tokens`: the most tokens that a content part of each media type takes."""
        self.media_tokens = media_tokens

    def add_text(self, text: str) -> int:
        """Count a text; returns its bytes."""
        size, dense, english, surplus = weigh(text)
        self.text_bytes += size
        if dense:
            self.dense_bytes += dense
        if english:
            self.english_bytes += english
        if surplus:
            self.surplus += surplus
        return size

    def add_joined(self, pieces: Iterable[str]) -> None:
        """Count a text that came in pieces."""
        self.add_text("".join(pieces))

    def received_tokens(self) -> int:
        """Tokens that a text which came out of a model took, estimated upwards."""
        return (self.text_bytes + self.dense_bytes + 1) // 2 + self.extra_tokens

    def proven_tokens(self) -> int:
        """Most tokens of all that was added, whatever the vocabulary; pictures are not among them."""
        return self.text_bytes + self.extra_tokens + self.surplus

    def add_cache_control(self, control: Any) -> None:
        """Take note of a part that asks to be written to a prompt cache."""
        self.cache_lifetimes = _with(self.cache_lifetimes, text_of(fields(control).get("ttl")))

    def name_unbounded(self, name: str) -> None:
        """Take note of something that nobody can bound."""
        if name not in self.unbounded and len(self.unbounded) < _MOST_NAMES:
            self.unbounded = (*self.unbounded, name[:_LONGEST_NAME])

    def add_picture(self, picture: Picture) -> None:
        """Take note of a picture, whose tokens depend on the model."""
        if isinstance(self.pictures, list):
            self.pictures.append(picture)
        else:
            self.pictures = [picture]

    def add_json(self, value: Any) -> int:
        """Count a structure that the provider serialises in its own way; returns the bytes counted.

        Half as much again as its compact form, since an indented one is longer.
        """
        try:
            printed = json.dumps(value, default=_plain)
            longest = _longest_form(printed, value)
        except (TypeError, ValueError, RecursionError):
            return self.add(value, as_part=False, is_printed=True)
        size = len(printed) * 3 // 2
        self.text_bytes += size
        self.dense_bytes += size
        self.surplus += max(0, longest - size)
        return size

    def add(self, value: Any, *, as_part: bool = True, is_printed: bool = False, depth: int = 0) -> int:
        """Count whatever a message may hold; returns the bytes of text counted.

        `as_part`: `value` is content, where a mapping may be an image or a file.  Elsewhere, as in the arguments of a tool,
        it is JSON of somebody's own, whatever its "type" says.  `is_printed`: the server may print it as JSON.
        """
        if isinstance(value, str):
            text = text_of(value)
            if is_printed:
                self.surplus += printed_growth(text)
            return self.add_text(text)
        if value is None or isinstance(value, (bool, float)):
            self.extra_tokens += _LONGEST_NUMBER if isinstance(value, float) else 4
            self.surplus += 1
            return 0
        if isinstance(value, int):
            self.extra_tokens += 8 + value.bit_length() // 3
            return 0
        if depth > _DEEPEST:
            self.extra_tokens += MOST_TOKENS // 10  # no SDK prints such a thing, and no model reads it
            return 0
        if isinstance(value, (list, tuple)):
            self.surplus += len(value) * (4 + _INDENT * depth) if is_printed else 0
            return sum(self.add(item, as_part=as_part, is_printed=is_printed, depth=depth + 1) for item in value)
        found = fields(value)
        if not found:
            return self.add_text(str(value))
        for name in _CACHE_MARKS:
            if found.get(name) is not None:
                self.add_cache_control(found[name])
        kind = found.get("type")
        if as_part and isinstance(kind, str):
            self.kinds = _with(self.kinds, kind)
            if kind in self.media_tokens:
                return self._add_media(kind, found, depth)
            is_printed = is_printed or kind in _RESULTS
        elif as_part:
            is_printed = is_printed or text_of(found.get("role")) in _RESULT_ROLES
        self.extra_tokens += 4 * len(found)
        self.surplus += (8 + _INDENT * depth) * len(found)
        is_model, is_printed = not isinstance(value, Mapping), is_printed or not as_part
        return sum(
            self.add(name_of(key), is_printed=is_printed)
            + self.add(
                item,
                as_part=key == "content",
                is_printed=is_printed or key not in _READ_AS_IS,
                depth=depth + 1,
            )
            for key, item in found.items()
            if not (is_model and key.startswith("_"))
        )

    def _add_media(self, kind: str, found: Mapping[str, Any], depth: int) -> int:
        most = self.media_tokens[kind]
        part = Part(most, most) if self.read_part is None else self.read_part(kind, found, most)
        self.extra_tokens += part.tokens + 4 * len(found)
        self.surplus += part.most - part.tokens
        self.has_audio = self.has_audio or "audio" in kind
        self.has_images = self.has_images or "image" in kind
        if part.picture is not None:
            self.add_picture(part.picture)
        if part.unbounded:
            self.name_unbounded(part.unbounded)
        size = 0 if part.text is None else self.add(part.text, depth=depth + 1)
        for key in found.keys() - _OF_MEDIA:
            if found[key] is not None:
                size += self.add(found[key], as_part=False, is_printed=True, depth=depth + 1)
        if fields(found.get("citations")).get("enabled"):
            self._add_citations(part.text)
        return size

    def _add_citations(self, content: Any) -> None:
        """A document that is to be cited is cut into sentences, each with a mark around it."""
        self.kinds = _with(self.kinds, "citations")
        text = content if isinstance(content, str) else ""
        self.surplus += _TOKENS_TO_CITE + _TOKENS_PER_SENTENCE * sum(map(text.count, ".!?\n。"))


#: What parts and messages hold that is put in front of the model as it is; anything else may be printed as JSON.
_READ_AS_IS: Final = frozenset(("content", "text"))
_RESULTS: Final = frozenset(("tool_result", "mcp_tool_result", "search_result"))
_RESULT_ROLES: Final = frozenset(("tool", "function"))
#: What holds a media part's file or says how it is to be read; anything else in it, such as its title, is text.
_OF_MEDIA: Final = frozenset(
    ("cache_control citations data detail file file_data file_id file_url id image_url input_audio prompt_cache_breakpoint "
     "result source status type url").split()
)  # fmt: skip
#: Names of what nobody can bound that are told: some come from the request, which may make up any number of them.
_MOST_NAMES: Final = 32
_LONGEST_NAME: Final = 100
_CACHE_MARKS: Final = ("cache_control", "prompt_cache_breakpoint")
_TOKENS_TO_CITE: Final = 1_024
_TOKENS_PER_SENTENCE: Final = 16


_LEAVES: Final = frozenset((str, int, float, bool, type(None)))
# Of what was printed before, by length and hash: a program sends the same tools again and again.
_longest_forms: dict[tuple[int, int], int] = {}
_MOST_FORMS: Final = 1_024


def _longest_form(printed: str, value: Any) -> int:
    """Bytes of `value`, which `json.dumps` printed, in the longest form in which a server may print it: indented."""
    key = len(printed), hash(printed)
    longest = _longest_forms.get(key)
    if longest is None:
        if len(_longest_forms) >= _MOST_FORMS:
            _longest_forms.clear()
        lines = printed.count(",") + 2 * (printed.count("{") + printed.count("[")) + 1
        exponents = printed.count("e+") + printed.count("e-")
        longest = len(printed) + lines * (1 + _INDENT * _depth(value)) + _LONGEST_NUMBER * exponents
        if "\\u" in printed:
            longest += growth(json.dumps(value, default=_plain, ensure_ascii=False))
        _longest_forms[key] = longest
    return longest


def _depth(value: Any) -> int:
    if isinstance(value, (list, tuple)):
        inner: Iterable[Any] = value
    elif isinstance(value, (str, int, float)):
        return 0
    else:
        plain = value if type(value) is dict else _plain(value)
        if isinstance(plain, str):
            return 0
        inner = plain.values()
    return 1 + max((_depth(item) for item in inner if type(item) not in _LEAVES), default=0)


def _plain(value: Any) -> Any:
    """For `json.dumps`: a model's fields, a class's name and schema, or whatever it prints."""
    schema = getattr(value, "model_json_schema", None)
    if schema is not None and isinstance(value, type):
        try:
            return schema()
        except Exception:  # a class that has no schema: pydantic has its own errors for that
            return str(value)
    found = fields(value)
    return dict(found) if found else str(value)


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


class NoStream:
    """The reader of what does not stream."""

    def see(self, chunk: Any) -> bool:
        return False

    def finish(self) -> None:
        pass

    def abandon(self, chunks: list[Any]) -> None:
        pass
