"""What keeps the workers of one run within one budget: each call is held in a SQLite ledger that they share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

from farebox import signals
from farebox._call import Call
from farebox._money import show_usd
from farebox.errors import BudgetExceeded
from farebox.ledgers import Account, Grant, Need, Shortfall, open_ledger
from farebox.testing._plugin_limits import RUN

_PATIENCE_SECONDS: Final = 30.0
_LOOK_AGAIN_SECONDS: Final = 0.02


class Gate:
    """Holds the bound of every call of this worker against the budget of all of them, and settles what it cost."""

    def __init__(self, folder: str, limit_usd_nanos: int) -> None:
        self._ledger = open_ledger(f"sqlite:///{Path(folder) / 'run.db'}")
        self._account = Account("run", RUN, limit_usd_nanos)
        self._held_nanos: dict[int, int] = {}
        #: Whether a call was refused because the run has spent its budget.
        self.is_exhausted = False

    def listen(self) -> None:
        signals.pre_call.connect(self._before_call)
        signals.pre_retry.connect(self._before_retry)
        signals.post_call.connect(self._after_call)

    def close(self) -> None:
        signals.pre_call.disconnect(self._before_call)
        signals.pre_retry.disconnect(self._before_retry)
        signals.post_call.disconnect(self._after_call)
        self._ledger.flush()
        self._ledger.close()

    def _before_call(self, provider_name: str, *, call: Call) -> Coroutine[Any, Any, None] | None:
        give_up_at = time.monotonic() + _PATIENCE_SECONDS
        if call.is_async:
            return self._hold_async(call, give_up_at)
        while (short := self._hold(call)) is not None:
            self._refuse(call, short, give_up_at)
            time.sleep(_LOOK_AGAIN_SECONDS)
        return None

    async def _hold_async(self, call: Call, give_up_at: float) -> None:
        while (short := await asyncio.to_thread(self._hold, call)) is not None:
            self._refuse(call, short, give_up_at)
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    def _hold(self, call: Call) -> Shortfall | None:
        need = Need(fixed_usd_nanos=call.bound_usd_nanos, fixed_tokens=0, tokens_per_token=0)
        answer = self._ledger.reserve(call.number, (self._account,), need)
        if isinstance(answer, Grant):
            self._held_nanos[call.number] = call.bound_usd_nanos
            return None
        return answer

    def _refuse(self, call: Call, short: Shortfall, give_up_at: float) -> None:
        """Raise, unless calls of other workers are still under way and may leave enough."""
        if short.kind == "contended" and time.monotonic() < give_up_at:
            return
        self.is_exhausted = self.is_exhausted or short.kind == "exhausted"
        left = max(0, short.limit - short.spent - short.reserved)
        raise BudgetExceeded(
            f"budget {RUN!r} ({show_usd(short.limit)} USD) needs {show_usd(short.needed)} USD for {call.model} "
            f"but has {show_usd(left)} USD remaining\n  all workers of this run together: spent "
            f"{show_usd(short.spent)} USD, reserved {show_usd(short.reserved)} USD",
            budget=RUN,
            scope=RUN,
            kind=short.kind,
        )

    def _before_retry(self, provider_name: str, *, call: Call) -> None:
        held = self._held_nanos.get(call.number)
        if held is None:
            return
        answer = self._ledger.extend(call.number, call.bound_usd_nanos - held, 0)
        if isinstance(answer, Shortfall):
            self._refuse(call, answer, give_up_at=0.0)
        self._held_nanos[call.number] = call.bound_usd_nanos

    def _after_call(self, provider_name: str, *, call: Call) -> None:
        held = self._held_nanos.pop(call.number, None)
        if held is not None:
            self._ledger.settle(call.number, call.cost_usd_nanos or 0, 0)
        elif call.cost_usd_nanos:
            self._ledger.charge(call.number, (self._account,), call.cost_usd_nanos, 0)
