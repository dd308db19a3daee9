"""OpenAI's wire format: text completions, the old ones.

Field names: openai 3.54.0, `types/completion_create_params.py` (read 2026-11-22).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call
from farebox.providers._openai_usage import (
    CHAT,
    ChoicesReader,
    ask_for_usage,
    is_own_server,
    read_cap,
    read_finish,
    read_head,
    read_tier,
    read_usage,
)
from farebox.providers._reading import Sizes, fields, listed, text_of, whole_number

PATH: Final = "/completions"

#: Output tokens where the request does not say, by the API's own schema: a client made of it is
#: https://github.com/sohaibtariq/personal-crm, `plugins/OpenAIAPI/doc/models/create-completion-request.md` (read 2026-11-22).
#: A server of somebody else's has a default of its own.
DEFAULT_CAP: Final = 16
#: More than any server makes of one request.
_MOST_CHOICES: Final = 2_048 * 128
#: A beginning or an end that a prompt may get.
_TOKENS_PER_PROMPT: Final = 4

# Parameters that put nothing in front of the model.  Any other one counts as text.
_NOT_READ: Final = frozenset(
    ("best_of echo frequency_penalty logit_bias logprobs max_tokens model n presence_penalty prompt seed service_tier "
     "stop stream stream_options temperature top_p user").split()
)  # fmt: skip


class Completions:
    """`POST /completions`."""

    def read_request(self, provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        model = text_of(body.get("model"))
        prompts = prompts_of(body.get("prompt"))
        if not model or prompts is None:
            return None
        call = Call(
            provider_name=provider_name,
            operation_name="text_completion",
            endpoint=PATH,
            server_address=server_address,
            request_model=model,
        )
        sizes = Sizes({})
        for prompt in prompts:
            call.last_message_bytes = add_prompt(sizes, prompt)
        for name in body.keys() - _NOT_READ:
            sizes.add_json(body[name])
        read_cap(call, body.get("max_tokens"))
        is_foreign = server_address and not is_own_server(server_address)
        if call.declared_cap is None and call.accepts_cap and not is_foreign:
            call.declared_cap = DEFAULT_CAP
        generated = max(whole_number(body.get("n")) or 1, whole_number(body.get("best_of")) or 1)
        call.choices = min(generated * max(1, len(prompts)), _MOST_CHOICES)
        call.cache_write, call.messages = "none", len(prompts)
        call.is_stream = bool(body.get("stream"))
        read_tier(call, body)
        call.features = _features(body, generated)
        set_sizes(call, sizes)
        return call

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if call.sent_model:
            changes["model"] = call.sent_model
        if call.sent_cap is not None:
            changes["max_tokens"] = call.sent_cap
        ask_for_usage(call, body, changes)
        return changes

    def read_answer(self, call: Call, answer: Any) -> None:
        found = fields(answer)
        read_head(call, found)
        read_finish(call, found)
        call.usage = read_usage(call, found.get("usage"), CHAT)

    def stream_reader(self, call: Call) -> ChoicesReader:
        return ChoicesReader(call)


def prompts_of(value: Any) -> list[Any] | None:
    """The texts, or lists of token ids, in a text, a list of token ids or a list of either; None where it is none of these."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    items = listed(value)
    if items and is_token_ids(items):
        return [items]
    return items


def is_token_ids(value: Any) -> bool:
    """Whether it is a list of whole numbers: each is a token."""
    return type(value) is list and list(map(type, value)).count(int) == len(value)


def add_prompt(sizes: Sizes, prompt: Any) -> int:
    """Count a text or a list of token ids; returns the bytes of text counted."""
    sizes.extra_tokens += _TOKENS_PER_PROMPT
    if is_token_ids(prompt):
        sizes.extra_tokens += len(prompt)
        return 0
    return sizes.add(prompt)


def set_sizes(call: Call, sizes: Sizes) -> None:
    """Write to the call what was counted."""
    call.text_bytes, call.dense_bytes = sizes.text_bytes, sizes.dense_bytes
    call.english_bytes = sizes.english_bytes
    call.extra_input_tokens = sizes.extra_tokens
    call.proven_input_tokens = sizes.proven_tokens()
    call.has_images, call.has_audio = sizes.has_images, sizes.has_audio


_FEATURE_OF: Final = {
    "frequency_penalty": "penalties",
    "logit_bias": "penalties",
    "logprobs": "logprobs",
    "presence_penalty": "penalties",
    "stop": "stop",
    "temperature": "sampling",
    "top_p": "sampling",
}


def _features(body: Mapping[str, Any], generated: int) -> frozenset[str]:
    found = {feature for name, feature in _FEATURE_OF.items() if body.get(name) is not None}
    if body.get("temperature") == 1 and body.get("top_p") is None:
        found.discard("sampling")  # as it would be anyway
    return frozenset(found | {"choices"} if generated > 1 else found)
