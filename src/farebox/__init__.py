"""farebox stops an LLM call before it overspends, and says who spent the rest."""

from farebox import _enforce as _enforce  # subscribes enforcement to the bus
from farebox import on_exceed as on_exceed
from farebox import signals as signals
from farebox._config import configure, set_price
from farebox._coverage import coverage
from farebox._estimate import estimate
from farebox._instrument import instrument, uninstrument
from farebox._record import record
from farebox._report import report
from farebox._reserve import reserve
from farebox._scope import budget, carry, current, detach, tag, track
from farebox._single_calls import calls
from farebox._status import flush, kill, reset, set_limit, status, top_up, unkill
from farebox.errors import BudgetExceeded

__all__ = [
    "BudgetExceeded",
    "budget",
    "calls",
    "carry",
    "configure",
    "coverage",
    "current",
    "detach",
    "estimate",
    "flush",
    "instrument",
    "kill",
    "record",
    "report",
    "reserve",
    "reset",
    "set_limit",
    "set_price",
    "status",
    "tag",
    "top_up",
    "track",
    "uninstrument",
    "unkill",
]
