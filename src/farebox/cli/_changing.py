"""What a person says of standing budgets, in force for the next call of everybody who shares the ledger; and `prune`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from farebox.cli import _doors
from farebox.cli._exits import NOT_FOUND, Problem
from farebox.cli._output import Shown, read_pairs, say, say_json, show_instant, shows
from farebox.cli._reading import say_budgets

_LIMITS = (
    click.option("--usd", metavar="USD", help="Money; of several periods, --usd day=5 --usd month=50.", multiple=True),
    click.option("--tokens", metavar="N", help="Tokens.", multiple=True),
    click.option("--calls", metavar="N", help="Calls.", multiple=True),
)
_TAGS = click.option("--tag", "tags", multiple=True, metavar="K=V", help="The account that is meant.")


def _with_limits(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_LIMITS):
        function = option(function)
    return function


def _read_limit(unit: str, said: tuple[str, ...]) -> Any:
    """None, an amount, or amounts by period."""
    if not said:
        return None
    if len(said) == 1 and "=" not in said[0]:
        return _number(unit, said[0])
    return {period: _number(unit, text) for period, text in read_pairs(said).items()}


def _number(unit: str, text: str) -> str | int:
    if unit == "usd":
        return text
    try:
        return int(text)
    except ValueError:
        raise click.BadParameter(f"{unit}={text!r} is no whole number") from None


def _limits(usd: tuple[str, ...], tokens: tuple[str, ...], calls: tuple[str, ...]) -> dict[str, Any]:
    said = {"usd": usd, "tokens": tokens, "calls": calls}
    found = {unit: _read_limit(unit, texts) for unit, texts in said.items() if texts}
    if not found:
        raise click.UsageError("say how much: --usd, --tokens or --calls")
    return found


def _say(budget: str, labels: dict[str, Any], shown: Shown, tell: Callable[[], None]) -> None:
    """Tell the ledger something about a budget, and show how that stands now.

    Raises:
        Problem: nobody knows a budget of that name.
    """
    import farebox

    ledger = _doors.use_ledger(makes=bool(_doors.settings().budgets))
    try:
        tell()
    except ValueError as error:
        in_file = any(one.name == budget for one in _doors.settings().budgets)
        if not in_file and not any(row.budget == budget for row in farebox.status()):
            raise Problem(
                f"no budget {budget!r} is known in {ledger.shown}; farebox budgets lists those that are", NOT_FOUND
            ) from error
        raise
    found = farebox.status(budget, **labels)
    if found or shown.as_json:
        say_budgets(found, shown)
    else:
        say(f"done; no account of budget {budget!r} is known yet, and it holds for those to come")


@click.command("set-limit")
@click.argument("budget")
@_with_limits
@_TAGS
@shows
def set_limit(
    budget: str,
    usd: tuple[str, ...],
    tokens: tuple[str, ...],
    calls: tuple[str, ...],
    tags: tuple[str, ...],
    shown: Shown,
) -> None:
    """Give a budget other limits, in this window and all later ones; without --tag all its accounts."""
    import farebox

    labels: dict[str, Any] = dict(read_pairs(tags))
    limits = _limits(usd, tokens, calls)
    _say(budget, labels, shown, lambda: farebox.set_limit(budget, **limits, **labels))


@click.command("top-up")
@click.argument("budget")
@_with_limits
@_TAGS
@shows
def top_up(
    budget: str,
    usd: tuple[str, ...],
    tokens: tuple[str, ...],
    calls: tuple[str, ...],
    tags: tuple[str, ...],
    shown: Shown,
) -> None:
    """Put an amount on top of the limits of a budget, in the window of now only."""
    import farebox

    labels: dict[str, Any] = dict(read_pairs(tags))
    limits = _limits(usd, tokens, calls)
    _say(budget, labels, shown, lambda: farebox.top_up(budget, **limits, **labels))


@click.command()
@click.argument("budget")
@_TAGS
@shows
def reset(budget: str, tags: tuple[str, ...], shown: Shown) -> None:
    """Set spent and debt of a budget to nothing in the window of now; reports still show what was spent."""
    import farebox

    labels = read_pairs(tags)
    _say(budget, labels, shown, lambda: farebox.reset(budget, **labels))


@click.command()
@click.argument("budget")
@_TAGS
@shows
def kill(budget: str, tags: tuple[str, ...], shown: Shown) -> None:
    """Refuse every call that a budget is about, in any mode, until unkill; what is in flight goes on."""
    import farebox

    labels = read_pairs(tags)
    _say(budget, labels, shown, lambda: farebox.kill(budget, **labels))


@click.command()
@click.argument("budget")
@_TAGS
@shows
def unkill(budget: str, tags: tuple[str, ...], shown: Shown) -> None:
    """Let a budget go on that was killed with the same tags."""
    import farebox

    labels = read_pairs(tags)
    _say(budget, labels, shown, lambda: farebox.unkill(budget, **labels))


@click.command()
@click.option("--before", required=True, metavar="SPAN", help="Calls that ended longer ago than that, such as 90d.")
@shows
def prune(before: str, shown: Shown) -> None:
    """Let go of single calls that ended long ago; the sums of reports keep all that they came to."""
    from datetime import UTC, datetime

    seconds = _doors.span_seconds(before, f"--before {before!r}")
    _doors.use_ledger()
    instant = _doors.now_seconds() - seconds
    gone = _doors.prune(instant)
    at = show_instant(datetime.fromtimestamp(instant, UTC), shown.zone)
    if shown.as_json:
        say_json({"pruned": gone, "before": at})
    else:
        say(
            f"{gone} {'call' if gone == 1 else 'calls'} that ended before {at} {'is' if gone == 1 else 'are'} gone; sums stay"
        )
