"""The contract of a format: each reads a request, answers it, and streams it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import attrs

from farebox.testing._fake.prices import Charge, Vendor

IMAGE_TOKENS = 765  # any image, sound or file counts as one 1024 x 1024 image of gpt-4o; say input_tokens= for more
MESSAGE_TOKENS = 3  # what a chat template adds to every message, and once more before the answer

Count = Callable[[str], int]

_MEDIA = frozenset("image image_url input_audio file document input_image input_file computer_screenshot".split())


class Fault(Exception):
    """An answer with an error status."""

    def __init__(
        self,
        status: int,
        message: str,
        type: str | None = None,
        *,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code


@attrs.frozen(kw_only=True)
class Ask:
    """What a request asks for, in any format."""

    model: str
    stream: bool
    cap: int | None  # output tokens per choice
    choices: int  # that are generated and charged; 0: no text comes out
    wants_usage: bool  # a stream whose usage is to be told
    input_tokens: int
    shown: int | None = None  # choices that are answered; None: all
    most_searches: int = 0  # on the web
    most_file_searches: int = 0
    most_pictures: int = 0  # that a tool may draw
    draws: str = ""  # what draws them
    container: str = ""  # the memory of a container for code; "": none is made
    image_tokens: int = 0  # parts of the input
    audio_tokens: int = 0
    charges: tuple[Charge, ...] = ()
    form: str = ""  # of the answer, in a format of its own
    makes: int | None = None  # tokens of a choice, where the answer does not say
    partials: int = 0  # pictures shown before they are finished
    base64: bool = False  # embeddings as bytes
    is_classic: bool = False  # embeddings in the older format of Vertex AI
    inputs: int = 1  # texts to embed
    is_stored: bool = False  # the answer is kept and can be asked after, or gone on from
    background: bool = False
    previous_id: str = ""  # the answer it goes on from
    conversation_id: str = ""
    looks_at: str = ""  # the answer it asks after; nothing is generated or charged
    cancels: bool = False  # and has stopped


@attrs.frozen(kw_only=True)
class OtherWork:
    """What another model did for an answer of Claude's, and is charged at its own price.

    `kind` is that of an entry of `usage.iterations`: "advisor_message", or "message" of a model that declined before a
    fallback answered.
    """

    model: str
    input_tokens: int
    output_tokens: int
    kind: Literal["advisor_message", "message"] = "advisor_message"


@attrs.frozen
class Piece:
    """One chunk of the visible text of a choice."""

    text: str
    tokens: int


@attrs.frozen(kw_only=True)
class Reply:
    """What the model says. Token counts are totals over all choices; text and pieces are those of one choice."""

    response_id: str
    created: int
    model: str
    text: str
    pieces: tuple[Piece, ...]
    choices: int
    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cut: bool
    shown: int
    file_searches: int = 0
    pictures: int = 0
    runs_code: bool = False
    image_tokens: int = 0
    audio_tokens: int = 0
    charges: tuple[Charge, ...] = ()
    failed: bool = False
    function: str  # the text are the arguments of a call of it; "": the text is text
    searches: int
    others: tuple[OtherWork, ...] = ()


@attrs.frozen
class Event:
    """One server-sent event; `tokens` of the answer were generated with it."""

    payload: dict[str, Any] | str
    name: str | None = None
    tokens: int = 0
    is_content: bool = False

    def encode(self) -> bytes:
        data = self.payload if isinstance(self.payload, str) else json.dumps(self.payload, separators=(",", ":"))
        head = "" if self.name is None else f"event: {self.name}\n"
        return f"{head}data: {data}\n\n".encode()


class Dialect(Protocol):
    """A format. Every method is pure."""

    vendor: Vendor
    request_id_header: str
    free_paths: tuple[str, ...]  # not charged; they answer the number of input tokens

    def serves(self, method: str, path: str) -> bool: ...

    def response_id(self, number: int) -> str: ...

    def malformed(self, detail: str) -> Fault: ...

    def unknown_model(self, model: str) -> Fault: ...

    def unknown_path(self, method: str, path: str) -> Fault: ...

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        """What the request asks for. Raises Fault for what the real API refuses."""

    def counted(self, input_tokens: int) -> dict[str, Any]:
        """The answer of a free path."""

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any] | str | bytes: ...

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]: ...

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]: ...

    def error(self, fault: Fault, request_id: str) -> dict[str, Any]: ...

    def error_event(self, fault: Fault, request_id: str) -> Event: ...


def count_content(content: Any, count: Count) -> int:
    """Tokens of a message's content: a string or a list of parts, in either format."""
    if content is None:
        return 0
    if isinstance(content, str):
        return count(content)
    if isinstance(content, list):
        return sum(_count_part(part, count) for part in content)
    return count_json(content, count)


def _count_part(part: Any, count: Count) -> int:
    if not isinstance(part, dict):
        return count_json(part, count)
    if isinstance(part.get("text"), str):
        return count(part["text"])
    if part.get("type") == "tool_result":
        return count_content(part.get("content"), count)
    if part.get("type") in _MEDIA:
        return IMAGE_TOKENS
    return count_json(part, count)


def count_json(value: Any, count: Count) -> int:
    return count(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
