"""Mistral's wire format: what requests are held for, what of an answer is believed, and what is not read at all."""

from __future__ import annotations

import base64
import io
import wave
from typing import Any

import pytest

from farebox._call import Call
from farebox.providers import find_provider
from farebox.providers._mistral_chat import ServerTool

HOST = "api.mistral.ai"
PROVIDER = find_provider("mistral")


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "mistral-small-2603", "messages": [{"role": "user", "content": "hello there"}], **changes}


def read(path: str, body: dict[str, Any], host: str = HOST) -> Call:
    call = PROVIDER.read_request(path, body, host)
    assert call is not None
    return call


def part(**fields: Any) -> dict[str, Any]:
    return chat(messages=[{"role": "user", "content": [{"type": "text", "text": "look"}, fields]}])


def recording(seconds: int) -> str:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8_000, 0, "NONE", ""))
        sound.writeframes(bytes(16_000 * seconds))
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("host", ["eastus.models.ai.azure.com", "us-central1-aiplatform.googleapis.com"])
def test_a_cloud_has_its_own_name_and_so_its_own_prices(host: str) -> None:
    path = "/v1/chat/completions" if "azure" in host else "/v1/projects/p/models/mistral-small-2503:streamRawPredict"
    assert read(path, chat(), host).provider_name == ("azure.ai.inference" if "azure" in host else "gcp.vertex_ai")


def test_a_region_is_taken_to_cost_more() -> None:
    assert read("/v1/chat/completions", chat(), "api.eu.mistral.ai").tier == "regional"
    asked = chat(service_tier="priority")
    assert read("/v1/chat/completions", asked, "api.us.mistral.ai").tier == "priority+regional"
    assert read("/v1/chat/completions", asked).tier == "priority"


@pytest.mark.parametrize(
    "changes",
    [
        {"tools": [{"type": "image_generation"}]},
        {
            "tools": [
                {"type": "function", "function": {"name": "f"}},
                {"type": "document_library", "library_ids": ["1"]},
            ]
        },
        {"guardrails": [{"block_on_error": True, "moderation_llm_v1": {}}]},
    ],
)
def test_what_is_charged_beside_the_models_tokens_is_not_read(changes: dict[str, Any]) -> None:
    with pytest.raises(ServerTool):
        PROVIDER.read_request("/v1/chat/completions", chat(**changes), HOST)


def test_parts_without_a_bound_are_named_and_held_at_their_most() -> None:
    plain = read("/v1/chat/completions", part(type="text", text="x"))
    picture = read("/v1/chat/completions", part(type="image_url", image_url="https://example.com/a.png"))
    assert picture.extra_input_tokens - plain.extra_input_tokens > 4_000
    assert picture.unbounded == ("image_url",)
    document = read("/v1/chat/completions", part(type="document_url", document_url="https://example.com/a.pdf"))
    assert document.fills_context
    assert document.unbounded == ("document_url",)


def test_sound_is_held_by_its_length() -> None:
    told = read("/v1/chat/completions", part(type="input_audio", input_audio=recording(30)))
    assert 30_000 <= told.most_units["input_audio_milliseconds"] <= 30_100
    assert told.unbounded == ()
    link = read("/v1/chat/completions", part(type="input_audio", input_audio="https://example.com/a.mp3"))
    assert link.most_units["input_audio_milliseconds"] == 3_600_000
    assert link.unbounded == ("input_audio",)


@pytest.mark.parametrize(
    ("pages", "most"),
    [
        ([0, 1, 5], 3),
        ("0-5,7", 7),
        ("3", 1),
        (None, 1_000),
        ("all", 1_000),
        ("9-2", 1),
        ([], 1_000),
        ("0-999999", 1_000),
    ],
)
def test_a_document_is_held_for_the_pages_that_are_asked_for(pages: Any, most: int) -> None:
    document = {"type": "document_url", "document_url": "https://example.com/a.pdf"}
    call = read("/v1/ocr", {"model": "mistral-ocr-latest", "document": document, "pages": pages})
    assert call.most_units == {"pages": most}


def test_a_document_without_a_model_is_read_by_the_latest() -> None:
    assert read("/v1/ocr", {"model": None, "document": {"type": "file", "file_id": "1"}}).model == "mistral-ocr-latest"


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"pages_processed": 0},
        {"pages_processed": -1},
        {"pages_processed": "2"},
        {"pages_processed": 10**9},
        "two",
        [2],
    ],
)
def test_an_odd_count_of_pages_is_not_believed(usage: Any) -> None:
    call = read("/v1/ocr", {"model": "mistral-ocr-latest", "document": {"type": "file", "file_id": "1"}})
    PROVIDER.read_answer(call, {"model": "mistral-ocr-latest", "usage_info": usage})
    assert call.usage is None
    assert call.doubt


@pytest.mark.parametrize("seconds", [None, 0, -1, "2", 1.5, 10**9])
def test_an_odd_length_of_sound_is_not_believed(seconds: Any) -> None:
    call = read("/v1/audio/transcriptions", {"model": "voxtral-mini-latest", "file_url": "https://example.com/a.wav"})
    PROVIDER.read_answer(call, {"model": "voxtral-mini-latest", "usage": {"prompt_audio_seconds": seconds}})
    assert call.usage is None
    assert call.doubt


def test_what_the_answer_says_of_its_tier_and_of_sound_is_charged() -> None:
    call = read("/v1/chat/completions", chat())
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "prompt_audio_seconds": 2, "service_tier": "priority"}
    PROVIDER.read_answer(call, {"id": "1", "model": "m", "choices": [{"finish_reason": "length"}], "usage": usage})
    assert call.usage is not None
    assert (call.usage.input_tokens, call.usage.output_tokens, call.usage.input_audio_milliseconds) == (5, 7, 2_000)
    assert (call.served_tier, call.is_cut) == ("priority", True)


@pytest.mark.parametrize(
    ("path", "metering"),
    [
        ("/v1/chat/completions", "metered"),
        ("/v1/agents", "free"),
        ("/v1/agents/completions", "unmetered"),
        ("/v1/audio/agents", "unmetered"),
        ("/v1/conversations", "unmetered"),
        ("/v1/batch/jobs", "unmetered"),
        ("/v1/batch/jobs/1/cancel", "free"),
        ("/v1/something/of/tomorrow", "unmetered"),
    ],
)
def test_what_becomes_of_a_path(path: str, metering: str) -> None:
    assert PROVIDER.metering(path) == metering
