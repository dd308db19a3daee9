"""OpenAI's responses over a websocket: what is asked for is a request as over HTTP, and lanes tell whose answer begins.

Answers of one lane (`stream_id`) come one after the other, in the order in which they were asked for.  An answer that is under
way can be steered: the server then makes another one by itself, from what is said so, with the settings of the first.

Event and field names: openai 3.57.0, `types/responses/responses_client_event.py`, `responses_server_event.py`,
`response_steer_event.py`, `response_steer_pending_event.py`, `response_steer_failed_event.py` (read 2026-11-30).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call
from farebox.providers._dialogues import News, Opened, Question
from farebox.providers._openai_responses import ENDS, PATH, SURFACE
from farebox.providers._openai_usage import in_region
from farebox.providers._reading import fields, listed, text_of
from farebox.providers._unmetered import unmetered_call

#: Of an event that asks for a response, what is no parameter of one, or says nothing over a websocket.
_ENVELOPE: Final = frozenset(("background", "generate", "stream", "stream_id", "type"))
#: What an answer takes over from the one that was steered, as that one says it.
_INHERITED: Final = (
    "instructions", "max_output_tokens", "max_tool_calls", "model", "prompt", "reasoning", "service_tier", "text", "tools",
)  # fmt: skip
#: Answers that can be steered: those under way, of which there are few.
_MOST_KNOWN: Final = 64


class Lanes:
    """One connection, on which responses are asked for."""

    marks = (*(f'"{end}"'.encode() for end in sorted(ENDS)), b'"response.created"', b'"response.steer.', b'"error"')

    names_events, names_answers = False, True

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        #: The last calls, with the id of their answer once it has begun; and what answers have said of their settings.
        self._calls: deque[Call] = deque(maxlen=_MOST_KNOWN)
        self._settings: dict[str, dict[str, Any]] = {}
        #: What was said to steer an answer, by its id: on its way, or put off until its client asks for the next one.
        self._steers: dict[str, list[list[Any]]] = {}
        self._put_off: dict[str, list[Any]] = {}

    # ── what the client says ─────────────────────────────────────────────────────────────────────────────────────

    def sent(self, event: Mapping[str, Any]) -> Question | None:
        kind = event.get("type")
        if kind == "response.create":
            return self._create(event)
        return self._steer(event) if kind == "response.steer" else None

    def _create(self, event: Mapping[str, Any]) -> Question:
        body = {name: value for name, value in event.items() if name not in _ENVELOPE}
        earlier = text_of(body.get("previous_response_id"))
        said_before = self._put_off.pop(earlier, [])
        for steer in self._steers.get(earlier, ()):
            said_before = said_before + steer
        if said_before:
            body["input"] = said_before + _items(body.get("input"))
        call = self._call(body)
        if event.get("generate") is False or fields(body.get("prompt_cache_options")).get("prewarm"):
            # The input is only made ready.
            call.choices, call.accepts_cap, call.declared_cap = 0, False, None
        return Question(call, _lane(event))

    def _steer(self, event: Mapping[str, Any]) -> Question | None:
        steered_id = text_of(event.get("previous_response_id"))
        steered = next((call for call in reversed(self._calls) if call.response_id == steered_id), None)
        settings = self._settings.get(steered_id)
        if steered is None or settings is None:
            return None  # the server knows of no such answer on this connection either
        steers = self._steers.setdefault(steered_id, [])
        steers.append(_items(event.get("input")))
        call = self._unchanged({**settings, "input": [item for steer in steers for item in steer]})
        _go_on(call, steered)
        return Question(call, _steering(steered_id))

    def rewrite(self, call: Call, event: Mapping[str, Any]) -> dict[str, Any]:
        return SURFACE.rewrite(call, event)

    # ── what the server says ─────────────────────────────────────────────────────────────────────────────────────

    def heard(self, event: Mapping[str, Any]) -> News | None:
        kind = event.get("type")
        if kind == "response.created":
            return self._begins(event)
        if kind in ENDS:
            found = event.get("response")
            return News("ended", text_of(fields(found).get("id")), _lane(event), body=found)
        if kind == "error":
            # One of an answer under way is numbered among its events.
            is_its_own = event.get("sequence_number") is not None
            return News("lost" if is_its_own else "refused", line=_lane(event))
        if kind in ("response.steer.failed", "response.steer.pending"):
            return self._let_steer_go(event, is_put_off=kind == "response.steer.pending")
        return None

    def _begins(self, event: Mapping[str, Any]) -> News:
        answer = event.get("response")
        found = fields(answer)
        answer_id, earlier = text_of(found.get("id")), text_of(found.get("previous_response_id"))
        self._settings[answer_id] = {name: found[name] for name in _INHERITED if found.get(name) is not None}
        while len(self._settings) > _MOST_KNOWN:
            del self._settings[next(iter(self._settings))]
        is_steered = self._steers.pop(earlier, None) is not None
        if not is_steered:
            return News("begun", answer_id, _lane(event), body=answer)
        # What was to steer it may never have been sent, as a budget refused it.
        return News("begun", answer_id, _steering(earlier), answers_all=True, or_line=_lane(event), body=answer)

    def _let_steer_go(self, event: Mapping[str, Any], *, is_put_off: bool) -> News:
        steered_id = text_of(fields(event.get("steer")).get("previous_response_id"))
        steers = self._steers.get(steered_id)
        if steers:
            said = steers.pop(0)
            if is_put_off:
                self._put_off[steered_id] = self._put_off.get(steered_id, []) + said
        if not steers:
            self._steers.pop(steered_id, None)
        return News("refused", line=_steering(steered_id))

    def unasked(self, news: News) -> Call:
        call = self._unchanged({**self._settings.get(news.answer_id, {}), "input": ""})
        call.fills_context = True
        call.unbounded = (*call.unbounded, "input")
        return call

    def stop(self, news: News) -> Mapping[str, Any] | None:
        return None

    def ended(self, call: Call, news: News) -> None:
        if not call.is_unmetered:
            SURFACE.read_answer(call, news.body)

    def _unchanged(self, body: Mapping[str, Any]) -> Call:
        """The call of an answer that is made with the settings of another one."""
        call = self._call(body)
        call.is_fixed, call.accepts_cap = True, False
        return call

    def _call(self, body: Mapping[str, Any]) -> Call:
        opened = self._opened
        call = SURFACE.read_request(opened.provider_name, body, opened.server_address)
        if call is None:
            call = unmetered_call(opened.provider_name, f"websocket {PATH}", body, opened.server_address)
        call.tier = in_region(opened.server_address, call.tier)
        call.is_continuable = True  # on this connection, stored or not
        self._calls.append(call)
        return call


def _items(given: Any) -> list[Any]:
    return [given] if isinstance(given, str) else listed(given) or []


def _lane(event: Mapping[str, Any]) -> str:
    return f"lane {text_of(event.get('stream_id'))!r}"


def _steering(answer_id: str) -> str:
    return f"steering {answer_id!r}"


def _go_on(call: Call, earlier: Call) -> None:
    """All that an earlier answer read and wrote is read again: what it used, or may use yet."""
    used = earlier.charged_input_tokens + earlier.charged_output_tokens
    tokens = used if earlier.outcome == "completed" else earlier.bound_tokens
    call.extra_input_tokens += tokens * (1 + call.turns)
    call.proven_input_tokens += tokens * (1 + call.turns)
