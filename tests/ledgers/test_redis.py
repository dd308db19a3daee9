"""The Redis ledger keeps the contract, on a server of its own."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from farebox.errors import LedgerUnavailable
from farebox.ledgers import Account, Balance, Control, Ledger, Need, RowForm, WindowClosed
from farebox.ledgers import _redis_link as link
from farebox.ledgers import _redis_scripts as scripts
from farebox.ledgers.memory import MemoryLedger
from farebox.ledgers.redis import RedisLedger
from farebox.testing import FixedClock
from tests.ledgers.contract import CALL, NOON, LedgerContract, account, fixed, kind_of
from tests.ledgers.forms import FORM
from tests.ledgers.machine import LedgerMachine
from tests.servers import free_port, redis_server, redis_url

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_url(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def namespace() -> str:
    """Nobody else's on this server."""
    return f"test-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def ledger(url: str, namespace: str) -> Iterator[RedisLedger]:
    ledger = RedisLedger.open(url, namespace=namespace, timeout=5)
    yield ledger
    ledger.close()


class TestRedisLedger(LedgerContract):
    @pytest.fixture
    def make(self, url: str, namespace: str, wall: FixedClock) -> Iterator[Callable[[RowForm], Ledger]]:
        opened: list[Ledger] = []

        def make(form: RowForm) -> Ledger:
            name = f"{namespace}-{len(opened)}"
            opened.append(RedisLedger.open(url, namespace=name, form=form, timeout=5, clock=wall))
            return opened[-1]

        yield make
        for ledger in opened:
            ledger.close()


def test_the_redis_ledger_agrees_with_a_model_of_forty_lines(url: str) -> None:
    class RedisMachine(LedgerMachine):
        def make_ledger(self) -> Ledger:
            namespace = f"machine-{os.getpid()}-{next(_numbers)}"
            return RedisLedger.open(url, namespace=namespace, form=FORM, timeout=5, clock=lambda: self.time)

        def teardown(self) -> None:
            self.ledger.close()

    run_state_machine_as_test(RedisMachine, settings=settings(stateful_step_count=40, max_examples=30, deadline=None))


# The address


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://", "is no URL of a Redis ledger; it looks like redis://user:password@host:6379/0"),
        ("redis://cache/zero", "'redis://cache/zero' names no database number"),
        ("redis://cache:high/0", "'redis://cache:high/0' has no port number"),
        (
            "redis://me:secret@cache/0?tiemout=1",
            "'redis://me@cache/0' does not know the option 'tiemout'; choose from namespace, timeout, wait",
        ),
        ("redis://cache?timeout=soon", "timeout='soon' is not a number of seconds above 0"),
        ("redis://cache?timeout=0", "timeout=0.0 is no time to wait; it is above 0 and at most 3600 seconds"),
        ("redis://cache?wait=0.5", "wait=0.5 is no number of replicas"),
        ("redis://cache?namespace=a{b}", "namespace='a{b}' is no name of letters, digits"),
    ],
)
def test_a_url_it_does_not_know_is_refused_without_showing_its_password(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        RedisLedger.open(url)
    assert message in str(raised.value)
    assert "secret" not in str(raised.value)


def test_options_win_over_the_url_and_the_password_is_never_shown() -> None:
    address = link.read_url("rediss://me:s%40crt@cache:7000/3?namespace=one&timeout=2&wait=1", namespace="two")
    assert address.shown == "rediss://me@cache:7000/3?namespace=two"
    assert (address.prefix, address.timeout_seconds, address.replicas) == ("fb1:{two}:", 2.0, 1)
    assert address.driver["password"] == "s@crt"
    assert "s@crt" not in repr(address)


def test_a_server_that_is_not_there_is_named() -> None:
    url = f"redis://me:secret@127.0.0.1:{free_port()}/0"
    with pytest.raises(LedgerUnavailable, match="can't be reached") as raised:
        RedisLedger.open(url)
    assert "secret" not in str(raised.value)


def test_a_wrong_database_number_and_a_server_without_tls_are_told_apart(url: str) -> None:
    with pytest.raises(LedgerUnavailable, match=r"has no database of that number|refuses: .*database"):
        RedisLedger.open(url.rpartition("/")[0] + "/9999")
    with pytest.raises(LedgerUnavailable, match=r"can't be reached|did not answer"):
        RedisLedger.open(url.replace("redis://", "rediss://"))


def test_a_wrong_password_and_forbidden_commands_are_told_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        redis_server(tmp_path, "--requirepass", "secret") as server,
        redis.Redis(port=server.port, password="secret") as admin,
    ):
        host = f"127.0.0.1:{server.port}/0"
        for wrong in (f"redis://{host}", f"redis://:guess@{host}"):
            with pytest.raises(LedgerUnavailable, match=r"user or password|refuses: Authentication") as raised:
                RedisLedger.open(wrong)
            assert "guess" not in str(raised.value)
        admin.acl_setuser(
            "reader", enabled=True, passwords=["+pass"], keys=["*"], categories=["+@read", "+@connection"]
        )
        with pytest.raises(LedgerUnavailable, match="does not let this user do what is needed"):
            RedisLedger.open(f"redis://reader:pass@{host}")
        admin.acl_setuser(
            "farebox", enabled=True, passwords=["+pass"], keys=["fb1:*"], categories=["+@all"], commands=["-config"]
        )
        with caplog.at_level(logging.WARNING, "farebox"):
            ledger = RedisLedger.open(f"redis://farebox:pass@{host}")
        assert kind_of(ledger.reserve(1, [account()], fixed(5))) == "granted"
        assert caplog.messages == []  # it may not ask how the server is configured
        ledger.close()


def test_a_replica_is_refused(tmp_path: Path, url: str) -> None:
    port = url.rpartition(":")[2].partition("/")[0]
    with redis_server(tmp_path, "--replicaof", "127.0.0.1", port) as replica:
        with pytest.raises(
            LedgerUnavailable, match="is a replica, which takes no writes; give the address of its primary"
        ):
            RedisLedger.open(replica.url)


def test_in_a_cluster_all_keys_lie_in_one_slot(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        with pytest.raises(LedgerUnavailable, match=r"refuses: .*[Cc]luster|refuses: CLUSTERDOWN|refuses: Hash slot"):
            RedisLedger.open(server.url)
        node = redis.Redis(port=server.port)
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        wait_until(lambda: b"cluster_state:ok" in node.execute_command("CLUSTER", "INFO"))
        ledger = RedisLedger.open(server.url, form=FORM, timeout=5)
        do_everything(ledger)
        slots = {node.execute_command("CLUSTER", "KEYSLOT", key) for key in node.scan_iter()}
        assert len(slots) == 1
        ledger.close()
        node.close()


def test_a_server_that_may_forget_is_warned_about_once_for_each_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_server(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as server:
        with caplog.at_level(logging.WARNING, "farebox"):
            RedisLedger.open(server.url).close()
        assert len(caplog.messages) == 2
        assert "set maxmemory-policy noeviction" in caplog.messages[0]
        assert "set appendonly yes" in caplog.messages[1]
        caplog.clear()
        with redis.Redis(port=server.port) as admin:
            admin.config_set("maxmemory-policy", "noeviction")
            admin.config_set("appendonly", "yes")
        with caplog.at_level(logging.WARNING, "farebox"):
            RedisLedger.open(server.url).close()
        assert caplog.messages == []


def test_a_newer_schema_is_refused(url: str, namespace: str) -> None:
    with redis.Redis.from_url(url) as server:
        server.hset(f"fb1:{{{namespace}}}:meta", mapping={"epoch": "e", "schema": "2"})
    with pytest.raises(ValueError, match=r"was written by a newer farebox \(schema 2, this one knows 1\)"):
        RedisLedger.open(url, namespace=namespace)


@given(
    st.lists(st.lists(st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary(), min_size=1).map(tuple), min_size=1)
)
def test_commands_are_written_alike_with_and_without_the_extra_of_the_driver(commands: list[link.Command]) -> None:
    assert link.pack_command is not None
    with pytest.MonkeyPatch.context() as patch:
        fast = link._packed(commands)
        patch.setattr(link, "pack_command", None)
        assert link._packed(commands) == fast


# What is in the server


def do_everything(ledger: Ledger) -> None:
    """Every operation there is."""
    trip = account(limit_usd_nanos=1_000, starts_at=0, ends_at=2**40, controls=("plan",))
    ledger.reserve(1, [trip], fixed(10), call=CALL)
    ledger.extend(1, 5, 0)
    ledger.settle(1, 12, 0, row=CALL)
    ledger.reserve(2, [trip], fixed(2_000), call=CALL, forced=[trip], ttl_seconds=1)
    ledger.expire(time.time() * 2)
    ledger.settle(2, 1, 0, row=CALL)
    ledger.reserve(3, [trip], fixed(10))
    ledger.charge(4, [trip], 3, 0, row=CALL)
    ledger.adjust("adjusted", [trip], -3, 0, 0, row=CALL)
    ledger.control("said", "plan", Control(limit_usd_nanos=50))
    ledger.top_up("topped up", trip, 5, 0, 0)
    ledger.reset("reset", trip)
    ledger.add_row(CALL)
    ledger.learn("model", 3)
    ledger.forget("nobody")
    assert ledger.flush(5)
    assert list(ledger.rows())
    assert list(ledger.tally())
    assert ledger.learnt()
    assert ledger.accounts("")


def test_all_keys_of_a_namespace_carry_its_hash_tag_and_leave_others_alone(url: str, namespace: str) -> None:
    ledger, other = (
        RedisLedger.open(url, namespace=name, form=FORM, timeout=5) for name in (namespace, f"{namespace}x")
    )
    with redis.Redis.from_url(url) as server:
        before = set(server.keys())
        do_everything(ledger)
        mine = f"fb1:{{{namespace}}}:".encode()
        assert all(key.startswith(mine) for key in set(server.keys()) - before)
    assert other.accounts("") == []
    ledger.close()
    other.close()


def test_what_ended_does_not_stay_for_ever_and_what_is_held_does(ledger: RedisLedger, url: str, namespace: str) -> None:
    window = account("window", starts_at=0, ends_at=int(time.time()) + 60)
    ledger.reserve(1, [account(), window], fixed(10))
    ledger.reserve(2, [account()], fixed(10))
    ledger.settle(1, 10, 0)
    ledger.flush(5)
    with redis.Redis.from_url(url) as server:
        ttl_seconds = {key.rpartition(b"}:")[2]: server.ttl(key) for key in server.keys(f"fb1:{{{namespace}}}:*")}
    assert ttl_seconds[b"a:key of search"] == -1
    assert 40 * 86_400 < ttl_seconds[b"a:key of window"] <= 40 * 86_400 + 60
    assert sorted(ttl for key, ttl in ttl_seconds.items() if key.startswith(b"h:")) == [-1, pytest.approx(600, abs=10)]


@pytest.mark.parametrize("wrong", ["[-0,1,1]", "[1.5,1,1]", "[1e3,1,1]", "[,1,1]", "1", "[a,1,1]", "[null,1,1]"])
def test_a_script_refuses_what_is_no_whole_number_before_it_writes(
    ledger: RedisLedger, url: str, namespace: str, wrong: str
) -> None:
    store: Any = ledger._store
    trip = ("trip", "[-1,-1,-1,-1,-1,[]]", "")
    with redis.Redis.from_url(url) as server:
        before = {key: server.dump(key) for key in server.keys(f"fb1:{{{namespace}}}:*")}
        call = store._call(scripts.CHARGE, "h:1", 60, wrong, "", "", "", "", "", 1, *trip)
        with pytest.raises(LedgerUnavailable):
            store._link.run_one(call)
        assert {key: server.dump(key) for key in server.keys(f"fb1:{{{namespace}}}:*")} == before


# Windows and clocks


def test_the_clock_of_the_server_decides_about_windows(ledger: RedisLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(link.time, "time", lambda: now + 7_200)  # ours goes two hours fast
    current = account("current", starts_at=int(now) - 60, ends_at=int(now) + 60)
    ours = account("ours", starts_at=int(now) + 7_140, ends_at=int(now) + 7_260)
    assert kind_of(ledger.reserve(1, [current], fixed(5))) == "granted"
    with pytest.raises(WindowClosed) as raised:
        ledger.reserve(2, [ours], fixed(5))
    assert raised.value.now_seconds == pytest.approx(now, abs=30)
    monkeypatch.setattr(link.time, "time", lambda: now)
    assert ledger.balance(ours) == Balance()


def test_two_processes_with_skewed_clocks_agree_about_the_end_of_a_window(url: str, namespace: str) -> None:
    wall = FixedClock(NOON)
    early, late = (RedisLedger.open(url, namespace=namespace, timeout=5, clock=wall) for _ in range(2))
    trip = account(limit_usd_nanos=10, starts_at=NOON, ends_at=NOON + 60)
    wall.now = NOON + 59.999
    assert kind_of(early.reserve(1, [trip], fixed(10))) == "granted"
    assert kind_of(late.reserve(1, [trip], fixed(1))) == "contended"
    wall.now = NOON + 60
    for ledger in (early, late):
        with pytest.raises(WindowClosed):
            ledger.reserve(2, [trip], fixed(0))
        ledger.close()


def test_an_expired_hold_whose_answer_may_still_come_is_kept_for_as_long_as_answers_are(
    url: str, namespace: str, ledger: RedisLedger
) -> None:
    for hold_id in (1, 2):
        ledger.reserve(hold_id, [account()], fixed(10), ttl_seconds=60)
    ledger.note(1, "batch 7", "", 60)
    assert ledger.flush()
    with redis.Redis.from_url(url) as server:

        def seconds(what: str) -> list[int]:
            return sorted(server.ttl(key) for key in server.keys(f"fb1:{{{namespace}}}:{what}:*"))

        assert ledger.expire(time.time() + 100) == 2
        assert seconds("h") == [pytest.approx(86_400, abs=10), pytest.approx(30 * 86_400, abs=10)]
        assert seconds("n") == [pytest.approx(30 * 86_400 + 60, abs=10)]
        noted = ledger.noted("batch 7")
        assert noted is not None
        ledger.collect(3, noted)
        assert ledger.settle(3, 5, 0)
        assert ledger.noted("batch 7") is None
        assert seconds("n") == []


# The same answers as in memory, at any size


HUGE = st.sampled_from([0, 1, 17, 10**14, 10**15 - 1, 10**15, 2**53 - 1, 2**53 + 1, 2**62, 2**63 - 2, 2**63 - 1])
SMALL = st.integers(0, 3_000)
amount = HUGE | SMALL
caps = st.lists(st.integers(0, 3_000), min_size=4, max_size=4).map(sorted)
hold = st.integers(1, 6)
who = st.sets(st.sampled_from("ab"), min_size=1).map(sorted)
#: In lower case those that never refuse, in upper case those that let one cross.
forced = st.sampled_from(["", "", "", "a", "b", "ab", "A", "B", "AB", "aB"])
step = st.one_of(
    st.tuples(st.just("reserve"), hold, who, forced, amount, amount),
    st.tuples(st.just("pick"), hold, who, forced, amount, SMALL | HUGE, caps, st.sampled_from([0, 2, 16])),
    st.tuples(st.just("extend"), hold, forced, amount, amount),
    st.tuples(st.just("settle"), hold, amount, amount),
    st.tuples(st.just("release"), hold),
    st.tuples(st.just("charge"), hold, who, amount, amount),
    st.tuples(st.just("adjust"), st.integers(1, 9), who, amount | amount.map(lambda n: -n), SMALL),
    st.tuples(st.just("limit"), st.integers(1, 9), amount),
    st.tuples(st.just("kill"), st.integers(1, 9), st.booleans()),
    st.tuples(st.just("top up"), st.integers(1, 9), amount),
    st.tuples(st.just("reset"), st.integers(1, 9)),
    st.tuples(st.just("expire")),
)


def do(ledger: Ledger, accounts: dict[str, Account], what: Any) -> object:
    """One step; its answer, or the class of its error."""
    verb, *words = what
    try:
        match verb:
            case "reserve":
                hold_id, names, let_in, usd, tokens = words
                need = fixed(usd, tokens)
            case "pick":
                hold_id, names, let_in, usd, rate, four, share = words
                need = Need(usd, rate, 0, 1, 1, *four, share)
            case "extend":
                hold_id, let_in, usd, tokens = words
                return ledger.extend(hold_id, usd, tokens, forced=[accounts[name] for name in let_in.lower()])
            case "settle":
                return ledger.settle(*words)
            case "release":
                return ledger.release(*words)
            case "charge":
                hold_id, names, usd, tokens = words
                return ledger.charge(hold_id + 100, [accounts[name] for name in names], usd, tokens)
            case "adjust":
                entry, names, usd, tokens = words
                return ledger.adjust(f"adjust {entry}", [accounts[name] for name in names], usd, tokens, 0)
            case "limit":
                return ledger.control(f"limit {words[0]}", "plan", Control(limit_usd_nanos=words[1]))
            case "kill":
                return ledger.control(f"kill {words[0]}", "plan", Control(is_killed=words[1]))
            case "top up":
                return ledger.top_up(f"top up {words[0]}", accounts["a"], words[1], 1, 0)
            case "reset":
                return ledger.reset(f"reset {words[0]}", accounts["b"])
            case _:
                return ledger.expire(2**40)
        held = [accounts[name] for name in names]
        let = [one for one in held if one.name in let_in]
        crossing = [one for one in held if one.name.upper() in let_in]
        lives = 60 if hold_id % 2 else None
        answer = ledger.reserve(hold_id, held, need, forced=let, ttl_seconds=lives, crossing=crossing)
    except ValueError:
        return ValueError
    return answer


@given(st.lists(step, max_size=25), amount, amount)
@settings(max_examples=100, deadline=None)
def test_any_amounts_give_the_same_answers_as_in_memory(url: str, steps: list[Any], usd: int, tokens: int) -> None:
    accounts = {
        "a": Account("a", "a", limit_usd_nanos=usd, limit_tokens=tokens),
        "b": Account("b", "b", limit_usd_nanos=usd, limit_calls=4, controls=("all", "plan")),
    }
    namespace = f"same-{os.getpid()}-{next(_numbers)}"
    stored, memory = RedisLedger.open(url, namespace=namespace, timeout=5, clock=FixedClock(NOON)), MemoryLedger()
    try:
        for what in steps:
            assert do(stored, accounts, what) == do(memory, accounts, what), what
            for one in accounts.values():
                assert stored.view(one) == memory.view(one), what
        assert sorted(grant for _, grant in stored.in_flight()) == sorted(grant for _, grant in memory.in_flight())
    finally:
        stored.close()


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end, "it did not come to be so within 10 seconds"
        time.sleep(0.01)
