"""What Gemini says a call used: `usageMetadata`, in an answer and in each chunk of a stream.

`promptTokenCount` holds what came from a cache, `candidatesTokenCount` not what was thought, and what a tool put in front of
the model stands beside both.  In a stream the counts are those of all chunks so far: the last one has them all.

Field names: google-genai 3.6.1, `types.py`, `GenerateContentResponseUsageMetadata` (read 2026-11-29); a real body:
tests/data/google.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers._reading import COUNTS, Sizes, UnreadableUsage, count, fields, listed, text_of, texts
from farebox.providers._vision import is_older_gemini

#: Counts of a usage that is more than text in and text out.
_OUT_OF_THE_ORDINARY: Final = ("cachedContentTokenCount", "toolUsePromptTokenCount", "thoughtsTokenCount")
_DETAILS: Final = ("promptTokensDetails", "candidatesTokensDetails", "toolUsePromptTokensDetails")
#: Grounding that has a fee, by the queries that a candidate's metadata names.
_QUERIES: Final = ("webSearchQueries", "imageSearchQueries")


def read_head(call: Call, found: Mapping[str, Any], usage: Mapping[str, Any]) -> None:
    """Ids, the model and the tier that served."""
    response_id, model = found.get("responseId"), found.get("modelVersion")
    if type(response_id) is str:
        call.response_id = response_id[:200]
    if type(model) is str:
        call.response_model = model[:200]
    tier = usage.get("trafficType") or usage.get("serviceTier")
    if type(tier) is str:
        # Provisioned throughput is paid in advance: its tokens count at the list price, which none of them is above.
        word = tier[:40].lower().removesuffix("_unspecified").replace("provisioned_throughput", "standard")
        call.served_tier = "+".join(filter(None, (word, "regional" if "regional" in call.tier else "")))


def is_cut(answer: Mapping[str, Any]) -> bool:
    """Whether an answer was cut at its cap."""
    return any(fields(one).get("finishReason") == "MAX_TOKENS" for one in listed(answer.get("candidates")) or ())


def is_final(chunk: Mapping[str, Any]) -> bool:
    """Whether nothing comes after a chunk but chunks like it."""
    candidates = listed(chunk.get("candidates")) or ()
    return bool(chunk.get("promptFeedback")) or any(fields(one).get("finishReason") for one in candidates)


def searches(call: Call, answers: list[Mapping[str, Any]]) -> int:
    """Searches with a fee: each query, or before Gemini 3 one for every prompt that was grounded.

    Grounding with a map counts as a search: it costs no more than one.
    Source: https://ai.google.dev/gemini-api/docs/pricing (a copy, read 2026-11-29).
    """
    queries: set[str] = set()
    is_mapped = False
    for answer in answers:
        for candidate in listed(answer.get("candidates")) or ():
            grounding = fields(fields(candidate).get("groundingMetadata"))
            for name in _QUERIES:
                queries.update(text_of(query) for query in listed(grounding.get(name)) or ())
            chunks = listed(grounding.get("groundingChunks")) or ()
            is_mapped = is_mapped or any(fields(chunk).get("maps") is not None for chunk in chunks)
    found = len(queries) + is_mapped
    return min(found, 1) if is_older_gemini(call.response_model or call.model) else found


def read_usage(call: Call, found: Any, web_searches: int = 0) -> Usage | None:
    """Disjoint buckets of a usage report; None, with the reason in `call.doubt`, for one that can't be believed."""
    usage = fields(found)
    read, said = usage.get("promptTokenCount"), usage.get("candidatesTokenCount")
    total = usage.get("totalTokenCount")
    if (
        type(read) is int
        and type(said) is int
        and read
        and read in COUNTS
        and said in COUNTS
        and total == read + said
        and not web_searches
        and not any(map(usage.get, _OUT_OF_THE_ORDINARY))
        and all(_is_text(usage.get(name)) for name in _DETAILS)
    ):
        return Usage(uncached_input_tokens=read, visible_output_tokens=said)
    try:
        return _read_buckets(usage, web_searches)
    except UnreadableUsage as reason:
        call.doubt = str(reason)
        return None


def _is_text(details: Any) -> bool:
    return details is None or (
        type(details) is list
        and len(details) == 1
        and type(details[0]) is dict
        and details[0].get("modality") == "TEXT"
    )


def _read_buckets(usage: Mapping[str, Any], web_searches: int) -> Usage:
    prompt = count(usage, "promptTokenCount", required=True)
    by_tools, cached = count(usage, "toolUsePromptTokenCount"), count(usage, "cachedContentTokenCount")
    said, thought = count(usage, "candidatesTokenCount"), count(usage, "thoughtsTokenCount")
    if not prompt + by_tools:
        raise UnreadableUsage("usage.promptTokenCount is 0")
    # Whatever a total holds that no count explains was put out, which is dearest.
    said += max(0, count(usage, "totalTokenCount") - prompt - by_tools - said - thought)
    cached = min(cached, prompt)
    went_in, came_out = _by_modality(usage, "promptTokensDetails"), _by_modality(usage, "candidatesTokensDetails")
    from_tools, from_cache = (
        _by_modality(usage, "toolUsePromptTokensDetails"),
        _by_modality(usage, "cacheTokensDetails"),
    )
    cached_audio = min(from_cache["AUDIO"], cached)
    cached_pictures = min(from_cache["IMAGE"] + from_cache["VIDEO"], cached - cached_audio)
    left = prompt - cached + by_tools
    left -= (audio := min(max(0, went_in["AUDIO"] - cached_audio) + from_tools["AUDIO"], left))
    left -= (video := min(max(0, went_in["VIDEO"] - from_cache["VIDEO"]) + from_tools["VIDEO"], left))
    left -= (pictures := min(max(0, went_in["IMAGE"] - from_cache["IMAGE"]) + from_tools["IMAGE"], left))
    said -= (audio_out := min(came_out["AUDIO"], said))
    said -= (video_out := min(came_out["VIDEO"], said))
    said -= (image_out := min(came_out["IMAGE"], said))
    return Usage(
        uncached_input_tokens=left,
        cache_read_tokens=cached - cached_audio - cached_pictures,
        input_audio_tokens=audio,
        cache_read_audio_tokens=cached_audio,
        input_image_tokens=pictures,
        visible_output_tokens=said,
        reasoning_tokens=thought,
        output_audio_tokens=audio_out,
        output_image_tokens=image_out,
        web_searches=web_searches,
        cache_read_image_tokens=cached_pictures,
        input_video_tokens=video,
        output_video_tokens=video_out,
    )


def _by_modality(usage: Mapping[str, Any], name: str) -> dict[str, int]:
    tokens = dict.fromkeys(("AUDIO", "IMAGE", "VIDEO"), 0)
    for detail in listed(usage.get(name)) or ():
        found = fields(detail)
        modality = text_of(found.get("modality"))
        if modality in tokens:
            tokens[modality] += count(found, "tokenCount")
    return tokens


class ChunkReader:
    """Of a stream, each chunk of which is an answer with what is new of its text, and the usage up to it."""

    __slots__ = ("_call", "_grounded", "_is_cut", "_is_final", "_usage")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._usage: Any = None
        self._grounded: list[Mapping[str, Any]] = []
        self._is_cut = self._is_final = False

    def see(self, chunk: Any) -> bool:
        if type(chunk) is not dict:
            return False
        usage = chunk.get("usageMetadata")
        if usage is not None:
            self._usage = usage
        for candidate in listed(chunk.get("candidates")) or ():
            if type(candidate) is dict and ("finishReason" in candidate or "groundingMetadata" in candidate):
                self._take_note(chunk)
        if "error" in chunk or "promptFeedback" in chunk:
            self._take_note(chunk)
        elif not self._call.response_model:
            read_head(self._call, chunk, {})
        return False

    def _take_note(self, chunk: Mapping[str, Any]) -> None:
        if chunk.get("error"):
            self._call.doubt = "an error in the stream"
        self._is_final = self._is_final or is_final(chunk)
        self._is_cut = self._is_cut or is_cut(chunk)
        if chunk not in self._grounded:
            self._grounded.append(chunk)
        read_head(self._call, chunk, {})

    def finish(self) -> None:
        call = self._call
        if not self._is_final:
            call.doubt = call.doubt or "the stream ended without a finish reason"
            return
        call.is_cut = self._is_cut
        read_head(call, {}, fields(self._usage))
        if self._usage is not None:
            call.usage = read_usage(call, self._usage, searches(call, self._grounded))

    def abandon(self, chunks: list[Any]) -> None:
        sizes = Sizes({})
        pieces: list[str] = []
        for chunk in chunks:
            for candidate in listed(fields(chunk).get("candidates")) or ():
                pieces += texts(fields(fields(candidate).get("content")).get("parts"))
        sizes.add_joined(pieces)
        if self._is_final:
            self.finish()
        usage = fields(self._usage)
        counted = [usage.get("candidatesTokenCount"), usage.get("thoughtsTokenCount")]
        self._call.received_tokens = max(
            sizes.received_tokens(), sum(tokens for tokens in counted if type(tokens) is int and tokens in COUNTS)
        )
