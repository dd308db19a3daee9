"""The rate card: which rates a call has, found in a dict on the hot path."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from types import MappingProxyType, ModuleType
from typing import Final, TypeVar

import attrs

from farebox._money import MOST_NANOS, PICOS_PER_NANO, UsdLike
from farebox.prices._manual import ManualPrice, ManualPrices
from farebox.prices._names import LONGEST_NAME, is_free_variant, is_plausible, model_id, provider_id
from farebox.prices._rates import CacheWrite, Rates, merge_dearest
from farebox.prices.limits import ModelLimits, model_limits

_Key = tuple[str, str, str]
_AheadKey = tuple[str, str, str, float]
_CacheKey = TypeVar("_CacheKey")
_Value = TypeVar("_Value")

# A program uses tens of models; names beyond these come from outside, and forgetting one costs 0.3 ms at most.
_MOST_CACHED: Final = 1024
_LONGEST_TIER: Final = 64
_UNKNOWN_TIER: Final = "unknown"

# How many changes of price within one horizon are followed: a hundred days of peak hours.
_MOST_TURNS: Final = 400

# Where to look for a name or a stand-in when the provider is unknown.
_MAJOR: Final = ("openai", "anthropic", "google")


@attrs.frozen(kw_only=True)
class _Ahead:
    """The dearest rates within a horizon, and which starting instants they hold for."""

    rates: Rates
    seen_from: Rates
    holds_from: float
    holds_until: float


@attrs.frozen(kw_only=True)
class Tariff:
    """What bounds a plain text call, looked up at once: limits of the model, its rates, and the numbers for most inputs.

    `request_picos + input_picos * tokens` and `output_nanos` per token hold for up to `most_input_tokens`; for more, and for
    anything but text, ask `rates`, which is None for a model without a price.
    """

    limits: ModelLimits
    rates: Rates | None = None
    most_input_tokens: int = -1
    request_picos: int = 0
    input_picos: int = 0
    output_nanos: int = 0
    holds_from: float = math.inf
    holds_until: float = -math.inf


#: Holds at no instant.
NO_TARIFF: Final = Tariff(limits=model_limits("", ""))

#: How long after its start a call may be billed: prices that change meanwhile are in its bound.
_HORIZON_SECONDS: Final = 3600.0


class RateCard:
    """Prices by provider, model, service tier and instant: the user's own first, then the list's.

    Safe to share between threads, and across a fork: a lookup takes no lock.  The price list is loaded by the first
    lookup that needs it, or by `warm()`.
    """

    #: Names that a server knows models by, such as Azure's deployments, and the models that they are.
    deployments: Mapping[str, str] = MappingProxyType({})

    def __init__(self, overrides: Iterable[ManualPrice] = ()) -> None:
        self._manual = ManualPrices(overrides)
        self._changing = threading.Lock()
        self._forget()

    def find(self, provider_name: str, model: str, at: float, tier: str = "") -> Rates | None:
        """The rates of a model at an instant, or None if nobody knows its price.

        Args:
            provider_name: OpenTelemetry's name (`"openai"`, `"gcp.gemini"`, `"aws.bedrock"`) or the price list's.
            model: As in the request or the response.
            at: Epoch seconds.
            tier: Service tier, `""` for the standard one.  One without a known price costs the dearest that is known.
                Several are joined by `+`; `"regional"` is inference kept in one region.
        """
        rates = self._rates.get((provider_name, model, tier))
        if rates is not None and rates.valid_from <= at < rates.valid_until:
            return rates
        return self._look_up((provider_name, model, tier), at)

    def find_dearest(
        self, provider_name: str, model: str, at: float, horizon_seconds: float = 3600, tier: str = ""
    ) -> Rates | None:
        """Rates that bound a call which starts at `at` and may be billed up to `horizon_seconds` later.

        Usually the very object that `find` returns.  If prices change before then: the dearest of each bucket.
        """
        now = self.find(provider_name, model, at, tier)
        if now is None or at + horizon_seconds < now.valid_until:
            return now
        key = (provider_name, model, tier, horizon_seconds)
        ahead = self._ahead.get(key)
        if ahead is not None and ahead.holds_from <= at < ahead.holds_until and ahead.seen_from is now:
            return ahead.rates
        return self._look_ahead(key, now, at)

    def tariff(self, provider_name: str, model: str, tier: str, cache_write: CacheWrite, at: float) -> Tariff:
        """What bounds a call that starts at `at` (epoch seconds); the arguments are those of `find_dearest` and `Rates.bound`.

        Looked at first is `tariffs`, under the same four names.
        """
        tariffs, limits = self.tariffs, model_limits(provider_name, self.deployments.get(model, model))
        now = self.find(provider_name, model, at, tier)
        if now is None:
            return Tariff(limits=limits)
        rates = self.find_dearest(provider_name, model, at, _HORIZON_SECONDS, tier)
        first = now.steps[0]
        tariff = Tariff(
            limits=limits,
            rates=rates,
            most_input_tokens=now.steps[1].above if len(now.steps) > 1 else MOST_NANOS,
            request_picos=now.request_picos,
            input_picos=first.input_bound(cache_write),
            output_nanos=-(-first.output_bound // PICOS_PER_NANO),
            holds_from=now.valid_from,
            holds_until=now.valid_until - _HORIZON_SECONDS,
        )
        if at >= tariff.holds_until:  # prices change soon: what is dearest is asked anew each time
            return attrs.evolve(tariff, most_input_tokens=-1)
        if max(map(len, (provider_name, model, tier))) <= LONGEST_NAME:
            _keep(tariffs, (provider_name, model, tier, cache_write), tariff)
        return tariff

    def find_served(
        self, provider_name: str, model: str, response_model: str, at: float, tier: str = ""
    ) -> Rates | None:
        """The rates to charge: of the model that the answer names, unless the one that was sent has a price of the user's."""
        key = (provider_name, model, response_model, tier)
        served = self._served.get(key)
        if served is not None and served.valid_from <= at < served.valid_until:
            return served
        cache, sent = self._served, self.find(provider_name, model, at, tier)
        if not response_model or response_model == model or (sent is not None and sent.source != "list"):
            return sent
        served = self.find(provider_name, response_model, at, tier) or sent
        if served is not None and max(map(len, key)) <= LONGEST_NAME:
            _keep(cache, key, served)
        return served

    def find_stand_in(self, provider_name: str, at: float, tier: str = "") -> Rates | None:
        """Rates no lower than those of any model the provider lists; of the major providers' for an unknown one.

        What a model without a price is bounded by under `on_unpriced="dearest"`.  Not meant for every call: up to
        100 ms the first time.
        """
        provider, tier = provider_id(provider_name), tier if len(tier) <= _LONGEST_TIER else _UNKNOWN_TIER
        key = (provider, "", tier)
        rates = self._stand_ins.get(key)
        if rates is not None and rates.valid_from <= at < rates.valid_until:
            return rates
        listed = _price_list()
        providers = (provider,) if any(True for _ in listed.entries(provider)) else _MAJOR
        known = [
            rates
            for each in providers
            for entry in listed.entries(each)
            if (rates := listed.rates_at(entry, at, tier)) is not None
        ]
        if not known:
            return None
        stand_in = attrs.evolve(_dearest_of(known), provider=provider, matched_model="(the dearest known)")
        _keep(self._stand_ins, key, stand_in)
        return stand_in

    def set_price(
        self,
        model: str,
        *,
        provider: str | None = None,
        **usd: UsdLike | None,
    ) -> None:
        """Set a price of your own; `usd` are those of `ManualPrice`.  Explicit zeros mean free."""
        row = ManualPrice(model=model, provider=provider, **usd)
        with self._changing:
            self._manual = ManualPrices((*self._manual.rows, row))
            self._forget()

    def with_price(
        self,
        model: str,
        *,
        provider: str | None = None,
        **usd: UsdLike | None,
    ) -> RateCard:
        """A card like this one with one more price of your own."""
        card = RateCard(self._manual.rows)
        card.set_price(model, provider=provider, **usd)
        return card

    def name_deployments(self, deployments: Mapping[str, str]) -> None:
        """Price these names as the models that they stand for, unless they have prices of their own."""
        with self._changing:
            if dict(self.deployments) != dict(deployments):
                self.deployments = MappingProxyType(dict(deployments))
                self._forget()

    @property
    def overrides(self) -> tuple[ManualPrice, ...]:
        """The user's own prices, in the order they were set."""
        return self._manual.rows

    def nearest(self, provider_name: str, model: str, n: int = 3) -> list[str]:
        """Up to `n` priced names most like `model`, the nearest first; for error messages."""
        import difflib

        provider = provider_id(provider_name)
        listed = _price_list()
        name = model_id(provider, model[:LONGEST_NAME])
        names = {
            row.model for row in self._manual.rows if row.provider is None or provider_id(row.provider) == provider
        }
        names.update(entry.model.id for entry in listed.entries(provider))
        if not names:
            names.update(entry.model.id for major in _MAJOR for entry in listed.entries(major))
        return difflib.get_close_matches(name, sorted(names), n, cutoff=0.6)

    def warm(self) -> None:
        """Load the price list now, so that no call has to wait for it."""
        _price_list()

    def _look_up(self, key: _Key, at: float) -> Rates | None:
        # Taken before the prices are read: if they change meanwhile, what is found goes to a cache already dropped.
        found, unknown = self._rates, self._unknown
        if at < unknown.get(key, -math.inf):
            return None
        rates = self._read(key, at)
        if max(map(len, key)) > LONGEST_NAME:
            return rates
        if rates is not None:
            _keep(found, key, rates)
        elif is_plausible(key[1]):
            _keep(unknown, key, _unknown_until(key, at))
        return rates

    def _look_ahead(self, key: _AheadKey, now: Rates, at: float) -> Rates:
        cache = self._ahead
        provider_name, model, tier, horizon = key
        within = [now]
        while within[-1].valid_until <= at + horizon and len(within) < _MOST_TURNS:
            later = self._read((provider_name, model, tier), within[-1].valid_until)
            if later is None:
                break
            within.append(later)
        rates = _dearest_of(within)
        if (rates.steps, rates.request_picos, rates.web_search_picos, rates.unit_picos) == (
            now.steps, now.request_picos, now.web_search_picos, now.unit_picos
        ):  # fmt: skip
            rates = now  # prices only fall
        ahead = _Ahead(
            rates=rates,
            seen_from=now,
            # It holds while both ends of the horizon stay where they are.
            holds_from=max(now.valid_from, within[-1].valid_from - horizon),
            holds_until=min(now.valid_until, within[-1].valid_until - horizon),
        )
        _keep(cache, key, ahead)
        return rates

    def _read(self, key: _Key, at: float) -> Rates | None:
        provider_name, model, tier = key
        if len(tier) > _LONGEST_TIER:
            tier = _UNKNOWN_TIER
        if len(model) > LONGEST_NAME or len(provider_name) > LONGEST_NAME:
            return None
        provider = provider_id(provider_name)
        manual = self._manual.find(provider, model)
        if manual is not None:
            return attrs.evolve(manual.rates(provider, model), tier=tier)
        model = self.deployments.get(model, model)
        if not is_plausible(model):
            return None
        listed = _price_list()
        if is_free_variant(provider, model):
            return listed.free_rates(provider, model, tier)  # type: ignore[no-any-return]
        entry = listed.find_entry(provider, model)
        rates: Rates | None = None if entry is None else listed.rates_at(entry, at, tier)
        return listed.rates_of_units(provider, model, tier) if rates is None else rates

    def _forget(self) -> None:
        self._rates: dict[_Key, Rates] = {}
        self._served: dict[tuple[str, str, str, str], Rates] = {}
        #: What `tariff` has found, for the instants that it holds for.
        self.tariffs: dict[tuple[str, str, str, str], Tariff] = {}
        self._unknown: dict[_Key, float] = {}  # until when
        self._ahead: dict[_AheadKey, _Ahead] = {}
        self._stand_ins: dict[_Key, Rates] = {}


def _price_list() -> ModuleType:
    from farebox.prices import _list

    return _list


def _unknown_until(key: _Key, at: float) -> float:
    """When an unpriced model may get a price: on the list's next date for it, if it is on the list at all."""
    listed = _price_list()
    entry = listed.find_entry(provider_id(key[0]), key[1])
    return math.inf if entry is None else float(listed.validity(entry, at)[1])


def _dearest_of(rates: list[Rates]) -> Rates:
    return attrs.evolve(
        rates[0],
        steps=merge_dearest(one.steps for one in rates),
        request_picos=max(one.request_picos for one in rates),
        web_search_picos=max(one.web_search_picos for one in rates),
        unit_picos=tuple(map(max, zip(*(one.unit_picos for one in rates), strict=True))),
        valid_from=max((one.valid_from for one in rates), default=-math.inf),
        valid_until=min((one.valid_until for one in rates), default=math.inf),
    )


def _keep(cache: dict[_CacheKey, _Value], key: _CacheKey, value: _Value) -> None:
    """Remember, within bounds; to start over is the one eviction that needs no lock."""
    if len(cache) >= _MOST_CACHED:
        cache.clear()
    cache[key] = value
