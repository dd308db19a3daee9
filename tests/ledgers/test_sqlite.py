"""The SQLite ledger keeps the contract, in one file that it knows again."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from farebox.errors import LedgerLost, LedgerUnavailable
from farebox.ledgers import Account, Balance, Grant, Ledger, RowForm, Sum, WindowClosed, open_ledger
from farebox.ledgers import _operations as op
from farebox.ledgers import _sqlite_schema as schema
from farebox.ledgers._plain_form import PLAIN_FORM
from farebox.ledgers._sqlite_place import check_place, file_system_of, read_url
from farebox.ledgers.sqlite import SqliteLedger, SqliteStore
from farebox.testing import FixedClock
from tests.ledgers.contract import CALL, NOON, LedgerContract, account, fixed, kind_of
from tests.ledgers.forms import FORM, Row
from tests.ledgers.machine import LedgerMachine

QUARTER = 900


class TestSqliteLedger(LedgerContract):
    @pytest.fixture
    def make(self, tmp_path: Path, wall: FixedClock) -> Iterator[Callable[[RowForm], Ledger]]:
        opened: list[Ledger] = []

        def make(form: RowForm) -> Ledger:
            path = tmp_path / f"{len(opened)}.db"
            opened.append(SqliteLedger.open(f"sqlite:///{path}", form=form, clock=wall))
            return opened[-1]

        yield make
        for ledger in opened:
            ledger.close()


def test_the_sqlite_ledger_agrees_with_a_model_of_forty_lines(tmp_path: Path) -> None:
    numbers = itertools.count()

    class SqliteMachine(LedgerMachine):
        def make_ledger(self) -> Ledger:
            # What it would write to the disk is not asked for here.
            url = f"sqlite:///{tmp_path}/{next(numbers)}.db?synchronous=NORMAL"
            return SqliteLedger.open(url, form=FORM, clock=lambda: self.time)

        def teardown(self) -> None:
            self.ledger.close()

    run_state_machine_as_test(SqliteMachine, settings=settings(stateful_step_count=30, max_examples=25, deadline=None))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "farebox.db"


@pytest.fixture
def wall() -> FixedClock:
    return FixedClock(NOON)


@pytest.fixture
def opened(path: Path, wall: FixedClock) -> Iterator[Callable[..., SqliteLedger]]:
    """Opens `path` as often as it is asked to."""
    ledgers: list[SqliteLedger] = []

    def open_it(query: str = "", form: RowForm = FORM) -> SqliteLedger:
        ledgers.append(SqliteLedger.open(f"sqlite:///{path}{query}", form=form, clock=wall))
        return ledgers[-1]

    yield open_it
    for ledger in ledgers:
        ledger.close()


# URLs


def test_a_path_is_relative_or_absolute_by_the_number_of_slashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_url("sqlite:///farebox.db").path == tmp_path / "farebox.db"
    assert read_url("sqlite:///sub/a%20b%3F.db").path == tmp_path / "sub" / "a b?.db"
    assert read_url("sqlite:////var/lib/farebox.db").path == Path("/var/lib/farebox.db")


def test_a_ledger_opened_by_a_relative_path_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    ledger = open_ledger("sqlite:///a b?.db".replace("?", "%3F"))
    monkeypatch.chdir(tmp_path / "sub")
    ledger.adjust("by hand", [account()], 5, 0, 0)
    assert ledger.balance(account()).spent_usd_nanos == 5
    ledger.close()
    assert (tmp_path / "a b?.db").exists()
    assert list((tmp_path / "sub").iterdir()) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "sqlite:///farebox.db"),
        ("sqlite:///", "sqlite:///farebox.db"),
        ("sqlite://farebox.db", "four slashes"),
        ("sqlite:///:memory:", "sqlite:///farebox.db"),
        ("sqlite:///farebox.db?wait=5", "no option 'wait'; the options are timeout"),
        ("sqlite:///farebox.db?timeout=soon", "timeout='soon' is no number of seconds"),
        ("sqlite:///farebox.db?timeout=0", "timeout='0' is no number of seconds"),
        ("sqlite:///farebox.db?timeout=nan", "timeout='nan' is no number"),
        ("sqlite:///farebox.db?synchronous=off", "synchronous='off' is none of FULL, NORMAL"),
    ],
)
def test_a_wrong_url_names_the_choices_and_the_line_to_write(url: str, said: str) -> None:
    with pytest.raises(ValueError, match="write") as raised:
        open_ledger(url)
    assert said in str(raised.value)


def test_an_unknown_option_is_named(path: Path) -> None:
    with pytest.raises(ValueError, match="no option 'keep_rows'"):
        open_ledger(f"sqlite:///{path}", keep_rows=5)
    assert not path.exists()


def test_the_options_of_a_url_are_those_of_its_connections(opened: Callable[..., SqliteLedger], path: Path) -> None:
    for query, milliseconds in (("", 5_000), ("?synchronous=normal&timeout=2.5", 2_500)):
        store = opened(query)._store
        assert isinstance(store, SqliteStore)
        assert store._writer is not None
        assert store._writer.execute("PRAGMA busy_timeout").fetchone() == (milliseconds,)
        assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# Where it lies

MOUNTS = r"""
/dev/vda / ext4 rw 0 0
server:/export /srv/shared nfs4 rw 0 0
me@host: /home/me/far\040away fuse.sshfs rw 0 0
tmpfs /srv/shared/local tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("directory", "file_system"),
    [
        ("/", "ext4"),
        ("/srv", "ext4"),
        ("/srv/shared", "nfs4"),
        ("/srv/shared/deeper", "nfs4"),
        ("/srv/shared-not", "ext4"),
        ("/srv/shared/local/x", "tmpfs"),
        ("/home/me/far away", "fuse.sshfs"),
    ],
)
def test_a_directory_lies_on_the_file_system_of_the_nearest_mount(directory: str, file_system: str) -> None:
    assert file_system_of(directory, MOUNTS) == file_system


@pytest.mark.parametrize("file_system", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"])
def test_a_network_file_system_is_refused_with_the_reason(path: Path, file_system: str) -> None:
    mounts = f"/dev/vda / ext4 rw 0 0\nserver:/x {path.parent} {file_system} rw 0 0\n"
    with pytest.raises(ValueError, match=rf"network file system \({file_system}\).*use a local disk, or redis://"):
        check_place(read_url(f"sqlite:///{path}"), mounts)


def test_a_directory_that_is_missing_is_named(path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing' is no directory; create it first"):
        open_ledger(f"sqlite:///{path.parent}/missing/farebox.db")
    assert not (path.parent / "missing").exists()


def test_a_directory_is_no_ledger(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ValueError, match=r"is a directory; name a file in it"):
        open_ledger(f"sqlite:///{path}")


def test_a_place_nobody_can_write_to_is_one_clear_error() -> None:
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here: no directory that even a superuser can't write to")
    with pytest.raises(LedgerUnavailable, match=r"can't be written: .*must be able to write"):
        open_ledger("sqlite:////proc/farebox.db")


@pytest.mark.parametrize("content", [b"not a database, but somebody's notes", b"x"])
def test_a_file_that_is_no_database_is_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no database; it was left as it is"):
        open_ledger(f"sqlite:///{path}")
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_an_empty_file_becomes_a_ledger(path: Path, opened: Callable[..., SqliteLedger]) -> None:
    path.touch()
    assert opened().balance(account()) == Balance()


def test_the_database_of_another_program_is_left_as_it_is(path: Path) -> None:
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE meta (name TEXT, value TEXT)")
        theirs.execute("CREATE TABLE songs (title TEXT)")
    theirs.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is the database of another program"):
        open_ledger(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_damaged_database_is_left_as_it_is(path: Path) -> None:
    open_ledger(f"sqlite:///{path}").close()
    torn = path.read_bytes()[:4096] + b"\xff" * 2_000
    torn = torn[:100] + b"\xff" * 300 + torn[400:]
    path.write_bytes(torn)
    with pytest.raises(ValueError, match=r"damaged or no database.*left as it is"):
        open_ledger(f"sqlite:///{path}")
    assert path.read_bytes() == torn


# Schemas


def make_schema_0(path: Path) -> None:
    """As the first step finds it: nothing but who it is."""
    by_hand = sqlite3.connect(path)
    by_hand.execute("CREATE TABLE meta (schema INTEGER NOT NULL, epoch TEXT NOT NULL, created_at REAL NOT NULL)")
    by_hand.execute("INSERT INTO meta VALUES (0, 'an old epoch', 123.0)")
    by_hand.commit()
    by_hand.close()


def meta_of(path: Path) -> Any:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT * FROM meta").fetchall()
    finally:
        connection.close()


def test_an_older_schema_is_brought_to_the_newest_and_stays_the_same_ledger(
    path: Path, opened: Callable[..., SqliteLedger]
) -> None:
    make_schema_0(path)
    ledger = opened()
    ledger.adjust("by hand", [account()], 5, 0, 0)
    assert meta_of(path) == [(schema.newest(), "an old epoch", 123.0)]
    assert opened().balance(account()).spent_usd_nanos == 5


def test_each_step_is_done_once_and_in_order(
    path: Path, opened: Callable[..., SqliteLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened().adjust("by hand", [account()], 5, 0, 0)
    newest = schema.newest()
    steps = [
        ("CREATE TABLE notes (note TEXT)",),
        ("INSERT INTO notes VALUES ('second')", "ALTER TABLE accounts ADD COLUMN note TEXT"),
    ]
    monkeypatch.setattr(schema, "STEPS", [*schema.STEPS, *steps])
    for _ in range(2):
        SqliteLedger.open(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT * FROM notes").fetchall() == [("second",)]
    assert connection.execute("SELECT spent_usd_nanos, note FROM accounts").fetchall() == [(5, None)]
    connection.close()
    assert meta_of(path)[0][0] == newest + 2


def test_a_step_that_fails_leaves_the_older_schema(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_schema_0(path)
    monkeypatch.setattr(schema, "STEPS", [*schema.STEPS, ("CREATE TABLE notes (note TEXT)", "CREATE TABLE notes (n)")])
    with pytest.raises(LedgerUnavailable, match="already exists"):
        SqliteLedger.open(f"sqlite:///{path}")
    assert meta_of(path) == [(0, "an old epoch", 123.0)]


def test_a_newer_schema_is_refused_and_both_numbers_are_named(path: Path) -> None:
    open_ledger(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as newer:
        newer.execute("UPDATE meta SET schema = 99")
    newer.close()
    with pytest.raises(ValueError, match=rf"has schema 99, and this farebox knows schemas up to {schema.newest()}"):
        open_ledger(f"sqlite:///{path}")
    assert meta_of(path)[0][0] == 99


def test_a_schema_that_a_newer_farebox_changes_meanwhile_stops_the_older_one(
    path: Path, opened: Callable[..., SqliteLedger]
) -> None:
    ledger = opened()
    with sqlite3.connect(path) as newer:
        newer.execute("UPDATE meta SET schema = schema + 1")
    with pytest.raises(LedgerUnavailable, match="by a newer farebox"):
        ledger.reserve(1, [account()], fixed(5))
    with newer:
        newer.execute("UPDATE meta SET schema = schema - 1")
    newer.close()
    assert kind_of(ledger.reserve(2, [account()], fixed(5))) == "granted"


# Which file it is


def gone(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        (path.parent / name).unlink(missing_ok=True)
    open_ledger(f"sqlite:///{path}").close()


def put_back_from_a_copy(path: Path) -> None:
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    os.replace(copy, path)


def made_anew_within(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("UPDATE meta SET epoch = 'another'")
    other.close()


@pytest.mark.parametrize("happens", [gone, replaced, put_back_from_a_copy, made_anew_within])
def test_a_ledger_that_is_not_the_one_it_was_is_lost_until_it_is_opened_anew(
    path: Path, opened: Callable[..., SqliteLedger], happens: Callable[[Path], None]
) -> None:
    ledger, trip = opened(), account(limit_usd_nanos=10)
    ledger.adjust("by hand", [trip], 9, 0, 0)
    happens(path)
    attempts: list[Callable[[], object]] = [
        lambda: ledger.reserve(1, [trip], fixed(5)),
        lambda: ledger.balance(trip),
        lambda: list(ledger.rows()),
        lambda: ledger.prune(NOON),
        lambda: ledger.expire(),
    ]
    for attempt in attempts:
        with pytest.raises(LedgerLost, match=r"nobody knows what was spent; nothing was sent.*configure\(ledger="):
            attempt()
    again = opened()
    assert kind_of(again.reserve(1, [trip], fixed(1))) == "granted"
    with pytest.raises(LedgerLost):
        ledger.reserve(1, [trip], fixed(1))


def test_a_ledger_that_lost_its_file_makes_no_other_one(path: Path, opened: Callable[..., SqliteLedger]) -> None:
    ledger = opened()
    path.unlink()
    with pytest.raises(LedgerLost):
        ledger.reserve(1, [account()], fixed(5))
    assert not path.exists()


def test_a_closed_ledger_says_so(opened: Callable[..., SqliteLedger]) -> None:
    ledger = opened()
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerUnavailable, match="was closed; open it again"):
        ledger.reserve(1, [account()], fixed(5))


def test_two_ledgers_of_one_process_share_the_books(opened: Callable[..., SqliteLedger]) -> None:
    first, second = opened(), opened()
    trip = account(limit_usd_nanos=10)
    assert kind_of(first.reserve(1, [trip], fixed(6))) == "granted"
    assert kind_of(second.reserve(1, [trip], fixed(6))) == "contended"  # and the same id is another hold
    assert second.expire() == 0  # the first one is there, though its lock tells this process nothing
    first.settle(1, 4, 0, row=(NOON, "search", 4))
    first.flush()
    assert kind_of(second.reserve(1, [trip], fixed(6))) == "granted"
    assert list(second.rows()) == [(NOON, "search", 4)]


def test_what_a_closed_ledger_held_is_charged_at_its_bound(opened: Callable[..., SqliteLedger], path: Path) -> None:
    first, second = opened(), opened()
    trip = account(limit_usd_nanos=10)
    first.reserve(1, [trip], fixed(6), call=(NOON, "search", 0))
    first.close()
    assert second.expire() == 1
    assert second.balance(trip) == Balance(spent_usd_nanos=6, spent_calls=1)
    assert list(second.rows()) == [(NOON, "search", 6)]  # as the form presumes
    assert len(list((path.parent / "farebox.db-owners").iterdir())) == 1


# One operation's fault is not another's


def test_an_operation_that_cannot_be_done_leaves_the_others_of_its_batch_alone(path: Path, wall: FixedClock) -> None:
    store = SqliteStore(read_url(f"sqlite:///{path}"), FORM, wall)
    store.open("abc")
    trip, over = account(limit_usd_nanos=100), Account("over", "over", ends_at=NOON)
    unwritable = Account("\ud800", "no text")

    def reserve(name: str, accounts: Any, usd: int, call: Any = None) -> op.Reserve:
        forced, need = frozenset[str](), fixed(usd)
        return op.Reserve(hold_id=name, accounts=accounts, need=need, forced=forced, ttl_seconds=None, call=call)

    good = [reserve("1", (trip,), 10), reserve("5", (trip,), 20)]
    bad = [
        reserve("2", (trip, over), 10),
        reserve("3", (trip, unwritable), 10),
        reserve("4", (trip,), -1),
        reserve("6", (trip,), 10, call=object()),
    ]
    full = op.Adjust(adjust_id="6", accounts=(account("full"),), amounts=(2**63 - 1, 0, 0), row=None)
    huge = op.Adjust(adjust_id="7", accounts=(account("full"),), amounts=(1, 0, 0), row=None)
    odd = op.Adjust(adjust_id="8", accounts=(trip,), amounts=(5, 0, 0), row=object())
    store.apply([good[0], *bad, full, huge, odd, good[1]])
    assert [type(operation.error) for operation in bad] == [WindowClosed, UnicodeEncodeError, ValueError, TypeError]
    assert (full.answer, type(huge.error)) == (True, ValueError)
    assert odd.error is not None
    assert [operation.answer for operation in good] == [Grant(0, 10, 0, 1), Grant(0, 20, 0, 1)]
    assert store.view(trip).balance == Balance(reserved_usd_nanos=30, reserved_calls=2)
    again = op.Adjust(adjust_id="8", accounts=(trip,), amounts=(5, 0, 0), row=None)
    store.apply([again])
    assert again.answer
    store.close()


def test_a_row_that_cannot_be_written_down_is_lost_and_its_money_is_not(
    opened: Callable[..., SqliteLedger], caplog: pytest.LogCaptureFixture
) -> None:
    ledger = opened()
    ledger.reserve(1, [account()], fixed(10))
    ledger.settle(1, 7, 0, row=(NOON, "search\ud800", 7, "secret text"))
    assert ledger.balance(account()).spent_usd_nanos == 7
    assert list(ledger.rows()) == []
    assert "can't be written down" in caplog.text
    assert "secret" not in caplog.text
    # Nor that of a late answer.
    ledger.reserve(2, [account()], fixed(10), call=CALL, ttl_seconds=1)
    assert ledger.expire(1e12) == 1
    ledger.settle(2, 3, 0, row=object())
    assert ledger.balance(account()).spent_usd_nanos == 10


def test_a_hold_that_was_given_up_before_it_arrived_is_refused(path: Path, wall: FixedClock) -> None:
    store = SqliteStore(read_url(f"sqlite:///{path}"), FORM, wall)
    store.open("abc")
    trip = account(limit_usd_nanos=100)
    store.apply([op.End(hold_id="1", amounts=(0, 0, 0), row=None, is_released=True)])
    late = op.Reserve(hold_id="1", accounts=(trip,), need=fixed(5), forced=frozenset(), ttl_seconds=None, call=None)
    store.apply([late])
    assert isinstance(late.error, LedgerUnavailable)
    assert store.view(trip).balance == Balance()
    store.close()


def test_what_is_given_again_after_a_lost_answer_is_done_once(path: Path, wall: FixedClock) -> None:
    store = SqliteStore(read_url(f"sqlite:///{path}"), FORM, wall)
    store.open("abc")
    trip, row = account(), (NOON, "search", 7)
    operations = [
        op.Reserve(hold_id="1", accounts=(trip,), need=fixed(10), forced=frozenset(), ttl_seconds=None, call=None),
        op.End(hold_id="1", amounts=(7, 0, 1), row=row),
        op.Charge(hold_id="2", accounts=(trip,), amounts=(5, 0, 1), row=row),
        op.AddRow(row_id="3", row=row),
        op.Adjust(adjust_id="4", accounts=(trip,), amounts=(1, 0, 0), row=row),
        op.TopUp(entry_id="5", account=trip, amounts=(9, 0, 0)),
    ]
    for _ in range(3):
        store.apply(operations)
    assert store.view(trip).balance == Balance(spent_usd_nanos=13, spent_calls=2)
    assert len(list(store.rows(None, dearest_first=False))) == 4
    assert [(found.place, found.sums) for found in store.tally(None, "ever", None)] == [("search", (28, 4))]
    store.close()


# Accounts and what was learnt


@given(
    keys=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), unique=True, max_size=12),
    prefix=st.text(st.sampled_from("aA%_\ud7ff\uffff\U0010ffff\x00é"), max_size=2),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_accounts_are_found_by_any_prefix(shared: SqliteLedger, keys: list[str], prefix: str) -> None:
    for key in [*keys, prefix, f"{prefix}x"]:
        shared.adjust(os.urandom(8).hex(), [Account(key, "name")], 1, 0, 0)
    found = {key for key, _ in shared.accounts(prefix)}
    everything = {key for key, _ in shared.accounts("")}
    assert found == {key for key in everything if key.startswith(prefix)}
    assert {*keys, prefix} <= everything


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteLedger]:
    ledger = SqliteLedger.open(f"sqlite:///{tmp_path_factory.mktemp('shared')}/farebox.db?synchronous=NORMAL")
    yield ledger
    ledger.close()


def test_what_was_learnt_stays_bounded(opened: Callable[..., SqliteLedger]) -> None:
    ledger = opened("?synchronous=NORMAL")
    for _ in range(2_048):
        ledger.learn("often", 3)
    ledger.learn("often", 5)  # one too many: all are halved, and what is halved to nothing is gone
    assert ledger.learnt() == {"often": {3: 1_024}}
    for number in range(1_023):
        ledger.learn(f"model {number}", 1)
    ledger.flush()
    ledger.learn("model 0", 1)
    ledger.learn("one more", 1)
    learnt = ledger.learnt()
    assert len(learnt) == 1_024
    assert "often" not in learnt  # the one that was longest not heard of
    assert learnt["model 0"] == {1: 2}


# Rows, and sums over them

ROWS = st.lists(
    st.tuples(
        st.integers(NOON - 40 * 86_400, NOON + 200 * 86_400),
        st.sampled_from(["search", "chat", "über"]),
        st.integers(-1_000, 10**15),
    ),
    max_size=40,
)
ZONES = st.sampled_from(
    [
        "UTC",
        "Asia/Kathmandu",
        "America/New_York",
        "Australia/Lord_Howe",
        "Africa/Cairo",
        "America/Havana",
        "Pacific/Chatham",
        "America/St_Johns",
        "Asia/Tokyo",
    ]
)


def by_hand(rows: list[Row], since: float | None, grain: str, zone: ZoneInfo) -> Counter[Any]:
    """Nanodollars and number by place and local hour or day, each row looked at on its own."""
    sums: Counter[Any] = Counter()
    shown = {"hour": "%Y-%m-%d %H %z", "day": "%Y-%m-%d", "ever": ""}[grain]
    for began_at, place, usd_nanos in rows:
        if since is None or began_at >= since:
            span = datetime.fromtimestamp(began_at, zone).strftime(shown)
            sums[place, span, "usd"] += usd_nanos
            sums[place, span, "rows"] += 1
    return sums


def by_sums(found: list[Sum], grain: str, zone: ZoneInfo) -> Counter[Any]:
    sums: Counter[Any] = Counter()
    shown = {"hour": "%Y-%m-%d %H %z", "day": "%Y-%m-%d", "ever": ""}[grain]
    for one in found:
        assert one.span == grain
        span = datetime.fromtimestamp(one.starts_at, zone).strftime(shown)
        sums[one.place, span, "usd"] += one.sums[0]
        sums[one.place, span, "rows"] += one.sums[1]
    return sums


@given(
    rows=ROWS,
    grain=st.sampled_from(["hour", "day", "ever"]),
    zone_name=ZONES,
    since=st.none() | st.integers(NOON - 41 * 86_400, NOON + 200 * 86_400) | st.floats(NOON - 9_000, NOON + 9_000),
)
@settings(max_examples=100)
def test_a_tally_is_what_a_look_at_each_row_comes_to(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], grain: Any, zone_name: str, since: float | None
) -> None:
    zone = ZoneInfo(zone_name)
    store = SqliteStore(read_url(f"sqlite:///{tmp_path_factory.mktemp('tally')}/x.db?synchronous=NORMAL"), FORM, float)
    store.open("abc")
    store.apply([op.AddRow(row_id=str(number), row=row) for number, row in enumerate(rows)])
    found = list(store.tally(since, grain, zone))
    assert by_sums(found, grain, zone) == by_hand(rows, since, grain, zone)
    assert len({(one.place, one.starts_at) for one in found}) == len(found)
    assert list(store.rows(since, dearest_first=False)) == [row for row in rows if since is None or row[0] >= since]
    dearest = [row[2] for row in store.rows(since, dearest_first=True)]
    assert dearest == sorted((row[2] for row in rows if since is None or row[0] >= since), reverse=True)
    store.close()


@pytest.mark.parametrize(
    ("zone_name", "local", "span_begins"),
    [
        # half an hour is skipped at 2:00, so the hour of 2 o'clock begins at 2:30
        ("Australia/Lord_Howe", "2026-10-04 02:45", "2026-10-04 02:30"),
        ("America/New_York", "2026-03-08 03:10", "2026-03-08 03:00"),
    ],
)
def test_an_hour_begins_no_earlier_than_the_clock_showed_it(
    opened: Callable[..., SqliteLedger], zone_name: str, local: str, span_begins: str
) -> None:
    zone, ledger = ZoneInfo(zone_name), opened()
    ledger.add_row((datetime.fromisoformat(local).replace(tzinfo=zone).timestamp(), "search", 1))
    (found,) = ledger.tally(None, "hour", zone)
    assert datetime.fromtimestamp(found.starts_at, zone).strftime("%Y-%m-%d %H:%M") == span_begins


def test_pruning_changes_no_tally_but_that_of_a_quarter_asked_for_in_part(path: Path, wall: FixedClock) -> None:
    store = SqliteStore(read_url(f"sqlite:///{path}?synchronous=NORMAL"), FORM, wall)
    store.open("abc")
    rows: list[Row] = [(NOON + 100 * number, "search", number) for number in range(2_500)]
    for number, row in enumerate(rows):
        wall.now = row[0]
        store.apply([op.AddRow(row_id=str(number), row=row)])
    asked: list[Any] = [(None, "ever"), (None, "hour"), (NOON, "day"), (NOON + QUARTER, "hour")]
    before = [list(store.tally(since, grain, UTC)) for since, grain in asked]
    assert store.prune(NOON + 100 * 2_400) == 2_400  # more than two pages
    assert store.prune(NOON + 100 * 2_400) == 0
    assert list(store.rows(None, dearest_first=False)) == rows[2_400:]
    assert [list(store.tally(since, grain, UTC)) for since, grain in asked] == before
    # Rows 1 to 8 began in a quarter that is not asked for as a whole, and are gone.
    (since_then,) = store.tally(NOON + 1, "ever", None)
    assert since_then.sums == (sum(range(9, 2_500)), 2_491)
    store.close()


def test_a_correction_of_what_expired_moves_the_sums_with_its_row(
    opened: Callable[..., SqliteLedger], wall: FixedClock
) -> None:
    ledger = opened()
    for hold_id in (1, 2, 3):
        ledger.reserve(hold_id, [account()], fixed(10), call=(NOON, "search", 0), ttl_seconds=1)
    wall.now = NOON + 2
    assert ledger.expire() == 3
    assert [(one.place, one.sums) for one in ledger.tally()] == [("search", (30, 3))]
    ledger.settle(1, 4, 0, row=(NOON - QUARTER, "chat", 4))  # the call itself knows better where it belongs
    ledger.release(2)
    hours = {(one.place, one.starts_at - NOON): one.sums for one in ledger.tally(None, "hour") if any(one.sums)}
    assert hours == {("chat", -3_600): (4, 1), ("search", 0): (10, 1)}


def test_rows_of_different_widths_keep_theirs(opened: Callable[..., SqliteLedger]) -> None:
    def sum_of(row: Any) -> Sum:
        return Sum("second", NOON, row[0], tuple(row[1:]))

    form = RowForm(
        sum_of=sum_of,
        id_of=PLAIN_FORM.id_of,
        coarser=PLAIN_FORM.coarser,
        dump=PLAIN_FORM.dump,
        load=PLAIN_FORM.load,
        dump_place=PLAIN_FORM.dump_place,
        load_place=PLAIN_FORM.load_place,
        presumed=PLAIN_FORM.presumed,
    )
    ledger = opened(form=form)
    for row in (("eight", *range(8)), ("one", 5), ("one", 6), ("none",), ("grows", 1), ("grows", 1, 2)):
        ledger.add_row(row)
    ledger.add_row(("nine", *range(9)))  # more than there are columns: no row
    ledger.add_row(("large", 2**63))
    found = {one.place: one.sums for one in ledger.tally()}
    assert found == {"eight": (*range(8),), "one": (11,), "none": (), "grows": (2, 2)}


def test_rows_are_read_by_the_page_while_others_write(opened: Callable[..., SqliteLedger]) -> None:
    ledger = opened("?synchronous=NORMAL")
    for number in range(2_500):
        ledger.add_row((NOON, "search", number))
    for rows, last in ((ledger.rows(), 2_499), (ledger.rows(NOON), 2_499), (ledger.rows(dearest_first=True), 0)):
        seen = [next(rows)]
        ledger.adjust(os.urandom(8).hex(), [account()], 1, 0, 0)  # nothing is held open meanwhile
        ledger.add_row((NOON - 1, "later", -5))
        ledger.flush()
        seen += rows
        assert len(seen) >= 2_500
        assert (NOON, "search", last) in seen[-5:]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.tuples(st.integers()), inner)
        ),
    )
)
def test_the_plain_form_gives_back_what_it_was_given(value: Any) -> None:
    assert PLAIN_FORM.load(PLAIN_FORM.dump(value)) == value


# Reads


def test_reads_wait_for_nobody_who_writes(opened: Callable[..., SqliteLedger], path: Path) -> None:
    ledger = opened("?timeout=0.2")
    ledger.adjust("by hand", [account()], 5, 0, 0)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert ledger.balance(account()).spent_usd_nanos == 5
    assert list(ledger.rows()) == []
    with pytest.raises(LedgerUnavailable):
        ledger.adjust("again", [account()], 5, 0, 0)
    other.execute("ROLLBACK")
    other.close()
    assert ledger.adjust("again", [account()], 5, 0, 0)


def test_many_threads_share_few_transactions(
    opened: Callable[..., SqliteLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    apply = SqliteStore.apply

    def counted(self: SqliteStore, operations: Any) -> None:
        sizes.append(sum(isinstance(operation, op.Reserve | op.End) for operation in operations))
        apply(self, operations)

    monkeypatch.setattr(SqliteStore, "apply", counted)
    ledger, ids = opened(), itertools.count(1)

    def work() -> None:
        for _ in range(40):
            hold_id = next(ids)
            assert isinstance(ledger.reserve(hold_id, [account()], fixed(2)), Grant)
            ledger.settle(hold_id, 1, 0, row=(NOON, "search", 1))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.balance(account()) == Balance(spent_usd_nanos=320, spent_calls=320)
    assert sum(sizes) == 640
    assert len(sizes) < 400
