"""How many tokens OpenAI's image models take for the pictures they make.

The guide is read in a copy of https://developers.openai.com/api/docs/guides/image-generation: `api/docs/guides/
image-generation.md` of https://github.com/llms-txt-archive/openai-platform (commit 6e8655d, read 2026-11-29).
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from farebox.providers._reading import text_of, whole_number

#: Models before gpt-image-2, and their tokens of a square of 1,024 pixels by quality: the guide's table.
_FIRST: Final = ("gpt-image-1", "chatgpt-image")
_TOKENS: Final = {"low": 272, "medium": 1_056, "high": 4_160}
_SQUARE: Final = 1_024 * 1_024
_FIRST_MOST_PIXELS: Final = 1_536 * 1_024

#: gpt-image-2 draws so many patches along the longer edge, and as many for each length along the shorter one; they count
#: for more in a larger picture.  The guide has only its prices for three sizes, which agree.  The rule is that of
#: https://community.openai.com/t/gpt-image-2-output-pricing-calculator-online-and-in-your-code/1382699 (read 2026-11-29),
#: taken there from the guide's calculator.
_SECOND: Final = re.compile(r"gpt-image-2(-\d{4}-\d{2}-\d{2})?$")
_PATCHES: Final = {"low": 16, "medium": 48, "high": 96}
_AREA_BEFORE: Final = 2_000_000
_AREA_EACH: Final = 4_000_000
#: The largest of its pictures for the most tokens: a square of the 8,294,400 pixels that the guide allows.
_MOST_EDGE: Final = 2_880

#: Of the models after it the guide says that their tokens are not published.  Not verified, chosen not to be too low: each
#: quality is taken for a better one of gpt-image-2, and the two that are new for twice the tokens of its best.
_LATER_PATCHES: Final = {"low": 48, "medium": 96, "high": 96, "xhigh": 136, "max": 136}

#: What a picture that is shown while it is being made takes more: the guide, "partial images cost".
_TOKENS_PER_PARTIAL: Final = 100
_MOST_PARTIALS: Final = 3
#: Frames of a moving picture (openai 3.57.0, `types/image_generate_params.py`, read 2026-11-29).  They are drawn on one sheet,
#: which has the pixels of the largest picture at most and is paid in steps of up to 8, 9, 12 and 16 frames
#: (https://dev.to/super_lewis/animated-gifs-and-markup-guided-edits-with-the-gpt-image-26-api-real-timings-and-per-call-cost-2jmd,
#: https://docs.apiyi.com/en/live/2026-11/gpt-image-2-6-gif-size-table,
#: https://docs.comfy.org/ja/built-in-nodes/OpenAIGPTImageGIFNode.md, read 2026-11-30).  That a sheet takes what a picture of its
#: size does is not verified: it is held at the dearer of that and a picture for each frame.
_MOST_FRAMES: Final = 16
_USUAL_FRAMES: Final = 9
_STEPS: Final = (9, 12, _MOST_FRAMES)
_SIZE: Final = re.compile(r"(\d{1,5})x(\d{1,5})")


def most_output_tokens(model: str, said: Any) -> int:
    """The most tokens of one picture that is asked for so: `said` are the fields of a request, or of a tool.

    What is left to the model is the dearest that it can choose.
    """
    quality, size = text_of(said.get("quality")), _SIZE.fullmatch(text_of(said.get("size")))
    width, height = (max(1, int(size[1])), max(1, int(size[2]))) if size else (0, 0)
    if model.startswith(_FIRST):
        tokens = -(
            -_TOKENS.get(quality, _TOKENS["high"]) * max(width * height or _FIRST_MOST_PIXELS, _SQUARE) // _SQUARE
        )
    else:
        width, height = width or _MOST_EDGE, height or _MOST_EDGE
        patches = _PATCHES if _SECOND.match(model) else _LATER_PATCHES
        along = patches.get(quality, max(patches.values()))
        tokens = _tokens_of_patches(along, width, height)
        if said.get("output_format") == "gif":
            frames = min(whole_number(said.get("frame_count")) or _USUAL_FRAMES, _MOST_FRAMES)
            cells = next(step for step in _STEPS if frames <= step)
            edge = min(_MOST_EDGE, math.isqrt(cells * width * height) + 1)
            tokens = max(tokens * frames, _tokens_of_patches(along, edge, edge))
    tokens = -(-tokens * 21 // 20)
    return tokens + _TOKENS_PER_PARTIAL * min(whole_number(said.get("partial_images")) or 0, _MOST_PARTIALS)


def _tokens_of_patches(along: int, width: int, height: int) -> int:
    longer, shorter = max(width, height), min(width, height)
    across = (2 * along * shorter + longer) // (2 * longer)
    return -(-along * across * (_AREA_BEFORE + width * height) // _AREA_EACH)
