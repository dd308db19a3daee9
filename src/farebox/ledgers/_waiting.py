"""The line for money: who stands where, who may overtake, and whom the money can still reach.

First come, first served per account.  A ticket stands in one account's queue, the one that is short for it, and takes its
place with it when another becomes the short one.  Nothing here locks: the ledger does.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeGuard

import attrs

from farebox.ledgers import Account, Answer, Need, Shortfall, Ticket, WindowClosed
from farebox.ledgers._fitting import UNCHANGED, UNITS, Amounts, Limits, amounts_of, limits_of, would_fit

#: How often smaller calls may overtake a waiter: halves the mean wait of short calls and starves none.
MOST_OVERTAKINGS: Final = 16
#: How far behind one who does not fit yet a hand-over looks for smaller ones.
LOOK_BEHIND: Final = 16
#: A call that neither sent nor read for this long gives nothing back soon.
IDLE_SECONDS: Final = 1.0
#: The place of one who does not stand in line yet: behind everybody.
NEWCOMER: Final = 2**63

#: (accounts, amounts, owner, call) of a hold that is open.
OpenHold = tuple[Sequence[Account], Amounts, Hashable, Any]


@attrs.define(eq=False, kw_only=True)
class Parked(Ticket):
    """A ticket with what is needed to reserve in its name.

    It waits for `size` in `unit` (an index into `UNITS`) of the account with the key `at`; `short` is what it was last told.
    `left` says that it wants no grant any more; it is set before the ticket is taken out of the line, which a signal may cut
    short.
    """

    accounts: Sequence[Account]
    need: Need
    owner: Hashable
    call: Any
    forced: Collection[Account]
    ttl_seconds: float | None
    wake: Callable[[], None]
    renew: Callable[[], Need] | None
    place: int
    overtaken: int = 0
    short: Shortfall | None = None
    at: Any = None
    unit: int = 0
    size: int = 0
    left: bool = False
    crossing: Collection[Account] = ()


def _place(ticket: Parked) -> int:
    return ticket.place


class Line:
    """All tickets of a ledger.  `queues` holds no empty queue, so its truth says whether anybody waits."""

    def __init__(self) -> None:
        self.queues: dict[Any, list[Parked]] = {}
        self.tickets: dict[int, Parked] = {}
        self._places = 0

    def next_place(self) -> int:
        self._places += 1
        return self._places

    def stand(self, ticket: Parked, short: Shortfall) -> None:
        """Put a ticket, new or old, where it is short now, at its place."""
        if ticket.at != short.account.key or ticket.hold_id not in self.tickets:
            self.leave(ticket)
            ticket.at = short.account.key
            if ticket.at in self.queues:
                insort(self.queues[ticket.at], ticket, key=_place)
            else:
                self.queues[ticket.at] = [ticket]
            self.tickets[ticket.hold_id] = ticket
        ticket.short = short
        ticket.unit = UNITS.index(short.unit)
        ticket.size = amounts_of(ticket.need, ticket.need.floor_cap)[ticket.unit]

    def leave(self, ticket: Parked) -> None:
        """Take a ticket out; one that is not there is ignored."""
        self.tickets.pop(ticket.hold_id, None)
        queue = self.queues.get(ticket.at, [])
        if queue == [ticket]:
            del self.queues[ticket.at]
        elif ticket in queue:
            queue.remove(ticket)

    def ahead(self, accounts: Sequence[Account], forced: Collection[Account], place: int) -> Iterator[Parked]:
        """Those who stand before `place` in a queue of one of `accounts`."""
        for account in accounts:
            if account in forced:
                continue
            for ticket in self.queues.get(account.key, ()):
                if ticket.place >= place:
                    break
                yield ticket

    def behind_whom(
        self, accounts: Sequence[Account], amounts: Amounts, forced: Collection[Account], place: int
    ) -> Parked | None:
        """The first ticket that `amounts` may not overtake from `place`; where there is none, it overtakes them all."""
        passed = []
        for ticket in self.ahead(accounts, forced, place):
            if ticket.overtaken >= MOST_OVERTAKINGS or amounts[ticket.unit] >= ticket.size:
                return ticket
            passed.append(ticket)
        for ticket in passed:
            ticket.overtaken += 1
        return None

    def served(self, keys: Iterable[Any], reserve: Callable[[Parked], Answer]) -> Iterator[Parked]:
        """Those who waited for an account of `keys` and leave the line now, with their answer set.

        Where `reserve` raises WindowClosed, that is what the ticket was short of: its waiter asks the window of then.
        """
        for key in keys:
            stay: list[Parked] = []
            for ticket in list(self.queues.get(key, ())):
                if ticket.answer is None and not ticket.left:
                    if len(stay) > LOOK_BEHIND:
                        break
                    if any(ticket.unit == other.unit and ticket.size >= other.size for other in stay):
                        stay.append(ticket)
                        continue
                    try:
                        answer = reserve(ticket)
                    except WindowClosed:
                        ticket.answer = ticket.short
                    else:
                        if is_contended(answer):
                            self.stand(ticket, answer)
                            if ticket.at == key:
                                stay.append(ticket)
                            continue
                        ticket.answer = answer
                self.leave(ticket)
                yield ticket


def is_contended(answer: Answer) -> TypeGuard[Shortfall]:
    return isinstance(answer, Shortfall) and answer.kind == "contended"


def behind(first: Parked, balance: Sequence[Any], amounts: Amounts, in_force: Limits = UNCHANGED) -> Shortfall:
    """The answer to one who wants `amounts` and is refused only because `first` stands before it."""
    assert first.short is not None
    account, unit = first.short.account, first.unit
    limit = limits_of(account, in_force)[unit]
    spent, reserved = balance[3 * unit], balance[3 * unit + 1]
    return Shortfall(account, UNITS[unit], limit, spent, reserved, amounts[unit], "contended")


def fits(
    ticket: Parked, balances: Mapping[Any, Any], back: Mapping[Any, Sequence[int]], in_force: Limits = UNCHANGED
) -> bool:
    """Whether what a ticket needs fits once `back`, amounts per account key, was given back unspent."""
    return would_fit(balances, ticket.accounts, ticket.need, ticket.forced, back, in_force, ticket.crossing)


def prospects(
    ticket: Parked,
    tickets: Iterable[Parked],
    holds: Iterable[OpenHold],
    balances: Mapping[Any, Any],
    now: float,
    in_force: Limits = UNCHANGED,
) -> Iterator[Parked]:
    """The tickets money can reach, soonest first, while the owner of `ticket` stands still.

    An owner who is not in line goes on and gives back what it holds, unless the call stands still; so does a waiter once
    money reached it.  Taken to a fixpoint: who is not named waits for himself or in a ring.
    """
    waiting = [ticket, *(other for other in tickets if other is not ticket)]
    parked = {other.owner for other in waiting if other.owner is not None}
    back: dict[Any, list[int]] = {}
    kept: dict[Hashable, list[tuple[Sequence[Account], Amounts]]] = {}
    for accounts, amounts, owner, call in holds:
        if owner in parked:
            # Whether its calls stand still says nothing: a waiter reads no stream.
            kept.setdefault(owner, []).append((accounts, amounts))
        elif not is_idle(call, now):
            _give(back, accounts, amounts)
    moved = True
    while moved:
        moved = False
        for other in list(waiting):
            if fits(other, balances, back, in_force):
                waiting.remove(other)
                moved = True
                yield other
                if other.owner != ticket.owner:
                    for accounts, amounts in kept.pop(other.owner, ()):
                        _give(back, accounts, amounts)


def is_idle(call: Any, now: float) -> bool:
    idle_seconds = getattr(call, "idle_seconds", None)
    return idle_seconds is not None and bool(idle_seconds(now) >= IDLE_SECONDS)


def _give(back: dict[Any, list[int]], accounts: Sequence[Account], amounts: Amounts) -> None:
    for key in {account.key for account in accounts}:
        sums = back.setdefault(key, [0, 0, 0])
        for i, amount in enumerate(amounts):
            sums[i] += amount
