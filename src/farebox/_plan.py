"""What a call can cost, and what is kept about it while it is open.

`quote` bounds a call as a line in its output cap (`Need`), and says whether that cap is ours to choose: the ledger picks it
when it reserves, in one step, from what every account has left (money rules 2 to 5).
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from typing import Final

import attrs

from farebox import _config, _speak
from farebox._call import Call
from farebox._frames import BudgetFrame, Frame
from farebox._needs import PRIOR_TOKENS, PRIOR_TOKENS_REASONING, Site
from farebox.ledgers import NO_LIMIT, Account, Answer, Grant, Ledger, Need, with_slack
from farebox.on_exceed import Rewrite
from farebox.prices import Rates
from farebox.prices.bounds import proven_tokens
from farebox.prices.limits import ModelLimits, model_limits

_tuple: Final = tuple.__new__
#: Chunks of a stream that hold no token: those that open and close it and its parts.
_CHUNKS_WITHOUT_TEXT: Final = 16


class _Thread(threading.local):
    """An object for each thread, made once: the number of a thread is used again when it is gone."""

    def __init__(self) -> None:
        self._identity = object()

    def identity(self) -> object:
        return self._identity


_thread = _Thread()


def _current_task() -> object | None:
    """The running task; None under another event loop than asyncio's."""
    asyncio = sys.modules.get("asyncio")
    task = asyncio.current_task() if asyncio is not None and asyncio._get_running_loop() is not None else None
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
    #: The thread or task that makes the call.
    owner: object
    may_reason: bool = False
    #: What such calls need, where the cap is ours to choose; None where it is not.
    site: Site | None = None
    #: Whether the cap that was granted is to be sent.
    sends_cap: bool = False
    #: The least cap worth sending, where `need` asks for more because a mode would rather change the call; else None.
    stump_cap: int | None = None
    #: Accounts that may be taken past their limit by this call.
    forced: tuple[Account, ...] = ()
    #: The budgets that let this call cross their limit and will raise, and the one that raises where its cap cuts it.
    crossed: tuple[BudgetFrame, ...] = ()
    cut_by: BudgetFrame | None = None
    grant: Grant | None = None

    def reserve(self, call: Call) -> Answer:
        """Hold what `call` needs in every account in scope, or in none."""
        answer = self.books.reserve(
            call.number, self.accounts, self.need, owner=self.owner, call=call, forced=self.forced
        )
        if type(answer) is Grant:
            self.admit(call, answer)
        return answer

    def admit(self, call: Call, grant: Grant) -> None:
        """The call is paid for: say so on it, and which cap to send where it was ours to choose."""
        self.grant = grant
        call.plan = self
        call.bound_usd_nanos = grant.usd_nanos
        call.bound_tokens = grant.tokens
        if self.sends_cap and grant.cap != call.declared_cap:
            call.sent_cap = grant.cap
            if self.cut_by is not None:
                call.most_chunks = (with_slack(grant.cap) + _CHUNKS_WITHOUT_TEXT) * call.choices
        if self.journal is not self.books:
            held = Need(grant.usd_nanos, 0, grant.tokens, 0, 1)
            self.journal.reserve(call.number, (), held, owner=self.owner, call=call)

    def settle_for_less(self) -> None:
        """No mode can change the call: rather a short answer than none."""
        assert self.stump_cap is not None
        self.need = self.need._replace(least_cap=self.stump_cap)
        self.stump_cap = None

    def give_up(self, call: Call) -> None:
        """The call will not be sent: nothing of it stays behind, wherever it was cut short."""
        if self.site is not None:
            self.site.open_calls.pop(call.number, None)
        for crossed in self.crossed:
            crossed.crossing.clear()
        self.books.release_later(call.number)


def quote(call: Call, frame: Frame | None) -> Plan:
    """Bound what the call can cost as a line in its output cap, and choose the cap where it is ours to choose.

    Raises:
        UnpricedModel: a usd limit is in scope and the model has no price.
        UnboundedCall: a budget wants input bounded by proof, and something in it can't be.
        ValueError: a budget's `output_cap` is below what the provider takes.
    """
    state = _config.state()
    if frame is None:
        call.tags = state.tags
    else:
        call.scope = frame.path
        call.tags = {**state.tags, **frame.tags} if state.tags else frame.tags
    model = call.sent_model or call.request_model
    tariff = state.card.tariff(call.provider_name, model, call.tier, call.cache_write, call.started_at_seconds)
    limits, rates = tariff.limits, tariff.rates

    tokens_in = state.input_estimate.tokens(call)
    if frame is not None and frame.proves_input:
        tokens_in = _proven(call, frame)
    if call.previous_response_id or call.fills_context:
        tokens_in += _goes_on_from(call, state, limits) * (1 + call.turns)
    input_nanos = output_nanos = 0
    if rates is None and frame is not None and call.fixed_usd_nanos is None:
        rates = _stand_in(call, frame, state)
    if rates is not None:
        if tokens_in <= tariff.most_input_tokens and not (call.has_audio or call.has_images or call.most_web_searches):
            input_nanos = -(-(tariff.request_picos + tokens_in * tariff.input_picos) // 1000)
            output_nanos = tariff.output_nanos
        else:
            input_nanos, output_nanos = rates.bound(
                tokens_in,
                cache_write=call.cache_write,
                audio=call.has_audio,
                images=call.has_images,
                web_searches=call.most_web_searches,
            )
    elif call.fixed_usd_nanos is not None:
        input_nanos, tokens_in = call.fixed_usd_nanos, call.fixed_tokens

    # The output cap: as declared, the model's own, or one that is ours to choose.
    choices = call.choices
    site, stump, share, sends_cap = None, None, 0, False
    declared, at_most = call.declared_cap, call.sent_cap
    if frame is not None and frame.output_cap != NO_LIMIT and call.accepts_cap and choices:
        at_most = frame.output_cap if at_most is None else min(at_most, frame.output_cap)
    if at_most is not None and (declared is None or at_most < declared):
        _check_cap(call, frame, at_most, limits)
        sends_cap = True
        if declared is not None or call.sent_cap is not None or frame is None or not frame.caps_output:
            declared = at_most
    if declared is not None:
        least = floor = want = most = declared
        if call.fits_cap:
            least = floor = min(declared, max(limits.least_cap, call.least_cap, state.useful_output_tokens))
            sends_cap = True
    elif frame is None or not frame.caps_output or not call.accepts_cap:
        least = floor = want = most = limits.max_output_tokens
    else:
        site, sends_cap = state.needs.site(call.provider_name, model, call.scope), True
        prior = PRIOR_TOKENS_REASONING if limits.reasons else PRIOR_TOKENS
        unspent = _unspent_tokens(frame, output_nanos * choices, choices) if site.is_cold() else 0
        site.open_calls[call.number] = None
        want, floor, share = site.caps(prior, unspent)
        most = limits.max_output_tokens if at_most is None else min(at_most, limits.max_output_tokens)
        least = min(most, max(limits.least_cap, call.least_cap, state.useful_output_tokens))
        want, floor = max(least, min(want, most)), max(least, min(floor, most))
        if frame.prefers_whole:
            stump, least = least, max(least, min(floor, max(PRIOR_TOKENS, site.p99())))
    need: Need = _tuple(
        Need, (input_nanos, output_nanos * choices, tokens_in, choices, 1, least, floor, want, most, share)
    )
    return Plan(
        frame,
        state,
        state.ledger if frame is None or frame.ledger is None else frame.ledger,
        state.ledger,
        () if frame is None else frame.accounts,
        need,
        rates,
        (_current_task() if call.is_async else None) or _thread.identity(),
        limits.reasons or call.reasons,
        site,
        sends_cap,
        stump,
    )


def _goes_on_from(call: Call, state: _config.State, limits: ModelLimits) -> int:
    """Input tokens that a call brings along from an earlier answer: those recorded here, or all that the model can read."""
    recorded = state.answers.get(call.previous_response_id) if not call.fills_context else None
    return limits.context_tokens if recorded is None else recorded


def _proven(call: Call, frame: Frame) -> int:
    """The most input tokens by proof.

    Raises:
        UnboundedCall: a part of the input has no proven bound; the message names it.
    """
    unbounded = call.unbounded
    if call.previous_response_id and call.previous_response_id not in _config.state().answers:
        unbounded = (*unbounded, call.previous_name)
    if unbounded:
        speaker = next(budget for budget in frame.budgets if budget.budget.proves_input)
        raise _speak.unbounded(call, speaker, unbounded)
    return proven_tokens(call)


def _stand_in(call: Call, frame: Frame, state: _config.State) -> Rates | None:
    """What to bound a model without a price by, as the budgets with a usd limit want it.

    Raises:
        UnpricedModel: one that could stop the call wants it refused.
    """
    wants_dearest = False
    for speaker in frame.budgets:
        budget = speaker.budget
        if budget.limit_usd_nanos == NO_LIMIT or not budget.mode.stops:
            continue
        if budget.on_unpriced == "refuse":
            raise _speak.unpriced(call, speaker, state.card.nearest(call.provider_name, call.model))
        wants_dearest = wants_dearest or budget.on_unpriced == "dearest"
    if not wants_dearest:
        return None
    return state.card.find_stand_in(call.provider_name, call.started_at_seconds, call.tier)


def _check_cap(call: Call, frame: Frame | None, cap: int, limits: ModelLimits) -> None:
    least = max(limits.least_cap, call.least_cap)
    if cap < least:
        word = "output_cap" if frame is not None and frame.output_cap == cap else "max_output_tokens"
        raise ValueError(
            f"{word}={cap} is below the least output cap that {call.model} takes with this request; "
            f"write {word}={least} or more"
        )


def _unspent_tokens(frame: Frame, nanos_per_token: int, tokens_per_token: int) -> int:
    """Output tokens that what the budgets in scope have not spent would buy; a figure to be generous by, not to admit by."""
    unspent: list[int] = []
    for speaker in frame.budgets:
        limits, ledger = speaker.budget, speaker.ledger
        assert ledger is not None
        balance = ledger.balance(speaker.account)
        if limits.limit_usd_nanos != NO_LIMIT and nanos_per_token:
            unspent.append((limits.limit_usd_nanos - balance.spent_usd_nanos) // nanos_per_token)
        if limits.limit_tokens != NO_LIMIT and tokens_per_token:
            unspent.append((limits.limit_tokens - balance.spent_tokens) // tokens_per_token)
    return max(0, min(unspent, default=0))


def renewal(call: Call, plan: Plan) -> Callable[[], Need] | None:
    """Says what a call that waits needs by what was learnt of such calls meanwhile; None where it can't need less."""
    site, frame, first = plan.site, plan.frame, plan.need
    if site is None or frame is None or first.floor_cap == first.least_cap:
        return None
    reasons = model_limits(call.provider_name, call.model).reasons
    prior = PRIOR_TOKENS_REASONING if reasons else PRIOR_TOKENS
    unspent = _unspent_tokens(frame, first.usd_nanos_per_token, first.tokens_per_token)

    def renew() -> Need:
        want, floor, share = site.caps(prior, unspent)
        least, most = first.least_cap, first.most_cap
        plan.need = first._replace(
            floor_cap=max(least, min(floor, most)), want_cap=max(least, min(want, most)), share=share
        )
        return plan.need

    return renew


def quote_again(call: Call, plan: Plan, rewrite: Rewrite) -> Plan:
    """The call as a mode wants it sent, quoted anew.  A cap is never raised above what the caller allowed."""
    if rewrite.model is not None:
        call.sent_model = rewrite.model
    if rewrite.max_output_tokens is not None:
        allowed = [cap for cap in (call.declared_cap, call.sent_cap) if cap is not None]
        call.sent_cap = min([rewrite.max_output_tokens, *allowed])
    call.fits_cap = call.fits_cap or rewrite.fits_cap
    if plan.site is not None:
        plan.site.open_calls.pop(call.number, None)
    return attrs.evolve(quote(call, plan.frame), forced=plan.forced, crossed=plan.crossed, cut_by=plan.cut_by)
