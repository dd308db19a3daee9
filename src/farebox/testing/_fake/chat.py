"""The OpenAI chat-completions format.

Source of the fields: types of the openai SDK 3.54.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from farebox.testing._fake.dialect import MESSAGE_TOKENS, Ask, Count, Event, Fault, Reply, count_content, count_json
from farebox.testing._fake.openai import (
    REFUSED,
    OpenAIFormat,
    at_least,
    completion_usage,
    invalid_type,
    missing,
    model_of,
)

_REASONS = re.compile(r"^(o\d|gpt-[5-9])")  # models that refuse `max_tokens`


def _cap(body: dict[str, Any]) -> int | None:
    old, new = at_least(body, "max_tokens", 1), at_least(body, "max_completion_tokens", 1)
    if old is not None and new is not None:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise Fault(400, message, REFUSED, param="max_tokens", code="invalid_parameter_combination")
    if old is not None and _REASONS.match(body["model"]):
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        raise Fault(400, message, REFUSED, param="max_tokens", code="unsupported_parameter")
    return old if new is None else new


class Chat(OpenAIFormat):
    paths = ("/v1/chat/completions",)

    def response_id(self, number: int) -> str:
        return f"chatcmpl-fake-{number:06d}"

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        model, messages = model_of(body), body.get("messages")
        if "messages" not in body:
            raise missing("messages")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise invalid_type("messages", "an array of objects")
        if not messages:
            message = "Invalid 'messages': empty array. Expected an array with minimum length 1."
            raise Fault(400, message, REFUSED, param="messages", code="empty_array")
        stream = body.get("stream") is True
        options = body.get("stream_options")
        if options is not None and not stream:
            message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            raise Fault(400, message, REFUSED, param="stream_options")
        return Ask(
            model=model,
            stream=stream,
            cap=_cap(body),
            choices=at_least(body, "n", 1) or 1,
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
        return completion_usage(reply, output_tokens)

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        said: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None, "annotations": []}
        if reply.function:
            called = {"name": reply.function, "arguments": reply.text}
            said |= {"content": None, "tool_calls": [{"id": _call_id(reply), "type": "function", "function": called}]}
        return {
            "id": reply.response_id,
            "object": "chat.completion",
            "created": reply.created,
            "model": reply.model,
            "choices": [
                {"index": index, "message": said, "logprobs": None, "finish_reason": _finish_reason(reply)}
                for index in range(reply.shown)
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

        every_choice = range(reply.shown)
        for index in every_choice:
            yield Event(chunk(choice(index, _opening(reply))))
        for piece in reply.pieces:
            said = {"content": piece.text}
            delta = {"tool_calls": [{"index": 0, "function": {"arguments": piece.text}}]} if reply.function else said
            for index in every_choice:
                yield Event(chunk(choice(index, delta)), tokens=piece.tokens, is_content=True)
        for index in every_choice:
            yield Event(chunk(choice(index, {}, _finish_reason(reply))))
        if ask.wants_usage:
            yield Event(chunk([], self.usage(reply, reply.output_tokens)))
        yield Event("[DONE]")


def _opening(reply: Reply) -> dict[str, Any]:
    if not reply.function:
        return {"role": "assistant", "content": "", "refusal": None}
    called = {"name": reply.function, "arguments": ""}
    call = {"index": 0, "id": _call_id(reply), "type": "function", "function": called}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _call_id(reply: Reply) -> str:
    return f"call_{reply.response_id}"


def _finish_reason(reply: Reply) -> str:
    return "length" if reply.cut else "tool_calls" if reply.function else "stop"
