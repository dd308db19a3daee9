"""How many tokens a model can put out, and whether it may reason unseen: data, not rules.

A row that is too low only makes a granted output cap smaller than it could be; one that is too high is refused by the API
with an error that costs nothing.  So a row says what the provider documents, and an unknown model gets a wide default.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import attrs

from farebox.prices._names import LONGEST_NAME, family, provider_id


@attrs.frozen(kw_only=True)
class ModelLimits:
    """What a model can put out.

    Attributes:
        max_output_tokens: The largest output cap it takes, reasoning included.
        reasons: Whether it may spend reasoning tokens nobody sees unless told not to.
        least_cap: The smallest output cap its API takes.
        is_known: False for a model without a row: the numbers are the default ones.
    """

    max_output_tokens: int
    reasons: bool
    least_cap: int
    is_known: bool = True


@attrs.frozen
class _Row:
    starts_with: str
    max_output_tokens: int
    reasons: bool


@attrs.frozen
class _Table:
    source: str
    read: str
    rows: tuple[_Row, ...]


def _table(source: str, read: str, *rows: tuple[str, int, bool]) -> _Table:
    return _Table(source, read, tuple(_Row(*row) for row in rows))


#: An unknown model: as wide as the common frontier model, and taken to reason.
DEFAULT_MAX_OUTPUT_TOKENS: Final = 128_000

# "Expected a value >= 16": max_output_tokens of the Responses API, and max_completion_tokens of newer chat models.
# Source: https://github.com/earendil-works/pi/issues/6265 (read 2026-11-21).
_LEAST_CAPS: Final = {"openai": 16, "azure": 16}

# Names are those of `family`: without a vendor or region before them.  The longest row that fits wins.  A table's date is
# when its current models were checked; rows of retired models are as their pages said while they had one.
TABLES: Final = (
    _table(
        "https://developers.openai.com/api/docs/models", "2026-11-21",
        ("gpt-3.5", 4_096, False),
        ("gpt-3.5-turbo-instruct", 4_096, False),
        ("gpt-4", 8_192, False),
        ("gpt-4-turbo", 4_096, False),
        ("gpt-4-vision", 4_096, False),
        ("gpt-4-1106", 4_096, False),
        ("gpt-4-0125", 4_096, False),
        ("gpt-4.1", 32_768, False),
        ("gpt-4.5", 16_384, False),
        ("gpt-4o", 16_384, False),
        ("gpt-4o-2024-05-13", 4_096, False),
        ("gpt-4o-realtime", 4_096, False),
        ("gpt-4o-mini-realtime", 4_096, False),
        ("gpt-4o-transcribe", 2_000, False),
        ("gpt-4o-mini-transcribe", 2_000, False),
        ("gpt-audio", 16_384, False),
        ("gpt-realtime", 4_096, False),
        ("chatgpt-4o", 16_384, False),
        ("o1", 100_000, True),
        ("o1-mini", 65_536, True),
        ("o1-preview", 32_768, True),
        ("o3", 100_000, True),
        ("o4-mini", 100_000, True),
        ("codex-mini", 100_000, True),
        ("computer-use", 1_024, True),
        ("gpt-5", 128_000, True),
        ("gpt-5-chat", 16_384, False),
        ("gpt-5.1-chat", 16_384, True),
        ("gpt-5.2-chat", 16_384, True),
        ("gpt-5.3-chat", 16_384, True),
        ("gpt-5-pro", 272_000, True),
        ("gpt-6", 128_000, True),
        ("gpt-oss", 131_072, True),
    ),
    _table(
        "https://platform.claude.com/docs/en/about-claude/models/overview", "2026-11-21",
        ("claude-v1", 4_096, False),
        ("claude-2", 4_096, False),
        ("claude-instant", 4_096, False),
        ("claude-3", 4_096, False),
        ("claude-3-5", 8_192, False),
        ("claude-3-5-sonnet-20240620", 4_096, False),
        ("claude-3-7-sonnet", 64_000, False),
        ("claude-opus-4", 32_000, False),
        ("claude-4-opus", 32_000, False),
        ("claude-sonnet-4", 64_000, False),
        ("claude-4-sonnet", 64_000, False),
        ("claude-opus-4-5", 64_000, False),
        ("claude-haiku-4-5", 64_000, False),
        # Thinking is the caller's choice up to 4.8; from 5 on it is adaptive, for some models always on.
        ("claude-opus-4-6", 128_000, False),
        ("claude-opus-4-7", 128_000, False),
        ("claude-opus-4-8", 128_000, False),
        ("claude-sonnet-4-6", 128_000, False),
        ("claude-opus-5", 128_000, True),
        ("claude-sonnet-5", 128_000, True),
        ("claude-haiku-5", 128_000, True),
        ("claude-fable", 128_000, True),
        ("claude-mythos", 128_000, True),
    ),
    _table(
        "https://ai.google.dev/gemini-api/docs/models", "2026-11-21",
        ("gemini-1", 8_192, False),
        ("gemini-pro", 8_192, False),
        ("gemini-flash-1.5", 8_192, False),
        ("gemini-2.0", 8_192, False),
        ("gemini-2.0-flash-thinking", 65_536, True),
        ("gemini-2.5", 65_536, True),
        ("gemini-2.5-flash-lite", 65_536, False),
        ("gemini-2.5-flash-image", 32_768, False),
        ("gemini-2.5-flash-tts", 16_384, False),
        ("gemini-2.5-pro-tts", 16_384, False),
        ("gemini-live", 8_192, False),
        ("gemini-3", 65_536, True),
        ("gemini-4", 65_536, True),
        ("gemini-flash", 65_536, True),
        ("gemini-pro-latest", 65_536, True),
        ("gemma-3", 8_192, False),
        ("gemma-4", 32_768, True),
    ),
    _table(
        "https://api-docs.deepseek.com/quick_start/pricing", "2026-11-21",
        ("deepseek-chat", 8_192, False),
        ("deepseek-reasoner", 65_536, True),
        ("deepseek-flash", 384_000, True),
        ("deepseek-v4", 384_000, True),
    ),
    _table(
        "https://docs.mistral.ai/getting-started/models, https://vercel.com/ai-gateway/models/mistral-large-4.md",
        "2026-11-21",
        ("mistral", 131_072, False),
        ("mistral-large-4", 262_144, True),
        ("ministral", 131_072, False),
        ("codestral", 131_072, False),
        ("devstral", 131_072, False),
        ("pixtral", 131_072, False),
        ("magistral", 131_072, True),
    ),
    _table(
        # xAI documents no output maximum of its own, only the context window.
        "https://docs.x.ai/docs/models", "2026-11-21",
        ("grok-2", 32_768, False),
        ("grok-3", 131_072, False),
        ("grok-3-mini", 131_072, True),
        ("grok-4", 256_000, True),
        ("grok-code", 256_000, True),
        ("grok-build", 256_000, True),
    ),
)  # fmt: skip

_ROWS: Final = sorted((row for table in TABLES for row in table.rows), key=lambda row: -len(row.starts_with))


def model_limits(provider_name: str, model: str) -> ModelLimits:
    """The output limits of a model; for an unknown one 128,000 tokens, taken to reason."""
    if len(model) > LONGEST_NAME or len(provider_name) > LONGEST_NAME:
        return _find("", "")
    return _find(provider_name, model)


@lru_cache(maxsize=1024)
def _find(provider_name: str, model: str) -> ModelLimits:
    provider = provider_id(provider_name)
    name = family(model).removeprefix("ft:")
    vendor = model.lower().rpartition("/")[0].lstrip("~")
    least_cap = _LEAST_CAPS.get(provider, _LEAST_CAPS.get(vendor, 1))
    for row in _ROWS:
        if name.startswith(row.starts_with):
            reasons = row.reasons and "non-reasoning" not in name
            return ModelLimits(max_output_tokens=row.max_output_tokens, reasons=reasons, least_cap=least_cap)
    return ModelLimits(
        max_output_tokens=DEFAULT_MAX_OUTPUT_TOKENS, reasons=True, least_cap=max(least_cap, 1), is_known=False
    )
