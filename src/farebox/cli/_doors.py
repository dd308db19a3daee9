"""What the command needs of farebox and no public name gives yet, in one place.

It imports private modules inside its functions, so that a command which needs none of it starts without.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from farebox.cli._exits import NOT_FOUND, Problem
from farebox.errors import FareboxError

if TYPE_CHECKING:
    from farebox._call import CallRecord
    from farebox._settings import Settings
    from farebox.prices import RateCard, Rates
    from farebox.types import Status


class ChosenLedger(NamedTuple):
    """Which ledger is used, and who said so."""

    url: str
    said_by: str
    #: As it may be shown: without a password.
    shown: str
    #: The file of a SQLite ledger.
    path: Path | None


def settings() -> Settings:
    """What farebox.toml and the environment say.

    Raises:
        ValueError: they can't be read.
    """
    from farebox._settings import read_settings

    return read_settings(os.environ, Path())


def data_folder() -> Path:
    """Where a user's programs keep their data on this system."""
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    if sys.platform == "darwin":
        return home / "Library" / "Application Support"
    said = os.environ.get("XDG_DATA_HOME", "")
    return Path(said) if os.path.isabs(said) else home / ".local" / "share"


def choose_ledger() -> ChosenLedger:
    """The ledger of the environment or farebox.toml, or else the file in the data folder; its path made absolute."""
    from farebox._settings import shown

    said = settings()
    if said.ledger is None:
        url = sqlite_url(data_folder() / "farebox" / "farebox.db")
        said_by = "nobody: the default"
    else:
        url = said.ledger
        said_by = "FAREBOX_LEDGER" if os.environ.get("FAREBOX_LEDGER", "").strip() else str(said.source)
    if not url.startswith("sqlite:"):
        return ChosenLedger(url, said_by, shown(url), None)
    from farebox.ledgers._sqlite_place import read_url

    path = read_url(url).path
    query = url.partition("?")[2]
    return ChosenLedger(sqlite_url(path) + (f"?{query}" if query else ""), said_by, f"sqlite:///{path}", path)


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite ledger at an absolute path."""
    from urllib.parse import quote

    return f"sqlite:///{quote(path.as_posix(), safe='/:')}"


def use_ledger(*, makes: bool = False) -> ChosenLedger:
    """Have this process work with the ledger that is chosen.

    Args:
        makes: Make one where there is none.

    Raises:
        Problem: there is none, or it is one that nobody else can see.
        LedgerUnavailable, ValueError: it can't be opened.
    """
    import farebox

    chosen = choose_ledger()
    if chosen.url.startswith("memory:"):
        raise Problem(
            f"the ledger is {chosen.url} ({chosen.said_by}), which ends with its process and can't be read from "
            'another; write ledger = "sqlite:///farebox.db"',
            NOT_FOUND,
        )
    if chosen.path is not None and not chosen.path.exists():
        if not makes:
            is_default = chosen.said_by.startswith("nobody")
            by_whom = "is given it as FAREBOX_LEDGER" if is_default else f"has farebox and goes by {chosen.said_by}"
            raise Problem(
                f"there is no ledger yet at {chosen.path}; farebox run -- python agent.py makes it, and so does the first "
                f"call of a program that {by_whom}",
                NOT_FOUND,
            )
        if chosen.said_by.startswith("nobody"):
            chosen.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    farebox.configure(ledger=chosen.url)
    return chosen


def use_any_ledger() -> None:
    """Have this process work with the ledger that is chosen, if there is one that answers, and else without: nothing is made.

    Raises:
        ValueError: the settings can't be read.
    """
    import farebox

    settings()
    try:
        use_ledger()
    except (Problem, FareboxError, ValueError):
        farebox.configure(ledger="memory://")


def prune(before_seconds: float) -> int:
    """Let go of the rows of calls that ended before then (epoch seconds); how many."""
    from farebox import _config

    return _config.state().ledger.prune(before_seconds)


def now_seconds() -> float:
    """Epoch seconds by the ledger's clock."""
    from farebox import _config

    return _config.state().ledger.now_seconds()


def span_seconds(text: str, said: str) -> float:
    """Seconds of `"90d"`.

    Raises:
        ValueError: it can't be read.
    """
    from farebox._windows import read_span

    return read_span(text, said)


def card() -> RateCard:
    """The prices in force, the user's own first."""
    from farebox import _config

    return _config.state().card


def providers() -> tuple[str, ...]:
    """Providers that calls are metered of."""
    from farebox.providers import provider_names

    return tuple(provider_names())


def served_rates(record: CallRecord) -> Rates | None:
    """The rates that a call was charged at, by the prices that are installed now."""
    return card().find_served(
        record.provider_name,
        record.model,
        record.response_model,
        record.started_at_seconds,
        record.served_tier or record.tier,
    )


def tag_names() -> set[str]:
    """Names of the tags that calls of this ledger have."""
    from farebox import _report

    return _report.tag_names()


def check_seams(name: str) -> tuple[str, str]:
    """Whether an SDK is as farebox knows it: its version, and what is wrong with it, "" where nothing is.

    Raises:
        ImportError: it is not installed.
        ValueError: the settings can't be read.
    """
    import importlib

    import farebox
    from farebox import errors
    from farebox.providers import find_provider

    sdk = find_provider(name).sdk
    try:
        with farebox.instrument(only=[name]):
            importlib.import_module(sdk)
    except errors.IncompatibleSDK as error:
        return "", str(error).partition("\n")[0]
    return str(getattr(sys.modules[sdk], "__version__", "of an unknown version")), ""


def newest_calls(number: int, where: Mapping[str, str] | None = None) -> list[CallRecord]:
    """Calls in the order they ended, `number` or more of the last ones where there are so many.

    A ledger is asked by when calls began, and may hold millions: for few calls, in ever longer spans.
    """
    import farebox

    found: list[CallRecord] = []
    for since in ("1h", "1d", "30d", None):
        found = [call for call in farebox.calls(since=since, where=where) if call.ended_at is not None]
        if len(found) >= number:
            break
    return sorted(found, key=lambda call: str(call.ended_at))


def calls_behind(
    group: Mapping[str, str], *, since: str | datetime, where: Mapping[str, str], tz: str, most: int
) -> list[CallRecord]:
    """The calls of one row of a report, in flight or dearest first."""
    from farebox import _single_calls

    return _single_calls.calls_behind(group, since=since, where=where, tz=tz, most=most)


def calls_named(call_id: str) -> list[CallRecord]:
    """The call of that id, and corrections of it."""
    from farebox._single_calls import find_call

    return find_call(call_id)


def accounts_named(keys: Collection[str]) -> list[Status]:
    """How the accounts of standing budgets under these keys stand, those whose window is now."""
    import farebox
    from farebox._keys import read_key

    parts = [found for key in keys if (found := read_key(key)) is not None]
    return [
        row
        for name in dict.fromkeys(part.budget for part in parts)
        for row in farebox.status(name)
        if any(
            (part.budget, part.period, dict(part.tags), part.ends_at)
            == (row.budget, row.period, dict(row.tags), row.resets_at)
            for part in parts
        )
    ]


def nanos(usd: Decimal | None) -> int | None:
    """Nanodollars."""
    from farebox._money import to_nanos

    return None if usd is None else to_nanos(abs(usd)) * (-1 if usd < 0 else 1)


def usd_of(amount_nanos: int) -> Decimal:
    from farebox._money import to_usd

    return to_usd(amount_nanos)


def imposed(name: str, words: dict[str, Any]) -> Any:
    """A budget over a whole run.

    Raises:
        ValueError: a word that it does not take.
    """
    import farebox

    return farebox.budget(name, per="ever", **words)
