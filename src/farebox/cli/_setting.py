"""`init`, `demo` and `version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Final

import click

from farebox.cli._exits import BAD_INPUT, Problem
from farebox.cli._output import Shown, say, say_json, shows

_FILE: Final = Path("farebox.toml")
_BEGINNING: Final = """\
# What farebox is told from outside of the program.  Code (configure) and the environment (FAREBOX_...) win over it.

# Where money is kept: a file, relative to this one, or "redis://host:6379/0" for many machines.
ledger = "sqlite:///farebox.db"

# How long single calls are kept; sums are kept for good.
# keep = "90d"

# While the ledger does not answer: "closed" refuses calls, "open" sends them.
# on_ledger_error = "closed"

# Prices of your own, over those that are shipped.
# prices = "prices.toml"

# Labels of every call.
# [tags]
# app = "shop"

# Standing budgets: over every call of every process that reads this file.
# [[budgets]]
# name = "org"
# usd = 100
# per = "day"            # minute, hour, day, week, month, ever, call
# tz = "UTC"
# on_exceed = "block"    # downgrade, clamp, wait, warn, ...
# at = { "0.8" = "warn" }

# [[budgets]]
# name = "plan"
# usd = { day = 5, month = 50 }
# each = "tenant"        # an account for each value of a tag
"""


@click.command()
def init() -> None:
    """Write a commented farebox.toml into this folder; never over one that is there."""
    try:
        with _FILE.open("x", encoding="utf-8") as file:
            file.write(_BEGINNING)
    except FileExistsError:
        raise Problem(f"{_FILE} is there already and was left as it is; remove it first", BAD_INPUT) from None
    except OSError as error:
        raise Problem(f"{_FILE} can't be written here: {error.strerror}", BAD_INPUT) from None
    say(f"{_FILE} was written; the ledger it names is made by the first call")


@click.command()
@shows
def version(shown: Shown) -> None:
    """Versions of farebox, of its prices and of Python."""
    found = {name: installed_version(name) for name in ("farebox", "genai-prices")}
    found["python"] = platform.python_version()
    if shown.as_json:
        say_json(found)
    else:
        say(", ".join(f"{name} {number}" for name, number in found.items()))


def installed_version(name: str) -> str | None:
    try:
        return version_of(name)
    except PackageNotFoundError:
        return None


@click.command()
def demo() -> None:
    """A loop that is never satisfied, a budget of two cents, and a fake provider that keeps its own bill."""
    try:
        from openai import OpenAI
    except ImportError:
        raise Problem("the demo needs the openai SDK; write pip install 'farebox[openai]'", BAD_INPUT) from None
    import farebox
    from farebox.testing import FakeProvider

    with farebox.configure(ledger="memory://", budgets=[]), farebox.instrument(), FakeProvider() as provider:
        client = OpenAI(base_url=provider.openai_base_url, api_key="no-key-needed", max_retries=0)
        question = [{"role": "user", "content": "Are you really, really sure?"}]
        with farebox.budget("demo", usd="0.02") as budget:
            try:
                while True:
                    with farebox.track(feature="fact-check"):
                        client.chat.completions.create(
                            model="gpt-4.1",
                            messages=question,  # type: ignore[arg-type]
                            max_completion_tokens=400,
                        )
            except farebox.BudgetExceeded as stop:
                say(f"{stop}\n")
        say(f"{farebox.report(by=['feature', 'model'])}\n")
        say(f"the budget has spent {budget.spent_usd:f} of {budget.limit_usd:f} USD")
        say(f"the provider has billed  {provider.bill.usd:f} USD for {provider.bill.calls} calls")
        client.close()
