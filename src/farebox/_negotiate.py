"""What happens when a call does not fit, or a rung has a say: the budgets speak, and the call waits, changes or stops.

Written once as a generator, which two drivers run (`_line`): one parks a thread, the other a task.
"""

from __future__ import annotations

import time
from typing import Final

from farebox import _rungs, _speak
from farebox._call import Call
from farebox._frames import BudgetFrame
from farebox._line import Line, Steps
from farebox._plan import Plan, quote_again, renewal
from farebox.errors import ScopeEnded
from farebox.ledgers import Answer, Ledger, Shortfall
from farebox.on_exceed import Decision, Proceed, Rewrite, Short, Stop, Wait

#: How often the modes of one call are asked before it is refused: a callable may rewrite a call for ever.
_MOST_ROUNDS: Final = 16


def negotiate(call: Call, plan: Plan, answer: Answer | None) -> Steps:
    """Let the budgets that are short speak, innermost first, until the call fits or one says stop.

    With no answer yet the rungs speak first, each once.
    """
    began = time.monotonic()
    has_waited = False
    rounds = 0
    waited_in_vain = False
    rewritten: list[tuple[BudgetFrame, Short, str]] = []  # to be told once the cap is known
    try:
        if answer is None:
            plan = _at_rungs(call, plan, rewritten)
            answer = plan.reserve(call)
            _tell(rewritten)
        while isinstance(answer, Shortfall):
            speaker = speaker_of(plan, answer)
            mode = speaker.budget.mode
            if answer.kind == "contended" and mode.waits and not has_waited:
                has_waited = True
                answer = yield _line(call, plan, answer, speaker.budget.patience_seconds)
                continue
            if answer.kind == "contended" and plan.site is not None and plan.need.floor_cap > plan.need.least_cap:
                # Whoever is in the way will not move, and rather a short answer than none.
                plan.need = plan.need._replace(floor_cap=plan.need.least_cap)
                answer = plan.reserve(call)
                continue
            call.most_input_tokens = plan.need.fixed_tokens
            short = _speak.short_of(call, speaker, answer)
            can_take_less = plan.stump_cap is not None
            is_asked = rounds < _MOST_ROUNDS and (mode.prefers_whole or not can_take_less)
            decision = mode.decide(short) if is_asked else None
            if can_take_less and decision is None:
                plan.settle_for_less()
                answer = plan.reserve(call)
                continue
            rounds += not isinstance(decision, Proceed)  # each budget lets pass but once
            if isinstance(decision, Wait) and not waited_in_vain:
                _speak.publish_decision(speaker, short, mode.name, "wait")
                answer = yield _line(call, plan, answer, decision.seconds)
                waited_in_vain = isinstance(answer, Shortfall)
                continue
            if isinstance(decision, Wait):
                decision = None  # asked once more, and nothing has come free
            if isinstance(decision, Proceed) and decision.raises_after:
                if _is_exhausted(speaker):
                    decision = None  # in another unit, or by one who crossed meanwhile
                elif speaker not in plan.crossed:
                    if not _may_cross(call, speaker):
                        left = speaker.budget.patience_seconds - (time.monotonic() - began)
                        answer = yield _line(call, plan, answer, left)
                        rounds += 1
                        continue
                    plan.crossed = (*plan.crossed, speaker)
                    answer = plan.reserve(call)  # what was seen may be older than the one who crossed before
                    continue
            plan = _obey(call, plan, speaker, short, answer, decision, mode.name, rewritten)
            if isinstance(decision, Proceed):
                plan.forced = (*plan.forced, answer.account)
                if not decision.raises_after and not mode.stops:
                    _speak.warn_passed(call, speaker, answer)
            answer = plan.reserve(call)
            _tell(rewritten)
        if plan.grant is None:  # it came while waiting
            plan.admit(call, answer)
    except BaseException as error:
        plan.give_up(call)
        refused(call, error, plan.journal)
        raise


def _at_rungs(call: Call, plan: Plan, rewritten: list[tuple[BudgetFrame, Short, str]]) -> Plan:
    """Let the highest entered rung of each budget speak, innermost first; one that can do nothing is passed by."""
    assert plan.frame is not None
    try:
        for speaker in plan.frame.budgets:
            rung = speaker.rung
            if rung is None or rung.mode is None:
                continue
            need = plan.need
            shortfall = _rungs.at_rung(speaker, (need.usd_nanos(need.want_cap), need.tokens(need.want_cap), need.calls))
            call.most_input_tokens = need.fixed_tokens
            short = _speak.short_of(call, speaker, shortfall, rung.share)
            decision = rung.mode.decide(short)
            if decision is None or isinstance(decision, Wait):
                continue
            plan = _obey(call, plan, speaker, short, shortfall, decision, rung.mode.name, rewritten)
            if isinstance(decision, Proceed) and not rung.mode.stops:
                _speak.warn_passed(call, speaker, shortfall)
    except BaseException:
        plan.give_up(call)  # it may have been quoted anew on the way
        raise
    return plan


def _obey(
    call: Call,
    plan: Plan,
    speaker: BudgetFrame,
    short: Short,
    shortfall: Shortfall,
    decision: Decision | None,
    mode: str,
    rewritten: list[tuple[BudgetFrame, Short, str]],
) -> Plan:
    """Do what a mode decided, and publish it; what it has rewritten is published once it is held.

    Raises:
        BudgetExceeded: it said stop.
        ScopeEnded: it said so quietly, and the scope is still there to be left.
    """
    if isinstance(decision, Rewrite) and call.fixed_usd_nanos is not None and short.rung is not None:
        return plan  # there is nothing to rewrite, and it may well fit
    if isinstance(decision, Rewrite) and call.fixed_usd_nanos is None:
        if decision.raises_when_cut:
            plan.cut_by = speaker
        rewritten.append((speaker, short, mode))
        return quote_again(call, plan, decision)
    if isinstance(decision, Proceed):
        _speak.publish_decision(speaker, short, mode, "proceed")
        return plan
    _speak.publish_decision(speaker, short, mode, "stop")
    error = _speak.exceeded(call, speaker, shortfall, call.scope, short.rung)
    if isinstance(decision, Stop) and decision.ends_scope and not speaker.is_left:
        raise ScopeEnded(str(error), frame=speaker, default=decision.default) from error
    raise error


def _tell(rewritten: list[tuple[BudgetFrame, Short, str]]) -> None:
    for speaker, short, mode in rewritten:
        _speak.publish_decision(speaker, short, mode, "rewrite")
    rewritten.clear()


def _is_exhausted(speaker: BudgetFrame) -> bool:
    """Whether nothing is left of any of its limits."""
    assert speaker.ledger is not None
    balance, budget = speaker.ledger.balance(speaker.account), speaker.budget
    return (
        balance.spent_usd_nanos >= budget.limit_usd_nanos
        or balance.spent_tokens >= budget.limit_tokens
        or balance.spent_calls >= budget.limit_calls
    )


def _may_cross(call: Call, speaker: BudgetFrame) -> bool:
    """Whether this call is the one that a budget lets cross its limit now."""
    return speaker.crossing.setdefault("call", call.number) == call.number


def _line(call: Call, plan: Plan, short: Shortfall, seconds: float) -> Line:
    return Line(
        call=call,
        ledger=plan.books,
        accounts=plan.accounts,
        need=plan.need,
        owner=plan.owner,
        forced=plan.forced,
        short=short,
        seconds=seconds,
        renew=renewal(call, plan),
    )


def speaker_of(plan: Plan, short: Shortfall) -> BudgetFrame:
    """The budget whose account is short."""
    assert plan.frame is not None
    return next(frame for frame in plan.frame.budgets if frame.account is short.account)


def refused(call: Call, error: BaseException, journal: Ledger) -> None:
    """Nothing is sent: leave a row that says so, once."""
    if call.outcome == "refused":
        return
    call.plan = None
    call.outcome = "refused"
    call.error_class = type(error).__name__
    call.decision = call.decision or "stop"
    call.cost_usd_nanos = 0
    call.ended_at_seconds = time.time()
    journal.add_row(call)
