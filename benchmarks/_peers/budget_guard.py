"""budget-guard-llm: a limit in usd per user and day, "raise", and its detector of loops as it comes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import budget_guard

from _peers import INPUT_USD_PER_MILLION, MODEL, OUTPUT_USD_PER_MILLION

UNIT = "usd"
ENTERS_STREAMS = False

budget_guard.default_pricing().set("openai", MODEL, {"input": INPUT_USD_PER_MILLION, "output": OUTPUT_USD_PER_MILLION})


@contextlib.contextmanager
def guarded(client: Any, limit: float) -> Iterator[tuple[Any, Callable[[], float]]]:
    budget_guard.configure(limits=budget_guard.Limits(per_user=limit), on_exceeded="raise")
    yield budget_guard.guard(client, user="alice"), lambda: float(budget_guard.spent(user="alice"))
