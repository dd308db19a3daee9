"""Mistral's wire format: chat completions, and text that is filled in between two ends.

Field names: mistralai 3.7.0, `client/models/chatcompletionrequest.py`, `usageinfo.py`, `fimcompletionrequest.py` (read
2026-11-30).  Cached tokens are part of the prompt's, in `usage.prompt_tokens_details`, which the SDK does not name
(https://github.com/mistralai/client-ts/issues/240, read 2026-11-30).
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers._audio_length import most_milliseconds
from farebox.providers._openai_completions import set_sizes
from farebox.providers._openai_usage import CHAT as NAMES
from farebox.providers._openai_usage import read_cap, read_finish, read_head, read_tier, read_usage
from farebox.providers._reading import MOST_TOKENS, Part, Sizes, fields, listed, text_of, texts, whole_number
from farebox.providers._uploads import Upload

CHAT: Final = "/chat/completions"
FIM: Final = "/fim/completions"

#: Most tokens of a picture.  Pixtral takes one for every 16 x 16 pixels of a picture of 1,024 x 1,024, and one a row:
#: https://huggingface.co/mistralai/Pixtral-12B-2409 (read 2026-11-30); that no later model takes more is not verified.
_IMAGE_TOKENS: Final = 4_608
#: Voxtral has 12.5 tokens a second of sound (https://arxiv.org/abs/2507.13264, 2.1, not verified), and a context of 32,768.
_TOKENS_PER_SECOND: Final = 16
_LONGEST_SOUND: Final = 3_600_000  # milliseconds; of one that is sent as a link
_MEDIA: Final = {"image_url": _IMAGE_TOKENS, "input_audio": 0, "document_url": 0, "file": 0, "tool_file": 0}
_FILES: Final = frozenset(("document_url", "file", "tool_file"))
_KINDS: Final = frozenset(("text", "thinking", "reference", "tool_reference", *_MEDIA))
_TOKENS_PER_MESSAGE: Final = 16
_TOKENS_PER_REQUEST: Final = 64
_TOKENS_PER_TOOL: Final = 32
_TOKENS_FOR_TOOLS: Final = 256
#: System prompts that the server adds when it is asked to: 70 and 200 tokens
#: (https://docs.mistral.ai/capabilities/guardrailing, https://huggingface.co/mistralai/Magistral-Small-2506; not verified).
_TOKENS_OF_PROMPTS: Final = 512
_MOST_CHOICES: Final = 1_000_000

# Parameters that put nothing in front of the model.  Any other one counts as text.
_NOT_READ: Final = frozenset(
    ("frequency_penalty guardrails logprobs max_tokens messages metadata min_tokens model n parallel_tool_calls "
     "presence_penalty prompt_cache_key prompt_logprobs prompt_mode random_seed reasoning_effort repetition_penalty "
     "safe_prompt service_tier stop stream stream_options temperature tools top_k top_logprobs top_p top_prompt_logprobs"
     ).split()
)  # fmt: skip


class ServerTool(ValueError):
    """A request for something that runs at Mistral and is charged beside the model's tokens, which nobody here can bound."""


def read_chat_request(provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None:
    """The call that a chat completion makes; None for a malformed one.

    Raises:
        ServerTool: it has a tool that runs at Mistral, or another model moderate it.
    """
    model, messages = text_of(body.get("model")), listed(body.get("messages"))
    if not model or not messages:
        return None
    call = Call(provider_name, "chat", CHAT, model, server_address)
    sizes, sounds = Sizes(_MEDIA), _Sounds()
    sizes.read_part = sounds.read_part
    for message in messages:
        call.last_message_bytes = sizes.add(message)
        if text_of(fields(message).get("role")) == "system":
            call.system_bytes += call.last_message_bytes
    call.messages = len(messages)
    _read_tools(call, body, sizes)
    for name in body.keys() - _NOT_READ:
        sizes.add_json(body[name])
    if body.get("safe_prompt") or body.get("prompt_mode"):
        sizes.extra_tokens += _TOKENS_OF_PROMPTS
    if not sizes.kinds <= _KINDS:
        sizes.name_unbounded("a part of an unknown type")
    _read_options(call, body)
    call.choices = min(whole_number(body.get("n")) or 1, _MOST_CHOICES)
    call.reasons = body.get("reasoning_effort") not in (None, "none") or body.get("prompt_mode") == "reasoning"
    call.features = frozenset(_features(body, sizes))
    sizes.extra_tokens += _TOKENS_PER_REQUEST + _TOKENS_PER_MESSAGE * call.messages
    set_sizes(call, sizes)
    call.unbounded, call.fills_context = sizes.unbounded, not _FILES.isdisjoint(sizes.kinds)
    if sounds.milliseconds:
        call.most_units = {"input_audio_milliseconds": sounds.milliseconds}
    return call


def read_fim_request(provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None:
    """The call that a text to be filled in makes; None for a malformed one."""
    model, prompt = text_of(body.get("model")), body.get("prompt")
    if not model or prompt is None:
        return None
    call = Call(provider_name, "text_completion", FIM, model, server_address)
    sizes = Sizes({})
    call.last_message_bytes = sizes.add(prompt)
    sizes.add(body.get("suffix"))
    for name in body.keys() - _NOT_READ - {"prompt", "suffix"}:
        sizes.add_json(body[name])
    _read_options(call, body)
    call.messages = 1
    sizes.extra_tokens += _TOKENS_PER_REQUEST
    set_sizes(call, sizes)
    call.features = frozenset(("fill_in", *_features(body, sizes)))  # which no ladder has
    return call


class _Sounds:
    """Reads the parts of messages that are no text, and adds up how long the sound among them is."""

    def __init__(self) -> None:
        self.milliseconds = 0

    def read_part(self, kind: str, found: Mapping[str, Any], most: int) -> Part:
        if kind != "input_audio":
            return Part(most, most, unbounded=kind)
        given = found.get("input_audio")
        data = text_of(given) or text_of(fields(given).get("data"))
        told = _length(data.partition("base64,")[2] or data)
        milliseconds = _LONGEST_SOUND if told is None else told
        self.milliseconds += milliseconds
        tokens = -(-milliseconds // 1_000) * _TOKENS_PER_SECOND
        return Part(tokens, tokens, unbounded="input_audio" if told is None else "")


def _length(data: str) -> int | None:
    """Milliseconds of a recording in base64; None where its file does not say."""
    try:
        milliseconds, is_told = most_milliseconds(Upload(binascii.a2b_base64(data)), 0)
    except (binascii.Error, ValueError):
        return None
    return milliseconds if is_told else None


def _read_tools(call: Call, body: Mapping[str, Any], sizes: Sizes) -> None:
    tools = listed(body.get("tools")) or []
    if any(fields(tool).get("type") not in ("function", None) for tool in tools):
        raise ServerTool("tools")
    if body.get("guardrails"):
        raise ServerTool("guardrails")
    if tools:
        call.tools_bytes = sizes.add_json(tools)
        sizes.extra_tokens += _TOKENS_FOR_TOOLS + _TOKENS_PER_TOOL * len(tools)


def _read_options(call: Call, body: Mapping[str, Any]) -> None:
    read_cap(call, body.get("max_tokens"))
    call.least_cap = max(1, whole_number(body.get("min_tokens")) or 0)
    call.cache_write = "none"
    call.is_stream = bool(body.get("stream"))
    read_tier(call, body)


def _features(body: Mapping[str, Any], sizes: Sizes) -> Iterator[str]:
    """What the model must be able to do, by the names of `prices.ladders.FEATURES`."""
    if "image_url" in sizes.kinds:
        yield "images"
    if "input_audio" in sizes.kinds:
        yield "audio"
    if not _FILES.isdisjoint(sizes.kinds):
        yield "files"
    effort = body.get("reasoning_effort")
    if effort == "none":
        yield "reasoning_none"
    elif effort is not None or body.get("prompt_mode") == "reasoning":
        yield "reasoning"
        yield "reasoning_effort" if effort in ("low", "medium", "high") else "reasoning_max"
    if "thinking" in sizes.kinds:
        yield "reasoning_history"
    if body.get("tools"):
        yield "tools"
    if body.get("tool_choice") not in (None, "auto", "none"):
        yield "forced_tools"
    kind = fields(body.get("response_format")).get("type")
    if kind not in (None, "text"):
        yield "json_mode" if kind == "json_object" else "structured_output"
    if (whole_number(body.get("n")) or 1) > 1:
        yield "choices"
    if any(fields(message).get("prefix") for message in listed(body.get("messages")) or ()):
        yield "prefill"
    yield from (feature for name, feature in _ASKED_BY if body.get(name) is not None)


_ASKED_BY: Final = (
    ("temperature", "sampling"),
    ("top_p", "sampling"),
    ("top_k", "sampling"),
    ("presence_penalty", "penalties"),
    ("frequency_penalty", "penalties"),
    ("repetition_penalty", "penalties"),
    ("logprobs", "logprobs"),
    ("prompt_logprobs", "logprobs"),
    ("stop", "stop"),
    ("prediction", "prediction"),
)


def rewrite(call: Call) -> dict[str, Any]:
    """The keys of a body to change: the model and the cap."""
    changes: dict[str, Any] = {}
    if call.sent_model:
        changes["model"] = call.sent_model
    if call.sent_cap is not None:
        changes["max_tokens"] = call.sent_cap
    return changes


def read_completion(call: Call, found: Mapping[str, Any]) -> None:
    """Ids, served model, finish and usage of an answer, or of the last chunk of one."""
    read_head(call, found)
    read_finish(call, found)
    usage = fields(found.get("usage"))
    if usage:
        call.usage = _read_usage(call, usage)


def _read_usage(call: Call, usage: Mapping[str, Any]) -> Usage | None:
    """Tokens, and the seconds of sound that were listened to; None, and `call.doubt`, where it can't be believed."""
    call.served_tier = text_of(usage.get("service_tier"))[:40] or call.served_tier
    found = read_usage(call, usage, NAMES)
    seconds = usage.get("prompt_audio_seconds")
    if found is None or not seconds or type(seconds) not in (int, float) or not 0 < seconds < MOST_TOKENS:
        return found
    return found._replace(input_audio_milliseconds=-int(-seconds * 1_000 // 1))


class CompletionReader:
    """Of a stream of choices, the last of which brings the usage along."""

    __slots__ = ("_call", "_has_ended", "_last")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._last: Mapping[str, Any] = {}
        self._has_ended = False

    def see(self, event: Any) -> bool:
        found = chunk_of(event)
        choices = listed(found.get("choices")) or ()
        if any(fields(choice).get("finish_reason") for choice in choices):
            self._has_ended = True
            read_finish(self._call, found)
        if fields(found.get("usage")) or not self._last:
            self._last = found
        return False

    def finish(self) -> None:
        if self._has_ended:
            read_completion(self._call, self._last)
        else:
            read_head(self._call, self._last)
            self._call.doubt = "the stream ended before its answer"

    def abandon(self, chunks: list[Any]) -> None:
        sizes, pieces = Sizes({}), []
        for chunk in chunks:
            self.see(chunk)
            for choice in listed(chunk_of(chunk).get("choices")) or ():
                delta = fields(fields(choice).get("delta"))
                pieces += [text for name, item in delta.items() if name != "role" for text in texts(item)]
        sizes.add_joined(pieces)
        if self._has_ended:
            read_completion(self._call, self._last)
        else:
            read_head(self._call, self._last)
        self._call.received_tokens = sizes.received_tokens()


def chunk_of(event: Any) -> Mapping[str, Any]:
    """The chunk that the SDK's own event has in its `data`, or that this is."""
    found = fields(event)
    return fields(found["data"]) if "data" in found else found
