"""Google's wire format: generateContent, its stream, and where the rest of the Gemini API and of Vertex AI is read.

The model stands in the path, `/v1beta/models/gemini-2.5-pro:generateContent`, or behind `projects/…/publishers/google`.
`maxOutputTokens` holds what is thought: no page promises it, and it is so in what users report
(https://github.com/googleapis/python-genai/issues/782 and /2062, read 2026-11-21).

Field names: google-genai 3.6.1, `models.py`, `_GenerateContentConfig_to_mldev` and `_to_vertex` (read 2026-11-29).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from farebox._call import BATCH, Call
from farebox.providers import Metering, StreamReader
from farebox.providers._dialogues import Opened
from farebox.providers._google_batches import (
    EMBED,
    GENERATE,
    JOBS,
    ReadRow,
    earlier_batch,
    read_batch,
    read_batch_answer,
    rows_in,
    unread_job,
)
from farebox.providers._google_caches import CACHES, cache_in, read_cache, read_cache_request, tools_in_cache
from farebox.providers._google_embeddings import EMBEDDING_VERBS, read_embedding_request, read_embeddings
from farebox.providers._google_free import is_free
from farebox.providers._google_interactions import (
    DECISIONS,
    EventReader,
    read_decision_request,
    read_interaction,
    read_interaction_request,
    rewrite_interaction,
)
from farebox.providers._google_interactions import PATH as INTERACTIONS
from farebox.providers._google_live import PATH as LIVE
from farebox.providers._google_live import Live
from farebox.providers._google_media import (
    PICTURES,
    VIDEOS,
    asked_operation,
    read_pictures,
    read_pictures_request,
    read_videos,
    read_videos_request,
)
from farebox.providers._google_parts import Contents, draws, key_of, pick
from farebox.providers._google_usage import ChunkReader, is_cut, read_head, read_usage, searches
from farebox.providers._reading import MOST_TOKENS, NoStream, fields, listed, text_of, whole_number
from farebox.providers._unmetered import READER
from farebox.providers._uploads import Upload
from farebox.providers._vision import Pictures, gemini_image_tokens, is_older_gemini

_PATH: Final = re.compile(r"/(models|tunedModels|endpoints)/([^/:]+):(\w+)$")
GENERATE_CONTENT: Final = "generateContent"
_GENERATE: Final = (GENERATE_CONTENT, "streamGenerateContent")
_CHAT: Final = ":generateContent"
_INTERACTIONS: Final = "interactions"
#: A look at an interaction, or the end of one that is still being made.
_LOOK: Final = re.compile(r"/interactions/([^/:]+)(/cancel|:cancel)?$")

#: What is read on its own; anything else at the top of a body counts as text.
_KNOWN: Final = frozenset(
    ("cachedContent contents generationConfig labels model modelArmorConfig safetySettings serviceTier store "
     "systemInstruction toolConfig tools").split()
)  # fmt: skip
#: Of a generation config, what the model reads.
_SCHEMAS: Final = ("responseSchema", "responseJsonSchema", "responseFormat")

_TOKENS_PER_MESSAGE: Final = 16
_TOKENS_PER_REQUEST: Final = 64
_TOKENS_FOR_TOOLS: Final = 1_024
_TOKENS_PER_TOOL: Final = 32
#: What a tool that runs at Google puts in front of the model, where that has no bound: pages and results that were found
#: are not charged for a search, the code that was run and what it printed are.
_SERVER_TOOL_TOKENS: Final = 65_536
#: Tools that run at Google, and the feature that each needs of a model.  Those of `_ENDLESS` may fill the context.
_SERVER_TOOLS: Final = {
    "googleSearch": "web_search",
    "googleSearchRetrieval": "web_search",
    "enterpriseWebSearch": "web_search",
    "parallelAiSearch": "web_search",
    "exaAiSearch": "web_search",
    "googleMaps": "web_search",
    "urlContext": "web_fetch",
    "fileSearch": "file_search",
    "retrieval": "file_search",
    "codeExecution": "code_interpreter",
    "mcpServers": "mcp",
}
_ENDLESS: Final = frozenset(("web_fetch", "file_search", "mcp"))
#: Searches that a grounded request is held for; before Gemini 3 it has one fee, however many there are.
_MOST_SEARCHES: Final = 10
#: The least output cap of a request for a picture, which has up to 2,520 tokens
#: (https://ai.google.dev/gemini-api/docs/pricing, a copy, read 2026-11-29).
_TOKENS_PER_PICTURE: Final = 4_096
_EFFORTS: Final = {"minimal": "reasoning_minimal"}
#: A header by which Vertex AI is asked for another tier
#: (https://cloud.google.com/vertex-ai/generative-ai/docs/priority-paygo, a copy, read 2026-11-29).
_TIER_HEADERS: Final = ("x-vertex-ai-llm-shared-request-type", "x-vertex-ai-llm-request-type")
#: OpenTelemetry's name of the same models on Vertex AI, and what its paths have.
_VERTEX_AI: Final = "gcp.vertex_ai"
_VERTEX_PATH: Final = re.compile(r"/(?:projects|publishers)/")
#: Hosts that keep the work in a region or a group of them (docs.cloud.google.com/gemini-enterprise-agent-platform/resources/
#: locations, read 2026-11-29).  That they cost 1.1 times as much is read second-hand
#: (https://github.com/schowave/llmenu/releases/tag/v0.8.0, read 2026-11-29).
_VERTEX: Final = ("-aiplatform.googleapis.com", ".rep.googleapis.com")


class Google:
    """`POST …/models/{model}:generateContent` and its like."""

    name = "gcp.gemini"
    sdk = "google.genai"
    seam = "google"
    clients = ("Client", "Client")
    chat_path = _CHAT
    #: Modules of the SDK with websockets, and what is opened.  Of music no message says what was used.
    sockets: Final = {"google.genai.live": LIVE, "google.genai.live_music": "live.music.connect"}
    socket_module = "google.genai.live"
    dialogues: Final = (LIVE,)

    def live(self, opened: Opened, config: Mapping[str, Any]) -> Live:
        """Who reads a live session."""

        def read(body: Mapping[str, Any]) -> Call | None:
            return self._read_generate(
                opened.provider_name, GENERATE_CONTENT, opened.model, body, opened.server_address
            )

        return Live(opened, config, read)

    def read_request(self, path: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        name = _VERTEX_AI if _VERTEX_PATH.search(path) else self.name
        if path.endswith((INTERACTIONS, DECISIONS)):
            read = read_interaction_request if path.endswith(INTERACTIONS) else read_decision_request
            asked = read(name, path, body, server_address)
            if asked is not None and _is_regional(server_address, asked.request_model):
                asked.tier = "+".join(filter(None, (asked.tier, "regional")))
            return asked
        if path == _CHAT:
            model, verb, body = text_of(body.get("model")), "generateContent", _as_contents(body)
        else:
            found = _PATH.search(path)
            if found is None and f"/{CACHES}" in path:
                return self._read_cache(name, path, body, server_address)
            if found is None:
                return unread_job(_VERTEX_AI, server_address) if path.endswith(JOBS) and body else None
            kind, model, verb = found.groups()
            model = model if kind == "models" else f"{kind}/{model}"
        if verb in EMBEDDING_VERBS:
            embedding = read_embedding_request(name, verb, model, body, server_address)
            if embedding is not None or verb != PICTURES:
                return embedding
            return read_pictures_request(name, model, body, server_address)
        if verb == VIDEOS:
            return read_videos_request(name, model, body, server_address)
        if verb in (GENERATE, EMBED):
            return read_batch(name, verb, model, body, server_address, self._row_reader(name, server_address))
        return self._read_generate(name, verb, model, body, server_address) if verb in _GENERATE else None

    def _row_reader(self, name: str, server_address: str) -> ReadRow:
        """Reads a request of a batch."""

        def read(verb: str, model: str, body: Mapping[str, Any]) -> Call | None:
            one = read_embedding_request if verb in EMBEDDING_VERBS else self._read_generate
            return one(name, verb, model, body, server_address)

        return read

    def _read_cache(self, name: str, path: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        def read(model: str, body: Mapping[str, Any]) -> Call | None:
            return self._read_generate(name, _GENERATE[0], model, body, server_address)

        return read_cache_request(name, path, body, server_address, read)

    def _read_generate(
        self, name: str, verb: str, model: str, body: Mapping[str, Any], server_address: str
    ) -> Call | None:
        contents = pick(body, "contents")
        if not model or not contents:
            return None
        call = Call(
            provider_name=name,
            operation_name="generate_content",
            endpoint=verb,
            server_address=server_address,
            request_model=model,
        )
        config = fields(pick(body, "generationConfig"))
        counted = Contents(text_of(pick(config, "mediaResolution")))
        counted.add(contents)
        sizes = counted.sizes
        call.messages, call.last_message_bytes = counted.messages, counted.last_bytes
        if (system := pick(body, "systemInstruction")) is not None:
            call.system_bytes = counted.add_parts(fields(system).get("parts") if fields(system) else system)
        call.cache_write = "none"  # caches that the API makes by itself cost nothing to write
        call.is_stream = verb == "streamGenerateContent"
        if _is_regional(server_address, model):
            call.tier = "regional"
        if len(body) > 1 or config or counted.features or draws(model):
            _read_options(call, body, config, counted)
        call.choices = max(1, whole_number(pick(config, "candidateCount")) or 1) if config else 1
        extra_tokens = sizes.extra_tokens + _TOKENS_PER_REQUEST + _TOKENS_PER_MESSAGE * call.messages
        call.text_bytes, call.dense_bytes, call.english_bytes = sizes.text_bytes, sizes.dense_bytes, sizes.english_bytes
        call.extra_input_tokens = extra_tokens
        call.proven_input_tokens = sizes.text_bytes + sizes.surplus + extra_tokens
        return call

    def metering(self, path: str) -> Metering:
        verb = path.rpartition(":")[2] if ":" in path else ""
        # Of interactions those with an agent are not read.
        if verb in _GENERATE or verb in EMBEDDING_VERBS or verb in (VIDEOS, GENERATE, EMBED):
            return "metered"
        if path.endswith((f"/{CACHES}", DECISIONS)):
            return "metered"
        return "free" if is_free(path) else "unmetered"

    def reads_some(self, path: str) -> bool:
        """Whether some of the requests to a path are read that `metering` must call "unmetered": not those with an agent."""
        return path.endswith("/interactions")

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        if call.endpoint == _INTERACTIONS:
            return rewrite_interaction(call, body)
        if call.sent_cap is None:
            return {}
        place = key_of(body, "generationConfig")
        config = fields(body.get(place))
        changed = {**config, key_of(config, "maxOutputTokens"): call.sent_cap}
        if call.reasons and call.declared_cap:
            _lower_thinking(call, config, changed)
        return {place: changed}

    def rewrite_path(self, call: Call, path: str) -> str:
        """The path with the model that is sent in it."""
        found = _PATH.search(path)
        if found is None or not call.sent_model:
            return path
        return f"{path[: found.start(2)]}{call.sent_model}{path[found.end(2) :]}"

    def read_headers(self, call: Call, headers: Mapping[str, str]) -> None:
        """Take note of what a request says in its headers and not in its body: on Vertex AI the tier."""
        for name, value in headers.items():
            if name.lower() in _TIER_HEADERS and isinstance(value, str):
                word = "standard" if value.lower() in ("shared", "dedicated") else value[:40].lower()
                call.tier = "+".join(filter(None, (word, call.tier)))

    def answers(self, path: str, method: str) -> str:
        found = _LOOK.search(path)
        return found[1] if found is not None and (method.lower() == "get" or found[2]) else ""

    def asks_after(self, path: str, method: str, body: Mapping[str, Any]) -> tuple[str, str]:
        """The provider and the id of an earlier answer that a request asks after; the id is "" for any other request."""
        name = _VERTEX_AI if _VERTEX_PATH.search(path) else self.name
        asked = asked_operation(path, method, body) or earlier_batch(path, method)
        return name, asked or self.answers(path, method)

    def file_noted(self, file: Upload) -> Callable[[Any], None] | None:
        """What to do with the answer to a file that is sent, where it holds the requests of a batch."""
        return rows_in(file, self._row_reader(self.name, ""))

    def read_answer(self, call: Call, answer: Any) -> None:
        if call.is_unmetered:
            READER.read_answer(call, answer)
            return
        if call.operation_name == BATCH:
            read_batch_answer(call, answer, self.read_answer)
            return
        found = fields(answer)
        if call.endpoint in (_INTERACTIONS, DECISIONS):
            read_interaction(call, found)
            return
        read = _READ_BY.get(call.operation_name)
        if read is not None:
            read(call, found)
            return
        usage = found.get("usageMetadata")
        read_head(call, found, fields(usage))
        call.is_cut = is_cut(found)
        if usage is not None:
            call.usage = read_usage(call, usage, searches(call, [found]))

    def stream_reader(self, call: Call) -> StreamReader:
        if call.is_unmetered:
            return READER
        if call.endpoint == _INTERACTIONS:
            return EventReader(call)
        return NoStream() if call.operation_name in _READ_BY else ChunkReader(call)


#: Who reads the answer of a call that is no text, by its operation.
_READ_BY: Final[dict[str, Callable[[Call, Mapping[str, Any]], None]]] = {
    "embeddings": read_embeddings,
    "cache": read_cache,
    "image_generation": read_pictures,
    "video_generation": read_videos,
}


def _is_regional(server_address: str, model: str) -> bool:
    """Whether a request is kept in a region at a price of its own."""
    return server_address.endswith(_VERTEX) and not is_older_gemini(model)


def _as_contents(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body of generateContent, of messages and a cap in the words that `estimate()` has."""
    contents = []
    for message in listed(body.get("messages")) or ():
        found = fields(message)
        said = found.get("content")
        is_ours = "parts" in found or said is None
        contents.append(message if is_ours else {"role": found.get("role"), "parts": _parts_of(said)})
    named = {name: value for name, value in body.items() if name not in ("model", "messages", "max_tokens", "n")}
    config = {**fields(pick(named, "generationConfig"))}
    config.update(maxOutputTokens=body.get("max_tokens"), candidateCount=body.get("n"))
    named[key_of(named, "generationConfig")] = config
    return {**named, "contents": contents}


def _parts_of(said: Any) -> Any:
    return [{"text": said}] if isinstance(said, str) else said


def _lower_thinking(call: Call, config: Mapping[str, Any], changed: dict[str, Any]) -> None:
    """A thinking budget below a lowered cap: its share of the cap stays what it was, and is never raised."""
    place = key_of(config, "thinkingConfig")
    thinking = fields(config.get(place))
    budget = whole_number(pick(thinking, "thinkingBudget"))
    declared, sent = call.declared_cap, call.sent_cap
    if budget and declared and sent is not None and sent < declared:
        changed[place] = {**thinking, key_of(thinking, "thinkingBudget"): min(budget, budget * sent // declared)}


def _read_options(call: Call, body: Mapping[str, Any], config: Mapping[str, Any], counted: Contents) -> None:
    """Whatever a request says beside its contents that the model reads, or that changes the price."""
    sizes = counted.sizes
    cap = pick(config, "maxOutputTokens")
    if cap is not None:
        known = MOST_TOKENS if type(cap) is int and cap > MOST_TOKENS else whole_number(cap)
        call.declared_cap = known or None  # 0 says nothing: it is the same as none
        call.accepts_cap = known is not None
    for name, value in body.items():
        if value is not None and name not in _KNOWN and not _is_known(name):
            sizes.add_json(value)
    for name in _SCHEMAS:
        if (schema := pick(config, name)) is not None:
            sizes.add_json(schema)
    tools = listed(pick(body, "tools"))
    if tools:
        call.tools_bytes = sizes.add_json(tools)
        sizes.extra_tokens += _TOKENS_FOR_TOOLS
        for tool in tools:
            _read_tool(call, fields(tool), counted)
    if (cached := text_of(pick(body, "cachedContent"))) != "":
        call.previous_response_id, call.previous_name = cache_in(cached) or cached, "cached_content"
        counted.features.add("cached_content")
        for feature in tools_in_cache(cached):
            _count_tool(call, feature, counted)
    if pick(body, "continuationToken") is not None:
        sizes.name_unbounded("continuation_token")
        call.fills_context = True
    tier = text_of(pick(body, "serviceTier")).lower()
    call.tier = "+".join(filter(None, (tier, call.tier)))
    said = {text_of(one).upper() for one in listed(pick(config, "responseModalities")) or ()}
    if not said and draws(call.request_model):
        said = {"TEXT", "IMAGE"}
    if "IMAGE" in said:
        counted.features.add("image_generation")
        call.least_cap = min(_TOKENS_PER_PICTURE, call.declared_cap or _TOKENS_PER_PICTURE)
    if said & {"AUDIO", "VIDEO"}:
        counted.features.add("audio_output")
    call.has_audio = sizes.has_audio or bool(said & {"AUDIO", "VIDEO"})
    call.has_images = sizes.has_images or bool(said & {"IMAGE", "VIDEO"}) or "video" in counted.features
    counted.features.update(_features(call, body, config))
    if counted.last_role == "model":
        counted.features.add("prefill")
    call.features = frozenset(counted.features)
    if sizes.pictures:
        pictures = Pictures(tuple(sizes.pictures), gemini_image_tokens)
        call.pictures = pictures
        sizes.extra_tokens += pictures.tokens(call.request_model)
    call.unbounded = sizes.unbounded


def _is_known(name: str) -> bool:
    """Whether a name is one of `_KNOWN` in the other spelling."""
    head, *rest = name.split("_")
    return head + "".join(map(str.capitalize, rest)) in _KNOWN


def _read_tool(call: Call, tool: Mapping[str, Any], counted: Contents) -> None:
    """A tool holds one or more kinds of tools by name; functions are a list, and run at the caller's."""
    functions = listed(pick(tool, "functionDeclarations"))
    if functions:
        counted.sizes.extra_tokens += _TOKENS_PER_TOOL * len(functions)
        counted.features.add("tools")
    if pick(tool, "computerUse") is not None:
        counted.sizes.extra_tokens += _TOKENS_FOR_TOOLS
        counted.features.add("computer_use")
    for name, feature in _SERVER_TOOLS.items():
        if pick(tool, name) is None:
            continue
        counted.sizes.name_unbounded(name)
        _count_tool(call, feature, counted)


def _count_tool(call: Call, feature: str, counted: Contents) -> None:
    """Count what a tool that runs at Google may bring, by the feature that it needs."""
    counted.features.add(feature)
    if feature == "web_search":
        call.most_web_searches += 1 if is_older_gemini(call.request_model) else _MOST_SEARCHES
    if feature in _ENDLESS:
        call.fills_context = True
    else:
        counted.sizes.extra_tokens += _SERVER_TOOL_TOKENS


def _features(call: Call, body: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """What the model must be able to do, by the names of `prices.ladders.FEATURES`."""
    calling = fields(pick(fields(pick(body, "toolConfig")), "functionCallingConfig"))
    if text_of(calling.get("mode")).upper() == "ANY":
        yield "forced_tools"
    if any(pick(config, name) is not None for name in _SCHEMAS):
        yield "structured_output"
    elif text_of(pick(config, "responseMimeType")) == "application/json":
        yield "json_mode"
    temperature = config.get("temperature")
    if temperature not in (None, 1) or pick(config, "topP") is not None or pick(config, "topK") is not None:
        yield "sampling"
    if pick(config, "presencePenalty") is not None or pick(config, "frequencyPenalty") is not None:
        yield "penalties"
    if pick(config, "responseLogprobs") or config.get("logprobs") is not None:
        yield "logprobs"
    if pick(config, "stopSequences"):
        yield "stop"
    if (whole_number(pick(config, "candidateCount")) or 1) > 1:
        yield "choices"
    yield from _thinking(call, fields(pick(config, "thinkingConfig")))


def _thinking(call: Call, thinking: Mapping[str, Any]) -> Iterator[str]:
    budget, level = pick(thinking, "thinkingBudget"), text_of(pick(thinking, "thinkingLevel")).lower()
    if budget == 0:
        yield "reasoning_none"
    elif budget is not None or level:
        call.reasons = True
        yield "reasoning"
        if budget is not None:
            yield "reasoning_budget"
            if call.declared_cap is None:  # a negative one is as much as the model likes
                call.least_cap = max(call.least_cap, (whole_number(budget) or 0) + 1)
        if level:
            yield _EFFORTS.get(level, "reasoning_effort")


PROVIDER: Final = Google()
