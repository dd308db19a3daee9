"""What is said over a websocket, and who reads it: one dialogue a session.

A session has many answers, and each of them is a call: one begins where the client asks for it, or the server of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

from farebox._call import Call


class Opened(NamedTuple):
    """What is known of a session before anything was said in it.

    Attributes:
        is_joined: It is somebody else's, such as a telephone call, whose sound is not seen here.
    """

    provider_name: str
    server_address: str
    model: str
    is_joined: bool = False


class Question(NamedTuple):
    """An event of the client's that asks for an answer.

    Attributes:
        line: Where the answer is waited for: those of lines that begin alike begin in the order in which they were asked for.
    """

    call: Call
    line: str = ""


class News(NamedTuple):
    """What an event of the server's says of the calls of its session.

    Attributes:
        what: An answer has begun or ended, or was lost after it had begun; what was asked for was refused; or it is told what
            was used, by the answer or by what was asked for, or else by nobody that was known of.
        answer_id: Of the answer.
        line: How the lines begin in which it was asked for.
        answers_all: It answers all that these lines have, the last of which was held for all.
        or_line: Where it was asked for if nothing in `line` is open.
        event_id: Of the client's event that was refused; "" where the server does not say.
        body: What holds the usage.
        then: What else the event says.
    """

    what: Literal["begun", "ended", "lost", "refused", "used"]
    answer_id: str = ""
    line: str = ""
    answers_all: bool = False
    or_line: str | None = None
    event_id: str = ""
    body: Any = None
    then: News | None = None


class Dialogue(Protocol):
    """One session, as its wire format tells it.  Never raises, whatever it is shown."""

    #: Without one of these in it a message of the server's is none of its business.
    marks: tuple[bytes, ...]
    #: Whether the client may give each event an id, which the server repeats where it refuses one.
    names_events: bool
    #: Whether the ids of answers are the server's own.
    names_answers: bool

    def sent(self, event: Mapping[str, Any]) -> Question | None:
        """Take note of an event of the client's; what it asks, where it asks for an answer."""

    def rewrite(self, call: Call, event: Mapping[str, Any]) -> dict[str, Any]:
        """The top-level keys of an event that asks for an answer to change before it is sent."""

    def heard(self, event: Mapping[str, Any]) -> News | None:
        """Take note of an event of the server's; None where it says nothing of a call."""

    def unasked(self, news: News) -> Call:
        """The call of an answer that nobody asked for; or of what was used besides, with its usage."""

    def stop(self, news: News) -> Mapping[str, Any] | None:
        """The event that has an answer which nobody asked for come to its end now; None where there is none."""

    def ended(self, call: Call, news: News) -> None:
        """Write to `call` what its answer used."""
