"""The rungs below a limit: entered once, told to whom it concerns, and the highest of them speaks."""

from __future__ import annotations

import logging
import sys
import threading
from decimal import Decimal
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, _config, budget, on_exceed, signals
from farebox.errors import BudgetWarning
from farebox.on_exceed import Proceed, Rewrite, Stop, Threshold, Wait
from tests.strategies import MODEL, admit, finish, new_call, price_the_model

LIMIT = "0.001"


@pytest.fixture(autouse=True)
def _priced(fresh: None) -> None:
    price_the_model()


def spend(share: float) -> None:
    """Spend exactly that share of `LIMIT`, and as many tokens as it is thousandths."""
    usd, tokens = Decimal(str(share)) / 1_000, round(share * 1_000)
    with farebox.reserve(usd=usd, tokens=tokens) as hold:
        hold.settle(usd=usd, tokens=tokens)


def note(told: list[Threshold]) -> Any:
    return told.append


def test_a_rung_is_entered_when_spent_reaches_it_and_only_then() -> None:
    told: list[Threshold] = []
    with budget("b", usd=LIMIT, at={0.5: note(told)}):
        spend(0.499)
        assert told == []
        spend(0.001)
        assert [(one.budget, one.scope, one.unit, one.share) for one in told] == [("b", "b", "usd", 0.5)]
        assert (told[0].limit, told[0].spent) == (Decimal("0.001"), Decimal("0.0005"))
        spend(0.3)
    assert len(told) == 1


def test_what_is_reserved_enters_no_rung() -> None:
    told: list[Threshold] = []
    with budget(usd=LIMIT, at={0.5: note(told)}):
        call = admit(new_call(cap=400))
        admit(new_call(cap=10))
        assert told == []
        finish(call, outcome="failed")
    assert told == []


def test_several_rungs_passed_at_once_are_told_from_the_lowest() -> None:
    told: list[Threshold] = []
    with budget(usd=LIMIT, at={0.2: note(told), 0.5: note(told), 0.8: note(told), 1: note(told)}):
        spend(0.85)
        assert [one.share for one in told] == [0.2, 0.5, 0.8]
        spend(0.15)
    assert [one.share for one in told] == [0.2, 0.5, 0.8, 1]


def test_each_unit_enters_a_rung_of_its_own() -> None:
    told: list[Threshold] = []
    with budget(usd=LIMIT, tokens=1_000, calls=4, at={0.5: note(told)}):
        spend(0.5)  # 500 tokens, in one call of four
        spend(0)
        spend(0.1)
    assert [(one.unit, one.spent, one.limit) for one in told] == [
        ("usd", Decimal("0.0005"), Decimal("0.001")),
        ("tokens", 500, 1_000),
        ("calls", 2, 4),
    ]


def test_each_entry_of_a_scope_has_rungs_of_its_own() -> None:
    told: list[Threshold] = []
    scope = budget(usd=LIMIT, at={0.5: note(told)})
    for _ in range(3):
        with scope:
            spend(0.6)
    assert len(told) == 3


def test_an_outer_rung_is_entered_by_what_is_spent_inside() -> None:
    told: list[Threshold] = []
    with budget("outer", usd=LIMIT, at={0.5: note(told)}), budget("inner", usd=1, at={0.5: note(told)}):
        spend(0.6)
    assert [(one.budget, one.scope) for one in told] == [("outer", "outer")]


def test_a_threshold_is_published_for_callables_and_for_modes() -> None:
    heard: list[tuple[str, Threshold]] = []

    def hear(name: str, threshold: Threshold) -> None:
        heard.append((name, threshold))

    with signals.threshold.connected_to(hear), budget("b", usd=LIMIT, at={0.2: print_nothing, 0.5: "warn"}):
        spend(0.6)
        spend(0)
    assert [(name, one.share) for name, one in heard] == [("b", 0.2), ("b", 0.5)]


def print_nothing(_: Threshold) -> Any:
    return Stop()  # what a callable of a rung returns is ignored


def test_what_a_callable_returns_is_ignored() -> None:
    with budget(usd=LIMIT, at={0.1: print_nothing}):
        spend(0.2)
        spend(0.2)


# ── modes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_mode_of_a_rung_speaks_from_then_on() -> None:
    with budget("b", usd=LIMIT, at={0.5: "block"}) as b:
        spend(0.4)
        spend(0.1)
        for _ in range(3):
            with pytest.raises(BudgetExceeded, match="rung at 50% of the limit") as refusal:
                admit(new_call(cap=1))
        assert (refusal.value.budget, refusal.value.unit, refusal.value.kind) == ("b", "usd", "exhausted")
        assert refusal.value.spent == Decimal("0.0005")
        assert [(event.did, event.mode, event.rung) for event in b.decisions] == [("stop", "block", 0.5)] * 3
        assert b.reserved_usd == 0


def test_the_highest_rung_entered_speaks() -> None:
    asked: list[float] = []

    def speak(short: Any) -> Any:
        asked.append(short.rung)

    rungs = {0.2: on_exceed.Ask(speak), 0.4: on_exceed.Ask(speak), 0.6: on_exceed.Ask(speak), 0.8: lambda _: None}
    with budget(usd=LIMIT, at=rungs):
        spend(0.45)  # nobody yet: it was within
        spend(0.2)
        spend(0.2)
        spend(0.01)
    assert asked == [0.4, 0.6, 0.6]


def test_a_rung_without_a_mode_does_not_silence_the_one_below() -> None:
    with budget(usd=LIMIT, at={0.5: "block", 0.8: print_nothing}):
        spend(0.9)
        with pytest.raises(BudgetExceeded):
            admit(new_call(cap=1))


def test_a_unit_that_enters_a_lower_rung_later_does_not_lower_the_voice() -> None:
    asked: list[float] = []

    def speak(short: Any) -> Any:
        asked.append(short.rung)

    with budget(usd=LIMIT, calls=10, at={0.2: on_exceed.Ask(speak), 0.6: on_exceed.Ask(speak)}):
        spend(0.7)
        spend(0)  # the second call: 0.2 in calls
        spend(0)
    assert asked == [0.6, 0.6]


def test_a_mode_that_cannot_act_lets_the_call_go_as_asked() -> None:
    with budget(usd=LIMIT, at={0.1: "downgrade"}) as b:
        spend(0.5)
        call = admit(new_call(cap=100))
        assert (call.sent_cap, call.sent_model) == (None, "")
        assert b.decisions == []


@pytest.mark.parametrize("answer", [None, Wait(5), Rewrite()])
def test_a_callable_mode_that_says_nothing_to_the_point_lets_the_call_go(answer: Any) -> None:
    with budget(usd=LIMIT, at={0.1: on_exceed.Ask(lambda _: answer)}):
        spend(0.5)
        call = admit(new_call(cap=100))
        assert (call.sent_cap, call.sent_model) == (None, "")


def test_a_callable_mode_sees_the_numbers_of_a_call_that_may_fit() -> None:
    asked: list[Any] = []

    def speak(short: Any) -> Any:
        asked.append(short)
        return Rewrite(max_output_tokens=50)

    with budget("b", usd=LIMIT, at={0.25: on_exceed.Ask(speak)}) as b:
        spend(0.25)
        call = admit(new_call(cap=84))
        assert call.sent_cap == 50
        assert b.reserved_usd == Decimal("0.000132")  # 50 tokens and 16 of slack
    (short,) = asked
    assert (short.rung, short.unit, short.limit) == (0.25, "usd", Decimal("0.001"))
    assert (short.spent, short.needed, short.remaining) == (Decimal("0.00025"), Decimal("0.0002"), Decimal("0.00075"))


def test_at_the_limit_the_mode_of_the_budget_speaks() -> None:
    with budget(usd=LIMIT, on_exceed=lambda _: Proceed(), at={0.5: on_exceed.Ask(lambda _: None)}) as b:
        spend(0.6)
        spend(0.6)
        assert [(event.did, event.rung) for event in b.decisions] == [("proceed", None)]


def test_a_rung_at_the_very_limit_is_entered() -> None:
    told: list[Threshold] = []
    with budget(usd=LIMIT, at={1.0: note(told)}):
        spend(1)
    assert [one.share for one in told] == [1.0]


def test_warn_at_a_rung_warns_once_and_lets_go() -> None:
    with budget(usd=LIMIT, at={0.1: "warn"}) as b:
        spend(0.2)
        with pytest.warns(BudgetWarning):
            spend(0.1)
        spend(0.1)
    assert [event.did for event in b.decisions] == ["proceed"] * 2


def test_truncate_at_a_rung_ends_the_scope() -> None:
    reached: list[str] = []
    with budget(usd=LIMIT, at={0.5: "truncate"}):
        spend(0.6)
        reached.append("spent")
        admit(new_call(cap=1))
        reached.append("past it")
    assert reached == ["spent"]


def test_inner_rungs_speak_before_outer_ones_and_a_stop_wins() -> None:
    asked: list[str] = []

    def speaker(name: str, answer: Any) -> on_exceed.Ask:
        def speak(_: Any) -> Any:
            asked.append(name)
            return answer

        return on_exceed.Ask(speak)

    with budget("outer", usd=LIMIT, at={0.1: speaker("outer", Stop())}) as outer:
        with budget("inner", usd=LIMIT, at={0.1: speaker("inner", Proceed())}) as inner:
            spend(0.2)
            with pytest.raises(BudgetExceeded) as refusal:
                admit(new_call(cap=1))
    assert asked == ["inner", "outer"]
    assert refusal.value.budget == "outer"
    assert (inner.reserved_calls, outer.reserved_calls) == (0, 0)


def test_an_inner_rung_that_lets_go_masks_no_limit_outside() -> None:
    with budget("outer", usd=LIMIT), budget("inner", usd=1, at={0.0001: on_exceed.Ask(lambda _: Proceed())}):
        spend(0.9)
        with pytest.raises(BudgetExceeded) as refusal:
            admit(new_call(cap=100))
    assert refusal.value.budget == "outer"


def test_an_inner_rung_that_lets_go_masks_no_limit_of_its_own() -> None:
    with budget(usd=LIMIT, at={0.1: on_exceed.Ask(lambda _: Proceed())}):
        spend(0.9)
        with pytest.raises(BudgetExceeded):
            admit(new_call(cap=100))


def test_a_refusal_at_a_rung_leaves_no_call_open_at_its_site() -> None:
    farebox.set_price("cheaper", input_per_million=1, output_per_million=1)
    step_down = on_exceed.Ask(lambda _: Rewrite(model="cheaper"))
    with budget("outer", usd=LIMIT, at={0.1: "block"}), budget("inner", usd=LIMIT, at={0.1: step_down}):
        spend(0.2)
        with pytest.raises(BudgetExceeded):
            admit(new_call(cap=None))
    needs = _config.state().needs
    assert [needs.site("openai", model, "outer > inner").open_calls for model in (MODEL, "cheaper")] == [{}, {}]


# ── callables ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_callable_that_raises_is_logged_and_harmless(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Threshold] = []

    def fails(_: Threshold) -> None:
        raise KeyError("a prompt of somebody's")

    with caplog.at_level(logging.ERROR, "farebox"), budget("b", usd=LIMIT, at={0.2: fails, 0.4: note(told)}) as b:
        spend(0.5)
        spend(0.1)
    assert b.spent_usd == Decimal("0.0006")
    assert [one.share for one in told] == [0.4]
    (record,) = caplog.records
    assert "0.2" in record.getMessage()
    assert "KeyError" in record.getMessage()
    assert "prompt" not in caplog.text


def test_a_receiver_that_raises_keeps_no_callable_from_being_told() -> None:
    told: list[Threshold] = []

    def fails(_: str, threshold: Threshold) -> None:
        raise KeyError("the receiver's own")

    with signals.threshold.connected_to(fails), budget(usd=LIMIT, at={0.2: note(told)}):
        spend(0.5)
    assert len(told) == 1


def test_a_callable_may_ask_the_ledger_and_make_calls_itself() -> None:
    seen: list[Any] = []

    def look(_: Threshold) -> None:
        seen.append((farebox.report().total.usd, farebox.current().spent_usd))  # type: ignore[union-attr]
        spend(0.1)

    with budget(usd=LIMIT, at={0.2: look, 0.3: look}) as b:
        spend(0.25)
    assert seen == [(Decimal("0.00025"),) * 2, (Decimal("0.00035"),) * 2]
    assert b.spent_usd == Decimal("0.00045")


def test_an_async_callable_is_refused_when_the_budget_is_made() -> None:
    async def notify(_: Threshold) -> None: ...

    with pytest.raises(TypeError, match="async"):
        budget(usd=1, at={0.5: notify})


# ── many at once ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_fifty_threads_enter_each_rung_of_each_unit_once() -> None:
    told: list[Threshold] = []
    shares = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    start = threading.Barrier(50)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def work() -> None:
        start.wait()
        for _ in range(2):
            spend(0.01)

    try:
        with budget(usd=LIMIT, tokens=1_000, calls=100, at=dict.fromkeys(shares, note(told))) as b:
            threads = [threading.Thread(target=farebox.carry(work)) for _ in range(50)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert b.spent_calls == 100
    assert b.spent_usd == Decimal(LIMIT)
    assert sorted((one.unit, one.share) for one in told) == [
        (unit, share) for unit in ("calls", "tokens", "usd") for share in shares
    ]


class Share(float):
    """A share that lets somebody else in while it is compared."""

    meddle: Any = None

    def __lt__(self, other: float) -> bool:
        found = float.__lt__(self, other)
        meddle, Share.meddle = Share.meddle, None
        if meddle is not None:
            meddle()
        return found


def test_the_highest_rung_speaks_also_where_two_are_entered_at_once() -> None:
    from farebox._rungs import enter_rungs

    Share.meddle = None
    with budget(usd=LIMIT, at={0.2: "warn", 0.5: "warn", 0.8: "block"}) as b:
        object.__setattr__(b.budget.rungs[0], "share", Share(0.2))
        spend(0.3)
        assert b.rung is not None

        def goes_past_the_next() -> None:
            b.ledger.adjust("more", b.accounts, 500_000, 0, 0)  # type: ignore[union-attr]
            enter_rungs(b)

        Share.meddle = goes_past_the_next
        b.ledger.adjust("some", b.accounts, 250_000, 0, 0)  # type: ignore[union-attr]
        enter_rungs(b)
        if Share.meddle is not None:  # nobody compared: then somebody else comes after
            goes_past_the_next()
        assert b.rung.share == 0.8


# ── what is wrong with them is said when the budget is made ──────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rungs", "error", "words"),
    [
        ({0: "block"}, ValueError, "no rung"),
        ({-0.1: "block"}, ValueError, "no rung"),
        ({1.01: "block"}, ValueError, "no rung"),
        ({80: "block"}, ValueError, "no rung"),
        ({float("nan"): "block"}, ValueError, "no rung"),
        ({float("inf"): "block"}, ValueError, "no rung"),
        ({0.9: "block", 0.8: "warn"}, ValueError, "out of order"),
        ({0.5: "blok"}, ValueError, "no mode"),
        ({0.5: on_exceed.Block}, TypeError, "is a class"),
        ({0.5: 7}, TypeError, "mode"),
        ({"0.5": "block"}, TypeError, "share of the limit"),
        ({True: "block"}, TypeError, "share of the limit"),
        ([0.5], TypeError, "shares of the limit"),
    ],
)
def test_rungs_are_checked_when_a_budget_is_made(rungs: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        budget(usd=1, at=rungs)


@pytest.mark.parametrize("mode", ["clamp", "wait", "break", "raise"])
def test_a_mode_that_can_only_act_at_the_limit_is_no_rung(mode: str) -> None:
    with pytest.raises(ValueError, match=f"{mode}.*can do nothing below the limit"):
        budget(usd=1, at={0.5: mode})


def test_a_rung_whose_mode_can_do_nothing_about_the_limits_is_refused() -> None:
    with pytest.raises(ValueError, match="can do nothing about a limit in tokens"):
        budget(tokens=100, at={0.5: "downgrade"})
