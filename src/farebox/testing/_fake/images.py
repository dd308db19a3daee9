"""The OpenAI images format.  Source of the fields: types of the openai SDK 3.54."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farebox.testing._fake.dialect import Ask, Count, Event, Fault, Reply
from farebox.testing._fake.openai import REFUSED, OpenAIFormat, missing
from farebox.testing._fake.prices import MILLI_USD_PICOS, Charge

# Tokens of a picture by quality and size, as OpenAI's guide has them for models before gpt-image-2; any other size counts as
# the larger.  A copy of https://developers.openai.com/api/docs/guides/image-generation, in
# https://github.com/llms-txt-archive/openai-platform, read 2026-11-29.
TOKENS = {
    "low": {"1024x1024": 272, "1024x1536": 408, "1536x1024": 400},
    "medium": {"1024x1024": 1_056, "1024x1536": 1_584, "1536x1024": 1_568},
    "high": {"1024x1024": 4_160, "1024x1536": 6_240, "1536x1024": 6_208},
}
TOKENS_PER_INPUT = 4_483  # of a picture that goes in, at high fidelity
TOKENS_PER_PARTIAL = 100

# Thousandths of a USD for a picture: https://github.com/kevinhermawan/Canvas, `model-info.json`, read 2026-11-29.
DALL_E = {
    ("dall-e-2", "", "256x256"): 16,
    ("dall-e-2", "", "512x512"): 18,
    ("dall-e-2", "", "1024x1024"): 20,
    ("dall-e-3", "standard", "1024x1024"): 40,
    ("dall-e-3", "standard", "1024x1792"): 80,
    ("dall-e-3", "standard", "1792x1024"): 80,
    ("dall-e-3", "hd", "1024x1024"): 80,
    ("dall-e-3", "hd", "1024x1792"): 120,
    ("dall-e-3", "hd", "1792x1024"): 120,
}


class Images(OpenAIFormat):
    paths = ("/v1/images/generations", "/v1/images/edits", "/v1/images/variations")

    def response_id(self, number: int) -> str:
        return ""  # a picture has no id

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        edits = path.endswith("edits")
        model = str(body.get("model") or ("dall-e-2" if path.endswith("variations") else "gpt-image-2.5-sunburst"))
        if not path.endswith("variations") and not body.get("prompt"):
            raise missing("prompt")
        number, size = int(body.get("n") or 1), str(body.get("size") or "1024x1024")
        pictures = body.get("image") or []
        pictures_in = len(pictures) if isinstance(pictures, list) else 1
        charges: tuple[Charge, ...] = ()
        tokens, into = 0, 0
        if model.startswith("dall-e"):
            quality = "" if model == "dall-e-2" else str(body.get("quality") or "standard")
            milli_usd = DALL_E.get((model, quality, size))
            if milli_usd is None:
                raise Fault(400, f"The size '{size}' is not supported by this model.", REFUSED, param="size")
            charges = (Charge("pictures", number, milli_usd * MILLI_USD_PICOS),)
        else:
            by_size = TOKENS[str(body.get("quality") or "high").replace("auto", "high")]
            tokens = by_size.get(size, max(by_size.values()))
            tokens += TOKENS_PER_PARTIAL * int(body.get("partial_images") or 0)
            into = TOKENS_PER_INPUT * pictures_in if edits else 0
        return Ask(
            model=model,
            stream=body.get("stream") in (True, "true"),
            cap=None,
            choices=number,
            wants_usage=True,
            input_tokens=into + count(str(body.get("prompt") or "")) if not charges else 0,
            image_tokens=into,
            makes=tokens,
            charges=charges,
            form="edit" if edits else "generation",
            partials=int(body.get("partial_images") or 0),
        )

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        return {
            "input_tokens": reply.input_tokens,
            "input_tokens_details": {
                "image_tokens": reply.image_tokens,
                "text_tokens": reply.input_tokens - reply.image_tokens,
            },
            "output_tokens": output_tokens,
            "output_tokens_details": {"image_tokens": output_tokens, "text_tokens": 0},
            "total_tokens": reply.input_tokens + output_tokens,
        }

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        answer: dict[str, Any] = {"created": reply.created, "data": [{"b64_json": "cGljdHVyZQ=="}] * ask.choices}
        return answer if ask.charges else {**answer, "usage": self.usage(reply, reply.output_tokens)}

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        name = "image_edit" if ask.form == "edit" else "image_generation"
        shown = {"b64_json": "cGljdHVyZQ==", "created_at": reply.created, "size": "1024x1024", "quality": "high"}
        for number in range(ask.partials):
            kind = f"{name}.partial_image"
            yield Event({"type": kind, "partial_image_index": number, **shown}, kind, is_content=True)
        usage = self.usage(reply, reply.output_tokens)
        tokens = reply.output_tokens
        yield Event(
            {"type": f"{name}.completed", "usage": usage, **shown}, f"{name}.completed", tokens=tokens, is_content=True
        )
