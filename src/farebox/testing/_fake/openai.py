"""What all OpenAI formats share: how they refuse, and what a usage looks like.

Of the refusals: the one for malformed JSON is quoted in github.com/ChatGPTNextWeb/NextChat/issues/4064 (read 2026-11-21);
the others have the real API's status, type and code as known from use, and a wording close to its own.
"""

from __future__ import annotations

from typing import Any

from farebox.testing._fake.dialect import Event, Fault, Reply
from farebox.testing._fake.prices import Vendor

REFUSED = "invalid_request_error"


def at_least(body: dict[str, Any], name: str, least: int) -> int | None:
    """A whole number of the body, None if it is not given."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        kind = {str: "a string", float: "a decimal", bool: "a boolean"}.get(type(value), "an object")
        message = f"Invalid type for '{name}': expected an integer, but got {kind} instead."
        raise Fault(400, message, REFUSED, param=name, code="invalid_type")
    if value < least:
        message = (
            f"Invalid '{name}': integer below minimum value. Expected a value >= {least}, but got {value} instead."
        )
        raise Fault(400, message, REFUSED, param=name, code="integer_below_min_value")
    return value


def model_of(body: dict[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise Fault(400, "you must provide a model parameter", REFUSED)
    return model


def missing(name: str) -> Fault:
    message = f"Missing required parameter: '{name}'."
    return Fault(400, message, REFUSED, param=name, code="missing_required_parameter")


def invalid_type(name: str, expected: str) -> Fault:
    message = f"Invalid type for '{name}': expected {expected}."
    return Fault(400, message, REFUSED, param=name, code="invalid_type")


class OpenAIFormat:
    """The part of a `Dialect` that is the same for every OpenAI endpoint."""

    vendor: Vendor = "openai"
    request_id_header = "x-request-id"
    paths: tuple[str, ...] = ()
    free_paths: tuple[str, ...] = ()

    def serves(self, method: str, path: str) -> bool:
        return method == "POST" and path in self.paths

    def malformed(self, detail: str) -> Fault:
        hint = "The OpenAI API expects a JSON payload, but what was sent was not valid JSON."
        return Fault(400, f"We could not parse the JSON body of your request. (HINT: {hint})", REFUSED)

    def unknown_model(self, model: str) -> Fault:
        message = f"The model `{model}` does not exist or you do not have access to it."
        return Fault(404, message, REFUSED, code="model_not_found")

    def unknown_path(self, method: str, path: str) -> Fault:
        return Fault(404, f"Invalid URL ({method} {path})", REFUSED)

    def counted(self, input_tokens: int) -> dict[str, Any]:
        return {"object": "response.input_tokens", "input_tokens": input_tokens}

    def error(self, fault: Fault, request_id: str) -> dict[str, Any]:
        kind = fault.type or {429: "requests", 401: REFUSED, 403: REFUSED, 404: REFUSED}.get(fault.status)
        code = fault.code or {429: "rate_limit_exceeded", 401: "invalid_api_key"}.get(fault.status)
        kind = kind or ("server_error" if fault.status >= 500 else REFUSED)
        return {"error": {"message": fault.message, "type": kind, "param": fault.param, "code": code}}

    def error_event(self, fault: Fault, request_id: str) -> Event:
        return Event(self.error(fault, request_id))


def completion_usage(reply: Reply, output_tokens: int) -> dict[str, Any]:
    """The usage of chat and text completions."""
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
