"""record(): calls that no SDK saw, put on the same books."""

from __future__ import annotations

from farebox import _config, _speak, signals
from farebox._call import Call, Usage
from farebox._money import UsdLike, to_nanos
from farebox._plan import Plan
from farebox._scope import current
from farebox.ledgers import Need


def record(
    *,
    model: str,
    provider: str,
    input_tokens: int = 0,
    output_tokens: int = 0,
    usd: UsdLike | None = None,
    operation: str = "chat",
) -> None:
    """Charge a call that has happened, to every budget in scope and to the report.

    It is never refused, since it was already billed: what it takes past a limit is debt.

    Args:
        model, provider: Its names, for reports and for the price.
        input_tokens, output_tokens: All of them, cached and reasoned ones too.
        usd: What it cost; without it the model's price is used, and a model without one is recorded as unpriced.
        operation: OpenTelemetry's name of the kind of call.

    Raises:
        ValueError: a negative amount, or tokens that are no whole number.
    """
    for name, value in (("input_tokens", input_tokens), ("output_tokens", output_tokens)):
        if type(value) is not int or value < 0:
            raise ValueError(f"{name}={value!r} is no count; give a whole number, 0 or more")
    state, frame = _config.state(), current()
    call = Call(provider_name=provider, operation_name=operation, endpoint="", request_model=model)
    call.tags = state.tags if frame is None else {**state.tags, **frame.tags}
    call.scope = "" if frame is None else frame.path
    call.usage = Usage(uncached_input_tokens=input_tokens, visible_output_tokens=output_tokens)
    rates = state.card.find(provider, model, call.started_at_seconds)
    call.known_usd_nanos = known = None if usd is None else to_nanos(usd, "usd")
    bound = known if known is not None else rates.charge_nanos(call.usage) if rates is not None else 0
    speakers = () if frame is None or frame.is_inherited else frame.budgets
    accounts = tuple(b.account for b in speakers)
    plan = Plan(
        frame,
        state,
        state.ledger if frame is None or frame.ledger is None else frame.ledger,
        state.ledger,
        accounts,
        Need(fixed_usd_nanos=bound, fixed_tokens=call.usage.total_tokens, tokens_per_token=0),
        rates,
        owner=None,
        forced=accounts,
    )
    before = [b.debt_usd for b in speakers]
    plan.reserve(call)
    call.outcome = "completed"
    signals.post_call.send(provider, call=call)
    in_debt = [b for b, debt in zip(speakers, before, strict=True) if b.debt_usd > debt]
    if in_debt:
        _speak.publish_debt(call, in_debt)
