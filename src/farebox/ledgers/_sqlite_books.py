"""What transactions read of the books of a SQLite ledger, change in memory and write back: accounts, holds, controls.

What was read or written stays known from one transaction to the next, for as long as SQLite says that nobody else has written.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import attrs

from farebox._money import MOST_NANOS
from farebox.ledgers import NO_LIMIT, Account, Control, Grant, Shortfall
from farebox.ledgers._fitting import NOTHING, UNCHANGED, Amounts, Limits, limits_of
from farebox.ledgers._sqlite_schema import put
from farebox.ledgers._views import Glance

HELD: Final = "held"
SETTLED: Final = "settled"
RELEASED: Final = "released"
EXPIRED: Final = "expired"
CORRECTED: Final = "corrected"
ADDED: Final = "added"
#: Released before it was asked for: a reserve that still arrives is too late.
REFUSED: Final = "refused"

#: Accounts that stay known.
_MOST_KNOWN: Final = 10_000
#: Arguments of one statement: below what any build of SQLite takes.
_MOST_ARGUMENTS: Final = 512

_ACCOUNT_COLUMNS: Final = (
    "key, spent_usd_nanos, reserved_usd_nanos, debt_usd_nanos, spent_tokens, reserved_tokens, debt_tokens, "
    "spent_calls, reserved_calls, debt_calls, open_holds, "
    "limit_usd_nanos, limit_tokens, limit_calls, controls, top_usd_nanos, top_tokens, top_calls, is_forgotten"
)
SELECT_ACCOUNTS: Final = f"SELECT {_ACCOUNT_COLUMNS} FROM accounts"
SELECT_CONTROLS: Final = "SELECT key, limit_usd_nanos, limit_tokens, limit_calls, is_killed FROM controls"
_PUT_ACCOUNTS: Final = f"INSERT OR REPLACE INTO accounts ({_ACCOUNT_COLUMNS}) VALUES"
_HELD_COLUMNS: Final = "id, owner, cap, usd_nanos, tokens, calls, accounts, let_past, deadline, call"
_NOTE_COLUMNS: Final = "name, memo, lives_until"
_NOTE_HELD: Final = "UPDATE held SET deadline = ?, call = ?, name = ?, memo = ?, lives_until = ? WHERE id = ?"
_NOTE_ENDED: Final = "UPDATE ended SET name = ?, memo = ? WHERE id = ?"
_PUT_HELD: Final = f"INSERT INTO held ({_HELD_COLUMNS}) VALUES"
_EXTEND_HELD: Final = (
    "ON CONFLICT (id) DO UPDATE SET "
    "usd_nanos = excluded.usd_nanos, tokens = excluded.tokens, let_past = excluded.let_past"
)
SELECT_NOTED: Final = "SELECT id, memo FROM held WHERE name = ? UNION ALL SELECT id, memo FROM ended WHERE name = ?"
_ENDED_COLUMNS: Final = "id, state, cap, usd_nanos, tokens, calls, ended_at, accounts, row_seq"
_PUT_ENDED: Final = f"INSERT OR REPLACE INTO ended ({_ENDED_COLUMNS}) VALUES"

#: (spent, reserved, debt) in usd nanodollars, tokens, calls; then the number of holds open on the account.
Numbers = tuple[int, int, int, int, int, int, int, int, int, int]
EMPTY: Final[Numbers] = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

_tuple = tuple.__new__


@attrs.frozen
class Standing:
    """What is known of an account beside its balance: its own limits at the last hold, and what was put on top."""

    limits: Amounts = (NO_LIMIT, NO_LIMIT, NO_LIMIT)
    controls: tuple[str, ...] = ()
    top: Amounts = (0, 0, 0)
    is_forgotten: bool = False


UNSEEN: Final = Standing()


@attrs.define(eq=False)
class Hold:
    """A hold, or an id that was used for something else.  `keys` are empty where it can't change any more."""

    id: str
    owner: str
    state: str
    grant: Grant
    keys: tuple[str, ...]
    let_past: Mapping[str, Amounts]
    deadline: float | None
    call: str | None
    row_seq: int | None = None
    is_stored_as_held: bool = False
    #: What its answer is known by, where any process may bring it; what that one needs to know; until when it is waited for.
    name: str | None = None
    memo: str | None = None
    lives_until: float | None = None


class OwnIds:
    """Which ids a process has asked for.

    An id is its owner's name and a number.  Numbers mostly grow, so the highest tells nearly all that are new, and those
    need not be looked for among all that ever ended.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._highest: int | None = None

    def is_new(self, hold_id: str) -> bool:
        """Whether no store can know it, because it was not asked for before; now it was."""
        if not hold_id.startswith(self._owner):
            return False
        number = int(hold_id[len(self._owner) :], 16)
        if self._highest is not None and number <= self._highest:
            return False
        self._highest = number
        return True


class Stale(Exception):
    """A hold that was known from before has been ended by another process; the transaction is to be done anew."""


class Books:
    """Accounts and holds, as far as a connection was told to read them; for one transaction at a time.

    Args:
        owner: Whose open holds stay known when others have written.  Others end them only once their time is over or their
            owner is taken for dead, and when they are ended here it shows that they are gone.
    """

    def __init__(self, connection: sqlite3.Connection, owner: str) -> None:
        self._connection = connection
        self._owner = owner
        #: What SQLite calls the state of the database that is known here; None: nothing is known.
        self._version: int | None = None
        self._next_version: int | None = None
        self._forget_all()

    def _forget_all(self) -> None:
        #: Own holds from before others wrote.
        self._from_before: dict[str, Hold] = {}
        self._relies_on_before = False
        self.balances: dict[str, Numbers] = {}
        self.standings: dict[str, Standing] = {}
        self.controls: dict[str, Control] = {}
        #: Accounts whose standing is as they say.
        self._as_noted: set[Account] = set()
        #: Whether an account is to be forgotten; False until then spares a look at each.
        self.has_forgotten = False
        #: Whether an account was topped up; False until then spares a look at each.
        self.has_tops = False
        self.holds: dict[str, Hold] = {}
        self.changed_holds: dict[str, Hold] = {}
        #: Those of which a note changed, or has to go with them as they expire.
        self.noted_holds: dict[str, Hold] = {}
        self._known_keys: set[str] = set()
        self._known_controls: set[str] = set()
        self._changed_keys: set[str] = set()
        #: Ids that were read and are of no hold that is open.
        self._ended_ids: list[str] = []
        #: The number of the row after the last; 0: not known.
        self.next_row_seq = 0

    # Transactions

    def begin(self) -> bool:
        """Within a new transaction; False where nothing is known any more, because somebody else may have written."""
        ((version,),) = self._connection.execute("PRAGMA data_version").fetchall()
        was_committed = self._version is not None
        is_known = version == self._version and len(self._known_keys) < _MOST_KNOWN
        self._version, self._next_version = None, version
        self._relies_on_before = False
        if not is_known:
            kept = self._from_before
            kept.update((hold.id, hold) for hold in self.holds.values() if hold.owner == self._owner)
            self._forget_all()
            if was_committed and len(kept) < _MOST_KNOWN:
                self._from_before = kept
        return is_known

    def is_committed(self) -> None:
        """What is known here is what was written; a transaction that does not come to this leaves nothing known."""
        for hold in self.changed_holds.values():
            if hold.state == HELD:
                hold.is_stored_as_held = True
            else:
                self.holds.pop(hold.id, None)
        for hold_id in self._ended_ids:
            self.holds.pop(hold_id, None)
        self._ended_ids.clear()
        self.changed_holds.clear()
        self.noted_holds.clear()
        self._changed_keys.clear()
        self._version = self._next_version

    # Reading

    def read(
        self, ids: Iterable[str], keys: Iterable[str], controls: Iterable[str], ending: Iterable[str] = ()
    ) -> None:
        """Holds by id, and accounts by key with those of the holds; what stands under these controls.

        Args:
            ending: Ids of which it is enough to know what they were when this process made them.
        """
        new = [hold_id for hold_id in ids if hold_id not in self.holds]
        wanted = set(keys)
        if self._from_before:
            for hold_id in new:
                self._from_before.pop(hold_id, None)
        for hold_id in ending:
            hold = self.holds.get(hold_id) or self._from_before.pop(hold_id, None)
            if hold is None:
                new.append(hold_id)
            elif hold_id not in self.holds:
                self.holds[hold_id] = hold
                self._relies_on_before = True
                wanted.update(hold.keys)
        if new:
            self._read_holds(new)
            wanted.update(*(self.holds[hold_id].keys for hold_id in new if hold_id in self.holds))
        self._read_accounts(wanted)
        unread = set(controls) - self._known_controls
        if unread:
            self._known_controls |= unread
            for row in self._select(SELECT_CONTROLS, "key", unread):
                self.controls[row[0]] = control_of(row)

    def read_held(self, where: str, arguments: tuple[Any, ...]) -> None:
        """Open holds, oldest first, and their accounts."""
        select = f"SELECT {_HELD_COLUMNS}, {_NOTE_COLUMNS} FROM held WHERE {where} ORDER BY seq"
        for row in self._connection.execute(select, arguments).fetchall():
            self._add_held(row)
        self._read_accounts({key for hold in self.holds.values() for key in hold.keys})

    def _select(self, select: str, column: str, wanted: Iterable[str]) -> Iterator[tuple[Any, ...]]:
        for part in _parts([text for text in wanted if _is_text(text)]):
            yield from self._connection.execute(_with_marks(select, column, len(part)), part).fetchall()

    def _read_holds(self, ids: list[str]) -> None:
        for row in self._select(f"SELECT {_HELD_COLUMNS}, {_NOTE_COLUMNS} FROM held", "id", ids):
            self._add_held(row)
        rest = [hold_id for hold_id in ids if hold_id not in self.holds]
        for hold_id, state, cap, usd, tokens, calls, _, keys, row_seq in self._select(
            f"SELECT {_ENDED_COLUMNS} FROM ended", "id", rest
        ):
            grant = Grant(cap, usd, tokens, calls)
            self.holds[hold_id] = Hold(hold_id, "", state, grant, keys_of(keys), {}, None, None, row_seq)
            self._ended_ids.append(hold_id)

    def _add_held(self, row: tuple[Any, ...]) -> None:
        hold_id, owner, cap, usd, tokens, calls, keys, let_past, deadline, call, name, memo, lives_until = row
        if hold_id not in self.holds:
            self.holds[hold_id] = Hold(
                hold_id,
                owner,
                HELD,
                Grant(cap, usd, tokens, calls),
                keys_of(keys),
                {} if let_past is None else {key: tuple(over) for key, over in json.loads(let_past).items()},
                deadline,
                call,
                is_stored_as_held=True,
                name=name,
                memo=memo,
                lives_until=lives_until,
            )

    def _read_accounts(self, keys: set[str]) -> None:
        new = keys - self._known_keys
        self._known_keys |= new
        for row in self._select(SELECT_ACCOUNTS, "key", new):
            self.balances[row[0]] = row[1:11]
            standing = self.standings[row[0]] = standing_of(row)
            self.has_tops = self.has_tops or standing.top != NOTHING
            self.has_forgotten = self.has_forgotten or standing.is_forgotten

    # Writing

    def write(self, now_seconds: float) -> None:
        """Write back what changed.

        Raises:
            Stale: all was for nothing.
        """
        connection = self._connection
        held: list[tuple[Any, ...]] = []
        no_more_held: list[str] = []
        ended: list[tuple[Any, ...]] = []
        for hold in self.changed_holds.values():
            grant = hold.grant
            if hold.state == HELD:
                keys, let_past = _as_json(hold.keys), json.dumps(hold.let_past) if hold.let_past else None
                held.append((hold.id, hold.owner, *grant, keys, let_past, hold.deadline, hold.call))
            else:
                if hold.is_stored_as_held:
                    no_more_held.append(hold.id)
                correctable = _as_json(hold.keys) if hold.state == EXPIRED else None
                ended.append((hold.id, hold.state, *grant, now_seconds, correctable, hold.row_seq))
        deleted = 0
        for ids in _parts(no_more_held):
            deleted += connection.execute(_with_marks("DELETE FROM held", "id", len(ids)), ids).rowcount
        if deleted != len(no_more_held) and self._relies_on_before:
            raise Stale
        put(connection, _PUT_HELD, held, _EXTEND_HELD)
        put(connection, _PUT_ENDED, ended)
        for hold in self.noted_holds.values():
            self._write_note(hold)
        kept, gone = [], []
        for key in self._changed_keys:
            balance = self.balances.get(key)
            if balance is None:
                gone.append(key)
            else:
                standing = self.standings.get(key, UNSEEN)
                controls = _as_json(standing.controls)
                kept.append((key, *balance, *standing.limits, controls, *standing.top, standing.is_forgotten))
        put(connection, _PUT_ACCOUNTS, kept)
        for keys_gone in _parts(gone):
            connection.execute(_with_marks("DELETE FROM accounts", "key", len(keys_gone)), keys_gone)

    def _write_note(self, hold: Hold) -> None:
        """An ended hold needs none, but where it may be corrected.  A name is that of one hold."""
        connection = self._connection
        if hold.state not in (HELD, EXPIRED):
            return
        for table in ("held", "ended"):
            connection.execute(f"UPDATE {table} SET name = NULL WHERE name = ? AND id <> ?", (hold.name, hold.id))
        if hold.state == HELD:
            noted = (hold.deadline, hold.call, hold.name, hold.memo, hold.lives_until, hold.id)
            connection.execute(_NOTE_HELD, noted)
        else:
            connection.execute(_NOTE_ENDED, (hold.name, hold.memo, hold.id))

    # Accounts

    def in_force(self, accounts: Iterable[Account]) -> Limits:
        """Limits in force by account key; empty while all are the accounts' own."""
        if not self.controls and not self.has_tops:
            return UNCHANGED
        limits, is_changed = {}, False
        for account in accounts:
            own = limits_of(account)
            limits[account.key], _ = found = self._terms(account, own)
            is_changed = is_changed or found[0] != own
        return limits if is_changed else UNCHANGED

    def _terms(self, account: Account, limits: Amounts) -> tuple[Amounts, bool]:
        return terms_of(limits, account.controls, self.standings.get(account.key, UNSEEN).top, self.controls)

    def known(self, keys: Iterable[str]) -> list[Account]:
        """The accounts under these keys, as they were last held; their balances were read."""
        found = [(key, self.standings.get(key, UNSEEN)) for key in keys if key in self.balances]
        self.read((), (), {name for _, standing in found for name in standing.controls})
        return [Account(key, key, *standing.limits, controls=standing.controls) for key, standing in found]

    def killed(self, accounts: Iterable[Account], needed: int) -> Shortfall | None:
        """The answer of the first killed account to one who needs so many nanodollars; None where none is killed."""
        for account in accounts if self.controls else ():
            limits, is_killed = self._terms(account, limits_of(account))
            if is_killed:
                spent, reserved, *_ = self.balances.get(account.key, EMPTY)
                return Shortfall(account, "usd", limits[0], spent, reserved, needed, "exhausted", is_killed=True)
        return None

    def put(self, changes: Mapping[str, Numbers]) -> None:
        self.balances.update(changes)
        self._changed_keys.update(changes)

    def glances(self, accounts: Iterable[Account], known: dict[str, Glance]) -> dict[str, Glance]:
        """How these accounts are now, by key; `known` are those that were asked for before."""
        seen = {}
        for account in accounts:
            key = account.key
            glance = known.get(key)
            limits, is_killed = (account.limit_usd_nanos, account.limit_tokens, account.limit_calls), False
            if self.controls or self.has_tops:
                limits, is_killed = self._terms(account, limits)
            if glance is None or glance.limits != limits or glance.is_killed != is_killed:
                glance = known[key] = _tuple(Glance, (self.balances.get(key, EMPTY), limits, is_killed))
            seen[key] = glance
        return seen

    def forget(self, key: str) -> None:
        """Drop an account now, or with its last hold; an unknown one is ignored."""
        if key in self.balances:
            self.standings[key] = attrs.evolve(self.standings.get(key, UNSEEN), is_forgotten=True)
            self.has_forgotten = True
            self._changed_keys.add(key)
            self.drop_if_forgotten(key)

    def drop_if_forgotten(self, key: str) -> None:
        """Drop the account if it is to be forgotten and nobody holds anything of it any more."""
        standing = self.standings.get(key)
        if standing is not None and standing.is_forgotten and not self.balances[key][-1]:
            del self.balances[key], self.standings[key]
            self._as_noted.clear()
            self._changed_keys.add(key)

    def see(self, accounts: Iterable[Account]) -> None:
        """Remember the limits of accounts that were held or charged."""
        for account in accounts:
            if account in self._as_noted:
                continue
            standing = self.standings.get(account.key, UNSEEN)
            limits = account.limit_usd_nanos, account.limit_tokens, account.limit_calls
            if standing.limits != limits or standing.controls != account.controls:
                self.standings[account.key] = attrs.evolve(standing, limits=limits, controls=account.controls)
                self._as_noted.clear()  # another of the same key may be among them
            if len(self._as_noted) < _MOST_KNOWN:
                self._as_noted.add(account)


def check_fits(balances: Mapping[str, Numbers]) -> None:
    """
    Raises:
        ValueError: 64 bits do not hold one of them.
    """
    if balances and max(map(max, balances.values())) > MOST_NANOS:
        raise ValueError(f"an account would come to more than {MOST_NANOS}, the most that a database keeps")


def terms_of(
    limits: Amounts, controls: Sequence[str], top: Amounts, said: Mapping[str, Control]
) -> tuple[Amounts, bool]:
    """An account's limits after what was said under `controls`, the most specific last, and put on top; is it killed?"""
    is_killed = False
    usd, tokens, calls = limits
    for key in controls:
        control = said.get(key)
        if control is not None:
            usd = usd if control.limit_usd_nanos is None else control.limit_usd_nanos
            tokens = tokens if control.limit_tokens is None else control.limit_tokens
            calls = calls if control.limit_calls is None else control.limit_calls
            is_killed = is_killed or bool(control.is_killed)
    if any(top):
        usd, tokens, calls = min(NO_LIMIT, usd + top[0]), min(NO_LIMIT, tokens + top[1]), min(NO_LIMIT, calls + top[2])
    return (usd, tokens, calls), is_killed


def control_of(row: tuple[Any, ...]) -> Control:
    """Of a row of `SELECT_CONTROLS`."""
    _, usd, tokens, calls, is_killed = row
    is_killed = None if is_killed is None else bool(is_killed)
    return Control(limit_usd_nanos=usd, limit_tokens=tokens, limit_calls=calls, is_killed=is_killed)


@lru_cache(maxsize=4_096)
def _standing(limits: Amounts, controls: str, top: Amounts, is_forgotten: int) -> Standing:
    return Standing(limits, keys_of(controls), top, bool(is_forgotten))


def standing_of(row: tuple[Any, ...]) -> Standing:
    """Of a row of `SELECT_ACCOUNTS`."""
    return _standing(row[11:14], row[14], row[15:18], row[18])


@lru_cache(maxsize=4_096)
def keys_of(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(json.loads(text))


@lru_cache(maxsize=4_096)
def _as_json(keys: tuple[str, ...]) -> str:
    return json.dumps(keys)


@lru_cache(maxsize=256)
def _with_marks(select: str, column: str, marks: int) -> str:
    return f"{select} WHERE {column} IN ({', '.join('?' * marks)})"


def _parts(texts: list[str]) -> Iterator[list[str]]:
    """Arguments for IN, of few different numbers, so that statements are prepared already; repeats do no harm there."""
    for start in range(0, len(texts), _MOST_ARGUMENTS):
        part = texts[start : start + _MOST_ARGUMENTS]
        marks = 4
        while marks < len(part):
            marks *= 2
        yield part + [part[0]] * (marks - len(part))


def _is_text(text: str) -> bool:
    """Whether SQLite can keep it: a lone surrogate is no character."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
