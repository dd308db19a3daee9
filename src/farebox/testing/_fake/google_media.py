"""Google's pictures by Imagen and videos by Veo, of Vertex AI.

Source of the fields: `models.py` and `operations.py` of the google-genai SDK 3.6.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import attrs

from farebox.testing._fake.dialect import Ask, Count, Event, Fault, Reply
from farebox.testing._fake.google import Google
from farebox.testing._fake.prices import MILLI_USD_PICOS, Charge

# Thousandths of a USD for a picture, and for a second by its resolution.  Source: the rows of litellm 1.80.0 and 1.110.2 that
# name https://cloud.google.com/vertex-ai/generative-ai/pricing, read 2026-11-30.
PICTURE = {
    "imagen-4.0-generate-001": 40,
    "imagen-4.0-fast-generate-001": 20,
    "imagen-4.0-ultra-generate-001": 60,
    "imagen-3.0-capability-001": 40,
    "imagen-4.0-upscale-preview": 60,
    "virtual-try-on-001": 60,
    "image-segmentation-001": 0,
}
SECOND = {
    "veo-3.1-generate-001": {"720p": 400, "1080p": 400, "4k": 600},
    "veo-3.1-fast-generate-001": {"720p": 100, "1080p": 120, "4k": 300},
    "veo-3.1-lite-generate-001": {"720p": 50, "1080p": 80},
}
USUAL_PICTURES = 4
USUAL_SECONDS = 8
MASKS = 3

_MODEL = r"^/v1[a-z0-9]*/projects/[^/]+/locations/[^/]+/publishers/google/models/(?P<model>[^/:]+)"
_PICTURES = re.compile(_MODEL + ":predict$")
_VIDEOS = re.compile(_MODEL + ":(?P<verb>predictLongRunning|fetchPredictOperation)$")
_PLACE = "projects/1/locations/us-central1/publishers/google/models/veo"
BYTES = "cGljdHVyZQ=="


class GooglePictures(Google):
    """A prompt that asks for "(filtered)" gets one picture less, which is not charged."""

    free_paths: tuple[str, ...] = ()

    def serves(self, method: str, path: str) -> bool:
        found = _PICTURES.match(path)
        return method == "POST" and found is not None and found["model"] in PICTURE

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        found, instances = _PICTURES.match(path), body.get("instances")
        assert found is not None
        if not isinstance(instances, list) or len(instances) != 1:
            raise Fault(400, "instances: exactly one is needed")
        model, parameters = found["model"], body.get("parameters") or {}
        number = 1 if "segmentation" in model else int(parameters.get("sampleCount", USUAL_PICTURES))
        filtered = "(filtered)" in str(instances[0].get("prompt"))
        return Ask(
            model=model,
            stream=False,
            cap=0,
            choices=0,
            wants_usage=False,
            input_tokens=0,
            charges=(Charge("pictures", number - filtered, PICTURE[model] * MILLI_USD_PICOS),),
            form="filtered" if filtered else "",
        )

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        picture = {"mimeType": "image/png", "bytesBase64Encoded": BYTES}
        number = MASKS if "segmentation" in ask.model else ask.charges[0].count
        filtered = [{"raiFilteredReason": "Support codes: 39322892"}] if ask.form else []
        return {"predictions": [picture] * number + filtered}


class GoogleVideos(Google):
    """Made in the background, as an operation; a prompt that asks for "(filtered)" gets one less, which is not charged."""

    free_paths: tuple[str, ...] = ()

    def serves(self, method: str, path: str) -> bool:
        return method == "POST" and _VIDEOS.match(path) is not None

    def response_id(self, number: int) -> str:
        return f"operations/fake-{number:06d}"

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        found = _VIDEOS.match(path)
        assert found is not None
        empty = Ask(model="", stream=False, cap=0, choices=0, wants_usage=False, input_tokens=0)
        if found["verb"] == "fetchPredictOperation":
            name = str(body.get("operationName")).rpartition("/")[2]
            return attrs.evolve(empty, looks_at=f"operations/{name}")
        model, parameters = found["model"], body.get("parameters") or {}
        by_size = SECOND.get(model)
        if by_size is None:
            raise self.unknown_model(model)
        filtered = "(filtered)" in str(body["instances"][0].get("prompt"))
        size, number = parameters.get("resolution", "720p"), int(parameters.get("sampleCount", 1)) - filtered
        if size not in by_size:
            raise Fault(400, f"resolution {size} is not supported by {model}")
        seconds = number * int(parameters.get("durationSeconds", USUAL_SECONDS))
        return attrs.evolve(
            empty,
            model=model,
            charges=(Charge("seconds of video", seconds, by_size[size] * MILLI_USD_PICOS),),
            inputs=number,
            form="filtered" if filtered else "",
            is_stored=True,
            background=True,
        )

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        if reply.failed:
            error = {"code": 3, "message": "The prompt could not be made into a video."}
            return {**self.unfinished(ask, reply, ""), "done": True, "error": error}
        videos = [{"gcsUri": f"gs://fake/{number}.mp4", "mimeType": "video/mp4"} for number in range(ask.inputs)]
        response = {"raiMediaFilteredCount": int(bool(ask.form)), **({"videos": videos} if videos else {})}
        return {**self.unfinished(ask, reply, ""), "done": True, "response": response}

    def unfinished(self, ask: Ask, reply: Reply, status: str) -> dict[str, Any]:
        return {"name": f"{_PLACE}/{reply.response_id}"}

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        return iter(())
