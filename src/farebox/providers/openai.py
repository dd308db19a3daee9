"""OpenAI's wire format: chat completions.

Field names: openai 3.54.0, `types/chat/completion_create_params.py`, `types/completion_usage.py` (read 2026-11-21).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers._reading import Sizes, UnreadableUsage, count, fields, listed, utf8_size, whole_number

_CHAT: Final = "/chat/completions"
_CAPS: Final = ("max_completion_tokens", "max_tokens")

#: Most input tokens of one content part.  Images: gpt-4o-mini, 2,833 + 8 tiles of 5,667 (platform.openai.com/docs/guides/images,
#: read 2026-11-21), the dearest in tokens.  A file or a recording may fill a context window.
_MEDIA_TOKENS: Final = {"image_url": 48_169, "input_audio": 128_000, "file": 400_000}

# Parameters that put nothing in front of the model.  Any other one counts as text.
_NOT_READ: Final = frozenset(
    ("audio best_of frequency_penalty logit_bias logprobs max_completion_tokens max_tokens messages metadata modalities "
     "model moderation n parallel_tool_calls presence_penalty prompt_cache_key prompt_cache_options "
     "prompt_cache_retention reasoning_effort safety_identifier seed service_tier stop store stream stream_options "
     "temperature tools top_logprobs top_p user verbosity").split()
)  # fmt: skip

# Hidden text around tools and per message: 3 to 4 tokens a message and some hundreds a tool list were measured.
_TOKENS_PER_MESSAGE: Final = 16
_TOKENS_PER_REQUEST: Final = 64
_TOKENS_PER_TOOL: Final = 32
#: A search puts up to this many tokens of pages in front of the model.
_WEB_SEARCH_TOKENS: Final = 128_000


class OpenAI:
    """Chat completions over `POST /chat/completions`."""

    name = "openai"
    sdk = "openai"

    def read_request(self, path: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        if not path.endswith(_CHAT):
            return None
        model, messages = body.get("model"), body.get("messages")
        if type(model) is not str or not model or type(messages) is not list or not messages:
            return None

        sizes = Sizes(_MEDIA_TOKENS)
        system_bytes = last_bytes = 0
        for message in messages:
            found = fields(message)
            content = found.get("content")
            if type(content) is str and len(found) == 2:
                last_bytes = sizes.add_text(content)
            else:
                last_bytes = sizes.add(message)
            if found.get("role") in ("system", "developer"):
                system_bytes += last_bytes
        sizes.extra_tokens += _TOKENS_PER_REQUEST + _TOKENS_PER_MESSAGE * len(messages)
        tools = body.get("tools")
        tools_bytes = sizes.add_json(tools) if tools else 0
        if tools_bytes:
            sizes.extra_tokens += _TOKENS_PER_TOOL * (len(listed(tools) or ()) + 8)
        for name in body.keys() - _NOT_READ:
            sizes.add_json(body[name])
        if body.get("web_search_options") is not None:
            sizes.extra_tokens += _WEB_SEARCH_TOKENS

        caps = [body[name] for name in _CAPS if body.get(name) is not None]
        readable = [cap for cap in map(whole_number, caps) if cap is not None]
        choices = whole_number(body.get("n"))
        tier = body.get("service_tier")
        return Call(
            provider_name=self.name,
            operation_name="chat",
            endpoint=_CHAT,
            server_address=server_address,
            request_model=model,
            is_stream=bool(body.get("stream")),
            declared_cap=min(readable) if readable and len(readable) == len(caps) else None,
            accepts_cap=len(readable) == len(caps),
            choices=choices or 1,
            tier=tier if isinstance(tier, str) and tier != "auto" else "",
            text_bytes=sizes.text_bytes,
            dense_bytes=sizes.dense_bytes,
            extra_input_tokens=sizes.extra_tokens,
            cache_write="12h" if _caches_for_long(body) else "30m",
            reasons=body.get("reasoning_effort") not in (None, "none"),
            has_audio=sizes.has_audio or bool(body.get("audio")),
            has_images=sizes.has_images,
            messages=len(messages),
            system_bytes=system_bytes,
            tools_bytes=tools_bytes,
            last_message_bytes=last_bytes,
        )

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if call.sent_model:
            changes["model"] = call.sent_model
        if call.sent_cap is not None:
            declared = [name for name in _CAPS if body.get(name) is not None]
            for name in declared or [_cap_name(call)]:
                changes[name] = call.sent_cap
        if call.is_stream:
            options = fields(body.get("stream_options"))
            if not options.get("include_usage"):
                changes["stream_options"] = {**options, "include_usage": True}
                call.adds_usage_chunk = True
        return changes

    def read_answer(self, call: Call, answer: Any) -> None:
        found = fields(answer)
        _read_head(call, found)
        _read_finish(call, found)
        usage = found.get("usage")
        if usage is not None:
            call.usage = _read_usage(call, fields(usage))

    def stream_reader(self, call: Call) -> _ChatReader:
        return _ChatReader(call)


def _caches_for_long(body: Mapping[str, Any]) -> bool:
    return fields(body.get("prompt_cache_options")).get("ttl") == "12h"


class _ChatReader:
    """Keeps the last chunk that had usage: some servers send it once, some in every chunk, always cumulative."""

    __slots__ = ("_call", "_last", "_usage", "_hides")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._hides = call.adds_usage_chunk
        self._last: Any = None
        self._usage: Any = None

    def see(self, chunk: Any) -> bool:
        try:
            usage = chunk.usage
        except AttributeError:
            usage = fields(chunk).get("usage")
        if usage is None:
            self._last = chunk
            return False
        self._usage = usage
        if fields(chunk).get("choices"):
            self._last = chunk
            return False
        return self._hides

    def finish(self) -> None:
        found = fields(self._last)
        _read_head(self._call, found)
        _read_finish(self._call, found)
        if self._usage is not None:
            self._call.usage = _read_usage(self._call, fields(self._usage))

    def abandon(self, chunks: list[Any]) -> None:
        received = 0
        for chunk in chunks:
            self.see(chunk)
            for choice in listed(fields(chunk).get("choices")) or ():
                delta = fields(fields(choice).get("delta"))
                received += sum(_delta_size(item) for name, item in delta.items() if name != "role")
        _read_head(self._call, fields(self._last))
        self._call.received_bytes = received


def _delta_size(item: Any) -> int:
    if isinstance(item, str):
        return utf8_size(item)
    if isinstance(item, (list, tuple)):
        return sum(_delta_size(part) for part in item)
    return sum(_delta_size(part) for part in fields(item).values())


def _cap_name(call: Call) -> str:
    """The cap parameter that the server takes: OpenAI's own models reject the old name, other servers may not know the new."""
    own = call.server_address.endswith((".openai.com", ".openai.azure.com"))
    return (
        "max_completion_tokens" if own or call.model.startswith(("o1", "o3", "o4", "gpt-5", "gpt-6")) else "max_tokens"
    )


def _read_head(call: Call, found: Mapping[str, Any]) -> None:
    for name, value in (("response_id", found.get("id")), ("response_model", found.get("model"))):
        if type(value) is str:
            setattr(call, name, value[:200])
    tier = found.get("service_tier")
    if type(tier) is str:
        call.served_tier = tier[:40]


def _read_finish(call: Call, found: Mapping[str, Any]) -> None:
    choices = found.get("choices")
    if type(choices) is list:
        call.is_cut = any(fields(choice).get("finish_reason") == "length" for choice in choices)


def _read_usage(call: Call, usage: Mapping[str, Any]) -> Usage | None:
    """Disjoint buckets of a CompletionUsage, whose details are parts of its totals.

    Parts that add up to more than the whole cannot be believed: then the whole counts at the full rate.
    """
    try:
        whole_input = count(usage, "prompt_tokens", required=True)
        whole_output = count(usage, "completion_tokens", required=True)
        into = fields(usage.get("prompt_tokens_details"))
        out = fields(usage.get("completion_tokens_details"))
        cached = count(into, "cached_tokens") if into else 0
        written = count(into, "cache_write_tokens") if into else 0
        audio = count(into, "audio_tokens") if into else 0
        images = count(into, "image_tokens") if into else 0
        reasoning = count(out, "reasoning_tokens") if out else 0
        spoken = count(out, "audio_tokens") if out else 0
    except UnreadableUsage as reason:
        call.doubt = str(reason)
        return None
    if cached + written + audio + images > whole_input:
        cached = written = 0
        audio, images = min(audio, whole_input), max(0, min(images, whole_input - audio))
    if reasoning + spoken > whole_output:
        reasoning, spoken = 0, min(spoken, whole_output)
    return Usage(
        uncached_input_tokens=whole_input - cached - written - audio - images,
        cache_read_tokens=cached,
        cache_write_30m_tokens=written,
        input_audio_tokens=audio,
        input_image_tokens=images,
        visible_output_tokens=whole_output - reasoning - spoken,
        reasoning_tokens=reasoning,
        output_audio_tokens=spoken,
    )


PROVIDER: Final = OpenAI()
