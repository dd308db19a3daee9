"""OpenAI's wire format: chat completions.

Field names: openai 3.54.0, `types/chat/completion_create_params.py`, `types/completion_usage.py` (read 2026-11-21).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers._reading import (
    MOST_TOKENS,
    Sizes,
    UnreadableUsage,
    count,
    fields,
    listed,
    text_of,
    texts,
    whole_number,
)

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

#: Parameters of a request that says nothing out of the ordinary.
_PLAIN_CALL: Final = frozenset(("messages", "model", "temperature", *_CAPS))

# Hidden text around tools and per message: 3 to 4 tokens a message and some hundreds a tool list were measured.
_TOKENS_PER_MESSAGE: Final = 16
_TOKENS_PER_REQUEST: Final = 64
_TOKENS_PER_TOOL: Final = 32
#: More choices than the API takes (128, platform.openai.com/docs/api-reference/chat, read 2026-11-21).
_MOST_CHOICES: Final = 1_024
#: A search puts up to this many tokens of pages in front of the model.
_WEB_SEARCH_TOKENS: Final = 128_000
_LAST_CHUNKS: Final = 3


class OpenAI:
    """Chat completions over `POST /chat/completions`."""

    name = "openai"
    sdk = "openai"
    clients = ("OpenAI", "AsyncOpenAI")
    chat_path = _CHAT

    def read_request(self, path: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        if not path.endswith(_CHAT):
            return None
        model, messages = text_of(body.get("model")), listed(body.get("messages"))
        if not model or not messages:
            return None

        sizes = Sizes(_MEDIA_TOKENS)
        system_bytes = last_bytes = 0
        for message in messages:
            found = message if type(message) is dict else fields(message)
            content = found.get("content")
            if type(content) is str and len(found) == 2:
                last_bytes = sizes.add_text(content)
            else:
                last_bytes = sizes.add(message)
            if found.get("role") in ("system", "developer"):
                system_bytes += last_bytes
        sizes.extra_tokens += _TOKENS_PER_REQUEST + _TOKENS_PER_MESSAGE * len(messages)
        call = Call(
            provider_name=self.name,
            operation_name="chat",
            endpoint=_CHAT,
            server_address=server_address,
            request_model=model,
        )
        call.cache_write, call.messages = "30m", len(messages)
        call.system_bytes, call.last_message_bytes = system_bytes, last_bytes
        if not _PLAIN_CALL.issuperset(body):
            _read_options(call, body, sizes)
        _read_caps(call, body)
        call.text_bytes, call.dense_bytes = sizes.text_bytes, sizes.dense_bytes
        call.extra_input_tokens = sizes.extra_tokens
        call.has_images = sizes.has_images
        call.has_audio = call.has_audio or sizes.has_audio
        return call

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


def _read_caps(call: Call, body: Mapping[str, Any]) -> None:
    """The declared output cap.  Of two the larger: servers do not agree which of them counts."""
    declared = body.get("max_completion_tokens")
    if type(declared) is int and 0 <= declared <= MOST_TOKENS and "max_tokens" not in body:
        call.declared_cap = declared
        return
    for name in _CAPS:
        given = body.get(name)
        if given is not None:
            cap = whole_number(given)
            call.accepts_cap = call.accepts_cap and cap is not None
            call.declared_cap = max(cap or 0, call.declared_cap or 0)
    if not call.accepts_cap:
        call.declared_cap = None


def _read_options(call: Call, body: Mapping[str, Any], sizes: Sizes) -> None:
    """Whatever else a request may say that the model reads, or that changes the price."""
    tools = body.get("tools")
    if tools:
        call.tools_bytes = sizes.add_json(tools)
        sizes.extra_tokens += _TOKENS_PER_TOOL * (len(listed(tools) or ()) + 8)
    for name in body.keys() - _NOT_READ:
        sizes.add_json(body[name])
    if body.get("web_search_options") is not None:
        call.most_web_searches = 1
        sizes.extra_tokens += _WEB_SEARCH_TOKENS
    if fields(body.get("prompt_cache_options")).get("ttl") == "12h":
        call.cache_write = "12h"
    tier = body.get("service_tier")
    call.tier = tier if isinstance(tier, str) and tier != "auto" else ""
    call.is_stream = bool(body.get("stream"))
    call.choices = min(whole_number(body.get("n")) or 1, _MOST_CHOICES)
    call.reasons = body.get("reasoning_effort") not in (None, "none")
    call.has_audio = bool(body.get("audio"))


class _ChatReader:
    """Keeps the last chunk that had usage: some servers send it once, some in every chunk, always cumulative."""

    __slots__ = ("_call", "_hides", "_is_final", "_recent", "_usage")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._hides = call.adds_usage_chunk
        #: The last chunks: of one choice the end is among them, and a filter's verdict or a usage chunk may follow it.
        self._recent: deque[Any] = deque(maxlen=_LAST_CHUNKS)
        self._usage: Any = None
        self._is_final = False

    def see(self, chunk: Any) -> bool:
        try:
            usage, choices = chunk.usage, chunk.choices
        except AttributeError:
            found = fields(chunk)
            usage, choices = found.get("usage"), found.get("choices")
        if usage is not None:
            self._usage = usage
        if choices:
            self._is_final = False
            self._recent.append(chunk)
            if self._call.choices > 1:
                _read_finish(self._call, fields(chunk))
            return False
        # Before the answer has ended a chunk without choices is a server's own matter; after it, it is the usage chunk.
        self._is_final = usage is not None
        return self._hides and (usage is not None or self._has_ended())

    def _has_ended(self) -> bool:
        """Whether a choice has said how it ended."""
        return any(
            fields(choice).get("finish_reason")
            for chunk in self._recent
            for choice in listed(fields(chunk).get("choices")) or ()
        )

    def finish(self) -> None:
        for chunk in self._recent:
            found = fields(chunk)
            _read_head(self._call, found)
            _read_finish(self._call, found)
        if self._usage is None:
            return
        if self._is_final or self._has_ended():
            self._call.usage = _read_usage(self._call, fields(self._usage))
        else:
            self._call.doubt = "the stream ended before its answer"

    def abandon(self, chunks: list[Any]) -> None:
        sizes, pieces = Sizes({}), []
        for chunk in chunks:
            self.see(chunk)
            for choice in listed(fields(chunk).get("choices")) or ():
                delta = fields(fields(choice).get("delta"))
                pieces += [text for name, item in delta.items() if name != "role" for text in texts(item)]
        sizes.add_joined(pieces)
        if self._is_final:
            self.finish()
        else:
            for chunk in self._recent:
                _read_head(self._call, fields(chunk))
        self._call.received_tokens = sizes.received_tokens()


def _cap_name(call: Call) -> str:
    """The cap parameter that the server takes: OpenAI's own models reject the old name, other servers may not know the new."""
    own = call.server_address.endswith((".openai.com", ".openai.azure.com"))
    return (
        "max_completion_tokens" if own or call.model.startswith(("o1", "o3", "o4", "gpt-5", "gpt-6")) else "max_tokens"
    )


def _read_head(call: Call, found: Mapping[str, Any]) -> None:
    response_id, model, tier = found.get("id"), found.get("model"), found.get("service_tier")
    if type(response_id) is str:
        call.response_id = response_id[:200]
    if type(model) is str:
        call.response_model = model[:200]
    if type(tier) is str:
        call.served_tier = tier[:40]


def _read_finish(call: Call, found: Mapping[str, Any]) -> None:
    choices = found.get("choices")
    for choice in choices if type(choices) is list else ():
        if fields(choice).get("finish_reason") == "length":
            call.is_cut = True


def _read_usage(call: Call, usage: Mapping[str, Any]) -> Usage | None:
    """Disjoint buckets of a CompletionUsage, whose details are parts of its totals.

    Parts that add up to more than the whole cannot be believed: then the whole counts at the full rate.
    """
    try:
        whole_input = count(usage, "prompt_tokens", required=True)
        whole_output = count(usage, "completion_tokens", required=True)
        if not whole_input:
            raise UnreadableUsage("usage.prompt_tokens is 0")
        into = fields(usage.get("prompt_tokens_details"))
        out = fields(usage.get("completion_tokens_details"))
        if not any(into.values()) and not any(out.values()):
            return Usage(uncached_input_tokens=whole_input, visible_output_tokens=whole_output)
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
        cache_write_30m_tokens=0 if call.cache_write == "12h" else written,
        cache_write_12h_tokens=written if call.cache_write == "12h" else 0,
        input_audio_tokens=audio,
        input_image_tokens=images,
        visible_output_tokens=whole_output - reasoning - spoken,
        reasoning_tokens=reasoning,
        output_audio_tokens=spoken,
    )


PROVIDER: Final = OpenAI()
