"""The tables of a SQLite ledger, and how an older database gets them.

A new database is made as schema 0, which has `meta` only, and then brought to the newest schema by the same steps as any
older one, in one transaction.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from farebox.errors import LedgerUnavailable
from farebox.ledgers._sqlite_place import Place
from farebox.ledgers._sqlite_sync import CAN_SYNC

_HEADER: Final = b"SQLite format 3\x00"
_META: Final = "CREATE TABLE meta (schema INTEGER NOT NULL, epoch TEXT NOT NULL, created_at REAL NOT NULL)"

#: Step n brings schema n to n + 1.  A step is never changed once it was released.
#: Amounts are integers of 64 bits; instants are epoch seconds by the ledger's clock.
STEPS: Final[list[tuple[str, ...]]] = [
    (
        """
        CREATE TABLE accounts (
            key TEXT PRIMARY KEY,
            spent_usd_nanos INTEGER NOT NULL, reserved_usd_nanos INTEGER NOT NULL, debt_usd_nanos INTEGER NOT NULL,
            spent_tokens INTEGER NOT NULL, reserved_tokens INTEGER NOT NULL, debt_tokens INTEGER NOT NULL,
            spent_calls INTEGER NOT NULL, reserved_calls INTEGER NOT NULL, debt_calls INTEGER NOT NULL,
            open_holds INTEGER NOT NULL,
            limit_usd_nanos INTEGER NOT NULL, limit_tokens INTEGER NOT NULL, limit_calls INTEGER NOT NULL,
            controls TEXT NOT NULL,
            top_usd_nanos INTEGER NOT NULL, top_tokens INTEGER NOT NULL, top_calls INTEGER NOT NULL,
            is_forgotten INTEGER NOT NULL
        ) WITHOUT ROWID
        """,
        # Holds that are open, oldest first.  Without a deadline they end with their owner.
        """
        CREATE TABLE held (
            seq INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            owner TEXT NOT NULL,
            cap INTEGER NOT NULL, usd_nanos INTEGER NOT NULL, tokens INTEGER NOT NULL, calls INTEGER NOT NULL,
            accounts TEXT NOT NULL,
            let_past TEXT,
            deadline REAL,
            call TEXT
        )
        """,
        # Ids that were used, so that nothing happens twice.  Accounts and row are kept of what expired, to correct it.
        """
        CREATE TABLE ended (
            id TEXT PRIMARY KEY,
            state TEXT NOT NULL,
            cap INTEGER NOT NULL, usd_nanos INTEGER NOT NULL, tokens INTEGER NOT NULL, calls INTEGER NOT NULL,
            ended_at REAL NOT NULL,
            accounts TEXT,
            row_seq INTEGER
        ) WITHOUT ROWID
        """,
        # What was said by hand, once for each id; `controls` is what is in force of it.
        """
        CREATE TABLE entries (
            id TEXT PRIMARY KEY, kind TEXT NOT NULL, said_at REAL NOT NULL, key TEXT NOT NULL, said TEXT NOT NULL
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE controls (
            key TEXT PRIMARY KEY,
            limit_usd_nanos INTEGER, limit_tokens INTEGER, limit_calls INTEGER, is_killed INTEGER
        ) WITHOUT ROWID
        """,
        "CREATE TABLE places (id INTEGER PRIMARY KEY, place TEXT NOT NULL UNIQUE, width INTEGER NOT NULL)",
        """
        CREATE TABLE rows (
            seq INTEGER PRIMARY KEY,
            ended_at REAL NOT NULL,
            starts_at REAL NOT NULL,
            place INTEGER NOT NULL,
            s0 INTEGER NOT NULL, s1 INTEGER NOT NULL, s2 INTEGER NOT NULL, s3 INTEGER NOT NULL,
            s4 INTEGER NOT NULL, s5 INTEGER NOT NULL, s6 INTEGER NOT NULL, s7 INTEGER NOT NULL,
            row TEXT NOT NULL
        )
        """,
        # New rows begin about now, so it grows at its end; with s0 in it, the dearest are found without their rows.
        "CREATE INDEX rows_by_start ON rows (starts_at, s0)",
        """
        CREATE TABLE rollups (
            length INTEGER, begins INTEGER, place INTEGER,
            s0 INTEGER NOT NULL, s1 INTEGER NOT NULL, s2 INTEGER NOT NULL, s3 INTEGER NOT NULL,
            s4 INTEGER NOT NULL, s5 INTEGER NOT NULL, s6 INTEGER NOT NULL, s7 INTEGER NOT NULL,
            PRIMARY KEY (length, begins, place)
        ) WITHOUT ROWID
        """,
        "CREATE TABLE learnt (key TEXT PRIMARY KEY, counts TEXT NOT NULL, learnt_seq INTEGER NOT NULL) WITHOUT ROWID",
    ),
    (
        # What the answer to a hold is known by, where any process may bring it.  Of an ended one only while it may be corrected.
        "ALTER TABLE held ADD COLUMN name TEXT",
        "ALTER TABLE held ADD COLUMN memo TEXT",
        "ALTER TABLE held ADD COLUMN lives_until REAL",
        "ALTER TABLE ended ADD COLUMN name TEXT",
        "ALTER TABLE ended ADD COLUMN memo TEXT",
        "CREATE INDEX held_by_name ON held (name) WHERE name IS NOT NULL",
        "CREATE INDEX ended_by_name ON ended (name) WHERE name IS NOT NULL",
    ),
]


#: Rows of one statement.  Each number of rows is a statement of its own, and a connection keeps all of them prepared.
_MOST_AT_ONCE: Final = 32
_STATEMENTS_KEPT: Final = 512


def put(connection: sqlite3.Connection, insert: str, rows: Sequence[tuple[Any, ...]], then: str = "") -> None:
    """Insert rows of equal length, many with one statement: each step of one gives the interpreter's lock away.

    Args:
        insert: Up to and including VALUES.
        then: What follows the values.
    """
    for start in range(0, len(rows), _MOST_AT_ONCE):
        part = rows[start : start + _MOST_AT_ONCE]
        statement = _with_values(insert, len(part[0]), len(part), then)
        connection.execute(statement, list(chain.from_iterable(part)))


@lru_cache(maxsize=_STATEMENTS_KEPT)
def _with_values(insert: str, width: int, count: int, then: str) -> str:
    values = f"({', '.join('?' * width)})"
    return f"{insert} {', '.join([values] * count)} {then}"


class Identity(NamedTuple):
    """Which database it is: its epoch was drawn when it was made, its file is what the path led to."""

    epoch: str
    device: int
    inode: int


class _Connection(sqlite3.Connection):
    """Closes itself when nobody has it any more: a ledger lives as long as a call that settles in it, and no longer."""

    def __del__(self) -> None:
        try:
            self.close()
        except Exception:  # it was never opened; of the modules, nothing may be left to name a narrower one
            pass


def connect(place: Place, mode: str = "rw") -> sqlite3.Connection:
    """A connection any thread may use, one at a time; `mode` "rwc" makes a file that is missing.

    Raises:
        sqlite3.Error: it can't be opened.
    """
    uri = f"file:{quote(str(place.path))}?mode={mode}"
    connection = sqlite3.connect(
        uri,
        uri=True,
        timeout=place.timeout_seconds,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_STATEMENTS_KEPT,
        factory=_Connection,
    )
    try:
        # FULL would wait for the disk within the transaction; that is done after it.
        connection.execute(f"PRAGMA synchronous={'NORMAL' if CAN_SYNC else place.synchronous}")
    except BaseException:
        connection.close()
        raise
    return connection


def newest() -> int:
    return len(STEPS)


def check_file(place: Place) -> None:
    """Look at the first bytes, without SQLite and so without a trace.

    Raises:
        ValueError: a file that is no database.
        LedgerUnavailable: it can't be read.
    """
    try:
        with place.path.open("rb") as file:
            header = file.read(len(_HEADER))
    except FileNotFoundError:
        return
    except OSError as error:
        raise LedgerUnavailable(f"ledger {place.shown} can't be read: {error.strerror}") from error
    if header and header != _HEADER:
        raise ValueError(f"{place.shown} is a file that is no database; it was left as it is. Choose another path")


def prepare(connection: sqlite3.Connection, place: Place, epoch: str, now_seconds: float) -> Identity:
    """Make what is missing; `epoch` is for a database that has none yet.

    Raises:
        ValueError: another program's database, or one of a newer farebox.
        sqlite3.Error: damaged, locked, read-only or full.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if tables and not _is_ours(connection, tables):
        raise ValueError(f"{place.shown} is the database of another program; it was left as it is. Choose another path")
    if tables:
        _check_schema(connection, place)
    (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise ValueError(
            f"ledger {place.shown} can't use a write-ahead log where it lies (journal mode {mode!r}); use a local disk"
        )
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Looked at again: another process may have made it meanwhile.
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").fetchone():
            connection.execute(_META)
            connection.execute("INSERT INTO meta VALUES (0, ?, ?)", (epoch, now_seconds))
        for number in range(_check_schema(connection, place), newest()):
            for statement in STEPS[number]:
                connection.execute(statement)
            connection.execute("UPDATE meta SET schema = ?", (number + 1,))
        (epoch,) = connection.execute("SELECT epoch FROM meta").fetchone()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    found = os.stat(place.path)
    return Identity(epoch, found.st_dev, found.st_ino)


def _is_ours(connection: sqlite3.Connection, tables: set[str]) -> bool:
    if "meta" not in tables:
        return False
    columns = [column[1] for column in connection.execute("PRAGMA table_info(meta)")]
    return columns[:3] == ["schema", "epoch", "created_at"]


def _check_schema(connection: sqlite3.Connection, place: Place) -> int:
    (schema,) = connection.execute("SELECT schema FROM meta").fetchone()
    if schema > newest():
        raise ValueError(
            f"ledger {place.shown} has schema {schema}, and this farebox knows schemas up to {newest()}; "
            "install the farebox that made it, or a newer one"
        )
    return int(schema)


def is_there(path: Path, identity: Identity) -> bool:
    """Whether the path still leads to the file that was opened."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (identity.device, identity.inode)
