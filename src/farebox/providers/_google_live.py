"""Google's live sessions: what the model has been shown so far, and what each of its turns used.

A session is text, sound and pictures in, and answers that the server begins by itself or is asked for.  Each report of its
usage is charged by itself, with all that the session holds as its prompt once more: so say users who held their bills against
them (https://discuss.ai.google.dev/t/173248), and three turns of each model that were looked at
(https://github.com/pydantic/pydantic-ai/pull/7269; all read 2026-11-30).

Message and field names: google-genai 3.6.1, `types.py`, `LiveClientMessage`, `LiveServerMessage`, `UsageMetadata`, and
`live.py` (read 2026-11-30).
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from farebox._call import Call
from farebox.providers._dialogues import News, Opened, Question
from farebox.providers._google_parts import Contents, pick
from farebox.providers._google_usage import read_head, read_usage, searches
from farebox.providers._reading import fields, listed, text_of
from farebox.providers._vision import Pictures, gemini_image_tokens

PATH: Final = "live.connect"

#: What any of these models can read (`prices/limits.py`; genai-prices 0.2.3, gemini-3.8-live; read 2026-11-30).
_MOST_INPUT: Final = 131_072
#: Twice the 32 tokens that a second of sound takes, and the 258 of a frame of video
#: (https://ai.google.dev/gemini-api/docs/tokens, a copy, read 2026-11-29).
_TOKENS_PER_SECOND: Final = 64
_TOKENS_PER_FRAME: Final = 516
#: Sound is PCM of 16 bits, at 16 kHz where its type does not say.
_RATE: Final = re.compile(r"\brate=(\d{3,6})\b")
_USUAL_RATE: Final = 16_000
_TOKENS_PER_SESSION: Final = 1_024
_TOKENS_PER_MESSAGE: Final = 16
#: Where answers are waited for: those to what tools returned may be part of the turn that called them.
_TURN: Final = "turn"
_TOOLS: Final = "turn with tools"
#: Of a configuration, what stands beside the generation config in a request.
_BESIDE: Final = ("generation_config", "generationConfig", "system_instruction", "systemInstruction", "tools")

_SPEAKING: Final = (b'"modelTurn"', b'"toolCall"')
_ALWAYS: Final = (b'"usageMetadata"', b'"turnComplete"', b'"groundingMetadata"')

Read = Callable[[Mapping[str, Any]], Call | None]


class Live:
    """One session."""

    names_events = names_answers = False

    def __init__(self, opened: Opened, config: Mapping[str, Any], read: Read) -> None:
        """`config` as the SDK takes it; `read` makes the call of a request for an answer."""
        self._opened = opened
        self._read = read
        generation = {name: value for name, value in config.items() if name not in _BESIDE}
        generation |= fields(pick(config, "generationConfig"))
        self._speaks = {text_of(one).upper() for one in listed(pick(generation, "responseModalities")) or ()} != {
            "TEXT"
        }
        self._setup: dict[str, Any] = {
            "contents": [{"role": "user", "parts": [{"text": ""}]}],
            "generationConfig": generation,
            "systemInstruction": pick(config, "systemInstruction"),
            "tools": pick(config, "tools"),
        }
        #: It goes on from another one, of which nothing is known here.
        self._is_resumed = bool(fields(pick(config, "sessionResumption")).get("handle"))
        #: What the model was shown and has said, but for the setup.
        self._said = Contents()
        self._answered_tokens = 0
        self._sound_seconds = 0.0
        self._frames = 0
        #: Turns of the model whose usage has not been told, and whether one is being made.
        self._turns = 0
        self._untold: deque[str] = deque()
        self._is_speaking = False
        #: What was found for the answer that is being made, and for the last one whose usage was told.
        self._grounding: list[Any] = []
        self._grounded: list[Any] = []

    @property
    def marks(self) -> tuple[bytes, ...]:
        """While it speaks nobody needs to look at what it says."""
        return _ALWAYS if self._is_speaking else _ALWAYS + _SPEAKING

    # ── what the client says ─────────────────────────────────────────────────────────────────────────────────────

    def sent(self, event: Mapping[str, Any]) -> Question | None:
        content, returned = fields(pick(event, "clientContent")), pick(event, "toolResponse")
        if content:
            self._said.add(content.get("turns") or [])
            return Question(self._call(), _TURN) if pick(content, "turnComplete") else None
        if returned is not None:
            self._said.sizes.add_json(returned)
            # A turn whose usage was told has ended there, and this asks for another.
            self._is_speaking = self._is_speaking and bool(self._untold)
            return Question(self._call(), _TOOLS)
        heard = fields(pick(event, "realtimeInput"))
        if heard:
            self._hear(heard)
        else:
            self._said.sizes.add_json(event)
        return None

    def _hear(self, heard: Mapping[str, Any]) -> None:
        if (text := heard.get("text")) is not None:
            self._said.sizes.extra_tokens += _TOKENS_PER_MESSAGE
            self._said.sizes.add(text, as_part=False)
        for blob in (heard.get("audio"), heard.get("video"), *(listed(pick(heard, "mediaChunks")) or ())):
            found = fields(blob)
            data, kind = found.get("data"), text_of(pick(found, "mimeType")).lower()
            if isinstance(data, str) and kind.startswith(("image/", "video/")):
                self._frames += 1
            elif isinstance(data, str):
                rate = _RATE.search(kind)
                bytes_per_second = 2 * (int(rate[1]) if rate else _USUAL_RATE)
                self._sound_seconds += len(data) * 3 / 4 / bytes_per_second

    def rewrite(self, call: Call, event: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    # ── what the server says ─────────────────────────────────────────────────────────────────────────────────────

    def heard(self, event: Mapping[str, Any]) -> News | None:
        content, usage = fields(event.get("serverContent")), event.get("usageMetadata")
        speaks = bool(fields(content.get("modelTurn")) or event.get("toolCall"))
        ends = content.get("turnComplete") is True
        if content.get("groundingMetadata"):
            self._grounding.append({"candidates": [{"groundingMetadata": content["groundingMetadata"]}]})
        news = None
        if usage is not None:
            turn = self._untold.popleft() if self._untold else ""
            is_all = bool(turn) and (ends or not (speaks or self._is_speaking))
            self._grounded, self._grounding = self._grounding, []
            news = News("used", turn, _TOOLS if turn else _TURN, is_all, body=event)
            self._is_speaking = speaks or self._is_speaking
        elif speaks and not self._is_speaking:
            self._turns += 1
            self._untold.append(f"{self._turns}")
            self._is_speaking = True
            news = News("begun", self._untold[-1], _TURN)
        elif ends and not self._untold:
            news = News("refused", line=_TOOLS)  # what tools returned was read within the turn
        self._is_speaking = self._is_speaking and not ends
        return news

    def unasked(self, news: News) -> Call:
        call = self._call()
        if news.what == "used":
            self.ended(call, news)
        return call

    def stop(self, news: News) -> Mapping[str, Any] | None:
        return None

    def ended(self, call: Call, news: News) -> None:
        found = self._with_details(fields(fields(news.body).get("usageMetadata")))
        read_head(call, {}, found)
        call.usage = read_usage(call, found, searches(call, self._grounded))
        # What it said is read again with the next turn.
        cap = call.declared_cap or _MOST_INPUT
        self._answered_tokens += cap if call.usage is None else call.usage.output_tokens

    def _with_details(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """A usage under the names of an answer over HTTP; what does not say of what kind it was may all have been sound."""
        written = usage.get("responseTokenCount")
        written = usage.get("candidatesTokenCount") if written is None else written
        details = usage.get("responseTokensDetails") or usage.get("candidatesTokensDetails")
        read, read_details = usage.get("promptTokenCount"), usage.get("promptTokensDetails")
        if not details and self._speaks:
            details = [{"modality": "AUDIO", "tokenCount": written}]
        if not read_details and self._has_sound():
            read_details = [{"modality": "AUDIO", "tokenCount": read}]
        return {
            **usage,
            "candidatesTokenCount": written,
            "candidatesTokensDetails": details,
            "promptTokensDetails": read_details,
        }

    # ── what the model has been shown ────────────────────────────────────────────────────────────────────────────

    def _has_sound(self) -> bool:
        return self._speaks or self._sound_seconds > 0 or self._said.sizes.has_audio

    def _call(self) -> Call:
        call = self._read(self._setup)
        assert call is not None  # it names a model, and has contents
        call.operation_name, call.endpoint, call.is_stream = "live", PATH, False
        call.is_fixed, call.accepts_cap = True, False
        said = self._said.sizes
        sound = math.ceil(self._sound_seconds * _TOKENS_PER_SECOND)
        extra = (
            said.extra_tokens + sound + self._frames * _TOKENS_PER_FRAME + self._answered_tokens + _TOKENS_PER_SESSION
        )
        extra += self._said.messages * _TOKENS_PER_MESSAGE
        if said.pictures:
            extra += Pictures(tuple(said.pictures), gemini_image_tokens).tokens(call.request_model)
        call.messages = 1 + self._said.messages
        call.text_bytes += said.text_bytes
        call.dense_bytes += said.dense_bytes
        call.english_bytes += said.english_bytes
        call.extra_input_tokens += extra
        proven = call.proven_input_tokens + said.text_bytes + said.surplus + extra
        call.proven_input_tokens = min(_MOST_INPUT, proven)
        if self._is_resumed:
            call.unbounded = (*call.unbounded, "session_resumption")
        call.unbounded = (*call.unbounded, *said.unbounded)
        if self._is_resumed or call.fills_context or call.extra_input_tokens + call.text_bytes // 4 > _MOST_INPUT:
            call.fills_context = False
            call.text_bytes = call.dense_bytes = call.english_bytes = 0
            call.extra_input_tokens = _MOST_INPUT
        call.has_audio = call.has_audio or self._has_sound()
        call.has_images = call.has_images or said.has_images or self._frames > 0 or "video" in self._said.features
        return call
