"""The OpenAI responses format, with what is asked after later.  Source of the fields: types of the openai SDK 3.54."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from farebox.testing._fake.dialect import MESSAGE_TOKENS, Ask, Count, Event, Fault, Reply, count_content, count_json
from farebox.testing._fake.openai import REFUSED, OpenAIFormat, at_least, invalid_type, missing

LEAST_CAP = 16
TEMPLATE_TOKENS = 200  # what any prompt template says
TEMPLATE_MODEL = "gpt-4o-mini"  # and the model that it names
HOSTED_TOOL_TOKENS = 300  # the hidden instructions that a hosted tool brings along
MOST_SEARCHES = 10  # where the request does not say

COMPACT = "/v1/responses/compact"

_STORED = re.compile(r"^/v1/responses/(?P<id>resp[^/]*)(?P<cancel>/cancel)?$")


class Responses(OpenAIFormat):
    paths = ("/v1/responses", "/v1/responses/input_tokens", COMPACT)
    free_paths: tuple[str, ...] = ("/v1/responses/input_tokens",)

    def serves(self, method: str, path: str) -> bool:
        stored = _STORED.match(path)
        if stored is not None:
            return method == ("POST" if stored["cancel"] else "GET")
        return super().serves(method, path)

    def response_id(self, number: int) -> str:
        return f"resp_fake_{number:06d}"

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        stored = _STORED.match(path)
        if stored is not None:
            return Ask(
                model="",
                stream=False,
                cap=None,
                choices=0,
                wants_usage=True,
                input_tokens=0,
                looks_at=stored["id"],
                cancels=stored["cancel"] is not None,
            )
        prompt, previous = body.get("prompt"), body.get("previous_response_id")
        conversation = body.get("conversation")
        if isinstance(conversation, dict):
            conversation = conversation.get("id")
        model = body.get("model") or (TEMPLATE_MODEL if prompt else None)
        if not isinstance(model, str):
            raise missing("model")
        if body.get("input") is None and not (prompt or previous or conversation):
            raise missing("input")
        if previous and conversation:
            message = "Mutually exclusive parameters. Ensure you are only providing one of: 'previous_response_id' or 'conversation'."
            raise Fault(400, message, REFUSED, code="mutually_exclusive_parameters")
        cap, calls = at_least(body, "max_output_tokens", LEAST_CAP), at_least(body, "max_tool_calls", 0)
        tools = _dicts(body.get("tools"))
        kinds = [str(tool.get("type")) for tool in tools]
        searches = any(kind.startswith("web_search") for kind in kinds)
        most = MOST_SEARCHES if calls is None else calls
        return Ask(
            model=model,
            stream=body.get("stream") is True and path not in self.free_paths,
            cap=cap,
            choices=1,
            wants_usage=True,
            input_tokens=self._input_tokens(body, count),
            most_searches=most if searches else 0,
            most_file_searches=most if "file_search" in kinds else 0,
            most_pictures=most if "image_generation" in kinds else 0,
            draws=next(
                (tool.get("model") or "gpt-image-2.5-sunburst" for tool in tools if tool["type"] == "image_generation"),
                "",
            ),
            container=next((_memory(tool) for tool in tools if tool.get("type") == "code_interpreter"), ""),
            is_stored=body.get("store") is not False and path != COMPACT,
            form="compaction" if path == COMPACT else "",
            background=body.get("background") is True,
            previous_id=previous or "",
            conversation_id=conversation or "",
        )

    def _input_tokens(self, body: dict[str, Any], count: Count) -> int:
        tokens, given = MESSAGE_TOKENS, body.get("input")
        if isinstance(given, str):
            tokens += MESSAGE_TOKENS + count(given)
        elif isinstance(given, list) and all(isinstance(item, dict) for item in given):
            tokens += sum(MESSAGE_TOKENS + _count_item(item, count) for item in given)
        elif given is not None:
            raise invalid_type("input", "a string or an array of objects")
        if isinstance(body.get("instructions"), str):
            tokens += MESSAGE_TOKENS + count(body["instructions"])
        for tool in _dicts(body.get("tools")):
            tokens += count_json(tool, count)
            tokens += HOSTED_TOOL_TOKENS if tool.get("type") not in ("function", "custom") else 0
        if isinstance(body.get("text"), dict) and body["text"].get("format"):
            tokens += count_json(body["text"]["format"], count)
        if isinstance(body.get("prompt"), dict):
            tokens += TEMPLATE_TOKENS
            tokens += sum(count_content([part], count) for part in (body["prompt"].get("variables") or {}).values())
        return tokens

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        return {
            "input_tokens": reply.input_tokens,
            "input_tokens_details": {
                "cached_tokens": reply.cached_tokens,
                "cache_write_tokens": reply.cache_write_tokens + reply.cache_write_1h_tokens,
            },
            "output_tokens": output_tokens,
            "output_tokens_details": {"reasoning_tokens": min(reply.reasoning_tokens, output_tokens)},
            "total_tokens": reply.input_tokens + output_tokens,
        }

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        status = "incomplete" if reply.cut else "completed"
        if ask.form == "compaction":
            return {
                "id": reply.response_id,
                "object": "response.compaction",
                "created_at": reply.created,
                "output": [{"id": "cmp_1", "type": "compaction", "encrypted_content": reply.text}],
                "usage": self.usage(reply, reply.output_tokens),
            }
        return {
            **self.unfinished(ask, reply, status),
            "incomplete_details": {"reason": "max_output_tokens"} if reply.cut else None,
            "output": [item for item, _ in _items(reply, status)],
            "usage": self.usage(reply, reply.output_tokens),
            "tool_usage": {"web_search": {"num_requests": reply.searches}, "image_gen": _drawn(reply)},
        }

    def unfinished(self, ask: Ask, reply: Reply, status: str) -> dict[str, Any]:
        """The answer before its end, or one that was stopped: no usage."""
        return {
            "id": reply.response_id,
            "object": "response",
            "created_at": reply.created,
            "status": status,
            "background": ask.background,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": ask.cap,
            "metadata": {},
            "model": reply.model,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": ask.previous_id or None,
            "conversation": {"id": ask.conversation_id} if ask.conversation_id else None,
            "service_tier": "default",
            "store": ask.is_stored,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "usage": None,
        }

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        for number, event in enumerate(self._events(ask, reply)):
            assert isinstance(event.payload, dict)
            event.payload["sequence_number"] = number
            yield event

    def _events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        if ask.background:
            yield _event("response.created", response=self.unfinished(ask, reply, "queued"))
            yield _event("response.queued", response=self.unfinished(ask, reply, "queued"))
        else:
            yield _event("response.created", response=self.unfinished(ask, reply, "in_progress"))
        yield _event("response.in_progress", response=self.unfinished(ask, reply, "in_progress"))
        for index, (item, begun) in enumerate(_items(reply, "incomplete" if reply.cut else "completed")):
            yield _event("response.output_item.added", output_index=index, item=begun)
            place = {"output_index": index, "item_id": item["id"]}
            if item["type"] == "message":
                yield from _said(reply, place)
            elif item["type"] == "function_call":
                for piece in reply.pieces:
                    yield _delta("response.function_call_arguments", piece.text, piece.tokens, place)
                yield _event("response.function_call_arguments.done", arguments=reply.text, **place)
            elif item["type"] == "web_search_call":
                for step in ("in_progress", "searching", "completed"):
                    yield _event(f"response.web_search_call.{step}", **place)
            yield _event("response.output_item.done", output_index=index, item=item)
        end = "response.incomplete" if reply.cut else "response.completed"
        yield _event(end, response=self.answer(ask, reply))


def unknown(response_id: str) -> Fault:
    return Fault(404, f"Response with id '{response_id}' not found.", REFUSED)


def unknown_previous(response_id: str) -> Fault:
    message = f"Previous response with id '{response_id}' not found."
    return Fault(400, message, REFUSED, param="previous_response_id", code="previous_response_not_found")


def not_in_background() -> Fault:
    return Fault(400, "Cannot cancel a synchronous response.", REFUSED)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _count_item(item: dict[str, Any], count: Count) -> int:
    """Tokens of a message, a call or its output, or anything else as JSON."""
    for name in ("content", "output"):
        if item.get(name) is not None and item.get("type") != "reasoning":
            content = item[name]
            return count_content([content] if isinstance(content, dict) else content, count)
    return count_json(item, count)


def _items(reply: Reply, status: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The output items in order: as they are at the end, and as they begin."""
    tail = reply.response_id.removeprefix("resp_")
    item: dict[str, Any]
    if reply.reasoning_tokens:
        item = {"id": f"rs_{tail}", "type": "reasoning", "summary": []}
        yield item, item
    for number in range(reply.searches):
        action = {"type": "search", "query": "q", "queries": ["q"]}
        item = {"id": f"ws_{tail}_{number}", "type": "web_search_call", "action": action}
        yield {**item, "status": "completed"}, {**item, "status": "in_progress"}
    for number in range(reply.file_searches):
        item = {"id": f"fs_{tail}_{number}", "type": "file_search_call", "queries": ["q"], "results": None}
        yield {**item, "status": "completed"}, {**item, "status": "in_progress"}
    if reply.runs_code:
        item = {"id": f"ci_{tail}", "type": "code_interpreter_call", "code": "1", "container_id": f"cntr_{tail}"}
        yield {**item, "outputs": [], "status": "completed"}, {**item, "outputs": None, "status": "in_progress"}
    for number in range(reply.pictures):
        item = {"id": f"ig_{tail}_{number}", "type": "image_generation_call"}
        yield (
            {**item, "result": "cGljdHVyZQ==", "status": "completed"},
            {**item, "result": None, "status": "in_progress"},
        )
    if reply.function:
        item = {"id": f"fc_{tail}", "type": "function_call", "call_id": f"call_{tail}", "name": reply.function}
        yield {**item, "arguments": reply.text, "status": status}, {**item, "arguments": "", "status": "in_progress"}
    elif reply.text:
        item = {"id": f"msg_{tail}", "type": "message", "role": "assistant"}
        yield (
            {**item, "content": [_part(reply.text)], "status": status},
            {**item, "content": [], "status": "in_progress"},
        )


def _memory(tool: dict[str, Any]) -> str:
    """The memory of a container that is made for a request; one that it names was made before."""
    held = tool.get("container")
    return str(held.get("memory_limit") or "1g") if isinstance(held, dict) else ""


def _drawn(reply: Reply) -> dict[str, Any]:
    """What an image model used for the answer."""
    into = sum(charge.count for charge in reply.charges if charge.what == "tokens to draw")
    out = sum(charge.count for charge in reply.charges if charge.what == "tokens drawn")
    return {
        "input_tokens": into,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": into},
        "output_tokens": out,
        "output_tokens_details": {"image_tokens": out, "text_tokens": 0},
        "total_tokens": into + out,
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _said(reply: Reply, place: dict[str, Any]) -> Iterator[Event]:
    place = {**place, "content_index": 0}
    yield _event("response.content_part.added", part=_part(""), **place)
    for piece in reply.pieces:
        yield _delta("response.output_text", piece.text, piece.tokens, {**place, "logprobs": []})
    yield _event("response.output_text.done", text=reply.text, logprobs=[], **place)
    yield _event("response.content_part.done", part=_part(reply.text), **place)


def _delta(kind: str, text: str, tokens: int, place: dict[str, Any]) -> Event:
    payload = {"type": f"{kind}.delta", "delta": text, **place}
    return Event(payload, f"{kind}.delta", tokens=tokens, is_content=True)


def _event(name: str, **fields: Any) -> Event:
    return Event({"type": name, **fields}, name)
