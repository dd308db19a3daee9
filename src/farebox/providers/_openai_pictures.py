"""How many tokens OpenAI's image models take for the pictures they make."""

from __future__ import annotations

import re
from typing import Any, Final

from farebox.providers._reading import text_of, whole_number

#: Tokens of a square of 1,024 pixels by quality: https://platform.openai.com/docs/guides/image-generation, "cost and
#: latency" (a copy, read 2026-11-29).  Of "xhigh" and "max" none are published: each is taken for twice the one before.
_TOKENS: Final = {"low": 272, "medium": 1_056, "high": 4_160, "xhigh": 8_320, "max": 16_640}
#: The best quality of models before gpt-image-2.5.
_BEST: Final = "high"
#: Models that know no more than the best of before.
_OLDER: Final = ("gpt-image-1", "gpt-image-2", "chatgpt-image")
_NEWER: Final = ("gpt-image-2.",)
_SQUARE: Final = 1_024 * 1_024
#: The largest picture of the newer models (openai 3.54.0, `types/image_generate_params.py`), and of the older ones.
_MOST_PIXELS: Final = 3_840 * 2_160
_MOST_PIXELS_OLDER: Final = 1_536 * 1_024
#: What a picture that is shown while it is being made takes more: same page.
_TOKENS_PER_PARTIAL: Final = 100
_MOST_PARTIALS: Final = 3
_MOST_FRAMES: Final = 16
_USUAL_FRAMES: Final = 9
_SIZE: Final = re.compile(r"(\d{1,5})x(\d{1,5})")


def most_output_tokens(model: str, said: Any) -> int:
    """The most tokens of one picture that is asked for so: `said` are the fields of a request, or of a tool.

    What is left to the model is the dearest that it can choose.
    """
    is_older = model.startswith(_OLDER) and not model.startswith(_NEWER)
    best = _BEST if is_older else "max"
    tokens = _TOKENS.get(text_of(said.get("quality")), _TOKENS[best])
    size = _SIZE.fullmatch(text_of(said.get("size")))
    large = not is_older or model.startswith("gpt-image-2")
    pixels = int(size[1]) * int(size[2]) if size else _MOST_PIXELS if large else _MOST_PIXELS_OLDER
    # Long edges take a little more than their share of a square.
    tokens = -(-tokens * max(pixels, _SQUARE) * 21 // (_SQUARE * 20))
    tokens += _TOKENS_PER_PARTIAL * min(whole_number(said.get("partial_images")) or 0, _MOST_PARTIALS)
    if said.get("output_format") == "gif":
        tokens *= min(whole_number(said.get("frame_count")) or _USUAL_FRAMES, _MOST_FRAMES)
    return tokens
