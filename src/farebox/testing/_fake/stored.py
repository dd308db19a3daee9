"""Answers that are kept: to be asked after, and to be gone on from."""

from __future__ import annotations

import threading

import attrs

from farebox.testing._fake.dialect import Ask, Reply
from farebox.testing._fake.responses import not_in_background, unknown, unknown_previous


@attrs.define
class Stored:
    """One answer, and how often it will still be found unfinished."""

    ask: Ask
    reply: Reply
    looks_left: int
    is_cancelled: bool = False

    @property
    def status(self) -> str | None:
        """None once it is finished."""
        if self.is_cancelled:
            return "cancelled"
        return "in_progress" if self.looks_left else None


class Shelf:
    """All answers that are kept, by their id; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stored: dict[str, Stored] = {}
        self._conversations: dict[str, int] = {}
        self.looks = 0  # how often an answer in the background will be found unfinished

    def keep(self, ask: Ask, reply: Reply) -> None:
        with self._lock:
            tokens = reply.input_tokens + reply.output_tokens
            if ask.conversation_id:
                self._conversations[ask.conversation_id] = tokens
            if ask.is_stored:
                looks = self.looks if ask.background else 0
                self._stored[reply.response_id] = Stored(ask, reply, looks)

    def with_context(self, ask: Ask) -> Ask:
        """The request with what it goes on from in front of it, and the model of what it looks at.

        Raises Fault for what is not there.
        """
        with self._lock:
            if ask.looks_at:
                stored = self._stored.get(ask.looks_at)
                if stored is None:
                    raise unknown(ask.looks_at)
                if ask.cancels and not stored.ask.background:
                    raise not_in_background()
                return attrs.evolve(ask, model=stored.ask.model)
            before = self._conversations.get(ask.conversation_id, 0)
            if ask.previous_id:
                stored = self._stored.get(ask.previous_id)
                if stored is None:
                    raise unknown_previous(ask.previous_id)
                before = stored.reply.input_tokens + stored.reply.output_tokens
            return attrs.evolve(ask, input_tokens=ask.input_tokens + before) if before else ask

    def look(self, ask: Ask) -> Stored:
        """The answer as it is found now; one that is unfinished gets on with every look."""
        with self._lock:
            stored = self._stored[ask.looks_at]
            if ask.cancels and stored.looks_left:
                stored.is_cancelled = True
            found = attrs.evolve(stored)
            stored.looks_left = max(0, stored.looks_left - 1)
            return found
