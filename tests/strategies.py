"""What the core tests draw from, and the smallest calls there are: on the bus, without an SDK and without a network."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import strategies as st

import farebox
from farebox import signals
from farebox._call import Call, Outcome, Usage
from farebox.prices.bounds import InputEstimate

#: Priced by hand at 1 and 2 USD per million tokens: 1,000 nanodollars an input token, 2,000 an output token.
MODEL = "hand-priced"
INPUT_NANOS = 1_000
OUTPUT_NANOS = 2_000


def price_the_model() -> None:
    farebox.set_price(MODEL, input_per_million=1, output_per_million=2)


_GIVEN = ("provider_name", "operation_name", "endpoint", "server_address")


def new_call(model: str = MODEL, *, cap: int | None = 100, **fields: Any) -> Call:
    """A call as a provider reads it: no input at all, unless `fields` say otherwise."""
    made = {name: fields.pop(name) for name in list(fields) if name in _GIVEN}
    known = {"provider_name": "openai", "operation_name": "chat", "endpoint": "/chat/completions", **made}
    call = Call(request_model=model, **known)
    for name, value in {"declared_cap": cap, "cache_write": "none", **fields}.items():
        setattr(call, name, value)
    return call


def admit(call: Call) -> Call:
    """Send `pre_call`, as the shim of an SDK does before it sends."""
    signals.pre_call.send(call.provider_name, call=call)
    return call


def bound_tokens(call: Call) -> int:
    """The most input tokens that `call` is held for while nothing was learnt of its model."""
    return InputEstimate().tokens(call)


def finish(call: Call, *, usage: Usage | None = None, outcome: Outcome = "completed") -> Call:
    """Send `post_call`, as the shim does after the answer."""
    call.usage = usage
    call.outcome = outcome
    signals.post_call.send(call.provider_name, call=call)
    return call


def paid(input_tokens: int = 0, output_tokens: int = 0, **fields: Any) -> Call:
    """A call that was admitted, used so much, and was paid; held for at least that."""
    call = admit(new_call(cap=max(100, output_tokens), extra_input_tokens=input_tokens, **fields))
    return finish(call, usage=Usage(uncached_input_tokens=input_tokens, visible_output_tokens=output_tokens))


#: Nanodollars that an account can hold.
nanos = st.integers(0, 9_223_372_036 * 10**9)

#: Amounts of USD in every spelling that is taken, none of them negative.
usd_amounts = (
    st.decimals(0, 9_000_000_000, allow_nan=False, allow_infinity=False, places=12)
    | st.decimals(0, 1, allow_nan=False, allow_infinity=False, places=40)
    | st.integers(0, 9_000_000_000)
    | st.floats(0, 9e9, allow_nan=False, allow_infinity=False)
    | st.floats(0, 1e-6)
)

#: JSON as a tool's input, a schema or a metadata object holds it.
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)

#: Token counts as they occur, and zero often.
tokens = st.integers(0, 200_000) | st.just(0) | st.integers(0, 30)


@st.composite
def cuts(draw: st.DrawFn, text: str) -> list[str]:
    """`text` in pieces, cut anywhere, empty ones too."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    edges = [0, *places, len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]
