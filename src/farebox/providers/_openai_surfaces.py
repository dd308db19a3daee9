"""OpenAI's endpoints beside chat completions, by the end of their path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from farebox._call import Call
from farebox.providers import StreamReader, _openai_completions, _openai_embeddings, _openai_responses


class Surface(Protocol):
    """One endpoint: the methods of a `Provider`, but that `read_request` is told its name and not a path."""

    def read_request(self, provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None: ...

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]: ...

    def read_answer(self, call: Call, answer: Any) -> None: ...

    def stream_reader(self, call: Call) -> StreamReader: ...


SURFACES: Final[dict[str, Surface]] = {
    _openai_responses.PATH: _openai_responses.SURFACE,
    _openai_responses.COMPACT: _openai_responses.Compact(),
    _openai_completions.PATH: _openai_completions.Completions(),
    _openai_embeddings.PATH: _openai_embeddings.Embeddings(),
}
