"""What farebox says: the errors of a refusal, the warnings, and the events of `signals.decision`."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from typing import Any, Final

import attrs

from farebox import signals
from farebox._budget import in_unit, show
from farebox._call import Call
from farebox._scope import BudgetFrame, Frame
from farebox.errors import BudgetExceeded, BudgetWarning, CutAnswerWarning, Unit, UnpricedModel, UnpricedWarning
from farebox.ledgers import NO_LIMIT, Shortfall
from farebox.on_exceed import DecisionEvent, Short

_logger = logging.getLogger("farebox")

_MOST_UNPRICED_NAMES: Final = 1_024
_warned_unpriced: set[tuple[str, str]] = set()


def short_of(call: Call, speaker: BudgetFrame, short: Shortfall) -> Short:
    """A shortfall as a mode is asked about it."""
    unit = short.unit
    return Short(
        budget=speaker.budget.name,
        scope=speaker.path,
        unit=unit,
        limit=in_unit(unit, short.limit),
        spent=in_unit(unit, short.spent),
        reserved=in_unit(unit, short.reserved),
        needed=in_unit(unit, short.needed),
        kind=short.kind,
        call=call,
    )


def publish_decision(call: Call, speaker: BudgetFrame, short: Shortfall, did: Any) -> None:
    """Tell everybody what the mode of a short budget decided."""
    call.decision = did
    numbers = short_of(call, speaker, short)
    event = DecisionEvent(
        did=did,
        mode=speaker.budget.mode.name,
        call_id=call.call_id,
        model=call.model,
        **{name: getattr(numbers, name) for name in _NUMBERS},
    )
    _publish(speaker, event)


#: What a decision is made on, and published with it.
_NUMBERS: Final = tuple(field.name for field in attrs.fields(Short) if field.name != "call")


def publish_cut(call: Call, speaker: BudgetFrame, cap: int) -> None:
    """An answer ended at the cap that farebox sent; warned about once a frame."""
    _publish(speaker, _after_the_fact(call, speaker, "cut"))
    if not speaker.has_warned:
        speaker.has_warned = True
        _warn_late(
            f"an answer of {call.model} ended at {cap} output tokens, the cap that budget {speaker.budget.name!r} "
            "could pay for; declare a cap yourself, or raise the limit",
            CutAnswerWarning,
        )


def publish_debt(call: Call, speakers: Sequence[BudgetFrame]) -> None:
    """A call took more than was held for it, or than was left."""
    _logger.warning(
        "%s cost %s with a bound of %s; what is past the bound or the limit is charged and kept as debt",
        call.model,
        show("usd", call.cost_usd_nanos or 0),
        show("usd", call.bound_usd_nanos),
    )
    for speaker in speakers:
        _publish(speaker, _after_the_fact(call, speaker, "debt"))


def exceeded(call: Call, speaker: BudgetFrame, short: Shortfall, path: str) -> BudgetExceeded:
    """The error of a refusal: who is short, what was needed, what there was, and what to do."""
    budget, unit = speaker.budget, short.unit
    if short.kind == "oversized" and unit == "calls":
        remedy = "the limit does not allow a single call: raise it"
    elif short.kind == "oversized" and call.declared_cap is not None:
        remedy = (
            "this call alone needs more than the whole limit: "
            f"its output cap is {call.declared_cap} tokens, declare a lower one or raise the limit"
        )
    elif short.kind == "oversized":
        remedy = (
            "this call alone needs more than the whole limit, even for a short answer: raise it or shorten the input"
        )
    elif short.kind == "contended":
        remedy = "it would fit once calls in flight settle: finish or close the streams that are open, or wait longer"
    else:
        remedy = "waiting is useless: a new scope starts with its full limit"
    return BudgetExceeded(
        f"budget {budget.name!r} ({show(unit, short.limit)}) needs {show(unit, short.needed)} for {call.model} "
        f"but has {show(unit, max(0, short.limit - short.spent - short.reserved))} remaining\n"
        f"  scope: {path}; spent {show(unit, short.spent)}, reserved {show(unit, short.reserved)}; {remedy}",
        budget=budget.name,
        scope=path,
        unit=unit,
        limit=in_unit(unit, short.limit),
        spent=in_unit(unit, short.spent),
        reserved=in_unit(unit, short.reserved),
        needed=in_unit(unit, short.needed),
        kind=short.kind,
    )


def forked(frame: Frame) -> BudgetExceeded:
    """The error of a call under a budget that a forked child inherited."""
    name = frame.budgets[0].budget.name
    return BudgetExceeded(
        f"budget {name!r} was opened in the parent process and can't be shared with this forked child\n"
        f"  scope: {frame.path}; open one in the child: with budget({name!r}, ...): ...",
        budget=name,
        scope=frame.path,
        kind="forked",
    )


def unpriced(call: Call, speaker: BudgetFrame, known: list[str]) -> UnpricedModel:
    """The error of a model without a price under a usd limit."""
    return UnpricedModel(
        f"model {call.model!r} of {call.provider_name} has no price, and budget {speaker.budget.name!r} has a usd limit; "
        "nothing was sent\n"
        f"  write: farebox.set_price({call.model!r}, input_per_million=..., output_per_million=...)"
        + (f"; priced and similar: {', '.join(known)}" if known else ""),
        provider_name=call.provider_name,
        model=call.model,
    )


def warn_unpriced(call: Call) -> None:
    """A call was recorded without a price; warned about once a model."""
    key = (call.provider_name, call.response_model or call.model)
    if key not in _warned_unpriced and len(_warned_unpriced) < _MOST_UNPRICED_NAMES:
        _warned_unpriced.add(key)
        _warn_late(
            f"model {key[1]!r} of {key[0]} has no price: its calls are counted but not priced; "
            f"write farebox.set_price({key[1]!r}, input_per_million=..., output_per_million=...)",
            UnpricedWarning,
        )


def warn_passed(call: Call, speaker: BudgetFrame, short: Shortfall) -> None:
    """A budget that can't stop is passed; warned about once a frame."""
    if not speaker.has_warned:
        speaker.has_warned = True
        unit = short.unit
        _warn_late(
            f"budget {speaker.budget.name!r} ({show(unit, short.limit)}) may be passed by {call.model}: spent "
            f"{show(unit, short.spent)}, reserved {show(unit, short.reserved)}, needs up to {show(unit, short.needed)}",
            BudgetWarning,
        )


def _after_the_fact(call: Call, speaker: BudgetFrame, did: Any) -> DecisionEvent:
    """An event in the first unit that the budget limits."""
    assert speaker.ledger is not None
    balance, budget = speaker.ledger.balance(speaker.account), speaker.budget
    numbers: tuple[tuple[Unit, int, int, int, int], ...] = (
        (
            "usd",
            budget.limit_usd_nanos,
            balance.spent_usd_nanos,
            balance.reserved_usd_nanos,
            call.cost_usd_nanos or 0,
        ),
        (
            "tokens",
            budget.limit_tokens,
            balance.spent_tokens,
            balance.reserved_tokens,
            call.charged_input_tokens + call.charged_output_tokens,
        ),
        ("calls", budget.limit_calls, balance.spent_calls, balance.reserved_calls, 1),
    )
    unit, limit, spent, reserved, needed = next(row for row in numbers if row[1] != NO_LIMIT)
    return DecisionEvent(
        did=did,
        mode=budget.mode.name,
        budget=budget.name,
        scope=speaker.path,
        unit=unit,
        limit=in_unit(unit, limit),
        spent=in_unit(unit, spent),
        reserved=in_unit(unit, reserved),
        needed=in_unit(unit, needed),
        kind=None,
        call_id=call.call_id,
        model=call.model,
    )


def _publish(speaker: BudgetFrame, event: DecisionEvent) -> None:
    speaker.note(event)
    signals.decision.send(event.budget, decision=event)


def _warn(message: str, category: type[Warning]) -> None:
    """Warn at the line of the program that made the call, not at one of ours or of an SDK."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_THE_PROGRAM:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


_NOT_THE_PROGRAM: Final = ("farebox", "openai", "anthropic", "google", "asyncio")


def _warn_late(message: str, category: type[Warning]) -> None:
    """Warn; where warnings are errors log it, for neither a paid answer nor a budget that only warns may raise."""
    try:
        _warn(message, category)
    except Warning:
        _logger.warning("%s", message)
