"""Streams that settle exactly once, however they end, and stay the SDK's own objects.

What is watched is the HTTP response of a call whose answer has not been read yet: its class is swapped for a subclass that
notices `close()`, and that of its body for one that keeps the bytes.  (Closures on the instance do the same and cost 90 µs a
stream.)  When the SDK makes a `Stream` of it, the stream's iterator is replaced by a generator over the SDK's own one, which
notices the end.  Usage is read off the chunks as they pass, or, where that is all that a reader wants to know, off the few
events that tell it, which are looked for in the bytes once the stream has ended.

    drained                 completed: usage from the chunks
    closed by its caller    closed: charged for what had arrived, and a margin
    an error while reading  unknown: presumed spent
    dropped, not iterated   dropped: presumed spent; noticed by a guard whose finalizer only appends to a queue

A reader may be behind its provider when it closes.  So what has arrived by then is read first, without waiting for more; and
where nobody can say whether that is all, the stream is charged in full.
"""

from __future__ import annotations

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
from farebox._kept import Keeper, server_sent
from farebox.providers import Reader
from farebox.providers._unmetered import READER

#: What is looked at twice of a stream that is too long to be kept at once: an event may be cut there.
_OVERLAP_BYTES: Final = 2**16
#: How server-sent events begin.
_FIELDS: Final = (b"event:", b"data:", b"id:", b"retry:", b":")

_WATCH: Final = "_farebox_watch"


class Watch(Keeper):
    """Watches over the answer of one call until the call has ended; the `activity` of that call."""

    __slots__ = ("_latest", "_mark", "_provider", "_reader", "_reading", "_telling", "call")

    def __init__(self, call: Call, provider: Reader) -> None:
        super().__init__()
        self.call = call
        self._provider = provider
        self._reader = provider.stream_reader(call)
        #: What tells usage in the bytes of this stream; () where each chunk is to be seen.
        self._telling: tuple[bytes, ...] = ()
        self._reading: weakref.ref[Any] | None = None
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

    def iterate(
        self, guard: Guard | None, source: Iterator[Any], when_drained: Callable[[], None] | None = None
    ) -> Iterator[Any]:
        """The chunks of an SDK's stream; or the bytes, for who reads them without it, and then says `when_drained`.

        `guard` comes first: of a dropped frame the first variable is the first to go.
        """
        see = self._reader.see if when_drained is None else READER.see
        try:
            if self.call.most_chunks is not None and when_drained is None:
                source = self.cut(source)
            for chunk in source:
                self._latest = chunk
                if not see(chunk):
                    yield chunk
                if self._telling:
                    break
            for chunk in source:
                self._latest = chunk
                yield chunk
        except GeneratorExit:
            raise
        except BaseException as error:
            self.end("unknown", error)
            raise
        (when_drained or self.finish)()
        if self.call.raises is not None:
            raise self.call.raises

    async def aiterate(
        self, guard: Guard | None, source: AsyncIterator[Any], when_drained: Callable[[], None] | None = None
    ) -> AsyncIterator[Any]:
        """As `iterate`."""
        see = self._reader.see if when_drained is None else READER.see
        try:
            if self.call.most_chunks is not None and when_drained is None:
                source = self.acut(source)
            async for chunk in source:
                self._latest = chunk
                if not see(chunk):
                    yield chunk
                if self._telling:
                    break
            async for chunk in source:
                self._latest = chunk
                yield chunk
        except GeneratorExit:
            raise
        except BaseException as error:
            self.end("unknown", error)
            raise
        (when_drained or self.finish)()
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

    # The bytes.

    def begin(self, chunk: bytes) -> None:
        if self.call.first_chunk_at_seconds is None:
            self.call.first_chunk_at_seconds = time.time()
        if self.decode is None and type(chunk) is bytes and chunk.startswith(_FIELDS):
            self._telling = getattr(self._reader, "telling", ())

    def make_room(self) -> None:
        super().make_room()
        if self._telling:
            self._hear()
            self._kept[:] = [b"".join(self._kept)[-_OVERLAP_BYTES:]]
        else:
            del self._kept[1:]

    def _hear(self) -> None:
        for event in server_sent(b"".join(self._kept), self._telling):
            self._reader.see(event)

    def may_be_behind(self) -> bool:
        return self.call.is_stream and super().may_be_behind()

    def read_through(self, generator: Any) -> Any:
        """From now on the answer is read through this generator of ours, which must not be kept alive by it."""
        self._reading = weakref.ref(generator)
        return generator

    def drained(self) -> None:
        """Somebody read the bytes to their end, past the SDK's iterator or before there was one."""
        if self.is_over:
            return
        if not self.call.is_stream:
            self.read_whole(self.body())
            return
        for chunk in self._chunks() if not self._telling else ():
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
        if not (self._is_kept and self._is_caught_up):
            # The provider may have gone on: what was kept says nothing of what it had made.
            self.call.received_tokens = 0

    def dropped(self) -> None:
        """Nobody can read this any more.  Runs in a finalizer."""
        if not self.is_over:
            self.call.outcome = "dropped"
            signals.settle_late(self.call)
            self.is_over, self._source = True, None

    def finish(self) -> None:
        """The stream has ended by itself."""
        if not self.is_over:
            try:
                if self._telling:
                    self._hear()
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
            self._latest = self._mark = self._source = None
            if self.call.is_pending and error is None:
                self.call.was_closed = False
                leave_pending(self.call)
            else:
                end_call(self.call, outcome, error)
        except BaseException:
            _hand_on(self.call, outcome)
            raise

    def _chunks(self) -> list[Any]:
        return server_sent(self.body())


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
    watch.keep_bytes_of(response)
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
            read = super().iter_raw if _is_plain(self) else super().iter_bytes
            return _followed(self, Watch.iterate, read(*args, **kwargs))  # type: ignore[no-any-return]

        def aiter_bytes(self, *args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
            read = super().aiter_raw if _is_plain(self) else super().aiter_bytes
            return _followed(self, Watch.aiterate, read(*args, **kwargs))  # type: ignore[no-any-return]

        def close(self) -> None:
            watch: Watch = self.__dict__[_WATCH][0]
            try:
                if not watch.is_being_read():
                    watch.catch_up()
            finally:
                try:
                    super().close()
                finally:
                    watch.closing()

        async def aclose(self) -> None:
            watch: Watch = self.__dict__[_WATCH][0]
            if watch.is_catching_up:
                return  # it is being closed
            try:
                if not watch.is_being_read():
                    await watch.acatch_up()
            finally:
                try:
                    await super().aclose()
                finally:
                    watch.closing()

    Watched.__name__, Watched.__qualname__, Watched.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    _watched_classes[cls] = Watched
    _watched_classes[Watched] = Watched
    return Watched


def _is_plain(response: Any) -> bool:
    """Whether bytes and raw bytes are the same: the layer that would decode them takes longer than all of ours."""
    return response.__dict__[_WATCH][0].decode is None and not hasattr(response, "_content")


def _followed(response: Any, iterate: Any, chunks: Any) -> Any:
    watch = response.__dict__[_WATCH][0]
    if watch.is_being_read():
        return chunks
    return watch.read_through(iterate(watch, None, chunks, partial(_drained, response)))


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
