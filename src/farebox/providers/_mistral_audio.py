"""Mistral's wire format: sound written down, paid by its length.

Field names: mistralai 3.7.0, `client/models/audiotranscriptionrequest.py`, `transcriptionstreamdone.py` (read 2026-11-30).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Part, Usage
from farebox.providers._audio_length import most_milliseconds
from farebox.providers._mistral_chat import chunk_of
from farebox.providers._openai_usage import read_head
from farebox.providers._reading import Sizes, UnreadableUsage, count, fields, text_of
from farebox.providers._uploads import uploads_of

TRANSCRIPTIONS: Final = "/audio/transcriptions"
#: The longest recording that is taken, three hours, and the largest file (https://docs.mistral.ai/capabilities/audio, not
#: verified).
_LONGEST: Final = 3 * 3_600_000
_MOST_BYTES: Final = 2**30
#: Of a model that is paid by tokens too: as in a chat, and not verified.
_TOKENS_PER_SECOND: Final = 16
_WRITTEN_PER_SECOND: Final = 10
_LEAST_WRITTEN: Final = 2_000


def read_transcription_request(provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None:
    """The call that a recording makes; None for a malformed request."""
    model, files = text_of(body.get("model")), uploads_of(body.get("file"))
    if not model or not (files or body.get("file_url") or body.get("file_id")):
        return None
    call = Call(provider_name, "transcription", TRANSCRIPTIONS, model, server_address)
    call.choices, call.accepts_cap, call.has_audio, call.messages = 0, False, True, 1
    call.is_stream = body.get("stream") in (True, "true")
    milliseconds, is_told = most_milliseconds(files[0], _MOST_BYTES) if files else (_LONGEST, False)
    sizes = Sizes({})
    for name in ("context_bias", "language"):
        sizes.add(body.get(name))
    call.text_bytes, call.dense_bytes = sizes.text_bytes, sizes.dense_bytes
    call.extra_input_tokens, call.proven_input_tokens = sizes.extra_tokens, sizes.proven_tokens()
    call.unbounded = () if is_told else ("file",)
    call.most_units = {"input_audio_milliseconds": milliseconds}
    seconds = -(-milliseconds // 1_000)
    call.parts = (Part("", seconds * _TOKENS_PER_SECOND, _LEAST_WRITTEN + seconds * _WRITTEN_PER_SECOND),)
    return call


def read_transcription(call: Call, found: Mapping[str, Any]) -> None:
    """The seconds that were listened to, and tokens, which some models are paid by."""
    read_head(call, found)
    usage = fields(found.get("usage"))
    if usage.get("prompt_audio_seconds") == 0:
        call.doubt = "usage.prompt_audio_seconds is 0"
        return
    try:
        call.usage = Usage(
            uncached_input_tokens=count(usage, "prompt_tokens"),
            visible_output_tokens=count(usage, "completion_tokens"),
            input_audio_milliseconds=1_000 * count(usage, "prompt_audio_seconds", required=True),
        )
    except UnreadableUsage as reason:
        call.doubt = str(reason)


class TranscriptReader:
    """Of a stream, whose last event has the usage."""

    __slots__ = ("_call", "_done")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._done: Mapping[str, Any] = {}

    def see(self, event: Any) -> bool:
        found = chunk_of(event)
        if fields(found.get("usage")):
            self._done = found
        return False

    def finish(self) -> None:
        if self._done:
            read_transcription(self._call, self._done)
        else:
            self._call.doubt = "the stream ended without its usage"

    def abandon(self, chunks: list[Any]) -> None:
        for chunk in chunks:
            self.see(chunk)
        if self._done:
            self.finish()
