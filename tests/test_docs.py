"""What the docs say is run: every Python block of README.md and docs/, the demo, and the examples in docstrings.

The blocks of one page share their names, as a reader goes from top to bottom, and run in an empty directory.  The SDKs find
a fake provider by their own environment variables, and `REDIS_URL` is a server of the test's own.  A `text` block right after
a `python` one is what it prints; `...` in it stands for anything.  A `toml` block of settings is saved as farebox.toml, and
what comes after it runs as a program that begins.

A `console` block is a session at a terminal: lines such as `$ ls` are run by bash in the same directory, and what follows is what
they print.  A `py` block that begins with `# name.py` is saved under that name, where the page stands.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import itertools
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import farebox
from farebox import _config
from farebox._settings import Settings, read_settings
from farebox.testing import FakeProvider
from tests.servers import redis_server

PROJECT = Path(__file__).resolve().parents[1]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
MODULES = ["farebox", *(module.name for module in pkgutil.walk_packages(farebox.__path__, "farebox."))]

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
PRINTED = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
DECIMAL = re.compile(r"\d+\.\d+")
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\dZ")
FILE = re.compile(r"# ([\w/]+\.py)\n")

#: What a session prints and no two of them alike: who, when, for how long, with which version.
VOLATILE = (
    (re.compile(r"\brun-\d{8}-\d{6}-[0-9a-f]{4}\b"), "run-NAME"),
    (re.compile(r"\bcall_[0-9a-f]{20}\b"), "call_ID"),
    (re.compile(r"\b\d{4}-\d\d-\d\d(T[\d:]+Z)?"), "INSTANT"),
    (re.compile(r"\bin \d+\.\d\ds\b"), "in SECONDS"),
    (re.compile(r"\bgenai-prices [\d.]*\d"), "genai-prices VERSION"),
    (re.compile(r"={3,}|_{3,}"), "==="),  # as wide as the terminal
)

KEPT = re.compile(
    r"\nIn (\d+) looks the bill never passed the limit of 0\.02 USD, and the report never fell below the bill\.\n"
)


class Block(NamedTuple):
    language: str
    text: str
    line: int
    prints: str | None


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, each python one with the text block that stands right below it."""
    source = page.read_text(encoding="utf-8")
    found = list(BLOCK.finditer(source))
    for this, following in itertools.zip_longest(found, found[1:]):
        is_output = (
            following is not None and following[1] == "text" and not source[this.end() : following.start()].strip()
        )
        yield Block(
            this[1], this[2], source.count("\n", 0, this.start(2)), following[2] if is_output and following else None
        )


def is_alike(said: str, got: str) -> bool:
    """The same text and the same whole numbers; amounts may differ by a quarter, as bounds are calibrated anew.

    An instant may be any other: a window ends today.
    """
    said, got = (INSTANT.sub("0000-00-00T00:00Z", text) for text in (said, got))
    if not doctest.OutputChecker().check_output(DECIMAL.sub("0.1", said), DECIMAL.sub("0.1", got), PRINTED):
        return False
    pairs = zip(DECIMAL.findall(said), DECIMAL.findall(got), strict="..." not in said)
    return "..." in said or all(abs(float(a) - float(b)) <= max(float(a), float(b)) / 4 for a, b in pairs)


def settled(text: str) -> str:
    """Without what no two sessions have alike."""
    for pattern, name in VOLATILE:
        text = pattern.sub(name, text)
    return text


def relative(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def are_prices(block: Block) -> bool:
    return block.language == "toml" and "per_million" in block.text


def settings_file(block: Block) -> str | None:
    """Under which name a block of settings is found; None for what is none."""
    if block.language != "toml" or are_prices(block) or "[project" in block.text:
        return None
    return "pyproject.toml" if "[tool.farebox" in block.text else "farebox.toml"


def begin_anew() -> None:
    """Nothing is configured, as in a process that begins."""
    _config.forget()


@pytest.fixture
def an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where ledgers and settings of a page go; a farebox.toml there counts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FAREBOX_CONFIG")
    yield tmp_path
    _config.state().ledger.close()


@pytest.fixture
def sdks_call(an_empty_directory: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
    """Clients made without arguments talk to the fake provider, and nothing that was learnt elsewhere shows."""
    monkeypatch.setenv("OPENAI_BASE_URL", provider.openai_base_url)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", provider.anthropic_base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "fake")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "fake")
    return provider


@pytest.mark.usefixtures("sdks_call")
@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_the_python_of_a_page_runs_and_prints_what_it_says(
    page: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as servers:
        if "REDIS_URL" in page.read_text(encoding="utf-8"):
            # It writes to disk, as pages tell: otherwise the ledger warns.
            server = redis_server(tmp_path_factory.mktemp("redis"), "--appendonly", "yes")
            monkeypatch.setenv("REDIS_URL", servers.enter_context(server).url)
        run(page)
        _config.state().ledger.close()


def run(page: Path) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if name := settings_file(block):
            Path("farebox.toml").unlink(missing_ok=True)  # it would win
            Path(name).write_text(block.text, encoding="utf-8")
            begin_anew()
        if block.language != "python":
            continue
        assert ">>>" not in block.text, (
            f"{relative(page)}:{block.line} is a session; write a program and what it prints"
        )
        before, printed = set(names), io.StringIO()
        with contextlib.redirect_stdout(printed):
            # Padded, so that a traceback shows the line of the page.
            exec(compile("\n" * block.line + block.text, str(page), "exec", dont_inherit=True), names)
            for name in sorted(names.keys() - before):
                if name.startswith("test_"):
                    names[name]()
        if block.prints is not None:
            got = printed.getvalue()
            assert is_alike(block.prints, got), (
                f"{relative(page)}:{block.line} says it prints\n{block.prints}\nand prints\n{got}"
            )


class Step(NamedTuple):
    """One command of a page, and what it prints, on stdout and stderr."""

    command: str
    prints: str
    line: int


def steps_of(block: Block) -> Iterator[Step]:
    lines = block.text.splitlines()
    starts = [n for n, line in enumerate(lines) if re.match(r"\$ \S", line)]
    assert starts[0] == 0, f"line {block.line}: a session begins with a command"
    for start, end in itertools.pairwise([*starts, len(lines)]):
        yield Step(lines[start][2:], "\n".join(lines[start + 1 : end]), block.line + 1 + start)


SESSIONS = [page for page in PAGES if "\n```console\n" in page.read_text(encoding="utf-8")]


@pytest.mark.usefixtures("sdks_call")
@pytest.mark.parametrize("page", SESSIONS, ids=relative)
def test_the_sessions_of_a_page_print_what_it_says(page: Path, tmp_path: Path) -> None:
    """In one shell for the page; each command sees the exit code of the one before it as `$?`."""
    steps: list[Step] = []
    script = ["exec 2>&1", "ended() { return $1; }", "code=0"]
    for block in blocks(page):
        if block.language == "py" and (name := FILE.match(block.text)):
            script.append(f"cat > {name[1]} <<'END OF FILE'\n{block.text}END OF FILE")
        elif block.language == "console":
            for step in steps_of(block):
                steps.append(step)
                script += ["ended $code", step.command, "code=$?", "printf '\\036'"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FAREBOX_", "PYTEST_", "COV_"))}
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        env={
            **kept,
            "HOME": str(tmp_path / "home"),
            "XDG_DATA_HOME": str(tmp_path / "home" / "data"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
            "COLUMNS": "80",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # what else is installed here has no say
            "PYTEST_PLUGINS": "farebox_pytest",
            "PYTHONDONTWRITEBYTECODE": "1",  # a file that changes within a second is read anew
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=100,
        check=False,
    )
    printed = done.stdout.split("\036")
    assert (len(printed), printed[-1]) == (len(steps) + 1, "")
    for step, got in zip(steps, printed, strict=False):
        assert is_alike(settled(step.prints) + "\n", settled(got) + "\n"), (
            f"{relative(page)}:{step.line}: {step.command}\nsays it prints\n{step.prints}\n\nand prints\n{got}"
        )


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_the_prices_of_a_page_are_read(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if are_prices(block):
            file = tmp_path / "prices.toml"
            file.write_text(block.text, encoding="utf-8")
            with farebox.configure(prices=str(file)):
                pass


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_the_settings_of_a_page_are_read(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if name := settings_file(block):
            file = tmp_path / name
            file.write_text(block.text, encoding="utf-8")
            assert read_settings({"FAREBOX_CONFIG": str(file)}, tmp_path) != Settings(source=file)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_a_page_points_at_what_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    targets = re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    missing += [name for name in re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE) if name not in targets]
    assert missing == []


def test_the_reference_names_every_public_name() -> None:
    text = (PROJECT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    assert [name for name in farebox.__all__ if not re.search(rf"`(farebox\.)?{name}\b", text)] == []
    shown = [name for name in vars(farebox.errors) if name.endswith(("Warning", "Error")) and name.isidentifier()]
    assert [name for name in shown if f"`{name}`" not in text] == []


@pytest.mark.usefixtures("sdks_call")
@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_hold(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("farebox"):
            raise
        pytest.skip(f"{error.name} is not installed")
    report = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=PRINTED)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        if example.examples:
            runner.run(example, out=report.write)
    assert runner.summarize(verbose=False).failed == 0, report.getvalue()


# --- the demo ----------------------------------------------------------------------------------------------------------


def run_demo(**variables: str) -> str:
    """What `docs/demo.py` prints, in a process of its own, where each of our warnings is an error."""
    unset = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL")
    ours = {name for name in os.environ if name.startswith("FAREBOX_") and name != "FAREBOX_CONFIG"}
    kept = {name: value for name, value in os.environ.items() if name not in {*unset, *ours}}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(PROJECT / "docs" / "demo.py")],
        env={**kept, **variables},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_demo_keeps_its_promise_without_a_key() -> None:
    printed = run_demo()
    assert (kept := KEPT.search(printed)), printed
    assert int(kept[1]) > 50
    assert printed.endswith(kept[0])
    assert "were refused, and nothing was sent for them" in printed
    assert "\x1b" not in printed
    calls = re.search(
        r"100 tries: (\d+) calls were sent, (\d+) were refused\n   the provider saw (\d+) requests", printed
    )
    assert calls is not None
    assert calls[1] == calls[3]
    assert int(calls[1]) + int(calls[2]) == 100


def test_the_demo_uses_the_real_api_where_there_is_a_key(provider: FakeProvider) -> None:
    """Played by another fake provider, whose bill the demo cannot see."""
    provider.answer(output_tokens=120)
    printed = run_demo(OPENAI_API_KEY="sk-fake", OPENAI_BASE_URL=provider.openai_base_url)
    assert "openai: the REAL API, by OPENAI_API_KEY\nanthropic: a fake provider" in printed
    assert KEPT.search(printed), printed
    assert printed.endswith(
        "That is without the bill of openai, which is on its dashboard: compare it with the report.\n"
    )
    assert 0 < provider.bill.usd_nanos < 20_000_000
    assert {line.model for line in provider.bill.lines} == {"gpt-4.1-mini"}
