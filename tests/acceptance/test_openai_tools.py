"""Tools that run at OpenAI: their fees are held before the request is sent, and paid as the answer says they were used."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, report
from farebox.testing import FakeProvider
from tests.acceptance.rides import OPENAI, needs, nothing_is_left

pytestmark = [pytest.mark.usefixtures("metered")]

TEXT = "hello there, how are you?"  # 25 bytes: 7 tokens
MODEL = "gpt-4.1"  # 2 in, 8 out
FILES = {"type": "file_search", "vector_store_ids": ["vs_1"]}
CODE = {"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "4g"}}
DRAWS = {"type": "image_generation", "model": "gpt-image-1", "quality": "high", "size": "1024x1024"}
# (tools, what the model does with them, USD of it beside the tokens of the model)
USES = [
    ([FILES], {"file_searches": 2}, "0.005"),
    ([CODE], {"runs_code": True}, "0.12"),
    ([{"type": "code_interpreter", "container": {"type": "auto"}}], {"runs_code": True}, "0.03"),
    ([{"type": "code_interpreter", "container": "cntr_mine"}], {}, "0"),
    ([CODE], {}, "0"),
    ([DRAWS], {"pictures": 2}, "0.3334"),  # 2 x 60 tokens at 5 and 2 x 4,160 at 40 per million
    ([FILES, CODE, {"type": "web_search"}], {"file_searches": 1, "runs_code": True, "web_searches": 1}, "0.1325"),
]


@pytest.fixture
def client(provider: FakeProvider, open_client: Callable[..., Any]) -> Any:
    return open_client(OPENAI)


def words(tools: list[Any], **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": TEXT, "tools": tools, "max_tool_calls": 3, "max_output_tokens": 200, **more}


def ask(client: Any, way: str, **said: Any) -> None:
    if way == "plain":
        client.responses.create(**said)
    elif way == "raw":
        client.responses.with_raw_response.create(**said).parse()
    else:
        list(client.responses.create(**said, stream=True))


@pytest.mark.parametrize("way", ["plain", "raw", "stream"])
@pytest.mark.parametrize(("tools", "uses", "usd"), USES, ids=repr)
def test_what_tools_cost_is_held_and_paid(
    tools: list[Any], uses: dict[str, Any], usd: str, way: str, provider: FakeProvider, client: Any
) -> None:
    provider.answer(output_tokens=50, **uses)
    with budget(usd=50) as b:
        ask(client, way, **words(tools))
        (line,) = provider.bill.lines
        fees = line.usd - (line.input_tokens * 2 + line.output_tokens * 8) * Decimal("0.000001")
        assert fees == Decimal(usd)
        assert b.spent_usd == line.usd
    (record,) = farebox.calls()
    assert record.bound_usd >= record.usd == line.usd
    assert (record.cost_source, record.doubt) == ("list", "")
    nothing_is_left()


@pytest.mark.parametrize("tools", [[FILES], [CODE], [DRAWS]], ids=["files", "code", "draws"])
def test_a_budget_without_room_for_the_tools_sends_nothing(
    tools: list[Any], provider: FakeProvider, client: Any
) -> None:
    # All that the model can read, twice over, is in the bound of either: only the fees tell them apart.
    with budget(usd=1_000):
        client.responses.create(**words([], max_tool_calls=None))
        client.responses.create(**words(tools, max_tool_calls=0))
        client.responses.create(**words(tools, max_tool_calls=1))
    plain, unused, once = sorted(farebox.calls(), key=lambda call: call.started_at)
    assert plain.bound_usd < unused.bound_usd < once.bound_usd
    sent = provider.bill.calls
    with budget(usd=once.bound_usd - Decimal("0.000001")), pytest.raises(BudgetExceeded):
        client.responses.create(**words(tools, max_tool_calls=1))
    assert provider.bill.calls == sent


def test_the_bound_grows_with_the_tools_that_may_be_used() -> None:
    read = farebox.providers.find_provider("openai").read_request
    call = read("/responses", words([FILES, CODE, DRAWS]), "")
    assert call is not None
    assert call.most_units == {"file_searches": 3, "container_gigabyte_minutes": 80}
    (part,) = call.parts
    assert (part.model, part.requests, part.output_tokens >= 3 * 4_160) == ("gpt-image-1", 3, True)
    unlimited = read("/responses", words([FILES], max_tool_calls=None), "")
    assert unlimited is not None
    assert (unlimited.most_units, unlimited.fills_context) == ({"file_searches": 10}, True)


@pytest.mark.parametrize(
    ("model", "tool", "usd"),
    [
        ("gpt-4.1", "web_search", "0.01"),
        ("gpt-4.1", "web_search_preview", "0.025"),
        ("gpt-5", "web_search_preview", "0.01"),
        ("gpt-5", "web_search", "0.01"),
    ],
)
def test_a_search_with_the_tool_of_before_is_dearer_for_models_that_do_not_reason(
    model: str, tool: str, usd: str, provider: FakeProvider, client: Any
) -> None:
    provider.answer(output_tokens=50, web_searches=1)
    client.responses.create(**words([{"type": tool}], model=model))
    (call,) = farebox.calls()
    assert call.usage is not None
    rates = {"gpt-4.1": (2, 8), "gpt-5": ("1.25", 10)}[model]
    tokens = call.usage.input_tokens * Decimal(rates[0]) + call.usage.output_tokens * Decimal(rates[1])
    assert call.usd is not None
    assert call.usd - tokens / 1_000_000 == Decimal(usd)


def test_what_a_search_finds_counts_as_a_fixed_number_of_tokens_for_small_models(
    provider: FakeProvider, client: Any
) -> None:
    provider.answer(output_tokens=50, web_searches=2)
    client.responses.create(**words([{"type": "web_search"}], model="gpt-4.1-mini"))
    (call,) = farebox.calls()
    assert call.usd == provider.bill.usd
    # A server that leaves them out of its usage is not believed.
    provider.odd(usage={"input_tokens": 20, "output_tokens": 5})
    client.responses.create(**words([{"type": "web_search"}], model="gpt-4.1-mini"))
    latest = max(farebox.calls(), key=lambda call: call.started_at)
    assert latest.usage is not None
    assert latest.usage.input_tokens == 16_000


def test_a_chat_model_that_always_searches_pays_for_a_search(provider: FakeProvider, client: Any) -> None:
    farebox.set_price("gpt-5-search-api", input_per_million=1, output_per_million=2, provider="openai")
    read = farebox.providers.find_provider("openai").read_request
    call = read("/chat/completions", {"model": "gpt-5-search-api", "messages": [{"role": "user", "content": "x"}]}, "")
    assert call is not None
    assert call.most_web_searches == 1


def test_a_compaction_is_held_and_paid(provider: FakeProvider, client: Any) -> None:
    provider.answer(output_tokens=700)
    needs(client.responses, "compact")
    with budget(usd=5) as b:
        client.responses.compact(model=MODEL, input=TEXT)
        assert b.spent_usd == provider.bill.usd == Decimal("0.005626")  # 13 tokens at 2 and 700 at 8 per million
    with budget(usd="0.01"), pytest.raises(BudgetExceeded):
        client.responses.compact(model=MODEL, input=TEXT)
    assert provider.bill.calls == 1
    assert report().total.refused_calls == 1
    nothing_is_left()


def test_a_tier_left_to_the_provider_is_held_at_the_dearest_and_paid_as_served(
    provider: FakeProvider, client: Any
) -> None:
    said = {"model": "gpt-5", "input": TEXT, "max_output_tokens": 1_000}
    provider.answer(output_tokens=10)
    for tier in ("default", "auto", "priority"):
        client.responses.create(**said, service_tier=tier)
    standard, auto, priority = sorted(farebox.calls(), key=lambda call: call.started_at)
    assert standard.bound_usd < auto.bound_usd == priority.bound_usd
    assert [call.usd for call in (standard, auto, priority)] == [line.usd for line in provider.bill.lines]


def test_tools_that_only_a_template_names_are_paid(provider: FakeProvider, client: Any) -> None:
    found = [{"id": f"fs_{n}", "type": "file_search_call", "queries": ["q"], "status": "completed"} for n in range(2)]
    code = {"id": "ci", "type": "code_interpreter_call", "code": "1", "container_id": "cntr", "status": "completed"}

    def with_tools(payload: dict[str, Any]) -> dict[str, Any]:
        return {**payload, "output": [*found, code, *payload["output"]], "tools": [FILES, CODE], "tool_usage": None}

    provider.odd(edit=with_tools)
    with budget(usd=50) as b:
        client.responses.create(model=MODEL, prompt={"id": "pmpt_1"}, input=TEXT, max_output_tokens=200)
    assert b.spent_usd == provider.bill.usd + Decimal("0.125")  # 2 searches of 0.0025, 4 GB for 20 minutes
