"""Finding rates: names, instants, tiers, and what nobody can spoil from outside."""

from __future__ import annotations

import decimal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

import pytest
from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot
from genai_prices.types import ClauseContains, ModelInfo, ModelPrice, Provider

from farebox._call import Usage
from farebox.prices import ManualPrice, RateCard, Rates


def instant(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


AT = instant("2026-11-21T12:00")
THOUSAND = Usage(uncached_input_tokens=1_000, visible_output_tokens=1_000)


def found(rates: Rates | None) -> Rates:
    assert rates is not None
    return rates


@pytest.fixture
def card() -> RateCard:
    return RateCard()


@pytest.fixture
def swapped_list() -> Iterator[None]:
    """What a price updater does: another snapshot, for the whole process, in which everything costs 1,000."""
    price = ModelPrice(input_mtok=Decimal(1000), output_mtok=Decimal(1000))
    model = ModelInfo(id="gpt-5", match=ClauseContains(contains="gpt"), prices=price)
    openai = Provider(id="openai", name="OpenAI", api_pattern="x", models=[model])
    set_custom_snapshot(DataSnapshot(providers=[openai], from_auto_update=True))
    yield
    set_custom_snapshot(None)


def test_the_same_question_gets_the_same_object(card: RateCard) -> None:
    assert card.find("openai", "gpt-5-mini", AT) is card.find("openai", "gpt-5-mini", AT + 60)


def test_rates_say_where_they_come_from(card: RateCard) -> None:
    rates = found(card.find("gcp.gemini", "publishers/google/models/gemini-4-argon", AT, "batch"))
    assert (rates.provider, rates.matched_model, rates.tier) == ("google", "gemini-4-argon", "batch")
    assert (rates.source, rates.version) == ("list", "genai-prices 0.2.3")
    assert rates.valid_until == instant("2026-12-01T00:00")
    assert not rates.is_free


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-7"),
        ("openai", "gpt-4o-ultra"),
        ("anthropic", "claude-opus-6"),
        ("azure.ai.openai", "prod-chat"),
        ("local", "llama-3"),
        ("gcp.gemini", "gemma-4-31b-it"),  # listed without a price
        ("openai", ""),
        ("", "gpt-4o"),
        ("openai", "gpt-4o " * 100),
        ("openai", "gpt-4o\n"),
        ("openai", "gpt\u20114o"),
        ("openai", "x" * 100_000),
        ("x" * 100_000, "gpt-4o"),
    ],
)
def test_an_unknown_model_has_no_rates(card: RateCard, provider: str, model: str) -> None:
    assert card.find(provider, model, AT) is None
    assert card.find(provider, model, AT) is None
    assert card.find_dearest(provider, model, AT) is None


@pytest.mark.parametrize(
    ("provider", "model", "matched"),
    [
        ("gcp.gen_ai", "models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("google", "projects/p/locations/us-east5/publishers/anthropic/models/claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("aws.bedrock", "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-sonnet-4-5-20250929-v1:0",
         "regional.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("openrouter", "openai/gpt-4o", "openai/gpt-4o"),
        ("azure.ai.inference", "gpt-4o-2024-11-20", "gpt-4o"),
    ],
)  # fmt: skip
def test_a_model_is_found_by_the_names_its_sdks_use(card: RateCard, provider: str, model: str, matched: str) -> None:
    assert found(card.find(provider, model, AT)).matched_model == matched


def test_a_hundred_thousand_unknown_names_leave_a_bounded_memory(card: RateCard) -> None:
    known = card.find("openai", "gpt-5", AT)
    for number in range(100_000):
        provider = "nobody" if number % 10 else "openai"
        assert card.find(provider, f"model-{number}", AT) is None
    # Names that match a loose pattern of the list are known ones, and no fewer.
    for number in range(3_000):
        assert card.find("openai", f"gpt-4o-mini-audio-{number}", AT) is not None
    for cache in (card._rates, card._unknown, card._ahead, card._stand_ins):
        assert len(cache) <= 1_024
    assert card.find("openai", "gpt-5", AT) == known


def test_prices_of_the_past_the_present_and_the_future_do_not_mix(card: RateCard) -> None:
    before, after = instant("2026-11-30T23:59"), instant("2026-12-01T00:00")
    for at, nanos in [(before, 12_000_000), (after, 24_000_000), (before, 12_000_000)]:
        assert found(card.find("gcp.gemini", "gemini-4-argon", at)).charge_nanos(THOUSAND) == nanos


def test_prices_by_the_hour_turn_at_the_hour(card: RateCard) -> None:
    day = {
        "00:59": 750_000,
        "01:00": 1_500_000,
        "03:59": 1_500_000,
        "04:00": 750_000,
        "06:00": 1_500_000,
        "10:00": 750_000,
    }
    for clock, nanos in day.items():
        rates = found(card.find("deepseek", "deepseek-flash", instant(f"2026-11-21T{clock}")))
        assert rates.charge_nanos(THOUSAND) == nanos, clock
    turns = [instant("2026-11-21T12:00")]
    for _ in range(4):
        turns.append(found(card.find("deepseek", "deepseek-flash", turns[-1])).valid_until)
    assert [later - earlier for earlier, later in pairwise(turns)] == [13 * 3600, 3 * 3600, 2 * 3600, 4 * 3600]


class TestTheDearestWithinAHorizon:
    def test_it_is_the_very_same_object_while_nothing_changes(self, card: RateCard) -> None:
        assert card.find_dearest("openai", "gpt-5", AT) is card.find("openai", "gpt-5", AT)
        assert card.find_dearest("gcp.gemini", "gemini-4-argon", AT) is card.find("gcp.gemini", "gemini-4-argon", AT)

    def test_a_call_before_a_rise_is_bounded_by_the_price_after_it(self, card: RateCard) -> None:
        at = instant("2026-11-30T23:30")
        rates = found(card.find_dearest("gcp.gemini", "gemini-4-argon", at))
        assert rates.bound(1_000) == (4_000_000, 20_000)
        assert found(card.find("gcp.gemini", "gemini-4-argon", at)).bound(1_000) == (2_000_000, 10_000)
        assert card.find_dearest("gcp.gemini", "gemini-4-argon", at + 60) is rates
        early = instant("2026-11-30T22:59")
        assert card.find_dearest("gcp.gemini", "gemini-4-argon", early) is card.find(
            "gcp.gemini", "gemini-4-argon", early
        )

    def test_a_call_before_a_fall_is_bounded_by_the_price_now(self, card: RateCard) -> None:
        at = instant("2026-07-29T23:30")
        now = card.find("openai", "gpt-5.6-luna", at)
        assert card.find_dearest("openai", "gpt-5.6-luna", at) is now
        assert card.find_dearest("openai", "gpt-5.6-luna", at) is now

    @pytest.mark.parametrize("hours", [range(24), range(23, -1, -1)], ids=["onwards", "backwards"])
    def test_a_day_with_peak_hours_costs_what_its_dearest_hour_does(self, card: RateCard, hours: range) -> None:
        for hour in hours:
            at = instant(f"2026-11-21T{hour:02}:30")
            for horizon in (600, 3600, 4 * 3600, 24 * 3600):
                ahead = range(0, horizon + 1, 600)
                costs = [found(card.find("deepseek", "deepseek-flash", at + s)).charge_nanos(THOUSAND) for s in ahead]
                dearest = found(card.find_dearest("deepseek", "deepseek-flash", at, horizon))
                assert dearest.charge_nanos(THOUSAND) == max(costs), (hour, horizon)


class TestServiceTiers:
    def test_an_unknown_tier_never_costs_the_standard_price(self, card: RateCard) -> None:
        for model in ("gpt-5", "gpt-5-pro", "gpt-4o-search-preview"):
            standard = found(card.find("openai", model, AT)).charge_nanos(THOUSAND)
            for tier in ("hyper", "PRIORITY-2", "x" * 1_000):
                assert found(card.find("openai", model, AT, tier)).charge_nanos(THOUSAND) > standard

    def test_a_tier_is_the_same_in_any_case(self, card: RateCard) -> None:
        assert found(card.find("openai", "gpt-5", AT, "FLEX")).charge_nanos(THOUSAND) == 5_625_000
        assert found(card.find("gcp.vertex_ai", "gemini-2.5-pro", AT, "ON_DEMAND")).charge_nanos(THOUSAND) == 11_250_000

    def test_a_tier_does_not_change_the_fee_of_a_search(self, card: RateCard) -> None:
        assert found(card.find("anthropic", "claude-opus-5", AT, "regional")).web_search_nanos == 10_000_000


class TestWhatOthersDoToTheProcess:
    @pytest.mark.usefixtures("swapped_list")
    def test_another_snapshot_for_the_process_changes_nothing_here(self) -> None:
        rates = found(RateCard().find("openai", "gpt-5", AT))
        assert rates.charge_nanos(THOUSAND) == 11_250_000

    def test_a_coarse_decimal_context_changes_nothing(self) -> None:
        with decimal.localcontext(decimal.Context(prec=2, rounding=decimal.ROUND_DOWN)):
            card = RateCard()
            card.set_price("mine", input_per_million="1.23456", output_per_million=0)
            assert found(card.find("any", "mine", AT)).charge_nanos(Usage(uncached_input_tokens=1_000)) == 1_234_560
            rates = found(card.find("gcp.gemini", "gemini-flash-1.5", AT, "regional"))
        # 0.075 x 1.1 USD per million
        assert rates.charge_nanos(Usage(uncached_input_tokens=1_000)) == 82_500

    def test_importing_prices_does_not_load_the_list(self) -> None:
        code = (
            "import sys, farebox.prices as p; card = p.RateCard(); "
            "card.set_price('m', input_per_million=1, output_per_million=1); assert card.find('x', 'm', 0.0); "
            "assert not [m for m in sys.modules if m.startswith(('genai_prices', 'pydantic', 'httpx'))]; "
            "card.warm(); assert 'genai_prices.data' in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(filter(None, sys.path))})


class TestOwnPrices:
    def test_a_price_of_the_users_beats_the_list(self, card: RateCard) -> None:
        assert found(card.find("openai", "gpt-5", AT)).source == "list"
        card.set_price("gpt-5", input_per_million=1, output_per_million=2)
        rates = found(card.find("openai", "gpt-5", AT))
        assert (rates.source, rates.version, rates.charge_nanos(THOUSAND)) == ("manual", "manual", 3_000_000)
        assert found(card.find("openai", "gpt-5", AT, "priority")).charge_nanos(THOUSAND) == 3_000_000

    def test_an_unknown_model_is_known_once_it_has_a_price(self, card: RateCard) -> None:
        assert card.find("local", "my-llm", AT) is None
        card.set_price("my-llm", input_per_million=0, output_per_million=0)
        rates = found(card.find("local", "my-llm", AT))
        assert rates.is_free
        everything = Usage(uncached_input_tokens=9, cache_write_12h_tokens=9, reasoning_tokens=9, web_searches=9)
        assert rates.charge_nanos(everything) == 0
        assert rates.bound(1_000_000, cache_write="12h", web_searches=9) == (0, 0)

    def test_what_an_own_price_leaves_out_follows_the_input_price(self) -> None:
        card = RateCard().with_price("m", input_per_million=4, output_per_million=8)
        rates = found(card.find("x", "m", AT))
        for bucket, nanos in {
            "uncached_input_tokens": 4_000,
            "cache_read_tokens": 4_000,
            "cache_write_5m_tokens": 5_000,
            "cache_write_30m_tokens": 5_000,
            "cache_write_1h_tokens": 8_000,
            "cache_write_12h_tokens": 10_000,
            "input_audio_tokens": 4_000,
            "input_image_tokens": 4_000,
            "visible_output_tokens": 8_000,
            "reasoning_tokens": 8_000,
            "output_audio_tokens": 8_000,
            "output_image_tokens": 8_000,
        }.items():
            assert rates.charge_nanos(Usage(**{bucket: 1})) == nanos, bucket

    def test_an_own_price_finer_than_a_picodollar_is_rounded_up(self) -> None:
        card = RateCard().with_price("m", input_per_million="0.00000001", output_per_million="0.1234567")
        rates = found(card.find("x", "m", AT))
        assert rates.charge_nanos(Usage(uncached_input_tokens=1_000)) == 1
        assert rates.charge_nanos(Usage(visible_output_tokens=1_000)) == 123_457

    def test_exact_names_come_first_then_the_longest_pattern(self) -> None:
        card = RateCard()
        for model, price, provider in [
            ("*", 1, "local"),
            ("llama*", 2, None),
            ("llama-3*", 3, None),
            ("llama-3*", 4, "local"),
            ("llama-3-8b", 5, None),
            ("llama-3-8b", 6, "groq"),
        ]:
            card.set_price(model, input_per_million=price, output_per_million=0, provider=provider)

        def price_of(provider: str, model: str) -> int:
            return found(card.find(provider, model, AT)).steps[0].uncached_input // 10**6

        assert price_of("local", "anything at all") == 1
        assert price_of("x", "LLaMA-2") == 2
        assert price_of("x", "llama-3-70b") == 3
        assert price_of("local", "llama-3-70b") == 4
        assert price_of("local", "llama-3-8b") == 5
        assert price_of("groq", "llama-3-8b") == 6
        assert card.find("x", "anything", AT) is None

    def test_a_provider_is_meant_by_any_of_its_names(self) -> None:
        card = RateCard([ManualPrice(model="g", provider="gemini", input_per_million=1, output_per_million=1)])
        assert card.find("gcp.vertex_ai", "publishers/google/models/g", AT) is not None
        assert card.find("openai", "g", AT) is None

    def test_a_card_with_one_more_price_leaves_the_first_card_alone(self, card: RateCard) -> None:
        other = card.with_price("my-llm", input_per_million=1, output_per_million=1)
        assert card.find("x", "my-llm", AT) is None
        assert other.find("x", "my-llm", AT) is not None
        assert (card.overrides, len(other.overrides)) == ((), 1)

    def test_prices_set_from_many_threads_are_all_kept(self, card: RateCard) -> None:
        def set_and_find(number: int) -> bool:
            card.set_price(f"m-{number}", input_per_million=number + 1, output_per_million=0)
            rates = found(card.find("x", f"m-{number}", AT))
            return rates.steps[0].uncached_input == (number + 1) * 10**6

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(set_and_find, range(200)))
        assert len(card.overrides) == 200

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ({"model": "m", "input_per_million": -1}, "input_per_million=-1 is negative"),
            ({"model": "m", "input_per_million": "cheap"}, "input_per_million='cheap' is not a number"),
            ({"model": "m*x", "input_per_million": 1}, r"has a \* before its end"),
            ({"model": " ", "input_per_million": 1}, "is no name"),
        ],
    )
    def test_a_price_that_is_none_is_refused_by_name(self, card: RateCard, words: dict[str, str], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            card.set_price(**words, output_per_million=1)  # type: ignore[arg-type]


class TestTheModelWithoutAPrice:
    def test_its_stand_in_is_as_dear_as_anything_the_provider_lists(self, card: RateCard) -> None:
        stand_in = found(card.find_stand_in("openai", AT))
        assert stand_in.bound(1_000) == (150_000_000, 600_000)  # o1-pro: 150 in, 600 out
        for model in ("gpt-5-pro", "gpt-6-astra", "gpt-4o", "gpt-realtime"):
            assert found(card.find("openai", model, AT)).charge_nanos(THOUSAND) <= stand_in.charge_nanos(THOUSAND)
        assert card.find_stand_in("openai", AT) is stand_in

    def test_an_unknown_provider_is_as_dear_as_the_dearest_major_one(self, card: RateCard) -> None:
        assert found(card.find_stand_in("nobody", AT)).bound(1_000) == (150_000_000, 600_000)

    def test_the_nearest_names_are_named(self, card: RateCard) -> None:
        assert card.nearest("openai", "gpt-5-minni")[0] == "gpt-5-mini"
        assert card.nearest("anthropic", "claude-opus-6", 1) == ["claude-opus-4-6"]
        assert len(card.nearest("nobody", "claude-opus-6")) == 3
        assert card.nearest("openai", "\u2603" * 1_000) == []
        card.set_price("my-llm", input_per_million=1, output_per_million=1, provider="local")
        assert card.nearest("local", "my-lm") == ["my-llm"]
