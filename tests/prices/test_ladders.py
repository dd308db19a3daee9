"""What a downgrade steps down to: the shipped ladders, and a user's own map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import pytest
from genai_prices.data import providers
from genai_prices.types import ModelInfo
from hypothesis import given
from hypothesis import strategies as st

from farebox.prices import ManualPrice, RateCard, ladders, model_limits
from farebox.prices._ladder_rows import LADDERS, Ladder, Row
from farebox.prices._rates import Rates

CARD = RateCard()
#: The day the ladders were read; in the peak hours of DeepSeek and outside them; after the price rises already announced.
INSTANTS = tuple(
    datetime.fromisoformat(instant).replace(tzinfo=UTC).timestamp()
    for instant in ("2026-11-22T02:00", "2026-11-22T12:00", "2026-12-02T12:00", "2027-01-02T12:00")
)
#: Below and above every long-context step there is.
SIZES = (1_000, 150_000, 230_000, 300_000)

ROWS = [(ladder, row) for ladder in LADDERS for rung in ladder.rungs for row in rung]
STEPS = [
    (ladder, upper, lower[0])
    for ladder in LADDERS
    for number, rung in enumerate(ladder.rungs)
    for upper in rung
    for lower in ladder.rungs[number + 1 : number + 2]
]


def row_id(value: Any) -> str:
    return value.model if isinstance(value, Row) else value.provider if isinstance(value, Ladder) else str(value)


def listed(provider: str, model: str) -> tuple[str, ModelInfo] | None:
    """A model's own entry on the price list; Qwen's are there under resellers only."""
    places = [(provider, model)]
    if provider == "alibaba":
        places = [("novita", f"qwen/{model}"), ("openrouter", f"qwen/{model}"), ("quicksilverpro", model)]
    for where, name in places:
        for each in providers:
            found = each.find_model(name, all_providers=providers) if each.id == where else None
            if found is not None:
                return where, found
    return None


def rates_of(ladder: Ladder, row: Row, at: float) -> Rates:
    place = listed(ladder.provider, row.model)
    assert place is not None
    rates = CARD.find(place[0], place[1].id if ladder.provider == "alibaba" else row.model, at)
    assert rates is not None
    return rates


@pytest.mark.parametrize(("ladder", "row"), ROWS, ids=row_id)
def test_every_model_of_a_ladder_is_on_the_price_list_and_has_a_price(ladder: Ladder, row: Row) -> None:
    for at in INSTANTS:
        assert not rates_of(ladder, row, at).is_free


@pytest.mark.parametrize(("ladder", "upper", "lower"), STEPS, ids=row_id)
def test_every_step_down_costs_less_and_no_part_of_it_costs_more(ladder: Ladder, upper: Row, lower: Row) -> None:
    for at in INSTANTS:
        for size in SIZES:
            before, after = (rates_of(ladder, row, at).bound(size, cache_write="none") for row in (upper, lower))
            assert after[0] <= before[0], (at, size)
            assert after[1] <= before[1], (at, size)
            assert after != before, (at, size)


@pytest.mark.parametrize(("ladder", "row"), ROWS, ids=row_id)
def test_a_context_window_agrees_with_the_price_list(ladder: Ladder, row: Row) -> None:
    place = listed(ladder.provider, row.model)
    assert place is not None
    window = place[1].context_window
    ours = model_limits(ladder.provider, row.model)
    assert ours.is_known
    if window is None or row.model == "claude-sonnet-4-5":  # that has a larger one by a beta header
        assert ours.context_tokens >= 200_000
    else:  # the list rounds
        assert 0.95 * window <= ours.context_tokens <= 1.06 * window


def test_every_model_is_on_one_ladder_and_what_it_can_do_is_a_feature_that_exists() -> None:
    names = [row.model for _, row in ROWS] + [alias for ladder in LADDERS for alias in ladder.aliases]
    assert len(names) == len(set(names))
    for ladder, row in ROWS:
        assert row.features <= ladders.FEATURES, row.model
        assert row.features & {"tools"}, row.model
        assert set(ladder.aliases.values()) <= {row.model for rung in ladder.rungs for row in rung}


def test_a_level_of_reasoning_is_never_covered_without_reasoning_itself() -> None:
    for _, row in ROWS:
        spelt = {name for name in row.features if name.startswith("reasoning_")} - {"reasoning_none"}
        assert not spelt or "reasoning" in row.features, row.model
        assert "chat_tools" not in row.features or "tools" in row.features, row.model


def test_every_ladder_says_where_it_was_read_and_when_and_has_a_step() -> None:
    for ladder in LADDERS:
        assert ladder.sources
        assert all(source.startswith("https://") for source in ladder.sources)
        assert date.fromisoformat(ladder.read) <= date(2026, 11, 22)
        assert len(ladder.rungs) > 1


def test_every_provider_the_docs_promise_has_a_ladder() -> None:
    assert {ladder.provider for ladder in LADDERS} == {
        "openai", "anthropic", "google", "deepseek", "mistral", "x-ai", "alibaba",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("provider", "model", "below"),
    [
        ("openai", "gpt-5", ("gpt-5-mini", "gpt-5-nano")),
        ("openai", "gpt-5-2025-08-07", ("gpt-5-mini", "gpt-5-nano")),
        ("openai", "gpt-5-nano", ()),
        ("openai", "gpt-5.4-mini-2026-03-17", ("gpt-5.4-nano",)),
        ("openai", "gpt-4o-2024-11-20", ("gpt-4o-mini",)),
        ("openai", "gpt-6-astra", ("gpt-6.1-sol", "gpt-6.1-terra", "gpt-6-luna")),
        ("openai", "gpt-6-sol", ("gpt-6.1-terra", "gpt-6-luna")),  # not the other model of its rung
        ("anthropic", "claude-opus-5-5", ("claude-sonnet-5-5", "claude-haiku-5-5")),
        ("anthropic", "claude-opus-4-5-20251101", ("claude-sonnet-4-6", "claude-haiku-4-5")),
        ("gcp.gemini", "gemini-flash-latest", ("gemini-3.5-flash-lite", "gemini-3.1-flash-lite")),
        ("gcp.gemini", "models/gemini-2.5-pro", ("models/gemini-2.5-flash", "models/gemini-2.5-flash-lite")),
        ("deepseek", "deepseek-v4-pro", ("deepseek-flash",)),
        ("openai", "deepseek-v4-pro", ("deepseek-flash",)),  # OpenAI's SDK, DeepSeek's server
        ("mistral_ai", "mistral-small-latest", ("ministral-8b-2512", "ministral-3b-2512")),
        ("x_ai", "grok-4.7-latest", ("grok-4.3",)),
        ("dashscope", "qwen3.8-max", ("qwen3.7-plus", "qwen3.8-flash")),
    ],
)
def test_below_a_model_are_the_undated_names_of_its_ladder_nearest_first(
    provider: str, model: str, below: tuple[str, ...]
) -> None:
    assert ladders.cheaper(provider, model) == below


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "text-embedding-3-large"),
        ("openai", "gpt-4o-audio-preview"),
        ("openai", "gpt-4o-realtime-preview-2024-12-17"),
        ("openai", "gpt-4o-search-preview"),
        ("openai", "gpt-4o-mini-transcribe"),
        ("openai", "gpt-image-2"),
        ("openai", "omni-moderation-latest"),
        ("openai", "chatgpt-4o-latest"),
        ("openai", "gpt-5-chat-latest"),
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme::abc"),
        ("openai", "ft:gpt-4o"),
        ("openai", "openai/gpt-5"),
        ("openai", "my-llm"),
        ("openai", ""),
        ("openai", "gpt-5" * 100_000),
        ("azure.ai.openai", "gpt-5"),
        ("openrouter", "openai/gpt-5"),
        ("aws.bedrock", "us.anthropic.claude-opus-4-6-v1:0"),
        ("google", "tunedModels/gemini-2.5-pro"),
        ("google", "gemini-2.5-flash-image"),
        ("google", "gemini-2.5-pro-preview-tts"),
    ],
)
def test_what_is_no_plain_text_model_of_its_own_provider_is_on_no_ladder(provider: str, model: str) -> None:
    assert ladders.cheaper(provider, model) == ()


@pytest.mark.parametrize(
    ("provider", "model", "features", "tokens", "cap", "is_covered"),
    [
        ("openai", "gpt-5-mini", {"tools", "chat_tools", "structured_output"}, 10_000, 500, True),
        ("openai", "gpt-5-mini", {"sampling"}, 10_000, 500, False),
        ("openai", "gpt-4o-mini", {"sampling", "stop", "choices"}, 10_000, 500, True),
        ("openai", "gpt-4o-mini", {"reasoning", "reasoning_effort"}, 10_000, 500, False),
        ("openai", "gpt-5.4-mini", {"tools", "chat_tools", "sampling"}, 10_000, 500, True),
        ("openai", "gpt-5.4-mini", {"tools", "chat_tools_reasoning", "reasoning"}, 10_000, 500, False),
        ("openai", "gpt-5.6-luna", {"tools", "chat_tools"}, 10_000, 500, False),
        ("openai", "gpt-4o-mini", set(), 127_000, 1_000, True),
        ("openai", "gpt-4o-mini", set(), 127_000, 1_001, False),  # 128,000 in all
        ("openai", "gpt-4o-mini", set(), 127_990, None, False),  # no room for the 16 tokens the API insists on
        ("openai", "gpt-4o-mini", set(), 1_000, 16_385, False),  # puts out 16,384
        ("openai", "gpt-6-luna", {"tools", "chat_tools"}, 1_000, 100, False),
        ("openai", "gpt-6-luna", {"tools", "chat_tools_none", "reasoning_none"}, 1_000, 100, True),
        ("openai", "gpt-6-luna", {"tools", "reasoning", "reasoning_effort", "reasoning_max"}, 1_000, 100, True),
        ("openai", "gpt-5-mini", {"audio"}, 1_000, 100, False),
        ("anthropic", "claude-haiku-4-5", {"reasoning", "reasoning_budget", "images"}, 1_000, 100, True),
        ("anthropic", "claude-haiku-5-5", {"reasoning", "reasoning_budget"}, 1_000, 100, False),
        ("anthropic", "claude-sonnet-5-5", {"tools", "forced_tools"}, 1_000, 100, False),
        ("anthropic", "claude-haiku-5-5", {"tools", "forced_tools"}, 1_000, 100, True),
        ("anthropic", "claude-haiku-4-5-20251001", {"tools"}, 201_000, 100, False),
        ("google", "models/gemini-3.5-flash-lite", {"audio", "video", "reasoning", "reasoning_minimal"}, 9, 9, True),
        ("deepseek", "deepseek-flash", {"json_mode"}, 900_000, 384_000, False),
        ("deepseek", "deepseek-flash", {"structured_output"}, 1_000, 100, False),
        # A reseller has the model, not the provider's own tools.
        ("openrouter", "openai/gpt-5-mini", {"tools", "images"}, 1_000, 100, True),
        ("openrouter", "openai/gpt-5-mini", {"web_search"}, 1_000, 100, False),
        ("aws.bedrock", "us.anthropic.claude-haiku-4-5-20251001-v1:0", {"tools"}, 1_000, 100, True),
        # Nobody knows what these can do.
        ("local", "my-llm", set(), 10_000_000, None, True),
        ("local", "my-llm", {"tools"}, 10, None, False),
        ("openai", "gpt-5-mini", {"no such feature"}, 10, None, False),
    ],
)
def test_a_model_covers_a_request_that_fits_it_and_needs_nothing_it_lacks(
    provider: str, model: str, features: set[str], tokens: int, cap: int | None, is_covered: bool
) -> None:
    assert ladders.covers(provider, model, features, tokens, cap) is is_covered


@given(name=st.text(max_size=40), provider=st.sampled_from(["openai", "google", "anthropic", "local", ""]))
def test_no_name_makes_a_ladder_raise(name: str, provider: str) -> None:
    assert ladders.cheaper(provider, name) == () or any(row.model in name.lower() for _, row in ROWS)
    assert ladders.covers(provider, name, {"no such feature"}, 1, 1) is False


MAP = {"gpt-5": "gpt-5-mini", "gpt-5-mini": "gpt-5-nano"}


def check(downgrade: Any, provider_name: str | None = None) -> Mapping[str, str]:
    return ladders.check_map(downgrade, CARD, provider_name, at=INSTANTS[0])


@pytest.mark.parametrize(
    "downgrade", [MAP, ["gpt-5", "gpt-5-mini", "gpt-5-nano"], ("gpt-5", "gpt-5-mini", "gpt-5-nano")]
)
def test_a_map_and_a_list_say_the_same(downgrade: Mapping[str, str] | Sequence[str]) -> None:
    assert check(downgrade) == MAP
    assert check(downgrade, "openai") == MAP
    assert ladders.check_map(downgrade) == MAP


def test_a_checked_map_is_a_copy() -> None:
    mine = dict(MAP)
    checked = check(mine)
    mine["gpt-5"] = "other"
    assert checked == MAP


def test_a_step_up_in_price_is_refused_with_both_prices() -> None:
    with pytest.raises(ValueError, match="goes up in price") as caught:
        check(["gpt-5-mini", "gpt-5"])
    assert "gpt-5-mini (0.25 USD in, 2 USD out per million tokens)" in str(caught.value)
    assert "gpt-5 (1.25 USD in, 10 USD out per million tokens)" in str(caught.value)
    with pytest.raises(ValueError, match=r"claude-sonnet-5-5 .* to claude-opus-5-5"):
        check({"claude-sonnet-5-5": "claude-opus-5-5"})


def test_a_step_that_is_dearer_in_one_part_only_is_up() -> None:
    card = RateCard(
        [
            ManualPrice(model="even", input_per_million=1, output_per_million=4),
            ManualPrice(model="cheap-in", input_per_million="0.5", output_per_million=5),
            ManualPrice(model="cheap-out", input_per_million=2, output_per_million=1),
            ManualPrice(model="same", input_per_million=1, output_per_million=4),
        ]
    )
    for dearer in ("cheap-in", "cheap-out"):
        with pytest.raises(ValueError, match="goes up in price"):
            ladders.check_map({"even": dearer}, card)
    assert ladders.check_map({"even": "same"}, card) == {"even": "same"}


def test_the_price_is_that_of_the_provider_named() -> None:
    card = RateCard([ManualPrice(model="gpt-5-mini", input_per_million=9, output_per_million=9, provider="local")])
    assert ladders.check_map({"gpt-5": "gpt-5-mini"}, card, "openai", at=INSTANTS[0])
    assert ladders.check_map({"gpt-5": "gpt-5-mini"}, card, "local", at=INSTANTS[0])  # gpt-5 has no price there


def test_models_without_a_known_price_pass() -> None:
    assert check(["my-large", "my-small"]) == {"my-large": "my-small"}
    assert check({"gpt-5-nano": "my-small"}) == {"gpt-5-nano": "my-small"}


@pytest.mark.parametrize(
    ("downgrade", "circle"),
    [
        ({"a": "b", "b": "a"}, "b > a > b"),
        ({"a": "b", "b": "c", "c": "a"}, "c > a > b > c"),
        ({"a": "a"}, "a > a"),
        (["a", "b", "a"], "b > a > b"),
        (["a", "a"], "a > a"),
    ],
)
def test_a_circle_is_refused_and_named(downgrade: Any, circle: str) -> None:
    with pytest.raises(ValueError, match=circle):
        check(downgrade)


@pytest.mark.parametrize(
    "downgrade", [{"gpt-5": ""}, {"": "gpt-5"}, ["gpt-5", " "], ["gpt-5", 3], {"gpt-5": None}, [None]]
)
def test_an_entry_that_is_no_name_is_refused(downgrade: Any) -> None:
    with pytest.raises(TypeError, match="a model's name is text"):
        check(downgrade)


@pytest.mark.parametrize("downgrade", ["gpt-5-mini", b"gpt-5", 3, {"gpt-5", "gpt-5-mini"}])
def test_what_is_neither_a_map_nor_a_list_is_refused_with_an_example(downgrade: Any) -> None:
    with pytest.raises(TypeError, match="neither a map nor a list; write"):
        check(downgrade)


@pytest.mark.parametrize("downgrade", [{}, [], ["gpt-5"]])
def test_a_map_without_a_step_is_refused(downgrade: Any) -> None:
    with pytest.raises(ValueError, match="has no step"):
        check(downgrade)


def test_a_dated_name_steps_like_its_family_unless_it_is_in_the_map_itself() -> None:
    steps = check({**MAP, "gpt-5-2025-08-07": "gpt-5-nano"})
    assert ladders.next_in(steps, "gpt-5") == "gpt-5-mini"
    assert ladders.next_in(steps, "gpt-5-2025-08-07") == "gpt-5-nano"
    assert ladders.next_in(steps, "gpt-5-mini-2025-08-07") == "gpt-5-nano"
    assert ladders.next_in(steps, "gpt-5-nano") is None
    assert ladders.next_in(steps, "x" * 1_000_000) is None


def test_a_map_checked_from_random_names_always_ends() -> None:
    @given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("abcdef"), min_size=1))
    def law(downgrade: dict[str, str]) -> None:
        try:
            steps = ladders.check_map(downgrade)
        except ValueError:
            return
        for name in steps:
            seen: list[str] = []
            here: str | None = name
            while here is not None:
                assert here not in seen
                seen.append(here)
                here = ladders.next_in(steps, here)

    law()
