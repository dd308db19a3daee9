"""Batches of the Gemini API: bounded when they are sent, held until their results are there, paid at half the price."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("google.genai", reason="google-genai is not installed")

from google import genai
from google.genai import types

import farebox
from farebox import BudgetExceeded, budget, report, track
from farebox.errors import UnmeteredCall
from tests.acceptance.google_clients import run, vertex_client
from tests.acceptance.rides import GOOGLE, attempt, only_record

pytestmark = [
    pytest.mark.usefixtures("metered"),
    pytest.mark.filterwarnings("ignore:.*create_embeddings.* is experimental"),
]

LITE = GOOGLE.model
TEXT = "hello there, how are you?"
CAP = 400
EMBEDDER = "gemini-embedding-001"


@pytest.fixture
def client(provider: Any) -> Iterator[genai.Client]:
    with GOOGLE.client(provider) as client:
        yield client


def inlined(count: int, **config: Any) -> list[Any]:
    config = {"max_output_tokens": CAP, **config}
    return [types.InlinedRequest(contents=TEXT, config=types.GenerateContentConfig(**config)) for _ in range(count)]


def rows(count: int, **config: Any) -> bytes:
    config = {"maxOutputTokens": CAP, **config}
    request = {"contents": [{"role": "user", "parts": [{"text": TEXT}]}], "generationConfig": config}
    return b"\n".join(json.dumps({"key": f"row-{n}", "request": request}).encode() for n in range(count))


def texts(count: int) -> bytes:
    request = {"content": {"parts": [{"text": TEXT}]}}
    return b"\n".join(json.dumps({"key": f"row-{n}", "request": request}).encode() for n in range(count))


JSONL: Any = {"mime_type": "application/jsonl"}


class Sync:
    """What a program does, on the one side of the client."""

    def __init__(self, client: Any, provider: Any) -> None:
        self._client = client

    def do(self, ask: Callable[[Any], Any]) -> Any:
        return ask(self._client)


class Async(Sync):
    """And on the other, with a client for each loop."""

    def __init__(self, client: Any, provider: Any) -> None:
        self._provider = provider

    def do(self, ask: Callable[[Any], Any]) -> Any:
        with GOOGLE.client(self._provider) as client:
            return run(client, ask)


SIDES = pytest.mark.parametrize(("kind", "side"), [("sync", Sync), ("async", Async)])


@pytest.mark.surface("google-genai batches.create, inlined", kind="{kind}", proves=["exact", "unbroken"])
@SIDES
def test_a_batch_is_held_until_its_results_are_there(kind: str, side: Any, provider: Any, client: Any) -> None:
    provider.background(2)
    provider.answer(output_tokens=50)
    program = side(client, provider)
    with track(feature="nightly"), budget(usd=1, calls=10, tokens=100_000) as b:
        job = program.do(lambda client: client.batches.create(model=LITE, src=inlined(5)))
    name = job.name

    def look(client: Any) -> Any:
        return client.batches.get(name=name)

    assert (b.spent_usd, b.balance.reserved_calls) == (0, 5)
    # At most 400 tokens and 16 more of each at 0.4 per million, half of the usual price, and the input.
    assert Decimal("0.000416") <= b.reserved_usd <= Decimal("0.00045")
    while job.state != "JOB_STATE_SUCCEEDED":
        assert b.spent_usd == 0
        job = program.do(look)
    assert len(job.dest.inlined_responses) == 5
    program.do(look)
    assert (b.spent_usd, b.reserved_usd, b.spent_calls) == (provider.bill.usd, 0, 5)
    assert b.spent_tokens == provider.bill.tokens
    record = only_record()
    assert (record.operation_name, record.tags, record.messages) == ("batch", {"feature": "nightly"}, 5)
    assert (record.cost_source, record.doubt, record.tier, record.outcome) == ("list", "", "batch", "completed")
    assert record.request_model == LITE


@pytest.mark.surface("google-genai batches.create, of a file", kind="{kind}", proves=["exact", "unbroken"])
@SIDES
@pytest.mark.parametrize("way", ["path", "stream", "to disk", "to a stream"])
def test_a_batch_of_a_file_is_held_and_paid_by_the_file_of_its_results(
    way: str, kind: str, side: Any, provider: Any, client: Any, tmp_path: Path
) -> None:
    provider.answer(output_tokens=50)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows(3))
    program = side(client, provider)
    with budget(usd=1) as b:
        file = io.BytesIO(rows(3)) if way == "stream" else path
        sent = program.do(lambda client: client.files.upload(file=file, config=JSONL))
        job = program.do(lambda client: client.batches.create(model=LITE, src=sent.name))
        assert b.reserved_usd > 0
        job = program.do(lambda client: client.batches.get(name=job.name))
        assert (job.state, b.spent_usd) == ("JOB_STATE_SUCCEEDED", 0)
        written = io.BytesIO() if way == "to a stream" else tmp_path / "results.jsonl"
        words: Any = {"destination": written} if way.startswith("to") else {}
        if words and "destination" not in client.files.download.__kwdefaults__:
            pytest.skip("this google-genai writes no file")
        content = program.do(lambda client: client.files.download(file=job.dest.file_name, **words))
        if words:
            content = written.read_bytes() if isinstance(written, Path) else written.getvalue()
        assert len(content.splitlines()) == 3
        assert (b.spent_usd, b.reserved_usd, b.spent_calls) == (provider.bill.usd, 0, 3)
    assert only_record().cost_source == "list"


@pytest.mark.surface("google-genai batches.create_embeddings", kind="{kind}", proves=["exact", "unbroken"])
@SIDES
def test_a_batch_of_embeddings_is_paid_by_its_tokens(kind: str, side: Any, provider: Any, client: Any) -> None:
    program = side(client, provider)
    said: Any = {"inlined_requests": {"contents": [TEXT, TEXT, TEXT]}}
    with budget(usd=1) as b:
        job = program.do(lambda client: client.batches.create_embeddings(model=EMBEDDER, src=said))
        assert (b.spent_usd, b.balance.reserved_calls) == (0, 3)
        job = program.do(lambda client: client.batches.get(name=job.name))
        assert len(job.dest.inlined_embed_content_responses) == 3
        assert b.spent_usd == provider.bill.usd == Decimal("0.000001575")  # 21 tokens at 0.075 per million
        sent = client.files.upload(file=io.BytesIO(texts(3)), config=JSONL)
        job = client.batches.create_embeddings(model=EMBEDDER, src={"file_name": sent.name})
        client.files.download(file=client.batches.get(name=job.name).dest.file_name)
    assert b.spent_usd == provider.bill.usd == Decimal("0.00000315")
    assert [call.cost_source for call in farebox.calls()] == ["list", "list"]


@pytest.mark.surface("google-genai batches.create, inlined", kind=["sync", "async"], proves="refused")
@pytest.mark.surface("google-genai batches.create, of a file", kind=["sync", "async"], proves="refused")
@pytest.mark.surface("google-genai batches.create_embeddings", kind=["sync", "async"], proves="refused")
def test_a_batch_that_does_not_fit_is_not_sent(provider: Any, client: Any) -> None:
    sent = client.files.upload(file=io.BytesIO(rows(5)), config=JSONL)
    said: Any = {"inlined_requests": {"contents": [TEXT] * 5}}
    asks: list[Callable[[Any], Any]] = [
        lambda client: client.batches.create(model=LITE, src=inlined(5)),
        lambda client: client.batches.create(model=LITE, src=sent.name),
        lambda client: client.batches.create_embeddings(model=EMBEDDER, src=said),
    ]
    for ask in asks:
        for limits in ({"usd": "0.000001"}, {"calls": 4}, {"tokens": 30}):
            with budget(**limits), pytest.raises(BudgetExceeded):  # type: ignore[arg-type]
                ask(client)
    for ask in asks:
        with budget(calls=4), pytest.raises(BudgetExceeded), GOOGLE.client(provider) as another:
            run(another, ask)
        with budget(usd="0.000001", on_exceed="downgrade"), pytest.raises(BudgetExceeded):
            ask(client)
    assert provider.bill.calls == 0
    assert len(provider.requests) == 2  # of the upload


def test_a_file_that_nobody_has_seen_is_refused_with_the_reason(provider: Any, client: Any) -> None:
    with budget(usd=100), pytest.raises(UnmeteredCall, match="not sent through a metered client"):
        client.batches.create(model=LITE, src="files/old")
    assert not provider.requests


@pytest.mark.parametrize("src", ["gs://bucket/rows.jsonl", "bq://project.set.table"])
def test_a_batch_of_vertex_is_refused_with_the_reason(src: str, provider: Any) -> None:
    with vertex_client(provider) as vertex, budget(usd=100), pytest.raises(UnmeteredCall, match="Cloud Storage") as no:
        vertex.batches.create(model=LITE, src=src)
    assert no.value.provider_name == "gcp.vertex_ai"
    assert not provider.requests


def test_a_file_that_is_no_batch_is_left_alone(provider: Any, client: Any) -> None:
    with budget(usd=0, calls=0):
        sent = client.files.upload(file=io.BytesIO(b"a" * 10_000), config=JSONL)
        assert client.files.download(file=sent.name) == b"a" * 10_000
    assert farebox.calls() == []


def test_rows_that_fail_are_not_charged_and_a_batch_that_fails_is_given_back(provider: Any, client: Any) -> None:
    with budget(usd=1) as b:
        job = client.batches.create(model=LITE, src=[*inlined(2), *inlined(1, max_output_tokens=-1)])
        job = client.batches.get(name=job.name)
        assert job.dest.inlined_responses[2].error
        assert b.spent_usd == provider.bill.usd > 0
    provider.answer(fails=True)
    with budget(usd=1) as b:
        job = client.batches.create(model=LITE, src=inlined(2))
        assert b.reserved_usd > 0
        assert client.batches.get(name=job.name).state == "JOB_STATE_FAILED"
        assert (b.spent_usd, b.reserved_usd) == (0, 0)
    assert report().total.reserved_usd == 0


def test_a_batch_that_is_stopped_before_it_has_begun_costs_nothing(provider: Any, client: Any) -> None:
    with budget(usd=1) as b:
        job = client.batches.create(model=LITE, src=inlined(2))
        client.batches.cancel(name=job.name)
        assert b.reserved_usd > 0
        assert client.batches.get(name=job.name).state == "JOB_STATE_CANCELLED"
        assert (b.spent_usd, b.reserved_usd) == (0, 0)


def test_a_row_that_can_not_be_read_is_named_where_the_bound_must_be_proven(provider: Any, client: Any) -> None:
    content = rows(1) + b"\nno json"
    sent = client.files.upload(file=io.BytesIO(content), config=JSONL)
    with budget(usd=5, input_bound="bytes"), pytest.raises(farebox.errors.UnboundedCall, match="nobody can read"):
        client.batches.create(model=LITE, src=sent.name)


def test_rows_without_a_cap_and_with_searches_are_held_for_all_they_may_use(provider: Any, client: Any) -> None:
    search = types.Tool(google_search=types.GoogleSearch())
    with budget(usd=100) as b:
        client.batches.create(model=LITE, src=inlined(2, max_output_tokens=None, tools=[search]))
        assert b.reserved_usd >= 2 * (65_535 * Decimal("0.0000002") + Decimal("0.035"))


ANSWERED = {"response": {"candidates": [], "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9}}}


@pytest.mark.parametrize(
    "odd", [{"response": [ANSWERED["response"]]}, {"response": "spent"}, {"key": "row-1"}, {"error": None}, None]
)
def test_a_row_that_says_neither_what_it_used_nor_why_it_failed_is_not_free(odd: Any, provider: Any) -> None:
    # Of both rows, of one, and of one that is not handed out at all.
    for results in ([odd, odd], [ANSWERED, odd], [ANSWERED], []):
        with GOOGLE.client(provider) as client, budget(usd=1) as b:
            job = client.batches.create(model=LITE, src=inlined(2))
            held = b.reserved_usd
            output = {"inlinedResponses": {"inlinedResponses": results}}
            answer = {"name": job.name, "metadata": {"state": "BATCH_STATE_SUCCEEDED", "output": output}}
            provider.serve(f"/v1/{job.name}", answer)
            attempt(lambda client=client, job=job: client.batches.get(name=job.name))
            assert (b.spent_usd, b.reserved_usd) == (held, 0)


@pytest.mark.parametrize(
    "stats", [None, {"requestCount": "2", "successfulRequestCount": "1"}, {"successfulRequestCount": -1}]
)
def test_a_batch_that_ended_early_is_free_only_where_it_says_that_nothing_was_answered(
    stats: Any, provider: Any, client: Any
) -> None:
    with budget(usd=1) as b:
        job = client.batches.create(model=LITE, src=inlined(2))
        held = b.reserved_usd
        answer = {"name": job.name, "metadata": {"state": "BATCH_STATE_EXPIRED", "batchStats": stats}}
        provider.serve(f"/v1/{job.name}", answer)
        client.batches.get(name=job.name)
        assert (b.spent_usd, b.reserved_usd) == (held, 0)
