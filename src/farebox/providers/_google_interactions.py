"""Google's wire format: interactions, whose answer is a row of steps and can be made in the background.

Field names: google-genai 3.6.1, `_gaos/types/interactions/` (read 2026-11-29) and `decisions/` (read
2026-11-30).  Those with an agent are in
`_google_agents`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from farebox._call import Call
from farebox._call import Part as CallPart
from farebox.providers._google_agents import read_agent_request
from farebox.providers._google_parts import MOST_MEDIA_TOKENS, draws, media_part
from farebox.providers._google_usage import read_usage
from farebox.providers._reading import MOST_TOKENS, Part, Sizes, fields, listed, text_of, texts, whole_number
from farebox.providers._vision import Pictures, gemini_image_tokens, is_older_gemini

PATH: Final = "/interactions"
DECISIONS: Final = "/decisions"
_MEDIA: Final = dict.fromkeys(("image", "audio", "video", "document"), MOST_MEDIA_TOKENS)
_TOKENS_PER_MESSAGE: Final = 16
_TOKENS_PER_REQUEST: Final = 64
_TOKENS_FOR_TOOLS: Final = 1_024
_SERVER_TOOL_TOKENS: Final = 65_536
_MOST_SEARCHES: Final = 10
_NOT_READ: Final = frozenset(
    ("background cached_content generation_config input labels model previous_interaction_id response_modalities "
     "safety_settings service_tier store stream system_instruction tools webhook_config").split()
)  # fmt: skip
#: Tools that run at Google, and the feature that each needs of a model; those of `_ENDLESS` may fill the context.
_SERVER_TOOLS: Final = {
    "google_search": "web_search",
    "google_maps": "web_search",
    "url_context": "web_fetch",
    "file_search": "file_search",
    "retrieval": "file_search",
    "code_execution": "code_interpreter",
    "mcp_server": "mcp",
}
_ENDLESS: Final = frozenset(("url_context", "file_search", "retrieval", "mcp_server"))
_UNFINISHED: Final = frozenset(("in_progress", "queued"))
_FEATURES: Final = {"image": "images", "audio": "audio", "video": "video", "document": "files"}
#: How the counts of an interaction are called by `usageMetadata`.
_COUNTS: Final = {
    "total_input_tokens": "promptTokenCount",
    "total_output_tokens": "candidatesTokenCount",
    "total_thought_tokens": "thoughtsTokenCount",
    "total_cached_tokens": "cachedContentTokenCount",
    "total_tool_use_tokens": "toolUsePromptTokenCount",
    "total_tokens": "totalTokenCount",
}
_BY_MODALITY: Final = {
    "input_tokens_by_modality": "promptTokensDetails",
    "output_tokens_by_modality": "candidatesTokensDetails",
    "cached_tokens_by_modality": "cacheTokensDetails",
    "tool_use_tokens_by_modality": "toolUsePromptTokensDetails",
}


def read_interaction_request(
    provider_name: str, path: str, body: Mapping[str, Any], server_address: str
) -> Call | None:
    """The call that a request for an interaction makes; None for one that asks nothing."""
    model, asked = text_of(body.get("model")), body.get("input")
    if not model and body.get("agent") is not None:
        return read_agent_request(provider_name, path, body, server_address)
    if not model or not asked:
        return None
    call = Call(
        provider_name=provider_name,
        operation_name="generate_content",
        endpoint="interactions",
        server_address=server_address,
        request_model=model.removeprefix("models/"),
    )
    call.is_plain = False
    sizes = Sizes(_MEDIA)
    sizes.read_part = _read_part
    call.last_message_bytes = sizes.add(asked)
    if (system := body.get("system_instruction")) is not None:
        call.system_bytes = sizes.add(system)
    for name in body.keys() - _NOT_READ:
        if body[name] is not None:
            sizes.add_json(body[name])
    steps = listed(asked)
    call.messages = 1 if steps is None else len(steps)
    config = fields(body.get("generation_config"))
    features = set(_features(body, config))
    features.update(feature for kind, feature in _FEATURES.items() if kind in sizes.kinds)
    _read_tools(call, body, sizes, features)
    cap = config.get("max_output_tokens")
    if cap is not None:
        known = MOST_TOKENS if type(cap) is int and cap > MOST_TOKENS else whole_number(cap)
        call.declared_cap, call.accepts_cap = known or None, known is not None
    call.cache_write = "none"
    call.is_stream = bool(body.get("stream"))
    if body.get("background"):
        call.is_background = True
    call.is_continuable = body.get("store") is not False
    call.previous_name = "previous_interaction_id"
    call.previous_response_id = text_of(body.get("previous_interaction_id"))
    if body.get("cached_content"):
        sizes.name_unbounded("cached_content")
        features.add("cached_content")
        call.fills_context = True
    if body.get("continuation_token") or body.get("environment"):
        sizes.name_unbounded("environment" if body.get("environment") else "continuation_token")
        call.fills_context = True
    call.tier = text_of(body.get("service_tier")).lower()
    said = _modalities(body)
    call.has_audio = bool(sizes.kinds & {"audio", "video"}) or bool(said & {"audio", "video"})
    call.has_images = bool(sizes.kinds & {"image", "video"}) or bool(said & {"image", "video"})
    call.features = frozenset(features)
    if sizes.pictures:
        pictures = Pictures(tuple(sizes.pictures), gemini_image_tokens)
        call.pictures = pictures
        sizes.extra_tokens += pictures.tokens(call.request_model)
    call.unbounded = sizes.unbounded
    extra_tokens = sizes.extra_tokens + _TOKENS_PER_REQUEST + _TOKENS_PER_MESSAGE * call.messages
    call.text_bytes, call.dense_bytes, call.english_bytes = sizes.text_bytes, sizes.dense_bytes, sizes.english_bytes
    call.extra_input_tokens = extra_tokens
    call.proven_input_tokens = sizes.text_bytes + sizes.surplus + extra_tokens
    return call


def read_decision_request(provider_name: str, path: str, body: Mapping[str, Any], server_address: str) -> Call | None:
    """The call that questions about one input make: answers are chosen, and what is put out for that has no cap.

    No page has a price of it: it is held and charged as what the model reads and writes.
    """
    questions = fields(body.get("questions"))
    call = read_interaction_request(provider_name, path, body, server_address) if questions else None
    if call is None or call.is_unmetered or not call.request_model:
        return None
    call.operation_name, call.endpoint = "decisions", DECISIONS
    call.parts = (CallPart("", uncapped=len(questions)),)
    call.has_images = True  # or the part is not looked at
    call.choices, call.accepts_cap, call.is_continuable = 0, False, False
    return call


def _read_part(kind: str, found: Mapping[str, Any], most: int) -> Part:
    level = text_of(found.get("resolution")).lower()
    return media_part(found.get("data"), text_of(found.get("mime_type")).lower() or f"{kind}/", level)


def _read_tools(call: Call, body: Mapping[str, Any], sizes: Sizes, features: set[str]) -> None:
    tools = listed(body.get("tools"))
    if not tools:
        return
    call.tools_bytes = sizes.add_json(tools)
    sizes.extra_tokens += _TOKENS_FOR_TOOLS
    for tool in tools:
        kind = text_of(fields(tool).get("type"))
        feature = _SERVER_TOOLS.get(kind)
        if feature is None:
            features.add("computer_use" if kind == "computer_use" else "tools")
            continue
        features.add(feature)
        sizes.name_unbounded(kind)
        if feature == "web_search":
            call.most_web_searches += 1 if is_older_gemini(call.request_model) else _MOST_SEARCHES
        if kind in _ENDLESS:
            call.fills_context = True
        else:
            sizes.extra_tokens += _SERVER_TOOL_TOKENS


def _modalities(body: Mapping[str, Any]) -> set[str]:
    """In what an answer may come; a model that draws does so unless it is told not to."""
    said = {text_of(one).lower() for one in listed(body.get("response_modalities")) or ()}
    return {"text", "image"} if not said and draws(text_of(body.get("model"))) else said


def _features(body: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    if body.get("response_format") is not None:
        yield "structured_output"
    if config.get("temperature") not in (None, 1) or config.get("top_p") is not None:
        yield "sampling"
    if config.get("stop_sequences"):
        yield "stop"
    if config.get("tool_choice") not in (None, "auto", "none"):
        yield "forced_tools"
    if config.get("thinking_level"):
        yield "reasoning"
        yield "reasoning_minimal" if config["thinking_level"] == "minimal" else "reasoning_effort"
    said = _modalities(body)
    if "image" in said:
        yield "image_generation"
    if said & {"audio", "video"}:
        yield "audio_output"


def rewrite_interaction(call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
    """The keys to change: the model, and the cap in the configuration."""
    changes: dict[str, Any] = {}
    if call.sent_model:
        changes["model"] = call.sent_model
    if call.sent_cap is not None:
        changes["generation_config"] = {**fields(body.get("generation_config")), "max_output_tokens": call.sent_cap}
    return changes


def read_interaction(call: Call, found: Mapping[str, Any]) -> None:
    """Of an interaction: its id, the model that served, and its usage; or that it is still being made."""
    name, model, status = found.get("id"), found.get("model"), text_of(found.get("status"))
    if type(name) is str:
        call.response_id = name[:200]
    if type(model) is str:
        call.response_model = model[:200]
    call.is_cut = status in ("incomplete", "budget_exceeded")
    usage = found.get("usage")
    if usage is None:
        call.is_pending = status in _UNFINISHED
        return
    if status in _UNFINISHED:
        call.is_pending = True
        return
    call.usage = read_usage(call, _as_metadata(fields(usage)), _searches(call, fields(usage)))


def _as_metadata(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The counts of an interaction in the words of generateContent."""
    found: dict[str, Any] = {ours: usage[name] for name, ours in _COUNTS.items() if usage.get(name) is not None}
    for name, ours in _BY_MODALITY.items():
        found[ours] = [
            {"modality": text_of(fields(one).get("modality")).upper(), "tokenCount": fields(one).get("tokens")}
            for one in listed(usage.get(name)) or ()
        ]
    return found


def _searches(call: Call, usage: Mapping[str, Any]) -> int:
    counted = [
        whole_number(fields(one).get("count")) or 0
        for one in listed(usage.get("grounding_tool_count")) or ()
        if text_of(fields(one).get("type")) in ("google_search", "google_maps")
    ]
    found = sum(counted)
    return min(found, 1) if is_older_gemini(call.response_model or call.model) else found


class EventReader:
    """Of a stream of events, the last of which has the interaction with its usage."""

    __slots__ = ("_call", "_last")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._last: Any = None

    def see(self, event: Any) -> bool:
        found = fields(event)
        kind = found.get("event_type")
        if kind == "error":
            self._call.doubt = "an error in the stream"
        elif kind == "interaction.created":
            name = fields(found.get("interaction")).get("id")
            self._call.response_id = text_of(name)[:200]
        elif fields(found.get("interaction")).get("usage") is not None:
            self._last = found["interaction"]
        return False

    def finish(self) -> None:
        call = self._call
        if self._last is not None:
            read_interaction(call, fields(self._last))
        elif call.is_background and call.response_id and not call.doubt:
            call.is_pending = True  # it is being made, whoever listens

    def abandon(self, chunks: list[Any]) -> None:
        sizes, pieces = Sizes({}), []
        for event in chunks:
            self.see(event)
            found = fields(event)
            pieces += [*texts(found.get("delta")), *texts(found.get("step"))]
        sizes.add_joined(pieces)
        self.finish()
        self._call.received_tokens = sizes.received_tokens()
