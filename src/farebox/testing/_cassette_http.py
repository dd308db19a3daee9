"""Where a cassette plays and listens: between a client of httpx or httpx2 and its transport.

That is below the SDK and below farebox's seam, so a call that is played is read, held, retried, parsed, settled and priced as
any other.  Every transport that leaves the process is covered, also one of a program's own, a proxy's or aiohttp's; those
that answer within the process (a test client of a web framework, a mock) are left alone.

The place is `_transport_for_url` of the two client classes, which both libraries ask for each request that they send
(httpx 0.28.1 `_client.py` lines 1004 and 1719; httpx2 2.16.2 lines 1063 and 1902; read 2026-11-29).
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Iterator
from fnmatch import fnmatch
from functools import lru_cache, partial
from types import ModuleType, SimpleNamespace
from typing import Any, Final, NamedTuple, Protocol

from farebox.testing._cassette import Cassette, Tape, secrets_of
from farebox.testing._cassette_answer import CLOSED, Answer
from farebox.testing._cassette_file import CassetteError
from farebox.testing._cassette_request import Request, as_asked, read_body, read_path

_LIBRARIES: Final = ("httpx", "httpx2")
_PLACE: Final = "_transport_for_url"
#: Transports that answer within the process, by the names of their classes.
_WITHIN: Final = frozenset({"ASGITransport", "WSGITransport", "MockTransport", "_TestClientTransport"})
#: A request that was cancelled before it was answered is not answered for so long.
_LONGEST_SILENCE_SECONDS: Final = 30.0
_CANCELLED: Final = "cancelled"


class Meter(Protocol):
    """What the metering of calls knows, and wants to know."""

    def call_of(self, method: str, body: Any) -> Any:
        """The metered call that this request is an attempt of, or None."""

    def note(self, call: Any, how: str) -> None:
        """The attempt was `replayed`, `sent`, or `passed` by the cassette."""

    def refuses(self, host: str) -> str:
        """Why nothing may be sent to this host, or ""."""


class Deck(NamedTuple):
    """A cassette at work."""

    cassette: Cassette
    meter: Meter


_deck: Deck | None = None
_installed: list[tuple[type, Any, Any]] = []


def put_in(deck: Deck | None) -> Deck | None:
    """From now on this one plays or records for all clients of the process; None: no one does.  Returns the one before.

    Raises:
        CassetteError: a version of httpx that has no place for it; nothing is played.
    """
    global _deck
    before = _deck
    if deck is not None:
        _install()
    _deck = deck
    if deck is None:
        _uninstall()
    return before


def current() -> Deck | None:
    """The one that plays or records now."""
    return _deck


def _install() -> None:
    for name in _LIBRARIES:
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        for cls, listening in ((library.Client, _Sync), (library.AsyncClient, _Async)):
            original = vars(cls).get(_PLACE)
            if original is None:
                raise CassetteError(
                    f"{name} {getattr(library, '__version__', '?')} is not as farebox knows it: {cls.__name__} has no "
                    f"{_PLACE!r}; no cassette can be played or recorded"
                )
            if not any(entry[0] is cls for entry in _installed):
                ours = _wrapped(original, library, listening)
                setattr(cls, _PLACE, ours)
                _installed.append((cls, original, ours))


def _uninstall() -> None:
    for cls, original, ours in [entry for entry in _installed if vars(entry[0]).get(_PLACE) is entry[2]]:
        setattr(cls, _PLACE, original)
        _installed.remove((cls, original, ours))


def _wrapped(original: Any, library: ModuleType, listening: Any) -> Any:
    def _transport_for_url(client: Any, url: Any) -> Any:
        below = original(client, url)
        deck = _deck
        if deck is None:
            return below
        if any(cls.__name__ in _WITHIN for cls in type(below).__mro__):
            deck.meter.note(deck.meter.call_of("POST", None), "passed")
            return below
        return listening(below, library, client, deck)

    return _transport_for_url


class _Turn:
    """One request of one client: is it played, recorded, or none of the cassette's business?"""

    __slots__ = ("below", "deck", "library", "client")

    def __init__(self, below: Any, library: ModuleType, client: Any, deck: Deck) -> None:
        self.below, self.library, self.client, self.deck = below, library, client, deck

    def decide(self, request: Any, content: bytes) -> Answer | Tape | None:
        __tracebackhide__ = True  # it would show what was asked
        cassette, meter = self.deck
        host = request.url.host
        asked = read_body(content, request.headers.get("content-type", ""))
        call = meter.call_of(request.method, asked.get("json"))
        if any(fnmatch(host, pattern) for pattern in cassette.words.ignore_hosts):
            meter.note(call, "passed")
            return None
        if call is not None and "json" in asked:
            asked = {"json": as_asked(asked["json"], declared_cap=call.declared_cap, sent_cap=call.sent_cap)}
        secrets = secrets_of(request.headers)
        prepared = cassette.prepared(
            Request(
                method=request.method,
                path=read_path(request.url.path, self.client.base_url.path),
                query=request.url.query.decode("ascii", "replace"),
                body=asked,
                provider_name="" if call is None else call.provider_name,
            ),
            secrets,
        )
        answer = None if cassette.mode == "record" else cassette.play(prepared)
        if answer is not None:
            meter.note(call, "replayed")
            return answer
        if cassette.mode == "replay":
            raise cassette.miss(cassette.explain(prepared))
        refused = meter.refuses(host)
        if refused:
            raise cassette.miss(f"{cassette.explain(prepared).partition(chr(10))[0]}\n  {refused}")
        meter.note(call, "sent")
        return cassette.tape(prepared, secrets)

    def made(self, answer: Answer, request: Any, stream: Any) -> Any:
        """The response that an answer is played as."""
        if answer.status is None:
            raise self.error(answer.ended, request)
        return self.library.Response(
            answer.status,
            headers=answer.played_headers(),
            stream=stream(answer, partial(self.error, answer.ended, request)),
            extensions={"http_version": b"HTTP/1.1"},
        )

    def error(self, ended: str, request: Any) -> BaseException:
        """What a recording that broke off is played as."""
        kind = getattr(self.library, ended, None)
        if isinstance(kind, type) and issubclass(kind, self.library.TransportError):
            error: BaseException = kind(f"{ended}, as it was recorded", request=request)
            return error
        cassette = self.deck.cassette
        how = "the program closed it there" if ended == CLOSED else "the program cancelled it there"
        return cassette.miss(
            f"the answer to {request.method} {request.url.path} in the cassette {cassette.shown_path} ends here: when it was "
            f"recorded, {how}\n  where that is meant, record it anew: --farebox-cassettes=record"
        )

    def broke(self, tape: Tape, error: BaseException) -> None:
        """Of what is no error of the network, nothing is kept: a program was interrupted."""
        name = type(error).__name__
        is_known = getattr(self.library, name, None) is type(error) and isinstance(error, self.library.TransportError)
        tape.end(name if is_known else _CANCELLED if name == "CancelledError" else None)

    def listen(self, tape: Tape, response: Any, stream: Any) -> Any:
        decode = partial(_decoded, self.library, response.headers.get("content-encoding", ""))
        if hasattr(response, "_content"):  # a transport of the program's own has read it
            tape.start(response.status_code, response.headers, bytes)
            tape.add(response.content)
            tape.end("")
        else:
            tape.start(response.status_code, response.headers, decode)
            response.stream = stream(response.stream, tape, partial(self.broke, tape))
        return response


class _Sync(_Turn):
    __slots__ = ()

    def handle_request(self, request: Any) -> Any:
        __tracebackhide__ = True
        decided = self.decide(request, request.read())
        if decided is None:
            return self.below.handle_request(request)
        if isinstance(decided, Answer):
            return self.made(decided, request, _streams(self.library).played)
        try:
            response = self.below.handle_request(request)
        except BaseException as error:
            self.broke(decided, error)
            raise
        return self.listen(decided, response, _streams(self.library).taped)


class _Async(_Turn):
    __slots__ = ()

    async def handle_async_request(self, request: Any) -> Any:
        __tracebackhide__ = True
        decided = self.decide(request, await request.aread())
        if decided is None:
            return await self.below.handle_async_request(request)
        if isinstance(decided, Answer):
            await _let_others_run()
            if decided.ended == _CANCELLED and decided.status is None:
                await _keep_silent()
            return self.made(decided, request, _streams(self.library).played_async)
        try:
            response = await self.below.handle_async_request(request)
        except BaseException as error:
            self.broke(decided, error)
            raise
        return self.listen(decided, response, _streams(self.library).taped_async)


async def _let_others_run() -> None:
    lowlevel = importlib.import_module("anyio.lowlevel")
    await lowlevel.checkpoint()


async def _keep_silent() -> None:
    anyio = importlib.import_module("anyio")
    await anyio.sleep(_LONGEST_SILENCE_SECONDS)


def _decoded(library: ModuleType, encoding: str, raw: bytes) -> bytes:
    found: bytes = library.Response(
        200, headers={"content-encoding": encoding} if encoding else {}, content=raw
    ).content
    return found


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache
def _streams(library: ModuleType) -> SimpleNamespace:
    """The streams of bodies that are played and recorded, as classes of this library's own kind."""

    class Played(library.SyncByteStream):  # type: ignore[name-defined, misc]
        farebox_made_as_read = True  # a reader of it is never behind

        def __init__(self, answer: Answer, error: Callable[[], BaseException]) -> None:
            self._answer, self._error = answer, error

        def __iter__(self) -> Iterator[bytes]:
            yield from self._answer.chunks()
            if self._answer.ended:
                raise self._error()

    class PlayedAsync(library.AsyncByteStream):  # type: ignore[name-defined, misc]
        farebox_made_as_read = True  # a reader of it is never behind

        def __init__(self, answer: Answer, error: Callable[[], BaseException]) -> None:
            self._answer, self._error = answer, error

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for chunk in self._answer.chunks():
                await _let_others_run()
                yield chunk
            if self._answer.ended:
                raise self._error()

    class Taped(library.SyncByteStream):  # type: ignore[name-defined, misc]
        def __init__(self, below: Any, tape: Tape, broke: Callable[[BaseException], None]) -> None:
            self._below, self._tape, self._broke = below, tape, broke

        def __iter__(self) -> Iterator[bytes]:
            try:
                for chunk in self._below:
                    self._tape.add(chunk)
                    yield chunk
            except GeneratorExit:
                raise
            except BaseException as error:
                if not hasattr(error, "farebox_nothing_more"):  # it is left, and closed next
                    self._broke(error)
                raise
            self._tape.end("")

        def close(self) -> None:
            self._tape.end(CLOSED)
            self._below.close()

    class TapedAsync(library.AsyncByteStream):  # type: ignore[name-defined, misc]
        def __init__(self, below: Any, tape: Tape, broke: Callable[[BaseException], None]) -> None:
            self._below, self._tape, self._broke = below, tape, broke

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                async for chunk in self._below:
                    self._tape.add(chunk)
                    yield chunk
            except GeneratorExit:
                raise
            except BaseException as error:
                if not hasattr(error, "farebox_nothing_more"):  # it is left, and closed next
                    self._broke(error)
                raise
            self._tape.end("")

        async def aclose(self) -> None:
            self._tape.end(CLOSED)
            await self._below.aclose()

    return SimpleNamespace(played=Played, played_async=PlayedAsync, taped=Taped, taped_async=TapedAsync)
