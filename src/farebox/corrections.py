"""What a call cost, put right afterwards: a refund, or a bill that says otherwise.

>>> import farebox
>>> from farebox import corrections
>>> farebox.record(model="gpt-4.1", provider="openai", input_tokens=1_000, output_tokens=200, usd="0.50")
>>> call = farebox.calls()[-1]
>>> corrections.adjust(call.call_id, usd="-0.13", why="refunded").usd
Decimal('-0.13')

Nothing is edited: a correction is a row of its own, with the id of the call, the outcome "corrected" and signed amounts.  It
counts where and when the call does, in reports and in the accounts and windows of the standing budgets that the call was
charged to.  Budgets of a scope are not corrected: they are over with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import attrs

from farebox import _config
from farebox._call import CallRecord
from farebox._money import MOST_NANOS, UsdLike, show_usd, to_nanos, to_signed_nanos
from farebox._rows import correction_of
from farebox._single_calls import find_call
from farebox._tally import PRICED

_LONGEST_WHY: Final = 256
#: How often to look again where somebody else corrected the same call meanwhile.
_MOST_TRIES: Final = 100


def adjust(
    call_id: str,
    /,
    *,
    usd: UsdLike | None = None,
    tokens: int | None = None,
    total_usd: UsdLike | None = None,
    total_tokens: int | None = None,
    why: str = "",
    adjustment_id: str | None = None,
) -> CallRecord | None:
    """Correct what a call cost that has ended, in its ledger.

    What it takes past a limit is debt, and what it gives back is there for the next call.

    Args:
        call_id: As `farebox.calls()` and `farebox tail` show it.
        usd, tokens: So much more, or less where it is negative.
        total_usd, total_tokens: What it cost in all, instead.  In reports tokens are those of the output first.
        why: For whoever reads the row later: at most 256 characters.
        adjustment_id: Such as the number of the provider's credit note: what was adjusted under it is not adjusted again.

    Returns:
        The row of the correction; None where there is nothing to change, or the adjustment was made before.

    Raises:
        ValueError: no such call is kept, or it is still in flight, was never sent, has no price to add to, or would cost less
            than nothing; no amount given, or a bad one.  Nothing changed.
        LedgerUnavailable: the ledger did not answer.
    """
    for word, change, total in (("usd", usd, total_usd), ("tokens", tokens, total_tokens)):
        if change is not None and total is not None:
            raise ValueError(
                f"{word}={change!r} is a change and total_{word}={total!r} says what it comes to; give one"
            )
    if usd is None and tokens is None and total_usd is None and total_tokens is None:
        raise ValueError(f"adjust({call_id!r}) changes nothing; give usd=, tokens=, total_usd= or total_tokens=")
    change_nanos = 0 if usd is None else to_signed_nanos(usd)
    for word, count, least in (("tokens", tokens, -MOST_NANOS), ("total_tokens", total_tokens, 0)):
        if count is not None and (type(count) is not int or not least <= count <= MOST_NANOS):
            raise ValueError(f"{word}={count!r} is no number of tokens; give a whole number")
    total_nanos = None if total_usd is None else to_nanos(total_usd, "total_usd")

    ledger = _config.state().ledger
    seen, unseen = None, 0
    for _ in range(_MOST_TRIES):
        call, corrections = _find(call_id)
        if seen == (call, len(corrections)):
            # Refused, and nobody has corrected it since: a late answer took a turn and left no row of its own.
            unseen += 1
            if unseen > 1 and adjustment_id is not None:
                return None  # it was not the turn: something was adjusted under this id before
        seen = call, len(corrections)
        if adjustment_id is not None and any(one.adjustment_id == adjustment_id for one in corrections):
            return None
        before = _Cost.of(call, corrections)
        if before.usd_nanos is None and total_nanos is None and change_nanos:
            raise ValueError(
                f"call {call_id} has no price, so there is nothing to add to or take from; "
                "say what it cost in all: total_usd=, or farebox adjust --usd =0.50"
            )
        nanos = change_nanos if total_nanos is None else total_nanos - (before.usd_nanos or 0)
        more = tokens or 0 if total_tokens is None else total_tokens - before.tokens
        gives_price = before.usd_nanos is None and total_nanos is not None
        if not nanos and not more and not gives_price:
            return None
        before.check(call_id, nanos, more)
        # It depends on what others say meanwhile: only one of them gets the next turn.
        turn = call_id, len(corrections) + unseen + 1
        row = correction_of(
            call,
            nanos,
            input_tokens=min(0, more + before.output_tokens) if more < 0 else 0,
            output_tokens=max(more, -before.output_tokens),
            at=datetime.fromtimestamp(ledger.now_seconds(), UTC),
            why=str(why)[:_LONGEST_WHY],
            adjustment_id=f"{call_id} {turn[1]}" if adjustment_id is None else adjustment_id,
        )
        if gives_price:
            row = attrs.evolve(row, decision=PRICED)
        if ledger.adjust(f"correction {row.adjustment_id}", row.accounts, nanos, more, 0, row, turn=turn):
            return row
    raise ValueError(f"call {call_id} is corrected by others all the time; try again")


@attrs.frozen
class _Cost:
    """What a call came to with its corrections; `usd_nanos` is None where nobody knows."""

    usd_nanos: int | None
    input_tokens: int
    output_tokens: int

    @classmethod
    def of(cls, call: CallRecord, corrections: Sequence[CallRecord]) -> _Cost:
        is_known = call.usd is not None or any(one.decision == PRICED for one in corrections)
        rows = [call, *corrections]
        return cls(
            sum(row.cost_usd_nanos or 0 for row in rows) if is_known else None,
            sum(row.charged_input_tokens for row in rows),
            sum(row.charged_output_tokens for row in rows),
        )

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def check(self, call_id: str, nanos: int, tokens: int) -> None:
        """
        Raises:
            ValueError: it would come to less than nothing.
        """
        had = self.usd_nanos or 0
        if had + nanos < 0:
            raise ValueError(
                f"call {call_id} cost {show_usd(had)} USD; {show_usd(-nanos)} less would be less than nothing"
            )
        if self.tokens + tokens < 0:
            raise ValueError(f"call {call_id} used {self.tokens} tokens; {-tokens} less would be less than nothing")


def _find(call_id: str) -> tuple[CallRecord, list[CallRecord]]:
    """The call, and its corrections so far.

    Raises:
        ValueError: it is not there, or was not sent.
    """
    kept = find_call(call_id)
    corrections = [row for row in kept if row.outcome == "corrected"]
    call = next((row for row in kept if row.outcome != "corrected"), None)
    if call is None:
        raise ValueError(
            f"no call {call_id} is kept in this ledger: its id is another, or its row was let go of (keep=, prune); "
            "farebox tail shows those that are"
        )
    if call.outcome == "open":
        raise ValueError(f"call {call_id} is still in flight; correct it once it has ended and its cost is known")
    if call.outcome in ("refused", "vetoed"):
        raise ValueError(f"call {call_id} was {call.outcome}: nothing was sent, so there is no cost to correct")
    return call, corrections
