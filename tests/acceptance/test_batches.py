"""Batches of both vendors: bounded when they are sent, held until their results are there, paid at half the price."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, report, track
from farebox.errors import UnmeteredCall
from farebox.testing import FakeProvider
from farebox.types import Usage
from tests.acceptance.rides import ANTHROPIC, OPENAI

pytestmark = [pytest.mark.usefixtures("metered")]

TEXT = "hello there, how are you?"  # 25 bytes: 7 tokens
CAP = 400


@pytest.fixture
def client(provider: FakeProvider, open_client: Callable[..., Any]) -> Any:
    return open_client(OPENAI)


@pytest.fixture
def claude(provider: FakeProvider, open_client: Callable[..., Any]) -> Any:
    return open_client(ANTHROPIC)


def chats(count: int, model: str = "gpt-4.1", **more: Any) -> bytes:
    said = {"model": model, "messages": [{"role": "user", "content": TEXT}], "max_tokens": CAP, **more}
    rows = (
        {"custom_id": f"row-{n}", "method": "POST", "url": "/v1/chat/completions", "body": said} for n in range(count)
    )
    return b"\n".join(json.dumps(row).encode() for row in rows)


def submitted(client: Any, content: bytes, endpoint: str = "/v1/chat/completions") -> Any:
    file = client.files.create(file=("rows.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")


def messages(count: int, **more: Any) -> list[Any]:
    said = {"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": TEXT}], "max_tokens": CAP, **more}
    return [{"custom_id": f"row-{n}", "params": said} for n in range(count)]


def nothing_is_held() -> None:
    assert report().total.reserved_usd == 0
    assert [call for call in farebox.calls() if call.outcome != "completed"] == []


# ── OpenAI ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tells", [True, False], ids=["usage in the batch", "usage in the results"])
def test_a_batch_is_held_until_its_results_are_there(tells: bool, provider: FakeProvider, client: Any) -> None:
    provider.background(2, batches_tell_usage=tells)
    provider.answer(output_tokens=50)
    with track(feature="nightly"), budget(usd=1, calls=10, tokens=100_000) as b:
        batch = submitted(client, chats(5))
    assert (b.spent_usd, b.balance.reserved_calls) == (0, 5)
    # At most 400 tokens and 16 more of each at 4 per million, half of the usual price, and the input.
    assert Decimal("0.00832") <= b.reserved_usd <= Decimal("0.009")
    while batch.status != "completed":
        assert b.spent_usd == 0
        batch = client.batches.retrieve(batch.id)
    if not tells:
        assert b.spent_usd == 0
        assert len(client.files.content(batch.output_file_id).text.splitlines()) == 5
    client.batches.retrieve(batch.id)
    assert (b.spent_usd, b.reserved_usd, b.spent_calls) == (provider.bill.usd, 0, 5)
    assert b.spent_tokens == provider.bill.tokens
    (record,) = farebox.calls()
    assert (record.operation_name, record.tags, record.messages) == ("batch", {"feature": "nightly"}, 5)
    assert (record.cost_source, record.doubt, record.tier) == ("list", "", "batch")
    assert report().total.calls == provider.bill.calls == 5
    nothing_is_held()


@pytest.mark.parametrize(
    "odd",
    [
        {"status": None},
        {"status": "paused"},
        {"status": 7},
        {"status": "completed", "request_counts": {"completed": 5, "failed": 0, "total": 5}},
        {"status": "completed", "output_file_id": ["file-1"]},
        {"error": {"message": "try again"}},
    ],
)
def test_a_batch_that_does_not_say_how_it_ended_is_not_free(odd: Any, provider: FakeProvider, client: Any) -> None:
    with budget(usd=1) as b:
        batch = submitted(client, chats(5))
        held = b.reserved_usd
        provider.serve(f"/v1/batches/{batch.id}", {"id": batch.id, "object": "batch", **odd})
        client.batches.retrieve(batch.id)
        assert b.spent_usd + b.reserved_usd == held


@pytest.mark.parametrize(
    "line",
    [
        {"custom_id": "row-0", "response": {"status_code": "200", "body": {}}},
        {"custom_id": "row-0", "response": {"body": {}}},
        {"custom_id": "row-0", "response": None, "error": None},
        {"custom_id": 1, "response": {"status_code": 200, "body": {}}},
        [],
        "",
    ],
)
def test_results_that_can_not_be_read_are_not_free(line: Any, provider: FakeProvider, client: Any) -> None:
    provider.background(0, batches_tell_usage=False)
    with budget(usd=1) as b:
        batch = client.batches.retrieve(submitted(client, chats(1)).id)
        held = b.reserved_usd
        provider.serve(f"/v1/files/{batch.output_file_id}/content", line)
        client.files.content(batch.output_file_id)
        assert (b.spent_usd, b.reserved_usd) == (held, 0)


def test_a_batch_that_does_not_fit_is_not_sent(provider: FakeProvider, client: Any) -> None:
    content = chats(5)
    with budget(usd="0.008"), pytest.raises(BudgetExceeded):
        submitted(client, content)
    with budget(calls=4), pytest.raises(BudgetExceeded):
        submitted(client, content)
    with budget(tokens=2_000), pytest.raises(BudgetExceeded):
        submitted(client, content)
    assert provider.bill.calls == 0
    assert {request.path for request in provider.requests} == {"/v1/files"}


def test_a_file_that_nobody_has_seen_is_refused_under_a_limit(provider: FakeProvider, client: Any) -> None:
    with budget(usd=100), pytest.raises(UnmeteredCall):
        client.batches.create(input_file_id="file-old", endpoint="/v1/chat/completions", completion_window="24h")
    assert provider.requests == []


def test_files_of_other_purposes_are_left_alone(provider: FakeProvider, client: Any) -> None:
    with budget(usd=0, calls=0):
        kept = client.files.create(file=("a.jsonl", b"{}"), purpose="user_data")
    assert kept.purpose == "user_data"
    assert farebox.calls() == []


def test_a_file_on_disk_is_read_and_sent_whole(provider: FakeProvider, client: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(chats(3))
    with path.open("rb") as opened, budget(usd=1) as b:
        file = client.files.create(file=opened, purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        client.batches.retrieve(batch.id)
        assert (b.spent_usd, b.spent_calls) == (provider.bill.usd, 3)


def test_rows_without_a_cap_are_held_at_all_that_their_model_writes(provider: FakeProvider, client: Any) -> None:
    with budget(usd=5) as b:
        submitted(client, chats(2, max_tokens=None))
        assert b.reserved_usd >= 2 * 32_768 * Decimal("0.000004")


def test_a_batch_that_fails_costs_nothing(provider: FakeProvider, client: Any) -> None:
    provider.answer(fails=True)
    with budget(usd=1) as b:
        batch = submitted(client, chats(2))
        assert b.reserved_usd > 0
        assert client.batches.retrieve(batch.id).status == "failed"
        assert (b.spent_usd, b.reserved_usd) == (0, 0)


def test_many_short_rows_do_not_reach_the_price_of_a_long_one() -> None:
    rates = farebox.prices.RateCard().find("openai", "gpt-5.4", 1_795_262_400.0, "batch")
    assert rates is not None
    usage = Usage(uncached_input_tokens=1_000_000)
    assert rates.in_step(1_000).charge_nanos(usage) == 1_250_000_000  # 2.50, half of it in a batch
    assert rates.in_step(300_000).charge_nanos(usage) == rates.charge_nanos(usage) == 2_500_000_000


def test_rows_of_embeddings_and_responses_are_read_by_their_own_format(provider: FakeProvider, client: Any) -> None:
    provider.background(0, batches_tell_usage=False)
    for url, said in (
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": TEXT}),
        ("/v1/responses", {"model": "gpt-4.1", "input": TEXT, "max_output_tokens": 60}),
    ):
        row = {"custom_id": "a", "method": "POST", "url": url, "body": said}
        with budget(usd=1):
            batch = submitted(client, json.dumps(row).encode(), url)
            batch = client.batches.retrieve(batch.id)
            client.files.content(batch.output_file_id)
    assert report().total.usd == provider.bill.usd
    assert [call.cost_source for call in farebox.calls()] == ["list", "list"]
    nothing_is_held()


@pytest.mark.parametrize("line", [b"no json", b"[]", b'{"custom_id": "a", "url": "/v1/unknown", "body": {}}'])
def test_a_row_that_nobody_can_read_is_named_where_the_bound_must_be_proven(
    line: bytes, provider: FakeProvider, client: Any
) -> None:
    file = client.files.create(file=("a.jsonl", chats(1) + b"\n" + line), purpose="batch")
    with budget(usd=5, input_bound="bytes"), pytest.raises(farebox.errors.UnboundedCall, match="nobody can read"):
        client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")


# ── Anthropic ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_message_batch_is_held_until_its_results_are_read(provider: FakeProvider, claude: Any) -> None:
    provider.background(1)
    provider.answer(output_tokens=50)
    with track(feature="nightly"), budget(usd=1, calls=10) as b:
        batch = claude.messages.batches.create(requests=messages(4))
        assert (b.spent_usd, b.balance.reserved_calls) == (0, 4)
        held = b.reserved_usd
        assert held >= 4 * 416 * Decimal("0.0000075")
        while batch.processing_status != "ended":
            batch = claude.messages.batches.retrieve(batch.id)
        assert b.spent_usd == 0
        results = list(claude.messages.batches.results(batch.id))
        assert [one.result.type for one in results] == ["succeeded"] * 4
        assert (b.spent_usd, b.reserved_usd, b.spent_calls) == (provider.bill.usd, 0, 4)
        assert b.spent_usd <= held
        assert len(list(claude.messages.batches.results(batch.id))) == 4
    (record,) = farebox.calls()
    assert (record.operation_name, record.tags, record.messages) == ("batch", {"feature": "nightly"}, 4)
    assert (record.cost_source, record.doubt) == ("list", "")
    nothing_is_held()


def test_a_message_batch_is_paid_by_an_async_client_too(provider: FakeProvider) -> None:
    async def main() -> None:
        async with ANTHROPIC.async_client(provider) as claude:
            with budget(usd=1) as b:
                batch = await claude.beta.messages.batches.create(requests=messages(2))
                assert [one async for one in await claude.beta.messages.batches.results(batch.id)]
                assert b.spent_usd == provider.bill.usd

    asyncio.run(main())
    nothing_is_held()


def test_a_message_batch_that_does_not_fit_is_not_sent(provider: FakeProvider, claude: Any) -> None:
    with budget(usd="0.012"), pytest.raises(BudgetExceeded):
        claude.messages.batches.create(requests=messages(4))
    with budget(calls=3), pytest.raises(BudgetExceeded):
        claude.messages.batches.create(requests=messages(4))
    assert provider.requests == []


@pytest.mark.parametrize(
    "line",
    [
        {"custom_id": "row-0"},
        {"custom_id": "row-0", "result": {"type": "paused"}},
        {"custom_id": "row-0", "result": {"type": "errored"}},  # and of the other nothing is said
    ],
)
def test_results_that_do_not_say_how_every_message_ended_are_not_free(
    line: Any, provider: FakeProvider, claude: Any
) -> None:
    with budget(usd=1) as b:
        batch = claude.messages.batches.create(requests=messages(2))
        held = b.reserved_usd
        claude.messages.batches.retrieve(batch.id)
        provider.serve(f"/v1/messages/batches/{batch.id}/results", line)
        list(claude.messages.batches.results(batch.id))
        assert (b.spent_usd, b.reserved_usd) == (held, 0)


def test_results_that_are_left_half_way_are_paid_as_they_were_held(provider: FakeProvider, claude: Any) -> None:
    with budget(usd=1) as b:
        batch = claude.messages.batches.create(requests=messages(4))
        held = b.reserved_usd
        results = claude.messages.batches.results(batch.id)
        next(iter(results))
        results.close()
        assert (b.spent_usd, b.reserved_usd) == (held, 0)
    (record,) = farebox.calls()
    assert record.cost_source == "estimated"
