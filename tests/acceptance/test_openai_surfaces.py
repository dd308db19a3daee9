"""Responses, the old completions and embeddings: whatever the way they are asked, the books say what the bill says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from typing import Any

import attrs
import openai
import pydantic
import pytest

import farebox
from farebox import BudgetExceeded, budget, report
from farebox.testing import FakeProvider
from tests.acceptance.rides import (
    ANTHROPIC,
    OPENAI,
    attempt,
    is_charged_by_what_came,
    needs,
    nothing_is_left,
    only_record,
    outcomes,
    spent_at_least_the_bill,
    stormproof,
)

pytestmark = [
    pytest.mark.usefixtures("metered"),
]

TEXT = "hello there, how are you?"  # 25 bytes: 7 tokens
TOO_LITTLE = "0.000000001"
CAP = 4_000
LONG = 3_000


@pytest.fixture
def client(provider: FakeProvider, open_client: Callable[..., Any]) -> Any:
    return open_client(OPENAI)


@attrs.frozen
class Surface:
    """One endpoint: `words` is the least that can be asked, `cap` the name of its output cap."""

    name: str
    model: str
    words: dict[str, Any]
    cap: str = ""

    def __str__(self) -> str:
        return self.name

    def api(self, client: Any) -> Any:
        return getattr(client, self.name)

    def said(self, **changes: Any) -> dict[str, Any]:
        cap = changes.pop("cap", None)
        return {"model": self.model, **self.words, **changes, **({} if cap is None else {self.cap: cap})}


RESPONSES = Surface("responses", "gpt-4o-mini", {"input": TEXT}, "max_output_tokens")
COMPLETIONS = Surface("completions", "gpt-3.5-turbo-instruct", {"prompt": TEXT}, "max_tokens")
EMBEDDINGS = Surface("embeddings", "text-embedding-3-small", {"input": TEXT})
STREAMED = pytest.mark.parametrize("surface", [RESPONSES, COMPLETIONS], ids=str)


# ── the ways to ask ──────────────────────────────────────────────────────────────────────────────────────────────


def plain(surface: Surface, client: Any) -> Any:
    return surface.api(client).create(**surface.said())


def on_a_copy(surface: Surface, client: Any) -> Any:
    return surface.api(client.with_options(timeout=19.0)).create(**surface.said())


def raw(surface: Surface, client: Any) -> Any:
    return surface.api(client).with_raw_response.create(**surface.said()).parse()


def posted(surface: Surface, client: Any) -> Any:
    return client.post(f"/{surface.name}", cast_to=object, body=surface.said())


def read_bytes(surface: Surface, client: Any) -> Any:
    with surface.api(client).with_streaming_response.create(**surface.said()) as response:
        return response.read()


def parsed_late(surface: Surface, client: Any) -> Any:
    with surface.api(client).with_streaming_response.create(**surface.said()) as response:
        return response.parse()


def stream(surface: Surface, client: Any) -> Any:
    return list(surface.api(client).create(**surface.said(stream=True)))


def raw_stream(surface: Surface, client: Any) -> Any:
    return list(surface.api(client).with_raw_response.create(**surface.said(stream=True)).parse())


def stream_lines(surface: Surface, client: Any) -> Any:
    with surface.api(client).with_streaming_response.create(**surface.said(stream=True)) as response:
        return list(response.iter_lines())


def helper(surface: Surface, client: Any) -> Any:
    with surface.api(client).stream(**surface.said()) as events:
        return events.get_final_response()


def parsed(surface: Surface, client: Any) -> Any:
    return surface.api(client).parse(**surface.said())


def beta(surface: Surface, client: Any) -> Any:
    if not hasattr(client.beta, "responses"):
        pytest.skip(f"openai {openai.VERSION} has no beta.responses")
    return client.beta.responses.create(**surface.said())


WHOLE = [plain, on_a_copy, raw, posted, read_bytes, parsed_late]
STREAMS = [stream, raw_stream, stream_lines]
WAYS = [
    *((RESPONSES, way) for way in (*WHOLE, *STREAMS, helper, parsed, beta)),
    *((COMPLETIONS, way) for way in (*WHOLE, *STREAMS)),
    *((EMBEDDINGS, way) for way in WHOLE),
]
EVERY_WAY = pytest.mark.parametrize(
    ("surface", "way"), WAYS, ids=[f"{surface}-{way.__name__}" for surface, way in WAYS]
)


async def async_plain(surface: Surface, client: Any) -> Any:
    return await surface.api(client).create(**surface.said())


async def async_raw(surface: Surface, client: Any) -> Any:
    return (await surface.api(client).with_raw_response.create(**surface.said())).parse()


async def async_read_bytes(surface: Surface, client: Any) -> Any:
    async with surface.api(client).with_streaming_response.create(**surface.said()) as response:
        return await response.read()


async def async_stream(surface: Surface, client: Any) -> Any:
    return [chunk async for chunk in await surface.api(client).create(**surface.said(stream=True))]


async def async_stream_lines(surface: Surface, client: Any) -> Any:
    async with surface.api(client).with_streaming_response.create(**surface.said(stream=True)) as response:
        return [line async for line in response.iter_lines()]


async def async_helper(surface: Surface, client: Any) -> Any:
    async with surface.api(client).stream(**surface.said()) as events:
        return await events.get_final_response()


async def async_parsed(surface: Surface, client: Any) -> Any:
    return await surface.api(client).parse(**surface.said())


ASYNC_WAYS = [
    *((RESPONSES, way) for way in (async_plain, async_raw, async_read_bytes)),
    *((RESPONSES, way) for way in (async_stream, async_stream_lines, async_helper, async_parsed)),
    *((COMPLETIONS, way) for way in (async_plain, async_raw, async_read_bytes, async_stream, async_stream_lines)),
    *((EMBEDDINGS, way) for way in (async_plain, async_raw, async_read_bytes)),
]
EVERY_ASYNC_WAY = pytest.mark.parametrize(
    ("surface", "way"), ASYNC_WAYS, ids=[f"{surface}-{way.__name__}" for surface, way in ASYNC_WAYS]
)


def run(surface: Surface, way: Callable[..., Awaitable[Any]], provider: FakeProvider) -> Any:
    async def main() -> Any:
        async with OPENAI.async_client(provider) as client:
            return await way(surface, client)

    return asyncio.run(main())


def books_agree(provider: FakeProvider, *, calls: int = 1) -> None:
    """Each call was settled once, at its line of the bill, and was held for at least that."""
    records = farebox.calls()
    assert [record.outcome for record in records] == ["completed"] * calls
    by_id = {
        (line.request_id if line.path == "/v1/embeddings" else line.response_id): line for line in provider.bill.lines
    }
    for record, line in zip(sorted(records, key=lambda record: record.started_at), by_id.values(), strict=True):
        assert record.usd == line.usd, provider.bill_table()
        assert record.usd <= record.bound_usd
        assert record.usage is not None
        assert (record.usage.input_tokens, record.usage.output_tokens) == (line.input_tokens, line.output_tokens)
        assert record.response_id == line.response_id
        assert record.response_model == line.model
        assert record.cost_source == "list"
        assert record.doubt == ""
    assert report().total.usd == provider.bill.usd
    nothing_is_left()


def made_of_all_kinds(provider: FakeProvider, surface: Surface) -> None:
    """An answer whose tokens have different prices, as far as the endpoint knows them."""
    cached = {} if surface is EMBEDDINGS else {"cached_tokens": 3, "reasoning_tokens": 4 if surface is RESPONSES else 0}
    provider.answer(output_tokens=12, **cached)


@EVERY_WAY
def test_every_way_to_ask_costs_what_the_bill_says(
    surface: Surface, way: Any, provider: FakeProvider, client: Any
) -> None:
    made_of_all_kinds(provider, surface)
    with budget(usd=1) as frame:
        assert way(surface, client)
    books_agree(provider)
    assert frame.spent_usd == provider.bill.usd
    assert frame.reserved_usd == 0


@EVERY_ASYNC_WAY
def test_every_async_way_to_ask_costs_what_the_bill_says(surface: Surface, way: Any, provider: FakeProvider) -> None:
    made_of_all_kinds(provider, surface)
    with budget(usd=1) as frame:
        assert run(surface, way, provider)
    books_agree(provider)
    assert frame.spent_usd == provider.bill.usd


@EVERY_WAY
def test_an_exhausted_budget_sends_nothing(surface: Surface, way: Any, provider: FakeProvider, client: Any) -> None:
    with budget("tight", usd=TOO_LITTLE), pytest.raises(BudgetExceeded, match="tight"):
        way(surface, client)
    assert not provider.requests
    assert outcomes() == ["refused"]
    nothing_is_left()


@EVERY_ASYNC_WAY
def test_an_exhausted_budget_sends_nothing_async(surface: Surface, way: Any, provider: FakeProvider) -> None:
    with budget("tight", usd=TOO_LITTLE), pytest.raises(BudgetExceeded, match="tight"):
        run(surface, way, provider)
    assert not provider.requests
    assert outcomes() == ["refused"]


@pytest.mark.parametrize("surface", [RESPONSES, COMPLETIONS, EMBEDDINGS], ids=str)
def test_a_tokens_limit_counts_every_endpoint(surface: Surface, provider: FakeProvider, client: Any) -> None:
    with budget(tokens=5_000) as frame:
        plain(surface, client)
        assert frame.spent_tokens == provider.bill.tokens
    with budget(tokens=1), pytest.raises(BudgetExceeded):
        plain(surface, client)
    assert provider.bill.calls == 1


# ── caps ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", [plain, stream, helper, parsed], ids=lambda way: way.__name__)
def test_a_response_without_a_cap_is_sent_one_under_a_usd_budget(way: Any, provider: FakeProvider, client: Any) -> None:
    with budget(usd="0.01"):
        way(RESPONSES, client)
    sent = provider.requests[0].body["max_output_tokens"]
    assert 64 <= sent == only_record().sent_cap
    assert only_record().bound_usd <= Decimal("0.01")
    books_agree(provider)


def test_a_cap_of_the_callers_goes_out_as_it_is(provider: FakeProvider, client: Any) -> None:
    provider.answer(output_tokens=100)
    with budget(usd="0.01"):
        client.responses.create(**RESPONSES.said(cap=20))
    assert provider.requests[0].body["max_output_tokens"] == 20
    assert provider.bill.lines[0].output_tokens == 20
    books_agree(provider)


@pytest.mark.parametrize("surface", [RESPONSES, COMPLETIONS, EMBEDDINGS], ids=str)
def test_without_a_budget_nothing_is_rewritten(surface: Surface, provider: FakeProvider, client: Any) -> None:
    posted(surface, client)
    assert provider.requests[0].body == surface.said()
    books_agree(provider)


def test_an_old_completion_without_a_cap_gets_one_where_the_server_is_not_openais_own(
    provider: FakeProvider, open_client: Any
) -> None:
    """OpenAI's own default is sixteen tokens; a server of somebody else's may have none."""
    with budget(usd="0.0003"):
        plain(COMPLETIONS, open_client(OPENAI, base_url=provider.openai_base_url))
    assert provider.requests[0].body["max_tokens"] == only_record().sent_cap
    assert provider.bill.lines[0].output_tokens <= only_record().sent_cap
    assert only_record().bound_usd <= Decimal("0.0003")
    books_agree(provider)


def test_a_budget_of_usd_bounds_a_fan_out_of_responses(provider: FakeProvider) -> None:
    provider.answer(output_tokens=200)

    async def main() -> list[Any]:
        async with OPENAI.async_client(provider) as client:
            asked = (client.responses.create(**RESPONSES.said(cap=200)) for _ in range(20))
            return await asyncio.gather(*asked, return_exceptions=True)

    with stormproof(provider, "0.001"), budget(usd="0.001") as frame:
        answers = asyncio.run(main())
    refused = [answer for answer in answers if isinstance(answer, BudgetExceeded)]
    assert 0 < len(refused) < 20
    assert provider.bill.usd == frame.spent_usd <= Decimal("0.001")
    assert provider.bill.calls == 20 - len(refused)
    nothing_is_left()


@pytest.mark.parametrize("mode", ["downgrade", "clamp"])
def test_a_response_is_rewritten_to_fit(mode: Any, provider: FakeProvider, client: Any) -> None:
    """Of gpt-5 at 10 USD a million 1,000 tokens cost 0.010; of gpt-5-mini at 2 USD 0.002."""
    words = RESPONSES.said(cap=1_000, model="gpt-5", tools=[WEATHER], reasoning={"effort": "low"})
    with budget(usd="0.008", on_exceed=mode):
        client.responses.create(**words)
    sent = provider.requests[0].body
    changed = {"model": "gpt-5-mini"} if mode == "downgrade" else {"max_output_tokens": only_record().sent_cap}
    assert sent == {**words, **changed} != words
    assert sent["max_output_tokens"] <= 1_000
    books_agree(provider)


# ── the old completions and embeddings ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({}, 1),
        ({"n": 3}, 3),
        ({"n": 2, "best_of": 5}, 5),
        ({"best_of": 4}, 4),
        ({"prompt": ["one", "another"], "n": 2}, 4),
        ({"prompt": [5, 6, 7]}, 1),
        ({"prompt": [[5, 6, 7], [8]], "n": 3}, 6),
        ({"prompt": "", "n": 2}, 2),
        ({"suffix": "and so on", "n": 2}, 2),
    ],
    ids=repr,
)
def test_every_text_that_a_completion_makes_is_held_and_paid(
    changes: dict[str, Any], texts: int, provider: FakeProvider, client: Any
) -> None:
    provider.answer(output_tokens=40, input_tokens=1 if changes.get("prompt") == "" else None)
    with budget(usd="0.01"):
        client.completions.create(**COMPLETIONS.said(cap=30, **changes))
    assert provider.bill.lines[0].output_tokens == 30 * texts
    books_agree(provider)
    assert only_record().bound_usd >= Decimal("0.000002") * 30 * texts


def test_a_stream_of_several_completions_is_told_its_usage_only_by_farebox(provider: FakeProvider, client: Any) -> None:
    chunks = list(client.completions.create(**COMPLETIONS.said(n=2, stream=True)))
    assert all(chunk.choices for chunk in chunks)
    assert provider.requests[0].body["stream_options"] == {"include_usage": True}
    books_agree(provider)


def test_a_caller_who_asks_for_the_usage_of_a_completion_sees_it(provider: FakeProvider, client: Any) -> None:
    words = COMPLETIONS.said(stream=True, stream_options={"include_usage": True})
    *chunks, last = client.completions.create(**words)
    assert not last.choices
    assert last.usage.completion_tokens == 16
    assert all(chunk.choices for chunk in chunks)
    books_agree(provider)


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ("x" * 4_000, 1_000),
        (["x" * 40, "y" * 80], 30),
        ([17] * 500, 500),
        ([[1, 2, 3], [4] * 7], 10),
        (["żółw", "甲骨文"], 5),
    ],
    ids=["text", "texts", "ids", "lists of ids", "not ascii"],
)
@pytest.mark.parametrize("model", ["text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"])
def test_embeddings_cost_their_input(given: Any, tokens: int, model: str, provider: FakeProvider, client: Any) -> None:
    with budget(usd=1):
        client.embeddings.create(model=model, input=given)
    assert provider.bill.tokens == tokens
    books_agree(provider)


def test_an_embedding_holds_no_output(provider: FakeProvider, client: Any) -> None:
    """A thousand ids cost 0.00002; what is held for them is hardly more."""
    with budget(usd="0.0000202"):
        client.embeddings.create(model="text-embedding-3-small", input=[17] * 1_000)
    assert only_record().bound_tokens <= 1_010
    assert only_record().sent_cap is None
    books_agree(provider)


PREDICATE = {"type": "predicate", "instructions": "The customer is angry."}


@pytest.mark.parametrize("ask", [plain, raw, posted, read_bytes])
@pytest.mark.parametrize("given", [TEXT, [{"role": "user", "content": [{"type": "input_text", "text": TEXT}]}]])
def test_decisions_cost_their_input_and_are_refused_when_it_does_not_fit(
    given: Any, ask: Any, provider: FakeProvider, client: Any
) -> None:
    """What is written to the cache costs nothing more, and what is chosen nothing at all."""
    needs(client, "decisions")
    surface = Surface("decisions", "gpt-6-luna", {"input": given, "questions": [PREDICATE] * 3})
    with budget(usd="0.0002") as b, pytest.raises(BudgetExceeded):
        while True:
            ask(surface, client)
    assert len(provider.requests) == len(provider.bill.lines) == b.spent_calls > 2
    assert (b.spent_usd, b.debt_usd) == (provider.bill.usd, 0)


# ── endings of a stream ──────────────────────────────────────────────────────────────────────────────────────────


def events_of(surface: Surface, client: Any) -> Any:
    return surface.api(client).create(**surface.said(cap=CAP, stream=True))


def some(events: Any, count: int = 12) -> None:
    for number, _ in enumerate(events, 1):
        if number == count:
            return


@pytest.fixture
def long(provider: FakeProvider) -> Iterator[None]:
    """Paced, so that the bill stops with the client."""
    provider.answer(output_tokens=LONG)
    provider.pace(0.004)
    yield
    provider.wait_until_idle()


@STREAMED
@pytest.mark.usefixtures("long")
def test_a_stream_closed_early_is_charged_for_what_was_received(
    surface: Surface, provider: FakeProvider, client: Any
) -> None:
    events = events_of(surface, client)
    some(events)
    events.close()
    provider.wait_until_idle()
    record = only_record()
    assert record.outcome == "closed"
    assert provider.bill.usd <= record.usd
    assert is_charged_by_what_came(record)
    assert record.cost_source == "estimated"
    nothing_is_left()


@pytest.mark.usefixtures("long")
def test_a_helper_left_early_is_charged_for_what_was_received(provider: FakeProvider, client: Any) -> None:
    with client.responses.stream(**RESPONSES.said(cap=CAP)) as events:
        some(events)
    provider.wait_until_idle()
    assert only_record().outcome == "closed"
    assert provider.bill.usd <= only_record().usd
    assert is_charged_by_what_came(only_record())
    nothing_is_left()


@pytest.mark.usefixtures("long")
def test_arguments_of_a_call_count_as_received(provider: FakeProvider, client: Any) -> None:
    provider.answer(function="write", text=json.dumps({"text": "abc " * LONG}))
    with client.responses.stream(**RESPONSES.said(cap=CAP)) as events:
        some(events, 60)
    provider.wait_until_idle()
    assert provider.bill.usd <= only_record().usd
    assert is_charged_by_what_came(only_record())
    assert provider.bill.lines[0].output_tokens > 200


@STREAMED
@pytest.mark.usefixtures("long")
def test_a_stream_that_is_dropped_is_presumed_spent(surface: Surface, provider: FakeProvider, client: Any) -> None:
    provider.pace(0.0005)
    some(events_of(surface, client))
    assert report().total.calls == 1
    assert only_record().outcome == "dropped"
    assert only_record().usd == only_record().bound_usd >= provider.bill.usd
    nothing_is_left()


@STREAMED
@pytest.mark.parametrize(
    "trouble",
    [
        lambda provider: provider.odd(error_after=2),
        lambda provider: provider.drop("chunks", chunks=2),
        lambda provider: provider.drop("billing"),
    ],
    ids=["an error event", "a lost connection", "no answer"],
)
def test_a_stream_that_breaks_is_presumed_spent(
    surface: Surface, trouble: Any, provider: FakeProvider, client: Any
) -> None:
    provider.answer(output_tokens=100)
    trouble(provider)
    error = attempt(lambda: list(events_of(surface, client)))
    assert isinstance(error, Exception)
    spent_at_least_the_bill(provider)
    assert report().total.calls == 1
    nothing_is_left()


@STREAMED
def test_a_stream_without_usage_is_presumed_spent(surface: Surface, provider: FakeProvider, client: Any) -> None:
    provider.odd(usage=farebox.testing.ABSENT)
    list(events_of(surface, client))
    assert only_record().usd == only_record().bound_usd >= provider.bill.usd
    nothing_is_left()


@STREAMED
def test_an_async_stream_left_early_settles_once(surface: Surface, provider: FakeProvider) -> None:
    provider.answer(output_tokens=LONG)
    provider.pace(0.004)

    async def main() -> None:
        async with OPENAI.async_client(provider) as client:
            events = await events_of(surface, client)
            number = 0
            async for _ in events:
                number += 1
                if number == 12:
                    break
            await events.close()

    asyncio.run(main())
    provider.wait_until_idle()
    assert only_record().outcome == "closed"
    assert provider.bill.usd <= only_record().usd
    assert is_charged_by_what_came(only_record())
    nothing_is_left()


def test_a_cut_response_is_published_and_paid(provider: FakeProvider, client: Any) -> None:
    provider.answer(output_tokens=9_000)
    with pytest.warns(farebox.errors.CutAnswerWarning), budget(usd="0.002") as frame:
        answer = plain(RESPONSES, client)
    assert answer.status == "incomplete"
    assert [event.did for event in frame.decisions] == ["cut"]
    books_agree(provider)


# ── tools, and answers that go on from others ────────────────────────────────────────────────────────────────────

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


def turn(client: Any, **changes: Any) -> Any:
    return client.responses.create(**RESPONSES.said(tools=[WEATHER], **changes))


def output_of(call: Any) -> dict[str, Any]:
    assert json.loads(call.arguments) == {"city": "Paris"}
    return {"type": "function_call_output", "call_id": call.call_id, "output": json.dumps({"degrees": 12})}


@pytest.mark.parametrize("goes_on", ["by items", "by id"])
def test_a_tool_loop_is_paid_turn_by_turn(goes_on: str, provider: FakeProvider, client: Any) -> None:
    provider.answer(text="It is 12 degrees.")
    provider.answer(function="weather", text='{"city": "Paris"}', reasoning_tokens=30, times=3)
    answer = turn(client)
    items: list[Any] = [{"role": "user", "content": TEXT}]
    with budget(usd=1):
        for _ in range(3):
            call = next(item for item in answer.output if item.type == "function_call")
            if goes_on == "by id":
                answer = turn(client, input=[output_of(call)], previous_response_id=answer.id)
            else:
                items += [*answer.output, output_of(call)]
                answer = turn(client, input=items)
    assert answer.output_text == "It is 12 degrees."
    books_agree(provider, calls=4)


def test_structured_output_is_paid(provider: FakeProvider, client: Any) -> None:
    class City(pydantic.BaseModel):
        name: str
        population: int

    provider.answer(text='{"name": "Paris", "population": 2100000}')
    with budget(usd=1):
        answer = client.responses.parse(**RESPONSES.said(text_format=City))
        with client.responses.stream(**RESPONSES.said(text_format=City)) as events:
            assert events.get_final_response().output_parsed == answer.output_parsed
    assert answer.output_parsed == City(name="Paris", population=2_100_000)
    books_agree(provider, calls=2)


def test_what_an_answer_goes_on_from_is_held_too(provider: FakeProvider, client: Any) -> None:
    provider.answer(output_tokens=3_000, input_tokens=20_000, times=1)
    with budget(usd=1):
        first = plain(RESPONSES, client)
        client.responses.create(**RESPONSES.said(cap=300, previous_response_id=first.id))
    assert provider.bill.lines[1].input_tokens > 23_000
    books_agree(provider, calls=2)


@pytest.mark.parametrize("unknown", [{"conversation": "conv_1"}, {"prompt": {"id": "pmpt_1"}}], ids=repr)
def test_what_only_the_provider_knows_is_held_as_all_that_the_model_can_read(
    unknown: dict[str, Any], provider: FakeProvider, client: Any
) -> None:
    provider.answer(output_tokens=3_000, times=2)
    with budget(usd=1):
        for _ in range(3):
            client.responses.create(**RESPONSES.said(**unknown))
    books_agree(provider, calls=3)


@pytest.mark.parametrize("limits", [{"max_tool_calls": 3, "max_output_tokens": 500}, {}], ids=repr)
def test_web_searches_are_held_and_paid(limits: dict[str, Any], provider: FakeProvider, client: Any) -> None:
    provider.answer(output_tokens=50, web_searches=3)
    words = RESPONSES.said(tools=[{"type": "web_search"}], **limits)
    with budget(usd=2):
        client.responses.create(**words)
        list(client.responses.create(**words, stream=True))
    assert [line.web_searches for line in provider.bill.lines] == [3, 3]
    assert [record.usage.web_searches for record in farebox.calls() if record.usage] == [3, 3]
    books_agree(provider, calls=2)


def test_a_request_without_tool_calls_left_holds_no_search(provider: FakeProvider, client: Any) -> None:
    with budget(usd="0.02"):
        client.responses.create(**RESPONSES.said(tools=[{"type": "web_search"}], max_tool_calls=0, cap=300))
    books_agree(provider)


# ── in the background ────────────────────────────────────────────────────────────────────────────────────────────


def begun(client: Any, **changes: Any) -> Any:
    return client.responses.create(**RESPONSES.said(background=True, cap=400, **changes))


def test_an_answer_in_the_background_is_never_below_its_bill(provider: FakeProvider, client: Any) -> None:
    provider.background(looks=1)
    with budget(usd=1):
        answer = begun(client)
        assert answer.status == "queued"
        spent_at_least_the_bill(provider)
        while client.responses.retrieve(answer.id).status != "completed":
            spent_at_least_the_bill(provider)
        client.responses.retrieve(answer.id)
    spent_at_least_the_bill(provider)
    assert report().total.calls == provider.bill.calls == 1


@pytest.mark.parametrize("name", [None, "resp_1"])
def test_an_answer_in_the_background_that_nobody_can_ask_after_is_presumed_spent(
    provider: FakeProvider, client: Any, name: str | None
) -> None:
    provider.serve("/v1/responses", {"id": name, "object": "response", "status": "queued", "output": []})
    provider.serve("/v1/models", {"object": "list", "data": []})
    with budget(usd=1) as paid:
        answers = [begun(client) for _ in range(3)]
        client.models.list()
        ended = [record.outcome for record in farebox.calls()]
    assert [answer.status for answer in answers] == ["queued"] * 3
    assert ended.count("unknown") == (3 if name is None else 2)
    assert paid.spent_usd + paid.reserved_usd == sum(record.bound_usd for record in farebox.calls()) > 0


def test_an_answer_in_the_background_settles_once_when_it_is_looked_at(provider: FakeProvider, client: Any) -> None:
    provider.background(looks=2)
    with budget(usd=1) as frame:
        answer = begun(client)
        for status in ("in_progress", "in_progress"):
            assert client.responses.retrieve(answer.id).status == status
            assert frame.spent_usd == 0
            assert frame.reserved_usd >= provider.bill.usd
        for _ in range(3):
            assert client.responses.retrieve(answer.id).status == "completed"
        assert frame.spent_usd == provider.bill.usd
        assert frame.reserved_usd == 0
    books_agree(provider)


@pytest.mark.parametrize("way", ["stream", "helper", "raw", "async"])
def test_an_answer_in_the_background_settles_by_whatever_way_it_is_looked_at(
    way: str, provider: FakeProvider, client: Any
) -> None:
    answer = begun(client)
    if way == "stream":
        list(client.responses.retrieve(answer.id, stream=True))
    elif way == "helper":
        with client.responses.stream(response_id=answer.id) as events:
            events.get_final_response()
    elif way == "raw":
        client.responses.with_raw_response.retrieve(answer.id).parse()
    else:

        async def main() -> None:
            async with OPENAI.async_client(provider) as other:
                await other.responses.retrieve(answer.id)

        asyncio.run(main())
    books_agree(provider)


def begun_and_left(client: Any) -> str:
    """The id of an answer in the background whose stream was left after its first words."""
    with client.responses.create(**RESPONSES.said(background=True, cap=CAP, stream=True)) as events:
        response_id: str = next(events).response.id
        some(events)
    return response_id


def test_a_stream_in_the_background_that_is_left_is_never_below_its_bill(provider: FakeProvider, client: Any) -> None:
    """The provider goes on, whoever listens."""
    provider.answer(output_tokens=LONG)
    with budget(usd=1) as frame:
        response_id = begun_and_left(client)
        assert frame.spent_usd + frame.reserved_usd >= provider.bill.usd
        client.responses.retrieve(response_id)
        assert frame.spent_usd + frame.reserved_usd >= provider.bill.usd
    assert provider.bill.lines[0].output_tokens == LONG
    assert report().total.calls == 1


def test_a_stream_in_the_background_that_is_left_settles_when_it_is_looked_at(
    provider: FakeProvider, client: Any
) -> None:
    provider.answer(output_tokens=LONG)
    client.responses.retrieve(begun_and_left(client))
    books_agree(provider)


def test_a_cancelled_answer_is_never_below_its_bill(provider: FakeProvider, client: Any) -> None:
    provider.background(looks=5)
    with budget(usd=1) as frame:
        answer = begun(client)
        assert client.responses.cancel(answer.id).status == "cancelled"
        assert client.responses.retrieve(answer.id).status == "cancelled"
        assert frame.spent_usd + frame.reserved_usd >= provider.bill.usd
    assert report().total.calls == 1


def test_an_answer_that_is_asked_after_is_not_refused_and_not_charged(provider: FakeProvider, client: Any) -> None:
    answer = plain(RESPONSES, client)
    with budget(usd=0, calls=0):
        assert client.responses.retrieve(answer.id).output_text == answer.output_text
    books_agree(provider)


# ── what is free ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("is_exhausted", [False, True])
def test_counting_tokens_is_free_and_leaves_no_record(
    is_exhausted: bool, provider: FakeProvider, client: Any, open_client: Any
) -> None:
    claude = open_client(ANTHROPIC)
    messages: Any = [{"role": "user", "content": TEXT}]
    if not hasattr(client.responses, "input_tokens"):
        pytest.skip(f"openai {openai.VERSION} has no responses.input_tokens")

    async def main() -> None:
        async with OPENAI.async_client(provider) as one, ANTHROPIC.async_client(provider) as other:
            await one.responses.input_tokens.count(**RESPONSES.said())
            await other.messages.count_tokens(model=ANTHROPIC.model, messages=messages)

    with budget(usd=0 if is_exhausted else 1, calls=0 if is_exhausted else 1) as frame:
        assert client.responses.input_tokens.count(**RESPONSES.said()).input_tokens == 13
        assert claude.messages.count_tokens(model=ANTHROPIC.model, messages=messages).input_tokens == 13
        asyncio.run(main())
    assert (frame.spent_usd, frame.spent_calls) == (0, 0)
    assert provider.bill.calls == 0
    assert len(provider.requests) == 4
    assert not farebox.calls()


@pytest.mark.parametrize("surface", [RESPONSES, COMPLETIONS, EMBEDDINGS], ids=str)
def test_a_request_that_the_api_refuses_is_given_back(surface: Surface, provider: FakeProvider, client: Any) -> None:
    provider.fail(400)
    with budget(usd=1) as frame, pytest.raises(openai.BadRequestError):
        plain(surface, client)
    assert (frame.spent_usd, frame.reserved_usd, provider.bill.calls) == (0, 0, 0)
    assert outcomes() == ["failed"]
    nothing_is_left()
