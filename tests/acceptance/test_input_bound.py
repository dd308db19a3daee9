"""input_bound="bytes": no call passes its bound, whatever the tokenizer, and what has no proven bound is never sent.

The adversary bills a token for every byte of a text; the bill is what each bound is held against.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import pytest

import farebox
from farebox import BudgetExceeded, budget, configure, report
from farebox.errors import UnboundedCall
from farebox.testing import FakeProvider
from tests.acceptance.rides import (
    ANTHROPIC,
    OPENAI,
    attempt,
    needs,
    nothing_is_left,
    only_record,
    outcomes,
    stormproof,
)
from tests.providers.test_pictures import png

pytestmark = pytest.mark.usefixtures("metered")

CAP = 50
PICTURE = base64.b64encode(png(1024, 1024)).decode()
NO_PICTURE = base64.b64encode(b"this is no picture").decode()
LINK = "https://example.test/cat.png"
SECRET = "the password is swordfish"


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(tokenizer=lambda text: len(text.encode())) as provider:
        yield provider


@attrs.frozen
class Surface:
    """An API of an SDK: how a text and a part of another kind are said to it, and how it is asked."""

    name: str
    asks: Callable[..., Any]
    words: dict[str, Any]

    def __str__(self) -> str:
        return self.name

    @property
    def ride(self) -> Any:
        return ANTHROPIC if self.name == "messages" else OPENAI

    def says(self, *parts: Any) -> dict[str, Any]:
        content = parts[0] if isinstance(parts[0], str) else list(parts)
        return {"input" if self.name == "responses" else "messages": [{"role": "user", "content": content}]}

    def ask(self, client: Any, **changes: Any) -> Any:
        return self.asks(client)(**{**self.words, **self.says("hello"), **changes})


CHAT = Surface("chat", lambda client: client.chat.completions.create, {"model": OPENAI.model, "max_tokens": CAP})
RESPONSES = Surface(
    "responses", lambda client: client.responses.create, {"model": OPENAI.model, "max_output_tokens": CAP}
)
MESSAGES = Surface("messages", lambda client: client.messages.create, {"model": ANTHROPIC.model, "max_tokens": CAP})
BETA = Surface("messages", lambda client: client.beta.messages.create, MESSAGES.words)
every_surface = pytest.mark.parametrize("surface", [CHAT, RESPONSES, MESSAGES], ids=str)


def within_the_bound(provider: FakeProvider) -> None:
    """Each call was held for at least what it was billed, in money and in tokens."""
    records = [record for record in farebox.calls() if record.outcome != "refused"]
    for record, line in zip(records, provider.bill.lines, strict=True):
        assert record.usd == line.usd <= record.bound_usd
        assert record.bound_tokens >= line.input_tokens + line.output_tokens
        assert record.doubt == ""
    assert report().total.usd == provider.bill.usd
    nothing_is_left()


def not_sent(provider: FakeProvider, call: Callable[[], Any]) -> UnboundedCall:
    sent = len(provider.requests)
    with pytest.raises(UnboundedCall) as refused:
        call()
    assert len(provider.requests) == sent
    nothing_is_left()
    return refused.value


# ── the bound holds ──────────────────────────────────────────────────────────────────────────────────────────────

TEXTS = ["hi", "x" * 20_000, "{[(" * 3_000, "żółw 甲骨文 🚀" * 400, "\ufdfa\u1e9b\u0323" * 500, "\n \t\x00" * 900]


@every_surface
@pytest.mark.parametrize("text", TEXTS, ids=["short", "long", "signs", "scripts", "that grows", "blank"])
def test_a_token_a_byte_is_within_the_bound(surface: Surface, text: str, provider: Any, open_client: Any) -> None:
    with budget(usd=1, input_bound="bytes") as frame:
        surface.ask(open_client(surface.ride), **surface.says(text))
    assert provider.bill.lines[0].input_tokens >= len(text.encode())
    assert frame.debt_usd == 0
    within_the_bound(provider)


@every_surface
def test_the_estimate_does_not_hold_where_the_proof_does(surface: Surface, provider: Any, open_client: Any) -> None:
    client = open_client(surface.ride)
    words = surface.says("the fare of the ride and " * 900)
    with budget(usd=1) as estimated:
        surface.ask(client, **words)
    with budget(usd=1, input_bound="bytes") as proven:
        surface.ask(client, **words)
    assert estimated.debt_usd > 0 == proven.debt_usd


SCHEMA = {"type": "object", "properties": {f"field_{n}": {"type": "string"} for n in range(30)}}
TOOLS: dict[str, Any] = {
    "chat": {"type": "function", "function": {"name": "look", "description": "d" * 300, "parameters": SCHEMA}},
    "responses": {"type": "function", "name": "look", "description": "d" * 300, "parameters": SCHEMA, "strict": False},
    "messages": {"name": "look", "description": "d" * 300, "input_schema": SCHEMA},
}
ANSWERED: dict[str, Any] = {
    "chat": [
        {"role": "system", "content": "s" * 200},
        {"role": "user", "content": "look"},
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": json.dumps({"a": "b" * 99})}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "r" * 500},
    ],
    "responses": [
        {"role": "developer", "content": "s" * 200},
        {"role": "user", "content": "look"},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": json.dumps({"a": "b" * 99})},
        {"type": "function_call_output", "call_id": "c1", "output": "r" * 500},
    ],
    "messages": [
        {"role": "user", "content": "look"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {"a": "b" * 99}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "r" * 500}]},
    ],
}
PICTURES: dict[str, Any] = {
    "chat": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
    "responses": {"type": "input_image", "detail": "high", "image_url": f"data:image/png;base64,{PICTURE}"},
    "messages": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}},
}
SYSTEM: dict[str, Any] = {
    "chat": {},
    "responses": {"instructions": "i" * 700},
    "messages": {"system": [{"type": "text", "text": "i" * 700, "cache_control": {"type": "ephemeral"}}]},
}


@every_surface
def test_tools_histories_and_pictures_are_within_the_bound(surface: Surface, provider: Any, open_client: Any) -> None:
    client, name = open_client(surface.ride), surface.name
    field = "input" if surface is RESPONSES else "messages"
    with budget(usd=1, input_bound="bytes") as frame:
        surface.ask(client, tools=[TOOLS[name]], **SYSTEM[name])
        surface.ask(client, tools=[TOOLS[name]], **SYSTEM[name], **{field: ANSWERED[name]})
        surface.ask(client, **surface.says(PICTURES[name]))
        list(surface.ask(client, stream=True, tools=[TOOLS[name]], **{field: ANSWERED[name]}))
    assert frame.spent_calls == 4
    assert frame.debt_usd == 0
    within_the_bound(provider)


def test_the_old_completions_and_embeddings_are_within_the_bound(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    with budget(usd=1, input_bound="bytes") as frame:
        for text in ("hi", "{}" * 1_500):
            client.completions.create(model="gpt-3.5-turbo-instruct", prompt=[text, text], max_tokens=20)
            client.embeddings.create(model="text-embedding-3-small", input=[text, text])
    assert frame.debt_usd == 0
    within_the_bound(provider)


def test_limited_server_tools_are_within_the_bound(provider: Any, open_client: Any) -> None:
    provider.answer(output_tokens=20, web_searches=3)
    tool = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    with budget(usd=5, input_bound="bytes") as frame:
        MESSAGES.ask(open_client(ANTHROPIC), tools=[tool])
    assert provider.bill.lines[0].web_searches == 3
    assert frame.debt_usd == 0
    within_the_bound(provider)


@every_surface
def test_a_storm_of_dense_prompts_never_passes_the_limit(surface: Surface, provider: Any, open_client: Any) -> None:
    client = open_client(surface.ride)
    provider.answer(output_tokens=CAP)
    limit = "0.01" if surface is MESSAGES else "0.002"
    with stormproof(provider, limit), budget(usd=limit, input_bound="bytes"), ThreadPoolExecutor(16) as pool:
        jobs = [
            pool.submit(attempt, lambda n=n: surface.ask(client, **surface.says("{}" * 40 * n)))  # type: ignore[misc]
            for n in range(24)
        ]
        answers = [job.result() for job in jobs]
    refused = sum(isinstance(answer, BudgetExceeded) for answer in answers)
    assert 0 < provider.bill.calls == 24 - refused < 24


# ── what has no bound ────────────────────────────────────────────────────────────────────────────────────────────


def openai_image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def input_image(**held: Any) -> dict[str, Any]:
    return {"type": "input_image", "detail": "auto", **held}


def source(kind: str, **held: Any) -> dict[str, Any]:
    return {"type": kind, "source": held}


def tool(**words: Any) -> dict[str, Any]:
    return {"tools": [words]}


UNBOUNDED: list[Any] = [
    (CHAT, "image_url", CHAT.says(openai_image(LINK))),
    (CHAT, "image (unreadable)", CHAT.says(openai_image(f"data:image/png;base64,{NO_PICTURE}"))),
    (CHAT, "image (unreadable)", CHAT.says(openai_image("data:image/png;base64,"))),
    (CHAT, "file", CHAT.says({"type": "file", "file": {"file_id": "file_1"}})),
    (CHAT, "web_search_options", {"web_search_options": {}}),
    (CHAT, "tools (run by the server)", tool(type="web_search")),
    (RESPONSES, "image_url", RESPONSES.says(input_image(image_url=LINK))),
    (RESPONSES, "file_id", RESPONSES.says(input_image(file_id="file_1"))),
    (RESPONSES, "image (unreadable)", RESPONSES.says(input_image(image_url=f"data:image/png;base64,{NO_PICTURE}"))),
    (RESPONSES, "input_file", RESPONSES.says({"type": "input_file", "file_id": "file_1"})),
    (RESPONSES, "input_file", RESPONSES.says({"type": "input_file", "file_url": LINK})),
    (RESPONSES, "web_search", tool(type="web_search")),
    (RESPONSES, "file_search", tool(type="file_search", vector_store_ids=["v"])),
    (RESPONSES, "code_interpreter", tool(type="code_interpreter", container={"type": "auto"})),
    (RESPONSES, "mcp", tool(type="mcp", server_label="x", server_url=LINK)),
    (RESPONSES, "previous_response_id", {"previous_response_id": "resp_of_somebody"}),
    (RESPONSES, "conversation", {"conversation": "conv_1"}),
    (RESPONSES, "prompt", {"prompt": {"id": "pmpt_1"}}),
    (RESPONSES, "item_reference", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    (MESSAGES, "image_url", MESSAGES.says(source("image", type="url", url=LINK))),
    (BETA, "image_file", MESSAGES.says(source("image", type="file", file_id="file_1"))),
    (MESSAGES, "document_url", MESSAGES.says(source("document", type="url", url=LINK))),
    (
        MESSAGES,
        "image (unreadable)",
        MESSAGES.says(source("image", type="base64", media_type="image/png", data=NO_PICTURE)),
    ),
    (MESSAGES, "web_search", tool(type="web_search_20250305", name="web_search")),
    (MESSAGES, "code_execution", tool(type="code_execution_20250522", name="code_execution")),
    (BETA, "container", {"container": "container_1"}),
]
every_unbounded = pytest.mark.parametrize(
    ("surface", "named", "words"),
    UNBOUNDED,
    ids=[f"{row[0]}-{row[1]}-{number}" for number, row in enumerate(UNBOUNDED)],
)


@every_unbounded
def test_what_has_no_bound_is_refused_by_name_before_anything_is_sent(
    surface: Surface, named: str, words: Any, provider: Any, open_client: Any
) -> None:
    client = open_client(surface.ride)
    with budget("exact", usd=1_000, input_bound="bytes") as frame:
        error = not_sent(provider, lambda: surface.ask(client, **words))
    assert error.budget == "exact"
    assert error.what == (named,)
    first, remedy = str(error).splitlines()
    assert all(word in first for word in (named, surface.words["model"], "'exact'", "nothing was sent"))
    assert 'input_bound="estimate"' in remedy
    record = only_record()
    assert (record.outcome, record.error_class, record.usd, record.usage) == ("refused", "UnboundedCall", 0, None)
    assert (frame.spent_calls, frame.spent_usd, frame.reserved_usd) == (0, 0, 0)
    assert report().total.refused_calls == 1


@pytest.mark.parametrize("named", ["image_url", "previous_response_id", "web_search", "conversation"])
def test_an_async_call_or_stream_without_a_bound_is_not_sent_either(named: str, provider: Any) -> None:
    (words,) = (row[2] for row in UNBOUNDED if row[0] is RESPONSES and row[1] == named)

    async def main() -> None:
        async with OPENAI.async_client(provider) as client:
            with budget(usd=1_000, input_bound="bytes"):
                for more in ({}, {"stream": True}):
                    with pytest.raises(UnboundedCall):
                        await RESPONSES.ask(client, **words, **more)
                with pytest.raises(UnboundedCall):
                    async with client.responses.stream(**{**RESPONSES.words, **RESPONSES.says("hi"), **words}):
                        pass

    asyncio.run(main())
    assert not provider.requests
    assert outcomes() == ["refused"] * 3


def test_every_part_without_a_bound_is_named_once(provider: Any, open_client: Any) -> None:
    parts = [input_image(image_url=LINK), input_image(image_url=LINK), {"type": "input_file", "file_id": "file_1"}]
    words = {**RESPONSES.says(*parts), "conversation": "conv_1", **tool(type="web_search")}
    with budget(usd=1_000, input_bound="bytes"):
        error = not_sent(provider, lambda: RESPONSES.ask(open_client(OPENAI), **words))
    assert sorted(error.what) == ["conversation", "image_url", "input_file", "web_search"]


@every_surface
def test_no_text_of_the_call_is_in_the_error_or_the_row(surface: Surface, provider: Any, open_client: Any) -> None:
    parts: Any = {
        "chat": ({"type": "text", "text": SECRET}, openai_image(f"{LINK}?{SECRET}")),
        "responses": ({"type": "input_text", "text": SECRET}, input_image(image_url=f"{LINK}?{SECRET}")),
        "messages": ({"type": "text", "text": SECRET}, source("image", type="url", url=f"{LINK}?{SECRET}")),
    }[surface.name]
    with budget(usd=1_000, input_bound="bytes"):
        error = not_sent(provider, lambda: surface.ask(open_client(surface.ride), **surface.says(*parts)))
    assert "swordfish" not in str(error) + repr(error.what) + repr(only_record())


# ── nested ───────────────────────────────────────────────────────────────────────────────────────────────────────


@every_surface
@pytest.mark.parametrize("bytes_are", ["outer", "inner", "both"])
def test_one_budget_that_wants_proof_is_enough(
    surface: Surface, bytes_are: str, provider: Any, open_client: Any
) -> None:
    client = open_client(surface.ride)

    def kind(name: str) -> Any:
        return "bytes" if bytes_are in (name, "both") else "estimate"

    unbounded = next(words for one, named, words in UNBOUNDED if one is surface and named == "image_url")
    with budget("outer", usd=1, input_bound=kind("outer")) as outer, budget("middle", usd=1):
        with budget("inner", usd=1, input_bound=kind("inner")) as inner:
            surface.ask(client, **surface.says("x" * 20_000))
            error = not_sent(provider, lambda: surface.ask(client, **unbounded))
    assert error.budget == ("outer" if bytes_are == "outer" else "inner")
    assert outer.debt_usd == inner.debt_usd == 0
    within_the_bound(provider)


@every_surface
def test_beside_or_after_such_a_budget_the_estimate_is_used(surface: Surface, provider: Any, open_client: Any) -> None:
    client = open_client(surface.ride)
    words = next(words for one, named, words in UNBOUNDED if one is surface and named == "image_url")
    with budget(usd=1, input_bound="bytes"):
        not_sent(provider, lambda: surface.ask(client, **words))
    with budget(usd=1):
        surface.ask(client, **words)
    surface.ask(client, **words)
    assert outcomes() == ["refused", "completed", "completed"]


def test_a_proof_under_a_limit_of_calls_or_tokens(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    with budget(calls=1, input_bound="bytes") as by_calls:
        CHAT.ask(client, **CHAT.says("x" * 9_000))
        not_sent(provider, lambda: CHAT.ask(client, **CHAT.says(openai_image(LINK))))
    assert by_calls.spent_calls == 1
    with budget(tokens=9_000, input_bound="bytes"), pytest.raises(BudgetExceeded) as refused:
        CHAT.ask(client, **CHAT.says("x" * 9_000))
    assert refused.value.needed > 9_000
    assert provider.bill.calls == 1


# ── what an answer goes on from ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", ["call", "stream", "background"])
def test_an_answer_that_was_settled_here_bounds_the_call_that_goes_on_from_it(
    way: str, provider: Any, open_client: Any
) -> None:
    client = open_client(OPENAI)
    provider.answer(output_tokens=CAP)
    with budget(usd=1, input_bound="bytes") as frame:
        words: dict[str, Any] = {"background": True} if way == "background" else {}
        answer = RESPONSES.ask(client, **RESPONSES.says("x" * 5_000), **words, stream=way == "stream")
        if way == "stream":
            answer = list(answer)[-1].response
        if way == "background":
            client.responses.retrieve(answer.id)
        for _ in range(3):
            answer = RESPONSES.ask(client, previous_response_id=answer.id)
    tokens = [line.input_tokens + line.output_tokens for line in provider.bill.lines]
    bounds = [record.bound_tokens for record in farebox.calls()]
    assert tokens[0] > 5_000
    for before, now, bound in zip(tokens, tokens[1:], bounds[1:], strict=False):
        assert before < now <= bound < before + 1_000  # not all that the model can read
    assert frame.debt_usd == 0
    within_the_bound(provider)


def renamed(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """An answer of an id that no other test has seen."""
    return lambda payload: {**payload, "id": "resp_of_this_test", **changes}


def test_an_answer_that_was_not_kept_bounds_nothing(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    provider.odd(edit=renamed())
    with budget(usd=1, input_bound="bytes"):
        answer = RESPONSES.ask(client, store=False)
        error = not_sent(provider, lambda: RESPONSES.ask(client, previous_response_id=answer.id))
    assert error.what == ("previous_response_id",)


def test_an_answer_of_unknown_length_bounds_nothing(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    provider.odd(edit=renamed(usage=None))
    with budget(usd=1, input_bound="bytes"):
        answer = RESPONSES.ask(client)
        not_sent(provider, lambda: RESPONSES.ask(client, previous_response_id=answer.id))


def test_an_empty_ledger_knows_no_answers(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    with budget(usd=1):
        answer = RESPONSES.ask(client)
    with configure(ledger="memory://"), budget(usd=1, input_bound="bytes"):
        not_sent(provider, lambda: RESPONSES.ask(client, previous_response_id=answer.id))


def test_a_conversation_is_not_bounded_by_an_answer_that_is_known(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    with configure(tags={"app": "x"}), budget(usd=1, input_bound="bytes"):
        answer = RESPONSES.ask(client)
        words = {"previous_response_id": answer.id, "prompt": {"id": "pmpt_1"}}
        assert not_sent(provider, lambda: RESPONSES.ask(client, **words)).what == ("prompt",)


def test_a_message_thread_is_bounded_by_the_messages_settled_here(provider: Any, open_client: Any) -> None:
    """A fake provider keeps no threads: what it would read again is said by `input_tokens`."""
    client = open_client(ANTHROPIC)
    needs(client.beta.messages, "create", "thread")
    with budget(usd=1, input_bound="bytes") as frame:
        first = BETA.ask(client, **BETA.says("x" * 5_000), thread={"type": "create"})
        tokens = provider.bill.lines[0].input_tokens + provider.bill.lines[0].output_tokens
        provider.answer(input_tokens=tokens + 20)
        BETA.ask(client, thread={"type": "continue", "previous_message_id": first.id})
    assert farebox.calls()[1].bound_tokens < tokens + 1_000
    assert frame.debt_usd == 0
    within_the_bound(provider)


def test_an_unknown_message_thread_is_refused_by_name(provider: Any, open_client: Any) -> None:
    client = open_client(ANTHROPIC)
    needs(client.beta.messages, "create", "thread")
    thread = {"type": "continue", "previous_message_id": "msg_of_somebody"}
    with budget(usd=1, input_bound="bytes"):
        error = not_sent(provider, lambda: BETA.ask(client, thread=thread))
    assert error.what == ("previous_message_id",)


def test_an_earlier_answer_is_held_for_each_use_of_a_hosted_tool(provider: Any, open_client: Any) -> None:
    """Of the estimate: under a proof no such tool is sent."""
    client = open_client(OPENAI)
    provider.answer(output_tokens=CAP, input_tokens=300_000, times=1)
    with budget(tokens=10_000_000):
        first = RESPONSES.ask(client, model="gpt-5-mini")
        provider.answer(output_tokens=CAP, web_searches=6)
        tools = tool(type="web_search")
        RESPONSES.ask(client, model="gpt-5-mini", previous_response_id=first.id, max_tool_calls=6, **tools)
    line, record = provider.bill.lines[1], farebox.calls()[1]
    assert line.web_searches == 6
    assert record.bound_tokens >= line.input_tokens + line.output_tokens
