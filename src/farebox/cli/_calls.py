"""Single calls: `tail` as they end, `export` all of them."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from farebox.cli import _doors
from farebox.cli._output import Shown, amount, harmless, say, show_instant, shows, where_option

if TYPE_CHECKING:
    from farebox.types import CallRecord

_LOOK_SECONDS: Final = 1.0
#: Calls are asked for by when they began: a call that takes longer than that is not followed.
_LONGEST_CALL: Final = timedelta(hours=1)


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with those that end from now on, until Ctrl-C.")
@click.option("-n", "--number", type=click.IntRange(min=0), default=10, show_default=True, help="So many of the last.")
@where_option
@shows
def tail(follow: bool, number: int, where: dict[str, str], shown: Shown) -> None:
    """Single calls in the order they ended, refused ones too: when, what, tokens in and out, USD, how, tags."""
    import farebox

    _doors.use_ledger(makes=follow)
    ended = _doors.newest_calls(number, where)
    for call in ended[max(0, len(ended) - number) :]:
        _say_call(call, shown)
    told = {_mark(call) for call in ended}
    while follow:
        time.sleep(_LOOK_SECONDS)
        since = datetime.now(UTC) - _LONGEST_CALL
        found = _ended(farebox.calls(since=since, where=where))
        for call in found:
            if _mark(call) not in told:
                _say_call(call, shown)
        told = {_mark(call) for call in found}


def _ended(calls: list[CallRecord]) -> list[CallRecord]:
    return sorted((call for call in calls if call.ended_at is not None), key=lambda call: str(call.ended_at))


def _mark(call: CallRecord) -> tuple[str, str, str]:
    """A correction has the id of the call that it corrects, and a late answer takes the place of a presumed one."""
    return call.call_id, call.outcome, str(call.ended_at)


def _say_call(call: CallRecord, shown: Shown) -> None:
    if shown.as_json:
        say(json.dumps(attrs.asdict(call), default=_plain))
        return
    usd = "no price" if call.usd is None else f"{amount(call.usd)} USD"
    tags = " ".join(f"{name}={value}" for name, value in call.tags.items())
    refused_by = f" ({call.error_class})" if call.error_class else ""
    line = (
        f"{show_instant(call.ended_at, shown.zone)}  {call.call_id}  {call.model:<24}  {call.charged_input_tokens:>7} in  "
        f"{call.charged_output_tokens:>6} out  {usd:>16}  {call.outcome}{refused_by}  {tags}"
    )
    say(harmless(line.rstrip()))


def _plain(value: object) -> Any:
    return show_instant(value, UTC) if isinstance(value, datetime) else f"{value}"


@click.command()
@click.argument("form", type=click.Choice(["csv", "jsonl"]))
@click.option("--since", metavar="SPAN", help="Such as 30m, 12h, 7d, 2w; by default all that are kept.")
@where_option
def export(form: str, since: str | None, where: dict[str, str]) -> None:
    """Every single call as a line of text on stdout: in the order they ended, and then those in flight."""
    from farebox import export as exports

    _doors.use_ledger()
    lines = exports.csv_lines if form == "csv" else exports.json_lines
    sys.stdout.flush()
    for line in lines(since=since, where=where):
        sys.stdout.buffer.write(line.encode())
    sys.stdout.buffer.flush()
