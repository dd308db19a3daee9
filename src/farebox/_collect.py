"""Calls that one process leaves pending and another collects: a batch that one job submits and the next reads the results of.

What is needed to pay such a call is noted in its ledger beside its hold, by the provider and the id of the answer.  A process
that asks after an answer which none of its own calls waits for asks its ledger, makes the call anew of what is noted, and
settles the very hold that the other made.  The ledger sees to it that whoever comes second changes nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from farebox import _config
from farebox._call import BATCH, Call, CallRecord, Part
from farebox._line import Steps, Work, drive_task
from farebox._plan import Plan
from farebox._rows import dump, load
from farebox.errors import LedgerUnavailable
from farebox.ledgers import Grant, Ledger, Need, Noted

#: For how long what is noted stays held when its process has ended; then it is presumed spent until somebody collects it.
#: Providers promise a batch within a day, and who runs once a day may ask a day later; other answers take minutes.
_BATCH_LIVES_SECONDS: Final = 2 * 86_400.0
_OTHERS_LIVE_SECONDS: Final = 3_600.0

#: What a call says that its row does not and its price may depend on, and how it is read back.
_SAID: Final[Mapping[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(
        ("is_plain", "accepts_cap", "has_audio", "has_images", "reasons", "shows_all", "is_background", "is_fixed", "is_begun"),
        bool,
    ),
    **dict.fromkeys(("most_web_searches", "dead_attempts", "fixed_tokens", "fixed_usd_nanos"), int),
    "cache_write": str,
    "most_units": dict,
    "parts": lambda parts: tuple(Part(*part[: len(Part._fields)]) for part in parts),
}  # fmt: skip
#: What is the same in a call and in its record, and of one that has not ended.
_RECORDED: Final = (
    "sent_model response_model response_id request_id tier served_tier is_stream choices declared_cap sent_cap bound_usd_nanos "
    "bound_tokens attempts decision tags scope messages text_bytes system_bytes tools_bytes last_message_bytes accounts "
    "upstream_provider started_at_seconds"
).split()

_MOST_TAKEN: Final = 1_000
_logger = logging.getLogger("farebox")


class Collected(Call):
    """A call of another process, or of this one before it forgot it; its plan holds nothing before it is taken."""

    call_id = ""
    noted: Noted | None = None


class _Noted:
    """What the ledger in force knows of pending calls."""

    def __init__(self) -> None:
        #: Holds that this process has taken, so that of two threads one does.
        self._taken: dict[Any, object] = {}
        #: What was logged last of a ledger that does not answer, until it does.
        self._said = ""

    def leave(self, call: Call) -> None:
        plan: Plan | None = call.plan
        name = _name(call.provider_name, call.response_id)
        if plan is None or plan.grant is None or plan.is_unheld or not name:
            return  # there is no hold to end
        journal = plan.journal
        if type(journal).note is Ledger.note:
            return
        try:
            seconds = _BATCH_LIVES_SECONDS if call.operation_name == BATCH else _OTHERS_LIVE_SECONDS
            journal.note(plan.hold_id, name, _memo_of(call, plan, plan.grant), seconds)
        except Exception as error:
            _logger.error("a pending call can be settled by this process only: %s", type(error).__name__)

    def find(self, provider_name: str, response_id: str) -> Call | None:
        name = _name(provider_name, response_id)
        if not name:
            return None
        try:
            state = _config.state()
            noted = state.ledger.noted(name)
            self._said = ""
            return None if noted is None else _made_anew(noted, state)
        except LedgerUnavailable as error:
            if str(error) != self._said:
                self._said = str(error)
                _logger.error(
                    "%s; an answer that another process waits for stays unpaid until it is asked for again", error
                )
        except Exception as error:
            _logger.error("a pending call of another process can't be read: %s", type(error).__name__)
        return None

    async def afind(self, provider_name: str, response_id: str) -> Call | None:
        found: list[Call | None] = []

        def steps() -> Steps:
            found.append((yield Work(lambda: self.find(provider_name, response_id), lambda: None)))

        await drive_task(steps())
        return found[0]

    def take(self, call: Call) -> bool:
        if not isinstance(call, Collected) or call.noted is None:
            return False
        noted, call.noted = call.noted, None
        mine = object()
        if self._taken.setdefault(noted.hold, mine) is not mine:
            return False
        while len(self._taken) > _MOST_TAKEN:
            self._taken.pop(next(iter(self._taken)), None)
        call.plan.journal.collect(call.plan.hold_id, noted)
        return True


NOTED: Final = _Noted()


def _name(provider_name: str, response_id: str) -> str:
    """What an answer is noted by; "" for one that no store is to be asked about."""
    name = f"{provider_name} {response_id}"
    return name if response_id and name.isascii() and name.isprintable() else ""


def _memo_of(call: Call, plan: Plan, grant: Grant) -> str:
    """All that is needed to pay the call, as text: its row as it stands, what it was held for, and what it says besides."""
    said = {name: getattr(call, name) for name in _SAID}
    said = {name: dict(value) if name == "most_units" else value for name, value in said.items() if value is not None}
    return json.dumps({"row": dump(call), "grant": grant, "need": plan.need, "said": said}, separators=(",", ":"))


def _made_anew(noted: Noted, state: _config.State) -> Collected:
    """The call that was noted, as if this process had made it; fields of a newer version are passed over."""
    memo = json.loads(noted.memo)
    record, grant, need = load(memo["row"]), Grant(*memo["grant"]), Need(*memo["need"])
    call = _open_call(record)
    call.noted = noted
    for name, value in memo["said"].items():
        if name in _SAID:
            setattr(call, name, _SAID[name](value))
    at, tier = call.started_at_seconds, call.tier
    rates = state.card.find(call.provider_name, call.model, at, tier)
    if rates is None and grant.usd_nanos and call.fixed_usd_nanos is None:
        rates = state.card.find_stand_in(call.provider_name, at, tier)
    call.plan = Plan(None, None, state, need, rates, None, call.number)
    call.plan.grant = grant
    return call


def _open_call(record: CallRecord) -> Collected:
    call = Collected(
        provider_name=record.provider_name,
        operation_name=record.operation_name,
        endpoint=record.endpoint,
        request_model=record.request_model,
        server_address=record.server_address,
    )
    call.call_id = record.call_id
    for name in _RECORDED:
        setattr(call, name, getattr(record, name))
    return call
