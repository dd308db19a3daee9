"""The books of the memory ledger: one dict of immutable tuples, one `dict.update` per operation.  Nothing here locks.

A signal or an async exception may cut short any Python code, also between two lines that belong together.  So an
operation first computes all new tuples and then puts them in place with a single `dict.update`, which runs in C and is
not cut: balances and the hold change together or not at all, and the hold turns into its row in the same instant.

    entries    account key            (spent, reserved, debt) x (usd, tokens, calls), open holds
               hold id                (HELD, grant, accounts, owner, call, deadline, forced,
                                       what it was let past the limit, by account key)
                                      (SETTLED | RELEASED | CORRECTED, grant, row)
                                      (EXPIRED, grant, row, accounts)
               (_ADJUSTED, id)        (ADJUSTED, None, None)
               object()               (ADDED, None, row)
               _TOTALS                {key: sums} of rows that are gone

`held` and `ended` are indexes into them.  They are filled before the entries are and cleaned after, so where an operation
was cut short they may name too much, never too little; who reads them asks the entries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from itertools import islice
from typing import Any, Final

from farebox._money import MOST_NANOS
from farebox.ledgers import Account, Answer, Grant, Need, Shortfall, Snapshot, with_slack
from farebox.ledgers._fitting import EMPTY, Amounts, amounts_of, past, pick_cap, shortfall, would_fit
from farebox.ledgers._totals import Coarsen, Fold, Totals, plus, shrink
from farebox.ledgers._waiting import NEWCOMER, Line, OpenHold, Parked, behind, is_contended, prospects

HELD: Final = "held"
SETTLED: Final = "settled"
RELEASED: Final = "released"
EXPIRED: Final = "expired"
CORRECTED: Final = "corrected"
ADJUSTED: Final = "adjusted"
ADDED: Final = "added"

_FOLDED: Final = "folded"
_TOTALS: Final = object()
_ADJUSTED: Final = object()

#: Rows folded at a time: amortises the copy of the totals, and is short enough for one call to pay.
_FOLD_AT_ONCE: Final = 64
_FIRST: Final = -1  # a place in front of everybody

_tuple = tuple.__new__


class Book:
    """What a memory ledger knows, and everything that happens to it under the ledger's lock."""

    def __init__(
        self, keep_rows: int, keep_totals: int, fold: Fold, coarsen: Coarsen, clock: Callable[[], float]
    ) -> None:
        self._options = (keep_rows, keep_totals, fold, coarsen, clock)
        self._keep_rows = keep_rows
        self._keep_totals = keep_totals
        self._fold = fold
        self._coarsen = coarsen
        self._clock = clock
        self._fold_above = keep_rows + min(_FOLD_AT_ONCE, keep_rows // 8)
        self.entries: dict[Any, Any] = {_TOTALS: {}}
        self.held: dict[int, None] = {}
        self.ended: deque[Any] = deque()
        self.forgotten: set[Any] = set()
        self.line = Line()
        self.queues = self.line.queues
        self.wakes: deque[Callable[[], None]] = deque()

    def inherited(self) -> Book:
        """The book of a forked child: what was spent, but none of the holds, rows and waiters, which are the parent's."""
        child = Book(*self._options)
        for key, was in self.entries.items():
            if key is not _TOTALS and len(was) == len(EMPTY):
                su, _, du, st, _, dt, sc, _, dc, _ = was
                child.entries[key] = (su, 0, du, st, 0, dt, sc, 0, dc, 0)
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
    ) -> Answer:
        """The one way to make a hold, for newcomers and for those who waited."""
        entries = self.entries
        if hold_id in entries:
            return entries[hold_id][1]  # type: ignore[no-any-return]  # whatever became of the hold since
        # What it takes.
        fixed_usd, usd_rate, fixed_tokens, token_rate, calls, least_cap, _, cap, _, share = need
        if share or least_cap != cap:
            picked = pick_cap(entries, accounts, need, forced)
            if isinstance(picked, Shortfall):
                return picked
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
                _check_key(key)
                was = EMPTY
            su, ru, du, st, rt, dt, sc, rc, dc, open_holds = was
            ru += usd
            rt += tokens
            rc += calls
            if su + ru > account.limit_usd_nanos or st + rt > account.limit_tokens or sc + rc > account.limit_calls:
                if account not in forced:
                    least, floor = amounts_of(need, need.least_cap), amounts_of(need, need.floor_cap)
                    short = shortfall(entries, accounts, forced, least, floor)
                    assert short is not None
                    return short
                over = (
                    past(was[0] + was[1], usd, account.limit_usd_nanos),
                    past(was[3] + was[4], tokens, account.limit_tokens),
                    past(was[6] + was[7], calls, account.limit_calls),
                )
                du, dt, dc = du + over[0], dt + over[1], dc + over[2]
                let_past[key] = over
            changes[key] = (su, ru, du, st, rt, dt, sc, rc, dc, open_holds + 1)
        if self.queues:
            first = self.line.behind_whom(accounts, (usd, tokens, calls), forced, place)
            if first is not None:
                return behind(first, entries.get(first.at, EMPTY), (usd, tokens, calls))
        # Hold it.
        grant: Grant = _tuple(Grant, (cap, usd, tokens, calls))
        deadline = None if ttl_seconds is None else self._clock() + ttl_seconds
        changes[hold_id] = (HELD, grant, tuple(accounts), owner, call, deadline, forced, let_past)
        self.held[hold_id] = None
        entries.update(changes)
        return grant

    def extend(self, hold_id: int, usd: int, tokens: int, forced: Collection[Account] = ()) -> Answer | None:
        record = self.entries.get(hold_id)
        if record is None or record[0] is not HELD:
            return None
        _, held, accounts, owner, call, deadline, let_in_by, let_past = record
        let_past = dict(let_past)
        more = (usd, tokens, 0)
        short = shortfall(self.entries, accounts, forced, more, more, own=held[1:])
        if short is not None:
            return short
        grant = Grant(held.cap, held.usd_nanos + usd, held.tokens + tokens, held.calls)
        changes: dict[Any, Any] = {hold_id: (HELD, grant, accounts, owner, call, deadline, let_in_by, let_past)}
        for account in accounts:
            su, ru, du, st, rt, dt, sc, rc, dc, open_holds = self.entries[account.key]
            if account in forced:
                over = past(su + ru, usd, account.limit_usd_nanos), past(st + rt, tokens, account.limit_tokens)
                du, dt = du + over[0], dt + over[1]
                before = let_past.get(account.key, (0, 0, 0))
                let_past[account.key] = (before[0] + over[0], before[1] + over[1], before[2])
            changes[account.key] = (su, ru + usd, du, st, rt + tokens, dt, sc, rc, dc, open_holds)
        self.entries.update(changes)
        return grant

    # Settle, release, expire, adjust

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
        _, grant, accounts, _, _, _, _, let_past = record
        _, held_usd, held_tokens, held_calls = grant
        more_usd = usd - held_usd if usd > held_usd else 0
        more_tokens = tokens - held_tokens if tokens > held_tokens else 0
        more_calls = calls - held_calls if calls > held_calls else 0
        changes: dict[Any, Any] = {}
        for account in accounts:
            key = account.key
            su, ru, du, st, rt, dt, sc, rc, dc, open_holds = entries[key]
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
            )
        for key in let_past:
            # What its bound was let past the limit, and it did not use, is no debt.
            past_usd, past_tokens, past_calls = let_past[key]
            su, ru, du, st, rt, dt, sc, rc, dc, open_holds = changes[key]
            du -= max(0, min(past_usd, held_usd - usd))
            dt -= max(0, min(past_tokens, held_tokens - tokens))
            dc -= max(0, min(past_calls, held_calls - calls))
            changes[key] = (su, ru, du, st, rt, dt, sc, rc, dc, open_holds)
        changes[hold_id] = (state, grant, row) if state is not EXPIRED else (EXPIRED, grant, row, accounts)
        self.ended.append(hold_id)
        entries.update(changes)
        self.held.pop(hold_id, None)
        # Whoever lives off the change.
        if self.forgotten:
            self.drop_forgotten()
        if self.queues:
            self._hand_over([account.key for account in accounts])
        if len(self.ended) > self._fold_above:
            self._fold_oldest()
        return True

    def _correct(self, hold_id: int, actual: Amounts, row: Any) -> bool:
        """The bound was charged when the hold expired: charge what it really was instead."""
        _, grant, _, accounts = self.entries[hold_id]
        usd, tokens, calls = (now - then for now, then in zip(actual, grant[1:], strict=True))
        changes: dict[Any, Any] = {}
        for account in accounts:
            was = self.entries.get(account.key)
            if was is not None:  # it may be forgotten by now
                su, ru, du, st, rt, dt, sc, rc, dc, open_holds = was
                changes[account.key] = (
                    *(max(0, su + usd), ru, du + max(0, usd)),
                    *(max(0, st + tokens), rt, dt + max(0, tokens)),
                    *(max(0, sc + calls), rc, dc + max(0, calls)),
                    open_holds,
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

    def adjust(self, adjust_id: Hashable, accounts: Sequence[Account], usd: int, tokens: int, calls: int) -> bool:
        key = (_ADJUSTED, adjust_id)
        if key in self.entries:
            return False
        changes: dict[Any, Any] = {}
        for account in accounts:
            _check_key(account.key)
            su, ru, du, st, rt, dt, sc, rc, dc, open_holds = self.entries.get(account.key, EMPTY)
            changes[account.key] = (
                *(max(0, su + usd), ru, du + past(su + ru, usd, account.limit_usd_nanos)),
                *(max(0, st + tokens), rt, dt + past(st + rt, tokens, account.limit_tokens)),
                *(max(0, sc + calls), rc, dc + past(sc + rc, calls, account.limit_calls)),
                open_holds,
            )
        changes[key] = (ADJUSTED, None, None)
        self.ended.append(key)
        self.entries.update(changes)
        if self.queues:
            self._hand_over([account.key for account in accounts])
        if len(self.ended) > self._fold_above:
            self._fold_oldest()
        return True

    def drop_forgotten(self) -> None:
        """Drop the accounts nobody holds anything of any more."""
        for key in list(self.forgotten):
            was = self.entries.get(key, EMPTY)
            if len(was) != len(EMPTY):
                self.forgotten.discard(key)  # no account at all
            elif was[-1] == 0:
                self.entries.pop(key, None)
                self.forgotten.discard(key)

    # The line

    def try_for(self, ticket: Parked) -> Answer:
        """Reserve for a ticket; past those before it, where they wait for what its own owner holds."""
        answer = self._reserve_for(ticket, ticket.place)
        if is_contended(answer) and would_fit(self.entries, ticket.accounts, ticket.need, ticket.forced, {}):
            ahead = set(self.line.ahead(ticket.accounts, ticket.forced, ticket.place))
            if not ahead.issubset(self._prospects(ticket)):
                answer = self._reserve_for(ticket, _FIRST)
        return answer

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
        )

    def _prospects(self, ticket: Parked) -> Iterable[Parked]:
        holds: list[OpenHold] = [
            (accounts, grant[1:], owner, call) for _, (_, grant, accounts, owner, call, *_) in self.open_holds()
        ]
        return prospects(ticket, self.line.tickets.values(), holds, self.entries, self._clock())

    def _hand_over(self, keys: Iterable[Any]) -> None:
        """Reserve for those who wait for these accounts and fit now; whoever has the lock wakes them after it."""
        for ticket in self.line.served(keys, lambda ticket: self._reserve_for(ticket, ticket.place)):
            self.wakes.append(ticket.wake)

    # Rows

    def add_row(self, row: Any) -> None:
        key = object()
        self.ended.append(key)
        self.entries[key] = (ADDED, None, row)
        if len(self.ended) > self._fold_above:
            self._fold_oldest()

    def snapshot(self) -> Snapshot:
        records = [self.entries[key] for key in dict.fromkeys(self.ended) if key in self.entries]
        return Snapshot(
            rows=[record[2] for record in records if record[0] is not HELD and record[2] is not None],
            in_flight=[(record[4], record[1]) for _, record in self.open_holds()],
            totals=dict(self.entries[_TOTALS]),
        )

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

    def _fold_oldest(self) -> None:
        """Rows turn into totals in one step, and only then leave the entries."""
        entries, ended = self.entries, self.ended
        totals: Totals = dict(entries[_TOTALS])
        changes: dict[Any, Any] = {}
        oldest = list(islice(ended, min(len(ended) - self._keep_rows, 2 * _FOLD_AT_ONCE)))
        for key in dict.fromkeys(oldest):
            record = entries.get(key)
            if record is None or record[0] is HELD or record[0] is _FOLDED:
                continue
            if record[2] is not None:
                try:
                    total, sums = self._fold(record[2])
                    plus(totals, total, sums)
                except Exception:
                    ended.append(key)  # stays a row
                    continue
            changes[key] = (_FOLDED, record[1], None)
        if len(totals) > self._keep_totals:
            shrink(totals, self._keep_totals, self._coarsen)
        changes[_TOTALS] = totals
        entries.update(changes)
        for key in oldest:
            record = entries.get(key)
            if record is not None and record[0] is _FOLDED:
                del entries[key]
            ended.popleft()


def _check_key(key: Any) -> None:
    if isinstance(key, int):
        raise ValueError(
            f"account key {key!r} is an int, and ints are the ids of holds; use a string, tuple or object()"
        )


def check_amounts(usd_nanos: Any, tokens: Any, calls: Any) -> None:
    """ValueError unless all are ints, 0 or more and below 2**63: one look at the bits of all three."""
    try:
        if not (usd_nanos | tokens | calls) >> 63:
            return
    except TypeError:
        pass
    raise ValueError(
        f"usd_nanos={usd_nanos!r}, tokens={tokens!r}, calls={calls!r}: amounts are ints, 0 or more and at most {MOST_NANOS}"
    )
