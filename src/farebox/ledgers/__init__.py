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
A limit that a person lowers changes no balance, and neither does a kill: what is held stays held, new holds are refused.
"""

from __future__ import annotations

import abc
import importlib
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import tzinfo
from typing import Any, ClassVar, Final

from farebox.ledgers._records import (
    NO_LIMIT,
    Account,
    Answer,
    Balance,
    Control,
    Grain,
    Grant,
    Need,
    Noted,
    PlaceParts,
    RowForm,
    Shortfall,
    Snapshot,
    Span,
    Sum,
    Ticket,
    View,
    WindowClosed,
    cap_within,
    with_slack,
)

__all__ = [
    "NO_LIMIT",
    "Account",
    "Answer",
    "Balance",
    "Control",
    "Grain",
    "Grant",
    "Ledger",
    "Need",
    "Noted",
    "PlaceParts",
    "RowForm",
    "Shortfall",
    "Snapshot",
    "Span",
    "Sum",
    "Ticket",
    "View",
    "WindowClosed",
    "cap_within",
    "open_ledger",
    "with_slack",
]


class Ledger(abc.ABC):
    """What every store of money can do.  Safe to call from any thread, finalizer and signal handler's thread.

    Required: `reserve`, `extend`, `settle`, `release`, `charge`, `expire`, `adjust`, `balance`, `forget`, `add_row`,
    `snapshot`; for standing budgets `view`, `accounts`, `control`, `top_up`, `reset`; for reports `rows`, `rows_of`, `tally`.
    Optional: `settle_later` and `release_later` (for finalizers), `note`, `noted` and `collect` (a hold that another process
    may end), `park`, `unpark` and `still_hopeful` (a line for money), `last_view`, `expect`, `learn` and `learnt`, `prune` and
    `keep`, `flush`, `retire`, `close`.

    Amounts are ints, 0 or more and below 2**63; any other is a ValueError before anything changes.  `hold_id` is an int
    that no other call of this ledger uses.  `call` and `row` are the caller's objects: kept, handed back, never read,
    but for `call.idle_seconds(now)` where there is such a method.
    """

    #: True where operations do network or disk I/O: an event loop must not call them on its own thread.  Those that end or
    #: note something never wait for it: `settle`, `release`, `charge`, `note`, `collect`, `add_row`, `learn`, what has `_later` in its name,
    #: `last_view`, `now_seconds`, `unpark`.
    blocking: ClassVar[bool] = False

    @classmethod
    @abc.abstractmethod
    def open(cls, url: str, *, form: RowForm | None = None, **options: Any) -> Ledger:
        """Open the store at `url`.

        Raises:
            ValueError: a URL or option it does not know, a file that is no such store, a newer schema.
            LedgerUnavailable: the store can't be reached.
        """

    def now_seconds(self) -> float:
        """Epoch seconds by the clock that decides about windows; what was last known of it, without asking."""
        return time.time()

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
        crossing: Collection[Account] = (),
    ) -> Answer:
        """Hold the bound of one call in all `accounts`, or in none.

        Looks in this order: was the id used before, are all windows open, is an account killed, does it fit.

        Args:
            accounts: In the order in which they speak when short.  Empty: the hold counts only as a call in flight.
                The same key twice is held once.  An account unknown so far starts with nothing spent.
            owner: Thread or task that will end the hold; None where nobody knows.
            forced: Members of `accounts` that never refuse.  What the hold takes past their limit becomes debt.
            ttl_seconds: After this long `expire` charges the bound; None: never.
            crossing: Members of `accounts` that let one hold past their limit, as if forced, where it does not fit: while
                nobody is past a limit of theirs, and none is spent.  Else they refuse it: `"exhausted"` where a limit is
                spent, `"contended"` where somebody is past one, and may yet be charged less.

        Returns:
            The Grant; for a `hold_id` that was granted before, that grant again (ended or not), unchanged but for
            `extend`.  Or the Shortfall; that id was not used then, and may be tried again.

        Raises:
            WindowClosed: not starts_at <= now < ends_at for an account, forced or not; nothing was held.
            LedgerUnavailable: the store did not answer; what it may have held of this id is given back.
        """

    @abc.abstractmethod
    def extend(self, hold_id: int, usd_nanos: int, tokens: int, *, forced: Collection[Account] = ()) -> Answer | None:
        """Grow a hold by one more attempt, in all its accounts or in none.  Calls do not grow.

        Does not wait in line: it already holds money others wait for.  The accounts in `forced` do not refuse, and only they:
        an account that let the hold past its limit once is asked again.  Goes by the limits in force now; a killed account
        refuses, also where it is forced; a window that is over does not.

        Returns:
            A Grant with all that is held now, or a Shortfall whose `needed` is the growth.  None where `hold_id` is not
            HELD (unknown, ended, expired): there is nothing to send it on.  Not idempotent: each call grows the hold;
            after a lost answer a hold may be larger than needed, until it is settled.
        """

    @abc.abstractmethod
    def settle(self, hold_id: int, usd_nanos: int, tokens: int, calls: int = 1, row: Any = None) -> bool:
        """Turn a hold into a charge of the actual amounts; what they are above the bound becomes debt.

        The hold becomes `row` in the same instant (None: it leaves no row).  An expired hold is corrected: its charge
        becomes this one, its row this row, and the next turn of its call is taken (`adjust`).  Where the call was corrected by
        hand before, only what is dearer than the bound, and cheaper in no unit, does so; all else changes nothing.

        Returns:
            False, and nothing changed, where the hold already ended, is unknown or was inherited by a forked child.
        """

    @abc.abstractmethod
    def charge(
        self, hold_id: int, accounts: Sequence[Account], usd_nanos: int, tokens: int, calls: int = 1, row: Any = None
    ) -> None:
        """Charge what was spent without a hold; never refused.  What it takes past a limit in force is debt.

        For what is known only afterwards: whether a window is over or an account killed does not matter.  Nothing happens for
        a `hold_id` that was used before; one that is used here has ended.
        """

    def expect(self, hold_id: int) -> None:
        """A `charge` of this id will come, however late: a ledger that was retired stays open for it."""

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

    def note(self, hold_id: int, name: str, memo: str, lives_seconds: float) -> None:
        """What is held here has no end yet, and whichever process sees its end may bring it: keep `memo` by `name`.

        A note goes with its hold: once that is settled or released it is forgotten; of one that has expired it is kept for as
        long as the hold can be corrected.  Said again, it takes the place of what was said; a name is that of one hold, the
        last it was given to.  Nothing happens where `hold_id` is not held.

        Args:
            memo: For whoever ends it; the ledger does not read it.
            lives_seconds: For so long from now the hold does not expire, though its process may have ended.
        """

    def noted(self, name: str) -> Noted | None:
        """What was noted by this name in any process; None where nothing was, or it is forgotten.

        A ledger of one process only need not know of any.
        """
        return None

    def collect(self, hold_id: int, noted: Noted) -> None:
        """From now on `hold_id` means the hold that was noted: settle or release end it, or correct it, once for all processes.

        What comes second, from whatever process, answers as it may and changes nothing.
        """

    @abc.abstractmethod
    def expire(self, now: float | None = None, row_of: Callable[[Any, Grant], Any] | None = None) -> int:
        """Charge the bound of every hold whose time is over by the store's own clock, or by `now`.

        Args:
            row_of: Makes the row of a hold from its `call` and grant; without it the `presumed` of its form does, where there
                is one, and else it leaves none.

        Returns:
            How many expired.  A late settle or release still corrects them, for as long as the ledger remembers.
        """

    @abc.abstractmethod
    def adjust(
        self,
        adjust_id: Hashable,
        accounts: Sequence[Account | str],
        usd_nanos: int,
        tokens: int,
        calls: int,
        row: Any = None,
        *,
        turn: tuple[str, int] | None = None,
    ) -> bool:
        """Correct what was spent, up or down: recorded by hand, refunded, billed otherwise.

        Amounts are signed.  Spent never falls below 0.  What an increase takes past the limit in force becomes debt.  Windows
        that are over are corrected too.  The adjustment leaves `row` (None: none).

        Args:
            accounts: One that is given by its key alone is taken as it was last held, and passed over where the ledger does
                not know it any more.
            turn: Of a correction to a call: its id, and the number of this change among all that were made to it since it
                ended, counted from 1.  Each is taken once, also by a late answer: so nobody corrects what he has not seen.

        Returns:
            False, and nothing changed, where `adjust_id` was used before or the turn was taken, as far as the ledger remembers.
        """

    # Standing budgets

    @abc.abstractmethod
    def view(self, account: Account) -> View:
        """What the account holds now, and its limits in force; where the ledger never saw it, zeros and those limits."""

    def last_view(self, account: Account) -> View | None:
        """As `view`, but as last seen by this process, without asking the store; None where it never saw it."""
        return self.view(account)

    @abc.abstractmethod
    def accounts(self, prefix: str) -> list[tuple[str, View]]:
        """Keys and views of the accounts whose key is a string that begins with `prefix`, in no order.

        Their own limits, and the keys of their controls, are those of the last hold; where the ledger never saw one,
        `NO_LIMIT` and none.  Accounts of windows that are over are among them as long as the ledger keeps them.
        """

    @abc.abstractmethod
    def control(self, entry_id: str, key: str, said: Control) -> bool:
        """Put `said` in force under `key`, over what was said there before, for all who share the ledger at once.

        Changes no balance.  Kept as an entry, under an id that no other entry and no adjustment has.  False, and nothing
        changed, where `entry_id` was used before, as far as the ledger remembers.
        """

    @abc.abstractmethod
    def controls(self) -> dict[str, Control]:
        """What is in force, by key."""

    @abc.abstractmethod
    def top_up(self, entry_id: str, account: Account, usd_nanos: int, tokens: int, calls: int) -> bool:
        """Put so much on top of the limits in force of this one account, and so of its window; once for each `entry_id`.

        Top-ups add up, and last as long as the account, also through `reset`.  On top of `NO_LIMIT` there is nothing.
        """

    @abc.abstractmethod
    def reset(self, entry_id: str, account: Account) -> bool:
        """Set spent and debt of the account to 0, in one step; what is held stays held.  Once for each `entry_id`.

        What ends or is corrected afterwards never takes spent or debt below 0.
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

    @abc.abstractmethod
    def rows(self, since_seconds: float | None = None, *, dearest_first: bool = False) -> Iterator[Any]:
        """Rows of calls that ended, in the order they ended, or those first that cost most (the first of their `sums`).

        Args:
            since_seconds: Only those that began then or later; epoch seconds.
        """

    @abc.abstractmethod
    def rows_of(self, call_id: str) -> list[Any]:
        """Rows of calls that ended and have this id (the form's `id_of`), in the order they ended; [] where none is kept.

        For what a person asks: it may look at all rows.
        """

    @abc.abstractmethod
    def tally(
        self,
        since_seconds: float | None = None,
        grain: Grain = "ever",
        zone: tzinfo | None = None,
        by: Sequence[str] | None = None,
    ) -> Iterable[Sum]:
        """What all rows come to, those that are no longer kept one by one too, by place and span of time.

        Args:
            since_seconds: Only what began then or later; of sums that are less exact, those whose span does.
            grain: How exactly the caller needs to know the time; answers may be more exact, or less where rows are gone.
            zone: Whose hours and days are meant; None: UTC.
            by: Names of parts that places need be told apart by (`parts` of the form); answers may have places whole.  None:
                they must have.
        """

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
        crossing: Collection[Account] = (),
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
            Else a Ticket; where a window closes meanwhile, its answer becomes a contended Shortfall, and whoever asks anew
            asks the window of then.  A ledger without a line answers as `reserve` does.

        Raises:
            WindowClosed, LedgerUnavailable: as `reserve`.
        """
        return self.reserve(
            hold_id,
            accounts,
            need,
            owner=owner,
            call=call,
            forced=forced,
            ttl_seconds=ttl_seconds,
            crossing=crossing,
        )

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

    def learn(self, key: str, bucket: int) -> None:
        """Count one more answer of `bucket` under `key`, for programs that start later.  A lost one does no harm."""

    def learnt(self) -> Mapping[str, Mapping[int, int]]:
        """All that was learnt, as far as it is kept: counts by bucket, by key.  Of the older ones a part is forgotten."""
        return {}

    def prune(self, before_seconds: float) -> int:
        """Let go of single rows that ended before then, and say how many; sums keep all that they came to.

        A ledger that does not note when rows end goes by when they began.
        """
        return 0

    def keep(self, seconds: float) -> None:
        """`prune` rows that ended longer ago than that, now and from time to time."""
        self.prune(self.now_seconds() - seconds)

    def flush(self, timeout: float | None = None) -> bool:
        """Write what is queued; False where that took longer than `timeout` seconds."""
        return True

    def retire(self) -> None:
        """No call will begin here any more: `close` some time after those in flight have ended."""

    def close(self) -> None:
        """Flush and let go of the store; a closed ledger is not used again."""


#: Where the ledgers of this package live, by URL scheme.  Others are found by the entry point group `farebox.ledgers`.
_BUILT_IN: Final = {
    "memory": "farebox.ledgers.memory:MemoryLedger",
    "sqlite": "farebox.ledgers.sqlite:SqliteLedger",
    "redis": "farebox.ledgers.redis:RedisLedger",
    "rediss": "farebox.ledgers.redis:RedisLedger",
}


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
    raise ValueError(f"no ledger is known for {shown}; choose one of {choices}, such as sqlite:///farebox.db")
