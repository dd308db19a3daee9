"""The ledger in Redis or Valkey: money of many machines, one round trip to reserve it.

    redis://[user:password@]host[:port][/database][?namespace=farebox&timeout=0.5&wait=0]      rediss:// with TLS

All keys of a namespace begin with `fb1:{namespace}:`, one hash tag, so a cluster keeps them on one node.  Give the address
of that node; another one names it.

    meta             hash    epoch, schema, numbers given so far
    a:<key>          hash    an account, most of it as one text; goes 40 days after its window
    accounts         zset    the keys of all accounts, in the order of their letters
    h:<hold>         string  a hold, as MessagePack; once it ended its outcome, for ten minutes, or a day where it may be corrected,
                             30 days where its answer has a name
    n:<name>         string  the hold that the answer of this name is for, and what who brings it needs to know
    held             zset    holds that are open and have a deadline, by it
    o:<owner>        set     holds without a deadline, of one process
    owners           zset    processes, by when they were last there
    controls         hash    what people said
    e:<entry>        what people said, adjusted, topped up and reset: ids, for 40 days
    i:<row>          ids of rows, for ten minutes
    rows             stream  the last 100,000 rows or so
    day:<n>, days    hash    sums by quarter of an hour and place, for each day (UTC), for good; and which days there are
    l:<key>, learnt  hash    what was learnt; and its keys, by last use

A server that is emptied, replaced by an older copy of another ledger or evicts keys is not an empty ledger: every script
compares the epoch, and refuses where it is another.  What a server without persistence forgets in a restart is lost so;
one that restarts with its data goes on.  Redis keeps budgets; for reports about millions of rows there is SQLite.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import tzinfo
from typing import Any, Final

from farebox.errors import LedgerUnavailable
from farebox.ledgers import Account, Control, Grain, Grant, Noted, RowForm, Sum, View
from farebox.ledgers import _operations as op
from farebox.ledgers import _redis_scripts as scripts
from farebox.ledgers._fitting import limits_of
from farebox.ledgers._plain_form import PLAIN_FORM
from farebox.ledgers._redis_asks import Asks, account_arguments, control_of, grant_of, limits_in, number_list, view_of
from farebox.ledgers._redis_link import Address, Command, Link, read_url
from farebox.ledgers._redis_rows import Reader
from farebox.ledgers._redis_scripts import Script
from farebox.ledgers._store import Store
from farebox.ledgers._stored import StoredLedger

#: Holds, and accounts, looked at in one script: others wait while it runs.
_PAGE: Final = 500
_DUE_AT_ONCE: Final = 64
#: What replicas must have, where they are waited for.
_MUST_BE_KEPT: Final = (op.Reserve, op.Extend, op.Charge)

_logger = logging.getLogger("farebox")


class RedisLedger(StoredLedger):
    """Money of all processes that name the same server and namespace."""

    @classmethod
    def open(
        cls,
        url: str,
        *,
        form: RowForm | None = None,
        namespace: str | None = None,
        timeout: float | None = None,
        wait: int | None = None,
        clock: Callable[[], float] | None = None,
        **options: Any,
    ) -> RedisLedger:
        """Open the ledger at `url`; options win over those in it.

        Args:
            namespace: Ledgers of several programs on one server keep apart by it.
            timeout: Seconds to wait for an answer; then nobody knows what is left, and nothing is sent.
            wait: Replicas that must have what was reserved, within that time, before it counts.
            clock: Epoch seconds, in place of the server's; for tests.

        Raises:
            ValueError: a URL or option it does not know, a newer schema.
            LedgerUnavailable: the server can't be reached, or refuses: a password, a database number, a replica.
        """
        address = read_url(url, namespace=namespace, timeout=timeout, wait=wait, **options)
        return cls(RedisStore(address, PLAIN_FORM if form is None else form, clock))


class RedisStore(Store):
    """One namespace of one server."""

    def __init__(self, address: Address, form: RowForm, clock: Callable[[], float] | None = None) -> None:
        self.shown = address.shown
        self._address = address
        self._form = form
        self._clock = clock
        self._link = Link(address)
        self._asks = Asks(self._link, form, address.shown)
        self._reader = Reader(self._link, form, self._call)
        self._epoch = ""
        self._owner = ""

    def open(self, owner: str) -> None:
        self._link.forget()
        self._owner = owner
        is_first = not self._epoch
        candidate = os.urandom(8).hex() if is_first else ""
        self._link.prepare()
        reply = self._link.run_one(self._bare(scripts.OPEN, candidate, scripts.SCHEMA))
        epoch, schema = reply[2].decode(), reply[3].decode()
        if is_first:
            if int(schema or 0) > scripts.SCHEMA:
                raise ValueError(
                    f"ledger {self.shown} was written by a newer farebox (schema {schema}, this one knows {scripts.SCHEMA}); "
                    "upgrade farebox, or open another namespace"
                )
            self._epoch = epoch
            self._look_at_configuration()
        self.keep_alive()

    def apply(self, operations: Sequence[op.Operation]) -> None:
        batch: list[op.Operation] = []
        for operation in operations:
            if isinstance(operation, op.Expire):
                self._apply_at_once(batch)
                batch = []
                operation.answer = self._expire(operation)
            else:
                batch.append(operation)
        self._apply_at_once(batch)

    def _apply_at_once(self, operations: Sequence[op.Operation]) -> None:
        """In one round trip."""
        calls = self._asks.calls(operations, self._epoch, self._now_text(), self._owner)
        if not calls:
            return
        commands = [command for _, command in calls]
        replicas = self._address.replicas
        must_wait = replicas > 0 and any(isinstance(one, _MUST_BE_KEPT) for one in operations)
        if must_wait:
            commands.append(("WAIT", replicas, int(self._address.timeout_seconds * 800)))
        replies = self._link.run(commands)
        if must_wait and not (isinstance(replies[-1], int) and replies[-1] >= replicas):
            raise LedgerUnavailable(
                f"ledger {self.shown} has {replies[-1]} replicas that wrote down what was reserved, and wait={replicas} asks "
                "for more; nothing was sent"
            )
        for (those, _), reply in zip(calls, replies, strict=False):
            self._asks.answer(those, reply)

    def _expire(self, asked: op.Expire) -> int:
        """End what is due, a page at a time, until nothing more is."""
        until = "" if asked.now_seconds is None else repr(float(asked.now_seconds))
        silent, expired = str(self.alive_seconds), 0
        while True:
            due = self._ask(scripts.DUE, until, silent, _DUE_AT_ONCE, self._owner)[2:]
            ends = []
            for hold_id, seen, call in _grouped(due, 3):
                grant = grant_of(seen)
                presumed = self._row_of_expired(asked, call, grant)
                row, call_id = self._asks.row(presumed), "" if presumed is None else self._form.id_of(presumed)
                amounts = number_list(grant[1:])
                ends.append(self._call(scripts.END, hold_id, "expired", amounts, *row, seen, until, silent, call_id))
            ended = sum(isinstance(reply, list) and reply[0] == b"yes" for reply in self._link.run(ends)) if ends else 0
            expired += ended
            if not ended:
                return expired

    def _row_of_expired(self, asked: op.Expire, call: bytes, grant: Grant) -> Any:
        try:
            loaded = self._form.load(call.decode()) if call else None
            return (asked.row_of or self._form.presumed)(loaded, grant)
        except Exception as error:  # another version's call: its bound is charged all the same
            _logger.error("ledger %s keeps no row of a call that nobody ended: %s", self.shown, type(error).__name__)
            return None

    def keep_alive(self) -> None:
        self._ask(scripts.ALIVE, self._owner, "1")

    def now_seconds(self) -> float:
        return time.time() + self._link.skew_seconds if self._clock is None else self._clock()

    # Reads

    def view(self, account: Account) -> View:
        return view_of(limits_of(account), self._ask(scripts.VIEW, *account_arguments(account))[2])

    def accounts(self, prefix: str) -> list[tuple[str, View]]:
        found: list[tuple[str, View]] = []
        first, last = b"[" + prefix.encode(), b"(" + prefix.encode() + b"\xff"
        while True:
            reply = self._ask(scripts.ACCOUNTS_PAGE, first, last, _PAGE)
            for key, terms, text in _grouped(reply[3:], 3):
                found.append((key.decode(), view_of(limits_in(terms), text)))
            if not reply[2]:
                return found
            first = b"(" + reply[2]

    def controls(self) -> dict[str, Control]:
        return {key.decode(): control_of(text) for key, text in _grouped(self._ask(scripts.CONTROLS)[2:], 2)}

    def noted(self, name: str) -> Noted | None:
        reply = self._ask(scripts.NOTED, name)
        return Noted(reply[2].decode(), reply[3].decode()) if reply[0] == b"yes" else None

    def in_flight(self) -> list[tuple[Any, Grant]]:
        found: dict[bytes, tuple[int, Any, Grant]] = {}
        for owner in (b"", *self._ask(scripts.OWNERS)[2:]):
            place = b"0"
            while True:
                _, _, place, *page = self._ask(scripts.HELD, place, _PAGE, owner)
                for hold_id, number, grant, call in _grouped(page, 4):
                    loaded = self._form.load(call.decode()) if call else None
                    found[hold_id] = number, loaded, grant_of(grant)
                if place == b"0":
                    break
        return [(call, grant) for _, call, grant in sorted(found.values(), key=lambda hold: hold[0])]

    def rows(self, since_seconds: float | None, *, dearest_first: bool) -> Iterator[Any]:
        return self._reader.rows(since_seconds, dearest_first=dearest_first)

    def rows_of(self, call_id: str) -> list[Any]:
        return self._reader.rows_of(call_id)

    def tally(
        self, since_seconds: float | None, grain: Grain, zone: tzinfo | None, by: Sequence[str] | None = None
    ) -> Iterable[Sum]:
        return self._reader.tally(since_seconds, grain, by)

    def learnt(self) -> Mapping[str, Mapping[int, int]]:
        return {
            key.decode(): {int(bucket): int(count) for bucket, count in _grouped(counts, 2) if bucket != b"all"}
            for key, counts in _grouped(self._ask(scripts.LEARNT)[2:], 2)
        }

    def prune(self, before_seconds: float) -> int:
        return int(self._ask(scripts.PRUNE, max(0, int(before_seconds * 1_000)))[2])

    def close(self) -> None:
        try:
            self._ask(scripts.ALIVE, self._owner, "")
        except LedgerUnavailable:
            pass  # it is taken for dead when it has been silent for long enough
        self._link.close()

    # Calls

    def _now_text(self) -> str:
        return "" if self._clock is None else f"{self._clock():.6f}"

    def _call(self, script: Script, *arguments: Any) -> Command:
        return self._bare(script, self._epoch, self._now_text(), *arguments)

    def _bare(self, script: Script, *arguments: Any) -> Command:
        return self._link.call(script, *arguments)

    def _ask(self, script: Script, *arguments: Any) -> Any:
        return self._link.run_one(self._call(script, *arguments))

    def _look_at_configuration(self) -> None:
        """Warn where the server may forget what it was told."""
        names = ("maxmemory", "maxmemory-policy", "appendonly", "save")
        said = {}
        for name, reply in zip(names, self._link.run_freely([("CONFIG", "GET", name) for name in names]), strict=True):
            if not isinstance(reply, list) or len(reply) < 2:
                _logger.debug("ledger %s does not say how it is configured", self.shown)
                return
            said[name] = reply[1].decode()
        if said["maxmemory"] != "0" and said["maxmemory-policy"] != "noeviction":
            _logger.warning(
                "ledger %s may drop accounts when its memory is full (maxmemory-policy %s), and their budgets start again; "
                "set maxmemory-policy noeviction",
                self.shown,
                said["maxmemory-policy"],
            )
        if said["appendonly"] == "no" and not said["save"]:
            _logger.warning(
                "ledger %s writes nothing to disk: after a restart it is lost, and calls are refused; set appendonly yes",
                self.shown,
            )


def _grouped(texts: Sequence[Any], length: int) -> Iterator[Sequence[Any]]:
    """`length` of them at a time."""
    for at in range(0, len(texts), length):
        yield texts[at : at + length]
