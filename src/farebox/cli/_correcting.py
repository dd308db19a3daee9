"""What a call cost, put right afterwards: `adjust`."""

from __future__ import annotations

import attrs
import click

from farebox.cli import _doors
from farebox.cli._exits import NOT_FOUND, Problem
from farebox.cli._output import Shown, amount, harmless, say, say_json, shows
from farebox.cli._reading import say_budgets


@click.command()
@click.argument("call_id")
@click.option(
    "--usd", metavar="±USD|=USD", help="So much more (+0.02) or less (-0.13), or what it cost in all (=0.50)."
)
@click.option("--tokens", metavar="±N|=N", help="The same, in tokens.")
@click.option("--why", metavar="TEXT", default="", help="For whoever reads it later.")
@click.option("--id", "adjustment_id", metavar="ID", help="Such as the number of a credit note: heeded once.")
@shows
def adjust(
    call_id: str, usd: str | None, tokens: str | None, why: str, adjustment_id: str | None, shown: Shown
) -> None:
    """Correct what a call cost: refunded, or billed otherwise.

    \b
    farebox adjust call_0f3a5c7e9b1d00000001 --usd -0.13 --why refunded

    Nothing is edited: the correction is an entry of its own, in the same window of the same budgets and in reports.
    """
    from farebox import corrections

    if usd is None and tokens is None:
        raise click.UsageError("say how much: --usd or --tokens")
    change, total = _read("--usd", usd)
    more, all_tokens = (None if text is None else _count(text) for text in _read("--tokens", tokens))
    ledger = _doors.use_ledger()
    try:
        row = corrections.adjust(
            call_id,
            usd=change,
            total_usd=total,
            tokens=more,
            total_tokens=all_tokens,
            why=why,
            adjustment_id=adjustment_id,
        )
    except ValueError as error:
        if not _doors.calls_named(call_id):
            raise Problem(
                f"no call {call_id!r} is kept in {ledger.shown}: its id is another, or it was let go of; "
                "farebox tail shows those that are",
                NOT_FOUND,
            ) from error
        raise
    usd_now, tokens_now = _now(call_id)
    if shown.as_json:
        say_json(
            {
                "call_id": call_id,
                "is_changed": row is not None,
                "correction": None if row is None else attrs.asdict(row),
                "usd": usd_now,
                "tokens": tokens_now,
            }
        )
        return
    cost = f"{usd_now} USD and {tokens_now} tokens"
    if row is None:
        say(harmless(f"{call_id}: nothing to change, it comes to {cost}"))
        return
    tokens_by = row.charged_input_tokens + row.charged_output_tokens
    by = f"{row.usd:+f} USD" + (f" and {tokens_by:+} tokens" if tokens_by else "")
    say(harmless(f"{call_id}: corrected by {by}, and comes to {cost}"))
    if accounts := _doors.accounts_named(row.accounts):
        say("")
        say_budgets(accounts, shown)


def _read(option: str, text: str | None) -> tuple[str | None, str | None]:
    """A change, or what it comes to."""
    if text is None:
        return None, None
    text = text.strip()
    if text.startswith(("+", "-")):
        return text, None
    if text.startswith("="):
        return None, text[1:]
    raise click.BadParameter(
        f"{option} {text} may mean two things; write +{text} for so much more, or ={text} for what it cost in all"
    )


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise click.BadParameter(f"--tokens: {text!r} is no whole number") from None


def _now(call_id: str) -> tuple[str, int]:
    """What the call comes to with its corrections: USD, and tokens."""
    rows = _doors.calls_named(call_id)
    nanos = sum(_doors.nanos(row.usd) or 0 for row in rows)
    return amount(_doors.usd_of(nanos)), sum(row.charged_input_tokens + row.charged_output_tokens for row in rows)
