"""corrections.adjust(): what a call cost is put right afterwards, in reports and in the budgets that it was charged to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import farebox
from farebox import _config, budget, calls, report, status, track
from farebox._rows import presumed
from farebox.corrections import adjust
from farebox.ledgers import Account, Need
from farebox.testing import FixedClock
from tests.servers import redis_url
from tests.strategies import MODEL, admit, finish, new_call, paid, price_the_model


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_url(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "memory":
            return "memory://"
        case "sqlite":
            return f"sqlite:///{tmp_path}/ledger.db"
        case _:
            server = str(request.getfixturevalue("redis"))
            return f"{server}?namespace={tmp_path.name}"


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime(2026, 11, 21, 12, tzinfo=UTC))


@pytest.fixture
def booked(url: str, clock: FixedClock) -> None:
    """A ledger with two budgets: 1 USD a day for each tenant, and 5 USD a month; its model is priced by hand."""
    price_the_model()
    farebox.configure(
        ledger=url,
        clock=clock,
        budgets=[
            budget("plan", usd=1, per="day", each="tenant"),
            budget("org", usd=5, tokens=2_000_000, per="month", where={"team": "search"}),
        ],
    )


def spent() -> dict[str, tuple[str, str]]:
    """What each account has spent, and what it owes."""
    return {" ".join([row.budget, *row.tags.values(), row.unit]): (str(row.spent), str(row.debt)) for row in status()}


def dear(tenant: str = "acme", *, model: str = MODEL) -> str:
    """A call of 500,000 tokens in, which is 0.5 USD; its id."""
    with track(tenant=tenant, team="search"):
        call = paid(500_000, model=model)
    assert farebox.flush(10)
    return call.call_id


# ── the money ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("booked")
def test_a_refund_comes_off_the_call_and_every_budget_it_was_charged_to() -> None:
    call_id = dear()
    dear("bolt")
    row = adjust(call_id, usd="-0.13", tokens=-7, why="credit note 7")
    assert row is not None
    assert (row.call_id, row.outcome, row.usd, row.doubt) == (call_id, "corrected", Decimal("-0.13"), "credit note 7")
    assert spent() == {
        "org tokens": ("999993", "0"),
        "org usd": ("0.87", "0"),
        "plan acme usd": ("0.37", "0"),
        "plan bolt usd": ("0.5", "0"),
    }
    found = report(by="tenant")
    assert {of.tenant: (of.usd, of.calls, of.input_tokens) for of in found} == {
        "acme": (Decimal("0.37"), 1, 499_993),
        "bolt": (Decimal("0.5"), 1, 500_000),
    }
    assert [call.usd for call in calls() if call.call_id == call_id] == [Decimal("0.5"), Decimal("-0.13")]


@pytest.mark.usefixtures("booked")
def test_a_bill_that_is_higher_is_debt_past_the_limit_and_stops_the_next_call() -> None:
    call_id = dear()
    adjust(call_id, total_usd="1.2")
    assert spent()["plan acme usd"] == ("1.2", "0.2")
    with pytest.raises(farebox.BudgetExceeded, match="plan"):
        dear()
    adjust(call_id, usd="-0.9")
    assert spent()["plan acme usd"] == ("0.3", "0.2")
    dear()


@pytest.mark.usefixtures("booked")
def test_a_correction_goes_to_the_window_of_its_call(clock: FixedClock) -> None:
    call_id = dear()
    clock.tick(86_400)
    dear()
    adjust(call_id, usd="-0.2")
    assert spent()["plan acme usd"] == ("0.5", "0")  # of today
    assert spent()["org usd"] == ("0.8", "0")  # of the month
    views = dict(_config.state().ledger.accounts("plan/day/UTC?tenant=acme#"))
    assert sorted(view.balance.spent_usd_nanos for view in views.values()) == [300_000_000, 500_000_000]
    days = {call.usd: call.started_at.date() for call in calls()}
    assert days[Decimal("-0.2")] == days[Decimal("0.5")]


@pytest.mark.usefixtures("booked")
def test_what_is_adjusted_under_an_id_is_adjusted_once() -> None:
    call_id = dear()
    assert adjust(call_id, usd="-0.5", adjustment_id="note 7") is not None
    assert adjust(call_id, usd="-0.5", adjustment_id="note 7") is None
    assert adjust(call_id, total_usd=0) is None  # as it is already
    assert spent()["plan acme usd"] == ("0", "0")
    assert adjust(call_id, usd="+0.1") is not None
    assert adjust(call_id, usd="0.1") is not None
    assert adjust(call_id, total_usd="0.75") is not None
    assert [call.usd for call in calls() if call.outcome == "corrected"] == [
        Decimal("-0.5"),
        Decimal("0.1"),
        Decimal("0.1"),
        Decimal("0.55"),
    ]


@pytest.mark.filterwarnings("ignore:model 'mystery' of openai has no price")  # said once in a process
@pytest.mark.usefixtures("booked")
def test_a_call_without_a_price_is_given_one_and_counts_as_priced() -> None:
    farebox.set_limit("plan", usd=9)
    with track(team="search", tenant="acme"):
        farebox.record(model="mystery", provider="openai", input_tokens=100)
    assert farebox.flush(10)
    (call,) = calls()
    assert (call.usd, report().total.unpriced_calls) == (None, 1)
    with pytest.raises(ValueError, match="has no price, so there is nothing to add to or take from"):
        adjust(call.call_id, usd="0.1")
    assert adjust(call.call_id, total_usd="0.3") is not None
    assert (report().total.usd, report().total.calls, report().total.unpriced_calls) == (Decimal("0.3"), 1, 0)
    assert adjust(call.call_id, usd="0.1") is not None
    assert (report().total.usd, report().total.unpriced_calls) == (Decimal("0.4"), 0)
    assert spent()["plan acme usd"] == ("0.4", "0")


@pytest.mark.usefixtures("booked")
def test_tokens_are_those_of_the_output_first() -> None:
    with track(tenant="acme", team="search"):
        call = paid(1_000, 100)
    assert farebox.flush(10)
    adjust(call.call_id, tokens=-150)
    total = report().total
    assert (total.input_tokens, total.output_tokens) == (950, 0)
    adjust(call.call_id, total_tokens=960)
    total = report().total
    assert (total.input_tokens, total.output_tokens, total.usd) == (950, 10, Decimal("0.0012"))
    assert spent()["org tokens"] == ("960", "0")


#: Says again and again what the call comes to in all, each time under an id of its own; then, how often it was done.
CORRECTOR = """
import sys, time
import farebox
from farebox._rows import presumed
from farebox.corrections import adjust

_, url, call_id, name, begins_at = sys.argv
with farebox.configure(ledger=url):
    farebox.calls()  # whatever takes long the first time
    time.sleep(max(0.0, float(begins_at) - time.time()))
    done = 0
    for number in range(12):
        total = f"{(7 * number + 3 * int(name)) % 11}.{name}"
        done += adjust(call_id, total_usd=total, why=total, adjustment_id=f"{name} {number}") is not None
    print(done)
"""


@pytest.mark.timeout(110)
@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
def test_processes_that_correct_one_call_at_once_each_build_on_what_the_others_said(url: str) -> None:
    # The machine's clock: those of the processes have to agree.
    with farebox.configure(ledger=url, budgets=[budget("org", usd=100, per="day")]):
        for _ in range(2):
            farebox.record(model="gpt-4.1", provider="openai", input_tokens=100, output_tokens=20, usd="0.50")
        assert farebox.flush(10)
        call_id = calls()[0].call_id
        words = [sys.executable, "-c", CORRECTOR, url, call_id]
        begins_at = str(time.time() + 3)
        environment = {**os.environ, "FAREBOX_CONFIG": ""}
        running = [
            subprocess.Popen([*words, str(name), begins_at], stdout=subprocess.PIPE, text=True, env=environment)
            for name in range(1, 4)
        ]
        done = [int(one.communicate(timeout=90)[0]) for one in running]
        assert [one.returncode for one in running] == [0] * 3
        _, *corrections = (call for call in calls() if call.call_id == call_id)
        assert len(corrections) == sum(done)
        total = Decimal("0.50")
        for one in corrections:
            assert one.usd is not None
            total += one.usd
            assert total == Decimal(one.doubt)
        assert report().total.usd == status()[0].spent == total + Decimal("0.50")


@pytest.mark.usefixtures("booked")
def test_an_id_of_yours_is_used_once_whatever_call_it_is_given_for() -> None:
    first, second = dear(), dear("bolt")
    assert adjust(first, usd="-0.1", adjustment_id="note 7") is not None
    assert adjust(second, usd="-0.1", adjustment_id="note 7") is None
    assert adjust(second, usd="-0.1") is not None
    assert report().total.usd == Decimal("0.8")


@pytest.mark.usefixtures("booked")
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_call_that_was_presumed_spent_can_be_corrected_before_and_after_its_late_answer(by_hand: bool) -> None:
    ledger, trip, call = _config.state().ledger, Account("trip", "trip"), new_call()
    call.accounts = (trip.key,)
    ledger.reserve(1, [trip], Need(fixed_usd_nanos=500_000_000), call=call, ttl_seconds=60)
    assert ledger.expire(1e12, presumed) == 1

    def comes_to() -> Decimal:
        assert ledger.balance(trip).spent_usd_nanos == report().total.usd.scaleb(9)
        return report().total.usd

    assert comes_to() == Decimal("0.5")
    if by_hand:
        adjust(call.call_id, total_usd="0.2")
    call.outcome, call.cost_usd_nanos = "completed", 400_000_000
    ledger.settle(1, 400_000_000, 0, 1, call)
    late = Decimal("0.2") if by_hand else Decimal("0.4")
    assert comes_to() == late
    adjust(call.call_id, usd="0.05")
    adjust(call.call_id, usd="-0.01", adjustment_id="note 7")
    assert comes_to() == late + Decimal("0.04")


# ── what can't be corrected ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("booked")
def test_what_can_not_be_corrected_says_why_in_one_line_and_changes_nothing() -> None:
    call_id = dear()
    with track(tenant="acme", team="search"):
        open_call = admit(new_call(extra_input_tokens=1_000))
        refused = new_call(extra_input_tokens=5_000_000)
        with pytest.raises(farebox.BudgetExceeded):
            admit(refused)
    assert farebox.flush(10)
    before = spent()
    for named, words, why in [
        ("call_0", {"usd": 1}, "no call call_0 is kept in this ledger: its id is another, or its row was let go of"),
        (open_call.call_id, {"usd": 1}, "is still in flight; correct it once it has ended"),
        (refused.call_id, {"usd": 1}, "was refused: nothing was sent, so there is no cost to correct"),
        (call_id, {"usd": "-0.500000001"}, "cost 0.50 USD; 0.500000001 less would be less than nothing"),
        (call_id, {"tokens": -500_001}, "used 500000 tokens; 500001 less would be less than nothing"),
        (call_id, {"usd": 1, "total_usd": 1}, "give one"),
        (call_id, {}, "changes nothing"),
        (call_id, {"usd": "much"}, "is not a number"),
        (call_id, {"usd": "-inf"}, "is not finite"),
        (call_id, {"tokens": 0.5}, "is no number of tokens"),
        (call_id, {"total_tokens": -1}, "is no number of tokens"),
    ]:
        given: dict[str, Any] = dict(words)
        with pytest.raises(ValueError, match=why.replace("(", ".")) as caught:
            adjust(named, **given)
        assert "\n" not in str(caught.value)
    assert spent() == before
    assert not [call for call in calls() if call.outcome == "corrected"]
    finish(open_call, outcome="failed")


@pytest.mark.usefixtures("booked")
def test_a_call_that_was_pruned_can_not_be_corrected_any_more(clock: FixedClock) -> None:
    call_id = dear()
    clock.tick(86_400 * 400)
    _config.state().ledger.prune(clock() + 86_400 * 400)
    with pytest.raises(ValueError, match="was let go of"):
        adjust(call_id, usd=1)
    assert report().total.usd == Decimal("0.5")


def test_a_change_is_rounded_up_whatever_its_sign() -> None:
    price_the_model()
    call_id = paid(1_000_000).call_id
    for usd, nanos in [("-0.0000000015", -1), ("0.0000000015", 2), (-1e-9, -1), (Decimal("-0.1"), -100_000_000)]:
        row = adjust(call_id, usd=usd)
        assert row is not None
        assert row.cost_usd_nanos == nanos
