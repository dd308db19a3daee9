"""OpenAI's live sessions over a real websocket: slices of time are calls, and so is what their backend answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest

import farebox
from farebox import BudgetExceeded, budget, report, track
from farebox.seams import _sessions
from tests.acceptance.rides import nothing_is_left, only_record

pytest.importorskip("openai._websocket_connection", reason="this openai has no websockets that can be read")
pytest.importorskip("openai.resources.live.live", reason="this openai has no live sessions")
pytest.importorskip("websockets.sync.server", reason="websockets is not installed, or too old to serve")

from tests.acceptance import openai_live_server

pytestmark = [
    pytest.mark.usefixtures("metered"),
    pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning"),
]
SESSION: Any = {"model": openai_live_server.MODEL}
BACKEND: Any = {"type": "responses", "responses": {"model": openai_live_server.BACKEND, "max_output_tokens": 500}}
#: A slice is held for two minutes.
HELD = Decimal("0.10")
#: Of a price by the millisecond, rounded up.
NEAR = Decimal("0.000001")


@pytest.fixture
def server() -> Iterator[openai_live_server.LiveServer]:
    with openai_live_server.running() as server:
        yield server


@pytest.fixture
def connection(server: Any) -> Iterator[Any]:
    client = openai.OpenAI(api_key="fake", base_url=f"http://127.0.0.1:{server.port}/v1")
    with client, client.live.connect() as connection:
        yield connection


def listen(connection: Any, until: str) -> list[Any]:
    events = []
    while not events or events[-1].type != until:
        events.append(connection.recv())
    return events


def start(connection: Any, **words: Any) -> None:
    connection.session.start(session={**SESSION, **words})
    listen(connection, "session.started")


def wait(connection: Any, seconds: int) -> None:
    connection.session.input_audio.append(audio=str(seconds))
    listen(connection, "session.usage.updated")


def end(connection: Any) -> None:
    connection.session.close()
    listen(connection, "session.closed")


def is_near(usd: Any, billed: Decimal) -> bool:
    return billed <= usd < billed + NEAR


@pytest.mark.parametrize("told", [{}, {"seconds": "120"}, {"seconds": -1}, {"seconds": 1e9}, []])
def test_a_report_that_can_not_be_read_ends_its_slice_at_its_bound(told: Any, server: Any, connection: Any) -> None:
    server.told = told
    with budget(usd=1) as b:
        start(connection)
        for n in range(1, 4):
            wait(connection, 110)
            assert is_near(b.spent_usd, n * HELD)
            assert b.spent_usd + b.reserved_usd >= server.usd
        end(connection)
        assert server.usd <= b.spent_usd < 1
    nothing_is_left()


@pytest.mark.surface("openai live.connect", kind="sync", proves=["exact", "unbroken"])
def test_a_session_costs_the_time_that_it_lasts_in_slices(server: Any, connection: Any) -> None:
    with budget(usd=1) as b, track(feature="voice"):
        start(connection)
        assert is_near(b.reserved_usd, HELD)
        wait(connection, 20)
        assert b.spent_usd == 0  # the slice goes on
        wait(connection, 50)
        assert is_near(b.spent_usd, server.usd)
        assert is_near(b.reserved_usd, HELD)
        wait(connection, 30)
        end(connection)
        assert is_near(b.spent_usd, server.usd)
        assert b.reserved_usd == 0
    assert server.seconds == 101
    # 101 seconds at 0.05 dollars a minute
    assert is_near(report(where={"feature": "voice", "operation": "live"}).total.usd, Decimal("0.0841666"))
    lasted = [record.usage.input_audio_milliseconds for record in farebox.calls()]
    assert sorted(lasted) == [31_000, 70_000]
    nothing_is_left()


@pytest.mark.surface("openai live.connect", kind="async", proves=["exact", "unbroken", "refused"])
def test_async_sessions_cost_the_same(server: Any) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(api_key="fake", base_url=f"http://127.0.0.1:{server.port}/v1") as client:
            async with client.live.connect() as connection:
                with budget(usd=0), pytest.raises(BudgetExceeded):
                    await connection.session.start(session=SESSION)
                with budget(usd=1) as b:
                    await connection.session.start(session=SESSION)
                    await connection.session.input_audio.append(audio="90")
                    while (await connection.recv()).type != "session.usage.updated":
                        pass
                    await connection.session.close()
                    while (await connection.recv()).type != "session.closed":
                        pass
                    assert is_near(b.spent_usd, server.usd)

    asyncio.run(main())
    assert [event["type"] for event in server.heard].count("session.start") == 1
    nothing_is_left()


@pytest.mark.surface("openai live.connect", kind="sync", proves="refused")
def test_where_nothing_is_left_no_session_is_started(server: Any, connection: Any) -> None:
    with budget("none", usd="0.05"), pytest.raises(BudgetExceeded, match="none"):
        start(connection)
    assert not server.heard
    assert only_record().outcome == "refused"


@pytest.mark.parametrize("is_deaf", [False, True])
def test_where_nothing_is_left_for_the_next_slice_the_session_is_closed_and_what_it_came_to_is_paid(
    server: Any, connection: Any, monkeypatch: pytest.MonkeyPatch, is_deaf: bool
) -> None:
    monkeypatch.setattr(_sessions, "_MOST_WAIT_SECONDS", 0.05 if is_deaf else 10.0)
    server.is_deaf = is_deaf
    with budget("short", usd="0.15") as b:
        start(connection)
        with pytest.raises(BudgetExceeded, match="short"):
            wait(connection, 70)
        assert server.closed.wait(10)
        assert server.heard[-1]["type"] == "session.close"
        if is_deaf:
            assert b.spent_usd > server.usd
            assert b.debt_usd > 0
        else:
            assert is_near(b.spent_usd, server.usd)
        assert b.reserved_usd == 0
    outcomes = sorted(record.outcome for record in farebox.calls())
    assert outcomes == sorted(["completed", "refused", "closed" if is_deaf else "completed"])
    nothing_is_left()


@pytest.mark.parametrize("asked", [True, False])
def test_what_the_backend_answers_is_a_call_of_its_own(server: Any, connection: Any, asked: bool) -> None:
    server.delegates = not asked
    backend = {**BACKEND, "responses": {**BACKEND["responses"], "tools": [{"type": "web_search"}]}}
    with budget(usd=20) as b:
        start(connection, delegation=backend)
        if asked:
            held = b.reserved_usd
            connection.response.create()
            assert b.reserved_usd > held + 2  # all that gpt-4.1 can read: a million tokens of 2 dollars a million
        wait(connection, 10)
        end(connection)
        assert is_near(b.spent_usd, server.usd)
        assert b.reserved_usd == 0
    assert server.backend_usd == Decimal("0.0136")  # 1,000 x 2 and 200 x 8 dollars a million, and a search
    (answer,) = farebox.calls(where={"model": openai_live_server.BACKEND})
    assert (answer.usd, answer.response_id, answer.declared_cap) == (Decimal("0.0136"), "resp_1", 500)
    nothing_is_left()


def test_what_the_server_refuses_costs_nothing(server: Any, connection: Any) -> None:
    with budget(usd=1, on_unpriced="dearest") as b:
        connection.session.start(session={"model": "none"})
        listen(connection, "error")
        assert (b.spent_usd, b.reserved_usd) == (0, 0)


def test_a_session_that_is_closed_without_a_word_is_presumed_to_have_lasted(server: Any, connection: Any) -> None:
    with budget(usd=1) as b:
        start(connection)
        connection.close()
        assert is_near(b.spent_usd, HELD)
    assert (only_record().outcome, only_record().cost_source) == ("closed", "estimated")


@pytest.mark.parametrize("usage", [None, {"seconds": "12"}, {"seconds": -1}, {"seconds": float("inf")}, 7])
def test_a_time_that_can_t_be_believed_is_charged_at_the_bound(server: Any, connection: Any, usage: Any) -> None:
    said = server.say
    server.say = lambda socket, event: said(socket, {**event, "usage": usage} if "usage" in event else event)
    with budget(usd=1) as b:
        start(connection)
        end(connection)
        assert is_near(b.spent_usd, HELD)
    assert only_record().cost_source == "estimated"
