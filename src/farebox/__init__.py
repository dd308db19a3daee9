"""farebox stops an LLM call before it overspends, and says who spent the rest."""

import typing as _typing
from importlib import import_module as _import_module

from farebox.errors import BudgetExceeded

if _typing.TYPE_CHECKING:
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
else:

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return _import_module(f"farebox.{name}")
        for home, names in _HOMES.items():
            if name in names.split():
                found = globals()[name] = getattr(_import_module(f"farebox.{home}"), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULES, *__all__})


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

#: Modules that are loaded when they are asked for, and modules by the names of `__all__` that load them.  What calls need is
#: there once `instrument()` has run.
_MODULES = ("on_exceed", "signals")
_HOMES = {
    "_config": "configure set_price",
    "_coverage": "coverage",
    "_estimate": "estimate",
    "_instrument": "instrument uninstrument",
    "_record": "record",
    "_report": "report",
    "_reserve": "reserve",
    "_scope": "budget carry current detach tag track",
    "_single_calls": "calls",
    "_status": "flush kill reset set_limit status top_up unkill",
}
