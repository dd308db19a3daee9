"""What a call can cost, and what is kept about it while it is open.

`quote` bounds a call as a line in its output cap (`Need`), and says whether that cap is ours to choose: the ledger picks it
when it reserves, in one step, from what every account has left (money rules 2 to 5).
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Generator
from typing import Any, Final

import attrs

from farebox import _config, _speak, _standing
from farebox._call import Call, Part, next_number
from farebox._frames import Frame, Speaker
from farebox._line import Line, Work
from farebox._needs import PRIOR_TOKENS, PRIOR_TOKENS_REASONING, Site
from farebox.errors import LedgerLost, LedgerUnavailable
from farebox.ledgers import NO_LIMIT, Account, Answer, Grant, Ledger, Need, with_slack
from farebox.on_exceed import Rewrite
from farebox.prices import Rates
from farebox.prices.bounds import proven_tokens
from farebox.prices.limits import ModelLimits, model_limits

_tuple: Final = tuple.__new__
_logger = logging.getLogger("farebox")
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

    #: The frame of the call: that of the scopes around it, with the standing budgets that are about it.
    frame: Frame | None
    #: The frame of the scopes around it.
    scope_frame: Frame | None
    #: What the process had been told when the call began.
    state: _config.State
    #: Where the accounts of scopes are kept; without one, the same as `journal`.
    books: Ledger
    #: Where the accounts of standing budgets are kept, and where the call's row goes.
    journal: Ledger
    accounts: tuple[Account, ...]
    standing: tuple[Account, ...]
    need: Need
    rates: Rates | None
    #: The thread or task that makes the call.
    owner: object
    #: The id of its holds.  Another one after they were given back: a ledger answers for an old one as it did then.
    hold_id: int
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
    crossed: tuple[Speaker, ...] = ()
    cut_by: Speaker | None = None
    grant: Grant | None = None
    #: Where the ledger of its row holds nothing for it: the id under which it is told afterwards what it cost.  Not that of
    #: the hold, which was given back unseen, so that nothing more can happen under it.
    charge_id: int | None = None

    @property
    def is_unheld(self) -> bool:
        return self.charge_id is not None

    @property
    def is_quick(self) -> bool:
        """Whether one ledger in memory has all accounts, and none has a window."""
        return self.journal is self.books and not self.standing and not self.books.blocking

    def reserve(self, call: Call) -> Answer:
        """Hold what `call` needs in every account in scope, or in none; where that `is_quick`."""
        answer = self.books.reserve(
            self.hold_id, self.accounts, self.need, owner=self.owner, call=call, forced=self.forced
        )
        if type(answer) is Grant:
            self.admit(call, answer)
        return answer

    def hold(
        self, call: Call, granted: Grant | None = None, granted_by: Ledger | None = None
    ) -> Generator[Line | Work, Any, Answer]:
        """As `reserve`, in both ledgers: in scopes first, in memory, then in the ledger of the standing budgets.

        `granted` is what one of them has granted already, to one who waited for it.  What the second one has less of
        makes the cap lower; the first then holds a little more than is sent, until the call is settled.

        Raises:
            WindowClosed: a window has turned since the call was quoted; nothing is held.
            LedgerUnavailable: the ledger did not answer and `on_ledger_error` is "closed"; nothing is held.
        """
        if self.is_quick and granted is None:
            return self.reserve(call)
        need = self.need if granted is None else _at_most(self.need, granted.cap)
        for ledger, accounts in self._places():
            if ledger is granted_by:
                continue
            ask = functools.partial(
                ledger.reserve, self.hold_id, accounts, need, owner=self.owner, call=call, forced=self.forced
            )
            try:
                if ledger.blocking:
                    answer: Answer = yield Work(ask, functools.partial(ledger.release_later, self.hold_id))
                else:
                    answer = ask()
            except LedgerUnavailable as error:
                try:
                    self.go_on_without(error)
                except LedgerUnavailable:
                    self.let_go()
                    raise
                self.charge_id = next_number()
                ledger.expect(self.charge_id)
                answer = granted or Grant(need.want_cap, *_amounts(need, need.want_cap))
            except BaseException:
                self.let_go()
                raise
            if type(answer) is not Grant:
                self.let_go()
                return answer
            granted = answer
            need = _at_most(need, answer.cap)
        assert granted is not None
        self.admit(call, granted)
        return granted

    def go_on_without(self, error: LedgerUnavailable) -> None:
        """Log that a ledger does not answer, where calls are sent all the same.

        Raises:
            LedgerUnavailable: `error`, where they are not; LedgerLost in any case, since nothing can be charged there later.
        """
        if self.state.on_ledger_error == "closed" or isinstance(error, LedgerLost):
            raise error
        _warn_open(error)

    def _places(self) -> tuple[tuple[Ledger, tuple[Account, ...]], ...]:
        if self.journal is self.books:
            return ((self.books, self.accounts + self.standing),)
        return (self.books, self.accounts), (self.journal, self.standing)

    def let_go(self) -> None:
        """Give back what is held; the next try is another hold."""
        for ledger, _ in self._places():
            ledger.release_later(self.hold_id)
        self.hold_id = next_number()

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
        for ledger, _ in self._places():
            ledger.release_later(self.hold_id)


def _at_most(need: Need, cap: int) -> Need:
    """The same with a cap of `cap` at most, and no more than that asked for."""
    return need._replace(
        least_cap=min(need.least_cap, cap), floor_cap=min(need.floor_cap, cap), want_cap=cap, most_cap=cap, share=0
    )


def _amounts(need: Need, cap: int) -> tuple[int, int, int]:
    return need.usd_nanos(cap), need.tokens(cap), need.calls


_has_warned_open = False


def _warn_open(error: LedgerUnavailable) -> None:
    global _has_warned_open
    if not _has_warned_open:
        _has_warned_open = True
        _logger.error('%s; on_ledger_error="open", so calls are sent and charged when it answers again', error)


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
    scope_frame = frame
    if state.standing or (frame is not None and frame.standing):
        frame = _standing.join(frame, call, state)
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
        if tokens_in <= tariff.most_input_tokens and not (
            call.has_audio or call.has_images or call.most_web_searches or call.most_units
        ):
            input_nanos = -(-(tariff.request_picos + tokens_in * tariff.input_picos) // 1000)
            output_nanos = tariff.output_nanos
        else:
            input_nanos, output_nanos = rates.bound(
                tokens_in,
                cache_write=call.cache_write,
                audio=call.has_audio,
                images=call.has_images,
                web_searches=call.most_web_searches,
                units=call.most_units,
            )
            for part in call.parts:
                input_nanos += _part_nanos(call, part, rates, state)
                tokens_in += part.input_tokens + part.output_tokens
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
        scope_frame,
        state,
        state.ledger if frame is None or frame.ledger is None else frame.ledger,
        state.ledger,
        () if frame is None else frame.accounts,
        () if frame is None else frame.standing_accounts,
        need,
        rates,
        (_current_task() if call.is_async else None) or _thread.identity(),
        call.number,
        limits.reasons or call.reasons,
        site,
        sends_cap,
        stump,
    )


def _part_nanos(call: Call, part: Part, own: Rates, state: _config.State) -> int:
    """The most that a part of a call can cost; of a model that nobody knows as much as the dearest."""
    rates: Rates | None = own
    if part.model:
        at, tier = call.started_at_seconds, call.tier
        rates = state.card.find_dearest(call.provider_name, part.model, at, tier=tier)
        rates = rates or state.card.find_stand_in(call.provider_name, at, tier) or own
    assert rates is not None
    longest = part.longest_input or part.input_tokens
    first, per_token = rates.bound(longest, cache_write=call.cache_write, audio=call.has_audio, images=call.has_images)
    once = rates.bound(0)[0]
    if longest:
        first = -(-first * part.input_tokens // longest)
    return first + once * part.requests + per_token * part.output_tokens


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
        speaker = next(one for one in frame.budgets if one.budget.proves_input)
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
        view = speaker.view()
        if view.limit_usd_nanos != NO_LIMIT and nanos_per_token:
            unspent.append((view.limit_usd_nanos - view.balance.spent_usd_nanos) // nanos_per_token)
        if view.limit_tokens != NO_LIMIT and tokens_per_token:
            unspent.append((view.limit_tokens - view.balance.spent_tokens) // tokens_per_token)
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
    return _instead_of(plan, quote(call, plan.scope_frame))


def quote_in_new_window(call: Call, plan: Plan) -> Plan:
    """The call quoted anew, because a window of its standing budgets has turned."""
    if plan.site is not None:
        plan.site.open_calls.pop(call.number, None)
    return _instead_of(plan, quote(call, plan.scope_frame))


def _instead_of(plan: Plan, anew: Plan) -> Plan:
    """What was decided about `plan` holds for the one that takes its place."""
    return attrs.evolve(anew, hold_id=plan.hold_id, forced=plan.forced, crossed=plan.crossed, cut_by=plan.cut_by)
