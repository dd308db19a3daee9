"""What a call cost is changed after its end by one after the other: each change takes the next turn of the call.

Whoever corrects a call by hand names the turn that comes after all that he has seen, and nothing changes where it is taken.
A late answer, which replaces what was presumed, takes a turn too; where the call was corrected by hand already it changes
nothing, unless it is dearer than what was presumed: what a person said counts, as long as no bill is kept too low by it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from farebox.ledgers._fitting import Amounts

#: A change of the call with the id `[0]`, counted from 1.
Turn = tuple[str, int]

_TURN: Final = object()


def text_of(turn: Turn) -> str:
    """The id under which stores remember it: `end_general.lua` makes the same."""
    call_id, number = turn
    return f"turn {number} of {call_id}"


def key_of(turn: Turn) -> Hashable:
    """The key under which the memory ledger has it among its entries."""
    return (_TURN, *turn)


def next_turn(call_id: str, was_by_hand: Callable[[Turn], bool | None]) -> tuple[Turn, bool]:
    """The first turn of a call that nobody has taken, and whether one before it was by hand.

    Args:
        was_by_hand: Of a turn; None where nobody has taken it.
    """
    number, is_by_hand = 1, False
    while (by_hand := was_by_hand((call_id, number))) is not None:
        is_by_hand = is_by_hand or by_hand
        number += 1
    return (call_id, number), is_by_hand


def is_dearer(change: Amounts) -> bool:
    """Whether a late answer comes to more than what was presumed, and to less in no unit."""
    return max(change) > 0 <= min(change)
