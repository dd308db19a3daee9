"""The fake provider's bill against arithmetic by hand."""

from __future__ import annotations

import socket
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

from farebox.testing import Answer, FakeProvider, FixedClock, Price

HELLO: Any = [{"role": "user", "content": "hello"}]


def ask(client: OpenAI, model: str = "gpt-4o-mini", **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=HELLO, **options)


# 1,000 input tokens of which 400 cached, 100 output tokens; USD per million tokens: input, cached, output
BY_HAND = {
    "gpt-4o": 600 * 2_500 + 400 * 1_250 + 100 * 10_000,
    "gpt-4o-mini": 600 * 150 + 400 * 75 + 100 * 600,
    "gpt-4.1": 600 * 2_000 + 400 * 500 + 100 * 8_000,
    "gpt-4.1-mini": 600 * 400 + 400 * 100 + 100 * 1_600,
    "gpt-4.1-nano": 600 * 100 + 400 * 25 + 100 * 400,
    "gpt-5": 600 * 1_250 + 400 * 125 + 100 * 10_000,
    "gpt-5-mini": 600 * 250 + 400 * 25 + 100 * 2_000,
    "gpt-5-nano": 600 * 50 + 400 * 5 + 100 * 400,
    "o3": 600 * 2_000 + 400 * 500 + 100 * 8_000,
    "o4-mini": 600 * 1_100 + 400 * 275 + 100 * 4_400,
    "gpt-4o-2024-08-06": 600 * 2_500 + 400 * 1_250 + 100 * 10_000,
    "claude-opus-4-5": 600 * 5_000 + 400 * 500 + 100 * 25_000,
    "claude-sonnet-4-5": 600 * 3_000 + 400 * 300 + 100 * 15_000,
    "claude-haiku-4-5": 600 * 1_000 + 400 * 100 + 100 * 5_000,
    "claude-opus-5-5": 600 * 4_000 + 400 * 200 + 100 * 20_000,
    "claude-sonnet-5-5": 600 * 2_000 + 400 * 100 + 100 * 10_000,
    "claude-haiku-4-5-20251001": 600 * 1_000 + 400 * 100 + 100 * 5_000,
}


def test_every_model_is_charged_as_by_hand(
    provider: FakeProvider, openai_client: OpenAI, anthropic_client: Anthropic
) -> None:
    provider.answer(input_tokens=1_000, cached_tokens=400, output_tokens=100)
    for model in BY_HAND:
        if model.startswith("claude"):
            anthropic_client.messages.create(model=model, messages=HELLO, max_tokens=1_000)
        else:
            ask(openai_client, model)
    bill = provider.bill
    assert {line.model: line.usd_nanos for line in bill.lines} == BY_HAND
    assert bill.usd_nanos == sum(BY_HAND.values())
    assert bill.usd == Decimal(sum(BY_HAND.values())) / 10**9
    assert bill.tokens == len(BY_HAND) * 1_100
    assert bill.calls == len(BY_HAND)


def test_a_long_prompt_is_charged_at_its_own_price(provider: FakeProvider, anthropic_client: Anthropic) -> None:
    for input_tokens in (200_000, 200_001):
        provider.answer(input_tokens=input_tokens, output_tokens=10)
        anthropic_client.messages.create(model="claude-sonnet-4-5", messages=HELLO, max_tokens=10)
    short, long = provider.bill.lines
    assert short.usd_nanos == 200_000 * 3_000 + 10 * 15_000
    assert long.usd_nanos == 200_001 * 6_000 + 10 * 22_500


def test_prices_can_be_added_and_are_rounded_up_once_per_call() -> None:
    prices = {"my-llm": Price(input="0.0001", output=0.00025), "gpt-4o": Price(input=1, output=1)}
    with (
        FakeProvider(prices=prices) as provider,
        OpenAI(base_url=provider.openai_base_url, api_key="k") as client,
        Anthropic(base_url=provider.anthropic_base_url, api_key="k") as other,
    ):
        provider.answer(output_tokens=10)
        ask(client, "my-llm")  # 8 x 0.1 + 10 x 0.25 = 3.3 nanodollars
        ask(client, "gpt-4o")
        other.messages.create(model="my-llm", messages=HELLO, max_tokens=1)  # 8 x 0.1 + 1 x 0.25 = 1.05
        assert [line.usd_nanos for line in provider.bill.lines] == [4, 18_000, 2]


def test_a_price_that_cannot_be_exact_is_refused() -> None:
    with pytest.raises(ValueError, match="finer than a picodollar"):
        Price(input="0.0000001", output=1)
    with pytest.raises(ValueError, match="negative"):
        Price(input=-1, output=1)


def test_the_model_that_served_is_charged(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=10, served_model="gpt-4o")
    assert ask(openai_client).model == "gpt-4o"
    assert provider.bill.lines[0].model == "gpt-4o"
    assert provider.bill.usd_nanos == 8 * 2_500 + 10 * 10_000


def test_answers_follow_the_script_in_order(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(output_tokens=1)
    provider.answer(output_tokens=2, times=2)
    provider.answer(Answer(output_tokens=3), times=1)
    provider.answer(output_tokens=4, model="gpt-4.1*")
    said = [ask(openai_client).usage.completion_tokens for _ in range(5)]
    assert said == [2, 2, 3, 1, 1]
    assert ask(openai_client, "gpt-4.1-mini").usage.completion_tokens == 4
    provider.reset()
    assert ask(openai_client).usage.completion_tokens == 300


def test_an_answer_can_depend_on_the_request(provider: FakeProvider, openai_client: OpenAI) -> None:
    provider.answer(lambda request: Answer(text=f"{request.model} {request.number} {request.body is not None}"))
    assert ask(openai_client).choices[0].message.content == "gpt-4o-mini 1 True"


def test_the_bill_is_a_record_for_programs_and_a_table_for_people(
    openai_client: OpenAI, provider: FakeProvider
) -> None:
    provider.answer(output_tokens=1_200, reasoning_tokens=200)
    ask(openai_client, "gpt-5-mini")
    line = provider.bill.lines[0]
    assert (line.number, line.path, line.finished) == (1, "/v1/chat/completions", True)
    assert (line.output_tokens, line.reasoning_tokens, line.tokens) == (1_200, 200, 1_208)
    assert line.usd == Decimal("0.002402")
    assert provider.bill_table() == (
        "#  model       stream  input  cached  output  reasoning          usd\n"
        "1  gpt-5-mini              8       0   1,200        200  0.002402000\n"
        "   1 call                  8       0   1,200        200  0.002402000"
    )


def test_an_empty_bill_is_nothing(provider: FakeProvider) -> None:
    assert (provider.bill.lines, provider.bill.usd, provider.bill.tokens, provider.bill.calls) == ((), 0, 0, 0)


def test_records_carry_the_time_of_the_clock() -> None:
    clock = FixedClock(1_000)
    with FakeProvider(clock=clock) as provider, OpenAI(base_url=provider.openai_base_url, api_key="k") as client:
        ask(client)
        clock.tick(60)
        assert ask(client).created == 1_060
        assert [line.at for line in provider.bill.lines] == [1_000, 1_060]
        assert [request.at for request in provider.requests] == [1_000, 1_060]


def test_requests_are_kept_without_their_keys(
    provider: FakeProvider, openai_client: OpenAI, anthropic_client: Anthropic
) -> None:
    ask(openai_client)
    anthropic_client.messages.create(model="claude-haiku-4-5", messages=HELLO, max_tokens=1)
    assert "sk-secret" not in repr(provider.requests)
    assert [request.has_key for request in provider.requests] == [True, True]
    request = provider.requests[0]
    assert (request.method, request.path, request.status) == ("POST", "/v1/chat/completions", 200)
    assert (request.model, request.stream) == ("gpt-4o-mini", False)
    assert request.body == {"messages": HELLO, "model": "gpt-4o-mini"}
    assert request.headers["x-stainless-retry-count"] == "0"


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: Answer(output_tokens=-1),
        lambda: Answer(output_tokens=5, reasoning_tokens=6),
        lambda: FakeProvider(stream_billing="half"),  # type: ignore[arg-type]
        lambda: FakeProvider().answer(times=0),
        lambda: FakeProvider().answer(Answer(), output_tokens=5),
        lambda: FakeProvider().chunks(0),
        lambda: FakeProvider().drop("later"),  # type: ignore[arg-type]
        lambda: FakeProvider().odd(stream_usage="often"),  # type: ignore[arg-type]
    ],
)
def test_a_mistake_is_told_when_it_is_made(mistake: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        mistake()


def test_it_imports_no_sdk_and_nothing_else_of_farebox() -> None:
    code = (
        "import sys, farebox; before = set(sys.modules); import farebox.testing; after = set(sys.modules) - before\n"
        "wrong = [name for name in after if name.split('.')[0] in ('openai', 'anthropic')"
        " or name.startswith('farebox.') and not name.startswith('farebox.testing')]\n"
        "sys.exit(repr(wrong) if wrong else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_listens_on_loopback_only(provider: FakeProvider) -> None:
    assert provider.openai_base_url.startswith("http://127.0.0.1:")
    port = int(provider.anthropic_base_url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)):
        pass
