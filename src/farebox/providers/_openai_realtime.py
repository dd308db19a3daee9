"""OpenAI's realtime sessions: what the model has heard so far, and what each of its answers used.

The input of an answer is the whole conversation.  It is bounded by all that was sent and answered, up to what the model can
read: text as everywhere, sound by its length.

Event and field names: openai 3.57.0, `types/realtime/realtime_client_event.py`, `realtime_server_event.py`,
`realtime_response_usage.py`, `conversation_item_input_audio_transcription_completed_event.py` (read 2026-11-29).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers._dialogues import News, Opened, Question
from farebox.providers._openai_usage import read_head
from farebox.providers._reading import MOST_TOKENS, Sizes, UnreadableUsage, count, fields, listed, text_of, whole_number

PATH: Final = "/realtime"

#: What the largest of these models can read, whatever was said before (`prices/limits.py`, read 2026-11-29).
_MOST_INPUT: Final = 128_000
#: Twice the 10 tokens that a second of the user's sound takes: https://platform.openai.com/docs/guides/realtime-costs
#: (read 2026-11-22).
_TOKENS_PER_SECOND: Final = 20
#: Bytes of a second of sound: PCM of 16 bits at 24 kHz, or G.711 (`realtime_audio_formats.py`).
_PCM: Final = 48_000
_G711: Final = 8_000
#: Taken for a picture, whose tokens are nowhere told for these models.
_MEDIA_TOKENS: Final = {"input_image": 4_096}
_TOKENS_PER_EVENT: Final = 32
_TOKENS_PER_SESSION: Final = 1_024
_ENDLESS: Final = ("inf", None)
#: What of a session the model reads.
_READ: Final = ("instructions", "tools", "tool_choice", "prompt")
#: Ends that an answer may come to before anything was read for it.
_STOPPED: Final = ("cancelled", "failed")
_TRANSCRIBED: Final = "conversation.item.input_audio_transcription.completed"


class Realtime:
    """One session with a model that listens and speaks."""

    marks = (b'"response.created"', b'"response.done"', b'"session.', b'"error"', _TRANSCRIBED.encode())

    names_events = names_answers = True

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        #: What the model was shown, but for the settings of the session.
        self._items = Sizes(_MEDIA_TOKENS)
        self._audio_bytes = 0
        self._bytes_per_second = _PCM
        self._has_audio = False
        #: As the client wants it, and as the server has said that it is.
        self._wanted: dict[str, Any] = {}
        self._agreed: dict[str, Any] = {}

    def sent(self, event: Mapping[str, Any]) -> Question | None:
        kind = event.get("type")
        if kind == "response.create":
            return Question(self._call(fields(event.get("response"))))
        if kind == "input_audio_buffer.append":
            self._hear_sound(event.get("audio"))
        elif kind == "session.update":
            wanted = fields(event.get("session"))
            self._wanted.update(wanted)
            self._look_at_formats(wanted)
            # What the server makes of these is known once it says so.
            for name in ("max_output_tokens", "max_response_output_tokens", "output_modalities", "modalities"):
                if name in wanted:
                    self._agreed.pop(name, None)
        elif kind == "conversation.item.create":
            self._show(self._items, event.get("item"))
        elif isinstance(kind, str) and not kind.startswith(
            ("input_audio_buffer.", "output_audio_buffer.", "response.")
        ):
            self._show(self._items, event)
        return None

    def rewrite(self, call: Call, event: Mapping[str, Any]) -> dict[str, Any]:
        if call.sent_cap is None:
            return {}
        return {"response": {**fields(event.get("response")), "max_output_tokens": call.sent_cap}}

    def heard(self, event: Mapping[str, Any]) -> News | None:
        kind = event.get("type")
        if kind in ("session.created", "session.updated"):
            self._agree(fields(event.get("session")))
        elif kind == "response.created":
            return News("begun", text_of(fields(event.get("response")).get("id")))
        elif kind == "response.done":
            answer = event.get("response")
            return News("ended", text_of(fields(answer).get("id")), body=answer)
        elif kind == "error":
            asked = text_of(fields(event.get("error")).get("event_id"))
            return News("refused", event_id=asked) if asked else None
        elif kind == _TRANSCRIBED:
            return News("used", line="what is written down", body=event)
        return None

    def unasked(self, news: News) -> Call:
        if news.what == "used":
            return self._written_down(fields(news.body))
        call = self._call({})
        call.is_fixed, call.accepts_cap = True, False
        return call

    def stop(self, news: News) -> Mapping[str, Any] | None:
        return {"type": "response.cancel", "response_id": news.answer_id} if news.what == "begun" else None

    def ended(self, call: Call, news: News) -> None:
        found = fields(news.body)
        read_head(call, found)
        details = fields(found.get("status_details"))
        call.is_cut = details.get("reason") == "max_output_tokens"
        call.usage = read_realtime_usage(call, found.get("usage"))
        if call.usage is not None and not call.usage.input_tokens and found.get("status") not in _STOPPED:
            call.usage, call.doubt = None, "usage.input_tokens is 0"
        # What it said is read again with the next answer.
        said = _MOST_INPUT if call.usage is None else call.usage.output_tokens
        self._items.extra_tokens += min(said, call.sent_cap or call.declared_cap or said)

    def _written_down(self, found: Mapping[str, Any]) -> Call:
        transcription = self._setting("audio", "input", "transcription") or self._setting("input_audio_transcription")
        model = text_of(fields(transcription).get("model")) or "unknown"
        call = Call(self._opened.provider_name, "transcription", PATH, model, self._opened.server_address)
        call.is_fixed, call.accepts_cap, call.has_audio, call.choices = True, False, True, 0
        call.usage = usage = _read_transcription(call, found.get("usage"))
        if usage is None:
            call.extra_input_tokens = self._sound_tokens() or _MOST_INPUT
        else:
            # Known already, so held as such.
            call.extra_input_tokens = usage.input_tokens + usage.output_tokens
            call.most_units = {"input_audio_milliseconds": usage.input_audio_milliseconds}
        call.proven_input_tokens = call.extra_input_tokens
        return call

    # ── what the model has been shown ────────────────────────────────────────────────────────────────────────────

    def _call(self, response: Mapping[str, Any]) -> Call:
        model = self._opened.model or text_of(self._agreed.get("model")) or "unknown"
        call = Call(self._opened.provider_name, "realtime", PATH, model, self._opened.server_address)
        call.messages, call.cache_write = 1, "none"
        settings = {**self._agreed, **self._wanted}
        own = Sizes(_MEDIA_TOKENS)
        for name in _READ:
            own.add_json(settings.get(name))
        self._show(own, {name: value for name, value in response.items() if name not in _NOT_READ})
        tools = [*(listed(settings.get("tools")) or ()), *(listed(response.get("tools")) or ())]
        if any(fields(tool).get("type", "function") != "function" for tool in tools):
            own.name_unbounded("tools (run by the server)")
            call.fills_context = True
        if fields(settings.get("prompt")) or fields(response.get("prompt")):
            own.name_unbounded("prompt")
            call.fills_context = True
        if self._opened.is_joined:
            own.name_unbounded("call_id")
            call.fills_context = True
        items, sound = self._items, self._sound_tokens()
        extra = items.extra_tokens + own.extra_tokens + sound + _TOKENS_PER_SESSION
        call.text_bytes = items.text_bytes + own.text_bytes
        call.dense_bytes = items.dense_bytes + own.dense_bytes
        call.english_bytes = items.english_bytes + own.english_bytes
        call.extra_input_tokens = extra
        call.proven_input_tokens = min(
            _MOST_INPUT, items.proven_tokens() + own.proven_tokens() + sound + _TOKENS_PER_SESSION
        )
        call.unbounded = (*items.unbounded, *own.unbounded)
        if call.fills_context or extra + call.text_bytes // 4 > _MOST_INPUT:
            call.text_bytes = call.dense_bytes = call.english_bytes = 0
            call.extra_input_tokens = 0 if call.fills_context else _MOST_INPUT
        call.has_audio = self._has_audio or self._speaks(response)
        call.has_images = items.has_images or own.has_images
        call.reasons = bool(response.get("reasoning") or settings.get("reasoning"))
        self._read_cap(call, response)
        return call

    def _read_cap(self, call: Call, response: Mapping[str, Any]) -> None:
        given: Any = None
        for said in (response, self._agreed):
            for name in ("max_output_tokens", "max_response_output_tokens"):
                given = said.get(name) if given in _ENDLESS else given
            if any(name in said for name in ("max_output_tokens", "max_response_output_tokens")):
                break
        if given not in _ENDLESS:
            cap = whole_number(given)
            call.declared_cap, call.accepts_cap = cap, cap is not None

    def _speaks(self, response: Mapping[str, Any]) -> bool:
        """Whether an answer may be sound: so it is unless it was agreed otherwise."""
        for said in (response, self._agreed):
            for name in ("output_modalities", "modalities"):
                if said.get(name) is not None:
                    return listed(said[name]) != ["text"]
        return True

    def _agree(self, session: Mapping[str, Any]) -> None:
        self._agreed.update(session)
        self._look_at_formats(session)
        for name in session.keys() & self._wanted.keys():
            del self._wanted[name]

    def _look_at_formats(self, session: Mapping[str, Any]) -> None:
        old = session.get("input_audio_format")
        new = fields(fields(fields(session.get("audio")).get("input")).get("format")).get("type")
        if any(isinstance(form, str) and ("g711" in form or "pcmu" in form or "pcma" in form) for form in (old, new)):
            self._bytes_per_second = _G711  # from the beginning: to err upwards

    def _setting(self, *names: str) -> Any:
        for said in (self._wanted, self._agreed):
            found: Any = said
            for name in names:
                found = fields(found).get(name)
            if found is not None:
                return found
        return None

    def _hear_sound(self, audio: Any) -> None:
        if isinstance(audio, str):
            self._has_audio = True
            self._audio_bytes += len(audio) * 3 // 4

    def _sound_tokens(self) -> int:
        return math.ceil(self._audio_bytes * _TOKENS_PER_SECOND / self._bytes_per_second)

    def _show(self, sizes: Sizes, thing: Any) -> None:
        """Count something that the model will read, its sound apart."""
        sizes.extra_tokens += _TOKENS_PER_EVENT
        sizes.add(self._without_sound(thing))

    def _without_sound(self, thing: Any, depth: int = 0) -> Any:
        if depth > 8:
            return thing
        if (items := listed(thing)) is not None:
            return [self._without_sound(item, depth + 1) for item in items]
        found = fields(thing)
        if not found:
            return thing
        if isinstance(found.get("audio"), str):
            self._hear_sound(found["audio"])
            found = {name: value for name, value in found.items() if name != "audio"}
        return {
            name: self._without_sound(value, depth + 1) if name in _NESTED else value for name, value in found.items()
        }


_NESTED: Final = ("content", "input", "item")
#: Of a response that is asked for: what puts nothing in front of the model.
_NOT_READ: Final = frozenset(
    "audio conversation max_output_tokens max_response_output_tokens metadata modalities output_modalities voice".split()
)


def read_realtime_usage(call: Call, usage: Any) -> Usage | None:
    """Disjoint buckets of an answer; None, and `call.doubt`, where it can't be believed.

    Of cached tokens the kinds are told apart.  Parts that add up to more than the whole count at the dearest rate there is, as
    does a whole whose parts are not told, where it may have been sound.
    """
    if usage is None:
        return None
    found = fields(usage)
    into, out = fields(found.get("input_token_details")), fields(found.get("output_token_details"))
    kinds = fields(into.get("cached_tokens_details"))
    try:
        whole_input, whole_output = (count(found, name, required=True) for name in ("input_tokens", "output_tokens"))
        audio, images, cached = (count(into, name) for name in ("audio_tokens", "image_tokens", "cached_tokens"))
        cached_audio, cached_images = count(kinds, "audio_tokens"), count(kinds, "image_tokens")
        spoken = count(out, "audio_tokens")
    except UnreadableUsage as reason:
        call.doubt = str(reason)
        return None
    if call.has_audio:
        audio, spoken = audio if into else whole_input, spoken if out else whole_output
    text = whole_input - audio - images
    cached_text = cached - cached_audio - cached_images
    if (
        text < 0
        or spoken > whole_output
        or not 0 <= cached_text <= text
        or cached_audio > audio
        or cached_images > images
    ):
        call.doubt = "the parts of usage are more than its whole"
        return Usage(input_audio_tokens=whole_input, output_audio_tokens=whole_output)
    return Usage(
        uncached_input_tokens=text - cached_text,
        cache_read_tokens=cached_text,
        input_audio_tokens=audio - cached_audio,
        cache_read_audio_tokens=cached_audio,
        input_image_tokens=images - cached_images,
        cache_read_image_tokens=cached_images,
        visible_output_tokens=whole_output - spoken,
        output_audio_tokens=spoken,
    )


def _read_transcription(call: Call, usage: Any) -> Usage | None:
    """Of what was heard and written down by another model: tokens, or a length."""
    if usage is None:
        call.doubt = "the transcription has no usage"
        return None
    found = fields(usage)
    seconds: Any = found.get("seconds")
    if found.get("type") == "duration" and type(seconds) in (int, float) and 0 <= seconds < MOST_TOKENS:
        return Usage(input_audio_milliseconds=math.ceil(seconds * 1_000))
    try:
        whole, written = count(found, "input_tokens", required=True), count(found, "output_tokens", required=True)
        text = count(fields(found.get("input_token_details")), "text_tokens")
    except UnreadableUsage as reason:
        call.doubt = str(reason)
        return None
    text = min(text, whole)
    return Usage(uncached_input_tokens=text, input_audio_tokens=whole - text, visible_output_tokens=written)
