"""SDK clients that answer themselves: the real SDK, over a transport that never leaves the process.

A *bare* client is a subclass that keeps the SDK's own `request`, taken before farebox wraps it: it stays bare in a process
where everything else is instrumented, so both can be timed call by call.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Any, Final

import anthropic
import openai

from farebox.seams._addresses import remember_urls

#: Events with text in each stream, besides those that open and close it.
CHUNKS: Final = int(os.environ.get("FAREBOX_BENCH_CHUNKS", "50"))
#: Events that come in one read of the network.
PER_READ: Final = int(os.environ.get("FAREBOX_BENCH_PER_READ", "1"))
PROMPT: Final = ("The quick brown fox jumps over the lazy dog, runs from the farm, and comes back. " * 60)[:4096]

_MESSAGES: Final = [{"role": "user", "content": PROMPT}]
OPENAI_REQUEST: Final = {"model": "gpt-5-mini", "messages": _MESSAGES, "max_completion_tokens": 500}
ANTHROPIC_REQUEST: Final = {"model": "claude-sonnet-4-6", "messages": _MESSAGES, "max_tokens": 500}

_TEXT: Final = "word " * 60
_CHAT_USAGE: Final = {
    "prompt_tokens": 900,
    "completion_tokens": 80,
    "total_tokens": 980,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
_CHAT_HEAD: Final = {"id": "chatcmpl-1", "created": 1, "model": "gpt-5-mini-2025-08-07", "service_tier": "default"}
CHAT_ANSWER: Final = {
    **_CHAT_HEAD,
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": _TEXT, "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": _CHAT_USAGE,
}
_MESSAGE_USAGE: Final = {
    "input_tokens": 900,
    "output_tokens": 80,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "service_tier": "standard",
}
_MESSAGE_ANSWER: Final[dict[str, Any]] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-6",
    "content": [{"type": "text", "text": _TEXT}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": _MESSAGE_USAGE,
}


def _chat_chunk(choices: list[Any], usage: Any) -> bytes:
    chunk = {**_CHAT_HEAD, "object": "chat.completion.chunk", "choices": choices, "usage": usage}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _chat_stream() -> list[bytes]:
    return [
        _chat_chunk(
            [
                {
                    "index": 0,
                    "delta": {"content": f"word{i} "},
                    "logprobs": None,
                    "finish_reason": "stop" if i == CHUNKS - 1 else None,
                }
            ],
            None,
        )
        for i in range(CHUNKS)
    ]


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def _message_stream() -> list[bytes]:
    start = {**_MESSAGE_ANSWER, "content": [], "stop_reason": None, "usage": {**_MESSAGE_USAGE, "output_tokens": 1}}
    return [
        _event("message_start", message=start),
        _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(
            _event("content_block_delta", index=0, delta={"type": "text_delta", "text": f"word{i} "})
            for i in range(CHUNKS)
        ),
        _event("content_block_stop", index=0),
        _event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 80}),
        _event("message_stop"),
    ]


def _content_stream() -> list[bytes]:
    usage = {"promptTokenCount": 900, "totalTokenCount": 980}

    def chunk(i: int) -> bytes:
        candidate: dict[str, Any] = {"content": {"parts": [{"text": f"word{i} "}], "role": "model"}, "index": 0}
        counted = usage
        if i == CHUNKS - 1:
            candidate["finishReason"], counted = "STOP", {**usage, "candidatesTokenCount": 80}
        fields = {"candidates": [candidate], "usageMetadata": counted, "modelVersion": "gemini-2.5-flash"}
        return b"data: " + json.dumps(fields).encode() + b"\n\n"

    return [chunk(i) for i in range(CHUNKS)]


_BODIES: Final = {
    "openai": json.dumps(CHAT_ANSWER).encode(),
    "anthropic": json.dumps(_MESSAGE_ANSWER).encode(),
    "google": b"{}",
}
_STREAMS: Final = {"openai": _chat_stream(), "anthropic": _message_stream(), "google": _content_stream()}
_USAGE_CHUNK: Final = _chat_chunk([], _CHAT_USAGE)
_DONE: Final = b"data: [DONE]\n\n"


def http_library(sdk: str) -> ModuleType:
    """The HTTP library that the installed version of an SDK is built on."""
    base: Any = importlib.import_module(f"{sdk}._base_client")
    library: ModuleType = getattr(base, "httpx2", None) or base.httpx
    return library


def transport(sdk: str, http: Any) -> Any:
    """What answers in the place of the network."""

    class Chunks(http.SyncByteStream, http.AsyncByteStream):  # type: ignore[misc, name-defined]
        """A body that arrives read by read."""

        def __init__(self, chunks: list[bytes]) -> None:
            self._reads = [b"".join(chunks[i : i + PER_READ]) for i in range(0, len(chunks), PER_READ)]

        def __iter__(self) -> Iterator[bytes]:
            yield from self._reads

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for read in self._reads:
                yield read

    body, events = _BODIES[sdk], _STREAMS[sdk]
    as_json = {"content-type": "application/json", "x-request-id": "req_1", "request-id": "req_1"}
    as_events = {**as_json, "content-type": "text/event-stream"}

    def answer(request: Any) -> Any:
        sent = request.content
        if sdk != "google" and b'"stream":true' not in sent and b'"stream": true' not in sent:
            return http.Response(200, headers=as_json, content=body)
        chunks = events
        if sdk == "openai":
            chunks = [*events, _USAGE_CHUNK, _DONE] if b'"include_usage"' in sent else [*events, _DONE]
        return http.Response(200, headers=as_events, stream=Chunks(chunks))

    return http.MockTransport(answer)


def client(cls: Any) -> Any:
    """A client of an SDK's class that answers itself."""
    sdk = cls.__module__.partition(".")[0]
    http: Any = http_library(sdk)
    kind = http.AsyncClient if "Async" in cls.__name__ else http.Client
    return cls(api_key="none", http_client=kind(transport=transport(sdk, http)))


_SEAMS: Final = ("request", "_build_request", "_sleep_for_retry", "_prepare_url")


def _bare(cls: Any, **others: Callable[[Any], Any]) -> Any:
    kept = {name: getattr(cls, name) for name in _SEAMS}
    assert not any(hasattr(function, "__wrapped__") for function in kept.values()), "farebox has wrapped it already"
    kept.update({name: wrap(kept[name]) for name, wrap in others.items()})
    return type(cls.__name__, (cls,), {**kept, "__module__": cls.__module__})


#: Classes by SDK and by whether they are async: the SDK's own, which `instrument()` wraps, and bare ones.
CLASSES: Final[dict[tuple[str, bool], Any]] = {
    ("openai", False): openai.OpenAI,
    ("openai", True): openai.AsyncOpenAI,
    ("anthropic", False): anthropic.Anthropic,
    ("anthropic", True): anthropic.AsyncAnthropic,
}
BARE_CLASSES: Final = {key: _bare(cls) for key, cls in CLASSES.items()}
#: As bare, but for the one thing that farebox takes off the SDK's hands: their difference is what that is worth.
REMEMBERING_CLASSES: Final = {key: _bare(cls, _prepare_url=remember_urls) for key, cls in CLASSES.items()}


def caller(sdk_client: Any, *, stream: bool, request: dict[str, Any]) -> Callable[[], Any]:
    """A function, async for an async client, that makes one call and reads its answer to the end."""
    is_openai = hasattr(sdk_client, "chat")
    create = sdk_client.chat.completions.create if is_openai else sdk_client.messages.create
    if "Async" in type(sdk_client).__name__:

        async def acall() -> None:
            await create(**request)

        async def astream() -> None:
            async for _ in await create(stream=True, **request):
                pass

        return astream if stream else acall

    def call() -> None:
        create(**request)

    def read() -> None:
        for _ in create(stream=True, **request):
            pass

    return read if stream else call
