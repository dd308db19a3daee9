"""A cassette: what was asked and answered when it was recorded, played again in that order, each answer once."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from farebox.testing import _cassette_secrets as secrets_
from farebox.testing._cassette_answer import CLOSED, Answer, read_answer
from farebox.testing._cassette_file import CassetteError, Interaction, load, save
from farebox.testing._cassette_request import Request, cleaned, differences, how_near, told

__all__ = ["Cassette", "CassetteError", "Mode", "Tape", "UnmatchedCall", "Words"]

#: `replay` sends nothing; `record` sends everything and starts the file anew; `new` sends what the file has not.
Mode = Literal["replay", "record", "new"]


class UnmatchedCall(BaseException):
    """A request that its cassette has no answer for; nothing was sent.

    No `Exception`: neither an SDK's retries nor an `except Exception` of the program swallow it.
    """

    __module__ = "farebox.testing"  # where it is found


@attrs.frozen(kw_only=True)
class Words:
    """How a cassette compares and keeps.  `ignore` are fields of JSON bodies: `user`, `messages.*.name`."""

    ignore: tuple[str, ...] = ()
    ignore_hosts: tuple[str, ...] = ()
    redact: Callable[[str], str] | None = None
    strict: bool = False


_now: Final = itertools.count()


def shown_path(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


class Tape:
    """One request that is sent, and what comes back, until the cassette is written."""

    def __init__(self, request: Request, secrets: Sequence[str]) -> None:
        self.request = request
        self.secrets = secrets
        self.began = next(_now)
        self.ended_at: int | None = None
        #: As in `Answer`; None: it is not kept.
        self.ended: str | None = CLOSED
        self._status: int | None = None
        self._headers: dict[str, str] = {}
        self._chunks: list[bytes] = []
        self._decode: Callable[[bytes], bytes] = bytes

    def start(self, status: int, headers: Mapping[str, str], decode: Callable[[bytes], bytes]) -> None:
        """The head of the answer is there."""
        self._status, self._headers, self._decode = status, {k.lower(): v for k, v in headers.items()}, decode

    def add(self, chunk: bytes) -> None:
        self._chunks.append(chunk)

    def end(self, ended: str | None) -> None:
        """The answer has ended; what is said later does not count."""
        if self.ended_at is None:
            self.ended_at, self.ended = next(_now), ended

    def interaction(self) -> Interaction | None:
        """What goes into the file; a stream that nobody has read to its end is kept as far as it came."""
        if self.ended is None or (self._status is None and self.ended == CLOSED):
            return None
        if self._status is None:
            return Interaction(request=self.request, answer=Answer(ended=self.ended))
        raw = b"".join(self._chunks)
        answer = read_answer(self._status, self._headers, raw, self.ended, self._decode, self.secrets)
        return Interaction(request=self.request, answer=answer)


class Cassette:
    """One file, at work for one test.

    Attributes:
        path: Where it is, or will be.
        mode: `replay`, `record` or `new`.
        misses: What each request that had no answer was told.
    """

    def __init__(self, path: Path, mode: Mode, words: Words) -> None:
        """Read the file.

        Raises:
            CassetteError: it can't be read.
        """
        self.path = path
        self.mode: Mode = mode
        self.words = words
        self.misses: list[str] = []
        self._lock: Final = threading.Lock()
        self._tapes: list[Tape] = []
        self.is_there = mode != "record"
        self._interactions: list[Interaction] = []
        if self.is_there:
            try:
                self._interactions = load(path)
            except FileNotFoundError:
                self.is_there = False
        #: The requests of the file as they are compared now, and which of them are still to be played.
        self._requests: list[Request] = [self.prepared(one.request, ()) for one in self._interactions]
        self._left: dict[str, deque[int]] = {}
        for n, request in enumerate(self._requests):
            self._left.setdefault(request.key, deque()).append(n)

    @property
    def shown_path(self) -> str:
        """From where pytest runs, if it is below that."""
        return shown_path(self.path)

    @property
    def played(self) -> int:
        """How many of the recorded requests were played."""
        return len(self._interactions) - len(self._unplayed())

    @property
    def recorded(self) -> int:
        """How many requests were sent and recorded by this test."""
        return len(self._tapes)

    @property
    def unplayed(self) -> list[str]:
        """What was recorded and not asked for, as method, path and model."""
        return [_named(self._requests[n]) for n in self._unplayed()]

    @property
    def providers(self) -> set[str]:
        return {request.provider_name for request in self._requests} - {""}

    def _unplayed(self) -> list[int]:
        with self._lock:
            return sorted(n for places in self._left.values() for n in places)

    def prepared(self, request: Request, secrets: Iterable[str]) -> Request:
        """A request as this cassette compares and keeps it."""
        request = cleaned(request, secrets, self.words.ignore)
        if self.words.redact is not None:
            redact = self.words.redact
            request = attrs.evolve(request, path=redact(request.path), body=_redacted(request.body, redact))
        return request

    def play(self, request: Request) -> Answer | None:
        """The answer that was recorded for a prepared request, None where there is none left."""
        with self._lock:
            places = self._left.get(request.key)
            return self._interactions[places.popleft()].answer if places else None

    def tape(self, request: Request, secrets: Sequence[str]) -> Tape:
        """For a prepared request that is about to be sent."""
        made = Tape(request, secrets)
        with self._lock:
            self._tapes.append(made)
        return made

    def miss(self, why: str) -> UnmatchedCall:
        """The error to raise; the test fails with it at its end, should it get lost on the way."""
        with self._lock:
            self.misses.append(why)
        return UnmatchedCall(why)

    def explain(self, request: Request) -> str:
        """Why a prepared request has no answer."""
        asked = f"{_named(request)} is not in the cassette {self.shown_path}, and nothing was sent"
        if not self.is_there:
            return f"{asked}: there is no such file; record it with --farebox-cassettes=new"
        same = sum(one.key == request.key for one in self._requests)
        if same:
            times = "once" if same == 1 else f"{same} times"
            return f"{asked}: it was recorded {times}, and all of that has been played{_AGAIN}"
        if not self._requests:
            return f"{asked}: the cassette is empty{_AGAIN}"
        left = set(self._unplayed())
        places = range(len(self._requests))
        nearest = min(places, key=lambda n: (*how_near(self._requests[n], request), n not in left, n))
        differ = told(differences(self._requests[nearest], request))
        return f"{asked}; it differs from the nearest recorded one, number {nearest + 1}:{differ}{_AGAIN}"

    def save(self) -> int:
        """Write what was recorded, and say how many requests that are.

        In mode `record` the file is what this test did, and is gone where it did nothing; `new` adds to it.
        """
        made = [(tape, found) for tape in self._in_order() if (found := tape.interaction()) is not None]
        fresh = [self._redacted(found) for _, found in made]
        if fresh:
            save(self.path, [*self._interactions, *fresh])
        elif self.mode == "record":
            self.path.unlink(missing_ok=True)
        return len(fresh)

    def _redacted(self, found: Interaction) -> Interaction:
        redact = self.words.redact
        if redact is None:
            return found
        answer = found.answer
        if "base64" not in answer.body:
            answer = attrs.evolve(answer, body=_redacted(answer.body, redact))
        return Interaction(request=found.request, answer=answer)

    def _in_order(self) -> list[Tape]:
        """In the order they began in; those that overlap by what they ask, as which of them is first is left to chance."""
        ordered: list[Tape] = []
        together: list[Tape] = []
        over_at: float = -1
        for tape in sorted(self._tapes, key=lambda one: one.began):
            if tape.began > over_at:
                ordered += sorted(together, key=lambda one: one.request.key)
                together, over_at = [], -1
            together.append(tape)
            over_at = max(over_at, float("inf") if tape.ended_at is None else tape.ended_at)
        return ordered + sorted(together, key=lambda one: one.request.key)


_AGAIN: Final = (
    "\n  where that is meant, record it anew: --farebox-cassettes=record (all of it) or =new (what is missing)"
)


def _redacted(value: Any, redact: Callable[[str], str]) -> Any:
    """A JSON value with every text in it as `redact` gives it back."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_redacted(item, redact) for item in value]
    if isinstance(value, dict):
        return {name: _redacted(item, redact) for name, item in value.items()}
    return value


def _named(request: Request) -> str:
    body = request.body.get("json")
    model = body.get("model") if isinstance(body, dict) else None
    return f"{request.method} {request.path}" + (f" ({model})" if isinstance(model, str) and len(model) < 100 else "")


def secrets_of(headers: Mapping[str, str]) -> tuple[str, ...]:
    return secrets_.of_request(headers)
