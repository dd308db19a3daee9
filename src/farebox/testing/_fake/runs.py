"""The OpenAI format of assistants' runs.  Source of the fields: types of the openai SDK 3.57."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from farebox.testing._fake.dialect import Ask, Count, Event, Reply, count_content
from farebox.testing._fake.openai import OpenAIFormat, at_least, completion_usage, missing
from farebox.testing._fake.prices import CONTAINER_PICOS, MILLI_USD_PICOS, Charge

LEAST_CAP = 256
ASSISTANT_MODEL = "gpt-4o-mini"  # of every assistant, where a run does not say
ASSISTANT_TOKENS = 200  # its instructions
THREAD_TOKENS = 400  # what is on every thread

_NEW = re.compile(r"^/v1/threads/(?:(?P<thread>[^/]+)/)?runs$")
_STORED = re.compile(r"^/v1/threads/[^/]+/runs/(?P<id>[^/]+)(?P<goes_on>/cancel|/submit_tool_outputs)?$")


class Runs(OpenAIFormat):
    def serves(self, method: str, path: str) -> bool:
        stored = _STORED.match(path)
        if stored is not None:
            return method == ("POST" if stored["goes_on"] else "GET")
        return method == "POST" and _NEW.match(path) is not None

    def response_id(self, number: int) -> str:
        return f"run_fake_{number:06d}"

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        stream = body.get("stream") is True
        if stored := _STORED.match(path):
            return Ask(
                model="",
                stream=stream,
                cap=None,
                choices=0,
                wants_usage=True,
                input_tokens=0,
                looks_at=stored["id"],
                cancels=stored["goes_on"] == "/cancel",
            )
        if not body.get("assistant_id"):
            raise missing("assistant_id")
        cap, most = (at_least(body, f"max_{kind}_tokens", LEAST_CAP) for kind in ("completion", "prompt"))
        thread = body.get("thread") or {}
        said = [*(thread.get("messages") or ()), *(body.get("additional_messages") or ())]
        tokens = ASSISTANT_TOKENS + sum(count_content(message["content"], count) for message in said)
        tokens += THREAD_TOKENS if path != "/v1/threads/runs" else 0
        runs_code = any(tool.get("type") == "code_interpreter" for tool in body.get("tools") or ())
        return Ask(
            model=body.get("model") or ASSISTANT_MODEL,
            stream=stream,
            cap=cap,
            choices=1,
            wants_usage=True,
            input_tokens=tokens if most is None else min(tokens, most),
            charges=(Charge("containers", 1, CONTAINER_PICOS["1g"] * MILLI_USD_PICOS),) if runs_code else (),
            is_stored=True,
            background=not stream,
        )

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        return completion_usage(reply, output_tokens)

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        return {
            **self.unfinished(ask, reply, "incomplete" if reply.cut else "completed"),
            "incomplete_details": {"reason": "max_completion_tokens"} if reply.cut else None,
            "usage": self.usage(reply, reply.output_tokens),
        }

    def unfinished(self, ask: Ask, reply: Reply, status: str) -> dict[str, Any]:
        """A run before its end, or one that was stopped; one that calls a function waits for what that returns."""
        if reply.function and status in ("queued", "in_progress"):
            status = "requires_action"
        function = {"name": reply.function, "arguments": reply.text}
        called = {"tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
        return {
            "id": reply.response_id,
            "object": "thread.run",
            "created_at": reply.created,
            "assistant_id": "asst_fake",
            "thread_id": "thread_fake",
            "status": status,
            "required_action": {"type": "submit_tool_outputs", "submit_tool_outputs": called}
            if status == "requires_action"
            else None,
            "model": reply.model,
            "instructions": "",
            "tools": [{"type": "code_interpreter"}] if reply.charges else [],
            "parallel_tool_calls": True,
            "max_completion_tokens": ask.cap,
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0} if status == "cancelled" else None,
        }

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        if not ask.looks_at:
            yield _event("thread.run.created", self.unfinished(ask, reply, "queued"))
            if reply.function:
                yield _event("thread.run.requires_action", self.unfinished(ask, reply, "in_progress"))
                yield Event("[DONE]", "done")
                return
        yield _event("thread.run.in_progress", {**self.unfinished(ask, reply, "queued"), "status": "in_progress"})
        yield Event(_message(reply, ""), "thread.message.created")
        for piece in reply.pieces:
            part = {"index": 0, "type": "text", "text": {"value": piece.text, "annotations": []}}
            delta = {"id": "msg_1", "object": "thread.message.delta", "delta": {"content": [part]}}
            yield Event(delta, "thread.message.delta", tokens=piece.tokens, is_content=True)
        yield Event(_message(reply, reply.text), "thread.message.completed")
        done = self.answer(ask, reply)
        yield _event(f"thread.run.{done['status']}", done)
        yield Event("[DONE]", "done")


def _message(reply: Reply, text: str) -> dict[str, Any]:
    content = [{"type": "text", "text": {"value": text, "annotations": []}}] if text else []
    head = {"id": "msg_1", "object": "thread.message", "created_at": reply.created, "thread_id": "thread_fake"}
    return {**head, "role": "assistant", "run_id": reply.response_id, "status": "completed", "content": content}


def _event(name: str, run: dict[str, Any]) -> Event:
    return Event(run, name)
