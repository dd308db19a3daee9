"""OpenAI's responses over a websocket, lane by lane.  Source of the events: types of the openai SDK 3.57."""

from __future__ import annotations

import json
import queue
import threading
from typing import Any

import attrs

from farebox.testing._fake.dialect import Ask, Event, Fault, Reply
from farebox.testing._fake.exchange import LOOK_SECONDS, Call, Exchange
from farebox.testing._fake.server import ClientGone, Connection, Incoming
from farebox.testing._fake.websocket import WebSocket

PATH = "/v1/responses"
_ENVELOPE = ("type", "stream_id")
_ENDS = ("response.completed", "response.incomplete")


@attrs.define
class _Answer:
    """One that is under way, and what was said to steer it."""

    lane: str | None
    body: dict[str, Any]
    steers: list[dict[str, Any]] = attrs.field(factory=list)


class Lanes:
    """One connection: answers of one lane come one after the other, each lane in its own thread."""

    def __init__(self, exchange: Exchange, socket: WebSocket, connection: Connection) -> None:
        self._exchange = exchange
        self._socket = socket
        self._connection = connection
        self._lock = threading.Lock()
        self._queues: dict[str | None, queue.SimpleQueue[dict[str, Any] | None]] = {}
        self._threads: list[threading.Thread] = []
        self._under_way: dict[str, _Answer] = {}
        #: What was said to steer an answer whose client is to go on itself.
        self._put_off: dict[str, list[Any]] = {}
        self._steer_numbers = 0
        self._is_over = threading.Event()
        self._errors: list[Exception] = []

    def converse(self) -> None:
        """Until the client leaves."""
        try:
            while (event := self._socket.hear()) is not None:
                if event.get("type") == "response.create":
                    lane = event.get("stream_id")
                    self._queue(lane if isinstance(lane, str) else None).put(event)
                elif event.get("type") == "response.steer":
                    self._steer(event)
                else:
                    self._error(Fault(400, f"Unknown event {event.get('type')!r}."), None)
        finally:
            self._is_over.set()
            for waiting in self._queues.values():
                waiting.put(None)
            for thread in self._threads:
                thread.join()
            self._socket.end()
        for error in self._errors:
            raise error

    def _queue(self, lane: str | None) -> queue.SimpleQueue[dict[str, Any] | None]:
        if lane not in self._queues:
            self._queues[lane] = queue.SimpleQueue()
            words = (lane, self._queues[lane])
            thread = threading.Thread(target=self._answer_lane, args=words, name="fake-provider-lane", daemon=True)
            self._threads.append(thread)
            thread.start()
        return self._queues[lane]

    def _answer_lane(self, lane: str | None, waiting: queue.SimpleQueue[dict[str, Any] | None]) -> None:
        try:
            while (event := waiting.get()) is not None:
                body = {name: value for name, value in event.items() if name not in _ENVELOPE}
                said_before = self._put_off.pop(body.get("previous_response_id", ""), [])
                if said_before:
                    body["input"] = said_before + _items(body.get("input"))
                more: dict[str, Any] | None = body
                while more is not None:
                    more = self._answer(more, lane)
        except OSError:
            pass  # the client is gone, or all stops
        except Exception as error:
            self._errors.append(error)
            self._socket.drop()

    def _answer(self, body: dict[str, Any], lane: str | None) -> dict[str, Any] | None:
        """Answer one; what to answer next where it was steered."""
        raw = json.dumps({**body, "stream": True}).encode()
        headers = {name: value for name, value in self._socket.incoming.headers.items() if name != "content-type"}
        call = self._exchange.arrive(Incoming("POST", PATH, headers, raw), self._connection)
        try:
            if call.ticket.after_chunks is None:
                self._exchange.pass_gate(call)
            return self._respond(call, body, lane)
        finally:
            self._exchange.gate.leave(call.ticket)

    def _respond(self, call: Call, body: dict[str, Any], lane: str | None) -> dict[str, Any] | None:
        plan, ask, fault = call.plan, call.ask, call.fault
        if plan.fail is not None:
            fault = Fault(plan.fail.status, plan.fail.message)
        if fault is not None or ask is None:
            assert fault is not None
            self._exchange.log.answered(call.request.number, fault.status)
            self._error(fault, lane)
            return None
        if plan.drop is not None and plan.drop.after == "arrival":
            self._socket.drop()
            return None
        if body.get("generate") is False:
            ask = attrs.evolve(ask, cap=0)
        reply = self._exchange.composed(call, ask)
        line = self._exchange.charge(call, ask, reply, False)
        self._exchange.log.answered(call.request.number, 200)
        if plan.drop is not None and plan.drop.after == "billing":
            self._socket.drop()
            return None
        answer = _Answer(lane, body)
        with self._lock:
            self._under_way[reply.response_id] = answer
        try:
            return self._say(call, ask, reply, answer, line)
        finally:
            with self._lock:
                self._under_way.pop(reply.response_id, None)

    def _say(self, call: Call, ask: Ask, reply: Reply, answer: _Answer, line: int) -> dict[str, Any] | None:
        sent = 0
        for event in self._exchange.events(call, ask, reply):
            if call.plan.drop is not None and sent == call.plan.drop.chunks:
                self._socket.drop()
                return None
            if sent == call.ticket.after_chunks and not call.ticket.passed.is_set():
                while not call.ticket.passed.wait(LOOK_SECONDS):
                    if self._is_over.is_set():
                        raise ClientGone
            sent += event.is_content
            if isinstance(event.payload, dict) and event.payload.get("type") in _ENDS:
                self._exchange.till.finish(line)
                return self._end(event, reply, answer)
            self._tell(event, answer.lane)
        return None

    def _end(self, event: Event, reply: Reply, answer: _Answer) -> dict[str, Any] | None:
        """Say the last of it, unless it was steered: then it stops here, and another one goes on from it."""
        with self._lock:
            del self._under_way[reply.response_id]
        if not answer.steers:
            self._tell(event, answer.lane)
            return None
        if reply.function:
            self._tell(event, answer.lane)
            for steer in answer.steers:
                self._put_off.setdefault(reply.response_id, []).extend(_items(steer["input"]))
                told = {"id": steer["id"], "previous_response_id": reply.response_id}
                stub = {"type": "function_call_output", "call_id": "call_1", "name": reply.function}
                self._socket.say(
                    {
                        "type": "response.steer.pending",
                        "steer": told,
                        "reason": "waiting_for_required_input",
                        "required_input": [stub],
                    }
                )
            return None
        assert isinstance(event.payload, dict)
        response = {**event.payload["response"], "status": "incomplete", "incomplete_details": {"reason": "steered"}}
        self._tell(Event({**event.payload, "type": "response.incomplete", "response": response}), answer.lane)
        items = [item for steer in answer.steers for item in _items(steer["input"])]
        return {**answer.body, "input": items, "previous_response_id": reply.response_id}

    def _steer(self, event: dict[str, Any]) -> None:
        steered = event.get("previous_response_id")
        with self._lock:
            self._steer_numbers += 1
            told = {"id": f"steer_{self._steer_numbers}", "previous_response_id": steered}
            answer = self._under_way.get(str(steered))
            if answer is not None:
                answer.steers.append({**event, "id": told["id"]})
        if answer is None:
            error = {"code": "response_not_active", "message": "It is not under way.", "type": "invalid_request_error"}
            failed = {"input": event.get("input"), "previous_response_id": steered}
            self._socket.say({"type": "response.steer.failed", "steer": failed, "error": error})
        else:
            self._socket.say({"type": "response.steer.accepted", "steer": told})

    def _tell(self, event: Event, lane: str | None) -> None:
        assert isinstance(event.payload, dict)
        payload = {"type": "error", "sequence_number": 0, **event.payload}  # an error among the events has neither
        self._socket.say(payload if lane is None else {**payload, "stream_id": lane})

    def _error(self, fault: Fault, lane: str | None) -> None:
        error = {"message": fault.message, "type": fault.type, "code": fault.code, "param": fault.param}
        said = {"type": "error", "status": fault.status, "error": error}
        self._socket.say(said if lane is None else {**said, "stream_id": lane})


def _items(given: Any) -> list[Any]:
    return [{"role": "user", "content": given}] if isinstance(given, str) else list(given or ())
