"""Whatever is answered later costs the same, wherever it is collected: what a process needs to know of another's call is noted.

Here one process plays both, and forgets its pending calls in between, as a forked child does.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import attrs
import pytest

import farebox
from farebox import _pending, budget, configure, track
from farebox.testing import FakeProvider
from farebox.types import CallRecord
from tests.acceptance.rides import ANTHROPIC, MESSAGES, OPENAI, needs

pytestmark = [
    pytest.mark.usefixtures("metered"),
    pytest.mark.filterwarnings("ignore:The (Assistants|Sora) API:DeprecationWarning"),
]

TEXT = "hello there, how are you?"
#: What a program does before it ends, and after the yield what the next one does.
Story = Generator[None, None, Any]


def said(**more: Any) -> dict[str, Any]:
    return {"model": "gpt-4.1", "messages": MESSAGES, "max_tokens": 400, **more}


def lines(url: str, body: dict[str, Any]) -> bytes:
    rows = ({"custom_id": f"row-{n}", "method": "POST", "url": url, "body": body} for n in range(3))
    return b"\n".join(json.dumps(row).encode() for row in rows)


def openai_batch(client: Any, url: str, body: dict[str, Any]) -> Story:
    file = client.files.create(file=("rows.jsonl", lines(url, body)), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=url, completion_window="24h")
    yield
    batch = client.batches.retrieve(batch.id)
    client.files.content(batch.output_file_id)


def a_batch(provider: FakeProvider) -> Story:
    with OPENAI.client(provider) as client:
        yield from openai_batch(client, "/v1/chat/completions", said())


def a_batch_that_says_what_its_rows_used(provider: FakeProvider) -> Story:
    provider.background(0, batches_tell_usage=False)
    with OPENAI.client(provider) as client:
        yield from openai_batch(client, "/v1/chat/completions", said())


def a_batch_of_answers_that_search(provider: FakeProvider) -> Story:
    provider.background(0, batches_tell_usage=False)
    provider.answer(output_tokens=50, web_searches=2)
    body = {
        "model": "gpt-4.1",
        "input": TEXT,
        "max_output_tokens": 60,
        "tools": [{"type": "web_search"}],
        "max_tool_calls": 3,
    }
    with OPENAI.client(provider) as client:
        yield from openai_batch(client, "/v1/responses", body)


def a_batch_of_embeddings(provider: FakeProvider) -> Story:
    provider.background(0, batches_tell_usage=False)
    with OPENAI.client(provider) as client:
        yield from openai_batch(client, "/v1/embeddings", {"model": "text-embedding-3-small", "input": TEXT})


def a_batch_whose_results_can_not_be_read(provider: FakeProvider) -> Story:
    """Charged at what was held."""
    provider.background(0, batches_tell_usage=False)
    with OPENAI.client(provider) as client:
        file = client.files.create(file=("rows.jsonl", lines("/v1/chat/completions", said())), purpose="batch")
        words: Any = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = client.batches.create(input_file_id=file.id, **words)
        yield
        batch = client.batches.retrieve(batch.id)
        provider.serve(f"/v1/files/{batch.output_file_id}/content", "no lines")
        client.files.content(batch.output_file_id)


def an_answer_in_the_background(provider: FakeProvider) -> Story:
    with OPENAI.client(provider) as client:
        words: Any = {"model": "gpt-5", "input": TEXT, "max_output_tokens": 400, "service_tier": "flex"}
        answer = client.responses.create(**words, background=True)
        yield
        client.responses.retrieve(answer.id)


def an_answer_that_is_streamed_at_last(provider: FakeProvider) -> Story:
    with OPENAI.client(provider) as client:
        answer = client.responses.create(model="gpt-4.1", input=TEXT, max_output_tokens=400, background=True)
        yield
        list(client.responses.retrieve(answer.id, stream=True))


def an_answer_whose_cap_is_ours(provider: FakeProvider) -> Story:
    with OPENAI.client(provider) as client:
        answer = client.responses.create(model="gpt-4.1", input=TEXT, background=True)
        yield
        client.responses.retrieve(answer.id)


def a_video(provider: FakeProvider) -> Story:
    with OPENAI.client(provider) as client:
        videos = needs(client, "videos")
        video = videos.create(model="sora-2-pro", prompt=TEXT, seconds="8", size="1792x1024")
        yield
        videos.retrieve(video.id)


def a_run_of_an_assistant(provider: FakeProvider) -> Story:
    words = {"assistant_id": "asst_1", "model": "gpt-4o-mini", "max_completion_tokens": 400, "max_prompt_tokens": 2_000}
    tools: Any = [{"type": "code_interpreter"}]
    with OPENAI.client(provider) as client:
        runs = needs(client.beta, "threads").runs
        run = runs.create("thread_1", **words, tools=tools)
        yield
        runs.retrieve(run.id, thread_id="thread_1")


def a_batch_of_messages(provider: FakeProvider) -> Story:
    provider.answer(output_tokens=50, cache_write_1h_tokens=4)
    row = {"model": "claude-sonnet-4-5", "messages": MESSAGES, "max_tokens": 400}
    with ANTHROPIC.client(provider) as client:
        batches = client.messages.batches
        batch = batches.create(requests=[{"custom_id": f"row-{n}", "params": row} for n in range(3)])
        yield
        list(batches.results(batch.id))


def a_batch_of_rows_that_are_long_together(provider: FakeProvider) -> Story:
    """Past the step of the prices of their model, which none of them reaches."""
    provider.answer(input_tokens=90_000, output_tokens=50)
    long = [{"role": "user", "content": "hello there, " * 15_000}]
    row = {"model": "claude-sonnet-4-5", "messages": long, "max_tokens": 400}
    with ANTHROPIC.client(provider) as client:
        batches = client.messages.batches
        batch = batches.create(requests=[{"custom_id": f"row-{n}", "params": row} for n in range(3)])
        yield
        list(batches.results(batch.id))


def a_batch_of_messages_that_is_left_half_way(provider: FakeProvider) -> Story:
    row = {"model": "claude-sonnet-4-5", "messages": MESSAGES, "max_tokens": 400}
    with ANTHROPIC.client(provider) as client:
        batches = client.messages.batches
        batch = batches.create(requests=[{"custom_id": f"row-{n}", "params": row} for n in range(3)])
        yield
        results = batches.results(batch.id)
        next(iter(results))
        results.close()


def a_session_of_an_agent(provider: FakeProvider) -> Story:
    session = {"id": "sesn_1", "type": "session", "status": "idle", "usage": {}}
    used = {"input_tokens": 900, "output_tokens": 100, "list_cost": {"amount": "7", "currency": "USD"}}
    for path in ("/v1/sessions", "/v1/sessions/sesn_1"):
        provider.serve(path, session)
    with ANTHROPIC.client(provider) as client:
        sessions = needs(client.beta, "sessions")
        needs(sessions, "create", "budget")
        limit: Any = {"type": "limit", "max_list_cost": {"amount": "25", "currency": "USD"}}
        sessions.create(agent="agent_1", environment_id="env_1", budget=limit)
        yield
        provider.serve("/v1/sessions/sesn_1", {**session, "status": "terminated", "usage": used})
        sessions.retrieve("sesn_1")


def run(client: Any, ask: Callable[[Any], Any]) -> None:
    from tests.acceptance import google_clients

    google_clients.run(client, ask)


def gemini(provider: FakeProvider) -> Any:
    pytest.importorskip("google.genai", reason="google-genai is not installed")
    from tests.acceptance.rides import GOOGLE

    return GOOGLE.client(provider)


def a_batch_of_gemini(provider: FakeProvider) -> Story:
    with gemini(provider) as client:
        rows: Any = [{"contents": TEXT, "config": {"max_output_tokens": 400}} for _ in range(3)]
        job = client.batches.create(model="gemini-2.5-flash-lite", src=rows)
        yield
        client.batches.get(name=job.name)


def gemini_batch_of_a_file(client: Any, tmp_path: Path) -> str:
    request = {"contents": [{"role": "user", "parts": [{"text": TEXT}]}], "generationConfig": {"maxOutputTokens": 400}}
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(json.dumps({"key": f"row-{n}", "request": request}).encode() for n in range(3)))
    sent = client.files.upload(file=path, config={"mime_type": "application/jsonl"})
    return str(client.batches.create(model="gemini-2.5-flash-lite", src=sent.name).name)


def a_batch_of_gemini_in_files(provider: FakeProvider, tmp_path: Path) -> Story:
    with gemini(provider) as client:
        name = gemini_batch_of_a_file(client, tmp_path)
        yield
        job = client.batches.get(name=name)
        client.files.download(file=job.dest.file_name)


def a_batch_of_gemini_collected_by_a_task(provider: FakeProvider, tmp_path: Path) -> Story:
    with gemini(provider) as client:
        name = gemini_batch_of_a_file(client, tmp_path)
        yield

        async def collect(aio: Any) -> None:
            job = await aio.batches.get(name=name)
            await aio.files.download(file=job.dest.file_name)

        run(client, collect)


def a_video_of_vertex(provider: FakeProvider) -> Story:
    with gemini(provider):
        from google.genai import types

        from tests.acceptance.google_clients import vertex_client
    with vertex_client(provider) as client:
        config: Any = {"number_of_videos": 2, "duration_seconds": 6, "resolution": "1080p"}
        source = types.GenerateVideosSource(prompt=TEXT)
        operation = client.models.generate_videos(model="veo-3.1-fast-generate-001", source=source, config=config)
        yield
        client.operations.get(operation)


def begun_interaction(provider: FakeProvider, client: Any) -> Callable[[], str]:
    """Begins one in the background; what comes back ends it and says its name."""
    answers: list[dict[str, Any]] = []

    def put_off(payload: dict[str, Any]) -> dict[str, Any]:
        answers.append(payload)
        return {"id": payload["id"], "object": "interaction", "status": "in_progress", "model": payload["model"]}

    provider.odd(edit=put_off)
    words: Any = {"model": "gemini-2.5-flash-lite", "input": TEXT, "generation_config": {"max_output_tokens": 100}}
    name = str(needs(client, "interactions").create(**words, background=True).id)

    def end() -> str:
        provider.serve(f"/v1/interactions/{name}", answers[0])
        return name

    return end


def an_interaction_in_the_background(provider: FakeProvider) -> Story:
    with gemini(provider) as client:
        end = begun_interaction(provider, client)
        yield
        client.interactions.get(end())


def an_interaction_collected_by_a_task(provider: FakeProvider) -> Story:
    with gemini(provider) as client:
        end = begun_interaction(provider, client)
        yield
        name = end()
        run(client, lambda aio: aio.interactions.get(name))


STORIES: list[Callable[..., Story]] = [
    a_batch,
    a_batch_that_says_what_its_rows_used,
    a_batch_of_answers_that_search,
    a_batch_of_embeddings,
    a_batch_whose_results_can_not_be_read,
    an_answer_in_the_background,
    an_answer_that_is_streamed_at_last,
    an_answer_whose_cap_is_ours,
    a_video,
    a_run_of_an_assistant,
    a_batch_of_messages,
    a_batch_of_rows_that_are_long_together,
    a_batch_of_messages_that_is_left_half_way,
    a_session_of_an_agent,
    a_batch_of_gemini,
    a_batch_of_gemini_in_files,
    a_batch_of_gemini_collected_by_a_task,
    a_video_of_vertex,
    an_interaction_in_the_background,
    an_interaction_collected_by_a_task,
]


def settled(story: Callable[..., Story], tmp_path: Path, *, forgets: bool) -> CallRecord:
    """The record of a call that is collected by its own process, or by one that does not know it."""
    words = {"tmp_path": tmp_path} if "tmp_path" in story.__annotations__ else {}
    tmp_path.mkdir()
    with FakeProvider() as provider, configure(ledger=f"sqlite:///{tmp_path}/ledger.db"):
        provider.background(0)
        provider.answer(output_tokens=50)
        with track(feature="nightly"), budget("scope", usd=20):
            told = story(provider, **words)
            next(told)
        assert farebox.flush(5)
        assert farebox.report().total.reserved_usd > 0 == farebox.report().total.usd
        if forgets:
            assert _pending._calls
            _pending._calls.clear()
        with contextlib.suppress(StopIteration):
            next(told)
        assert not _pending._calls
        assert farebox.flush(5)
        (record,) = farebox.calls()
        assert farebox.report().total.reserved_usd == 0
        assert record.cost_source == "estimated" or record.usd == provider.bill.usd or "session" in story.__name__
    return record


def test_of_two_threads_that_have_found_a_call_one_settles_it(tmp_path: Path, provider: FakeProvider) -> None:
    with configure(ledger=f"sqlite:///{tmp_path}/ledger.db"), OPENAI.client(provider) as client:
        answer = client.responses.create(model="gpt-4.1", input=TEXT, max_output_tokens=400, background=True)
        assert farebox.flush(5)
        _pending._calls.clear()
        found = [_pending.find("openai", answer.id) for _ in range(2)]
        assert None not in found
        assert found[0] is not found[1]
        assert [_pending.forget(call) for call in found if call] == [True, False]
        assert [_pending.forget(call) for call in found if call] == [False, False]


@pytest.mark.parametrize("name", ["", "r\u00e9sum\u00e9", "two\nlines", "\ud800"])
def test_a_store_is_not_asked_for_what_is_no_name(name: str, tmp_path: Path, caplog: Any) -> None:
    with configure(ledger=f"sqlite:///{tmp_path}/ledger.db"):
        assert _pending.find("openai", name) is None
    assert not caplog.records


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_call_costs_the_same_wherever_it_is_collected(story: Any, tmp_path: Path) -> None:
    own = settled(story, tmp_path / "own", forgets=False)
    others = settled(story, tmp_path / "others", forgets=True)
    differing = ("call_id", "started_at", "ended_at", "first_chunk_at", "response_id", "request_id", "server_address")
    same = {name: getattr(own, name) for name in differing}
    assert attrs.evolve(others, **same) == own
    assert own.usd is not None
    assert own.usd > 0
    assert own.bound_usd >= own.usd
