"""Servers of others in OpenAI's and Anthropic's format: whose they are, what they cost, and what of theirs is believed.

The SDKs call the vendors' own addresses; a transport leads them to the fake provider instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest

import farebox
from farebox import BudgetExceeded, budget, configure, report
from farebox.errors import UnpricedModel
from farebox.providers import _compatible, find_provider
from farebox.testing import FakeProvider, Price
from tests.acceptance.rides import HTTPX, MESSAGES, led, nothing_is_left, only_record

pytestmark = pytest.mark.usefixtures("metered")

USD = Decimal(1)
MILLION = 10**6
MODELS = (
    "deepseek-chat deepseek-flash prod-chat llama3.2 cheap openai/gpt-4o-mini openai/gpt-4o-mini:online meta-llama/x:free "
    "google/gemini-2.5-flash-image google/gemini-3-pro-image-preview google/gemini-3.1-flash-image openai/gpt-5-image "
    "qwen-max openrouter/auto grok-4 gpt-4o-mini gpt-4o claude-haiku-4-5 nobody-knows"
).split()


@pytest.fixture(autouse=True)
def unknown() -> Iterator[None]:
    _compatible._known.clear()
    yield
    _compatible._known.clear()


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(prices={model: Price(input="0.15", output="0.60") for model in MODELS}) as provider:
        yield provider


@pytest.fixture
def to(provider: FakeProvider) -> Iterator[Callable[..., Any]]:
    """Makes a client of an address whose requests the fake provider answers, under the path that it knows."""

    def known(path: str) -> str:
        return next(f"/v1{end}" for end in ("/chat/completions", "/completions", "/messages") if path.endswith(end))

    with contextlib.ExitStack() as clients:

        def make(url: str, sdk: Any = openai.OpenAI, **options: Any) -> Any:
            http_client = clients.enter_context(HTTPX.Client(transport=led(provider, path=known), trust_env=False))
            options = {"api_key": "fake", "max_retries": 0, "http_client": http_client, **options}
            return sdk(base_url=url, **options) if url else sdk(**options)

        yield make


def ask(client: Any, model: str, **words: Any) -> Any:
    return client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=100, **words)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.deepseek.com", "deepseek"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "qwen"),
        ("https://api.moonshot.cn/v1", "moonshot_ai"),
        ("https://open.bigmodel.cn/api/paas/v4", "zhipuai"),
        ("https://api.z.ai/api/paas/v4", "z_ai"),
        ("https://api.minimax.io/v1", "minimax"),
        ("https://qianfan.baidubce.com/v2", "baidu"),
        ("https://api.lingyiwanwu.com/v1", "01_ai"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://api.mistral.ai/v1", "mistral_ai"),
        ("https://api.x.ai/v1", "x_ai"),
        ("https://api.together.xyz/v1", "together_ai"),
        ("https://api.fireworks.ai/inference/v1", "fireworks_ai"),
        ("https://shop.openai.azure.com/openai/v1", "azure.ai.openai"),
        ("http://localhost:11434/v1", "ollama"),
        ("http://vllm:8000/v1", "vllm"),
        ("http://127.0.0.1:1234/v1", "lm_studio"),
        ("https://llm.corp.example/v1", "openai"),
        ("https://notdeepseek.com/v1", "openai"),
        ("https://eu.api.openai.com/v1", "openai"),
    ],
)
def test_a_server_is_known_by_its_address(provider: Any, to: Any, url: str, name: str) -> None:
    heard = []
    with farebox.signals.post_call.connected_to(lambda sender, call: heard.append(sender)):
        ask(to(url), "nobody-knows")
        list(ask(to(url), "nobody-knows", stream=True))
    assert {record.provider_name for record in farebox.calls()} == {name}
    assert heard == [name, name]
    assert provider.bill.calls == 2
    nothing_is_left()


def test_the_table_agrees_with_the_price_lists_patterns() -> None:
    """An independent list of the same: genai-prices matches these addresses to the provider whose prices are used."""
    from genai_prices.data import providers

    from farebox.prices._names import provider_id
    from farebox.providers._servers import _NAMES

    listed = {one.id: one.api_pattern for one in providers}
    seen = 0
    for host, name in _NAMES.items():
        pattern = listed.get(provider_id(name))
        if pattern is not None and name not in (
            "together_ai",
            "mistral_ai",
            "minimax",
        ):  # it knows fewer hosts of theirs
            seen += 1
            prefix = "shop." if host.endswith("azure.com") else ""
            assert re.match(pattern, f"https://{prefix}{host}/v1"), (host, pattern)
    assert seen > 12


# ── DeepSeek ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_deepseek_is_priced_by_its_own_list_and_its_cache_by_the_fields_it_has(provider: Any, to: Any) -> None:
    farebox.set_price(
        "deepseek-flash", provider="deepseek", input_per_million=1, output_per_million=2, cache_read_per_million="0.1"
    )
    usage = {
        "prompt_tokens": 1_000, "completion_tokens": 10, "total_tokens": 1_010,
        "prompt_cache_hit_tokens": 900, "prompt_cache_miss_tokens": 100,
    }  # fmt: skip
    for words in ({}, {"stream": True}):
        provider.odd(usage=usage)
        answer = ask(to("https://api.deepseek.com"), "deepseek-flash", **words)
        list(answer) if words else None
    expected = (100 * USD + 900 * Decimal("0.1") + 10 * 2) / MILLION
    assert [record.usd for record in farebox.calls()] == [expected, expected]
    assert {record.usage.cache_read_tokens for record in farebox.calls() if record.usage} == {900}


def test_a_list_price_of_deepseek_is_found_and_bounds_the_call(provider: Any, to: Any) -> None:
    with budget(usd=1) as b:
        ask(to("https://api.deepseek.com/beta"), "deepseek-flash")
        to("https://api.deepseek.com/beta").completions.create(model="deepseek-flash", prompt="def f(", max_tokens=10)
    assert b.spent_usd > 0
    assert [record.cost_source for record in farebox.calls()] == ["list", "list"]
    assert report(where={"provider": "deepseek"}).total.calls == 2


def test_the_anthropic_format_of_others_is_theirs(provider: Any, to: Any) -> None:
    client = to("https://api.deepseek.com/anthropic", anthropic.Anthropic)
    client.messages.create(model="claude-haiku-4-5", max_tokens=10, messages=MESSAGES)
    assert (only_record().provider_name, only_record().usd) == ("deepseek", None)


# ── Azure ────────────────────────────────────────────────────────────────────────────────────────────────────────


def azure(to: Any, **options: Any) -> Any:
    return to(
        "", openai.AzureOpenAI, azure_endpoint="https://shop.openai.azure.com", api_version="2024-10-21", **options
    )


def test_an_unknown_deployment_is_refused_under_a_usd_limit_with_the_line_to_write(provider: Any, to: Any) -> None:
    with budget(usd=1), pytest.raises(UnpricedModel, match=r"farebox.configure\(deployments={'prod-chat': 'gpt-4o'}\)"):
        ask(azure(to), "prod-chat")
    assert not provider.requests


@pytest.mark.parametrize("fixed", [False, True])
def test_a_deployment_that_is_named_is_priced_as_its_model(provider: Any, to: Any, fixed: bool) -> None:
    client = azure(to, azure_deployment="prod-chat") if fixed else azure(to)
    with configure(deployments={"prod-chat": "gpt-4o"}), budget(usd=1) as b:
        provider.answer(output_tokens=50, input_tokens=100)
        ask(client, "nobody-knows" if fixed else "prod-chat")
    record = only_record()
    assert (record.request_model, record.provider_name) == ("prod-chat", "azure.ai.openai")
    assert record.usd == b.spent_usd == (100 * Decimal("2.5") + 50 * 10) / MILLION
    assert record.bound_usd >= 100 * Decimal(10) / MILLION
    nothing_is_left()


def test_without_a_limit_a_deployment_costs_what_the_model_does_that_answered(provider: Any, to: Any) -> None:
    provider.answer(output_tokens=50, input_tokens=100, served_model="gpt-4o")
    ask(azure(to), "prod-chat")
    assert only_record().usd == (100 * Decimal("2.5") + 50 * 10) / MILLION


def test_deployments_are_read_from_the_file_and_taken_back(tmp_path: Any) -> None:
    from farebox._settings import read_settings

    (tmp_path / "farebox.toml").write_text('[deployments]\nprod-chat = "gpt-4o"\n')
    assert read_settings({}, tmp_path).deployments == {"prod-chat": "gpt-4o"}
    (tmp_path / "farebox.toml").write_text("[deployments]\nprod-chat = 4\n")
    with pytest.raises(ValueError, match=r"line 1: deployments=.* has a whole number for 'prod-chat'"):
        read_settings({}, tmp_path)
    with pytest.raises(TypeError, match=r"deployments=.* is no dict of names"):
        configure(deployments={"a": 1})  # type: ignore[dict-item]
    with configure(deployments={"prod-chat": "gpt-4o"}):
        assert farebox.estimate("prod-chat", "hello", max_output_tokens=10).bound_usd
    with pytest.raises(UnpricedModel):
        farebox.estimate("prod-chat", "hello", max_output_tokens=10)


# ── OpenRouter ───────────────────────────────────────────────────────────────────────────────────────────────────

ROUTER = "https://openrouter.ai/api/v1"


def told(cost: Any, **more: Any) -> Any:
    return lambda usage: {**usage, "cost": cost, **more}


def test_what_openrouter_says_it_charged_is_believed_near_the_list_price(provider: Any, to: Any) -> None:
    listed = (100 * Decimal("0.15") + 50 * Decimal("0.60")) / MILLION
    for cost, expected, source in (
        (float(listed / 2), listed / 2, "provider"),
        (str(listed), listed, "provider"),
        (float(listed * 100), listed, "estimated"),  # cents for dollars
        (0, listed, "estimated"),
        (-1, listed, "list"),
        ({"total": 1}, listed, "list"),
        (float("1e30"), listed, "list"),
    ):
        provider.answer(output_tokens=50, input_tokens=100, times=1)
        provider.odd(usage=told(cost), edit=lambda body: {**body, "provider": "DeepInfra"})
        ask(to(ROUTER), "openai/gpt-4o-mini")
        record = farebox.calls()[-1]
        assert (record.usd, record.cost_source, record.upstream_provider) == (
            expected,
            source,
            "DeepInfra" if source != "list" else record.upstream_provider,
        )
        assert bool(record.doubt) == (source == "estimated"), cost


def test_with_a_key_of_ones_own_the_upstream_bill_is_a_part_of_the_cost(provider: Any, to: Any) -> None:
    provider.answer(output_tokens=50, input_tokens=100)
    provider.odd(usage=told(0.000002, is_byok=True, cost_details={"upstream_inference_cost": 0.00004}))
    list(ask(to(ROUTER), "openai/gpt-4o-mini", stream=True))
    assert (only_record().usd, only_record().cost_source) == (Decimal("0.000042"), "provider")


def test_a_free_variant_is_free_and_a_searching_one_is_held_with_its_fee(provider: Any, to: Any) -> None:
    with budget(usd=0):
        ask(to(ROUTER), "meta-llama/x:free")
    assert only_record().usd == 0
    with budget(usd="0.001"), pytest.raises(BudgetExceeded):
        ask(to(ROUTER), "openai/gpt-4o-mini:online")
    with budget(usd="0.1"):
        ask(to(ROUTER), "openai/gpt-4o-mini:online")
    assert farebox.calls()[-1].bound_usd > Decimal("0.02")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "text", "picture"),
    [
        ("google/gemini-2.5-flash-image", "2.5", 30),
        ("google/gemini-3-pro-image-preview", 12, 120),
        ("google/gemini-3.1-flash-image", 3, 60),
        ("openai/gpt-5-image", 10, 40),
    ],
)
def test_a_picture_that_openrouter_has_drawn_is_held_and_paid_at_its_own_price(
    provider: Any, to: Any, model: str, text: Any, picture: int, stream: bool
) -> None:
    """What of an answer is a picture its details say; without them all of it may be."""
    provider.answer(output_tokens=100, input_tokens=20)
    for drawn in (None, 75):
        details = {} if drawn is None else {"completion_tokens_details": {"image_tokens": drawn, "reasoning_tokens": 0}}
        provider.odd(usage=lambda usage, details=details: {**usage, **details})
        with budget(usd=1) as b:
            answer = ask(to(ROUTER), model, stream=stream)
            list(answer) if stream else None
        call = farebox.calls()[-1]
        out = 100 * picture if drawn is None else 75 * picture + 25 * Decimal(text)
        assert 0 < call.usd - out / Decimal(MILLION) <= 20 * 10 / Decimal(MILLION)
        assert call.bound_usd >= 100 * picture / Decimal(MILLION)
        assert b.debt_usd == 0


# ── gateways and machines of one's own ───────────────────────────────────────────────────────────────────────────

GATEWAY = "https://llm.corp.example/v1"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("asked", "served"), [("gpt-4o", "gpt-4o-mini"), ("gpt-4o-mini", "gpt-4o")])
def test_a_gateway_is_charged_the_dearer_of_what_was_asked_and_what_it_names(
    provider: Any, to: Any, asked: str, served: str, stream: bool
) -> None:
    provider.answer(output_tokens=50, input_tokens=100, served_model=served)
    answer = ask(to(GATEWAY), asked, stream=stream)
    list(answer) if stream else None
    assert only_record().usd == (100 * Decimal("2.5") + 50 * 10) / MILLION
    assert only_record().response_model == served


def test_a_vendors_own_server_is_believed_which_model_it_served(provider: Any, to: Any) -> None:
    for model in ("deepseek-chat", "deepseek-flash"):
        farebox.set_price(model, provider="deepseek", input_per_million=1, output_per_million=1)
    provider.answer(output_tokens=50, input_tokens=100, served_model="gpt-4o-mini")
    ask(to("https://api.openai.com/v1"), "gpt-4o")
    assert only_record().usd == (100 * Decimal("0.15") + 50 * Decimal("0.60")) / MILLION


def test_a_map_of_names_says_what_a_gateway_bills(provider: Any, to: Any) -> None:
    provider.answer(output_tokens=50, input_tokens=100, served_model="gpt-4o")
    with configure(deployments={"cheap": "gpt-4o-mini"}), budget(usd=1):
        ask(to(GATEWAY), "cheap")
    assert only_record().usd == (100 * Decimal("0.15") + 50 * Decimal("0.60")) / MILLION


def test_a_model_at_home_has_no_price_until_somebody_says_that_it_is_free(provider: Any, to: Any) -> None:
    client = to("http://localhost:11434/v1")
    with budget(usd=1), pytest.raises(UnpricedModel) as refused:
        ask(client, "llama3.2")
    assert "set_price('llama3.2', " in str(refused.value)
    assert "with 0 for both if this server of your own costs nothing" in str(refused.value)
    farebox.set_price("llama3.2", input_per_million=0, output_per_million=0)
    with budget(usd=0):
        ask(client, "llama3.2")
    assert len(provider.requests) == 1


# ── odd ways to say a usage ──────────────────────────────────────────────────────────────────────────────────────


def test_a_server_that_refuses_stream_options_is_asked_once_more_and_remembered(provider: Any, to: Any) -> None:
    provider.refuse("stream_options")
    client = to("https://api.mistral.ai/v1")
    for _ in range(2):
        assert [chunk for chunk in ask(client, "gpt-4o-mini", stream=True) if chunk.choices]
    sent = [("stream_options" in request.body, request.status) for request in provider.requests]
    assert sent == [(True, 400), (False, 200), (False, 200)]
    assert provider.bill.calls == 2
    records = farebox.calls()
    assert [(record.outcome, record.attempts, record.cost_source) for record in records] == [
        ("completed", 2, "estimated"),
        ("completed", 1, "estimated"),
    ]
    assert all("no usage" in record.doubt for record in records)
    nothing_is_left()


def test_async_a_server_that_refuses_stream_options_is_asked_once_more(provider: Any) -> None:
    provider.refuse("stream_options", 422, "body.stream_options: Extra inputs are not permitted")

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=provider.openai_base_url, api_key="fake", max_retries=0) as client:
            with budget(usd=1) as b:
                async for _ in await ask(client, "gpt-4o-mini", stream=True):
                    pass
            assert b.spent_usd >= provider.bill.usd > 0

    asyncio.run(main())
    assert [request.status for request in provider.requests] == [422, 200]


def test_what_the_caller_asked_for_and_is_refused_stays_refused(provider: Any, to: Any) -> None:
    provider.refuse("stream_options")
    with pytest.raises(openai.BadRequestError):
        ask(to(GATEWAY), "gpt-4o-mini", stream=True, stream_options={"include_usage": True})
    assert len(provider.requests) == 1
    assert only_record().outcome == "failed"


USAGE = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}


def in_last_chunk(put: Any) -> Any:
    """Edits a stream: no usage chunk, and `put` on the chunk that says how the answer ended."""

    def edit(payload: dict[str, Any]) -> Any:
        if not payload["choices"]:
            return None
        ended = payload["choices"][0]["finish_reason"]
        return put({**payload, "usage": None}) if ended else {**payload, "usage": None}

    return edit


@pytest.mark.parametrize(
    ("url", "put"),
    [
        ("https://api.groq.com/openai/v1", lambda chunk: {**chunk, "x_groq": {"id": "r", "usage": USAGE}}),
        ("https://api.moonshot.ai/v1", lambda chunk: {**chunk, "choices": [{**chunk["choices"][0], "usage": USAGE}]}),
        ("https://api.mistral.ai/v1", lambda chunk: {**chunk, "usage": USAGE}),
    ],
)
def test_a_usage_is_found_wherever_the_last_chunk_has_it(provider: Any, to: Any, url: str, put: Any) -> None:
    farebox.set_price("nobody-knows", input_per_million=1, output_per_million=2)
    provider.odd(edit=in_last_chunk(put))
    list(ask(to(url), "nobody-knows", stream=True))
    assert (only_record().usd, only_record().doubt) == ((100 * USD + 50 * 2) / MILLION, "")


def test_what_was_reasoned_and_is_only_in_the_total_is_charged(provider: Any, to: Any) -> None:
    farebox.set_price("grok-4", input_per_million=1, output_per_million=2)
    details = {"completion_tokens_details": {"reasoning_tokens": 400}}
    for usage in ({**USAGE, "total_tokens": 550, **details}, {**USAGE, "total_tokens": 550}):
        provider.odd(usage=usage)
        ask(to("https://api.x.ai/v1"), "grok-4")
    assert [record.usd for record in farebox.calls()] == [(100 * USD + 450 * 2) / MILLION] * 2


@pytest.mark.parametrize("sdk", [openai.OpenAI, anthropic.Anthropic])
def test_plain_text_to_the_vendors_own_server_is_read_on_the_short_way_and_paid_to_the_bill(
    provider: Any, to: Any, sdk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, model = to("", sdk), "gpt-4o-mini" if sdk is openai.OpenAI else "claude-haiku-4-5"
    api = client.chat.completions if sdk is openai.OpenAI else client.messages
    whole = type(find_provider(sdk.__name__.lower()))
    with budget(usd=1) as paid, monkeypatch.context() as short:
        short.delattr(whole, "read_request")  # nobody goes that way
        short.delattr(whole, "read_answer")
        for _ in range(3):
            api.create(model=model, messages=MESSAGES, max_tokens=100)
    bill = provider.bill
    assert paid.spent_tokens == sum(line.input_tokens + line.output_tokens for line in bill.lines) > 0
    assert paid.spent_calls == bill.calls == 3
    nothing_is_left()


@pytest.mark.parametrize("sdk", [openai.OpenAI, anthropic.Anthropic])
def test_the_call_that_crosses_a_limit_raises_with_its_answer_at_the_vendors_own_server(to: Any, sdk: Any) -> None:
    client, model = to("", sdk), "gpt-4o-mini" if sdk is openai.OpenAI else "claude-haiku-4-5"
    api = client.chat.completions if sdk is openai.OpenAI else client.messages
    with budget(usd="0.00002", on_exceed="raise") as crossed, pytest.raises(BudgetExceeded) as raised:
        api.create(model=model, messages=MESSAGES, max_tokens=100)
    assert raised.value.response.usage
    assert crossed.spent_usd > crossed.limit_usd
    nothing_is_left()
