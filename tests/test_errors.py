"""Errors as they are raised: they survive pickling and copying, and nobody who catches an SDK's errors catches them."""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest

import farebox
from farebox import budget
from farebox.errors import (
    BudgetExceeded,
    FareboxError,
    FareboxWarning,
    UnpricedModel,
)
from tests.strategies import admit, new_call


def exhausted() -> None:
    with budget("outer", usd=1), budget("nightly", calls=0):
        admit(new_call("gpt-4o"))


def unpriced() -> None:
    with budget("nightly", usd=1):
        admit(new_call("nobody-knows"))


def estimated() -> None:
    farebox.estimate("nobody-knows", "hi")


RAISING: list[Callable[[], None]] = [exhausted, unpriced, estimated]


def raised_by(raising: Callable[[], None]) -> FareboxError:
    with pytest.raises(FareboxError) as caught:
        raising()
    return caught.value


@pytest.mark.parametrize("raising", RAISING)
@pytest.mark.parametrize(
    "trip",
    [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_an_error_arrives_with_all_its_fields(raising: Callable[[], None], trip: Any) -> None:
    error = raised_by(raising)
    other = trip(error)
    assert type(other) is type(error)
    assert (str(other), other.args, vars(other)) == (str(error), error.args, vars(error))


@pytest.mark.parametrize("raising", RAISING)
def test_its_first_line_stands_alone(raising: Callable[[], None]) -> None:
    first = str(raised_by(raising)).splitlines()[0]
    assert "nightly" in first or raising is estimated
    assert "gpt-4o" in first or "nobody-knows" in first
    assert traceback.format_exception_only(raised_by(raising))[0].splitlines()[0].endswith(f": {first}")


@pytest.mark.parametrize("raising", RAISING)
def test_it_is_no_error_of_an_sdk_and_of_no_timeout_or_connection(raising: Callable[[], None]) -> None:
    error = raised_by(raising)
    assert not isinstance(error, (openai.OpenAIError, anthropic.AnthropicError, OSError, ValueError, RuntimeError))


def test_a_budgets_stop_can_be_told_from_a_ledgers() -> None:
    assert {BudgetExceeded, UnpricedModel} <= set(all_below(FareboxError))
    assert issubclass(FareboxWarning, UserWarning)


def all_below(cls: type) -> list[type]:
    return [found for child in cls.__subclasses__() for found in (child, *all_below(child))]


def test_a_note_and_the_numbers_survive_pickling() -> None:
    error = raised_by(exhausted)
    assert isinstance(error, BudgetExceeded)
    error.add_note("while summarising")
    other = pickle.loads(pickle.dumps(error))
    assert other.__notes__ == ["while summarising"]
    assert (other.budget, other.scope, other.kind, other.unit) == ("nightly", "outer > nightly", "oversized", "calls")
