"""What the fake provider charges: its own list, so that a wrong price elsewhere can't hide behind the same one here.

List prices for standard use, not batch, in USD per million tokens. Source: typed in here, then compared by eye with the
tables of genai-prices 0.2.3 on 2026-11-21; the vendors' own pages (platform.openai.com/docs/pricing,
platform.claude.com/docs/en/about-claude/pricing) were not at hand that day.  OpenAI's, its fees of tools and its prices of
models that draw, speak, listen and film were compared on 2026-11-29 with `api/docs/pricing.md` of
https://github.com/llms-txt-archive/openai-platform, a copy of its page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Literal

import attrs

PICOS_PER_NANO = 1_000
SEARCH_PICOS = 10_000_000_000  # USD 10 per thousand web searches, at OpenAI and Anthropic
FILE_SEARCH_PICOS = 2_500_000_000  # USD 2.50 per thousand
CONTAINER_PICOS = {"1g": 30, "4g": 120, "16g": 480, "64g": 1_920}  # thousandths of a USD for 20 minutes
MILLI_USD_PICOS = 10**9
_PICOS_PER_TOKEN = 1_000_000  # one USD per million tokens is a million picodollars per token

Rate = str | int | float | Decimal
Vendor = Literal["openai", "anthropic", "google", "mistral", "cohere"]


def _picos(rate: Rate) -> int:
    """USD per million tokens as exact integer picodollars per token."""
    picos = Decimal(str(rate)) * _PICOS_PER_TOKEN
    if picos != picos.to_integral_value() or picos < 0:
        raise ValueError(f"price {rate!r} USD per million tokens is negative or finer than a picodollar per token")
    return int(picos)


def _picos_or_none(rate: Rate | None) -> int | None:
    return None if rate is None else _picos(rate)


@attrs.frozen
class Charge:
    """So many of something that is no token of the model that answers, in picodollars each."""

    what: str
    count: int
    picos_each: int


@attrs.frozen
class Price:
    """Rates of one model, given in USD per million tokens as price pages print them, kept in picodollars per token.

    `cached` None is the input rate; `cache_write` None is the input rate, `cache_write_1h` None is `cache_write`.
    `longer=(above, price)`: a prompt of more than `above` input tokens is charged at `price` throughout.
    `image` and `audio` are the rates of pictures and sound that go in, None is the input rate.
    `vendor` None serves the model in both formats, otherwise the other ones answer 404.
    `search_picos` is the fee of a web search, or with `searches_once` of any number of them for one answer.
    """

    input: int = attrs.field(converter=_picos)
    output: int = attrs.field(converter=_picos)
    cached: int | None = attrs.field(default=None, converter=_picos_or_none)
    cache_write: int | None = attrs.field(default=None, converter=_picos_or_none)
    cache_write_1h: int | None = attrs.field(default=None, converter=_picos_or_none)
    longer: tuple[int, Price] | None = None
    vendor: Vendor | None = None
    image: int | None = attrs.field(default=None, converter=_picos_or_none)
    audio: int | None = attrs.field(default=None, converter=_picos_or_none)
    search_picos: int = SEARCH_PICOS
    searches_once: bool = False

    def nanos(
        self,
        *,
        input_tokens: int,
        output_tokens: int,
        cached_tokens: int = 0,
        cache_write_tokens: int = 0,
        cache_write_1h_tokens: int = 0,
        web_searches: int = 0,
        image_tokens: int = 0,
        audio_tokens: int = 0,
        charges: Iterable[Charge] = (),
        percent: int = 100,
    ) -> int:
        """The charge in nanodollars, rounded up once.

        `input_tokens` holds all input; cached and written tokens, pictures and sound are parts of it.  `percent` is what
        tokens cost of their usual price.
        """
        rates = self
        if self.longer is not None and input_tokens > self.longer[0]:
            rates = self.longer[1]
        cached = rates.input if rates.cached is None else rates.cached
        write = rates.input if rates.cache_write is None else rates.cache_write
        write_1h = write if rates.cache_write_1h is None else rates.cache_write_1h
        fresh_tokens = input_tokens - cached_tokens - cache_write_tokens - cache_write_1h_tokens
        fresh_tokens -= image_tokens + audio_tokens
        tokens_picos = (
            fresh_tokens * rates.input
            + image_tokens * (rates.input if rates.image is None else rates.image)
            + audio_tokens * (rates.input if rates.audio is None else rates.audio)
            + cached_tokens * cached
            + cache_write_tokens * write
            + cache_write_1h_tokens * write_1h
            + output_tokens * rates.output
        )
        searches = min(web_searches, 1) if self.searches_once else web_searches
        picos = -(-tokens_picos * percent // 100) + searches * self.search_picos
        picos += sum(charge.count * charge.picos_each for charge in charges)
        return -(-picos // PICOS_PER_NANO)


def _openai(input: str, cached: str, output: str) -> Price:
    return Price(input=input, cached=cached, output=output, vendor="openai")


def _claude(input: str, cached: str, output: str, write: str, write_1h: str, longer: Price | None = None) -> Price:
    return Price(
        input=input,
        cached=cached,
        output=output,
        cache_write=write,
        cache_write_1h=write_1h,
        longer=None if longer is None else (200_000, longer),
        vendor="anthropic",
    )


def _gemini(input: str, cached: str, output: str, search: int, longer: Price | None = None) -> Price:
    """`search` in USD per thousand: for each of them, but up to Gemini 2.5 for an answer, which is 35."""
    return Price(
        input=input,
        cached=cached,
        output=output,
        longer=None if longer is None else (200_000, longer),
        vendor="google",
        search_picos=search * 1_000_000_000,
        searches_once=search == 35,
    )


def _mistral(input: str, cached: str, output: str) -> Price:
    return Price(input=input, cached=cached, output=output, vendor="mistral")


PRICES: dict[str, Price] = {
    #                       input   cached   output
    "gpt-4o": _openai("2.50", "1.25", "10.00"),
    "gpt-4o-mini": _openai("0.15", "0.075", "0.60"),
    "gpt-4.1": _openai("2.00", "0.50", "8.00"),
    "gpt-4.1-mini": _openai("0.40", "0.10", "1.60"),
    "gpt-4.1-nano": _openai("0.10", "0.025", "0.40"),
    "gpt-5": _openai("1.25", "0.125", "10.00"),
    "gpt-5-mini": _openai("0.25", "0.025", "2.00"),
    "gpt-6-luna": _openai("0.10", "0.01", "0.50"),
    "gpt-5-nano": _openai("0.05", "0.005", "0.40"),
    "o3": _openai("2.00", "0.50", "8.00"),
    "o4-mini": _openai("1.10", "0.275", "4.40"),
    "gpt-3.5-turbo-instruct": _openai("1.50", "1.50", "2.00"),
    "davinci-002": _openai("2.00", "2.00", "2.00"),
    "babbage-002": _openai("0.40", "0.40", "0.40"),
    "gpt-image-1": Price(input=5, cached="1.25", output=40, image=10, vendor="openai"),
    "gpt-image-1.5": Price(input=5, cached="1.25", output=32, image=8, vendor="openai"),
    "gpt-image-2.5-sunburst": Price(input=5, cached="1.25", output=30, image=8, vendor="openai"),
    "gpt-4o-transcribe": Price(input="2.50", output=10, audio=6, vendor="openai"),
    "gpt-4o-mini-tts": Price(input="0.60", output=12, vendor="openai"),
    **{
        name: Price(input=0, output=0, vendor="openai")  # paid by another unit
        for name in (
            *("dall-e-2", "dall-e-3", "tts-1", "tts-1-hd", "whisper-1", "gpt-transcribe"),
            *("sora-2", "sora-2-pro", "container"),
        )
    },
    "text-embedding-3-small": _openai("0.02", "0.02", "0"),
    "text-embedding-3-large": _openai("0.13", "0.13", "0"),
    "text-embedding-ada-002": _openai("0.10", "0.10", "0"),
    #                            input   cached  output   write   write 1 h
    "claude-opus-4-5": _claude("5.00", "0.50", "25.00", "6.25", "10.00"),
    "claude-sonnet-4-5": _claude(
        "3.00", "0.30", "15.00", "3.75", "6.00", longer=_claude("6.00", "0.60", "22.50", "7.50", "12.00")
    ),
    "claude-haiku-4-5": _claude("1.00", "0.10", "5.00", "1.25", "2.00"),
    "claude-opus-5-5": _claude("4.00", "0.20", "20.00", "5.00", "8.00"),
    "claude-sonnet-5-5": _claude("2.00", "0.10", "10.00", "2.50", "4.00"),
    #                                input   cached   output  search
    "gemini-2.5-pro": _gemini("1.25", "0.125", "10.00", 35, longer=_gemini("2.50", "0.25", "15.00", 35)),
    "gemini-2.5-flash": _gemini("0.30", "0.03", "2.50", 35),
    "gemini-2.5-flash-lite": _gemini("0.10", "0.01", "0.40", 35),
    "gemini-3.5-flash": _gemini("1.50", "0.15", "9.00", 14),
    "gemini-3.5-flash-lite": _gemini("0.30", "0.03", "2.50", 14),
    "gemini-embedding-001": _gemini("0.15", "0.15", "0", 14),
    **{
        name: Price(input=0, output=0, vendor="google")  # paid by another unit
        for name in (
            *("imagen-4.0-generate-001", "imagen-4.0-fast-generate-001", "imagen-4.0-ultra-generate-001"),
            *("imagen-3.0-capability-001", "imagen-4.0-upscale-preview", "virtual-try-on-001"),
            *("image-segmentation-001", "veo-3.1-generate-001", "veo-3.1-fast-generate-001"),
            "veo-3.1-lite-generate-001",
        )
    },
    #                            input   cached   output
    "mistral-medium-3-5": _mistral("1.50", "0.15", "7.50"),
    "mistral-small-2603": _mistral("0.15", "0.015", "0.60"),
    "ministral-3b-2512": _mistral("0.10", "0.01", "0.10"),
    "codestral-2508": _mistral("0.30", "0.03", "0.90"),
    "mistral-embed": _mistral("0.10", "0.10", "0"),
    "mistral-moderation-2411": _mistral("0.10", "0.10", "0"),
    "mistral-ocr-4-1": _mistral("0", "0", "0"),  # paid by the page
    "voxtral-mini-2602": _mistral("0", "0", "0"),  # paid by the hour
    "command-a-03-2025": Price(input="2.50", output=10, vendor="cohere"),
    "command-r-08-2024": Price(input="0.15", output="0.60", vendor="cohere"),
    "embed-v4.0": Price(input="0.12", output=0, vendor="cohere"),
    "rerank-v3.5": Price(input=0, output=0, vendor="cohere"),  # paid by the search
}

_SNAPSHOT = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|latest)$")


def price_of(model: str, prices: dict[str, Price]) -> Price | None:
    """The price of a model or of a dated snapshot of it; None if the provider has no such model."""
    return prices.get(model) or prices.get(_SNAPSHOT.sub("", model))
