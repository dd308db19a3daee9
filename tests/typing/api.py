"""Never run, only type-checked: what a decorated function, a frame and a client look like to a type checker.

A `type: ignore` is an assertion too: where the mistake it marks is not reported, mypy reports the comment.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping
from decimal import Decimal
from typing import Any, assert_type

import anthropic
import openai

import farebox
from farebox import BudgetExceeded, budget, carry, configure, current, instrument, track, uninstrument
from farebox.providers import Provider
from farebox.providers.base import ChatProvider, count
from farebox.types import Status, Usage

# --- budget() as a decorator: the four kinds of function keep their parameters and results ----------------------------


@budget(usd=1)
def answer(question: str, *, retries: int = 0) -> int:
    return len(question) + retries


@budget("answers", usd="0.50", tokens=10_000, calls=3, on_exceed="downgrade")
async def answer_async(question: str, *, retries: int = 0) -> int:
    return len(question) + retries


@budget("words", usd=Decimal("0.50"), on_exceed="truncate")
def words(question: str, *, retries: int = 0) -> Iterator[str]:
    yield question * retries


@budget(usd=0.5, on_exceed="break")
async def words_async(question: str, *, retries: int = 0) -> AsyncIterator[str]:
    yield question * retries


@budget(calls=1)
def dialogue(question: str) -> Generator[str, int, bool]:
    return (yield question) > 0


@budget(tokens=1)
async def dialogue_async(question: str) -> AsyncGenerator[str, int]:
    yield question


async def use_budgets() -> None:
    assert_type(answer("why", retries=1), int)
    answer(1)  # type: ignore[arg-type]
    answer("why", 1)  # type: ignore[call-arg]
    answer("why", attempts=1)  # type: ignore[call-arg]

    assert_type(await answer_async("why", retries=1), int)
    await answer_async(1)  # type: ignore[arg-type]

    assert_type(words("why", retries=1), Iterator[str])
    words(1)  # type: ignore[arg-type]

    assert_type(words_async("why", retries=1), AsyncIterator[str])
    words_async(1)  # type: ignore[arg-type]
    async for word in words_async("why"):
        assert_type(word, str)

    assert_type(dialogue("why"), Generator[str, int, bool])
    assert_type(dialogue("why").send(1), str)

    assert_type(dialogue_async("why"), AsyncGenerator[str, int])
    assert_type(await dialogue_async("why").asend(1), str)


# --- track() as a decorator -------------------------------------------------------------------------------------------


@track(feature="search")
def search(query: str, *, limit: int = 10) -> list[str]:
    return [query] * limit


@track(feature="search", user_id="alice")
async def search_async(query: str, *, limit: int = 10) -> list[str]:
    return [query] * limit


@track(feature="search")
def hits(query: str, *, limit: int = 10) -> Iterator[str]:
    yield query * limit


@track(feature="search")
async def hits_async(query: str, *, limit: int = 10) -> AsyncIterator[str]:
    yield query * limit


@track(feature="search")
def cursor(query: str) -> Generator[str, int, bool]:
    return (yield query) > 0


@track(feature="search")
async def cursor_async(query: str) -> AsyncGenerator[str, int]:
    yield query


async def use_tracks() -> None:
    assert_type(search("why", limit=1), list[str])
    search(1)  # type: ignore[arg-type]

    assert_type(await search_async("why", limit=1), list[str])
    await search_async(1)  # type: ignore[arg-type]

    assert_type(hits("why", limit=1), Iterator[str])
    hits(1)  # type: ignore[arg-type]

    assert_type(hits_async("why", limit=1), AsyncIterator[str])
    hits_async(1)  # type: ignore[arg-type]

    assert_type(cursor("why"), Generator[str, int, bool])
    assert_type(cursor_async("why"), AsyncGenerator[str, int])


# --- decorators stack, and methods keep their self --------------------------------------------------------------------


class Planner:
    @track(feature="planner")
    @budget("planner", usd=1)
    def run(self, task: str) -> str:
        return task

    @budget("planner", usd=1)
    async def run_async(self, task: str) -> str:
        return task

    @classmethod
    @budget("planner", calls=1)
    def make(cls, name: str) -> Planner:
        return cls()


async def use_planner() -> None:
    assert_type(Planner().run("dig"), str)
    assert_type(await Planner().run_async("dig"), str)
    assert_type(Planner.make("bee"), Planner)
    Planner().run(1)  # type: ignore[arg-type]


# --- as context managers: `with` gives the frame ----------------------------------------------------------------------


def a_frame_tells_its_numbers() -> None:
    with budget(usd=1) as frame:
        assert_type(frame.spent_usd, Decimal)
        assert_type(frame.reserved_usd, Decimal)
        assert_type(frame.spent_tokens, int)
        assert_type(frame.spent_calls, int)


def several_in_one_statement() -> None:
    with track(feature="search", user_id="alice"), budget("search", usd="0.10", tokens=50_000, calls=20) as frame:
        assert_type(frame.spent_usd, Decimal)


def the_innermost_frame_is_there_or_none() -> None:
    if (frame := current()) is not None:
        assert_type(frame.spent_usd, Decimal)
    current().spent_usd  # type: ignore[union-attr]


def a_with_block_that_returns_is_the_end_of_a_function(question: str) -> int:
    """Holds while `__exit__` is declared `-> bool | None`: with plain `bool` this lacks a return statement."""
    with budget(usd=1), track(feature="search"):
        return len(question)


# --- configuration mistakes are seen before the program runs ----------------------------------------------------------


def mistakes() -> None:
    budget("search", 1)  # type: ignore[call-arg]
    budget(calls="many")  # type: ignore[arg-type]


# --- the rest of what people write on the first day -------------------------------------------------------------------


def a_client_stays_what_it_is() -> None:
    assert_type(instrument(openai.OpenAI()), openai.OpenAI)
    assert_type(instrument(anthropic.AsyncAnthropic()), anthropic.AsyncAnthropic)
    with instrument():
        pass
    instrument().undo()
    uninstrument()
    with configure(ledger="memory://", tags={"app": "shop"}):
        pass


def a_carried_function_keeps_its_signature() -> None:
    assert_type(carry(answer)("why", retries=1), int)
    carry(answer)(1)  # type: ignore[arg-type]


def an_error_tells_its_numbers(error: BudgetExceeded) -> None:
    assert_type(error.limit, Decimal | int)
    assert_type(error.budget, str)


def standing_budgets_are_typed(names: list[str]) -> None:
    by_period: dict[str, int] = {"day": 3}
    org = budget(
        "org", usd={"day": 5, "month": "0.5"}, calls=by_period, tokens=5, per="month", each=names, where={"model": "m*"}
    )
    handle = farebox.configure(ledger="memory://", budgets=[org], on_ledger_error="open", keep="90d")
    assert_type(handle.undo(), None)
    assert_type(farebox.status("org", tenant="acme"), list[Status])
    assert_type(farebox.flush(timeout=2), bool)
    farebox.set_limit("org", usd="1.5", tenant="acme")
    farebox.top_up("org", usd={"day": 1})
    with org as frame:
        assert_type(frame.spent_usd, Decimal)
    budget("org", usd=1, per="dayly")  # type: ignore[arg-type]
    farebox.configure(on_ledger_error="ajar")  # type: ignore[arg-type]
    farebox.reprot()  # type: ignore[attr-defined]


class Acme(ChatProvider):
    name, sdk, clients, chat_path = "acme", "acme", ("Acme", "AsyncAcme"), "/chat"

    def read_usage(self, answer: Mapping[str, Any]) -> Usage | None:
        return Usage(uncached_input_tokens=count(answer, "in"), visible_output_tokens=count(answer, "out"))

    def ended_by(self, answer: Mapping[str, Any]) -> str:
        return str(answer["ended"])


def a_provider_of_ones_own_fulfils_the_contract() -> Provider:
    return Acme()
