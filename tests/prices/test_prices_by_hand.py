"""Charges worked out by hand from published prices; nothing here is computed by the code under test.

A row is: provider, model, tier, day, what was used, what it costs in USD (exactly, rounded up to a nanodollar), and the
prices it was worked out from in USD per million tokens (fees per thousand).
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from farebox._call import Usage
from farebox._money import to_nanos
from farebox.prices import RateCard

CARD = RateCard()
NOON = "2026-11-21T12:00"


def used(**counts: int) -> Usage:
    """A usage in short words: text, read, w5m, w30m, w1h, w12h, audio, read_audio, image; out, thought, out_audio, ..."""
    words = {
        "text": "uncached_input_tokens",
        "read": "cache_read_tokens",
        "w5m": "cache_write_5m_tokens",
        "w30m": "cache_write_30m_tokens",
        "w1h": "cache_write_1h_tokens",
        "w12h": "cache_write_12h_tokens",
        "audio": "input_audio_tokens",
        "read_audio": "cache_read_audio_tokens",
        "image": "input_image_tokens",
        "out": "visible_output_tokens",
        "thought": "reasoning_tokens",
        "out_audio": "output_audio_tokens",
        "out_image": "output_image_tokens",
        "searches": "web_searches",
    }
    return Usage(**{words[word]: count for word, count in counts.items()})


K = 1_000
ROWS = [
    # OpenAI text
    ("openai", "gpt-4o", "", NOON, used(text=K, out=500), "0.0075", "2.5 in, 10 out"),
    ("openai", "gpt-4o", "", NOON, used(text=400, read=600), "0.00175", "2.5 in, 1.25 read"),
    ("openai", "GPT-4o-2024-08-06", "", NOON, used(text=K), "0.0025", "2.5 in"),
    ("openai", "gpt-4o-mini", "", NOON, used(text=K * K, out=K * K), "0.75", "0.15 in, 0.6 out"),
    ("openai", "gpt-4.1", "", NOON, used(text=K, out=K), "0.01", "2 in, 8 out"),
    ("openai", "gpt-4.1-nano", "", NOON, used(text=10, out=1), "0.0000014", "0.1 in, 0.4 out"),
    ("openai", "gpt-5-mini", "", NOON, used(text=1200, read=800, out=300, thought=700), "0.00232", "0.25, 0.025, 2"),
    ("openai", "gpt-5-nano", "", NOON, used(text=1, read=1), "0.000000055", "0.05 in, 0.005 read"),
    ("openai", "gpt-5-pro", "", NOON, used(text=100, thought=K), "0.1215", "15 in, 120 out"),
    ("openai", "o3", "", NOON, used(text=K, thought=2 * K), "0.018", "2 in, 8 out"),
    ("openai", "o1", "", NOON, used(read=K), "0.0075", "7.5 read"),
    ("openai", "text-embedding-3-small", "", NOON, used(text=K * K), "0.02", "0.02 in"),
    ("openai", "text-embedding-3-small", "", NOON, used(out=K), "0.00002", "no output price: 0.02, never nothing"),
    # OpenAI long context: above 272,000 input tokens everything is dearer
    ("openai", "gpt-5.4", "", NOON, used(text=272 * K, out=K), "0.695", "2.5 in, 15 out"),
    ("openai", "gpt-5.4", "", NOON, used(text=272 * K + 1, out=K), "1.382505", "5 in, 22.5 out"),
    ("openai", "gpt-5.4", "", NOON, used(text=100 * K, read=200 * K, out=K), "0.6225", "5 in, 0.5 read, 22.5 out"),
    # OpenAI cache writes
    ("openai", "gpt-6-sol", "", NOON, used(text=K, w30m=10 * K, out=100), "0.028", "2 in, 2.5 write, 10 out"),
    ("openai", "gpt-6-sol", "", NOON, used(w12h=10 * K), "0.05", "2.5 x 2 in"),
    ("openai", "gpt-6.1-sol", "", NOON, used(read=100 * K, out=K), "0.02", "0.1 read, 10 out"),
    # OpenAI service tiers
    ("openai", "gpt-6-astra", "priority", NOON, used(text=K, out=K), "0.12", "20 in, 100 out"),
    ("openai", "gpt-6-astra", "ultrafast", NOON, used(text=K, out=K), "0.36", "60 in, 300 out: 6 x standard"),
    ("openai", "gpt-5", "flex", NOON, used(text=K, out=K), "0.005625", "0.625 in, 5 out"),
    ("openai", "gpt-5", "batch", NOON, used(text=K, out=K), "0.005625", "0.625 in, 5 out"),
    ("openai", "gpt-5", "priority", NOON, used(text=K, out=K), "0.0225", "2.5 in, 20 out"),
    ("openai", "gpt-5", "fast", NOON, used(text=K, out=K), "0.0225", "2.5 in, 20 out"),
    ("openai", "gpt-5", "auto", NOON, used(text=K, out=K), "0.0225", "the dearest the provider may choose"),
    ("openai", "gpt-5", "default", NOON, used(text=K, out=K), "0.01125", "1.25 in, 10 out"),
    ("openai", "gpt-5", "scale", NOON, used(text=K, out=K), "0.0225", "sold by contract: the dearest listed"),
    ("openai", "gpt-4o", "batch", NOON, used(text=K, out=K), "0.00625", "1.25 in, 5 out"),
    ("openai", "gpt-4o", "flex", NOON, used(text=K, out=K), "0.0125", "no flex price: the standard 2.5 and 10"),
    ("openai", "gpt-4o", "mystery", NOON, used(text=K, out=K), "0.02125", "priority, its dearest: 4.25 in, 17 out"),
    ("openai", "gpt-5-pro", "priority", NOON, used(text=K, out=K), "0.3375", "no dear price: 2.5 x 15 and 120"),
    ("openai", "gpt-5", "regional", NOON, used(text=K, out=K), "0.012375", "1.1 x 1.25 and 10"),
    # OpenAI audio, images, searches
    ("openai", "gpt-audio", "", NOON, used(text=100, audio=K, out=50, out_audio=200), "0.04555", "2.5, 32; 10, 64"),
    ("openai", "gpt-4o-audio-preview", "", NOON, used(audio=K, out_audio=K), "0.12", "40 in, 80 out"),
    ("openai", "gpt-4o-audio-preview-2024-10-01", "", NOON, used(audio=K, out_audio=K), "0.3", "100 in, 200 out"),
    ("openai", "gpt-4o-mini-audio-preview", "", NOON, used(audio=K, out_audio=K), "0.03", "10 in, 20 out"),
    ("openai", "gpt-realtime", "", NOON, used(read_audio=K), "0.0004", "0.4 cached audio"),
    ("openai", "gpt-audio", "", NOON, used(read_audio=K), "0.032", "no cached price: 32, as fresh audio"),
    ("openai", "gpt-image-1.5", "", NOON, used(image=K, out_image=K), "0.04", "8 in, 32 out"),
    ("openai", "gpt-5", "", NOON, used(searches=2), "0.02", "10 per thousand searches"),
    ("openai", "o3-mini", "", NOON, used(searches=1), "0.025", "no fee of its own: 25, the dearest published"),
    # OpenAI price cut
    ("openai", "gpt-5.6-luna", "", "2026-07-29T23:59", used(text=100 * K), "0.1", "1 in"),
    ("openai", "gpt-5.6-luna", "", "2026-07-30T00:00", used(text=100 * K), "0.02", "0.2 in"),
    # Anthropic
    ("anthropic", "claude-opus-5-5", "", NOON, used(text=K, out=K), "0.024", "4 in, 20 out"),
    ("anthropic", "claude-opus-5-5", "", NOON, used(w5m=10 * K), "0.05", "5 write 5m"),
    ("anthropic", "claude-opus-5-5", "", NOON, used(w1h=10 * K), "0.08", "8 write 1h"),
    ("anthropic", "claude-opus-5-5", "", NOON, used(read=100 * K), "0.02", "0.2 read"),
    ("anthropic", "claude-3-5-haiku-latest", "", NOON, used(w1h=K), "0.0016", "1.6 write 1h"),
    ("anthropic", "claude-sonnet-4-5", "", NOON, used(text=200 * K, out=K), "0.615", "3 in, 15 out"),
    ("anthropic", "claude-sonnet-4-5", "", NOON, used(text=200 * K + 1, out=K), "1.222506", "6 in, 22.5 out"),
    ("anthropic", "claude-haiku-5-5", "", NOON, used(text=100 * K + 1, out=K), "0.0525005", "0.5 in, 2.5 out"),
    ("anthropic", "claude-haiku-5-5", "", NOON, used(text=90 * K, read=10 * K + 1), "0.04550005", "0.5 in, 0.05 read"),
    ("anthropic", "claude-opus-5", "", NOON, used(out=100, searches=3), "0.0325", "25 out, 10 per thousand searches"),
    ("anthropic", "claude-opus-5", "fast", NOON, used(text=K, out=K), "0.06", "10 in, 50 out"),
    ("anthropic", "claude-opus-4-7", "fast", NOON, used(text=K, out=K), "0.18", "30 in, 150 out: 6 x standard"),
    ("anthropic", "claude-opus-5", "batch", NOON, used(text=K, out=K), "0.015", "2.5 in, 12.5 out"),
    ("anthropic", "claude-opus-5", "regional", NOON, used(text=K, out=K), "0.033", "5.5 in, 27.5 out"),
    ("anthropic", "claude-opus-5", "batch+regional", NOON, used(text=K, out=K), "0.0165", "2.75 in, 13.75 out"),
    ("anthropic", "claude-opus-5", "priority", NOON, used(text=K, out=K), "0.03", "5 in, 25 out: prepaid, not dearer"),
    ("anthropic", "claude-sonnet-4-6", "", "2026-03-12T23:59", used(text=250 * K), "1.5", "6 in above 200,000"),
    ("anthropic", "claude-sonnet-4-6", "", "2026-03-13T00:00", used(text=250 * K), "0.75", "3 in, no steps any more"),
    # Google
    ("gcp.gemini", "gemini-2.5-pro", "", NOON, used(text=200 * K, out=K, thought=K), "0.27", "1.25 in, 10 out"),
    ("gcp.gemini", "models/gemini-2.5-pro", "", NOON, used(text=200 * K + 1), "0.5000025", "2.5 in"),
    ("gcp.gemini", "gemini-2.5-flash", "", NOON, used(audio=K, read_audio=K), "0.0011", "1 audio, 0.1 cached audio"),
    ("gcp.gemini", "gemini-flash-1.5", "", NOON, used(read=1), "0.000000019", "0.01875 read, rounded up"),
    ("gcp.gemini", "gemini-3.1-flash-image-preview", "", NOON, used(out_image=K), "0.06", "60 image out"),
    ("gcp.gemini", "gemini-2.5-flash", "", NOON, used(searches=1), "0.035", "35 per thousand searches"),
    ("gcp.gemini", "gemini-3.5-flash", "", NOON, used(searches=1), "0.014", "14 per thousand searches"),
    ("gcp.gemini", "gemini-3.8-flash-tts", "priority", NOON, used(text=K, out=K), "0.0171", "0.9 in, 16.2 out"),
    ("gcp.gemini", "gemini-4-argon", "", "2026-11-30T23:59", used(text=K, out=K), "0.012", "2 in, 10 out"),
    ("gcp.gemini", "gemini-4-argon", "", "2026-12-01T00:00", used(text=K, out=K), "0.024", "4 in, 20 out"),
    ("gcp.gemini", "gemini-3.8-flash", "", "2026-12-31T23:59", used(text=K, out=K), "0.0045", "0.75 in, 3.75 out"),
    ("gcp.gemini", "gemini-3.8-flash", "", "2027-01-01T00:00", used(text=K, out=K), "0.009", "1.5 in, 7.5 out"),
    ("gcp.gemini", "gemini-4-argon", "batch", "2026-12-01T00:00", used(text=K, out=K), "0.012", "2 in, 10 out"),
    ("gcp.vertex_ai", "publishers/anthropic/models/claude-haiku-4-5", "", NOON, used(w1h=K), "0.002", "2 write 1h"),
    ("gcp.vertex_ai", "claude-3-5-haiku", "", NOON, used(w1h=K), "0.0016", "not listed: 2 x 0.8 in, above the 5m write"),
    # Others
    ("azure.ai.openai", "gpt-4o-2024-11-20", "", NOON, used(text=K, out=K), "0.0125", "2.5 in, 10 out"),
    ("azure.ai.openai", "gpt-4o-2024-11-20", "batch", NOON, used(text=K, out=K), "0.0125", "OpenAI's batch is not Azure's"),
    ("azure.ai.openai", "gpt-4o-2024-11-20", "priority", NOON, used(text=K, out=K), "0.02125", "4.25 in, 17 out"),
    ("aws.bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "", NOON, used(text=K, out=K), "0.0198", "3.3, 16.5"),
    ("deepseek", "deepseek-flash", "", NOON, used(text=K, out=K), "0.00075", "0.15 in, 0.6 out off peak"),
    ("deepseek", "deepseek-flash", "", "2026-11-21T02:00", used(text=K, out=K), "0.0015", "0.3 in, 1.2 out at peak"),
    ("mistral_ai", "mistral-large-4", "", "2026-10-25T00:00", used(text=K, out=K), "0.00554", "1.36 in, 4.18 out"),
    ("mistral_ai", "mistral-large-4", "", "2026-10-29T00:00", used(text=K, out=K), "0.0028", "0.7 in, 2.1 out"),
    ("x_ai", "grok-4.3", "", NOON, used(text=199_999), "0.24999875", "1.25 in"),
    ("x_ai", "grok-4.3", "", NOON, used(text=200 * K), "0.5", "2.5 in"),
    ("groq", "openai/gpt-oss-120b", "", NOON, used(text=K, out=K), "0.00075", "0.15 in, 0.6 out"),
    ("perplexity", "sonar", "", NOON, used(text=K, out=K), "0.014", "1 in, 1 out, 12 per thousand requests"),
    ("perplexity", "sonar-deep-research", "", NOON, used(out=K, thought=K), "0.011", "8 out, 3 reasoning"),
    ("moonshot_ai", "kimi-k3", "", NOON, used(w5m=K, w1h=K), "0.009", "3 write, 6 write 1h"),
    ("openrouter", "google/gemini-2.5-flash", "", NOON, used(w5m=3 * K), "0.000250002", "0.083334: rounded up to a picodollar"),
    ("cohere", "command-a", "", NOON, used(text=K, out=K), "0.0125", "2.5 in, 10 out"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("provider", "model", "tier", "day", "usage", "usd", "prices"),
    ROWS,
    ids=[f"{row[1]}-{row[2] or 'standard'}-{number}" for number, row in enumerate(ROWS)],
)
def test_a_charge_is_what_the_price_page_says(
    provider: str, model: str, tier: str, day: str, usage: Usage, usd: str, prices: str
) -> None:
    at = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
    rates = CARD.find(provider, model, at, tier)
    assert rates is not None
    assert rates.charge_nanos(usage) == to_nanos(usd), prices
