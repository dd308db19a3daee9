"""Google's wire format: pictures by Imagen and its like, and videos by Veo, of Vertex AI.

Both are paid by what comes out: a picture or a second of video.  A video is held when it is asked for, and settled when its
operation is found done.
Field names: google-genai 3.6.1, `models.py`, `_GenerateImagesConfig_to_vertex`, `_GeneratedImage_from_vertex` and
`_GenerateVideosConfig_to_vertex`, `_GenerateVideosResponse_from_vertex`; `operations.py` (read 2026-11-30).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers._reading import fields, listed, text_of, whole_number

PICTURES: Final = "predict"
VIDEOS: Final = "predictLongRunning"
_FETCH: Final = ":fetchPredictOperation"
_OPERATION: Final = re.compile(r"operations/[^/:]{1,180}$")

#: What a request makes that does not say how many: the most that one may ask for.  Imagen makes 4 of its own accord; what Veo
#: does is not written down (https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/veo, a copy: "maximum number
#: of output videos per prompt: 4", read 2026-11-30).
_USUAL_COUNT: Final = 4
_MOST_MADE: Final = 1_000
#: The longest of 4, 6 and 8 (the same page).
_USUAL_SECONDS: Final = 8
_MOST_SECONDS: Final = 3_600
_USUAL_SIZE: Final = "720p"
_MILLISECONDS: Final = 1_000
#: What an entry of an answer has that is no picture: one that was filtered, or what was thought of the prompt.
_NO_PICTURE: Final = ("raiFilteredReason", "safetyAttributes")
_HELD: Final = ("bytesBase64Encoded", "gcsUri")


def read_pictures_request(provider_name: str, model: str, body: Mapping[str, Any], server_address: str) -> Call | None:
    """The call that a request to make, edit, enlarge or cut up pictures makes; None where it holds nothing to work on."""
    instances = listed(body.get("instances"))
    if not model or not instances:
        return None
    call = _call(provider_name, "image_generation", PICTURES, server_address, model)
    each = 1 if _is_cut_up(model) else _count_of(fields(body.get("parameters")))
    call.most_units = {"images": min(each * len(instances), _MOST_MADE)}
    return call


def read_pictures(call: Call, found: Mapping[str, Any]) -> None:
    """What came of it: a picture that was filtered is none.

    Google says so of answers and of videos ("you will only be charged if your video is successfully generated",
    https://ai.google.dev/gemini-api/docs/pricing, a copy, read 2026-11-30), and nothing of pictures.
    """
    predictions = listed(found.get("predictions"))
    if predictions is None:
        return
    made = sum(map(_is_made, map(fields, predictions)))
    call.usage = Usage(images=min(made, 1) if _is_cut_up(call.request_model) else made)


def read_videos_request(provider_name: str, model: str, body: Mapping[str, Any], server_address: str) -> Call | None:
    """The call that a request for videos makes."""
    instances, parameters = listed(body.get("instances")), fields(body.get("parameters"))
    if not model or not instances:
        return None
    call = _call(provider_name, "video_generation", VIDEOS, server_address, model)
    seconds = min(whole_number(parameters.get("durationSeconds")) or _USUAL_SECONDS, _MOST_SECONDS)
    call.messages = min(_count_of(parameters) * len(instances), _MOST_MADE)
    call.tier = text_of(parameters.get("resolution")).lower() or _USUAL_SIZE
    call.most_units = {"video_milliseconds": call.messages * seconds * _MILLISECONDS}
    return call


def read_videos(call: Call, found: Mapping[str, Any]) -> None:
    """An operation as it stands; what it has made once it is done, which may be less than was asked for."""
    call.response_id = operation_in(text_of(found.get("name"))) or call.response_id
    if not found.get("done"):
        call.is_pending = bool(call.response_id)
        return
    response = fields(found.get("response"))
    made = fields(response.get("generateVideoResponse")) or response
    videos = listed(made.get("videos") or made.get("generatedSamples"))
    if found.get("error") is not None and not videos:
        call.usage = Usage()
    elif videos is not None or whole_number(made.get("raiMediaFilteredCount")):
        each = call.most_units["video_milliseconds"] // call.messages
        call.usage = Usage(video_milliseconds=each * len(videos or ()))


def asked_operation(path: str, method: str, body: Mapping[str, Any]) -> str:
    """The operation that a request asks after, "" for any other request."""
    if path.endswith(_FETCH):
        return operation_in(text_of(body.get("operationName")))
    return operation_in(path) if method.lower() == "get" else ""


def operation_in(path: str) -> str:
    """The name of an operation without whose it is, which is spelt by number or by name."""
    found = _OPERATION.search(path)
    return found[0] if found is not None else ""


def _call(provider_name: str, operation: str, endpoint: str, server_address: str, model: str) -> Call:
    call = Call(
        provider_name=provider_name,
        operation_name=operation,
        endpoint=endpoint,
        server_address=server_address,
        request_model=model,
    )
    call.choices, call.accepts_cap, call.messages = 0, False, 1
    call.cache_write = "none"
    return call


def _count_of(parameters: Mapping[str, Any]) -> int:
    return min(whole_number(parameters.get("sampleCount")) or _USUAL_COUNT, _MOST_MADE)


def _is_made(prediction: Mapping[str, Any]) -> bool:
    has_picture = any(map(prediction.get, _HELD)) or any(map(fields(prediction.get("image")).get, _HELD))
    return has_picture or not any(name in prediction for name in _NO_PICTURE)


def _is_cut_up(model: str) -> bool:
    """Whether a model draws nothing and marks the parts of one picture, however many they are."""
    return "segmentation" in model
