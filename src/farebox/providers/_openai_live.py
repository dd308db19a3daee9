"""OpenAI's live sessions: the time that they last, and what their backend answered.

A session is billed by the second, from its start to its end, whoever speaks; answers of the model that it delegates to are
billed besides, as everywhere (https://developers.openai.com/api/docs/guides/voice-latency-cost, read 2026-11-30).  So a
session is cut into slices: each is a call, held before it begins.

Event and field names: openai 3.57.0, `types/live/client_event.py`, `server_event.py`, `session_usage.py`, `response_event.py`,
`decision_event.py` (read 2026-11-30).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers._dialogues import News, Opened, Question
from farebox.providers._openai_decisions import PATH as DECISIONS
from farebox.providers._openai_decisions import Decisions
from farebox.providers._openai_responses import ENDS, SURFACE
from farebox.providers._openai_usage import in_region
from farebox.providers._reading import fields, text_of
from farebox.providers._unmetered import unmetered_call

PATH: Final = "/live/sessions"

#: A slice ends with the first report of usage after so many seconds, and is held for twice as many: how often there is one
#: is nowhere said.
_SLICE_SECONDS: Final = 60
_MOST_SECONDS: Final = 24 * 3_600
#: Where answers are waited for.
_TIME: Final = "time"
_BACKEND: Final = "backend"
#: Of what a tool did, as much as its fee is known by.
_OF_ITEM: Final = ("action", "container_id", "type")
_DECISIONS: Final = Decisions()


class Live:
    """One session, from its primary connection."""

    marks = (b'"session.', b'"response.event"', b'"decision.event"', b'"error"')

    names_events = names_answers = True

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._model = "unknown"
        #: What delegated answers are asked for with.
        self._backend: dict[str, Any] = {}
        #: Billable seconds, and how many of them are in slices that have ended.
        self._seconds = 0.0
        self._settled_seconds = 0.0
        self._slices = 0
        #: How long the last slice was; None where nobody knows.
        self._milliseconds: int | None = None
        #: What ran at the provider for an answer of the backend, by the delegation.
        self._items: dict[str, list[dict[str, Any]]] = {}

    # ── what the client says ─────────────────────────────────────────────────────────────────────────────────────

    def sent(self, event: Mapping[str, Any]) -> Question | None:
        kind = event.get("type")
        if kind == "session.start":
            self._configure(event)
            return Question(self._slice(), _TIME)
        if kind == "session.update":
            self._configure(event)
        return Question(self._answer(), _BACKEND) if kind == "response.create" else None

    def _configure(self, event: Mapping[str, Any]) -> None:
        session = fields(event.get("session"))
        self._model = text_of(session.get("model")) or self._model
        self._backend.update(fields(fields(session.get("delegation")).get("responses")))

    def rewrite(self, call: Call, event: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    # ── what the server says ─────────────────────────────────────────────────────────────────────────────────────

    def heard(self, event: Mapping[str, Any]) -> News | None:
        kind = event.get("type")
        if kind == "session.started":
            self._configure(event)
            self._seconds = self._settled_seconds = 0.0
            return self._next_slice()
        if kind in ("session.usage.updated", "session.closed"):
            return self._time(event, is_over=kind == "session.closed")
        if kind == "response.event":
            return self._delegated(event, fields(event.get("event")))
        if kind == "decision.event":
            return News("used", line="a decision", body=fields(event.get("event")).get("decision"))
        if kind == "error":
            asked = text_of(fields(event.get("error")).get("client_event_id") or event.get("client_event_id"))
            return News("refused", event_id=asked) if asked else None
        return None

    def _next_slice(self) -> News:
        self._slices += 1
        return News("begun", f"slice {self._slices}", _TIME)

    def _time(self, event: Mapping[str, Any], *, is_over: bool) -> News | None:
        told: Any = fields(event.get("usage")).get("seconds")
        if type(told) in (int, float) and self._seconds <= told < _MOST_SECONDS:
            self._seconds = told
            self._milliseconds = math.ceil((told - self._settled_seconds) * 1_000)
            if not is_over and self._seconds - self._settled_seconds < _SLICE_SECONDS:
                return None
        else:
            self._milliseconds = None  # how far it has come nobody can tell, so this slice ends here
        self._settled_seconds = self._seconds
        ended = News("ended", f"slice {self._slices}", _TIME, body=event)
        return ended if is_over else ended._replace(then=self._next_slice())

    def _delegated(self, event: Mapping[str, Any], nested: Mapping[str, Any]) -> News | None:
        kind, answer = nested.get("type"), fields(nested.get("response"))
        delegation = text_of(event.get("delegation_id"))
        if kind == "response.created":
            return News("begun", text_of(answer.get("id")), _BACKEND)
        if kind == "response.output_item.done":
            item = fields(nested.get("item"))
            self._items.setdefault(delegation, []).append({name: item.get(name) for name in _OF_ITEM})
        elif kind in ENDS:
            items = self._items.pop(delegation, [])
            return News(
                "ended", text_of(answer.get("id")), _BACKEND, body={**answer, "output": answer.get("output") or items}
            )
        return None

    def unasked(self, news: News) -> Call:
        if news.what == "used":
            opened, model = self._opened, text_of(fields(news.body).get("model")) or "unknown"
            call = Call(opened.provider_name, "decisions", DECISIONS, model, opened.server_address)
            call.choices, call.accepts_cap, call.is_fixed, call.fills_context = 0, False, True, True
            call.unbounded = ("decision",)
            self._take_decision(call, news)
            return call
        return self._slice() if news.line == _TIME else self._answer()

    def stop(self, news: News) -> Mapping[str, Any] | None:
        return {"type": "session.close"} if news.what == "begun" else None

    def ended(self, call: Call, news: News) -> None:
        if news.what == "used":
            self._take_decision(call, news)
        elif news.line == _TIME:
            told = self._milliseconds
            call.usage = None if told is None else Usage(input_audio_milliseconds=told)
        elif not call.is_unmetered:
            SURFACE.read_answer(call, news.body)

    def _take_decision(self, call: Call, news: News) -> None:
        _DECISIONS.read_answer(call, news.body)
        if call.usage is None:
            call.doubt = call.doubt or "the decision has no usage"
        else:
            call.fills_context, call.extra_input_tokens = False, call.usage.input_tokens

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _slice(self) -> Call:
        call = Call(self._opened.provider_name, "live", PATH, self._model, self._opened.server_address)
        call.choices, call.accepts_cap, call.is_fixed, call.has_audio = 0, False, True, True
        call.most_units = {"input_audio_milliseconds": 2 * _SLICE_SECONDS * 1_000}
        call.messages = 1
        return call

    def _answer(self) -> Call:
        """An answer of the backend, to what only the server knows."""
        opened = self._opened
        call = SURFACE.read_request(opened.provider_name, {**self._backend, "input": ""}, opened.server_address)
        if call is None:
            call = unmetered_call(opened.provider_name, f"websocket {PATH}", self._backend, opened.server_address)
        call.tier = in_region(opened.server_address, call.tier)
        call.is_fixed, call.accepts_cap, call.fills_context = True, False, True
        call.unbounded = (*call.unbounded, "input")
        return call
