"""`farebox doctor`: looks whether everything works, and says what to do where it does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import attrs
import click

from farebox.cli import _doors
from farebox.cli._exits import FOUND_PROBLEM, Problem
from farebox.cli._output import Column, Shown, amount, say_json, say_table, show_instant, shows
from farebox.cli._setting import installed_version
from farebox.errors import FareboxError


class Finding(NamedTuple):
    """What was looked at, whether it works (None: it is only worth knowing), and what was found."""

    what: str
    is_ok: bool | None
    found: str
    surfaces: tuple[dict[str, Any], ...] = ()


@click.command()
@shows
def doctor(shown: Shown) -> int:
    """Look at SDKs, settings, ledger and prices; exit code 1 where something does not work."""
    findings = [*_versions(), *_sdks(), *_coverage(), *_settings(), *_ledger(shown), *_prices()]
    if shown.as_json:
        say_json([{name: value for name, value in finding._asdict().items() if value != ()} for finding in findings])
    else:
        marks = {True: "ok", False: "PROBLEM", None: "note"}
        say_table(
            (Column("what"), Column(""), Column("found")),
            [[finding.what, marks[finding.is_ok], finding.found] for finding in findings],
        )
    return FOUND_PROBLEM if any(finding.is_ok is False for finding in findings) else 0


def _versions() -> Iterator[Finding]:
    yield Finding("farebox", True, f"{installed_version('farebox')}, Python {sys.version.split()[0]}, {sys.executable}")


def _sdks() -> Iterator[Finding]:
    try:
        _doors.use_any_ledger()
    except ValueError:
        pass  # which is said below
    for name in _doors.providers():
        try:
            version, wrong = _doors.check_seams(name)
        except ImportError:
            yield Finding(name, None, "not installed")
        except ValueError:
            yield Finding(name, None, "not looked at, because of what is wrong below")
        else:
            yield Finding(name, not wrong, wrong or f"{version}, metered")


def _coverage() -> Iterator[Finding]:
    import farebox

    try:
        found = farebox.coverage()
    except FareboxError:
        return  # which is said of the SDK
    for name, said in found.summary().items():
        rows = tuple(attrs.asdict(row) for row in found if row.provider == name)
        yield Finding(
            "coverage", None if any(row["metering"] == "unmetered" for row in rows) else True, f"{name}: {said}", rows
        )


def _settings() -> Iterator[Finding]:
    try:
        said = _doors.settings()
    except ValueError as error:
        yield Finding("settings", False, str(error).partition("\n")[0])
        return
    budgets = f", budgets: {', '.join(budget.name for budget in said.budgets)}" if said.budgets else ""
    yield Finding("settings", True, f"{said.source or 'no farebox.toml'}{budgets}")


def _ledger(shown: Shown) -> Iterator[Finding]:
    import farebox

    try:
        chosen = _doors.choose_ledger()
    except ValueError as error:
        yield Finding("ledger", False, str(error).partition("\n")[0])
        return
    where = f"{chosen.shown} ({chosen.said_by})"
    if chosen.path is not None and not chosen.path.exists():
        yield Finding("ledger", None, f"{where}: not there yet; the first call makes it")
        return
    try:
        _doors.use_ledger()
        total = farebox.report().total
        status = farebox.status()
    except Problem as error:
        yield Finding("ledger", None, error.message)
        return
    except (FareboxError, ValueError) as error:
        yield Finding("ledger", False, f"{where}: {str(error).partition(chr(10))[0]}")
        return
    yield Finding("ledger", True, where)
    yield Finding(
        "calls", True, f"{total.calls}, {amount(total.usd)} USD spent, {amount(total.reserved_usd)} USD reserved"
    )
    if total.unpriced_calls:
        yield Finding("unpriced", None, f"{total.unpriced_calls} calls have no price: farebox report --by model")
    for row in status:
        if row.is_killed or row.debt:
            said = "is killed" if row.is_killed else f"has a debt of {amount(row.debt)} {row.unit}"
            yield Finding(
                "budget", None, f"{row.budget} {said}; starts again {show_instant(row.resets_at, shown.zone)}"
            )


def _prices() -> Iterator[Finding]:
    version = installed_version("genai-prices")
    try:
        own = _doors.card().overrides
    except Exception as error:
        yield Finding("prices", False, str(error).partition("\n")[0])
        return
    yield Finding("prices", True, f"genai-prices {version}, and {len(own)} of your own")
