"""Sessions of managed agents: those with a budget are held for it, and cost what they say once they can do no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, track
from farebox.errors import UnboundedCall, UnmeteredCall
from farebox.testing import FakeProvider
from tests.acceptance.asked import Steps, ask
from tests.acceptance.rides import ANTHROPIC, needs, nothing_is_left, only_record

pytestmark = pytest.mark.usefixtures("metered")

ONE = "/v1/sessions/sesn_1"
EVENTS: Any = [{"type": "user.message", "content": [{"type": "text", "text": "Why?"}]}]


def cents(amount: int) -> dict[str, Any]:
    return {"type": "limit", "max_list_cost": {"amount": str(amount), "currency": "USD"}}


class Served:
    """One session as the fake provider tells of it: idle, until it is said to have ended."""

    def __init__(self, provider: FakeProvider) -> None:
        self._provider = provider
        self._body: dict[str, Any] = {"id": "sesn_1", "type": "session", "status": "idle", "usage": {}}
        provider.serve(f"{ONE}/events", {"data": []})
        self.says()

    def says(self, **changes: Any) -> None:
        self._body |= changes
        for path in ("/v1/sessions", ONE, f"{ONE}/archive"):
            self._provider.serve(path, self._body)

    def has_cost(self, amount: Any, **changes: Any) -> None:
        used = {"input_tokens": 900, "output_tokens": 100, "cache_read_input_tokens": 5_000}
        self.says(usage={**used, "list_cost": {"amount": amount, "currency": "USD"}}, **changes)


@pytest.fixture
def session(provider: FakeProvider) -> Served:
    return Served(provider)


@pytest.fixture
def sessions(provider: FakeProvider) -> Iterator[Any]:
    with ANTHROPIC.client(provider) as client:
        yield needs(needs(client.beta, "sessions"), "create", "budget") and client.beta.sessions


def begin(sessions: Any, **words: Any) -> Any:
    return sessions.create(agent="agent_1", environment_id="env_1", **words)


def retrieved(sessions: Any) -> Any:
    return sessions.retrieve("sesn_1")


def archived(sessions: Any) -> Any:
    return sessions.archive("sesn_1")


def worked(client: Any) -> Steps:
    return [(yield begin(client.beta.sessions, budget=cents(25))), (yield retrieved(client.beta.sessions))]


def work(provider: FakeProvider, kind: str) -> Any:
    opened = {"sync": ANTHROPIC.client, "async": ANTHROPIC.async_client}[kind]
    return ask(worked, lambda is_async: opened(provider), kind)


@pytest.mark.surface(
    "anthropic beta.sessions.create with a budget", kind="{kind}", proves=["exact", "unbroken", "refused"]
)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_program_sees_of_a_session_what_it_sees_without_farebox(
    kind: str, provider: FakeProvider, session: Served, sessions: Any
) -> None:
    session.has_cost("7", status="terminated")
    farebox.uninstrument()
    without = work(provider, kind)
    with farebox.instrument(), budget(usd=1) as paid:
        assert work(provider, kind) == without
    assert paid.spent_usd == Decimal("0.08")
    sent = len(provider.requests)
    with farebox.instrument(), budget(usd="0.25"), pytest.raises(BudgetExceeded):
        work(provider, kind)
    assert len(provider.requests) == sent


@pytest.mark.parametrize("end", [retrieved, archived])
def test_a_session_is_held_for_its_budget_and_costs_what_it_says_at_its_end(
    end: Callable[[Any], Any], session: Served, sessions: Any
) -> None:
    with track(feature="research"), budget("agents", usd="0.30") as b:
        begin(sessions, budget=cents(25))
        assert (b.spent_usd, b.reserved_usd) == (0, Decimal("0.26"))  # told in whole cents, so a cent more
        with pytest.raises(BudgetExceeded):
            begin(sessions, budget=cents(25))
        sessions.events.send("sesn_1", events=EVENTS)  # within what is held
        session.has_cost("7")
        retrieved(sessions)
        assert b.spent_usd == 0  # it may go on
        session.says(**{"status": "terminated"} if end is retrieved else {"archived_at": "2026-11-30T00:00:00Z"})
        end(sessions)
        assert (b.spent_usd, b.reserved_usd, b.spent_calls) == (Decimal("0.08"), 0, 1)
    (record,) = (record for record in farebox.calls() if record.outcome == "completed")
    assert (record.model, record.cost_source, record.tags) == ("agent:agent_1", "provider", {"feature": "research"})
    assert (record.usage.input_tokens, record.usage.output_tokens) == (5_900, 100)
    nothing_is_left()


def test_an_async_session_is_paid_too(provider: FakeProvider, session: Served, sessions: Any) -> None:
    async def go() -> None:
        async with ANTHROPIC.async_client(provider) as client:
            await begin(client.beta.sessions, budget=cents(25))
            await client.beta.sessions.events.send("sesn_1", events=EVENTS)
            session.has_cost("7", status="terminated")
            await retrieved(client.beta.sessions)

    with budget("agents", usd=1) as b:
        asyncio.run(go())
    assert b.spent_usd == Decimal("0.08")


def test_what_passes_its_budget_in_flight_is_debt(session: Served, sessions: Any) -> None:
    with budget("agents", usd="0.26") as b:
        begin(sessions, budget=cents(25))
        session.has_cost("31", status="terminated")
        retrieved(sessions)
    assert (b.spent_usd, b.debt_usd) == (Decimal("0.32"), Decimal("0.06"))


@pytest.mark.parametrize("amount", [None, "", "-3", "2.5", "³", "9" * 30, 12])
def test_an_end_that_does_not_say_its_cost_is_charged_at_the_budget(
    amount: Any, session: Served, sessions: Any
) -> None:
    with budget("agents", usd=1) as b:
        begin(sessions, budget=cents(25))
        session.has_cost(amount, status="terminated")
        retrieved(sessions)
    assert (b.spent_usd, only_record().cost_source) == (Decimal("0.26"), "estimated")


def test_one_that_did_nothing_costs_nothing(session: Served, sessions: Any) -> None:
    with budget("agents", usd=1) as b:
        begin(sessions, budget=cents(25))
        session.says(usage={"list_cost": {"amount": "0", "currency": "USD"}}, status="terminated")
        retrieved(sessions)
    assert (b.spent_usd, b.reserved_usd) == (0, 0)


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"budget": {"type": "soft", "max_list_cost": {"amount": "25", "currency": "USD"}}},
        {"budget": {"type": "limit", "max_list_cost": {"amount": "25", "currency": "JPY"}}},
        {"budget": {"type": "limit", "max_list_cost": {"amount": "a lot", "currency": "USD"}}},
    ],
    ids=repr,
)
def test_a_session_without_a_budget_that_can_be_read_is_refused_under_a_limit(
    words: Any, session: Served, sessions: Any, provider: FakeProvider
) -> None:
    with budget("agents", usd=100), pytest.raises(UnmeteredCall):
        begin(sessions, **words)
    assert provider.requests == []


def test_what_is_said_in_a_session_that_nobody_here_holds_for_and_another_budget_are_refused_under_a_limit(
    session: Served, sessions: Any, provider: FakeProvider
) -> None:
    with budget("agents", usd=100), pytest.raises(UnmeteredCall):
        sessions.events.send("sesn_2", events=EVENTS)
    with budget("agents", usd=100) as b:
        begin(sessions, budget=cents(25))
        with pytest.raises(UnmeteredCall):
            sessions.update("sesn_1", budget=cents(100_000))
        sessions.update("sesn_1", title="Why")
        assert b.reserved_usd == Decimal("0.26")
    assert [request.method for request in provider.requests] == ["POST", "POST"]


def test_tokens_and_proof_can_t_bound_what_is_bounded_in_dollars(session: Served, sessions: Any) -> None:
    with budget("agents", tokens=10_000_000), pytest.raises(BudgetExceeded):
        begin(sessions, budget=cents(25))
    with budget("agents", usd=1, input_bound="bytes"), pytest.raises(UnboundedCall, match="in flight"):
        begin(sessions, budget=cents(25))
