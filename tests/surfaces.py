"""What tests have shown of each surface and framework, for docs/coverage.md: a marker, a hook and the writer of the page.

A row of the page is a marker on a test that passed:

    @pytest.mark.surface("openai embeddings.create", kind=["sync", "async"], proves=["exact", "refused"])

The name is a package and a method of it, as `farebox.coverage()` has it: what is metered there has to have a row, with
all three proofs in every kind that the method has, and tests/test_coverage.py looks that it has.  After the method may
stand more words, for rows beside that one.  `kind` is one or several of `KINDS`, `proves` of `PROOFS`, or `FREE`.  In
braces stand parameters of the test, or what they have: "openai {surface.path}" is a row for each surface.  The version
shown is that of the distribution `of=`, by default the first word of the name.

`pytest --surfaces=FILE` writes down what passed; `python -m tests.surfaces FOLDER` makes the page of such files, which
`make coverage` does for every environment there is.
"""

from __future__ import annotations

import json
import platform
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import pytest

from farebox import coverage

KINDS: Final = ("sync", "async", "stream", "async stream")
PROOFS: Final = {
    "exact": "recorded exactly",
    "refused": "refused when exhausted",
    "unbroken": "user's code unbroken",
}
#: In place of "refused": it costs nothing, and is sent however little is left.
FREE: Final = "free"
PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "coverage.md"
BEGIN, END = "<!-- from tests: begin -->", "<!-- from tests: end -->"
_PROPERTY: Final = "surface"


# ── in a run of pytest ───────────────────────────────────────────────────────────────────────────────────────────────


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--surfaces", type=Path, help="write what @pytest.mark.surface tests have shown to this file")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--surfaces") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Writer(config.getoption("--surfaces")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("surface"):
            item.user_properties.append((_PROPERTY, _row(item, mark)))


def _row(item: pytest.Item, mark: pytest.Mark) -> dict[str, Any]:
    """What a marker says of a test; unknown words are errors while tests are collected."""
    params = getattr(item, "callspec", None)
    values = params.params if params else {}
    (name,) = mark.args
    rest = {
        word: [mark.kwargs[word]] if isinstance(mark.kwargs[word], str) else mark.kwargs[word]
        for word in ("kind", "proves")
    }
    kinds = [kind.format_map(values) for kind in rest["kind"]]
    proofs = [proof.format_map(values) for proof in rest["proves"]]
    name = name.format_map(values)
    if unknown := {*kinds} - {*KINDS} | {*proofs} - {*PROOFS, FREE} | mark.kwargs.keys() - {"kind", "proves", "of"}:
        raise pytest.UsageError(f"{item.nodeid}: surface(...) knows no {', '.join(map(repr, sorted(unknown)))}")
    of = mark.kwargs.get("of", name.split()[0]).format_map(values)
    is_framework = item.path.parent.name == "frameworks"
    return {"name": name, "kinds": kinds, "proofs": proofs, "of": of, "is_framework": is_framework}


class Writer:
    """Collects what passed, also from xdist's workers, and writes it when the run is over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._rows += [row for name, row in report.user_properties if name == _PROPERTY]

    def pytest_sessionfinish(self) -> None:
        for row in self._rows:
            row["version"] = _version(row["of"])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        content = {"python": platform.python_version(), "rows": self._rows}
        self._path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def tables(files: Iterable[Path]) -> Iterator[str]:
    """The page's tables, of what all runs have shown together."""
    shown: dict[tuple[bool, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for file in sorted(files):
        for row in json.loads(file.read_text("utf-8"))["rows"]:
            entry = shown[row["is_framework"], row["name"]]
            if row["version"]:
                entry["versions"].add(f"{row['of']} {row['version']}")
            for proof in row["proofs"]:
                entry[proof].update(row["kinds"])
    for is_framework, title in ((False, "SDKs"), (True, "Frameworks")):
        yield f"## {title}\n"
        yield "| | " + " | ".join(PROOFS.values()) + " | with |"
        yield "|---|" + "---|" * (len(PROOFS) + 1)
        for (is_this, name), entry in sorted(shown.items()):
            if is_this == is_framework:
                cells = [_cell(entry, proof) for proof in PROOFS]
                yield f"| {name} | {' | '.join(cells)} | {', '.join(sorted(entry['versions'], key=_by_version))} |"
        yield ""


def _cell(entry: dict[str, set[str]], proof: str) -> str:
    if entry[FREE] and proof != "unbroken":
        return "free" if proof == "exact" else "never: it is sent however little is left"
    return ", ".join(kind for kind in KINDS if kind in entry[proof]) or "not shown"


def rows(page: str) -> dict[str, dict[str, set[str]]]:
    """The kinds that a page shows for each name and proof."""
    found = {}
    for line in page.splitlines():
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if len(cells) == len(PROOFS) + 1 and name and not name.startswith("-"):
            found[name] = {proof: set(cell.split(", ")) for proof, cell in zip(PROOFS, cells, strict=False)}
    return found


def unmetered() -> Iterator[str]:
    """What of the SDKs in this environment costs money that nobody can read."""
    yield "## Refused under a limit\n"
    yield "What may be billed and is not read is warned about, counted as `unmetered`, and refused under a limit of usd or tokens"
    yield "unless `on_unmetered=` says otherwise.  Of the SDKs of the first table that is, by `farebox.coverage()`:\n"
    found: dict[str, list[str]] = defaultdict(list)
    for surface in coverage():
        if surface.metering == "unmetered":
            found[f"{surface.sdk} {surface.version}"].append(f"`{surface.surface}`")
    for sdk, surfaces in sorted(found.items()):
        yield f"- {sdk}: {', '.join(dict.fromkeys(surfaces))}"
    yield ""


def _by_version(text: str) -> list[Any]:
    name, _, number = text.partition(" ")
    return [name, [int(part) if part.isdigit() else 0 for part in number.split(".")]]


def main() -> None:
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = "\n".join([*tables(Path(sys.argv[1]).glob("*.json")), *unmetered()])
    PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
