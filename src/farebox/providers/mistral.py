"""Mistral's wire format, of its own servers, of Azure and of Google Cloud: which endpoint is whose.

Paths: mistralai 3.7.0, `client/`, `azure/client/`, `gcp/client/` (read 2026-11-30).  What an agent does has no bound and no
price here, nor has what runs at Mistral: they are not read, and so refused under a limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call
from farebox.providers import Metering, StreamReader
from farebox.providers._mistral_audio import (
    TRANSCRIPTIONS,
    TranscriptReader,
    read_transcription,
    read_transcription_request,
)
from farebox.providers._mistral_chat import (
    CHAT,
    FIM,
    CompletionReader,
    read_chat_request,
    read_completion,
    read_fim_request,
    rewrite,
)
from farebox.providers._mistral_ocr import OCR, read_ocr_answer, read_ocr_request
from farebox.providers._openai_completions import add_prompt, prompts_of, set_sizes
from farebox.providers._openai_embeddings import PATH as EMBEDDINGS
from farebox.providers._openai_embeddings import Embeddings
from farebox.providers._openai_usage import EMBEDDINGS as NAMES
from farebox.providers._openai_usage import read_head, read_usage
from farebox.providers._reading import NoStream, Sizes, fields, text_of

_CLASSIFIERS: Final = ("/chat/moderations", "/chat/classifications", "/moderations", "/classifications")
#: Google Cloud's name for any request to a model, whose kind its body tells.
_RAW: Final = re.compile(r"[:/](?:stream)?[rR]awPredict$")
#: What costs nothing: files, and to stop, name, change and look for things (https://mistral.ai/pricing has no price of them;
#: not verified).  Not what is made of a document in a library, or asked of an agent.
_FREE: Final = re.compile(
    r"(?!.*/audio/).*/(?:files|batch/jobs/[^/]+/cancel|responses/input_tokens|agents|v2/(?:prompts|skills)(?:/.+)?)"
)
_EMBEDDINGS: Final = Embeddings()


class Mistral:
    """Chat completions, text filled in, embeddings, classifiers, documents and transcriptions."""

    name = "mistral_ai"
    sdk = "mistralai.client"
    seam = "mistral"
    clients = ("Mistral", "Mistral")
    chat_path = CHAT

    def read_request(self, path: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        name = self.name
        if _RAW.search(path):
            name, path = "gcp.vertex_ai", FIM if "prompt" in body else OCR if "document" in body else CHAT
        elif server_address.endswith(".azure.com"):
            name = "azure.ai.inference"
        call = self._read(name, path, body, server_address)
        if call is not None:
            call.is_plain = False
            if server_address.startswith(("api.eu.", "api.us.")):
                # That a region costs more is not verified: it is held and charged as those of other vendors do.
                call.tier = f"{call.tier}+regional" if call.tier else "regional"
        return call

    def _read(self, name: str, path: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        if path.endswith(CHAT):
            return read_chat_request(name, body, server_address)
        if path.endswith(FIM):
            return read_fim_request(name, body, server_address)
        if path.endswith(EMBEDDINGS):
            return _EMBEDDINGS.read_request(name, body, server_address)
        if path.endswith(OCR):
            return read_ocr_request(name, body, server_address)
        if path.endswith(TRANSCRIPTIONS):
            return read_transcription_request(name, body, server_address)
        kind = _classifier(path)
        return None if kind is None else _read_classification(name, kind, body, server_address)

    def metering(self, path: str) -> Metering:
        if path.endswith((CHAT, FIM, EMBEDDINGS, OCR, TRANSCRIPTIONS)) or _classifier(path) or _RAW.search(path):
            return "metered"
        return "free" if _FREE.fullmatch(path) else "unmetered"

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        return rewrite(call)

    def read_answer(self, call: Call, answer: Any) -> None:
        found = fields(answer)
        if call.endpoint in (CHAT, FIM):
            read_completion(call, found)
        elif call.endpoint == EMBEDDINGS:
            _EMBEDDINGS.read_answer(call, found)
        elif call.endpoint == OCR:
            read_ocr_answer(call, found)
        elif call.endpoint == TRANSCRIPTIONS:
            read_transcription(call, found)
        else:
            read_head(call, found)
            call.usage = read_usage(call, found.get("usage"), NAMES)

    def stream_reader(self, call: Call) -> StreamReader:
        if call.endpoint in (CHAT, FIM):
            return CompletionReader(call)
        return TranscriptReader(call) if call.endpoint == TRANSCRIPTIONS else NoStream()

    def answers(self, path: str, method: str) -> str:
        return ""


def _classifier(path: str) -> str | None:
    return next((kind for kind in _CLASSIFIERS if path.endswith(kind)), None)


def _read_classification(name: str, path: str, body: Mapping[str, Any], server_address: str) -> Call | None:
    """The call that a text to be judged makes: paid by its tokens, and nothing is put out."""
    model, given = text_of(body.get("model")), body.get("input")
    inputs = [given] if isinstance(given, Mapping) else prompts_of(given)  # a conversation, or several of them
    if not model or not inputs:
        return None
    call = Call(name, "moderation" if path.endswith("moderations") else "classification", path, model, server_address)
    sizes = Sizes({})
    for one in inputs:
        call.last_message_bytes = add_prompt(sizes, one)
    call.choices, call.accepts_cap, call.cache_write, call.messages = 0, False, "none", len(inputs)
    set_sizes(call, sizes)
    return call


PROVIDER: Final = Mistral()
