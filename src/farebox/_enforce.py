"""Where calls are decided and paid: quote, reserve, decide, settle.  Read it top to bottom.

    before_call    quote what the call can cost, hold it against every budget in scope, or let the short ones speak
    before_retry   hold once more for an attempt that died without an answer
    after_call     turn the hold into a charge, before anybody else hears that the call has ended

They are the first receivers of the bus and see no SDK: a `Call` comes in, a cap or another model goes out on it.
What waits is written once as a generator, which two drivers run: one parks a thread, the other a task.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Coroutine
from typing import Any, Final

import attrs

from farebox import _config, _speak, signals
from farebox._call import Call
from farebox._line import Line, Steps, drive_task, drive_thread
from farebox._needs import PRIOR_TOKENS, PRIOR_TOKENS_REASONING, Site
from farebox._scope import BudgetFrame, Frame, current
from farebox.ledgers import NO_LIMIT, Account, Answer, Grant, Ledger, Need, Shortfall, with_slack
from farebox.on_exceed import Proceed, Rewrite, Stop, Wait
from farebox.prices import Rates, model_limits

#: How often the modes of one call are asked before it is refused: a callable may rewrite a call for ever.
_MOST_ROUNDS: Final = 16
#: Output tokens charged beyond what was received when a caller closes a stream: what was under way, and what the
#: provider generates until it notices.
CLOSED_STREAM_MARGIN_TOKENS: Final = 512


class _Thread(threading.local):
    """An object for each thread, made once: the number of a thread is used again when it is gone."""

    def __init__(self) -> None:
        self._identity = object()

    def identity(self) -> object:
        return self._identity


_thread = _Thread()


def _current_task() -> object | None:
    """The running task; None under another event loop than asyncio's."""
    task = asyncio.current_task() if asyncio._get_running_loop() is not None else None
    if task is None:
        return None
    owner = weakref.ref(task)  # weakly: its result may be the very stream that the hold is for
    hash(owner)  # now: of a task that is gone it can't be taken any more
    return owner


@attrs.define(eq=False)
class Plan:
    """What enforcement keeps about a call while it is open."""

    frame: Frame | None
    #: What the process had been told when the call began.
    state: _config.State
    #: Where the accounts in scope are kept, and where the call's row goes; one ledger where both are in memory.
    books: Ledger
    journal: Ledger
    accounts: tuple[Account, ...]
    need: Need
    rates: Rates | None
    estimated_input: int
    #: The thread or task that makes the call.
    owner: object
    may_reason: bool = False
    #: What such calls need, where the cap is ours to choose; None where it is not.
    site: Site | None = None
    #: Accounts that may be taken past their limit by this call.
    forced: tuple[Account, ...] = ()
    #: What the call is known to have cost, whatever its tokens say.
    known_usd_nanos: int | None = None
    grant: Grant | None = None


# ── before a call ────────────────────────────────────────────────────────────────────────────────────────────────


def before_call(provider_name: str, *, call: Call) -> Coroutine[Any, Any, None] | None:
    """Hold the bound of `call` against every budget in scope; an awaitable comes back only to an async call that waits.

    Raises:
        BudgetExceeded: it does not fit and a mode said stop; nothing is held.
        UnpricedModel: a usd limit is in scope and the model has no price; nothing is held.
    """
    signals.settle_late_calls()
    frame = current()
    if frame is not None and frame.accounts and frame.is_inherited:
        call.scope, call.tags = frame.path, frame.tags
        error = _speak.forked(frame)
        _refused(call, error, _config.state().ledger)
        raise error
    plan = _quote(call, frame)
    try:
        answer = reserve(call, plan)
    except BaseException:
        if plan.site is not None:
            plan.site.open_calls.pop(call.number, None)
        plan.books.release_later(call.number)
        raise
    if type(answer) is Grant:
        return None
    steps = _negotiate(call, plan, answer)
    if call.is_async:
        return drive_task(steps)
    drive_thread(steps)
    return None


def _quote(call: Call, frame: Frame | None) -> Plan:
    """Bound what the call can cost as a line in its output cap, and choose the cap where it is ours to choose."""
    state = _config.state()
    call.tags = state.tags
    if frame is not None:
        call.scope = frame.path
        call.tags = {**state.tags, **frame.tags} if state.tags else frame.tags
    model, choices = call.model, call.choices
    limits = model_limits(call.provider_name, model)
    tokens_in = state.input_estimate.tokens(call)
    rates = state.card.find_dearest(call.provider_name, model, call.started_at_seconds, tier=call.tier)
    input_nanos = output_nanos = 0
    if rates is not None:
        input_nanos, output_nanos = rates.bound(
            tokens_in,
            cache_write=call.cache_write,
            audio=call.has_audio,
            images=call.has_images,
            web_searches=call.most_web_searches,
        )
    elif frame is not None:
        _refuse_unpriced(call, frame)

    site, share, declared = None, 0, call.declared_cap if call.sent_cap is None else call.sent_cap
    if declared is not None:
        least = floor = want = most = declared
    elif frame is None or not frame.caps_output or not call.accepts_cap:
        least = floor = want = most = limits.max_output_tokens
    else:
        site = state.needs.site(call.provider_name, model, call.scope)
        prior = PRIOR_TOKENS_REASONING if limits.reasons else PRIOR_TOKENS
        unspent = _unspent_tokens(frame, output_nanos * choices, choices) if site.is_cold() else 0
        site.open_calls[call.number] = None
        want, floor, share = site.caps(prior, unspent)
        most = limits.max_output_tokens
        least = min(most, max(limits.least_cap, state.useful_output_tokens))
        want, floor = max(least, min(want, most)), max(least, min(floor, most))
    return Plan(
        frame,
        state,
        state.ledger if frame is None or frame.ledger is None else frame.ledger,
        state.ledger,
        () if frame is None else frame.accounts,
        Need(input_nanos, output_nanos * choices, tokens_in, choices, 1, least, floor, want, most, share),
        rates,
        tokens_in,
        (_current_task() if call.is_async else None) or _thread.identity(),
        limits.reasons or call.reasons,
        site,
    )


def reserve(call: Call, plan: Plan) -> Answer:
    """Hold what `call` needs in every account in scope, or in none."""
    answer = plan.books.reserve(call.number, plan.accounts, plan.need, owner=plan.owner, call=call, forced=plan.forced)
    if type(answer) is Grant:
        _admit(call, plan, answer)
    return answer


def _admit(call: Call, plan: Plan, grant: Grant) -> None:
    """The call is paid for: say so on it, and which cap to send where it was ours to choose."""
    plan.grant = grant
    call.plan = plan
    call.bound_usd_nanos = grant.usd_nanos
    call.bound_tokens = grant.tokens
    if plan.site is not None:
        call.sent_cap = grant.cap
    if plan.journal is not plan.books:
        held = Need(grant.usd_nanos, 0, grant.tokens, 0, 1)
        plan.journal.reserve(call.number, (), held, owner=plan.owner, call=call)


def _negotiate(call: Call, plan: Plan, answer: Answer) -> Steps:
    """Let the budgets that are short speak, innermost first, until the call fits or one says stop."""
    has_waited = False
    rounds = 0
    try:
        while rounds < _MOST_ROUNDS:
            if isinstance(answer, Grant):
                if plan.grant is None:  # it came while waiting
                    _admit(call, plan, answer)
                return
            speaker = _speaker(plan, answer)
            mode = speaker.budget.mode
            if answer.kind == "contended" and mode.waits and not has_waited:
                has_waited = True
                answer = yield _line(call, plan, answer, speaker.budget.patience_seconds)
                continue
            if answer.kind == "contended" and plan.site is not None and plan.need.floor_cap > plan.need.least_cap:
                # Whoever is in the way will not move, and rather a short answer than none.
                plan.need = plan.need._replace(floor_cap=plan.need.least_cap)
                answer = reserve(call, plan)
                continue
            decision = mode.decide(_speak.short_of(call, speaker, answer))
            if isinstance(decision, Stop):
                break
            _speak.publish_decision(call, speaker, answer, type(decision).__name__.lower())
            rounds += not isinstance(decision, Proceed)  # each budget lets pass but once
            if isinstance(decision, Wait):
                answer = yield _line(call, plan, answer, decision.seconds)
                continue
            if isinstance(decision, Rewrite):
                plan = _rewritten(call, plan, decision)
            else:
                assert isinstance(decision, Proceed)
                plan.forced = (*plan.forced, answer.account)
                if not mode.stops:
                    _speak.warn_passed(call, speaker, answer)
            answer = reserve(call, plan)
        if isinstance(answer, Grant):
            _admit(call, plan, answer)
            return
        speaker = _speaker(plan, answer)
        _speak.publish_decision(call, speaker, answer, "stop")
        raise _speak.exceeded(call, speaker, answer, call.scope)
    except BaseException as error:
        if plan.grant is not None:
            plan.books.release_later(call.number)
        if plan.site is not None:
            plan.site.open_calls.pop(call.number, None)
        _refused(call, error, plan.journal)
        raise


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
    )


def _rewritten(call: Call, plan: Plan, decision: Rewrite) -> Plan:
    """The call as a mode wants it sent, quoted anew.  A cap is never raised above what the caller allowed."""
    if decision.model is not None:
        call.sent_model = decision.model
    if decision.max_output_tokens is not None:
        allowed = [cap for cap in (call.declared_cap, call.sent_cap) if cap is not None]
        call.sent_cap = min([decision.max_output_tokens, *allowed])
    if plan.site is not None:
        plan.site.open_calls.pop(call.number, None)
    return attrs.evolve(_quote(call, plan.frame), forced=plan.forced)


def _refused(call: Call, error: BaseException, journal: Ledger) -> None:
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


def _refuse_unpriced(call: Call, frame: Frame) -> None:
    """Refuse a model without a price where a usd limit could stop it."""
    for speaker in frame.budgets:
        if speaker.budget.limit_usd_nanos != NO_LIMIT and speaker.budget.mode.stops:
            state = _config.state()
            error = _speak.unpriced(call, speaker, state.card.nearest(call.provider_name, call.model))
            _refused(call, error, state.ledger)
            raise error


def _unspent_tokens(frame: Frame, nanos_per_token: int, tokens_per_token: int) -> int:
    """Output tokens that what the budgets in scope have not spent would buy; a figure to be generous by, not to admit by."""
    unspent = []
    for speaker in frame.budgets:
        limits, ledger = speaker.budget, speaker.ledger
        assert ledger is not None
        balance = ledger.balance(speaker.account)
        if limits.limit_usd_nanos != NO_LIMIT and nanos_per_token:
            unspent.append((limits.limit_usd_nanos - balance.spent_usd_nanos) // nanos_per_token)
        if limits.limit_tokens != NO_LIMIT:
            unspent.append((limits.limit_tokens - balance.spent_tokens) // tokens_per_token)
    return max(0, min(unspent, default=0))


def _speaker(plan: Plan, short: Shortfall) -> BudgetFrame:
    assert plan.frame is not None
    return next(frame for frame in plan.frame.budgets if frame.account is short.account)


# ── before a retry ───────────────────────────────────────────────────────────────────────────────────────────────


def before_retry(provider_name: str, *, call: Call) -> None:
    """An attempt died without an answer and may have been billed: hold one more bound, or do not try again.

    Raises:
        BudgetExceeded: there is no room; what was held for the attempts so far stays held until the call ends.
    """
    plan: Plan | None = call.plan
    if plan is None or plan.grant is None:
        return
    answer = plan.books.extend(call.number, plan.grant.usd_nanos, plan.grant.tokens)
    if isinstance(answer, Shortfall):
        speaker = _speaker(plan, answer)
        _speak.publish_decision(call, speaker, answer, "stop")
        raise _speak.exceeded(call, speaker, answer, call.scope)
    if plan.journal is not plan.books:
        plan.journal.extend(call.number, plan.grant.usd_nanos, plan.grant.tokens)
    call.bound_usd_nanos += plan.grant.usd_nanos
    call.bound_tokens += plan.grant.tokens


# ── after a call ─────────────────────────────────────────────────────────────────────────────────────────────────


def after_call(provider_name: str, *, call: Call) -> None:
    """Turn the hold of `call` into a charge, or give it back when nothing can have been billed."""
    plan: Plan | None = call.plan
    if plan is None or plan.grant is None:
        return
    call.ended_at_seconds = time.time()
    usage = call.usage
    if usage is not None:
        nanos, tokens_in, tokens_out = _charge(call, plan), usage.input_tokens, usage.output_tokens
    elif call.outcome in _UNBILLED:
        nanos, tokens_in, tokens_out = 0, 0, 0
    else:
        nanos, tokens_in, tokens_out = _presumed(call, plan)
    if call.dead_attempts:
        # Each may have been billed, unseen.
        call.cost_source = "estimated"
        nanos = None if nanos is None or plan.rates is None else nanos + plan.grant.usd_nanos * call.dead_attempts
        tokens_in += plan.need.fixed_tokens * call.dead_attempts
        tokens_out += (plan.grant.tokens - plan.need.fixed_tokens) * call.dead_attempts
    call.cost_usd_nanos = nanos
    call.charged_input_tokens, call.charged_output_tokens = tokens_in, tokens_out

    is_billed = call.outcome not in _UNBILLED or call.dead_attempts > 0
    for ledger in (plan.books, plan.journal) if plan.journal is not plan.books else (plan.journal,):
        row = call if ledger is plan.journal else None
        if call.was_closed:
            # It may be a finalizer of the program's that closes, in the middle of a ledger's operation: take no lock.
            ledger.settle_later(call.number, nanos or 0, tokens_in + tokens_out, 1, row)
        elif is_billed:
            ledger.settle(call.number, nanos or 0, tokens_in + tokens_out, 1, row)
        else:
            ledger.release(call.number, row)
    call.plan = None  # not before it is paid: who is interrupted here comes again
    _learn(call, plan)


#: How a call ends of which the last attempt can't have been billed.
_UNBILLED: Final = frozenset({"failed", "vetoed"})


def _charge(call: Call, plan: Plan) -> int | None:
    """The price of what was used, at the rates of the model and the tier that were served."""
    assert call.usage is not None
    if plan.known_usd_nanos is not None:
        call.cost_source = "manual"
        return plan.known_usd_nanos
    card, at = plan.state.card, call.started_at_seconds
    tier = call.served_tier or call.tier
    rates = card.find(call.provider_name, call.model, at, tier)
    if call.response_model and call.response_model != call.model and (rates is None or rates.source == "list"):
        rates = card.find(call.provider_name, call.response_model, at, tier) or rates
    rates = rates or plan.rates
    if rates is None:
        return None
    call.cost_source = rates.source
    call.price_version = rates.version
    return rates.charge_nanos(call.usage)


def _presumed(call: Call, plan: Plan) -> tuple[int | None, int, int]:
    """Nanodollars, input and output tokens to charge without a usage report: an unknown ending is presumed spent.

    A stream that its caller closed is charged for what had arrived and a margin, unless the model reasons unseen or had
    shown nothing: then nobody can say what it had made.
    """
    grant, need = plan.grant, plan.need
    assert grant is not None
    call.cost_source = "estimated"
    nanos, tokens_out = grant.usd_nanos, grant.tokens - need.fixed_tokens
    if call.outcome == "closed" and call.received_tokens and not plan.may_reason:
        output = with_slack(call.received_tokens + CLOSED_STREAM_MARGIN_TOKENS)
        nanos = min(nanos, need.fixed_usd_nanos + need.usd_nanos_per_token * output)
        tokens_out = min(tokens_out, need.tokens_per_token * output)
    if plan.rates is None:
        return None, need.fixed_tokens, tokens_out
    call.price_version = plan.rates.version
    return nanos, need.fixed_tokens, tokens_out


def _learn(call: Call, plan: Plan) -> None:
    """After the money: what such calls need, how far the estimate was off, and who should hear of it."""
    site, usage = plan.site, call.usage
    if site is not None:
        site.open_calls.pop(call.number, None)
    if call.cost_usd_nanos is None:
        _speak.warn_unpriced(call)
    elif call.cost_usd_nanos > call.bound_usd_nanos:
        _speak.publish_debt(call, () if plan.frame is None else plan.frame.budgets)
    if usage is None:
        return
    plan.state.input_estimate.learn(call, plan.estimated_input, usage.input_tokens)
    if site is not None and plan.frame is not None and plan.grant is not None:
        site.learn(-(-usage.output_tokens // call.choices), call.is_cut)
        if call.is_cut:
            _speak.publish_cut(call, plan.frame.budgets[0], plan.grant.cap)


def before_metering(provider_name: str) -> None:
    """Load the prices now: it takes a while, and must not take it inside somebody's first call."""
    _config.state().card.warm()


signals.instrumented.enforce_with(before_metering)
signals.pre_call.enforce_with(before_call)
signals.pre_retry.enforce_with(before_retry)
signals.post_call.enforce_with(after_call)
