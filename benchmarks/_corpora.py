"""Texts of many kinds, for `benchmarks/bounds.py`: from the standard library, Django and Faker, or made from fixed seeds.

Nothing here is downloaded when it runs, and the same versions make the same texts.
"""

from __future__ import annotations

import ast
import base64
import inspect
import json
import random
import re
import string
import sysconfig
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from importlib import import_module, metadata
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Final

import django
import faker

#: What a corpus has at least; one that is found shorter is repeated.
SIZE: Final = 400_000

DJANGO: Final = Path(django.__file__).parent
LIBRARY: Final = Path(sysconfig.get_path("stdlib"))
#: Languages that are written in plain letters once their accents are left off, as people do.
_TONGUES: Final = "cs cy de es et eu fi fr hr hu id it lt lv ms nb nl pl pt ro sk sl sq sv sw tr vi".split()


def files(root: Path, pattern: str, *, skip: str = "\0") -> Iterator[str]:
    """The files below a folder, in an order that is always the same and mixes its parts."""
    paths = sorted(root.rglob(pattern))
    random.Random(3).shuffle(paths)
    for path in paths:
        if skip not in str(path) and "/tests/" not in str(path) and "site-packages" not in str(path.relative_to(root)):
            yield path.read_text(encoding="utf-8", errors="replace")


def docstrings() -> Iterator[str]:
    for text in files(LIBRARY, "[a-z]*.py", skip="/test"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (said := ast.get_docstring(node)):
                yield said + "\n\n"


def translations(*tongues: str) -> Iterator[str]:
    """What Django says in a language: its messages, as its translators wrote them."""
    for tongue in tongues:
        for path in sorted(DJANGO.glob(f"**/locale/{tongue}/LC_MESSAGES/*.po")):
            text = path.read_text(encoding="utf-8")
            for said in re.findall(r'^msgstr(?:\[\d\])? ((?:"(?:[^"\\]|\\.)*"\s*)+)', text, re.MULTILINE):
                whole = "".join(ast.literal_eval(part) for part in re.findall(r'"(?:[^"\\]|\\.)*"', said))
                if whole and "Content-Type:" not in whole:
                    yield whole + "\n"


def plain(text: str) -> str:
    """`text` without its accents."""
    folded = text.replace("ł", "l").replace("đ", "d").replace("\u0131", "i").replace("ø", "o").replace("ß", "ss")
    return unicodedata.normalize("NFKD", folded).encode("ascii", "ignore").decode()


def licences() -> Iterator[str]:
    for name in ("faker", "django", "pip", "tiktoken", "attrs", "regex", "idna", "requests"):
        for file in metadata.files(name) or ():
            if re.search(r"LICEN[CS]E|COPYING|NOTICE", file.name):
                yield Path(str(file.locate())).read_text(encoding="utf-8", errors="replace")


def schemas() -> Iterator[dict[str, Any]]:
    """Functions of the standard library as tools."""
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", tuple: "array", dict: "object"}
    for module in map(
        import_module, ("shutil", "subprocess", "textwrap", "json", "csv", "tarfile", "statistics", "os")
    ):
        for name, found in sorted(vars(module).items()):
            if name.startswith("_") or not callable(found) or not inspect.getdoc(found):
                continue
            try:
                parameters = inspect.signature(found).parameters.values()
            except (TypeError, ValueError):
                continue
            properties = {
                one.name: {"type": kinds.get(type(one.default), "string"), "description": f"The {one.name} to use."}
                for one in parameters
            }
            required = [one.name for one in parameters if one.default is inspect.Parameter.empty]
            schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
            description = (inspect.getdoc(found) or "")[:600]
            yield {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def lorem(tongue: str) -> Iterator[str]:
    fake = faker.Faker(tongue)
    fake.seed_instance(7)
    while True:
        yield fake.paragraph(nb_sentences=6) + "\n"


def people(chance: random.Random) -> Iterator[dict[str, Any]]:
    fake = faker.Faker("en_US")
    fake.seed_instance(11)
    while True:
        yield {
            "id": chance.randrange(10**9),
            "name": fake.name(),
            "email": fake.email(),
            "address": fake.address(),
            "born": fake.date(),
            "balance": round(chance.uniform(-1e4, 1e4), 2),
            "active": chance.random() < 0.5,
            "scores": [chance.randrange(100) for _ in range(4)],
        }


def logs(chance: random.Random) -> Iterator[str]:
    while True:
        ip = ".".join(str(chance.randrange(256)) for _ in range(4))
        when = f"2026-11-{chance.randrange(1, 29):02}T{chance.randrange(24):02}:{chance.randrange(60):02}:07.{chance.randrange(1000):03}Z"
        level, path = chance.choice(["INFO", "WARN", "ERROR"]), chance.choice(["orders", "users", "health", "v1/items"])
        yield f"{when} {level} [{uuid.UUID(int=chance.getrandbits(128))}] {ip} GET /{path}/{chance.randrange(10**6)} {chance.choice([200, 404, 500])} {chance.uniform(0, 900):.3f}ms\n"


def drawn(alphabet: str, chance: random.Random) -> Iterator[str]:
    while True:
        yield "".join(chance.choices(alphabet, k=1_000))


def words(chance: random.Random) -> Iterator[str]:
    """Lower-case words that nobody says, between spaces."""
    while True:
        yield "".join(chance.choices(string.ascii_lowercase, k=chance.randrange(2, 11))) + " "


def shuffled(text: str, chance: random.Random) -> Iterator[str]:
    """The words of a text in no order."""
    pool = text.split()
    while True:
        yield " ".join(chance.choices(pool, k=200)) + "\n"


def spaces(chance: random.Random) -> Iterator[str]:
    while True:
        yield chance.choice(
            [" " * chance.randrange(1, 40), "\n" * chance.randrange(1, 4), "\t" * chance.randrange(1, 6)]
        )


def indented(text: str, chance: random.Random) -> Iterator[str]:
    for line in text.splitlines():
        yield " " * 4 * chance.randrange(8) + line[:40] + "\n"


def wrapped(text: str) -> str:
    return "\n".join(text[start : start + 76] for start in range(0, len(text), 76))


def mixed(texts: dict[str, str], chance: random.Random, least: int, most: int) -> Iterator[str]:
    """Pieces of the other corpora, one after another."""
    while True:
        text = texts[chance.choice(sorted(texts))]
        start = chance.randrange(max(1, len(text) - most))
        yield text[start : start + chance.randrange(least, most)] + "\n\n"


def filled(pieces: Iterator[str] | str) -> str:
    """At least `SIZE` characters of it, repeated if need be."""
    if isinstance(pieces, str):
        return pieces * -(-SIZE // len(pieces))
    parts, size = [], 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size >= 3 * SIZE:
            break
    return filled("".join(parts))


def corpora(project: Path) -> dict[str, str]:
    """All of them, by what the table calls them."""
    chance = random.Random(2026)
    emoji = "😀😂🥰🚀🎉👍🏽👩‍👩‍👧‍👦🇯🇵🏳️‍🌈❤️🔥✨🤷🏻‍♀️"
    rare = "".join(map(chr, [*range(0x12000, 0x12080), *range(0x10900, 0x10920), *range(0x1400, 0x1480)]))
    docs = "".join(files(project / "docs", "*.md"))
    english = filled(docstrings())
    makers: dict[str, Callable[[], Iterator[str] | str]] = {
        "English: documentation": lambda: "\n\n".join(topics.values()),
        "English: docstrings": lambda: english,
        "English: licences": lambda: "\n\n".join(licences()),
        "English: single words": lambda: lorem("en_US"),
        "English: its words shuffled": lambda: shuffled(re.sub(r"[^a-zA-Z.,' ]+", " ", english), chance),
        "Markdown": lambda: docs,
        "Python": lambda: files(DJANGO, "*.py", skip="/conf/locale"),
        "JavaScript": lambda: files(DJANGO, "*.js", skip=".min.js"),
        "JavaScript, minified": lambda: files(DJANGO, "*.min.js"),
        "HTML templates": lambda: files(DJANGO, "*.html"),
        "tool schemas": lambda: "\n".join(map(json.dumps, schemas())),
        "tool schemas, indented": lambda: "\n".join(json.dumps(one, indent=2) for one in schemas()),
        "data as JSON": lambda: (json.dumps(one) + "\n" for one in people(chance)),
        "data as JSON, indented": lambda: (json.dumps(one, indent=2) + "\n" for one in people(chance)),
        "logs": lambda: logs(chance),
        "numbers": lambda: (f"{chance.gauss(0, 100):.{chance.randrange(7)}f}, " for _ in iter(int, 1)),
        "UUIDs": lambda: (f"{uuid.UUID(int=chance.getrandbits(128))}\n" for _ in iter(int, 1)),
        "hex": lambda: wrapped(chance.randbytes(SIZE).hex()),
        "base64": lambda: wrapped(base64.b64encode(chance.randbytes(SIZE)).decode()),
        "base64, one line": lambda: base64.b64encode(chance.randbytes(SIZE)).decode(),
        "Latin": lambda: lorem("la"),
        "other tongues, no accents": lambda: plain("".join(translations(*_TONGUES))),
        "Vietnamese, no accents": lambda: plain("".join(translations("vi"))),
        "Indonesian": lambda: plain("".join(translations("id", "ms"))),
        "German, French, Spanish": lambda: translations("de", "fr", "es"),
        "Chinese": lambda: translations("zh_Hans", "zh_Hant"),
        "Japanese": lambda: translations("ja"),
        "Korean": lambda: translations("ko"),
        "Hindi": lambda: translations("hi"),
        "Russian": lambda: translations("ru"),
        "Arabic": lambda: translations("ar"),
        "emoji": lambda: ("".join(chance.choices(emoji, k=1_000)) for _ in iter(int, 1)),
        "rare scripts": lambda: drawn(rare, chance),
        "lower-case letters at random": lambda: wrapped("".join(chance.choices(string.ascii_lowercase, k=SIZE))),
        "made-up words": lambda: words(chance),
        "DNA": lambda: drawn("acgt", chance),
        "white space": lambda: spaces(chance),
        "indented lines": lambda: indented(english, chance),
        "control characters": lambda: drawn("".join(map(chr, range(32))) + "\x7f", chance),
        "bytes as Latin-1": lambda: drawn("".join(map(chr, range(256))), chance),
    }
    made = {name: filled(make()) for name, make in makers.items()}
    made["mixed"] = filled(mixed(made, chance, 200, 3_000))
    english_first = {name: text for name, text in made.items() if name.startswith(("English", "Markdown", "Python"))}
    half = mixed(english_first, chance, 300, 1_500)
    made["English and another, in turns"] = filled(
        piece for pair in zip(half, mixed(made, chance, 100, 600), strict=True) for piece in pair
    )
    return made
