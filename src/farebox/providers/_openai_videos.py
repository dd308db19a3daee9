"""OpenAI's wire format: videos, and containers of one's own.

A video is charged as it was asked for when it is made, and settled when it is found completed or failed.
Field names: openai 3.54.0, `types/video_create_params.py`, `types/video.py`, `types/container_create_params.py` (read
2026-11-29).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers._openai_usage import read_head
from farebox.providers._reading import NoStream, fields, text_of, whole_number

VIDEOS: Final = "/videos"
REMIX: Final = "/remix"
VIDEO_EDITS: Final = "/videos/edits"
EXTENSIONS: Final = "/videos/extensions"
CONTAINERS: Final = "/containers"

_USUAL_MODEL: Final = "sora-2"
#: Of a video that is made of another one: nobody here knows its model, so it is held as the dearest, at its longest.
_DEAREST_MODEL: Final = "sora-2-pro"
_USUAL_SIZE: Final = "720x1280"
_USUAL_SECONDS: Final = 4
_MOST_SECONDS: Final = 20
_EARLIER: Final = re.compile(r"/videos/(video_[^/]+)$")
_UNFINISHED: Final = ("queued", "in_progress")

_CONTAINER_MINUTES: Final = 20
_GIGABYTES: Final = {"1g": 1, "4g": 4, "16g": 16, "64g": 64}


def earlier_video(path: str, method: str) -> str:
    """The id of the video that a request asks after, "" for any other request."""
    found = _EARLIER.search(path)
    return found[1] if found is not None and method.upper() == "GET" else ""


class Videos:
    """`POST /videos`, and the ways to make one of another."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read_request(self, provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        if body.get("prompt") is None:
            return None
        is_new = self._path == VIDEOS
        model = text_of(body.get("model")) or (_USUAL_MODEL if is_new else _DEAREST_MODEL)
        call = Call(
            provider_name=provider_name,
            operation_name="video_generation",
            endpoint=self._path,
            server_address=server_address,
            request_model=model,
        )
        seconds = whole_number(body.get("seconds")) or (_USUAL_SECONDS if is_new else _MOST_SECONDS)
        call.tier = text_of(body.get("size")) or (_USUAL_SIZE if is_new else "")
        call.most_units = {"video_milliseconds": seconds * 1_000}
        call.choices, call.accepts_cap, call.messages = 0, False, 1
        return call

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def read_answer(self, call: Call, answer: Any) -> None:
        found = fields(answer)
        read_head(call, found)
        status = found.get("status")
        call.is_pending = status in _UNFINISHED and bool(call.response_id)
        if status == "failed":
            call.usage = Usage()
        elif status == "completed":
            if call.endpoint != VIDEOS:  # the model asked for was a guess of ours
                call.request_model = call.response_model or call.request_model
            most = call.most_units["video_milliseconds"]
            seconds = whole_number(found.get("seconds"))
            call.served_tier = text_of(found.get("size")) or call.tier
            # An extension says how long it has become, with what was there before.
            call.usage = Usage(video_milliseconds=most if seconds is None else min(seconds * 1_000, most))

    def stream_reader(self, call: Call) -> NoStream:
        return NoStream()


class Containers:
    """`POST /containers`: paid for at least twenty minutes, by its memory."""

    def read_request(self, provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        if body.get("name") is None:
            return None
        call = Call(
            provider_name=provider_name,
            operation_name="container",
            endpoint=CONTAINERS,
            server_address=server_address,
            request_model="container",
        )
        gigabytes = _GIGABYTES.get(text_of(body.get("memory_limit")) or "1g", max(_GIGABYTES.values()))
        call.most_units = {"container_gigabyte_minutes": gigabytes * _CONTAINER_MINUTES}
        call.choices, call.accepts_cap = 0, False
        return call

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def read_answer(self, call: Call, answer: Any) -> None:
        read_head(call, fields(answer))
        if call.response_id:
            call.usage = Usage(**call.most_units)

    def stream_reader(self, call: Call) -> NoStream:
        return NoStream()
