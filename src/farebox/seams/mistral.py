"""The seam of Mistral's SDK: its clients for Mistral, Azure and Google Cloud, and the old packages of the last two.

Each has a base class of its own, by which every resource of it sends (see `_speakeasy`).  Streams are an `EventStream`
over the response, whose generator is read through one of ours.  Websockets are noticed where they are opened.  (mistralai 3.7.0, `client/basesdk.py`,
`client/utils/eventstreaming.py`; the same names in 1.12.4; read 2026-11-30.)
"""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from typing import Any, Final

from farebox import signals
from farebox._call import Call
from farebox._streams import end_call, watched
from farebox.providers._unmetered import READER, unmetered_call
from farebox.seams._patches import CLIENT_MARK, Link, Patches, failed, incompatible
from farebox.seams._speakeasy import Stack, sends

#: The packages of which each has a base class; those without `client` are of 1.x.
_ROOTS: Final = (
    "mistralai.client",
    "mistralai.azure.client",
    "mistralai.gcp.client",
    "mistralai",
    "mistralai_azure",
    "mistralai_gcp",
)
_METHODS: Final = (("do_request", "client"), ("do_request_async", "async_client"))
_STREAMS: Final = ("EventStream", "EventStreamAsync")
#: The modules and the classes whose `connect` opens a websocket, and what it is called.
_SOCKETS: Final = (
    ("mistralai.extra.realtime.transcription", "RealtimeTranscription", "audio.realtime.connect"),
    ("mistralai.extra.realtime.speech", "RealtimeSpeech", "audio.realtime_speech.connect"),
)
#: What an answer becomes, by its endpoint.
_MODELS: Final = {
    "/chat/completions": "ChatCompletionResponse",
    "/fim/completions": "FIMCompletionResponse",
    "/embeddings": "EmbeddingResponse",
    "/ocr": "OCRResponse",
}


class MistralSeam(Patches):
    """The patched classes of mistralai."""

    @property
    def awaited(self) -> tuple[str, ...]:
        return (*(f"{root}.basesdk" for root in _ROOTS), *(module for module, _, _ in _SOCKETS))

    def install(self) -> None:
        for root in _ROOTS:
            module = sys.modules.get(f"{root}.basesdk")
            if module is not None:
                self._install_in(root, module)
        for name, cls, path in _SOCKETS:
            kind = getattr(sys.modules.get(name), cls, None)
            if kind is not None:
                self._patch(kind, "connect", Socket(self, path).wrap)

    def _install_in(self, root: str, module: Any) -> None:
        base = getattr(module, "BaseSDK", None)
        if base is None or not all(sends(base, method) for method, _ in _METHODS):
            raise incompatible(module, "BaseSDK has no `do_request` and `do_request_async` as it had", "mistral")
        streams = importlib.import_module(f"{root}.utils.eventstreaming")
        if not all("__init__" in vars(getattr(streams, name, object)) for name in _STREAMS):
            raise incompatible(module, "it has no EventStream as it had", "mistral")
        for method, client_name in _METHODS:
            stack = Requests(self, client_name)
            self._patch(base, method, stack.wrap_async if method.endswith("_async") else stack.wrap)
        for name in _STREAMS:
            self._patch(getattr(streams, name), "__init__", _read_through_ours)

    def is_client(self, client: Any) -> bool:
        found = (getattr(sys.modules.get(name), "BaseSDK", None) for name in self.awaited)
        return isinstance(client, tuple(base for base in found if base is not None)) or any(
            client is one for one in self.clients
        )

    def target(self, client: Any) -> Any:
        """The hooks, of which a client and all its parts share one object."""
        return _hooks_of(client) if hasattr(client, "sdk_configuration") else client


class Socket:
    """What is put over a `connect`: what is said over the websocket nobody reads, so it is noticed where it is opened."""

    def __init__(self, seam: Patches, path: str) -> None:
        self._seam = seam
        self._path = path

    def wrap(self, original: Any) -> Any:
        """`connect`, noticed."""

        async def connect(opener: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            seam, hooks = self._seam, opener._sdk_config.__dict__["_hooks"]
            if not seam.is_global and hooks not in seam.clients:
                return await original(opener, model, *args, **kwargs)
            call = unmetered_call(seam.provider.name, self._path, {"model": model}, "")
            call.is_async, call.client_frame = True, hooks.__dict__.get(CLIENT_MARK)
            link = Link(call, READER)
            try:
                waiting = signals.pre_call.publish_async(call)
                if waiting is not None:
                    await waiting
                call.attempts, call.is_sent = 1, True
                socket = await original(opener, model, *args, **kwargs)
                end_call(call, "completed")
            except BaseException as error:
                failed(link, error)
                raise
            return socket

        return connect


class Requests(Stack):
    """What is put over one of the two methods."""

    def mark_of(self, sdk: Any) -> Any:
        hooks = _hooks_of(sdk)
        return hooks if hooks in self.seam.clients else None

    def as_model(self, call: Call, answer: Any) -> Any:
        models = sys.modules.get("mistralai.client.models") or sys.modules.get("mistralai.models")
        with suppress(Exception):
            return getattr(models, _MODELS[call.endpoint]).model_validate(answer)
        return answer


def _hooks_of(sdk: Any) -> Any:
    return sdk.sdk_configuration.__dict__["_hooks"]


def _read_through_ours(original: Any) -> Any:
    def initialise(stream: Any, response: Any, *args: Any, **kwargs: Any) -> None:
        original(stream, response, *args, **kwargs)
        stream.generator = watched(response, stream.generator)

    return initialise
