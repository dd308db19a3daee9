"""Whatever a gateway answers and a program sends, the SDK does what it does without farebox, and nothing is free by mistake."""

from __future__ import annotations

import asyncio
import copy
import enum
import inspect
import json
import re
from typing import Any

import openai
import pydantic
import pytest

import farebox
from farebox import BudgetExceeded, budget, report
from farebox.testing import ABSENT
from tests.acceptance.rides import (
    ANTHROPIC,
    HTTPX,
    MESSAGES,
    OPENAI,
    Ride,
    attempt,
    bound_of,
    nothing_is_left,
    only_record,
    spent_at_least_the_bill,
    stormproof,
)

pytestmark = pytest.mark.usefixtures("metered")


def seen(answer: Any) -> Any:
    """What a program sees of an answer, without what differs from call to call."""
    if isinstance(answer, Exception):
        return type(answer).__name__, re.sub(r"req_fake_\d+|line \d+ column.*", "", str(answer))
    if isinstance(answer, list):
        return [seen(item) for item in answer]
    if isinstance(answer, pydantic.BaseModel):
        try:
            return type(answer).__name__, _timeless(answer.model_dump(exclude_none=True, warnings=False))
        except ValueError:  # nested too deeply for pydantic itself
            return (type(answer).__name__,)
    return type(answer).__name__, answer


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(item) for name, item in value.items() if name not in ("id", "created", "request_id")}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


INPUT, OUTPUT = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")


def each(names: tuple[str, str], value: Any) -> Any:
    return lambda usage: {key: value if key in names else item for key, item in usage.items()}


TABLE: dict[str, dict[str, Any]] = {
    "no usage":                 {"usage": ABSENT},
    "null":                     {"usage": None},
    "empty":                    {"usage": {}},
    "a string":                 {"usage": "lots"},
    "a list":                   {"usage": [1, 2]},
    "a number":                 {"usage": 7},
    "negative input":           {"usage": each(INPUT, -5)},
    "negative output":          {"usage": each(OUTPUT, -5)},
    "null counts":              {"usage": each(OUTPUT, None)},
    "absurd":                   {"usage": each(OUTPUT, 10**12)},
    "beyond 64 bits":           {"usage": each(INPUT, 2**70)},
    "float":                    {"usage": each(OUTPUT, 12.5)},
    "nested":                   {"usage": each(OUTPUT, {"n": 1})},
}  # fmt: skip

BODIES: dict[str, dict[str, Any]] = {
    "cut": {"body": lambda body: body[:500]},
    "empty": {"body": b""},
    "html": {"body": "<html><body>come back later</body></html>", "content_type": "text/html"},
    "html as JSON": {"body": "<html></html>"},
    "not UTF-8": {"body": b"\xff\xfe{}"},
    "a JSON list": {"body": "[]"},
    "a JSON string": {"body": '"hello"'},
    "JSON null": {"body": "null"},
    "an empty object": {"body": "{}"},
    "deep": {"body": '{"usage":' + "[" * 200 + "]" * 200 + "}"},
    "choices are no list": {"edit": lambda body: {**body, "choices": 3, "content": 3}},
    "ids are numbers": {"edit": lambda body: {**body, "id": 3, "model": 4, "service_tier": []}},
}


def ask(ride: Ride, client: Any) -> Any:
    return attempt(lambda: ride.ask(client))


def read_stream(ride: Ride, client: Any) -> Any:
    return attempt(lambda: list(ride.stream(client)))


def read_raw(ride: Ride, client: Any) -> Any:
    return attempt(lambda: ride.raw(client).parse())


def compared(how: Any, ride: Ride, client: Any) -> None:
    """The same through a bare client looks the same."""
    metered = how(ride, client)
    farebox.uninstrument()
    assert seen(metered) == seen(how(ride, client))


@pytest.mark.parametrize("how", [ask, read_stream, read_raw])
@pytest.mark.parametrize("name", TABLE)
def test_an_odd_usage_is_charged_at_the_bound_and_doubted(
    ride: Ride, provider: Any, client: Any, name: str, how: Any
) -> None:
    provider.odd(**TABLE[name], times=2)
    with budget(usd=1) as paid:
        compared(how, ride, client)
    record = only_record()
    if ride.name == "anthropic" and how is read_stream and record.cost_source == "list":
        pytest.skip("the usage of message_start makes up for that of message_delta")
    assert record.cost_source == "estimated"
    assert record.usd == record.bound_usd == paid.spent_usd >= provider.bill.lines[0].usd
    assert record.doubt
    assert "12" not in record.doubt
    nothing_is_left()


@pytest.mark.parametrize("how", [ask, read_stream, read_raw])
@pytest.mark.parametrize("value", ["12", 12.0])
def test_counts_that_an_sdk_reads_leniently_are_read_so_or_doubted(
    ride: Ride, provider: Any, client: Any, value: Any, how: Any
) -> None:
    provider.odd(usage=each(OUTPUT, value), times=2)
    with budget(usd=1):
        compared(how, ride, client)
    record = only_record()
    if record.usage is None:
        assert record.usd == record.bound_usd
        assert record.doubt
    else:
        assert record.usage.output_tokens == 12


@pytest.mark.parametrize("how", [ask, read_stream, read_raw])
@pytest.mark.parametrize("name", BODIES)
def test_an_odd_body_is_answered_as_ever_and_charged_at_the_bound(
    ride: Ride, provider: Any, client: Any, name: str, how: Any
) -> None:
    if how is read_stream and "edit" in BODIES[name]:
        pytest.skip("chunks have no such fields")
    provider.odd(**BODIES[name], times=2)
    with budget(usd=1):
        compared(how, ride, client)
    record = only_record()
    assert record.usd >= provider.bill.lines[0].usd
    if "edit" not in BODIES[name]:
        assert record.usd == record.bound_usd
    nothing_is_left()


@pytest.mark.parametrize("unknown_events", [True, False])
def test_unknown_events_in_a_stream_change_nothing(
    ride: Ride, provider: Any, client: Any, unknown_events: bool
) -> None:
    provider.odd(unknown_events=unknown_events, times=2)

    def known(ride: Ride, client: Any) -> Any:
        return [chunk for chunk in read_stream(ride, client) if not getattr(chunk, "surprise", False)]

    with budget(usd=1):
        compared(known, ride, client)
    assert only_record().usd == provider.bill.lines[0].usd


@pytest.mark.parametrize("how", [ask, read_stream])
def test_a_usage_of_zeros_is_not_a_free_call(ride: Ride, provider: Any, client: Any, how: Any) -> None:
    provider.odd(usage=lambda usage: {name: 0 if type(value) is int else value for name, value in usage.items()})
    with budget(usd=1):
        how(ride, client)
    spent_at_least_the_bill(provider)


def test_more_usage_than_the_bound_is_charged_in_full_and_kept_as_debt(ride: Ride, provider: Any, client: Any) -> None:
    # Not sampled while in flight: a provider that overruns its cap has billed more than anybody could have held.
    provider.answer(output_tokens=500, overrun_tokens=400)
    with budget(usd=1) as paid:
        ride.ask(client)
    assert paid.spent_usd == provider.bill.usd > only_record().bound_usd
    assert paid.debt_usd == paid.spent_usd - only_record().bound_usd
    assert [event.did for event in paid.decisions] == ["debt"]


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────

NOTHING = object()

#  what is changed in a good request, and whether the provider takes it
REQUESTS: dict[str, dict[str, Any]] = {
    "no model": {"model": NOTHING},
    "model None": {"model": None},
    "model empty": {"model": ""},
    "model a number": {"model": 7},
    "no messages": {"messages": NOTHING},
    "empty messages": {"messages": []},
    "messages a string": {"messages": "hello"},
    "messages a dict": {"messages": {"role": "user"}},
    "messages None": {"messages": None},
    "a message None": {"messages": [None]},
    "a message a string": {"messages": ["hello"]},
    "content None": {"messages": [{"role": "user", "content": None}]},
    "content a number": {"messages": [{"role": "user", "content": 7}]},
    "max_tokens a string": {"max_tokens": "100"},
    "max_tokens words": {"max_tokens": "many"},
    "max_tokens negative": {"max_tokens": -1},
    "max_tokens zero": {"max_tokens": 0},
    "max_tokens a float": {"max_tokens": 99.5},
    "max_tokens a whole float": {"max_tokens": 99.0},
    "max_tokens True": {"max_tokens": True},
    "max_tokens None": {"max_tokens": None},
    "max_tokens a list": {"max_tokens": [1]},
    "unknown parameter": {"extra_body": {"surprise": {"deep": [1, 2, 3]}}},
    "extra_body raises the cap": {"extra_body": {"max_tokens": 900}},
    "extra_body takes the cap": {"extra_body": {"max_tokens": None}},
    "extra_body changes the model": {"extra_body": {"model": "DEARER"}},
    "stream_options null": {"extra_body": {"stream_options": None}},
    "n a string": {"extra_body": {"n": "2"}},
    "n negative": {"extra_body": {"n": -2}},
    "n two": {"extra_body": {"n": 2}},
}


def sent(ride: Ride, client: Any, changes: dict[str, Any], **more: Any) -> Any:
    words = {name: value for name, value in {**ride.words(), **changes, **more}.items() if value is not NOTHING}
    if words.get("extra_body") == {"model": "DEARER"}:
        words["extra_body"] = {"model": {"openai": "gpt-4o", "anthropic": "claude-opus-4-5"}[ride.name]}
    before = copy.deepcopy(words)
    try:
        if words.get("stream"):
            return attempt(lambda: list(ride.api(client).create(**words)))
        return attempt(lambda: ride.api(client).create(**words))
    finally:
        assert words == before


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", REQUESTS)
def test_an_odd_request_goes_out_as_it_is(ride: Ride, provider: Any, client: Any, name: str, stream: bool) -> None:
    more = {"stream": True} if stream else {}
    provider.answer(output_tokens=950)
    with stormproof(provider), budget(usd=5) as paid:
        metered = sent(ride, client, REQUESTS[name], **more)
        body = provider.requests[-1].body if provider.requests else None
        bill = provider.bill
        assert paid.spent_usd == bill.usd
        assert paid.debt_usd == 0  # it was bounded
    farebox.uninstrument()
    bare = sent(ride, client, REQUESTS[name], **more)
    bare_body = provider.requests[-1].body if provider.requests else None
    caps = ("max_tokens", "max_completion_tokens")
    if name in ("max_tokens None", "extra_body takes the cap") and ride.name == "openai":
        assert any(type(body.pop(cap, None)) is int for cap in caps)  # ours to choose
        assert type(metered) is type(bare)
        bare_body = {key: value for key, value in bare_body.items() if key not in caps}
    else:
        assert seen(metered) == seen(bare)
    if stream and body is not None:
        assert body.pop("stream_options", None) is None or ride.name == "openai"
        bare_body.pop("stream_options", None)
    assert body == bare_body


@pytest.mark.parametrize("options", ["yes", 7, [], False])
def test_odd_stream_options_are_refused_as_ever(provider: Any, open_client: Any, options: Any) -> None:
    client = open_client(OPENAI)
    metered = attempt(lambda: list(OPENAI.stream(client, stream_options=options)))
    farebox.uninstrument()
    bare = attempt(lambda: list(OPENAI.stream(client, stream_options=options)))
    assert seen(metered) == seen(bare)


def test_nothing_of_the_programs_own_is_changed(ride: Ride, provider: Any, client: Any) -> None:
    words = ride.words(
        messages=[{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        extra_body={"metadata": {"user_id": "u"}},
        extra_headers={"x-mine": "1"},
        tools=[
            {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
            if ride.name == "openai"
            else {"name": "f", "input_schema": {"type": "object"}}
        ],
    )
    del words["max_tokens"]
    if ride.name == "anthropic":
        words["max_tokens"] = 50
    else:
        words["stream_options"] = {}
    before = copy.deepcopy(words)
    with budget(usd="0.05"):
        list(ride.api(client).create(**words, stream=True))
    assert words == before


def test_messages_from_a_generator_are_read_once_and_sent(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    with budget(usd=1) as paid:
        OPENAI.ask(client, messages=(message for message in MESSAGES))
    assert provider.requests[0].body["messages"] == MESSAGES
    assert paid.spent_usd == provider.bill.usd > 0


def test_messages_that_are_a_tuple_or_models_are_counted(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    first = OPENAI.ask(client).choices[0].message
    for messages in (tuple(MESSAGES), [*MESSAGES, first, *MESSAGES]):
        with budget(usd=1) as paid:
            before = provider.bill.usd
            OPENAI.ask(client, messages=messages)
            assert paid.spent_usd == provider.bill.usd - before > 0


# ── ways around ──────────────────────────────────────────────────────────────────────────────────────────────────


class ByEnum(enum.StrEnum):
    OPENAI = OPENAI.model
    ANTHROPIC = ANTHROPIC.model


class ByMixin(str, enum.Enum):  # noqa: UP042, programs that are older do it so
    OPENAI = OPENAI.model
    ANTHROPIC = ANTHROPIC.model


class ByClass(str):
    __slots__ = ()


TOO_LITTLE = "0.0000001"


@pytest.mark.parametrize("kind", [ByEnum, ByMixin, ByClass])
def test_a_model_named_by_a_kind_of_string_is_metered(ride: Ride, provider: Any, client: Any, kind: Any) -> None:
    model = kind(ride.model)
    with budget(usd=TOO_LITTLE), pytest.raises(BudgetExceeded):
        ride.ask(client, model=model)
    assert not provider.requests


class Body(pydantic.BaseModel):
    model: str
    messages: list[Any]
    max_tokens: int


POSTS: dict[str, dict[str, Any]] = {
    "a dict": {"body": OPENAI.words()},
    "a model": {"body": Body(**OPENAI.words())},
    "bytes": {"content": json.dumps(OPENAI.words()).encode()},
    "a slash at the end": {"body": OPENAI.words(), "path": "/chat/completions/"},
    "a query": {"body": OPENAI.words(), "path": "/chat/completions?beta=true"},
    "a whole URL": {"body": OPENAI.words(), "path": "WHOLE"},
}


@pytest.mark.parametrize("name", ["a dict", "a model", "bytes", "a query", "a whole URL"])
def test_a_hand_made_post_is_metered(provider: Any, open_client: Any, name: str) -> None:
    client, words = open_client(OPENAI), dict(POSTS[name])
    if not words.keys() <= inspect.signature(client.post).parameters.keys() | {"path"}:
        pytest.skip(f"openai {openai.VERSION} posts no {name}")
    path = words.pop("path", "/chat/completions").replace("WHOLE", f"{provider.openai_base_url}/chat/completions")
    with budget(usd=TOO_LITTLE), pytest.raises(BudgetExceeded):
        client.post(path, cast_to=object, options={"headers": {"content-type": "application/json"}}, **words)
    assert not provider.requests


@pytest.mark.parametrize("cast_to", [object, dict[str, Any], HTTPX.Response, str])
def test_a_hand_made_post_is_charged_whatever_it_is_cast_to(provider: Any, open_client: Any, cast_to: Any) -> None:
    with stormproof(provider), budget(usd=1) as paid:
        attempt(lambda: open_client(OPENAI).post("/chat/completions", cast_to=cast_to, body=OPENAI.words()))
    assert paid.spent_usd >= provider.bill.usd > 0


def test_a_hand_made_stream_is_charged(provider: Any, open_client: Any) -> None:
    from openai import Stream
    from openai.types.chat import ChatCompletionChunk

    with stormproof(provider), budget(usd=1) as paid:
        body = {**OPENAI.words(), "stream": True}
        chunk = ChatCompletionChunk
        list(
            open_client(OPENAI).post(
                "/chat/completions", cast_to=chunk, body=body, stream=True, stream_cls=Stream[chunk]
            )
        )
    assert paid.spent_usd == provider.bill.usd > 0


def test_a_stream_asked_for_in_extra_body_is_charged(ride: Ride, provider: Any, client: Any) -> None:
    with stormproof(provider), budget(usd=1) as paid:
        attempt(lambda: ride.ask(client, extra_body={"stream": True}))
    assert paid.spent_usd >= provider.bill.usd > 0


def test_of_two_caps_the_larger_is_the_bound() -> None:
    from farebox.providers.openai import PROVIDER

    body = {**OPENAI.words(), "max_tokens": 10, "max_completion_tokens": 1_000}
    call = PROVIDER.read_request("/chat/completions", body, "localhost")
    assert call is not None
    assert call.declared_cap == 1_000


def test_the_other_surfaces_are_metered_once(provider: Any, open_client: Any) -> None:
    openai_client, anthropic_client = open_client(OPENAI), open_client(ANTHROPIC)
    provider.answer(output_tokens=20)
    ways: dict[str, Any] = {
        "parse": lambda: openai_client.chat.completions.parse(**OPENAI.words()),
        "beta parse": lambda: openai_client.beta.chat.completions.parse(**OPENAI.words()),
        "beta messages": lambda: anthropic_client.beta.messages.create(**ANTHROPIC.words()),
        "beta stream": lambda: list(anthropic_client.beta.messages.create(**ANTHROPIC.words(), stream=True)),
        "with_options": lambda: OPENAI.ask(openai_client.with_options(timeout=5)),
        "copy": lambda: ANTHROPIC.ask(anthropic_client.copy()),
        "n": lambda: OPENAI.ask(openai_client, n=3),
    }
    for name, way in ways.items():
        before = provider.bill.usd
        with stormproof(provider), budget(name, usd=1) as paid:
            way()
        assert paid.spent_usd == provider.bill.usd - before > 0, name
        assert paid.spent_calls == 1, name
    assert report().total.calls == len(ways) == provider.bill.calls


def test_counting_tokens_is_free(provider: Any, open_client: Any) -> None:
    with budget(usd=0, calls=0):
        open_client(ANTHROPIC).messages.count_tokens(model=ANTHROPIC.model, messages=MESSAGES)
    assert not farebox.calls()


def test_n_choices_are_n_times_the_output(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    one = bound_of(OPENAI).usd_nanos
    with stormproof(provider), budget(usd=f"{one * 2 / 1e9:.9f}"):
        with pytest.raises(BudgetExceeded) as refusal:
            OPENAI.ask(client, n=5)
        assert refusal.value.kind == "oversized"
    with stormproof(provider), budget(usd=1) as paid:
        list(OPENAI.stream(client, n=5))
    assert paid.spent_usd == provider.bill.usd


def test_odd_bodies_are_the_same_for_async_clients(ride: Ride, provider: Any) -> None:
    async def main() -> list[Any]:
        async with ride.async_client(provider) as client:
            answers: list[Any] = []
            for odd in BODIES.values():
                provider.odd(**odd)
                try:
                    answers.append(seen(await ride.ask(client)))
                except Exception as error:
                    answers.append(seen(error))
            return answers

    with stormproof(provider), budget(usd=10):
        metered = asyncio.run(main())
    farebox.uninstrument()
    assert metered == asyncio.run(main())
