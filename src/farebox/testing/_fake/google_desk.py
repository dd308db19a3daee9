"""Google's files and batches of the Gemini API: requests taken in together, and charged at half price.

Source of the fields: `batches.py`, `files.py` and `_api_client.py` of the google-genai SDK 3.6.
"""

from __future__ import annotations

import json
import re
from typing import Any

import attrs

from farebox.testing._fake.desk import Desk
from farebox.testing._fake.dialect import Fault
from farebox.testing._fake.request import Request
from farebox.testing._fake.server import Connection, Incoming

_PATHS = re.compile(
    r"^(?:/upload/v1[a-z0-9]*/(?P<start>files)|/upload-here/(?P<upload>[^/]+)"
    r"|/v1[a-z0-9]*/(?:(?P<content>files/[^/:]+):download"
    r"|models/(?P<model>[^/:]+):(?P<verb>batchGenerateContent|asyncBatchEmbedContent)"
    r"|(?P<look>batches/[^/:]+)|(?P<stop>batches/[^/:]+):cancel))$"
)
_GETS = ("content", "look")


@attrs.define
class _Batch:
    name: str
    model: str
    results: list[dict[str, Any]]
    file_name: str  # of the results; "" for a batch whose requests were in the body
    looks_left: int
    state: str = ""


@attrs.define
class GoogleDesk:
    """Every method may be called from any thread."""

    desk: Desk
    _files: dict[str, bytes] = attrs.field(factory=dict)
    _batches: dict[str, _Batch] = attrs.field(factory=dict)

    def serves(self, incoming: Incoming) -> bool:
        found = _PATHS.match(incoming.path)
        if found is None or ("x-goog-api-client" not in incoming.headers and not found["upload"]):
            return False  # OpenAI has paths like these
        return (incoming.method == "GET") == any(found[name] for name in _GETS)

    def answer(self, incoming: Incoming, connection: Connection) -> None:
        found = _PATHS.match(incoming.path)
        assert found is not None
        body = None if found["upload"] or not incoming.body else json.loads(incoming.body)
        desk = self.desk
        request = desk.log.add(incoming.method, incoming.path, incoming.headers, body, desk.clock())
        fail = desk.script.fails.draw("")
        status, headers, payload = 200, {}, {}
        with desk.lock:
            if fail is not None:
                status, payload = fail.status, {"error": {"code": fail.status, "message": fail.message}}
            elif found["start"]:
                headers["x-goog-upload-url"] = f"http://{incoming.headers['host']}/upload-here/{request.number}"
            elif found["upload"]:
                name = f"files/fake-{found['upload']}"
                self._files[name] = self._files.get(name, b"") + incoming.body
                is_last = "finalize" in incoming.headers["x-goog-upload-command"]
                headers["x-goog-upload-status"] = "final" if is_last else "active"
                payload = {"file": {"name": name, "mimeType": "application/jsonl", "state": "ACTIVE"}}
            elif found["verb"]:
                status, payload = self._take(request, found["model"], found["verb"], body or {})
            elif found["stop"]:
                self._batches[found["stop"]].state = "BATCH_STATE_CANCELLED"
            elif found["look"]:
                payload = self._look(self._batches[found["look"]])
        desk.log.answered(request.number, status)
        if found["content"]:
            connection.answer(status, {"content-type": "application/octet-stream"}, self._files[found["content"]])
        else:
            connection.answer_json(status, headers, payload)

    def _take(self, request: Request, model: str, verb: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        config = body["batch"]["inputConfig"]
        file_name = config.get("fileName", config.get("file_name"))
        if file_name is not None:
            content = self._files.get(file_name)
            if content is None:
                return 404, {"error": {"code": 404, "message": "Requested entity was not found."}}
            rows = [json.loads(line) for line in content.splitlines() if line.strip()]
        else:
            rows = config["requests"]["requests"]
        one = "embedContent" if verb == "asyncBatchEmbedContent" else "generateContent"
        batch = _Batch(f"batches/fake-{request.number}", model, [], "", self.desk.looks())
        if file_name is not None:
            batch.file_name = f"files/batch-fake-{request.number}"
        for n, row in enumerate(rows):
            answered = self.desk.do(request, f"/v1beta/models/{model}:{one}", row["request"], n)
            result: dict[str, Any] = {name: row[name] for name in ("key", "metadata") if name in row}
            if isinstance(answered, Fault):
                result["error"] = {"code": 3, "message": answered.message}
            elif one == "embedContent":
                reply, answer = answered
                result["response"] = {"embedding": answer["embedding"], "tokenCount": str(reply.input_tokens)}
            else:
                reply, answer = answered
                batch.state = "BATCH_STATE_FAILED" if reply.failed else batch.state
                result["response"] = answer
            batch.results.append(result)
        self._batches[batch.name] = batch
        return 200, {"name": batch.name, "metadata": self._head(batch, "BATCH_STATE_PENDING")}

    def _look(self, batch: _Batch) -> dict[str, Any]:
        if batch.looks_left:
            batch.looks_left -= 1
            return {"name": batch.name, "metadata": self._head(batch, "BATCH_STATE_RUNNING")}
        if batch.state:
            return {"name": batch.name, "done": True, "metadata": self._head(batch, batch.state)}
        output: dict[str, Any] = {"inlinedResponses": {"inlinedResponses": batch.results}}
        if batch.file_name:
            self._files[batch.file_name] = b"".join(json.dumps(row).encode() + b"\n" for row in batch.results)
            output = {"responsesFile": batch.file_name}
        metadata = {**self._head(batch, "BATCH_STATE_SUCCEEDED"), "output": output}
        return {"name": batch.name, "done": True, "metadata": metadata, "response": output}

    def _head(self, batch: _Batch, state: str) -> dict[str, Any]:
        head = {"name": batch.name, "model": f"models/{batch.model}", "displayName": "b", "state": state}
        return {**head, "batchStats": {"requestCount": str(len(batch.results))}}
