"""Prices from the environment: what can be written, and what is said when it is wrong."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from farebox._call import Usage
from farebox.prices import ManualPrice, RateCard, read_prices

EXPECTED = [
    ManualPrice(model="my-llm", input_per_million=0.5, output_per_million=1.5, provider="local"),
    ManualPrice(
        model="gpt-5*",
        input_per_million=0.1,
        output_per_million=2,
        cache_read_per_million=0,
        cache_write_per_million="0.3",
    ),
]


def test_pages_and_searches_have_a_price_of_their_own() -> None:
    reader = ManualPrice(model="reader", per_page="0.004").rates("mistral", "reader")
    assert reader.charge_nanos(Usage(pages=2, annotated_pages=1)) == 12_000_000
    finder = ManualPrice(model="finder", per_search="0.002").rates("cohere", "finder")
    assert finder.charge_nanos(Usage(search_units=3)) == 6_000_000


def test_prices_are_read_from_inline_json() -> None:
    assert (
        read_prices(
            """ {"my-llm": {"input_per_million": 0.5, "output_per_million": 1.5, "provider": "local"},
             "gpt-5*": {"input_per_million": 0.1, "output_per_million": 2,
                        "cache_read_per_million": 0, "cache_write_per_million": "0.3"}}"""
        )
        == EXPECTED
    )


def test_prices_are_read_from_a_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(
        """
        [my-llm]
        input_per_million = 0.5
        output_per_million = 1.5
        provider = "local"
        ["gpt-5*"]
        input_per_million = 0.1
        output_per_million = 2
        cache_read_per_million = 0
        cache_write_per_million = "0.3"
        """
    )
    assert read_prices(str(path)) == EXPECTED


def test_a_price_is_what_is_written_not_the_float_next_to_it() -> None:
    (price,) = read_prices('{"m": {"input_per_million": 0.1234567890123456789, "output_per_million": 0}}')
    assert price.input_per_million == Decimal("0.1234567890123456789")


def test_what_is_read_can_be_given_to_a_card() -> None:
    assert RateCard(read_prices('{"m": {"input_per_million": 0, "output_per_million": 0}}')).find("x", "m", 0.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"m": ', ["FAREBOX_PRICES is no valid JSON", "write FAREBOX_PRICES="]),
        ('{"m": 3}', ["'m' is 3, not a table of input_per_million, output_per_million", "write"]),
        ('{"m": {"input": 3}}', ["'m' has an unknown key 'input' = 3", "choose from input_per_million", "write"]),
        ('{"m": {"input_per_million": 3}}', ["'m' has no output_per_million", "0 for free", "write"]),
        ('{"m": {"input_per_million": "x", "output_per_million": 1}}', ["'m': input_per_million='x' is not a number"]),
        ('{"m": {"input_per_million": true, "output_per_million": 1}}', ["'m': input_per_million=True is a bool"]),
        ('{"m": {"input_per_million": -2, "output_per_million": 1}}', ["'m': input_per_million=-2 is negative"]),
        ('{"m": {"input_per_million": NaN, "output_per_million": 1}}', ["'m': input_per_million=nan is not finite"]),
        ('{"m": {"input_per_million": null, "output_per_million": 1}}', ["'m': input_per_million=None is a NoneType"]),
        ('{"m": {"input_per_million": 1, "output_per_million": 1, "provider": 7}}', ["provider = 7", '"openai"']),
        ('{"*m": {"input_per_million": 1, "output_per_million": 1}}', ["model='*m' has a * before its end"]),
    ],
)
def test_a_mistake_is_named_with_what_to_write_instead(text: str, says: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are checked below
        read_prices(text)
    assert "FAREBOX_PRICES" in str(caught.value)
    for words in says:
        assert words in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"FAREBOX_PRICES='.*none\.toml' can't be read: No such file or directory\n.*my-llm"
    ):
        read_prices(str(tmp_path / "none.toml"))


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text("my-llm = {")
    with pytest.raises(
        ValueError, match=r"prices\.toml is no valid TOML: .*\n\[\"my-llm\"\]\ninput_per_million = 0\.5"
    ):
        read_prices(str(path))
    path.write_text("[m]\ninput_per_million = 1\n")
    with pytest.raises(ValueError, match=r"prices\.toml: 'm' has no output_per_million"):
        read_prices(str(path))
