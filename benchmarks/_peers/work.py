"""What every library is asked to do: calls that are timed in the process, and calls that a server counts."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import importlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import openai
from openai.resources.chat import completions

from _peers import stream_words, words

#: Work ends well before; a wait that lasts longer is a fault.
_TIMEOUT_SECONDS: Final = 60.0
_COLLECT_EVERY: Final = 50
_NO_REAL_LIMIT: Final = {"usd": 1_000_000, "tokens": 10**12}


class Library(Protocol):
    """A module of this package.  It may have a `NOTE`: what a reader of its figures should know about this run."""

    UNIT: str  # "usd" or "tokens": what the limit is in
    ENTERS_STREAMS: bool  # a stream has to be entered with `with` before it can be read

    def guarded(self, client: Any, limit: float) -> contextlib.AbstractContextManager[tuple[Any, Callable[[], float]]]:
        """Put the hard stop around a client: yields the client to use, and what tells the amount that was recorded."""


# ── time: the real SDK, over a transport that replays what the server answered ───────────────────────────────────────


def _replay(settings: dict[str, Any]) -> Any:
    """An HTTP client that answers with the bytes the server once sent, a stream event by event."""
    base: Any = importlib.import_module("openai._base_client")
    http: Any = getattr(base, "httpx2", None) or base.httpx

    class Events(http.SyncByteStream):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[bytes]:
            yield from events

    body = settings["answer"].encode()
    events = [event.encode() + b"\n\n" for event in settings["stream"].split("\n\n") if event]
    as_json, as_events = {"content-type": "application/json"}, {"content-type": "text/event-stream"}

    def answer(request: Any) -> Any:
        if b'"stream":true' in request.content:
            return http.Response(200, headers=as_events, stream=Events())
        return http.Response(200, headers=as_json, content=body)

    return http.Client(transport=http.MockTransport(answer))


# Taken before any library is imported: what a library wraps on the classes of the SDK stays as it was on these.
_BareCompletions: Final = type("Completions", (completions.Completions,), {"create": completions.Completions.create})
_BareClient: Final = type(
    "OpenAI",
    (openai.OpenAI,),
    {name: getattr(openai.OpenAI, name) for name in ("request", "_build_request", "_sleep_for_retry", "_prepare_url")},
)


def _bare(**options: Any) -> Any:
    client = _BareClient(**options)
    client.chat.__dict__["completions"] = _BareCompletions(client)  # where a cached property keeps its value
    return client


def _call(client: Any, words: dict[str, Any]) -> None:
    client.chat.completions.create(**words)


def _read(client: Any, words: dict[str, Any]) -> None:
    for _ in client.chat.completions.create(**words):
        pass


def _enter_and_read(client: Any, words: dict[str, Any]) -> None:
    with client.chat.completions.create(**words) as stream:
        for _ in stream:
            pass


def time_it(library: Library, settings: dict[str, Any]) -> dict[str, Any]:
    """Nanoseconds of a bare and a guarded call, in turns: each the first of a pair half of the times."""
    ask, make = _call, words
    if settings["is_stream"]:
        ask, make = (_enter_and_read if library.ENTERS_STREAMS else _read), stream_words
    warm_up, pairs = settings["warm_up"], settings["pairs"]
    options = {"api_key": "none", "max_retries": 0}
    bare = _bare(http_client=_replay(settings), **options)
    taken = []
    made = openai.OpenAI(http_client=_replay(settings), **options)
    with library.guarded(made, _NO_REAL_LIMIT[library.UNIT]) as (guarded, recorded):
        clients = (bare, guarded)
        gc.collect()
        gc.freeze()
        gc.disable()
        now = time.perf_counter_ns
        for i in range(warm_up + pairs):
            nanos = [0, 0]
            for which in (0, 1) if i % 2 else (1, 0):
                arguments = make(2 * i + which)
                start = now()
                ask(clients[which], arguments)
                nanos[which] = now() - start
            if i >= warm_up:
                taken.append(nanos)
            if i % _COLLECT_EVERY == 0:
                gc.collect()
        return {"nanos": taken, "recorded": recorded(), "unit": library.UNIT, "calls": warm_up + pairs}


# ── what is let through: the real SDK, over HTTP, and the server counts ──────────────────────────────────────────────


class _Outcome:
    """How the tries ended, as the caller saw it."""

    def __init__(self) -> None:
        self.answered = 0
        self.raised: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def one_try(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            with self._lock:
                self.raised[type(error).__name__] += 1
        else:
            with self._lock:
                self.answered += 1


def _options(settings: dict[str, Any]) -> dict[str, Any]:
    return {"base_url": settings["url"], "api_key": "fake", "max_retries": 0, "timeout": _TIMEOUT_SECONDS}


def until_refused(client: Any, tries: int, outcome: _Outcome, _: Library) -> None:
    """One call after another, up to the first error: the control, where nothing has to hold at once."""
    for i in range(tries):
        with outcome.one_try():
            client.chat.completions.create(**words(i))
        if outcome.raised:
            return


def in_turn(client: Any, tries: int, outcome: _Outcome, _: Library) -> None:
    """One call after another, whatever was raised before, as under an `except Exception: pass`."""
    for i in range(tries):
        with outcome.one_try():
            client.chat.completions.create(**words(i))


def threads(client: Any, tries: int, outcome: _Outcome, _: Library) -> None:
    """All at once, each in a thread that has a copy of this context: two of the libraries need that, none minds."""
    together = threading.Barrier(tries)

    def ask(number: int) -> None:
        together.wait()
        with outcome.one_try():
            client.chat.completions.create(**words(number))

    started = [threading.Thread(target=contextvars.copy_context().run, args=(ask, i)) for i in range(tries)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


async def tasks(client: Any, tries: int, outcome: _Outcome) -> None:
    """All at once, each in a task."""

    async def ask(number: int) -> None:
        with outcome.one_try():
            await client.chat.completions.create(**words(number))

    await asyncio.gather(*(ask(i) for i in range(tries)))


def streams(client: Any, tries: int, outcome: _Outcome, library: Library) -> None:
    """Opened one after another, and read to their ends only when all are open."""
    with contextlib.ExitStack() as stack:
        opened = []
        for i in range(tries):
            try:
                stream = client.chat.completions.create(**stream_words(i))
                opened.append(stack.enter_context(stream) if library.ENTERS_STREAMS else stream)
            except Exception as error:
                outcome.raised[type(error).__name__] += 1
        for stream in opened:
            with outcome.one_try():
                for _ in stream:
                    pass


def let_through(library: Library, settings: dict[str, Any]) -> dict[str, Any]:
    """Try what the settings name; which tries reached the server is on the server's own bill."""
    kind, tries, outcome = settings["kind"], settings["tries"], _Outcome()
    _call(_bare(api_key="none", http_client=_replay(settings)), words(0))  # the SDK imports half of itself on first use
    make = openai.AsyncOpenAI if kind == "tasks" else openai.OpenAI
    with library.guarded(make(**_options(settings)), settings["limits"][library.UNIT]) as (client, recorded):
        if kind == "tasks":
            asyncio.run(tasks(client, tries, outcome))
        else:
            _STORMS[kind](client, tries, outcome, library)
        return {
            "answered": outcome.answered,
            "raised": outcome.raised,
            "recorded": recorded(),
            "unit": library.UNIT,
            "note": getattr(library, "NOTE", ""),
        }


_STORMS: Final = {"until_refused": until_refused, "in_turn": in_turn, "threads": threads, "streams": streams}


DO: Final = {"time": time_it, "let_through": let_through}
