"""Where calls are decided and paid: quote, reserve, decide, settle.  Read it top to bottom.

    before_call    quote what the call can cost, hold it against every budget in scope, or let the short ones speak
    before_retry   hold once more for an attempt that died without an answer
    after_call     turn the hold into a charge, before anybody else hears that the call has ended

They are the first receivers of the bus and see no SDK: a `Call` comes in, a cap or another model goes out on it.
What a call can cost is `_quote`'s, what happens when it does not fit is `_negotiate`'s.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Coroutine
from typing import Any, Final

import attrs

from farebox import _collect, _config, _frames, _pending, _rungs, _speak, signals
from farebox._call import BATCH, Call, Usage
from farebox._line import Steps, Work, drive_task, drive_thread
from farebox._negotiate import negotiate, refused, speaker_of
from farebox._plan import Plan
from farebox._quote import may_reason, quote
from farebox._scope import innermost
from farebox._usage import totals
from farebox.errors import LedgerUnavailable
from farebox.ledgers import Grant, Ledger, Shortfall, View, with_slack

#: Output tokens charged beyond what was received when a caller closes a stream: what was under way, and what the
#: provider generates until it notices.
CLOSED_STREAM_MARGIN_TOKENS: Final = 512


# ── before a call ────────────────────────────────────────────────────────────────────────────────────────────────


def before_call(provider_name: str, call: Call) -> Coroutine[Any, Any, None] | None:
    """Hold the bound of `call` against every budget in scope; an awaitable comes back only to an async call that waits.

    Raises:
        BudgetExceeded: it does not fit and a mode said stop; nothing is held.
        UnpricedModel, UnboundedCall: a limit in scope can't bound it; nothing is held.
    """
    if signals.late_calls:
        signals.settle_late_calls()
    frame = innermost.get()
    if call.client_frame is not None:
        frame = call.client_frame.around(frame)
    if frame is not None and frame.generation != _frames.generation and frame.accounts:
        call.scope, call.tags = frame.path, frame.tags
        forked = _speak.forked(frame)
        refused(call, forked, _config.state().ledger)
        raise forked
    try:
        plan = quote(call, frame)
    except Exception as error:
        refused(call, error, _config.state().ledger)
        raise
    answer = None
    books, frame = plan.books, plan.frame
    if (
        books is plan.state.ledger
        and not plan.standing
        and not books.blocking
        and (frame is None or not frame.has_rungs)
    ):
        # One ledger in memory has all accounts, and none has a window.
        try:
            answer = books.reserve(plan.hold_id, plan.accounts, plan.need, owner=plan.owner, call=call)
            if type(answer) is Grant:
                if not plan.is_ordinary:
                    plan.admit(call, answer)
                    return None
                plan.grant = answer
                call.plan = plan
                _, call.bound_usd_nanos, call.bound_tokens, _ = answer
                return None
        except BaseException:
            plan.give_up(call)
            raise
    plan.is_ordinary = False
    steps = negotiate(call, plan, answer)
    if call.is_async:
        return drive_task(steps)
    drive_thread(steps)
    return None


# ── before a retry ───────────────────────────────────────────────────────────────────────────────────────────────


def before_retry(provider_name: str, call: Call) -> Coroutine[Any, Any, None] | None:
    """An attempt died without an answer and may have been billed: hold one more bound, or do not try again.

    Raises:
        BudgetExceeded: there is no room; what was held for the attempts so far stays held until the call ends.
        LedgerUnavailable: nobody knows whether there is.
    """
    plan: Plan | None = call.plan
    if plan is None or plan.grant is None:
        return None
    steps = _extend(call, plan, plan.grant)
    if call.is_async and plan.journal.blocking:
        return drive_task(steps)
    drive_thread(steps)
    return None


def _extend(call: Call, plan: Plan, grant: Grant) -> Steps:
    speakers = () if plan.frame is None else plan.frame.budgets
    cannot_stop = tuple(speaker.account for speaker in speakers if not speaker.budget.mode.stops)
    held_in = [
        ledger
        for ledger in dict.fromkeys((plan.books, plan.journal))
        if not plan.is_unheld or ledger is not plan.journal
    ]
    for ledger in held_in:
        extend = functools.partial(ledger.extend, plan.hold_id, grant.usd_nanos, grant.tokens, forced=cannot_stop)
        try:
            answer = (yield Work(extend, int)) if ledger.blocking else extend()
        except LedgerUnavailable as error:
            plan.go_on_without(error)
            continue
        if answer is None and ledger.blocking:
            raise LedgerUnavailable(
                "the hold of this call was charged meanwhile, as of a process that is gone; it is not tried again"
            )
        if isinstance(answer, Shortfall):
            if answer.kind == "oversized":  # not the call: its attempts together
                answer = attrs.evolve(answer, kind="exhausted")
            speaker = speaker_of(plan, answer)
            _speak.publish_decision(speaker, _speak.short_of(call, speaker, answer), speaker.budget.mode.name, "stop")
            raise _speak.exceeded(call, speaker, answer, call.scope)
    call.bound_usd_nanos += grant.usd_nanos
    call.bound_tokens += grant.tokens


# ── after a call ─────────────────────────────────────────────────────────────────────────────────────────────────


def after_call(provider_name: str, call: Call) -> None:
    """Turn the hold of `call` into a charge, or give it back when nothing can have been billed."""
    plan: Plan | None = call.plan
    if plan is None or plan.grant is None:
        return
    call.ended_at_seconds = time.time()
    usage = call.usage
    if usage is not None:
        tokens_in, tokens_out = totals(usage)
        if not call.is_plain and call.others:
            usage = _charge_others(call, plan, usage)
            tokens_in += sum(used.input_tokens for _, used in call.others)
            tokens_out += sum(used.output_tokens for _, used in call.others)
        nanos = _charge(call, plan, usage)
        if ((nanos or 0) | tokens_in | tokens_out) >> 63:
            # No ledger keeps such a number: of a provider that believes whatever an answer says.
            usage, call.usage, call.doubt = None, None, "a count of the usage can't be believed"
            nanos, tokens_in, tokens_out = _presumed(call, plan)
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

    if plan.is_ordinary and usage is not None and not call.was_closed:
        plan.books.settle(plan.hold_id, nanos or 0, tokens_in + tokens_out, plan.need.calls, call)
    else:
        _pay(call, plan, nanos, tokens_in + tokens_out)
    if call.served_tier in _config.DEAR_TIERS:
        plan.state.remember_tier(call)
    call.plan = None  # not before it is paid: who is interrupted here comes again
    if nanos is None:
        _speak.warn_unpriced(call)
    elif nanos > call.bound_usd_nanos:
        _speak.publish_debt(call, () if plan.frame is None else plan.frame.budgets)
    elif not call.is_plain and call.is_begun and plan.frame is not None:
        _speak.publish_debt(call, [one for one in plan.frame.budgets if _is_passed(one.view())])
    if not plan.is_ordinary or call.is_cut or not call.is_plain or call.dead_attempts:
        _learn(call, plan, usage)
        if plan.crossed or plan.cut_by is not None:
            _have_raised(call, plan)
    elif usage is not None:
        plan.state.input_estimate.learn(call, plan.need.fixed_tokens, tokens_in)
    if plan.frame is not None and plan.frame.has_rungs and not call.was_closed:
        _rungs.enter_rungs(plan.frame)


def _pay(call: Call, plan: Plan, nanos: int | None, tokens: int) -> None:
    """Settle, release or charge what is held in either ledger, whatever became of the call and wherever it ends."""
    is_billed = call.outcome not in _UNBILLED or call.dead_attempts > 0
    if plan.journal is not plan.books:
        _pay_one(plan.books, call, plan, nanos or 0, tokens, is_billed, None)
    if plan.charge_id is not None:
        calls, tokens = (plan.need.calls, tokens) if is_billed else (0, 0)
        plan.journal.charge(plan.charge_id, plan.standing, nanos or 0, tokens, calls, call)
    else:
        _pay_one(plan.journal, call, plan, nanos or 0, tokens, is_billed, call)


def _pay_one(
    ledger: Ledger, call: Call, plan: Plan, nanos: int, tokens: int, is_billed: bool, row: Call | None
) -> None:
    hold_id, calls = plan.hold_id, plan.need.calls
    if call.was_closed:
        # It may be a finalizer of the program's that closes, in the middle of a ledger's operation: take no lock.
        ledger.settle_later(hold_id, nanos, tokens if is_billed else 0, calls, row)
    elif is_billed:
        ledger.settle(hold_id, nanos, tokens, calls, row)
    else:
        ledger.release(hold_id, row)


def _is_passed(view: View) -> bool:
    """Whether more is spent than one of the limits."""
    was = view.balance
    return (
        was.spent_usd_nanos > view.limit_usd_nanos
        or was.spent_tokens > view.limit_tokens
        or was.spent_calls > view.limit_calls
    )


#: How far what a provider says it charged may be from the price list, either way: discounts and caches are within it.
_MOST_TIMES_OFF: Final = 20

#: How a call ends of which the last attempt can't have been billed.
_UNBILLED: Final = frozenset({"failed", "vetoed"})


def _charge(call: Call, plan: Plan, usage: Usage) -> int | None:
    """The price of what was used, at the rates of the model and the tier that were served."""
    if not call.is_plain:
        if call.known_usd_nanos is not None:
            call.cost_source = "manual"
            return call.known_usd_nanos
        if call.told_usd_nanos is not None:
            return _charge_told(call, plan, usage, call.told_usd_nanos)
        if call.doubts_model:
            return _charge_dearer(call, plan, usage)
    rates = plan.state.card.find_served(
        call.provider_name,
        call.sent_model or call.request_model,
        call.response_model,
        call.started_at_seconds,
        call.served_tier or call.tier,
    )
    if rates is None:
        if plan.rates is None:
            return None
        call.cost_source = "estimated"  # nobody knows its price: it is charged as the dearest model known
        return plan.rates.charge_nanos(usage)
    if not call.is_plain and call.operation_name == BATCH:
        # Added up, the rows would pass a step of the prices that none of them reaches.
        rates = rates.in_step(0 if _fills(call) else max((part.longest_input for part in call.parts), default=0))
    call.cost_source = "estimated" if call.doubt else rates.source
    call.price_version = rates.version
    return rates.charge_nanos(usage)


def _charge_told(call: Call, plan: Plan, usage: Usage, told_nanos: int) -> int:
    """What the provider says that it charged, unless it is far from what the price list comes to: cents for dollars, or nothing."""
    call.told_usd_nanos = None
    listed = _charge(call, plan, usage)
    if listed is not None and not listed <= told_nanos * _MOST_TIMES_OFF <= listed * _MOST_TIMES_OFF**2:
        times = f"{told_nanos / listed:.3g}" if listed else "not"
        call.doubt = f"usage.cost is {times} times the list price"
        call.cost_source = "estimated"
        return listed
    call.cost_source, call.price_version = "provider", ""
    return told_nanos


def _charge_dearer(call: Call, plan: Plan, usage: Usage) -> int | None:
    """A gateway may bill the model asked for and name a cheaper one, or the other way round: the dearer of the two.

    Where its names are mapped (`configure(deployments=...)`), what the map says.
    """
    call.doubts_model = False
    card, at, tier = plan.state.card, call.started_at_seconds, call.served_tier or call.tier
    served, asked = _charge(call, plan, usage), card.find(call.provider_name, call.model, at, tier)
    if asked is None or served is None:
        return served
    nanos = asked.charge_nanos(usage)
    if nanos > served or call.model in card.deployments:
        call.price_version = asked.version
        return nanos
    return served


def _fills(call: Call) -> bool:
    """Whether a row of a batch may hold all that its model can read."""
    return any(part.filled for part in call.parts)


def _charge_others(call: Call, plan: Plan, usage: Usage) -> Usage:
    """Put on the usage, as a fee, what other models used for the call: each at its own price."""
    nanos = 0
    for model, used in call.others:
        at, tier = call.started_at_seconds, call.served_tier or call.tier
        rates = plan.state.card.find(call.provider_name, model, at, tier)
        if rates is None:
            call.doubt = f"nobody knows a price of {model[:100]}: it counts as the dearest model"
            rates = plan.state.card.find_stand_in(call.provider_name, at, tier)
        nanos += 0 if rates is None else rates.charge_nanos(used)
    call.usage = usage = usage._replace(fees_nanos=usage.fees_nanos + nanos)
    return usage


def _presumed(call: Call, plan: Plan) -> tuple[int | None, int, int]:
    """Nanodollars, input and output tokens to charge without a usage report: an unknown ending is presumed spent.

    A stream that its caller closed is charged for what had arrived and a margin, unless the model reasons unseen or had
    shown nothing: then nobody can say what it had made.
    """
    grant, need = plan.grant, plan.need
    assert grant is not None
    call.cost_source = "estimated"
    if call.outcome == "completed" and not call.doubt:
        call.doubt = "the answer has no usage"
    nanos, tokens_out = grant.usd_nanos, grant.tokens - need.fixed_tokens
    if call.outcome == "closed" and call.received_tokens and (call.shows_all or not may_reason(call)):
        # Received is of all choices together, the rates are of one token in each of them.
        output = -(-with_slack(call.received_tokens + CLOSED_STREAM_MARGIN_TOKENS * call.choices) // call.choices)
        received_nanos = need.fixed_usd_nanos + need.usd_nanos_per_token * output
        if call.is_cut:  # by us: the provider went past its cap, and past what is held
            nanos, tokens_out = received_nanos, need.tokens_per_token * output
        nanos, tokens_out = min(nanos, received_nanos), min(tokens_out, need.tokens_per_token * output)
    if plan.rates is not None:
        call.price_version = plan.rates.version
    elif call.fixed_usd_nanos is None:
        return None, need.fixed_tokens, tokens_out
    return nanos, need.fixed_tokens, tokens_out


def _learn(call: Call, plan: Plan, usage: Usage | None) -> None:
    """After the money: what such calls need, how far the estimate was off, and whether the answer was cut."""
    site, frame = None if plan.is_ordinary else plan.site, plan.frame
    if site is not None:
        site.open_calls.pop(call.number, None)
    if usage is None:
        return
    if frame is None or not frame.proves_input:  # there it was no estimate
        said = call.charged_input_tokens if call.is_plain and not call.dead_attempts else usage.input_tokens
        plan.state.input_estimate.learn(call, plan.need.fixed_tokens, said)
    if not call.is_plain and call.is_continuable and call.response_id:
        plan.state.remember_answer(call.response_id, usage.total_tokens)
    if site is not None:
        plan.state.learn(site, -(-usage.output_tokens // call.choices), call.is_cut)
    if call.is_cut and call.sent_cap is not None and frame is not None and frame.budgets:
        capped = (speaker for speaker in frame.budgets if speaker.budget.output_cap == call.sent_cap)
        _speak.publish_cut(call, next(capped, frame.budgets[0]), call.sent_cap, warns=plan.cut_by is None)


def _have_raised(call: Call, plan: Plan) -> None:
    """A budget let this call cross its limit, or capped it at what was left, and wants it known now that it is over."""
    assert plan.grant is not None
    for speaker in plan.crossed:
        call.raises = call.raises or _speak.crossed(call, speaker)
    if plan.cut_by is not None and call.is_cut and plan.grant.cap < plan.need.most_cap:
        call.raises = call.raises or _speak.cut_short(call, plan.cut_by)


def before_metering(provider_name: str) -> None:
    """Load the prices now: it takes a while, and must not take it inside somebody's first call."""
    _config.was_instrumented = True
    _config.state().card.warm()


signals.instrumented.enforce_with(before_metering)
signals.pre_call.enforce_with(before_call)
signals.pre_retry.enforce_with(before_retry)
signals.post_call.enforce_with(after_call)
_pending.share_with(_collect.NOTED)
