"""Make the environments of table.toml and run their tests in them.

    python -m tests.environments WHAT ... [--jobs N] [--fresh] [--relock] [--surfaces FOLDER]

WHAT is a group (`frameworks`, `matrix`), one environment, or `ci` for those that .ci/run has.  An environment is made once
and again when its row, its lock or pyproject.toml has changed.  One whose Python is not on this machine is skipped, loudly.
What fails is printed whole, of what passes the last line and what was skipped.  What failed while others ran is run once
more, alone.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import pytest

PROJECT: Final = Path(__file__).resolve().parents[2]
TABLE: Final = PROJECT / "tests" / "environments" / "table.toml"
LOCKS: Final = TABLE.parent / "locks"


class Environment(NamedTuple):
    """A row of the table."""

    group: str
    name: str
    packages: tuple[str, ...]
    tests: tuple[str, ...]
    python: str
    in_ci: bool
    is_locked: bool
    over: str

    @property
    def folder(self) -> Path:
        return PROJECT / f".venv-{self.group}" / self.name

    @property
    def lock(self) -> Path:
        return LOCKS / f"{self.name}.txt"

    @property
    def interpreter(self) -> Path:
        return self.folder / "bin" / "python"


class Failed(Exception):
    """A step did not work; holds what it printed."""


def environments() -> Iterator[Environment]:
    table = tomllib.loads(TABLE.read_text("utf-8"))
    tools, of_sdks = table.pop("tools"), table.pop("of_sdks")
    for group, rows in table.items():
        for name, row in rows.items():
            yield Environment(
                group,
                name,
                (*row["packages"], *(tool for tool in tools if not _has(row["packages"], tool))),
                tuple(path for one in row["tests"] for path in (of_sdks if one == "of_sdks" else (one,))),
                row.get("python", ""),
                row.get("ci", False),
                not row.get("unlocked", False),
                row.get("over", ""),
            )


def _has(packages: list[str], tool: str) -> bool:
    return any(package.partition("=")[0] == tool for package in packages)


def chosen(words: list[str]) -> list[Environment]:
    every = list(environments())
    found = [one for one in every if {one.name, one.group, "ci" if one.in_ci else one.name} & set(words)]
    known = {word for one in every for word in (one.name, one.group)} | {"ci"}
    if unknown := set(words) - known:
        raise SystemExit(f"{', '.join(unknown)}: not in table.toml; choose from {', '.join(sorted(known))}")
    return found


def find_python(version: str) -> str | None:
    """An interpreter of that version that runs here; None where there is none."""
    if not version or sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [
        shutil.which(f"python{version}"),
        *map(str, sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)),
    ]
    for candidate in filter(None, candidates):
        asked = subprocess.run(
            [candidate, "-c", "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.stdout.strip() == version:
            return candidate
    return None


def make(environment: Environment, python: str, *, is_fresh: bool, relocks: bool) -> None:
    """Have the environment as its row says; nothing is done where it is so already."""
    stamp = environment.folder / ".farebox-installed"
    lock = environment.lock
    state = hashlib.sha256()
    for part in (str(PROJECT), python, repr(environment.packages), (PROJECT / "pyproject.toml").read_text("utf-8")):
        state.update(part.encode())
    uses_lock = environment.is_locked and lock.exists() and not relocks
    state.update(lock.read_bytes() if uses_lock else b"")
    if (
        not is_fresh
        and not relocks
        and environment.is_locked
        and stamp.exists()
        and stamp.read_text("utf-8") == state.hexdigest()
    ):
        return
    _run([python, "-m", "venv", "--clear", "--without-pip", str(environment.folder)])
    pip = [sys.executable, "-m", "pip", "--python", str(environment.interpreter)]
    locked = ["--constraint", str(lock)] if uses_lock else []
    wanted = ["--only-binary=:all:", "--editable", str(PROJECT), *environment.packages]
    _run([*pip, "install", "-qq", "--no-input", "--disable-pip-version-check", *locked, *wanted])
    if relocks and environment.is_locked:
        frozen = _run([*pip, "freeze", "--exclude-editable", "--disable-pip-version-check"])
        lock.parent.mkdir(exist_ok=True)
        lock.write_text(frozen, "utf-8")
        state.update(lock.read_bytes())
        return
    stamp.write_text(state.hexdigest(), "utf-8")


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def test(environment: Environment, surfaces: Path | None) -> str:
    """The output of its tests."""
    command = [str(environment.interpreter), "-m", "pytest", "-q", "-n0", "-pno:cacheprovider"]
    environ = {**os.environ, "TESTED_OVER": environment.over}
    if environment.group == "frameworks":
        environ["TESTED_ENVIRONMENT"] = environment.name  # here nothing may be missing
        command += ["-ofilterwarnings=default", "-pno:warnings"]  # theirs are not ours to mend
    else:
        command.append("-Wignore::DeprecationWarning")  # of an SDK that is older than what it stands on
    if surfaces is not None:  # nothing else is looked at
        command += ["-msurface", f"--surfaces={surfaces / environment.name}.json"]
    done = subprocess.run(
        [*command, *environment.tests],
        cwd=PROJECT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode and not (surfaces is not None and done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED):
        raise Failed(done.stdout)
    return done.stdout


def run(environment: Environment, options: argparse.Namespace) -> bool:
    """Whether all is well; prints what happened in one piece, as others run at the same time."""
    where = f"{environment.group}/{environment.name}"
    python = find_python(environment.python)
    if python is None:
        print(f"SKIPPED {where}: no Python {environment.python} with ensurepip on this machine", flush=True)
        return True
    began = time.monotonic()
    try:
        make(environment, python, is_fresh=options.fresh, relocks=options.relock)
        made = time.monotonic()
        output = test(environment, options.surfaces) if not options.relock else "locked"
    except Failed as failed:
        print(f"FAILED  {where}\n{failed}", flush=True)
        return False
    ended = time.monotonic()
    told = [line for line in output.splitlines() if line.startswith("SKIPPED")] + output.splitlines()[-1:]
    print(
        f"passed  {where} ({made - began:.0f} s to install, {ended - made:.0f} s to run)", *told, sep="\n  ", flush=True
    )
    return True


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(
        prog="python -m tests.environments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="+", metavar="WHAT")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once (default 2)")
    parser.add_argument("--fresh", action="store_true", help="make them anew")
    parser.add_argument(
        "--relock", action="store_true", help="resolve them anew and write what came of it; runs no test"
    )
    parser.add_argument("--surfaces", type=Path, help="where to write what the tests have shown, for docs/coverage.md")
    options = parser.parse_args()
    wanted = chosen(options.what)
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda one: run(one, options), wanted))
    # What failed beside another has the machine to itself now; what fails then fails the run.
    again = [one for one, passed in zip(wanted, results, strict=True) if not passed and options.jobs > 1]
    passed = [run(one, options) for one in again] if again else results
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
