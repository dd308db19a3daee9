"""A server of OpenAI's live sessions on loopback, which keeps its own bill; it shares no code with farebox."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

from tests.acceptance.websocket_server import serving

MODEL = "gpt-live-1"
#: US dollars of a second of gpt-live-1: 0.05 a minute (https://developers.openai.com/api/docs/models/gpt-live-1, as
#: genai-prices 0.2.3 has it); of a million tokens of its backend gpt-4.1 in and out, and of a search.
SECOND = Decimal("0.05") / 60
BACKEND = "gpt-4.1"
READ, WRITTEN, SEARCH = Decimal(2), Decimal(8), Decimal("0.01")


class LiveServer:
    """A session in which time passes as the test says: a sound of `seconds` seconds is sent as {"audio": "seconds"}.

    Attributes:
        heard: Every event that came, in order.
        seconds: Billable seconds of all sessions.
        backend_usd: Dollars of what the backend answered.
        delegates: A sound has the backend answer.
        is_deaf: What asks it to end is not answered.
        told: What its reports say of the time, in place of the seconds.
    """

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.seconds = 0
        self.backend_usd = Decimal(0)
        self.delegates = False
        self.is_deaf = False
        self.told: Any = None
        self.port = 0
        self.closed = threading.Event()
        self._answers = 0

    @property
    def usd(self) -> Decimal:
        return SECOND * self.seconds + self.backend_usd

    def talk(self, socket: ServerConnection) -> None:
        passed = 0
        with contextlib.suppress(ConnectionClosed):
            for message in socket:
                event = json.loads(message)
                self.heard.append(event)
                kind = event["type"]
                if kind == "session.start" and event["session"].get("model") == "none":
                    self.say(socket, {"type": "error", "error": {"client_event_id": event["event_id"], "code": "no"}})
                elif kind == "session.start":
                    self.say(socket, {"type": "session.started", "session": event["session"]})
                elif kind == "session.input_audio.append":
                    more = int(event["audio"])
                    passed, self.seconds = passed + more, self.seconds + more
                    if self.delegates:
                        self.delegate(socket)
                    told = {"seconds": passed} if self.told is None else self.told
                    self.say(socket, {"type": "session.usage.updated", "usage": told})
                elif kind == "response.create":
                    self.delegate(socket)
                elif kind == "session.close" and not self.is_deaf:
                    self.seconds, passed = self.seconds + 1, passed + 1
                    self.say(
                        socket,
                        {"type": "session.closed", "reason": "close_requested", "usage": {"seconds": passed}},
                    )
        self.closed.set()

    def delegate(self, socket: ServerConnection) -> None:
        """The backend reads 1,000 tokens, searches once, and writes 200."""
        self._answers += 1
        answer = {"id": f"resp_{self._answers}", "object": "response", "model": BACKEND, "output": [], "tools": []}
        self.backend_usd += (READ * 1_000 + WRITTEN * 200) / 1_000_000 + SEARCH
        usage = {"input_tokens": 1_000, "output_tokens": 200, "total_tokens": 1_200}
        search = {
            "type": "web_search_call",
            "id": "ws_1",
            "status": "completed",
            "action": {"type": "search", "query": "q"},
        }
        for nested in (
            {"type": "response.created", "response": {**answer, "status": "in_progress"}},
            {"type": "response.output_item.done", "item": search},
            {"type": "response.completed", "response": {**answer, "status": "completed", "usage": usage}},
        ):
            self.say(socket, {"type": "response.event", "delegation_id": "del_1", "event": nested})

    def say(self, socket: ServerConnection, event: dict[str, Any]) -> None:
        socket.send(json.dumps({"event_id": f"event_{id(event)}", **event}))


@contextlib.contextmanager
def running() -> Iterator[LiveServer]:
    ours = LiveServer()
    with serving(ours.talk) as ours.port:
        yield ours
