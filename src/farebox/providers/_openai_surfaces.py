"""OpenAI's endpoints beside chat completions, by the end of their path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from farebox._call import Call
from farebox.providers import (
    StreamReader,
    _openai_audio,
    _openai_batches,
    _openai_completions,
    _openai_decisions,
    _openai_embeddings,
    _openai_images,
    _openai_responses,
    _openai_runs,
    _openai_videos,
)


class Surface(Protocol):
    """One endpoint: the methods of a `Provider`, but that `read_request` is told its name and not a path."""

    def read_request(self, provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None: ...

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]: ...

    def read_answer(self, call: Call, answer: Any) -> None: ...

    def stream_reader(self, call: Call) -> StreamReader: ...


_IMAGES: Final = (_openai_images.GENERATIONS, _openai_images.EDITS, _openai_images.VARIATIONS)
_VIDEOS: Final = (
    _openai_videos.VIDEOS,
    _openai_videos.REMIX,
    _openai_videos.VIDEO_EDITS,
    _openai_videos.EXTENSIONS,
)

SURFACES: Final[dict[str, Surface]] = {
    _openai_responses.PATH: _openai_responses.SURFACE,
    _openai_responses.COMPACT: _openai_responses.Compact(),
    _openai_completions.PATH: _openai_completions.Completions(),
    _openai_embeddings.PATH: _openai_embeddings.Embeddings(),
    _openai_decisions.PATH: _openai_decisions.Decisions(),
    **{path: _openai_images.Images(path) for path in _IMAGES},
    _openai_audio.SPEECH: _openai_audio.Speech(),
    _openai_audio.TRANSCRIPTIONS: _openai_audio.Transcriptions(_openai_audio.TRANSCRIPTIONS),
    _openai_audio.TRANSLATIONS: _openai_audio.Transcriptions(_openai_audio.TRANSLATIONS),
    **{path: _openai_videos.Videos(path) for path in _VIDEOS},
    _openai_videos.CONTAINERS: _openai_videos.Containers(),
    _openai_batches.PATH: _openai_batches.SURFACE,
    _openai_runs.PATH: _openai_runs.SURFACE,
}


def surface_of(path: str) -> Surface | None:
    """The endpoint that a path is of, by its last part or its last two; None for one that is not here."""
    last = path.rfind("/")
    found = SURFACES.get(path[last:]) or SURFACES.get(path[path.rfind("/", 0, last) :])
    return _openai_runs.SURFACE if found is None and _openai_runs.is_run(path) else found
