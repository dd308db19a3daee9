"""What is said over a websocket, and who reads it: one dialogue a session.

A session has many answers, and each of them is a call: one begins where the client asks for it, or the server of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

from farebox._call import Call


class News(NamedTuple):
    """What an event of the server's says of the calls of its session.

    Attributes:
        what: An answer has begun or ended, what was asked for was refused, or something else was used and is known.
        answer_id: Of the answer that begun or ended.
        event_id: Of the client's event that was refused; "" where the server does not say.
        body: What holds the usage.
    """

    what: Literal["begun", "ended", "refused", "used"]
    answer_id: str = ""
    event_id: str = ""
    body: Any = None


class Dialogue(Protocol):
    """One session, as its wire format tells it.  Never raises, whatever it is shown."""

    #: Without one of these in it a message of the server's is none of its business.
    marks: tuple[bytes, ...]
    #: Whether the client may give each event an id, which the server repeats where it refuses one.
    names_events: bool

    def sent(self, event: Mapping[str, Any]) -> Call | None:
        """Take note of an event of the client's; the call where it asks for an answer."""

    def rewrite(self, call: Call, event: Mapping[str, Any]) -> dict[str, Any]:
        """The top-level keys of an event that asks for an answer to change before it is sent."""

    def heard(self, event: Mapping[str, Any]) -> News | None:
        """Take note of an event of the server's; None where it says nothing of a call."""

    def begun(self, news: News) -> Call:
        """The call of an answer that nobody asked for."""

    def ended(self, call: Call, news: News) -> None:
        """Write to `call` what its answer used."""

    def used(self, news: News) -> Call:
        """The call of what is known to have been used besides, with its usage."""
