"""What farebox adds to a long stream, in per cent of the same stream of the bare SDK.

    python benchmarks/streams.py [--chunks N] [--pairs N]

Measured as in overhead.py: the real SDK answers itself in the process, and a bare and a guarded stream are read in turns.
Streams ask for their usage chunk themselves, so that both have as many.  No figure here passes or fails.
"""

from __future__ import annotations

import argparse
import os

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--chunks", type=int, default=1_000)
parser.add_argument("--pairs", type=int, default=60)
options = parser.parse_args()
os.environ["FAREBOX_BENCH_CHUNKS"] = str(options.chunks)  # read where streams are made, by what is imported next

import overhead  # noqa: E402
from _in_process import ANTHROPIC_REQUEST, BARE_CLASSES, CLASSES, OPENAI_REQUEST, caller, client  # noqa: E402

import farebox  # noqa: E402

overhead._WARM_UP = 5

farebox.instrument()
print(f"{options.chunks} chunks, {options.pairs} pairs; bare and added in ms, 95 of 100 such runs within the brackets")
for (sdk, is_async), cls in CLASSES.items():
    asked = {**OPENAI_REQUEST, "stream_options": {"include_usage": True}} if sdk == "openai" else ANTHROPIC_REQUEST
    clients = (client(BARE_CLASSES[sdk, is_async]), client(cls))
    with overhead.scope(1):
        bare, guarded = (caller(one, stream=True, request=asked) for one in clients)
        added = overhead.measure("", bare, guarded, pairs=options.pairs, is_async=is_async)
    print(
        f"{sdk:<9} {'async' if is_async else 'sync':<5} bare {added.bare / 1_000:7.2f}  added {added.added / 1_000:6.3f} "
        f"[{added.low / 1_000:.3f} to {added.high / 1_000:.3f}]  {added.percent:+.2f} %",
        flush=True,
    )
