"""genai-prices, read into our own rates.

Importing this module loads the price list (30 ms and 5 MB next to an SDK that has pydantic and httpx2 in memory already,
200 ms more without bytecode caches), so it is imported when the first price is asked for.  The import system's lock makes
that happen once.  Nothing here uses the package's process-wide snapshot: whoever replaces that does not change our prices.
Its `calc_price` is never called; `get_prices` and `find_model` hold no state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, time, timedelta
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from typing import Final

import attrs
from genai_prices import __version__
from genai_prices.data import providers as _providers
from genai_prices.types import ModelInfo, ModelPrice, PriceVariant, Provider, StartDateConstraint, TieredPrices
from genai_prices.types import TimeOfDateConstraint as TimeOfDayConstraint

from farebox.prices import _overlay
from farebox.prices._names import family, model_id
from farebox.prices._rates import Rates, Step, build_steps, merge_dearest, unit_picos_of

VERSION: Final = f"genai-prices {__version__}"

# Our own list of them: the package's can be edited by anybody.
_PROVIDERS: Final[list[Provider]] = list(_providers)
_BY_ID: Final = {provider.id: provider for provider in _PROVIDERS}

# genai-prices key -> what `_rates` calls it.  Keys that are in no table here price what `Usage` has no bucket for (citations,
# messages of a voice session).
TOKEN_KEYS: Final = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_5m_mtok": "cache_write_5m",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "input_audio",
    "cache_audio_read_mtok": "cache_read_audio",
    "input_image_mtok": "input_image",
    "cache_image_read_mtok": "cache_read_image",
    "input_video_mtok": "input_video",
    "output_audio_mtok": "output_audio",
    "output_image_mtok": "output_image",
    "output_video_mtok": "output_video",
    "output_reasoning_mtok": "reasoning",
}

# genai-prices key -> the units of `Usage` it prices, and picodollars of one at one USD.  Of two for a unit the later speaks.
UNIT_KEYS: Final[dict[str, tuple[tuple[str, ...], Fraction]]] = {
    "storage_searches_kcount": (("file_searches",), Fraction(10**9)),
    "input_mchars": (("characters",), Fraction(10**6)),
    "input_document_kpages": (("pages", "annotated_pages"), Fraction(10**9)),
    "input_annotated_document_kpages": (("annotated_pages",), Fraction(10**9)),
    "audio_hours": (("input_audio_milliseconds", "output_audio_milliseconds"), Fraction(10**12, 3_600_000)),
    "input_audio_hours": (("input_audio_milliseconds",), Fraction(10**12, 3_600_000)),
    "output_audio_hours": (("output_audio_milliseconds",), Fraction(10**12, 3_600_000)),
}

_EXACT: Final = Context(prec=60)
_PICOS_PER_USD_PER_MILLION: Final = 10**6
_PICOS_PER_USD_PER_THOUSAND: Final = 10**9


@attrs.frozen
class Entry:
    """A model on the list, and whose it is: its own provider's, or one that `provider` resells."""

    provider: str
    owner: str
    model: ModelInfo
    asked: str


def find_entry(provider: str, name: str) -> Entry | None:
    """The list's entry for a model, or None.  `provider` is a price list id, `name` at most plausible."""
    listed = _BY_ID.get(provider)
    if listed is None:
        return None
    asked = model_id(provider, name)
    model = listed.find_model(asked, all_providers=_PROVIDERS)
    if model is None:
        return None
    owner = next(
        candidate.id
        for candidate in (listed, *(_BY_ID[other] for other in listed.fallback_model_providers or ()))
        if any(model is own for own in candidate.models)
    )
    return Entry(provider, owner, model, asked)


def rates_at(entry: Entry, at: float, tier: str) -> Rates | None:
    """The rates of an entry at an instant, or None where the list has no price above zero of a token or a unit."""
    moment = datetime.fromtimestamp(at, UTC)
    if not entry.model.prices:
        return None
    prices = entry.model.get_prices(moment).__dict__
    steps, own_units = _tier_steps(entry, moment, tier), _own_units(entry, prices, tier)
    stored = _overlay.storage_picos(entry.owner, family(entry.model.id), at)
    if steps is None:
        if not any(own_units.values()):
            return None
        steps = build_steps({0: {}})
    request_picos = _picos(prices.get("requests_kcount"), _PICOS_PER_USD_PER_THOUSAND)
    search_picos = _picos(prices.get("web_searches_kcount"), _PICOS_PER_USD_PER_THOUSAND)
    if prices.get("web_searches_kcount") is None and not request_picos:  # a request fee is what a search model charges
        search_picos = _picos(Decimal(_overlay.search_fee_usd(entry.owner)), _PICOS_PER_USD_PER_THOUSAND)
    valid_from, valid_until = validity(entry, at)
    return Rates(
        provider=entry.provider,
        matched_model=entry.model.id,
        tier=tier,
        source="list",
        version=VERSION,
        steps=steps,
        request_picos=request_picos,
        web_search_picos=search_picos,
        unit_picos=unit_picos_of(_overlay.fee_picos(entry.owner) | stored | own_units),
        valid_from=valid_from,
        valid_until=valid_until,
    )


def _own_units(entry: Entry, prices: Mapping[str, object], tier: str) -> dict[str, int]:
    """Picodollars of each unit that the list has a price of.  What a tier makes dearer is so too; its discounts are not."""
    times = max(
        Fraction(1),
        *(
            _overlay.tier_times(word, entry.owner, family(entry.model.id)) or Fraction(1)
            for word in tier.lower().split("+")
        ),
    )
    found: dict[str, int] = {}
    for key, (units, picos_per_usd) in UNIT_KEYS.items():
        usd = prices.get(key)
        if isinstance(usd, Decimal):
            found.update(dict.fromkeys(units, math.ceil(Fraction(usd) * picos_per_usd * times)))
    return found


def rates_of_units(provider: str, model: str, tier: str) -> Rates | None:
    """The rates of a model that only the overlay knows, by a unit that is no token; None for any other model."""
    asked = model_id(provider, model)
    words = tier.lower().split("+")
    known = _overlay.unit_prices(provider, asked, words)
    if not known:
        return None
    times = max(Fraction(1), *(_overlay.tier_times(word, provider, asked) or Fraction(1) for word in words))
    return Rates(
        provider=provider,
        matched_model=asked,
        tier=tier,
        source="list",
        version="farebox's own list",
        steps=build_steps({0: {}}),
        unit_picos=unit_picos_of({unit: _times(picos, times) for unit, picos in known.items()}),
    )


def free_rates(provider: str, model: str, tier: str) -> Rates:
    """Rates of a model that its provider gives away by its name."""
    nothing = build_steps({0: {"input": 0, "output": 0}})
    return Rates(provider=provider, matched_model=model, tier=tier, source="list", version=VERSION, steps=nothing)


def entries(provider: str) -> Iterator[Entry]:
    """Every model of a provider, and of those whose models it resells."""
    listed = _BY_ID.get(provider)
    if listed is not None:
        for owner in (listed, *(_BY_ID[other] for other in listed.fallback_model_providers or ())):
            for model in owner.models:
                yield Entry(provider, owner.id, model, model.id)


def _tier_steps(entry: Entry, moment: datetime, tier: str) -> tuple[Step, ...] | None:
    """The standard prices, or those of a tier; a tier that nobody prices costs the dearest that is known.

    Several tiers at once are joined by `+`, such as `"batch+regional"`.
    """
    context: dict[str, str] = {}
    times = Fraction(1)
    dearest = premium = False
    for word in tier.lower().split("+"):
        if word in _overlay.STANDARD_TIERS:
            continue
        # An overlay row speaks first: it is there because the list is silent or wrong.
        factor = _overlay.tier_times(word, entry.owner, family(entry.model.id))
        if factor is not None:
            times *= factor
        elif (asked := _overlay.LISTED_TIERS.get(word)) and _has_variant(entry, moment, asked):
            context.update(asked)
        elif word not in _overlay.DISCOUNT_TIERS:
            dearest = True
            premium = premium or word not in _overlay.AUTO_TIERS

    standard = _steps(entry, moment, context, times)
    if standard is None or not dearest:
        return standard
    choices = [standard]
    for variant in entry.model.price_variants or ():
        steps = _steps(entry, moment, variant.when, times)
        if steps is not None:
            choices.append(steps)
    merged = merge_dearest(choices)
    if premium and merged == standard:
        return _steps(entry, moment, context, times * _overlay.premium_times(entry.owner))
    return merged


def _has_variant(entry: Entry, moment: datetime, asked: Mapping[str, str]) -> bool:
    """Whether the model's own provider lists prices for this context now; a reseller's discounts are its own affair."""

    def fits(variant: PriceVariant) -> bool:
        return all(asked.get(key) == value for key, value in variant.when.items()) and (
            variant.constraint is None or variant.constraint.active(moment)
        )

    return entry.owner == entry.provider and any(fits(variant) for variant in entry.model.price_variants or ())


def _steps(entry: Entry, moment: datetime, context: Mapping[str, str], times: Fraction) -> tuple[Step, ...] | None:
    if not entry.model.prices:
        return None
    prices = entry.model.get_prices(moment, context)
    listed = {
        TOKEN_KEYS[key]: value for key, value in prices.__dict__.items() if key in TOKEN_KEYS and value is not None
    }
    for key, usd in _overlay.corrections(entry.owner, entry.asked).items():
        listed[key] = Decimal(usd)
    if entry.owner == "openrouter" and "-image" in entry.asked:
        listed.setdefault("output_image", Decimal(_overlay.DRAWN))
    known = {
        above: {
            key: _times(_picos(_price_above(value, above), _PICOS_PER_USD_PER_MILLION), times)
            for key, value in listed.items()
        }
        for above in _starts(listed)
    }
    if not any(picos for priced in known.values() for picos in priced.values()):
        return None
    return build_steps(known)


def _starts(listed: Mapping[str, Decimal | TieredPrices]) -> set[int]:
    tiers = (tier for value in listed.values() if isinstance(value, TieredPrices) for tier in value.tiers)
    return {0, *(tier.start for tier in tiers)}


def _price_above(value: Decimal | TieredPrices, above: int) -> Decimal:
    """The price for a call of more than `above` input tokens (0: of any)."""
    if isinstance(value, Decimal):
        return value
    reached = [tier.price for tier in value.tiers if tier.start <= above]
    return reached[-1] if reached else value.base


def _picos(usd: object, picos_per_usd: int) -> int:
    if not isinstance(usd, Decimal):
        return 0
    return int(_EXACT.multiply(usd, Decimal(picos_per_usd)).to_integral_value(rounding=ROUND_CEILING, context=_EXACT))


def _times(picos: int, times: Fraction) -> int:
    return -(-picos * times.numerator // times.denominator)


def validity(entry: Entry, at: float) -> tuple[float, float]:
    """From when and until when no price of this entry changes, as epoch seconds."""
    model = entry.model
    conditional = [] if isinstance(model.prices, ModelPrice) else model.prices
    today = datetime.fromtimestamp(at, UTC).date()
    turns: set[float] = set()
    for dated in (*conditional, *(model.price_variants or ())):
        constraint = dated.constraint
        if isinstance(constraint, StartDateConstraint):
            turns.add(datetime.combine(constraint.start_date, time(0), UTC).timestamp())
        elif isinstance(constraint, TimeOfDayConstraint):
            for clock in (constraint.start_time, constraint.end_time):
                zone = clock.tzinfo or UTC
                for days in (-1, 0, 1):
                    day = today + timedelta(days=days)
                    turns.add(datetime.combine(day, clock.replace(tzinfo=None), zone).timestamp())
    return (
        max((turn for turn in turns if turn <= at), default=-math.inf),
        min((turn for turn in turns if turn > at), default=math.inf),
    )
