"""Paid tools and model calls under one budget: neither knows of the other, and what the one holds the other can't have."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, report, reserve
from tests.acceptance.rides import Ride, attempt, bound_of, farebox_usd, nothing_is_left, stormproof

pytestmark = pytest.mark.usefixtures("metered")


def test_what_a_tool_holds_no_call_can_have(ride: Ride, provider: Any, client: Any) -> None:
    bound = bound_of(ride).usd_nanos
    limit = farebox_usd(bound * 2)
    with stormproof(provider), budget("shared", usd=limit, patience=0) as b:
        with reserve(usd=farebox_usd(bound * 3 // 2), tool="search") as hold:
            refusal = attempt(lambda: ride.ask(client))
            hold.settle(usd=farebox_usd(bound // 2))
        ride.ask(client)
    assert isinstance(refusal, BudgetExceeded)
    assert refusal.kind == "contended"
    assert len(provider.requests) == 1
    assert b.spent_usd == provider.bill.usd + farebox_usd(bound // 2)
    assert report(by="tool").total.usd == b.spent_usd
    nothing_is_left()


def test_what_a_call_holds_no_tool_can_have(ride: Ride, provider: Any, client: Any) -> None:
    limit = farebox_usd(bound_of(ride, is_stream=True).usd_nanos * 3 // 2)
    with stormproof(provider), budget(usd=limit, patience=0):
        stream = ride.stream(client)
        with pytest.raises(BudgetExceeded), reserve(usd=farebox_usd(bound_of(ride).usd_nanos)):
            pass
        assert list(stream)
    nothing_is_left()


def test_a_call_waits_for_a_tool_that_another_task_uses(ride: Ride, provider: Any) -> None:
    bound = bound_of(ride).usd_nanos

    async def main() -> None:
        async with ride.async_client(provider) as client, asyncio.TaskGroup() as group:
            started = asyncio.Event()

            async def tool() -> None:
                async with reserve(usd=farebox_usd(bound)) as hold:
                    started.set()
                    await asyncio.sleep(0.05)
                    assert not provider.requests
                    hold.settle(usd=0)

            group.create_task(tool())
            await started.wait()
            group.create_task(ride.ask(client))

    with budget(usd=farebox_usd(bound * 3 // 2)) as b:
        asyncio.run(main())
    assert b.spent_usd == provider.bill.usd > 0
    nothing_is_left()


def test_a_crowd_of_calls_and_tools_stays_within_one_limit(ride: Ride, provider: Any, client: Any) -> None:
    bound = bound_of(ride).usd_nanos
    limit, tool_usd = bound * 12, farebox_usd(bound // 2)

    def use() -> str:
        with reserve(usd=tool_usd, tool="search") as hold:
            hold.settle(usd=tool_usd)
        return "used"

    with stormproof(provider), budget("outer", usd=1), budget("inner", usd=farebox_usd(limit)) as inner:
        with ThreadPoolExecutor(50) as pool:
            calls = [pool.submit(attempt, lambda: ride.ask(client)) for _ in range(25)]
            tools = [pool.submit(attempt, use) for _ in range(25)]
        used = [one.result() for one in tools].count("used")
        asked = [one for one in calls if not isinstance(one.result(), BudgetExceeded)]
    assert len(asked) == len(provider.requests)
    assert inner.spent_usd == provider.bill.usd + used * tool_usd <= farebox_usd(limit)
    assert inner.debt_usd == 0
    assert farebox.report().total.refused_calls == 50 - used - len(asked)
    nothing_is_left()
