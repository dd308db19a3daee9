"""The modes: what is asked, what may be answered, and what becomes of the call."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from decimal import Decimal, localcontext
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest

import farebox
from farebox import BudgetExceeded, budget, on_exceed
from farebox.errors import BudgetWarning
from farebox.on_exceed import Block, Mode, Proceed, Rewrite, Short, Stop, Wait, Warn, mode_names, read_mode
from tests.strategies import MODEL, admit, finish, new_call, paid, price_the_model


def short(**changes: Any) -> Short:
    words: dict[str, Any] = {"budget": "b", "scope": "b", "unit": "usd", "kind": "exhausted", "call": new_call()}
    words |= {"limit": Decimal(5), "spent": Decimal("1.23456"), "reserved": Decimal(0), "needed": Decimal(4)}
    return Short(**{**words, **changes})


# Names, objects and callables.


def test_a_mode_is_found_by_its_name() -> None:
    assert isinstance(read_mode("block"), Block)
    assert isinstance(read_mode("warn"), Warn)
    assert {"block", "warn"} <= set(mode_names())
    assert mode_names() == sorted(mode_names())


def test_a_mode_from_outside_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("polite", f"{__name__}:Polite", "farebox.modes")

    class Polite(Mode):
        name: ClassVar[str] = "polite"

    monkeypatch.setattr(EntryPoint, "load", lambda self: Polite)
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda **named: [point] if named.get("name", "polite") == "polite" else []
    )
    assert isinstance(read_mode("polite"), Polite)
    assert mode_names() == sorted([*BUILT_IN, "polite"])
    with pytest.raises(
        ValueError, match=r"on_exceed='rude' is no mode; choose from 'block', .*'polite', .*'warn', or pass a callable"
    ):
        read_mode("rude")


def test_a_mode_object_is_taken_as_it_is() -> None:
    mode = Block()
    assert read_mode(mode) is mode


# Decisions.

BUILT_IN = ["block", "break", "clamp", "downgrade", "raise", "truncate", "wait", "warn"]


@pytest.mark.parametrize("cap", [0, -1])
def test_a_cap_below_one_is_no_rewrite(cap: int) -> None:
    with pytest.raises(ValueError, match=rf"max_output_tokens={cap} is no cap; give 1 or more, or return Stop\(\)"):
        Rewrite(max_output_tokens=cap)


@pytest.mark.parametrize("answer", [None, Stop()])
def test_a_callable_that_says_stop_or_nothing_refuses(answer: Any) -> None:
    with budget("b", calls=0, on_exceed=lambda short: answer) as b:
        with pytest.raises(BudgetExceeded):
            admit(new_call())
        assert [event.did for event in b.decisions] == ["stop"]


def test_a_callable_is_told_the_numbers_and_the_call() -> None:
    price_the_model()
    asked: list[Short] = []
    with budget("outer", usd=1), budget("b", usd="0.001", on_exceed=lambda short: asked.append(short)):
        paid(500)
        with pytest.raises(BudgetExceeded):
            admit(new_call(cap=284))  # 300 tokens at 2,000
    (found,) = asked
    assert (found.budget, found.scope, found.unit, found.kind) == ("b", "outer > b", "usd", "exhausted")
    assert (found.limit, found.spent, found.reserved) == (Decimal("0.001"), Decimal("0.0005"), 0)
    assert (found.needed, found.remaining) == (Decimal("0.0006"), Decimal("0.0005"))
    assert found.call.request_model == MODEL


def test_a_callable_that_says_proceed_takes_the_call_past_the_limit_as_debt() -> None:
    price_the_model()
    with budget("b", usd="0.001", on_exceed=lambda short: Proceed()) as b:
        paid(2_000)
        assert b.spent_usd == Decimal("0.002")
        assert b.debt_usd == Decimal("0.001")
        assert [event.did for event in b.decisions] == ["proceed"]


def test_an_inner_budget_that_lets_go_masks_no_outer_limit() -> None:
    with budget("outer", calls=0) as outer, budget("inner", calls=0, on_exceed=lambda short: Proceed()) as inner:
        with pytest.raises(BudgetExceeded) as caught:
            admit(new_call())
        assert caught.value.budget == "outer"
        assert ([e.did for e in inner.decisions], [e.did for e in outer.decisions]) == (["proceed"], ["stop"])
        assert (inner.reserved_calls, outer.reserved_calls) == (0, 0)


def test_a_callable_may_lower_the_cap_and_the_call_is_held_anew() -> None:
    price_the_model()
    with budget("b", usd="0.001", on_exceed=lambda short: Rewrite(max_output_tokens=84)) as b:
        call = admit(new_call(cap=1_000))
        assert call.sent_cap == 84
        assert b.reserved_usd == Decimal("0.0002")
        assert call.decision == "rewrite"
        finish(call, outcome="failed")


def test_a_rewrite_never_raises_a_cap() -> None:
    with budget("b", tokens=10, on_exceed=lambda short: Rewrite(max_output_tokens=500)), pytest.raises(BudgetExceeded):
        admit(call := new_call(cap=50))
    assert call.sent_cap == 50


def test_a_callable_may_send_the_call_to_another_model() -> None:
    price_the_model()
    farebox.set_price("cheap", input_per_million=0, output_per_million="0.1")
    with budget("b", usd="0.0005", on_exceed=lambda short: Rewrite(model="cheap")) as b:
        call = admit(new_call(cap=984))  # 1,000 tokens: 0.002 USD, or 0.0001
        assert (call.sent_model, call.model, call.request_model) == ("cheap", "cheap", MODEL)
        assert b.reserved_usd == Decimal("0.0001")
        finish(call, outcome="failed")
    assert farebox.report(by="model").rows[0].model == "cheap"


def test_a_callable_that_rewrites_for_ever_is_asked_so_often_and_then_refused() -> None:
    asked = []

    def again(short: Short) -> Rewrite:
        asked.append(short)
        return Rewrite(max_output_tokens=1_000)

    with budget("b", tokens=10, on_exceed=again) as b, pytest.raises(BudgetExceeded):
        admit(new_call(cap=1_000))
    assert len(asked) == 16
    assert b.reserved_tokens == 0


def test_a_callable_may_wait_and_is_asked_again_when_nothing_came_free() -> None:
    answers: list[Any] = [Wait(0.01), Stop()]
    with budget("b", calls=0, on_exceed=lambda short: answers.pop(0)) as b, pytest.raises(BudgetExceeded):
        admit(new_call())
    assert answers == []
    assert [event.did for event in b.decisions] == ["wait", "stop"]


@pytest.mark.parametrize("answer", ["stop", True, 5, Stop])
def test_a_callable_that_answers_something_else_is_a_type_error_that_names_the_choices(answer: Any) -> None:
    def my_mode(short: Short) -> Any:
        return answer

    with budget("b", calls=0, on_exceed=my_mode) as b:
        with pytest.raises(
            TypeError, match=rf"my_mode returned a {type(answer).__name__}; return on_exceed\.Stop\(\), Proceed\(\)"
        ):
            admit(new_call())
        assert b.reserved_calls == 0
    assert farebox.calls()[0].error_class == "TypeError"


def test_what_a_callable_raises_reaches_the_program_and_nothing_is_held() -> None:
    def broken(short: Short) -> Any:
        raise LookupError("no rule")

    with budget("b", calls=0, on_exceed=broken) as b:
        with pytest.raises(LookupError, match="no rule"):
            admit(new_call())
        assert b.reserved_calls == 0
    assert farebox.calls()[0].outcome == "refused"


def test_the_example_of_the_docs_does_what_it_says() -> None:
    farebox.set_price(MODEL, input_per_million=0, output_per_million=100)

    def only_small_calls_may_pass(short: Short) -> Any:
        return on_exceed.Proceed() if short.needed < 0.01 else on_exceed.Stop()

    @budget(usd="0.001", on_exceed=only_small_calls_may_pass)
    def answer(cap: int) -> None:
        finish(admit(new_call(cap=cap)), outcome="failed")

    answer(50)
    with pytest.raises(BudgetExceeded):
        answer(100)


# The numbers.


@pytest.mark.parametrize(
    ("changes", "remaining"),
    [
        ({}, Decimal("3.76544")),
        ({"reserved": Decimal("3.76544")}, Decimal(0)),
        ({"spent": Decimal(9)}, Decimal(0)),
        ({"unit": "calls", "limit": 5, "spent": 2, "reserved": 1, "needed": 3}, 2),
        ({"unit": "calls", "limit": 5, "spent": 9, "reserved": 1, "needed": 3}, 0),
    ],
    ids=repr,
)
def test_what_remains_is_never_negative(changes: dict[str, Any], remaining: Any) -> None:
    found = short(**changes).remaining
    assert found == remaining
    assert type(found) is type(remaining)


def test_what_remains_does_not_depend_on_the_ambient_decimal_context() -> None:
    with localcontext(prec=3):
        assert short().remaining == Decimal("3.76544")


MODES: list[Callable[[], Any]] = [Block, Warn]


@pytest.mark.parametrize("make", MODES)
def test_a_mode_holds_nothing_of_a_call(make: Any) -> None:
    price_the_model()
    mode = make()
    with (
        budget("one", calls=0, on_exceed=mode),
        pytest.raises(BudgetExceeded) if mode.stops else pytest.warns(BudgetWarning),
    ):
        paid(1)
    assert vars(mode) == {}
