"""Google's live sessions over a real websocket: each report of usage is a call, held before it is asked for or when it begins."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, report, signals, track
from tests.acceptance.rides import HAS_GOOGLE, nothing_is_left, only_record

if not HAS_GOOGLE:
    pytest.skip("google-genai is not installed", allow_module_level=True)
pytest.importorskip("websockets.sync.server", reason="websockets is too old to serve")

from google import genai

from tests.acceptance import live_server

pytestmark = pytest.mark.usefixtures("metered")
MODEL = live_server.MODEL
CAPPED = {"max_output_tokens": 500}


@pytest.fixture
def server() -> Iterator[live_server.LiveServer]:
    with live_server.running() as server:
        yield server


def client_of(server: Any, **words: Any) -> Any:
    tls = live_server.encrypted(ssl.PROTOCOL_TLS_CLIENT)
    options = {"base_url": f"https://127.0.0.1:{server.port}", "async_client_args": {"ssl": tls}}
    return genai.Client(api_key="fake", http_options=options, **words)


def run(server: Any, talk: Callable[[Any], Awaitable[None]], config: Any = CAPPED, **words: Any) -> None:
    """Open a session, and have it talked to."""

    async def main() -> None:
        async with client_of(server, **words).aio.live.connect(model=MODEL, config=config) as session:
            await talk(session)

    asyncio.run(main())


async def ask(session: Any, text: str = "How much is a ride?") -> list[Any]:
    await session.send_client_content(turns={"role": "user", "parts": [{"text": text}]})
    return await listen(session)


async def listen(session: Any) -> list[Any]:
    return [message async for message in session.receive()]


def in_order() -> list[Any]:
    return sorted(farebox.calls(), key=lambda record: record.started_at)


@pytest.mark.surface("google-genai live.connect", kind="async", proves=["exact", "unbroken"])
@pytest.mark.parametrize("vertexai", [False, True])
def test_each_turn_costs_what_the_server_bills(server: Any, vertexai: bool) -> None:
    async def talk(session: Any) -> None:
        with budget(usd=1) as b, track(feature="voice"):
            messages = await ask(session)
            assert len(messages) == 4
            assert messages[0].data == b"\0\0\0"
            server.script.append({"AUDIO out": 200, "AUDIO": 300, "IMAGE": 100})
            await ask(session)
            assert (b.spent_usd, b.reserved_usd, b.spent_calls) == (server.usd, 0, 2)

    run(server, talk, vertexai=vertexai)
    # 150 x 0.75 + 40 x 3 + 75 x 12 dollars a million
    assert server.bill[0] == Decimal("0.0011325")
    total = report(where={"feature": "voice", "model": MODEL, "operation": "live"}).total
    assert (total.usd, total.calls, total.input_tokens, total.output_tokens) == (server.usd, 2, 190 + 550, 75 + 200)
    assert report().total.unmetered_calls == 0
    first = in_order()[0]
    assert first.provider_name == ("gcp.vertex_ai" if vertexai else "gcp.gemini")
    assert (first.usage.uncached_input_tokens, first.usage.input_audio_tokens) == (150, 40)
    assert (first.declared_cap, first.response_id) == (500, "")
    assert all(record.usd <= record.bound_usd for record in in_order())
    nothing_is_left()


@pytest.mark.surface("google-genai live.connect", kind="async", proves="refused")
def test_where_nothing_is_left_it_is_refused_and_nothing_is_sent(server: Any) -> None:
    async def talk(session: Any) -> None:
        with budget("b", usd=1) as b:
            with budget("none", usd=0), pytest.raises(BudgetExceeded, match="none"):
                await ask(session)
            assert (b.spent_usd, b.reserved_usd) == (0, 0)
            await ask(session)  # the session goes on
            assert b.spent_usd == server.usd

    run(server, talk)
    assert [record.outcome for record in in_order()] == ["refused", "completed"]
    assert len(server.heard) == 2  # the setup, and what was not refused
    nothing_is_left()


def test_a_turn_that_the_server_begins_is_a_call_of_whoever_reads(server: Any) -> None:
    async def talk(session: Any) -> None:
        await session.send_realtime_input(audio={"data": b"\0" * 3_200, "mime_type": "audio/pcm;rate=16000"})
        await session.send_realtime_input(activity_end={})
        with track(user_id="alice"), budget(usd=1) as b:
            await listen(session)
            assert (b.spent_usd, b.reserved_usd) == (server.usd, 0)

    run(server, talk, {**CAPPED, "realtime_input_config": {"automatic_activity_detection": {"disabled": True}}})
    assert (only_record().tags["user_id"], only_record().usd) == ("alice", server.usd)


def test_a_turn_that_the_server_begins_and_that_does_not_fit_is_paid_at_its_bound_and_ends_the_session(
    server: Any,
) -> None:
    async def talk(session: Any) -> None:
        await session.send_realtime_input(text="How much is a ride?")
        with budget(usd="0.001") as b:
            with pytest.raises(BudgetExceeded):
                await listen(session)
            paid, refused = sorted(farebox.calls(), key=lambda record: record.outcome == "refused")
            assert (refused.outcome, refused.usd) == ("refused", 0)
            assert (paid.outcome, paid.usd) == ("closed", paid.bound_usd)
            assert b.spent_usd == paid.usd == b.debt_usd + Decimal("0.001")
            assert paid.usd >= server.usd > 0
        with pytest.raises(Exception, match="1000"):
            await ask(session)  # the session is over

    run(server, talk)
    assert in_order()[-1].outcome == "failed"
    nothing_is_left()


@pytest.mark.parametrize("usage", ["late", "apart"])
def test_usage_that_comes_before_or_after_the_end_of_a_turn_is_that_of_the_turn(server: Any, usage: str) -> None:
    async def talk(session: Any) -> None:
        with budget(usd=1) as b:
            server.script.append({usage: True})
            await ask(session)
            await ask(session)
            assert (b.spent_usd, b.reserved_usd) == (server.usd, 0)

    run(server, talk)
    assert [record.usd for record in in_order()] == server.bill
    nothing_is_left()


@pytest.mark.parametrize("told", ["told", "once"])
def test_what_a_tool_returned_is_held_and_paid_as_the_server_tells_it(server: Any, told: str) -> None:
    """Some tell what a turn used when it calls a tool and again at its end, some once for all."""

    async def talk(session: Any) -> None:
        server.script.append({"tool": told})
        with budget(usd=1) as b:
            await session.send_client_content(turns={"role": "user", "parts": [{"text": "Look"}]})
            (call,) = [message.tool_call async for message in one(session)]
            before = b.reserved_usd
            returned = {"id": call.function_calls[0].id, "name": "look", "response": {"result": "sheep " * 100}}
            with budget("none", usd=0), pytest.raises(BudgetExceeded):
                await session.send_tool_response(function_responses=returned)
            await session.send_tool_response(function_responses=returned)
            assert b.reserved_usd > before
            await listen(session)
            assert (b.spent_usd, b.reserved_usd) == (server.usd, 0)
            await ask(session)
            assert (b.spent_usd, b.reserved_usd) == (server.usd, 0)

    run(server, talk)
    assert len(server.bill) == (3 if told == "told" else 2)
    outcomes = [record.outcome for record in farebox.calls()]
    assert sorted(outcomes) == sorted(["completed"] * len(server.bill) + ["refused"] + ["failed"] * (told == "once"))
    nothing_is_left()


async def one(session: Any) -> Any:
    async for message in session.receive():
        yield message
        return


def test_searches_are_charged_once_however_often_they_are_named(server: Any) -> None:
    async def talk(session: Any) -> None:
        server.script.append({"searches": 2})
        with budget(usd=1) as b:
            await ask(session)
            assert b.spent_usd == server.usd > Decimal("0.028")

    run(server, talk, {**CAPPED, "tools": [{"google_search": {}}]})
    assert only_record().usd <= only_record().bound_usd


def test_a_budget_that_lets_one_cross_raises_when_it_is_over(server: Any) -> None:
    async def talk(session: Any) -> None:
        with budget(usd="0.0001", on_exceed="raise") as b:
            with pytest.raises(BudgetExceeded) as crossed:
                await ask(session)
            assert crossed.value.__dict__["response"]["usageMetadata"]["promptTokenCount"] == 190
            assert b.spent_usd == server.usd
            with pytest.raises(BudgetExceeded):
                await ask(session)

    run(server, talk)


def test_what_was_said_and_shown_counts_as_input_again(server: Any) -> None:
    async def talk(session: Any) -> None:
        server.script.append({"AUDIO out": 400})
        await ask(session)
        for _ in range(10):  # seconds
            await session.send_realtime_input(audio={"data": b"\0" * 32_000, "mime_type": "audio/pcm;rate=16000"})
        await session.send_realtime_input(video={"data": b"\0" * 100, "mime_type": "image/jpeg"})
        await ask(session)

    run(server, talk)
    before, after = in_order()
    # What was said, ten seconds of 32 tokens and a picture of 258: no less is held, nor three times as much.
    assert 400 + 320 + 258 <= after.bound_tokens - before.bound_tokens <= 400 + 3 * (320 + 258)


def test_text_alone_is_held_at_the_price_of_text(server: Any) -> None:
    server.script.append({"AUDIO": 0, "AUDIO out": 0, "TEXT out": 50})

    async def talk(session: Any) -> None:
        await ask(session)

    run(server, talk, {"max_output_tokens": 10_000, "response_modalities": ["TEXT"]})
    assert only_record().usd == server.usd
    assert Decimal("0.045") <= only_record().bound_usd < Decimal("0.06")  # 10,000 x 4.5 dollars a million


def test_a_session_that_goes_on_from_another_is_held_at_all_that_a_model_reads(server: Any) -> None:
    async def talk(session: Any) -> None:
        await ask(session)

    run(server, talk, {**CAPPED, "session_resumption": {"handle": "earlier"}})
    assert 131_072 <= only_record().bound_tokens < 133_000


@pytest.mark.parametrize("end", ["lose", "close", "drop", "silent"])
def test_a_turn_without_a_usage_is_presumed_spent(server: Any, end: str) -> None:
    async def talk(session: Any) -> None:
        if end in ("lose", "silent"):
            server.script.append("lose" if end == "lose" else {"silent": True})
            with contextlib.suppress(genai.errors.APIError):
                await ask(session)
            return
        await session.send_client_content(turns={"role": "user", "parts": [{"text": "hello"}]})
        if end == "close":
            await session.close()

    with budget(usd=1) as b:
        with contextlib.suppress(genai.errors.APIError):
            run(server, talk)
        gc.collect()
        signals.settle_late_calls()
        record = only_record()
        assert record.usd == record.bound_usd == b.spent_usd > server.usd
        assert b.reserved_usd == 0
    assert record.outcome == ("unknown" if end == "lose" else "closed")
    nothing_is_left()


@pytest.mark.parametrize("usage", [None, {}, "much", {"promptTokenCount": -1}, {"promptTokenCount": 5}])
def test_a_usage_that_can_t_be_believed_is_charged_at_the_bound(server: Any, usage: Any) -> None:
    server.script.append({"usage": usage, "AUDIO out": 0})

    async def talk(session: Any) -> None:
        with contextlib.suppress(Exception):  # the SDK does not believe some of them either
            await ask(session)

    with budget(usd=1) as b:
        run(server, talk)
    if usage == {"promptTokenCount": 5}:  # nothing was said, and what was read may all have been sound
        assert only_record().usd == 5 * Decimal(3) / 1_000_000
    else:
        assert only_record().usd == only_record().bound_usd == b.spent_usd


def test_an_output_count_that_is_null_is_read_under_its_other_name(server: Any) -> None:
    server.script.append({"usage": {"promptTokenCount": 190, "responseTokenCount": None, "candidatesTokenCount": 75}})

    async def talk(session: Any) -> None:
        await ask(session)

    run(server, talk)
    assert only_record().usage.output_tokens == 75


def test_odd_messages_pass_as_they_are(server: Any) -> None:
    odd = [
        '{"dreams": [1, {"deep": null}]}',
        '{"realtime_input": {"audio": 7}}',
        "[]",
        "no JSON",
        b'{"client_content": 3}',
    ]

    async def talk(session: Any) -> None:
        for message in odd:
            await session._ws.send(message)
        await ask(session)
        assert session._ws.state.name == "OPEN"

    with budget(usd=1):
        run(server, talk)
    assert server.odd == odd
    assert only_record().usd == server.usd


def test_one_client_alone_is_metered_in_the_scope_that_it_brings(server: Any) -> None:
    farebox.uninstrument()
    ours, other = farebox.instrument(client_of(server), tags={"team": "voice"}), client_of(server)

    async def main() -> None:
        for client in (ours, other):
            async with client.aio.live.connect(model=MODEL) as session:
                await ask(session)

    asyncio.run(main())
    assert only_record().tags["team"] == "voice"
