"""A standing budget for ten calls admits ten, whoever asks and in whatever way, on every ledger; and modes over windows."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, configure, signals, track
from farebox.errors import BudgetWarning
from farebox.testing import FixedClock
from tests.acceptance.programs.stores import namespace, nothing_is_held, promise_kept, standing_row, until
from tests.acceptance.rides import OPENAI, Ride, attempt, bound_of, farebox_usd, outcomes
from tests.servers import redis_url

pytestmark = pytest.mark.usefixtures("metered")

CROWD = 50
ADMITTED = 10
MORNING = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)

#: `use(budget(...), ...)`: a ledger of the kind the test runs on; the words are `configure`'s.
Use = Callable[..., Any]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_url(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["memory", "sqlite", "redis"])
def use(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Use]:
    kind = request.param
    if kind == "memory":
        url = "memory://"
    elif kind == "sqlite":
        url = f"sqlite:///{tmp_path / 'ledger.db'}"
    else:
        url = f"{request.getfixturevalue('redis')}?namespace={namespace()}&timeout=5"
    with ExitStack() as handles:
        yield lambda *budgets, **words: handles.enter_context(configure(ledger=url, budgets=budgets, **words))


def org(**words: Any) -> budget:
    return budget("org", **{"per": "day", **words})


# ── fifty at once ────────────────────────────────────────────────────────────────────────────────────────────────


def by_threads(ride: Ride, provider: Any, done: queue.SimpleQueue[Any], let_go: Callable[[], None]) -> None:
    start = threading.Barrier(CROWD)
    with ride.client(provider) as client:

        def rush() -> None:
            start.wait()
            done.put(attempt(lambda: ride.ask(client)))

        threads = [threading.Thread(target=rush) for _ in range(CROWD)]
        for thread in threads:
            thread.start()
        let_go()
        for thread in threads:
            thread.join()


def by_pool(ride: Ride, provider: Any, done: queue.SimpleQueue[Any], let_go: Callable[[], None]) -> None:
    with ride.client(provider) as client, ThreadPoolExecutor(CROWD) as pool:
        for _ in range(CROWD):
            pool.submit(lambda: done.put(attempt(lambda: ride.ask(client))))
        let_go()


def by_tasks(ride: Ride, provider: Any, done: queue.SimpleQueue[Any], let_go: Callable[[], None]) -> None:
    async def main() -> None:
        async with ride.async_client(provider) as client:

            async def rush() -> None:
                try:
                    done.put(await ride.ask(client))
                except BudgetExceeded as error:
                    done.put(error)

            async with asyncio.TaskGroup() as crowd:
                for _ in range(CROWD):
                    crowd.create_task(rush())
                await asyncio.to_thread(let_go)

    asyncio.run(main())


WAYS = [by_threads, by_pool, by_tasks]


@pytest.mark.parametrize("way", WAYS)
def test_of_fifty_at_once_exactly_ten_are_sent(provider: Any, use: Use, way: Any) -> None:
    ride = OPENAI
    limit = bound_of(ride).usd(ADMITTED)
    use(org(usd=limit, patience=0))
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    refused: list[Any] = []
    provider.hold()

    def let_go() -> None:
        try:
            refused.extend(done.get(timeout=20) for _ in range(CROWD - ADMITTED))
            provider.wait_until_in_flight(ADMITTED)
        finally:
            provider.release()

    with promise_kept(provider, "org", limit, seconds=0.03):
        way(ride, provider, done, let_go)
    assert {type(answer) for answer in refused} == {BudgetExceeded}
    assert {error.kind for error in refused} == {"contended"}
    assert len(provider.requests) == provider.bill.calls == ADMITTED
    row = standing_row("org", "usd")
    assert (row.spent, row.debt) == (provider.bill.usd, 0)
    assert sorted(outcomes()) == ["completed"] * ADMITTED + ["refused"] * (CROWD - ADMITTED)
    nothing_is_held()


@pytest.mark.parametrize("way", [by_threads, by_tasks])
def test_who_waits_is_sent_for_as_long_as_the_money_lasts(provider: Any, use: Use, way: Any) -> None:
    ride, bound = OPENAI, bound_of(OPENAI)
    limit = bound.usd(ADMITTED)
    use(org(usd=limit))
    provider.answer(output_tokens=60)
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with promise_kept(provider, "org", limit, seconds=0.03):
        way(ride, provider, done, lambda: None)
    cost = provider.bill.lines[0].usd_nanos
    fit = bound.usd_nanos * (ADMITTED - 1) // cost + 1
    refused = [answer for answer in (done.get() for _ in range(CROWD)) if isinstance(answer, BudgetExceeded)]
    assert len(provider.requests) == CROWD - len(refused) == fit > ADMITTED
    assert {error.kind for error in refused} == {"exhausted"}
    assert standing_row("org", "usd").spent == provider.bill.usd
    nothing_is_held()


def test_ten_of_thirty_streams_are_opened_and_may_end_in_other_threads(
    ride: Ride, provider: Any, client: Any, use: Use
) -> None:
    limit = bound_of(ride, is_stream=True).usd(ADMITTED)
    use(org(usd=limit))
    with promise_kept(provider, "org", limit, seconds=0.03):
        answers = [attempt(lambda: ride.stream(client)) for _ in range(30)]
        streams = [answer for answer in answers if not isinstance(answer, Exception)]
        refused = [answer for answer in answers if isinstance(answer, Exception)]
        assert len(streams) == ADMITTED == len(provider.requests)
        assert {error.kind for error in refused} == {"contended"}  # held by this very thread: nobody waits for it
        with ThreadPoolExecutor(ADMITTED) as pool:
            assert all(pool.map(list, streams))
    assert standing_row("org", "usd").spent == provider.bill.usd
    nothing_is_held()


def test_calls_that_contend_for_a_scope_and_for_a_standing_budget_all_run(provider: Any, use: Use) -> None:
    # Granted in one ledger, a call may be short in the other one: there it waits too.
    bound = bound_of(OPENAI)
    provider.answer(output_tokens=1)
    provider.delay(0.02)
    use(org(usd=bound.usd(3)))
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with OPENAI.client(provider) as client:

        def outside() -> None:
            for _ in range(4):
                answers.put(attempt(lambda: OPENAI.ask(client)))

        def inside() -> None:
            with budget("scope", usd=bound.usd(2)):
                jobs = [threading.Thread(target=outside) for _ in range(4)]
                for job in jobs:
                    job.start()
                for job in jobs:
                    job.join()

        crowd = [threading.Thread(target=work) for work in (inside, outside, inside, outside)]
        with promise_kept(provider, "org", bound.usd(3), seconds=0.03):
            for thread in crowd:
                thread.start()
            for thread in crowd:
                thread.join()
    told = [answers.get() for _ in range(40)]
    assert not [str(answer) for answer in told if isinstance(answer, Exception)]
    assert standing_row("org", "usd").spent == provider.bill.usd
    nothing_is_held()


def test_tenants_in_parallel_have_each_their_own_and_all_the_common_one(provider: Any, use: Use) -> None:
    tenants, asked, fit = 5, 8, 3
    use(budget("plan", calls=fit, per="month", each="tenant", patience=0), org(calls=11, patience=0))
    refused: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with OPENAI.client(provider) as client:

        def ask(tenant: str) -> None:
            with track(tenant=tenant):
                answer = attempt(lambda: OPENAI.ask(client))
                if isinstance(answer, Exception):
                    refused.put(answer)

        with ThreadPoolExecutor(tenants * asked) as pool:
            for number in range(tenants * asked):
                pool.submit(ask, f"tenant {number % tenants}")
    rows = {row.tags["tenant"]: row.spent for row in farebox.status("plan")}
    assert len(provider.requests) == sum(rows.values()) == standing_row("org", "calls").spent <= 11
    assert max(rows.values()) <= fit
    errors = [refused.get() for _ in range(tenants * asked - len(provider.requests))]
    assert {type(error) for error in errors} == {BudgetExceeded}
    nothing_is_held()


def test_both_sdks_and_only_what_matches(provider: Any, use: Use, open_client: Any) -> None:
    from tests.acceptance.rides import ANTHROPIC

    use(
        budget("claude", calls=4, per="day", where={"model": "claude-*"}, patience=0),
        budget("search", calls=3, per="day", where={"feature": "search"}, patience=0),
        org(calls=100),
    )
    clients = [(OPENAI, open_client(OPENAI)), (ANTHROPIC, open_client(ANTHROPIC))]

    def ask(ride: Ride, client: Any, feature: str) -> Any:
        with track(feature=feature):
            return attempt(lambda: ride.ask(client))

    with ThreadPoolExecutor(24) as pool:
        for ride, client in clients:
            for number in range(12):
                pool.submit(ask, ride, client, "search" if number % 2 else "chat")
    spent = {row.budget: row.spent for row in farebox.status()}
    sent = [request.model for request in provider.requests]
    assert spent["claude"] == sum(model.startswith("claude") for model in sent) <= 4
    assert spent["search"] == 3
    assert spent["org"] == len(sent)
    nothing_is_held()


# ── modes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_downgrade_sends_the_cheaper_model(provider: Any, use: Use, open_client: Any) -> None:
    client = open_client(OPENAI)
    use(org(usd="0.001", on_exceed="downgrade", downgrade={"gpt-4o": "gpt-4o-mini"}))
    for _ in range(3):
        OPENAI.ask(client, model="gpt-4o")
    assert [request.model for request in provider.requests][-1] == "gpt-4o-mini"
    assert standing_row("org", "usd").spent == provider.bill.usd <= Decimal("0.001")
    nothing_is_held()


def test_clamp_lowers_the_cap_to_what_is_left(provider: Any, use: Use, open_client: Any) -> None:
    client, bound = open_client(OPENAI), bound_of(OPENAI, 1_000)
    limit = farebox_usd(bound.usd_nanos // 2)
    use(org(usd=limit, on_exceed="clamp"))
    provider.answer(output_tokens=2_000)
    OPENAI.ask(client, max_tokens=1_000)
    (request,) = provider.requests
    assert 64 <= request.body["max_tokens"] < 1_000
    assert provider.bill.usd <= standing_row("org", "usd").spent <= limit
    nothing_is_held()


def test_truncate_ends_the_decorated_function(provider: Any, use: Use, open_client: Any) -> None:
    client = open_client(OPENAI)
    use()

    @budget("plan", calls=2, per="day", on_exceed="truncate", default="enough")
    def answer() -> str:
        OPENAI.ask(client)
        return "answered"

    assert [answer() for _ in range(4)] == ["answered", "answered", "enough", "enough"]
    assert len(provider.requests) == 2
    nothing_is_held()


def test_raise_lets_one_call_cross_and_brings_its_answer(provider: Any, use: Use, open_client: Any) -> None:
    client, bound = open_client(OPENAI), bound_of(OPENAI)
    use(org(usd=farebox_usd(bound.usd_nanos // 8), on_exceed="raise"))
    provider.answer(output_tokens=90)
    with pytest.raises(BudgetExceeded) as crossed:
        OPENAI.ask(client)
    assert crossed.value.response.id
    with pytest.raises(BudgetExceeded) as refused:
        OPENAI.ask(client)
    assert refused.value.response is None
    assert len(provider.requests) == 1
    row = standing_row("org", "usd")
    assert row.spent == provider.bill.usd == row.limit + row.debt
    nothing_is_held()


def test_warn_lets_all_pass_and_counts_them(provider: Any, use: Use, open_client: Any) -> None:
    client = open_client(OPENAI)
    use(org(calls=1, on_exceed="warn"))
    OPENAI.ask(client)
    with pytest.warns(BudgetWarning, match="per day"):
        OPENAI.ask(client)
    for _ in range(2):
        OPENAI.ask(client)  # a second warning would be an error here
    row = standing_row("org", "calls")
    assert (row.spent, row.debt) == (4, 3)
    nothing_is_held()


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_wait_sends_when_the_window_has_turned(provider: Any, use: Use, is_async: bool) -> None:
    clock = FixedClock(datetime(2026, 11, 22, 9, 30, 59, 700_000, tzinfo=UTC))
    use(org(calls=1, per="minute", on_exceed="wait", timeout=30), clock=clock)
    turn = threading.Timer(0.2, clock.tick, [0.5])

    async def main() -> None:
        async with OPENAI.async_client(provider) as client:
            await OPENAI.ask(client)
            turn.start()
            await OPENAI.ask(client)

    began = time.monotonic()
    if is_async:
        asyncio.run(main())
    else:
        with OPENAI.client(provider) as client:
            OPENAI.ask(client)
            turn.start()
            OPENAI.ask(client)
    assert time.monotonic() - began < 10
    assert len(provider.requests) == 2
    assert standing_row("org", "calls").spent == 1
    turn.join()
    nothing_is_held()


def test_windows_that_turn_in_a_storm_lose_nothing(provider: Any, use: Use) -> None:
    clock = FixedClock(MORNING)
    use(org(calls=10, per="minute", patience=0), clock=clock)
    provider.answer(output_tokens=2)
    counts: queue.SimpleQueue[str] = queue.SimpleQueue()
    with OPENAI.client(provider) as client:

        def ask(number: int) -> None:
            if number % 12 == 11:
                clock.tick(20)
            counts.put(type(attempt(lambda: OPENAI.ask(client))).__name__)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(72)))
    kinds = [counts.get() for _ in range(72)]
    assert set(kinds) <= {"ChatCompletion", "BudgetExceeded"}
    assert kinds.count("ChatCompletion") == len(provider.requests) == farebox.report().total.calls
    assert farebox.report().total.usd == provider.bill.usd
    assert 10 <= len(provider.requests) <= 30
    nothing_is_held()


# ── what no SDK sees, in async code ──────────────────────────────────────────────────────────────────────────────


def test_record_and_reserve_in_async_code(provider: Any, use: Use) -> None:
    use(org(usd="0.001", calls=50))

    async def one(number: int) -> None:
        async with farebox.reserve(usd="0.00001", tool=f"tool {number}") as hold:
            await asyncio.sleep(0.005)
            hold.settle(usd="0.000005")
        farebox.record(model="gpt-4o-mini", provider="openai", usd="0.000001")
        with farebox.reserve(usd="0.00001") as sync_hold:
            sync_hold.release()

    async def main() -> None:
        await asyncio.gather(*(one(number) for number in range(15)))
        with pytest.raises(BudgetExceeded):
            async with farebox.reserve(usd="0.002"):
                pass

    asyncio.run(main())
    row = standing_row("org", "usd")
    assert (row.spent, row.reserved) == (Decimal("0.000006") * 15, 0)
    nothing_is_held()


def test_what_was_recorded_past_a_limit_is_told_as_debt(use: Use) -> None:
    use(org(usd="0.001"))
    told: list[Any] = []

    def hear(sender: object, **fields: Any) -> None:
        told.append(fields["decision"])

    with signals.decision.connected_to(hear):
        farebox.record(model="gpt-4o-mini", provider="openai", usd="0.003")
        until(lambda: standing_row("org", "usd").debt == Decimal("0.002"))
    assert len(told) == 1
