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

import math
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, Final

from farebox import _pending, signals
from farebox._bodies import parsed, parsed_lines
from farebox._call import BATCH, Call, Outcome
from farebox.providers import Reader

#: A stream longer than this is not kept for a closer look; closed early, it is charged in full.
_MOST_KEPT_BYTES: Final = 16 * 2**20

#: A stream whose reader lags so far behind its provider is charged in full when it is closed early.
_MOST_LAG_SECONDS: Final = 0.5
#: A read that took so long had to wait for the network: it found the buffers empty.
_BLOCKED_SECONDS: Final = 0.0003

_WATCH: Final = "_farebox_watch"
_clock: Final = time.monotonic


class Watch:
    """Watches over the answer of one call until the call has ended; the `activity` of that call."""

    __slots__ = (
        "_caught_up_at",
        "_is_kept",
        "_kept",
        "_latest",
        "_mark",
        "_provider",
        "_reader",
        "_reading",
        "call",
        "is_over",
    )

    def __init__(self, call: Call, provider: Reader) -> None:
        self.call = call
        self.is_over = False
        self._provider = provider
        self._reader = provider.stream_reader(call)
        self._reading: weakref.ref[Any] | None = None
        #: The bytes that have arrived, and whether that is all of them.
        self._kept: list[bytes] = []
        self._is_kept = True
        #: When the buffers were last seen to be empty, so that what had arrived was all that the provider had made.
        self._caught_up_at = -math.inf
        #: What was read last, bytes or a chunk; and what it was when somebody last saw it move.
        self._latest: Any = None
        self._mark: tuple[Any, float] | None = None
        call.activity = self

    def idle_seconds(self, now: float) -> float:
        """For how long nobody has read this stream; 0.0 while somebody does."""
        if self.is_over or self.is_being_read():
            self._mark = None
            return 0.0
        if self._mark is None or self._mark[0] is not self._latest:
            self._mark = (self._latest, now)
        return now - self._mark[1]

    def is_being_read(self) -> bool:
        """Whether somebody is inside our generator now: then it is the SDK that closes, and the generator hears the end."""
        reader = None if self._reading is None else self._reading()
        return bool(getattr(reader, "gi_running", False) or getattr(reader, "ag_running", False))

    # Reading.  Of a reader that leaves early, which is a GeneratorExit here, the guard or `close` tells.

    def iterate(self, guard: Guard, source: Iterator[Any]) -> Iterator[Any]:
        """The chunks of an SDK's stream.  `guard` comes first: of a dropped frame the first variable is the first to go."""
        see = self._reader.see
        try:
            for chunk in source if self.call.most_chunks is None else self.cut(source):
                self._latest = chunk
                if not see(chunk):
                    yield chunk
        except GeneratorExit:
            raise
        except BaseException as error:
            self.end("unknown", error)
            raise
        self.finish()
        if self.call.raises is not None:
            raise self.call.raises

    async def aiterate(self, guard: Guard, source: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """As `iterate`."""
        see = self._reader.see
        try:
            async for chunk in source if self.call.most_chunks is None else self.acut(source):
                self._latest = chunk
                if not see(chunk):
                    yield chunk
        except GeneratorExit:
            raise
        except BaseException as error:
            self.end("unknown", error)
            raise
        self.finish()
        if self.call.raises is not None:
            raise self.call.raises

    # Of a server that does not honour the cap: no token comes in less than a chunk of its own or a part of one.

    def cut(self, source: Any) -> Iterator[Any]:
        """`source` up to more chunks than its cap can have."""
        assert self.call.most_chunks is not None
        yield from islice(source, self.call.most_chunks)
        if next(source, None) is not None:
            self.leave()
            source.close()

    async def acut(self, source: Any) -> AsyncIterator[Any]:
        """As `cut`."""
        left = self.call.most_chunks or 0
        async for chunk in source:
            left -= 1
            if left < 0:
                self.leave()
                await source.aclose()
                return
            yield chunk

    def leave(self) -> None:
        """Break off here: charged for what had arrived, and a margin."""
        with suppress(Exception):
            self._reader.abandon(self._chunks())
        self.call.is_cut = True
        self.end("closed")

    def tee(self, chunks: Iterator[bytes], when_drained: Callable[[], None] | None) -> Iterator[bytes]:
        """The bytes of the answer, kept while it is short.  `when_drained` is None for all but the outermost reader."""
        call, keep, room = self.call, self._kept.append, _MOST_KEPT_BYTES
        asked_at = _clock()
        try:
            for chunk in chunks:
                self._latest = chunk
                now = _clock()
                if now - asked_at > _BLOCKED_SECONDS:
                    self._caught_up_at = now
                if call.first_chunk_at_seconds is None:
                    call.first_chunk_at_seconds = time.time()
                room -= len(chunk)
                if room >= 0:
                    keep(chunk)
                else:
                    self._is_kept = False
                yield chunk
                asked_at = _clock()
        except GeneratorExit:
            raise
        except BaseException as error:
            if when_drained is not None:
                self.end("unknown", error)
            raise
        if when_drained is not None:
            when_drained()
            if call.raises is not None:
                raise call.raises

    async def atee(self, chunks: AsyncIterator[bytes], when_drained: Callable[[], None] | None) -> AsyncIterator[bytes]:
        """As `tee`."""
        call, keep, room = self.call, self._kept.append, _MOST_KEPT_BYTES
        asked_at = _clock()
        try:
            async for chunk in chunks:
                self._latest = chunk
                now = _clock()
                if now - asked_at > _BLOCKED_SECONDS:
                    self._caught_up_at = now
                if call.first_chunk_at_seconds is None:
                    call.first_chunk_at_seconds = time.time()
                room -= len(chunk)
                if room >= 0:
                    keep(chunk)
                else:
                    self._is_kept = False
                yield chunk
                asked_at = _clock()
        except GeneratorExit:
            raise
        except BaseException as error:
            if when_drained is not None:
                self.end("unknown", error)
            raise
        if when_drained is not None:
            when_drained()
            if call.raises is not None:
                raise call.raises

    def read_through(self, generator: Any) -> Any:
        """From now on the answer is read through this generator of ours, which must not be kept alive by it."""
        self._reading = weakref.ref(generator)
        return generator

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
        if self._is_kept:
            self.call.is_pending = False  # unless the answer says that it still is
            lines = self.call.operation_name == BATCH
            read_answer(self.call, self._provider, parsed_lines(body) if lines else parsed(body))
        self.end("completed")

    # The end.

    def closing(self) -> None:
        """The response is being closed: by its caller, unless the SDK's own generator is doing it at its end."""
        if not self.is_over and not self.is_being_read():
            if self.call.is_stream:
                self.give_up()
            elif self.call.operation_name == BATCH and self._latest is not None:
                self.call.is_pending = False  # its results were fetched, and nobody will read the rest
            self.call.was_closed = True
            self.end("completed" if self.call.usage is not None else "closed")

    def give_up(self) -> None:
        """The stream was left early: take note of what had arrived."""
        with suppress(Exception):
            self._reader.abandon(self._chunks())
        if not self._is_kept or _clock() - self._caught_up_at >= _MOST_LAG_SECONDS:
            # While the reader was away the provider went on: what was read says nothing of what it had made.
            self.call.received_tokens = 0

    def dropped(self) -> None:
        """Nobody can read this any more.  Runs in a finalizer."""
        if not self.is_over:
            self.call.outcome = "dropped"
            signals.settle_late(self.call)
            self.is_over = True

    def finish(self) -> None:
        """The stream has ended by itself."""
        if not self.is_over:
            try:
                self._reader.finish()
            except Exception as error:
                self.call.doubt = type(error).__name__
            self.end("completed")

    def end(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """Settle, once."""
        if self.is_over:
            return
        try:
            self.is_over = True
            self._kept.clear()
            self._latest = self._mark = None
            if self.call.is_pending and error is None:
                self.call.was_closed = False
                leave_pending(self.call)
            else:
                end_call(self.call, outcome, error)
        except BaseException:
            _hand_on(self.call, outcome)
            raise

    def _chunks(self) -> list[Any]:
        return server_sent(b"".join(self._kept))


class Guard:
    """Lives as long as somebody can read a stream."""

    __slots__ = ("_watch",)

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __del__(self) -> None:
        self._watch.dropped()


def watch_response(response: Any, call: Call, provider: Reader) -> Watch:
    """Watch an HTTP response whose body has not been read, sync or async, of httpx or httpx2."""
    watch = Watch(call, provider)
    response.__dict__[_WATCH] = (watch, Guard(watch))
    response.__class__ = _watched(type(response))
    return watch


def watch_stream(stream: Any, call: Call, provider: Reader) -> None:
    """Watch an SDK's `Stream` or `AsyncStream`: same object, other iterator."""
    response = stream.response
    if _WATCH not in response.__dict__:
        watch_response(response, call, provider)
    # On a twin, as a generator that referred to the stream itself would keep it alive.
    twin = object.__new__(type(stream))
    twin.__dict__.update(stream.__dict__)
    twin.__dict__.pop("_iterator", None)
    stream._iterator = watched(response, twin.__stream__())


def watched(response: Any, source: Any) -> Any:
    """`source`, which makes chunks of a response, seen as they pass; the very same where nobody watches over the response."""
    found = response.__dict__.get(_WATCH)
    if found is None:
        return source
    watch, guard = found
    # The guard moves: the response is part of a cycle and would keep it until the next collection.
    response.__dict__[_WATCH] = (watch, None)
    iterate = watch.aiterate if hasattr(source, "__anext__") else watch.iterate
    return watch.read_through(iterate(guard, source))


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


def leave_pending(call: Call) -> None:
    """Nothing has ended: whoever asks after the answer settles it."""
    given_up = _pending.keep(call)
    if given_up is not None:
        end_call(given_up, "unknown")


def end_call(call: Call, outcome: Outcome, error: BaseException | None = None) -> None:
    """A call has ended: say so on the bus, where it is paid."""
    try:
        call.outcome = outcome
        if error is not None:
            call.error_class = type(error).__name__
        call.activity = None
        signals.post_call.publish(call)
    except BaseException:
        _hand_on(call, outcome)
        raise


def _hand_on(call: Call, outcome: Outcome) -> None:
    """Interrupted before the call was paid: whoever is next to use the ledger pays it."""
    if call.plan is not None:
        call.outcome = outcome
        signals.settle_late(call)


def read_answer(call: Call, provider: Reader, answer: Any) -> None:
    """Have a provider read a whole answer.

    An answer is untrusted: whatever it holds, the caller gets it, and what can't be read is charged at its bound.
    """
    try:
        provider.read_answer(call, answer)
    except Exception as error:
        call.doubt = type(error).__name__


def read_events(call: Call, provider: Reader, body: bytes) -> None:
    """As `read_answer`, of a stream that was read to its end."""
    try:
        reader = provider.stream_reader(call)
        for payload in server_sent(body):
            reader.see(payload)
        reader.finish()
    except Exception as error:
        call.doubt = type(error).__name__


def server_sent(body: bytes) -> list[Any]:
    """The JSON payloads of server-sent events, or of lines that are JSON; those that are cut or no JSON left out."""
    lines = (line for line in body.split(b"\n") if line.startswith((b"data:", b"{")))
    payloads = (parsed(line[5:].strip() if line[0] == 100 else line) for line in lines)
    return [payload for payload in payloads if payload is not None]
