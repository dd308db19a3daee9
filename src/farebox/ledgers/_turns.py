"""What a call cost is changed after its end by one after the other: each change takes the next turn of the call.

Whoever corrects a call by hand names the turn that comes after all that he has seen, and nothing changes where it is taken.
A late answer, which replaces what was presumed, takes a turn too; where the call was corrected by hand already it changes
nothing, unless it is dearer than what was presumed: what a person said counts, as long as no bill is kept too low by it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Final

from farebox.ledgers._ended import ENTERED
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


def next_turn(entries: Mapping[Any, Any], call_id: str) -> tuple[Hashable, bool]:
    """The key of the first turn nobody has taken, and whether one before it was by hand."""
    number, is_by_hand = 1, False
    while (taken := entries.get(key_of((call_id, number)))) is not None:
        is_by_hand = is_by_hand or taken[0] is ENTERED
        number += 1
    return key_of((call_id, number)), is_by_hand


def is_dearer(change: Amounts) -> bool:
    """Whether a late answer comes to more than what was presumed, and to less in no unit."""
    return max(change) > 0 <= min(change)
