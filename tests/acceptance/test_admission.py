"""Calls that declare no output cap, under a budget that is hard: who runs, who waits, who is cut, who is refused.

What each answer wants to be long is drawn from a fixed seed, and goes with the number that its request carries.
`benchmarks/admission.py` measures what these tests only pin down.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from farebox import BudgetExceeded, budget
from farebox.testing import Answer, Request
from tests.acceptance.rides import MESSAGES, Ride, nothing_is_left, outcomes, stormproof
from tests.acceptance.test_waiting import wait_for, waiters

pytestmark = pytest.mark.usefixtures("metered")

PLAIN = Ride("openai", "gpt-4o", 10_000)
REASONING = Ride("openai", "gpt-5", 10_000)


def small(rnd: random.Random) -> int:
    """Output tokens: 300 in the middle, 99 of 100 below 2,000."""
    return int(rnd.lognormvariate(math.log(300), 0.8)) + 1


def reasoned(rnd: random.Random) -> int:
    """Output tokens: 95 of 100 between 2,000 and 30,000."""
    return int(rnd.lognormvariate(math.log(7_750), 0.7)) + 1


def wants(provider: Any, lengths: list[int], seconds_a_token: float = 0.0) -> None:
    def answer(request: Request) -> Answer:
        assert request.body is not None
        length = lengths[request.body["seed"]]
        time.sleep(seconds_a_token * length)
        return Answer(output_tokens=length, text="")

    provider.answer(answer)


def words(ride: Ride, number: int) -> dict[str, Any]:
    """A request without an output cap."""
    return {"model": ride.model, "messages": MESSAGES, "seed": number}


def was_cut(answer: Any) -> bool:
    return bool(answer.choices[0].finish_reason == "length")


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_twenty_small_calls_under_half_a_dollar_all_run_most_of_them_at_once_and_none_is_cut(
    provider: Any, open_client: Any, kind: str
) -> None:
    wants(provider, [small(random.Random(number)) for number in range(20)])
    answers = []

    def in_threads() -> None:
        client = open_client(PLAIN)
        with ThreadPoolExecutor(20) as pool:
            jobs = [pool.submit(client.chat.completions.create, **words(PLAIN, number)) for number in range(20)]
            wait_for(lambda: provider.in_flight + waiters() == 20)
            at_once.append(provider.in_flight)
            provider.release()
            answers.extend(job.result(timeout=20) for job in jobs)

    async def in_tasks() -> None:
        async with PLAIN.async_client(provider) as client:
            jobs = [asyncio.create_task(client.chat.completions.create(**words(PLAIN, number))) for number in range(20)]
            while provider.in_flight + waiters() < 20:  # noqa: ASYNC110, there is no event to wait for
                await asyncio.sleep(0.001)
            at_once.append(provider.in_flight)
            provider.release()
            answers.extend(await asyncio.gather(*jobs))

    at_once: list[int] = []
    provider.hold()
    with stormproof(provider, "0.50"), budget("half a dollar", usd="0.50") as b:
        if kind == "threads":
            in_threads()
        else:
            asyncio.run(in_tasks())
    assert at_once[0] >= 16
    assert outcomes() == ["completed"] * 20
    assert not any(was_cut(answer) for answer in answers)
    assert not [event for event in b.decisions if event.did in ("cut", "stop")]


@pytest.mark.filterwarnings("ignore::farebox.errors.CutAnswerWarning")
@pytest.mark.parametrize(
    ("ride", "draw", "limit"),
    [(PLAIN, small, "0.10"), (PLAIN, small, "0.50"), (REASONING, reasoned, "0.50"), (REASONING, reasoned, "2")],
    ids=["small under 0.10", "small under 0.50", "reasoning under 0.50", "reasoning under 2"],
)
def test_one_call_after_another_uses_nine_tenths_of_a_budget_before_the_first_is_refused(
    provider: Any, open_client: Any, ride: Ride, draw: Any, limit: str
) -> None:
    rnd = random.Random(1)
    lengths = [draw(rnd) for _ in range(1_000)]
    wants(provider, lengths)
    client = open_client(ride)
    with stormproof(provider, limit), budget(usd=limit):
        number = 0
        with pytest.raises(BudgetExceeded) as refusal:
            for number in range(1_000):
                client.chat.completions.create(**words(ride, number))
    assert refusal.value.kind == "exhausted"
    assert provider.bill.calls == number > 2
    assert provider.bill.usd >= Decimal(limit) * 9 / 10, provider.bill_table()
    # Only the last ones got what there was.
    assert [line.output_tokens for line in provider.bill.lines][:-2] == lengths[: number - 2]


@pytest.mark.filterwarnings("ignore::farebox.errors.CutAnswerWarning")
def test_a_single_reasoning_call_under_half_a_dollar_is_hardly_ever_cut(provider: Any, open_client: Any) -> None:
    rnd = random.Random(1)
    lengths = [reasoned(rnd) for _ in range(150)]
    wants(provider, lengths)
    client = open_client(REASONING)
    cut = 0
    for number in range(150):
        with budget(f"the only call of budget {number}", usd="0.50"):  # a name of its own: nothing is known
            cut += was_cut(client.chat.completions.create(**words(REASONING, number)))
    assert cut == sum(line.output_tokens < length for line, length in zip(provider.bill.lines, lengths, strict=True))
    assert cut <= 4
    assert outcomes() == ["completed"] * 150


def test_those_who_wait_go_by_what_was_learnt_meanwhile(provider: Any, open_client: Any) -> None:
    # Nothing is known of a reasoning model, so only one call fits at first; then its answers turn out short.
    wants(provider, [300] * 20, 0.000_1)
    client = open_client(REASONING)
    most = 0

    def ask(number: int) -> None:
        nonlocal most
        client.chat.completions.create(**words(REASONING, number))
        most = max(most, provider.in_flight)

    provider.hold()
    with stormproof(provider, "0.50"), budget(usd="0.50"), ThreadPoolExecutor(20) as pool:
        jobs = [pool.submit(ask, number) for number in range(20)]
        wait_for(lambda: provider.in_flight + waiters() == 20)
        assert provider.in_flight == 1
        provider.release()
        for job in jobs:
            job.result(timeout=20)
    assert most >= 5
    assert outcomes() == ["completed"] * 20


@pytest.mark.filterwarnings("ignore::farebox.errors.CutAnswerWarning")
@pytest.mark.parametrize("width", [5, 40])
def test_nothing_is_refused_while_the_whole_need_fits(provider: Any, open_client: Any, width: int) -> None:
    rnd = random.Random(1)
    lengths = [small(rnd) for _ in range(40)]
    wants(provider, lengths, 0.000_05)
    client = open_client(PLAIN)
    # Their output costs two thirds of it, and their input next to nothing.
    limit = Decimal(sum(lengths)) * PLAIN.usd_nanos_per_output_token / 10**9 * 3 / 2
    with stormproof(provider, limit), budget(usd=limit), ThreadPoolExecutor(width) as pool:
        answers = list(pool.map(lambda number: client.chat.completions.create(**words(PLAIN, number)), range(40)))
    assert outcomes() == ["completed"] * 40
    assert sum(was_cut(answer) for answer in answers) <= 2  # one in twenty, while nothing is known of such calls
    nothing_is_left()
