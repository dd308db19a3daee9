"""Who may import whom, read from the source: a new room, or a new door between two, is a line in this table."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "src" / "farebox"


class Room(NamedTuple):
    """A module or package right below `farebox`, and the rooms it may import.

    `later` are imported inside functions only, `typed` under `if TYPE_CHECKING:` only.  What may be imported at the top
    may be imported in these places too.
    """

    why: str
    imports: frozenset[str] = frozenset()
    later: frozenset[str] = frozenset()
    typed: frozenset[str] = frozenset()


def rooms(names: str) -> frozenset[str]:
    return frozenset(names.split())


RECORDS = rooms("errors _money _usage _call")
CONTRACTS = RECORDS | rooms("signals providers prices ledgers")
BUDGETS = CONTRACTS | rooms("on_exceed _windows _budget_words _budget _needs _config")

ROOMS = {
    "errors": Room("everybody raises them, so they know nobody"),
    "_money": Room("arithmetic, and the errors it raises", rooms("errors")),
    "_usage": Room("what was used; counts and nothing of ours"),
    "_call": Room("records of a call hold money and nothing else of ours", rooms("errors _money _usage")),
    "signals": Room(
        "the bus carries records and does not know who listens; `later`: who enforces is loaded by the first thing sent",
        RECORDS,
        later=rooms("_enforce"),
    ),
    "providers": Room("a vendor's JSON becomes records; no price, no budget", RECORDS),
    "prices": Room("a price depends on a call, not on who pays", RECORDS),
    "ledgers": Room("a store keeps accounts and rows, and never asks for a price", RECORDS),
    "on_exceed": Room("a mode reads numbers and answers; `typed`: what it reads", CONTRACTS, typed=rooms("_budget")),
    "_windows": Room("when a limit starts again; knows the clock and nothing of ours"),
    "_keys": Room("the names of accounts; knows the windows they end with", rooms("_windows")),
    "_budget_words": Room("how the words of a budget are read; keeps nothing", CONTRACTS | rooms("on_exceed _windows")),
    "_budget": Room("what a budget is: limits, a window, a mode", CONTRACTS | rooms("on_exceed _windows _budget_words")),
    "_needs": Room("how much to grant a call that names no cap: statistics, no money"),
    "_tally": Room("what a row adds to a report", RECORDS),
    "_rows": Room("how a row is summed and written down", RECORDS | rooms("ledgers _tally")),
    "_settings_file": Room("where a word stands in a file", rooms("errors")),
    "_settings": Room("what files and the environment say", CONTRACTS | rooms("on_exceed _windows _budget_words _budget _settings_file")),
    "_config": Room(
        "what a process has one of",
        CONTRACTS | rooms("on_exceed _windows _budget_words _budget _needs _rows"),
        later=rooms("_settings"),
        typed=rooms("_settings"),
    ),
    "_threads": Room("carries any context variable into threads; knows none of ours"),
    "_imports": Room("runs a function once a module is imported; knows nothing of ours"),
    "_warn": Room("a warning at the program's own line; knows nothing of ours"),
    "_frames": Room("what one entry of a scope holds", BUDGETS),
    "_standing": Room("which accounts of the ledger a call is held against", BUDGETS | rooms("_frames _keys")),
    "_scope": Room("where a budget applies; does not decide calls", BUDGETS | rooms("_threads _frames _standing _warn")),
    "_loops": Room("which event loop runs, and how its tasks wait; knows nothing of ours"),
    "_line": Room("how a thread or a task waits for money", CONTRACTS | rooms("_loops")),
    "_speak": Room("what farebox says: errors, warnings, decisions", BUDGETS | rooms("_frames _warn")),
    "_plan": Room("what is kept about an open call, and how it is held", BUDGETS | rooms("_frames _line _loops")),
    "_quote": Room("what a call can cost at most", BUDGETS | rooms("_frames _standing _speak _plan")),
    "_rungs": Room("what happens below the limit", BUDGETS | rooms("_frames _line")),
    "_negotiate": Room(
        "what happens when a call does not fit", BUDGETS | rooms("_frames _standing _line _speak _plan _quote _rungs")
    ),
    "_enforce": Room(
        "the subscriber: the one place where all of it meets",
        BUDGETS | rooms("_frames _scope _line _speak _plan _quote _rungs _negotiate _collect _pending"),
    ),
    "_collect": Room(
        "has what is pending here known to other processes, and pays what they left pending",
        BUDGETS | rooms("_rows _line _plan"),
    ),
    "_bodies": Room("the form of a request; knows no vendor and no call"),
    "_pending": Room("calls that are answered later; knows nobody who answers", rooms("_call")),
    "_kept": Room("the bytes of an answer; knows no vendor and no call", rooms("_bodies")),
    "_streams": Room(
        "an SDK's plumbing; budgets are behind the bus", rooms("errors _call signals providers _bodies _kept _pending")
    ),
    "seams": Room(
        "the plumbing of each build of SDK", rooms("errors _call signals providers _bodies _imports _pending _streams")
    ),
    "_instrument": Room(
        "as above, and the scope that one client brings along",
        rooms("errors _call signals providers seams _threads _imports _frames _scope"),
    ),
    "_buckets": Room("what times are called in a zone", rooms("ledgers _windows")),
    "_asked": Room("which calls are meant; asks nobody", RECORDS | rooms("ledgers _buckets _tally")),
    "_report": Room(
        "asks the ledger; changes nothing", RECORDS | rooms("signals ledgers _windows _asked _buckets _tally _config")
    ),
    "_single_calls": Room("as above", RECORDS | rooms("signals ledgers _windows _asked _buckets _tally _config")),
    "corrections": Room("puts right what a call cost", RECORDS | rooms("_single_calls _rows _tally _config")),
    "export": Room("every single call, line by line", RECORDS | rooms("_asked _single_calls")),
    "_status": Room("what a person asks and says of standing budgets", BUDGETS | rooms("_keys _standing")),
    "_record": Room("puts on the books what no SDK saw", BUDGETS | rooms("_scope _standing _plan _speak")),
    "_reserve": Room("as above", RECORDS | rooms("signals _scope")),
    "_estimate": Room("asks the prices; changes nothing", BUDGETS | rooms("_scope")),
    "_surfaces": Room("reads the source of an SDK; loads nothing else", rooms("providers")),
    "_coverage": Room("asks the providers about it", rooms("providers"), later=rooms("_surfaces")),
    "__init__": Room(
        "the public names: no sink, tool or server; `typed`: what is imported when it is asked for",
        rooms("errors"),
        typed=rooms(
            "on_exceed signals _config _scope _instrument _report _single_calls _record _reserve _estimate _status _coverage"
        ),
    ),
    "types": Room("names for annotations", rooms("_call _coverage _estimate _frames _instrument _report _reserve _status")),
    "telemetry": Room("a sink subscribes to the bus like anybody's", RECORDS | rooms("signals")),
    "testing": Room("stands outside: its bill judges ours, so they share no code", later=rooms("__init__")),
    "testing_plugin": Room(
        "what pytest hangs on farebox: budgets around tests, ledgers under them, and sums of what they cost",
        BUDGETS | rooms("__init__ _scope _frames _instrument _report _buckets _rows _tally testing"),
    ),
    "cli": Room(
        "stands outside like a user; `later`, in `_doors` and `_armed`: what no public name gives yet",
        RECORDS | rooms("__init__"),
        later=rooms("corrections export testing providers ledgers _settings _windows _keys _config _report _single_calls _instrument"),
        typed=rooms("types prices _settings"),
    ),
    "__main__": Room("the command, as `python -m farebox`", rooms("cli")),
    "integrations": Room(
        "stands outside like a user, speaks a framework's words, and asks what is metered already",
        RECORDS | rooms("signals providers _instrument"),
    ),
    "gateway": Room("stands outside like a user, and speaks a provider's JSON", RECORDS | rooms("__init__ signals providers")),
}  # fmt: skip

#: Packages whose modules are alternatives.  One imports the package (the contract) and `_private` helpers, never another.
ALTERNATIVES = rooms("providers ledgers seams telemetry integrations")

#: What may be imported at the top of any module.  genai_prices is not here: it is slow, so it is imported when first used.
ALWAYS_INSTALLED = rooms("attrs blinker")

#: Modules that are themselves imported only when used, and what they may import at their top for it.
IMPORTED_WHEN_USED = {
    "cli": rooms("click rich"),
    "integrations.langchain": rooms("langchain_core"),
    "ledgers._redis_link": rooms("redis hiredis"),
    "prices._list": rooms("genai_prices"),
    "telemetry.opentelemetry": rooms("opentelemetry"),
    "testing": rooms("pytest"),
}

#: Modules longer than `MOST_LINES`, with the reason.
LONG: dict[str, str] = {}
MOST_LINES = 500

#: Packages that `import farebox` must not load: SDKs, their transports, drivers, and tables that take time.
HEAVY = rooms(
    "openai anthropic google zoneinfo genai_prices httpx httpx2 requests urllib3 pydantic pydantic_core anyio sqlite3 redis "
    "click rich opentelemetry pytest"
)

Place = Literal["top", "later", "typed"]


class Import(NamedTuple):
    name: str
    line: int
    place: Place


def module_of(path: Path) -> str:
    """`ledgers.sqlite` for src/farebox/ledgers/sqlite.py, `ledgers` for its `__init__.py`, `__init__` for farebox's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    if module.startswith(("testing.plugin", "testing._plugin_")):
        return "testing_plugin"
    return module.partition(".")[0]


def read_imports(tree: ast.AST) -> Iterator[Import]:
    """Every name a module imports, dotted and absolute; `from a import b` gives `a.b`, which may be no module."""

    def walk(node: ast.AST, place: Place) -> Iterator[Import]:
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(alias.name, node.lineno, place)
            case ast.ImportFrom(module=module, names=names, level=level):
                assert not level, f"line {node.lineno}: a relative import; write the full name"
                for alias in names:
                    yield Import(f"{module}.{alias.name}", node.lineno, place)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                for child in ast.iter_child_nodes(node):
                    yield from walk(child, "later")
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                for child in node.body:
                    yield from walk(child, "typed")
                for child in node.orelse:
                    yield from walk(child, place)
            case _:
                for child in ast.iter_child_nodes(node):
                    yield from walk(child, place)

    return walk(tree, "top")


def target_of(name: str) -> str | None:
    """The module of ours that an imported name lies in, or None for another's."""
    if name.partition(".")[0] != "farebox":
        return None
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts) or "__init__"


IMPORTS = {module: list(read_imports(ast.parse(path.read_text("utf-8")))) for module, path in MODULES.items()}
OURS = {
    module: [(target, found) for found in imports if (target := target_of(found.name)) is not None]
    for module, imports in IMPORTS.items()
}


def where(module: str, found: Import) -> str:
    return f"{MODULES[module].relative_to(PROJECT)}:{found.line}"


def test_every_module_lies_in_a_room_of_the_table() -> None:
    assert {room_of(module) for module in MODULES} <= ROOMS.keys()


def test_the_table_names_only_rooms_it_has() -> None:
    for name, room in ROOMS.items():
        assert room.why
        assert room.imports | room.later | room.typed <= ROOMS.keys() - {name}, name


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_what_the_table_allows(module: str) -> None:
    room = ROOMS[room_of(module)]
    allowed: dict[Place, frozenset[str]] = {
        "top": room.imports,
        "later": room.imports | room.later,
        "typed": room.imports | room.typed,
    }
    wrong = [
        f"{where(module, found)} imports {found.name} ({found.place})"
        for target, found in OURS[module]
        if room_of(target) not in allowed[found.place] | {room_of(module)}
    ]
    assert not wrong, f"{room_of(module)}: {room.why}"


@pytest.mark.parametrize("module", [module for module in MODULES if room_of(module) in ALTERNATIVES])
def test_alternatives_do_not_import_each_other(module: str) -> None:
    """The contract finds them by name, inside a function; they import the contract and private helpers."""
    package = room_of(module)
    wrong = [
        f"{where(module, found)} imports {found.name}"
        for target, found in OURS[module]
        if room_of(target) == package
        and target not in (package, module)
        and not target.rpartition(".")[2].startswith("_")
        and not (module == package and found.place == "later")
    ]
    assert not wrong


@pytest.mark.parametrize("module", MODULES)
def test_what_may_be_missing_or_slow_is_imported_when_used(module: str) -> None:
    allowed = ALWAYS_INSTALLED | sys.stdlib_module_names
    for user, extra in IMPORTED_WHEN_USED.items():
        if module == user or module.startswith(f"{user}."):
            allowed |= extra
    wrong = [
        f"{where(module, found)} imports {found.name}"
        for found in IMPORTS[module]
        if found.place == "top" and found.name.partition(".")[0] not in allowed | {"farebox"}
    ]
    assert not wrong


def test_no_module_needs_itself_to_be_imported() -> None:
    needs = {
        module: {target for target, found in OURS[module] if found.place == "top" and target != module}
        for module in MODULES
    }
    while ready := [module for module, needed in needs.items() if not needed & needs.keys()]:
        for module in ready:
            del needs[module]
    assert not needs, "these import each other in a circle, or something that does"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_can_be_read_in_one_sitting(module: str) -> None:
    lines = len(MODULES[module].read_text("utf-8").splitlines())
    assert (lines > MOST_LINES) == (module in LONG), f"{lines} lines, at most {MOST_LINES} or a reason in LONG"


def test_importing_farebox_loads_no_sdk_and_opens_no_connection() -> None:
    script = """\
import sys

def refuse(event, args):
    if event in {"socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.fork"}:
        raise RuntimeError(f"import farebox did {event}")

sys.addaudithook(refuse)
before = set(sys.modules)
import farebox
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
"""
    ran = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    loaded = set(ran.stdout.split())
    assert "farebox" in loaded
    assert not loaded & HEAVY


def loaded_by(statement: str) -> set[str]:
    script = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    ran = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return set(ran.stdout.split())


def test_importing_farebox_loads_its_errors_and_nothing_else() -> None:
    """It is to take a tenth of what importing an SDK takes.  attrs alone, which imports inspect, takes seven hundredths."""
    loaded = loaded_by("import farebox")
    assert {name for name in loaded if name.partition(".")[0] == "farebox"} == {"farebox", "farebox.errors"}
    assert not loaded & {"attr", "attrs", "blinker", "inspect", "json", "logging", "threading"}


def test_no_public_name_loads_what_is_slow_of_pythons_own() -> None:
    loaded = loaded_by("from farebox import *")
    assert {"farebox._instrument", "farebox._report", "farebox.signals"} <= loaded
    assert not loaded & {"asyncio", "concurrent.futures", "email", "http", "importlib.metadata", "ssl"}
    assert not {name.partition(".")[0] for name in loaded} & HEAVY


def project_files() -> Iterator[Path]:
    """What is handed on: the files at the top and in the folders of the project, nothing that a tool left there."""
    for top in sorted(PROJECT.iterdir()):
        if top.is_file():
            yield top
    for folder in ("src", "tests", "benchmarks", "docs", ".ci"):
        for path in sorted((PROJECT / folder).rglob("*")):
            if path.is_file() and not any(part.startswith((".hypothesis", "__pycache__")) for part in path.parts):
                yield path


def test_no_file_tells_where_it_was_written() -> None:
    machine_path = re.compile(r"(?<![\w.])/(?:work|root|opt)/")
    wrong = [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()[:120]}"
        for path in project_files()
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1)
        if machine_path.search(line)
    ]
    assert not wrong
