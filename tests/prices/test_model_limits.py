"""How much a model can put out."""

from __future__ import annotations

import pytest
from genai_prices.data import providers

from farebox.prices import limits as module
from farebox.prices import model_limits


@pytest.mark.parametrize(
    ("provider", "model", "most", "reasons", "least"),
    [
        ("openai", "gpt-4o", 16_384, False, 16),
        ("openai", "gpt-4o-2024-05-13", 4_096, False, 16),
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme::abc", 16_384, False, 16),
        ("openai", "gpt-4.1-mini", 32_768, False, 16),
        ("openai", "o3", 100_000, True, 16),
        ("openai", "o4-mini-2025-04-16", 100_000, True, 16),
        ("openai", "gpt-5-mini", 128_000, True, 16),
        ("openai", "gpt-5-pro", 272_000, True, 16),
        ("openai", "gpt-5.4", 128_000, True, 16),
        ("openai", "gpt-6.1-sol", 128_000, True, 16),
        ("azure.ai.openai", "gpt-4o-2024-11-20", 16_384, False, 16),
        ("anthropic", "claude-3-haiku-20240307", 4_096, False, 1),
        ("anthropic", "claude-3-5-haiku-latest", 8_192, False, 1),
        ("anthropic", "claude-3-7-sonnet-latest", 64_000, False, 1),
        ("anthropic", "claude-opus-4-1", 32_000, False, 1),
        ("anthropic", "claude-sonnet-4-20250514", 64_000, False, 1),
        ("anthropic", "claude-haiku-4-5", 64_000, False, 1),
        ("anthropic", "claude-sonnet-4-6", 128_000, False, 1),
        ("anthropic", "claude-opus-5-5", 128_000, True, 1),
        ("aws.bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", 64_000, False, 1),
        ("openrouter", "anthropic/claude-opus-5", 128_000, True, 1),
        ("openrouter", "openai/gpt-5", 128_000, True, 16),
        ("gcp.gemini", "models/gemini-2.5-pro", 65_536, True, 1),
        ("gcp.gemini", "gemini-2.0-flash", 8_192, False, 1),
        ("deepseek", "deepseek-v4-pro", 384_000, True, 1),
        ("x_ai", "grok-4.3", 256_000, True, 1),
        ("x_ai", "grok-4-fast-non-reasoning", 256_000, False, 1),
        ("mistral_ai", "magistral-medium", 131_072, True, 1),
        ("openrouter", "qwen/qwen3.8-max-0902", 131_072, True, 1),
        ("alibaba", "qwen3.7-plus", 65_536, True, 1),
        ("zai", "GLM-5.3", 131_072, True, 1),
    ],
)
def test_a_known_model_has_the_limits_its_provider_documents(
    provider: str, model: str, most: int, reasons: bool, least: int
) -> None:
    limits = model_limits(provider, model)
    assert (limits.max_output_tokens, limits.reasons, limits.least_cap) == (most, reasons, least)
    assert limits.is_known


def test_an_unknown_model_is_taken_to_be_large_and_to_reason() -> None:
    limits = model_limits("local", "my-llm")
    assert (limits.max_output_tokens, limits.reasons, limits.least_cap, limits.is_known) == (128_000, True, 1, False)
    assert model_limits("openai", "gpt-99").least_cap == 16


@pytest.mark.parametrize(
    ("provider", "model", "tokens"),
    [
        ("openai", "gpt-4-32k-0613", 32_768),
        ("openai", "gpt-4o-mini", 128_000),
        ("openai", "gpt-5-mini-2025-08-07", 400_000),
        ("openai", "gpt-5.4", 1_050_000),
        ("openai", "gpt-5.4-nano", 400_000),
        ("openai", "gpt-6-luna", 1_050_000),
        ("anthropic", "claude-haiku-4-5", 200_000),
        ("anthropic", "claude-sonnet-4-5", 1_000_000),  # 200,000, and 1,000,000 by a beta header
        ("anthropic", "claude-haiku-5-5", 1_000_000),
        ("gcp.gemini", "models/gemini-1.5-pro", 2_097_152),
        ("gcp.gemini", "gemini-3.8-flash", 1_048_576),
        ("x_ai", "grok-4-fast-reasoning", 2_000_000),
        ("x_ai", "grok-4.7", 500_000),
        ("local", "my-llm", 2_097_152),
    ],
)
def test_a_context_window_is_the_one_documented_and_for_an_unknown_model_the_largest_there_is(
    provider: str, model: str, tokens: int
) -> None:
    assert model_limits(provider, model).context_tokens == tokens


@pytest.mark.parametrize("provider", ["openai", "anthropic", "google", "deepseek", "mistral", "x-ai"])
def test_no_context_window_is_below_the_one_the_price_list_names(provider: str) -> None:
    listed = {model.id: model.context_window for each in providers if each.id == provider for model in each.models}
    assert any(listed.values())
    ours = {name: model_limits(provider, name) for name in listed}
    below = {
        name: (window, ours[name].context_tokens)
        for name, window in listed.items()
        if window is not None and ours[name].is_known and ours[name].context_tokens < window
    }
    assert below == {}


def test_a_known_model_costs_one_look_into_a_cache() -> None:
    module._find.cache_clear()
    for _ in range(3):
        model_limits("openai", "gpt-5-mini")
    assert (module._find.cache_info().misses, module._find.cache_info().hits) == (1, 2)


def test_unknown_names_leave_a_bounded_memory() -> None:
    for number in range(5_000):
        model_limits("openai", f"model-{number}")
    model_limits("openai", "x" * 1_000_000)
    assert module._find.cache_info().currsize <= 1_024


def test_every_row_has_a_source_and_a_day_and_no_row_is_there_twice() -> None:
    for table in module.TABLES:
        assert table.source.startswith("https://")
        assert len(table.read) == len("2026-11-21")
    names = [row.starts_with for table in module.TABLES for row in table.rows]
    assert len(names) == len(set(names))
