"""OpenAI's wire format: text read aloud, and sound written down.

Field names: openai 3.54.0, `types/audio/speech_create_params.py`, `types/audio/transcription_create_params.py`,
`types/audio/transcription.py`, `types/audio/transcription_text_done_event.py` (read 2026-11-29).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Part, Usage
from farebox.providers._audio_length import most_milliseconds
from farebox.providers._openai_completions import set_sizes
from farebox.providers._openai_usage import read_head
from farebox.providers._reading import Sizes, UnreadableUsage, count, fields, text_of
from farebox.providers._uploads import uploads_of

SPEECH: Final = "/audio/speech"
TRANSCRIPTIONS: Final = "/audio/transcriptions"
TRANSLATIONS: Final = "/audio/translations"

#: A model that reads aloud for tokens puts out some for every minute, and a text takes so long.  No page that was read says
#: how many: not verified, chosen not to be too low.  Measured was a text of 4,096 characters, which took 256 seconds and six
#: tokens for each of its 877, about 5,300 (https://github.com/sanand0/blog, `posts/2025/openai-tts-cost.md`, read 2026-11-29);
#: here it is held for 13,000.
_TOKENS_PER_MINUTE: Final = 1_250
_CHARACTERS_PER_MINUTE: Final = 400
_LEAST_SPEECH_TOKENS: Final = 256
#: A token for 100 milliseconds of sound (https://platform.openai.com/docs/guides/realtime-costs, read 2026-11-22), and
#: somewhat more, as a length is not always exact.
_TOKENS_PER_SECOND: Final = 11
#: The largest file that is taken (https://developers.openai.com/api/docs/guides/speech-to-text, a copy in
#: https://github.com/llms-txt-archive/openai-platform, read 2026-11-29).
_MOST_BYTES: Final = 25 * 2**20
#: Tokens that a second of speech is written down in: not verified, chosen not to be too low; and the most that a model writes of
#: a short recording (https://developers.openai.com/api/docs/models/compare?model=gpt-4o-mini-transcribe, read 2026-11-30).
_WRITTEN_PER_SECOND: Final = 10
_LEAST_WRITTEN: Final = 2_000
#: Fields that put something in front of the model.
_READ: Final = ("prompt", "instructions", "keywords", "known_speaker_names")


def _new_call(provider_name: str, operation: str, path: str, body: Mapping[str, Any], server_address: str) -> Call:
    call = Call(
        provider_name=provider_name,
        operation_name=operation,
        endpoint=path,
        server_address=server_address,
        request_model=text_of(body.get("model")),
    )
    call.choices, call.accepts_cap, call.has_audio, call.messages = 0, False, True, 1
    return call


class Speech:
    """`POST /audio/speech`.  Its answer is sound: paid by the characters read, or else by tokens that nobody tells."""

    def read_request(self, provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        text = text_of(body.get("input"))
        if not text or not text_of(body.get("model")):
            return None
        call = _new_call(provider_name, "speech", SPEECH, body, server_address)
        sizes = Sizes({})
        sizes.add_text(text)
        sizes.add(body.get("instructions"))
        set_sizes(call, sizes)
        call.has_audio = True
        call.is_stream = body.get("stream_format") == "sse"
        call.most_units = {"characters": len(text)}
        if not call.request_model.startswith("tts-"):
            call.parts = (Part("", 0, _speech_tokens(text, body.get("speed"))),)
        return call

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def read_answer(self, call: Call, answer: Any) -> None:
        """The characters are known; of tokens there is no count but in a stream, and it is charged as it was held."""
        if call.parts:
            call.doubt = "an answer of sound says nothing of its tokens"
        else:
            call.usage = Usage(**call.most_units)

    def stream_reader(self, call: Call) -> _DoneReader:
        return _DoneReader(call, "speech.audio.done", _write_speech)


def _speech_tokens(text: str, speed: Any) -> int:
    """The most tokens of sound that a text can take."""
    size = len(text.encode("utf-8", "surrogatepass"))  # a character of Chinese takes as long as three of English
    quarters = int(4 * speed) if isinstance(speed, (int, float)) and 0.25 <= speed < 1 else 4
    return _LEAST_SPEECH_TOKENS + size * _TOKENS_PER_MINUTE * 4 // (_CHARACTERS_PER_MINUTE * quarters)


def _write_speech(call: Call, usage: Mapping[str, Any]) -> None:
    call.usage = Usage(
        uncached_input_tokens=count(usage, "input_tokens", required=True),
        output_audio_tokens=count(usage, "output_tokens", required=True),
        characters=call.most_units["characters"],
    )


class Transcriptions:
    """`POST /audio/transcriptions` and `/audio/translations`: paid by the length of the recording, or by tokens."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read_request(self, provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        files = uploads_of(body.get("file"))
        if not files or not text_of(body.get("model")):
            return None
        operation = "translation" if self._path == TRANSLATIONS else "transcription"
        call = _new_call(provider_name, operation, self._path, body, server_address)
        milliseconds, is_told = most_milliseconds(files[0], _MOST_BYTES)
        for sample in uploads_of(body.get("known_speaker_references")):
            milliseconds += most_milliseconds(sample, _MOST_BYTES)[0]
        sizes = Sizes({})
        for name in _READ:
            sizes.add(body.get(name))
        if not is_told:
            sizes.name_unbounded("file")
        set_sizes(call, sizes)
        call.unbounded, call.has_audio = sizes.unbounded, True
        call.is_stream = body.get("stream") in (True, "true")
        call.most_units = {"input_audio_milliseconds": milliseconds}
        seconds = -(-milliseconds // 1_000)
        if "whisper" not in call.request_model:
            into = seconds * _TOKENS_PER_SECOND
            call.parts = (Part("", into, _LEAST_WRITTEN + seconds * _WRITTEN_PER_SECOND),)
        return call

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def read_answer(self, call: Call, answer: Any) -> None:
        found = fields(answer)
        read_head(call, found)
        usage = fields(found.get("usage"))
        if usage:
            try:
                _write_heard(call, usage)
            except UnreadableUsage as reason:
                call.doubt = str(reason)
        elif "whisper" in call.request_model:
            told = _milliseconds(found.get("duration"))
            call.usage = Usage(input_audio_milliseconds=told or call.most_units["input_audio_milliseconds"])
            call.doubt = "" if told else "the answer has no usage"

    def stream_reader(self, call: Call) -> _DoneReader:
        return _DoneReader(call, "transcript.text.done", _write_heard)


def _write_heard(call: Call, usage: Mapping[str, Any]) -> None:
    """What a recording took: by its length, or by tokens and then also as long as it was held for.

    Raises:
        UnreadableUsage: it can't be believed.
    """
    most = call.most_units["input_audio_milliseconds"]
    if usage.get("type") == "duration" or "seconds" in usage:
        milliseconds = _milliseconds(usage.get("seconds"))
        if milliseconds is None:
            raise UnreadableUsage(f"usage.seconds is {type(usage.get('seconds')).__name__}")
        if call.parts and call.request_model.startswith("gpt-4o"):
            raise UnreadableUsage("usage has no tokens")  # which is what this model is paid by
        call.usage = Usage(input_audio_milliseconds=milliseconds)
        return
    whole = count(usage, "input_tokens", required=True)
    heard = count(fields(usage.get("input_token_details")), "audio_tokens")
    if "audio_tokens" not in fields(usage.get("input_token_details")):
        heard = whole  # no split: as the dearer of the two
    call.usage = Usage(
        uncached_input_tokens=whole - min(heard, whole),
        input_audio_tokens=min(heard, whole),
        visible_output_tokens=count(usage, "output_tokens", required=True),
        input_audio_milliseconds=most,
    )


def _milliseconds(seconds: Any) -> int | None:
    """Seconds of an answer, rounded up; None for what is no length."""
    if type(seconds) in (int, float) and 0 < seconds < 10**7:
        return -int(-seconds * 1_000 // 1)
    return None


class _DoneReader:
    """Keeps the usage that the last event of a stream brings along."""

    __slots__ = ("_call", "_kind", "_usage", "_write")

    def __init__(self, call: Call, kind: str, write: Any) -> None:
        self._call, self._kind, self._write = call, kind, write
        self._usage: Mapping[str, Any] = {}

    def see(self, event: Any) -> bool:
        found = fields(event)
        if found.get("type") == self._kind:
            self._usage = fields(found.get("usage"))
        return False

    def finish(self) -> None:
        if not self._usage:
            self._call.doubt = "the stream ended without its usage"
            return
        try:
            self._write(self._call, self._usage)
        except UnreadableUsage as reason:
            self._call.doubt = str(reason)

    def abandon(self, chunks: list[Any]) -> None:
        for chunk in chunks:
            self.see(chunk)
        if self._usage:
            self.finish()
