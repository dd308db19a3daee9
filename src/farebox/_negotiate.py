"""What happens when a call does not fit, or a rung has a say: the budgets speak, and the call waits, changes or stops.

Written once as a generator, which two drivers run (`_line`): one parks a thread, the other a task.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Generator
from typing import Any, Final

from farebox import _rungs, _speak
from farebox._call import Call
from farebox._frames import Speaker
from farebox._line import Line, Pause, Steps, Work
from farebox._plan import Plan
from farebox._quote import quote_again, quote_in_new_window, renewal
from farebox._standing import scope_of
from farebox.errors import LedgerUnavailable, ScopeEnded
from farebox.ledgers import Answer, Grant, Ledger, Shortfall, View, WindowClosed
from farebox.on_exceed import Decision, Proceed, Rewrite, Short, Stop, Wait

#: How often the modes of one call are asked before it is refused: a callable may rewrite a call for ever.
_MOST_ROUNDS: Final = 16
#: How often a call is quoted anew because a window turned under it.
_MOST_TURNS: Final = 3


def negotiate(call: Call, plan: Plan, answer: Answer | None) -> Steps:
    """Let the budgets that are short speak, innermost first, until the call fits or one says stop.

    With no answer yet nothing was asked for; the rungs speak first, each once.
    """
    if call.is_begun:
        plan.charge_afterwards(call)
        return
    began = time.monotonic()
    has_waited = False
    rounds = 0
    waited_in_vain = False
    rewritten: list[tuple[Speaker, Short, str]] = []  # to be told once the cap is known
    crossing: list[tuple[Speaker, Short, str]] = []  # to be told once they have let it cross
    try:
        if answer is None:
            if plan.frame is not None and plan.frame.has_rungs:
                yield from _enter_rungs(plan)
                plan = _at_rungs(call, plan, rewritten)
            plan, answer = yield from _hold(call, plan)
            _tell(rewritten)
        while True:
            if not isinstance(answer, Shortfall):
                break
            speaker = speaker_of(plan, answer)
            mode = speaker.budget.mode
            if answer.is_killed:
                short = _speak.short_of(call, speaker, answer)
                _speak.publish_decision(speaker, short, mode.name, "stop")
                raise _speak.killed(call, speaker, answer, call.scope)
            if answer.kind == "contended" and mode.waits and not has_waited:
                left = speaker.budget.patience_seconds - (time.monotonic() - began)
                ledger = _ledger_of(plan, answer)
                plan, answer = yield from _stand_in_line(call, plan, answer, left)
                # Granted here, it may be short in the other ledger, which has a line of its own.
                has_waited = isinstance(answer, Shortfall) and _ledger_of(plan, answer) is ledger
                continue
            if answer.kind == "contended" and plan.site is not None and plan.need.floor_cap > plan.need.least_cap:
                # Whoever is in the way will not move, and rather a short answer than none.
                plan.need = plan.need._replace(floor_cap=plan.need.least_cap)
                plan, answer = yield from _hold(call, plan)
                continue
            call.most_input_tokens = plan.need.fixed_tokens
            short = _speak.short_of(call, speaker, answer)
            can_take_less = plan.stump_cap is not None
            is_asked = rounds < _MOST_ROUNDS and (mode.prefers_whole or not can_take_less)
            decision = mode.decide(short) if is_asked else None
            if can_take_less and decision is None:
                plan.settle_for_less()
                plan, answer = yield from _hold(call, plan)
                continue
            rounds += not isinstance(decision, Proceed)  # each budget lets pass but once
            if isinstance(decision, Wait) and not waited_in_vain:
                _speak.publish_decision(speaker, short, mode.name, "wait")
                turns_in = speaker.resets_in_seconds
                if answer.kind == "exhausted" and turns_in is not None:
                    yield Pause(max(0.0, min(turns_in, decision.seconds)))
                    waited_in_vain = turns_in > decision.seconds
                    plan = quote_in_new_window(call, plan)
                    plan, answer = yield from _hold(call, plan)
                    continue
                plan, answer = yield from _stand_in_line(call, plan, answer, decision.seconds)
                waited_in_vain = isinstance(answer, Shortfall)
                continue
            if isinstance(decision, Wait):
                decision = None  # asked once more, and nothing has come free
            if isinstance(decision, Proceed) and decision.raises_after:
                if answer.account not in plan.crossing:
                    # Whether it may is for the ledger to say; one who crosses now may be waited for.
                    crossing.append((speaker, short, mode.name))
                    plan.crossing = (*plan.crossing, answer.account)
                    has_waited = False
                    plan, answer = yield from _hold(call, plan)
                    continue
                decision = None  # somebody else crosses, or has crossed
            plan = _obey(call, plan, speaker, short, answer, decision, mode.name, rewritten)
            if isinstance(decision, Proceed):
                plan.forced = (*plan.forced, answer.account)
                if not mode.stops:
                    _speak.warn_passed(call, speaker, answer)
            plan, answer = yield from _hold(call, plan)
            _tell(rewritten)
        _let_cross(call, plan, crossing)
    except BaseException as error:
        plan.give_up(call)
        refused(call, error, plan.journal)
        raise


def _hold(call: Call, plan: Plan, granted: Grant | None = None, granted_by: Ledger | None = None) -> _Held:
    """Hold what the call needs, in the windows of now; the plan that it was held by, and the answer."""
    for _ in range(_MOST_TURNS):
        try:
            answer = yield from plan.hold(call, granted, granted_by)
        except WindowClosed:
            plan, granted, granted_by = quote_in_new_window(call, plan), None, None
        else:
            return plan, answer
    answer = yield from plan.hold(call)
    return plan, answer


_Held = Generator[Line | Work | Pause, Any, tuple[Plan, Answer]]


def _stand_in_line(call: Call, plan: Plan, short: Shortfall, seconds: float) -> _Held:
    """Wait in the line of the ledger that is short, and hold the rest once it has granted its part."""
    ledger = _ledger_of(plan, short)
    accounts = plan.accounts if ledger is plan.books else ()
    if ledger is plan.journal:
        accounts += plan.standing
    line = Line(
        call=call,
        hold_id=plan.hold_id,
        ledger=ledger,
        accounts=accounts,
        need=plan.need,
        owner=plan.owner,
        forced=plan.forced,
        crossing=plan.crossing,
        short=short,
        seconds=seconds,
        renew=renewal(call, plan),
    )
    try:
        answer = yield line
    except WindowClosed:
        return (yield from _hold(call, quote_in_new_window(call, plan)))
    except LedgerUnavailable:
        plan.let_go()
        return (yield from _hold(call, plan))
    if not isinstance(answer, Grant):
        plan.let_go()  # the line may be asking for it at this moment: what comes of that is not what it holds from now on
        if _has_turned(plan):
            return (yield from _hold(call, quote_in_new_window(call, plan)))
        return plan, answer
    return (yield from _hold(call, plan, answer, ledger))


def _ledger_of(plan: Plan, short: Shortfall) -> Ledger:
    """The ledger of the account that is short."""
    is_standing = any(short.account.key == one.key for one in plan.standing)
    return plan.journal if is_standing else plan.books


def _has_turned(plan: Plan) -> bool:
    """Whether a window that the call was quoted in is over: what was short in it says nothing of now."""
    now = plan.journal.now_seconds()
    return any(account.ends_at is not None and account.ends_at <= now for account in plan.standing)


def _enter_rungs(plan: Plan) -> Generator[Line | Work | Pause, Any, None]:
    """Look at the accounts that were never seen, and enter the rungs that spent has reached."""
    assert plan.frame is not None
    for speaker in plan.frame.budgets:
        ledger = speaker.ledger
        try:
            if speaker.budget.rungs and ledger is not None and ledger.last_view(speaker.account) is None:
                yield Work(speaker.fresh_view, int)
            for reached in _rungs.reached(speaker):
                first_at = functools.partial(speaker.is_first_at, reached.mark)
                try:
                    is_first = (yield Work(first_at, int)) if ledger is not None and ledger.blocking else first_at()
                except BaseException:
                    reached.forget()
                    raise
                if is_first:
                    reached.tell()
        except LedgerUnavailable:
            pass  # the reserve that comes next says so, or goes on without it


def _at_rungs(call: Call, plan: Plan, rewritten: list[tuple[Speaker, Short, str]]) -> Plan:
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
    speaker: Speaker,
    short: Short,
    shortfall: Shortfall,
    decision: Decision | None,
    mode: str,
    rewritten: list[tuple[Speaker, Short, str]],
) -> Plan:
    """Do what a mode decided, and publish it; what it has rewritten is published once it is held.

    Raises:
        BudgetExceeded: it said stop.
        ScopeEnded: it said so quietly, and the scope is still there to be left.
    """
    if isinstance(decision, Rewrite) and call.is_fixed and short.rung is not None:
        return plan  # there is nothing to rewrite, and it may well fit
    if isinstance(decision, Rewrite) and not call.is_fixed:
        if decision.raises_when_cut:
            plan.cut_by = speaker
        rewritten.append((speaker, short, mode))
        return quote_again(call, plan, decision)
    if isinstance(decision, Proceed):
        _speak.publish_decision(speaker, short, mode, "proceed")
        return plan
    _speak.publish_decision(speaker, short, mode, "stop")
    error = _speak.exceeded(call, speaker, shortfall, call.scope, short.rung)
    scope = scope_of(plan.scope_frame, speaker) if isinstance(decision, Stop) and decision.ends_scope else None
    if scope is not None:
        assert isinstance(decision, Stop)
        raise ScopeEnded(str(error), frame=scope, default=decision.default) from error
    raise error


def _tell(rewritten: list[tuple[Speaker, Short, str]]) -> None:
    for speaker, short, mode in rewritten:
        _speak.publish_decision(speaker, short, mode, "rewrite")
    rewritten.clear()


def _let_cross(call: Call, plan: Plan, crossing: list[tuple[Speaker, Short, str]]) -> None:
    """Note who let this call cross a limit, now that it is held; those that it fits after all have no part in it."""
    held_in = plan.accounts + plan.standing
    for speaker, short, mode in crossing:
        if speaker.account in held_in and _is_passed(speaker.view()):
            plan.crossed = (*plan.crossed, speaker)
            speaker.crossing["call"] = call.number
            _speak.publish_decision(speaker, short, mode, "proceed")


def _is_passed(view: View) -> bool:
    """Whether more is spent and held than one of the limits."""
    was = view.balance
    return (
        was.spent_usd_nanos + was.reserved_usd_nanos > view.limit_usd_nanos
        or was.spent_tokens + was.reserved_tokens > view.limit_tokens
        or was.spent_calls + was.reserved_calls > view.limit_calls
    )


def speaker_of(plan: Plan, short: Shortfall) -> Speaker:
    """The budget whose account is short."""
    assert plan.frame is not None
    return next(speaker for speaker in plan.frame.budgets if speaker.account.key == short.account.key)


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
