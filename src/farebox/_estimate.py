"""estimate(): what a call would cost, before there is one.  Sends nothing, holds nothing."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import attrs

from farebox import _config
from farebox._call import Call, Usage
from farebox._money import to_usd
from farebox._scope import current
from farebox.errors import UnpricedModel
from farebox.ledgers import with_slack
from farebox.prices import Rates, model_limits
from farebox.providers import find_provider, provider_names

#: Prose and code have about four bytes a token in current vocabularies.
_BYTES_PER_TOKEN: Final = 4
#: Output expected where nothing is known: a quarter of the cap, and no more than a page.
_UNKNOWN_ANSWER_TOKENS: Final = 500


@attrs.frozen(kw_only=True)
class Estimate:
    """What a call would cost.

    Attributes:
        input_tokens, output_tokens: Expected; `expected_usd` is their price.
        bound_input_tokens, max_output_tokens: At most; `bound_usd` is what a budget would hold.
        price_version: Where the price comes from.
        answers, misses: Calls of this process whose answer said how many input tokens there were, and those of them that
            had more than was held for; those under `input_bound="bytes"` do not count.
    """

    provider_name: str
    model: str
    input_tokens: int
    output_tokens: int
    bound_input_tokens: int
    max_output_tokens: int
    expected_usd: Decimal
    bound_usd: Decimal
    price_version: str
    answers: int
    misses: int


def estimate(
    model: str,
    messages: str | Sequence[Any],
    *,
    max_output_tokens: int | None = None,
    provider: str | None = None,
    **parameters: Any,
) -> Estimate:
    """Price a call that is not sent.

    Args:
        model: Its name.
        messages: As the SDK takes them, or a text.
        max_output_tokens: The output cap; by default the model's own maximum.
        provider: `"openai"`, `"anthropic"`, `"google"`, `"mistral"` or `"cohere"`; found by the model's name when left out.
        **parameters: Others of the request that the model reads or that change the price, such as `tools`, `system`, `n`.

    Raises:
        UnpricedModel: the model has no price; the message names similar ones that have.
        ValueError: no messages, or a cap that is no whole number.
    """
    if max_output_tokens is not None and (type(max_output_tokens) is not int or max_output_tokens < 0):
        raise ValueError(f"max_output_tokens={max_output_tokens!r} is no cap; give a whole number, 0 or more")
    if max_output_tokens is not None:
        parameters["max_tokens"] = max_output_tokens
    provider_name, rates, call = _read(model, messages, provider, parameters)
    site = _config.state().needs.site(provider_name, model, ((frame := current()) and frame.path) or "")
    cap = call.declared_cap
    assert cap is not None  # `_read` puts one in
    expected_in = call.text_bytes // _BYTES_PER_TOKEN + call.extra_input_tokens // _BYTES_PER_TOKEN
    expected_out = min(cap, site.p99() or min(cap // 4, _UNKNOWN_ANSWER_TOKENS)) * call.choices
    input_estimate = _config.state().input_estimate
    most_in = input_estimate.tokens(call)
    in_nanos, out_nanos = rates.bound(
        most_in,
        cache_write=call.cache_write,
        audio=call.has_audio,
        images=call.has_images,
        web_searches=call.most_web_searches,
        units=call.most_units,
    )
    usage = Usage(uncached_input_tokens=expected_in, visible_output_tokens=expected_out)
    return Estimate(
        provider_name=provider_name,
        model=model,
        input_tokens=expected_in,
        output_tokens=expected_out,
        bound_input_tokens=most_in,
        max_output_tokens=cap,
        expected_usd=to_usd(rates.charge_nanos(usage)),
        bound_usd=to_usd(in_nanos + out_nanos * call.choices * with_slack(cap)),
        price_version=rates.version,
        answers=input_estimate.answers,
        misses=input_estimate.misses,
    )


def _read(
    model: str, messages: str | Sequence[Any], provider: str | None, parameters: dict[str, Any]
) -> tuple[str, Rates, Call]:
    """The first provider that prices the model, its rates, and the call its format makes of the request."""
    card = _config.state().card
    # OpenAI's format first: what nobody lists, such as a model priced by hand, is most often served in it.
    names = sorted(provider_names(), key=lambda name: name != "openai") if provider is None else [provider]
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    for name in names:
        format_of = find_provider(name)
        body = {**parameters, "model": model, "messages": list(messages)}
        if "max_completion_tokens" not in body:
            body.setdefault("max_tokens", model_limits(name, model).max_output_tokens)
        call = format_of.read_request(format_of.chat_path, body, "")
        if call is None:
            raise ValueError("messages is empty; pass a text, or messages as the SDK takes them")
        rates = card.find_dearest(name, model, call.started_at_seconds, tier=call.tier)
        if rates is not None:
            return name, rates, call
    known = ", ".join(near for name in names for near in card.nearest(name, model))
    raise UnpricedModel(
        f"model {model!r} has no price; write farebox.set_price({model!r}, input_per_million=..., output_per_million=...)"
        + (f"\n  priced and similar: {known}" if known else ""),
        provider_name=names[0],
        model=model,
    )
