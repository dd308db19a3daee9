"""Cohere's formats: chat of both versions, generation, embeddings, reranking, and the count of tokens.

They stand below /cohere.  Source of the fields: types of the cohere SDK 7.3.  Billed units come as floats, and leave out what
Cohere writes around a message.  Streams are server-sent events in the second version, and lines of JSON in the first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

from farebox.testing._fake.dialect import Ask, Count, Event, Fault, Reply, count_content, count_json
from farebox.testing._fake.prices import Charge, Vendor

SEARCH_PICOS = 2_000_000_000  # USD 2 per thousand searches
DOCUMENTS_PER_SEARCH = 100
DIMENSIONS = 8


class Line(Event):
    """An event of the first version: a line of JSON."""

    def encode(self) -> bytes:
        return f"{json.dumps(self.payload, separators=(',', ':'))}\n".encode()


class Cohere:
    """The part of a `Dialect` that is the same for every endpoint."""

    vendor: Vendor = "cohere"
    request_id_header = "x-debug-trace-id"
    free_paths: tuple[str, ...] = ()
    paths: ClassVar[tuple[str, ...]] = ()

    def serves(self, method: str, path: str) -> bool:
        return method == "POST" and path.startswith("/cohere/") and path.removeprefix("/cohere") in self.paths

    def response_id(self, number: int) -> str:
        return f"cohere_fake_{number:06d}"

    def malformed(self, detail: str) -> Fault:
        return Fault(400, f"invalid json syntax: {detail}")

    def unknown_model(self, model: str) -> Fault:
        return Fault(404, f"model '{model}' not found, make sure the correct model ID was used")

    def unknown_path(self, method: str, path: str) -> Fault:
        return Fault(404, "page not found")

    def counted(self, input_tokens: int) -> dict[str, Any]:
        return {"tokens": [1] * input_tokens, "token_strings": ["a"] * input_tokens}

    def error(self, fault: Fault, request_id: str) -> dict[str, Any]:
        return {"id": request_id, "message": fault.message}

    def error_event(self, fault: Fault, request_id: str) -> Event:
        return Event(self.error(fault, request_id))

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        billed = {"input_tokens": float(reply.input_tokens), "output_tokens": float(output_tokens)}
        tokens = {"input_tokens": reply.input_tokens + 490.0, "output_tokens": output_tokens + 2.0}
        return {"billed_units": billed, "tokens": tokens}

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        return iter(())


class Chat(Cohere):
    """The second version."""

    paths = ("/v2/chat",)

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Fault(400, "invalid request: list of messages must have at least one element")
        tokens = sum(count_content(message.get("content"), count) for message in messages)
        tokens += sum(count_json(one, count) for name in ("tools", "documents") for one in body.get(name) or [])
        return _ask(body, tokens)

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        said: dict[str, Any] = {"role": "assistant", "content": [{"type": "text", "text": reply.text}]}
        usage = self.usage(reply, reply.output_tokens)
        return {"id": reply.response_id, "finish_reason": _reason(reply), "message": said, "usage": usage}

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        start = {"message": {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}}
        yield _event("message-start", id=reply.response_id, delta=start)
        yield _event("content-start", index=0, delta={"message": {"content": {"type": "text", "text": ""}}})
        for piece in reply.pieces:
            payload = {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": piece.text}}}}
            yield Event(payload, "content-delta", tokens=piece.tokens, is_content=True)
        yield _event("content-end", index=0)
        ended = {"finish_reason": _reason(reply), "usage": self.usage(reply, reply.output_tokens)}
        yield _event("message-end", delta=ended)


class OldChat(Cohere):
    """The first version, and generation."""

    paths = ("/v1/chat", "/v1/generate")

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        asked = body.get("message") or body.get("prompt")
        if not isinstance(asked, str) or not asked:
            raise Fault(400, "invalid request: message must be at least 1 token long")
        tokens = count(asked) + count(str(body.get("preamble") or ""))
        tokens += sum(count(str(turn.get("message") or "")) for turn in body.get("chat_history") or [])
        return _ask(body, tokens, form=path.rpartition("/")[2])

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        meta = {"api_version": {"version": "1"}, **self.usage(reply, reply.output_tokens)}
        if ask.form == "generate":
            texts = [
                {"id": f"{reply.response_id}-{at}", "text": reply.text, "finish_reason": _reason(reply)}
                for at in range(reply.shown)
            ]
            return {"id": reply.response_id, "generations": texts, "prompt": "", "meta": meta}
        head = {"response_id": reply.response_id, "generation_id": reply.response_id}
        return {**head, "text": reply.text, "finish_reason": _reason(reply), "chat_history": [], "meta": meta}

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        def line(kind: str, **fields: Any) -> dict[str, Any]:
            return {"is_finished": kind == "stream-end", "event_type": kind, **fields}

        yield Line(line("stream-start", generation_id=reply.response_id))
        for piece in reply.pieces:
            yield Line(line("text-generation", text=piece.text), tokens=piece.tokens, is_content=True)
        yield Line(line("stream-end", finish_reason=_reason(reply), response=self.answer(ask, reply)))


class Embeddings(Cohere):
    paths = ("/v2/embed", "/v1/embed")

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        texts = body.get("texts")
        if not isinstance(texts, list) or not texts:
            raise Fault(400, "invalid request: valid texts or images must be provided")
        tokens = sum(count(text) for text in texts)
        return Ask(
            model=_model_of(body),
            stream=False,
            cap=0,
            choices=0,
            wants_usage=False,
            input_tokens=tokens,
            inputs=len(texts),
            form=path,
        )

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        numbers = [[0.25] * DIMENSIONS for _ in range(ask.inputs)]
        is_second = ask.form.endswith("/v2/embed")
        return {
            "id": reply.response_id,
            "response_type": "embeddings_by_type" if is_second else "embeddings_floats",
            "embeddings": {"float": numbers} if is_second else numbers,
            "texts": ["a"] * ask.inputs,
            "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": float(reply.input_tokens)}},
        }


class Rerank(Cohere):
    """Documents put in order, charged by the search."""

    paths = ("/v2/rerank", "/v1/rerank")

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        documents = body.get("documents")
        if not isinstance(documents, list) or not documents:
            raise Fault(400, "invalid request: list of documents must not be empty")
        searches = -(-len(documents) // DOCUMENTS_PER_SEARCH)
        return Ask(
            model=_model_of(body),
            stream=False,
            cap=None,
            choices=0,
            wants_usage=False,
            input_tokens=0,
            inputs=len(documents),
            charges=(Charge("searches", searches, SEARCH_PICOS),),
        )

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        (charge,) = reply.charges
        results = [{"index": at, "relevance_score": 0.5} for at in range(ask.inputs)]
        billed = {"search_units": float(charge.count)}
        meta = {"api_version": {"version": "2"}, "billed_units": billed}
        return {"id": reply.response_id, "results": results, "meta": meta}


class Tokens(Cohere):
    """The count of tokens, which is free."""

    paths = ("/v1/tokenize",)
    free_paths: tuple[str, ...] = ("/cohere/v1/tokenize",)

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        tokens = count(str(body.get("text") or ""))
        model = _model_of(body)
        return Ask(model=model, stream=False, cap=0, choices=0, wants_usage=False, input_tokens=tokens)

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        return {}


FORMATS = (Chat(), OldChat(), Embeddings(), Rerank(), Tokens())


def _ask(body: dict[str, Any], tokens: int, form: str = "") -> Ask:
    cap = body.get("max_tokens")
    if cap is not None and (not isinstance(cap, int) or cap < 0):
        raise Fault(400, "invalid request: max_tokens must be 0 or more")
    return Ask(
        model=_model_of(body),
        stream=body.get("stream") is True,
        cap=cap,
        choices=body.get("num_generations") or 1,
        wants_usage=True,
        input_tokens=tokens,
        form=form,
    )


def _model_of(body: dict[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise Fault(400, "invalid request: model is required")
    return model


def _reason(reply: Reply) -> str:
    return "MAX_TOKENS" if reply.cut else "COMPLETE"


def _event(kind: str, **fields: Any) -> Event:
    return Event({"type": kind, **fields}, kind)
