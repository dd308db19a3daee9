"""One request, from arrival to its last byte: record, plan, gate, charge, answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import attrs

from farebox.testing._fake.answer import Answer, Tokenizer, compose
from farebox.testing._fake.audio import Speech, Transcriptions
from farebox.testing._fake.bill import BillLine, Till
from farebox.testing._fake.chat import Chat
from farebox.testing._fake.clouds import CloudMessages
from farebox.testing._fake.cohere import FORMATS as COHERE
from farebox.testing._fake.completions import Completions
from farebox.testing._fake.decisions import Decisions
from farebox.testing._fake.desk import Desk
from farebox.testing._fake.dialect import Ask, Dialect, Event, Fault, Reply
from farebox.testing._fake.embeddings import Embeddings
from farebox.testing._fake.gate import Gate, Ticket
from farebox.testing._fake.google import Google
from farebox.testing._fake.google_caches import GoogleCaches
from farebox.testing._fake.google_desk import GoogleDesk
from farebox.testing._fake.google_media import GooglePictures, GoogleVideos
from farebox.testing._fake.images import Images
from farebox.testing._fake.interactions import InteractionDecisions, Interactions
from farebox.testing._fake.messages import Messages
from farebox.testing._fake.mistral import FORMATS as MISTRAL
from farebox.testing._fake.multipart import read_multipart
from farebox.testing._fake.odd import Odd
from farebox.testing._fake.other import ASK, Other
from farebox.testing._fake.prices import Price, price_of
from farebox.testing._fake.request import Request, RequestLog
from farebox.testing._fake.responses import Responses
from farebox.testing._fake.runs import Runs
from farebox.testing._fake.script import Plan, Script
from farebox.testing._fake.server import ClientGone, Connection, Incoming, Stopped, chunk, stream_head
from farebox.testing._fake.stored import Shelf
from farebox.testing._fake.videos import Containers, Videos

DIALECTS: tuple[Dialect, ...] = (
    Chat(),
    Messages(),
    CloudMessages(),
    Responses(),
    Completions(),
    Embeddings(),
    Decisions(),
    Images(),
    Speech(),
    Transcriptions(),
    Videos(),
    Containers(),
    Runs(),
    *MISTRAL,
    *COHERE,
    Interactions(),
    InteractionDecisions(),
    GooglePictures(),
    GoogleVideos(),
    Google(),
)
GOOGLES: tuple[Dialect, ...] = tuple(dialect for dialect in DIALECTS if dialect.vendor == "google")
#: Added to what the real API says of a model that it does not have.
_NO_PRICE = " (this fake provider has no price of it: FakeProvider(prices={{{0!r}: Price(input=..., output=...)}}))"
LOOK_SECONDS = 0.02  # how often a hanging answer looks whether its client is still there

StreamBilling = Literal["whole", "generated"]


@attrs.define
class Call:
    """What is known of the request under way."""

    connection: Connection
    dialect: Dialect
    request: Request
    query: str
    ask: Ask | None
    fault: Fault | None
    plan: Plan
    ticket: Ticket

    @property
    def headers(self) -> dict[str, str]:
        return {self.dialect.request_id_header: self.request.request_id}


@attrs.define
class Exchange:
    """Answers requests by the script, and writes the bill before any byte of an answer."""

    script: Script
    gate: Gate
    till: Till
    log: RequestLog
    prices: dict[str, Price]
    tokenizer: Tokenizer
    clock: Callable[[], float]
    stream_billing: StreamBilling
    stopping: threading.Event
    shelf: Shelf = attrs.field(factory=Shelf)
    others: list[Other] = attrs.field(factory=list)
    #: Fields of a body that are refused, and how.
    refused: dict[str, Fault] = attrs.field(factory=dict)
    _arrivals: threading.Lock = attrs.field(factory=threading.Lock)
    desk: Desk = attrs.field(init=False)
    google_desks: tuple[GoogleDesk, GoogleCaches] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.desk = Desk(
            script=self.script,
            till=self.till,
            log=self.log,
            prices=self.prices,
            tokenizer=self.tokenizer,
            clock=self.clock,
            dialect_of=lambda method, path: _dialect(Incoming(method, path, {}, b""), ()),
            looks=lambda: self.shelf.looks,
        )
        self.google_desks = GoogleDesk(self.desk), GoogleCaches(self.desk)

    def serve(self, incoming: Incoming, connection: Connection) -> None:
        is_given = any(other.serves(incoming.method, incoming.path) for other in self.others)
        for desk in self.google_desks:
            if not is_given and desk.serves(incoming):
                desk.answer(incoming, connection)
                return
        if not is_given and self.desk.serves(incoming):
            self.desk.answer(incoming, _body_of(incoming), connection)
            return
        call = self.arrive(incoming, connection)
        try:
            self._respond(call)
        finally:
            self.gate.leave(call.ticket)

    def arrive(self, incoming: Incoming, connection: Connection) -> Call:
        """Number the request and draw its plan in one step, so that the order of arrival decides everything."""
        dialect = _dialect(incoming, self.others)
        body, ask, fault = self._read(incoming, dialect)
        with self._arrivals:
            request = self.log.add(incoming.method, incoming.path, incoming.headers, body, self.clock())
            plan = Plan() if ask is None else self.script.draw(ask.model, free=_is_free(dialect, request, ask))
            return Call(connection, dialect, request, incoming.query, ask, fault, plan, self.gate.arrive())

    def _read(self, incoming: Incoming, dialect: Dialect) -> tuple[dict[str, Any] | None, Ask | None, Fault | None]:
        """The body, what it asks for, and why it is refused."""
        body: Any = None
        try:
            body = _body_of(incoming)
        except ValueError as error:
            malformed = dialect.malformed(str(error))
        else:
            malformed = dialect.malformed("expected an object")
        body = body if isinstance(body, dict) else None
        if isinstance(dialect, Other):
            return body, ASK, None
        try:
            if not dialect.serves(incoming.method, incoming.path):
                raise dialect.unknown_path(incoming.method, incoming.path)
            if body is None:
                raise malformed
            for name in self.refused.keys() & body.keys():
                raise self.refused[name]
            ask = self.shelf.with_context(dialect.read(incoming.path, body, self.tokenizer))
            self._price(dialect, ask.model)
        except Fault as fault:
            return body, None, fault
        return body, ask, None

    def _price(self, dialect: Dialect, model: str) -> Price:
        price = price_of(model, self.prices)
        if price is None or price.vendor not in (None, dialect.vendor):
            fault = dialect.unknown_model(model)
            if price is None:
                fault.message += _NO_PRICE.format(model[:100])
            raise fault
        return price

    def _respond(self, call: Call) -> None:
        plan = call.plan
        if not (call.ask is not None and call.ask.stream and call.ticket.after_chunks is not None):
            self.pass_gate(call)
        if plan.delay_seconds is not None and self.stopping.wait(plan.delay_seconds):
            raise Stopped
        fault, headers = call.fault, call.headers
        if plan.fail is not None:
            fault = Fault(plan.fail.status, plan.fail.message)
            headers = {**headers, **plan.fail.headers}
        if fault is not None or call.ask is None:
            assert fault is not None
            self.log.answered(call.request.number, fault.status)
            payload = call.dialect.error(fault, call.request.request_id)
            call.connection.answer_json(fault.status, headers, payload)
        elif call.ask.looks_at:
            self._look(call, call.ask)
        elif _is_free(call.dialect, call.request, call.ask):
            self.log.answered(call.request.number, 200)
            call.connection.answer_json(200, headers, call.dialect.counted(call.ask.input_tokens))
        elif plan.drop is not None and plan.drop.after == "arrival":
            call.connection.keep = False
        else:
            self._answer(call, call.ask)

    def pass_gate(self, call: Call) -> None:
        call.ticket.passed.wait()
        if self.stopping.is_set():
            raise Stopped

    def _answer(self, call: Call, ask: Ask) -> None:
        """Charge, then say it: whole or as a stream, or not at all."""
        plan, reply = call.plan, self.composed(call, ask)
        grows = ask.stream and not ask.background and self._grows(plan)
        line = self.charge(call, ask, reply, grows)
        if plan.hang is not None:
            self._hang(call, plan.hang.seconds)
        if plan.drop is not None and plan.drop.after == "billing":
            call.connection.keep = False
        elif ask.stream and (plan.odd is None or plan.odd.body is None):
            self._stream(call, ask, reply, line, grows)
        else:
            self._whole(call, ask, reply, line, plan.odd or Odd())

    def composed(self, call: Call, ask: Ask) -> Reply:
        """What the model says to it."""
        answer = call.plan.answer(call.request) if callable(call.plan.answer) else call.plan.answer
        if not isinstance(answer, Answer):
            raise TypeError(f"the function given to answer() returned {answer!r}, not an Answer")
        return compose(
            answer,
            ask,
            self.tokenizer,
            response_id=call.dialect.response_id(call.request.number),
            created=int(self.clock()),
            chunks=call.plan.chunks,
        )

    def _grows(self, plan: Plan) -> bool:
        """Whether a stream is charged as it is generated. An answer that nobody gets to see was generated in full."""
        unseen = plan.hang is not None or (plan.drop is not None and plan.drop.after == "billing")
        whole = unseen or (plan.odd is not None and plan.odd.body is not None)
        return not whole and (self.stream_billing == "generated" or plan.pace_seconds is not None)

    def charge(self, call: Call, ask: Ask, reply: Reply, grows: bool) -> int:
        """Put an answer on the bill, where one that grows has no text yet, and keep it; the number of its line."""
        self.shelf.keep(ask, reply)
        price = self._price(call.dialect, reply.model)
        number = self.till.charge(
            price,
            line := BillLine(
                number=0,
                path=call.request.path,
                model=reply.model,
                stream=ask.stream,
                input_tokens=reply.input_tokens,
                cached_tokens=reply.cached_tokens,
                cache_write_tokens=reply.cache_write_tokens,
                cache_write_1h_tokens=reply.cache_write_1h_tokens,
                output_tokens=reply.reasoning_tokens if grows else reply.output_tokens,
                reasoning_tokens=reply.reasoning_tokens,
                usd_nanos=0,
                finished=False,
                request_id=call.request.request_id,
                response_id=reply.response_id,
                at=self.clock(),
                web_searches=reply.searches,
                image_tokens=reply.image_tokens,
                audio_tokens=reply.audio_tokens,
                charges=reply.charges,
            ),
        )
        nothing: dict[str, Any] = {
            name: 0 for name in attrs.fields_dict(BillLine) if name.endswith(("_tokens", "_searches"))
        }
        for other in reply.others:
            used = {**nothing, "input_tokens": other.input_tokens, "output_tokens": other.output_tokens}
            work = attrs.evolve(line, model=other.model, charges=(), finished=True, **used)
            self.till.charge(self._price(call.dialect, other.model), work)
        return number

    def _look(self, call: Call, ask: Ask) -> None:
        """Answer what became of an earlier answer, whole or as a stream.  Nothing is charged."""
        stored = self.shelf.look(ask)
        self.log.answered(call.request.number, 200)
        if "stream=true" in call.query.lower() or ask.stream:
            seen = attrs.evolve(stored.ask, looks_at=ask.looks_at)
            body = b"".join(event.encode() for event in call.dialect.events(seen, stored.reply))
            call.connection.answer(200, {"content-type": "text/event-stream; charset=utf-8", **call.headers}, body)
        elif stored.status is None:
            payload: Any = call.dialect.answer(stored.ask, stored.reply)
            call.connection.answer_json(200, call.headers, payload)
        else:
            payload = _unfinished(call.dialect, stored.ask, stored.reply, stored.status)
            call.connection.answer_json(200, call.headers, payload)

    def _hang(self, call: Call, seconds: float | None) -> None:
        until = None if seconds is None else time.monotonic() + seconds
        while until is None or time.monotonic() < until:
            if self.stopping.wait(LOOK_SECONDS):
                raise Stopped
            if call.connection.gone():
                raise ClientGone

    def _whole(self, call: Call, ask: Ask, reply: Reply, line: int, odd: Odd) -> None:
        """A plain answer, or the odd body of a stream, in one piece."""
        if ask.stream:
            content_type = "text/event-stream; charset=utf-8"
            body = b"".join(event.encode() for event in self.events(call, ask, reply))
        else:
            content_type = "application/json"
            payload: Any = call.dialect.answer(ask, reply)
            if ask.background:
                payload = _unfinished(call.dialect, ask, reply, "queued")
            if isinstance(payload, bytes):
                content_type, body = "audio/mpeg", payload
            elif isinstance(payload, str):
                content_type, body = "text/plain; charset=utf-8", payload.encode()
            else:
                body = json.dumps(odd.payload(payload), separators=(",", ":")).encode()
        headers = {"content-type": odd.content_type or content_type, **call.headers}
        body = odd.raw(body)
        self.log.answered(call.request.number, 200)
        if call.plan.drop is not None:
            call.connection.answer(200, headers, body, cut_at=len(body) // 2)
            return
        self.till.finish(line)
        try:
            call.connection.answer(200, headers, body)
        except ConnectionError:
            self.till.finish(line, False)
            raise

    def events(self, call: Call, ask: Ask, reply: Reply) -> Iterator[Event]:
        events = call.dialect.events(ask, reply)
        if call.plan.odd is None:
            return events
        return call.plan.odd.events(events, call.dialect, ask, reply, call.request.request_id)

    def _stream(self, call: Call, ask: Ask, reply: Reply, line: int, grows: bool) -> None:
        """Send event by event; a bill that grows does so before each is sent, and no more once the client has gone."""
        connection, plan, ticket = call.connection, call.plan, call.ticket
        content_type = (plan.odd and plan.odd.content_type) or "text/event-stream; charset=utf-8"
        waiting = stream_head({"content-type": content_type, "cache-control": "no-cache", **call.headers})
        hurries = not (grows or plan.drop or ticket.after_chunks is not None)
        self.log.answered(call.request.number, 200)
        held = ticket.after_chunks is not None
        sent = 0
        for event in self.events(call, ask, reply):
            if plan.drop is not None and sent == plan.drop.chunks:
                break
            if held and sent == ticket.after_chunks:
                connection.send(waiting)
                waiting = b""
                self._wait_in_stream(call)
                held = False
            if event.is_content:
                if grows and connection.gone(plan.pace_seconds or 0.0 if sent else 0.0):
                    return
                sent += 1
            if grows and event.tokens:
                self.till.grow(line, output_tokens=event.tokens)
            waiting += chunk(event.encode())
            if not hurries:
                connection.send(waiting)
                waiting = b""
        if plan.drop is not None:
            connection.send(waiting)
            connection.keep = False
            return
        self.till.finish(line)
        try:
            connection.send(waiting + chunk(b""))
        except ConnectionError:
            self.till.finish(line, False)
            raise

    def _wait_in_stream(self, call: Call) -> None:
        while not call.ticket.passed.wait(LOOK_SECONDS):
            if call.connection.gone():
                raise ClientGone
        if self.stopping.is_set():
            raise Stopped


def _dialect(incoming: Incoming, others: Sequence[Dialect]) -> Dialect:
    """By the path, which OpenAI and Google have in common here and there; an unknown one is refused as the headers have it."""
    is_google = "x-goog-api-key" in incoming.headers or "x-goog-api-client" in incoming.headers
    for dialect in (*others, *(GOOGLES if is_google else DIALECTS)):
        if dialect.serves(incoming.method, incoming.path):
            return dialect
    if is_google:
        return DIALECTS[-1]
    return DIALECTS["anthropic-version" in incoming.headers or "x-api-key" in incoming.headers]


def _unfinished(dialect: Dialect, ask: Ask, reply: Reply, status: str) -> dict[str, Any]:
    """An answer that is made in the background and not there yet, or has failed."""
    assert isinstance(dialect, Responses | Videos | Runs | GoogleVideos)
    return dialect.unfinished(ask, reply, status)


def _body_of(incoming: Incoming) -> Any:
    """The body, whatever its form.  ValueError where it is none."""
    content_type = incoming.headers.get("content-type", "")
    if content_type.startswith("multipart/form-data"):
        return read_multipart(content_type, incoming.body)
    return json.loads(incoming.body) if _has_body(incoming) else {}


def _has_body(incoming: Incoming) -> bool:
    """Whether the request should have one: not one that asks after an answer, or stops it."""
    return incoming.method != "GET" and not (incoming.path.endswith("/cancel") and not incoming.body)


def _is_free(dialect: Dialect, request: Request, ask: Ask) -> bool:
    return request.path.endswith(dialect.free_paths) or bool(ask.looks_at)
