"""What the SDKs run by themselves: tool loops, parsed answers, stream helpers.  Each turn counts once, and a stop is a stop.

A fake provider bills what it is sent; where a real one reads more, such as a thread that it keeps, `input_tokens` says so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import attrs
import openai
import pydantic
import pytest

import farebox
from farebox import BudgetExceeded, budget, current, instrument, report, track, uninstrument
from farebox.testing import FakeProvider
from tests.acceptance.rides import (
    ANTHROPIC,
    OPENAI,
    is_charged_by_what_came,
    nothing_is_left,
    only_record,
    outcomes,
    spent_at_least_the_bill,
    stormproof,
)

pytestmark = pytest.mark.usefixtures("metered")

openai_runners = pytest.importorskip(
    "openai.lib.responses_tool_runner", reason=f"openai {openai.VERSION} has no responses_tool_runner"
)

ARGUMENTS = json.dumps({"city": "Paris"})
TOO_LITTLE = "0.000000001"
RETRIES = {"max_retries": 2}


@attrs.define
class Tool:
    """The tool of a program: what it was asked, and what else it does."""

    asked: list[str] = attrs.field(factory=list)
    scopes: list[Any] = attrs.field(factory=list)
    does: Callable[[], Any] = lambda: None

    def __call__(self, city: str) -> str:
        self.asked.append(city)
        self.scopes.append(current())
        self.does()
        return "12 degrees"

    @property
    def sync(self) -> Any:
        @anthropic.beta_tool
        def weather(city: str) -> str:
            """The weather in a city."""
            return self(city)

        return weather

    @property
    def of_async(self) -> Any:
        @anthropic.beta_async_tool
        async def weather(city: str) -> str:
            """The weather in a city."""
            await asyncio.sleep(0)
            return self(city)

        return weather


def script(provider: FakeProvider, turns: int) -> None:
    """The models of runners ask for the tool so many times, and then say that they are done."""
    for ride in (OPENAI, ANTHROPIC):
        provider.answer(text="It is 12 degrees.", output_tokens=9, model=ride.model)
        provider.answer(function="weather", text=ARGUMENTS, times=turns, model=ride.model)


def books_agree(provider: FakeProvider, frame: Any = None) -> None:
    """Each turn was settled once, at its line of the bill, and held for at least that."""
    records = sorted(
        (record for record in farebox.calls() if record.outcome != "refused"), key=lambda one: one.started_at
    )
    for record, line in zip(records, provider.bill.lines, strict=True):
        assert (record.outcome, record.response_id, record.usd) == ("completed", line.response_id, line.usd)
        assert record.usd <= record.bound_usd
    assert report().total.usd == provider.bill.usd
    if frame is not None:
        assert (frame.spent_usd, frame.spent_calls) == (provider.bill.usd, provider.bill.calls)
        assert frame.debt_usd == 0
    nothing_is_left()


# ── Anthropic's tool runner ──────────────────────────────────────────────────────────────────────────────────────

RUNS: list[Any] = [{}, {"thread": False}, {"stream": True}, {"stream": True, "run_tools_eagerly": True}]
every_run = pytest.mark.parametrize("words", RUNS, ids=["whole", "without a thread", "stream", "eager"])
both_kinds = pytest.mark.parametrize("kind", ["sync", "async"])


def run(kind: str, provider: FakeProvider, tool: Tool, words: Any, scope: Any = None, **options: Any) -> Any:
    """Run the tools to the end inside a function that `scope` decorates; its result."""
    scope = scope or (lambda function: function)
    if kind == "sync":

        @scope
        def program() -> Any:
            with ANTHROPIC.client(provider, **options) as client:
                runner = client.beta.messages.tool_runner(**ANTHROPIC.words(), tools=[tool.sync], **words)
                return runner.until_done().content[0].text

        return program()

    @scope
    async def async_program() -> Any:
        async with ANTHROPIC.async_client(provider, **options) as client:
            runner = client.beta.messages.tool_runner(**ANTHROPIC.words(), tools=[tool.of_async], **words)
            return (await runner.until_done()).content[0].text

    return asyncio.run(async_program())


@both_kinds
@every_run
def test_each_turn_of_a_tool_runner_counts_once(kind: str, words: Any, provider: FakeProvider) -> None:
    script(provider, turns=3)
    tool = Tool()
    with stormproof(provider), track(job="weather"), budget(usd=1, calls=9) as frame:
        assert run(kind, provider, tool, words) == "It is 12 degrees."
    assert tool.asked == ["Paris"] * 3
    assert provider.bill.calls == 4
    assert report(where={"job": "weather"}).total.calls == 4
    books_agree(provider, frame)


@both_kinds
@every_run
def test_a_budget_stops_a_tool_runner_in_mid_run_and_nothing_is_tried_again(
    kind: str, words: Any, provider: FakeProvider
) -> None:
    script(provider, turns=9)
    tool = Tool()
    with stormproof(provider), budget("run", usd=1, calls=3) as frame:
        with pytest.raises(BudgetExceeded) as stopped:
            run(kind, provider, tool, words, **RETRIES)
    assert (stopped.value.budget, stopped.value.spent, stopped.value.kind) == ("run", 3, "exhausted")
    assert len(provider.requests) == 3
    assert len(tool.asked) == 3
    assert outcomes() == ["completed"] * 3 + ["refused"]
    books_agree(provider, frame)


@both_kinds
@every_run
def test_a_tool_runner_under_an_exhausted_budget_sends_nothing(kind: str, words: Any, provider: FakeProvider) -> None:
    tool = Tool()
    with budget(usd=TOO_LITTLE), pytest.raises(BudgetExceeded):
        run(kind, provider, tool, words, **RETRIES)
    assert not provider.requests
    assert not tool.asked
    assert outcomes() == ["refused"]


@both_kinds
@every_run
def test_a_scope_that_ends_quietly_takes_its_tool_runner_along(kind: str, words: Any, provider: FakeProvider) -> None:
    script(provider, turns=9)
    scope = budget("run", calls=2, on_exceed="truncate", default="enough")
    assert run(kind, provider, Tool(), words, scope, **RETRIES) == "enough"
    assert len(provider.requests) == 2
    books_agree(provider)


@both_kinds
def test_a_tool_runs_in_the_scope_of_its_runner(kind: str, provider: FakeProvider) -> None:
    script(provider, turns=2)
    tool = Tool()
    with budget("run", usd=1) as frame:
        run(kind, provider, tool, {})
    assert tool.scopes == [frame] * 2


def test_what_a_tool_spends_counts_once_and_in_its_scope_too(provider: FakeProvider, open_client: Any) -> None:
    script(provider, turns=2)
    inner: list[Any] = []
    client = open_client(ANTHROPIC)

    def think() -> None:
        with budget("tool", usd=1) as frame:
            inner.append(frame)
            ANTHROPIC.ask(client, model="claude-opus-4-5")

    with budget("run", usd=1) as frame:
        run("sync", provider, Tool(does=think), {})
    assert provider.bill.calls == 5
    dear = [line.usd for line in provider.bill.lines if line.model == "claude-opus-4-5"]
    assert [one.spent_usd for one in inner] == dear
    books_agree(provider, frame)


def test_a_stop_that_a_tool_was_told_does_not_get_its_runner_past_the_budget(
    provider: FakeProvider, open_client: Any
) -> None:
    """The SDK makes an answer for the model of what a tool raises, and goes on."""
    script(provider, turns=9)
    client = open_client(ANTHROPIC)
    tool = Tool(does=lambda: ANTHROPIC.ask(client))
    with budget("run", calls=1), pytest.raises(BudgetExceeded):
        run("sync", provider, tool, {}, **RETRIES)
    assert len(tool.asked) == 1
    assert len(provider.requests) == 1
    assert outcomes() == ["completed", "refused", "refused"]


def test_a_scope_of_a_tool_that_ends_quietly_leaves_its_runner_running(
    provider: FakeProvider, open_client: Any
) -> None:
    script(provider, turns=2)
    client = open_client(ANTHROPIC)
    ends: list[str] = []

    @budget("tool", calls=0, on_exceed="truncate", default="enough")
    def ask() -> Any:
        return ANTHROPIC.ask(client)

    with budget("run", usd=1):
        assert run("sync", provider, Tool(does=lambda: ends.append(ask())), {}) == "It is 12 degrees."
    assert ends == ["enough"] * 2
    assert provider.bill.calls == 3


def test_a_tool_runner_that_is_iterated_is_held_at_each_turn(provider: FakeProvider, open_client: Any) -> None:
    script(provider, turns=2)
    tool = Tool()
    runner = open_client(ANTHROPIC).beta.messages.tool_runner(**ANTHROPIC.words(), tools=[tool.sync])
    frames = []
    for turn in range(3):
        with budget("turn", calls=1) as frame:
            assert next(runner).id == provider.bill.lines[turn].response_id
        frames.append(frame)
    assert [frame.spent_calls for frame in frames] == [1, 1, 1]
    assert [frame.spent_usd for frame in frames] == [line.usd for line in provider.bill.lines]


def test_a_streamed_turn_that_is_left_is_charged(provider: FakeProvider, open_client: Any) -> None:
    provider.answer(output_tokens=3_000)
    provider.pace(0.003)
    client = open_client(ANTHROPIC)
    words = {**ANTHROPIC.words(max_tokens=4_000), "tools": [Tool().sync], "stream": True}
    with budget(usd=1) as frame:
        runner = client.beta.messages.tool_runner(**words)
        for number, _ in enumerate(next(runner)):
            if number == 12:
                break
        runner.close()
    provider.wait_until_idle()
    assert only_record().outcome == "closed"
    assert provider.bill.usd <= frame.spent_usd == only_record().usd
    assert is_charged_by_what_came(only_record())
    nothing_is_left()


def test_a_tool_runner_survives_a_busy_provider_and_counts_each_turn_once(provider: FakeProvider) -> None:
    script(provider, turns=1)
    provider.fail(529, times=1, headers={"retry-after-ms": "1"})
    with budget(usd=1) as frame:
        assert run("sync", provider, Tool(), {}, **RETRIES) == "It is 12 degrees."
    assert len(provider.requests) == 3
    books_agree(provider, frame)


@pytest.mark.parametrize("words", [run for run in RUNS if "thread" not in run], ids=["whole", "stream", "eager"])
def test_a_thread_that_the_provider_keeps_is_held_at_each_turn(words: Any, provider: FakeProvider) -> None:
    """Each turn sends what is new and is billed for all."""
    lengths = iter((20_000, 20_200, 20_400))

    def answer(_: Any) -> Any:
        length = next(lengths)
        done = length == 20_400
        words = {"text": "done"} if done else {"function": "weather", "text": ARGUMENTS}
        return farebox.testing.Answer(input_tokens=length, **words)

    provider.answer(answer)
    with budget(usd=1) as frame, ANTHROPIC.client(provider) as client:
        asked = ANTHROPIC.words(messages=[{"role": "user", "content": "abc " * 20_000}])
        client.beta.messages.tool_runner(**asked, tools=[Tool().sync], **words).until_done()
    assert [line.input_tokens for line in provider.bill.lines] == [20_000, 20_200, 20_400]
    books_agree(provider, frame)


def test_a_thread_that_goes_on_from_an_unknown_message_is_held_for_all_it_may_read(
    provider: FakeProvider, open_client: Any
) -> None:
    provider.answer(input_tokens=190_000, output_tokens=20)
    thread = {"type": "continue", "previous_message_id": "msg_of_yesterday"}
    with budget(usd=1) as frame:
        open_client(ANTHROPIC).beta.messages.create(**ANTHROPIC.words(), thread=thread)
    books_agree(provider, frame)


@pytest.mark.filterwarnings("ignore::farebox.errors.CutAnswerWarning")
def test_a_tool_runner_goes_under_a_budget_that_wants_proof(provider: FakeProvider) -> None:
    script(provider, turns=2)
    with budget(usd=1, input_bound="bytes") as frame:
        assert run("sync", provider, Tool(), {}) == "It is 12 degrees."
    books_agree(provider, frame)


# ── parsed answers, and what is free ─────────────────────────────────────────────────────────────────────────────


class City(pydantic.BaseModel):
    name: str
    population: int


PARIS = '{"name": "Paris", "population": 2100000}'


@both_kinds
def test_a_parsed_message_counts_once(kind: str, provider: FakeProvider, open_client: Any) -> None:
    provider.answer(text=PARIS)
    words = {**ANTHROPIC.words(), "output_format": City}

    async def main() -> list[Any]:
        async with ANTHROPIC.async_client(provider) as client:
            return [await api.parse(**words) for api in (client.messages, client.beta.messages)]

    with budget(usd=1) as frame:
        if kind == "async":
            answers = asyncio.run(main())
        else:
            client = open_client(ANTHROPIC)
            answers = [api.parse(**words) for api in (client.messages, client.beta.messages)]
    assert [answer.parsed_output for answer in answers] == [City(name="Paris", population=2_100_000)] * 2
    assert frame.spent_calls == 2
    books_agree(provider, frame)


def test_an_answer_that_does_not_parse_is_paid_all_the_same(provider: FakeProvider, open_client: Any) -> None:
    provider.answer(text="no JSON at all")
    with budget(usd=1) as frame, pytest.raises(pydantic.ValidationError):
        open_client(ANTHROPIC).messages.parse(**ANTHROPIC.words(), output_format=City)
    assert frame.spent_usd == provider.bill.usd > 0
    assert frame.spent_calls == 1
    nothing_is_left()


def test_a_parsed_stream_counts_once(provider: FakeProvider, open_client: Any) -> None:
    provider.answer(text=PARIS)
    client = open_client(ANTHROPIC)
    with budget(usd=1) as frame:
        with client.messages.stream(**ANTHROPIC.words(), output_format=City) as events:
            assert events.get_final_message().parsed_output.name == "Paris"
    books_agree(provider, frame)


@pytest.mark.parametrize("limit", [{"usd": 0}, {"tokens": 0}, {"calls": 0}], ids=lambda limit: next(iter(limit)))
@both_kinds
def test_to_count_tokens_is_free_also_when_nothing_is_left(
    kind: str, limit: Any, provider: FakeProvider, open_client: Any
) -> None:
    words = {"model": ANTHROPIC.model, "messages": ANTHROPIC.words()["messages"], "tools": []}

    async def main() -> list[Any]:
        async with ANTHROPIC.async_client(provider) as client:
            return [await api.count_tokens(**words) for api in (client.messages, client.beta.messages)]

    with budget(**limit, input_bound="bytes") as frame:
        if kind == "async":
            counts = asyncio.run(main())
        else:
            client = open_client(ANTHROPIC)
            counts = [api.count_tokens(**words) for api in (client.messages, client.beta.messages)]
        assert [count.input_tokens for count in counts] == [13, 13]
        with pytest.raises(BudgetExceeded):
            ANTHROPIC.ask(open_client(ANTHROPIC))
    assert (frame.spent_calls, frame.spent_usd) == (0, 0)
    assert len(provider.requests) == 2
    assert provider.bill.calls == 0
    assert outcomes() == ["refused"]


# ── OpenAI's runner and helpers ──────────────────────────────────────────────────────────────────────────────────

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
PARAMS: Any = {"model": OPENAI.model, "input": "Is it cold in Paris?", "max_output_tokens": 200}
OPENAI_RUNS: list[Any] = [{}, {"stream": True}, {"stream": True, "eager": True}]
every_openai_run = pytest.mark.parametrize("words", OPENAI_RUNS, ids=["whole", "stream", "eager"])


def run_responses(kind: str, provider: FakeProvider, tool: Tool, words: Any, **options: Any) -> Any:
    """Run the tools to the end; the text of the last answer."""
    if kind == "sync":
        function = openai_runners.RegisteredFunction(WEATHER, lambda given: tool(str(given["city"])), independent=True)
        with OPENAI.client(provider, **options) as client:
            return (
                openai_runners.ResponsesToolRunner(functions=[function])
                .run(client, PARAMS, max_steps=9, **words)
                .output_text
            )

    async def main() -> Any:
        async def execute(given: dict[str, object]) -> str:
            return tool(str(given["city"]))

        runner = openai_runners.AsyncResponsesToolRunner(
            functions=[openai_runners.AsyncRegisteredFunction(WEATHER, execute, independent=True)]
        )
        async with OPENAI.async_client(provider, **options) as client:
            return (await runner.run(client, PARAMS, max_steps=9, **words)).output_text

    return asyncio.run(main())


@both_kinds
@every_openai_run
def test_each_turn_of_a_responses_runner_counts_once(kind: str, words: Any, provider: FakeProvider) -> None:
    script(provider, turns=3)
    tool = Tool()
    with stormproof(provider), track(job="weather"), budget("run", usd=1, calls=9) as frame:
        assert run_responses(kind, provider, tool, words) == "It is 12 degrees."
    assert tool.asked == ["Paris"] * 3
    assert tool.scopes == [frame] * 3
    assert provider.bill.calls == report(where={"job": "weather"}).total.calls == 4
    books_agree(provider, frame)


@both_kinds
@every_openai_run
def test_a_budget_stops_a_responses_runner_in_mid_run_and_nothing_is_tried_again(
    kind: str, words: Any, provider: FakeProvider
) -> None:
    script(provider, turns=8)
    tool = Tool()
    with stormproof(provider), budget("run", usd=1, calls=3) as frame:
        with pytest.raises(Exception) as stopped:  # noqa: PT011
            run_responses(kind, provider, tool, words, **RETRIES)
    stop = stop_of(stopped.value)
    assert (stop.budget, stop.spent) == ("run", 3)
    assert len(provider.requests) == 3
    assert len(tool.asked) == 3
    assert outcomes() == ["completed"] * 3 + ["refused"]
    books_agree(provider, frame)


def stop_of(error: BaseException) -> BudgetExceeded:
    """Our stop: the SDK's runner raises an error of its own in place of all but its own, with ours as the context."""
    assert isinstance(error, (BudgetExceeded, openai_runners.ToolRunnerError))
    found = error if isinstance(error, BudgetExceeded) else error.__context__
    assert isinstance(found, BudgetExceeded)
    return found


@pytest.mark.parametrize("words", OPENAI_RUNS[:2], ids=["whole", "stream"])
def test_a_scope_that_ends_quietly_takes_its_responses_runner_along(words: Any, provider: FakeProvider) -> None:
    script(provider, turns=8)

    @budget("run", calls=2, on_exceed="truncate", default="enough")
    def program() -> Any:
        return run_responses("sync", provider, Tool(), words, **RETRIES)

    assert program() == "enough"
    assert len(provider.requests) == 2
    books_agree(provider)


def test_what_the_tool_of_a_responses_runner_spends_in_a_thread_counts_once(
    provider: FakeProvider, open_client: Any
) -> None:
    script(provider, turns=2)
    client = open_client(ANTHROPIC)
    tool = Tool(does=lambda: ANTHROPIC.ask(client, model="claude-opus-4-5"))
    with budget("run", usd=1) as frame:
        run_responses("sync", provider, tool, {"stream": True, "eager": True})
    assert provider.bill.calls == 5
    assert frame.spent_usd == report().total.usd == provider.bill.usd
    nothing_is_left()


def test_the_budget_of_a_client_holds_its_runners(provider: FakeProvider, open_client: Any) -> None:
    for ride in (OPENAI, ANTHROPIC):
        script(provider, turns=9)
        client = instrument(open_client(ride), tags={"of": ride.name}, budgets=[budget("mine", calls=2)])
        try:
            with budget("run", usd=1), pytest.raises((BudgetExceeded, openai_runners.ToolRunnerError)) as stopped:
                if ride is OPENAI:
                    function = openai_runners.RegisteredFunction(WEATHER, lambda _: "12")
                    openai_runners.ResponsesToolRunner(functions=[function]).run(client, PARAMS, max_steps=9)
                else:
                    client.beta.messages.tool_runner(**ANTHROPIC.words(), tools=[Tool().sync]).until_done()
        finally:
            uninstrument(client)
        assert stop_of(stopped.value).scope == "mine > run"
    assert {row.tags["of"]: row.calls for row in report(by=["of"])} == {"openai": 2, "anthropic": 2}
    assert provider.bill.calls == 4


class Weather(pydantic.BaseModel):
    city: str


@both_kinds
def test_a_chat_stream_helper_with_tools_and_a_format_counts_once(
    kind: str, provider: FakeProvider, open_client: Any
) -> None:
    provider.answer(text=PARIS)
    provider.answer(function="Weather", text=ARGUMENTS, times=1)
    tools: Any = [openai.pydantic_function_tool(Weather)]
    words = {**OPENAI.words(), "tools": tools, "response_format": City}

    async def main() -> list[Any]:
        found = []
        async with OPENAI.async_client(provider) as client:
            for _ in range(2):
                async with client.chat.completions.stream(**words) as events:
                    found.append(await events.get_final_completion())
        return found

    with budget(usd=1) as frame:
        if kind == "async":
            first, second = asyncio.run(main())
        else:
            client, found = open_client(OPENAI), []
            for _ in range(2):
                with client.chat.completions.stream(**words) as events:
                    found.append(events.get_final_completion())
            first, second = found
    assert first.choices[0].message.tool_calls[0].function.parsed_arguments == Weather(city="Paris")
    assert second.choices[0].message.parsed == City(name="Paris", population=2_100_000)
    books_agree(provider, frame)


@both_kinds
def test_a_parsed_completion_counts_once(kind: str, provider: FakeProvider, open_client: Any) -> None:
    provider.answer(text=PARIS)

    async def main() -> Any:
        async with OPENAI.async_client(provider) as client:
            return await client.chat.completions.parse(**OPENAI.words(), response_format=City)

    with budget(usd=1) as frame:
        if kind == "async":
            answer = asyncio.run(main())
        else:
            answer = open_client(OPENAI).chat.completions.parse(**OPENAI.words(), response_format=City)
    assert answer.choices[0].message.parsed.name == "Paris"
    books_agree(provider, frame)


@pytest.mark.filterwarnings("ignore::farebox.errors.CutAnswerWarning")
def test_a_parsed_answer_that_is_cut_is_paid_though_the_sdk_raises(provider: FakeProvider, open_client: Any) -> None:
    provider.answer(text=PARIS * 40)
    client = open_client(OPENAI)
    with budget(usd=1, output_cap=20) as frame:
        with pytest.raises(openai.LengthFinishReasonError):
            client.chat.completions.parse(**OPENAI.words(), response_format=City)
        with pytest.raises(openai.LengthFinishReasonError):
            with client.chat.completions.stream(**OPENAI.words(), response_format=City) as events:
                events.get_final_completion()
    whole, stream = farebox.calls()
    assert whole.usd == provider.bill.lines[0].usd > 0
    # The helper gives up at the chunk that says so, before that of the usage: presumed spent.
    assert provider.bill.lines[1].usd <= stream.usd <= stream.bound_usd
    assert frame.spent_calls == 2
    spent_at_least_the_bill(provider)
    nothing_is_left()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_responses_stream_helper_with_tools_counts_each_turn_once(
    kind: str, provider: FakeProvider, open_client: Any
) -> None:
    provider.answer(text="It is 12 degrees.")
    provider.answer(function="Weather", text=ARGUMENTS, times=2)
    words: Any = {**PARAMS, "tools": [openai.pydantic_function_tool(Weather)["function"] | {"type": "function"}]}

    def goes_on(answer: Any) -> Any:
        calls = [item for item in answer.output if item.type == "function_call"]
        if not calls:
            return None
        given = [{"type": "function_call_output", "call_id": call.call_id, "output": "12"} for call in calls]
        return {**words, "input": given, "previous_response_id": answer.id}

    async def main() -> Any:
        async with OPENAI.async_client(provider) as client:
            asked: Any = words
            while asked:
                async with client.responses.stream(**asked) as events:
                    answer = await events.get_final_response()
                asked = goes_on(answer)
            return answer

    def loop() -> Any:
        client, asked = open_client(OPENAI), words
        while asked:
            with client.responses.stream(**asked) as events:
                answer = events.get_final_response()
            asked = goes_on(answer)
        return answer

    with stormproof(provider), budget(usd=1) as frame:
        answer = loop() if kind == "sync" else asyncio.run(main())
    assert answer.output_text == "It is 12 degrees."
    assert provider.bill.calls == 3
    books_agree(provider, frame)


@pytest.fixture(autouse=True)
def no_chatter(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The SDK logs what a tool raises, with a traceback."""
    with caplog.at_level("CRITICAL", logger="anthropic"):
        yield
