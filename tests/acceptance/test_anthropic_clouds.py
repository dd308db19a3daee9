"""Claude on Bedrock, Vertex and Foundry, through the SDK's own clients: metered, named and priced as those clouds do."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

import anthropic
import attrs
import pytest

from farebox import BudgetExceeded, budget, report
from farebox.testing import Answer, FakeProvider, Price
from tests.acceptance.rides import MESSAGES, nothing_is_left, only_record

pytestmark = pytest.mark.usefixtures("metered")

#: What the anthropic package is built on: httpx2 since its version 1.
HTTPX: Any = importlib.import_module(anthropic.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])

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
        return kind(**self.options, http_client=http(transport=_elsewhere(provider, is_async)), max_retries=0)


def _elsewhere(provider: FakeProvider, is_async: bool) -> Any:
    base: Any = HTTPX.AsyncHTTPTransport if is_async else HTTPX.HTTPTransport
    here = HTTPX.URL(provider.anthropic_base_url)

    class Elsewhere(base):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            return super().handle_request(_sent_to(request, here))

        async def handle_async_request(self, request: Any) -> Any:
            return await super().handle_async_request(_sent_to(request, here))

    return Elsewhere()


def _sent_to(request: Any, here: Any) -> Any:
    request.url = request.url.copy_with(scheme=here.scheme, host=here.host, port=here.port)
    return request


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


@pytest.fixture
def server(cloud: Cloud) -> Any:
    with FakeProvider(prices={cloud.model: cloud.price}) as provider:
        yield provider


def settled(cloud: Cloud, server: FakeProvider, frame: Any) -> None:
    record = only_record()
    assert (record.provider_name, record.request_model, record.outcome) == (cloud.name, cloud.model, "completed")
    assert record.cost_source == "list"
    assert frame.spent_usd == report().total.usd == server.bill.usd > 0
    assert record.bound_usd >= record.usd
    nothing_is_left()


@pytest.mark.surface("anthropic {cloud.client}", kind="sync", proves="exact")
def test_a_call_is_charged_what_the_cloud_bills(cloud: Cloud, server: FakeProvider) -> None:
    server.answer(Answer(output_tokens=50))
    with cloud.open(server) as client, budget(usd=1) as frame:
        client.messages.create(model=cloud.model, max_tokens=100, messages=MESSAGES)
    settled(cloud, server, frame)


@pytest.mark.surface("anthropic {cloud.client}", kind="stream", proves=["exact", "unbroken"])
def test_so_is_a_stream(cloud: Cloud, server: FakeProvider) -> None:
    server.answer(Answer(output_tokens=50))
    with cloud.open(server) as client, budget(usd=1) as frame:
        with client.messages.stream(model=cloud.model, max_tokens=100, messages=MESSAGES) as stream:
            assert stream.get_final_message().usage.output_tokens == 50
    settled(cloud, server, frame)


@pytest.mark.surface("anthropic {cloud.client}", kind=["async", "async stream"], proves="exact")
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_and_so_is_an_async_one(cloud: Cloud, server: FakeProvider, is_stream: bool) -> None:
    async def ask() -> None:
        async with cloud.open(server, is_async=True) as client:
            answer = await client.messages.create(
                model=cloud.model, max_tokens=100, messages=MESSAGES, stream=is_stream
            )
            if is_stream:
                async for _ in answer:
                    pass

    server.answer(Answer(output_tokens=50))
    with budget(usd=1) as frame:
        asyncio.run(ask())
    settled(cloud, server, frame)


@pytest.mark.surface("anthropic {cloud.client}", kind="sync", proves="refused")
def test_what_does_not_fit_is_not_sent(cloud: Cloud, server: FakeProvider) -> None:
    with cloud.open(server) as client, budget(usd="0.0001"), pytest.raises(BudgetExceeded):
        client.messages.create(model=cloud.model, max_tokens=100, messages=MESSAGES)
    assert not server.requests


def test_a_cap_that_is_lowered_arrives(cloud: Cloud, server: FakeProvider) -> None:
    with cloud.open(server) as client, budget(usd=1, output_cap=40):
        client.messages.create(model=cloud.model, max_tokens=100, messages=MESSAGES)
    assert server.requests[0].body["max_tokens"] == 40
    assert server.bill.lines[0].output_tokens == 40


def test_a_client_is_metered_by_itself_too(cloud: Cloud, server: FakeProvider, alone: Callable[[Any], Any]) -> None:
    with cloud.open(server) as client, budget(usd=1) as frame:
        alone(client).messages.create(model=cloud.model, max_tokens=100, messages=MESSAGES)
    assert frame.spent_calls == 1


@pytest.fixture
def alone() -> Any:
    import farebox

    instrumented: list[Any] = []

    def one(client: Any) -> Any:
        farebox.uninstrument()
        instrumented.append(farebox.instrument(client))
        return client

    yield one
    for client in instrumented:
        farebox.uninstrument(client)
