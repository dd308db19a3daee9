"""Servers that answer in a vendor's format and are not that vendor's: who they are, what they say otherwise, what is believed.

The vendor's own provider reads their requests and answers; what stands here is put before and after it, so that calls to the
vendor's own servers take no step more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation
from typing import Any, Final

from farebox._call import Call
from farebox.providers import Provider, StreamReader
from farebox.providers._reading import MOST_TOKENS, fields, listed, text_of
from farebox.providers._servers import name_of_server

_DEPLOYMENT: Final = re.compile(r"/deployments/([^/]+)")
#: What a search of OpenRouter's puts in front of a model, up to five pages
#: (https://openrouter.ai/announcements/introducing-web-search-via-the-api, read 2026-11-29), counted as those of OpenAI's models are.
_WEB_SEARCH_TOKENS: Final = 128_000
#: Servers whose completion tokens leave out what was reasoned.
_REASON_APART: Final = ("x_ai", "gcp.gemini")
_EXACT: Final = Context(prec=60)
#: More than a single answer ever costs: what lies above is no amount of dollars.
_MOST_USD: Final = 1_000_000


class Compatible:
    """One such server.  Unknown ones keep the vendor's name, and are not believed which model they served."""

    def __init__(self, provider: Provider, host: str, port: int | None) -> None:
        self._provider = provider
        known = name_of_server(host, port)
        self.name = known or provider.name
        self._is_vendor = bool(known)
        #: It has refused `stream_options`, and is not asked again for the usage of a stream.
        self.refuses_usage_chunk = False

    def meet(self, call: Call, path: str) -> None:
        """Say on a call whose it is, before it is priced."""
        call.provider_name, call.server = self.name, self
        if self.name == "azure.ai.openai" and (found := _DEPLOYMENT.search(path)):
            call.request_model = found[1][:200]
        if self.name == "openrouter" and call.request_model.endswith(":online"):
            call.is_plain = False
            call.most_web_searches = max(1, call.most_web_searches)
            call.extra_input_tokens += _WEB_SEARCH_TOKENS
            call.proven_input_tokens += _WEB_SEARCH_TOKENS
            call.unbounded = (*call.unbounded, "model (:online)")
        if self._draws(call):
            call.is_plain, call.has_images = False, True

    def _draws(self, call: Call) -> bool:
        """Whether pictures may come out, asked for or not: their tokens have a price of their own."""
        return self.name == "openrouter" and "-image" in call.model

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        """As the vendor's, without what this server refuses."""
        changes = self._provider.rewrite(call, body)
        if self.refuses_usage_chunk and call.adds_usage_chunk:
            call.adds_usage_chunk = False
            del changes["stream_options"]
        return changes

    def read_answer(self, call: Call, answer: Any) -> None:
        """As the vendor's, from an answer whose usage is said the vendor's way."""
        found = fields(answer)
        usage = self.usual(call, found.get("usage"), (found,))
        self._provider.read_answer(call, answer if usage is found.get("usage") else {**found, "usage": usage})
        self._look(call)

    def stream_reader(self, call: Call) -> StreamReader:
        """As the vendor's."""
        return _Stream(self, call, self._provider.stream_reader(call))

    def usual(self, call: Call, usage: Any, chunks: Iterable[Any]) -> Any:
        """A usage as the vendor would have said it, from wherever in an answer or its last chunks this server puts it."""
        if usage is None:
            usage = next((found for chunk in chunks if (found := _apart(fields(chunk)))), None)
            if usage is None:
                return None
        found = fields(usage)
        if self.name == "openrouter":
            _read_told(call, found, chunks)
        read, written = found.get("prompt_tokens"), found.get("completion_tokens")
        if type(read) is not int or type(written) is not int:
            return usage
        changes: dict[str, Any] = {}
        # DeepSeek's (https://docs.stigg.io/documentation/ai-agents/providers/deepseek) and Moonshot's
        # (https://github.com/Bike4Mind/bike4mind/pull/1089; both read 2026-11-29).
        into = fields(found.get("prompt_tokens_details"))
        cached = found.get("prompt_cache_hit_tokens", found.get("cached_tokens"))
        if type(cached) is int and 0 < cached <= read and not into.get("cached_tokens"):
            changes["prompt_tokens_details"] = {**into, "cached_tokens": cached}
        # xAI's and Gemini's: what was reasoned is in the total and not in the completion
        # (https://github.com/vercel/ai/pull/12425, https://github.com/Clarifai/clarifai-python/pull/978, read 2026-11-29).
        total, reasoned = (
            found.get("total_tokens"),
            fields(found.get("completion_tokens_details")).get("reasoning_tokens"),
        )
        hidden = total - read - written if type(total) is int else 0
        if written >= 0 and 0 < hidden <= MOST_TOKENS and (self.name in _REASON_APART or hidden == reasoned):
            changes["completion_tokens"] = written + hidden
        said = fields(found.get("completion_tokens_details"))
        if self._draws(call) and said.get("image_tokens") is None:
            changes["completion_tokens_details"] = {**said, "image_tokens": written, "reasoning_tokens": 0}
        return {**found, **changes} if changes else usage

    def _look(self, call: Call) -> None:
        """The answer has been read: is it to be believed which model was served?"""
        if not self._is_vendor and call.response_model not in ("", call.model):
            call.is_plain, call.doubts_model = False, True

    def done(self, call: Call) -> None:
        """A stream has been read."""
        self._look(call)


class _Stream:
    """The vendor's reader of a stream, and a look at what it read."""

    __slots__ = ("_call", "_inner", "_server", "see")

    def __init__(self, server: Compatible, call: Call, inner: StreamReader) -> None:
        self._server, self._call, self._inner = server, call, inner
        self.see = inner.see

    def finish(self) -> None:
        self._inner.finish()
        self._server.done(self._call)

    def abandon(self, chunks: list[Any]) -> None:
        self._inner.abandon(chunks)
        self._server.done(self._call)


def _apart(found: Mapping[str, Any]) -> Any:
    """The usage that a chunk holds elsewhere: Groq's in `x_groq` (groq 1.7.0,
    `types/chat/chat_completion_chunk.py`, read 2026-11-30), Moonshot's in a choice
    (https://github.com/earendil-works/pi/issues/2017, read 2026-11-29)."""
    usage = fields(found.get("x_groq")).get("usage")
    if usage is not None:
        return usage
    choices = (fields(choice) for choice in listed(found.get("choices")) or ())
    return next((choice["usage"] for choice in choices if choice.get("usage") is not None), None)


def _read_told(call: Call, usage: Mapping[str, Any], chunks: Iterable[Any]) -> None:
    """What OpenRouter says that it charged, in credits of one dollar, and whose server it asked.

    With a key of the caller's own (`is_byok`) the upstream provider bills apart, and both are what the call cost.
    Source: https://www.openrouter.ai/docs/use-cases/usage-accounting, a copy, read 2026-11-29; that a credit is
    a dollar is not verified.
    """
    for chunk in chunks:
        call.upstream_provider = text_of(fields(chunk).get("provider"))[:100] or call.upstream_provider
    told = _nanos(usage.get("cost"))
    if told is not None and usage.get("is_byok") is True:
        upstream = _nanos(fields(usage.get("cost_details")).get("upstream_inference_cost"))
        told = None if upstream is None else told + upstream
    if told is not None:
        call.is_plain, call.told_usd_nanos = False, told


def _nanos(usd: Any) -> int | None:
    """An amount of dollars of a JSON body, a number or a text, in nanodollars rounded up; None where it is none."""
    if isinstance(usd, bool) or not isinstance(usd, (int, float, str)):
        return None
    try:
        amount = Decimal(str(usd)[:40])
    except (InvalidOperation, ValueError):
        return None
    if not amount.is_finite() or not 0 <= amount <= _MOST_USD:
        return None
    return int(amount.scaleb(9, context=_EXACT).to_integral_value(rounding=ROUND_CEILING, context=_EXACT))


_known: dict[tuple[str, str, int | None], Compatible] = {}
_MOST_KNOWN: Final = 1_024


def server_at(provider: Provider, host: str, port: int | None) -> Compatible:
    """The server at an address, as it is remembered."""
    key = (provider.name, host, port)
    found = _known.get(key)
    if found is None:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        found = _known[key] = Compatible(provider, host, port)
    return found
