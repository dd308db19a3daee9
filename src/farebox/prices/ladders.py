"""What `on_exceed="downgrade"` steps down: models of one provider, dearest first, and what each can do.

    cheaper("openai", "gpt-5")                                  # ("gpt-5-mini", "gpt-5-nano")
    covers("openai", "gpt-5-mini", {"tools"}, 12_000, 500)      # True
    check_map(["gpt-5", "gpt-5-mini"], card)                    # {"gpt-5": "gpt-5-mini"}, or an error

The rows are in `_ladder_rows`; only chat-like text models are there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any, Final, NamedTuple

from farebox.prices._card import RateCard
from farebox.prices._ladder_rows import LADDERS, Row
from farebox.prices._names import LONGEST_NAME, family, model_id, provider_id
from farebox.prices.limits import model_limits

#: What a request may need of a model.  A request that uses none of these can be served by any text model.
FEATURES: Final = frozenset(
    (
        # What goes in and comes out, other than text.
        "images",  # pictures among the input
        "audio",  # sound among the input
        "video",  # moving pictures among the input
        "files",  # PDFs and other documents among the input, inline, by id or by URL
        "audio_output",  # spoken answers
        "image_generation",  # drawn answers, by a modality or a hosted tool
        # What the model is asked to follow.
        "tools",  # functions the caller runs
        "forced_tools",  # a demand that a function is called: tool_choice other than auto and none
        # Functions in an OpenAI chat completion (not in a response); one of these is named along with "tools".
        "chat_tools",  # the request says nothing of reasoning_effort
        "chat_tools_reasoning",  # reasoning_effort is a level
        "chat_tools_none",  # reasoning_effort is "none"
        "structured_output",  # an answer that follows a given JSON schema
        "json_mode",  # an answer that is any JSON
        "prefill",  # an answer that goes on from a last message of the assistant's
        "prediction",  # a predicted output to go along with
        "cached_content",  # a prompt that was cached for this very model
        "citations",  # an answer that cites the documents it was given
        # Tools the provider runs.
        "web_search",
        "web_fetch",
        "file_search",
        "code_interpreter",  # also called code execution
        "computer_use",
        "shell",  # also apply_patch, bash and text editors, whoever runs them
        "tool_search",
        "mcp",  # servers of tools that the provider calls
        # Other models that work on the request: which go together with which is the provider's to say.
        "advisor",
        "fallbacks",
        # How the answer is sampled.
        "sampling",  # a temperature, top_p or top_k of the caller's (other than temperature 1)
        "penalties",  # presence and frequency penalties, logit_bias
        "logprobs",
        "stop",  # stop sequences
        "choices",  # several answers to one request (n > 1)
        "verbosity",  # how much the answer should say
        # How much the model thinks before it answers.
        "reasoning",  # any wish that it thinks; what follows says how the wish is spelt, and is named along with it
        "reasoning_effort",  # by a level: low, medium or high
        "reasoning_budget",  # by a number of tokens
        "reasoning_adaptive",  # as much as the model finds right
        "reasoning_between_tools",  # only between calls of tools
        "reasoning_history",  # thoughts of an earlier answer are sent back: only the model that had them can read them
        "reasoning_none",  # a wish that it does not think; not named along with "reasoning"
        "reasoning_minimal",  # the level "minimal"
        "reasoning_xhigh",  # the level "xhigh"
        "reasoning_max",  # the level "max"
    )
)

# Done by the provider itself: a reseller of the model may not offer it.
_HOSTED: Final = frozenset(
    ("image_generation", "web_search", "web_fetch", "file_search", "code_interpreter", "tool_search", "mcp")
)

# How Alibaba's own service is called; no price list has an id for it.
_ALIBABA: Final = frozenset(("alibaba", "alibaba_cloud", "alibabacloud", "aliyun", "dashscope", "qwen"))

# Where a name without a provider is looked up.
_LIKELY: Final = ("openai", "anthropic", "google", "deepseek", "mistral", "x-ai", "aws", "openrouter")

_DATE: Final = re.compile(
    r"(?:-latest|-preview(?:-\d{2}-\d{2,4})?|-\d{4}-\d{2}-\d{2}|[-@]\d{8}|-\d{3,4})?(?:-v\d+(?::\d+)?)?$"
)


class _Place(NamedTuple):
    row: Row
    below: tuple[str, ...]


def _places() -> Iterator[tuple[str, str, _Place]]:
    for ladder in LADDERS:
        for at, rung in enumerate(ladder.rungs):
            below = tuple(lower[0].model for lower in ladder.rungs[at + 1 :])
            for row in rung:
                names = [row.model, *(alias for alias, model in ladder.aliases.items() if model == row.model)]
                yield from ((ladder.provider, name, _Place(row, below)) for name in names)


_PLACES: Final = {(provider, name): place for provider, name, place in _places()}
_BY_NAME: Final = {name: place for _, name, place in _places()}


def cheaper(provider_name: str, model: str) -> tuple[str, ...]:
    """The models below one on its ladder, nearest first; none for a model on no ladder.

    A dated name is on the rung of its family.  Fine-tuned models, deployments, and models that a reseller spells in its own
    way (`"openai/gpt-5"`) are on no ladder: what is below them is not known to be there.

    >>> cheaper("openai", "gpt-5-2025-08-07")
    ('gpt-5-mini', 'gpt-5-nano')
    """
    name = _own_name(provider_name, model)
    place = _place(provider_name, name)
    if place is None:
        return ()
    path = model[: len(model) - len(name)]
    return tuple(path + lower for lower in place.below)


def covers(
    provider_name: str,
    model: str,
    features: Collection[str],
    input_tokens: int,
    output_cap: int | None,
    *,
    is_chosen: bool = False,
) -> bool:
    """Whether a model can serve a request.

    Args:
        features: What the request needs, names of `FEATURES`.  One that is not there is covered by no model.
        input_tokens: At most so many go in.
        output_cap: So many tokens the request allows to come out, None where it does not say.
        is_chosen: A person named the model: one that nobody has described here is believed to do.

    A model nobody has described here covers a request without features only: that it takes text is sure, and a call on it
    that uses anything else may end in an error of the provider's where the caller expected an answer.
    """
    limits = model_limits(provider_name, model)
    if limits.is_known:
        if output_cap is not None and output_cap > limits.max_output_tokens:
            return False
        if input_tokens + (output_cap or limits.least_cap) > limits.context_tokens:
            return False
    if not features:
        return True
    able = _can_do(provider_name, model)
    return is_chosen if able is None else able.issuperset(features)


def check_map(
    downgrade: Mapping[str, str] | Sequence[str],
    card: RateCard | None = None,
    provider_name: str | None = None,
    *,
    at: float | None = None,
) -> dict[str, str]:
    """What a user says to step down to, checked: from each model to the next.

    Args:
        downgrade: `{"gpt-5": "gpt-5-mini"}`, or a list of models with the dearest first.
        card: Prices to hold the steps against; without it prices are not looked at.
        provider_name: Whose models they are; None where nobody knows yet: then a step is judged by the first of the larger
            providers that prices both its ends.
        at: Epoch seconds of the prices, now if None.

    A step is up if its input or its output costs more per token, in the standard tier and with a short input.  A model
    without a known price can't be judged and passes.

    Raises:
        TypeError: it is neither, or holds an entry that is no text or an empty one.
        ValueError: there is no step in it, it goes in a circle, or up in price.
    """
    pairs = _pairs(downgrade)
    steps: dict[str, str] = {}
    for dearer, lower in pairs:
        _refuse_circle(steps, dearer, lower)
        steps[dearer] = lower
    if card is not None:
        for dearer, lower in pairs:
            _refuse_rise(card, provider_name, dearer, lower, time.time() if at is None else at)
    return steps


def next_in(steps: Mapping[str, str], model: str) -> str | None:
    """What a checked map steps down to from a model; a dated name that is not in it steps like its family."""
    return steps.get(model) or steps.get(undated(model))


def undated(model: str) -> str:
    """A model's name without a date, `-latest`, `-preview` or version after it.

    >>> undated("claude-haiku-4-5-20251001")
    'claude-haiku-4-5'
    """
    return _DATE.sub("", model) if len(model) <= LONGEST_NAME else model


def _own_name(provider_name: str, model: str) -> str:
    return model_id(provider_id(provider_name), model) if len(model) <= LONGEST_NAME else model


def _place(provider_name: str, name: str) -> _Place | None:
    provider = provider_id(provider_name)
    if provider in _ALIBABA:
        provider = "alibaba"
    plain = undated(name)
    place = _PLACES.get((provider, name)) or _PLACES.get((provider, plain))
    if place is None and provider == "openai":
        # OpenAI's SDK talks to other providers' servers too, and the names tell whose.
        place = _BY_NAME.get(name) or _BY_NAME.get(plain)
    return place


def _can_do(provider_name: str, model: str) -> frozenset[str] | None:
    place = _place(provider_name, _own_name(provider_name, model))
    if place is not None:
        return place.row.features
    name = family(model[:LONGEST_NAME])
    resold = _BY_NAME.get(name) or _BY_NAME.get(undated(name))
    return None if resold is None else resold.row.features - _HOSTED


def _pairs(downgrade: Any) -> list[tuple[str, str]]:
    if isinstance(downgrade, Mapping):
        names = [name for pair in downgrade.items() for name in pair]
        pairs = list(downgrade.items())
    elif isinstance(downgrade, Sequence) and not isinstance(downgrade, (str, bytes)):
        names = list(downgrade)
        pairs = list(pairwise(downgrade))
    else:
        raise TypeError(
            f"downgrade={downgrade!r} is neither a map nor a list; write {{'gpt-5': 'gpt-5-mini'}} or "
            "['gpt-5', 'gpt-5-mini', 'gpt-5-nano'], the dearest first"
        )
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise TypeError(f"downgrade names a model {name!r}; a model's name is text")
    if not pairs:
        raise ValueError(f"downgrade={downgrade!r} has no step; name a model and a cheaper one")
    return pairs


def _refuse_circle(steps: Mapping[str, str], dearer: str, lower: str) -> None:
    way = [dearer]
    here: str | None = lower
    while here is not None:
        way.append(here)
        if here == dearer:
            raise ValueError(f"downgrade goes in a circle: {' > '.join(way)}; end it at the cheapest model")
        here = steps.get(here)


def _refuse_rise(card: RateCard, provider_name: str | None, dearer: str, lower: str, at: float) -> None:
    for provider in _LIKELY if provider_name is None else (provider_name,):
        before, after = _price(card, provider, dearer, at), _price(card, provider, lower, at)
        if before is None or after is None:
            continue
        if after[0] > before[0] or after[1] > before[1]:
            raise ValueError(
                f"downgrade from {dearer} ({_per_million(before)}) to {lower} ({_per_million(after)}) goes up in price; "
                "name the dearer model first"
            )
        return


def _price(card: RateCard, provider: str, model: str, at: float) -> tuple[int, int] | None:
    """Picodollars per token of input and output."""
    rates = card.find(provider, model, at)
    return None if rates is None else (rates.steps[0].uncached_input, rates.steps[0].output_bound)


def _per_million(picos: tuple[int, int]) -> str:
    went_in, came_out = (format((Decimal(one) / 1_000_000).normalize(), "f") for one in picos)
    return f"{went_in} USD in, {came_out} USD out per million tokens"
