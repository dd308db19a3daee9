"""farebox stops an LLM call before it overspends, and says who spent the rest."""

from farebox import _enforce as _enforce  # subscribes enforcement to the bus
from farebox import on_exceed, signals
from farebox._config import configure, set_price
from farebox._estimate import estimate
from farebox._instrument import instrument, uninstrument
from farebox._record import record
from farebox._report import calls, report
from farebox._reserve import reserve
from farebox._scope import budget, carry, current, detach, tag, track
from farebox.errors import BudgetExceeded, FareboxError, UnpricedModel

__all__ = [
    "BudgetExceeded",
    "FareboxError",
    "UnpricedModel",
    "budget",
    "calls",
    "carry",
    "configure",
    "current",
    "detach",
    "estimate",
    "instrument",
    "on_exceed",
    "record",
    "report",
    "reserve",
    "set_price",
    "signals",
    "tag",
    "track",
    "uninstrument",
]
