"""How a cost came about: each multiplication, and a sum that is the stored cost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import farebox
from farebox.cli._explaining import _lines_of
from farebox.prices import RateCard
from farebox.types import Usage
from tests.cli.conftest import Command, Inside, spend

Use = Callable[..., None]
CARD = RateCard()


@pytest.mark.parametrize(
    ("provider_name", "model"),
    [
        ("openai", "gpt-4.1"),
        ("anthropic", "claude-haiku-4-5"),
        ("google", "gemini-2.5-pro"),
        ("openai", "gpt-4o-search-preview"),
        ("openai", "whisper-1"),
        ("openai", "dall-e-3"),
    ],
)
@given(counts=st.lists(st.integers(0, 400_000), min_size=len(Usage._fields), max_size=len(Usage._fields)))
def test_the_lines_always_add_up_to_what_is_charged(provider_name: str, model: str, counts: list[int]) -> None:
    rates = CARD.find(provider_name, model, time.time())
    assert rates is not None
    usage = Usage(*counts)
    picos = sum(line.picos for line in _lines_of(rates, usage))
    assert -(-picos // 1_000) == rates.charge_nanos(usage)


def test_the_last_call_is_explained_by_hand_arithmetic(command: Command, ledger: Use) -> None:
    ledger()
    spend(tokens=(1_234, 567), feature="search")
    # 1234 x 2 and 567 x 8 millionths of a dollar.
    said = command("explain", "--last").stdout.splitlines()
    assert said[3].split() == "what count usd = usd".split()
    assert said[4].split() == "uncached input tokens 1234 2.00 per million 0.002468".split()
    assert said[5].split() == "visible output tokens 567 8.00 per million 0.004536".split()
    assert said[7] == "sum 0.007004 USD, rounded up to whole nanodollars: 0.007004 USD"
    assert said[8] == "charged 0.007004 USD, which is the same"
    assert said[9].startswith("rates: genai-prices ")
    (call,) = farebox.calls()
    found = json.loads(command("explain", call.call_id, "--json").stdout)
    assert (found["adds_up"], sum(Decimal(line["usd"]) for line in found["lines"])) == (True, Decimal("0.007004"))


def test_what_can_not_be_multiplied_is_said_in_words(command: Command, ledger: Use) -> None:
    ledger()
    farebox.record(model="my-llm", provider="local", input_tokens=10, output_tokens=5, usd="0.5")
    farebox.flush()
    assert "charged 0.5 USD: the program said so itself" in command("explain", "--last").stdout
    farebox.set_price("my-llm", input_per_million=1, output_per_million=2)
    farebox.record(model="my-llm", provider="local", input_tokens=10, output_tokens=5)
    farebox.flush()
    said = command("explain", "--last").stdout
    assert "charged 0.00002 USD by manual of the program; what is installed here has no price" in said


def test_a_call_is_adjusted_and_explained_with_its_corrections(command: Command, ledger: Use) -> None:
    ledger(budgets=[farebox.budget("org", usd="0.01", per="ever")])
    spend()
    (call,) = farebox.calls()
    assert command(
        "adjust", call.call_id, "--usd", "-0.0015", "--why", "credit note 7", "--id", "7"
    ).stdout.splitlines() == [
        f"{call.call_id}: corrected by -0.0015 USD, and comes to 0.0045 USD and 1500 tokens",
        "",
        "budget  for  per   unit   spent  reserved  remaining  limit  used  debt  starts again",
        "org     -    ever  usd   0.0045         0     0.0055   0.01   45%     0  -",
    ]
    again = command("adjust", call.call_id, "--usd", "-0.0015", "--id", "7")
    assert again.stdout == f"{call.call_id}: nothing to change, it comes to 0.0045 USD and 1500 tokens\n"
    found = json.loads(command("adjust", call.call_id, "--usd", "=0.02", "--tokens", "+5", "--json").stdout)
    assert (found["is_changed"], found["usd"], found["tokens"]) == (True, "0.02", 1_505)
    assert (found["correction"]["usd"], found["correction"]["outcome"]) == ("0.0155", "corrected")
    (row,) = farebox.status("org")
    assert (str(row.spent), str(row.debt)) == ("0.02", "0.01")
    said = command("explain", call.call_id).stdout.splitlines()
    assert [line.partition(": ")[2] for line in said if line.startswith("corrected by hand")] == [
        "-0.0015 USD (credit note 7)",
        "+0.0155 USD and +5 tokens",
    ]
    assert said[-1] == "in all 0.02 USD"


def test_an_adjustment_that_can_not_be_made_is_one_line_and_a_code(
    command: Command, inside: Inside, ledger: Use
) -> None:
    ledger()
    spend()
    (call,) = farebox.calls()
    for words, code, said in [
        (["nope", "--usd", "+1"], 3, "no call 'nope' is kept in sqlite:///"),
        ([call.call_id, "--usd", "-1"], 2, "cost 0.006 USD; 1.00 less would be less than nothing"),
        ([call.call_id, "--usd", "1"], 2, "may mean two things; write +1 for so much more, or =1 for what it cost"),
        ([call.call_id, "--tokens", "+some"], 2, "'+some' is no whole number"),
        ([call.call_id], 2, "say how much: --usd or --tokens"),
    ]:
        ended, out, err = inside("adjust", *words)
        assert (ended, out, len(err.splitlines())) == (code, "", 1), err
        assert said in err
    assert len(farebox.calls()) == 1


def test_a_stream_that_was_dropped_is_explained_as_estimated(command: Command, ledger: Use, provider: Any) -> None:
    from openai import OpenAI

    ledger()
    with farebox.instrument(), OpenAI(base_url=provider.openai_base_url, api_key="fake") as client:
        client.chat.completions.create(
            model="gpt-4.1",
            messages=[{"role": "user", "content": "hi"}],
            max_completion_tokens=400,
            stream=True,
        ).close()
    farebox.flush()
    (call,) = farebox.calls()
    said = command("explain", call.call_id).stdout
    assert f"charged {call.usd:f} USD, estimated: it was closed and nobody knows what it used" in said


def test_a_price_names_the_entry_it_matched_and_every_rate(inside: Inside) -> None:
    said = inside("price", "gpt-4.1-2025-04-14")[1].splitlines()
    assert said[0].startswith("gpt-4.1-2025-04-14: genai-prices ")
    assert ", openai gpt-4.1" in said[0]
    rates = dict(line.rsplit(maxsplit=1) for line in said[2:15])
    assert (rates["uncached input"], rates["cache read"], rates["visible output"]) == ("2.00", "0.50", "8.00")
    (found,) = json.loads(inside("price", "claude-haiku-4-5", "--provider", "anthropic", "--json")[1])
    assert found["matched_model"] == "claude-haiku-4-5"
    assert found["usd_per_million"][0]["uncached_input"] == "1.00"


def test_an_estimate_reads_the_prompt_from_stdin(command: Command) -> None:
    ended = command("estimate", "gpt-4.1", "--max-output-tokens", "100", "--json", stdin="How much is it?" * 40)
    found = json.loads(ended.stdout)
    assert found["max_output_tokens"] == 100
    assert 0 < Decimal(found["expected_usd"]) < Decimal(found["bound_usd"])
