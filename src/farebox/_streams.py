"""Streams that settle exactly once, however they end, and stay the SDK's own objects.

What is watched is the HTTP response of a call whose answer has not been read yet: its class is swapped for a subclass that
tees the bytes and notices `close()`.  (Closures on the instance do the same and cost 90 µs a stream.)  When the SDK makes a
`Stream` of it, the stream's iterator is replaced by a generator over the SDK's own one, which reads usage as it passes.

    drained                 completed: usage from the chunks
    closed by its caller    closed: charged for what had arrived, and a margin
    an error while reading  unknown: presumed spent
    dropped, not iterated   dropped: presumed spent; noticed by a guard whose finalizer only appends to a queue
"""

from __future__ import annotations

import json
import math
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from farebox import signals
from farebox._call import Call, Outcome
from farebox.providers import Provider

#: A stream longer than this is not kept for a closer look; closed early, it is charged in full.
_MOST_KEPT_BYTES: Final = 16 * 2**20

#: A stream whose reader lags so far behind its provider is charged in full when it is closed early.
_MOST_LAG_SECONDS: Final = 0.5
#: A read that took so long had to wait for the network.
_BLOCKED_SECONDS: Final = 0.0003

_WATCH: Final = "_farebox_watch"


class Watch:
    """Watches over the answer of one call until the call has ended; the `activity` of that call."""

    __slots__ = (
        "_handed_at",
        "_kept",
        "_kept_bytes",
        "_lag_seconds",
        "_mark",
        "_provider",
        "_reader",
        "_reading",
        "call",
        "is_over",
        "progress",
    )

    def __init__(self, call: Call, provider: Provider) -> None:
        self.call = call
        self.is_over = False
        #: Grows with every chunk read, by whatever way.
        self.progress = 0
        self._provider = provider
        self._reader = provider.stream_reader(call)
        self._reading: weakref.ref[Any] | None = None
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        #: How long the reader has been away since the buffers were last empty: for ever, until they are seen to be.
        self._lag_seconds = math.inf
        self._handed_at = time.monotonic()
        self._mark: tuple[int, float] | None = None
        call.activity = self

    def idle_seconds(self, now: float) -> float:
        """For how long nobody has read this stream; 0.0 while somebody does."""
        if self.is_over or self.is_being_read():
            self._mark = None
            return 0.0
        if self._mark is None or self._mark[0] != self.progress:
            self._mark = (self.progress, now)
        return now - self._mark[1]

    def is_being_read(self) -> bool:
        """Whether somebody is inside our generator now: then it is the SDK that closes, and the generator hears the end."""
        reader = None if self._reading is None else self._reading()
        return bool(getattr(reader, "gi_running", False) or getattr(reader, "ag_running", False))

    # Through an SDK's stream.

    def iterate(self, guard: _Guard, source: Iterator[Any]) -> Iterator[Any]:
        """The chunks of `source`.  `guard` comes first: of a dropped frame the first variable is the first to go."""
        see = self._reader.see
        with self._hearing(self.finish):
            for chunk in source:
                self.progress += 1
                if not see(chunk):
                    yield chunk

    async def aiterate(self, guard: _Guard, source: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """As `iterate`."""
        see = self._reader.see
        with self._hearing(self.finish):
            async for chunk in source:
                self.progress += 1
                if not see(chunk):
                    yield chunk

    def read_through(self, generator: Any) -> Any:
        """From now on the answer is read through this generator of ours, which must not be kept alive by it."""
        self._reading = weakref.ref(generator)
        return generator

    # Through the bytes of the response.

    def tee(self, chunks: Iterator[bytes], when_drained: Callable[[], None] | None) -> Iterator[bytes]:
        """The bytes of the answer, kept for as long as the call is open; the outermost reader hears how they end."""
        with self._hearing(when_drained):
            for chunk in chunks:
                self._keep(chunk)
                yield chunk
                self._taken()

    async def atee(self, chunks: AsyncIterator[bytes], when_drained: Callable[[], None] | None) -> AsyncIterator[bytes]:
        """As `tee`."""
        with self._hearing(when_drained):
            async for chunk in chunks:
                self._keep(chunk)
                yield chunk
                self._taken()

    @contextmanager
    def _hearing(self, when_drained: Callable[[], None] | None) -> Iterator[None]:
        """Hear how the reading inside ends: by an error, or drained; of one that is left the guard or `close` tells.

        None: somebody further out is reading, and hears it.
        """
        try:
            yield
        except GeneratorExit:
            raise
        except BaseException as error:
            if when_drained is not None:
                self.end("unknown", error)
            raise
        if when_drained is not None:
            when_drained()

    def _keep(self, chunk: bytes) -> None:
        """A chunk has come."""
        if self.is_over:
            return
        self.progress += 1
        now = time.monotonic()
        if now - self._handed_at > _BLOCKED_SECONDS:
            # We had to wait for it: the buffers were empty, and what has arrived is what the provider had made.
            self._lag_seconds = 0.0
        self._handed_at = now
        if self.call.first_chunk_at_seconds is None:
            self.call.first_chunk_at_seconds = time.time()
        self._kept_bytes += len(chunk)
        if self._kept_bytes <= _MOST_KEPT_BYTES:
            self._kept.append(chunk)

    def _taken(self) -> None:
        """The reader has come back for more; meanwhile the provider went on into the network's buffers."""
        now = time.monotonic()
        self._lag_seconds += now - self._handed_at
        self._handed_at = now

    def drained(self) -> None:
        """Somebody read the bytes to their end, past the SDK's iterator or before there was one."""
        if self.is_over:
            return
        if not self.call.is_stream:
            self.read_whole(b"".join(self._kept))
            return
        for chunk in self._chunks():
            self._reader.see(chunk)
        self.finish()

    def read_whole(self, body: bytes) -> None:
        """The call has ended with this answer, which is no stream."""
        if self._kept_bytes <= _MOST_KEPT_BYTES:
            read_answer(self.call, self._provider, parsed(body))
        self.end("completed")

    # The end.

    def closing(self) -> None:
        """The response is being closed: by its caller, unless the SDK's own generator is doing it at its end."""
        if not self.is_over and not self.is_being_read():
            # While the reader was away the provider went on: then what was read says nothing of what it had made.
            lag_seconds = self._lag_seconds + time.monotonic() - self._handed_at
            if self.call.is_stream and lag_seconds < _MOST_LAG_SECONDS and self._kept_bytes <= _MOST_KEPT_BYTES:
                _tolerantly(self._reader.abandon, self._chunks())
            self.call.was_closed = True
            self.end("completed" if self.call.usage is not None else "closed")

    def dropped(self) -> None:
        """Nobody can read this any more.  Runs in a finalizer."""
        if not self.is_over:
            self.call.outcome = "dropped"
            signals.settle_late(self.call)
            self.is_over = True

    def finish(self) -> None:
        """The stream has ended by itself."""
        if not self.is_over:
            _tolerantly(self._reader.finish)
            self.end("completed")

    def end(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """Settle, once."""
        if self.is_over:
            return
        try:
            self.is_over = True
            self._kept.clear()
            end_call(self.call, outcome, error)
        except BaseException:
            _hand_on(self.call, outcome)
            raise

    def _chunks(self) -> list[Any]:
        return server_sent(b"".join(self._kept))


class _Guard:
    """Lives as long as somebody can read a stream."""

    __slots__ = ("_watch",)

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __del__(self) -> None:
        self._watch.dropped()


def watch_response(response: Any, call: Call, provider: Provider) -> Watch:
    """Watch an HTTP response whose body has not been read, sync or async, of httpx or httpx2."""
    watch = Watch(call, provider)
    response.__dict__[_WATCH] = (watch, _Guard(watch))
    response.__class__ = _watched(type(response))
    return watch


def watch_stream(stream: Any, call: Call, provider: Provider) -> None:
    """Watch an SDK's `Stream` or `AsyncStream`: same object, other iterator."""
    response = stream.response
    if _WATCH not in response.__dict__:
        watch_response(response, call, provider)
    watch, guard = response.__dict__[_WATCH]
    # The guard moves: the response is part of a cycle and would keep it until the next collection.
    response.__dict__[_WATCH] = (watch, None)
    # On a twin, as a generator that referred to the stream itself would keep it alive.
    twin = object.__new__(type(stream))
    twin.__dict__.update(stream.__dict__)
    twin.__dict__.pop("_iterator", None)
    source = twin.__stream__()
    iterate = watch.aiterate if hasattr(source, "__anext__") else watch.iterate
    stream._iterator = watch.read_through(iterate(guard, source))


_watched_classes: dict[type, type] = {}


def _watched(cls: Any) -> Any:
    """`cls` with eyes: one subclass for each class, of the same name."""
    found = _watched_classes.get(cls)
    if found is not None:
        return found

    class Watched(cls):  # type: ignore[misc]
        def iter_bytes(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
            return _teed(self, Watch.tee, super().iter_bytes(*args, **kwargs))  # type: ignore[no-any-return]

        def aiter_bytes(self, *args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
            return _teed(self, Watch.atee, super().aiter_bytes(*args, **kwargs))  # type: ignore[no-any-return]

        def close(self) -> None:
            try:
                super().close()
            finally:
                self.__dict__[_WATCH][0].closing()

        async def aclose(self) -> None:
            try:
                await super().aclose()
            finally:
                self.__dict__[_WATCH][0].closing()

    Watched.__name__, Watched.__qualname__, Watched.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    _watched_classes[cls] = Watched
    _watched_classes[Watched] = Watched
    return Watched


def _teed(response: Any, tee: Any, chunks: Any) -> Any:
    watch = response.__dict__[_WATCH][0]
    if watch.is_being_read():
        return tee(watch, chunks, None)
    return watch.read_through(tee(watch, chunks, partial(_drained, response)))


def _drained(response: Any) -> None:
    """The bytes were read to their end.  The response is given back as it was, so that it can be pickled again."""
    response.__dict__[_WATCH][0].drained()
    if response.__dict__[_WATCH][0].is_over:
        response.__class__ = type(response).__mro__[1]
        del response.__dict__[_WATCH]


def end_call(call: Call, outcome: Outcome, error: BaseException | None = None) -> None:
    """A call has ended: say so on the bus, where it is paid."""
    try:
        call.outcome = outcome
        if error is not None:
            call.error_class = type(error).__name__
        call.activity = None
        signals.post_call.send(call.provider_name, call=call)
    except BaseException:
        _hand_on(call, outcome)
        raise


def _hand_on(call: Call, outcome: Outcome) -> None:
    """Interrupted before the call was paid: whoever is next to use the ledger pays it."""
    if call.plan is not None:
        call.outcome = outcome
        signals.settle_late(call)


def read_answer(call: Call, provider: Provider, answer: Any) -> None:
    """Have a provider read a whole answer; an odd one is left unread."""
    _tolerantly(provider.read_answer, call, answer)


def _tolerantly(read: Any, *args: Any) -> None:
    # An answer is untrusted: whatever it holds, the caller gets it, and what can't be read is charged at its bound.
    try:
        read(*args)
    except Exception as error:
        call = next((arg for arg in args if isinstance(arg, Call)), None)
        if call is not None:
            call.doubt = type(error).__name__


def parsed(body: bytes) -> Any:
    """A JSON body, or None where it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def server_sent(body: bytes) -> list[Any]:
    """The JSON payloads of server-sent events, those that are cut or no JSON left out."""
    payloads = (parsed(line[5:].strip()) for line in body.split(b"\n") if line.startswith(b"data:"))
    return [payload for payload in payloads if payload is not None]
