"""The OpenAI text-completions format, the old one.  Source of the fields: types of the openai SDK 3.54."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farebox.testing._fake.dialect import Ask, Count, Event, Fault, Reply
from farebox.testing._fake.openai import (
    REFUSED,
    OpenAIFormat,
    at_least,
    completion_usage,
    invalid_type,
    missing,
    model_of,
)

DEFAULT_CAP = 16  # where the request does not say, by the schema of the real API


class Completions(OpenAIFormat):
    paths = ("/v1/completions",)

    def response_id(self, number: int) -> str:
        return f"cmpl-fake-{number:06d}"

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        model = model_of(body)
        if "prompt" not in body:
            raise missing("prompt")
        prompts = prompts_of(body["prompt"], "prompt")
        stream, options = body.get("stream") is True, body.get("stream_options")
        shown, generated = at_least(body, "n", 1) or 1, at_least(body, "best_of", 1) or 1
        if generated > 1 and generated < shown:
            raise Fault(400, "best_of must be greater than or equal to n", REFUSED, param="best_of")
        if stream and generated > shown:
            raise Fault(
                400, "You requested a stream with best_of > n; that can't be streamed", REFUSED, param="best_of"
            )
        cap = at_least(body, "max_tokens", 0)
        return Ask(
            model=model,
            stream=stream,
            cap=DEFAULT_CAP if cap is None else cap,
            choices=max(shown, generated) * len(prompts),
            shown=shown * len(prompts),
            wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
            input_tokens=sum(count_prompt(prompt, count) for prompt in prompts),
        )

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        return completion_usage(reply, output_tokens)

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        choices = [_choice(index, reply.text, _finish_reason(reply)) for index in range(reply.shown)]
        return {**_head(reply), "choices": choices, "usage": self.usage(reply, reply.output_tokens)}

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        def chunk(choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
            payload = {**_head(reply), "choices": choices}
            return {**payload, "usage": usage} if ask.wants_usage else payload

        every_choice = range(reply.shown)
        for piece in reply.pieces:
            for index in every_choice:
                yield Event(chunk([_choice(index, piece.text, None)]), tokens=piece.tokens, is_content=True)
        for index in every_choice:
            yield Event(chunk([_choice(index, "", _finish_reason(reply))]))
        if ask.wants_usage:
            yield Event(chunk([], self.usage(reply, reply.output_tokens)))
        yield Event("[DONE]")


def prompts_of(value: Any, name: str) -> list[Any]:
    """Each text or list of token ids in a text, a list of token ids, or a list of either."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise invalid_type(name, "a string or an array")
    if all(isinstance(item, int) for item in value):
        return [value]
    if all(isinstance(item, (str, list)) for item in value):
        return value
    raise invalid_type(name, "an array of strings or of tokens")


def count_prompt(prompt: Any, count: Count) -> int:
    return count(prompt) if isinstance(prompt, str) else len(prompt)


def _head(reply: Reply) -> dict[str, Any]:
    return {
        "id": reply.response_id,
        "object": "text_completion",
        "created": reply.created,
        "model": reply.model,
        "system_fingerprint": "fp_fake",
    }


def _choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _finish_reason(reply: Reply) -> str:
    return "length" if reply.cut else "stop"
