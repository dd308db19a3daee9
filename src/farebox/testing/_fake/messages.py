"""The Anthropic messages format.

Source of the fields: types of the anthropic SDK 2.12. Of the refusals: the one for a missing field is quoted in
github.com/tickernelz/opencode-mem/issues/50 (read 2026-11-21); the others have the real API's status and type as known
from use, and a wording close to its own. Of the tool prompt: the vendor's tool-use page as of 2026-07, the 4.5 family.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import attrs

from farebox.testing._fake.dialect import (
    MESSAGE_TOKENS,
    Ask,
    Count,
    Event,
    Fault,
    Reply,
    count_content,
    count_json,
)
from farebox.testing._fake.prices import Vendor

TOOL_PROMPT_TOKENS = 496  # the hidden system prompt that any tool brings along
TOOL_PROMPT_FORCED_TOKENS = 588  # with tool_choice "any" or "tool"
MOST_SEARCHES = 10  # where the request does not say

#: What only the start of a stream says of its usage.
_AT_THE_START = ("cache_creation", "service_tier", "inference_geo")
_REFUSED = "invalid_request_error"
_TYPES = {
    400: _REFUSED,
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class Messages:
    vendor: Vendor = "anthropic"
    request_id_header = "request-id"
    free_paths: tuple[str, ...] = ("/v1/messages/count_tokens",)

    def serves(self, method: str, path: str) -> bool:
        return method == "POST" and path in ("/v1/messages", *self.free_paths)

    def response_id(self, number: int) -> str:
        return f"msg_fake_{number:06d}"

    def malformed(self, detail: str) -> Fault:
        return Fault(400, f"The request body is not valid JSON: {detail}")

    def unknown_model(self, model: str) -> Fault:
        return Fault(404, f"model: {model}")

    def unknown_path(self, method: str, path: str) -> Fault:
        return Fault(404, "Not found")

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        ask = self._read_prompt(body, count)
        if path in self.free_paths:
            return ask
        cap = self._required(body, "max_tokens")
        if not isinstance(cap, int) or isinstance(cap, bool):
            raise Fault(400, "max_tokens: Input should be a valid integer")
        if cap < 0:
            raise Fault(400, "max_tokens: Input should be greater than or equal to 0")
        thinking = body.get("thinking")
        budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
        if isinstance(budget, int) and budget < 1_024:
            raise Fault(400, "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
        if isinstance(budget, int) and budget >= cap:
            raise Fault(400, "`max_tokens` must be greater than `thinking.budget_tokens`.")
        return attrs.evolve(ask, stream=body.get("stream") is True, cap=cap, wants_usage=True)

    def _read_prompt(self, body: dict[str, Any], count: Count) -> Ask:
        model, messages = self._required(body, "model"), self._required(body, "messages")
        if not isinstance(model, str) or not model:
            raise Fault(400, "model: Input should be a valid string")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise Fault(400, "messages: Input should be a valid list")
        if not messages:
            raise Fault(400, "messages: at least one message is required")
        tokens = MESSAGE_TOKENS + count_content(body.get("system"), count)
        tokens += sum(MESSAGE_TOKENS + count_content(message.get("content"), count) for message in messages)
        if tools := body.get("tools"):
            choice = body.get("tool_choice")
            forced = isinstance(choice, dict) and choice.get("type") in ("any", "tool")
            tokens += TOOL_PROMPT_FORCED_TOKENS if forced else TOOL_PROMPT_TOKENS
            tokens += sum(count_json(tool, count) for tool in tools)
        return Ask(
            model=model,
            stream=False,
            cap=None,
            choices=1,
            wants_usage=False,
            input_tokens=tokens,
            most_searches=sum(map(_most_searches, tools or ())),
        )

    def _required(self, body: dict[str, Any], name: str) -> Any:
        if body.get(name) is None:
            raise Fault(400, f"{name}: Field required")
        return body[name]

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        written = reply.cache_write_tokens + reply.cache_write_1h_tokens
        usage: dict[str, Any] = {
            "input_tokens": reply.input_tokens - reply.cached_tokens - written,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": reply.cached_tokens,
            "cache_creation": {
                "ephemeral_5m_input_tokens": reply.cache_write_tokens,
                "ephemeral_1h_input_tokens": reply.cache_write_1h_tokens,
            },
            "output_tokens": output_tokens,
            "service_tier": "standard",
            "inference_geo": "global",
        }
        if reply.searches:
            usage["server_tool_use"] = {"web_search_requests": reply.searches, "web_fetch_requests": 0}
        if reply.others:
            usage["iterations"] = _iterations(reply, output_tokens)
        if reply.reasoning_tokens:
            usage["output_tokens_details"] = {"thinking_tokens": min(reply.reasoning_tokens, output_tokens)}
        return usage

    def counted(self, input_tokens: int) -> dict[str, Any]:
        return {"input_tokens": input_tokens}

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        content: dict[str, Any] = {"type": "text", "text": reply.text}
        if reply.function:
            content = {**_tool_use(reply), "input": _arguments(reply)}
        return {
            **self._message(reply),
            "content": [content],
            "stop_reason": self._stop_reason(reply),
            "usage": self.usage(reply, reply.output_tokens),
        }

    def _message(self, reply: Reply) -> dict[str, Any]:
        return {
            "id": reply.response_id,
            "type": "message",
            "role": "assistant",
            "model": reply.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _stop_reason(self, reply: Reply) -> str:
        return "max_tokens" if reply.cut else "tool_use" if reply.function else "end_turn"

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        placeholder = self.usage(reply, min(1, reply.output_tokens))  # the real API says 1 or a few at the start
        block = _tool_use(reply) if reply.function else {"type": "text", "text": ""}
        yield _event("message_start", message={**self._message(reply), "usage": placeholder})
        yield _event("content_block_start", index=0, content_block=block)
        yield _event("ping")
        for piece in reply.pieces:
            said = {"type": "text_delta", "text": piece.text}
            delta = {"type": "input_json_delta", "partial_json": piece.text} if reply.function else said
            payload = {"type": "content_block_delta", "index": 0, "delta": delta}
            yield Event(payload, "content_block_delta", tokens=piece.tokens, is_content=True)
        yield _event("content_block_stop", index=0)
        usage = self.usage(reply, reply.output_tokens)
        cumulative = {name: value for name, value in usage.items() if name not in _AT_THE_START}
        stop = {"stop_reason": self._stop_reason(reply), "stop_sequence": None}
        yield _event("message_delta", delta=stop, usage=cumulative)
        yield _event("message_stop")

    def error(self, fault: Fault, request_id: str) -> dict[str, Any]:
        kind = fault.type or _TYPES.get(fault.status, "api_error" if fault.status >= 500 else _REFUSED)
        return {"type": "error", "error": {"type": kind, "message": fault.message}, "request_id": request_id}

    def error_event(self, fault: Fault, request_id: str) -> Event:
        return Event(self.error(fault, request_id), "error")


def _iterations(reply: Reply, output_tokens: int) -> list[dict[str, Any]]:
    """What other models did, and then what the one did that answered: after one that declined it is a fallback."""
    has_fallen_back = any(other.kind == "message" for other in reply.others)
    own = {"type": "fallback_message" if has_fallen_back else "message", "model": reply.model}
    nothing_cached = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    turns = [
        {
            "type": other.kind,
            "model": other.model,
            "input_tokens": other.input_tokens,
            "output_tokens": other.output_tokens,
            **nothing_cached,
        }
        for other in reply.others
    ]
    return [*turns, {**own, "input_tokens": reply.input_tokens, "output_tokens": output_tokens, **nothing_cached}]


def _most_searches(tool: Any) -> int:
    if not isinstance(tool, dict) or not str(tool.get("type")).startswith("web_search"):
        return 0
    uses = tool.get("max_uses")
    return uses if isinstance(uses, int) else MOST_SEARCHES


def _tool_use(reply: Reply) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{reply.response_id}", "name": reply.function, "input": {}}


def _arguments(reply: Reply) -> Any:
    try:
        return json.loads(reply.text)
    except ValueError:  # cut at the cap
        return {}


def _event(name: str, **fields: Any) -> Event:
    return Event({"type": name, **fields}, name)
