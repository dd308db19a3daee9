"""Google's wire format: embeddings, of the Gemini API and of Vertex AI.  Nothing is put out, and only input is charged.

Field names: google-genai 3.6.1, `models.py`, `_EmbedContentParametersPrivate_to_mldev` and `_to_vertex` (read 2026-11-29).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers._google_parts import Contents
from farebox.providers._google_usage import read_head, read_usage
from farebox.providers._reading import UnreadableUsage, count, fields, listed
from farebox.providers._vision import Pictures, gemini_image_tokens

#: `predict` is any other model's way on Vertex AI: it is embeddings where each instance is a text.
EMBEDDING_VERBS: Final = frozenset(("embedContent", "batchEmbedContents", "predict"))
_TOKENS_PER_TEXT: Final = 16


def read_embedding_request(
    provider_name: str, verb: str, model: str, body: Mapping[str, Any], server_address: str
) -> Call | None:
    """The call that a request for embeddings makes, or None."""
    contents = _contents_of(verb, body)
    if not model or not contents:
        return None
    call = Call(
        provider_name=provider_name,
        operation_name="embeddings",
        endpoint=verb,
        server_address=server_address,
        request_model=model,
    )
    counted = Contents()
    counted.add(contents)
    sizes = counted.sizes
    call.choices, call.accepts_cap = 0, False
    call.cache_write = "none"
    call.messages, call.last_message_bytes = len(contents), counted.last_bytes
    call.has_audio, call.has_images = sizes.has_audio, sizes.has_images or "video" in counted.features
    call.features, call.unbounded = frozenset(counted.features), sizes.unbounded
    extra_tokens = sizes.extra_tokens + _TOKENS_PER_TEXT * len(contents)
    if sizes.pictures:
        pictures = Pictures(tuple(sizes.pictures), gemini_image_tokens)
        call.pictures = pictures
        extra_tokens += pictures.tokens(model)
    call.text_bytes, call.dense_bytes, call.english_bytes = sizes.text_bytes, sizes.dense_bytes, sizes.english_bytes
    call.extra_input_tokens = extra_tokens
    call.proven_input_tokens = sizes.text_bytes + sizes.surplus + extra_tokens
    return call


def _contents_of(verb: str, body: Mapping[str, Any]) -> list[Any]:
    if verb == "embedContent":
        return [body["content"]] if body.get("content") else []
    if verb == "batchEmbedContents":
        return [fields(one).get("content") or {} for one in listed(body.get("requests")) or ()]
    texts = [fields(one).get("content") for one in listed(body.get("instances")) or ()]
    return [{"parts": [{"text": text}]} for text in texts] if all(isinstance(text, str) for text in texts) else []


def read_embeddings(call: Call, found: Mapping[str, Any]) -> None:
    """The usage of an answer; the Gemini API tells none of its older models."""
    usage = found.get("usageMetadata")
    read_head(call, found, fields(usage))
    if usage is not None:
        call.usage = read_usage(call, usage)
    elif predictions := listed(found.get("predictions")):
        try:
            tokens = sum(
                count(fields(fields(fields(one).get("embeddings")).get("statistics")), "token_count", required=True)
                for one in predictions
            )
        except UnreadableUsage as reason:
            call.doubt = str(reason)
        else:
            call.usage = Usage(uncached_input_tokens=tokens)
