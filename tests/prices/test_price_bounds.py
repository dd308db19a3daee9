"""The law of bounds: what a call can cost is never below what it costs."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox._call import UNITS, Usage
from farebox.prices import RateCard

CARD = RateCard()
CARD.set_price("tiny", input_per_million="0.0000123", output_per_million="0.0004567", cache_read_per_million="0.000013")
CARD.set_price("painter", per_image="0.0123456789012", per_audio_minute="0.007", per_video_second=3)
AT = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
LEVELS = ["none", "5m", "30m", "1h", "12h"]
WRITES = ["cache_write_5m_tokens", "cache_write_30m_tokens", "cache_write_1h_tokens", "cache_write_12h_tokens"]

MODELS = [
    ("openai", "gpt-4o"),
    ("openai", "gpt-5-mini"),
    ("openai", "gpt-5.4"),
    ("openai", "gpt-6-sol"),
    ("openai", "gpt-audio"),
    ("openai", "gpt-realtime-2"),
    ("openai", "gpt-image-1.5"),
    ("openai", "text-embedding-3-small"),
    ("anthropic", "claude-opus-5-5"),
    ("anthropic", "claude-haiku-5-5"),
    ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-3-haiku"),
    ("gcp.gemini", "gemini-2.5-pro"),
    ("gcp.gemini", "gemini-2.5-flash"),
    ("gcp.gemini", "gemini-3-pro-image-preview"),
    ("gcp.gemini", "gemini-embedding-2"),
    ("x_ai", "grok-4.3"),
    ("deepseek", "deepseek-v4-flash"),
    ("mistral_ai", "mistral-large-4"),
    ("perplexity", "sonar"),
    ("perplexity", "sonar-deep-research"),
    ("moonshot_ai", "kimi-k3"),
    ("openai", "whisper-1"),
    ("openai", "tts-1"),
    ("openai", "dall-e-3"),
    ("openai", "sora-2-pro"),
    ("gcp.gemini", "gemini-omni-1.1-flash"),
    ("local", "tiny"),
    ("local", "painter"),
]
TIERS = ["", "flex", "batch", "priority", "ultrafast", "regional", "no-such-tier"]

counts = st.integers(0, 400_000) | st.integers(0, 20)


@settings(max_examples=600)
@given(
    name=st.sampled_from(MODELS),
    tier=st.sampled_from(TIERS),
    level=st.integers(0, 4),
    usage=st.builds(
        Usage,
        **{name: counts for name in Usage._fields if name != "web_searches"},
        web_searches=st.integers(0, 9),
    ),
    audio=st.booleans(),
    images=st.booleans(),
    slack=st.just(0) | st.integers(0, 300_000),
)
def test_no_usage_within_its_bound_costs_more(
    name: tuple[str, str], tier: str, level: int, usage: Usage, audio: bool, images: bool, slack: int
) -> None:
    left_out = WRITES[level:]
    if not audio:
        left_out = [*left_out, "input_audio_tokens", "cache_read_audio_tokens", "output_audio_tokens"]
    if not images:
        left_out = [*left_out, *(name for name in Usage._fields if "image_tokens" in name or "video_tokens" in name)]
    usage = usage._replace(**dict.fromkeys(left_out, 0))
    rates = CARD.find(*name, AT, tier)
    assert rates is not None

    first, per_token = rates.bound(
        usage.input_tokens + slack,
        cache_write=LEVELS[level],  # type: ignore[arg-type]
        audio=audio,
        images=images,
        web_searches=usage.web_searches,
        units={name: getattr(usage, name) for name in UNITS if getattr(usage, name)},
    )

    assert rates.charge_nanos(usage) <= first + per_token * usage.output_tokens


@given(name=st.sampled_from(MODELS), level=st.sampled_from(LEVELS), fewer=counts, more=counts)
def test_a_bound_never_falls_as_the_input_grows(name: tuple[str, str], level: str, fewer: int, more: int) -> None:
    rates = CARD.find(*name, AT)
    assert rates is not None
    less = rates.bound(fewer, cache_write=level)  # type: ignore[arg-type]
    most = rates.bound(fewer + more, cache_write=level)  # type: ignore[arg-type]
    assert less[0] <= most[0]
    assert less[1] <= most[1]


def test_a_bound_counts_by_default_the_cache_writes_that_have_a_price() -> None:
    claude = CARD.find("anthropic", "claude-opus-5-5", AT)  # 4 in, 5 written for 5 minutes, 8 for an hour, 20 out
    assert claude is not None
    assert claude.bound(1_000) == (8_000_000, 20_000)
    assert claude.bound(1_000, cache_write="5m") == (5_000_000, 20_000)
    assert claude.bound(1_000, cache_write="none") == (4_000_000, 20_000)
    gpt = CARD.find("openai", "gpt-4o", AT)  # 2.5 in and nothing about writes, 10 out
    assert gpt is not None
    assert gpt.bound(1_000) == (2_500_000, 10_000)
    assert gpt.bound(1_000, cache_write="12h") == (6_250_000, 10_000)


def test_a_bound_is_evaluated_in_the_step_its_input_reaches() -> None:
    rates = CARD.find("openai", "gpt-5.4", AT)  # 2.5 and 15; above 272,000 input tokens 5 and 22.5
    assert rates is not None
    assert rates.bound(272_000) == (680_000_000, 15_000)
    assert rates.bound(272_001) == (1_360_005_000, 22_500)


def test_a_bound_takes_the_dearer_of_text_and_reasoning_and_of_fresh_and_cached_input() -> None:
    sonar = CARD.find("perplexity", "sonar-deep-research", AT)  # 8 out, 3 reasoning
    assert sonar is not None
    assert sonar.bound(0)[1] == 8_000
    card = RateCard().with_price("odd", input_per_million=1, output_per_million=1, cache_read_per_million=3)
    odd = card.find("x", "odd", AT)
    assert odd is not None
    assert odd.bound(1_000, cache_write="none") == (3_000_000, 1_000)


def test_a_bound_is_rounded_up_to_the_nanodollar() -> None:
    tiny = CARD.find("local", "tiny", AT)  # 456.7 picodollars per output token
    assert tiny is not None
    assert tiny.bound(1) == (1, 1)


def test_a_bound_counts_the_fees() -> None:
    sonar = CARD.find("perplexity", "sonar", AT)  # 12 per thousand requests
    assert sonar is not None
    assert sonar.bound(0)[0] == 12_000_000
    gpt = CARD.find("openai", "gpt-5", AT)  # 10 per thousand searches
    assert gpt is not None
    assert gpt.bound(0, web_searches=3)[0] == 30_000_000
    assert gpt.web_search_nanos == 10_000_000


def test_a_bound_of_an_unknown_cache_lifetime_names_the_choices() -> None:
    rates = CARD.find("openai", "gpt-5", AT)
    assert rates is not None
    with pytest.raises(ValueError, match=r"cache_write='1w' is unknown; choose from none, known, 5m, 30m, 1h, 12h"):
        rates.bound(1, cache_write="1w")  # type: ignore[arg-type]


def test_a_bound_of_units_is_their_price_times_their_number() -> None:
    whisper = CARD.find("openai", "whisper-1", AT)  # 0.36 an hour
    assert whisper is not None
    assert whisper.bound(0, units={"input_audio_milliseconds": 60_000})[0] == 6_000_000
    gpt = CARD.find("openai", "gpt-4.1", AT)  # 2.50 per thousand file searches; 0.03 for 20 minutes of a gigabyte
    assert gpt is not None
    assert gpt.bound(0, units={"file_searches": 4, "container_gigabyte_minutes": 80})[0] == 10_000_000 + 120_000_000
    assert gpt.bound(0, units={"fees_nanos": 17})[0] == 17


@pytest.mark.parametrize(
    ("model", "kind", "unit", "count", "nanos"),
    [
        ("dall-e-3", "standard/1024x1024", "images", 2, 80_000_000),
        ("dall-e-3", "hd/1024x1792", "images", 1, 120_000_000),
        ("dall-e-3", "hd/no-such-size", "images", 1, 120_000_000),  # the dearest
        ("dall-e-3", "", "images", 1, 120_000_000),
        ("dall-e-2", "256x256", "images", 10, 160_000_000),
        ("sora-2", "1280x720", "video_milliseconds", 8_000, 800_000_000),
        ("sora-2-2025-12-08", "1280x720", "video_milliseconds", 4_000, 400_000_000),
        ("sora-2-pro", "1024x1792", "video_milliseconds", 4_000, 2_000_000_000),
    ],
)
def test_a_picture_and_a_second_of_video_cost_what_their_size_does(
    model: str, kind: str, unit: str, count: int, nanos: int
) -> None:
    for provider in ("openai", "azure"):
        rates = CARD.find(provider, model, AT, kind)
        assert rates is not None
        assert rates.charge_nanos(Usage(**{unit: count})) == nanos
    regional = CARD.find("openai", model, AT, f"{kind}+regional")
    assert regional is not None
    assert regional.charge_nanos(Usage(**{unit: count})) == nanos * 11 // 10
    assert CARD.find("openai", f"{model}-mini", AT, kind) is None
    assert CARD.find("mistral", model, AT, kind) is None


@pytest.mark.parametrize(
    ("model", "day", "usd"),
    [
        ("gemini-2.5-flash", "2026-11-30", "1.00"),
        ("gemini-2.5-flash-lite", "2026-11-30", "1.00"),
        ("gemini-2.5-pro", "2026-11-30", "4.50"),
        ("gemini-3.1-pro-preview", "2026-11-30", "4.50"),
        ("gemini-3.8-flash", "2026-12-31", "0.50"),
        ("gemini-3.8-flash", "2027-01-01", "1.00"),
        ("gemini-4-argon", "2026-11-30", "4.50"),
    ],
)
def test_what_a_cache_keeps_has_a_price_by_its_model_and_the_day(model: str, day: str, usd: str) -> None:
    at = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
    rates = RateCard().find("gcp.gemini", model, at)
    assert rates is not None
    assert rates.unit_prices["cache_token_hours"] == Decimal(usd) * 1_000_000
    dearest = RateCard().find_dearest("gcp.gemini", model, at, 2 * 86_400)
    assert dearest is not None
    assert dearest.unit_prices["cache_token_hours"] >= Decimal(usd) * 1_000_000
