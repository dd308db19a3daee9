"""What farebox says: the errors of a refusal, the warnings, and the events of `signals.decision`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final, Literal

import attrs

from farebox import signals
from farebox._budget import in_unit, show
from farebox._call import Call
from farebox._frames import BudgetFrame, Frame, Speaker
from farebox._warn import warn_late
from farebox.errors import (
    BudgetExceeded,
    BudgetWarning,
    CutAnswerWarning,
    UnboundedCall,
    Unit,
    UnmeteredCall,
    UnmeteredWarning,
    UnpricedModel,
    UnpricedWarning,
)
from farebox.ledgers import NO_LIMIT, Shortfall
from farebox.on_exceed import DecisionEvent, Short
from farebox.providers._servers import is_local

_logger = logging.getLogger("farebox")

_MOST_UNPRICED_NAMES: Final = 1_024
_warned_unpriced: set[tuple[str, str]] = set()
_warned_unmetered: set[tuple[str, str]] = set()


def short_of(call: Call, speaker: Speaker, short: Shortfall, rung: float | None = None) -> Short:
    """A shortfall as a mode is asked about it; at a rung, the numbers of a call that may fit."""
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
        rung=rung,
        resets_at=speaker.resets_at,
        resets_in_seconds=speaker.resets_in_seconds,
        call=call,
    )


def publish_decision(speaker: Speaker, short: Short, mode: str, did: Any) -> None:
    """Tell everybody what a mode decided, once the call is as it will be sent."""
    call = short.call
    call.decision = did
    event = DecisionEvent(
        did=did,
        mode=mode,
        call_id=call.call_id,
        model=call.model,
        sent_cap=call.sent_cap,
        **{name: getattr(short, name) for name in _NUMBERS},
    )
    _publish(speaker, event)


#: What a decision is made on, and published with it.
_NUMBERS: Final = tuple(field.name for field in attrs.fields(Short) if field.name not in ("call", "resets_in_seconds"))


def publish_cut(call: Call, speaker: Speaker, cap: int, *, warns: bool) -> None:
    """An answer ended at the cap that farebox sent; warned about once a frame, unless it will be raised."""
    _publish(speaker, _after_the_fact(call, speaker, "cut"))
    if warns and "cut" not in speaker.warned:
        speaker.warned.add("cut")
        warn_late(
            f"an answer of {call.model} ended at {cap} output tokens, the cap that was sent for budget "
            f"{speaker.budget.name!r}; "
            + (
                "raise its output_cap"
                if speaker.budget.output_cap == cap
                else "declare a cap yourself, or raise the limit"
            ),
            CutAnswerWarning,
        )


def publish_debt(call: Call, speakers: Sequence[Speaker]) -> None:
    """A call took more than was held for it, or than was left."""
    _logger.warning(
        "%s cost %s with a bound of %s; what is past the bound or the limit is charged and kept as debt",
        _what(call),
        show("usd", call.cost_usd_nanos or 0),
        show("usd", call.bound_usd_nanos),
    )
    for speaker in speakers:
        _publish(speaker, _after_the_fact(call, speaker, "debt"))


def exceeded(call: Call, speaker: Speaker, short: Shortfall, path: str, rung: float | None = None) -> BudgetExceeded:
    """The error of a refusal: who is short, what was needed, what there was, and what to do."""
    budget, unit = speaker.budget, short.unit
    if rung is not None:
        remedy = f"spent has reached the rung at {rung:.0%} of the limit, from where on calls are refused"
    elif short.kind == "oversized" and unit == "calls":
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
    elif isinstance(speaker, BudgetFrame):
        remedy = "waiting is useless: a new scope starts with its full limit"
    elif speaker.resets_at is None:
        remedy = f"its limit never starts again; write farebox.set_limit({budget.name!r}, ...) to raise it"
    else:
        remedy = "waiting is useless until then"
    again = "" if speaker.resets_at is None else f"; it starts again {speaker.resets_at:%Y-%m-%dT%H:%MZ}"
    return BudgetExceeded(
        f"budget {budget.name!r} ({show(unit, short.limit)}{speaker.period}) needs {show(unit, short.needed)} for "
        f"{_what(call)} but has {show(unit, max(0, short.limit - short.spent - short.reserved))} remaining{again}\n"
        f"  scope: {path or '-'}; spent {show(unit, short.spent)}, reserved {show(unit, short.reserved)}; {remedy}",
        budget=budget.name,
        scope=path,
        unit=unit,
        limit=in_unit(unit, short.limit),
        spent=in_unit(unit, short.spent),
        reserved=in_unit(unit, short.reserved),
        needed=in_unit(unit, short.needed),
        kind=short.kind,
        resets_at=speaker.resets_at,
    )


def killed(call: Call, speaker: Speaker, short: Shortfall, path: str) -> BudgetExceeded:
    """The error of a call under a budget that a person has switched off."""
    budget, unit = speaker.budget, short.unit
    unkill, tags = (
        f"farebox.unkill({budget.name!r}",
        ", ".join(f"{name}={value!r}" for name, value in speaker.tags.items()),
    )
    remedy = f"{unkill})"
    if len(speaker.tags) == 1:
        remedy += f" or {unkill}, {tags}), as it was killed,"
    elif tags:
        remedy += f", with those of {tags} that it was killed with,"
    else:
        remedy += ", as it was killed,"
    return BudgetExceeded(
        f"budget {budget.name!r}{speaker.period} was killed, so {_what(call)} was not called; "
        f"{remedy} lets it go on\n"
        f"  scope: {path or '-'}; spent {show(unit, short.spent)}, reserved {show(unit, short.reserved)}",
        budget=budget.name,
        scope=path,
        unit=unit,
        limit=in_unit(unit, short.limit),
        spent=in_unit(unit, short.spent),
        reserved=in_unit(unit, short.reserved),
        needed=in_unit(unit, short.needed),
        kind="exhausted",
    )


def unbounded(call: Call, speaker: Speaker, what: tuple[str, ...]) -> UnboundedCall:
    """The error of a call with input that has no proven bound, under a budget that wants one."""
    name = speaker.budget.name
    return UnboundedCall(
        f"a call to {call.model} holds {', '.join(what)}, whose input tokens nobody can bound, and budget {name!r} has "
        'input_bound="bytes"; nothing was sent\n'
        f'  send it in another form, or write budget({name!r}, input_bound="estimate")',
        budget=name,
        what=what,
    )


def crossed(call: Call, speaker: Speaker) -> BudgetExceeded | None:
    """The error of a call that was let cross a limit, once it is over; None where it did not pass it after all."""
    event = _after_the_fact(call, speaker, "debt")
    # Looked at last: whoever was let cross after this one ended may have passed it, and will hear of it.
    if event.spent <= event.limit or speaker.crossing.get("call") != call.number:
        return None
    return _over(speaker, event, f"was passed by {_what(call)}, as its mode allows once")


def cut_short(call: Call, speaker: Speaker) -> BudgetExceeded:
    """The error of a stream that was cut at what a budget had left."""
    event = _after_the_fact(call, speaker, "cut")
    return _over(speaker, event, f"cut a stream of {call.model} at the {call.sent_cap} output tokens it could pay for")


def _over(speaker: Speaker, event: DecisionEvent, what: str) -> BudgetExceeded:
    unit, name = event.unit, speaker.budget.name
    return BudgetExceeded(
        f"budget {name!r} ({_shown(unit, event.limit)}{speaker.period}) {what}\n"
        f"  scope: {speaker.path}; spent {_shown(unit, event.spent)}, of it {_shown(unit, event.needed)} by this call",
        budget=name,
        scope=speaker.path,
        unit=unit,
        limit=event.limit,
        spent=event.spent,
        reserved=event.reserved,
        needed=event.needed,
        kind="exhausted",
        resets_at=speaker.resets_at,
    )


def _what(call: Call) -> str:
    """What is paid for, in a message: the model, or what is done without one."""
    return call.model or call.operation_name


def _shown(unit: Unit, amount: Decimal | int) -> str:
    return f"{amount:f} USD" if isinstance(amount, Decimal) else show(unit, amount)


def forked(frame: Frame) -> BudgetExceeded:
    """The error of a call under a budget that a forked child inherited."""
    speakers = (one for one in frame.budgets if isinstance(one, BudgetFrame) and one.is_inherited)
    name = next(speakers, frame.budgets[0]).budget.name
    return BudgetExceeded(
        f"budget {name!r} was opened in the parent process and can't be shared with this forked child\n"
        f"  scope: {frame.path}; open one in the child: with budget({name!r}, ...): ...",
        budget=name,
        scope=frame.path,
        kind="forked",
    )


def unpriced(call: Call, speaker: Speaker, known: list[str]) -> UnpricedModel:
    """The error of a model without a price under a usd limit."""
    return UnpricedModel(
        f"model {call.model!r} of {call.provider_name} has no price, and budget {speaker.budget.name!r} has a usd limit; "
        f"nothing was sent\n  write: {_price_to_write(call, call.model)}"
        + (f"; priced and similar: {', '.join(known)}" if known else ""),
        provider_name=call.provider_name,
        model=call.model,
    )


def _asked(call: Call) -> str:
    """What was asked for, where no provider knows it."""
    return call.endpoint if call.endpoint.startswith("websocket") else f"POST {call.endpoint}"


def _price_to_write(call: Call, model: str) -> str:
    """The line that says what a model costs, as far as its server lets it be guessed."""
    line = f"farebox.set_price({model!r}, input_per_million=..., output_per_million=...)"
    if call.provider_name == "azure.ai.openai":
        return f"farebox.configure(deployments={{{model!r}: 'gpt-4o'}}) with the model that was deployed, or {line}"
    if is_local(call.server_address):
        return f"{line}, with 0 for both if this server of your own costs nothing"
    return line


def unmetered(call: Call, speaker: Speaker) -> UnmeteredCall:
    """The error of a request that may be billed and that nobody here can read, under a limit in usd or tokens."""
    name, unit = speaker.budget.name, "usd" if speaker.budget.limit_usd_nanos != NO_LIMIT else "tokens"
    return UnmeteredCall(
        f"{_asked(call)} of {call.provider_name} may be billed, farebox can't meter it, and budget {name!r} has a "
        f"{unit} limit; nothing was sent\n  why: {call.doubt}\n"
        f'  write budget({name!r}, on_unmetered="warn") to send such requests, counted and at an unknown cost; '
        "farebox.reserve(usd=...) holds what you know that they cost",
        budget=name,
        provider_name=call.provider_name,
        endpoint=call.endpoint,
    )


def publish_unmetered(call: Call, speaker: Speaker, did: Literal["stop", "unmetered"]) -> None:
    """A budget has stopped a request that nobody here can read, or let it go at an unknown cost."""
    call.decision = did
    _publish(speaker, _after_the_fact(call, speaker, did))


def warn_unmetered(call: Call) -> None:
    """A request that may be billed is sent unmetered; warned about once an endpoint."""
    key = (call.provider_name, call.endpoint)
    if key not in _warned_unmetered and len(_warned_unmetered) < _MOST_UNPRICED_NAMES:
        _warned_unmetered.add(key)
        warn_late(
            f"{_asked(call)} of {call.provider_name} may be billed, and farebox can't meter it: it is counted, "
            'its cost is unknown, and no usd or tokens limit holds it; under one it is refused unless on_unmetered="warn" '
            'or "allow"',
            UnmeteredWarning,
        )


def warn_unpriced(call: Call) -> None:
    """A call was recorded without a price; warned about once a model."""
    if call.is_unmetered:
        return  # which was said before it was sent
    key = (call.provider_name, call.response_model or call.model)
    if key not in _warned_unpriced and len(_warned_unpriced) < _MOST_UNPRICED_NAMES:
        _warned_unpriced.add(key)
        warn_late(
            f"model {key[1]!r} of {key[0]} has no price: its calls are counted but not priced; "
            f"write {_price_to_write(call, key[1])}",
            UnpricedWarning,
        )


def warn_passed(call: Call, speaker: Speaker, short: Shortfall) -> None:
    """A budget that can't stop is passed; warned about once a frame."""
    if "passed" not in speaker.warned:
        speaker.warned.add("passed")
        unit = short.unit
        warn_late(
            f"budget {speaker.budget.name!r} ({show(unit, short.limit)}{speaker.period}) may be passed by {call.model}: spent "
            f"{show(unit, short.spent)}, reserved {show(unit, short.reserved)}, needs up to {show(unit, short.needed)}",
            BudgetWarning,
        )


def _after_the_fact(call: Call, speaker: Speaker, did: Any) -> DecisionEvent:
    """An event in the first unit that the budget limits."""
    view, budget = speaker.view(), speaker.budget
    balance = view.balance
    numbers: tuple[tuple[Unit, int, int, int, int], ...] = (
        (
            "usd",
            view.limit_usd_nanos,
            balance.spent_usd_nanos,
            balance.reserved_usd_nanos,
            call.cost_usd_nanos or 0,
        ),
        (
            "tokens",
            view.limit_tokens,
            balance.spent_tokens,
            balance.reserved_tokens,
            call.charged_input_tokens + call.charged_output_tokens,
        ),
        ("calls", view.limit_calls, balance.spent_calls, balance.reserved_calls, 1),
    )
    limited = [row for row in numbers if row[1] != NO_LIMIT]
    unit, limit, spent, reserved, needed = next((row for row in limited if row[2] > row[1]), limited[0])
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
        sent_cap=call.sent_cap,
    )


def _publish(speaker: Speaker, event: DecisionEvent) -> None:
    speaker.note(event)
    signals.decision.send(event.budget, decision=event)
