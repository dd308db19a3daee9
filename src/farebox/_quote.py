"""What a call can cost, before it is sent.

`quote` bounds a call as a line in its output cap (`Need`), and says whether that cap is ours to choose: the ledger picks it
when it reserves, in one step, from what every account has left (money rules 2 to 5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from farebox import _config, _speak, _standing
from farebox._call import BATCH, Call, Part
from farebox._frames import Frame
from farebox._needs import PRIOR_TOKENS, PRIOR_TOKENS_REASONING, Site
from farebox._plan import Plan, owner_of, this_thread
from farebox.ledgers import NO_LIMIT, Need
from farebox.on_exceed import Rewrite
from farebox.prices import NO_TARIFF, Rates, Tariff
from farebox.prices.bounds import proven_tokens
from farebox.prices.limits import ModelLimits, model_limits

_tuple: Final = tuple.__new__


def quote(call: Call, frame: Frame | None) -> Plan:
    """Bound what the call can cost as a line in its output cap, and choose the cap where it is ours to choose.

    Raises:
        UnpricedModel: a usd limit is in scope and the model has no price.
        UnmeteredCall: a limit in usd or tokens is in scope, and nobody can read what the request asks for.
        UnboundedCall: a budget wants input bounded by proof, and something in it can't be.
        ValueError: a budget's `output_cap` is below what the provider takes.
    """
    state = _config._state or _config.state()
    if frame is None:
        call.tags = state.tags
    else:
        call.scope = frame.path
        call.tags = {**state.tags, **frame.tags} if state.tags else frame.tags
    scope_frame = frame
    if state.standing or (frame is not None and frame.standing):
        frame = _standing.join(frame, call, state)
    model = call.sent_model or call.request_model
    if state.dear_hosts and call.server_address in state.dear_hosts:
        call.tier = _config.UNNAMED_TIERS.get(call.tier, call.tier)
    names, at = (call.provider_name, model, call.tier, call.cache_write), call.started_at_seconds
    tariff = state.card.tariffs.get(names, NO_TARIFF)
    if not tariff.holds_from <= at < tariff.holds_until:
        tariff = state.card.tariff(*names, at)
    rates, is_plain, choices = tariff.rates, call.is_plain, call.choices

    # The input, and what a token of output costs.
    tokens_in = state.input_estimate.tokens(call)
    if not is_plain or (frame is not None and frame.proves_input):
        tokens_in = _other_input(call, frame, state, tariff.limits, tokens_in)
    if rates is not None and is_plain and tokens_in <= tariff.most_input_tokens:
        input_nanos = -(-(tariff.request_picos + tokens_in * tariff.input_picos) // 1000)
        output_nanos = tariff.output_nanos
    else:
        rates, tokens_in, input_nanos, output_nanos = _other_price(call, frame, state, tariff, tokens_in)

    # The output cap: as declared, the model's own, or one that is ours to choose.
    cap = call.declared_cap
    if cap is not None and is_plain and (frame is None or frame.output_cap == NO_LIMIT):
        need: Need = _tuple(Need, (input_nanos, output_nanos * choices, tokens_in, choices, 1, cap, cap, cap, cap, 0))
        owner = owner_of(call) if call.is_async else this_thread.identity
        plan = Plan(frame, scope_frame, state, need, rates, owner, call.number)
        plan.is_ordinary = frame is None or not frame.proves_input
        return plan
    site, stump, sends_cap, caps = _choose_cap(call, frame, state, tariff.limits, model, output_nanos)
    calls = call.messages if call.operation_name == BATCH else 1
    need = _tuple(Need, (input_nanos, output_nanos * choices, tokens_in, choices, calls, *caps))
    plan = Plan(frame, scope_frame, state, need, rates, owner_of(call), call.number)
    plan.site, plan.stump_cap, plan.sends_cap = site, stump, sends_cap
    return plan


def _other_input(call: Call, frame: Frame | None, state: _config.State, limits: ModelLimits, estimated: int) -> int:
    """Most input tokens of a call that says more than plain text, or is to be bounded by proof."""
    tokens_in = _proven(call, frame) if frame is not None and frame.proves_input else estimated
    if call.previous_response_id or call.fills_context:
        tokens_in += _goes_on_from(call, state, limits) * (1 + call.turns)
    return tokens_in


def _other_price(
    call: Call, frame: Frame | None, state: _config.State, tariff: Tariff, tokens_in: int
) -> tuple[Rates | None, int, int, int]:
    """Rates, input tokens, nanodollars of the input and of a token of output, of a call that may hold anything.

    Raises:
        UnpricedModel: a usd limit is in scope and the model has no price.
        UnmeteredCall: a limit in usd or tokens is in scope, and nobody can read what the request asks for.
    """
    rates = tariff.rates
    if call.is_unmetered:
        _admit_unmetered(call, frame)
        return None, 0, 0, 0
    if rates is None and frame is not None and call.fixed_usd_nanos is None:
        rates = _stand_in(call, frame, state)
    if rates is not None:
        input_nanos, output_nanos = rates.bound(
            tokens_in,
            cache_write=call.cache_write,
            audio=call.has_audio,
            images=call.has_images,
            web_searches=call.most_web_searches,
            units=call.most_units,
        )
        tokens_of_parts = 0
        for said in call.parts:
            part = said
            if said.reads:
                read = said.input_tokens + tokens_in * said.reads
                part = said._replace(input_tokens=read, longest_input=said.longest_input or read)
            if part.uncapped or part.filled:
                part = _within_limits(call, part)
            input_nanos += _part_nanos(call, part, rates, state)
            tokens_of_parts += part.input_tokens + part.output_tokens
        return rates, tokens_in + tokens_of_parts, input_nanos, output_nanos
    if call.fixed_usd_nanos is not None:
        return rates, call.fixed_tokens, call.fixed_usd_nanos, 0
    return rates, tokens_in, 0, 0


def _choose_cap(
    call: Call, frame: Frame | None, state: _config.State, limits: ModelLimits, model: str, output_nanos: int
) -> tuple[Site | None, int | None, bool, tuple[int, int, int, int, int]]:
    """Call site, stump cap, whether the cap is to be sent, and (least, floor, want, most, share) of a `Need`."""
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
    return site, stump, sends_cap, (least, floor, want, most, share)


def _within_limits(call: Call, part: Part) -> Part:
    """A part with what its model can write and read at most, where its requests do not say."""
    limits = model_limits(call.provider_name, part.model or call.model)
    return part._replace(
        input_tokens=part.input_tokens + part.filled * limits.context_tokens,
        longest_input=max(part.longest_input, limits.context_tokens) if part.filled else part.longest_input,
        output_tokens=part.output_tokens + part.uncapped * limits.max_output_tokens,
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


def _admit_unmetered(call: Call, frame: Frame | None) -> None:
    """See whether a request may be sent that may be billed and that nobody here can bound; its cost will be unknown.

    Raises:
        UnmeteredCall: a budget that limits usd or tokens, and could stop the call, wants it refused.
    """
    around = () if frame is None else frame.budgets
    speakers = [speaker for speaker in around if speaker.budget.limits_size and speaker.budget.mode.stops]
    for speaker in speakers:
        if speaker.budget.on_unmetered == "refuse":
            _speak.publish_unmetered(call, speaker, "stop")
            raise _speak.unmetered(call, speaker)
    for speaker in speakers:
        _speak.publish_unmetered(call, speaker, "unmetered")
    if not speakers or any(speaker.budget.on_unmetered == "warn" for speaker in speakers):
        _speak.warn_unmetered(call)


def _proven(call: Call, frame: Frame) -> int:
    """The most input tokens by proof.

    Raises:
        UnboundedCall: a part of the input has no proven bound; the message names it.
    """
    unbounded = call.unbounded
    if call.previous_response_id and call.previous_response_id not in _config.state().answers:
        unbounded = (*unbounded, call.previous_name)
    if unbounded and not call.is_begun:
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
        if budget.on_unpriced == "refuse" and not call.is_begun:
            raise _speak.unpriced(call, speaker, state.card.nearest(call.provider_name, call.model))
        wants_dearest = wants_dearest or budget.on_unpriced == "dearest"
    if not wants_dearest:
        return None
    return state.card.find_stand_in(call.provider_name, call.started_at_seconds, call.tier)


def may_reason(call: Call) -> bool:
    """Whether some of its output may be unseen."""
    return call.reasons or model_limits(call.provider_name, call.model).reasons


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
    call.is_plain = False
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
    anew.is_ordinary = False
    anew.hold_id, anew.forced, anew.crossing, anew.cut_by = plan.hold_id, plan.forced, plan.crossing, plan.cut_by
    return anew
