"""OpenAI's wire format: responses, and what is asked of them later.

Field names: openai 3.54.0, `types/responses/response_create_params.py`, `response_input_item_param.py`, `tool_param.py`,
`response.py`, `response_stream_event.py` (read 2026-11-22).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call
from farebox.providers._openai_items import Input
from farebox.providers._openai_tools import Tools, with_tools
from farebox.providers._openai_usage import RESPONSES, read_cap, read_head, read_tier, read_usage
from farebox.providers._reading import Sizes, fields, listed, text_of

PATH: Final = "/responses"
#: As it is found, by the end of a path.
COMPACT: Final = "/compact"

#: The API refuses less: https://github.com/earendil-works/pi/issues/6265 (read 2026-11-21).
_LEAST_CAP: Final = 16

# Parameters that put nothing in front of the model, or are read apart.  Any other one counts as text.
_NOT_READ: Final = frozenset(
    ("access_programs background background_options context_management conversation image include input instructions "
     "max_output_tokens max_tool_calls metadata model moderation parallel_tool_calls previous_response_id prompt "
     "prompt_cache_key prompt_cache_options prompt_cache_retention reasoning safety_identifier service_tier store stream "
     "stream_options temperature tools top_logprobs top_p truncation user").split()
)  # fmt: skip

#: Parameters of a request that says nothing out of the ordinary.
_PLAIN_CALL: Final = frozenset(("input", "max_output_tokens", "model"))

_EARLIER: Final = re.compile(r"/responses/(?!(?:input_tokens|compact)$)([^/]+)(/cancel)?$")
_UNFINISHED: Final = ("queued", "in_progress")
ENDS: Final = frozenset(("response.completed", "response.incomplete", "response.failed", "response.cancelled"))
_BEGINNINGS: Final = frozenset(("response.created", "response.queued", "response.in_progress"))


def earlier_answer(path: str, method: str) -> str:
    """The id of the response that a request asks after or stops, "" for a request that does neither."""
    found = _EARLIER.search(path)
    if found is None or method.upper() != ("POST" if found[2] else "GET"):
        return ""
    return found[1]


class Responses:
    """`POST /responses`."""

    def read_request(self, provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        model, given = text_of(body.get("model")), body.get("input")
        prompt = fields(body.get("prompt"))
        if not model and prompt:
            # The template names the model: nobody here knows which, so the call has no price but one of its own.
            model = f"prompt:{text_of(prompt.get('id'))[:200]}"
        items = [given] if isinstance(given, str) else [] if given is None else listed(given)
        if not model or items is None:
            return None
        call = Call(
            provider_name=provider_name,
            operation_name="chat",
            endpoint=PATH,
            server_address=server_address,
            request_model=model,
        )
        read = Input(model)
        for item in items:
            read.add_item(item)
        cap = body.get("max_output_tokens")
        if cap is not None:
            read_cap(call, cap)
        call.least_cap, call.is_continuable, call.cache_write = _LEAST_CAP, True, "30m"
        if read.tools or not _PLAIN_CALL.issuperset(body):
            _read_options(call, body, read)
        read.write_to(call)
        return call

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if call.sent_model:
            changes["model"] = call.sent_model
        if call.sent_cap is not None:
            changes["max_output_tokens"] = call.sent_cap
        return changes

    def read_answer(self, call: Call, answer: Any) -> None:
        """A whole answer; one that is still being made in the background leaves `call.is_pending`."""
        found = fields(answer)
        read_head(call, found)
        call.is_cut = _is_cut(found)
        usage = read_usage(call, found.get("usage"), RESPONSES, web_searches=_web_searches(found))
        call.usage = None if usage is None else with_tools(call, usage, found)
        call.is_pending = call.usage is None and found.get("status") in _UNFINISHED

    def stream_reader(self, call: Call) -> _EventReader:
        return _EventReader(call)


class Compact(Responses):
    """`POST /responses/compact`: a conversation is read and its summary written, with no cap that could be sent."""

    def read_request(self, provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        asked = {name: value for name, value in body.items() if name not in ("max_output_tokens", "stream")}
        call = super().read_request(provider_name, asked, server_address)
        if call is not None:
            call.endpoint, call.accepts_cap, call.is_continuable = COMPACT, False, False
        return call

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": call.sent_model} if call.sent_model else {}


class _EventReader:
    """Keeps the first and the last response that the events bring along: only the last has usage."""

    __slots__ = ("_begun", "_call", "_ended")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._begun: Any = None
        self._ended: Any = None

    def see(self, event: Any) -> bool:
        try:
            kind = event.type
        except AttributeError:
            kind = fields(event).get("type")
        if type(kind) is not str:
            return False
        if kind in ENDS:
            self._ended = fields(event).get("response")
        elif self._begun is None and kind in _BEGINNINGS:
            self._begun = fields(event).get("response")
        return False

    def finish(self) -> None:
        if self._ended is not None:
            SURFACE.read_answer(self._call, self._ended)
            return
        begun = fields(self._begun)
        read_head(self._call, begun)
        if begun.get("background") is True:
            self._call.is_pending = True  # it is being made, whoever listens
        elif begun:
            self._call.doubt = "the stream ended before its answer"

    def abandon(self, chunks: list[Any]) -> None:
        sizes, pieces = Sizes({}), []
        for chunk in chunks:
            self.see(chunk)
            found = fields(chunk)
            kind, delta = found.get("type"), found.get("delta")
            # Text, refusals, arguments, code, summaries: whatever was made comes as a delta of some kind.
            if isinstance(kind, str) and kind.endswith(".delta") and isinstance(delta, str):
                pieces.append(delta)
        begun = fields(self._begun)
        if self._ended is not None or begun.get("background") is True:
            self.finish()
            return
        read_head(self._call, begun)
        sizes.add_joined(pieces)
        self._call.received_tokens = sizes.received_tokens()


def _read_options(call: Call, body: Mapping[str, Any], read: Input) -> None:
    """Whatever else a request may say that the model reads, or that changes the price."""
    read.add_instructions(body.get("instructions"))
    if prompt := fields(body.get("prompt")):
        read.add_template(prompt)
    if body.get("conversation") is not None:
        read.cannot_bound("conversation")
    if body.get("context_management"):
        read.cannot_bound("context_management")
    for name in body.keys() - _NOT_READ:
        read.sizes.add_json(body[name])
    given = listed(body.get("tools")) or []
    if given:
        call.tools_bytes = read.sizes.add_json(given)
    tools = Tools.of([*given, *read.tools], body.get("max_tool_calls"))
    if tools is not None:
        tools.add_to(read, call)
    call.is_stream = bool(body.get("stream"))
    call.is_continuable = body.get("store") is not False
    call.previous_response_id = text_of(body.get("previous_response_id"))
    read_tier(call, body)
    if fields(body.get("prompt_cache_options")).get("ttl") == "12h":
        call.cache_write = "12h"
    effort = fields(body.get("reasoning")).get("effort")
    call.reasons = effort not in (None, "none")
    read.features |= set(_features(body, effort))


def _is_cut(found: Mapping[str, Any]) -> bool:
    return (
        found.get("status") == "incomplete"
        and fields(found.get("incomplete_details")).get("reason") == "max_output_tokens"
    )


def _web_searches(found: Mapping[str, Any]) -> int:
    """Searches that are charged: as the answer says, or else one for each search among its items.

    Pages that were opened or searched through are no searches (`ToolUsage` in `types/responses/response.py`).
    """
    told = fields(fields(found.get("tool_usage")).get("web_search")).get("num_requests")
    if type(told) is int and told >= 0:
        return told
    calls = (fields(item) for item in listed(found.get("output")) or ())
    return sum(
        call.get("type") == "web_search_call" and fields(call.get("action")).get("type", "search") == "search"
        for call in calls
    )


_EFFORTS: Final = {
    "minimal": "reasoning_minimal",
    **dict.fromkeys(("low", "medium", "high"), "reasoning_effort"),
    "xhigh": "reasoning_xhigh",
}


_FORMATS: Final = {"json_schema": "structured_output", "json_object": "json_mode"}


def _features(body: Mapping[str, Any], effort: Any) -> list[str]:
    """What the parameters ask of the model."""
    found = []
    if effort == "none":
        found.append("reasoning_none")
    elif effort is not None:
        found += ["reasoning", _EFFORTS.get(text_of(effort), "reasoning_max")]
    elif fields(body.get("reasoning")):
        found.append("reasoning")
    text = fields(body.get("text"))
    kind = fields(text.get("format")).get("type")
    if isinstance(kind, str) and kind in _FORMATS:
        found.append(_FORMATS[kind])
    if body.get("tool_choice") not in (None, "auto", "none"):
        found.append("forced_tools")
    if text.get("verbosity") is not None:
        found.append("verbosity")
    if body.get("temperature") not in (None, 1) or body.get("top_p") is not None:
        found.append("sampling")
    if body.get("top_logprobs") is not None:
        found.append("logprobs")
    return found


SURFACE: Final = Responses()
