"""Anthropic's wire format: messages, and the same under `beta`.

Field names: anthropic 2.12.0, `types/message_create_params.py`, `types/usage.py`, `types/message_delta_usage.py`
(read 2026-11-21).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from farebox._call import BATCH, Call, Part
from farebox.providers import Metering
from farebox.providers._anthropic_batches import PATH as BATCHES
from farebox.providers._anthropic_batches import earlier_batch, read_batch, read_batch_answer
from farebox.providers._anthropic_free import is_free
from farebox.providers._anthropic_plain import MESSAGES as _MESSAGES
from farebox.providers._anthropic_plain import (
    OWN_SERVER,
    TOKENS_PER_MESSAGE,
    TOKENS_PER_REQUEST,
    read_plain,
    read_plain_answer,
)
from farebox.providers._anthropic_sessions import PATH as SESSIONS
from farebox.providers._anthropic_sessions import earlier_session, is_held, read_session, read_session_answer
from farebox.providers._anthropic_usage import read_head, read_usage, with_region
from farebox.providers._media import read_anthropic_part
from farebox.providers._reading import (
    COUNTS,
    MOST_TOKENS,
    Sizes,
    fields,
    listed,
    text_of,
    texts,
    whole_number,
)
from farebox.providers._vision import Pictures, anthropic_image_tokens

#: Claude on other companies' clouds, which have prices of their own (anthropic 2.14.0, `lib/bedrock/_client.py`,
#: `lib/vertex/_client.py`, `lib/foundry.py`, read 2026-11-29).
_CLOUDS: Final = (
    (".amazonaws.com", "aws.bedrock"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    (".rep.googleapis.com", "gcp.vertex_ai"),
    (".azure.com", "azure.ai.inference"),
)
#: Any other Vertex host keeps the work in a region, which costs 1.1 times as much
#: (https://cloud.google.com/vertex-ai/generative-ai/pricing, a copy, read 2026-11-21).
_VERTEX_EVERYWHERE: Final = "aiplatform.googleapis.com"

#: Most input tokens of one content part, where it can't be read or bounded.  A picture has its own by model; a document may
#: fill a context window.
_MEDIA_TOKENS: Final = {"image": 0, "document": 200_000, "file": 200_000, "container_upload": 200_000}
_TEXT_KINDS: Final = frozenset(
    ("text thinking redacted_thinking tool_reference compaction citations".split()) + list(_MEDIA_TOKENS)
)
#: How the types of parts end that are a tool's use and what came of it: text and documents.
_OF_TOOLS: Final = ("_use", "_result", "_result_error", "_location")

# Parameters that put nothing in front of the model.  Any other one counts as text.
_NOT_READ: Final = frozenset(
    ("betas billing_policy cache_control container context_management inference_geo max_tokens messages metadata model "
     "service_tier speed stop_sequences stream system temperature thinking thread tool_choice tools top_k top_p "
     "user_profile_id").split()
)  # fmt: skip

#: Parameters of a request that says nothing out of the ordinary.
_PLAIN_CALL: Final = frozenset(("max_tokens", "messages", "model", "system", "temperature"))
_SHORT_LIVED: Final = frozenset(("", "5m"))

_ROLES: Final = ("user", "assistant")
#: The system prompt that tools bring along is up to 804 tokens, Anthropic's own tools add up to 735 each
#: (docs.anthropic.com/en/docs/build-with-claude/tool-use/overview, read 2026-11-21).
_TOKENS_FOR_TOOLS: Final = 1_024
_TOKENS_PER_TOOL: Final = 32
_TOKENS_PER_OWN_TOOL: Final = 1_024
#: What one use of a tool that runs at the provider can put in front of the model, and uses where none are declared.
_SERVER_TOOL_TOKENS: Final = 200_000
_SERVER_TOOL_USES: Final = 10
#: Parameters that put something in front of the model that only the provider knows.
_OUT_OF_SIGHT: Final = ("container", "mcp_servers", "compaction", "fallbacks")
#: The largest context window of a Claude (docs.anthropic.com/en/docs/about-claude/models/overview, read 2026-11-21).
_LARGEST_WINDOW: Final = 1_000_000
#: The most that a Claude writes (as above).
_LARGEST_OUTPUT: Final = 128_000
#: The least `budget_tokens`, which must be below `max_tokens` (anthropic 2.12.0, `types/thinking_config_enabled_param.py`).
_LEAST_THINKING: Final = 1_024
_SERVER_TOOLS: Final = ("web_search", "web_fetch", "code_execution", "advisor", "mcp")


#: Anthropic's, and those of the clouds that its SDK has clients for.
_OWN_HOSTS: Final = (".anthropic.com", ".amazonaws.com", ".googleapis.com", ".azure.com")


class Anthropic:
    """Messages over `POST /v1/messages`."""

    name = "anthropic"
    sdk = "anthropic"
    clients = ("Anthropic", "AsyncAnthropic")
    chat_path = _MESSAGES

    read_plain = read_plain
    read_plain_answer = staticmethod(read_plain_answer)

    def read_request(self, path: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        if path.endswith(BATCHES):
            return read_batch(self.name, body, server_address, self.read_request)
        if not path.endswith(_MESSAGES):
            return read_session(self.name, path, body, server_address)
        model, messages, cap = body.get("model"), body.get("messages"), body.get("max_tokens")
        if type(model) is not str:
            model = text_of(model)
        if type(messages) is not list:
            messages = listed(messages)
        if type(cap) is int and cap > MOST_TOKENS:
            cap = MOST_TOKENS  # what a server makes of it nobody knows: it must not pass unseen
        elif type(cap) is not int or cap not in COUNTS:
            cap = whole_number(cap)
        if not model or not messages or cap is None:
            return None

        sizes = Sizes(_MEDIA_TOKENS)
        last_bytes = 0
        message: Any = None
        for message in messages:
            found = message if type(message) is dict else fields(message)
            content = found.get("content")
            last_bytes = sizes.add_text(content) if type(content) is str else _add_content(sizes, content)
            if len(found) != 2 or found.get("role") not in _ROLES:
                last_bytes += _add_beside(sizes, found)
        call = Call(
            provider_name=self.name if server_address == OWN_SERVER else _host_of(server_address),
            operation_name="chat",
            endpoint=_MESSAGES,
            server_address=server_address,
            request_model=model,
        )
        call.declared_cap = cap
        call.messages = len(messages)
        call.last_message_bytes = last_bytes
        system = body.get("system")
        if system:
            call.system_bytes = sizes.add_text(system) if type(system) is str else _add_content(sizes, system)
        turns = 0
        if sizes.read_part is not None or not _PLAIN_CALL.issuperset(body):
            turns = _read_options(call, body, sizes)
        else:
            call.is_plain, call.cache_write = True, "none"
            if "temperature" in body and _is_tuned(body["temperature"]):
                call.features = _SAMPLING
        if call.messages > 1 and fields(message).get("role") == "assistant":
            call.features = call.features | {"prefill"}
        extra_tokens = sizes.extra_tokens + TOKENS_PER_REQUEST + TOKENS_PER_MESSAGE * call.messages
        call.text_bytes = sizes.text_bytes
        call.dense_bytes = sizes.dense_bytes
        call.extra_input_tokens = extra_tokens
        call.proven_input_tokens = sizes.text_bytes + sizes.surplus + extra_tokens
        if turns:
            _add_turns(call, turns)
        if call.provider_name == "gcp.vertex_ai" and server_address != _VERTEX_EVERYWHERE:
            call.tier = "+".join(filter(None, (call.tier, "regional")))
        return call

    def is_own(self, host: str) -> bool:
        return host.endswith(_OWN_HOSTS)

    def metering(self, path: str) -> Metering:
        if path.endswith((_MESSAGES, BATCHES)):
            return "metered"
        return "free" if is_free(path) or is_held(path) else "unmetered"

    def reads_some(self, path: str) -> bool:
        """Whether some requests to a path that is unmetered are read: sessions with a budget, and what is said in them."""
        return path.endswith((SESSIONS, "/events"))

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if call.sent_model:
            changes["model"] = call.sent_model
        if call.sent_cap is not None:
            changes["max_tokens"] = call.sent_cap
            if call.least_cap > _LEAST_THINKING:
                changes |= _lower_thinking(call, body.get("thinking"), call.sent_cap)
        return changes

    def answers(self, path: str, method: str) -> str:
        """The id of the batch or session that a request asks after, or whose results it reads; "" for any other request."""
        return earlier_batch(path, method) or earlier_session(path, method)

    def read_answer(self, call: Call, answer: Any) -> None:
        if call.operation_name == BATCH:
            read_batch_answer(call, answer, self.read_answer)
            return
        if call.endpoint == SESSIONS:
            read_session_answer(call, answer)
            return
        found = fields(answer)
        call.is_cut = found.get("stop_reason") == "max_tokens"
        usage = found.get("usage")
        if usage is None:
            read_head(call, found, {})
            return
        counts = fields(usage)
        read_head(call, found, counts)
        call.usage = read_usage(call, counts)

    def stream_reader(self, call: Call) -> _EventReader:
        return _EventReader(call)


def _host_of(server_address: str) -> str:
    """Whose prices a server charges, by OpenTelemetry's names; a server that nobody knows passes Anthropic's on."""
    return next((name for end, name in _CLOUDS if server_address.endswith(end)), "anthropic")


def _add_content(sizes: Sizes, content: Any) -> int:
    sizes.read_part = read_anthropic_part
    return sizes.add(content)


def _add_beside(sizes: Sizes, message: Mapping[str, Any]) -> int:
    """Count what a message holds beside its content, which the API itself refuses."""
    beside = {name: value for name, value in message.items() if name != "content" and value is not None}
    return sizes.add(beside, as_part=False) if len(beside) > 1 or beside.get("role") not in _ROLES else 0


def _lower_thinking(call: Call, thinking: Any, sent_cap: int) -> dict[str, Any]:
    """The thinking that fits below a lowered cap: its share of the cap stays what it was, and is never raised."""
    found = fields(thinking)
    budget, declared = whole_number(found.get("budget_tokens")), call.declared_cap
    if budget is None or not declared or sent_cap >= declared:
        return {}
    fitting = max(_LEAST_THINKING, min(budget * sent_cap // declared, sent_cap - 1))
    return {"thinking": {**found, "budget_tokens": fitting}} if fitting < budget else {}


def _add_turns(call: Call, turns: int) -> None:
    """After each use of a tool that runs at the provider the model reads everything once more, its own output too."""
    call.turns = turns
    results = _SERVER_TOOL_TOKENS * turns
    once = call.proven_input_tokens - results
    again = once * turns + (call.declared_cap or 0) * turns + results * (turns - 1) // 2
    call.proven_input_tokens = min(call.proven_input_tokens + again, (turns + 1) * _LARGEST_WINDOW)


def _read_options(call: Call, body: Mapping[str, Any], sizes: Sizes) -> int:
    """Whatever else a request may say that the model reads, or that changes the price.

    Returns how often tools that run at the provider may be used.
    """
    turns, tools = 0, listed(body.get("tools"))
    call.parts = tuple(_other_work(body, tools or (), call.declared_cap or 0))
    if tools:
        call.tools_bytes, turns = _add_tools(sizes, tools)
        call.most_web_searches = sum(map(_most_searches, tools))
    if body.get("cache_control") is not None:
        sizes.add_cache_control(body["cache_control"])
    for name in body.keys() - _NOT_READ:
        sizes.add_json(body[name])
    for name in _OUT_OF_SIGHT:
        if body.get(name):
            sizes.name_unbounded(name)
    if thread := fields(body.get("thread")):
        _read_thread(call, thread, sizes)
    if any(text_of(fields(edit).get("type")).startswith("compact") for edit in _edits(body)):
        sizes.name_unbounded("context_management")
    if any(kind not in _TEXT_KINDS and not kind.endswith(_OF_TOOLS) for kind in sizes.kinds):
        sizes.name_unbounded("a part of an unknown type")
    lifetimes = sizes.cache_lifetimes
    call.cache_write = "none" if not lifetimes else "5m" if lifetimes <= _SHORT_LIVED else "1h"
    tier = "fast" if body.get("speed") == "fast" else "standard" if body.get("service_tier") == "standard_only" else ""
    call.tier = with_region(tier, body.get("inference_geo"))
    call.is_stream = bool(body.get("stream"))
    thinking = fields(body.get("thinking")).get("type")
    call.reasons = thinking in ("enabled", "adaptive", "between_tools")
    if thinking == "enabled":
        call.least_cap = min(_LEAST_THINKING + 1, call.declared_cap or 0)
        budget = whole_number(fields(body["thinking"]).get("budget_tokens")) or 0
        if budget >= (call.declared_cap or 0):
            # Thoughts between tools: they may take more than `max_tokens`, which then is no cap for them
            # (https://platform.claude.com/docs/en/build-with-claude/extended-thinking, a copy, read 2026-11-22).
            call.declared_cap = (call.declared_cap or 0) + budget
    call.has_images = sizes.has_images
    call.unbounded = sizes.unbounded
    call.features = frozenset(_features(body, sizes, tools or ()))
    if sizes.pictures:
        pictures = Pictures(tuple(sizes.pictures), anthropic_image_tokens)
        call.pictures = pictures
        sizes.extra_tokens += pictures.tokens(call.request_model)
    return turns


def _other_work(body: Mapping[str, Any], tools: Iterable[Any], cap: int) -> Iterator[Part]:
    """What else may work on the request: advisors, models to fall back on, and the model itself where it sums up.

    An advisor reads the whole conversation, and what was answered so far, each time it is asked; a fallback starts over with
    its own cap, and of `"default"` nobody knows which it is (anthropic 2.14.0, `types/beta/beta_advisor_tool_20260301_param.py`,
    `types/beta/beta_fallback_param.py`, read 2026-11-29).
    """
    for tool in map(fields, tools):
        if text_of(tool.get("type")).startswith("advisor"):
            uses, most = _uses(tool), whole_number(tool.get("max_tokens"))
            output = uses * (_LARGEST_OUTPUT if most is None else most)
            yield Part(text_of(tool.get("model")), cap * uses, output, requests=uses, reads=uses)
    fallbacks = body.get("fallbacks")
    for fallback in map(fields, listed(fallbacks) or ((fallbacks,) if fallbacks else ())):
        most = whole_number(fallback.get("max_tokens"))
        yield Part(text_of(fallback.get("model")), cap, cap if most is None else most, reads=1)
    if body.get("compaction") or any(text_of(fields(edit).get("type")).startswith("compact") for edit in _edits(body)):
        yield Part("", cap, cap, reads=1)


def _read_thread(call: Call, thread: Mapping[str, Any], sizes: Sizes) -> None:
    """A conversation that the provider keeps: what is not sent again is read again, and billed.

    Fields: anthropic 2.12.0, `types/beta/beta_thread_continue_params.py` (read 2026-11-22).
    """
    call.is_continuable, call.previous_name = True, "previous_message_id"
    call.previous_response_id = text_of(thread.get("previous_message_id"))
    if not call.previous_response_id and thread.get("type") != "create":
        sizes.name_unbounded("thread")
        call.fills_context = True


def _edits(body: Mapping[str, Any]) -> list[Any]:
    return listed(fields(body.get("context_management")).get("edits")) or []


_SAMPLING: Final = frozenset(("sampling",))


def _is_tuned(temperature: Any) -> bool:
    return temperature is not None and not (type(temperature) in (int, float) and temperature == 1)


def _features(body: Mapping[str, Any], sizes: Sizes, tools: Iterable[Any]) -> Iterator[str]:
    """What the model must be able to do, by the names of `prices.ladders.FEATURES`."""
    yield from (feature for kind, feature in _OF_PARTS.items() if kind in sizes.kinds)
    for tool in tools:
        kind = text_of(fields(tool).get("type"))
        yield next((feature for start, feature in _OF_TOOL.items() if kind.startswith(start)), "tools")
    if body.get("mcp_servers"):
        yield "mcp"
    if body.get("fallbacks"):
        yield "fallbacks"
    if fields(body.get("tool_choice")).get("type") in ("any", "tool"):
        yield "forced_tools"
    output = fields(body.get("output_config"))
    if output.get("format") is not None or body.get("output_format") is not None:
        yield "structured_output"
    thinking = fields(body.get("thinking")).get("type")
    if thinking == "disabled":
        yield "reasoning_none"
    elif thinking is not None:
        yield "reasoning"
        yield _THINKING.get(text_of(thinking), "reasoning_adaptive")
    if output.get("effort") is not None:
        yield "reasoning"
        yield _EFFORTS.get(text_of(output.get("effort")), "reasoning_max")
    if _is_tuned(body.get("temperature")) or body.get("top_p") is not None or body.get("top_k") is not None:
        yield "sampling"
    if body.get("stop_sequences"):
        yield "stop"


_OF_PARTS: Final = {
    "image": "images",
    "document": "files",
    "file": "files",
    "container_upload": "files",
    "citations": "citations",
    "thinking": "reasoning_history",
    "redacted_thinking": "reasoning_history",
}
#: By how the type of a tool begins; any other tool is one that the caller runs.
_OF_TOOL: Final = {
    "web_search": "web_search",
    "web_fetch": "web_fetch",
    "code_execution": "code_interpreter",
    "computer": "computer_use",
    "browser": "computer_use",
    "bash": "shell",
    "text_editor": "shell",
    "tool_search": "tool_search",
    "mcp": "mcp",
    "advisor": "advisor",
}
_THINKING: Final = {
    "enabled": "reasoning_budget",
    "adaptive": "reasoning_adaptive",
    "between_tools": "reasoning_between_tools",
}
_EFFORTS: Final = {
    "low": "reasoning_effort",
    "medium": "reasoning_effort",
    "high": "reasoning_effort",
    "xhigh": "reasoning_xhigh",
}


class _EventReader:
    """Lays the usage of `message_delta` over that of `message_start`, whose one output token is a placeholder."""

    __slots__ = ("_call", "_delta", "_start")
    telling = (b'"message_start"', b'"message_delta"')

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
        read_head(self._call, start, fields(start.get("usage")))
        self._call.is_cut = fields(delta.get("delta")).get("stop_reason") == "max_tokens"
        if delta.get("usage") is not None:
            self._call.usage = read_usage(self._call, _overlay(start.get("usage"), delta["usage"]))

    def abandon(self, chunks: list[Any]) -> None:
        sizes, pieces = Sizes({}), []
        for event in chunks:
            self.see(event)
            found = fields(event)
            for part in (found.get("delta"), found.get("content_block")):
                pieces += [text for name, item in fields(part).items() if name in _GENERATED for text in texts(item)]
        sizes.add_joined(pieces)
        start = fields(self._start)
        read_head(self._call, start, fields(start.get("usage")))
        if fields(fields(self._delta).get("delta")).get("stop_reason"):
            self.finish()
        self._call.received_tokens = sizes.received_tokens()


def _uses(tool: Mapping[str, Any]) -> int:
    uses = whole_number(tool.get("max_uses"))
    return _SERVER_TOOL_USES if uses is None else uses


def _most_searches(tool: Any) -> int:
    found = fields(tool)
    return _uses(found) if str(found.get("type")).startswith("web_search") else 0


def _add_tools(sizes: Sizes, tools: list[Any]) -> tuple[int, int]:
    """Count the tools; returns their bytes, and how often those that run at the provider may be used."""
    size = sizes.add_json(tools)
    sizes.extra_tokens += _TOKENS_FOR_TOOLS
    turns = 0
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
            turns += _uses(found)
            is_endless = kind.startswith("web_fetch") and whole_number(found.get("max_content_tokens")) is None
            if is_endless or whole_number(found.get("max_uses")) is None:
                sizes.name_unbounded(next(name for name in _SERVER_TOOLS if kind.startswith(name)))
    return size, turns


def _overlay(start: Any, delta: Any) -> dict[str, Any]:
    return {**fields(start), **{name: value for name, value in fields(delta).items() if value is not None}}


#: Fields of a delta or a block that the model wrote.
_GENERATED: Final = frozenset(("text", "thinking", "partial_json", "input", "content"))


PROVIDER: Final = Anthropic()
