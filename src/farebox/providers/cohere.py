"""Cohere's wire format: chat of both versions, generation, embeddings and reranking.

Field names: cohere 7.3.1, `v2/raw_client.py`, `raw_base_client.py`, `types/usage.py`, `types/api_meta_billed_units.py` (read
2026-11-30).  What is charged are the billed units, which leave out what Cohere itself puts in front of the model; answers do
not name the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers import Metering, StreamReader
from farebox.providers._openai_completions import set_sizes
from farebox.providers._openai_usage import read_cap
from farebox.providers._reading import (
    MOST_TOKENS,
    NoStream,
    Sizes,
    UnreadableUsage,
    fields,
    listed,
    text_of,
    texts,
    whole_number,
)

CHAT: Final = "/v2/chat"
OLD_CHAT: Final = "/v1/chat"
GENERATE: Final = "/v1/generate"
_EMBED: Final = ("/v2/embed", "/v1/embed")
_RERANK: Final = ("/v2/rerank", "/v1/rerank")
_METERED: Final = (CHAT, OLD_CHAT, GENERATE, *_EMBED, *_RERANK)
#: What costs nothing: to count tokens, to see whether a key is one, to stop what is being made
#: (https://cohere.com/pricing has no price of them; not verified).
_FREE: Final = re.compile(
    r".*/(?:v1/(?:tokenize|detokenize|check-api-key|embed-jobs/[^/]+/cancel)|v2/batches/[^/]+:cancel)"
)

#: Most tokens of a picture: twelve tiles of 256 and one more (https://docs.cohere.com/docs/image-inputs, not verified).
_IMAGE_TOKENS: Final = 4_096
_MEDIA: Final = {"image_url": _IMAGE_TOKENS}
_KINDS: Final = frozenset(("text", "thinking", "document", "function", *_MEDIA))
_TOKENS_PER_MESSAGE: Final = 16
_TOKENS_PER_REQUEST: Final = 64
_TOKENS_PER_TOOL: Final = 64
#: What Cohere writes around tools and documents, should it be billed: it is in `tokens` and not in `billed_units`.
_TOKENS_OF_TEMPLATE: Final = 512
_MOST_CHOICES: Final = 1_000_000

#: A search reads up to so many documents, and a document has so many tokens, a longer one counts as several
#: (https://cohere.com/pricing, as told by https://docs.cohere.com/docs/rerank-overview; not verified).
_DOCUMENTS_PER_SEARCH: Final = 100
_TOKENS_PER_DOCUMENT: Final = 500
_LEAST_ROOM: Final = 100
#: Tokens after which a document is cut off, where the request does not say (`max_tokens_per_doc`).
_MOST_TOKENS_PER_DOCUMENT: Final = 4_096

# Parameters that put nothing in front of the model.  Any other one counts as text.
_NOT_READ: Final = frozenset(
    ("chat_history citation_options citation_quality connectors end_sequences force_single_step frequency_penalty k logprobs "
     "max_input_tokens max_tokens message messages model num_generations p preamble presence_penalty priority prompt "
     "prompt_truncation raw_prompting return_likelihoods return_prompt safety_mode search_queries_only seed stop_sequences "
     "stream strict_tools temperature thinking tools truncate").split()
)  # fmt: skip


class ServerTool(ValueError):
    """A request for something that runs at Cohere, or that has no price here, and that nobody can bound."""


class Cohere:
    """Chat, generation, embeddings and reranking."""

    name = "cohere"
    sdk = "cohere"
    seam = "cohere"
    clients = ("Client", "AsyncClient")
    chat_path = CHAT

    def read_request(self, path: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        endpoint = _endpoint(path)
        if endpoint is None:
            return None
        if endpoint in _EMBED:
            return _read_embed(self.name, endpoint, body, server_address)
        if endpoint in _RERANK:
            return _read_rerank(self.name, endpoint, body, server_address)
        return _read_chat(self.name, endpoint, body, server_address)

    def metering(self, path: str) -> Metering:
        if _endpoint(path) is not None:
            return "metered"
        return "free" if _FREE.fullmatch(path) else "unmetered"

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if call.sent_model:
            changes["model"] = call.sent_model
        if call.sent_cap is not None:
            changes["max_tokens"] = call.sent_cap
        return changes

    def read_answer(self, call: Call, answer: Any) -> None:
        _read_answer(call, fields(answer))

    def stream_reader(self, call: Call) -> StreamReader:
        return _EventReader(call) if call.endpoint in (CHAT, OLD_CHAT, GENERATE) else NoStream()

    def answers(self, path: str, method: str) -> str:
        return ""


def _endpoint(path: str) -> str | None:
    return next((known for known in _METERED if path.endswith(known)), None)


def _new_call(name: str, operation: str, endpoint: str, body: Mapping[str, Any], server_address: str) -> Call:
    call = Call(name, operation, endpoint, text_of(body.get("model")), server_address)
    call.is_plain, call.cache_write = False, "none"
    return call


def _read_chat(name: str, endpoint: str, body: Mapping[str, Any], server_address: str) -> Call | None:
    """The call that a chat or a generation makes; None for a malformed one.

    Raises:
        ServerTool: it has connectors, which search at Cohere.
    """
    asked = body.get({CHAT: "messages", OLD_CHAT: "message", GENERATE: "prompt"}[endpoint])
    if not asked:
        return None
    if body.get("connectors"):
        raise ServerTool("connectors")
    operation = "text_completion" if endpoint == GENERATE else "chat"
    call = _new_call(name, operation, endpoint, body, server_address)
    sizes = Sizes(_MEDIA)
    if endpoint == CHAT:
        for message in listed(asked) or ():
            call.last_message_bytes = sizes.add(message)
            if text_of(fields(message).get("role")) == "system":
                call.system_bytes += call.last_message_bytes
        call.messages = len(listed(asked) or ())
    else:
        sizes.add(body.get("chat_history"))
        call.system_bytes = sizes.add(body.get("preamble"))
        call.last_message_bytes = sizes.add(asked)
        call.messages = 1 + len(listed(body.get("chat_history")) or ())
    tools = listed(body.get("tools"))
    if tools:
        call.tools_bytes = sizes.add_json(tools)
        sizes.extra_tokens += _TOKENS_PER_TOOL * len(tools)
    for other in body.keys() - _NOT_READ:
        sizes.add_json(body[other])
    if "image_url" in sizes.kinds:
        sizes.name_unbounded("image_url")
    if not sizes.kinds <= _KINDS:
        sizes.name_unbounded("a part of an unknown type")
    read_cap(call, body.get("max_tokens"))
    call.is_stream = bool(body.get("stream"))
    call.choices = min(whole_number(body.get("num_generations")) or 1, _MOST_CHOICES)
    call.features = frozenset(_features(body, sizes))
    call.reasons = fields(body.get("thinking")).get("type") == "enabled"
    sizes.extra_tokens += _TOKENS_PER_REQUEST + _TOKENS_OF_TEMPLATE + _TOKENS_PER_MESSAGE * call.messages
    set_sizes(call, sizes)
    call.unbounded = sizes.unbounded
    if body.get("conversation_id"):  # what was said before is Cohere's to know
        call.fills_context, call.unbounded = True, (*call.unbounded, "conversation_id")
    return call


def _features(body: Mapping[str, Any], sizes: Sizes) -> Iterator[str]:
    """What the model must be able to do, by the names of `prices.ladders.FEATURES`."""
    if "image_url" in sizes.kinds:
        yield "images"
    if body.get("tools"):
        yield "tools"
    if body.get("tool_choice") not in (None, "NONE"):
        yield "forced_tools"
    if body.get("documents"):
        yield "citations"
    form = fields(body.get("response_format"))
    if form.get("type") not in (None, "text"):
        yield "structured_output" if form.get("json_schema") or form.get("schema") else "json_mode"
    if body.get("thinking") is not None:
        yield "reasoning"
        yield "reasoning_budget"
    if (whole_number(body.get("num_generations")) or 1) > 1:
        yield "choices"
    yield from (feature for name, feature in _ASKED_BY if body.get(name) is not None)


_ASKED_BY: Final = (
    ("temperature", "sampling"),
    ("p", "sampling"),
    ("k", "sampling"),
    ("frequency_penalty", "penalties"),
    ("presence_penalty", "penalties"),
    ("logprobs", "logprobs"),
    ("stop_sequences", "stop"),
    ("end_sequences", "stop"),
)


def _read_embed(name: str, endpoint: str, body: Mapping[str, Any], server_address: str) -> Call | None:
    """The call that texts to embed make; None for a malformed one.

    Raises:
        ServerTool: it has pictures, which have a price that the list lacks.
    """
    if body.get("images") or body.get("inputs"):
        raise ServerTool("images")
    given = listed(body.get("texts"))
    if not given:
        return None
    call = _new_call(name, "embeddings", endpoint, body, server_address)
    sizes = Sizes({})
    for text in given:
        call.last_message_bytes = sizes.add(text)
    sizes.extra_tokens += 4 * len(given)
    call.choices, call.accepts_cap, call.messages = 0, False, len(given)
    set_sizes(call, sizes)
    return call


def _read_rerank(name: str, endpoint: str, body: Mapping[str, Any], server_address: str) -> Call | None:
    """The call that documents to be put in order make; None for a malformed one."""
    documents, query = listed(body.get("documents")), text_of(body.get("query"))
    if not documents:
        return None
    call = _new_call(name, "rerank", endpoint, body, server_address)
    call.choices, call.accepts_cap, call.messages = 0, False, 1
    longest = whole_number(body.get("max_tokens_per_doc")) or _MOST_TOKENS_PER_DOCUMENT
    room = max(_LEAST_ROOM, _TOKENS_PER_DOCUMENT - len(query.encode("utf-8", "surrogatepass")) // 2)
    parts = 0
    for document in documents:
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts(document))
        parts += 1 + (min(size, longest) if endpoint == _RERANK[0] else size) // room  # no token is less than a byte
    call.most_units = {"search_units": -(-parts // _DOCUMENTS_PER_SEARCH)}
    return call


def _read_answer(call: Call, found: Mapping[str, Any]) -> None:
    """Id, finish and billed units of an answer, or of the last event of a stream."""
    call.response_id = text_of(found.get("id") or found.get("generation_id"))[:200] or call.response_id
    reasons = [
        found.get("finish_reason"),
        *(fields(one).get("finish_reason") for one in listed(found.get("generations")) or ()),
    ]
    call.is_cut = call.is_cut or "MAX_TOKENS" in reasons
    usage, meta = fields(found.get("usage")), fields(found.get("meta"))
    billed = fields(usage.get("billed_units") or meta.get("billed_units"))
    try:
        if call.endpoint in _RERANK:
            call.usage = Usage(search_units=_count(billed, "search_units", at_least=1))
        elif call.endpoint in _EMBED:
            call.usage = Usage(uncached_input_tokens=_count(billed, "input_tokens", at_least=1))
        else:
            call.usage = Usage(
                uncached_input_tokens=_count(billed, "input_tokens", at_least=1),
                visible_output_tokens=_count(billed, "output_tokens"),
            )
    except UnreadableUsage as reason:
        call.doubt = str(reason)


def _count(billed: Mapping[str, Any], name: str, at_least: int = 0) -> int:
    """A count of billed units, which come as floats; rounded up.  What was answered has read something: `at_least`.

    Raises:
        UnreadableUsage: it is absent, no count, or too low.
    """
    value = billed.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MOST_TOKENS:
        raise UnreadableUsage(f"billed_units.{name} is {type(value).__name__}")
    rounded = int(-(-value // 1))
    if rounded < at_least:
        raise UnreadableUsage(f"billed_units.{name} is {rounded}")
    return rounded


class _EventReader:
    """Of a stream of events: the second version's say usage in a last delta, the first version's in a whole answer."""

    __slots__ = ("_call", "_last")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._last: Mapping[str, Any] = {}

    def see(self, event: Any) -> bool:
        found = fields(event)
        kind = found.get("type") or found.get("event_type")
        if kind in ("message-start", "stream-start"):
            self._call.response_id = text_of(found.get("id") or found.get("generation_id"))[:200]
        elif kind == "message-end":
            self._last = fields(found.get("delta"))
        elif kind == "stream-end" or found.get("is_finished") is True:
            response = fields(found.get("response"))
            self._last = {"finish_reason": found.get("finish_reason"), **response}
        return False

    def finish(self) -> None:
        if self._last:
            _read_answer(self._call, self._last)
        else:
            self._call.doubt = "the stream ended before its answer"

    def abandon(self, chunks: list[Any]) -> None:
        sizes, pieces = Sizes({}), []
        for event in chunks:
            self.see(event)
            found = fields(event)
            if found.get("type") != "message-start":
                pieces += [*texts(found.get("delta")), *texts(found.get("text")), *texts(found.get("tool_calls"))]
        sizes.add_joined(pieces)
        if self._last:
            self.finish()
        self._call.received_tokens = sizes.received_tokens()


PROVIDER: Final = Cohere()
