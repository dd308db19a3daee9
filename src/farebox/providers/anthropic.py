"""Anthropic's wire format: messages, and the same under `beta`.

Field names: anthropic 2.12.0, `types/message_create_params.py`, `types/usage.py`, `types/message_delta_usage.py`
(read 2026-11-21).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers._reading import Sizes, UnreadableUsage, count, fields, listed, text_of, texts, whole_number

_MESSAGES: Final = "/v1/messages"

#: Most input tokens of one content part.  Images: capped at about 4,784 on Claude 5.5, less before
#: (docs.anthropic.com/en/docs/build-with-claude/vision, read 2026-11-21).  A document may fill a context window.
_MEDIA_TOKENS: Final = {"image": 4_800, "document": 200_000, "file": 200_000, "container_upload": 200_000}

# Parameters that put nothing in front of the model.  Any other one counts as text.
_NOT_READ: Final = frozenset(
    ("betas billing_policy cache_control container context_management inference_geo max_tokens messages metadata model "
     "service_tier speed stop_sequences stream system temperature thinking tool_choice tools top_k top_p "
     "user_profile_id").split()
)  # fmt: skip

#: Parameters of a request that says nothing out of the ordinary.
_PLAIN_CALL: Final = frozenset(("max_tokens", "messages", "model", "system", "temperature"))
_SHORT_LIVED: Final = frozenset(("", "5m"))

_TOKENS_PER_MESSAGE: Final = 16
_TOKENS_PER_REQUEST: Final = 64
#: The system prompt that tools bring along is up to 804 tokens, Anthropic's own tools add up to 735 each
#: (docs.anthropic.com/en/docs/build-with-claude/tool-use/overview, read 2026-11-21).
_TOKENS_FOR_TOOLS: Final = 1_024
_TOKENS_PER_TOOL: Final = 32
_TOKENS_PER_OWN_TOOL: Final = 1_024
#: What one use of a tool that runs at the provider can put in front of the model, and uses where none are declared.
_SERVER_TOOL_TOKENS: Final = 200_000
_SERVER_TOOL_USES: Final = 10
#: Where inference costs 1.1 times as much (docs.anthropic.com/en/docs/about-claude/pricing, read 2026-11-21).
_REGIONS: Final = ("us",)
_SERVER_TOOLS: Final = ("web_search", "web_fetch", "code_execution", "advisor", "mcp")


class Anthropic:
    """Messages over `POST /v1/messages`."""

    name = "anthropic"
    sdk = "anthropic"
    clients = ("Anthropic", "AsyncAnthropic")
    chat_path = _MESSAGES

    def read_request(self, path: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        if not path.endswith(_MESSAGES):
            return None
        model, messages = text_of(body.get("model")), listed(body.get("messages"))
        cap = whole_number(body.get("max_tokens"))
        if not model or not messages or cap is None:
            return None

        sizes = Sizes(_MEDIA_TOKENS)
        last_bytes = 0
        for message in messages:
            content = message.get("content") if type(message) is dict else fields(message).get("content")
            last_bytes = sizes.add_text(content) if type(content) is str else sizes.add(content)
        sizes.extra_tokens += _TOKENS_PER_REQUEST + _TOKENS_PER_MESSAGE * len(messages)
        call = Call(
            provider_name=self.name,
            operation_name="chat",
            endpoint=_MESSAGES,
            server_address=server_address,
            request_model=model,
        )
        call.declared_cap, call.messages, call.last_message_bytes = cap, len(messages), last_bytes
        system = body.get("system")
        if system:
            call.system_bytes = sizes.add_text(system) if type(system) is str else sizes.add(system)
        if not _PLAIN_CALL.issuperset(body):
            _read_options(call, body, sizes)
        lifetimes = sizes.cache_lifetimes
        call.cache_write = "none" if not lifetimes else "5m" if lifetimes <= _SHORT_LIVED else "1h"
        call.text_bytes, call.dense_bytes = sizes.text_bytes, sizes.dense_bytes
        call.extra_input_tokens = sizes.extra_tokens
        call.has_images = sizes.has_images
        return call

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if call.sent_model:
            changes["model"] = call.sent_model
        if call.sent_cap is not None:
            changes["max_tokens"] = call.sent_cap
        return changes

    def read_answer(self, call: Call, answer: Any) -> None:
        found = fields(answer)
        _read_head(call, found)
        call.is_cut = found.get("stop_reason") == "max_tokens"
        usage = found.get("usage")
        if usage is not None:
            call.usage = _read_usage(call, fields(usage))

    def stream_reader(self, call: Call) -> _EventReader:
        return _EventReader(call)


def _read_options(call: Call, body: Mapping[str, Any], sizes: Sizes) -> None:
    """Whatever else a request may say that the model reads, or that changes the price."""
    tools = listed(body.get("tools"))
    if tools:
        call.tools_bytes = _add_tools(sizes, tools)
        call.most_web_searches = sum(map(_most_searches, tools))
    if body.get("cache_control") is not None:
        sizes.add_cache_control(body["cache_control"])
    for name in body.keys() - _NOT_READ:
        sizes.add_json(body[name])
    tier = "fast" if body.get("speed") == "fast" else "standard" if body.get("service_tier") == "standard_only" else ""
    call.tier = _with_region(tier, body.get("inference_geo"))
    call.is_stream = bool(body.get("stream"))
    call.reasons = fields(body.get("thinking")).get("type") in ("enabled", "adaptive", "between_tools")


class _EventReader:
    """Lays the usage of `message_delta` over that of `message_start`, whose one output token is a placeholder."""

    __slots__ = ("_call", "_delta", "_start")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._start: Any = None
        self._delta: Any = None

    def see(self, event: Any) -> bool:
        kind = fields(event).get("type")
        if kind == "message_delta":
            self._delta = event
        elif kind == "message_start":
            self._start = fields(event).get("message")
        return False

    def finish(self) -> None:
        start, delta = fields(self._start), fields(self._delta)
        _read_head(self._call, start)
        self._call.is_cut = fields(delta.get("delta")).get("stop_reason") == "max_tokens"
        if delta.get("usage") is not None:
            self._call.usage = _read_usage(self._call, _overlay(start.get("usage"), delta["usage"]))

    def abandon(self, chunks: list[Any]) -> None:
        sizes, pieces = Sizes({}), []
        for event in chunks:
            self.see(event)
            found = fields(event)
            for part in (found.get("delta"), found.get("content_block")):
                pieces += [text for name, item in fields(part).items() if name in _GENERATED for text in texts(item)]
        sizes.add_joined(pieces)
        _read_head(self._call, fields(self._start))
        if fields(fields(self._delta).get("delta")).get("stop_reason"):
            self.finish()
        self._call.received_tokens = sizes.received_tokens()


def _with_region(tier: str, geo: Any) -> str:
    """A tier as the prices know it: inference kept in one region costs more."""
    return "+".join(filter(None, (tier, "regional" if geo in _REGIONS else "")))


def _uses(tool: Mapping[str, Any]) -> int:
    uses = whole_number(tool.get("max_uses"))
    return _SERVER_TOOL_USES if uses is None else uses


def _most_searches(tool: Any) -> int:
    found = fields(tool)
    return _uses(found) if str(found.get("type")).startswith("web_search") else 0


def _add_tools(sizes: Sizes, tools: list[Any]) -> int:
    size = sizes.add_json(tools)
    sizes.extra_tokens += _TOKENS_FOR_TOOLS
    for tool in tools:
        found = fields(tool)
        kind = found.get("type")
        if found.get("cache_control") is not None:
            sizes.add_cache_control(found["cache_control"])
        if not isinstance(kind, str) or kind == "custom":
            sizes.extra_tokens += _TOKENS_PER_TOOL
            continue
        sizes.extra_tokens += _TOKENS_PER_OWN_TOOL
        if kind.startswith(_SERVER_TOOLS):
            sizes.extra_tokens += _SERVER_TOOL_TOKENS * _uses(found)
    return size


def _overlay(start: Any, delta: Any) -> dict[str, Any]:
    return {**fields(start), **{name: value for name, value in fields(delta).items() if value is not None}}


def _read_head(call: Call, found: Mapping[str, Any]) -> None:
    response_id, model = found.get("id"), found.get("model")
    if type(response_id) is str:
        call.response_id = response_id[:200]
    if type(model) is str:
        call.response_model = model[:200]
    usage = fields(found.get("usage"))
    served = "fast" if usage.get("speed") == "fast" else usage.get("service_tier")
    if type(served) is str:
        call.served_tier = _with_region(served[:40], usage.get("inference_geo"))


#: Fields of a delta or a block that the model wrote.
_GENERATED: Final = frozenset(("text", "thinking", "partial_json", "input", "content"))
_INPUT_BUCKETS: Final = ("uncached_input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")


def _read_usage(call: Call, usage: Mapping[str, Any]) -> Usage | None:
    """Disjoint buckets of a Usage, whose `input_tokens` leaves out everything cached.

    What a compaction used is not in the totals (anthropic 2.12.0, `types/beta/beta_usage.py`) and is added.
    """
    try:
        buckets = _read_buckets(call, usage)
        for turn in listed(usage.get("iterations")) or ():
            if fields(turn).get("type") == "compaction":
                for name, tokens in _read_buckets(call, fields(turn)).items():
                    buckets[name] += tokens
        if not any(buckets[name] for name in _INPUT_BUCKETS):
            raise UnreadableUsage("usage.input_tokens is 0")
        server = usage.get("server_tool_use")
        return Usage(
            web_searches=count(fields(server), "web_search_requests") if server is not None else 0,
            **buckets,
        )
    except UnreadableUsage as reason:
        call.doubt = str(reason)
        return None


def _read_buckets(call: Call, usage: Mapping[str, Any]) -> dict[str, int]:
    """Cache writes without their split by lifetime count as the longest that the request asked for, the dearest."""
    written = count(usage, "cache_creation_input_tokens")
    split = fields(usage.get("cache_creation")) if written else {}
    written_5m = count(split, "ephemeral_5m_input_tokens") if split else written if call.cache_write == "5m" else 0
    output, details = count(usage, "output_tokens", required=True), usage.get("output_tokens_details")
    thinking = count(fields(details), "thinking_tokens") if details is not None else 0
    return {
        "uncached_input_tokens": count(usage, "input_tokens", required=True),
        "cache_read_tokens": count(usage, "cache_read_input_tokens"),
        "cache_write_5m_tokens": min(written_5m, written),
        "cache_write_1h_tokens": max(0, written - written_5m),
        "visible_output_tokens": max(0, output - thinking),
        "reasoning_tokens": min(thinking, output),
    }


PROVIDER: Final = Anthropic()
