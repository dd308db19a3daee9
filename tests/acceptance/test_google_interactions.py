"""Google's interactions, which go through a stack of their own: metered, refused, retried and left like any other call."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

pytest.importorskip("google.genai", reason="google-genai is not installed")

from google import genai

import farebox
from farebox import BudgetExceeded, budget, instrument, report, uninstrument
from farebox.errors import UnmeteredCall
from farebox.testing import FakeProvider, Price
from tests.acceptance.google_clients import run, vertex_client
from tests.acceptance.rides import (
    GOOGLE,
    attempt,
    is_charged_by_what_came,
    needs,
    nothing_is_left,
    only_record,
    outcomes,
    stormproof,
)

LITE = GOOGLE.model
metered = pytest.mark.usefixtures("metered")


@pytest.fixture
def client(provider: Any) -> Iterator[genai.Client]:
    with GOOGLE.client(provider) as client:
        if not hasattr(client, "interactions"):
            pytest.skip("this google-genai has no interactions")
        yield client


def words(**changes: Any) -> dict[str, Any]:
    return {"model": LITE, "input": "hello there", "generation_config": {"max_output_tokens": 100}, **changes}


def create(client: Any, **changes: Any) -> None:
    assert client.interactions.create(**words(**changes)).steps


def stream(client: Any) -> None:
    assert len(list(client.interactions.create(**words(stream=True)))) > 3


def create_async(client: Any) -> None:
    assert run(client, lambda aio: aio.interactions.create(**words())).steps


def stream_async(client: Any) -> None:
    async def read(aio: Any) -> list[Any]:
        return [event async for event in await aio.interactions.create(**words(stream=True))]

    assert len(run(client, read)) > 3


def raw(client: Any) -> None:
    assert client.interactions.with_raw_response.create(**words()).parse().steps


EVERY_WAY = pytest.mark.parametrize(
    "ask", [create, stream, create_async, stream_async, raw], ids=lambda ask: ask.__name__
)


@metered
@EVERY_WAY
def test_an_interaction_is_one_call_at_the_providers_price(client: Any, provider: Any, ask: Any) -> None:
    with stormproof(provider), budget(usd=1) as paid:
        ask(client)
    assert (only_record().outcome, only_record().cost_source) == ("completed", "list")
    assert only_record().usd == paid.spent_usd == provider.bill.usd > 0
    assert only_record().response_id == provider.bill.lines[0].response_id


@metered
@EVERY_WAY
def test_an_interaction_is_refused_before_it_is_sent(client: Any, provider: Any, ask: Any) -> None:
    with budget("none", usd=0), pytest.raises(BudgetExceeded, match="none"):
        ask(client)
    assert not provider.requests
    assert outcomes() == ["refused"]


@metered
def test_what_is_decided_reaches_the_wire(client: Any, provider: Any) -> None:
    config = {"temperature": 0.5}
    with budget(usd="0.01"):
        client.interactions.create(**words(generation_config=config))
    assert provider.requests[0].body["generation_config"] == {
        "temperature": 0.5,
        "max_output_tokens": only_record().sent_cap,
    }
    assert config == {"temperature": 0.5}
    with budget(usd="0.005", on_exceed="downgrade"):
        asked = words(model="gemini-2.5-pro", generation_config={"max_output_tokens": 1_000})
        assert client.interactions.create(**asked).model == "gemini-2.5-flash"
    assert provider.requests[1].body["model"] == "gemini-2.5-flash"


@metered
@pytest.mark.parametrize("is_async", [False, True])
def test_an_attempt_with_an_error_status_is_tried_again_for_nothing(provider: Any, is_async: bool) -> None:
    provider.fail(500, times=2)
    with GOOGLE.client(provider, max_retries=2) as client:
        if not hasattr(client, "interactions"):
            pytest.skip("this google-genai has no interactions")
        with stormproof(provider), budget(usd=1) as paid:
            (create_async if is_async else create)(client)
    assert (only_record().attempts, provider.bill.calls, only_record().outcome) == (3, 1, "completed")
    assert paid.spent_usd == provider.bill.usd


@metered
@pytest.mark.parametrize("is_async", [False, True])
def test_a_timeout_is_presumed_spent(provider: Any, is_async: bool) -> None:
    provider.hang(times=1)
    with GOOGLE.client(provider, timeout=0.2) as client:
        if not hasattr(client, "interactions"):
            pytest.skip("this google-genai has no interactions")
        with stormproof(provider), budget(usd=1):
            assert isinstance(attempt(lambda: (create_async if is_async else create)(client)), Exception)
    assert only_record().outcome == "unknown"
    assert only_record().usd == only_record().bound_usd >= provider.bill.usd > 0


@metered
def test_an_answer_with_an_error_status_costs_nothing(client: Any, provider: Any) -> None:
    provider.fail(400, times=1)
    with budget(usd=1) as paid:
        assert isinstance(attempt(lambda: client.interactions.create(**words())), Exception)
    assert paid.spent_usd == paid.reserved_usd == 0
    assert outcomes() == ["failed"]
    nothing_is_left()


@metered
@pytest.mark.parametrize("closes", [True, False])
def test_a_stream_that_is_left_is_never_charged_below_the_bill(client: Any, provider: Any, closes: bool) -> None:
    provider.answer(output_tokens=3_000)
    provider.pace(0.004)
    asked = words(stream=True, generation_config={"max_output_tokens": 4_000})
    with stormproof(provider), budget(usd=1):
        events = client.interactions.create(**asked)
        for _ in range(8):
            next(events)
        if closes:
            events.close()
        else:
            events.response.close()
        del events
        provider.wait_until_idle()
    assert only_record().outcome == "closed"
    assert provider.bill.usd <= only_record().usd
    assert is_charged_by_what_came(only_record())


@metered
def test_an_answer_that_comes_later_stays_held_until_it_is_looked_at(client: Any, provider: Any) -> None:
    provider.answer(output_tokens=20)
    answers: list[dict[str, Any]] = []

    def put_off(payload: dict[str, Any]) -> dict[str, Any]:
        answers.append(payload)
        return {"id": payload["id"], "object": "interaction", "status": "in_progress", "model": LITE}

    provider.odd(edit=put_off)
    with budget(usd=1) as paid:
        name = client.interactions.create(**words(background=True)).id
        assert paid.reserved_usd > 0 == paid.spent_usd
        provider.serve(f"/v1/interactions/{name}", answers[0])
        assert client.interactions.get(name).status == "completed"
        assert (paid.reserved_usd, paid.spent_usd) == (0, provider.bill.usd)
        client.interactions.get(name)
        assert paid.spent_usd == provider.bill.usd


@metered
@EVERY_WAY
def test_an_interaction_of_vertex_is_one_call_of_its_own_provider(ask: Any, provider: Any) -> None:
    with vertex_client(provider) as vertex, budget(usd=1) as paid:
        ask(vertex)
    assert provider.requests[0].path.endswith("/projects/p/locations/us-central1/interactions")
    assert (only_record().provider_name, only_record().cost_source) == ("gcp.vertex_ai", "list")
    assert paid.spent_usd == provider.bill.usd > 0


@metered
def test_an_interaction_of_vertex_in_the_background_is_settled_when_it_is_there(provider: Any) -> None:
    provider.answer(output_tokens=20)
    answers: list[dict[str, Any]] = []

    def put_off(payload: dict[str, Any]) -> dict[str, Any]:
        answers.append(payload)
        return {"id": payload["id"], "object": "interaction", "status": "in_progress", "model": LITE}

    provider.odd(edit=put_off)
    with vertex_client(provider) as vertex, budget(usd=1) as paid:
        name = vertex.interactions.create(**words(background=True)).id
        assert paid.reserved_usd > 0 == paid.spent_usd
        provider.serve(f"/v1beta1/projects/p/locations/us-central1/interactions/{name}", answers[0])
        assert vertex.interactions.get(name).status == "completed"
        assert (paid.reserved_usd, paid.spent_usd) == (0, provider.bill.usd)


@metered
def test_a_stream_in_the_background_stays_held_when_it_is_left(client: Any, provider: Any) -> None:
    provider.answer(output_tokens=5_000)
    ended: list[dict[str, Any]] = []

    def note(payload: dict[str, Any]) -> dict[str, Any]:
        if payload["event_type"] == "interaction.completed":
            ended.append(payload["interaction"])
        return payload

    provider.odd(edit=note)
    asked = words(stream=True, background=True, generation_config={"max_output_tokens": 6_000})
    list(client.interactions.create(**asked))
    provider.hold(after_chunks=3)
    with budget(usd=1) as paid:
        with client.interactions.create(**asked) as events:
            name = next(iter(events)).interaction.id
            next(iter(events))
        provider.release()
        provider.wait_until_idle()
        bill = provider.bill.lines[-1].usd
        assert paid.reserved_usd >= bill > 0 == paid.spent_usd  # it is being made all the same
        provider.serve(f"/v1/interactions/{name}", {**ended[0], "id": name})
        client.interactions.get(name)
        assert (paid.reserved_usd, paid.spent_usd) == (0, bill)


@metered
def test_what_it_goes_on_from_is_part_of_the_bound(client: Any, provider: Any) -> None:
    provider.answer(output_tokens=90)
    with budget(usd=1):
        first = client.interactions.create(**words())
        client.interactions.create(**words(previous_interaction_id=first.id))
        before, after = farebox.calls()
    assert after.bound_tokens == before.bound_tokens + provider.bill.lines[0].tokens


@metered
@pytest.mark.parametrize(
    ("config", "why"),
    [
        (None, "no limit is known"),
        ({"type": "deep-research"}, "no limit is known"),
        ({"type": "antigravity"}, "both of them"),
        ({"type": "antigravity", "max_total_tokens": 5_000}, "both of them"),
        ({"type": "antigravity", "model": LITE}, "both of them"),
    ],
)
def test_an_agent_without_a_limit_is_refused_under_one_with_the_reason(
    config: Any, why: str, client: Any, provider: Any
) -> None:
    said = {} if config is None else {"agent_config": config}
    with budget(usd=1), pytest.raises(UnmeteredCall, match=why):
        client.interactions.create(agent="deep-research-pro", input="hello", **said)
    assert not provider.requests


def agent(**changes: Any) -> dict[str, Any]:
    config = {"type": "antigravity", "max_total_tokens": 2_000, "model": LITE}
    said = {"agent": "antigravity-preview-09-2026", "input": "hello there", "agent_config": config, **changes}
    return {"tools": [{"type": "code_execution"}], **said}


def ask_agent(client: Any) -> None:
    assert client.interactions.create(**agent()).steps


def ask_agent_async(client: Any) -> None:
    assert run(client, lambda aio: aio.interactions.create(**agent())).steps


def stream_agent(client: Any) -> None:
    assert len(list(client.interactions.create(**agent(stream=True)))) > 3


AGENT_WAYS = [("sync", ask_agent), ("stream", stream_agent), ("async", ask_agent_async)]


@metered
@pytest.mark.surface(
    "google-genai interactions.create with an agent", kind="{kind}", proves=["exact", "unbroken", "refused"]
)
@pytest.mark.parametrize("tokens", [300, 5_000])  # within its limit, and cut at it
@pytest.mark.parametrize(("kind", "ask"), AGENT_WAYS)
def test_an_agent_with_a_limit_is_held_for_all_of_it_and_paid_by_its_usage(
    tokens: int, kind: str, ask: Any, client: Any, provider: Any
) -> None:
    provider.answer(output_tokens=tokens)
    # 2,000 tokens and a little more, at 0.40 per million.
    with budget(usd="0.0008"), pytest.raises(BudgetExceeded), GOOGLE.client(provider) as another:
        ask(another)
    assert not provider.requests
    with budget(usd="0.00082", tokens=2_036) as paid:
        ask(client)
    assert paid.spent_usd == provider.bill.usd > 0
    record = farebox.calls()[-1]
    assert (record.operation_name, record.cost_source, record.doubt) == ("invoke_agent", "list", "")
    assert record.usage is not None
    assert record.usage.total_tokens == provider.bill.tokens
    assert report().total.reserved_usd == 0


@metered
def test_searches_of_an_agent_are_held_unless_its_tools_are_named(client: Any, provider: Any) -> None:
    provider.answer(output_tokens=300, web_searches=4)
    said = {name: value for name, value in agent().items() if name != "tools"}
    with budget(usd=1) as paid:
        client.interactions.create(**said)
    # One for each 256 tokens of its limit, at 35 a thousand.
    assert only_record().bound_usd >= 8 * Decimal("0.035")
    assert paid.spent_usd == provider.bill.usd > Decimal("0.035")


@metered
def test_an_agent_in_the_background_stays_held_until_it_is_looked_at(client: Any, provider: Any) -> None:
    provider.answer(output_tokens=20)
    answers: list[dict[str, Any]] = []

    def put_off(payload: dict[str, Any]) -> dict[str, Any]:
        answers.append(payload)
        return {"id": payload["id"], "object": "interaction", "status": "in_progress", "agent": payload["agent"]}

    provider.odd(edit=put_off)
    with budget(usd=1) as paid:
        name = client.interactions.create(**agent(background=True)).id
        assert paid.reserved_usd > 0 == paid.spent_usd
        provider.serve(f"/v1/interactions/{name}", answers[0])
        assert client.interactions.get(name).status == "completed"
        assert (paid.reserved_usd, paid.spent_usd) == (0, provider.bill.usd)


QUESTIONS = {
    name: {"type": "noul", "instructions": [{"type": "text", "text": "Is it polite?"}]} for name in ("one", "two")
}


@metered
@pytest.mark.surface("google-genai decisions.create", kind="{kind}", proves=["exact", "unbroken", "refused"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_decisions_are_held_and_paid_by_their_usage(kind: str, client: Any, provider: Any) -> None:
    needs(client, "decisions")

    def decide(client: Any) -> Any:
        said = {"input": [{"type": "text", "text": "hello there"}], "questions": QUESTIONS}
        return client.decisions.create(model=LITE, **said)

    with budget(usd="0.01"), pytest.raises(BudgetExceeded), GOOGLE.client(provider) as another:
        decide(another)  # each of them may think as long as its model does
    assert not provider.requests
    with budget(usd=1) as paid:
        assert set((decide(client) if kind == "sync" else run(client, decide)).answers) == {"one", "two"}
    assert paid.spent_usd == provider.bill.usd > 0
    record = farebox.calls()[-1]
    assert (record.operation_name, record.request_model, record.cost_source) == ("decisions", LITE, "list")


def test_one_client_is_metered_by_itself(provider: Any, client: Any) -> None:
    with GOOGLE.client(provider) as other:
        instrument(client, budgets=[budget("own", calls=1)])
        create(other)
        create(client)
        with pytest.raises(BudgetExceeded, match="own"):
            create(client)
        with pytest.raises(BudgetExceeded, match="own"):
            create_async(client)
        uninstrument(client)
    assert provider.bill.calls == 2


def test_undo_puts_back_what_was_there(client: Any) -> None:
    base = type(client.interactions).__mro__
    cls = next(one for one in base if "do_request" in vars(one))
    was = vars(cls)["do_request"]
    with instrument():
        assert vars(cls)["do_request"] is not was
    assert vars(cls)["do_request"] is was


@metered
def test_an_interaction_with_a_model_that_draws_is_held_for_pictures() -> None:
    drawing = "gemini-2.5-flash-image"  # 30 USD a million tokens of pictures
    with FakeProvider(prices={drawing: Price(input="0.30", output=30, vendor="google")}) as provider:
        provider.answer(output_tokens=1_290)
        with GOOGLE.client(provider) as client, budget(usd=1):
            needs(client, "interactions")
            client.interactions.create(**words(model=drawing, generation_config={"max_output_tokens": 1_290}))
        assert only_record().bound_usd >= provider.bill.usd > 0
