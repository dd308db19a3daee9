"""A research job with two cents to spend: the openai and anthropic SDKs, real HTTP, and a provider with a bill of its own.

Run it with `make demo`.  It needs no key and no network: a fake provider answers on this machine.  Where OPENAI_API_KEY or
ANTHROPIC_API_KEY is set, that vendor's real API answers instead, with the same small calls under the same limit.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import warnings
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from anthropic import Anthropic, AsyncAnthropic
from openai import OpenAI

from farebox import BudgetExceeded, budget, current, instrument, report, signals, track
from farebox.testing import FakeProvider

LIMIT_USD = Decimal("0.02")
GPT, CLAUDE = "gpt-4.1-mini", "claude-haiku-4-5"
KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
FAKED = [vendor for vendor, key in KEYS.items() if not os.environ.get(key)]

provider = FakeProvider()
provider.answer(output_tokens=180)
provider.delay(0.05)  # seconds, so that concurrent calls really overlap


def client_of(vendor: str, sdk: Callable[..., Any]) -> Any:
    """The real thing where there is a key for it, else the fake provider."""
    if vendor not in FAKED:
        return sdk()
    urls = {"openai": provider.openai_base_url, "anthropic": provider.anthropic_base_url}
    return sdk(base_url=urls[vendor], api_key="no-key-needed")


def ask_gpt(question: str, **options: Any) -> Any:
    asked = [{"role": "user", "content": question}]
    return openai.chat.completions.create(model=GPT, messages=asked, max_completion_tokens=200, **options)


def ask_claude(question: str, client: Any = None) -> Any:
    asked = [{"role": "user", "content": question}]
    return (client or claude).messages.create(model=CLAUDE, messages=asked, max_tokens=200)


# --- the steps of the job ----------------------------------------------------------------------------------------------


def tracked_calls() -> None:
    """Calls are tracked: who asked, and for what."""
    for user in ("alice", "bob"):
        with track(feature="chat", user_id=user):
            ask_gpt(f"What can you do for {user}?")
            ask_claude("And what else?")
    for row in report(by="user_id"):
        print(f"   {row.user_id}: {row.calls} calls, {row.usd} USD")


@track(feature="research", user_id="alice")
@budget("question", usd="0.0015")
def researchers_in_threads() -> None:
    """A question has a budget inside the job's, and twelve threads spend from it at once."""
    ended: list[object] = []

    def research(number: int) -> None:
        try:
            ended.append(ask_gpt(f"Look into source {number}."))
        except BudgetExceeded as error:
            ended.append(error)

    threads = [threading.Thread(target=research, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say_how_they_ended(ended, "0.0015")


@track(feature="research", user_id="bob")
@budget("question", usd="0.005")
async def researchers_in_tasks() -> None:
    """The next question, on the other SDK, by twelve tasks."""
    async with client_of("anthropic", AsyncAnthropic) as client:
        calls = [ask_claude(f"Look into source {number}.", client) for number in range(12)]
        say_how_they_ended(await asyncio.gather(*calls, return_exceptions=True), "0.005")


def say_how_they_ended(ended: list[Any], limit: str) -> None:
    refused = [error for error in ended if isinstance(error, BudgetExceeded)]
    frame: Any = current()
    print(f"   {len(ended) - len(refused)} were answered for {frame.spent_usd} USD of {limit}")
    print(f"   {len(refused)} were refused, and nothing was sent for them")
    for error in refused[:1]:
        print(f"   > {str(error).splitlines()[0]}")


@track(feature="summary", user_id="alice")
@budget("summary", usd="0.002")
def streams() -> None:
    """A stream is held at its bound while it is open, and settled once, however it ends."""
    frame: Any = current()
    for is_patient in (True, False):
        stream = ask_gpt("Sum it all up.", stream=True)
        next(stream)
        print(f"   open:             {frame.reserved_usd:<9} USD reserved, {frame.spent_usd} spent")
        if is_patient:
            list(stream)
        stream.close()
        how = "read to its end:" if is_patient else "closed early:   "
        print(f"   {how}  {frame.reserved_usd:<9} USD reserved, {frame.spent_usd} spent")


@track(feature="newsletter", user_id="alice")
@budget("newsletter", usd="0.0005", on_exceed="warn")
def a_budget_that_only_warns() -> None:
    """Mode "warn" sends anyway, and tells whoever listens; the job around it still holds."""

    def tell(name: str, decision: Any) -> None:
        print(f"   signal:  {name} has spent {decision.spent} of {decision.limit} USD: {decision.did}")

    with signals.decision.connected_to(tell), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for headline in range(4):
            ask_gpt(f"Write headline {headline}.")
    for warning in caught:
        print(f"   warning: {warning.message}")


@track(feature="fact-check", user_id="bob")
def a_loop_that_would_run_away() -> None:
    """A retry loop that is never satisfied, without a budget of its own, and `except Exception: pass` inside."""
    requests, tries = len(provider.requests), 0
    while tries < 100:
        tries += 1
        try:
            if "without any doubt" in ask_claude("Are you really, really sure?").content[0].text:
                break
        except Exception:
            pass
    sent = report(where={"feature": "fact-check"}).total
    print(f"   {tries} tries: {sent.calls} calls were sent, {sent.refused_calls} were refused")
    if "anthropic" in FAKED:
        print(f"   the provider saw {len(provider.requests) - requests} requests")


# --- an auditor, who looks on before and after every call ---------------------------------------------------------------

looks: list[tuple[Decimal, Decimal]] = []


def look(_vendor: str, **_: Any) -> None:
    """What the fake provider has billed; and then what the report says of it, spent and reserved."""
    billed = provider.bill.usd
    rows = [row for row in report(by="provider") if row.provider in FAKED]
    looks.append((billed, sum((row.usd + row.reserved_usd for row in rows), Decimal(0))))


def close_the_books(spent_usd: Decimal) -> bool:
    """Print the report beside the bill, and say whether the promise was kept."""
    print(f"\nThe report\n\n{report(by=['feature', 'user_id'])}")
    print(f"\nBeside the provider's own bill\n\n{'model':<18}{'calls':>5}{'report, usd':>14}{'bill, usd':>14}")
    for row in report(by=["provider", "model"]):
        billed = sum(line.usd for line in provider.bill.lines if line.model == row.model)
        print(f"{row.model:<18}{row.calls:>5}{row.usd:>14f}{billed if row.provider in FAKED else 'dashboard':>14}")
    passed = spent_usd > LIMIT_USD or max(billed for billed, _ in looks) > LIMIT_USD
    below = any(reported < billed for billed, reported in looks)
    held, fell = "PASSED" if passed else "never passed", "FELL" if below else "never fell"
    print(
        f"\nIn {len(looks)} looks the bill {held} the limit of {LIMIT_USD} USD, and the report {fell} below the bill."
    )
    for vendor in sorted(KEYS.keys() - FAKED):
        print(f"That is without the bill of {vendor}, which is on its dashboard: compare it with the report.")
    return not passed and not below


if __name__ == "__main__":
    with provider, instrument(), signals.pre_call.connected_to(look), signals.post_call.connected_to(look):
        openai, claude = client_of("openai", OpenAI), client_of("anthropic", Anthropic)
        for vendor, key in KEYS.items():
            print(f"{vendor}: {f'a fake provider (no {key})' if vendor in FAKED else f'the REAL API, by {key}'}")
        print(f"the job may cost {LIMIT_USD} USD in all")
        with budget("job", usd=LIMIT_USD) as job:
            steps = (tracked_calls, researchers_in_threads, researchers_in_tasks, streams, a_budget_that_only_warns)
            for number, step in enumerate((*steps, a_loop_that_would_run_away), 1):
                print(f"\n{number}. {step.__doc__}\n")
                running = step()
                if running is not None:
                    asyncio.run(running)
        for refusal in job.decisions[-1:]:
            print(f"   the job has spent {job.spent_usd} of {LIMIT_USD} USD, and one more needs {refusal.needed}")
        is_kept = close_the_books(job.spent_usd)
    sys.exit(not is_kept)
