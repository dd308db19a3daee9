"""Every priced model of seven providers, against genai-prices' own calculation as an oracle."""

from __future__ import annotations

import decimal
import random
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices.data import providers as listed_providers
from genai_prices.data_units import unit_data
from genai_prices.types import ModelInfo, Provider
from genai_prices.types import Usage as OracleUsage

from farebox._call import UNITS, Usage
from farebox.prices import RateCard
from farebox.prices._list import TOKEN_KEYS, UNIT_KEYS

CARD = RateCard()
AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
PROVIDERS = {provider.id: provider for provider in listed_providers}
SEVEN = ("openai", "anthropic", "google", "deepseek", "mistral", "x-ai", "groq")

# Where ours may differ, and why: (provider, model) -> buckets that are not compared.
JUSTIFIED = {
    ("openai", "gpt-4o-audio-preview"): "audio is listed at text prices, 16 times too low; corrected by our overlay",
    ("openai", "gpt-4o-mini-audio-preview"): "audio is listed at text prices; corrected by our overlay",
}

# Listed prices of what `Usage` has no bucket for.
UNUSED_KEYS = {
    "input_text_messages_kcount",
    "output_citation_mtok",
}
FEE_KEYS = {"requests_kcount", "web_searches_kcount"}


def oracle_nanos(model: ModelInfo, provider: Provider, usage: Usage, context: Mapping[str, str]) -> Decimal:
    """Nanodollars, exactly, by genai-prices; our disjoint buckets become its nested ones."""
    writes = (
        usage.cache_write_5m_tokens
        + usage.cache_write_30m_tokens
        + usage.cache_write_1h_tokens
        + usage.cache_write_12h_tokens
    )
    nested = dict.fromkeys((key for key in unit_data if key != "requests"), 0) | {
        "input_tokens": usage.input_tokens,
        "cache_read_tokens": (usage.cache_read_tokens + usage.cache_read_audio_tokens + usage.cache_read_image_tokens),
        "cache_write_tokens": writes,
        "cache_write_5m_tokens": usage.cache_write_5m_tokens,
        "cache_write_1h_tokens": usage.cache_write_1h_tokens,
        "input_audio_tokens": usage.input_audio_tokens + usage.cache_read_audio_tokens,
        "cache_audio_read_tokens": usage.cache_read_audio_tokens,
        "input_image_tokens": usage.input_image_tokens + usage.cache_read_image_tokens,
        "cache_image_read_tokens": usage.cache_read_image_tokens,
        "input_video_tokens": usage.input_video_tokens,
        "output_tokens": usage.output_tokens,
        "output_reasoning_tokens": usage.reasoning_tokens,
        "output_audio_tokens": usage.output_audio_tokens,
        "output_image_tokens": usage.output_image_tokens,
        "output_video_tokens": usage.output_video_tokens,
        "web_searches": usage.web_searches,
        "storage_searches": usage.file_searches,
        "input_characters": usage.characters,
        "input_document_pages": usage.pages + usage.annotated_pages,
        "input_annotated_document_pages": usage.annotated_pages,
        "audio_seconds": Decimal(usage.input_audio_milliseconds + usage.output_audio_milliseconds) / 1_000,
        "input_audio_seconds": Decimal(usage.input_audio_milliseconds) / 1_000,
        "output_audio_seconds": Decimal(usage.output_audio_milliseconds) / 1_000,
    }
    with decimal.localcontext(decimal.Context(prec=60)):
        price = model.calc_price(
            OracleUsage(**nested), provider, genai_request_timestamp=AT, price_context=context or None
        )
        return price.total_price * 10**9


def comparable_buckets(model: ModelInfo) -> list[str]:
    """Buckets the list has a price for, or that both sides bill like another one that has."""
    listed = {key for key, price in model.get_prices(AT).__dict__.items() if price is not None}
    buckets = ["uncached_input_tokens", "cache_read_tokens"]
    if "output_mtok" in listed:
        buckets += ["visible_output_tokens", "reasoning_tokens"]
    if "cache_write_mtok" in listed:
        buckets += ["cache_write_5m_tokens", "cache_write_30m_tokens"]
    for key, bucket in {
        "cache_write_1h_mtok": "cache_write_1h_tokens",
        "input_audio_mtok": "input_audio_tokens",
        "cache_audio_read_mtok": "cache_read_audio_tokens",
        "input_image_mtok": "input_image_tokens",
        "output_audio_mtok": "output_audio_tokens",
        "output_image_mtok": "output_image_tokens",
        "cache_image_read_mtok": "cache_read_image_tokens",
        "input_video_mtok": "input_video_tokens",
        "output_video_mtok": "output_video_tokens",
        "web_searches_kcount": "web_searches",
        "storage_searches_kcount": "file_searches",
        "input_mchars": "characters",
        "input_document_kpages": "pages",
        "input_annotated_document_kpages": "annotated_pages",
        "audio_hours": "input_audio_milliseconds",
        "input_audio_hours": "input_audio_milliseconds",
    }.items():
        if key in listed:
            buckets.append(bucket)
    return buckets


def random_usage(random_: random.Random, buckets: list[str]) -> Usage:
    counts = {}
    for bucket in buckets:
        if random_.random() < 0.6:
            most = 5 if bucket == "web_searches" else random_.choice((10, 1_000, 90_000, 300_000))
            counts[bucket] = random_.randint(0, most)
    return Usage(**counts)


def _rounding(usage: Usage) -> Decimal:
    """Nanodollars that a rate by the millisecond, a whole number of picodollars, may be too high by."""
    return Decimal(usage.input_audio_milliseconds + usage.output_audio_milliseconds) / 1_000


def models() -> Iterator[tuple[Provider, ModelInfo]]:
    for provider_id in SEVEN:
        for model in PROVIDERS[provider_id].models:
            yield PROVIDERS[provider_id], model


def is_billed_by_token(model: ModelInfo) -> bool:
    """Whether any token price of the model is above zero."""
    if not model.prices:
        return False
    prices = model.get_prices(AT).__dict__
    return any(prices.get(key) is not None and getattr(prices[key], "base", prices[key]) > 0 for key in TOKEN_KEYS)


def is_billed_by_unit(model: ModelInfo) -> bool:
    """Whether the list has a price of something else that `Usage` counts."""
    return bool(model.prices) and any(model.get_prices(AT).__dict__.get(key) for key in UNIT_KEYS)


def tiers_of(model: ModelInfo) -> dict[str, dict[str, str]]:
    tiers: dict[str, dict[str, str]] = {"": {}}
    for variant in model.price_variants or ():
        for key in ("service_tier", "processing", "speed"):
            if key in variant.when:
                tiers[variant.when[key]] = dict(variant.when)
    return tiers


@pytest.mark.parametrize("provider_id", SEVEN)
def test_every_charge_is_the_list_price_rounded_up_once(provider_id: str) -> None:
    random_ = random.Random(provider_id)
    compared = 0
    for provider, model in models():
        if provider.id != provider_id or not is_billed_by_token(model):
            continue
        if provider.find_model(model.id) is not model:
            continue  # its id means another model; found by the names that mean it
        buckets = comparable_buckets(model)
        for tier, context in tiers_of(model).items():
            rates = CARD.find(provider_id, model.id, AT.timestamp(), tier)
            assert rates is not None, model.id
            for _ in range(6):
                usage = random_usage(random_, buckets)
                exact = oracle_nanos(model, provider, usage, context)
                assert 0 <= rates.charge_nanos(usage) - exact < 1 + _rounding(usage), (model.id, tier, usage)
                compared += 1
    assert compared > 40


def test_what_is_billed_by_the_second_or_the_character_costs_what_the_list_says() -> None:
    compared = set()
    for provider, model in models():
        if is_billed_by_token(model) or not is_billed_by_unit(model) or provider.find_model(model.id) is not model:
            continue
        rates = CARD.find(provider.id, model.id, AT.timestamp())
        assert rates is not None, model.id
        for bucket in set(comparable_buckets(model)) & set(UNITS):
            for count in (10_001, 3_600_000, 7_654_321):
                usage = Usage(**{bucket: count})
                exact = oracle_nanos(model, provider, usage, {})
                assert 0 <= rates.charge_nanos(usage) - exact < 1 + _rounding(usage), (model.id, usage)
                compared.add(model.id)
    assert compared >= {"whisper-1", "tts-1", "gpt-transcribe", "whisper-large-v3"}


def test_models_the_list_has_no_price_of_have_no_rates() -> None:
    unpriced = [
        (provider.id, model.id)
        for provider, model in models()
        if not is_billed_by_token(model) and not is_billed_by_unit(model) and provider.find_model(model.id) is model
    ]
    assert ("google", "gemma-4-31b-it") in unpriced
    assert [name for name in unpriced if CARD.find(*name, AT.timestamp()) is not None] == []


def test_what_differs_from_the_list_is_dearer_than_it() -> None:
    for provider_id, name in JUSTIFIED:
        provider = PROVIDERS[provider_id]
        model = provider.find_model(name)
        rates = CARD.find(provider_id, name, AT.timestamp())
        assert model is not None
        assert rates is not None
        text = Usage(uncached_input_tokens=1_000, visible_output_tokens=1_000)
        assert rates.charge_nanos(text) == oracle_nanos(model, provider, text, {})
        audio = Usage(input_audio_tokens=1_000, output_audio_tokens=1_000)
        assert rates.charge_nanos(audio) > oracle_nanos(model, provider, audio, {})


def test_every_kind_of_price_on_the_list_is_read_or_known_to_be_left_out() -> None:
    keys = set()
    for provider in listed_providers:
        for model in provider.models:
            dated = model.prices if isinstance(model.prices, list) else [model]
            for prices in (*(one.prices for one in dated), *(one.prices for one in model.price_variants or ())):
                keys |= {key for key, price in prices.__dict__.items() if price is not None}
    assert keys - set(TOKEN_KEYS) - FEE_KEYS - set(UNIT_KEYS) == UNUSED_KEYS


def test_every_service_tier_on_the_list_can_be_asked_for() -> None:
    asked = {
        (key, value)
        for _, model in models()
        for variant in model.price_variants or ()
        for key, value in variant.when.items()
    }
    assert asked == {
        ("service_tier", "default"),
        ("service_tier", "flex"),
        ("service_tier", "priority"),
        ("service_tier", "fast"),
        ("processing", "batch"),
        ("speed", "fast"),
    }
