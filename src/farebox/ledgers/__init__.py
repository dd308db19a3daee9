"""The ledger contract: hold money before a call, turn the hold into a charge after it.

A ledger keeps *accounts* (what was spent and is held in three units: usd in nanodollars, tokens, calls) and *holds* (the
bound of one call, against several accounts at once).  A hold moves forward only:

    reserve ─► HELD ─ settle ─► SETTLED        charge = the actual amount
                    ─ release ─► RELEASED       charge = 0; only when it is known that nothing was billed
                    ─ expire ─► EXPIRED         charge = the bound: an unknown ending is presumed spent
                                  └ settle or release ─► CORRECTED   charge = the actual amount, or 0

Laws, for every account, unit and instant:
    spent + reserved <= limit + debt    forced holds too: what they take past the limit is debt
    debt grows by max(0, actual - bound) of each charge, and by what a forced hold or an adjustment takes past the limit;
    what a forced hold was let past the limit and did not use comes off again when it ends
    reserved = the sum of its held amounts; reserved, spent, debt >= 0
A refused reserve changes nothing.  A repeated operation with the same id answers as the first time and changes nothing.
"""

from __future__ import annotations

import abc
import importlib
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any, ClassVar, Final, NamedTuple

import attrs

from farebox._money import MOST_NANOS
from farebox.errors import Kind, Unit

#: A limit that is none.  Compares like any other amount, so the hot path has no branch for it.
NO_LIMIT: Final = MOST_NANOS


@attrs.frozen(eq=False)
class Account:
    """The key a limit is kept under.

    Attributes:
        key: Unique among the accounts of a ledger.  Hashable and not an int, which are the ids of holds.  A string, a tuple
            of strings or a bare `object()`: comparing keys must run no Python code, because a signal could cut it short.
        name: For people; not unique.
        limit_usd_nanos, limit_tokens, limit_calls: `NO_LIMIT` where there is none.
    """

    key: Any
    name: str
    limit_usd_nanos: int = NO_LIMIT
    limit_tokens: int = NO_LIMIT
    limit_calls: int = NO_LIMIT


@attrs.frozen
class Balance:
    """What an account holds, read at one instant.  usd in nanodollars."""

    spent_usd_nanos: int = 0
    reserved_usd_nanos: int = 0
    debt_usd_nanos: int = 0
    spent_tokens: int = 0
    reserved_tokens: int = 0
    debt_tokens: int = 0
    spent_calls: int = 0
    reserved_calls: int = 0
    debt_calls: int = 0


def with_slack(cap: int) -> int:
    """Output tokens to hold for a cap of `cap`: providers overran theirs by up to 16 tokens or 1 percent."""
    return cap + max(16, -(-cap // 100))


def cap_within(tokens: int) -> int:
    """The largest cap whose slack still fits into `tokens`; negative where not even a cap of 0 does."""
    return tokens - 16 if tokens <= 1616 else tokens * 100 // 101


class Need(NamedTuple):
    """What one call needs, as a line in its output cap: `fixed + per_token * with_slack(cap)`.

    Where the caller declared a cap, `least_cap == floor_cap == want_cap` and `share == 0`.  Otherwise the ledger picks
    the cap when it reserves, in one step: `want_cap`, or 1/`share` of the output tokens that what is left still buys
    where that is more, at most `most_cap` and what every account has left, at least `floor_cap` while others hold money
    in an account that is short, at least `least_cap` in any case.

    All are 0 or more and `least_cap <= floor_cap <= want_cap <= most_cap`.  A `with_slack(0)` is 16 tokens: a call that
    has no output says `tokens_per_token=0`.
    """

    fixed_usd_nanos: int = 0
    usd_nanos_per_token: int = 0
    fixed_tokens: int = 0
    tokens_per_token: int = 1
    calls: int = 1
    least_cap: int = 0
    floor_cap: int = 0
    want_cap: int = 0
    most_cap: int = 0
    share: int = 0

    def usd_nanos(self, cap: int) -> int:
        return self.fixed_usd_nanos + self.usd_nanos_per_token * with_slack(cap)

    def tokens(self, cap: int) -> int:
        return self.fixed_tokens + self.tokens_per_token * with_slack(cap)


class Grant(NamedTuple):
    """A hold that was made: the cap it pays for, and the amounts held in every account of it.

    A tuple, not an attrs record: every call makes one, and a frozen attrs instance takes four times as long to make.
    """

    cap: int
    usd_nanos: int
    tokens: int
    calls: int


@attrs.frozen
class Shortfall:
    """Why a reserve was refused: the first account in order that was short, and its numbers in `unit`.

    `kind` is `"oversized"` when what the smallest acceptable cap takes is alone above the limit, `"exhausted"` when
    spent + that is, else `"contended"`.  One that waiting cannot cure speaks before any `"contended"` one, wherever it
    stands in the order.  `needed` is what the smallest acceptable cap takes; in a contended account that is `floor_cap`.
    A newcomer refused only because others wait in line before it is `"contended"` too, and may need less than is left.
    """

    account: Account
    unit: Unit
    limit: int
    spent: int
    reserved: int
    needed: int
    kind: Kind


Answer = Grant | Shortfall


@attrs.define(eq=False, kw_only=True)
class Ticket:
    """A place in the line for money, handed out by `Ledger.park`.

    `answer` is None until a grant was made in the waiter's name, or a Shortfall says that waiting became useless.
    """

    hold_id: int
    answer: Answer | None = None


@attrs.frozen
class Snapshot:
    """What a ledger knows at one instant: each call is in exactly one of the three.

    Attributes:
        rows: Of calls that ended, in the order they ended.
        in_flight: `(call, grant)` of every hold that is HELD, as given to and answered by `reserve`.
        totals: What rows became that are no longer kept one by one: sums per key, as the ledger's `fold` made them.
    """

    rows: list[Any]
    in_flight: list[tuple[Any, Grant]]
    totals: dict[Hashable, tuple[int, ...]]


class Ledger(abc.ABC):
    """What every store of money can do.  Safe to call from any thread, finalizer and signal handler's thread.

    Required: `reserve`, `extend`, `settle`, `release`, `expire`, `adjust`, `balance`, `forget`, `add_row`, `snapshot`.
    Optional: `settle_later` and `release_later` (for finalizers), `park`, `unpark` and `still_hopeful` (a line for
    money), `flush`, `close`.

    Amounts are ints, 0 or more and below 2**63; any other is a ValueError before anything changes.  `hold_id` is an int
    that no other call of this ledger uses.  `call` and `row` are the caller's objects: kept, handed back, never read,
    but for `call.idle_seconds(now)` where there is such a method.
    """

    #: True where operations do network or disk I/O: an event loop must not call them on its own thread.
    blocking: ClassVar[bool] = False

    @classmethod
    @abc.abstractmethod
    def open(cls, url: str, **options: Any) -> Ledger:
        """Open the store at `url`; ValueError for a URL or option it does not know."""

    @abc.abstractmethod
    def reserve(
        self,
        hold_id: int,
        accounts: Sequence[Account],
        need: Need,
        *,
        owner: Hashable = None,
        call: Any = None,
        forced: Collection[Account] = (),
        ttl_seconds: float | None = None,
    ) -> Answer:
        """Hold the bound of one call in all `accounts`, or in none.

        Args:
            accounts: In the order in which they speak when short.  Empty: the hold counts only as a call in flight.
                The same key twice is held once.  An account unknown so far starts with nothing spent.
            owner: Thread or task that will end the hold; None where nobody knows.
            forced: Members of `accounts` that never refuse.  What the hold takes past their limit becomes debt.
            ttl_seconds: After this long `expire` charges the bound; None: never.

        Returns:
            The Grant; for a `hold_id` that was granted before, that grant again (ended or not), unchanged but for
            `extend`.  Or the Shortfall; that id was not used then, and may be tried again.
        """

    @abc.abstractmethod
    def extend(self, hold_id: int, usd_nanos: int, tokens: int, *, forced: Collection[Account] = ()) -> Answer | None:
        """Grow a hold by one more attempt, in all its accounts or in none.  Calls do not grow.

        Does not wait in line: it already holds money others wait for.  The accounts in `forced` do not refuse, and only they:
        an account that let the hold past its limit once is asked again.

        Returns:
            A Grant with all that is held now, or a Shortfall whose `needed` is the growth.  None where `hold_id` is not
            HELD (unknown, ended, expired): there is nothing to send it on.  Not idempotent: each call grows the hold;
            after a lost answer a hold may be larger than needed, until it is settled.
        """

    @abc.abstractmethod
    def settle(self, hold_id: int, usd_nanos: int, tokens: int, calls: int = 1, row: Any = None) -> bool:
        """Turn a hold into a charge of the actual amounts; what they are above the bound becomes debt.

        The hold becomes `row` in the same instant (None: it leaves no row).  An expired hold is corrected: its charge
        becomes this one, its row this row.

        Returns:
            False, and nothing changed, where the hold already ended, is unknown or was inherited by a forked child.
        """

    @abc.abstractmethod
    def release(self, hold_id: int, row: Any = None) -> bool:
        """Give all of a hold back: for a call of which it is known that nothing was billed.

        As `settle` with 0 of everything.  Also takes a parked `hold_id` out of the line (and answers False), so that a
        caller who was interrupted anywhere can release by id.
        """

    def settle_later(self, hold_id: int, usd_nanos: int, tokens: int, calls: int = 1, row: Any = None) -> None:
        """As `settle`, but may be called by a finalizer: waits for no lock and may take effect with the next operation."""
        self.settle(hold_id, usd_nanos, tokens, calls, row)

    def release_later(self, hold_id: int, row: Any = None) -> None:
        """As `release`, but may be called by a finalizer."""
        self.release(hold_id, row)

    @abc.abstractmethod
    def expire(self, now: float | None = None, row_of: Callable[[Any, Grant], Any] | None = None) -> int:
        """Charge the bound of every hold whose time is over by the store's own clock, or by `now`.

        Args:
            row_of: Makes the row of a hold from its `call` and grant; without it an expired hold leaves none.

        Returns:
            How many expired.  A late settle or release still corrects them, for as long as the ledger remembers.
        """

    @abc.abstractmethod
    def adjust(self, adjust_id: Hashable, accounts: Sequence[Account], usd_nanos: int, tokens: int, calls: int) -> bool:
        """Correct what was spent, up or down: recorded by hand, refunded, billed otherwise.

        Amounts are signed.  Spent never falls below 0.  What an increase takes past the limit becomes debt.

        Returns:
            False, and nothing changed, where `adjust_id` was used before, as far as the ledger remembers.
        """

    @abc.abstractmethod
    def balance(self, account: Account) -> Balance:
        """What the account holds now; all zeros where the ledger never saw it."""

    @abc.abstractmethod
    def forget(self, account_key: Hashable) -> None:
        """Drop an account, once no hold uses it; it starts again at 0 if it is ever used again.

        May be called by a finalizer: takes no lock, takes effect with the next operation.  An unknown key is ignored.
        """

    @abc.abstractmethod
    def add_row(self, row: Any) -> None:
        """Keep the row of a call that held nothing, such as one that was refused."""

    @abc.abstractmethod
    def snapshot(self) -> Snapshot:
        """Rows, calls in flight and totals of one instant.  Holds that expired are rows, if `expire` made them one."""

    def rows(self) -> list[Any]:
        """The rows of a `snapshot`."""
        return self.snapshot().rows

    def in_flight(self) -> list[tuple[Any, Grant]]:
        """The calls in flight of a `snapshot`."""
        return self.snapshot().in_flight

    def park(
        self,
        hold_id: int,
        accounts: Sequence[Account],
        need: Need,
        *,
        wake: Callable[[], None],
        owner: Hashable = None,
        call: Any = None,
        forced: Collection[Account] = (),
        ttl_seconds: float | None = None,
        renew: Callable[[], Need] | None = None,
    ) -> Answer | Ticket:
        """Reserve, or stand in line for it where the answer would be `"contended"`.

        First come, first served per account; at most 16 smaller calls overtake a waiter.  Whatever frees money reserves
        in the waiter's name, sets `ticket.answer` and then calls `wake()`, outside every lock, maybe in a finalizer:
        it must neither block nor raise.  A wake may get lost when a signal interrupts the thread that owes it, so a
        waiter also looks at its ticket now and then (`still_hopeful`).  Where the waiter is gone (its loop was closed),
        wake() itself releases `hold_id`.

        `renew()` says what the waiter needs by now, and is asked before each try to reserve for it, under the ledger's
        lock: it must be quick, not raise, and call no ledger.  A ledger may go by `need` instead.

        Returns:
            The Grant.  A Shortfall where waiting is useless: kind exhausted or oversized, or contended where what is
            needed is held by this owner, by a ring of waiters or by calls that stand still (`idle_seconds(now) >= 1`).
            Else a Ticket.  A ledger without a line answers as `reserve` does.
        """
        return self.reserve(hold_id, accounts, need, owner=owner, call=call, forced=forced, ttl_seconds=ttl_seconds)

    def unpark(self, ticket: Ticket) -> Grant | None:
        """Leave the line (timeout, cancellation).  A Grant made meanwhile is handed back: use or release it.

        None where there is none, or it has ended.  Afterwards no grant is made for the ticket.
        """
        return None

    def still_hopeful(self, ticket: Ticket) -> bool:
        """Whether to go on waiting, for a waiter to ask about once a second; it may set `ticket.answer`.

        True also when there is an answer: look at it first.  False: `unpark`, and say contended.
        """
        return ticket.answer is not None

    def flush(self, timeout: float | None = None) -> bool:
        """Write what is queued; False where that took longer than `timeout` seconds."""
        return True

    def close(self) -> None:
        """Flush and let go of the store; a closed ledger is not used again."""


#: Where the ledgers of this package live, by URL scheme.  Others are found by the entry point group `farebox.ledgers`.
_BUILT_IN: Final = {"memory": "farebox.ledgers.memory:MemoryLedger"}


def open_ledger(url: str, **options: Any) -> Ledger:
    """Open the ledger at `url`, such as `"memory://"`; its scheme chooses the store.

    Entry points of the group `farebox.ledgers` are named by scheme and load a class with the `open` of `Ledger`.

    Raises:
        ValueError: no ledger of that scheme is installed; names those that are.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme in _BUILT_IN:
        module, _, name = _BUILT_IN[scheme].partition(":")
        cls = getattr(importlib.import_module(module), name)
        return cls.open(url, **options)  # type: ignore[no-any-return]
    from importlib.metadata import entry_points  # here and not above: it is slow to import, and rarely used

    found = {point.name: point for point in entry_points(group="farebox.ledgers")}
    if separator and scheme in found:
        return found[scheme].load().open(url, **options)  # type: ignore[no-any-return]
    # Only the scheme is named: the rest of a URL may hold a password.
    choices = ", ".join(f"{name}://" for name in sorted({*_BUILT_IN, *found}))
    shown = f"{scheme}://" if separator else "a URL without a scheme"
    raise ValueError(f"no ledger is known for {shown}; choose one of {choices}")
