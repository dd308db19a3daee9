"""What the tests of frameworks ask of every one of them: the provider's bill against farebox's books."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, budget, track
from farebox.testing import FakeProvider

MODEL = "gpt-4.1-mini"
CLAUDE = "claude-haiku-4-5"
#: What an agent says in the end, and how often it asks its model until then.
FOUND, LOOP = "It is here.", 3


def need(*modules: str) -> None:
    """Skip a file whose package is missing, and say which; in an environment that was made for it nothing is."""
    for module in modules:
        if os.environ.get("TESTED_ENVIRONMENT"):
            importlib.import_module(module)
        else:
            pytest.importorskip(module, reason=f"{module} is not installed; run: make frameworks")


def books_equal_bill(provider: FakeProvider, calls: int, **tags: str) -> None:
    """Each request is on the books once, at what the provider has charged, under the tags of its scope."""
    total = farebox.report().total
    assert provider.bill.calls == calls, provider.bill_table()
    assert (total.calls, total.usd, total.reserved_usd) == (calls, provider.bill.usd, 0), provider.bill_table()
    assert [record.outcome for record in farebox.calls() if record.outcome != "refused"] == ["completed"] * calls
    for record in farebox.calls():
        assert record.tags == tags


def loop_is_as_ever(
    provider: FakeProvider, run: Callable[[], str], script: Callable[[FakeProvider], None] | None = None
) -> None:
    """An agent that uses its tool says what it says without farebox, and each of its three calls is counted once."""
    farebox.uninstrument()
    (script or uses_its_tool)(provider)
    without = run()
    assert FOUND in without
    billed = provider.bill
    assert billed.calls == LOOP
    (script or uses_its_tool)(provider)
    with farebox.instrument(), track(feature="agent"), budget("agent", usd=0.5) as spent:
        assert run() == without
    assert (spent.spent_usd, provider.bill.calls) == (provider.bill.usd - billed.usd, 2 * LOOP)
    assert [(call.outcome, call.tags) for call in farebox.calls()] == [("completed", {"feature": "agent"})] * LOOP


def uses_its_tool(provider: FakeProvider) -> None:
    provider.answer(function="search", text='{"query": "sense"}', times=LOOP - 1)
    provider.answer(text=FOUND)


def loop_ends_with_the_budget(
    provider: FakeProvider, run: Callable[[], object], script: Callable[[FakeProvider], None] | None = None
) -> None:
    """An agent that would use its tool for ever is stopped by its half dollar, and the stop reaches whoever has called it."""
    (script or uses_its_tool_for_ever)(provider)
    with track(feature="agent"), budget("agent", usd=0.5) as spent, stopped():
        run()
    assert provider.bill.calls > 20
    assert provider.bill.usd == spent.spent_usd <= Decimal("0.5")
    books_equal_bill(provider, len(provider.requests), feature="agent")


def uses_its_tool_for_ever(provider: FakeProvider) -> None:
    provider.answer(function="search", text='{"query": "sense"}', output_tokens=2_000)


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    """The block is left by a BudgetExceeded, or by an error that was raised from one."""
    raised: BaseException | None = None
    try:
        yield
    except Exception as error:
        raised = error
    assert is_stop(raised), f"no stop has reached the caller, but {raised!r}"


def is_stop(error: BaseException | None) -> bool:
    """Whether a BudgetExceeded is what was raised, or what it was raised from."""
    seen: list[Any] = []
    while error is not None and error not in seen:
        if isinstance(error, BudgetExceeded):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False
