"""What a call costs, and what it can cost at most.

    card = RateCard()
    rates = card.find("openai", "gpt-5-mini", at=time.time())
    most_in, most_out = rates.bound(1_200)
    cost_nanos = rates.charge_nanos(usage)

A rate is found in the order: the user's own prices, then the list prices of genai-prices as corrected by `_overlay`.  A
model that neither knows has no rates (`None`), never a price of zero.  What a model takes and can do is data of our own:
`model_limits`, and `ladders` of models that step down in price.
"""

from farebox.prices import ladders
from farebox.prices._card import NO_TARIFF, RateCard, Tariff
from farebox.prices._manual import ManualPrice, read_prices
from farebox.prices._rates import Rates
from farebox.prices.limits import ModelLimits, model_limits

__all__ = [
    "NO_TARIFF",
    "ManualPrice",
    "ModelLimits",
    "RateCard",
    "Rates",
    "Tariff",
    "ladders",
    "model_limits",
    "read_prices",
]
