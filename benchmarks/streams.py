"""What farebox adds to a long stream, in per cent of the same stream of the bare SDK.

    python benchmarks/streams.py [--chunks N] [--per-read N] [--pairs N] [--cpu]

Measured as in overhead.py: the real SDK answers itself in the process, and a bare and a guarded stream are read in turns.
Streams ask for their usage chunk themselves, so that both have as many.  `--per-read` events come in one read of the network,
as they do where an answer is made faster than it is read.  `--cpu` counts the time that the thread has the processor, which a
busy machine disturbs less.  No figure here passes or fails.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import time
from collections.abc import Callable
from typing import Any, Final

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--chunks", type=int, default=1_000)
parser.add_argument("--per-read", type=int, default=1)
parser.add_argument("--pairs", type=int, default=60)
parser.add_argument("--cpu", action="store_true")
options = parser.parse_args()
os.environ["FAREBOX_BENCH_CHUNKS"] = str(options.chunks)  # read where streams are made, by what is imported next
os.environ["FAREBOX_BENCH_PER_READ"] = str(options.per_read)

import _in_process  # noqa: E402
import overhead  # noqa: E402
from _in_process import ANTHROPIC_REQUEST, BARE_CLASSES, CLASSES, OPENAI_REQUEST, PROMPT, caller, client  # noqa: E402

import farebox  # noqa: E402

overhead._WARM_UP = 5
if options.cpu:
    time.perf_counter_ns = time.thread_time_ns

_GOOGLE: Final = ("_request", "_async_request", "_request_once", "_async_request_once")
_api: Any = importlib.import_module("google.genai._api_client")
_http: Any = getattr(_api, "httpx2", None) or _api.httpx
_kept: Final = {name: getattr(_api.BaseApiClient, name) for name in _GOOGLE}


def google(*, is_bare: bool) -> Any:
    """A client of Google's SDK that answers itself; a bare one has what was there before `instrument()`."""
    from google import genai

    transport = {"transport": _in_process.transport("google", _http)}
    made = genai.Client(api_key="none", http_options={"client_args": transport, "async_client_args": transport})
    if is_bare:
        api = made._api_client
        api.__class__ = type("BaseApiClient", (type(api),), _kept)
    return made


def google_caller(made: Any, *, is_async: bool) -> Callable[[], Any]:
    """As `caller`."""
    words: dict[str, Any] = {"model": "gemini-2.5-flash", "contents": PROMPT, "config": {"max_output_tokens": 500}}

    def read() -> None:
        for _ in made.models.generate_content_stream(**words):
            pass

    async def aread() -> None:
        async for _ in await made.aio.models.generate_content_stream(**words):
            pass

    return aread if is_async else read


def pair_of(sdk: str, is_async: bool) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A bare call, and one that is guarded."""
    if sdk == "google":
        bare, guarded = (google_caller(google(is_bare=is_bare), is_async=is_async) for is_bare in (True, False))
        return bare, guarded
    asked = {**OPENAI_REQUEST, "stream_options": {"include_usage": True}} if sdk == "openai" else ANTHROPIC_REQUEST
    call = functools.partial(caller, stream=True, request=asked)
    return call(client(BARE_CLASSES[sdk, is_async])), call(client(CLASSES[sdk, is_async]))


farebox.instrument()
print(
    f"{options.chunks} chunks, {options.per_read} a read, {options.pairs} pairs; bare and added in ms, "
    "95 of 100 such runs within the brackets"
)
for sdk, is_async in (*CLASSES, ("google", False), ("google", True)):
    with overhead.scope(1):
        added = overhead.measure("", *pair_of(sdk, is_async), pairs=options.pairs, is_async=is_async)
    print(
        f"{sdk:<9} {'async' if is_async else 'sync':<5} bare {added.bare / 1_000:7.2f}  added {added.added / 1_000:6.3f} "
        f"[{added.low / 1_000:.3f} to {added.high / 1_000:.3f}]  {added.percent:+.2f} %",
        flush=True,
    )
