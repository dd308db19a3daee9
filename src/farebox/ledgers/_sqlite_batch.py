"""What the operations of one transaction do: read once, worked out in Python, written back once.

An operation first works out all that changes and then puts it in place, so one that can't be done leaves no trace.  The
money is `_fitting`'s and `_sqlite_fits`'s, and follows the memory ledger's book line by line.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

from farebox._money import MOST_NANOS
from farebox.errors import LedgerUnavailable
from farebox.ledgers import Account, Grant, RowForm, Shortfall, WindowClosed
from farebox.ledgers import _operations as op
from farebox.ledgers._fitting import NOTHING, Amounts, check_amounts, limits_of, past, shortfall
from farebox.ledgers._sqlite_books import (
    ADDED,
    CORRECTED,
    EMPTY,
    EXPIRED,
    HELD,
    REFUSED,
    RELEASED,
    SETTLED,
    Books,
    Hold,
    Numbers,
    OwnIds,
    check_fits,
)
from farebox.ledgers._sqlite_entries import ADJUSTMENT, LATE, Entries
from farebox.ledgers._sqlite_fits import fit
from farebox.ledgers._sqlite_learnt import write_learnt
from farebox.ledgers._sqlite_locks import Owner
from farebox.ledgers._sqlite_rows import NewRows, Places, Text, call_text, text_of
from farebox.ledgers._turns import is_dearer, next_turn
from farebox.ledgers._turns import text_of as turn_text
from farebox.ledgers._views import Glance

_logger = logging.getLogger("farebox")


class Batch:
    """One transaction's operations.

    Args:
        books: What is known of the connection's database.
        owner: Of the holds it makes.
        own_ids: That this owner has asked for.
        clock: The store's.
    """

    def __init__(
        self,
        operations: Sequence[op.Operation],
        connection: sqlite3.Connection,
        books: Books,
        form: RowForm,
        owner: Owner,
        own_ids: OwnIds,
        places: Places,
        clock: Callable[[], float],
    ) -> None:
        self._operations = operations
        self._connection = connection
        self._form = form
        self._owner = owner
        self._clock = clock
        self._now = 0.0
        self._rows = NewRows(connection, places)
        self._books = books
        self._own_ids = own_ids
        self._entries = Entries(connection, books)
        self._learnt: dict[str, list[int]] = {}
        # Written down before the transaction: the others of this machine wait for its end.
        self._texts: dict[op.Operation, Text] = {}
        self._calls: dict[op.Operation, str | Exception] = {}
        for operation in operations:
            if type(operation) is op.Reserve or type(operation) is op.Note:
                if operation.call is not None:
                    self._calls[operation] = call_text(form, operation.call)
                continue
            row = getattr(operation, "row", None)
            if row is not None:
                self._texts[operation] = text_of(form, row)

    def run(self) -> None:
        """Do all, answer each or give it its error, and write what changed.  Within a transaction.

        Raises:
            sqlite3.Error, Stale: nothing was done, once the transaction is rolled back.
        """
        # Only now, that nobody else writes: a window that ends does so for all at once.
        self._now = self._clock()
        self._rows.next_seq = self._books.next_row_seq
        self._read()
        for operation in self._operations:
            operation.error = None
            try:
                _DOES[type(operation)](self, operation)
            except sqlite3.Error:
                raise
            except Exception as error:
                operation.error = error
                if not operation.is_awaited:
                    # Foreign errors may quote what was to be written: the class must do.
                    _logger.error("a %s could not be done: %s", type(operation).__name__, type(error).__name__)
        self._books.write(self._now)
        self._rows.write()
        self._books.next_row_seq = self._rows.next_seq
        if self._learnt:
            write_learnt(self._connection, self._learnt)
        # Each who reserved sees its accounts as they are after all that was done together.
        seen: dict[str, Glance] = {}
        for operation in self._operations:
            if type(operation) is op.Reserve and operation.error is None:
                operation.views = self._books.glances(operation.accounts, seen)

    def _read(self) -> None:
        ids: list[str] = []
        ending: list[str] = []
        keys: set[str] = set()
        controls: set[str] = set()
        holds = self._books.holds
        for operation in self._operations:
            accounts: Sequence[Account] = ()
            match operation:
                case op.End():
                    if operation.hold_id not in holds and not self._own_ids.is_new(operation.hold_id):
                        ending.append(operation.hold_id)
                case op.Reserve() | op.Charge() | op.Extend():
                    if not self._own_ids.is_new(operation.hold_id):
                        ids.append(operation.hold_id)
                    accounts = operation.accounts
                case op.Note():
                    ids.append(operation.hold_id)
                case op.AddRow():
                    ids.append(operation.row_id)
                case op.Adjust():
                    accounts = operation.accounts
                    keys.update(operation.known_keys)
                case op.TopUp() | op.Reset():
                    accounts = (operation.account,)
                case op.Forget():
                    keys.add(operation.key)
                case op.SayControl():
                    controls.add(operation.key)
                case _:
                    pass
            for account in accounts:
                keys.add(account.key)
                if account.controls:
                    controls.update(account.controls)
        self._books.read(ids, keys, controls, ending)

    # Holds

    def _reserve(self, asked: op.Reserve) -> None:
        known = self._books.holds.get(asked.hold_id)
        if known is not None:
            if known.state == REFUSED:
                raise LedgerUnavailable("the hold was given up before the ledger was asked for it; nothing is held")
            asked.answer, asked.is_over = known.grant, known.state != HELD
            return
        books, accounts, now = self._books, asked.accounts, self._now
        for account in accounts:
            if account.key not in books.balances:
                account.key.encode()  # what UTF-8 can't write fails here, and not the whole batch later
            starts_at, ends_at = account.starts_at, account.ends_at
            if (starts_at is not None and now < starts_at) or (ends_at is not None and now >= ends_at):
                raise WindowClosed(now)
        forced = [account for account in accounts if account.key in asked.forced] if asked.forced else ()
        crossing = [account for account in accounts if account.key in asked.crossing] if asked.crossing else ()
        fitted = fit(books, accounts, asked.need, forced, crossing)
        if isinstance(fitted, Shortfall):
            asked.answer = fitted
            return
        call = self._calls.get(asked)
        if isinstance(call, Exception):
            raise call
        grant, changes, let_past = fitted
        books.put(changes)
        books.see(accounts)
        deadline = None if asked.ttl_seconds is None else now + asked.ttl_seconds
        hold = Hold(asked.hold_id, self._owner.name, HELD, grant, tuple(changes), let_past, deadline, call)
        books.holds[hold.id] = books.changed_holds[hold.id] = hold
        asked.answer = grant

    def _extend(self, asked: op.Extend) -> None:
        asked.answer = None
        hold = self._books.holds.get(asked.hold_id)
        if hold is None or hold.state != HELD:
            return
        check_amounts(asked.usd_nanos, asked.tokens, 0)
        accounts, in_force = asked.accounts, self._books.in_force(asked.accounts)
        forced = [account for account in accounts if account.key in asked.forced]
        more, own = (asked.usd_nanos, asked.tokens, 0), (hold.grant.usd_nanos, hold.grant.tokens, hold.grant.calls)
        short = self._books.killed(accounts, asked.usd_nanos)
        short = short or shortfall(self._books.balances, accounts, forced, more, more, own, in_force)
        if short is not None:
            asked.answer = short
            return
        cap, usd, tokens, calls = hold.grant
        check_amounts(usd + asked.usd_nanos, tokens + asked.tokens, calls)
        grant = Grant(cap, usd + asked.usd_nanos, tokens + asked.tokens, calls)
        changes: dict[str, Numbers] = {}
        let_past = dict(hold.let_past)
        for account in accounts:
            su, ru, du, st, rt, dt, sc, rc, dc, open_holds = self._books.balances[account.key]
            if account in forced:
                limits = limits_of(account, in_force)
                over = past(su + ru, more[0], limits[0]), past(st + rt, more[1], limits[1])
                du, dt = du + over[0], dt + over[1]
                before = let_past.get(account.key, NOTHING)
                let_past[account.key] = (before[0] + over[0], before[1] + over[1], before[2])
            changes[account.key] = (su, ru + more[0], du, st, rt + more[1], dt, sc, rc, dc, open_holds)
        check_fits(changes)
        self._books.put(changes)
        hold.grant, hold.let_past = grant, let_past
        self._books.changed_holds[hold.id] = hold
        asked.answer = grant

    def _end(self, asked: op.End) -> None:
        hold = self._books.holds.get(asked.hold_id)
        if hold is None:
            if asked.is_released:
                self._use_up(asked.hold_id, REFUSED, Grant(0, 0, 0, 0))
        elif hold.state == HELD:
            self._finish(hold, asked.amounts, self._texts.get(asked), RELEASED if asked.is_released else SETTLED)
        elif hold.state == EXPIRED:
            self._correct(hold, asked.amounts, self._texts.get(asked), asked.row)

    def _note(self, asked: op.Note) -> None:
        hold = self._books.holds.get(asked.hold_id)
        if hold is None or hold.state not in (HELD, EXPIRED):
            return
        call = self._calls.get(asked)
        if isinstance(call, Exception):
            raise call
        hold.call, hold.name, hold.memo = call or hold.call, asked.name, asked.memo
        hold.lives_until = self._now + asked.lives_seconds
        if hold.deadline is not None:
            hold.deadline = max(hold.deadline, hold.lives_until)
        self._books.noted_holds[hold.id] = hold

    def _use_up(self, used_id: str, state: str, grant: Grant) -> None:
        hold = Hold(used_id, self._owner.name, state, grant, (), {}, None, None)
        self._books.holds[used_id] = self._books.changed_holds[used_id] = hold

    def _finish(self, hold: Hold, amounts: Amounts, row: Text | None, state: str) -> None:
        """The one way a hold ends."""
        usd, tokens, calls = amounts
        _, held_usd, held_tokens, held_calls = hold.grant
        is_over = usd > held_usd or tokens > held_tokens or calls > held_calls
        books, let_past, changes = self._books, hold.let_past, dict[str, Numbers]()
        for key in hold.keys:
            su, ru, du, st, rt, dt, sc, rc, dc, open_holds = books.balances[key]
            su, st, sc = su + usd, st + tokens, sc + calls
            if is_over:
                du, dt, dc = (
                    du + max(0, usd - held_usd),
                    dt + max(0, tokens - held_tokens),
                    dc + max(0, calls - held_calls),
                )
            if key in let_past:
                # What its bound was let past the limit, and it did not use, is no debt; a reset may have taken it off.
                past_usd, past_tokens, past_calls = let_past[key]
                du = max(0, du - max(0, min(past_usd, held_usd - usd)))
                dt = max(0, dt - max(0, min(past_tokens, held_tokens - tokens)))
                dc = max(0, dc - max(0, min(past_calls, held_calls - calls)))
            if (su | du | st | dt | sc | dc) > MOST_NANOS:  # one look at the bits of all
                check_fits({key: (su, 0, du, st, 0, dt, sc, 0, dc, 0)})
            changes[key] = (su, ru - held_usd, du, st, rt - held_tokens, dt, sc, rc - held_calls, dc, open_holds - 1)
        books.put(changes)
        hold.state = state
        if row is not None:
            hold.row_seq = self._keep(row)
        books.changed_holds[hold.id] = hold
        if hold.name is not None:
            books.noted_holds[hold.id] = hold
        if books.has_forgotten:
            for key in hold.keys:
                books.drop_if_forgotten(key)

    def _correct(self, hold: Hold, actual: Amounts, row: Text | None, said: Any) -> None:
        """The bound was charged when the hold expired: charge what it really was instead, in turn."""
        _, held_usd, held_tokens, held_calls = hold.grant
        usd, tokens, calls = change = actual[0] - held_usd, actual[1] - held_tokens, actual[2] - held_calls
        if row is not None and not isinstance(row, Exception) and hold.row_seq is not None:
            turn, is_by_hand = next_turn(self._form.id_of(said), self._entries.was_by_hand)
            if is_by_hand and not is_dearer(change):
                hold.state = CORRECTED
                self._books.changed_holds[hold.id] = hold
                return
            self._entries.enter(LATE, turn_text(turn), "", (), self._now)
        changes: dict[str, Numbers] = {}
        for key in hold.keys:
            was = self._books.balances.get(key)
            if was is not None:  # it may be forgotten by now
                su, ru, du, st, rt, dt, sc, rc, dc, open_holds = was
                changes[key] = (
                    *(max(0, su + usd), ru, du + max(0, usd)),
                    *(max(0, st + tokens), rt, dt + max(0, tokens)),
                    *(max(0, sc + calls), rc, dc + max(0, calls)),
                    open_holds,
                )
        check_fits(changes)
        self._books.put(changes)
        if hold.row_seq is not None:
            self._rows.take_back(hold.row_seq)
        hold.state, hold.row_seq = CORRECTED, self._keep(row)
        self._books.changed_holds[hold.id] = hold

    def _charge(self, asked: op.Charge) -> None:
        if asked.hold_id in self._books.holds:
            return
        self._books.put(self._charged(asked.accounts, asked.amounts))
        self._keep(self._texts.get(asked))
        self._use_up(asked.hold_id, SETTLED, Grant(0, *asked.amounts))

    def _charged(self, accounts: Sequence[Account], amounts: Amounts) -> dict[str, Numbers]:
        """The balances once `amounts`, which may be negative, were spent; what they take past a limit is debt."""
        usd, tokens, calls = amounts
        in_force = self._books.in_force(accounts)
        changes: dict[str, Numbers] = {}
        for account in accounts:
            account.key.encode()
            su, ru, du, st, rt, dt, sc, rc, dc, open_holds = self._books.balances.get(account.key, EMPTY)
            limits = limits_of(account, in_force)
            changes[account.key] = (
                *(max(0, su + usd), ru, du + past(su + ru, usd, limits[0])),
                *(max(0, st + tokens), rt, dt + past(st + rt, tokens, limits[1])),
                *(max(0, sc + calls), rc, dc + past(sc + rc, calls, limits[2])),
                open_holds,
            )
        check_fits(changes)
        self._books.see(accounts)
        return changes

    def _expire(self, asked: op.Expire) -> None:
        """Holds whose deadline passed, and those without one whose owner is dead."""
        now = self._now if asked.now_seconds is None else asked.now_seconds
        rows = self._connection.execute("SELECT DISTINCT owner FROM held WHERE deadline IS NULL").fetchall()
        dead = [owner for (owner,) in rows if self._owner.is_dead(owner)]
        self._books.read_held("deadline <= ?", (now,))
        for owner in dead:
            self._books.read_held("owner = ? AND deadline IS NULL", (owner,))
        asked.answer = 0
        for hold in list(self._books.holds.values()):
            if hold.state != HELD:
                continue
            if hold.deadline is None and hold.owner in dead and hold.lives_until is not None:
                hold.deadline = hold.lives_until  # it outlives its process
                self._books.noted_holds[hold.id] = hold
            if hold.deadline <= now if hold.deadline is not None else hold.owner in dead:
                row = self._presumed(hold, asked.row_of or self._form.presumed)
                self._finish(hold, hold.grant[1:], row, EXPIRED)
                asked.answer += 1
        holders = {owner for (owner,) in rows}
        for owner in dead:
            if not any(
                hold.owner == owner and hold.state == HELD and hold.deadline is None
                for hold in self._books.holds.values()
            ):
                holders.discard(owner)
        self._owner.bury(holders)

    def _presumed(self, hold: Hold, row_of: Callable[[Any, Grant], Any]) -> Text | None:
        """The row of a hold that nobody ended."""
        try:
            row = row_of(None if hold.call is None else self._form.load(hold.call), hold.grant)
        except Exception as error:
            return error
        return None if row is None else text_of(self._form, row)

    # Accounts

    def _adjust(self, asked: op.Adjust) -> None:
        asked.answer = False
        turn, entries = asked.turn, self._entries
        if not entries.is_new(asked.adjust_id) or (turn is not None and not entries.is_new(turn)):
            return
        changes = self._charged([*asked.accounts, *self._books.known(asked.known_keys)], asked.amounts)
        row = self._texts.get(asked)
        if isinstance(row, Exception):
            raise row
        entries.enter(ADJUSTMENT, asked.adjust_id, "", asked.amounts, self._now)
        if turn is not None:
            entries.enter(ADJUSTMENT, turn, "", (), self._now)
        self._books.put(changes)
        if row is not None:
            self._rows.add(row, self._now)
        asked.answer = True

    def _forget(self, asked: op.Forget) -> None:
        self._books.forget(asked.key)

    # Rows, and what was learnt

    def _add_row(self, asked: op.AddRow) -> None:
        if asked.row_id not in self._books.holds:
            self._keep(self._texts.get(asked))
            self._use_up(asked.row_id, ADDED, Grant(0, 0, 0, 0))

    def _keep(self, row: Text | None) -> int | None:
        """Keep the row of a call that has ended.  One that can't be written down is lost; its money is not."""
        if isinstance(row, Exception):
            _logger.error("the row of a call can't be written down, its money is charged: %s", type(row).__name__)
            return None
        return None if row is None else self._rows.add(row, self._now)

    def _learn(self, asked: op.Learn) -> None:
        asked.key.encode()
        self._learnt.setdefault(asked.key, []).append(asked.bucket)


_DOES: Final[dict[type[op.Operation], Callable[[Batch, Any], None]]] = {
    op.Reserve: Batch._reserve,
    op.Extend: Batch._extend,
    op.End: Batch._end,
    op.Note: Batch._note,
    op.Charge: Batch._charge,
    op.AddRow: Batch._add_row,
    op.Learn: Batch._learn,
    op.Adjust: Batch._adjust,
    op.SayControl: lambda batch, asked: batch._entries.say_control(asked, batch._now),
    op.TopUp: lambda batch, asked: batch._entries.top_up(asked, batch._now),
    op.Reset: lambda batch, asked: batch._entries.reset(asked, batch._now),
    op.Expire: Batch._expire,
    op.Forget: Batch._forget,
}
