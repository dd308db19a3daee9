"""The Gemini format: generateContent, its stream, embeddings, and the count of tokens, of the Gemini API and of Vertex AI.

Source of the fields: types of the google-genai SDK 3.6; the shape of an error: its `errors.py`.  In a stream each chunk
carries the usage up to it, and the last one has the finish reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import attrs

from farebox.testing._fake.dialect import IMAGE_TOKENS, MESSAGE_TOKENS, Ask, Count, Event, Fault, Reply, count_json
from farebox.testing._fake.prices import Vendor

PATH = re.compile(
    r"^/v1[a-z0-9]*/(?:projects/[^/]+/locations/[^/]+/)?(?:publishers/google/)?models/(?P<model>[^/:]+):(?P<verb>\w+)$"
)
GENERATE = ("generateContent", "streamGenerateContent")
EMBED = ("batchEmbedContents", "embedContent", "predict")
VERBS = (*GENERATE, *EMBED, "countTokens")
MOST_SEARCHES = 10
DIMENSIONS = 8

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def model_in(path: str) -> str:
    """The model that a path names, "" for any other path."""
    found = PATH.match(path)
    return found["model"] if found else ""


def _verb(path: str) -> str:
    found = PATH.match(path)
    return found["verb"] if found else ""


class Google:
    vendor: Vendor = "google"
    request_id_header = "x-request-id"
    free_paths: tuple[str, ...] = (":countTokens",)

    def serves(self, method: str, path: str) -> bool:
        return method == "POST" and _verb(path) in VERBS

    def response_id(self, number: int) -> str:
        return f"gemini_fake_{number:06d}"

    def malformed(self, detail: str) -> Fault:
        return Fault(400, f"Invalid JSON payload received. {detail}")

    def unknown_model(self, model: str) -> Fault:
        return Fault(404, f"models/{model} is not found for API version v1beta.")

    def unknown_path(self, method: str, path: str) -> Fault:
        return Fault(404, "Not found")

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        model, verb = model_in(path), _verb(path)
        if verb in EMBED:
            return self._read_texts(model, verb, body, count)
        contents = body.get("contents")
        if not isinstance(contents, list) or not contents:
            raise Fault(400, "* GenerateContentRequest.contents: contents is not specified")
        tokens = MESSAGE_TOKENS + _count_content(_either(body, "systemInstruction"), count)
        tokens += sum(MESSAGE_TOKENS + _count_content(content, count) for content in contents)
        tools = body.get("tools") or []
        tokens += sum(count_json(tool, count) for tool in tools)
        ask = Ask(model=model, stream=verb == GENERATE[1], cap=None, choices=1, wants_usage=True, input_tokens=tokens)
        config = _either(body, "generationConfig") or {}
        cap = _whole(config, "maxOutputTokens")
        searching = any("googleSearch" in tool or "google_search" in tool for tool in tools)
        return attrs.evolve(
            ask,
            cap=cap or None,
            choices=_whole(config, "candidateCount") or 1,
            most_searches=MOST_SEARCHES if searching else 0,
        )

    def _read_texts(self, model: str, verb: str, body: dict[str, Any], count: Count) -> Ask:
        if verb == "batchEmbedContents":
            contents = [one.get("content") for one in body.get("requests") or []]
        elif verb == "embedContent":
            contents = [body.get("content")]
        else:
            contents = [{"parts": [{"text": one.get("content")}]} for one in body.get("instances") or []]
        if not contents or not all(contents):
            raise Fault(400, "* content is not specified")
        return Ask(
            model=model,
            stream=False,
            cap=0,
            choices=0,
            wants_usage=False,
            input_tokens=sum(_count_content(content, count) for content in contents),
            inputs=len(contents),
            form=verb,
            is_classic=verb == "predict",
        )

    def counted(self, input_tokens: int) -> dict[str, Any]:
        details = [{"modality": "TEXT", "tokenCount": input_tokens}]
        return {"totalTokens": input_tokens, "promptTokensDetails": details}

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        thought = min(reply.reasoning_tokens, output_tokens)
        usage: dict[str, Any] = {
            "promptTokenCount": reply.input_tokens,
            "candidatesTokenCount": output_tokens - thought,
            "totalTokenCount": reply.input_tokens + output_tokens,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": reply.input_tokens}],
        }
        if thought:
            usage["thoughtsTokenCount"] = thought
        if reply.cached_tokens:
            usage["cachedContentTokenCount"] = reply.cached_tokens
            usage["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": reply.cached_tokens}]
        return usage

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        if not ask.choices:
            return self._embedded(ask, reply)
        return {
            "candidates": [
                self._candidate(reply, index, reply.text, last=True, whole=True) for index in range(reply.shown)
            ],
            "usageMetadata": self.usage(reply, reply.output_tokens),
            "modelVersion": reply.model,
            "responseId": reply.response_id,
        }

    def _embedded(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        values = [0.25] * DIMENSIONS
        if ask.is_classic:
            each = -(-reply.input_tokens // ask.inputs)
            counts = [min(each, reply.input_tokens - each * index) for index in range(ask.inputs)]
            return {
                "predictions": [
                    {
                        "embeddings": {
                            "values": values,
                            "statistics": {"truncated": False, "token_count": max(0, tokens)},
                        }
                    }
                    for tokens in counts
                ]
            }
        embeddings = [{"values": values} for _ in range(ask.inputs)]
        return {
            **({"embedding": embeddings[0]} if ask.form == "embedContent" else {"embeddings": embeddings}),
            "usageMetadata": {
                "promptTokenCount": reply.input_tokens,
                "promptTokenDetails": [{"modality": "TEXT", "tokenCount": reply.input_tokens}],
            },
        }

    def _candidate(self, reply: Reply, index: int, text: str, *, last: bool, whole: bool = False) -> dict[str, Any]:
        part: dict[str, Any] = {"text": text}
        if reply.function and (last or whole):
            part = {"functionCall": {"name": reply.function, "args": _arguments(reply)}}
        candidate: dict[str, Any] = {"content": {"parts": [part], "role": "model"}, "index": index}
        if last:
            candidate["finishReason"] = "MAX_TOKENS" if reply.cut else "STOP"
            if reply.searches:
                queries = [f"query {number}" for number in range(reply.searches)]
                candidate["groundingMetadata"] = {"webSearchQueries": queries}
        return candidate

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        output_tokens = reply.reasoning_tokens
        pieces = reply.pieces if not reply.function else reply.pieces[:1]
        for number, piece in enumerate(pieces, 1):
            tokens = piece.tokens * reply.choices
            if reply.function:
                tokens = reply.output_tokens - reply.reasoning_tokens
            output_tokens += tokens
            last = number == len(pieces)
            yield self._chunk(reply, piece.text, output_tokens, tokens, last=last)
        if not pieces:
            yield self._chunk(reply, "", output_tokens, 0, last=True)

    def _chunk(self, reply: Reply, text: str, output_tokens: int, tokens: int, *, last: bool) -> Event:
        payload = {
            "candidates": [self._candidate(reply, index, text, last=last) for index in range(reply.shown)],
            "usageMetadata": self.usage(reply, output_tokens),
            "modelVersion": reply.model,
            "responseId": reply.response_id,
        }
        return Event(payload, tokens=tokens, is_content=True)

    def error(self, fault: Fault, request_id: str) -> dict[str, Any]:
        status = _STATUS.get(fault.status, "INTERNAL" if fault.status >= 500 else _STATUS[400])
        return {"error": {"code": fault.status, "message": fault.message, "status": status}}

    def error_event(self, fault: Fault, request_id: str) -> Event:
        return Event(self.error(fault, request_id))


def _either(body: dict[str, Any], name: str) -> Any:
    """A field in either spelling: the API takes both."""
    snake = re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)
    return body.get(name, body.get(snake))


def _whole(config: dict[str, Any], name: str) -> int | None:
    value = _either(config, name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise Fault(400, f"Invalid value at 'generation_config.{name}' (TYPE_INT32)")
    if value is not None and value < 0:
        raise Fault(400, f"* GenerateContentRequest.generation_config.{name}: must be positive")
    return value


def _count_content(content: Any, count: Count) -> int:
    if not isinstance(content, dict):
        return 0 if content is None else count_json(content, count)
    return sum(_count_part(part, count) for part in content.get("parts") or [])


def _count_part(part: Any, count: Count) -> int:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return count(part["text"])
    if isinstance(part, dict) and any(name in part for name in ("inlineData", "inline_data", "fileData", "file_data")):
        return IMAGE_TOKENS
    return count_json(part, count)


def _arguments(reply: Reply) -> Any:
    try:
        return json.loads(reply.text)
    except ValueError:  # cut at the cap
        return {}
