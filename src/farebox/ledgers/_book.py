"""The books of the memory ledger: one dict of immutable tuples, one `dict.update` per operation.  Nothing here locks.

A signal or an async exception may cut short any Python code, also between two lines that belong together.  So an
operation first computes all new tuples and then puts them in place with a single `dict.update`, which runs in C and is
not cut: balances and the hold change together or not at all, and the hold turns into its row in the same instant.

    entries    account key            (spent, reserved, debt) x (usd, tokens, calls), open holds,
                                       put on top of its limits, account as last held
               hold id                (HELD, grant, accounts, owner, call, deadline,
                                       what it was let past the limit, by account key)
                                      (SETTLED | RELEASED | CORRECTED, grant, row)
                                      (EXPIRED, grant, row, accounts)
               (_ENTERED, id)         (ENTERED, None, row), of adjustments and of what people said
               object()               (ADDED, None, row)
               TOTALS                 {key: sums} of rows that are gone
               CONTROLS               {key: what is in force under it}

`held`, `ended.keys` and `closings.ends` are indexes into them.  They are filled before the entries are and cleaned after, so where an
operation was cut short they may name too much, never too little; who reads them asks the entries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final

from farebox.ledgers import (
    Account,
    Answer,
    Control,
    Grant,
    Need,
    Shortfall,
    Snapshot,
    WindowClosed,
    with_slack,
)
from farebox.ledgers._closings import Closings
from farebox.ledgers._ended import ADDED, CORRECTED, ENTERED, EXPIRED, HELD, SETTLED, TOTALS, Ended
from farebox.ledgers._fitting import (
    EMPTY,
    NOTHING,
    UNCHANGED,
    Amounts,
    check_amounts,
    check_key,
    limits_of,
    past,
    pick_cap,
    short_or_crossed,
    shortfall,
)
from farebox.ledgers._terms import CONTROLS, Terms
from farebox.ledgers._totals import Coarsen, Fold
from farebox.ledgers._turns import Turn, is_dearer, key_of, next_turn
from farebox.ledgers._waiting import NEWCOMER, Line, OpenHold, Parked, behind, fits, is_contended, prospects

_ENTERED: Final = object()

_FIRST: Final = -1  # a place in front of everybody

_tuple = tuple.__new__


class Book:
    """What a memory ledger knows, and everything that happens to it under the ledger's lock."""

    def __init__(
        self,
        keep_rows: int,
        keep_totals: int,
        fold: Fold,
        coarsen: Coarsen,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        id_of: Callable[[Any], str] = lambda row: "",
    ) -> None:
        self._options = (keep_rows, keep_totals, fold, coarsen, clock, wall_clock, id_of)
        self._id_of = id_of
        self._clock = clock
        self.entries: dict[Any, Any] = {}
        self.ended = Ended(self.entries, keep_rows, keep_totals, fold, coarsen)
        self.terms = Terms(self.entries)
        self.closings = Closings(self.entries, wall_clock)
        self.held: dict[int, None] = {}
        self.forgotten: set[Any] = set()
        self.line = Line()
        self.queues = self.line.queues
        self.wakes: deque[Callable[[], None]] = deque()

    def inherited(self) -> Book:
        """The book of a forked child: what was spent and said, but no holds, rows and waiters, which are the parent's."""
        child = Book(*self._options)
        for key, was in self.entries.items():
            if key is not TOTALS and key is not CONTROLS and len(was) == len(EMPTY):
                su, _, du, st, _, dt, sc, _, dc, _, on_top, known = was
                child.entries[key] = (su, 0, du, st, 0, dt, sc, 0, dc, 0, on_top, known)
        child.entries[CONTROLS] = self.entries[CONTROLS]
        child.terms.has_any = self.terms.has_any
        child.closings.ends.update(self.closings.ends)
        return child

    # Reserve, extend

    def reserve(
        self,
        hold_id: int,
        accounts: Sequence[Account],
        need: Need,
        owner: Hashable,
        call: Any,
        forced: Collection[Account],
        ttl_seconds: float | None,
        place: int = NEWCOMER,
        crossing: Collection[Account] = (),
    ) -> Answer:
        """The one way to make a hold, for newcomers and for those who waited."""
        entries = self.entries
        if hold_id in entries:
            return entries[hold_id][1]  # type: ignore[no-any-return]  # whatever became of the hold since
        # What people said, and when.
        for account in accounts:
            if account.ends_at is not None or account.starts_at is not None:
                self.closings.check(accounts)
                break
        in_force = UNCHANGED
        if self.terms.has_any:
            killed = self.terms.killed(accounts, need.usd_nanos(need.least_cap))
            if killed is not None:
                return killed
            in_force = self.terms.in_force(accounts)
        # What it takes.
        fixed_usd, usd_rate, fixed_tokens, token_rate, calls, least_cap, _, cap, _, share = need
        if share or least_cap != cap:
            picked = pick_cap(entries, accounts, need, forced, in_force)
            if isinstance(picked, Shortfall):
                return self._cross(hold_id, accounts, need, owner, call, forced, ttl_seconds, place, crossing)
            cap = picked
        room = cap + 16 if cap <= 1600 else with_slack(cap)
        usd = fixed_usd + usd_rate * room
        tokens = fixed_tokens + token_rate * room
        check_amounts(usd, tokens, calls)
        # Who is short.
        changes: dict[Any, Any] = {}
        let_past: dict[Any, Amounts] = {}
        for account in accounts:
            key = account.key
            was = entries.get(key)
            if was is None:
                check_key(key)
                was = EMPTY
            su, ru, du, st, rt, dt, sc, rc, dc, open_holds, on_top, _ = was
            ru += usd
            rt += tokens
            rc += calls
            limit_usd, limit_tokens, limit_calls = account.limit_usd_nanos, account.limit_tokens, account.limit_calls
            if in_force:
                limit_usd, limit_tokens, limit_calls = in_force[key]
            if su + ru > limit_usd or st + rt > limit_tokens or sc + rc > limit_calls:
                if account not in forced:
                    return self._cross(hold_id, accounts, need, owner, call, forced, ttl_seconds, place, crossing)
                over = (
                    past(was[0] + was[1], usd, limit_usd),
                    past(was[3] + was[4], tokens, limit_tokens),
                    past(was[6] + was[7], calls, limit_calls),
                )
                du, dt, dc = du + over[0], dt + over[1], dc + over[2]
                let_past[key] = over
            changes[key] = (su, ru, du, st, rt, dt, sc, rc, dc, open_holds + 1, on_top, account)
        if self.queues:
            first = self.line.behind_whom(accounts, (usd, tokens, calls), forced, place)
            if first is not None:
                return behind(first, entries.get(first.at, EMPTY), (usd, tokens, calls), in_force)
        # Hold it.
        grant: Grant = _tuple(Grant, (cap, usd, tokens, calls))
        deadline = None if ttl_seconds is None else self._clock() + ttl_seconds
        changes[hold_id] = (HELD, grant, tuple(accounts), owner, call, deadline, let_past)
        self.held[hold_id] = None
        entries.update(changes)
        return grant

    def _cross(
        self,
        hold_id: int,
        accounts: Sequence[Account],
        need: Need,
        owner: Hashable,
        call: Any,
        forced: Collection[Account],
        ttl_seconds: float | None,
        place: int,
        crossing: Collection[Account],
    ) -> Answer:
        """It does not fit: reserve past the accounts of `crossing`, where these alone are short and let it cross."""
        in_force = self.terms.in_force(accounts)
        found = short_or_crossed(self.entries, accounts, need, forced, crossing, in_force)
        if isinstance(found, Shortfall):
            return found
        return self.reserve(hold_id, accounts, need, owner, call, found, ttl_seconds, place)

    def extend(self, hold_id: int, usd: int, tokens: int, forced: Collection[Account] = ()) -> Answer | None:
        record = self.entries.get(hold_id)
        if record is None or record[0] is not HELD:
            return None
        _, held, accounts, owner, call, deadline, let_past = record
        let_past = dict(let_past)
        more = (usd, tokens, 0)
        killed, in_force = self.terms.killed(accounts, usd), self.terms.in_force(accounts)
        short = killed or shortfall(self.entries, accounts, forced, more, more, own=held[1:], in_force=in_force)
        if short is not None:
            return short
        grant = Grant(held.cap, held.usd_nanos + usd, held.tokens + tokens, held.calls)
        check_amounts(*grant[1:])
        changes: dict[Any, Any] = {hold_id: (HELD, grant, accounts, owner, call, deadline, let_past)}
        for key, account in {account.key: account for account in accounts}.items():
            su, ru, du, st, rt, dt, sc, rc, dc, *others = self.entries[key]
            if account in forced:
                limits = limits_of(account, in_force)
                over = past(su + ru, usd, limits[0]), past(st + rt, tokens, limits[1])
                du, dt = du + over[0], dt + over[1]
                before = let_past.get(key, NOTHING)
                let_past[key] = (before[0] + over[0], before[1] + over[1], before[2])
            changes[key] = (su, ru + usd, du, st, rt + tokens, dt, sc, rc, dc, *others)
        self.entries.update(changes)
        return grant

    # Settle, release, expire

    def end(self, hold_id: int, usd: int, tokens: int, calls: int, row: Any, state: str) -> bool:
        """The one way a hold ends.  `state` EXPIRED keeps its accounts, to be corrected later."""
        entries = self.entries
        record = entries.get(hold_id)
        if record is None:
            if self.queues and hold_id in self.line.tickets:
                self.leave_line(self.line.tickets[hold_id])
            return False
        if record[0] is not HELD:
            return record[0] is EXPIRED and state is not EXPIRED and self._correct(hold_id, (usd, tokens, calls), row)
        _, grant, accounts, _, _, _, let_past = record
        _, held_usd, held_tokens, held_calls = grant
        more_usd = usd - held_usd if usd > held_usd else 0
        more_tokens = tokens - held_tokens if tokens > held_tokens else 0
        more_calls = calls - held_calls if calls > held_calls else 0
        changes: dict[Any, Any] = {}
        for account in accounts:
            key = account.key
            su, ru, du, st, rt, dt, sc, rc, dc, open_holds, on_top, known = entries[key]
            changes[key] = (
                su + usd,
                ru - held_usd,
                du + more_usd,
                st + tokens,
                rt - held_tokens,
                dt + more_tokens,
                sc + calls,
                rc - held_calls,
                dc + more_calls,
                open_holds - 1,
                on_top,
                known,
            )
        for key in let_past:
            # What its bound was let past the limit, and it did not use, is no debt; what a reset took away already is none.
            past_usd, past_tokens, past_calls = let_past[key]
            su, ru, du, st, rt, dt, sc, rc, dc, *others = changes[key]
            du = max(0, du - max(0, min(past_usd, held_usd - usd)))
            dt = max(0, dt - max(0, min(past_tokens, held_tokens - tokens)))
            dc = max(0, dc - max(0, min(past_calls, held_calls - calls)))
            changes[key] = (su, ru, du, st, rt, dt, sc, rc, dc, *others)
        changes[hold_id] = (state, grant, row) if state is not EXPIRED else (EXPIRED, grant, row, accounts)
        self.ended.keys.append(hold_id)
        entries.update(changes)
        self.held.pop(hold_id, None)
        # Whoever lives off the change.
        if self.forgotten:
            self.drop_forgotten()
        if self.queues:
            self._hand_over([account.key for account in accounts])
        if len(self.ended.keys) > self.ended.most:
            self.ended.fold_oldest()
        return True

    def _correct(self, hold_id: int, actual: Amounts, row: Any) -> bool:
        """The bound was charged when the hold expired: charge what it really was instead, in turn."""
        _, grant, presumed, accounts = self.entries[hold_id]
        usd, tokens, calls = change = actual[0] - grant[1], actual[1] - grant[2], actual[2] - grant[3]
        changes: dict[Any, Any] = {}
        call_id = "" if row is None or presumed is None else self._id_of(row)
        if call_id:
            turn, is_by_hand = next_turn(call_id, self._was_by_hand)
            if is_by_hand and not is_dearer(change):
                self.entries[hold_id] = (CORRECTED, grant, presumed)
                return True
            changes[key_of(turn)] = (CORRECTED, None, None)
            self.ended.keys.append(key_of(turn))
        for account in accounts:
            was = self.entries.get(account.key)
            if was is not None:  # it may be forgotten by now
                su, ru, du, st, rt, dt, sc, rc, dc, *others = was
                changes[account.key] = (
                    *(max(0, su + usd), ru, du + max(0, usd)),
                    *(max(0, st + tokens), rt, dt + max(0, tokens)),
                    *(max(0, sc + calls), rc, dc + max(0, calls)),
                    *others,
                )
        changes[hold_id] = (CORRECTED, grant, row)
        self.entries.update(changes)
        if self.queues:
            self._hand_over([account.key for account in accounts])
        return True

    def expire(self, now: float | None, row_of: Callable[[Any, Grant], Any] | None) -> int:
        expired = 0
        now = self._clock() if now is None else now
        for hold_id, (_, grant, _, _, call, deadline, *_) in self.open_holds():
            if deadline is not None and deadline <= now:
                _, usd, tokens, calls = grant
                row = None if row_of is None else row_of(call, grant)
                expired += self.end(hold_id, usd, tokens, calls, row, EXPIRED)
        return expired

    # What needs no hold

    def charge(self, hold_id: int, accounts: Sequence[Account], amounts: Amounts, row: Any) -> None:
        if hold_id not in self.entries:
            changes = self._spend(accounts, amounts)
            changes[hold_id] = (SETTLED, Grant(0, *amounts), row)
            self._enter(hold_id, changes, [account.key for account in accounts])

    def _was_by_hand(self, turn: Turn) -> bool | None:
        taken = self.entries.get(key_of(turn))
        return None if taken is None else taken[0] is ENTERED

    def adjust(
        self, adjust_id: Hashable, accounts: Sequence[Account | str], amounts: Amounts, row: Any, turn: Turn | None
    ) -> bool:
        """As `charge`, but amounts may be negative, and accounts be given by key."""
        key = (_ENTERED, adjust_id)
        if key in self.entries or (turn is not None and key_of(turn) in self.entries):
            return False
        meant = [
            (self.entries[one][-1] or Account(one, one)) if isinstance(one, str) else one
            for one in accounts
            if not isinstance(one, str) or one in self.entries
        ]
        changes = self._spend(meant, amounts)
        changes[key] = (ENTERED, None, row)
        if turn is not None:
            changes[key_of(turn)] = (ENTERED, None, None)
            self.ended.keys.append(key_of(turn))
        self._enter(key, changes, [account.key for account in meant])
        return True

    def control(self, entry_id: str, key: str, said: Control) -> bool:
        # Anybody in line may be let in by it, or have to go.
        return self._say(entry_id, list(self.queues), lambda: self.terms.controlled(key, said))

    def top_up(self, entry_id: str, account: Account, amounts: Amounts) -> bool:
        return self._say(entry_id, [account.key], lambda: self.terms.topped_up(account, amounts), account)

    def reset(self, entry_id: str, account: Account) -> bool:
        return self._say(entry_id, [account.key], lambda: self.terms.reset(account), account)

    def _say(
        self, entry_id: str, touched: Iterable[Any], changed: Callable[[], dict[Any, Any]], *accounts: Account
    ) -> bool:
        """Put in force what a person says, under an id that is used once."""
        entry = (_ENTERED, entry_id)
        if entry in self.entries:
            return False
        self.closings.note(accounts)
        self._enter(entry, {**changed(), entry: (ENTERED, None, None)}, touched)
        return True

    def _spend(self, accounts: Sequence[Account], amounts: Amounts) -> dict[Any, Any]:
        """The accounts with `amounts` more spent; what these take past the limits in force is debt."""
        usd, tokens, calls = amounts
        self.closings.note(accounts)
        in_force = self.terms.in_force(accounts)
        changes: dict[Any, Any] = {}
        for account in accounts:
            su, ru, du, st, rt, dt, sc, rc, dc, open_holds, on_top, _ = self.entries.get(account.key, EMPTY)
            limits = limits_of(account, in_force)
            changes[account.key] = (
                *(max(0, su + usd), ru, du + past(su + ru, usd, limits[0])),
                *(max(0, st + tokens), rt, dt + past(st + rt, tokens, limits[1])),
                *(max(0, sc + calls), rc, dc + past(sc + rc, calls, limits[2])),
                *(open_holds, on_top, account),
            )
        return changes

    def _enter(self, key: Any, changes: Mapping[Any, Any], touched: Iterable[Any]) -> None:
        """Put `changes` in place, `key` with its row among them, and do for the accounts `touched` what follows."""
        self.ended.keys.append(key)
        self.entries.update(changes)
        if self.queues:
            self._hand_over(touched)
        self.closings.drop_closed()
        if len(self.ended.keys) > self.ended.most:
            self.ended.fold_oldest()

    def drop_forgotten(self) -> None:
        """Drop the accounts nobody holds anything of any more."""
        for key in list(self.forgotten):
            was = self.entries.get(key, EMPTY)
            if len(was) != len(EMPTY):
                self.forgotten.discard(key)  # no account at all
            elif was[9] == 0:
                self.closings.drop(key)
                self.forgotten.discard(key)

    # The line

    def try_for(self, ticket: Parked) -> Answer:
        """Reserve for a ticket; past those before it, where they wait for what its own owner holds."""
        answer = self._reserve_for(ticket, ticket.place)
        in_force = self.terms.in_force(ticket.accounts)
        if is_contended(answer) and fits(ticket, self.entries, {}, in_force):
            ahead = set(self.line.ahead(ticket.accounts, ticket.forced, ticket.place))
            if not ahead.issubset(self._prospects(ticket)):
                answer = self._reserve_for(ticket, _FIRST)
        return answer

    def try_again(self, ticket: Parked) -> bool:
        """Reserve for one in line if there is room by now; False where it is of no use to wait on."""
        try:
            answer = self.try_for(ticket)
        except WindowClosed:
            ticket.answer = ticket.short
        else:
            if is_contended(answer):
                self.line.stand(ticket, answer)
                return self.is_hopeful(ticket)
            ticket.answer = answer
        self.leave_line(ticket)
        return True

    def is_hopeful(self, ticket: Parked) -> bool:
        return any(reached is ticket for reached in self._prospects(ticket))

    def leave_line(self, ticket: Parked) -> None:
        ticket.left = True
        self.line.leave(ticket)
        if self.queues:
            self._hand_over([ticket.at])

    def _reserve_for(self, ticket: Parked, place: int) -> Answer:
        if ticket.renew is not None:
            ticket.need = ticket.renew()
        return self.reserve(
            ticket.hold_id,
            ticket.accounts,
            ticket.need,
            ticket.owner,
            ticket.call,
            ticket.forced,
            ticket.ttl_seconds,
            place,
            ticket.crossing,
        )

    def _prospects(self, ticket: Parked) -> Iterable[Parked]:
        holds: list[OpenHold] = [
            (accounts, grant[1:], owner, call) for _, (_, grant, accounts, owner, call, *_) in self.open_holds()
        ]
        tickets = self.line.tickets.values()
        in_force = self.terms.in_force(account for other in (ticket, *tickets) for account in other.accounts)
        return prospects(ticket, tickets, holds, self.entries, self._clock(), in_force)

    def _hand_over(self, keys: Iterable[Any]) -> None:
        """Reserve for those who wait for these accounts and fit now; whoever has the lock wakes them after it."""
        for ticket in self.line.served(keys, lambda ticket: self._reserve_for(ticket, ticket.place)):
            self.wakes.append(ticket.wake)

    # Rows

    def add_row(self, row: Any) -> None:
        key = object()
        self.ended.keys.append(key)
        self.entries[key] = (ADDED, None, row)
        if len(self.ended.keys) > self.ended.most:
            self.ended.fold_oldest()

    def snapshot(self) -> Snapshot:
        in_flight = [(record[4], record[1]) for _, record in self.open_holds()]
        return Snapshot(rows=self.ended.rows(), in_flight=in_flight, totals=self.ended.totals())

    def open_holds(self) -> list[tuple[int, Any]]:
        """Ids and records of all that is HELD, oldest first."""
        found = []
        for hold_id in list(self.held):
            record = self.entries.get(hold_id)
            if record is not None and record[0] is HELD:
                found.append((hold_id, record))
            else:
                del self.held[hold_id]
        return found
