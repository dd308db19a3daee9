"""How many input tokens a call can have, before it is sent.

Text is estimated so that it errs upwards: two bytes a token for prose and code, one byte a token for anything denser,
where every vocabulary measured has 3 to 5 and 1.3 to 3 bytes.  It is calibrated, not proven: a model whose answer shows
more input than was estimated has its estimate raised from then on, and the excess is debt that a report shows.
"""

from __future__ import annotations

from typing import Final

from farebox._call import Call

#: Models whose factor is remembered; the names come from programs, which may make them up.
_MOST_MODELS: Final = 1_024
#: No report of a provider raises an estimate above this many times the calibrated one.
_MOST_PERCENT: Final = 800

_raised_percent: dict[tuple[str, str], int] = {}


def input_tokens(call: Call) -> int:
    """Most input tokens that `call` is held for."""
    tokens = (call.text_bytes + call.dense_bytes + 1) // 2 + call.extra_input_tokens
    if _raised_percent:
        tokens = -(-tokens * _raised_percent.get((call.provider_name, call.model), 100) // 100)
    return tokens


def learn_input(call: Call, estimated_tokens: int, actual_tokens: int) -> None:
    """Raise the estimate for the model of `call` when it turned out too low, with a tenth on top."""
    if actual_tokens <= estimated_tokens or estimated_tokens <= 0:
        return
    key = (call.provider_name, call.model)
    before = _raised_percent.get(key, 100)
    if key not in _raised_percent and len(_raised_percent) >= _MOST_MODELS:
        return
    _raised_percent[key] = min(_MOST_PERCENT, before * actual_tokens * 11 // (estimated_tokens * 10) + 1)


def forget_learned() -> None:
    """Start again from the calibrated estimate."""
    _raised_percent.clear()
