"""output_cap=N means at most N output tokens for every choice of every call, whatever a call declares.

What was sent is read from the requests that arrived, what came back from the bill.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

import farebox
from farebox import BudgetExceeded, budget, report
from farebox.testing import FakeProvider
from tests.acceptance.rides import ANTHROPIC, OPENAI, Ride, farebox_usd, needs, nothing_is_left, only_record, outcomes
from tests.acceptance.test_modes import PRICES

pytestmark = [
    pytest.mark.usefixtures("metered"),
    pytest.mark.filterwarnings("ignore::farebox.errors.CutAnswerWarning"),
]

SAID = "hello there, how are you?"
WANTED = 3_000  # tokens the model would say


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(prices=PRICES) as provider:
        provider.answer(output_tokens=WANTED)
        yield provider


@pytest.fixture
def open_client(provider: FakeProvider, open_client: Any) -> Callable[[Ride], Any]:
    """Clients of a server that nobody knows: it is sent the cap under the name that all servers take."""
    return lambda ride: open_client(ride, base_url=ride.here(provider))


@attrs.frozen
class Surface:
    """One API: `cap` is how it calls its output cap."""

    name: str
    ride: Ride
    asks: Callable[[Any], Any]
    cap: str
    words: dict[str, Any]

    def __str__(self) -> str:
        return self.name

    def ask(self, client: Any, declared: int | None = None, **changes: Any) -> Any:
        caps = {} if declared is None else {self.cap: declared}
        return self.asks(client)(**{**self.words, **caps, **changes})

    def caps_sent(self, provider: FakeProvider) -> list[dict[str, Any]]:
        names = ("max_tokens", "max_completion_tokens", "max_output_tokens")
        return [{name: request.body[name] for name in names if name in request.body} for request in provider.requests]


ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": SAID}]}
CHAT = Surface(
    "chat", OPENAI, lambda client: client.chat.completions.create, "max_tokens", {"model": "gpt-4o-mini", **ASKED}
)
NEW_CHAT = Surface(
    "chat of a newer model",
    OPENAI,
    lambda client: client.chat.completions.create,
    "max_completion_tokens",
    {"model": "gpt-5-mini", **ASKED},
)
RESPONSES = Surface(
    "responses",
    OPENAI,
    lambda client: client.responses.create,
    "max_output_tokens",
    {"model": "gpt-4o-mini", "input": SAID},
)
COMPLETIONS = Surface(
    "completions",
    OPENAI,
    lambda client: client.completions.create,
    "max_tokens",
    {"model": "gpt-3.5-turbo-instruct", "prompt": SAID},
)
MESSAGES = Surface(
    "messages", ANTHROPIC, lambda client: client.messages.create, "max_tokens", {"model": "claude-haiku-4-5", **ASKED}
)
SURFACES = [CHAT, NEW_CHAT, RESPONSES, COMPLETIONS, MESSAGES]
every_surface = pytest.mark.parametrize("surface", SURFACES, ids=str)
LIMITS = [{"usd": 1}, {"tokens": 100_000}, {"calls": 9}]
every_limit = pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: next(iter(limit)))


def books_agree(provider: FakeProvider) -> None:
    for record, line in zip(farebox.calls(), provider.bill.lines, strict=True):
        assert record.usd == line.usd <= record.bound_usd
        assert line.input_tokens + line.output_tokens <= record.bound_tokens
    assert report().total.usd == provider.bill.usd
    nothing_is_left()


# ── declared above, below, not at all ────────────────────────────────────────────────────────────────────────────


@every_surface
@every_limit
def test_a_cap_declared_above_is_lowered_and_one_below_is_kept(
    surface: Surface, limit: Any, provider: Any, open_client: Any
) -> None:
    client = open_client(surface.ride)
    with budget(output_cap=40, **limit) as frame:
        for declared in (500, 40, 20):
            surface.ask(client, declared)
    assert surface.caps_sent(provider) == [{surface.cap: cap} for cap in (40, 40, 20)]
    assert [line.output_tokens for line in provider.bill.lines] == [40, 40, 20]
    assert [record.declared_cap for record in farebox.calls()] == [500, 40, 20]
    assert [record.sent_cap for record in farebox.calls()] == [40, None, None]
    assert frame.spent_calls == 3
    books_agree(provider)


@pytest.mark.parametrize("surface", [CHAT, NEW_CHAT, RESPONSES, COMPLETIONS], ids=str)
@every_limit
def test_where_none_is_declared_it_is_sent(surface: Surface, limit: Any, provider: Any, open_client: Any) -> None:
    with budget(output_cap=40, **limit):
        surface.ask(open_client(surface.ride))
    assert surface.caps_sent(provider) == [{surface.cap: 40}]
    assert provider.bill.lines[0].output_tokens == 40
    books_agree(provider)


@every_surface
def test_what_is_held_is_what_the_lowered_cap_costs(surface: Surface, provider: Any, open_client: Any) -> None:
    """A limit that pays for forty tokens, but not for the five thousand that were declared."""
    client = open_client(surface.ride)
    with budget(usd=1, output_cap=40):
        surface.ask(client, 2_000)
    limit = only_record().bound_usd
    with budget(usd=limit), pytest.raises(BudgetExceeded):
        surface.ask(client, 2_000)
    with budget(usd=limit, output_cap=40) as frame:
        surface.ask(client, 2_000)
    assert frame.spent_usd == provider.bill.lines[1].usd
    assert outcomes() == ["completed", "refused", "completed"]


def test_an_unbounded_grant_is_lowered_too(provider: Any, open_client: Any) -> None:
    with budget(usd=1):
        CHAT.ask(open_client(OPENAI))
    with budget(usd=1, output_cap=40):
        CHAT.ask(open_client(OPENAI))
    first, second = CHAT.caps_sent(provider)
    assert first["max_tokens"] > second["max_tokens"] == 40


def test_a_grant_below_it_stays(provider: Any, open_client: Any) -> None:
    """What is left buys less than the cap: at most means no more."""
    with budget(usd=farebox_usd(120 * 600), output_cap=10_000):
        CHAT.ask(open_client(OPENAI))
    assert CHAT.caps_sent(provider)[0]["max_tokens"] < 120


# ── several choices, streams, the other ways to say it ───────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("surface", "more"), [(CHAT, {}), (NEW_CHAT, {}), (COMPLETIONS, {}), (COMPLETIONS, {"best_of": 5})]
)
def test_it_is_the_cap_of_each_choice(surface: Surface, more: Any, provider: Any, open_client: Any) -> None:
    with budget(tokens=10_000, output_cap=40):
        surface.ask(open_client(OPENAI), 500, n=3, **more)
    assert surface.caps_sent(provider) == [{surface.cap: 40}]
    assert provider.bill.lines[0].output_tokens == 40 * (5 if more else 3)
    books_agree(provider)


def helped(surface: Surface, client: Any) -> Any:
    if surface is RESPONSES:
        manager = client.responses.stream(**surface.words, max_output_tokens=500)
    elif surface is MESSAGES:
        manager = client.messages.stream(**surface.words, max_tokens=500)
    else:
        manager = client.chat.completions.stream(**surface.words, **{surface.cap: 500})
    with manager as events:
        return list(events)


@pytest.mark.parametrize("surface", [CHAT, RESPONSES, MESSAGES], ids=str)
@every_limit
def test_streams_and_their_helpers_end_at_it(surface: Surface, limit: Any, provider: Any, open_client: Any) -> None:
    client = open_client(surface.ride)
    with budget(output_cap=40, **limit):
        list(surface.ask(client, 500, stream=True))
        helped(surface, client)
    assert surface.caps_sent(provider) == [{surface.cap: 40}] * 2
    assert [line.output_tokens for line in provider.bill.lines] == [40, 40]
    books_agree(provider)


@every_surface
def test_async_calls_and_streams_end_at_it(surface: Surface, provider: Any) -> None:
    async def main() -> None:
        async with surface.ride.async_client(provider) as client:
            with budget(calls=9, output_cap=40):
                await surface.ask(client, 500)
                async for _ in await surface.ask(client, 500, stream=True):
                    pass

    asyncio.run(main())
    assert [line.output_tokens for line in provider.bill.lines] == [40, 40]


def test_a_cap_in_an_extra_body_is_lowered(provider: Any, open_client: Any) -> None:
    with budget(calls=9, output_cap=40):
        CHAT.ask(open_client(OPENAI), extra_body={"max_tokens": 400})
        MESSAGES.ask(open_client(ANTHROPIC), 9, extra_body={"max_tokens": 400})
    assert CHAT.caps_sent(provider) == [{"max_tokens": 40}] * 2


def test_the_words_of_the_caller_are_not_touched(provider: Any, open_client: Any) -> None:
    words = {**MESSAGES.words, "max_tokens": 3_000, "thinking": {"type": "enabled", "budget_tokens": 2_000}}
    with budget(usd=1, output_cap=1_500):
        open_client(ANTHROPIC).messages.create(**words)
    assert words["max_tokens"] == 3_000
    assert words["thinking"] == {"type": "enabled", "budget_tokens": 2_000}


def test_an_answer_in_the_background_ends_at_it(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    with budget(usd=1, output_cap=40):
        client.responses.retrieve(RESPONSES.ask(client, 500, background=True).id)
    assert provider.bill.lines[0].output_tokens == 40
    books_agree(provider)


def test_embeddings_and_counts_are_not_touched(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    needs(client.responses, "input_tokens")
    with budget(usd=1, output_cap=1), budget(calls=1, output_cap=2) as frame:
        client.embeddings.create(model="text-embedding-3-small", input=SAID)
        client.responses.input_tokens.count(**RESPONSES.words)
        open_client(ANTHROPIC).messages.count_tokens(**MESSAGES.words)
    assert all(not caps for caps in CHAT.caps_sent(provider))
    assert (frame.spent_calls, only_record().sent_cap) == (1, None)


# ── nested ───────────────────────────────────────────────────────────────────────────────────────────────────────


@every_surface
@pytest.mark.parametrize("caps", [(60, 40, None), (40, 60, None), (None, 60, 40), (None, None, 40), (40, None, 40)])
def test_of_nested_caps_the_smallest_counts(surface: Surface, caps: Any, provider: Any, open_client: Any) -> None:
    outer, middle, inner = caps
    with budget(usd=1, output_cap=outer), budget(calls=9, output_cap=middle), budget(tokens=90_000, output_cap=inner):
        surface.ask(open_client(surface.ride), 500)
    assert surface.caps_sent(provider) == [{surface.cap: 40}]
    books_agree(provider)


def test_a_cap_ends_with_its_budget(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    with budget(calls=9, output_cap=40):
        CHAT.ask(client, 500)
        with budget(calls=9, output_cap=20):
            CHAT.ask(client, 500)
        CHAT.ask(client, 500)
    CHAT.ask(client, 500)
    assert [caps["max_tokens"] for caps in CHAT.caps_sent(provider)] == [40, 20, 40, 500]


@pytest.mark.parametrize("mode", ["clamp", "downgrade", "warn", "raise"])
def test_a_mode_never_raises_it(mode: Any, provider: Any, open_client: Any) -> None:
    client, words = open_client(ANTHROPIC), {**MESSAGES.words, "model": "claude-opus-4-5"}
    limit = farebox_usd(1_500 * 25_000)  # 1,500 output tokens of it
    with warnings.catch_warnings(), budget(usd=limit, output_cap=1_000, on_exceed=mode):
        warnings.simplefilter("ignore")
        for _ in range(2):
            try:
                client.messages.create(**words, max_tokens=5_000)
            except BudgetExceeded as error:
                assert mode == "raise" and error.response is not None  # noqa: PT017, PT018
    sent = [request.body["max_tokens"] for request in provider.requests]
    assert len(sent) == 2
    assert max(sent) == 1_000
    assert all(record.usd == line.usd for record, line in zip(farebox.calls(), provider.bill.lines, strict=True))


# ── too low ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("surface", [CHAT, NEW_CHAT, RESPONSES, COMPLETIONS], ids=str)
@every_limit
def test_below_the_least_of_the_api_it_is_refused_by_name(
    surface: Surface, limit: Any, provider: Any, open_client: Any
) -> None:
    client = open_client(OPENAI)
    with budget(output_cap=15, **limit) as frame:
        with pytest.raises(ValueError, match=r"output_cap=15 is below .*; write output_cap=16 or more") as refused:
            surface.ask(client, 500)
        assert surface.words["model"] in str(refused.value)
    assert not provider.requests
    assert outcomes() == ["refused"]
    assert (frame.spent_calls, frame.reserved_calls) == (0, 0)
    nothing_is_left()
    with budget(output_cap=16, **limit):
        surface.ask(client, 500)
    assert provider.bill.lines[0].output_tokens == 16


def test_a_message_may_be_capped_at_one_token(provider: Any, open_client: Any) -> None:
    with budget(usd=1, output_cap=1):
        MESSAGES.ask(open_client(ANTHROPIC), 500)
    assert provider.bill.lines[0].output_tokens == 1


def test_a_lower_cap_of_the_callers_is_the_callers_own_affair(provider: Any, open_client: Any) -> None:
    with budget(usd=1, output_cap=15):
        CHAT.ask(open_client(OPENAI), 9)
    assert CHAT.caps_sent(provider) == [{"max_tokens": 9}]


@pytest.mark.parametrize("cap", [0, -1, 10**9, 1.5, "40", True], ids=repr)
def test_what_is_no_cap_is_refused_when_the_budget_is_made(cap: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="output_cap="):
        budget(usd=1, output_cap=cap)


# ── thinking ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cap", [5_000, 4_000, 3_000, 2_000, 1_100, 1_025])
@every_limit
def test_a_thinking_budget_stays_valid_and_is_never_raised(
    cap: int, limit: Any, provider: Any, open_client: Any
) -> None:
    """The fake provider refuses as the API does: at least 1,024, and below max_tokens."""
    provider.answer(output_tokens=WANTED, reasoning_tokens=500)
    thinking = {"type": "enabled", "budget_tokens": 2_000}
    with budget(output_cap=cap, **limit):
        MESSAGES.ask(open_client(ANTHROPIC), 4_000, thinking=thinking)
    body = provider.requests[0].body
    lowered = min(cap, 4_000)
    assert body["max_tokens"] == lowered
    assert body["thinking"]["type"] == "enabled"
    assert body["thinking"]["budget_tokens"] == max(1_024, 2_000 * lowered // 4_000)
    assert provider.bill.lines[0].output_tokens == min(WANTED, lowered)
    books_agree(provider)


@pytest.mark.parametrize("cap", [1_024, 500, 1])
def test_a_cap_with_no_room_to_think_is_refused_by_name(cap: int, provider: Any, open_client: Any) -> None:
    with budget(usd=1, output_cap=cap), pytest.raises(ValueError, match=f"output_cap={cap} is below.*1025 or more"):
        MESSAGES.ask(open_client(ANTHROPIC), 4_000, thinking={"type": "enabled", "budget_tokens": 2_000})
    assert not provider.requests


def test_thinking_that_is_off_or_adaptive_is_left_alone(provider: Any, open_client: Any) -> None:
    with budget(usd=1, output_cap=500):
        for thinking in ({"type": "disabled"}, {"type": "adaptive"}):
            MESSAGES.ask(open_client(ANTHROPIC), 4_000, thinking=thinking)
    assert [request.body["thinking"] for request in provider.requests] == [{"type": "disabled"}, {"type": "adaptive"}]
    assert [request.body["max_tokens"] for request in provider.requests] == [500, 500]


# ── what is said of it ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.filterwarnings("default::farebox.errors.CutAnswerWarning")
def test_an_answer_cut_by_it_is_told_by_the_budget_that_has_it(provider: Any, open_client: Any) -> None:
    with pytest.warns(farebox.errors.CutAnswerWarning, match="'capper'") as warned:
        with budget("capper", usd=1, output_cap=40) as capper, budget("inner", usd=1) as inner:
            CHAT.ask(open_client(OPENAI), 500)
    assert len(warned) == 1
    assert ([event.did for event in capper.decisions], inner.decisions) == (["cut"], [])


def test_an_answer_that_ends_by_itself_is_not_told(provider: Any, open_client: Any) -> None:
    provider.answer(output_tokens=30)
    with warnings.catch_warnings(), budget(usd=1, output_cap=40) as frame:
        warnings.simplefilter("error")
        CHAT.ask(open_client(OPENAI), 500)
    assert not frame.decisions
