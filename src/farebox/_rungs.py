"""The rungs below a limit: noticed when spent reaches them, once per window, unit and rung; told and published."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator

import attrs

from farebox import _line, signals
from farebox._budget import Rung, in_unit
from farebox._frames import Frame, Speaker
from farebox.errors import LedgerUnavailable, Unit
from farebox.ledgers import Shortfall, View
from farebox.on_exceed import Threshold

_logger = logging.getLogger("farebox")


@attrs.frozen(eq=False)
class Reached:
    """A rung that this process sees reached for the first time."""

    rung: Rung
    event: Threshold
    #: What it is called in a ledger that others share, so that only the first of them tells it.
    mark: str
    speaker: Speaker

    def forget(self) -> None:
        """Nobody could say whether it was told: have it noticed again."""
        self.speaker.entered_rungs.pop((self.event.unit, self.rung.share), None)

    def tell(self) -> None:
        """Publish it, and call the callable that asked for it."""
        event, rung = self.event, self.rung
        signals.threshold.send(event.budget, threshold=event)
        if rung.notify is not None:
            try:
                rung.notify(event)
            except Exception as error:
                # The message of a foreign error may quote a prompt: its class is enough to find it.
                _logger.error(
                    "the callable at rung %s of budget %r raised %s", rung.share, event.budget, type(error).__name__
                )


def enter_rungs(frame: Frame) -> None:
    """Enter and tell every rung of the budgets in force that spent has reached meanwhile.  Waits for no store."""
    for speaker in frame.budgets:
        for rung in reached(speaker):
            if speaker.ledger is not None and speaker.ledger.blocking:
                _line.in_background(functools.partial(_tell_if_first, speaker, rung))
            else:
                _tell_if_first(speaker, rung)


def _tell_if_first(speaker: Speaker, rung: Reached) -> None:
    try:
        is_first = speaker.is_first_at(rung.mark)
    except LedgerUnavailable:
        rung.forget()
        return
    if is_first:
        rung.tell()


def reached(speaker: Speaker) -> Iterator[Reached]:
    """The rungs that spent has reached by now; each is entered, and so yielded once."""
    if not speaker.budget.rungs:
        return
    view = speaker.view()
    for rung in speaker.budget.rungs:
        for unit, limit, spent, _ in _numbers(view):
            threshold = rung.threshold(limit)
            if threshold is None or spent < threshold:
                continue
            mark = object()
            if speaker.entered_rungs.setdefault((unit, rung.share), mark) is not mark:
                continue
            event = Threshold(
                budget=speaker.budget.name,
                scope=speaker.path,
                unit=unit,
                share=rung.share,
                limit=in_unit(unit, limit),
                spent=in_unit(unit, spent),
            )
            yield Reached(rung, event, f"rung {unit} {rung.share}", speaker)


def at_rung(speaker: Speaker, needed: tuple[int, int, int]) -> Shortfall:
    """The numbers of a budget whose rung speaks, in the first unit that has reached it."""
    assert speaker.rung is not None
    for i, (unit, limit, spent, reserved) in enumerate(_numbers(speaker.view())):
        if (unit, speaker.rung.share) in speaker.entered_rungs:
            return Shortfall(speaker.account, unit, limit, spent, reserved, needed[i], "exhausted")
    raise AssertionError("a rung speaks that no unit has reached")


def _numbers(view: View) -> tuple[tuple[Unit, int, int, int], ...]:
    balance = view.balance
    return (
        ("usd", view.limit_usd_nanos, balance.spent_usd_nanos, balance.reserved_usd_nanos),
        ("tokens", view.limit_tokens, balance.spent_tokens, balance.reserved_tokens),
        ("calls", view.limit_calls, balance.spent_calls, balance.reserved_calls),
    )
