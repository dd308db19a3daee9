"""Claude on Bedrock, Vertex and Foundry, through the SDK's own clients: metered, named and priced as those clouds do."""

from __future__ import annotations

from typing import Any

import anthropic
import attrs
import pytest

import farebox
from farebox import BudgetExceeded, budget, instrument, report
from farebox.testing import Answer, FakeProvider, Price
from tests.acceptance.asked import KINDS, All, Steps, ask
from tests.acceptance.rides import MESSAGES, led, nothing_is_left, only_record

# USD per million tokens (platform.claude.com/docs/en/about-claude/pricing: regional endpoints of Bedrock and Vertex cost a
# tenth more than Anthropic's own and than global ones, read 2026-11-29).
LISTED = Price(input="1.00", output="5.00", vendor="anthropic")
REGIONAL = Price(input="1.10", output="5.50", vendor="anthropic")


@attrs.frozen
class Cloud:
    """One cloud: its client, what it is called with, and what it charges."""

    name: str
    client: str
    options: dict[str, Any]
    model: str
    price: Price
    needs: str = ""
    tier: str = ""

    def __str__(self) -> str:
        return self.name

    def open(self, provider: FakeProvider, *, is_async: bool = False) -> Any:
        """A client that believes to speak to the cloud; its requests go to `provider`, over HTTP."""
        if self.needs:
            pytest.importorskip(self.needs, reason=f"the SDK's {self.client} needs it")
        kind = getattr(anthropic, f"Async{self.client}" if is_async else self.client)
        http = anthropic.DefaultAsyncHttpxClient if is_async else anthropic.DefaultHttpxClient
        return kind(**self.options, http_client=http(transport=led(provider, is_async, sdk=anthropic)), max_retries=0)


BEDROCK = {"aws_access_key": "id", "aws_secret_key": "secret", "aws_region": "eu-west-1"}
VERTEX = {"access_token": "token", "project_id": "project"}
CLOUDS = [
    Cloud("aws.bedrock", "AnthropicBedrock", BEDROCK, "eu.anthropic.claude-haiku-4-5-20251001-v1:0", REGIONAL, "botocore"),
    Cloud("aws.bedrock", "AnthropicBedrock", BEDROCK, "global.anthropic.claude-haiku-4-5-20251001-v1:0", LISTED, "botocore"),
    Cloud(
        "gcp.vertex_ai", "AnthropicVertex", {**VERTEX, "region": "europe-west1"}, "claude-haiku-4-5@20251001", REGIONAL,
        "google.auth", "regional",
    ),
    Cloud("gcp.vertex_ai", "AnthropicVertex", {**VERTEX, "region": "global"}, "claude-haiku-4-5@20251001", LISTED, "google.auth"),
    Cloud("azure.ai.inference", "AnthropicFoundry", {"api_key": "key", "resource": "r"}, "claude-haiku-4-5", LISTED),
]  # fmt: skip


@pytest.fixture(params=CLOUDS, ids=lambda cloud: f"{cloud.client}-{cloud.model.partition('.')[0]}-{cloud.tier}")
def cloud(request: pytest.FixtureRequest) -> Cloud:
    found: Cloud = request.param
    return found


def server_of(cloud: Cloud) -> FakeProvider:
    provider = FakeProvider(prices={cloud.model: cloud.price}, clock=lambda: 1_800_000_000.0)
    provider.answer(Answer(output_tokens=50))
    return provider


@pytest.fixture
def server(cloud: Cloud) -> Any:
    with server_of(cloud) as provider:
        yield provider


def settled(cloud: Cloud, server: FakeProvider, frame: Any) -> None:
    record = only_record()
    assert (record.provider_name, record.request_model, record.outcome) == (cloud.name, cloud.model, "completed")
    assert record.cost_source == "list"
    assert frame.spent_usd == report().total.usd == server.bill.usd > 0
    assert record.bound_usd >= record.usd
    nothing_is_left()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def asked(cloud: Cloud, server: FakeProvider, kind: str) -> Any:
    words = {"model": cloud.model, "max_tokens": 100, "messages": MESSAGES}

    def program(client: Any) -> Steps:
        answer = client.messages.create(**words, stream="stream" in kind)
        return (yield All(answer) if "stream" in kind else answer)

    return ask(program, lambda is_async: cloud.open(server, is_async=is_async), kind)


@pytest.mark.surface("anthropic messages.create of {cloud.client}", kind="{kind}", proves=["exact", "unbroken"])
def test_a_call_is_charged_what_the_cloud_bills_and_answers_as_ever(
    cloud: Cloud, server: FakeProvider, kind: str
) -> None:
    with server_of(cloud) as bare:
        without = asked(cloud, bare, kind)
    with instrument(), budget(usd=1) as frame:
        assert asked(cloud, server, kind) == without
    settled(cloud, server, frame)


@pytest.mark.surface("anthropic messages.create of {cloud.client}", kind="{kind}", proves="refused")
def test_what_does_not_fit_is_not_sent(cloud: Cloud, server: FakeProvider, kind: str) -> None:
    with instrument(), budget(usd="0.0001"), pytest.raises(BudgetExceeded):
        asked(cloud, server, kind)
    assert not server.requests


def test_the_helper_for_streams_is_charged_too(cloud: Cloud, server: FakeProvider) -> None:
    with instrument(), cloud.open(server) as client, budget(usd=1) as frame:
        with client.messages.stream(model=cloud.model, max_tokens=100, messages=MESSAGES) as stream:
            assert stream.get_final_message().usage.output_tokens == 50
    settled(cloud, server, frame)


def test_a_stream_that_is_read_as_bytes_is_charged_too(cloud: Cloud, server: FakeProvider) -> None:
    server.answer(Answer(output_tokens=50))
    with instrument(), cloud.open(server) as client, budget(usd=1) as frame:
        asked = {"model": cloud.model, "max_tokens": 100, "messages": MESSAGES, "stream": True}
        with client.messages.with_streaming_response.create(**asked) as response:
            assert b"".join(response.iter_bytes())
    settled(cloud, server, frame)


def test_one_whose_bytes_are_left_is_charged_for_what_came(cloud: Cloud, server: FakeProvider) -> None:
    server.answer(Answer(output_tokens=3_000))
    server.pace(0.004)
    with instrument(), cloud.open(server) as client, budget(usd=1):
        asked = {"model": cloud.model, "max_tokens": 4_000, "messages": MESSAGES, "stream": True}
        with client.messages.with_streaming_response.create(**asked) as response:
            chunks = response.iter_bytes()
            for _ in range(5):
                next(chunks)
    server.wait_until_idle()
    record = only_record()
    assert (record.outcome, record.cost_source) == ("closed", "estimated")
    assert server.bill.usd <= record.usd < record.bound_usd


def test_a_cap_that_is_lowered_arrives(cloud: Cloud, server: FakeProvider) -> None:
    with instrument(), cloud.open(server) as client, budget(usd=1, output_cap=40):
        client.messages.create(model=cloud.model, max_tokens=100, messages=MESSAGES)
    assert server.requests[0].body["max_tokens"] == 40
    assert server.bill.lines[0].output_tokens == 40


def test_a_client_is_metered_by_itself_too(cloud: Cloud, server: FakeProvider) -> None:
    with cloud.open(server) as client, budget(usd=1) as frame:
        instrument(client).messages.create(model=cloud.model, max_tokens=100, messages=MESSAGES)
        farebox.uninstrument(client)
        client.messages.create(model=cloud.model, max_tokens=100, messages=MESSAGES)
    assert (frame.spent_calls, server.bill.calls) == (1, 2)
