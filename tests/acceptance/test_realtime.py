"""Realtime sessions over a real websocket: each answer is a call, held before it is asked for and paid from its usage."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, report, signals, track
from farebox.seams import _sessions
from tests.acceptance.rides import attempt, nothing_is_left, only_record

pytest.importorskip("openai._websocket_connection", reason="this openai has no websockets that can be read")
pytest.importorskip("websockets.sync.server", reason="websockets is not installed, or too old to serve")

from openai import AsyncOpenAI, OpenAI

from tests.acceptance import asked, realtime_server
from tests.acceptance.asked import Entered, Steps

pytestmark = [
    pytest.mark.usefixtures("metered"),
    pytest.mark.filterwarnings(
        "ignore:connect.. must be used as a context manager:DeprecationWarning"
    ),  # the SDK's own
]
MODEL = realtime_server.MODEL
TEXT = {"output_modalities": ["text"]}


@pytest.fixture
def server() -> Iterator[realtime_server.RealtimeServer]:
    with realtime_server.running() as server:
        yield server


@pytest.fixture
def client(server: Any) -> Iterator[OpenAI]:
    with OpenAI(api_key="fake", base_url=f"http://127.0.0.1:{server.port}/v1") as client:
        yield client


def say(connection: Any, text: str = "How much is a ride?") -> None:
    connection.conversation.item.create(
        item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    )


def listen(connection: Any, until: str = "response.done") -> list[Any]:
    """The events that arrive, up to the first of a kind."""
    events = []
    while not events or events[-1].type != until:
        events.append(connection.recv())
    return events


def ask(connection: Any, **response: Any) -> list[Any]:
    connection.response.create(response=response) if response else connection.response.create()
    return listen(connection)


def session(client: Any) -> Steps:
    """Two answers of a session, and all that is heard of them but for its ids, which nobody made to be compared."""
    connection = yield Entered(client.realtime.connect(model=MODEL))
    heard: list[Any] = []
    for number in range(1, 3):
        yield connection.response.create(response={"max_output_tokens": 20 * number})
        while [event.type for event in heard].count("response.done") < number:
            heard.append((yield connection.recv()))
    return [event.model_copy(update={"event_id": ""}) for event in heard]


def attended(kind: str, server: Any) -> Any:
    options: dict[str, Any] = {"api_key": "fake", "base_url": f"http://127.0.0.1:{server.port}/v1"}
    return asked.ask(session, lambda is_async: (AsyncOpenAI if is_async else OpenAI)(**options), kind)


@pytest.mark.surface("openai realtime.connect", kind="{kind}", proves=["exact", "unbroken"])
@pytest.mark.parametrize("kind", ["stream", "async stream"])
def test_a_session_hears_what_it_hears_without_farebox_and_is_recorded_to_the_digit(kind: str, server: Any) -> None:
    farebox.uninstrument()
    with realtime_server.running() as bare:
        without = attended(kind, bare)
    with farebox.instrument(), budget(usd=1) as paid:
        assert attended(kind, server) == without
    assert (paid.spent_usd, paid.spent_calls, report().total.calls) == (server.usd, 2, 2)
    nothing_is_left()


@pytest.mark.surface("openai realtime.connect", kind="{kind}", proves="refused")
@pytest.mark.parametrize("kind", ["stream", "async stream"])
def test_in_an_exhausted_budget_no_answer_is_asked_for(kind: str, server: Any) -> None:
    with budget(usd=0), pytest.raises(BudgetExceeded):
        attended(kind, server)
    assert not server.asked


@pytest.mark.surface("openai realtime.connect", kind="sync", proves=["exact", "unbroken"])
def test_each_answer_costs_what_the_server_bills(client: OpenAI, server: Any) -> None:
    with budget(usd=1) as b, track(feature="voice"), client.realtime.connect(model=MODEL) as connection:
        say(connection)
        events = ask(connection)
        assert [event.type for event in events][-3:] == [
            "response.created",
            "response.output_audio.delta",
            "response.done",
        ]
        server.script.append({"audio_out": 200, "audio": 300})
        ask(connection)
        assert (b.spent_usd, b.reserved_usd, b.spent_calls) == (server.usd, 0, 2)
    # 50 x 4 + 10 x 0.4 + 20 x 32 + 4 x 0.4 + 12 x 16 + 30 x 64 = 2957.6 dollars for a million of each
    assert server.bill[0] == Decimal("0.0029576")
    total = report(where={"feature": "voice", "model": MODEL, "operation": "realtime"}).total
    assert (total.usd, total.calls, total.input_tokens, total.output_tokens) == (server.usd, 2, 84 + 364, 42 + 212)
    assert report().total.unmetered_calls == 0
    first = min(farebox.calls(), key=lambda record: record.started_at)
    assert first.response_id == "resp_1"
    assert first.usage is not None
    assert (first.usage.uncached_input_tokens, first.usage.cache_read_tokens) == (50, 10)
    assert (first.usage.input_audio_tokens, first.usage.cache_read_audio_tokens) == (20, 4)
    assert (first.usage.visible_output_tokens, first.usage.output_audio_tokens) == (12, 30)
    nothing_is_left()


@pytest.mark.surface("openai realtime.connect", kind="async", proves=["exact", "refused"])
def test_async_sessions_cost_the_same(server: Any) -> None:
    async def main() -> None:
        async with AsyncOpenAI(api_key="fake", base_url=f"http://127.0.0.1:{server.port}/v1") as client:
            with budget(usd=1) as b:
                async with client.realtime.connect(model=MODEL) as connection:
                    await connection.response.create()
                    async for event in connection:
                        if event.type == "response.done":
                            break
                assert (b.spent_usd, b.reserved_usd) == (server.usd, 0)
            with budget(usd=0):
                async with client.realtime.connect(model=MODEL) as connection:
                    with pytest.raises(BudgetExceeded):
                        await connection.response.create()
            server.answers_sound = True
            with budget(usd=0):
                async with client.realtime.connect(model=MODEL) as connection:
                    await connection.input_audio_buffer.append(audio="AAAA")
                    with pytest.raises(BudgetExceeded):
                        [event async for event in connection]

    asyncio.run(main())
    assert len(server.asked) == 1
    assert [record.outcome for record in farebox.calls()].count("refused") == 2
    assert sum(record.usd or 0 for record in farebox.calls()) == server.usd
    nothing_is_left()


@pytest.mark.surface("openai realtime.connect", kind="sync", proves="refused")
def test_where_nothing_is_left_it_is_refused_and_nothing_is_sent(client: OpenAI, server: Any) -> None:
    with budget("b", usd=1) as b, client.realtime.connect(model=MODEL) as connection:
        with budget("none", usd=0), pytest.raises(BudgetExceeded, match="none"):
            connection.response.create()
        assert (b.spent_usd, b.reserved_usd) == (0, 0)
        ask(connection)  # the session goes on
        assert b.spent_usd == server.usd
    assert len(server.asked) == 1
    assert sorted(record.outcome for record in farebox.calls()) == ["completed", "refused"]
    nothing_is_left()


def test_a_session_that_was_open_before_is_not_seen_and_goes_on(client: OpenAI, server: Any) -> None:
    farebox.uninstrument()
    with client.realtime.connect(model=MODEL) as connection:
        with farebox.instrument(), budget(usd=0) as b:
            ask(connection)
            assert b.spent_usd == 0 < server.usd
            assert not farebox.calls()
            with client.realtime.connect(model=MODEL) as another, pytest.raises(BudgetExceeded):
                another.response.create()
    nothing_is_left()


def test_the_bound_is_held_while_it_answers_and_the_cap_is_sent(client: OpenAI, server: Any) -> None:
    with budget(usd="0.30") as b, client.realtime.connect(model=MODEL) as connection:
        say(connection, "sheep " * 100)
        connection.response.create(response={"instructions": "Be brief."})
        reserved = b.reserved_usd
        listen(connection)
        assert b.spent_usd == server.usd <= reserved <= Decimal("0.30")
    (asked,) = server.asked
    assert asked["response"]["instructions"] == "Be brief."
    cap = asked["response"]["max_output_tokens"]
    assert 0 < cap == only_record().sent_cap < 4_096
    nothing_is_left()


@pytest.mark.parametrize("where", ["response", "session"])
def test_a_cap_of_the_caller_s_bounds_its_answer(client: OpenAI, server: Any, where: str) -> None:
    server.script.append({"audio_out": 4_000})
    if where == "session":
        server.session["max_output_tokens"] = 100
    with budget(usd=1) as b, client.realtime.connect(model=MODEL) as connection:
        listen(connection, "session.created")
        ask(connection, **({"max_output_tokens": 100} if where == "response" else {}))
        assert b.spent_usd == server.usd
    record = only_record()
    assert record.declared_cap == 100
    assert record.usd is not None
    assert record.usd <= record.bound_usd < Decimal("0.1")


def test_a_cap_that_the_server_has_not_agreed_to_is_not_relied_on(client: OpenAI, server: Any) -> None:
    with client.realtime.connect(model=MODEL) as connection:
        connection.session.update(session={"type": "realtime", "max_output_tokens": 1})
        connection.response.create()
        listen(connection)
        ask(connection)
    declared = [record.declared_cap for record in sorted(farebox.calls(), key=lambda record: record.started_at)]
    assert declared == [None, 1]


def test_text_alone_is_held_at_the_price_of_text(client: OpenAI, server: Any) -> None:
    server.script.append({"audio": 0, "cached_audio": 0, "audio_out": 0})
    with client.realtime.connect(model=MODEL) as connection:
        ask(connection, max_output_tokens=1_000, **TEXT)
        ask(connection, max_output_tokens=1_000)
    text, sound = sorted(farebox.calls(), key=lambda record: record.started_at)
    assert text.usd == server.bill[0]
    assert Decimal("0.016") < text.bound_usd < Decimal("0.032")  # 1,000 x 16 dollars a million, and the input
    assert sound.bound_usd > Decimal("0.064")


@pytest.mark.parametrize(("form", "bytes_per_second"), [("audio/pcm", 48_000), ("audio/pcmu", 8_000)])
def test_sound_that_was_sent_is_held_by_its_length(
    client: OpenAI, server: Any, form: str, bytes_per_second: int
) -> None:
    server.session["audio"] = {"input": {"format": {"type": form}}}
    with client.realtime.connect(model=MODEL) as connection:
        listen(connection, "session.created")
        ask(connection, max_output_tokens=100)
        for _ in range(10):
            connection.input_audio_buffer.append(audio="AAAA" * (bytes_per_second // 3))
        ask(connection, max_output_tokens=100)
    before, after = sorted(farebox.calls(), key=lambda record: record.started_at)
    # Ten seconds are 100 tokens: no less is held, nor five times as much; and what it said is read again.
    more = after.bound_tokens - before.bound_tokens - (before.usage.output_tokens if before.usage else 0)
    assert 100 <= more <= 500


def test_what_was_said_counts_as_input_again(client: OpenAI, server: Any) -> None:
    server.script.extend([{"audio_out": 900, "text_out": 100}, {"text": 1_000, "audio": 1_000}])
    with budget(usd=1), client.realtime.connect(model=MODEL) as connection:
        ask(connection, max_output_tokens=1_000)
        ask(connection, max_output_tokens=1_000)
    assert all(record.usd is not None and record.usd <= record.bound_usd for record in farebox.calls())
    assert sum(record.usd or 0 for record in farebox.calls()) == server.usd


def test_an_answer_that_the_server_begins_is_a_call_of_whoever_reads(client: OpenAI, server: Any) -> None:
    server.answers_sound = True
    with client.realtime.connect(model=MODEL) as connection:
        connection.input_audio_buffer.append(audio="AAAA")
        with track(user_id="alice"), budget(usd=2) as b:
            listen(connection)
        assert (b.spent_usd, b.reserved_usd) == (server.usd, 0)
    record = only_record()
    assert (record.tags["user_id"], record.outcome, record.usd) == ("alice", "completed", server.usd)
    nothing_is_left()


@pytest.mark.parametrize("stops", [True, False])
def test_where_nothing_is_left_for_an_answer_that_the_server_begins_it_is_stopped_and_paid_and_the_session_closed(
    client: OpenAI, server: Any, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    monkeypatch.setattr(_sessions, "_MOST_WAIT_SECONDS", 10.0 if stops else 0.05)
    server.answers_sound, server.stops = True, stops
    server.script.append("linger")
    said: list[Any] = []
    with (
        client.realtime.connect(model=MODEL) as connection,
        budget("roomy", usd=2) as roomy,
        signals.decision.connected_to(lambda sender, decision: said.append((decision.budget, decision.did))),
    ):
        connection.input_audio_buffer.append(audio="AAAA")
        with budget("none", usd="0.001") as none, pytest.raises(BudgetExceeded, match="none"):
            listen(connection)
        assert server.closed.wait(10)
        with pytest.raises(Exception, match="1000"):
            connection.input_audio_buffer.append(audio="AAAA")
        # What it came to, as the server said; where it says nothing, all that it can have come to.
        paid, refused = sorted(farebox.calls(), key=lambda record: record.outcome == "refused")
        assert (refused.outcome, refused.usd) == ("refused", 0)
        assert paid.usd == roomy.spent_usd == none.spent_usd == (server.usd if stops else paid.bound_usd)
        assert none.debt_usd == none.spent_usd - Decimal("0.001") > 0 == roomy.debt_usd
        assert roomy.reserved_usd == none.reserved_usd == 0
    assert (paid.outcome, paid.response_id) == ("completed" if stops else "closed", "resp_1")
    assert paid.usd >= server.usd > 0
    assert server.heard[-1] == {"type": "response.cancel", "response_id": "resp_1"}
    assert said == [("none", "stop"), ("none", "debt")]
    nothing_is_left()


@pytest.mark.parametrize("why", ["unpriced", "killed", "vetoed", "truncate", "standing"])
def test_whatever_refuses_an_answer_that_was_begun_it_is_paid(client: OpenAI, server: Any, why: str) -> None:
    server.answers_sound = True
    server.script.append("linger")
    words: dict[str, Any] = {"usd": 0} if why == "truncate" else {"usd": 1}
    model = "gpt-of-tomorrow" if why == "unpriced" else MODEL
    settings = farebox.configure(
        ledger="memory://", budgets=[budget("plan", usd=0 if why == "standing" else 5, per="day")]
    )
    if why == "killed":
        farebox.kill("plan")

    def veto(sender: Any, call: Any) -> None:
        raise RuntimeError("a receiver of the user's")

    with settings, client.realtime.connect(model=model) as connection, contextlib.ExitStack() as stack:
        connection.input_audio_buffer.append(audio="AAAA")
        if why == "vetoed":
            stack.enter_context(signals.pre_call.connected_to(veto))
        with budget(**words, on_exceed="truncate" if why == "truncate" else "block") as b:
            ended = attempt(lambda: listen(connection))
            assert why == "truncate" or isinstance(ended, Exception)
        assert server.closed.wait(10)
        paid = next(record for record in farebox.calls() if record.outcome in ("completed", "closed"))
        if why == "unpriced":
            assert (paid.usd, report().total.unpriced_calls) == (None, 1)
        else:
            assert paid.usd is not None
            assert b.spent_usd == paid.usd == (paid.bound_usd if why == "vetoed" else server.usd) >= server.usd
            assert farebox.status()[0].spent == paid.usd
    nothing_is_left()


def test_what_was_written_down_and_does_not_fit_is_paid_all_the_same(client: OpenAI, server: Any) -> None:
    server.session["audio"] = {"input": {"transcription": {"model": "whisper-1"}}}
    said = server.answer

    def answer(socket: Any, event: Any) -> None:
        kind = "conversation.item.input_audio_transcription.completed"
        usage = {"type": "duration", "seconds": 2.5}
        server.say(socket, {"type": kind, "item_id": "item_1", "transcript": "A ride, please", "usage": usage})
        said(socket, event)

    server.answer = answer
    with client.realtime.connect(model=MODEL) as connection:
        connection.response.create(response={"max_output_tokens": 100})
        with budget(usd=0) as b, pytest.raises(BudgetExceeded):
            listen(connection)
        assert b.spent_usd == b.debt_usd == Decimal("0.00025")
    assert sorted(record.outcome for record in farebox.calls()) == ["closed", "completed", "refused"]
    nothing_is_left()


def test_a_call_belongs_to_the_scope_in_which_it_was_asked_for(client: OpenAI, server: Any) -> None:
    with client.realtime.connect(model=MODEL) as connection:
        for name in ("alice", "bob"):
            with track(user_id=name), budget(usd=1) as b:
                connection.response.create()
            with track(user_id="reader"):
                listen(connection)
            assert b.spent_usd == server.bill[-1]
    assert sorted(record.tags["user_id"] for record in farebox.calls()) == ["alice", "bob"]


@pytest.mark.parametrize("end", ["lose", "close", "drop"])
def test_what_is_not_answered_is_presumed_spent(client: OpenAI, server: Any, end: str) -> None:
    with budget(usd=1) as b:
        connection = client.realtime.connect(model=MODEL).enter()
        if end == "lose":
            server.script.append("lose")
            connection.response.create()
            attempt(lambda: listen(connection))
            connection.close()
        else:
            connection.response.create()
            raw = connection._connection
            if end == "close":
                connection.close()
            del connection
            gc.collect()
            raw.close()
            signals.settle_late_calls()
        record = only_record()
        assert record.usd == record.bound_usd == b.spent_usd > server.usd
        assert b.reserved_usd == 0
    assert record.outcome == {"lose": "unknown", "close": "closed", "drop": "dropped"}[end]
    assert record.cost_source == "estimated"
    nothing_is_left()


def test_what_the_server_refuses_costs_nothing(client: OpenAI, server: Any) -> None:
    server.script.append("refuse")
    with budget(usd=1) as b, client.realtime.connect(model=MODEL) as connection:
        connection.response.create()
        listen(connection, "error")
        assert (b.spent_usd, b.reserved_usd) == (0, 0)
        connection.response.create(event_id="mine")
        listen(connection)
        assert b.spent_usd == server.usd
    assert server.asked[1]["event_id"] == "mine"
    assert sorted(record.outcome for record in farebox.calls()) == ["completed", "failed"]


@pytest.mark.parametrize(
    ("usage", "doubt"),
    [
        (None, "the answer has no usage"),
        ({"input_tokens": "12", "output_tokens": 3}, "usage.input_tokens is str"),
        ({"input_tokens": 5, "output_tokens": -1}, "usage.output_tokens is out of range"),
        ("much", "usage.input_tokens is NoneType"),
        ({"input_tokens": 0, "output_tokens": 0}, "usage.input_tokens is 0"),
    ],
)
def test_a_usage_that_can_t_be_believed_is_charged_at_the_bound(
    client: OpenAI, server: Any, usage: Any, doubt: str
) -> None:
    server.script.append({"usage": usage})
    with budget(usd=1) as b, client.realtime.connect(model=MODEL) as connection:
        ask(connection)
        record = only_record()
        assert record.usd == record.bound_usd == b.spent_usd
    assert (record.doubt, record.cost_source, record.outcome) == (doubt, "estimated", "completed")


@pytest.mark.parametrize("details", [None, {}, []])
def test_a_whole_whose_parts_are_not_told_is_charged_as_sound(client: OpenAI, server: Any, details: Any) -> None:
    usage = {"input_tokens": 10, "output_tokens": 2, "input_token_details": details, "output_token_details": details}
    server.script.append({"usage": usage})
    with client.realtime.connect(model=MODEL) as connection:
        ask(connection)
    assert only_record().usd == (10 * Decimal(32) + 2 * Decimal(64)) / 1_000_000


def test_parts_that_are_more_than_their_whole_are_charged_as_sound(client: OpenAI, server: Any) -> None:
    details = {"audio_tokens": 99, "text_tokens": 1, "cached_tokens": 0}
    server.script.append({"usage": {"input_tokens": 10, "output_tokens": 2, "input_token_details": details}})
    with client.realtime.connect(model=MODEL) as connection:
        ask(connection)
    assert only_record().usd == (10 * Decimal(32) + 2 * Decimal(64)) / 1_000_000
    assert only_record().doubt == "the parts of usage are more than its whole"


def test_what_is_sent_before_the_session_is_open_is_held_then(client: OpenAI, server: Any) -> None:
    manager = client.realtime.connect(model=MODEL)
    with budget(usd=0), pytest.raises(BudgetExceeded):
        manager.send({"type": "response.create"})
    with budget(usd=1) as b:
        manager.send({"type": "response.create"})
        assert b.reserved_usd > 0
        with manager as connection:
            listen(connection)
    assert b.spent_usd == server.usd
    assert len(server.asked) == 1
    nothing_is_left()


@pytest.mark.parametrize(
    ("usage", "usd"),
    [
        (
            {"type": "tokens", "input_tokens": 100, "output_tokens": 20, "input_token_details": {"text_tokens": 10}},
            None,
        ),
        ({"type": "duration", "seconds": 2.5}, Decimal("0.00025")),  # whisper-1: 0.006 dollars a minute
    ],
)
def test_what_is_written_down_besides_is_a_call_of_its_own(
    client: OpenAI, server: Any, usage: dict[str, Any], usd: Decimal | None
) -> None:
    model = "whisper-1" if usd else "gpt-4o-transcribe"
    if usd is None:  # 10 x 2.5 + 90 x 6 + 20 x 10 dollars a million
        usd = Decimal("0.000765")
    server.session["audio"] = {"input": {"transcription": {"model": model}}}
    said = server.answer

    def answer(socket: Any, event: Any) -> None:
        kind = "conversation.item.input_audio_transcription.completed"
        server.say(socket, {"type": kind, "item_id": "item_1", "transcript": "A ride, please", "usage": usage})
        said(socket, event)

    server.answer = answer
    with budget(usd=1) as b, client.realtime.connect(model=MODEL) as connection:
        ask(connection)
        assert b.spent_usd == server.usd + usd
    (record,) = farebox.calls(where={"operation": "transcription"})
    assert (record.usd, record.request_model, record.usage is not None) == (usd, model, True)
    nothing_is_left()


def test_odd_events_pass_as_they_are(client: OpenAI, server: Any) -> None:
    odd: list[Any] = [
        {"type": "dreams.begin", "sheep": [1, {"deep": None}]},
        {"type": "conversation.item.create", "item": None},
        {"type": "input_audio_buffer.append", "audio": 7},
    ]
    with budget(usd=1), client.realtime.connect(model=MODEL) as connection:
        for event in odd:
            connection.send(event)
        connection.send_raw('{"type": "response.create", "response": 12}')
        listen(connection)
    assert server.heard[:3] == odd
    assert only_record().usd == server.usd


def test_without_a_budget_an_event_is_sent_as_it_came_but_for_its_id(client: OpenAI, server: Any) -> None:
    with client.realtime.connect(model=MODEL) as connection:
        ask(connection, instructions="Sing.", **TEXT)
    (asked,) = server.asked
    assert asked.pop("event_id").startswith("farebox_")
    assert asked == {"type": "response.create", "response": {"instructions": "Sing.", **TEXT}}


def test_uninstrumented_nothing_is_metered_and_nothing_is_left_wrapped(client: OpenAI, server: Any) -> None:
    farebox.uninstrument()
    with budget(usd=0), client.realtime.connect(model=MODEL) as connection:
        ask(connection)
    assert not farebox.calls()
    assert server.asked == [{"type": "response.create"}]


def test_one_client_alone_is_metered_in_the_scope_that_it_brings(server: Any, make: Callable[[], OpenAI]) -> None:
    farebox.uninstrument()
    ours, other = farebox.instrument(make(), tags={"team": "voice"}), make()
    for client in (ours, other):
        with client.realtime.connect(model=MODEL) as connection:
            ask(connection)
    assert only_record().tags["team"] == "voice"


@pytest.fixture
def make(server: Any) -> Iterator[Callable[[], OpenAI]]:
    made: list[OpenAI] = []

    def one() -> OpenAI:
        made.append(OpenAI(api_key="fake", base_url=f"http://127.0.0.1:{server.port}/v1"))
        return made[-1]

    yield one
    for client in made:
        client.close()


def test_a_budget_that_lets_one_cross_raises_when_it_is_over(client: OpenAI, server: Any) -> None:
    with client.realtime.connect(model=MODEL) as connection, budget(usd="0.001", on_exceed="raise") as b:
        connection.response.create(response={"max_output_tokens": 100})
        with pytest.raises(BudgetExceeded) as crossed:
            listen(connection)
        assert crossed.value.__dict__["response"]["id"] == "resp_1"
        assert b.spent_usd == server.usd
        with pytest.raises(BudgetExceeded):
            connection.response.create()
    nothing_is_left()
