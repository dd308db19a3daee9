"""OpenAI's wire format: chat completions here, the other endpoints in modules of their own.

Field names: openai 3.54.0, `types/chat/completion_create_params.py`, `types/completion_usage.py` (read 2026-11-21).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from farebox._call import Call
from farebox.providers import Metering, StreamReader, _openai_batches
from farebox.providers._media import read_openai_part
from farebox.providers._openai_batches import earlier_batch, glance, noted
from farebox.providers._openai_free import is_free
from farebox.providers._openai_lanes import Lanes
from farebox.providers._openai_live import PATH as LIVE
from farebox.providers._openai_live import Live
from farebox.providers._openai_realtime import PATH as REALTIME
from farebox.providers._openai_realtime import Realtime
from farebox.providers._openai_responses import PATH as RESPONSES
from farebox.providers._openai_responses import earlier_answer
from farebox.providers._openai_runs import earlier_run
from farebox.providers._openai_surfaces import SURFACES, surface_of
from farebox.providers._openai_usage import (
    CHAT,
    OWN_HOST,
    ChoicesReader,
    ask_for_usage,
    in_region,
    is_own_server,
    read_finish,
    read_head,
    read_plain_answer,
    read_tier,
    read_usage,
)
from farebox.providers._openai_videos import earlier_video
from farebox.providers._reading import (
    COUNTS,
    Sizes,
    fields,
    listed,
    text_of,
    texts,
    weigh,
    whole_number,
)
from farebox.providers._vision import Pictures, openai_image_tokens

_CHAT: Final = "/chat/completions"
_CAPS: Final = ("max_completion_tokens", "max_tokens")
#: Models that refuse `max_tokens` (https://platform.openai.com/docs/api-reference/chat/create, read 2026-11-21).
_NEW_CAP_MODELS: Final = ("o1", "o3", "o4", "gpt-5", "gpt-6")

#: Most input tokens of one content part, where it can't be read or bounded.  A picture has its own by model, and a file may
#: fill all that the model can read.
_MEDIA_TOKENS: Final = {"image_url": 0, "input_audio": 128_000, "file": 0}
_TEXT_KINDS: Final = frozenset(("text", "refusal", *_MEDIA_TOKENS))

# Parameters that put nothing in front of the model.  Any other one counts as text.
_NOT_READ: Final = frozenset(
    ("audio best_of frequency_penalty logit_bias logprobs max_completion_tokens max_tokens messages metadata modalities "
     "model moderation n parallel_tool_calls presence_penalty prompt_cache_key prompt_cache_options "
     "prompt_cache_retention reasoning_effort safety_identifier seed service_tier stop store stream stream_options "
     "temperature tools top_logprobs top_p user verbosity").split()
)  # fmt: skip

#: Parameters of a request that says nothing out of the ordinary, besides its model, its messages and a cap; and their types.
_PLAIN: Final = {"temperature": (int, float), "stream": (bool,)}
_SYSTEM_ROLES: Final = ("system", "developer")
_PLAIN_ROLES: Final = ("user", "assistant", *_SYSTEM_ROLES)

# Hidden text around tools and per message: 3 to 4 tokens a message and some hundreds a tool list were measured.
_TOKENS_PER_MESSAGE: Final = 16
_TOKENS_PER_REQUEST: Final = 64
_TOKENS_PER_TOOL: Final = 32
#: A system prompt that a server's template writes of its own, and its preamble to tools.  The longest known are gpt-oss's
#: and Qwen's, of 70 and 150 tokens (their `chat_template.jinja` on huggingface.co, read 2026-11-22).
_TOKENS_OF_TEMPLATE: Final = 512
#: Tools that the caller runs, by "type".
_CALLERS_TOOLS: Final = ("function", "custom", None)
#: More choices than any server makes (OpenAI's: 128, platform.openai.com/docs/api-reference/chat, read 2026-11-21).
_MOST_CHOICES: Final = 1_000_000
#: A search puts up to this many tokens of pages in front of the model.
_WEB_SEARCH_TOKENS: Final = 128_000


class OpenAI:
    """Chat completions over `POST /chat/completions`, responses, embeddings and the old completions."""

    name = "openai"
    sdk = "openai"
    clients = ("OpenAI", "AsyncOpenAI")
    chat_path = _CHAT
    #: Modules of the SDK with websockets, and their paths.  Of sessions that translate no event has a usage; a sideband and a
    #: fork look at a session whose time another connection pays.
    sockets: Final = {
        "openai.resources.realtime.realtime": "/realtime",
        "openai.resources.realtime.translations.translations": "/realtime/translations",
        "openai.resources.beta.realtime.realtime": "/realtime",
        "openai.resources.responses.responses": "/responses",
        # Agents and what is injected have an answer read more than its request says.
        "openai.resources.beta.responses.responses": "/responses?beta=true",
        "openai.resources.live.live": LIVE,
        "openai.resources.live.sideband": "/live",
        "openai.resources.live.forks": "/live",
    }

    #: Without this there is nothing in an SDK by which they could be read.
    socket_module = "openai._websocket_connection"
    #: Who reads what is said over them.
    dialogues: Final = {REALTIME: Realtime, RESPONSES: Lanes, LIVE: Live}

    def read_plain(self, path: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        if not path.endswith(_CHAT):
            return None
        model, messages, known = body.get("model"), body.get("messages"), 2
        if type(model) is not str or type(messages) is not list or not model or not messages or "-search" in model:
            return None
        cap = body.get("max_completion_tokens") or body.get("max_tokens")
        if cap is not None:
            known = 3
            if type(cap) is not int or cap not in COUNTS:
                return None
        if len(body) != known and not _says_little_more(body, known):
            return None

        text_bytes = dense_bytes = english_bytes = surplus = system_bytes = last_bytes = 0
        for message in messages:
            if type(message) is not dict or len(message) != 2:
                return None
            content, role = message.get("content"), message.get("role")
            if type(content) is not str or role not in _PLAIN_ROLES:
                return None
            last_bytes, dense, english, more = weigh(content)
            text_bytes += last_bytes
            dense_bytes += dense
            english_bytes += english
            surplus += more
            if role in _SYSTEM_ROLES:
                system_bytes += last_bytes
        call = Call(self.name, "chat", _CHAT, model, server_address)
        call.is_plain = True
        call.cache_write = "30m"
        call.declared_cap = cap
        call.messages = count = len(messages)
        call.last_message_bytes = last_bytes
        call.text_bytes, call.dense_bytes, call.english_bytes = text_bytes, dense_bytes, english_bytes
        extra_tokens = _TOKENS_PER_REQUEST + _TOKENS_PER_MESSAGE * count
        call.extra_input_tokens = extra_tokens
        call.proven_input_tokens = text_bytes + surplus + extra_tokens + _TOKENS_OF_TEMPLATE
        if server_address != OWN_HOST:
            call.tier = in_region(server_address, "")
        if system_bytes:
            call.system_bytes = system_bytes
        if len(body) != known:
            if "temperature" in body and _is_tuned(body["temperature"], 1):
                call.features = _SAMPLING
            call.is_stream = bool(body.get("stream"))
        return call

    def read_request(self, path: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        if not path.endswith(_CHAT):
            surface = surface_of(path)
            call = None if surface is None else surface.read_request(self.name, body, server_address)
            if call is not None:
                call.tier = in_region(server_address, call.tier)
            return call
        model, messages = text_of(body.get("model")), listed(body.get("messages"))
        if not model or not messages:
            return None

        sizes = Sizes(_MEDIA_TOKENS)
        system_bytes = last_bytes = 0
        for message in messages:
            found = fields(message)
            last_bytes = _add_message(sizes, message, found, model)
            if text_of(found.get("role")) in _SYSTEM_ROLES:
                system_bytes += last_bytes
        call = Call(self.name, "chat", _CHAT, model, server_address)
        call.cache_write = "30m"
        call.messages = len(messages)
        call.last_message_bytes = last_bytes
        call.system_bytes = system_bytes
        _read_caps(call, body)
        _read_options(call, body, sizes)
        if "-search" in model:
            call.most_web_searches = 1  # it searches, whether asked to or not
        extra_tokens = sizes.extra_tokens + _TOKENS_PER_REQUEST + _TOKENS_PER_MESSAGE * call.messages
        call.text_bytes = sizes.text_bytes
        call.dense_bytes = sizes.dense_bytes
        call.english_bytes = sizes.english_bytes
        call.extra_input_tokens = extra_tokens
        call.proven_input_tokens = sizes.text_bytes + sizes.surplus + extra_tokens + _TOKENS_OF_TEMPLATE
        call.tier = in_region(server_address, call.tier)
        return call

    def is_own(self, host: str) -> bool:
        return host.endswith(".openai.com")

    def metering(self, path: str) -> Metering:
        if path.endswith(_CHAT) or surface_of(path) is not None:
            return "metered"
        return "free" if is_free(path) else "unmetered"

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        if call.endpoint != _CHAT:
            return SURFACES[call.endpoint].rewrite(call, body)
        changes: dict[str, Any] = {}
        if call.sent_model:
            changes["model"] = call.sent_model
        if call.sent_cap is not None:
            declared = [name for name in _CAPS if body.get(name) is not None]
            for name in declared or [_cap_name(call, body)]:
                changes[name] = call.sent_cap
        if call.sent_model and body.get("max_tokens") is not None and call.model.startswith(_NEW_CAP_MODELS):
            # The model asked for took the old name, this one refuses it.  To the API null is as good as absent.
            changes.setdefault("max_completion_tokens", changes.get("max_tokens", body["max_tokens"]))
            changes["max_tokens"] = None
        ask_for_usage(call, body, changes)
        return changes

    def read_answer(self, call: Call, answer: Any) -> None:
        if call.endpoint != _CHAT:
            SURFACES[call.endpoint].read_answer(call, answer)
            return
        found = fields(answer)
        read_head(call, found)
        read_finish(call, found)
        usage = found.get("usage")
        if usage is not None:
            call.usage = read_usage(call, usage, CHAT, web_searches=call.most_web_searches)

    read_plain_answer = staticmethod(read_plain_answer)

    def stream_reader(self, call: Call) -> StreamReader:
        return _ChatReader(call) if call.endpoint == _CHAT else SURFACES[call.endpoint].stream_reader(call)

    def answers(self, path: str, method: str) -> str:
        """The id of the earlier response, video, batch or run that a request asks after, "" for any other request."""
        earlier = earlier_answer(path, method) or earlier_video(path, method) or earlier_batch(path, method)
        return earlier or earlier_run(path, method)

    def noted(self, path: str, body: Mapping[str, Any], server_address: str) -> Callable[[Any], None] | None:
        """What to do with the answer to a request that is free, and is remembered; None for any other."""
        return noted(path, body, server_address, self.read_request)

    glance = staticmethod(glance)


def _says_little_more(body: Mapping[str, Any], known: int) -> bool:
    """Whether a body holds nothing besides `known` parameters but some that say nothing out of the ordinary."""
    little = sum(type(body.get(name)) in kinds for name, kinds in _PLAIN.items())
    asks = body.get("stream_options")
    return len(body) - known == little + (type(asks) is dict and asks == {"include_usage": True})


def _add_message(sizes: Sizes, message: Any, found: Mapping[str, Any], model: str) -> int:
    """Count a message that is more than a dict of a role and a text; `found` are its fields."""
    content = found.get("content")
    if len(found) == 2 and isinstance(content, str) and text_of(found.get("role")) in _PLAIN_ROLES:
        return sizes.add_text(text_of(content))
    if sizes.read_part is None:
        sizes.read_part = partial(read_openai_part, model)
    if fields(found.get("audio")).get("id") is not None:  # what the model said aloud before
        sizes.extra_tokens += _MEDIA_TOKENS["input_audio"]
        sizes.has_audio = True
        sizes.name_unbounded("audio (by id)")
    return sizes.add(message)


def _read_caps(call: Call, body: Mapping[str, Any]) -> None:
    """The declared output cap.  Of two the larger: servers do not agree which of them counts."""
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
        tools_listed = listed(tools) or ()
        call.tools_bytes = sizes.add_json(tools)
        sizes.extra_tokens += _TOKENS_PER_TOOL * (len(tools_listed) + 8)
        for tool in tools_listed:
            if fields(tool).get("type") not in _CALLERS_TOOLS:
                sizes.name_unbounded("tools (run by the server)")
                break
    for name in body.keys() - _NOT_READ:
        sizes.add_json(body[name])
    if body.get("web_search_options") is not None:
        call.most_web_searches = 1
        sizes.extra_tokens += _WEB_SEARCH_TOKENS
        sizes.name_unbounded("web_search_options")
    if not sizes.kinds <= _TEXT_KINDS:
        sizes.name_unbounded("a part of an unknown type")
    if fields(body.get("prompt_cache_options")).get("ttl") == "12h" or "12h" in sizes.cache_lifetimes:
        call.cache_write = "12h"
    read_tier(call, body)
    call.is_stream = bool(body.get("stream"))
    call.choices = min(whole_number(body.get("n")) or 1, _MOST_CHOICES)
    call.reasons = body.get("reasoning_effort") not in (None, "none")
    call.has_images, call.has_audio = sizes.has_images, sizes.has_audio or bool(body.get("audio"))
    call.unbounded, call.fills_context = sizes.unbounded, "file" in sizes.unbounded
    call.features = frozenset(_features(body, sizes))
    if sizes.pictures:
        pictures = Pictures(tuple(sizes.pictures), openai_image_tokens)
        call.pictures = pictures
        sizes.extra_tokens += pictures.tokens(call.request_model)


_SAMPLING: Final = frozenset(("sampling",))
_EFFORTS: Final = {
    "minimal": "reasoning_minimal",
    "low": "reasoning_effort",
    "medium": "reasoning_effort",
    "high": "reasoning_effort",
    "xhigh": "reasoning_xhigh",
}


def _is_tuned(value: Any, usual: int) -> bool:
    return value is not None and not (type(value) in (int, float) and value == usual)


def _features(body: Mapping[str, Any], sizes: Sizes) -> Iterator[str]:
    """What the model must be able to do, by the names of `prices.ladders.FEATURES`."""
    yield from (name for name, kind in _INPUTS if kind in sizes.kinds)
    effort = body.get("reasoning_effort")
    if effort == "none":
        yield "reasoning_none"
    elif effort is not None:
        yield "reasoning"
        yield _EFFORTS.get(text_of(effort), "reasoning_max")
    if body.get("tools") or body.get("functions"):
        yield "tools"
        yield "chat_tools" if effort is None else "chat_tools_none" if effort == "none" else "chat_tools_reasoning"
    for name in ("tool_choice", "function_call"):
        if body.get(name) not in (None, "auto", "none"):
            yield "forced_tools"
    form = body.get("response_format")
    kind = fields(form).get("type")
    if form is not None and kind != "text":
        yield "json_mode" if kind == "json_object" else "structured_output"
    modalities = tuple(texts(body["modalities"])) if "modalities" in body else ()
    if body.get("audio") or "audio" in modalities:
        yield "audio_output"
    if "image" in modalities:
        yield "image_generation"
    if (whole_number(body.get("n")) or 1) > 1:
        yield "choices"
    if _is_tuned(body.get("temperature"), 1) or body.get("top_p") is not None:
        yield "sampling"
    yield from (feature for name, feature in _ASKED_BY if body.get(name))
    if body.get("web_search_options") is not None:
        yield "web_search"


#: Parts of messages, and parameters that mean something unless they are empty, false or zero.
_INPUTS: Final = (("images", "image_url"), ("audio", "input_audio"), ("files", "file"))
_ASKED_BY: Final = (
    ("presence_penalty", "penalties"),
    ("frequency_penalty", "penalties"),
    ("logit_bias", "penalties"),
    ("logprobs", "logprobs"),
    ("top_logprobs", "logprobs"),
    ("stop", "stop"),
    ("prediction", "prediction"),
    ("verbosity", "verbosity"),
)


class _ChatReader(ChoicesReader):
    """As a stream of choices, whose deltas hold more than text."""

    __slots__ = ()

    def said(self, choice: Any) -> Iterator[str]:
        delta = fields(fields(choice).get("delta"))
        return (text for name, item in delta.items() if name != "role" for text in texts(item))


def _cap_name(call: Call, body: Mapping[str, Any]) -> str:
    """The cap parameter that the server takes: OpenAI's own models reject the old name, other servers may not know the new.

    Along with a prediction the new one is refused, and the models that take predictions know the old one
    (https://learn.microsoft.com/azure/ai-foundry/openai/how-to/predicted-outputs, a copy, read 2026-11-22).
    """
    if body.get("prediction") is not None and not call.model.startswith(_NEW_CAP_MODELS):
        return "max_tokens"
    own = is_own_server(call.server_address)
    return "max_completion_tokens" if own or call.model.startswith(_NEW_CAP_MODELS) else "max_tokens"


PROVIDER: Final = OpenAI()
_openai_batches.SURFACE.read_row = PROVIDER.read_answer
