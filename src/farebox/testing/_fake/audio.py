"""The OpenAI formats of sound: speech, transcriptions, translations.  Source of the fields: types of the openai SDK 3.54."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from typing import Any

from farebox.testing._fake.dialect import Ask, Count, Event, Fault, Reply
from farebox.testing._fake.openai import REFUSED, OpenAIFormat, missing, model_of
from farebox.testing._fake.prices import Charge

# Picodollars: USD 15 and 30 per million characters, USD 0.36 and 0.27 an hour.
CHARACTER_PICOS = {"tts-1": 15_000_000, "tts-1-hd": 30_000_000}
MILLISECOND_PICOS = {"whisper-1": 100_000, "gpt-transcribe": 75_000}
AUDIO_TOKENS_PER_SECOND = 10
BYTES_PER_SECOND = 16_000  # of a recording that is no WAV


class Speech(OpenAIFormat):
    paths = ("/v1/audio/speech",)

    def response_id(self, number: int) -> str:
        return ""

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        model, text = model_of(body), body.get("input")
        if not isinstance(text, str) or not text:
            raise missing("input")
        if len(text) > 4_096:
            raise Fault(400, "String should have at most 4096 characters", REFUSED, param="input")
        picos = CHARACTER_PICOS.get(model)
        tokens = count(text) + count(str(body.get("instructions") or ""))
        return Ask(
            model=model,
            stream=body.get("stream_format") == "sse",
            cap=None,
            choices=1,
            wants_usage=True,
            input_tokens=0 if picos else tokens,
            makes=0 if picos else len(text) * 3 // 2,
            charges=(Charge("characters", len(text), picos),) if picos else (),
        )

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        total = reply.input_tokens + output_tokens
        return {"input_tokens": reply.input_tokens, "output_tokens": output_tokens, "total_tokens": total}

    def answer(self, ask: Ask, reply: Reply) -> bytes:
        return b"\xff\xfb\x90\x00" + bytes(400)

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        for piece in reply.pieces:
            payload = {"type": "speech.audio.delta", "audio": "c291bmQ="}
            yield Event(payload, None, tokens=piece.tokens, is_content=True)
        yield Event({"type": "speech.audio.done", "usage": self.usage(reply, reply.output_tokens)}, None)


class Transcriptions(OpenAIFormat):
    paths = ("/v1/audio/transcriptions", "/v1/audio/translations")

    def response_id(self, number: int) -> str:
        return ""

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        model = model_of(body)
        if not isinstance(body.get("file"), bytes):
            raise missing("file")
        seconds = recording_seconds(body["file"])
        picos = MILLISECOND_PICOS.get(model)
        form = str(body.get("response_format") or "json")
        if picos is None and form not in ("json", "text", "diarized_json"):
            raise Fault(400, f"response_format '{form}' is not compatible with model '{model}'.", REFUSED)
        sound = 0 if picos else int(seconds * AUDIO_TOKENS_PER_SECOND)
        return Ask(
            model=model,
            stream=body.get("stream") in (True, "true"),
            cap=None,
            choices=1,
            wants_usage=True,
            input_tokens=0 if picos else sound + count(str(body.get("prompt") or "")),
            audio_tokens=sound,
            makes=0 if picos else None,
            charges=(Charge("audio milliseconds", round(seconds * 1_000), picos),) if picos else (),
            form=form,
        )

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        if reply.charges:
            return {"type": "duration", "seconds": reply.charges[0].count / 1_000}
        return {
            "type": "tokens",
            "input_tokens": reply.input_tokens,
            "input_token_details": {
                "audio_tokens": reply.audio_tokens,
                "text_tokens": reply.input_tokens - reply.audio_tokens,
            },
            "output_tokens": output_tokens,
            "total_tokens": reply.input_tokens + output_tokens,
        }

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any] | str:
        text = reply.text or "what was said"
        if ask.form in ("text", "srt", "vtt"):
            return text
        answer: dict[str, Any] = {"text": text, "usage": self.usage(reply, reply.output_tokens)}
        if ask.form == "verbose_json":
            answer |= {"duration": answer["usage"]["seconds"], "language": "english", "segments": []}
        return answer

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        for piece in reply.pieces:
            payload = {"type": "transcript.text.delta", "delta": piece.text}
            yield Event(payload, None, tokens=piece.tokens, is_content=True)
        usage = self.usage(reply, reply.output_tokens)
        yield Event({"type": "transcript.text.done", "text": reply.text, "usage": usage}, None)


def recording_seconds(file: bytes) -> float:
    """How long a recording is; what is no WAV counts by its size."""
    try:
        with wave.open(io.BytesIO(file)) as recording:
            return float(recording.getnframes() / recording.getframerate())
    except (wave.Error, EOFError):
        return len(file) / BYTES_PER_SECOND
