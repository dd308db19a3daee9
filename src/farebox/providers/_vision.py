"""How many tokens a picture of a known size takes, by model: upper bounds, as data with their sources.

A picture of unknown size has the most that any picture takes with that model, where there is a most.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

from farebox.providers._images import Size


class Picture(NamedTuple):
    """One picture among the input: its size, None where it is unknown, and the detail asked for, "" for the usual one."""

    size: Size | None
    detail: str = ""


class Pictures(NamedTuple):
    """All pictures of a request: what they take depends on the model, and a downgrade changes the model."""

    pictures: tuple[Picture, ...]
    tokens_of: Callable[[str, Picture], int]

    def tokens(self, model: str) -> int:
        """Most tokens of all of them together, for `model`."""
        return sum(self.tokens_of(model, picture) for picture in self.pictures)


class _Tiles(NamedTuple):
    """A picture is fitted into 2,048 pixels square, its shorter side into 768, and cut into tiles of 512 pixels."""

    base: int
    tile: int


class _Patches(NamedTuple):
    """A picture is cut into patches of 32 pixels, and scaled down to where there are no more of them than `most`.

    `most` are those of the detail "auto", `original` those of "original"; None: it is not scaled down.  `high` are those of
    "high".  `hundredths` is what a patch takes in hundredths of a token.
    """

    hundredths: int
    most: int | None = 1_536
    high: int = 1_536
    original: int | None = 1_536
    has_low: bool = False


class _Dearer(NamedTuple):
    """One of the two, and nobody says which."""

    tiles: _Tiles
    patches: _Patches


# Source: https://developers.openai.com/api/docs/guides/images-vision (a copy, read 2026-11-22).  The factor 1.2 of the
# large models is not on it: measured in https://huggingface.co/datasets/JOHNISKING/image-token-cost and told in
# https://community.openai.com/t/api-ai-computer-vision-pricing-models-compared-visually/1372291 (both read 2026-11-22).
# Names are without a vendor before them.  The longest row that fits wins.
_OPENAI: Final[dict[str, _Tiles | _Patches | _Dearer]] = {
    "gpt-4-turbo": _Tiles(85, 170),
    "gpt-4-vision": _Tiles(85, 170),
    "gpt-4-1106": _Tiles(85, 170),
    "gpt-4o": _Tiles(85, 170),
    "chatgpt-4o": _Tiles(85, 170),
    "gpt-4o-mini": _Tiles(2_833, 5_667),
    "gpt-4.1": _Tiles(85, 170),
    "gpt-4.1-mini": _Patches(162),
    "gpt-4.1-nano": _Patches(246),
    "gpt-4.5": _Tiles(85, 170),
    "o1": _Tiles(75, 150),
    "o3": _Tiles(75, 150),
    "o4-mini": _Patches(172),
    "computer-use": _Tiles(65, 129),
    "codex": _Patches(172),
    "gpt-5-": _Tiles(70, 140),
    "gpt-5-mini": _Patches(162),
    "gpt-5-nano": _Patches(246),
    "gpt-5-codex": _Patches(172),
    # Which scheme it has is not said: as many as the dearer one has, which for small pictures is the first.
    "gpt-5.1": _Dearer(_Tiles(70, 140), _Patches(172)),
    "gpt-5.2": _Patches(120),
    "gpt-5.3": _Patches(120),
    "gpt-5.4": _Patches(120, 2_500, 2_500, 10_000, has_low=True),
    "gpt-5.4-mini": _Patches(162),
    "gpt-5.4-nano": _Patches(246),
    "gpt-5.5": _Patches(120, 10_000, 2_500, 10_000, has_low=True),
    "gpt-5.6": _Patches(120, None, 2_500, None, has_low=True),
    "gpt-6": _Patches(120, None, 2_500, None, has_low=True),
}
_OPENAI_EXACT: Final = {"gpt-5": _OPENAI["gpt-5-"]}

#: The most input of gpt-5.6 and gpt-6 (https://developers.openai.com/api/docs/models, read 2026-11-21).
_MOST_INPUT: Final = 922_000
#: The dearest picture of a model that scales down: gpt-4o-mini's 2,833 and 8 tiles of 5,667.  Where none is scaled down, one
#: of unknown size counts as much: 40 megapixels.
_DEAREST_OPENAI: Final = 48_169
#: No vision model known has smaller patches.
_SMALLEST_PATCH: Final = 14
#: 512 pixels square.
_LOW_PATCHES: Final = 256


def openai_image_tokens(model: str, picture: Picture) -> int:
    """Most tokens of `picture` for a model of OpenAI's; for any other one a wide guess (see `has_openai_scheme`)."""
    scheme = _openai_scheme(model)
    if scheme is None:
        size = picture.size
        return (
            _DEAREST_OPENAI if size is None else max(_DEAREST_OPENAI, min(_patches(size, _SMALLEST_PATCH), _MOST_INPUT))
        )
    if isinstance(scheme, _Dearer):
        return max(_in_tiles(scheme.tiles, picture), _in_patches(scheme.patches, picture))
    return _in_tiles(scheme, picture) if isinstance(scheme, _Tiles) else _in_patches(scheme, picture)


def _in_tiles(scheme: _Tiles, picture: Picture) -> int:
    return scheme.base + scheme.tile * (0 if picture.detail == "low" else _tiles(picture.size))


def _in_patches(scheme: _Patches, picture: Picture) -> int:
    if picture.detail == "low" and scheme.has_low:
        most: int | None = _LOW_PATCHES
        patches = _LOW_PATCHES  # a smaller picture may be enlarged
    else:
        most = {"high": scheme.high, "original": scheme.original}.get(picture.detail, scheme.most)
        if picture.size is None and most is None:
            return _DEAREST_OPENAI
        patches = _MOST_INPUT if picture.size is None else _patches(picture.size, 32)
    tokens = -(-(patches if most is None else min(patches, most)) * scheme.hundredths // 100)
    return min(tokens, _MOST_INPUT)


def has_openai_scheme(model: str) -> bool:
    """Whether it is known how pictures count for `model`."""
    return _openai_scheme(model) is not None


@lru_cache(maxsize=256)
def _openai_scheme(model: str) -> _Tiles | _Patches | _Dearer | None:
    name = model.lower().rpartition("/")[2].removeprefix("ft:")
    fitting = [known for known in _OPENAI if name.startswith(known)]
    return _OPENAI[max(fitting, key=len)] if fitting else _OPENAI_EXACT.get(name)


def _tiles(size: Size | None) -> int:
    if size is None:
        return 8
    long, short = max(size), min(size)
    # The picture is scaled by the smallest of 1, 2,048 / long and 768 / short: here as a fraction.
    over, under = min(((1, 1), (2_048, long), (768, short)), key=lambda scale: scale[0] / scale[1])
    return -(-long * over // (512 * under)) * -(-short * over // (512 * under))


def _patches(size: Size, side: int) -> int:
    return -(-size.width // side) * -(-size.height // side)


# Source: https://platform.claude.com/docs/en/build-with-claude/vision (a copy, read 2026-11-22): one token per 28 pixels
# square, scaled down to 1,568 tokens, since Claude 4.7 to 4,784.  An older text of the same page has width x height / 750
# and "about 1,600" as the most; the larger of both is taken.
_CLAUDE_TOKENS: Final = 4_800
_OLDER_CLAUDE_TOKENS: Final = 1_616
_OLDER_CLAUDES: Final = (
    "claude-v1",
    "claude-2",
    "claude-instant",
    "claude-3",
    *(f"claude-{kind}-4{minor}" for kind in ("opus", "sonnet", "haiku") for minor in ("-0", "-1", "-2", "-5", "-6")),
)


def anthropic_image_tokens(model: str, picture: Picture) -> int:
    """Most tokens of `picture` for a Claude; a name that is not known counts as a current one."""
    most = _OLDER_CLAUDE_TOKENS if _is_older_claude(model) else _CLAUDE_TOKENS
    if picture.size is None:
        return most
    return min(most, max(_patches(picture.size, 28), -(-picture.size.width * picture.size.height // 750)))


def _is_older_claude(model: str) -> bool:
    name = model.lower().rpartition("/")[2].rpartition("anthropic.")[2]
    return name.startswith(_OLDER_CLAUDES)


# Source: https://ai.google.dev/gemini-api/docs/media-resolution and .../docs/tokens (copies, read 2026-11-29).  From Gemini 3
# on a picture has a number of tokens by the resolution asked for, whatever its size.  Before, one of at most 384 pixels square
# has 258, a larger one 258 for each tile; a tile is a square of two thirds of its shorter side, and no less than 256 pixels.
_GEMINI_TOKENS: Final = {"low": 280, "medium": 560, "high": 1_120, "ultra_high": 2_240}
_OLDER_GEMINIS: Final = (
    "gemini-1",
    "gemini-2",
    "gemini-pro",
    "gemini-flash-1",
    "gemini-embedding-001",
    "gemma",
    "learnlm",
)
_GEMINI_TILE: Final = 258
#: What "pan and scan" takes at most, and what a picture of unknown size counts as.
_LARGE_TILES: Final = 16


def gemini_image_tokens(model: str, picture: Picture) -> int:
    """Most tokens of `picture` for a Gemini; a name that is not known counts as a current one."""
    if not is_older_gemini(model):
        return _GEMINI_TOKENS.get(picture.detail, _GEMINI_TOKENS["high"])
    if picture.size is None:
        return _GEMINI_TILE * _LARGE_TILES
    width, height = picture.size
    if width <= 384 and height <= 384:
        return _GEMINI_TILE
    side = max(256, min(768, min(width, height) * 2 // 3))
    return _GEMINI_TILE * max(9, -(-width // side) * -(-height // side))


def is_older_gemini(model: str) -> bool:
    """Whether a model is of a generation before Gemini 3."""
    return model.lower().rpartition("/")[2].startswith(_OLDER_GEMINIS)
