"""What the price list gets wrong or leaves out, as data: one row per fact, with where it was read and when."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Final, NamedTuple


class Correction(NamedTuple):
    """Prices in USD per million tokens that replace or add to those listed for models whose name starts so."""

    provider: str
    starts_with: str
    usd_per_million: dict[str, str]
    source: str
    read: str


class TierMultiplier(NamedTuple):
    """A service tier as a multiple of the standard token prices; `""` stands for any provider or model."""

    tier: str
    provider: str
    starts_with: str
    times: Fraction
    source: str
    read: str


class SearchFee(NamedTuple):
    """USD per 1,000 web searches where a model has no fee of its own: the dearest that the provider publishes."""

    provider: str
    usd_per_thousand: str
    source: str
    read: str


class ToolFee(NamedTuple):
    """USD of one unit that a provider charges beside any model's tokens."""

    provider: str
    unit: str
    usd: Fraction
    source: str
    read: str


class UnitPrice(NamedTuple):
    """USD of one unit of a model that the list lacks: of all of them, or of those of a kind, which is asked for as a tier."""

    providers: tuple[str, ...]
    model: str
    kind: str
    unit: str
    usd: Fraction
    source: str
    read: str


class StoragePrice(NamedTuple):
    """USD per million tokens and hour that a cache of a model whose name starts so keeps them, from a day on (epoch seconds)."""

    provider: str
    starts_with: str
    since: float
    usd: str
    source: str
    read: str


_OPENAI_MODELS = "https://developers.openai.com/api/docs/models/"
_CLAUDE_PRICING = "https://platform.claude.com/docs/en/about-claude/pricing"

# The last row that fits wins, key by key.
CORRECTIONS: Final = (
    Correction(
        "openai", "gpt-4o-audio-preview", {"input_audio": "40", "output_audio": "80"},
        _OPENAI_MODELS + "gpt-4o-audio-preview", "2026-11-21",
    ),
    Correction(
        "openai", "gpt-4o-audio-preview-2024-10-01", {"input_audio": "100", "output_audio": "200"},
        "https://huggingface.co/spaces/noumanjavaid/pricing/blob/main/app.py (the snapshot's launch price)", "2026-11-21",
    ),
    Correction(
        "openai", "gpt-4o-mini-audio-preview", {"input_audio": "10", "output_audio": "20"},
        _OPENAI_MODELS + "gpt-4o-mini-audio-preview", "2026-11-21",
    ),
    # Resold at their makers' prices, and listed without that of pictures.
    *(
        Correction("openrouter", f"google/{model}", {"output_image": usd}, "genai-prices 0.2.3, the same model of Google's", "2026-11-30")
        for model, usd in (
            ("gemini-2.5-flash-image", "30"), ("gemini-3-pro-image", "120"), ("gemini-3.1-flash-image", "60"),
            ("gemini-3.1-flash-lite-image", "30"),
        )
    ),
    *(
        Correction(
            "openrouter", f"openai/{model}", {"output_image": "40"},
            "not verified: the dearest of OpenAI's own models that draw, gpt-image-1 (genai-prices 0.2.3)", "2026-11-30",
        )
        for model in ("gpt-5-image", "gpt-5.4-image")
    ),
)  # fmt: skip

#: USD per million tokens of pictures that come out of a model which draws, by its name, and has no price of them: the most
#: that anybody asks, Google for Gemini 3 Pro Image (genai-prices 0.2.3, read 2026-11-30).
DRAWN: Final = "120"

# Names that mean the standard price.
STANDARD_TIERS: Final = frozenset({"", "default", "standard", "standard_only", "on_demand", "unspecified"})

# Names that some lists price apart; what to ask genai-prices for.
LISTED_TIERS: Final = {
    "flex": {"service_tier": "flex"},
    "batch": {"processing": "batch"},
    "priority": {"service_tier": "priority"},
    "on_demand_flex": {"service_tier": "flex"},
    "on_demand_priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast", "speed": "fast"},
}

# Names that never cost more than the standard price, which bounds them where a list has no price of theirs.
DISCOUNT_TIERS: Final = frozenset({"flex", "batch", "on_demand_flex"})

# "auto" lets the provider choose among the tiers it lists.
AUTO_TIERS: Final = frozenset({"auto"})

# The first row that fits wins.
TIER_MULTIPLIERS: Final = (
    TierMultiplier(
        "ultrafast", "", "", Fraction(6),
        "https://vercel.com/changelog/openai-ultrafast-mode-now-available-on-ai-gateway", "2026-11-21",
    ),
    # Half the price for whatever is batched; the list has no row of it for these.
    TierMultiplier(
        "batch", "openai", "text-embedding", Fraction(1, 2), "https://developers.openai.com/api/docs/pricing", "2026-11-21"
    ),
    TierMultiplier(
        "batch", "google", "gemini-embedding-001", Fraction(1, 2),
        "https://ai.google.dev/gemini-api/docs/pricing (a copy of 2025-10-31)", "2026-11-30",
    ),
    TierMultiplier("fast", "anthropic", "claude-opus-4-6", Fraction(6), _CLAUDE_PRICING, "2026-11-21"),
    TierMultiplier("fast", "anthropic", "claude-opus-4-7", Fraction(6), _CLAUDE_PRICING, "2026-11-21"),
    # Committed capacity, prepaid; what passes it is billed at the standard price.
    TierMultiplier(
        "priority", "anthropic", "", Fraction(1), "https://platform.claude.com/docs/en/api/service-tiers", "2026-11-21"
    ),
    TierMultiplier(
        "auto", "anthropic", "", Fraction(1), "https://platform.claude.com/docs/en/api/service-tiers", "2026-11-21"
    ),
    # Inference kept in one region: OpenAI regional hosts, Claude inference_geo "us", xAI US and regional Vertex hosts.
    # Bedrock's regional names are on the list at their own price.
    TierMultiplier("regional", "aws", "", Fraction(1), "https://aws.amazon.com/bedrock/pricing/", "2026-11-21"),
    TierMultiplier(
        "regional", "", "", Fraction(11, 10),
        "https://platform.claude.com/docs/en/api/service-tiers, https://developers.openai.com/api/docs/pricing", "2026-11-21",
    ),
)  # fmt: skip

# A dear tier that nobody lists a price of costs this many standard prices: the most a provider has asked for one.
PREMIUM_TIMES: Final = {
    "anthropic": Fraction(6),  # fast mode on Opus 4.6, see above
    "": Fraction(5, 2),  # https://openai.com/api-priority-processing/, GPT-5.5 (read 2026-11-21)
}

SEARCH_FEES: Final = (
    SearchFee("openai", "25", "https://developers.openai.com/api/docs/pricing", "2026-11-21"),
    SearchFee("anthropic", "10", _CLAUDE_PRICING, "2026-11-21"),
    SearchFee("google", "35", "https://ai.google.dev/gemini-api/docs/pricing", "2026-11-21"),
    SearchFee("", "35", "the dearest of the above", "2026-11-21"),
)  # fmt: skip

# The page as it was after 2026-07-30; it no longer has DALL-E.
_OPENAI_PRICING = (
    "https://github.com/llms-txt-archive/openai-platform/blob/a30a6225d9a3d94f919a9d1b6552a9f12fdacd73/api/docs/pricing.md"
    " (a copy of https://developers.openai.com/api/docs/pricing)"
)
_DALL_E = "https://github.com/kevinhermawan/Canvas/blob/main/model-info.json (a copy of https://openai.com/pricing)"
_COHERE = "https://artificial-intelligence-wiki.com/ai-development/rag-systems/cohere-rerank-guide (of https://cohere.com/pricing)"
_READ = "2026-11-29"
_OPENAI = ("openai", "azure")
_MILLISECONDS: Final = 1_000
_SNAPSHOT: Final = re.compile(r"-\d{4}-\d{2}-\d{2}$")

# https://ai.google.dev/gemini-api/docs/pricing, last updated 2026-09-23: rows of it that are quoted in public repositories.  Of
# Vertex AI the same is told second-hand.
_GOOGLE_STORAGE = "https://ai.google.dev/gemini-api/docs/pricing (second-hand: rows of it in public repositories)"
_GOOGLE_READ = "2026-11-30"
_NEW_YEAR_2027: Final = 1_798_761_600.0

# Of Pro models, and of those that are not here, 4.50.  The first row that fits and has begun wins.
STORAGE_PRICES: Final = (
    StoragePrice("google", "gemini-3.8-flash", _NEW_YEAR_2027, "1.00", _GOOGLE_STORAGE, _GOOGLE_READ),
    StoragePrice("google", "gemini-3.8-flash", -math.inf, "0.50", _GOOGLE_STORAGE, _GOOGLE_READ),
    *(
        StoragePrice("google", f"gemini-{version}-flash", -math.inf, "1.00", _GOOGLE_STORAGE, _GOOGLE_READ)
        for version in ("2.0", "2.5", "3", "3.1", "3.5", "3.6", "3.7")
    ),
)

TOOL_FEES: Final = (
    ToolFee("openai", "file_searches", Fraction("0.0025"), _OPENAI_PRICING, _READ),
    # 0.03, 0.12, 0.48 and 1.92 for twenty minutes of 1, 4, 16 and 64 GB: the same for each GB and minute.
    ToolFee("openai", "container_gigabyte_minutes", Fraction("0.0015"), _OPENAI_PRICING, _READ),
    # 0.05 an hour of a container, whatever its memory: it counts as one gigabyte.  Beyond what is free each month.
    ToolFee("anthropic", "container_gigabyte_minutes", Fraction(5, 6_000), _CLAUDE_PRICING, "2026-11-21"),
    # What a cache of one's own keeps: the dearest of Google's, below.
    ToolFee("google", "cache_token_hours", Fraction("4.50") / 10**6, _GOOGLE_STORAGE, _GOOGLE_READ),
    # Of a provider that is not here: the dearest of those above.
    ToolFee("", "file_searches", Fraction("0.0025"), _OPENAI_PRICING, _READ),
    ToolFee("", "container_gigabyte_minutes", Fraction("0.0015"), _OPENAI_PRICING, _READ),
)  # fmt: skip


def _reranker(model: str, usd_per_thousand: str) -> UnitPrice:
    return UnitPrice(("cohere",), model, "", "search_units", Fraction(usd_per_thousand) / 1_000, _COHERE, "2026-11-30")


def _pictures(model: str, kind: str, usd: str) -> UnitPrice:
    return UnitPrice(_OPENAI, model, kind, "images", Fraction(usd), _DALL_E, _READ)


def _video(model: str, kind: str, usd_per_second: str) -> UnitPrice:
    usd = Fraction(usd_per_second) / _MILLISECONDS
    return UnitPrice(_OPENAI, model, kind, "video_milliseconds", usd, _OPENAI_PRICING, _READ)


# Google's pages were not at hand: these are of two copies of its price page, which name it as their source.  The first is of
# 2025-12, when Imagen was on it (Google ended it on 2026-06-30), the second of 2026-11.
_GOOGLE_PRICING = "https://cloud.google.com/vertex-ai/generative-ai/pricing"
_IMAGEN = f"{_GOOGLE_PRICING} (a copy: litellm 1.80.0, model_prices_and_context_window_backup.json)"
_VEO = f"{_GOOGLE_PRICING} (a copy: litellm 1.110.2, model_prices_and_context_window_backup.json)"
_SECOND_HAND = f"{_GOOGLE_PRICING} (second-hand: rows of it in public repositories)"


def _imagen(model: str, usd: str, source: str = _IMAGEN) -> UnitPrice:
    return UnitPrice(("google",), model, "", "images", Fraction(usd), source, _GOOGLE_READ)


def _veo(model: str, kind: str, usd_per_second: str, source: str = _VEO) -> UnitPrice:
    usd = Fraction(usd_per_second) / _MILLISECONDS
    return UnitPrice(("google",), model, kind, "video_milliseconds", usd, source, _GOOGLE_READ)


# A kind is quality and size, as the request has them; one that is not here costs the dearest of its model.
# OpenAI shut DALL-E down on 2026-05-12 and Sora with the whole Videos API on 2026-09-24 (a copy of its deprecations, in
# the same repository, and of https://developers.openai.com/de-DE/api/docs/models/sora-2; read 2026-11-29).  The rows stay
# for other servers in its format, Azure's among them.  That these ask the same is not verified: Azure's pages had no number.
UNIT_PRICES: Final = (
    _pictures("dall-e-2", "256x256", "0.016"),
    _pictures("dall-e-2", "512x512", "0.018"),
    _pictures("dall-e-2", "1024x1024", "0.02"),
    _pictures("dall-e-3", "standard/1024x1024", "0.04"),
    _pictures("dall-e-3", "standard/1024x1792", "0.08"),
    _pictures("dall-e-3", "standard/1792x1024", "0.08"),
    _pictures("dall-e-3", "hd/1024x1024", "0.08"),
    _pictures("dall-e-3", "hd/1024x1792", "0.12"),
    _pictures("dall-e-3", "hd/1792x1024", "0.12"),
    # A container of one's own is no model, but it is found like one.
    UnitPrice(_OPENAI, "container", "", "container_gigabyte_minutes", Fraction("0.0015"), _OPENAI_PRICING, _READ),
    # As gpt-live-1: three dollars an hour.  Second-hand, of a page of OpenAI's that was not at hand.
    UnitPrice(
        _OPENAI,
        "gpt-live-1.1",
        "",
        "input_audio_milliseconds",
        Fraction(3, 3_600_000),
        "https://apidog.com/jp/blog/gpt-live-1-1-pricing/",
        "2026-11-30",
    ),
    _reranker("rerank-v3.5", "2"),
    _reranker("rerank-english-v3.0", "2"),
    _reranker("rerank-multilingual-v3.0", "2"),
    _reranker("rerank-v4.0-fast", "2"),
    _reranker("rerank-v4.0-pro", "2.5"),  # one page says 2 of both; not verified, so the dearer
    _video("sora-2", "720x1280", "0.10"),
    _video("sora-2", "1280x720", "0.10"),
    _video("sora-2-pro", "720x1280", "0.30"),
    _video("sora-2-pro", "1280x720", "0.30"),
    _video("sora-2-pro", "1024x1792", "0.50"),
    _video("sora-2-pro", "1792x1024", "0.50"),
    _video("sora-2-pro", "1080x1920", "0.70"),
    _video("sora-2-pro", "1920x1080", "0.70"),
    _imagen("imagegeneration@006", "0.02"),
    _imagen("imagen-3.0-generate-001", "0.04"),
    _imagen("imagen-3.0-generate-002", "0.04"),
    _imagen("imagen-3.0-fast-generate-001", "0.02"),
    _imagen("imagen-3.0-capability-001", "0.04", _SECOND_HAND),
    _imagen("imagen-3.0-capability-002", "0.04", _SECOND_HAND),
    _imagen("imagen-4.0-generate-001", "0.04"),
    _imagen("imagen-4.0-fast-generate-001", "0.02"),
    _imagen("imagen-4.0-ultra-generate-001", "0.06"),
    _imagen("imagen-4.0-upscale-preview", "0.06", _SECOND_HAND),
    _imagen("imagen-product-recontext-preview-06-30", "0.12", _SECOND_HAND),
    _imagen("virtual-try-on-preview-08-04", "0.06", _SECOND_HAND),
    _imagen("virtual-try-on-001", "0.06", _VEO),
    # What a picture cut into its parts costs was on no copy: `image-segmentation-001` has no price.
    # Vertex asks less for some videos without sound, which no copy of this year shows: they count as those with.
    _veo("veo-2.0-generate-001", "", "0.50"),
    *(_veo(f"veo-3.0-generate-{end}", size, "0.40") for end in ("001", "preview") for size in ("720p", "1080p")),
    *(_veo(f"veo-3.0-fast-generate-{end}", "720p", "0.10") for end in ("001", "preview")),
    *(_veo(f"veo-3.0-fast-generate-{end}", "1080p", "0.12") for end in ("001", "preview")),
    *(_veo(f"veo-3.1-generate-{end}", size, "0.40") for end in ("001", "preview") for size in ("720p", "1080p")),
    *(_veo(f"veo-3.1-generate-{end}", "4k", "0.60") for end in ("001", "preview")),
    *(_veo(f"veo-3.1-fast-generate-{end}", "720p", "0.10") for end in ("001", "preview")),
    *(_veo(f"veo-3.1-fast-generate-{end}", "1080p", "0.12") for end in ("001", "preview")),
    *(_veo(f"veo-3.1-fast-generate-{end}", "4k", "0.30") for end in ("001", "preview")),
    *(_veo(f"veo-3.1-lite-generate-{end}", "720p", "0.05") for end in ("001", "preview")),
    *(_veo(f"veo-3.1-lite-generate-{end}", "1080p", "0.08") for end in ("001", "preview")),
)


def corrections(provider: str, model: str) -> dict[str, str]:
    """USD per million tokens, by bucket, that replace the list's for this model."""
    fixed: dict[str, str] = {}
    for row in CORRECTIONS:
        if provider == row.provider and model.startswith(row.starts_with):
            fixed.update(row.usd_per_million)
    return fixed


def tier_times(tier: str, provider: str, model: str) -> Fraction | None:
    """What a tier multiplies the standard price by, or None if that is not how it is priced."""
    for row in TIER_MULTIPLIERS:
        if tier == row.tier and row.provider in ("", provider) and model.startswith(row.starts_with):
            return row.times
    return None


def premium_times(provider: str) -> Fraction:
    """The multiple that bounds a dear tier without a listed price."""
    return PREMIUM_TIMES.get(provider, PREMIUM_TIMES[""])


def search_fee_usd(provider: str) -> str:
    """USD per 1,000 web searches of a model without a fee of its own."""
    return next(row.usd_per_thousand for row in SEARCH_FEES if row.provider in (provider, ""))


def fee_picos(provider: str) -> dict[str, int]:
    """Picodollars of each unit that a provider charges beside tokens."""
    fees = {row.unit: row.usd for row in TOOL_FEES if row.provider == ""}
    fees.update({row.unit: row.usd for row in TOOL_FEES if row.provider == provider})
    return {unit: _picos(usd) for unit, usd in fees.items()}


def storage_picos(provider: str, model: str, at: float) -> dict[str, int]:
    """Picodollars of a token that a cache of this model keeps for an hour, where that is no fee of its provider's."""
    for row in STORAGE_PRICES:
        if provider == row.provider and model.startswith(row.starts_with) and at >= row.since:
            return {"cache_token_hours": _picos(Fraction(row.usd) / 10**6)}
    return {}


def unit_prices(provider: str, model: str, kinds: Iterable[str]) -> dict[str, int]:
    """Picodollars of each unit of a model that the list lacks, of the first of these kinds that it has; {} for another model."""
    name = _SNAPSHOT.sub("", model)
    rows = [row for row in UNIT_PRICES if provider in row.providers and row.model == name]
    chosen = next((fitting for kind in kinds if (fitting := [row for row in rows if row.kind == kind])), rows)
    return {unit: max(_picos(row.usd) for row in chosen if row.unit == unit) for unit in {row.unit for row in chosen}}


def _picos(usd: Fraction) -> int:
    return math.ceil(usd * 10**12)
