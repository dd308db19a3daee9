"""The rungs below a limit: noticed when spent reaches them, once per window, unit and rung; told and published."""

from __future__ import annotations

import logging

from farebox import signals
from farebox._budget import Rung, in_unit
from farebox._frames import BudgetFrame, Frame
from farebox.errors import Unit
from farebox.ledgers import Balance, Shortfall
from farebox.on_exceed import Threshold

_logger = logging.getLogger("farebox")


def enter_rungs(frame: Frame) -> None:
    """Enter every rung of the budgets in force that spent has reached meanwhile."""
    for speaker in frame.budgets:
        if speaker.budget.rungs:
            _enter(speaker)


def _enter(speaker: BudgetFrame) -> None:
    assert speaker.ledger is not None
    balance = speaker.ledger.balance(speaker.account)
    for rung in speaker.budget.rungs:
        for (unit, limit, spent, _), threshold in zip(_numbers(speaker, balance), rung.thresholds, strict=True):
            if threshold is None or spent < threshold:
                continue
            mark = object()
            if speaker.entered_rungs.setdefault((unit, rung.share), mark) is not mark:
                continue
            _tell(
                rung,
                Threshold(
                    budget=speaker.budget.name,
                    scope=speaker.path,
                    unit=unit,
                    share=rung.share,
                    limit=in_unit(unit, limit),
                    spent=in_unit(unit, spent),
                ),
            )


def _tell(rung: Rung, event: Threshold) -> None:
    signals.threshold.send(event.budget, threshold=event)
    if rung.notify is not None:
        try:
            rung.notify(event)
        except Exception as error:
            # The message of a foreign error may quote a prompt: its class is enough to find it.
            _logger.error(
                "the callable at rung %s of budget %r raised %s", rung.share, event.budget, type(error).__name__
            )


def at_rung(speaker: BudgetFrame, needed: tuple[int, int, int]) -> Shortfall:
    """The numbers of a budget whose rung speaks, in the first unit that has reached it."""
    assert speaker.ledger is not None
    assert speaker.rung is not None
    balance = speaker.ledger.balance(speaker.account)
    for i, (unit, limit, spent, reserved) in enumerate(_numbers(speaker, balance)):
        if (unit, speaker.rung.share) in speaker.entered_rungs:
            return Shortfall(speaker.account, unit, limit, spent, reserved, needed[i], "exhausted")
    raise AssertionError("a rung speaks that no unit has reached")


def _numbers(speaker: BudgetFrame, balance: Balance) -> tuple[tuple[Unit, int, int, int], ...]:
    budget = speaker.budget
    return (
        ("usd", budget.limit_usd_nanos, balance.spent_usd_nanos, balance.reserved_usd_nanos),
        ("tokens", budget.limit_tokens, balance.spent_tokens, balance.reserved_tokens),
        ("calls", budget.limit_calls, balance.spent_calls, balance.reserved_calls),
    )
