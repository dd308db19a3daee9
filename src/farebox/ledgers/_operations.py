"""What a stored ledger asks of its store: one object for each operation, answered in place.

Each has an id of its own and is done at most once, however often it is given: an answer may have got lost.  `Extend` is the
exception, as the contract says.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any, Final

import attrs

from farebox.ledgers import Account, Answer, Control, Grant, Need
from farebox.ledgers._fitting import Amounts
from farebox.ledgers._turns import Turn, text_of
from farebox.ledgers._views import Glance

NO_VIEWS: Final[Mapping[str, Glance]] = {}


@attrs.define(eq=False, kw_only=True)
class Operation:
    """`is_done` once it was answered, or `error` says why it was not."""

    is_done: bool = False
    error: BaseException | None = None
    #: Whether somebody waits for it; what nobody waits for is given again until it is done.
    is_awaited: bool = True
    #: A lock as a bell, rung by `release`; None where nobody waits for it.
    bell: Lock | None = None
    #: Of the next who waits for what was done together with this; rung by whoever waited for this.
    next_bell: Lock | None = None


@attrs.define(eq=False, kw_only=True)
class Reserve(Operation):
    """`Ledger.reserve` of the hold `hold_id`, a string unique among all processes.

    Answered by `answer` and by `views` of its accounts by key, as they are after it; `is_over` where the hold was made and
    ended before.  WindowClosed is its `error` where a window is not now, LedgerUnavailable where it was given up before
    it arrived.
    """

    hold_id: str
    accounts: tuple[Account, ...]
    need: Need
    #: Keys of the accounts that never refuse, and of those that let one hold past their limit.
    forced: frozenset[str]
    crossing: frozenset[str] = frozenset()
    ttl_seconds: float | None
    call: Any
    answer: Answer | None = None
    is_over: bool = False
    views: Mapping[str, Glance] = NO_VIEWS


@attrs.define(eq=False, kw_only=True)
class Extend(Operation):
    """`Ledger.extend`; `accounts` are those of its reserve."""

    hold_id: str
    accounts: tuple[Account, ...]
    usd_nanos: int
    tokens: int
    forced: frozenset[str]
    answer: Answer | None = None


@attrs.define(eq=False, kw_only=True)
class End(Operation):
    """`Ledger.settle`, or `release` where `is_released`; corrects one that expired.

    Where the hold is unknown to the store, `is_released` has it refused for ever: a reserve may still be on its way.
    """

    hold_id: str
    amounts: Amounts
    row: Any
    is_released: bool = False
    is_awaited: bool = False


@attrs.define(eq=False, kw_only=True)
class Note(Operation):
    """`Ledger.note`; one of a hold that has ended, and did not expire, comes too late and does nothing.

    `call` is None where this process does not know it.
    """

    hold_id: str
    name: str
    memo: str
    lives_seconds: float
    call: Any
    is_awaited: bool = False


@attrs.define(eq=False, kw_only=True)
class Charge(Operation):
    """`Ledger.charge`: a hold that was settled at once, and nobody asked whether it fits."""

    hold_id: str
    accounts: tuple[Account, ...]
    amounts: Amounts
    row: Any
    is_awaited: bool = False


@attrs.define(eq=False, kw_only=True)
class AddRow(Operation):
    """`Ledger.add_row`, under an id of its own."""

    row_id: str
    row: Any
    is_awaited: bool = False


@attrs.define(eq=False, kw_only=True)
class Learn(Operation):
    """`Ledger.learn`."""

    key: str
    bucket: int
    is_awaited: bool = False


@attrs.define(eq=False, kw_only=True)
class Adjust(Operation):
    """`Ledger.adjust`; of the accounts under `known_keys` only their keys are known."""

    adjust_id: str
    accounts: tuple[Account, ...]
    amounts: Amounts
    row: Any
    known_keys: tuple[str, ...] = ()
    #: Another id that it uses up, that of its turn; None where it has none.
    turn: str | None = None
    answer: bool = False


@attrs.define(eq=False, kw_only=True)
class SayControl(Operation):
    """`Ledger.control`."""

    entry_id: str
    key: str
    said: Control
    answer: bool = False


@attrs.define(eq=False, kw_only=True)
class TopUp(Operation):
    """`Ledger.top_up`."""

    entry_id: str
    account: Account
    amounts: Amounts
    answer: bool = False


@attrs.define(eq=False, kw_only=True)
class Reset(Operation):
    """`Ledger.reset`."""

    entry_id: str
    account: Account
    answer: bool = False


@attrs.define(eq=False, kw_only=True)
class Expire(Operation):
    """`Ledger.expire`: ends at their bound all holds whose time is over at `now_seconds`, or by the store's own clock.

    A hold with `ttl_seconds` has a time of its own; one without is over when the process that made it is dead.
    """

    now_seconds: float | None
    row_of: Callable[[Any, Grant], Any] | None
    answer: int = 0


@attrs.define(eq=False, kw_only=True)
class Forget(Operation):
    """`Ledger.forget`."""

    key: str
    is_awaited: bool = False


def adjustment(
    adjust_id: Hashable, accounts: Sequence[Account | str], amounts: Amounts, row: Any, turn: Turn | None
) -> Adjust:
    """`Ledger.adjust`, with those accounts apart of which only the key is given."""
    return Adjust(
        adjust_id=str(adjust_id),
        accounts=unique(one for one in accounts if not isinstance(one, str)),
        known_keys=tuple(dict.fromkeys(one for one in accounts if isinstance(one, str))),
        amounts=amounts,
        row=row,
        turn=None if turn is None else text_of(turn),
    )


def unique(accounts: Iterable[Account]) -> tuple[Account, ...]:
    """Each account once.

    Raises:
        ValueError: a key that is no text.
    """
    return _unique(tuple(accounts))


@lru_cache(maxsize=4_096)  # by identity: accounts do not change, and most are used again together
def _unique(accounts: tuple[Account, ...]) -> tuple[Account, ...]:
    found: dict[str, Account] = {}
    for account in accounts:
        if not isinstance(account.key, str):
            raise ValueError(f"account key {account.key!r} is a {type(account.key).__name__}; a database keeps text")
        found.setdefault(account.key, account)
    return tuple(found.values())
