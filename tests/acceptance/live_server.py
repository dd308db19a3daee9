"""A server of Google's live sessions on loopback, which keeps its own bill; it shares no code with farebox."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from socket import SHUT_RDWR
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

from tests.acceptance.websocket_server import serving

#: US dollars for a million tokens of gemini-3.8-live, and for a search (https://ai.google.dev/gemini-api/docs/pricing, as
#: genai-prices 0.2.3 has it, read 2026-11-30).
PRICES = {
    "TEXT": Decimal("0.75"),
    "AUDIO": Decimal(3),
    "IMAGE": Decimal(1),
    "TEXT out": Decimal("4.5"),
    "AUDIO out": Decimal(12),
}
SEARCH = Decimal("0.014")
MODEL = "gemini-3.8-live"
WANTED = {"TEXT": 150, "AUDIO": 40, "TEXT out": 0, "AUDIO out": 75}


class LiveServer:
    """Answers what ends a turn of its client's, and a text or the end of an activity that it hears, of itself.

    Attributes:
        heard: Every message that came, in order, but for those in `odd`, which no API knows.
        bill: Dollars of each report of usage that was due.
        script: What the next answers do: counts, with "tool" to call one first, "late" (usage after the end of the turn),
            "apart" (usage before it, alone), "silent" (no usage), "searches" or "usage" to send in place of the true one; or
            "lose".
    """

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.odd: list[str | bytes] = []
        self.bill: list[Decimal] = []
        self.script: deque[Any] = deque()
        self.port = 0

    @property
    def usd(self) -> Decimal:
        return sum(self.bill, Decimal(0))

    def talk(self, socket: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            for message in socket:
                try:
                    event = json.loads(message)
                    content, heard = event.get("client_content", {}), event.get("realtime_input", {})
                    is_odd = "dreams" in event or content == 3 or heard.get("audio") == 7
                except (ValueError, AttributeError):
                    is_odd = True
                if is_odd:
                    self.odd.append(message)
                    continue
                self.heard.append(event)
                if "setup" in event:
                    self.say(socket, {"setupComplete": {}})
                elif (
                    content.get("turnComplete")
                    or heard.get("text")
                    or "activityEnd" in heard
                    or "tool_response" in event
                ):
                    self.answer(socket)

    def answer(self, socket: ServerConnection) -> None:
        plan = self.script.popleft() if self.script else {}
        if plan == "lose":
            self.charge({})
            self.say(socket, {"serverContent": {"modelTurn": {"parts": [{"text": "A"}]}}})
            socket.socket.shutdown(SHUT_RDWR)
            return
        usage = {"usageMetadata": plan.get("usage", usage_of({**WANTED, **plan}))}
        if plan.get("tool"):
            if plan["tool"] == "told":
                self.charge(plan)
            else:
                usage = {}
            calls = [{"id": "call_1", "name": "look", "args": {}}]
            self.say(socket, {"toolCall": {"functionCalls": calls}, **usage})
            return
        self.charge(plan)
        for _ in range(3):
            blob = {"mimeType": "audio/pcm;rate=24000", "data": "AAAA"}
            grounding = {"webSearchQueries": [f"q{n}" for n in range(plan.get("searches", 0))]}
            content = {"modelTurn": {"parts": [{"inlineData": blob}]}, "groundingMetadata": grounding}
            self.say(socket, {"serverContent": content})
        end = {"serverContent": {"turnComplete": True, "interactionStatus": "IDLE"}}
        if plan.get("apart"):
            self.say(socket, {"serverContent": {"generationComplete": True}, **usage})
            usage = {}
        self.say(socket, end if plan.get("late") or plan.get("silent") else {**end, **usage})
        if plan.get("late"):
            self.say(socket, usage)

    def charge(self, plan: dict[str, Any]) -> None:
        counts = {**WANTED, **plan}
        tokens = sum(price * counts.get(kind, 0) for kind, price in PRICES.items()) / 1_000_000
        self.bill.append(tokens + SEARCH * counts.get("searches", 0))

    def say(self, socket: ServerConnection, message: dict[str, Any]) -> None:
        socket.send(json.dumps(message).encode())


def usage_of(counts: dict[str, Any]) -> dict[str, Any]:
    kinds = ("TEXT", "AUDIO", "IMAGE")
    read, written = ({kind: counts.get(kind + end, 0) for kind in kinds} for end in ("", " out"))
    return {
        "promptTokenCount": sum(read.values()),
        "responseTokenCount": sum(written.values()),
        "totalTokenCount": sum(read.values()) + sum(written.values()),
        "promptTokensDetails": [{"modality": kind, "tokenCount": count} for kind, count in read.items() if count],
        "responseTokensDetails": [{"modality": kind, "tokenCount": count} for kind, count in written.items() if count],
    }


def encrypted(protocol: int) -> ssl.SSLContext:
    """TLS without certificates, which both sides agree to: the SDK speaks to no other server."""
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("aNULL:@SECLEVEL=0")
    return context


@contextlib.contextmanager
def running() -> Iterator[LiveServer]:
    ours = LiveServer()
    with serving(ours.talk, ssl=encrypted(ssl.PROTOCOL_TLS_SERVER)) as ours.port:
        yield ours
