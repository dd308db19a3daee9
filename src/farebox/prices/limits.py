"""How many tokens a model takes and can put out, and whether it may reason unseen: data, not rules.

An output maximum that is too low only makes a granted cap smaller than it could be; one that is too high is refused by the
API with an error that costs nothing.  So a row says what the provider documents, and an unknown model gets a wide default.
A context window stands in for input that nobody can count, so where pages differ a row says the larger number.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import attrs

from farebox.prices._names import LONGEST_NAME, family, provider_id


@attrs.frozen(kw_only=True)
class ModelLimits:
    """What a model takes and can put out.

    Attributes:
        context_tokens: Its context window: no request has more input tokens.
        max_output_tokens: The largest output cap it takes, reasoning included.
        reasons: Whether it may spend reasoning tokens nobody sees unless told not to.
        least_cap: The smallest output cap its API takes.
        is_known: False for a model without a row: the numbers are the default ones.
    """

    context_tokens: int
    max_output_tokens: int
    reasons: bool
    least_cap: int
    is_known: bool = True


class _Row(NamedTuple):
    starts_with: str
    max_output_tokens: int
    reasons: bool
    context_tokens: int


class _Table(NamedTuple):
    source: str
    read: str
    rows: tuple[_Row, ...]


def _table(source: str, read: str, *rows: tuple[str, int, bool, int]) -> _Table:
    return _Table(source, read, tuple(_Row(*row) for row in rows))


#: An unknown model: as wide as the common frontier model, and taken to reason.
DEFAULT_MAX_OUTPUT_TOKENS: Final = 128_000

# The smallest cap that every API of a provider takes; where none is said, 1.
# OpenAI: 16, for max_output_tokens of responses (https://github.com/UKGovernmentBEIS/inspect_evals/issues/694) and for
# max_completion_tokens of newer chat models (https://github.com/braintrustdata/lingua/pull/186), read 2026-11-22; older chat
# models take 1, which buys no useful answer.  Anthropic: max_tokens 1, a 0 only fills the prompt cache
# (https://platform.claude.com/docs/en/api/messages, as in the docstring of the anthropic package 2.12).
_LEAST_CAPS: Final = {"openai": 16, "azure": 16}

# Names are those of `family`: without a vendor or region before them.  The longest row that fits wins.  A table's date is
# when its current models were checked; rows of retired models are as their pages said while they had one.  Context windows are
# the price list's (genai-prices 0.2.3, read 2026-11-22), in full where it rounds, and a larger one that a page, a beta header or
# a reseller names.
TABLES: Final = (
    _table(
        "https://developers.openai.com/api/docs/models", "2026-11-21",
        ("gpt-3.5", 4_096, False, 16_385),
        ("gpt-3.5-turbo-instruct", 4_096, False, 16_385),
        ("gpt-4", 8_192, False, 8_192),
        ("gpt-4-32k", 8_192, False, 32_768),
        ("gpt-4-turbo", 4_096, False, 128_000),
        ("gpt-4-vision", 4_096, False, 128_000),
        ("gpt-4-1106", 4_096, False, 128_000),
        ("gpt-4-0125", 4_096, False, 128_000),
        ("gpt-4.1", 32_768, False, 1_047_576),
        ("gpt-4.5", 16_384, False, 128_000),
        ("gpt-4o", 16_384, False, 128_000),
        ("gpt-4o-2024-05-13", 4_096, False, 128_000),
        ("gpt-4o-realtime", 4_096, False, 128_000),
        ("gpt-4o-mini-realtime", 4_096, False, 128_000),
        ("gpt-4o-transcribe", 2_000, False, 16_000),
        ("gpt-4o-mini-transcribe", 2_000, False, 16_000),
        ("gpt-audio", 16_384, False, 128_000),
        ("gpt-realtime", 4_096, False, 128_000),
        ("chatgpt-4o", 16_384, False, 128_000),
        ("o1", 100_000, True, 200_000),
        ("o1-mini", 65_536, True, 128_000),
        ("o1-preview", 32_768, True, 128_000),
        ("o3", 100_000, True, 200_000),
        ("o4-mini", 100_000, True, 200_000),
        ("codex-mini", 100_000, True, 200_000),
        ("computer-use", 1_024, True, 8_192),
        ("gpt-5", 128_000, True, 400_000),
        ("gpt-5-chat", 16_384, False, 128_000),
        ("gpt-5.1-chat", 16_384, True, 128_000),
        ("gpt-5.2-chat", 16_384, True, 128_000),
        ("gpt-5.3-chat", 16_384, True, 128_000),
        ("gpt-5-pro", 272_000, True, 400_000),
        ("gpt-5.4", 128_000, True, 1_050_000),
        ("gpt-5.4-mini", 128_000, True, 400_000),
        ("gpt-5.4-nano", 128_000, True, 400_000),
        ("gpt-5.5", 128_000, True, 1_050_000),
        ("gpt-5.6", 128_000, True, 1_050_000),
        ("gpt-6", 128_000, True, 1_050_000),
        ("gpt-oss", 131_072, True, 131_072),
    ),
    _table(
        "https://platform.claude.com/docs/en/about-claude/models/overview", "2026-11-21",
        ("claude-v1", 4_096, False, 100_000),
        ("claude-2", 4_096, False, 200_000),
        ("claude-instant", 4_096, False, 100_000),
        ("claude-3", 4_096, False, 200_000),
        ("claude-3-5", 8_192, False, 200_000),
        ("claude-3-5-sonnet-20240620", 4_096, False, 200_000),
        ("claude-3-7-sonnet", 64_000, False, 200_000),
        ("claude-opus-4", 32_000, False, 200_000),
        ("claude-4-opus", 32_000, False, 200_000),
        ("claude-sonnet-4", 64_000, False, 1_000_000),
        ("claude-4-sonnet", 64_000, False, 1_000_000),
        ("claude-opus-4-5", 64_000, False, 200_000),
        ("claude-haiku-4-5", 64_000, False, 200_000),
        # Thinking is the caller's choice up to 4.8; from 5 on it is adaptive, for some models always on.
        ("claude-opus-4-6", 128_000, False, 1_000_000),
        ("claude-opus-4-7", 128_000, False, 1_000_000),
        ("claude-opus-4-8", 128_000, False, 1_000_000),
        ("claude-sonnet-4-6", 128_000, False, 1_000_000),
        ("claude-opus-5", 128_000, True, 1_000_000),
        ("claude-sonnet-5", 128_000, True, 1_000_000),
        ("claude-haiku-5", 128_000, True, 1_000_000),
        ("claude-fable", 128_000, True, 1_000_000),
        ("claude-mythos", 128_000, True, 1_000_000),
    ),
    _table(
        "https://ai.google.dev/gemini-api/docs/models", "2026-11-21",
        ("gemini-1", 8_192, False, 32_768),
        ("gemini-1.5", 8_192, False, 2_097_152),
        ("gemini-pro", 8_192, False, 32_768),
        ("gemini-pro-1.5", 8_192, False, 2_097_152),
        ("gemini-flash-1.5", 8_192, False, 1_048_576),
        ("gemini-2.0", 8_192, False, 1_048_576),
        ("gemini-2.0-flash-thinking", 65_536, True, 1_048_576),
        ("gemini-2.5", 65_536, True, 1_048_576),
        ("gemini-2.5-flash-lite", 65_536, False, 1_048_576),
        ("gemini-2.5-flash-image", 32_768, False, 1_048_576),
        ("gemini-2.5-flash-tts", 16_384, False, 32_768),
        ("gemini-2.5-pro-tts", 16_384, False, 32_768),
        ("gemini-live", 8_192, False, 131_072),
        ("gemini-3", 65_536, True, 1_048_576),
        ("gemini-4", 65_536, True, 1_048_576),
        ("gemini-flash", 65_536, True, 1_048_576),
        ("gemini-pro-latest", 65_536, True, 1_048_576),
        ("gemma-3", 8_192, False, 131_072),
        ("gemma-4", 32_768, True, 262_144),
    ),
    _table(
        "https://api-docs.deepseek.com/quick_start/pricing", "2026-11-21",
        ("deepseek-chat", 8_192, False, 131_072),
        ("deepseek-reasoner", 65_536, True, 131_072),
        ("deepseek-v3", 65_536, True, 163_840),
        ("deepseek-flash", 384_000, True, 1_048_576),
        ("deepseek-v4", 384_000, True, 1_048_576),
    ),
    _table(
        "https://docs.mistral.ai/getting-started/models, https://vercel.com/ai-gateway/models/mistral-large-4.md",
        "2026-11-21",
        ("mistral", 131_072, False, 262_144),
        ("mistral-large-4", 262_144, True, 1_048_576),
        ("ministral", 131_072, False, 262_144),
        ("ministral-3b", 131_072, False, 131_072),
        ("codestral", 131_072, False, 262_144),
        ("devstral", 131_072, False, 262_144),
        ("pixtral", 131_072, False, 131_072),
        ("magistral", 131_072, True, 131_072),
    ),
    _table(
        "https://docs.cohere.com/docs/models (not verified)", "2026-11-30",
        ("command", 4_096, False, 128_000),
        ("command-a", 8_192, False, 262_144),
        ("command-a-reasoning", 32_768, True, 262_144),
        ("c4ai-aya", 4_096, False, 131_072),
    ),
    _table(
        # xAI documents no output maximum of its own, only the context window.
        "https://docs.x.ai/docs/models", "2026-11-21",
        ("grok-2", 32_768, False, 131_072),
        ("grok-3", 131_072, False, 131_072),
        ("grok-3-mini", 131_072, True, 131_072),
        ("grok-4", 256_000, True, 500_000),
        ("grok-4-0709", 256_000, True, 256_000),
        ("grok-4-fast", 256_000, True, 2_000_000),
        ("grok-4-1-fast", 256_000, True, 2_000_000),
        ("grok-4.20", 256_000, True, 2_000_000),
        ("grok-4.3", 256_000, True, 1_000_000),
        ("grok-code", 256_000, True, 256_000),
        ("grok-build", 256_000, True, 256_000),
    ),
    _table(
        # Hosted models only: an open one takes and puts out what its server is set to.
        "https://vercel.com/ai-gateway/models/qwen3.8-flash.md, https://docs.venice.ai/models/qwen-3-7-plus.md, "
        "https://vercel.com/ai-gateway/models/qwen3-max.md, https://vercel.com/ai-gateway/models/qwen3.6-plus/faq",
        "2026-11-22",
        ("qwen3-max", 65_536, True, 262_144),
        ("qwen3.6-plus", 65_536, True, 1_048_576),
        ("qwen3.7-max", 65_536, True, 1_048_576),
        ("qwen3.7-plus", 65_536, True, 1_048_576),
        ("qwen3.8-flash", 131_072, True, 1_048_576),
        ("qwen3.8-max", 131_072, True, 1_048_576),
    ),
    _table(
        "https://vercel.com/ai-gateway/models/glm-5.3.md, "
        "https://docs.aws.amazon.com/bedrock/latest/userguide/model-card-zai-glm-5-3.md",
        "2026-11-22",
        ("glm-5.2", 131_072, True, 1_048_576),
        ("glm-5.3", 131_072, True, 1_048_576),
    ),
)  # fmt: skip

#: An unknown model: as large as any that is known.
DEFAULT_CONTEXT_TOKENS: Final = max(row.context_tokens for table in TABLES for row in table.rows)

_ROWS: Final = sorted((row for table in TABLES for row in table.rows), key=lambda row: -len(row.starts_with))


def model_limits(provider_name: str, model: str) -> ModelLimits:
    """The limits of a model; for an unknown one 128,000 tokens out, taken to reason, and the largest window there is."""
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
            return ModelLimits(
                context_tokens=row.context_tokens,
                max_output_tokens=row.max_output_tokens,
                reasons=reasons,
                least_cap=least_cap,
            )
    return ModelLimits(
        context_tokens=DEFAULT_CONTEXT_TOKENS,
        max_output_tokens=DEFAULT_MAX_OUTPUT_TOKENS,
        reasons=True,
        least_cap=least_cap,
        is_known=False,
    )
