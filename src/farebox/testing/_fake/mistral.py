"""Mistral's formats: chat completions, text filled in, embeddings, moderation, documents and transcriptions.

They stand below /mistral, as the paths of some are OpenAI's too.  Source of the fields: types of the mistralai SDK 3.7; the
shape of a refusal: `errors/httpvalidationerror.py`.  In a stream the last chunk has the finish reason and the usage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from farebox.testing._fake.audio import recording_seconds
from farebox.testing._fake.dialect import MESSAGE_TOKENS, Ask, Count, Event, Fault, Reply, count_content, count_json
from farebox.testing._fake.prices import Charge, Vendor

#: Picodollars of a page, read and annotated (USD 4 and 5 per thousand), and of a millisecond (USD 0.18 an hour).
PAGE_PICOS, ANNOTATED_PICOS = 4_000_000_000, 5_000_000_000
MILLISECOND_PICOS = 50_000
PAGES = 3  # of a document that is not told how many to read
DIMENSIONS = 8


class Mistral:
    """The part of a `Dialect` that is the same for every endpoint."""

    vendor: Vendor = "mistral"
    request_id_header = "mistral-correlation-id"
    free_paths: tuple[str, ...] = ()
    paths: ClassVar[tuple[str, ...]] = ()

    def serves(self, method: str, path: str) -> bool:
        return method == "POST" and path.removeprefix("/mistral") in self.paths and path.startswith("/mistral/")

    def response_id(self, number: int) -> str:
        return f"mistral_fake_{number:06d}"

    def malformed(self, detail: str) -> Fault:
        return Fault(422, f"JSON decode error: {detail}")

    def unknown_model(self, model: str) -> Fault:
        return Fault(400, f"Invalid model: {model}", "invalid_model", code="1500")

    def unknown_path(self, method: str, path: str) -> Fault:
        return Fault(404, "no Route matched with those values")

    def counted(self, input_tokens: int) -> dict[str, Any]:
        return {"input_tokens": input_tokens}

    def error(self, fault: Fault, request_id: str) -> dict[str, Any]:
        if fault.status == 422:
            return {"detail": [{"loc": ["body"], "msg": fault.message, "type": "value_error"}]}
        said = {"message": fault.message, "type": fault.type or "error", "param": fault.param, "code": fault.code}
        return {"object": "error", **said}

    def error_event(self, fault: Fault, request_id: str) -> Event:
        return Event(self.error(fault, request_id))

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        usage: dict[str, Any] = {
            "prompt_tokens": reply.input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": reply.input_tokens + output_tokens,
        }
        if reply.cached_tokens:
            usage["prompt_tokens_details"] = {"cached_tokens": reply.cached_tokens}
        return usage

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        return iter(())


class Completions(Mistral):
    """What is said and what is filled in, which are answered alike."""

    paths = ("/v1/chat/completions", "/v1/fim/completions")

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        if path.endswith("/fim/completions"):
            tokens = count(str(body.get("prompt") or "")) + count(str(body.get("suffix") or ""))
        else:
            tokens = self._chat_tokens(body, count)
        cap = body.get("max_tokens")
        if cap is not None and (not isinstance(cap, int) or cap < 0):
            raise Fault(422, "max_tokens: Input should be greater than or equal to 0")
        return Ask(
            model=_model_of(body),
            stream=body.get("stream") is True,
            cap=cap,
            choices=body.get("n") or 1,
            wants_usage=True,
            input_tokens=tokens,
        )

    def _chat_tokens(self, body: dict[str, Any], count: Count) -> int:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Fault(422, "messages: Field required")
        tokens = MESSAGE_TOKENS
        for message in messages:
            tokens += MESSAGE_TOKENS + count_content(message.get("content"), count)
            tokens += count_json(message["tool_calls"], count) if message.get("tool_calls") else 0
        return tokens + sum(count_json(tool, count) for tool in body.get("tools") or [])

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        said: dict[str, Any] = {"role": "assistant", "content": reply.text, "tool_calls": None}
        if reply.function:
            called = {"name": reply.function, "arguments": reply.text}
            said |= {"content": "", "tool_calls": [{"id": "call00001", "type": "function", "function": called}]}
        choices = [{"index": index, "message": said, "finish_reason": _reason(reply)} for index in range(reply.shown)]
        return {**_head(reply, "chat.completion"), "choices": choices, "usage": self.usage(reply, reply.output_tokens)}

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
            choices = [{"index": at, "delta": delta, "finish_reason": reason} for at in range(reply.shown)]
            return {**_head(reply, "chat.completion.chunk"), "choices": choices}

        yield Event(chunk({"role": "assistant", "content": ""}))
        for piece in reply.pieces:
            yield Event(chunk({"content": piece.text}), tokens=piece.tokens, is_content=True)
        yield Event({**chunk({"content": ""}, _reason(reply)), "usage": self.usage(reply, reply.output_tokens)})
        yield Event("[DONE]")


class Judgements(Mistral):
    """Embeddings, moderation and classification: nothing is put out but numbers."""

    paths = (
        *("/v1/embeddings", "/v1/moderations", "/v1/chat/moderations"),
        *("/v1/classifications", "/v1/chat/classifications"),
    )

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        given = body.get("input")
        inputs = given if isinstance(given, list) else [given]
        if not given:
            raise Fault(422, "input: Field required")
        tokens = sum(count(one) if isinstance(one, str) else count_json(one, count) for one in inputs)
        return Ask(
            model=_model_of(body),
            stream=False,
            cap=0,
            choices=0,
            wants_usage=False,
            input_tokens=tokens,
            inputs=len(inputs),
            form=path.rpartition("/")[2],
        )

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        usage = self.usage(reply, 0)
        if ask.form == "moderations":
            judged = [{"categories": {"pii": False}, "category_scores": {"pii": 0.1}} for _ in range(ask.inputs)]
            return {"id": reply.response_id, "model": reply.model, "results": judged, "usage": usage}
        if ask.form == "classifications":
            classes = [{"mood": {"scores": {"glad": 0.9, "sad": 0.1}}} for _ in range(ask.inputs)]
            return {"id": reply.response_id, "model": reply.model, "results": classes, "usage": usage}
        data = [{"object": "embedding", "index": at, "embedding": [0.25] * DIMENSIONS} for at in range(ask.inputs)]
        return {"id": reply.response_id, "object": "list", "data": data, "model": reply.model, "usage": usage}


class Documents(Mistral):
    """A document that is read, charged by the page."""

    paths = ("/v1/ocr",)

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        document = body.get("document")
        if not isinstance(document, dict):
            raise Fault(422, "document: Field required")
        asked = body.get("pages")
        pages = 1 if document.get("type") == "image_url" else len(asked) if isinstance(asked, list) else PAGES
        annotates = body.get("bbox_annotation_format") or body.get("document_annotation_format")
        return Ask(
            model=_model_of(body),
            stream=False,
            cap=None,
            choices=0,
            wants_usage=False,
            input_tokens=0,
            charges=(Charge("pages", pages, ANNOTATED_PICOS if annotates else PAGE_PICOS),),
        )

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        (charge,) = reply.charges
        pages = [
            {
                "index": at,
                "markdown": "# read",
                "images": [],
                "dimensions": {"dpi": 200, "height": 2_200, "width": 1_700},
            }
            for at in range(charge.count)
        ]
        usage = {"pages_processed": charge.count, "doc_size_bytes": None}
        return {"pages": pages, "model": reply.model, "usage_info": usage, "document_annotation": None}


class Recordings(Mistral):
    """A recording that is written down, charged by its length."""

    paths = ("/v1/audio/transcriptions",)

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        if not isinstance(body.get("file"), bytes):
            raise Fault(422, "file: Field required")
        milliseconds = 1_000 * max(1, int(recording_seconds(body["file"])))
        return Ask(
            model=_model_of(body),
            stream=body.get("stream") in (True, "true"),
            cap=None,
            choices=1,
            wants_usage=True,
            input_tokens=4,
            charges=(Charge("audio milliseconds", milliseconds, MILLISECOND_PICOS),),
        )

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        seconds = sum(charge.count for charge in reply.charges) // 1_000
        return {**super().usage(reply, output_tokens), "prompt_audio_seconds": seconds}

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        usage = self.usage(reply, reply.output_tokens)
        return {"model": reply.model, "text": reply.text, "language": None, "segments": [], "usage": usage}

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        for piece in reply.pieces:
            payload = {"type": "transcription.text.delta", "text": piece.text}
            yield Event(payload, payload["type"], tokens=piece.tokens, is_content=True)
        done = {"type": "transcription.done", **self.answer(ask, reply)}
        yield Event(done, "transcription.done")


FORMATS = (Completions(), Judgements(), Documents(), Recordings())


def _model_of(body: dict[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise Fault(422, "model: Field required")
    return model


def _head(reply: Reply, kind: str) -> dict[str, Any]:
    return {"id": reply.response_id, "object": kind, "created": reply.created, "model": reply.model}


def _reason(reply: Reply) -> str:
    return "length" if reply.cut else "tool_calls" if reply.function else "stop"
