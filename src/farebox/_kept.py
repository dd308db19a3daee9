"""What has arrived of a body that is read bit by bit: kept as it comes off the wire, looked through, read on with when left.

The bytes are kept where an HTTP library counts the time until a body is closed, in the place of a loop of its own: so it takes
no layer more.  Nothing here knows a call.
"""

from __future__ import annotations

import base64
import struct
import sys
import time
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, Final

from farebox._bodies import parsed

#: More than this is not kept at a time.
MOST_KEPT_BYTES: Final = 16 * 2**20
#: What a provider has sent ahead of its reader, and is still read when the reader leaves.
_MOST_READ_ON_BYTES: Final = 2**20
#: Turns of an event loop in which whatever a socket holds comes through all layers, two, and two more: each asks the socket.
_TURNS: Final = 4
#: Of one whose turns take so long that more always comes in between.
_MOST_READ_ON_SECONDS: Final = 0.25

#: On a body that is made as it is read, so that nobody is ahead of its reader.
_MADE_AS_READ: Final = "farebox_made_as_read"
_KEEPER: Final = "_farebox_keeper"

#: Of a frame: two lengths and a checksum in front, and one behind.
_LEAST_FRAME_BYTES: Final = 16


# ── keeping ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Keeper:
    """Keeps what arrives of one body."""

    __slots__ = (
        "_extensions",
        "_is_caught_up",
        "_is_kept",
        "_kept",
        "_source",
        "decode",
        "is_catching_up",
        "is_over",
    )

    def __init__(self) -> None:
        #: Nobody wants to know any more.
        self.is_over = self.is_catching_up = False
        #: The bytes that have arrived, whether that is all of them, and how to decode them where they are encoded.
        self._kept: list[bytes] = []
        self._is_kept = True
        self.decode: Callable[[bytes], bytes] | None = None
        self._extensions: Mapping[str, Any] = {}
        #: Where they come from, while somebody reads; and whether it has nothing more that the provider had sent.
        self._source: Any = None
        self._is_caught_up = False

    def keep_bytes_of(self, response: Any) -> None:
        """Keep the bytes of this response."""
        self._extensions = response.extensions
        encoding = response.headers.get("content-encoding")
        if encoding:
            self.decode = partial(_decoded, type(response), encoding)
        self._is_kept = _keep_by(self, response.stream)
        self._is_caught_up = hasattr(getattr(response.stream, "_stream", response.stream), _MADE_AS_READ)

    def is_being_read(self) -> bool:
        """Whether somebody reads at this moment."""
        raise NotImplementedError

    def begin(self, chunk: bytes) -> None:
        """The first bytes have come, which say how the rest can be read."""

    def make_room(self) -> None:
        """More has come than is kept."""
        self._is_kept = False

    def keep(self, source: Iterator[bytes]) -> Iterator[bytes]:
        """The bytes as they come off the wire, kept."""
        self._source = source
        kept, keep, room = self._kept, self._kept.append, MOST_KEPT_BYTES
        try:
            for chunk in source:
                if not kept:
                    self.begin(chunk)
                keep(chunk)
                room -= len(chunk)
                if room < 0:
                    self.make_room()
                    room = MOST_KEPT_BYTES
                yield chunk
        except GeneratorExit:
            if not self.is_being_read():
                self.catch_up()
            raise
        finally:
            self._source = None
        self._is_caught_up = True

    async def akeep(self, source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """As `keep`."""
        self._source = source
        kept, keep, room = self._kept, self._kept.append, MOST_KEPT_BYTES
        try:
            async for chunk in source:
                if not kept:
                    self.begin(chunk)
                keep(chunk)
                room -= len(chunk)
                if room < 0:
                    self.make_room()
                    room = MOST_KEPT_BYTES
                yield chunk
        finally:
            self._source = None
            if not self.is_catching_up and hasattr(source, "aclose"):
                await source.aclose()
        self._is_caught_up = True

    def body(self) -> bytes:
        """What has arrived and was kept, decoded."""
        body = b"".join(self._kept)
        if self.decode is None:
            return body
        try:
            return self.decode(body)
        except Exception:
            self._is_kept = False
            return b""

    def catch_up(self) -> None:
        """Read what has arrived and nobody has read, before the reader leaves."""
        if self.may_be_behind():
            self.is_catching_up = True
            try:
                self._is_caught_up = _read_on(self._source, self._extensions, self._kept)
            finally:
                self.is_catching_up, self._source = False, None

    async def acatch_up(self) -> None:
        """As `catch_up`."""
        if self.may_be_behind():
            self.is_catching_up = True
            try:
                self._is_caught_up = await _aread_on(self._source, self._kept)
            finally:
                self.is_catching_up, self._source = False, None

    def may_be_behind(self) -> bool:
        """Whether more may have arrived than was read, and can be read on its own.

        Of a connection that several share somebody else may be reading, who must not be disturbed: who leaves the queue for it
        otherwise than by being cancelled keeps it shut for all.
        """
        is_shared = self._extensions.get("http_version") == b"HTTP/2"
        is_done = self.is_over or self.is_catching_up or self._is_caught_up
        return self._source is not None and not (is_shared or is_done)


def _keep_by(keeper: Any, stream: Any) -> bool:
    """Have the body of a response run through `keeper.keep` or `keeper.akeep`: same object.  False where it can't be."""
    try:
        stream.__dict__[_KEEPER] = keeper
        stream.__class__ = _keeping(type(stream))
    except (AttributeError, TypeError):
        return False
    return True


_keeping_classes: dict[type, type] = {}


def _keeping(cls: Any) -> Any:
    """`cls` with a keeper: one subclass for each class, of the same name."""
    found = _keeping_classes.get(cls)
    if found is not None:
        return found
    # What httpx puts around a body only times it, and is passed over.
    is_bound = cls.__name__ in ("BoundSyncStream", "BoundAsyncStream")

    class Keeping(cls):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            return self.__dict__[_KEEPER].keep(iter(self._stream if is_bound else super().__iter__()))  # type: ignore[no-any-return]

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self.__dict__[_KEEPER].akeep(aiter(self._stream) if is_bound else super().__aiter__())  # type: ignore[no-any-return]

    Keeping.__name__, Keeping.__qualname__, Keeping.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    _keeping_classes[cls] = _keeping_classes[Keeping] = Keeping
    return Keeping


def _decoded(kind: Any, encoding: str, body: bytes) -> bytes:
    """A body as a response of this kind decodes it."""
    found: bytes = kind(200, headers={"content-encoding": encoding}, content=body).content
    return found


# ── reading on ───────────────────────────────────────────────────────────────────────────────────────────────────


class NothingMore(BaseException):
    """Ends a reading that would have to wait.  No layer in between takes it for an error of the network."""

    #: By this a layer of ours can tell that the stream is about to be closed.
    farebox_nothing_more = True


def _read_on(source: Iterator[bytes], extensions: Mapping[str, Any], kept: list[bytes]) -> bool:
    """Add to `kept` what has arrived and nobody has read.  True where that is all: then the network has nothing more.

    The connection is read as it always is, but waits for nothing.  Where there is none nobody can say.  False too for what
    ends, and says itself what it used, and for what goes on and on.
    """
    network: Any = extensions.get("network_stream")
    if not hasattr(network, "read") or not isinstance(source, types.GeneratorType):
        return False
    read, left = network.read, _MOST_READ_ON_BYTES

    def read_now(max_bytes: int, timeout: float | None = None) -> bytes:
        if not source.gi_running:  # an interrupt has left this behind, on a connection that went on to another request
            return read(max_bytes, timeout=timeout)  # type: ignore[no-any-return]
        try:
            found: bytes = read(max_bytes, timeout=0.0)
        except Exception:
            raise NothingMore from None
        return found

    try:
        network.read = read_now
        for chunk in source:
            kept.append(chunk)
            left -= len(chunk)
            if left < 0:
                return False
    except NothingMore:
        return True
    except Exception:
        return False
    finally:
        vars(network).pop("read", None)
    return False


async def _aread_on(source: AsyncIterator[bytes], kept: list[bytes]) -> bool:
    """As `_read_on`, by letting the event loop turn until nothing comes any more, also where its task is being cancelled."""
    import asyncio  # here and not above: it is slow

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False  # another kind of loop

    async def read() -> None:
        left, until = _MOST_READ_ON_BYTES, time.monotonic() + _MOST_READ_ON_SECONDS
        async for chunk in source:
            kept.append(chunk)
            left -= len(chunk)
            if left < 0 or time.monotonic() > until:
                return

    shield = getattr(sys.modules.get("anyio"), "CancelScope", None)
    try:
        with nullcontext() if shield is None else shield(shield=True):
            await _while_it_moves(read(), kept)
    except NothingMore:
        return True
    except Exception:
        return False
    return False


@types.coroutine
def _while_it_moves(reading: Coroutine[Any, Any, None], kept: list[bytes]) -> Generator[Any, Any, None]:
    """Await `reading` as long as it adds to `kept`; then tell it that there is nothing more.

    Not as a task of its own: to cancel one would tell every layer that the program had cancelled.
    """
    seen, turns, is_ending = len(kept), 0, False
    step: Callable[[], Any] = partial(reading.send, None)
    while True:
        try:
            waited = step()
        except StopIteration:
            return
        step = partial(reading.send, None)
        try:
            if is_ending:
                yield waited
                continue
            if waited is not None:
                waited._asyncio_future_blocking = False  # it is looked at, and not waited for
            while True:
                turns = 1 if len(kept) > seen else turns + 1
                seen = len(kept)
                yield
                if waited is None or waited.done() or turns >= _TURNS:
                    break
            if turns >= _TURNS:
                is_ending, step = True, partial(reading.throw, NothingMore())
        except GeneratorExit:
            reading.close()
            raise
        except BaseException as error:
            is_ending, step = True, partial(reading.throw, error)


# ── looking through ──────────────────────────────────────────────────────────────────────────────────────────────


def server_sent(body: bytes, telling: tuple[bytes, ...] = ()) -> list[Any]:
    """The JSON payloads of server-sent events, of lines that are JSON or of frames; those that are cut or no JSON left out.

    With `telling`, of those events alone that hold one of these.
    """
    if body.startswith(b"\0"):
        return [payload for payload in map(parsed, _framed(body)) if payload is not None]
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events = _events_with(body, telling) if telling else body.split(b"\n\n")
    payloads = (parsed(text) for event in events for text in _texts_of(event.split(b"\n")))
    return [payload for payload in payloads if payload is not None]


def _texts_of(event: list[bytes]) -> Iterable[bytes]:
    data = [line[5:].strip() for line in event if line.startswith(b"data:")]
    return (b"\n".join(data),) if data else (line for line in event if line.startswith(b"{"))


def _framed(body: bytes) -> Iterator[bytes]:
    """What Amazon's event stream carries: frames of two lengths, headers, a payload of JSON with the event in base64, checksums.

    Source: botocore's `eventstream.py` and anthropic 2.14.0, `lib/bedrock/_stream_decoder.py` (read 2026-11-30).
    """
    at = 0
    while at + _LEAST_FRAME_BYTES <= len(body):
        whole, headers = struct.unpack_from(">II", body, at)
        if whole < headers + _LEAST_FRAME_BYTES or at + whole > len(body):
            return
        payload = parsed(body[at + 12 + headers : at + whole - 4])
        inner = payload.get("bytes") if type(payload) is dict else None
        if isinstance(inner, str):
            with suppress(ValueError):
                yield base64.b64decode(inner)
        at += whole


def _events_with(body: bytes, words: tuple[bytes, ...]) -> list[bytes]:
    """Backwards, which CPython does three times as fast where a word begins with what is common and ends with it."""
    found: dict[int, int] = {}
    for word in words:
        at = body.rfind(word)
        while at >= 0:
            start, end = body.rfind(b"\n\n", 0, at) + 1, body.find(b"\n\n", at)
            found[start] = len(body) if end < 0 else end
            at = body.rfind(word, 0, start)
    return [body[start : found[start]] for start in sorted(found)]
