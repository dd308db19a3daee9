"""The ladders themselves: data.  How many tokens each model takes and puts out is in `limits`.

A row says what a model is documented to do, and which parameters all models of its ladder take or refuse alike (several
choices, stop sequences).  What is missing costs a downgrade: the call is refused, as if there were no cheaper model.  What is
wrongly there costs an error of the provider's, which nobody pays for but which breaks a call that was to go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple


class Row(NamedTuple):
    """A model, as its provider spells it, and what it can do: names of `ladders.FEATURES`."""

    model: str
    features: frozenset[str]


class Ladder(NamedTuple):
    """Models of one provider, dearest first.

    Attributes:
        provider: The price list's id.
        sources: Pages the features were read from, as stored copies; prices and names are the price list's.
        read: On which day, as YYYY-MM-DD.
        rungs: Each is one or more models that step down to the rung below; the first of them is what the rung above steps
            down to.  Others of a rung are older, or gated.
        aliases: Further names of the provider's, none of them dated, to a model of a rung.
    """

    provider: str
    sources: tuple[str, ...]
    read: str
    rungs: tuple[tuple[Row, ...], ...]
    aliases: Mapping[str, str] = MappingProxyType({})


def _rung(features: str, *models: str) -> tuple[Row, ...]:
    return tuple(Row(model, frozenset(features.split())) for model in models)


_MEDIA: Final = "images files "
_TOOLS: Final = "tools forced_tools structured_output json_mode "
_LEVELS: Final = "reasoning reasoning_effort "

# gpt-6.2-astra and gpt-6.2-sol, of 2026-11-17, are on no ladder until the price list has them.
# https://developers.openai.com/api/docs/guides/deployment-checklist: Astra and 6.1 Sol take functions in responses only, 6 Sol
# and 6 Luna in chat completions with reasoning_effort "none"; no temperature, top_p or logprobs unless it is "none".
_GPT_6: Final = (
    _MEDIA
    + _TOOLS
    + _LEVELS
    + "web_search file_search image_generation code_interpreter shell tool_search computer_use mcp "
    "reasoning_xhigh reasoning_max verbosity choices "
)
# https://github.com/BerriAI/litellm/pull/34569: functions in a chat completion only with reasoning_effort "none".
_GPT_56: Final = (
    _MEDIA + _TOOLS + _LEVELS + "web_search file_search computer_use chat_tools_none "
    "reasoning_none reasoning_xhigh reasoning_max verbosity choices "
)
# Functions along with a level only in responses: https://github.com/openai/openai-openapi/issues/541; a temperature with
# "none": https://github.com/tmc/langchaingo/issues/1497.
_GPT_54: Final = (
    _MEDIA
    + _TOOLS
    + _LEVELS
    + "web_search chat_tools chat_tools_none reasoning_none sampling logprobs verbosity choices "
)
_GPT_PRO: Final = _MEDIA + _LEVELS + "tools web_search verbosity "
_GPT_5: Final = (
    _MEDIA + _TOOLS + _LEVELS + "web_search chat_tools chat_tools_reasoning reasoning_minimal verbosity choices "
)
_GPT_4: Final = _MEDIA + _TOOLS + "web_search chat_tools sampling penalties logprobs stop choices "

# https://platform.claude.com/docs/en/models/opus-5-5/whats-new-opus-5-5 and .../sonnet-5-5/migration-guide and
# .../haiku-5-5/whats-new-haiku-5-5: since 4.7 no sampling, no prefill, no thinking budget; Fable 5.1, Opus 5.5 and Sonnet 5.5
# take no forced tool and no thinking "disabled"; every generation has a computer tool of its own.
_CLAUDE: Final = _MEDIA + "tools structured_output citations web_search web_fetch code_interpreter shell mcp stop "
_CLAUDE_5: Final = _CLAUDE + _LEVELS + "tool_search reasoning_adaptive reasoning_xhigh reasoning_max "
_CLAUDE_4: Final = _CLAUDE + "forced_tools sampling reasoning reasoning_budget reasoning_none "

# https://ai.google.dev/gemini-api/docs/models/gemini-3.7-flash and .../gemini-3.5-flash-lite; from 3.5 on a temperature is
# taken and ignored: https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/gemini/3-5-flash-lite.
_GEMINI_3: Final = (
    _MEDIA + _TOOLS + _LEVELS + "audio video web_search web_fetch file_search code_interpreter sampling stop "
)
_GEMINI_25: Final = (
    _MEDIA + _TOOLS + "audio video web_search web_fetch file_search code_interpreter sampling penalties stop choices "
    "reasoning reasoning_budget "
)

# https://api-docs.deepseek.com/quick_start/pricing: JSON, but no schema; the prefix completion is a beta of its own address.
_EVERY_CHAT_TOOL: Final = "chat_tools chat_tools_reasoning chat_tools_none "
_DEEPSEEK: Final = _LEVELS + _EVERY_CHAT_TOOL + "tools json_mode sampling stop reasoning_none "

_MISTRAL: Final = _TOOLS + "images chat_tools sampling penalties stop choices prefill "
_MISTRAL_THINKING: Final = _MISTRAL + _LEVELS + _EVERY_CHAT_TOOL + "reasoning_none "

_GROK: Final = _TOOLS + _LEVELS + "images chat_tools chat_tools_reasoning web_search code_interpreter mcp sampling "

_QWEN: Final = _TOOLS + "chat_tools sampling stop reasoning reasoning_none "

LADDERS: Final = (
    Ladder(
        provider="openai",
        sources=(
            "https://developers.openai.com/api/docs/guides/deployment-checklist",
            "https://apidog.com/blog/gpt-6-1-terra-api/",
            "https://docs.oxen.ai/inference-api/reference/models/gpt-6-luna.md",
            "https://documentation.s3ns.fr/gemini-enterprise-agent-platform/models/partner-models/openai/gpt-6-1-sol",
        ),
        read="2026-11-22",
        rungs=(
            _rung(_GPT_6, "gpt-6-astra"),
            _rung(_GPT_6, "gpt-6.1-sol") + _rung(_GPT_6 + "reasoning_none chat_tools_none", "gpt-6-sol"),
            _rung(_GPT_6 + "reasoning_none", "gpt-6.1-terra"),
            _rung(_GPT_6 + "reasoning_none chat_tools_none", "gpt-6-luna"),
        ),
    ),
    Ladder(
        provider="openai",
        sources=("https://docs.oxen.ai/inference-api/reference/models/gpt-5-6-luna",),
        read="2026-11-22",
        rungs=(_rung(_GPT_56, "gpt-5.6-sol"), _rung(_GPT_56, "gpt-5.6-terra"), _rung(_GPT_56, "gpt-5.6-luna")),
        aliases={"gpt-5.6": "gpt-5.6-sol"},
    ),
    Ladder(
        provider="openai",
        sources=(
            "https://developers.openai.com/api/docs/guides/tools.md",
            "https://github.com/openai/openai-openapi/issues/541",
            "https://vercel.com/ai-gateway/models/gpt-5.4-nano/faq",
        ),
        read="2026-11-22",
        rungs=(
            _rung(_GPT_PRO, "gpt-5.5-pro", "gpt-5.4-pro", "gpt-5.2-pro"),
            _rung(_MEDIA + _TOOLS + _LEVELS + "web_search file_search tool_search verbosity choices", "gpt-5.5"),
            _rung(_GPT_54 + "tool_search", "gpt-5.4") + _rung(_GPT_54, "gpt-5.2", "gpt-5.1"),
            _rung(_GPT_54 + "tool_search", "gpt-5.4-mini"),
            _rung(_GPT_54 + "tool_search", "gpt-5.4-nano"),
        ),
    ),
    Ladder(
        # Until 2026-12-11: https://developers.openai.com/api/docs/deprecations.
        provider="openai",
        sources=(
            "https://vercel.com/ai-gateway/models/gpt-5-mini/faq",
            "https://openrouter.ai/api/v1/models/openai/gpt-5-nano:batch/endpoints",
            "https://replicate.com/openai/gpt-5-nano",
        ),
        read="2026-11-22",
        rungs=(
            _rung(_GPT_PRO, "gpt-5-pro"),
            _rung(_GPT_5, "gpt-5"),
            _rung(_GPT_5, "gpt-5-mini"),
            _rung(_GPT_5, "gpt-5-nano"),
        ),
    ),
    Ladder(
        # Until 2027-01-14; gpt-4.1-nano went on 2026-10-23: https://developers.openai.com/api/docs/deprecations.
        provider="openai",
        sources=(
            "https://www.getmaxim.ai/bifrost/model-library/compare/azure/gpt-4.1-mini",
            "https://vercel.com/ai-gateway/models/gpt-4.1-mini/providers",
        ),
        read="2026-11-22",
        rungs=(_rung(_GPT_4, "gpt-4.1"), _rung(_GPT_4, "gpt-4.1-mini")),
    ),
    Ladder(
        # Until 2027-01-14.
        provider="openai",
        sources=(
            "https://www.getmaxim.ai/bifrost/model-library/compare/replicate/gpt-4o-mini",
            "https://vercel.com/ai-gateway/models/gpt-4o-mini/api",
        ),
        read="2026-11-22",
        rungs=(_rung(_GPT_4, "gpt-4o"), _rung(_GPT_4, "gpt-4o-mini")),
    ),
    Ladder(
        provider="anthropic",
        sources=(
            "https://platform.claude.com/docs/en/models/opus-5-5/whats-new-opus-5-5",
            "https://platform.claude.com/docs/en/models/sonnet-5-5/migration-guide",
            "https://platform.claude.com/docs/en/models/haiku-5-5/whats-new-haiku-5-5",
        ),
        read="2026-11-22",
        rungs=(
            _rung(_CLAUDE_5, "claude-fable-5-2", "claude-fable-5-1", "claude-fable-5", "claude-mythos-5-2"),
            _rung(_CLAUDE_5, "claude-opus-5-5")
            + _rung(_CLAUDE_5 + "forced_tools reasoning_none", "claude-opus-5", "claude-opus-4-8", "claude-opus-4-7"),
            _rung(_CLAUDE_5 + "reasoning_between_tools", "claude-sonnet-5-5")
            + _rung(_CLAUDE_5 + "forced_tools reasoning_none", "claude-sonnet-5"),
            _rung(_CLAUDE_5 + "forced_tools reasoning_none", "claude-haiku-5-5"),
        ),
    ),
    Ladder(
        # The generation that takes a temperature and a thinking budget.
        provider="anthropic",
        sources=(
            "https://platform.claude.com/docs/en/models/haiku-5-5/whats-new-haiku-5-5",
            "https://platform.claude.com/docs/ko/about-claude/models/migration-guide",
            "https://reference.langchain.com/python/deepagents-code/reasoning_effort/ANTHROPIC_EFFORTS_NO_XHIGH",
        ),
        read="2026-11-22",
        rungs=(
            _rung(_CLAUDE_4 + "reasoning_effort reasoning_adaptive reasoning_max", "claude-opus-4-6")
            + _rung(_CLAUDE_4 + "reasoning_effort prefill", "claude-opus-4-5"),
            _rung(_CLAUDE_4 + "reasoning_effort reasoning_adaptive reasoning_max", "claude-sonnet-4-6")
            + _rung(_CLAUDE_4 + "prefill", "claude-sonnet-4-5"),
            _rung(_CLAUDE_4 + "prefill", "claude-haiku-4-5"),
        ),
    ),
    Ladder(
        provider="google",
        sources=(
            "https://ai.google.dev/gemini-api/docs/generate-content/latest-model",
            "https://ai.google.dev/gemini-api/docs/models/gemini-3.7-flash",
            "https://ai.google.dev/gemini-api/docs/models/gemini-3.5-flash-lite",
            "https://documentation.s3ns.fr/gemini-enterprise-agent-platform/models/gemini/3-1-flash-lite",
        ),
        read="2026-11-22",
        rungs=(
            _rung(_GEMINI_3, "gemini-4-argon", "gemini-3.1-pro-preview"),
            _rung(_GEMINI_3 + "computer_use", "gemini-3.8-flash", "gemini-3.7-flash", "gemini-3.6-flash")
            + _rung(_GEMINI_3, "gemini-3.5-flash", "gemini-3-flash-preview"),
            _rung(_GEMINI_3 + "computer_use reasoning_minimal", "gemini-3.5-flash-lite"),
            _rung(_GEMINI_3 + "reasoning_minimal", "gemini-3.1-flash-lite"),
        ),
        aliases={
            "gemini-pro-latest": "gemini-3.1-pro-preview",
            "gemini-flash-latest": "gemini-3.8-flash",
            "gemini-flash-lite-latest": "gemini-3.5-flash-lite",
        },
    ),
    Ladder(
        # From 2026-12-01 on 2.5 Pro and 2.5 Flash are served by 3.8 Flash and 3.5 Flash-Lite, at their prices:
        # https://ai.google.dev/gemini-api/docs/deprecations.
        provider="google",
        sources=(
            "https://ai.google.dev/gemini-api/docs/models/gemini-2.5-flash-lite",
            "https://vercel.com/ai-gateway/models/gemini-2.5-flash-lite",
        ),
        read="2026-11-22",
        rungs=(
            _rung(_GEMINI_25, "gemini-2.5-pro"),
            _rung(_GEMINI_25 + "reasoning_none", "gemini-2.5-flash"),
            _rung(_GEMINI_25 + "reasoning_none", "gemini-2.5-flash-lite"),
        ),
    ),
    Ladder(
        provider="deepseek",
        sources=("https://api-docs.deepseek.com/quick_start/pricing",),
        read="2026-11-22",
        rungs=(_rung(_DEEPSEEK, "deepseek-v4-pro"), _rung(_DEEPSEEK + "images", "deepseek-flash")),
        aliases={"deepseek-v4-flash": "deepseek-flash"},
    ),
    Ladder(
        # The small ones have no name without a date but `-latest`, and what that means changes.
        provider="mistral",
        sources=(
            "https://www.getmaxim.ai/bifrost/model-library/compare/mistral/mistral-large-4.md",
            "https://huggingface.co/mistralai/mistral-medium-3.5-128b",
            "https://huggingface.co/AkashKakad/Mistral-Small-4-119B-2603",
            "https://huggingface.co/deepkeep-ai/Ministral-3-8B-Instruct-2512",
        ),
        read="2026-11-22",
        rungs=(
            _rung(_MISTRAL_THINKING, "mistral-medium-3-5"),
            _rung(_MISTRAL_THINKING, "mistral-large-4") + _rung(_MISTRAL, "mistral-large-2512"),
            _rung(_MISTRAL_THINKING, "mistral-small-2603"),
            _rung(_MISTRAL, "ministral-8b-2512"),
            _rung(_MISTRAL, "ministral-3b-2512"),
        ),
        aliases={
            "mistral-medium-latest": "mistral-medium-3-5",
            "mistral-medium-3.5": "mistral-medium-3-5",
            "mistral-medium-2604": "mistral-medium-3-5",
            "mistral-large-4-0": "mistral-large-4",
            "mistral-small-latest": "mistral-small-2603",
            "ministral-8b-latest": "ministral-8b-2512",
        },
    ),
    Ladder(
        provider="x-ai",
        sources=(
            "https://docs.x.ai/docs/migration/may-15-retirement",
            "https://newreleases.io/project/github/vercel/ai/release/@ai-sdk%2Fxai@4.0.0-canary.61",
            "https://docs.apiyi.com/en/api-capabilities/grok/overview",
        ),
        read="2026-11-22",
        rungs=(
            _rung(_GROK, "grok-4.7", "grok-4.6", "grok-4.5"),
            _rung(_GROK + "chat_tools_none reasoning_none", "grok-4.3"),
        ),
    ),
    Ladder(
        # The price list has these under resellers only: without `set_price` for this provider a call has no price.
        provider="alibaba",
        sources=(
            "https://vercel.com/ai-gateway/models/qwen3.8-flash.md",
            "https://vercel.com/ai-gateway/models/qwen3.7-plus/faq",
            "https://vercel.com/ai-gateway/models/qwen3.8-max-0902",
        ),
        read="2026-11-22",
        rungs=(
            _rung(_QWEN, "qwen3.8-max"),
            _rung(_QWEN + "images", "qwen3.7-plus"),
            _rung(_QWEN + "images video", "qwen3.8-flash"),
        ),
    ),
)
