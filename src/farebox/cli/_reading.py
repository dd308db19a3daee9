"""Questions to the ledger: `report`, `budgets`, `statusline`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from farebox._call import DIMENSIONS
from farebox.cli import _doors
from farebox.cli._exits import NOT_FOUND, Problem
from farebox.cli._output import (
    AMOUNTS,
    Column,
    F,
    Shown,
    amount,
    cells_of,
    read_pairs,
    say,
    say_json,
    say_table,
    show_instant,
    shows,
    where_option,
)

if TYPE_CHECKING:
    from farebox.types import Status

_RUN: Final = re.compile(r"run-\d{8}-\d{6}-[0-9a-f]{4}")
#: The time in the name of the budget of a run, in UTC.
RUN_TIME: Final = "%Y%m%d-%H%M%S"


def by_option(default: str) -> Callable[[F], F]:
    """`--by feature,model`, as a tuple of names."""

    def read(ctx: click.Context, param: click.Parameter, text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        if len(set(names)) < len(names):
            raise click.BadParameter(f"{text!r} names one twice")
        return names

    return click.option(
        "--by",
        default=default,
        show_default=True,
        metavar="NAME,...",
        callback=read,
        help=f"Tags, and {', '.join(DIMENSIONS)}.",
    )


@click.command()
@by_option("model")
@click.option("--since", metavar="SPAN", help="Such as 30m, 12h, 7d, 2w; by default all there is.")
@where_option
@shows
def report(by: tuple[str, ...], since: str | None, where: dict[str, str], shown: Shown) -> None:
    """Who spent how much: spent and reserved in USD, the dearest first."""
    import farebox

    ledger = _doors.use_ledger()
    found = farebox.report(by=by, since=since, where=where, tz=shown.zone_name)
    check_tags(found.rows, by, where)
    if shown.as_json:
        say_json({"by": by, "rows": [_row_json(row) for row in found.rows], "total": _row_json(found.total)})
        return
    if not found.rows:
        say(f"no calls{_narrowed(since, where)} in {ledger.shown}")
        return
    total = ["total", *[""] * (len(by) - 1), *cells_of(found.total)] if by else None
    rows = [[*(value or "-" for value in row.tags.values()), *cells_of(row)] for row in found.rows]
    say_table([*map(Column, by), *AMOUNTS], rows, total)
    for name in ("unpriced_calls", "unmetered_calls", "estimated_calls"):
        if count := getattr(found.total, name):
            say(f"of which {count} {name.replace('_', ' ')}")


def check_tags(rows: Sequence[Any], by: Sequence[str], where: dict[str, str]) -> None:
    """
    Raises:
        Problem: a tag that no call has.
    """
    asked = [name for name in by if name not in DIMENSIONS and not any(row.tags[name] for row in rows)]
    if not rows:
        asked = [name for name in where if name not in DIMENSIONS]
    if not asked:
        return
    seen = _doors.tag_names()
    for name in asked:
        if seen and name not in seen:
            tags = ", ".join(sorted(seen))
            raise Problem(f"no call has a tag {name!r}; choose from {tags}, or {', '.join(DIMENSIONS)}", NOT_FOUND)
        if not seen and rows:
            raise Problem(f"no call has a tag {name!r}, nor any other; choose from {', '.join(DIMENSIONS)}", NOT_FOUND)


def _narrowed(since: str | None, where: dict[str, str]) -> str:
    of = f" with {', '.join(f'{name}={value}' for name, value in where.items())}" if where else ""
    return of + (f" in the last {since}" if since else "")


def _row_json(row: Any) -> dict[str, Any]:
    return attrs.asdict(row)


@click.command()
@click.argument("name", required=False)
@click.option("--tag", "tags", multiple=True, metavar="K=V", help="Only accounts with it.")
@shows
def budgets(name: str | None, tags: tuple[str, ...], shown: Shown) -> None:
    """How each limit of each standing budget stands, in the window of now.

    Budgets of a farebox run that began more than a day ago are shown by their name only.
    """
    import farebox

    ledger = _doors.use_ledger(makes=bool(_doors.settings().budgets))
    found = farebox.status(name, **read_pairs(tags))
    if name is None:
        found = [row for row in found if not is_run_of_before(row.budget)]
    if not found and not shown.as_json:
        to_come = [one for one in _doors.settings().budgets if one.each and name in (None, one.name)]
        if to_come:
            for one in to_come:
                each = " and ".join(one.each)
                say(f"no account of budget {one.name!r} is known yet in {ledger.shown}; it has one for each {each}")
        else:
            what = f"no account of a budget {name!r} is" if name else "no standing budgets are"
            say(f"{what} known in {ledger.shown}, nor in farebox.toml")
    else:
        say_budgets(found, shown)


def is_run_of_before(name: str) -> bool:
    """Whether it is the budget of a `farebox run` that began more than a day ago."""
    if _RUN.fullmatch(name) is None:
        return False
    try:
        began = datetime.strptime(name[4:19], RUN_TIME).replace(tzinfo=UTC)
    except ValueError:
        return False
    return datetime.now(UTC) - began > timedelta(days=1)


def say_budgets(found: Sequence[Status], shown: Shown) -> None:
    """A line for each limit of each account."""
    if shown.as_json:
        say_json([attrs.asdict(row) for row in found])
        return
    columns = [*map(Column, ("budget", "for", "per", "unit"))]
    columns += [Column(title, True) for title in ("spent", "reserved", "remaining", "limit", "used", "debt")]
    say_table([*columns, Column("starts again")], [_status_cells(row, shown) for row in found])


def _status_cells(row: Status, shown: Shown) -> list[str]:
    numbers = [amount(number) for number in (row.spent, row.reserved, row.remaining, row.limit)]
    return [
        row.budget,
        _whom(row) or "-",
        row.period,
        row.unit,
        *numbers,
        f"{row.used:.0%}",
        amount(row.debt),
        "killed" if row.is_killed else show_instant(row.resets_at, shown.zone),
    ]


def _whom(row: Status) -> str:
    return ", ".join(f"{tag}={value}" for tag, value in row.tags.items())


@click.command()
@shows
def statusline(shown: Shown) -> None:
    """One line for a prompt or a status bar: spent today, and the budget that is nearest to its limit."""
    import farebox

    _doors.use_ledger()
    today = farebox.report(since=midnight(shown), tz=shown.zone_name).total
    lasting = (row for row in farebox.status() if _RUN.fullmatch(row.budget) is None)
    nearest = max(lasting, key=lambda row: (row.is_killed, row.used), default=None)
    if shown.as_json:
        say_json({"today": _row_json(today), "nearest": None if nearest is None else attrs.asdict(nearest)})
        return
    line = f"{amount(today.usd)} USD today, {today.calls} calls"
    if nearest is not None:
        whom = f" {_whom(nearest)}" if nearest.tags else ""
        unit = "USD" if nearest.unit == "usd" else nearest.unit
        per = "ever" if nearest.period == "ever" else f"per {nearest.period}"
        line += f" | {nearest.budget}{whom} {nearest.used:.0%} of {amount(nearest.limit)} {unit} {per}"
        if nearest.is_killed:
            line += ", killed"
        elif nearest.resets_at is not None:
            line += f", starts again {show_instant(nearest.resets_at, shown.zone)}"
    say(line)


def midnight(shown: Shown) -> datetime:
    """When today began in the zone asked for."""
    now = datetime.fromtimestamp(_doors.now_seconds(), shown.zone)
    return now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
