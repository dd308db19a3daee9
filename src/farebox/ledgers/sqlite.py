"""The ledger in a SQLite file: money of all processes of one machine, and the rows of their calls.

Each batch of operations is one write transaction, durable when it returns.  Reads have connections of their own and wait for
nobody.  A database that was deleted or replaced is never taken for an empty one.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import tzinfo
from typing import Any, Final, NoReturn

from farebox.errors import LedgerLost, LedgerUnavailable
from farebox.ledgers import Account, Balance, Control, Grain, Grant, Noted, RowForm, Sum, View
from farebox.ledgers import _sqlite_schema as schema
from farebox.ledgers._fitting import limits_of
from farebox.ledgers._operations import Operation
from farebox.ledgers._plain_form import PLAIN_FORM
from farebox.ledgers._sqlite_batch import Batch
from farebox.ledgers._sqlite_books import (
    SELECT_ACCOUNTS,
    SELECT_CONTROLS,
    SELECT_NOTED,
    Books,
    OwnIds,
    Stale,
    control_of,
    standing_of,
    terms_of,
)
from farebox.ledgers._sqlite_gate import inside_sqlite
from farebox.ledgers._sqlite_learnt import read_learnt
from farebox.ledgers._sqlite_locks import Owner, Turn
from farebox.ledgers._sqlite_place import Place, check_place, read_url
from farebox.ledgers._sqlite_rows import PRUNED, Places, delete_page, page_to_prune, select_rows, select_rows_of, tally
from farebox.ledgers._sqlite_sync import CAN_SYNC, Log
from farebox.ledgers._store import Store
from farebox.ledgers._stored import StoredLedger

_MOST_IDLE_READERS: Final = 4
#: What SQLite says of a file that it can't make sense of.
_DAMAGED: Final = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB"})
#: Connections of the parent, in a forked child: closing them would touch files that are still the parent's.
_inherited: list[object] = []


class SqliteLedger(StoredLedger):
    """Money of all processes that open the same file.

    Its URL is `sqlite:///relative.db` or `sqlite:////absolute.db`, with `?timeout=<seconds>` (5: how long to wait for other
    processes that write) and `synchronous=FULL|NORMAL` (FULL: what was answered survives a power cut).
    """

    @classmethod
    def open(
        cls, url: str, *, form: RowForm | None = None, clock: Callable[[], float] = time.time, **options: Any
    ) -> SqliteLedger:
        """Open the file at `url`; what is missing is made.

        Args:
            clock: Epoch seconds; decides about windows and deadlines.

        Raises:
            ValueError: a URL or option it does not know; a directory that is missing; a network file system; a file that
                is no database, another program's, damaged or of a newer farebox, which is left as it is.
            LedgerUnavailable: it can't be written, or others write it for too long.
        """
        if options:
            raise ValueError(
                f"a SQLite ledger has no option {', '.join(map(repr, options))}; "
                'timeout= and synchronous= are part of the URL: write "sqlite:///farebox.db?timeout=5"'
            )
        return cls(SqliteStore(read_url(url), PLAIN_FORM if form is None else form, clock))


class SqliteStore(Store):
    """One file, as one process sees it."""

    def __init__(self, place: Place, form: RowForm, clock: Callable[[], float]) -> None:
        self.shown = place.shown
        self._place = place
        self._form = form
        self._clock = clock
        self._syncs = CAN_SYNC and place.synchronous == "FULL"
        self._identity: schema.Identity | None = None
        self._lost = ""
        self._is_closed = False
        self._begin("")

    def _begin(self, owner: str) -> None:
        self._owner_name = owner
        self._writer: sqlite3.Connection | None = None
        self._turn: Turn | None = None
        self._books: Books | None = None
        self._owner: Owner | None = None
        self._log: Log | None = None
        #: Whether something that was committed may not have reached the disk.
        self._is_in_doubt = False
        self._own_ids = OwnIds(owner)
        self._places = Places()
        self._idle_readers: list[sqlite3.Connection] = []

    def open(self, owner: str) -> None:
        _inherited.extend([self._writer, self._idle_readers])
        for inherited in (self._turn, self._owner, self._log):
            if inherited is not None:
                inherited.let_go()
        self._begin(owner)
        if self._identity is None:
            self._connect()

    def _connect(self) -> tuple[sqlite3.Connection, Books, Turn, Owner]:
        """What writing needs: at first made where it is missing, later only found."""
        place, identity = self._place, self._identity
        with ExitStack() as undo:
            try:
                if identity is None:
                    check_place(place)
                    schema.check_file(place)
                turn = Turn(place)
                undo.callback(turn.let_go)
                turn.take()
                with inside_sqlite():
                    writer = schema.connect(place, "rwc" if identity is None else "rw")
                    undo.callback(writer.close)
                    if identity is None:
                        identity = schema.prepare(writer, place, os.urandom(8).hex(), self._clock())
                turn.give()
                owner = Owner(place, self._owner_name)
                log = Log(place) if self._syncs else None
            except sqlite3.Error as error:
                self._say(error, is_opening=self._identity is None)
            except OSError as error:
                raise LedgerUnavailable(
                    f"ledger {self.shown} can't be written: {error.strerror} ({error.filename}); "
                    "this process must be able to write to the file and to its directory"
                ) from error
            undo.pop_all()
        books = Books(writer, self._owner_name)
        self._identity, self._writer, self._books, self._turn, self._owner = identity, writer, books, turn, owner
        self._log = log
        return writer, books, turn, owner

    # Writing

    def apply(self, operations: Sequence[Operation]) -> None:
        self._check_there()
        writer, books, turn, owner = self._writer, self._books, self._turn, self._owner
        if writer is None or books is None or turn is None or owner is None:
            writer, books, turn, owner = self._connect()
        if self._is_in_doubt:
            self._save_log(writer, turn)
        while True:
            batch = Batch(operations, writer, books, self._form, owner, self._own_ids, self._places, self._clock)
            try:
                with self._transaction(writer, turn):
                    if not books.begin():
                        self._check_epoch(writer)
                    batch.run()
            except BaseException as error:
                self._places.is_rolled_back()
                if isinstance(error, Stale):
                    continue  # nothing is known any more, and so it happens once
                raise
            break
        self._places.is_committed()
        books.is_committed()
        if self._log is not None:
            try:
                self._log.sync()
            except OSError as error:
                self._is_in_doubt = True
                raise LedgerUnavailable(
                    f"ledger {self.shown} may not be safe on its disk ({error.strerror}); nothing was sent"
                ) from error

    def _save_log(self, writer: sqlite3.Connection, turn: Turn) -> None:
        """After the log could not be brought to the disk: put all of it into the database itself, and begin a new one.

        Waiting for it once more would not do: a system may say then that all is well, and have dropped what it could not write.
        """
        try:
            turn.take()
            with inside_sqlite():
                is_busy, *_ = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            self._say(error)
        finally:
            turn.give()
        if is_busy:
            raise LedgerUnavailable(
                f"ledger {self.shown} may not be safe on its disk, and is being read; nothing was sent"
            )
        self._is_in_doubt = False

    @contextmanager
    def _transaction(self, writer: sqlite3.Connection, turn: Turn) -> Iterator[None]:
        """One write transaction, when it is this process's turn."""
        try:
            turn.take()
            with inside_sqlite():
                if writer.in_transaction:  # a signal cut the last one short
                    writer.execute("ROLLBACK")
                writer.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    writer.execute("COMMIT")
                except BaseException:
                    if writer.in_transaction:
                        writer.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            self._say(error)
        finally:
            turn.give()

    def keep_alive(self) -> None:
        if self._owner is not None:
            self._owner.show_up()

    def now_seconds(self) -> float:
        return self._clock()

    def prune(self, before_seconds: float) -> int:
        # With a connection of its own, by the page: others go on writing between two of them.
        self._check_there()
        pruned = 0
        with ExitStack() as undo:
            turn = Turn(self._place)
            undo.callback(turn.let_go)
            try:
                with inside_sqlite():
                    writer = schema.connect(self._place)
                undo.callback(writer.close)
                for table in PRUNED:
                    after = None
                    while True:
                        with self._reading() as reader:
                            page = page_to_prune(reader, table, after, before_seconds)
                        if not page:
                            break
                        after = page[-1]
                        with self._transaction(writer, turn):
                            self._check_epoch(writer)
                            pruned += delete_page(writer, table, page)
            except sqlite3.Error as error:
                self._say(error)
        return pruned

    # Reading

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to read with."""
        self._check_there()
        with inside_sqlite(), ExitStack() as undo:
            try:
                try:
                    reader = self._idle_readers.pop()
                except IndexError:
                    reader = schema.connect(self._place)
                undo.callback(reader.close)
                self._check_epoch(reader)
                yield reader
            except sqlite3.Error as error:
                self._say(error)
            if len(self._idle_readers) < _MOST_IDLE_READERS:
                undo.pop_all()
                self._idle_readers.append(reader)

    def view(self, account: Account) -> View:
        with self._reading() as connection:
            found = connection.execute(f"{SELECT_ACCOUNTS} WHERE key = ?", (account.key,)).fetchall()
            said = self._controls_among(connection, account.controls)
        top = standing_of(found[0]).top if found else (0, 0, 0)
        limits, is_killed = terms_of(limits_of(account), account.controls, top, said)
        return View(Balance(*found[0][1:10]) if found else Balance(), *limits, is_killed)

    @staticmethod
    def _controls_among(connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Control]:
        marks = ", ".join("?" * len(keys))
        found = connection.execute(f"{SELECT_CONTROLS} WHERE key IN ({marks})", keys).fetchall() if keys else []
        return {row[0]: control_of(row) for row in found}

    def accounts(self, prefix: str) -> list[tuple[str, View]]:
        where, arguments = _begins_with(prefix)
        with self._reading() as connection:
            found = connection.execute(f"{SELECT_ACCOUNTS} WHERE {where}", arguments).fetchall()
        said = self.controls()
        views = []
        for row in found:
            standing = standing_of(row)
            limits, is_killed = terms_of(standing.limits, standing.controls, standing.top, said)
            views.append((row[0], View(Balance(*row[1:10]), *limits, is_killed)))
        return views

    def controls(self) -> dict[str, Control]:
        with self._reading() as connection:
            return {row[0]: control_of(row) for row in connection.execute(SELECT_CONTROLS).fetchall()}

    def noted(self, name: str) -> Noted | None:
        with self._reading() as connection:
            found = connection.execute(SELECT_NOTED, (name, name)).fetchone()
        return None if found is None else Noted(*found)

    def in_flight(self) -> list[tuple[Any, Grant]]:
        with self._reading() as connection:
            found = connection.execute("SELECT call, cap, usd_nanos, tokens, calls FROM held ORDER BY seq").fetchall()
        return [(None if call is None else self._form.load(call), Grant(*held)) for call, *held in found]

    def rows(self, since_seconds: float | None, *, dearest_first: bool) -> Iterator[Any]:
        for page in select_rows(self._reading, since_seconds, dearest_first=dearest_first):
            yield from map(self._form.load, page)

    def rows_of(self, call_id: str) -> list[Any]:
        with self._reading() as connection:
            texts = select_rows_of(connection, call_id)
        return [row for row in map(self._form.load, texts) if self._form.id_of(row) == call_id]

    def tally(
        self, since_seconds: float | None, grain: Grain, zone: tzinfo | None, by: Sequence[str] | None = None
    ) -> Iterable[Sum]:
        with self._reading() as connection:
            return tally(connection, self._form, since_seconds, grain, zone, by)

    def learnt(self) -> Mapping[str, Mapping[int, int]]:
        with self._reading() as connection:
            return read_learnt(connection)

    # Which file it is

    def _check_there(self) -> None:
        """
        Raises:
            LedgerUnavailable: it was closed.
            LedgerLost: the file that was opened is not there any more.
        """
        if self._is_closed:
            raise LedgerUnavailable(f"ledger {self.shown} was closed; open it again with configure(ledger=...)")
        if self._lost:
            raise LedgerLost(self._lost)
        if self._identity is not None and not schema.is_there(self._place.path, self._identity):
            self._lose("was deleted or replaced")

    def _check_epoch(self, connection: sqlite3.Connection) -> None:
        """
        Raises:
            LedgerLost: it is another database than the one that was opened, in the same file.
            LedgerUnavailable: a newer farebox has changed its schema meanwhile.
        """
        assert self._identity is not None
        try:
            found = connection.execute("SELECT epoch, schema FROM meta").fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            found = []
        if [epoch for epoch, _ in found] != [self._identity.epoch]:
            self._lose("is another database than before")
        if found[0][1] != schema.newest():
            raise LedgerUnavailable(
                f"ledger {self.shown} was brought to schema {found[0][1]} by a newer farebox, and this one knows "
                f"{schema.newest()}; start this program again with the newer one"
            )

    def _lose(self, how: str) -> NoReturn:
        self._lost = (
            f"ledger {self.shown} {how} while it was used, so nobody knows what was spent; nothing was sent. "
            "To accept it as it is, open it again: configure(ledger=...)"
        )
        raise LedgerLost(self._lost)

    def _say(self, error: sqlite3.Error, *, is_opening: bool = False) -> NoReturn:
        """Raise what an error of SQLite means to a caller."""
        if getattr(error, "sqlite_errorname", "") in _DAMAGED or "malformed" in str(error):
            if is_opening:
                raise ValueError(
                    f"{self.shown} is damaged or no database ({error}); it was left as it is. "
                    "Restore it from a backup, or choose another path"
                ) from error
            try:
                self._lose(f"is damaged ({error})")
            except LedgerLost as lost:
                raise lost from error
        raise LedgerUnavailable(f"ledger {self.shown} did not answer ({error}); nothing was changed") from error

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._owner is not None:
            self._owner.leave()
        for mine in (self._turn, self._log):
            if mine is not None:
                mine.let_go()
        if self._writer is not None:
            self._writer.close()
        while self._idle_readers:
            self._idle_readers.pop().close()


def _begins_with(prefix: str) -> tuple[str, list[str]]:
    """SQL for the keys that begin with `prefix`: a range, which the index answers; LIKE would ignore case."""
    following = prefix
    while following:
        last = ord(following[-1])
        if last < 0x10FFFF:
            # The code points of surrogates are no characters.
            upper = following[:-1] + chr(0xE000 if last == 0xD7FF else last + 1)
            return "key >= ? AND key < ?", [prefix, upper]
        following = following[:-1]
    return "key >= ?", [prefix]
