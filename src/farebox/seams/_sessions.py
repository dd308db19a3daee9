"""Sessions over a websocket whose answers are metered: each of them is a call, held before it is asked for.

What every message goes through is wrapped: `send_raw` and `close` of the SDK's two connection bases, and `recv_bytes` of each
kind of connection (openai 3.57.0, `_websocket_connection.py`, `resources/realtime/realtime.py`, read 2026-11-29).  A
connection that nobody meters passes.

    asked for by an event       held before it is sent; refused, nothing is sent
    begun by the server         held when it says so; refused, it is stopped, charged for what it came to or its bound, the
                                session is closed and the reader is told
    its last event              settled, from its usage
    closed or lost before       presumed spent
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from farebox import signals
from farebox._bodies import parsed
from farebox._call import Call, Outcome
from farebox._streams import end_call
from farebox.providers import Reader
from farebox.providers._dialogues import Dialogue, News
from farebox.providers._unmetered import READER
from farebox.seams._patches import CLIENT_MARK, Link, Patches, failed, is_named

#: Attribute of a connection, or of what will open one, that holds its session.
MARK: Final = "_farebox_session"

#: How long an answer that was refused may take to say what it came to; then it is charged at its bound.
_MOST_WAIT_SECONDS: Final = 2.0

#: How a call ends of which such news come.
_OUTCOMES: Final[dict[str, Outcome]] = {
    "ended": "completed", "used": "completed", "lost": "unknown", "refused": "failed",
}  # fmt: skip


class Asked(Link):
    """An answer that was asked for, or begun by the server."""

    __slots__ = ("event_id", "line", "news")

    def __init__(self, call: Call, provider: Reader, event_id: str, line: str, news: News | None = None) -> None:
        super().__init__(call, provider)
        self.event_id = event_id
        self.line = line
        #: What the server has said of it, until it is held.
        self.news = news


class Reading:
    """Whether somebody reads a session: the `activity` of its calls, which keeps none of it alive."""

    __slots__ = ("_left_at", "_readers")

    def __init__(self) -> None:
        self._readers = 0
        self._left_at = time.monotonic()

    def __enter__(self) -> None:
        self._readers += 1

    def __exit__(self, *_: object) -> None:
        self._readers -= 1
        self._left_at = time.monotonic()

    def idle_seconds(self, now: float) -> float:
        """For how long nobody has read; 0.0 while somebody does."""
        return 0.0 if self._readers > 0 else now - self._left_at


class Session:
    """The open answers of one session."""

    def __init__(self, seam: Patches, client: Any, dialogue: Dialogue) -> None:
        self._seam = seam
        self._client = client
        self._dialogue = dialogue
        # Who sends and who reads may be two threads; held while a dialogue takes note, and no longer.
        self._lock = threading.RLock()
        #: Asked for and not begun, in the order of asking; and begun, by id.
        self._asked: deque[Asked] = deque()
        self._begun: dict[str, Asked] = {}
        self.is_over = False
        self.reading = Reading()
        #: What a budget wants raised, now that an answer it let cross its limit is over.
        self.raises: Exception | None = None

    # ── what the client says ─────────────────────────────────────────────────────────────────────────────────────

    def ask(self, data: Any) -> tuple[Asked, dict[str, Any]] | None:
        """Take note of what is about to be sent; where it asks for an answer, the answer and the event."""
        try:
            event = _read(data)
            if type(event) is not dict:
                return None
            with self._lock:
                question = self._dialogue.sent(event)
        except Exception as error:
            self._seam.leave_unread(error)
            return None
        if question is None or not self._is_metered():
            return None
        call, given = question.call, event.get("event_id")
        asked = Asked(call, READER, given if isinstance(given, str) else f"farebox_{call.number}", question.line)
        if given is None and self._dialogue.names_events:
            event["event_id"] = asked.event_id
        return self._open(asked), event

    def admitted(self, asked: Asked, event: dict[str, Any], data: Any) -> Any:
        """What is sent now that it is held."""
        call = asked.call
        call.is_sent, call.attempts, call.activity = True, 0 if self.is_over else 1, self.reading
        with self._lock:
            self._asked.append(asked)
        changed = {**event, **self._dialogue.rewrite(call, event)}
        if isinstance(data, (str, bytes)):
            text = json.dumps(changed)
            return text.encode() if isinstance(data, bytes) else text
        return changed

    def fail(self, asked: Asked, error: BaseException) -> None:
        """It was not sent, or nobody knows."""
        with self._lock:
            if asked in self._asked:
                self._asked.remove(asked)
        self._close(asked)
        failed(asked, error)

    # ── what the server says ─────────────────────────────────────────────────────────────────────────────────────

    def hear(self, data: Any) -> Asked | None:
        """Take note of a message; a call that is to be held now is handed back, begun by the server or known already."""
        raw = (
            data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass") if isinstance(data, str) else b""
        )
        if not any(mark in raw for mark in self._dialogue.marks):
            return None
        event = parsed(raw)
        if type(event) is not dict:
            return None
        try:
            with self._lock:
                news = self._dialogue.heard(event)
            asked = None
            while news is not None:
                asked, news = self._take(news) or asked, news.then
            return asked
        except Exception as error:
            self._seam.leave_unread(error)
            return None

    def _take(self, news: News) -> Asked | None:
        with self._lock:
            asked, answered_too = self._find(news)
        for other in answered_too:
            self._end(other, "failed")  # it is one answer, and billed once
        if asked is None:
            return self._unasked(news) if news.what in ("begun", "used") else None
        if news.what == "begun":
            self._begins(asked, news.answer_id)
        else:
            if news.what in ("ended", "used"):
                with self._lock:
                    self._dialogue.ended(asked.call, news)
            self._end(asked, _OUTCOMES[news.what])
            if asked.call.raises is not None:
                asked.call.raises.__dict__["response"] = news.body
                self.raises = asked.call.raises
        return None

    def _unasked(self, news: News) -> Asked | None:
        if not self._is_metered():
            return None
        with self._lock:
            call = self._dialogue.unasked(news)
        return self._open(Asked(call, READER, news.answer_id, news.line, news))

    def _find(self, news: News) -> tuple[Asked | None, list[Asked]]:
        """What an event is about, and what it answers along with it; neither is in line any more."""
        in_line, answers_all = self._in_line(news.line), news.answers_all
        if news.event_id:
            in_line = [one for one in self._asked if one.event_id == news.event_id]
        if not in_line and news.or_line is not None:
            in_line, answers_all = self._in_line(news.or_line), False
        begun = None
        if news.what in ("ended", "used") and news.answer_id in self._begun:
            begun = news.answer_id
        elif news.what == "lost":
            begun = next((key for key, one in self._begun.items() if one.line.startswith(news.line)), None)
        if begun is not None:
            found, answered_too = [self._begun.pop(begun)], in_line if answers_all else []
        elif answers_all:
            found, answered_too = in_line[-1:], in_line[:-1]
        else:
            found, answered_too = in_line[:1], []
        for one in (*found, *answered_too):
            if one in self._asked:
                self._asked.remove(one)
        return (found[0] if found else None), answered_too

    def _in_line(self, line: str) -> list[Asked]:
        return [one for one in self._asked if one.line.startswith(line)]

    def _begins(self, asked: Asked, answer_id: str) -> None:
        if self._dialogue.names_answers:
            asked.call.response_id = answer_id
        with self._lock:
            self._begun[answer_id] = asked

    def _end(self, asked: Asked, outcome: Outcome) -> None:
        self._close(asked)
        end_call(asked.call, outcome)

    def speak(self) -> None:
        """Raise what a budget wants raised."""
        error, self.raises = self.raises, None
        if error is not None:
            raise error

    def go_on(self, asked: Asked) -> None:
        """What the server began is held: it is on the way; what is known already is paid."""
        call, asked.news = asked.call, None
        call.is_sent, call.attempts, call.activity = True, 1, self.reading
        if call.usage is None and not call.doubt:
            self._begins(asked, asked.event_id)
        else:
            self._end(asked, "completed")

    def pay_anyway(self, asked: Asked, error: BaseException) -> tuple[Asked, Mapping[str, Any] | None] | None:
        """What was refused is billed, as the server has begun it: in a call of its own, and what is to be sent to stop it."""
        news = asked.news
        self.fail(asked, error)
        again = None if news is None else self._unasked(news)
        if again is None or news is None:
            return None
        again.call.is_begun, again.call.is_async = True, asked.call.is_async
        # Whoever was interrupted, or has a receiver that raises, is not to be kept waiting.
        return again, self._dialogue.stop(news) if asked.call.outcome == "refused" else None

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

    def over(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """Nothing more will be heard of the answers that are open: presumed spent."""
        for asked in self._taken():
            self._close(asked)
            end_call(asked.call, outcome, error)

    def _taken(self) -> list[Asked]:
        taken = []
        while self._asked:
            taken.append(self._asked.popleft())
        while self._begun:
            taken.append(self._begun.popitem()[1])
        return taken

    def __del__(self) -> None:
        for asked in self._taken():
            self._seam.open.pop(asked, None)
            asked.call.outcome = "dropped"
            signals.settle_late(asked.call)

    def _is_metered(self) -> bool:
        return self._seam.is_global > 0 or CLIENT_MARK in self._client.__dict__

    def _open(self, asked: Asked) -> Asked:
        asked.call.client_frame = self._client.__dict__.get(CLIENT_MARK)
        self._seam.open[asked] = None
        return asked

    def _close(self, asked: Asked) -> None:
        self._seam.open.pop(asked, None)
        self._seam.retire()


def _read(data: Any) -> Any:
    if isinstance(data, (str, bytes)):
        return parsed(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
    if isinstance(data, Mapping):
        return dict(data)
    return parsed(data.to_json(use_api_names=True, exclude_unset=True).encode())


def session_of(thing: Any) -> Session | None:
    """The session of a connection, or of what will open one; None where nobody meters it."""
    found: Session | None = thing.__dict__.get(MARK)
    return found


# ── what is put over the SDK's methods ───────────────────────────────────────────────────────────────────────────────


def send(original: Any) -> Callable[..., Any]:
    """`send_raw` of a connection, and `send` of a manager, which keeps what it is given until there is one."""

    def send_raw(connection: Any, data: Any) -> Any:
        session = session_of(connection)
        asking = None if session is None else session.ask(data)
        if session is None or asking is None:
            return original(connection, data)
        asked, event = asking
        try:
            signals.pre_call.publish(asked.call)
            return original(connection, session.admitted(asked, event, data))
        except BaseException as error:
            session.fail(asked, error)
            raise

    return send_raw


def send_async(original: Any) -> Callable[..., Any]:
    """As `send`."""

    async def send_raw(connection: Any, data: Any) -> Any:
        session = session_of(connection)
        asking = None if session is None else session.ask(data)
        if session is None or asking is None:
            return await original(connection, data)
        asked, event = asking
        asked.call.is_async = True
        try:
            waiting = signals.pre_call.publish_async(asked.call)
            if waiting is not None:
                await waiting
            return await original(connection, session.admitted(asked, event, data))
        except BaseException as error:
            session.fail(asked, error)
            raise

    return send_raw


def receive(original: Any) -> Callable[..., Any]:
    """`recv_bytes` of a connection."""

    def recv_bytes(connection: Any) -> Any:
        session = session_of(connection)
        if session is None:
            return original(connection)
        try:
            with session.reading:
                data = original(connection)
        except Exception as error:
            if is_named(error, "ConnectionClosed"):
                session.over("unknown", error)
            raise
        asked = session.hear(data)
        if asked is not None:
            try:
                signals.pre_call.publish(asked.call)
            except BaseException as error:
                try:
                    _see_out(session, connection, asked, error)
                finally:
                    connection.close()
                raise
            session.go_on(asked)
        session.speak()
        return data

    return recv_bytes


def receive_async(original: Any) -> Callable[..., Any]:
    """As `receive`."""

    async def recv_bytes(connection: Any, **words: Any) -> Any:
        session = session_of(connection)
        if session is None:
            return await original(connection, **words)
        try:
            with session.reading:
                data = await original(connection, **words)
        except Exception as error:
            if is_named(error, "ConnectionClosed"):
                session.over("unknown", error)
            raise
        asked = session.hear(data)
        if asked is not None:
            asked.call.is_async = True
            try:
                waiting = signals.pre_call.publish_async(asked.call)
                if waiting is not None:
                    await waiting
            except BaseException as error:
                try:
                    await _see_out_async(session, connection, original, asked, error)
                finally:
                    await connection.close()
                raise
            session.go_on(asked)
        session.speak()
        return data

    return recv_bytes


def _see_out(session: Session, connection: Any, asked: Asked, error: BaseException) -> None:
    """Pay for an answer that was begun and refused: stop it, and hear what it came to."""
    paid = session.pay_anyway(asked, error)
    if paid is None:
        return
    again, stop = paid
    until = time.monotonic() + _MOST_WAIT_SECONDS
    with suppress(Exception):
        _force(session, again)
        if stop is not None:
            connection.send_raw(json.dumps(stop))
        while stop is not None and again.call.outcome == "open":
            # Of the socket itself, as the SDK's own way to read has no timeout.
            data = connection._connection.recv(timeout=max(0.0, until - time.monotonic()))
            other = session.hear(data)
            if other is not None:
                other.call.is_begun = True
                _force(session, other)


async def _see_out_async(session: Session, connection: Any, original: Any, asked: Asked, error: BaseException) -> None:
    """As `_see_out`."""
    paid = session.pay_anyway(asked, error)
    if paid is None:
        return
    again, stop = paid
    until = time.monotonic() + _MOST_WAIT_SECONDS
    with suppress(Exception):
        await _force_async(session, again)
        if stop is not None:
            await connection.send_raw(json.dumps(stop))
        while stop is not None and again.call.outcome == "open":
            data = await asyncio.wait_for(original(connection), max(0.0, until - time.monotonic()))
            other = session.hear(data)
            if other is not None:
                other.call.is_begun = other.call.is_async = True
                await _force_async(session, other)


def _force(session: Session, asked: Asked) -> None:
    with suppress(Exception):  # of a receiver: nothing that is raised can stop it any more
        signals.pre_call.publish(asked.call)
    session.go_on(asked)


async def _force_async(session: Session, asked: Asked) -> None:
    with suppress(Exception):
        waiting = signals.pre_call.publish_async(asked.call)
        if waiting is not None:
            await waiting
    session.go_on(asked)


def close(original: Any) -> Callable[..., Any]:
    """`close` of a connection."""

    def closed(connection: Any, *args: Any, **kwargs: Any) -> Any:
        session = session_of(connection)
        try:
            return original(connection, *args, **kwargs)
        finally:
            if session is not None:
                session.is_over = True
                session.over("closed")

    return closed


def close_async(original: Any) -> Callable[..., Any]:
    """As `close`."""

    async def closed(connection: Any, *args: Any, **kwargs: Any) -> Any:
        session = session_of(connection)
        try:
            return await original(connection, *args, **kwargs)
        finally:
            if session is not None:
                session.is_over = True
                session.over("closed")

    return closed
