"""Standing budgets: over every call, in windows, one account for each tenant, changed while they run."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, _config, budget, configure, status, track
from farebox._call import Usage
from farebox.errors import BudgetWarning, MissingTag
from farebox.testing import FixedClock
from tests.strategies import MODEL, admit, finish, new_call, paid, price_the_model

MORNING = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)

#: Opens a ledger of the kind that the test runs on, with standing budgets and a clock.
Open = Callable[..., FixedClock]


@pytest.fixture(params=["memory", "sqlite"])
def begin(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """`begin(budget(...), ...)`: a ledger with these budgets; returns its clock."""
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'ledger.db'}"
    handles = []

    def begin(*budgets: budget, **words: Any) -> FixedClock:
        clock = FixedClock(MORNING)
        handles.append(configure(ledger=url, budgets=budgets, clock=clock, **words))
        price_the_model()
        return clock

    yield begin
    for handle in handles:
        handle.undo()


def until(is_true: Callable[[], object], seconds: float = 10) -> None:
    """Wait for what another thread does."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def spent(name: str, **tags: str) -> Any:
    (row,) = status(name, **tags)
    return row.spent


def test_a_budget_of_the_process_is_over_every_call_scope_or_no_scope(begin: Open) -> None:
    begin(budget("org", calls=3, per="day"))
    paid(10, 10)
    with budget("inner", calls=9), track(feature="search"):
        paid(10, 10)
    contextvars.Context().run(paid, 10, 10)
    with pytest.raises(BudgetExceeded, match="'org'") as refused:
        admit(new_call())
    assert (refused.value.budget, refused.value.kind, refused.value.spent) == ("org", "exhausted", 3)
    assert spent("org") == 3


def test_a_refusal_says_when_the_limit_starts_again(begin: Open) -> None:
    begin(budget("org", calls=1, per="day", tz="Asia/Tokyo"))
    paid()
    with pytest.raises(BudgetExceeded) as refused:
        admit(new_call())
    assert refused.value.resets_at == datetime(2026, 11, 22, 15, 0, tzinfo=UTC)
    assert "(1 call per day)" in str(refused.value)
    assert "it starts again 2026-11-22T15:00Z" in str(refused.value).splitlines()[0]


def test_it_starts_again_with_the_next_window(begin: Open) -> None:
    clock = begin(budget("org", calls=1, per="day"))
    paid()
    clock.tick(15 * 3_600)
    paid()
    assert spent("org") == 1
    with pytest.raises(BudgetExceeded):
        admit(new_call())


def test_a_call_belongs_to_the_window_it_began_in(begin: Open) -> None:
    clock = begin(budget("org", calls=1, per="day"))
    call = admit(new_call())
    clock.tick(15 * 3_600)
    finish(call, outcome="unknown")
    assert spent("org") == 0
    paid()
    clock.tick(-15 * 3_600)
    assert spent("org") == 1


def test_each_tenant_has_an_account_of_its_own(begin: Open) -> None:
    begin(budget("plan", calls=1, per="month", each="tenant"))
    for tenant in ("acme", "bolt & co/1#?=%"):
        with track(tenant=tenant):
            paid()
            with pytest.raises(BudgetExceeded, match="tenant"):
                admit(new_call())
    assert [(row.tags, row.spent) for row in status("plan")] == [
        ({"tenant": "acme"}, 1),
        ({"tenant": "bolt & co/1#?=%"}, 1),
    ]


def test_a_call_without_the_tag_is_refused_by_name_unless_they_share_an_account(begin: Open) -> None:
    begin(
        budget("plan", calls=5, per="month", each="tenant"),
    )
    with pytest.raises(MissingTag, match=r"track\(tenant=\.\.\.\)") as missing:
        admit(new_call())
    assert (missing.value.budget, missing.value.tag) == ("plan", "tenant")
    assert farebox.report().total.refused_calls == 1
    begin(budget("plan", calls=1, per="month", each="tenant", each_missing="shared"))
    paid()
    with pytest.raises(BudgetExceeded):
        admit(new_call())


def test_only_what_matches_is_held_against_it(begin: Open) -> None:
    begin(
        budget("big", calls=0, per="day", where={"model": "big-*"}),
        budget("search", calls=0, per="day", where={"feature": "search"}),
        budget("elsewhere", calls=0, per="day", where={"provider": "anthropic"}),
    )
    farebox.set_price("big-*", input_per_million=1, output_per_million=1)
    paid()
    with pytest.raises(BudgetExceeded, match="'big'"):
        admit(new_call(model="big-1"))
    with track(feature="search"), pytest.raises(BudgetExceeded, match="'search'"):
        admit(new_call())


def test_several_periods_are_kept_at_once(begin: Open) -> None:
    clock = begin(budget("plan", calls={"day": 2, "month": 3}))
    paid()
    paid()
    with pytest.raises(BudgetExceeded, match="per day"):
        admit(new_call())
    clock.tick(86_400)
    paid()
    with pytest.raises(BudgetExceeded, match="per month"):
        admit(new_call())


def test_the_same_limit_for_every_single_call_needs_no_ledger() -> None:
    price_the_model()
    with configure(budgets=[budget(tokens=150, per="call")]):
        for _ in range(3):
            finish(admit(new_call(cap=10)))
        with pytest.raises(BudgetExceeded) as refused:
            admit(new_call(cap=1_000))
        assert refused.value.kind == "oversized"


def test_a_standing_budget_without_a_ledger_is_refused_when_it_is_made_or_entered() -> None:
    with pytest.raises(ValueError, match=r"sqlite:///farebox\.db.*memory://"):
        configure(budgets=[budget("org", usd=1, per="day")])
    with pytest.raises(ValueError, match="per day"), budget("org", usd=1, per="day"):
        pass


def test_around_a_function_it_is_shared_by_all_who_use_its_name(begin: Open) -> None:
    begin()

    @budget("plan", calls=2, per="day")
    def answer() -> None:
        paid()

    @budget("plan", calls=2, per="day")
    def another() -> None:
        paid()

    paid()  # outside: not its business
    answer()
    another()
    with pytest.raises(BudgetExceeded):
        answer()
    with budget("plan", calls=2, per="day") as frame:
        assert (frame.spent_calls, frame.path) == (2, "plan")


def test_its_frame_has_the_numbers_of_the_tags_in_force(begin: Open) -> None:
    begin()
    with track(tenant="acme"), budget("plan", usd="1", per="month", each="tenant") as acme:
        paid(10, 10)
    with track(tenant="bolt"), budget("plan", usd="1", per="month", each="tenant") as bolt:
        assert (bolt.spent_usd, bolt.limit_usd) == (0, 1)
    assert acme.spent_usd > 0
    assert acme.remaining_usd == 1 - acme.spent_usd


def test_a_call_is_held_against_scopes_and_standing_budgets_or_against_none(begin: Open) -> None:
    begin(budget("org", calls=1, per="day"))
    paid()
    with budget("inner", usd=1) as inner:
        with pytest.raises(BudgetExceeded, match="'org'"):
            admit(new_call())
        assert (inner.spent_usd, inner.reserved_usd, inner.spent_calls, inner.reserved_calls) == (0, 0, 0, 0)
    with budget("empty", calls=0), pytest.raises(BudgetExceeded, match="'empty'"):
        admit(new_call())
    (row,) = status("org")
    assert (row.spent, row.reserved) == (1, 0)


def test_the_smallest_remainder_sizes_a_granted_cap_wherever_it_is(begin: Open) -> None:
    begin(budget("org", tokens=1_000, per="day"))
    with budget("inner", tokens=100_000):
        call = admit(new_call(cap=None))
    assert call.sent_cap is not None
    assert call.sent_cap < 1_000
    (row,) = status("org")
    assert row.reserved == call.bound_tokens <= 1_000
    finish(call, outcome="failed")


def test_warn_lets_pass_and_tells_once(begin: Open) -> None:
    begin(budget("org", calls=1, per="day", on_exceed="warn"))
    paid()
    with pytest.warns(BudgetWarning, match="per day"):
        paid()
    paid()
    (row,) = status("org")
    assert (row.spent, row.debt) == (3, 2)


def test_truncate_ends_the_scope_of_the_standing_budget(begin: Open) -> None:
    begin()

    @budget("plan", calls=1, per="day", on_exceed="truncate", default="enough")
    def answer() -> str:
        paid()
        return "answered"

    assert [answer(), answer()] == ["answered", "enough"]


def test_downgrade_may_leave_the_budget_that_was_short(begin: Open) -> None:
    begin(
        budget("big", usd=0, per="day", where={"model": "big-*"}, on_exceed="downgrade", downgrade={"big-1": MODEL}),
        budget("all", calls=5, per="day"),
        prices='{"big-1": {"input_per_million": 100, "output_per_million": 100}}',
    )
    call = admit(new_call(model="big-1"))
    assert call.model == MODEL
    finish(call, outcome="failed")


def test_wait_waits_for_the_window_to_turn(begin: Open) -> None:
    clock = begin(budget("org", calls=1, per="minute", on_exceed="wait", timeout=60))
    clock.now = datetime(2026, 11, 22, 9, 30, 59, 800_000, tzinfo=UTC)
    paid()
    turn = threading.Timer(0.1, clock.tick, [0.3])
    turn.start()
    paid()
    turn.join()
    assert spent("org") == 1


def test_a_rung_is_told_once_for_each_window(begin: Open) -> None:
    told: list[Any] = []
    clock = begin(budget("org", calls=4, per="day", at={0.5: told.append}))
    for _ in range(4):
        paid()
    until(lambda: told)
    assert [(event.unit, event.share) for event in told] == [("calls", 0.5)]
    clock.tick(86_400)
    for _ in range(3):
        paid()
    until(lambda: len(told) == 2)


def test_a_changed_limit_is_in_force_at_once(begin: Open) -> None:
    begin(budget("plan", calls=1, per="month", each="tenant"))
    farebox.set_limit("plan", calls=2, tenant="acme")
    with track(tenant="acme"):
        paid()
        paid()
        with pytest.raises(BudgetExceeded, match="2 calls per month"):
            admit(new_call())
    with track(tenant="bolt"):
        paid()
        with pytest.raises(BudgetExceeded):
            admit(new_call())
    farebox.set_limit("plan", calls=3)
    with track(tenant="bolt"):
        paid()
    with track(tenant="acme"), pytest.raises(BudgetExceeded):
        admit(new_call())  # what was said of acme is more specific


def test_a_top_up_is_for_this_window(begin: Open) -> None:
    clock = begin(budget("plan", calls=1, per="day"))
    farebox.top_up("plan", calls=1)
    paid()
    paid()
    with pytest.raises(BudgetExceeded):
        admit(new_call())
    clock.tick(86_400)
    paid()
    with pytest.raises(BudgetExceeded):
        admit(new_call())


def test_reset_starts_the_window_anew_and_reports_keep_what_was_spent(begin: Open) -> None:
    begin(budget("plan", calls=1, per="day"))
    paid()
    farebox.reset("plan")
    paid()
    with pytest.raises(BudgetExceeded):
        admit(new_call())
    assert farebox.report().total.calls == 2


def test_a_kill_is_in_every_list_before_the_first_call(begin: Open) -> None:
    begin(budget("plan", usd=5, per="day", each="tenant"), budget("org", usd=5, per="day"))
    assert [(row.budget, row.is_killed) for row in farebox.status()] == [("org", False)]
    farebox.kill("plan", tenant="a&b=c")
    farebox.kill("org")
    assert [(row.budget, dict(row.tags), row.is_killed) for row in farebox.status()] == [
        ("org", {}, True),
        ("plan", {"tenant": "a&b=c"}, True),
    ]
    assert [row.is_killed for row in farebox.status("plan", tenant="new")] == [False]
    farebox.unkill("plan", tenant="a&b=c")
    assert not any(row.is_killed for row in farebox.status("plan"))


def test_what_was_topped_up_before_the_first_call_is_in_every_list(begin: Open) -> None:
    begin(budget("plan", usd=5, per="day", each="tenant"))
    farebox.top_up("plan", usd=2, tenant="acme")
    for rows in (farebox.status(), farebox.status("plan"), farebox.status("plan", tenant="acme")):
        assert [(dict(row.tags), row.limit, row.spent) for row in rows] == [({"tenant": "acme"}, 7, 0)]


def test_a_killed_tenant_is_refused_in_any_mode_until_it_is_let_go_on(begin: Open) -> None:
    begin(budget("plan", calls=100, per="month", each="tenant", on_exceed="warn"))
    farebox.kill("plan", tenant="acme")
    with track(tenant="acme"), pytest.raises(BudgetExceeded, match="was killed") as refused:
        admit(new_call())
    assert refused.value.kind == "exhausted"
    with track(tenant="bolt"):
        paid()
    farebox.unkill("plan", tenant="acme")
    with track(tenant="acme"):
        paid()
    farebox.kill("plan")
    with track(tenant="bolt"), pytest.raises(BudgetExceeded, match="was killed"):
        admit(new_call())


def test_status_says_how_each_limit_stands(begin: Open) -> None:
    begin(budget("org", usd={"day": 5, "month": 50}, calls={"day": 4}, at={0.5: "warn", 0.9: "block"}))
    farebox.record(model=MODEL, provider="openai", usd="1.25")
    held = admit(new_call(cap=100))
    rows = {(row.period, row.unit): row for row in status()}
    assert set(rows) == {("day", "usd"), ("day", "calls"), ("month", "usd")}
    day = rows["day", "usd"]
    assert (day.limit, day.spent, day.debt, day.used, day.next_rung) == (5, Decimal("1.25"), 0, 0.25, 0.5)
    assert day.reserved == Decimal(held.bound_usd_nanos).scaleb(-9)
    assert day.remaining == 5 - day.spent - day.reserved
    assert day.resets_at == datetime(2026, 11, 23, tzinfo=UTC)
    assert rows["month", "usd"].resets_at == datetime(2026, 12, 1, tzinfo=UTC)
    assert rows["day", "calls"].spent == 1
    finish(held, outcome="failed")


def test_a_budget_that_was_never_used_has_a_status_too(begin: Open) -> None:
    begin(budget("org", usd=5, per="ever"))
    (row,) = status()
    assert (row.spent, row.remaining, row.resets_at, row.used) == (0, 5, None, 0.0)


@pytest.mark.parametrize(
    ("say", "words"),
    [
        (lambda: farebox.set_limit("plan"), "set_limit.*usd="),
        (lambda: farebox.set_limit("plan", usd=-1), "negative"),
        (lambda: farebox.set_limit("plan", usd=1, user="x"), "chooses no account.*goes by tenant"),
        (lambda: farebox.kill("plan", user="x"), "chooses no account"),
        (lambda: farebox.top_up("plan", tenant="acme"), "adds nothing"),
        (lambda: farebox.reset("plann"), "no budget 'plann' is known.*budgets of this process: plan, two"),
        (lambda: farebox.kill("plann"), "no budget 'plann' is known"),
        (lambda: farebox.reset("plan"), "no account of budget 'plan' is known now; give the tags"),
        (lambda: farebox.set_limit("two", calls=5), "calls={'day': ...}"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(begin: Open, say: Any, words: str) -> None:
    begin(budget("plan", usd=1, per="month", each="tenant"), budget("two", calls={"day": 1, "month": 2}))
    with pytest.raises(ValueError, match=words):
        say()


def test_what_was_recorded_by_hand_is_charged_to_them_and_may_be_debt(begin: Open) -> None:
    begin(budget("org", usd=1, per="day"))
    farebox.record(model="m", provider="p", usd="1.50")
    (row,) = status()
    assert (row.spent, row.debt) == (Decimal("1.50"), Decimal("0.50"))


def test_a_paid_tool_is_held_against_them(begin: Open) -> None:
    begin(budget("org", usd=1, per="day"))
    with farebox.reserve(usd="0.8", tool="search") as hold:
        (row,) = status()
        assert row.reserved == Decimal("0.8")
        hold.settle(usd="0.5")
    with pytest.raises(BudgetExceeded), farebox.reserve(usd="0.8"):
        pass
    assert spent("org") == Decimal("0.5")


def test_two_budgets_of_one_name_and_budgets_of_a_scope_are_refused(begin: Open) -> None:
    with pytest.raises(ValueError, match="two budgets are named 'org'"):
        begin(budget("org", usd=1, per="day"), budget("org", usd=2, per="month"))
    with pytest.raises(ValueError, match="is one of a scope"):
        begin(budget("inner", usd=1))


def test_an_async_call_is_admitted_and_settled_off_the_loop(begin: Open) -> None:
    begin(budget("org", calls=2, per="day"))

    async def main() -> None:
        from farebox import signals

        for _ in range(2):
            call = new_call(is_async=True)
            await signals.pre_call.send_async("openai", call=call)
            finish(call, outcome="unknown")
        with pytest.raises(BudgetExceeded):
            await signals.pre_call.send_async("openai", call=new_call(is_async=True))

    asyncio.run(main())
    assert spent("org") == 2


def test_a_program_starts_with_what_programs_before_it_have_learnt(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with configure(ledger=url), budget("chat", usd=1_000):
        price_the_model()
        for _ in range(20):
            finish(admit(new_call(cap=None)), usage=Usage(visible_output_tokens=200))
    with configure(ledger=url):
        site = _config.state().needs.site("openai", MODEL, "chat")
        assert (site.known, site.is_cold()) == (20, False)
        assert 200 <= site.p99() <= 200 * 9 // 8
    with configure(ledger=f"sqlite:///{tmp_path / 'another.db'}"):
        assert _config.state().needs.site("openai", MODEL, "chat").is_cold()
