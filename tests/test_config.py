"""What a process has been told: merged key by key, restored by a handle, checked when it is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import farebox
from farebox import _config, configure
from tests.strategies import MODEL, admit, finish, new_call, paid, price_the_model

PRICES = '{"my-llm": {"input_per_million": 3, "output_per_million": 4}}'
TOML = '["my-llm"]\ninput_per_million = 3\noutput_per_million = 4\n'


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            {"ledgre": "memory://"},
            (
                "ledgre='memory://' is no option of configure(); choose from ledger, budgets, tags, prices, "
                "useful_output_tokens, on_ledger_error, keep, clock"
            ),
        ),
        ({"ledger": "oracle://x:secret@host"}, "no ledger is known for oracle://; choose one of memory://"),
        ({"ledger": "farebox.db"}, "no ledger is known for a URL without a scheme; choose one of memory://"),
        ({"ledger": "memory://x"}, "'memory://x' is not a memory ledger's URL; it is 'memory://'"),
        ({"useful_output_tokens": 0}, "useful_output_tokens=0 is no cap; give a whole number from 1 up"),
        ({"useful_output_tokens": -5}, "useful_output_tokens=-5 is no cap"),
        ({"useful_output_tokens": True}, "useful_output_tokens=True is no cap"),
        ({"useful_output_tokens": "64"}, "useful_output_tokens='64' is no cap"),
        ({"prices": "{"}, "FAREBOX_PRICES is no valid JSON"),
        (
            {"prices": "/nowhere/prices.toml"},
            "FAREBOX_PRICES='/nowhere/prices.toml' can't be read: No such file or directory",
        ),
        (
            {"prices": '{"m": {"input_per_million": -1, "output_per_million": 1}}'},
            "FAREBOX_PRICES: 'm': input_per_million=-1 is negative",
        ),
        ({"prices": '{"m": {"input_per_million": 1}}'}, "FAREBOX_PRICES: 'm' has no output_per_million"),
        ({"prices": '{"m": 5}'}, "FAREBOX_PRICES: 'm' is 5, not a table"),
    ],
    ids=repr,
)
def test_what_cannot_be_configured_is_refused_by_name_and_changes_nothing(words: dict[str, Any], said: str) -> None:
    before = _config.state()
    with pytest.raises(ValueError, match=r".") as caught:
        configure(**{"tags": {"app": "x"}, **words})
    assert str(caught.value).startswith(said)
    assert "secret" not in str(caught.value)
    assert _config.state() == before


def test_what_is_not_given_is_left_as_it_was() -> None:
    before = _config.state()
    configure(tags={"app": "shop"})
    assert _config.state().tags == {"app": "shop"}
    configure(useful_output_tokens=10)
    now = _config.state()
    assert (now.tags, now.useful_output_tokens) == ({"app": "shop"}, 10)
    assert (now.ledger, now.card, now.needs) == (before.ledger, before.card, before.needs)


def test_tags_are_replaced_as_a_whole() -> None:
    configure(tags={"app": "shop", "zone": 5})
    configure(tags={"zone": "b", "none": None})
    assert _config.state().tags == {"zone": "b"}


def test_a_handle_restores_what_was_there_before_once() -> None:
    before = _config.state()
    handle = configure(tags={"app": "one"})
    handle.undo()
    assert _config.state() == before
    configure(tags={"app": "two"})
    handle.undo()
    assert _config.state().tags == {"app": "two"}


def test_handles_nest_as_blocks_and_restore_after_an_error() -> None:
    before = _config.state()
    with pytest.raises(KeyError), configure(tags={"app": "outer"}):
        with configure(ledger="memory://", tags={"app": "inner"}):
            assert _config.state().ledger is not before.ledger
            assert _config.state().tags == {"app": "inner"}
        assert _config.state().tags == {"app": "outer"}
        raise KeyError
    assert _config.state() == before


def test_handles_undone_in_the_order_they_were_made_restore_what_was_there() -> None:
    before = _config.state()
    first, second = configure(tags={"app": "first"}), configure(useful_output_tokens=9)
    first.undo()
    assert _config.state().useful_output_tokens == 9
    second.undo()
    assert _config.state().tags == before.tags


def test_a_new_memory_ledger_is_empty_and_the_old_one_comes_back() -> None:
    paid(1)
    with configure(ledger="memory://"):
        assert farebox.report().total.calls == 0
        paid(1)
        paid(1)
        assert farebox.report().total.calls == 2
    assert farebox.report().total.calls == 1


def test_a_call_settles_in_the_ledger_it_was_reserved_in() -> None:
    price_the_model()
    with farebox.budget("b", usd=1) as b:
        call = admit(new_call())
        with configure(ledger="memory://"):
            finish(call, outcome="unknown")
            assert farebox.report().total.calls == 0
        assert b.spent_calls == 1
    assert farebox.report().total.calls == 1


def test_a_budget_opened_before_another_ledger_was_configured_goes_on_limiting() -> None:
    with farebox.budget("b", calls=1) as b, configure(ledger="memory://"):
        paid(1)
        with pytest.raises(farebox.BudgetExceeded):
            admit(new_call())
        assert b.spent_calls == 1
        assert farebox.report().total.calls == 1


def test_the_useful_minimum_is_the_least_cap_that_is_granted() -> None:
    farebox.set_price("gpt-4o", input_per_million=0, output_per_million=1, provider="local")
    words = {"provider_name": "local", "cap": None}
    with configure(useful_output_tokens=500):
        with farebox.budget("b", tokens=515), pytest.raises(farebox.BudgetExceeded):
            admit(new_call("gpt-4o", **words))
        with farebox.budget("b", tokens=516):
            assert admit(new_call("gpt-4o", **words)).sent_cap == 500


# Prices.


def test_own_prices_are_read_inline_and_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(TOML, encoding="utf-8")
    for prices in (PRICES, str(path)):
        with configure(prices=prices):
            assert paid(1_000, 1_000, model="my-llm").cost_usd == Decimal("0.007")
    assert paid(1, model="my-llm").cost_usd is None


def test_own_prices_replace_earlier_ones() -> None:
    with configure(prices=PRICES), configure(prices="{}"):
        assert paid(1, model="my-llm").cost_usd is None


def test_set_price_beats_the_list_and_own_prices() -> None:
    configure(prices='{"gpt-4o": {"input_per_million": 3, "output_per_million": 4}}')
    assert paid(1_000_000, model="gpt-4o").cost_usd == 3
    farebox.set_price("gpt-4o", input_per_million="0.5", output_per_million=0)
    call = paid(1_000_000, model="gpt-4o")
    assert (call.cost_usd, call.cost_source, call.price_version) == (Decimal("0.5"), "manual", "manual")


def test_the_list_price_says_where_it_comes_from() -> None:
    call = paid(1_000_000, model="gpt-4o")
    assert (call.cost_usd, call.cost_source) == (Decimal("2.5"), "list")
    assert call.price_version.startswith("genai-prices ")


def test_a_price_may_cover_all_models_that_start_so_and_one_provider_only() -> None:
    farebox.set_price("my-*", input_per_million=1, output_per_million=1)
    farebox.set_price("your-llm", input_per_million=1, output_per_million=1, provider="anthropic")
    assert paid(1_000_000, model="my-own").cost_usd == 1
    assert paid(1_000_000, model="your-llm", provider_name="anthropic").cost_usd == 1
    assert paid(1_000_000, model="your-llm").cost_usd is None


def test_cached_tokens_have_prices_of_their_own() -> None:
    farebox.set_price(
        MODEL, input_per_million=1, output_per_million=1, cache_read_per_million="0.1", cache_write_per_million=5
    )
    usage = farebox._call.Usage(cache_read_tokens=1_000_000, cache_write_5m_tokens=100_000)
    call = finish(admit(new_call(cache_write="5m", extra_input_tokens=1_100_000)), usage=usage)
    assert call.cost_usd == Decimal("0.6")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"input_per_million": -1, "output_per_million": 1}, "input_per_million=-1 is negative"),
        ({"input_per_million": 1, "output_per_million": float("nan")}, "output_per_million=nan is not finite"),
        (
            {"input_per_million": 1, "output_per_million": 1, "cache_read_per_million": "x"},
            "cache_read_per_million='x' is not a number",
        ),
    ],
    ids=repr,
)
def test_a_price_that_is_none_is_refused_by_name(words: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        farebox.set_price("m", **words)


def first_state(prices: str | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The state that a fresh process would make with this environment."""
    monkeypatch.setattr(_config, "_state", None)
    monkeypatch.setattr(_config, "_base", None)
    monkeypatch.setattr(_config, "_layers", [])
    if prices is None:
        monkeypatch.delenv("FAREBOX_PRICES", raising=False)
    else:
        monkeypatch.setenv("FAREBOX_PRICES", prices)
    return _config.state()


def test_the_environment_is_read_on_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(TOML, encoding="utf-8")
    for prices in (PRICES, str(path)):
        (row,) = first_state(prices, monkeypatch).card.overrides
        assert (row.model, row.input_per_million, row.output_per_million) == ("my-llm", 3, 4)
    for prices in (None, ""):
        assert first_state(prices, monkeypatch).card.overrides == ()


def test_a_malformed_environment_is_an_error_each_time_until_it_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="FAREBOX_PRICES is no valid JSON"):
            first_state("{broken", monkeypatch)
    assert first_state(PRICES, monkeypatch).card.overrides


def test_a_fresh_process_reads_its_environment_and_instrument_says_what_is_wrong_with_it() -> None:
    script = (
        "import json, farebox\n"
        "try: farebox.instrument(only=['openai'])\n"
        "except ValueError as error: print(json.dumps(str(error)))\n"
        "else: print(json.dumps(str(farebox.estimate('my-llm', 'x' * 400, max_output_tokens=100).expected_usd)))\n"
    )
    said = []
    for prices in (PRICES, '{"my-llm": {"input_per_million": "free"}}'):
        environment = {**os.environ, "FAREBOX_PRICES": prices}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        said.append(json.loads(done.stdout))
    # (400 + 80 bytes of template) / 4 tokens in at 3, a quarter of 100 out at 4.
    assert said[0] == "0.00046"
    assert said[1].startswith("FAREBOX_PRICES: 'my-llm' has no output_per_million; a price needs")


def test_threads_that_ask_first_at_once_get_one_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_config, "_state", None)
    monkeypatch.setattr(_config, "_base", None)
    monkeypatch.setattr(_config, "_layers", [])
    barrier, found = threading.Barrier(20), []

    def ask() -> None:
        barrier.wait()
        found.append(_config.state())

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert len({id(state) for state in found}) == 1
