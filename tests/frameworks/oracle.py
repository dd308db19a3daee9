"""What the tests of frameworks ask of every one of them: the provider's bill against farebox's books."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded
from farebox.testing import FakeProvider

MODEL = "gpt-4.1-mini"
CLAUDE = "claude-haiku-4-5"


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
