"""A server of realtime sessions on loopback, which keeps its own bill; it shares no code with farebox."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from socket import SHUT_RDWR
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

from tests.acceptance.websocket_server import serving

#: US dollars for a million tokens of gpt-realtime (https://platform.openai.com/docs/pricing, a copy, read 2026-11-29).
PRICES = {
    "text": Decimal(4),
    "cached_text": Decimal("0.4"),
    "audio": Decimal(32),
    "cached_audio": Decimal("0.4"),
    "text_out": Decimal(16),
    "audio_out": Decimal(64),
}
MODEL = "gpt-realtime"
WANTED = {"text": 50, "audio": 20, "cached_text": 10, "cached_audio": 4, "text_out": 12, "audio_out": 30}


class RealtimeServer:
    """Answers each `response.create`, and a sound that it is told to answer of itself.

    Attributes:
        heard: Every event that came, in order, and those that were asked for an answer.
        bill: Dollars of each answer that was begun.
        script: What the next answers do: counts, or one of "lose", "refuse", "linger" (until it is cancelled), or a usage to
            send in place of the true one.
        answers_sound: A sound is answered.
        stops: An answer that lingers and is cancelled says what it came to.
    """

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.bill: list[Decimal] = []
        self.script: deque[Any] = deque()
        self.answers_sound = False
        self.stops = True
        self.lingers: dict[str, dict[str, Any]] = {}
        self.session: dict[str, Any] = {"type": "realtime", "model": MODEL, "max_output_tokens": "inf"}
        self.port = 0
        self.closed = threading.Event()

    @property
    def asked(self) -> list[dict[str, Any]]:
        return [event for event in self.heard if event["type"] == "response.create"]

    @property
    def usd(self) -> Decimal:
        return sum(self.bill, Decimal(0))

    def talk(self, socket: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            self.say(socket, {"type": "session.created", "session": self.session})
            for message in socket:
                event = json.loads(message)
                self.heard.append(event)
                if event["type"] == "response.create":
                    self.answer(socket, event)
                elif event["type"] == "input_audio_buffer.append" and self.answers_sound:
                    self.answer(socket, {})
                elif event["type"] == "response.cancel" and self.stops and self.lingers:
                    self.say(socket, {"type": "response.done", "response": self.lingers.pop(event["response_id"])})
                elif event["type"] == "session.update":
                    self.session.update(event["session"])
                    self.say(socket, {"type": "session.updated", "session": self.session})
        self.closed.set()

    def answer(self, socket: ServerConnection, event: dict[str, Any]) -> None:
        plan = self.script.popleft() if self.script else {}
        if plan == "refuse":
            self.say(socket, {"type": "error", "error": {"event_id": event.get("event_id"), "message": "no"}})
            return
        answer_id = f"resp_{len(self.bill) + 1}"
        counts = {**WANTED, **(plan if isinstance(plan, dict) and "usage" not in plan else {})}
        cap = event.get("response", {}).get("max_output_tokens", self.session["max_output_tokens"])
        if cap != "inf":
            counts["audio_out"] = min(counts["audio_out"], cap)
            counts["text_out"] = min(counts["text_out"], cap - counts["audio_out"])
        self.bill.append(sum(PRICES[kind] * count for kind, count in counts.items()) / 1_000_000)
        self.say(socket, {"type": "response.created", "response": {"id": answer_id, "status": "in_progress"}})
        self.say(socket, {"type": "response.output_audio.delta", "response_id": answer_id, "delta": "AAAA"})
        if plan == "lose":
            socket.socket.shutdown(SHUT_RDWR)
            return
        done = {"id": answer_id, "object": "realtime.response", "status": "completed", "usage": usage_of(counts)}
        if isinstance(plan, dict) and "usage" in plan:
            done["usage"] = plan["usage"]
        if plan == "linger":
            self.lingers[answer_id] = {**done, "status": "cancelled"}
            return
        self.say(socket, {"type": "response.done", "response": done})

    def say(self, socket: ServerConnection, event: dict[str, Any]) -> None:
        socket.send(json.dumps({"event_id": f"event_{id(event)}", **event}))


def usage_of(counts: dict[str, int]) -> dict[str, Any]:
    text, audio = counts["text"] + counts["cached_text"], counts["audio"] + counts["cached_audio"]
    return {
        "input_tokens": text + audio,
        "output_tokens": counts["text_out"] + counts["audio_out"],
        "total_tokens": text + audio + counts["text_out"] + counts["audio_out"],
        "input_token_details": {
            "text_tokens": text,
            "audio_tokens": audio,
            "image_tokens": 0,
            "cached_tokens": counts["cached_text"] + counts["cached_audio"],
            "cached_tokens_details": {
                "text_tokens": counts["cached_text"],
                "audio_tokens": counts["cached_audio"],
                "image_tokens": 0,
            },
        },
        "output_token_details": {"text_tokens": counts["text_out"], "audio_tokens": counts["audio_out"]},
    }


@contextlib.contextmanager
def running() -> Iterator[RealtimeServer]:
    ours = RealtimeServer()
    with serving(ours.talk) as ours.port:
        yield ours
