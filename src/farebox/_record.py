"""record(): calls that no SDK saw, put on the same books."""

from __future__ import annotations

from farebox import _config, _speak, _standing, signals
from farebox._call import Call, Usage
from farebox._money import UsdLike, to_nanos
from farebox._plan import Plan
from farebox._scope import current
from farebox.ledgers import Need, View


def record(
    *,
    model: str,
    provider: str,
    input_tokens: int = 0,
    output_tokens: int = 0,
    web_searches: int = 0,
    file_searches: int = 0,
    images: int = 0,
    characters: int = 0,
    input_audio_seconds: UsdLike = 0,
    output_audio_seconds: UsdLike = 0,
    video_seconds: UsdLike = 0,
    usd: UsdLike | None = None,
    operation: str = "chat",
) -> None:
    """Charge a call that has happened, to every budget in scope and to the report.

    It is never refused, since it was already billed: what it takes past a limit is debt.

    Args:
        model, provider: Its names, for reports and for the price.
        input_tokens, output_tokens: All of them, cached and reasoned ones too.
        web_searches, file_searches, images, characters: How many, where they are paid for.
        input_audio_seconds, output_audio_seconds, video_seconds: How long, rounded up to milliseconds.
        usd: What it cost; without it the model's price is used, and a model without one is recorded as unpriced.
        operation: OpenTelemetry's name of the kind of call.

    Raises:
        ValueError: a negative amount, or a count that is no whole number.
    """
    counts = {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "web_searches": web_searches,
        "file_searches": file_searches,
        "images": images,
        "characters": characters,
    }
    for name, value in counts.items():
        if type(value) is not int or value < 0:
            raise ValueError(f"{name}={value!r} is no count; give a whole number, 0 or more")
    usage = Usage(
        uncached_input_tokens=input_tokens,
        visible_output_tokens=output_tokens,
        web_searches=web_searches,
        file_searches=file_searches,
        images=images,
        characters=characters,
        input_audio_milliseconds=_milliseconds(input_audio_seconds, "input_audio_seconds"),
        output_audio_milliseconds=_milliseconds(output_audio_seconds, "output_audio_seconds"),
        video_milliseconds=_milliseconds(video_seconds, "video_seconds"),
    )
    state, scope_frame = _config.state(), current()
    call = Call(provider_name=provider, operation_name=operation, endpoint="", request_model=model)
    call.tags = state.tags if scope_frame is None else {**state.tags, **scope_frame.tags}
    call.scope = "" if scope_frame is None else scope_frame.path
    call.usage = usage
    if scope_frame is not None and scope_frame.is_inherited:
        scope_frame = None
    frame = scope_frame
    if state.standing or (frame is not None and frame.standing):
        frame = _standing.join(frame, call, state)
    rates = state.card.find(provider, model, call.started_at_seconds)
    call.known_usd_nanos = known = None if usd is None else to_nanos(usd, "usd")
    bound = known if known is not None else rates.charge_nanos(call.usage) if rates is not None else 0
    speakers = () if frame is None else frame.budgets
    need = Need(fixed_usd_nanos=bound, fixed_tokens=call.usage.total_tokens, tokens_per_token=0)
    plan = Plan(frame, scope_frame, state, need, rates, None, call.number)
    in_debt = [speaker for speaker in speakers if _passes(speaker.view(), bound, call.usage.total_tokens)]
    plan.charge_afterwards(call)
    call.outcome = "completed"
    signals.post_call.publish(call)
    if in_debt:
        _speak.publish_debt(call, in_debt)


def _milliseconds(seconds: UsdLike, name: str) -> int:
    """Seconds as what they print, in milliseconds rounded up."""
    return -(-to_nanos(seconds, name) // 1_000_000)


def _passes(view: View, usd_nanos: int, tokens: int) -> bool:
    """Whether one more call of these amounts takes an account past one of its limits, as far as this process knows it."""
    was = view.balance
    return (
        was.spent_usd_nanos + was.reserved_usd_nanos + usd_nanos > view.limit_usd_nanos
        or was.spent_tokens + was.reserved_tokens + tokens > view.limit_tokens
        or was.spent_calls + was.reserved_calls + 1 > view.limit_calls
    )
