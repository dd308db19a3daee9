"""Files and batches, of both vendors: requests taken in together, charged at half price, and handed out as lines.

Source of the fields: types of the openai SDK 3.54 and the anthropic SDK 2.12.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from farebox.testing._fake.answer import Answer, Tokenizer, compose
from farebox.testing._fake.bill import BillLine, Till
from farebox.testing._fake.dialect import Ask, Dialect, Fault, Reply
from farebox.testing._fake.prices import Price, price_of
from farebox.testing._fake.request import Request, RequestLog
from farebox.testing._fake.script import Script
from farebox.testing._fake.server import Connection, Incoming

PERCENT = 50

_PATHS = re.compile(
    r"^/v1/(?:(?P<upload>files)|files/(?P<content>[^/]+)/content"
    r"|(?P<new>batches)|batches/(?P<look>[^/]+)"
    r"|messages/(?P<ask>batches)|messages/batches/(?P<found>[^/]+?)|messages/batches/(?P<results>[^/]+)/results)$"
)


@attrs.define
class _Batch:
    number: int
    payload: dict[str, Any]
    lines: list[dict[str, Any]]
    usage: dict[str, int]
    looks_left: int
    has_failed: bool


@attrs.define
class Desk:
    """Every method may be called from any thread."""

    script: Script
    till: Till
    log: RequestLog
    prices: dict[str, Price]
    tokenizer: Tokenizer
    clock: Callable[[], float]
    dialect_of: Callable[[str, str], Dialect]
    looks: Callable[[], int]
    tells_usage: bool = True  # a batch of OpenAI's says what its requests used together
    lock: threading.Lock = attrs.field(factory=threading.Lock)
    _files: dict[str, bytes] = attrs.field(factory=dict)
    _batches: dict[str, _Batch] = attrs.field(factory=dict)

    def serves(self, incoming: Incoming) -> bool:
        found = _PATHS.match(incoming.path)
        if found is None:
            return False
        return (incoming.method == "POST") == bool(found["upload"] or found["new"] or found["ask"])

    def answer(self, incoming: Incoming, body: dict[str, Any], connection: Connection) -> None:
        found = _PATHS.match(incoming.path)
        assert found is not None
        request = self.log.add(incoming.method, incoming.path, incoming.headers, body, self.clock())
        headers = {"x-request-id": request.request_id, "request-id": request.request_id}
        fail = self.script.fails.draw("")
        status, payload = 200, {}
        with self.lock:
            if fail is not None:
                status, payload = fail.status, {"error": {"message": fail.message, "type": "server_error"}}
            elif found["upload"]:
                payload = self._keep(request, body)
            elif found["new"]:
                status, payload = self._take(request, body)
            elif found["ask"]:
                payload = self._take_messages(request, body)
            elif found["content"]:
                self.log.answered(request.number, 200)
                connection.answer(
                    200, {"content-type": "application/octet-stream", **headers}, self._files[found["content"]]
                )
                return
            elif found["results"]:
                lines = b"".join(json.dumps(line).encode() + b"\n" for line in self._batches[found["results"]].lines)
                self.log.answered(request.number, 200)
                connection.answer(200, {"content-type": "application/x-jsonl", **headers}, lines)
                return
            else:
                payload = self._look(found["look"] or found["found"], incoming)
        self.log.answered(request.number, status)
        connection.answer_json(status, headers, payload)

    def _keep(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        file_id = f"file-fake-{request.number:06d}"
        self._files[file_id] = body["file"]
        kept = {"id": file_id, "object": "file", "bytes": len(body["file"]), "created_at": 0, "filename": "a.jsonl"}
        return {**kept, "purpose": body["purpose"], "status": "processed"}

    def _take(self, request: Request, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        content = self._files.get(str(body.get("input_file_id")))
        if content is None:
            return 404, {"error": {"message": "No such File object", "type": "invalid_request_error"}}
        rows = [json.loads(line) for line in content.splitlines() if line.strip()]
        batch_id = f"batch_fake_{request.number:06d}"
        payload = {
            "id": batch_id,
            "object": "batch",
            "endpoint": body["endpoint"],
            "input_file_id": body["input_file_id"],
            "completion_window": "24h",
            "created_at": int(self.clock()),
            "model": rows[0]["body"].get("model"),
            "status": "validating",
            "output_file_id": None,
        }
        lines, usage = [], {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
        failed = False
        for n, row in enumerate(rows):
            answered = self.do(request, row["url"], row["body"], n)
            if isinstance(answered, Fault):
                lines.append({"custom_id": row["custom_id"], "response": None, "error": {"message": answered.message}})
                continue
            reply, answer = answered
            failed = failed or reply.failed
            usage["input_tokens"] += reply.input_tokens
            usage["output_tokens"] += reply.output_tokens
            usage["total_tokens"] += reply.input_tokens + reply.output_tokens
            lines.append(
                {"custom_id": row["custom_id"], "response": {"status_code": 200, "body": answer}, "error": None}
            )
        details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        batch = _Batch(request.number, payload, lines, {**usage, **details}, self.looks(), failed)  # type: ignore[dict-item]
        self._batches[batch_id] = batch
        return 200, payload

    def _take_messages(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        batch_id = f"msgbatch_fake_{request.number:06d}"
        lines = []
        for n, row in enumerate(body["requests"]):
            answered = self.do(request, "/v1/messages", row["params"], n)
            result: dict[str, Any] = {"type": "errored", "error": {"type": "error", "error": {}}}
            if not isinstance(answered, Fault):
                result = {"type": "succeeded", "message": answered[1]}
            lines.append({"custom_id": row["custom_id"], "result": result})
        payload = {
            "id": batch_id,
            "type": "message_batch",
            "processing_status": "in_progress",
            "request_counts": dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0),
            "created_at": "2026-11-29T00:00:00Z",
            "expires_at": "2026-11-30T00:00:00Z",
            "results_url": None,
        }
        self._batches[batch_id] = _Batch(request.number, payload, lines, {}, self.looks(), False)
        return payload

    def do(self, request: Request, url: str, body: dict[str, Any], n: int) -> Fault | tuple[Reply, Any]:
        """Answer one request of a batch, and charge it."""
        dialect = self.dialect_of("POST", url)
        try:
            ask: Ask = dialect.read(url, body, self.tokenizer)
        except Fault as fault:
            return fault
        price = price_of(ask.model, self.prices)
        if price is None:
            return dialect.unknown_model(ask.model)
        answer = self.script.answers.draw(ask.model) or Answer()
        assert isinstance(answer, Answer)
        response_id = dialect.response_id(request.number * 1_000 + n)
        reply = compose(answer, ask, self.tokenizer, response_id=response_id, created=int(self.clock()), chunks=1)
        if not reply.failed:
            self.till.charge(price, _line(request, reply, url, self.clock()))
        return reply, dialect.answer(ask, reply)

    def _look(self, batch_id: str, incoming: Incoming) -> dict[str, Any]:
        batch = self._batches[batch_id]
        if batch.looks_left:
            batch.looks_left -= 1
            return {**batch.payload, **({"status": "in_progress"} if "status" in batch.payload else {})}
        if "processing_status" in batch.payload:
            url = f"http://{incoming.headers['host']}/v1/messages/batches/{batch_id}/results"
            return {**batch.payload, "processing_status": "ended", "results_url": url}
        if batch.has_failed:
            return {**batch.payload, "status": "failed"}
        file_id = f"file-fake-of-{batch.number:06d}"
        self._files[file_id] = _lines(batch.lines)
        usage = {"usage": batch.usage} if self.tells_usage else {}
        return {**batch.payload, "status": "completed", "output_file_id": file_id, **usage}


def _lines(lines: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _line(request: Request, reply: Reply, url: str, at: float) -> BillLine:
    return BillLine(
        number=0,
        path=url,
        model=reply.model,
        stream=False,
        input_tokens=reply.input_tokens,
        cached_tokens=reply.cached_tokens,
        cache_write_tokens=reply.cache_write_tokens,
        cache_write_1h_tokens=reply.cache_write_1h_tokens,
        output_tokens=reply.output_tokens,
        reasoning_tokens=reply.reasoning_tokens,
        usd_nanos=0,
        finished=True,
        request_id=request.request_id,
        response_id=reply.response_id,
        at=at,
        web_searches=reply.searches,
        image_tokens=reply.image_tokens,
        audio_tokens=reply.audio_tokens,
        charges=reply.charges,
        percent=PERCENT,
    )
