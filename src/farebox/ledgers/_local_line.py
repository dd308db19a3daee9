"""The line for money in a database, as far as one process sees it.

First come, first served among the waiters of this process; between processes whoever asks first when money comes free.
Waiters are tried again whenever something of this process was written, and now and then for what others give back.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import attrs

from farebox.ledgers import Account, Answer, Grant, Need, Shortfall, View, WindowClosed
from farebox.ledgers._fitting import amounts_of, shortfall
from farebox.ledgers._waiting import MOST_OVERTAKINGS, OpenHold, Parked, is_contended, is_idle, prospects


@attrs.define(eq=False, kw_only=True)
class Hold:
    """What this process knows of a hold it asked for; `grant` is None until it was granted."""

    accounts: tuple[Account, ...]
    owner: Hashable
    call: Any
    grant: Grant | None = None
    #: What the store calls it, where another process has made it; "" for one of this process.
    noted_as: str = ""


#: The holds of this process by id, and the accounts it has seen by key.
Known = tuple[Mapping[int, Hold], Mapping[str, View]]


@attrs.define(eq=False, kw_only=True)
class Waiter(Parked):
    """A ticket, how to reserve in its name, and what it was short of when last asked."""

    ask: Callable[[Need], Answer]
    short: Shortfall
    #: Who has the last word on it, the line or the waiter that leaves: a dict, whose `setdefault` is atomic.
    said_by: dict[str, str] = attrs.field(factory=dict)

    def is_claimed_by(self, who: str) -> bool:
        """Whether `who` is the first to claim it."""
        return self.said_by.setdefault("", who) == who


class LocalLine:
    """The waiters of one process, in order.  `tickets` is a dict, whose single steps are atomic: nothing here locks."""

    def __init__(self) -> None:
        self.tickets: dict[int, Waiter] = {}
        self._places = itertools.count(1)

    def park(self, waiter: Waiter, known: Known) -> bool:
        """Put it in line; False where nobody can be waited for."""
        if not self.is_hopeful(waiter, known):
            return False
        waiter.place = next(self._places)
        self.tickets[waiter.hold_id] = waiter
        return True

    def leave(self, hold_id: int) -> None:
        """Take a waiter out; one that is not there is ignored."""
        waiter = self.tickets.pop(hold_id, None)
        if waiter is not None:
            waiter.left = True

    def is_hopeful(self, waiter: Waiter, known: Known) -> bool:
        """Whether what it waits for can still come free: held neither by its own owner, a ring of waiters nor idle calls."""
        holds, views = known
        if self._is_clearly_hopeful(waiter, holds, views):
            return True
        everybody = list(self.tickets.values())
        if waiter not in everybody:
            everybody.append(waiter)
        keys = {account.key for one in everybody for account in one.accounts}
        balances = {key: (*attrs.astuple(views[key].balance), 0) for key in keys if key in views}
        open_holds: list[OpenHold] = []
        ours: dict[str, list[int]] = {key: [0, 0, 0] for key in keys}
        for hold in list(holds.values()):
            if hold.grant is None:
                continue
            open_holds.append((hold.accounts, hold.grant[1:], hold.owner, hold.call))
            for account in hold.accounts:
                if account.key in ours:
                    ours[account.key] = [a + b for a, b in zip(ours[account.key], hold.grant[1:], strict=True)]
        for key, balance in balances.items():
            # What other processes hold comes back some time: of them nothing is known, but that they are alive.
            foreign = tuple(max(0, balance[3 * i + 1] - ours[key][i]) for i in range(3))
            if any(foreign):
                open_holds.append(((Account(key, key),), foreign, None, None))
        limited = {id(one): _in_force(one, views) for one in everybody}
        asking = limited[id(waiter)]
        reached = prospects(asking, limited.values(), open_holds, balances, time.monotonic())
        return any(one is asking for one in reached)

    def may_stay(self, waiter: Waiter, known: Known) -> bool:
        """Whether one in line is still to wait: for money, or to be told that it was spent, which the line is about to say."""
        return self.is_hopeful(waiter, known) or self._is_too_late(waiter, known[1])

    def _is_too_late(self, waiter: Waiter, views: Mapping[str, View]) -> bool:
        asking, need = _in_force(waiter, views), waiter.need
        balances = {one.key: attrs.astuple(views[one.key].balance) for one in asking.accounts if one.key in views}
        least, floor = amounts_of(need, need.least_cap), amounts_of(need, need.floor_cap)
        short = shortfall(balances, asking.accounts, asking.forced, least, floor, crossing=asking.crossing)
        return short is not None and not is_contended(short)

    def _is_clearly_hopeful(self, waiter: Waiter, holds: Mapping[int, Hold], views: Mapping[str, View]) -> bool:
        """Whether somebody who does not wait himself holds some of what it is short of: hundreds may ask, and often."""
        key, now = waiter.short.account.key, time.monotonic()
        parked = {other.owner for other in list(self.tickets.values())} | {waiter.owner}
        ours = 0
        for hold in list(holds.values()):
            if hold.grant is None or all(account.key != key for account in hold.accounts):
                continue
            if hold.owner not in parked and not is_idle(hold.call, now):
                return True
            ours += hold.grant.calls
        view = views.get(key)
        return view is not None and view.balance.reserved_calls > ours

    def in_the_way(self, accounts: Sequence[Account], owner: Hashable, holds: Mapping[int, Hold]) -> Waiter | None:
        """The first waiter for one of `accounts` that was overtaken often enough; the others are overtaken now.

        One who holds what that waiter waits for passes: it would wait for the newcomer.
        """
        if not self.tickets:
            return None
        keys = {account.key for account in accounts}
        for waiter in list(self.tickets.values()):
            if waiter.short.account.key not in keys:
                continue
            if owner is not None and any(
                hold.owner == owner and any(account.key in keys for account in hold.accounts)
                for hold in list(holds.values())
                if hold.grant is not None
            ):
                return None
            if waiter.overtaken >= MOST_OVERTAKINGS:
                return waiter
            waiter.overtaken += 1
        return None

    def serve(self, release: Callable[[int], object]) -> None:
        """Reserve for those who fit by now, in order, and wake them; `release` what came for one who left meanwhile.

        Raises:
            LedgerUnavailable: the store did not answer; all wait on.
        """
        blocked: set[str] = set()
        for waiter in list(self.tickets.values()):
            if waiter.left or blocked.intersection(account.key for account in waiter.accounts):
                continue
            try:
                answer: Answer = waiter.ask(waiter.need if waiter.renew is None else waiter.renew())
            except WindowClosed:
                answer = waiter.short  # it asks anew, of the window of now
            else:
                if is_contended(answer):
                    assert isinstance(answer, Shortfall)
                    waiter.short = answer
                    blocked.add(answer.account.key)
                    continue
            if waiter.hold_id not in self.tickets or not waiter.is_claimed_by(
                "line"
            ):  # who has left released what was there then
                release(waiter.hold_id)
                continue
            waiter.answer = answer
            self.tickets.pop(waiter.hold_id, None)
            try:
                waiter.wake()
            except Exception:
                pass  # it is gone; the others are still to be served


def _in_force(waiter: Waiter, views: Mapping[str, View]) -> Waiter:
    """The waiter with the limits that were last seen in force."""
    accounts, forced, crossing = [], [], []
    for account in waiter.accounts:
        view = views.get(account.key)
        limited = account
        if view is not None:
            limits = view.limit_usd_nanos, view.limit_tokens, view.limit_calls
            limited = Account(account.key, account.name, *limits)
        accounts.append(limited)
        if account in waiter.forced:
            forced.append(limited)
        if account in waiter.crossing:
            crossing.append(limited)
    return attrs.evolve(waiter, accounts=tuple(accounts), forced=tuple(forced), crossing=tuple(crossing))
