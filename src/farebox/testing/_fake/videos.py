"""The OpenAI formats of videos, made in the background, and of containers.  Source of the fields: the openai SDK 3.54."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from farebox.testing._fake.dialect import Ask, Count, Event, Reply
from farebox.testing._fake.openai import OpenAIFormat, missing
from farebox.testing._fake.prices import CONTAINER_PICOS, MILLI_USD_PICOS, Charge

# Thousandths of a USD for a second.
SECOND = {
    ("sora-2", 720): 100,
    ("sora-2-pro", 720): 300,
    ("sora-2-pro", 1_024): 500,
}

_STORED = re.compile(r"^/v1/videos/(video_[^/]+)$")
_MADE_OF = re.compile(r"^/v1/videos/(video_[^/]+/remix|edits|extensions)$")


class Videos(OpenAIFormat):
    paths = ("/v1/videos",)

    def serves(self, method: str, path: str) -> bool:
        if method == "GET":
            return _STORED.match(path) is not None
        return super().serves(method, path) or (method == "POST" and _MADE_OF.match(path) is not None)

    def response_id(self, number: int) -> str:
        return f"video_fake_{number:06d}"

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        stored = _STORED.match(path)
        if stored is not None:
            return Ask(model="", stream=False, cap=0, choices=0, wants_usage=False, input_tokens=0, looks_at=stored[1])
        if not body.get("prompt"):
            raise missing("prompt")
        model, size = str(body.get("model") or "sora-2"), str(body.get("size") or "720x1280")
        seconds = int(body.get("seconds") or 4)
        shorter = min(map(int, size.split("x")))
        return Ask(
            model=model,
            stream=False,
            cap=0,
            choices=0,
            wants_usage=False,
            input_tokens=0,
            charges=(Charge("seconds of video", seconds, SECOND[model, shorter] * MILLI_USD_PICOS),),
            form=size,
            is_stored=True,
            background=True,
        )

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        return {}

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        return self.unfinished(ask, reply, "failed" if reply.failed else "completed")

    def unfinished(self, ask: Ask, reply: Reply, status: str) -> dict[str, Any]:
        return {
            "id": reply.response_id,
            "object": "video",
            "created_at": reply.created,
            "status": status,
            "model": reply.model,
            "progress": 100 if status == "completed" else 0,
            "seconds": str(ask.charges[0].count),
            "size": ask.form,
        }

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        return iter(())


class Containers(OpenAIFormat):
    paths = ("/v1/containers",)

    def response_id(self, number: int) -> str:
        return f"cntr_fake_{number:06d}"

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        if not body.get("name"):
            raise missing("name")
        memory = str(body.get("memory_limit") or "1g")
        return Ask(
            model="container",
            stream=False,
            cap=0,
            choices=0,
            wants_usage=False,
            input_tokens=0,
            charges=(Charge("containers", 1, CONTAINER_PICOS[memory] * MILLI_USD_PICOS),),
            form=memory,
        )

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        return {}

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        found = {"id": reply.response_id, "object": "container", "created_at": reply.created, "name": "c"}
        return {**found, "status": "running", "memory_limit": ask.form}

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        return iter(())
