"""The OpenAI chat-completions format.

Source of the fields: types of the openai SDK 3.54. Of the refusals: the one for malformed JSON is quoted in
github.com/ChatGPTNextWeb/NextChat/issues/4064 (read 2026-11-21); the others have the real API's status, type and
code as known from use, and a wording close to its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

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

_REASONS = re.compile(r"^(o\d|gpt-[5-9])")  # models that refuse `max_tokens`
_REFUSED = "invalid_request_error"


def _positive(body: dict[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        kind = {str: "a string", float: "a decimal", bool: "a boolean"}.get(type(value), "an object")
        message = f"Invalid type for '{name}': expected an integer, but got {kind} instead."
        raise Fault(400, message, _REFUSED, param=name, code="invalid_type")
    if value < 1:
        message = f"Invalid '{name}': integer below minimum value. Expected a value >= 1, but got {value} instead."
        raise Fault(400, message, _REFUSED, param=name, code="integer_below_min_value")
    return value


def _cap(body: dict[str, Any]) -> int | None:
    old, new = _positive(body, "max_tokens"), _positive(body, "max_completion_tokens")
    if old is not None and new is not None:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise Fault(400, message, _REFUSED, param="max_tokens", code="invalid_parameter_combination")
    if old is not None and _REASONS.match(body["model"]):
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        raise Fault(400, message, _REFUSED, param="max_tokens", code="unsupported_parameter")
    return old if new is None else new


class Chat:
    vendor: Vendor = "openai"
    request_id_header = "x-request-id"
    paths: tuple[str, ...] = ("/v1/chat/completions",)
    free_paths: tuple[str, ...] = ()

    def response_id(self, number: int) -> str:
        return f"chatcmpl-fake-{number:06d}"

    def malformed(self, detail: str) -> Fault:
        hint = "The OpenAI API expects a JSON payload, but what was sent was not valid JSON."
        return Fault(400, f"We could not parse the JSON body of your request. (HINT: {hint})", _REFUSED)

    def unknown_model(self, model: str) -> Fault:
        message = f"The model `{model}` does not exist or you do not have access to it."
        return Fault(404, message, _REFUSED, code="model_not_found")

    def unknown_path(self, method: str, path: str) -> Fault:
        return Fault(404, f"Invalid URL ({method} {path})", _REFUSED)

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        model, messages = body.get("model"), body.get("messages")
        if not isinstance(model, str) or not model:
            raise Fault(400, "you must provide a model parameter", _REFUSED)
        if "messages" not in body:
            message = "Missing required parameter: 'messages'."
            raise Fault(400, message, _REFUSED, param="messages", code="missing_required_parameter")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            message = "Invalid type for 'messages': expected an array of objects."
            raise Fault(400, message, _REFUSED, param="messages", code="invalid_type")
        if not messages:
            message = "Invalid 'messages': empty array. Expected an array with minimum length 1."
            raise Fault(400, message, _REFUSED, param="messages", code="empty_array")
        stream = body.get("stream") is True
        options = body.get("stream_options")
        if options is not None and not stream:
            message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            raise Fault(400, message, _REFUSED, param="stream_options")
        return Ask(
            model=model,
            stream=stream,
            cap=_cap(body),
            choices=_positive(body, "n") or 1,
            wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
            input_tokens=self._input_tokens(body, count),
        )

    def _input_tokens(self, body: dict[str, Any], count: Count) -> int:
        tokens = MESSAGE_TOKENS
        for message in body["messages"]:
            tokens += MESSAGE_TOKENS + count_content(message.get("content"), count)
            for extra in ("tool_calls", "function_call", "name"):
                if message.get(extra):
                    tokens += count_json(message[extra], count)
        for extra in ("tools", "functions"):
            tokens += sum(count_json(tool, count) for tool in body.get(extra) or [])
        if body.get("response_format"):
            tokens += count_json(body["response_format"], count)
        return tokens

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        cached: dict[str, Any] = {"cached_tokens": reply.cached_tokens, "audio_tokens": 0}
        if written := reply.cache_write_tokens + reply.cache_write_1h_tokens:
            cached["cache_write_tokens"] = written
        return {
            "prompt_tokens": reply.input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": reply.input_tokens + output_tokens,
            "prompt_tokens_details": cached,
            "completion_tokens_details": {
                "reasoning_tokens": min(reply.reasoning_tokens, output_tokens),
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def answer(self, reply: Reply) -> dict[str, Any]:
        return {
            "id": reply.response_id,
            "object": "chat.completion",
            "created": reply.created,
            "model": reply.model,
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": reply.text, "refusal": None, "annotations": []},
                    "logprobs": None,
                    "finish_reason": "length" if reply.cut else "stop",
                }
                for index in range(reply.choices)
            ],
            "usage": self.usage(reply, reply.output_tokens),
            "service_tier": "default",
            "system_fingerprint": "fp_fake",
        }

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        def chunk(choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
            payload = {
                "id": reply.response_id,
                "object": "chat.completion.chunk",
                "created": reply.created,
                "model": reply.model,
                "service_tier": "default",
                "system_fingerprint": "fp_fake",
                "choices": choices,
            }
            return {**payload, "usage": usage} if ask.wants_usage else payload

        def choice(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> list[dict[str, Any]]:
            return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]

        every_choice = range(reply.choices)
        for index in every_choice:
            yield Event(chunk(choice(index, {"role": "assistant", "content": "", "refusal": None})))
        for piece in reply.pieces:
            for index in every_choice:
                yield Event(chunk(choice(index, {"content": piece.text})), tokens=piece.tokens, is_content=True)
        for index in every_choice:
            yield Event(chunk(choice(index, {}, "length" if reply.cut else "stop")))
        if ask.wants_usage:
            yield Event(chunk([], self.usage(reply, reply.output_tokens)))
        yield Event("[DONE]")

    def error(self, fault: Fault, request_id: str) -> dict[str, Any]:
        kind = fault.type or {429: "requests", 401: _REFUSED, 403: _REFUSED, 404: _REFUSED}.get(fault.status)
        code = fault.code or {429: "rate_limit_exceeded", 401: "invalid_api_key"}.get(fault.status)
        kind = kind or ("server_error" if fault.status >= 500 else _REFUSED)
        return {"error": {"message": fault.message, "type": kind, "param": fault.param, "code": code}}

    def error_event(self, fault: Fault, request_id: str) -> Event:
        return Event(self.error(fault, request_id))
