"""Tokens of the pictures that OpenAI's models draw, against figures that others read off its guide and its calculator."""

from __future__ import annotations

import pytest

from farebox.providers._openai_pictures import most_output_tokens

# Up to gpt-image-1.5: the table of OpenAI's guide to image generation.  gpt-image-2: what its calculator says, in
# https://community.openai.com/t/livestream-starting-now-chatgpt-images-2-0/1379464 (all read 2026-11-29).
DRAWN = [
    ("gpt-image-1", "low", "1024x1024", 272),
    ("gpt-image-1-mini", "medium", "1536x1024", 1_568),
    ("gpt-image-1.5", "high", "1024x1536", 6_240),
    ("gpt-image-2", "high", "1024x1024", 7_024),
    ("gpt-image-2", "high", "1536x1024", 5_488),
    ("gpt-image-2-2026-04-21", "high", "1792x1024", 5_063),
    ("gpt-image-2", "high", "3584x2048", 12_329),
]


@pytest.mark.parametrize(("model", "quality", "size", "tokens"), DRAWN)
def test_a_picture_is_held_at_what_it_takes_and_a_little_more(model: str, quality: str, size: str, tokens: int) -> None:
    assert tokens <= most_output_tokens(model, {"quality": quality, "size": size}) <= tokens * 1.07


# Dollars of a picture of gpt-image-2 at 30 per million, as the same guide rounds them.
@pytest.mark.parametrize(
    ("quality", "size", "usd"),
    [
        ("low", "1024x1024", 0.006),
        ("low", "1024x1536", 0.005),
        ("medium", "1024x1024", 0.053),
        ("medium", "1536x1024", 0.041),
        ("high", "1024x1024", 0.211),
        ("high", "1024x1536", 0.165),
    ],
)
def test_the_rule_of_the_patches_agrees_with_the_prices_of_the_guide(quality: str, size: str, usd: float) -> None:
    held = most_output_tokens("gpt-image-2", {"quality": quality, "size": size}) * 30 / 1_000_000
    assert usd - 0.0005 <= held <= (usd + 0.0005) * 1.06


@pytest.mark.parametrize("model", ["gpt-image-1", "gpt-image-2", "gpt-image-2.5-flare", "gpt-image-9", ""])
def test_what_is_left_to_the_model_is_held_at_the_dearest_that_it_can_choose(model: str) -> None:
    most = most_output_tokens(model, {})
    for quality in ("low", "medium", "high", "auto", "odd"):
        for size in ("1024x1024", "1536x1024", "auto"):
            assert most_output_tokens(model, {"quality": quality, "size": size}) <= most
    assert most_output_tokens(model, {"size": "0x0"}) > 0


def test_qualities_of_models_that_publish_none_cost_no_less_than_those_of_the_one_before() -> None:
    for size in ("1024x1024", "2048x1152", "auto"):
        for quality in ("low", "medium", "high"):
            words = {"quality": quality, "size": size}
            assert most_output_tokens("gpt-image-2.5-sunburst", words) >= most_output_tokens("gpt-image-2", words)
        best = most_output_tokens("gpt-image-2", {"quality": "high", "size": size})
        assert most_output_tokens("gpt-image-2.6-flare", {"quality": "max", "size": size}) >= 2 * best


@pytest.mark.parametrize("frames", [None, 2, 3, 8, 9, 10, 16, 40])
@pytest.mark.parametrize("size", ["960x960", "512x512", "1280x720", "auto"])
def test_a_moving_picture_is_held_at_its_frames_and_at_the_sheet_that_they_are_drawn_on(
    frames: int | None, size: str
) -> None:
    """Two frames of 960 pixels are on a sheet for nine: that takes more than two pictures."""
    words = {"quality": "high", "size": size}
    held = most_output_tokens("gpt-image-2.6-flare", {**words, "output_format": "gif", "frame_count": frames})
    assert held >= min(frames or 9, 16) * most_output_tokens("gpt-image-2.6-flare", words) * 0.999
    wide, _, high = size.replace("auto", "2880x2880").partition("x")
    area = min(9 * int(wide) * int(high), 8_294_400)
    assert held >= 96 * 96 * (2_000_000 + area) // 4_000_000
