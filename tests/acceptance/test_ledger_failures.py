"""Stores that are down, slow, locked or empty: nothing is sent that nobody counts, and nothing that was paid is forgotten."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, configure, signals, status, track
from farebox.errors import LedgerLost, LedgerUnavailable
from tests.acceptance.programs.stores import Proxy, locked, locked_for, namespace, nothing_is_held, standing_row, until
from tests.acceptance.rides import OPENAI, Ride, attempt, bound_of, farebox_usd, outcomes
from tests.servers import RedisServer, redis_server

pytestmark = pytest.mark.usefixtures("metered")


def one_at_a_time(ride: Ride) -> Any:
    """USD for one call in flight, and for several short ones after another."""
    return farebox_usd(bound_of(ride).usd_nanos * 3 // 2)


def org(**words: Any) -> budget:
    return budget("org", **{"per": "day", **words})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, to be killed; it keeps what it was told."""
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


def opened(url: str, *budgets: budget, **words: Any) -> Any:
    return configure(ledger=url, budgets=budgets, **words)


@pytest.fixture
def use() -> Iterator[Callable[..., Any]]:
    """`use(url, budget(...), ...)`: a ledger for this test."""
    handles: list[Any] = []

    def use(url: str, *budgets: budget, **words: Any) -> Any:
        handles.append(opened(url, *budgets, **words))
        return handles[-1]

    yield use
    for handle in reversed(handles):
        with suppress(LedgerUnavailable):
            handle.undo()


def sqlite(path: Path, timeout: float = 0.2) -> str:
    return f"sqlite:///{path}?timeout={timeout}"


def redis(port: int, timeout: float = 0.5) -> str:
    return f"redis://127.0.0.1:{port}/0?namespace={namespace()}&timeout={timeout}"


# ── down before a call ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_call_is_refused_unsent_while_the_store_is_down_and_the_scope_holds_nothing(
    ride: Ride, provider: Any, client: Any, use: Any, path: Path
) -> None:
    use(sqlite(path), org(calls=5))
    with budget("scope", usd=1) as scope, locked(path):
        error = attempt(lambda: ride.ask(client))
        assert type(error) is LedgerUnavailable
        assert "nothing was" in str(error).splitlines()[0]
        assert (scope.spent_usd, scope.reserved_usd, scope.reserved_calls) == (0, 0, 0)
    assert not provider.requests
    ride.ask(client)
    assert standing_row("org", "calls").spent == 1
    nothing_is_held()


def test_the_same_for_an_async_call(ride: Ride, provider: Any, use: Any, path: Path) -> None:
    use(sqlite(path), org(calls=5))

    async def main() -> None:
        async with ride.async_client(provider) as client:
            with budget("scope", usd=1) as scope, locked(path):
                with pytest.raises(LedgerUnavailable):
                    await ride.ask(client)
                assert (scope.spent_usd, scope.reserved_usd) == (0, 0)
            await ride.ask(client)

    asyncio.run(main())
    assert len(provider.requests) == 1
    nothing_is_held()


@pytest.mark.timeout(40)
def test_a_store_that_stays_down_answers_the_hundredth_call_as_fast_as_the_first(
    provider: Any, open_client: Any, use: Any, server: RedisServer
) -> None:
    client = open_client(OPENAI)
    use(redis(server.port), org(calls=500))
    OPENAI.ask(client)
    farebox.flush()
    server.kill()
    slowest = 0.0
    for _ in range(100):
        began = time.monotonic()
        done = threading.Event()
        errors: list[Any] = []

        def ask(errors: list[Any] = errors, done: threading.Event = done) -> None:
            errors.append(attempt(lambda: OPENAI.ask(client)))
            done.set()

        threading.Thread(target=ask, daemon=True).start()
        assert done.wait(8), f"call {len(provider.requests)} hangs"
        assert type(errors[0]) is LedgerUnavailable
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 3
    assert len(provider.requests) == 1
    server.start()
    assert type(attempt(lambda: OPENAI.ask(client))).__name__ == "ChatCompletion"
    nothing_is_held()
    assert farebox.report().total.refused_calls == 100


def test_what_many_calls_owe_a_dead_store_keeps_nobody_waiting(
    provider: Any, open_client: Any, use: Any, server: RedisServer
) -> None:
    client = open_client(OPENAI)
    use(redis(server.port), org(calls=500))
    OPENAI.ask(client)
    farebox.flush()
    server.kill()
    for _ in range(80):
        farebox.record(model="gpt-4o-mini", provider="openai", input_tokens=10, output_tokens=10)
    with ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        calls = [pool.submit(attempt, lambda: OPENAI.ask(client)) for _ in range(8)]
        try:
            assert {type(call.result(timeout=10)) for call in calls} == {LedgerUnavailable}
        finally:
            server.start()  # where one hangs: so that the test ends
    assert time.monotonic() - began < 8
    assert farebox.flush(10)
    assert standing_row("org", "calls").spent == 81
    nothing_is_held()


# ── down after a call ────────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer_reaches_its_caller_though_the_store_went_down_meanwhile(
    ride: Ride, provider: Any, client: Any, use: Any, server: RedisServer
) -> None:
    use(redis(server.port), org(usd=1))
    provider.hold()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(lambda: ride.ask(client))
        provider.wait_until_in_flight(1)
        server.kill()
        provider.release()
        assert call.result(timeout=10).id
    assert farebox.flush(0.3) is False
    server.start()
    assert farebox.flush(10)
    assert standing_row("org", "usd").spent == provider.bill.usd
    nothing_is_held()


def test_a_stream_ends_as_it_should_though_the_store_went_down_meanwhile(
    ride: Ride, provider: Any, client: Any, use: Any, path: Path
) -> None:
    use(sqlite(path), org(usd=1))
    stream = ride.stream(client)
    with locked(path):
        assert list(stream)
    assert farebox.flush(10)
    assert standing_row("org", "usd").spent == provider.bill.usd
    nothing_is_held()


# ── on_ledger_error="open" ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("has_scope", [False, True], ids=["no scope", "scope"])
def test_open_sends_and_charges_once_when_the_store_is_back(
    ride: Ride, provider: Any, client: Any, use: Any, path: Path, has_scope: bool
) -> None:
    use(sqlite(path), org(usd=1), on_ledger_error="open")
    ride.ask(client)
    with locked(path):
        if has_scope:
            with budget("scope", usd=1) as scope:
                ride.ask(client)
            assert scope.spent_usd * 2 == provider.bill.usd
        else:
            ride.ask(client)
    assert len(provider.requests) == 2
    assert farebox.flush(10)
    assert standing_row("org", "usd").spent == provider.bill.usd
    assert farebox.report().total.usd == provider.bill.usd
    nothing_is_held()


def test_open_charges_once_where_the_reserve_had_arrived_and_only_its_answer_was_late(
    provider: Any, open_client: Any, use: Any, server: RedisServer, proxy: Proxy
) -> None:
    client = open_client(OPENAI)
    use(redis(proxy.port, timeout=0.2), org(usd=1), on_ledger_error="open")
    OPENAI.ask(client)
    proxy.answer_delay_seconds = 0.6
    OPENAI.ask(client)
    proxy.answer_delay_seconds = 0.0
    assert len(provider.requests) == 2
    assert farebox.flush(10)
    assert standing_row("org", "usd").spent == provider.bill.usd
    nothing_is_held()


def test_open_async_and_a_stream(ride: Ride, provider: Any, use: Any, path: Path) -> None:
    use(sqlite(path), org(usd=1), on_ledger_error="open")

    async def main() -> None:
        async with ride.async_client(provider) as client:
            await ride.ask(client)
            with locked(path):
                await ride.ask(client)
                stream = await ride.stream(client)
                assert [chunk async for chunk in stream]

    asyncio.run(main())
    assert farebox.flush(10)
    assert standing_row("org", "usd").spent == provider.bill.usd
    nothing_is_held()


def test_open_lets_a_rung_not_stand_in_the_way(provider: Any, open_client: Any, use: Any, server: RedisServer) -> None:
    client = open_client(OPENAI)
    use(redis(server.port), org(calls=5, at={0.2: lambda event: None, 0.6: "warn"}), on_ledger_error="open")
    server.kill()
    assert type(attempt(lambda: OPENAI.ask(client))).__name__ == "ChatCompletion"
    assert len(provider.requests) == 1
    server.start()


def test_a_rung_that_was_reached_while_the_store_was_down_is_told_when_it_is_back(
    provider: Any, open_client: Any, use: Any, server: RedisServer
) -> None:
    client = open_client(OPENAI)
    told: list[Any] = []
    use(redis(server.port), org(calls=10, at={0.2: told.append}))
    OPENAI.ask(client)
    provider.hold()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(lambda: OPENAI.ask(client))
        provider.wait_until_in_flight(1)
        server.kill()
        provider.release()
        call.result(timeout=10)
    time.sleep(0.3)  # the thread that asks who was first has asked
    server.start()
    OPENAI.ask(client)
    until(lambda: told, 5)
    assert len(told) == 1


def test_open_sends_a_retry_too(provider: Any, open_client: Any, use: Any, path: Path) -> None:
    client = open_client(OPENAI, max_retries=1)
    use(sqlite(path), org(usd=1), on_ledger_error="open")

    def die_and_lock(request: Any) -> Any:
        return farebox.testing.Answer(output_tokens=5)

    provider.answer(die_and_lock)
    provider.drop("billing", times=1)
    with signals.pre_retry.connected_to(lambda sender, call: None):
        with LockedAfterFirstAttempt(path):
            answer = attempt(lambda: OPENAI.ask(client))
    assert type(answer).__name__ == "ChatCompletion"
    assert len(provider.requests) == 2
    assert farebox.flush(10)
    assert standing_row("org", "usd").spent >= provider.bill.usd
    nothing_is_held()


class LockedAfterFirstAttempt:
    """Locks the file once a reserve was answered: when the provider is asked for the first time."""

    def __init__(self, path: Path) -> None:
        self._lock = locked(path)
        self._has_begun = False

    def __enter__(self) -> None:
        def begin(sender: object, call: Any) -> None:
            if not self._has_begun:
                self._has_begun = True
                self._lock.__enter__()

        self._begin = begin
        signals.pre_call.connect(begin)

    def __exit__(self, *error: Any) -> None:
        signals.pre_call.disconnect(self._begin)
        if self._has_begun:
            self._lock.__exit__(None, None, None)


def test_closed_does_not_send_a_retry_that_nobody_could_hold(
    provider: Any, open_client: Any, use: Any, path: Path
) -> None:
    client = open_client(OPENAI, max_retries=1)
    use(sqlite(path), org(usd=1))
    provider.answer(output_tokens=5)
    provider.drop("billing", times=1)
    with LockedAfterFirstAttempt(path):
        error = attempt(lambda: OPENAI.ask(client))
    assert type(error) is LedgerUnavailable
    assert len(provider.requests) == 1
    assert farebox.flush(10)
    assert standing_row("org", "usd").spent >= provider.bill.usd > 0  # the first attempt was billed
    nothing_is_held()


# ── in line when the store goes down ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.timeout(60)
def test_who_stands_in_line_while_the_store_is_away_for_a_moment_is_served_afterwards(
    ride: Ride, provider: Any, client: Any, use: Any, path: Path
) -> None:
    use(sqlite(path), org(usd=one_at_a_time(ride)))
    provider.answer(output_tokens=2)
    provider.hold()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(lambda: ride.ask(client))
        provider.wait_until_in_flight(1)
        second = pool.submit(attempt, lambda: ride.ask(client))
        until(lambda: tickets() == 1)
        with locked(path):
            time.sleep(0.8)  # several times the store's timeout
        provider.release()
        assert first.result(timeout=5).id
        answer = second.result(timeout=30)
    assert not isinstance(answer, Exception), answer
    assert len(provider.requests) == 2
    nothing_is_held()


def test_open_sends_who_would_have_to_stand_in_line_of_a_store_that_went_down(
    provider: Any, open_client: Any, use: Any, server: RedisServer
) -> None:
    # Answered "contended", and gone before the line is entered: a Redis that dies between two round trips.
    client = open_client(OPENAI)
    use(redis(server.port), org(calls=1, patience=5), on_ledger_error="open")
    with farebox.reserve(tool="t") as hold:
        from farebox import _negotiate

        stand, kill = _negotiate._stand_in_line, server.kill

        def kill_and_stand(*args: Any) -> Any:
            kill()
            return stand(*args)

        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
            patch.setattr(_negotiate, "_stand_in_line", kill_and_stand)
            answer = pool.submit(attempt, lambda: OPENAI.ask(client)).result(timeout=20)
        server.start()
        hold.release()
    assert type(answer).__name__ == "ChatCompletion", answer
    assert farebox.flush(10)
    assert standing_row("org", "calls").spent == 1
    nothing_is_held()


async def until_true(is_true: Callable[[], object]) -> None:
    """Wait for what another thread does, and let the loop go on."""
    for _ in range(2_000):
        if is_true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen")


def tickets() -> int:
    from farebox import _config

    return len(_config.state().ledger._line.tickets)  # type: ignore[attr-defined]


# ── lost ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_server_that_came_back_empty_is_refused_until_it_is_opened_anew(
    ride: Ride, provider: Any, client: Any, tmp_path: Path, use: Any
) -> None:
    (tmp_path / "forgetful").mkdir()
    with redis_server(tmp_path / "forgetful") as server:
        url = redis(server.port)
        use(url, org(calls=3))
        ride.ask(client)
        farebox.flush()
        server.kill()
        server.start()
        for _ in range(2):
            with pytest.raises(LedgerLost, match="configure"):
                ride.ask(client)
        assert len(provider.requests) == 1
        use(url, org(calls=3))
        ride.ask(client)
        assert standing_row("org", "calls").spent == 1
        nothing_is_held()


def test_open_sends_nothing_to_the_provider_on_a_lost_ledger_or_says_what_becomes_of_it(
    provider: Any, open_client: Any, tmp_path: Path, use: Any
) -> None:
    # "open" is for a store that does not answer; one that was emptied answers.  Nothing is ever charged to it later.
    client = open_client(OPENAI)
    (tmp_path / "forgetful").mkdir()
    with redis_server(tmp_path / "forgetful") as server:
        use(redis(server.port), org(calls=3), on_ledger_error="open")
        OPENAI.ask(client)
        farebox.flush()
        server.kill()
        server.start()
        with pytest.raises(LedgerLost):
            OPENAI.ask(client)
    assert len(provider.requests) == 1


# ── slow ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", ["request", "answer"])
def test_a_reserve_that_arrives_after_its_caller_gave_up_holds_nothing(
    ride: Ride, provider: Any, client: Any, use: Any, proxy: Proxy, way: str
) -> None:
    use(redis(proxy.port, timeout=0.2), org(calls=2))
    ride.ask(client)
    setattr(proxy, f"{way}_delay_seconds", 0.7)
    for _ in range(3):
        with pytest.raises(LedgerUnavailable):
            ride.ask(client)
    setattr(proxy, f"{way}_delay_seconds", 0.0)
    time.sleep(0.8)  # whatever was on its way has arrived
    assert farebox.flush(10)
    (row,) = status("org")
    assert (row.spent, row.reserved) == (1, 0)
    ride.ask(client)
    assert len(provider.requests) == 2
    nothing_is_held()


def keeps_ticking(main: Callable[[], Any]) -> bool:
    """Whether a loop that ran it also went on: one that blocks does so each time, a busy machine does not."""
    for _ in range(3):
        ticks: list[float] = []
        longest_gap(main, ticks)
        assert len(ticks) > 40
        if max(ticks) < 0.25:
            return True
    return False


def longest_gap(main: Callable[[], Any], ticks: list[float]) -> Any:
    """Run a coroutine function beside a task that ticks every 10 ms in the same loop, and notes its gaps in seconds."""

    async def run() -> Any:
        async def tick() -> None:
            last = time.monotonic()
            while True:
                await asyncio.sleep(0.01)
                now = time.monotonic()
                ticks.append(now - last)
                last = now

        ticking = asyncio.create_task(tick())
        try:
            return await main()
        finally:
            ticking.cancel()

    return asyncio.run(run())


def busy_program(ride: Ride, provider: Any) -> Callable[[], Any]:
    async def main() -> None:
        async with ride.async_client(provider) as client:
            await ride.ask(client)

            async def one() -> None:
                await ride.ask(client)
                stream = await ride.stream(client)
                assert [chunk async for chunk in stream]
                async with farebox.reserve(usd="0.000001", tool="t") as hold:
                    hold.settle(usd="0.000001")
                farebox.record(model=ride.model, provider=ride.name, input_tokens=1, output_tokens=1)

            await asyncio.gather(*(one() for _ in range(5)))

    return main


def test_an_event_loop_goes_on_while_the_file_is_locked(ride: Ride, provider: Any, use: Any, path: Path) -> None:
    use(sqlite(path, timeout=5), org(usd=1, at={0.000_01: lambda event: None, 0.5: "warn"}))
    main = busy_program(ride, provider)

    async def while_locked() -> None:
        with locked_for(path, 1.0):
            await main()

    assert keeps_ticking(while_locked)
    nothing_is_held()


def test_an_event_loop_goes_on_while_redis_takes_its_time(ride: Ride, provider: Any, use: Any, proxy: Proxy) -> None:
    use(redis(proxy.port, timeout=5), org(usd=1, at={0.000_01: lambda event: None, 0.5: "warn"}))
    proxy.request_delay_seconds = 0.4
    assert keeps_ticking(busy_program(ride, provider))
    proxy.request_delay_seconds = 0.0
    nothing_is_held()


def test_an_event_loop_goes_on_with_two_hundred_tasks_in_line(provider: Any, use: Any, path: Path) -> None:
    use(sqlite(path, timeout=5), org(usd=bound_of(OPENAI).usd(2)))
    provider.answer(output_tokens=1)
    provider.hold()

    async def main() -> None:
        async with OPENAI.async_client(provider) as client:
            crowd = [asyncio.create_task(OPENAI.ask(client)) for _ in range(200)]
            await until_true(lambda: tickets() >= 198)
            await asyncio.sleep(1.0)
            for task in crowd:
                task.cancel()
            await asyncio.gather(*crowd, return_exceptions=True)
            provider.release()
            await asyncio.to_thread(provider.wait_until_idle)
            farebox.reset("org")
            provider.hold()

    assert keeps_ticking(main)
    provider.release()
    nothing_is_held()


# ── cancelled ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("after", [0.0, 0.02, 0.25])
def test_a_task_that_is_cancelled_while_a_slow_store_is_asked_leaves_no_hold(
    provider: Any, use: Any, proxy: Proxy, after: float
) -> None:
    use(redis(proxy.port, timeout=5), org(usd=1))
    proxy.request_delay_seconds = proxy.answer_delay_seconds = 0.3

    async def main() -> None:
        async with OPENAI.async_client(provider) as client:
            with budget("scope", usd=1) as scope:
                task = asyncio.create_task(OPENAI.ask(client))
                await asyncio.sleep(after)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert scope.reserved_usd == 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.15):
                    await OPENAI.ask(client)
            await asyncio.sleep(0.8)

    asyncio.run(main())
    proxy.request_delay_seconds = proxy.answer_delay_seconds = 0.0
    assert not provider.requests
    nothing_is_held()


def test_forty_tasks_that_are_cancelled_at_once_leave_no_hold(provider: Any, use: Any, path: Path) -> None:
    # More than there are threads to ask the store: some wait for a thread, some for the file.
    use(sqlite(path, timeout=5), org(usd=1))

    async def main() -> None:
        async with OPENAI.async_client(provider) as client:
            with locked_for(path, 0.6):
                crowd = [asyncio.create_task(OPENAI.ask(client)) for _ in range(40)]
                await asyncio.sleep(0.2)
                for task in crowd:
                    task.cancel()
                answers = await asyncio.gather(*crowd, return_exceptions=True)
            assert {type(answer) for answer in answers} == {asyncio.CancelledError}
            await asyncio.sleep(0.2)
            await OPENAI.ask(client)

    asyncio.run(main())
    assert len(provider.requests) == 1
    nothing_is_held()


def test_a_loop_that_is_closed_in_the_middle_of_a_reserve_leaves_no_hold(provider: Any, use: Any, path: Path) -> None:
    use(sqlite(path, timeout=5), org(usd=1))

    async def main() -> None:
        client = OPENAI.async_client(provider)
        asyncio.get_running_loop().create_task(OPENAI.ask(client))
        await asyncio.sleep(0.1)

    with locked_for(path, 0.5):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    time.sleep(0.3)
    nothing_is_held()


def test_who_is_cancelled_in_line_leaves_it_and_the_next_is_served(
    ride: Ride, provider: Any, use: Any, path: Path
) -> None:
    use(sqlite(path, timeout=5), org(usd=one_at_a_time(ride)))
    provider.answer(output_tokens=2)
    provider.hold()

    async def main() -> None:
        async with ride.async_client(provider) as client:
            first = asyncio.create_task(ride.ask(client))
            await until_true(lambda: provider.in_flight >= 1)
            crowd = [asyncio.create_task(ride.ask(client)) for _ in range(4)]
            await until_true(lambda: tickets() >= 4)
            crowd[0].cancel()
            crowd[2].cancel()
            provider.release()
            answers = await asyncio.gather(first, *crowd, return_exceptions=True)
            kinds = [type(answer).__name__ for answer in answers]
            assert kinds.count("CancelledError") == 2
            assert kinds.count("ChatCompletion") + kinds.count("Message") == 3
            await asyncio.to_thread(provider.wait_until_idle)
            with pytest.raises(TimeoutError):
                provider.hold()
                held = asyncio.create_task(ride.ask(client))
                await until_true(lambda: provider.in_flight >= 1)
                async with asyncio.timeout(0.2):
                    await ride.ask(client)
            provider.release()
            await held

    asyncio.run(main())
    assert tickets() == 0
    nothing_is_held()


def test_who_leaves_the_line_while_money_comes_for_it_leaves_no_hold(use: Any, path: Path) -> None:
    # Between the line's look at a waiter and its reserve: where `renew` is asked.
    from farebox import _config
    from farebox._standing import terms_at
    from farebox.ledgers import Need, Ticket

    use(sqlite(path, timeout=5), org(calls=1))
    state = _config.state()
    ledger = state.ledger
    accounts = terms_at(state.standing[0], {}, state)
    need = Need(fixed_usd_nanos=0, fixed_tokens=0, tokens_per_token=0)
    ledger.reserve(1, accounts, need, owner="holder")
    asked = threading.Event()

    def renew() -> Need:
        if not asked.is_set():
            ledger.release_later(2)  # as a task that is cancelled now
            asked.set()
        return need

    ticket = ledger.park(2, accounts, need, owner="waiter", wake=lambda: None, renew=renew)
    assert isinstance(ticket, Ticket)
    ledger.settle(1, 0, 0, 0)
    assert asked.wait(5)
    time.sleep(0.2)
    assert farebox.flush(5)
    assert standing_row("org", "calls").reserved == 0


def test_a_call_that_left_the_line_in_vain_and_asks_for_less_keeps_what_it_then_gets(
    provider: Any, open_client: Any, use: Any, server: RedisServer, proxy: Proxy
) -> None:
    # The line is asking the slow store for it at the moment it gives up; whatever comes of that is not what it holds then.
    client = open_client(OPENAI)
    bound = bound_of(OPENAI)
    provider.answer(output_tokens=5)
    use(redis(proxy.port, timeout=5), org(usd=bound.usd(30), patience=0.6))
    for _ in range(3):
        with farebox.reserve(usd=bound.usd(27), tool="t") as hold, ThreadPoolExecutor(1) as pool:
            proxy.request_delay_seconds = 0.12
            call = pool.submit(
                attempt, lambda: OPENAI.api(client).create(model=OPENAI.model, messages=OPENAI.words()["messages"])
            )
            call.result(timeout=20)
            proxy.request_delay_seconds = 0.0
            hold.release()
        time.sleep(0.3)
        assert farebox.flush(10)
        (row,) = status("org")
        assert row.spent + row.reserved >= provider.bill.usd
        assert row.spent == farebox.report().total.usd
    nothing_is_held()


# ── configure() in the middle ────────────────────────────────────────────────────────────────────────────────────


def test_a_call_settles_in_the_ledger_it_reserved_in_whatever_is_configured_meanwhile(
    ride: Ride, provider: Any, client: Any, use: Any, tmp_path: Path
) -> None:
    use(f"sqlite:///{tmp_path / 'one.db'}", org(usd=1))
    provider.hold()
    stream = None
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(lambda: ride.ask(client))
        provider.wait_until_in_flight(1)
        two = configure(ledger=f"sqlite:///{tmp_path / 'two.db'}", budgets=[org(usd=1)])
        provider.release()
        call.result(timeout=10)
        stream = ride.stream(client)
        two.undo()  # with a stream open
        assert list(stream)
    assert farebox.flush(10)
    first, second = provider.bill.lines
    assert standing_row("org", "usd").spent == first.usd
    use(f"sqlite:///{tmp_path / 'two.db'}", org(usd=1))
    until(lambda: standing_row("org", "usd").reserved == 0)
    assert standing_row("org", "usd").spent == second.usd


def test_a_call_that_waits_in_a_scope_while_its_ledger_is_undone_is_sent_all_the_same(
    ride: Ride, provider: Any, client: Any, use: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farebox.ledgers._stored._RETIRE_SECONDS", 0.1)
    use(f"sqlite:///{tmp_path / 'one.db'}", org(usd=1))
    two = configure(ledger=f"sqlite:///{tmp_path / 'two.db'}", budgets=[org(usd=1)])
    provider.hold()
    provider.answer(output_tokens=1)
    with budget("scope", usd=one_at_a_time(ride)), ThreadPoolExecutor(2) as pool:
        first = pool.submit(lambda: ride.ask(client))
        provider.wait_until_in_flight(1)
        second = pool.submit(attempt, lambda: ride.ask(client))
        from farebox import _config

        until(lambda: _config.state().scope_ledger._book.line.tickets)  # type: ignore[attr-defined]
        ledger = _config.state().ledger
        two.undo()
        provider.release()
        first.result(timeout=10)
        answer = second.result(timeout=10)
    assert not isinstance(answer, Exception), answer
    assert ledger is not _config.state().ledger


def test_what_open_sent_is_charged_though_its_ledger_was_undone_meanwhile(
    provider: Any, open_client: Any, use: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farebox.ledgers._stored._RETIRE_SECONDS", 0.1)
    client = open_client(OPENAI)
    handle = configure(ledger=sqlite(path), budgets=[org(usd=1)], on_ledger_error="open")
    provider.hold()
    with ThreadPoolExecutor(1) as pool:
        with locked(path):
            call = pool.submit(lambda: OPENAI.ask(client))
            provider.wait_until_in_flight(1)
        handle.undo()
        time.sleep(0.5)
        provider.release()
        call.result(timeout=10)
    time.sleep(0.3)
    use(sqlite(path), org(usd=1))
    until(lambda: standing_row("org", "usd").spent == provider.bill.usd, 3)


# ── what a row may hold ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_a_tag_that_no_store_can_write_stops_nobody_else(
    provider: Any, open_client: Any, use: Any, path: Path, request: pytest.FixtureRequest, store: str
) -> None:
    client = open_client(OPENAI)
    url = sqlite(path) if store == "sqlite" else redis(request.getfixturevalue("server").port)
    use(url, org(calls=10))
    for odd in ("\udc80", "\x00", "a" * 70_000, "#?=&/%"):
        with track(user_id=odd):
            attempt(lambda: OPENAI.ask(client))
        OPENAI.ask(client)
    assert farebox.flush(5)
    assert standing_row("org", "calls").spent == len(provider.requests)
    nothing_is_held()


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_a_tenant_that_no_store_can_write_is_refused_or_kept_and_stops_nobody_else(
    provider: Any, open_client: Any, use: Any, path: Path, request: pytest.FixtureRequest, store: str
) -> None:
    client = open_client(OPENAI)
    url = sqlite(path) if store == "sqlite" else redis(request.getfixturevalue("server").port)
    use(url, org(calls=10, each="tenant"))
    for odd in ("\x00", "", "a" * 5_000, "#?=&/%", "\n"):
        with track(tenant=odd):
            OPENAI.ask(client)
    with track(tenant="\udc80"):
        attempt(lambda: OPENAI.ask(client))
    with track(tenant="acme"):
        OPENAI.ask(client)
    assert standing_row("org", "calls", tenant="acme").spent == 1
    nothing_is_held()


# ── retries ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_retry_is_held_in_the_store_too_and_not_sent_where_there_is_no_room(
    ride: Ride, provider: Any, use: Any, path: Path, is_async: bool
) -> None:
    provider.answer(output_tokens=5)
    bound = bound_of(ride)

    def once() -> Any:
        if not is_async:
            with ride.client(provider, max_retries=1) as client:
                return attempt(lambda: ride.ask(client))

        async def main() -> Any:
            async with ride.async_client(provider, max_retries=1) as client:
                try:
                    return await ride.ask(client)
                except Exception as error:
                    return error

        return asyncio.run(main())

    use(sqlite(path, 5), org(usd=bound.usd(2)))
    provider.drop("billing", times=1)
    reserved: list[Any] = []
    with signals.pre_retry.connected_to(lambda sender, call: reserved.append(standing_row("org", "usd").reserved)):
        answer = once()
    assert not isinstance(answer, Exception), answer
    assert reserved == [farebox_usd(2 * bound.usd_nanos)]
    assert farebox.flush(5)
    assert standing_row("org", "usd").spent >= provider.bill.usd
    farebox.reset("org")
    sent = len(provider.requests)
    farebox.set_limit("org", usd=bound.usd(1))
    provider.drop("billing", times=1)
    error = once()
    assert isinstance(error, BudgetExceeded)
    assert len(provider.requests) == sent + 1
    assert farebox.flush(5)
    assert standing_row("org", "usd").spent <= farebox_usd(bound.usd_nanos)
    nothing_is_held()


def test_a_retry_whose_hold_others_took_for_dead_is_not_sent(
    provider: Any, open_client: Any, use: Any, server: RedisServer
) -> None:
    # A process that stood still (a laptop asleep, SIGSTOP) for longer than it may be silent.
    from farebox._rows import FORM
    from farebox.ledgers import open_ledger

    client = open_client(OPENAI, max_retries=1)
    url = redis(server.port)
    use(url, org(usd=bound_of(OPENAI).usd(1)))
    later = open_ledger(url, form=FORM, clock=lambda: time.time() + 3_600)
    provider.answer(output_tokens=5)
    provider.drop("billing", times=1)
    expired: list[int] = []
    with signals.pre_call.connected_to(lambda sender, call: expired.append(later.expire())):
        error = attempt(lambda: OPENAI.ask(client))
    later.close()
    assert expired == [1]
    assert isinstance(error, Exception)
    assert len(provider.requests) == 1
    assert farebox.flush(5)
    assert standing_row("org", "usd").spent >= provider.bill.usd


def test_every_record_tells_how_its_call_ended(provider: Any, open_client: Any, use: Any, path: Path) -> None:
    client = open_client(OPENAI)
    use(sqlite(path), org(calls=1))
    OPENAI.ask(client)
    for _ in range(2):
        with pytest.raises(BudgetExceeded):
            OPENAI.ask(client)
    assert sorted(outcomes()) == ["completed", "refused", "refused"]
