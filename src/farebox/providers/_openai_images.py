"""OpenAI's wire format: pictures that are made, edited and varied.

Models that make pictures of tokens say what they used; the others are paid by the picture, by its quality and size.
Field names: openai 3.54.0, `types/image_generate_params.py`, `types/image_edit_params.py`, `types/images_response.py`,
`types/image_gen_completed_event.py` (read 2026-11-29).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Part, Usage
from farebox.providers._openai_completions import set_sizes
from farebox.providers._openai_pictures import most_output_tokens
from farebox.providers._openai_tools import image_usage
from farebox.providers._openai_usage import read_head
from farebox.providers._reading import Sizes, UnreadableUsage, count, fields, listed, text_of, whole_number
from farebox.providers._uploads import uploads_of

GENERATIONS: Final = "/images/generations"
EDITS: Final = "/images/edits"
VARIATIONS: Final = "/images/variations"

#: What draws where a request does not say: nobody tells (openai 3.57.0, `types/image_generate_params.py`, read 2026-11-29), so
#: it is one of the models with the most tokens; for variations the only one there was.
_MODELS: Final = {GENERATIONS: "gpt-image-2.5-sunburst", EDITS: "gpt-image-2.5-sunburst", VARIATIONS: "dall-e-2"}
_MOST_PICTURES: Final = 1_000
#: What a picture that goes in takes at most: high fidelity adds 6,240 tokens to those of its tiles
# (https://platform.openai.com/docs/guides/image-generation, a copy, read 2026-11-29).
_TOKENS_PER_INPUT: Final = 8_192
_TOKENS_PER_REQUEST: Final = 64
_ENDS: Final = frozenset(("image_generation.completed", "image_edit.completed"))


class Images:
    """`POST /images/generations`, `/images/edits` and `/images/variations`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read_request(self, provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        if body.get("prompt") is None and body.get("image") is None:
            return None
        call = Call(
            provider_name=provider_name,
            operation_name="image_generation",
            endpoint=self._path,
            server_address=server_address,
            request_model=text_of(body.get("model")) or _MODELS[self._path],
        )
        model, sizes = call.request_model, Sizes({})
        sizes.add(body.get("prompt"))
        pictures_in = len(uploads_of(body.get("image"))) or len(listed(body.get("images")) or ())
        pictures_in += len(uploads_of(body.get("mask"))) + (body.get("mask") is not None)
        sizes.extra_tokens += _TOKENS_PER_REQUEST + _TOKENS_PER_INPUT * pictures_in
        if pictures_in:
            sizes.name_unbounded("image")
        set_sizes(call, sizes)
        call.unbounded = sizes.unbounded
        made = min(max(whole_number(body.get("n")) or 1, 1), _MOST_PICTURES)
        call.choices, call.accepts_cap, call.has_images = 0, False, True
        call.is_stream, call.messages = body.get("stream") in (True, "true"), 1
        call.most_units = {"images": made}
        if model.startswith("dall-e"):
            call.tier = _kind(model, body)
        else:
            call.parts = (Part("", 0, made * most_output_tokens(model, body), made),)
            svg = text_of(fields(body.get("svg")).get("model"))
            if body.get("output_format") == "svg":
                call.parts += (Part(svg, made * 128_000, made * 128_000, made, 128_000),)
        return call

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def read_answer(self, call: Call, answer: Any) -> None:
        found = fields(answer)
        read_head(call, found)
        pictures = listed(found.get("data"))
        made = call.most_units["images"] if pictures is None else len(pictures)
        if found.get("usage") is not None:
            svg = fields(found.get("svg_usage"))
            if svg:  # before the rest: what can't be read leaves the whole in doubt
                into, out = count(svg, "input_tokens"), count(svg, "output_tokens")
                used = Usage(uncached_input_tokens=into, visible_output_tokens=out)
                call.others = ((text_of(svg.get("model")), used),)
            _write(call, [fields(found["usage"])], made)
        elif call.request_model.startswith("dall-e") and pictures is not None:
            call.usage = Usage(images=made)

    def stream_reader(self, call: Call) -> _PicturesReader:
        return _PicturesReader(call)


class _PicturesReader:
    """Keeps what each finished picture used."""

    __slots__ = ("_call", "_ended", "_usages")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._ended = 0
        self._usages: list[Mapping[str, Any]] = []

    def see(self, event: Any) -> bool:
        found = fields(event)
        if found.get("type") in _ENDS:
            self._ended += 1
            if found.get("usage") is not None:
                self._usages.append(fields(found["usage"]))
        return False

    def finish(self) -> None:
        if self._usages and len(self._usages) == self._ended:
            _write(self._call, self._usages, self._ended)
        elif not self._ended:
            self._call.doubt = "the stream ended before its answer"

    def abandon(self, chunks: list[Any]) -> None:
        for chunk in chunks:
            self.see(chunk)
        if self._ended >= self._call.most_units["images"]:
            self.finish()


def _write(call: Call, usages: list[Mapping[str, Any]], made: int) -> None:
    """What an image model says that it used, of all pictures together; as the dearest where it can't be believed."""
    try:
        used = [image_usage(usage) for usage in usages]
    except UnreadableUsage as reason:
        call.doubt = str(reason)
        return
    if not all(one.output_tokens for one in used):
        call.doubt = "usage.output_tokens is 0"
        return
    call.usage = Usage(*map(sum, zip(*used, strict=True)))._replace(images=made)


def _kind(model: str, body: Mapping[str, Any]) -> str:
    """Quality and size, as the prices know them."""
    size = text_of(body.get("size")) or "1024x1024"
    if model.startswith("dall-e-2"):
        return size
    quality = text_of(body.get("quality"))
    return f"{'standard' if quality in ('', 'auto') else quality}/{size}"
