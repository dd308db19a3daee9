"""The user's own prices: what they are, and how they are read from the environment."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from typing import Any, Final

import attrs

from farebox._money import UsdLike, to_decimal
from farebox.prices._names import model_id, provider_id
from farebox.prices._overlay import fee_picos, search_fee_usd
from farebox.prices._rates import Rates, build_steps, unit_picos_of

_EXACT: Final = Context(prec=60)
_NEEDED: Final = ("input_per_million", "output_per_million")
#: What a price of something else than tokens is called, the units of `Usage` that it prices, and how many it is of.
_UNITS: Final[dict[str, tuple[tuple[str, ...], int]]] = {
    "per_image": (("images",), 1),
    "per_million_characters": (("characters",), 1_000_000),
    "per_audio_minute": (("input_audio_milliseconds", "output_audio_milliseconds"), 60_000),
    "per_video_second": (("video_milliseconds",), 1_000),
    "per_page": (("pages", "annotated_pages"), 1),
    "per_search": (("search_units",), 1),
}
#: What a cache of one's own costs beside the tokens, which it is no price without.
_STORAGE: Final = "cache_storage_per_million_hours"
_AMOUNTS: Final = (*_NEEDED, "cache_read_per_million", "cache_write_per_million", _STORAGE, *_UNITS)
_KEYS: Final = (*_AMOUNTS, "provider")
_EXAMPLE: Final = '{"my-llm": {"input_per_million": 0.5, "output_per_million": 1.5, "provider": "local"}}'


def _amount(usd: UsdLike | None, name: str) -> Decimal | None:
    return None if usd is None else to_decimal(usd, name)


# One converter per field, so that an error names the field.
def _input(usd: UsdLike | None) -> Decimal | None:
    return _amount(usd, "input_per_million")


def _output(usd: UsdLike | None) -> Decimal | None:
    return _amount(usd, "output_per_million")


def _cache_read(usd: UsdLike | None) -> Decimal | None:
    return _amount(usd, "cache_read_per_million")


def _cache_write(usd: UsdLike | None) -> Decimal | None:
    return _amount(usd, "cache_write_per_million")


def _cache_storage(usd: UsdLike | None) -> Decimal | None:
    return _amount(usd, _STORAGE)


def _per_image(usd: UsdLike | None) -> Decimal | None:
    return _amount(usd, "per_image")


def _per_characters(usd: UsdLike | None) -> Decimal | None:
    return _amount(usd, "per_million_characters")


def _per_audio_minute(usd: UsdLike | None) -> Decimal | None:
    return _amount(usd, "per_audio_minute")


def _per_video_second(usd: UsdLike | None) -> Decimal | None:
    return _amount(usd, "per_video_second")


def _per_page(usd: UsdLike | None) -> Decimal | None:
    return _amount(usd, "per_page")


def _per_search(usd: UsdLike | None) -> Decimal | None:
    return _amount(usd, "per_search")


@attrs.frozen(kw_only=True)
class ManualPrice:
    """A price of the user's own, in USD; it beats every list price, in every service tier.

    Attributes:
        model: A model's name, or the beginning of one followed by `*`.
        input_per_million, output_per_million: USD per million tokens.  Both are needed, but for a model that is paid by
            one of the units below; its tokens then cost nothing.
        provider: Only for this provider (any spelling farebox knows); None for all of them.
        cache_read_per_million: None: cached input costs what other input does.
        cache_write_per_million: None: 1.25, 2 or 2.5 times the input price, by the lifetime of the cache.
        cache_storage_per_million_hours: USD per million tokens and hour that a cache of one's own keeps them; None: what
            its provider asks at most.
        per_image: USD of a picture that is made.
        per_million_characters: USD per million characters that are read aloud.
        per_audio_minute: USD per minute of sound, in or out.
        per_video_second: USD per second of video.
        per_page: USD per page of a document that is read.
        per_search: USD of a search through documents, as Cohere counts them.

    All prices zero means the model is free.

    Raises:
        ValueError: no price at all, or one of the two of tokens without the other.
    """

    model: str = attrs.field()
    input_per_million: Decimal | None = attrs.field(default=None, converter=_input)
    output_per_million: Decimal | None = attrs.field(default=None, converter=_output)
    cache_read_per_million: Decimal | None = attrs.field(default=None, converter=_cache_read)
    cache_write_per_million: Decimal | None = attrs.field(default=None, converter=_cache_write)
    cache_storage_per_million_hours: Decimal | None = attrs.field(default=None, converter=_cache_storage)
    per_image: Decimal | None = attrs.field(default=None, converter=_per_image)
    per_million_characters: Decimal | None = attrs.field(default=None, converter=_per_characters)
    per_audio_minute: Decimal | None = attrs.field(default=None, converter=_per_audio_minute)
    per_video_second: Decimal | None = attrs.field(default=None, converter=_per_video_second)
    per_page: Decimal | None = attrs.field(default=None, converter=_per_page)
    per_search: Decimal | None = attrs.field(default=None, converter=_per_search)
    provider: str | None = None

    def __attrs_post_init__(self) -> None:
        missing = [name for name in _NEEDED if getattr(self, name) is None]
        if missing and (len(missing) == 1 or all(getattr(self, name) is None for name in _UNITS)):
            raise ValueError(
                f"model {self.model!r} has no {missing[0]}; a price needs {' and '.join(_NEEDED)}, 0 for free, "
                f"or one of {', '.join(_UNITS)}"
            )

    @model.validator
    def _check_model(self, _: Any, model: str) -> None:
        if not model.strip():
            raise ValueError(f"model={model!r} is no name; write a model's name, or its beginning and a *")
        if "*" in model[:-1]:
            raise ValueError(
                f"model={model!r} has a * before its end; only a trailing one is a pattern, as in 'my-llm*'"
            )

    def rates(self, provider: str, model: str) -> Rates:
        """These prices as rates for one model they fit."""
        known = {
            name: _picos(usd)
            for name in ("input", "output", "cache_read", "cache_write")
            if (usd := getattr(self, f"{name}_per_million")) is not None
        }
        is_free = not any(known.values())
        fee = 0 if is_free else _picos(Decimal(search_fee_usd(provider))) * 1_000
        units = {} if is_free else fee_picos(provider)
        for name, (priced, each) in (_UNITS | {_STORAGE: (("cache_token_hours",), 1_000_000)}).items():
            if (usd := getattr(self, name)) is not None:
                units.update(dict.fromkeys(priced, math.ceil(Fraction(usd) * 10**12 / each)))
        return Rates(
            provider=provider,
            matched_model=self.model,
            source="manual",
            version="manual",
            steps=build_steps({0: known}),
            web_search_picos=fee,
            unit_picos=unit_picos_of(units),
        )


class ManualPrices:
    """The user's prices, ready to be looked up: exact names first, then the longest pattern; the later row wins."""

    def __init__(self, rows: Iterable[ManualPrice] = ()) -> None:
        self.rows = tuple(rows)
        self._exact: dict[tuple[str | None, str], ManualPrice] = {}
        patterns: dict[tuple[str | None, str], ManualPrice] = {}
        for row in self.rows:
            provider = None if row.provider is None else provider_id(row.provider)
            name = model_id(provider or "", row.model)
            if name.endswith("*"):
                patterns[provider, name[:-1]] = row
            else:
                self._exact[provider, name] = row
        # The longest first; of equals the one that names its provider.
        self._patterns = sorted(patterns.items(), key=lambda item: (-len(item[0][1]), item[0][0] is None))

    def find(self, provider: str, model: str) -> ManualPrice | None:
        """The row for a model of a provider (in price list spelling), or None."""
        name = model_id(provider, model)
        row = (
            self._exact.get((provider, name)) or self._exact.get((None, name)) or self._exact.get((None, model.lower()))
        )
        if row is not None:
            return row
        for (only, start), pattern in self._patterns:
            if only in (None, provider) and name.startswith(start):
                return pattern
        return None


def read_prices(text_or_path: str) -> list[ManualPrice]:
    """Prices from the environment variable FAREBOX_PRICES: inline JSON if it starts with `{`, else a TOML file's path.

    Both say the same: a table by model, with `input_per_million` and `output_per_million` in USD, and if you like the
    others of `ManualPrice`.

    Raises:
        ValueError: What is wrong, where, what the choices are, and a line to write.
    """
    import json
    import tomllib  # here: few processes have prices of their own to read

    if text_or_path.lstrip().startswith("{"):
        where = "FAREBOX_PRICES"
        try:
            tables = json.loads(text_or_path, parse_float=Decimal)
        except ValueError as error:
            raise ValueError(f"{where} is no valid JSON: {error}\nwrite FAREBOX_PRICES='{_EXAMPLE}'") from None
    else:
        where = text_or_path
        try:
            with open(text_or_path, encoding="utf-8") as file:
                tables = tomllib.loads(file.read(), parse_float=Decimal)
        except OSError as error:
            raise ValueError(
                f"FAREBOX_PRICES={text_or_path!r} can't be read: {error.strerror}\n"
                f"give the path of a TOML file, or write FAREBOX_PRICES='{_EXAMPLE}'"
            ) from None
        except ValueError as error:
            raise ValueError(f"{where} is no valid TOML: {error}\n{_toml('my-llm')}") from None
    return [_read_row(where, model, table) for model, table in tables.items()]


def _read_row(where: str, model: str, table: Any) -> ManualPrice:
    line = _EXAMPLE if where == "FAREBOX_PRICES" else _toml(model)
    if not isinstance(table, dict):
        raise ValueError(f"{where}: {model!r} is {table!r}, not a table of {', '.join(_KEYS)}\nwrite {line}")
    for key, value in table.items():
        if key not in _KEYS:
            raise ValueError(
                f"{where}: {model!r} has an unknown key {key!r} = {value!r}; choose from {', '.join(_KEYS)}\nwrite {line}"
            )
        if key == "provider" and not isinstance(value, str):
            raise ValueError(f'{where}: {model!r} has provider = {value!r}; write a name such as "openai" or "local"')
    by_unit = any(key in table for key in _UNITS) and not any(key in table for key in _NEEDED)
    for key in _NEEDED:
        if key not in table and not by_unit:
            raise ValueError(
                f"{where}: {model!r} has no {key}; a price needs {' and '.join(_NEEDED)}, 0 for free\nwrite {line}"
            )
    try:
        for key in _NEEDED:
            if key in table:
                to_decimal(table[key], key)  # null is no price
        return ManualPrice(model=model, **table)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {model!r}: {error}\nwrite {line}") from None


def _toml(model: str) -> str:
    import json

    return f"[{json.dumps(model)}]\ninput_per_million = 0.5\noutput_per_million = 1.5"


def _picos(usd_per_million: Decimal) -> int:
    """Picodollars per token, rounded up."""
    scaled = _EXACT.multiply(usd_per_million, Decimal(10**6))
    return int(scaled.to_integral_value(rounding=ROUND_CEILING, context=_EXACT))
