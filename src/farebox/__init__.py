"""farebox stops an LLM call before it overspends, and says who spent the rest."""

from farebox import _enforce as _enforce  # subscribes enforcement to the bus
from farebox import on_exceed, signals
from farebox._call import Call, CallRecord
from farebox._config import configure, set_price
from farebox._estimate import Estimate, estimate
from farebox._instrument import instrument, uninstrument
from farebox._record import record
from farebox._report import Report, calls, report
from farebox._scope import Frame, budget, carry, current, tag, track
from farebox.errors import BudgetExceeded, FareboxError, UnpricedModel

__all__ = [
    "BudgetExceeded",
    "Call",
    "CallRecord",
    "Estimate",
    "FareboxError",
    "Frame",
    "Report",
    "UnpricedModel",
    "budget",
    "calls",
    "carry",
    "configure",
    "current",
    "estimate",
    "instrument",
    "on_exceed",
    "record",
    "report",
    "set_price",
    "signals",
    "tag",
    "track",
    "uninstrument",
]
