"""Google's requests and answers, read by hand arithmetic.

Bodies: the first is printed at https://firebase.google.com/docs/ai-logic/server-prompt-templates, the second and third in a
public repository's report of runs on gemini-3 (both read 2026-11-29); the others have the fields of google-genai 3.6.1 and
counts that are made up.
"""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox._call import Call, Usage
from farebox.prices.ladders import FEATURES
from farebox.providers.google import PROVIDER

PICTURES = Path(__file__).resolve().parents[1] / "data" / "pictures"
LONG = "x" * 5_000


def read(parts: Any = None, model: str = "gemini-3.5-flash", verb: str = "generateContent", **beside: Any) -> Call:
    contents = [{"role": "user", "parts": [{"text": "hello"}] if parts is None else parts}]
    path = f"/v1beta/models/{model}:{verb}"
    call = PROVIDER.read_request(path, {"contents": contents, **beside}, "generativelanguage.googleapis.com")
    assert call is not None
    return call


def answered(usage: Any, model: str = "gemini-3.5-flash", **candidate: Any) -> Call:
    call = read(model=model)
    PROVIDER.read_answer(call, {"candidates": [{"finishReason": "STOP", **candidate}], "usageMetadata": usage})
    return call


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1beta/models/gemini-2.5-pro:generateContent", "gemini-2.5-pro"),
        ("/v1/models/gemini-2.5-pro:streamGenerateContent", "gemini-2.5-pro"),
        (
            "/proxy/v1beta/projects/p/locations/l/publishers/google/models/gemini-2.5-pro:generateContent",
            "gemini-2.5-pro",
        ),
        ("/v1/tunedModels/mine:generateContent", "tunedModels/mine"),
        ("/v1beta1/projects/p/locations/l/endpoints/12:generateContent", "endpoints/12"),
        ("/v1beta/models/gemini-2.5-pro:countTokens", None),
        ("/v1beta/models/gemini-2.5-pro", None),
        ("/v1beta/models", None),
    ],
)
def test_the_model_is_read_off_the_path(path: str, model: str | None) -> None:
    call = PROVIDER.read_request(path, {"contents": [{"parts": [{"text": "hi"}]}]}, "")
    assert (None if call is None else call.request_model) == model


@pytest.mark.parametrize("sent", ["gemini-2.5-flash", "gemini-3.5-flash-lite"])
def test_a_model_is_rewritten_where_it_stands(sent: str) -> None:
    for start in ("/v1beta/models/", "/v1/projects/models/locations/models/publishers/google/models/"):
        call = PROVIDER.read_request(f"{start}m:generateContent", {"contents": [{"parts": []}]}, "")
        assert call is not None
        call.sent_model = sent
        assert PROVIDER.rewrite_path(call, f"{start}m:generateContent") == f"{start}{sent}:generateContent"


@pytest.mark.parametrize("body", [{}, {"contents": []}, {"contents": None}, {"contents": ""}, {"content": "hi"}])
def test_a_malformed_body_is_left_to_the_api(body: Any) -> None:
    assert PROVIDER.read_request("/v1/models/m:generateContent", body, "") is None


def test_text_is_counted_wherever_the_model_reads_it() -> None:
    call = read(
        [{"text": LONG}, {"functionCall": {"name": "f", "args": {"a": LONG}}}],
        systemInstruction={"parts": [{"text": LONG}], "role": "user"},
        tools=[{"functionDeclarations": [{"name": "f", "description": LONG}]}],
        generationConfig={"responseSchema": {"description": LONG}},
        unheardOf={"text": LONG},
    )
    assert call.text_bytes >= 6 * 5_000
    assert call.proven_input_tokens >= 6 * 5_000
    assert call.system_bytes == 5_000
    assert call.tools_bytes > 5_000


@pytest.mark.parametrize(
    "content",
    [
        {"role": LONG, "parts": [{"text": "hi"}]},
        {"role": "user", "parts": [{"text": "hi", "name": LONG}]},
        {"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "", "displayName": LONG}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"a": LONG}}}]},
        {"role": "user", "parts": [{"functionResponse": {"parts": [{"text": LONG}]}}]},
        {"role": "user", "parts": [{"inlineData": {"mimeType": "text/plain", "data": base64.b64encode(LONG.encode()).decode()}}]},
        {"role": "user", "parts": LONG},
        {"role": "user", "parts": [LONG]},
        LONG,
    ],
)  # fmt: skip
def test_no_text_is_out_of_sight(content: Any) -> None:
    call = PROVIDER.read_request("/v1/models/gemini-2.5-flash:generateContent", {"contents": [content]}, "")
    assert call is not None
    assert call.text_bytes >= 5_000
    assert call.proven_input_tokens >= 5_000


@pytest.mark.parametrize("spelt", [("generationConfig", "maxOutputTokens"), ("generation_config", "max_output_tokens")])
@pytest.mark.parametrize(
    ("cap", "declared", "is_accepted"),
    [
        (100, 100, True),
        ("100", 100, True),
        (100.0, 100, True),
        (0, None, True),
        ("many", None, False),
        (10**9, 10**7, True),
    ],
)
def test_a_cap_is_read_as_a_lenient_server_would(spelt: Any, cap: Any, declared: Any, is_accepted: bool) -> None:
    body = {"contents": [{"parts": [{"text": "hi"}]}], spelt[0]: {spelt[1]: cap, "temperature": 0}}
    call = PROVIDER.read_request("/v1/models/gemini-2.5-flash:generateContent", body, "")
    assert call is not None
    assert (call.declared_cap, call.accepts_cap) == (declared, is_accepted)
    call.sent_cap = 7
    assert PROVIDER.rewrite(call, body) == {spelt[0]: {spelt[1]: 7, "temperature": 0}}


PNG = base64.b64encode((PICTURES / "plain.png").read_bytes()).decode()
SIZED = base64.b64encode(
    b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">II", 2_000, 1_000) + b"\x08\x02\0\0\0"
).decode()
WAV = base64.b64encode(
    b"RIFF" + struct.pack("<I", 0) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8_000, 8_000, 1, 8) + bytes(24_000)
).decode()
PDF = base64.b64encode(b"%PDF-1.4 /Type /Page /Type /Page /Type /Pages").decode()


def inline(kind: str, data: str) -> dict[str, Any]:
    return {"inlineData": {"mime_type": kind, "data": data}}


@pytest.mark.parametrize(
    ("model", "part", "least", "most", "unbounded"),
    [
        ("gemini-3.5-flash", inline("image/png", SIZED), 1_120, 1_200, ()),
        ("gemini-3.5-flash", inline("image/png", SIZED) | {"mediaResolution": {"level": "MEDIA_RESOLUTION_LOW"}}, 280, 350, ()),
        ("gemini-3.5-flash", inline("image/png", SIZED) | {"media_resolution": "MEDIA_RESOLUTION_ULTRA_HIGH"}, 2_240, 2_300, ()),
        ("gemini-2.5-flash", inline("image/png", PNG), 258, 330, ()),
        # 2,000 x 1,000: tiles of 666 pixels, 4 x 2 of them; and 9 where it pans and scans
        ("gemini-2.5-flash", inline("image/png", SIZED), 9 * 258, 9 * 258 + 70, ()),
        ("gemini-2.5-flash", inline("image/png", "AAAA"), 16 * 258, 16 * 258 + 70, ("image (unreadable)",)),
        ("gemini-3.5-flash", {"fileData": {"fileUri": "gs://a/b", "mimeType": "image/png"}}, 1_120, 1_200, ("image_url",)),
        ("gemini-3.5-flash", inline("audio/wav", WAV), 3 * 32, 4 * 32 + 70, ()),
        ("gemini-3.5-flash", inline("audio/ogg", WAV), 1_048_576, 1_048_700, ("audio",)),
        ("gemini-3.5-flash", inline("video/mp4", "AAAA"), 1_048_576, 1_048_700, ("video",)),
        ("gemini-3.5-flash", {"file_data": {"file_uri": "https://youtu.be/x"}}, 1_048_576, 1_048_700, ("file_url",)),
        ("gemini-3.5-flash", inline("application/pdf", PDF), 2 * 2_300, 2 * 2_300 + 70, ("file (pdf)",)),
        ("gemini-3.5-flash", inline("application/zip", PDF), 1, 2 * 2_300 + 70, ("file (pdf)",)),
    ],
)  # fmt: skip
def test_media_have_tokens_of_their_own(model: str, part: Any, least: int, most: int, unbounded: Any) -> None:
    plain, call = read([], model), read([part], model)
    assert least <= call.extra_input_tokens - plain.extra_input_tokens <= most
    assert call.unbounded == unbounded


def test_a_downgrade_counts_pictures_anew() -> None:
    call = read([inline("image/png", SIZED)] * 2, "gemini-3.5-flash")
    assert call.pictures.tokens("gemini-3.5-flash") == 2 * 1_120
    assert call.pictures.tokens("gemini-2.5-flash") == 2 * 9 * 258
    assert call.has_images
    assert "images" in call.features


@pytest.mark.parametrize(
    ("beside", "features"),
    [
        ({}, set()),
        ({"generationConfig": {"temperature": 1}}, set()),
        ({"generationConfig": {"temperature": 0.2, "topK": 3}}, {"sampling"}),
        ({"generationConfig": {"candidateCount": 2, "stopSequences": ["x"]}}, {"choices", "stop"}),
        ({"generationConfig": {"responseMimeType": "application/json"}}, {"json_mode"}),
        ({"generationConfig": {"responseMimeType": "application/json", "responseSchema": {}}}, {"structured_output"}),
        ({"generationConfig": {"thinkingConfig": {"thinking_budget": 0}}}, {"reasoning_none"}),
        ({"generationConfig": {"thinkingConfig": {"thinkingBudget": 99}}}, {"reasoning", "reasoning_budget"}),
        ({"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW"}}}, {"reasoning", "reasoning_effort"}),
        ({"generationConfig": {"thinkingConfig": {"thinkingLevel": "minimal"}}}, {"reasoning", "reasoning_minimal"}),
        ({"generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}}, {"image_generation"}),
        ({"generationConfig": {"responseModalities": ["AUDIO"]}}, {"audio_output"}),
        ({"tools": [{"functionDeclarations": [{"name": "f"}]}]}, {"tools"}),
        ({"tools": [{"googleSearch": {}}, {"code_execution": {}}]}, {"web_search", "code_interpreter"}),
        ({"tools": [{"urlContext": {}}, {"fileSearch": {}}]}, {"web_fetch", "file_search"}),
        ({"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, {"forced_tools"}),
        ({"cachedContent": "cachedContents/1"}, {"cached_content"}),
    ],
)
def test_what_a_request_asks_of_a_model_is_named(beside: Any, features: set[str]) -> None:
    assert read(**beside).features == features
    assert features <= FEATURES


def test_tools_that_run_at_google_cannot_be_bounded_and_are_held_with_their_fees() -> None:
    call = read(tools=[{"googleSearch": {}}, {"urlContext": {}}])
    assert set(call.unbounded) == {"googleSearch", "urlContext"}
    assert call.fills_context
    assert call.most_web_searches == 10
    assert read(tools=[{"google_search": {}}], model="gemini-2.5-pro").most_web_searches == 1


def test_tiers_are_those_that_change_the_price() -> None:
    assert read(serviceTier="priority").tier == "priority"
    body = {"contents": [{"parts": [{"text": "hi"}]}]}
    path = "/v1/projects/p/locations/l/publishers/google/models/gemini-3.5-flash:generateContent"
    call = PROVIDER.read_request(path, body, "europe-west4-aiplatform.googleapis.com")
    assert call is not None
    assert call.tier == "regional"
    PROVIDER.read_headers(call, {"X-Vertex-AI-LLM-Shared-Request-Type": "priority"})
    assert call.tier == "priority+regional"
    glob = PROVIDER.read_request(path, body, "aiplatform.googleapis.com")
    assert glob is not None
    assert glob.tier == ""


@pytest.mark.timeout(10)
def test_a_body_of_many_parts_is_read_in_time_that_grows_with_their_number() -> None:
    for part in (
        inline("image/png", "AAAA"),
        {"oddity": 1},
        {"functionCall": {"name": "f"}},
        {"text": "a", "thought": True},
    ):
        assert read([part] * 30_000).messages == 1


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from("parts role text inlineData fileData mimeType data functionResponse mediaResolution tools "
                        "googleSearch functionDeclarations maxOutputTokens thinkingConfig responseModalities".split()),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(ODD, ODD, ODD)
def test_no_request_is_too_odd_to_be_read(contents: Any, config: Any, tools: Any) -> None:
    body = {"contents": contents, "generationConfig": config, "tools": tools, "systemInstruction": contents}
    call = PROVIDER.read_request("/v1/models/gemini-3.5-flash:generateContent", body, "")
    if call is not None:
        assert call.proven_input_tokens >= 0 <= call.extra_input_tokens
        assert call.choices >= 1


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def text(count: int) -> list[dict[str, Any]]:
    return [{"modality": "TEXT", "tokenCount": count}]


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {"promptTokenCount": 34, "candidatesTokenCount": 418, "totalTokenCount": 890, "promptTokensDetails": text(34), "thoughtsTokenCount": 438},
            Usage(uncached_input_tokens=34, visible_output_tokens=418, reasoning_tokens=438),
        ),
        (
            {"promptTokenCount": 844, "candidatesTokenCount": 278, "totalTokenCount": 1122, "promptTokensDetails": text(844), "serviceTier": "standard"},
            Usage(uncached_input_tokens=844, visible_output_tokens=278),
        ),
        (
            {"promptTokenCount": 844, "candidatesTokenCount": 46, "totalTokenCount": 2040, "promptTokensDetails": text(844), "thoughtsTokenCount": 1150, "serviceTier": "standard"},
            Usage(uncached_input_tokens=844, visible_output_tokens=46, reasoning_tokens=1150),
        ),
        ({"promptTokenCount": 7, "totalTokenCount": 7}, Usage(uncached_input_tokens=7)),
        (
            {"promptTokenCount": 100, "cachedContentTokenCount": 40, "candidatesTokenCount": 5, "totalTokenCount": 105},
            Usage(uncached_input_tokens=60, cache_read_tokens=40, visible_output_tokens=5),
        ),
        (
            {"promptTokenCount": 100, "toolUsePromptTokenCount": 30, "candidatesTokenCount": 5, "thoughtsTokenCount": 2, "totalTokenCount": 137},
            Usage(uncached_input_tokens=130, visible_output_tokens=5, reasoning_tokens=2),
        ),
        (
            {
                "promptTokenCount": 100, "candidatesTokenCount": 60, "totalTokenCount": 160, "cachedContentTokenCount": 20,
                "promptTokensDetails": [*text(10), {"modality": "AUDIO", "tokenCount": 30}, {"modality": "IMAGE", "tokenCount": 40}, {"modality": "VIDEO", "tokenCount": 20}],
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 12}, {"modality": "IMAGE", "tokenCount": 8}],
                "candidatesTokensDetails": [*text(20), {"modality": "IMAGE", "tokenCount": 25}, {"modality": "AUDIO", "tokenCount": 15}],
            },
            Usage(
                uncached_input_tokens=10, cache_read_audio_tokens=12, cache_read_image_tokens=8, input_audio_tokens=18, input_image_tokens=32,
                input_video_tokens=20, visible_output_tokens=20, output_image_tokens=25, output_audio_tokens=15,
            ),
        ),
        ({"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 25}, Usage(uncached_input_tokens=10, visible_output_tokens=15)),
    ],
)  # fmt: skip
def test_a_usage_is_read_into_buckets_that_hold_no_token_twice(usage: Any, expected: Usage) -> None:
    call = answered(usage)
    assert call.usage == expected
    assert call.usage.total_tokens == usage["totalTokenCount"]
    assert call.doubt == ""


@pytest.mark.parametrize(
    ("usage", "doubt"),
    [
        ({}, "usage.promptTokenCount is NoneType"),
        ({"promptTokenCount": 0, "candidatesTokenCount": 3}, "usage.promptTokenCount is 0"),
        ({"promptTokenCount": "9"}, "usage.promptTokenCount is str"),
        ({"promptTokenCount": True}, "usage.promptTokenCount is bool"),
        ({"promptTokenCount": 9, "candidatesTokenCount": 1.5}, "usage.candidatesTokenCount is float"),
        ({"promptTokenCount": 9, "thoughtsTokenCount": -1}, "usage.thoughtsTokenCount is out of range"),
    ],
)
def test_a_usage_that_cannot_be_believed_says_why(usage: Any, doubt: str) -> None:
    call = answered(usage)
    assert (call.usage, call.doubt) == (None, doubt)


@given(st.dictionaries(st.sampled_from(
    "promptTokenCount candidatesTokenCount thoughtsTokenCount totalTokenCount cachedContentTokenCount "
    "toolUsePromptTokenCount".split()), st.integers(0, 1_000)),
    st.lists(st.tuples(st.sampled_from(["TEXT", "AUDIO", "IMAGE", "VIDEO", "DOCUMENT", "SMELL"]), st.integers(0, 1_000)), max_size=4),
)  # fmt: skip
def test_no_token_of_a_usage_is_lost_or_counted_twice(counts: dict[str, int], details: list[tuple[str, int]]) -> None:
    named = [{"modality": modality, "tokenCount": tokens} for modality, tokens in details]
    usage = {**counts, "promptTokensDetails": named, "candidatesTokensDetails": named, "cacheTokensDetails": named}
    call = answered(usage)
    if call.usage is not None:
        parts = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "toolUsePromptTokenCount")
        assert call.usage.total_tokens == max(
            sum(counts.get(name, 0) for name in parts), counts.get("totalTokenCount", 0)
        )
        assert min(call.usage) >= 0


def test_the_head_of_an_answer_names_who_served_and_how() -> None:
    call = read()
    answer = {
        "candidates": [{"finishReason": "MAX_TOKENS"}],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2, "trafficType": "ON_DEMAND_PRIORITY"},
        "modelVersion": "gemini-3.5-flash-001",
        "responseId": "r" * 300,
    }  # fmt: skip
    PROVIDER.read_answer(call, answer)
    assert (call.response_model, call.response_id, call.served_tier) == (
        "gemini-3.5-flash-001",
        "r" * 200,
        "on_demand_priority",
    )
    assert call.is_cut


@pytest.mark.parametrize(("model", "searches"), [("gemini-3.5-flash", 3), ("gemini-2.5-flash", 1)])
def test_searches_are_counted_by_query_or_by_prompt(model: str, searches: int) -> None:
    grounding = {"webSearchQueries": ["a", "b", "a"], "groundingChunks": [{"maps": {}}]}
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 1, "totalTokenCount": 6}
    found = answered(usage, model, groundingMetadata=grounding).usage
    assert found is not None
    assert found.web_searches == searches


def test_a_stream_is_what_its_last_chunk_says() -> None:
    call = read(verb="streamGenerateContent")
    reader = PROVIDER.stream_reader(call)
    for said in (3, 6, 9):
        usage = {"promptTokenCount": 5, "candidatesTokenCount": said, "totalTokenCount": 5 + said}
        candidate: dict[str, Any] = {"content": {"parts": [{"text": "x"}]}}
        if said == 9:
            candidate["finishReason"] = "STOP"
        assert reader.see({"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m"}) is False
    reader.finish()
    assert call.usage == Usage(uncached_input_tokens=5, visible_output_tokens=9)
    assert call.response_model == "m"


@given(ODD)
def test_no_chunk_is_too_odd_to_be_seen(chunk: Any) -> None:
    call = read(verb="streamGenerateContent")
    reader = PROVIDER.stream_reader(call)
    reader.see({"candidates": chunk, "usageMetadata": chunk, "error": chunk})
    reader.abandon([chunk, {"candidates": [{"content": chunk}]}])
    reader.finish()
    PROVIDER.read_answer(call, chunk)


@pytest.mark.parametrize(
    ("verb", "body", "answer", "usage"),
    [
        (
            "batchEmbedContents",
            {"requests": [{"content": {"parts": [{"text": LONG}]}}, {"content": {"parts": [{"text": "b"}]}}]},
            {"embeddings": [], "usageMetadata": {"promptTokenCount": 12, "promptTokenDetails": text(12)}},
            Usage(uncached_input_tokens=12),
        ),
        (
            "predict",
            {"instances": [{"content": LONG}, {"content": "b"}]},
            {"predictions": [{"embeddings": {"statistics": {"token_count": 7}}}, {"embeddings": {"statistics": {"token_count": 5}}}]},
            Usage(uncached_input_tokens=12),
        ),
        ("embedContent", {"content": {"parts": [{"text": LONG}]}}, {"embedding": {"values": []}}, None),
    ],
)  # fmt: skip
def test_embeddings_are_read_in_all_three_formats(verb: str, body: Any, answer: Any, usage: Usage | None) -> None:
    call = PROVIDER.read_request(f"/v1/models/gemini-embedding-001:{verb}", body, "")
    assert call is not None
    assert (call.operation_name, call.choices, call.accepts_cap) == ("embeddings", 0, False)
    assert call.text_bytes >= 5_000
    PROVIDER.read_answer(call, answer)
    assert call.usage == usage


@pytest.mark.parametrize(
    ("parameters", "made"),
    [({}, 4), ({"sampleCount": 2}, 2), ({"sampleCount": "2"}, 2), ({"sampleCount": [3]}, 4), (None, 4), ([], 4)],
)
def test_a_prediction_that_is_no_embedding_makes_pictures(parameters: Any, made: int) -> None:
    body = {"instances": [{"prompt": "a cat"}], "parameters": parameters}
    call = PROVIDER.read_request("/v1/models/imagen-4:predict", body, "")
    assert call is not None
    assert (call.operation_name, call.most_units) == ("image_generation", {"images": made})
    assert PROVIDER.read_request("/v1/models/imagen-4:predict", {"instances": []}, "") is None


@pytest.mark.parametrize(
    ("operation", "milliseconds", "is_pending"),
    [
        ({"name": "projects/1/operations/a"}, None, True),
        ({"name": "projects/1/operations/a", "done": True, "error": {"code": 3}}, 0, False),
        ({"name": "projects/1/operations/a", "done": True, "response": {"videos": [{}, {}]}}, 12_000, False),
        ({"done": True, "response": {"generateVideoResponse": {"generatedSamples": [{}]}}}, 6_000, False),
        ({"done": True, "response": {"raiMediaFilteredCount": 2}}, 0, False),
        ({"done": True, "response": {"videos": "two"}}, None, False),
        ({"done": True}, None, False),
        ({"name": 3}, None, False),
        ([], None, False),
    ],
)
def test_an_operation_says_what_it_has_made(operation: Any, milliseconds: int | None, is_pending: bool) -> None:
    body = {"instances": [{"prompt": "a"}], "parameters": {"sampleCount": 2, "durationSeconds": 6}}
    call = PROVIDER.read_request("/v1/publishers/google/models/veo-3.1-generate-001:predictLongRunning", body, "")
    assert call is not None
    assert (call.most_units, call.tier) == ({"video_milliseconds": 12_000}, "720p")
    PROVIDER.read_answer(call, operation)
    assert (call.usage and call.usage.video_milliseconds, call.is_pending) == (milliseconds, is_pending)


@pytest.mark.parametrize(("host", "tier"), [("eu-aiplatform.googleapis.com", "flex+regional"), ("127.0.0.1", "flex")])
def test_an_interaction_of_vertex_is_kept_in_its_region(host: str, tier: str) -> None:
    body = {"model": "gemini-3.8-flash", "input": "hello", "service_tier": "flex"}
    call = PROVIDER.read_request("/v1beta1/projects/p/locations/eu/interactions", body, host)
    assert call is not None
    assert (call.provider_name, call.tier) == ("gcp.vertex_ai", tier)
