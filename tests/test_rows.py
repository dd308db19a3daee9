"""What a ledger is told about rows: what they come to, and how they are written down and read back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any, get_args

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox._call import Call, CallRecord, CostSource, Outcome, Usage
from farebox._rows import FORM, correction_of, load
from farebox._tally import Amount, Place, amount, place
from farebox.ledgers import Grant, Sum
from tests.strategies import MODEL, new_call

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)

# Half surrogate pairs, zero bytes and line ends too: a tag is whatever a program makes of it.
words = st.text(st.characters(exclude_categories=()), max_size=12)
counts = st.integers(0, 2**63 - 1)
maybe_counts = st.none() | counts
instants = st.floats(0, 4e9, allow_nan=False)
tags = st.dictionaries(words, words, max_size=4)

_WORDS = (
    "sent_model response_model response_id request_id tier served_tier price_version error_class doubt decision scope "
    "adjustment_id upstream_provider"
).split()
_COUNTS = (
    "bound_usd_nanos bound_tokens attempts choices charged_input_tokens charged_output_tokens messages text_bytes "
    "system_bytes tools_bytes last_message_bytes"
).split()


@st.composite
def ended_calls(draw: st.DrawFn) -> Call:
    """Calls with anything that a field of a record can hold."""
    call = Call(
        provider_name=draw(words),
        operation_name=draw(words),
        endpoint=draw(words),
        request_model=draw(words),
        server_address=draw(words),
    )
    call.started_at_seconds = draw(instants)
    drawn: dict[str, Any] = {
        "tags": draw(tags),
        "ended_at_seconds": draw(st.none() | instants),
        "first_chunk_at_seconds": draw(st.none() | instants),
        "is_stream": draw(st.booleans()),
        "usage": draw(st.none() | st.builds(Usage, *[counts] * len(Usage._fields))),
        "cost_usd_nanos": draw(st.none() | st.integers(-(2**63), 2**63 - 1)),
        "cost_source": draw(st.sampled_from(get_args(CostSource))),
        "outcome": draw(st.sampled_from(get_args(Outcome))),
        "declared_cap": draw(maybe_counts),
        "sent_cap": draw(maybe_counts),
        "accounts": draw(st.lists(words, max_size=3).map(tuple)),
        **{name: draw(words) for name in _WORDS},
        **{name: draw(counts) for name in _COUNTS},
    }
    for name, value in drawn.items():
        setattr(call, name, value)
    return call


def a_call(**fields: Any) -> Call:
    call = new_call(started_at_seconds=NOON.timestamp() + 61.5)
    for name, value in {"outcome": "completed", "cost_usd_nanos": 5, **fields}.items():
        setattr(call, name, value)
    return call


# As text.


def test_the_strategy_above_draws_every_field_of_a_record() -> None:
    derived = {"started_at", "ended_at", "first_chunk_at", "usd", "bound_usd", "call_id"}
    drawn = {*_WORDS, *_COUNTS, *"tags is_stream usage cost_source outcome declared_cap sent_cap accounts".split()}
    given_to_the_call = {"provider_name", "operation_name", "endpoint", "request_model", "server_address"}
    names = {field.name for field in attrs.fields(CallRecord)}
    assert names == (derived | drawn | given_to_the_call) - {"bound_usd_nanos"}


@given(ended_calls())
def test_what_is_read_back_is_the_record_of_the_call(call: Call) -> None:
    text = FORM.dump(call)
    assert text.isascii()
    assert "\n" not in text
    assert FORM.load(text) == CallRecord.of(call)
    assert FORM.dump(FORM.load(text)) == text


@given(ended_calls())
def test_a_row_counts_the_same_before_it_is_written_and_after_it_was_read_back(call: Call) -> None:
    found = FORM.sum_of(call)
    assert found == Sum("second", int(call.started_at_seconds), place(call), amount(call))
    assert FORM.sum_of(FORM.load(FORM.dump(call))) == found
    assert found.sums[0] == (call.cost_usd_nanos or 0 if amount(call).calls or call.outcome == "corrected" else 0)


@given(ended_calls(), st.lists(st.integers() | words, max_size=3))
def test_a_newer_text_is_read_without_what_is_unknown_in_it(call: Call, unknown: list[Any]) -> None:
    call.adjustment_id = call.adjustment_id or "7"  # so that all that this version knows is in the text
    values = json.loads(FORM.dump(call))
    values[0] += 1
    if values[7] is not None:
        values[7].append(12)  # one more bucket of tokens
    assert FORM.load(json.dumps([*values, *unknown])) == CallRecord.of(call)


@given(ended_calls(), st.integers(9, 40))
def test_an_older_text_is_read_with_nothing_in_what_it_does_not_say(call: Call, kept: int) -> None:
    values = json.loads(FORM.dump(call))
    whole, part = CallRecord.of(call), FORM.load(json.dumps([0, *values[1:kept]]))
    assert (part.call_id, part.started_at, part.usd, part.tags) == (
        whole.call_id,
        whole.started_at,
        whole.usd,
        whole.tags,
    )
    if kept > 9:
        assert part.provider_name == whole.provider_name
    else:
        assert part.provider_name == ""
    assert part.last_message_bytes in (0, whole.last_message_bytes)


@pytest.mark.parametrize("text", ["{}", "[]", "3", "[1,2,3]", '"row"'])
def test_what_is_no_row_is_an_error_that_does_not_show_it(text: str) -> None:
    with pytest.raises(ValueError, match="a row of a ledger is a list of 9 values or more") as caught:
        load(text)
    assert text not in str(caught.value)


def test_a_text_of_the_first_format_is_still_read() -> None:
    text = (
        '[1,"call_0123456789ab00000007",1795262461500000,1795262462000001,null,1500,2000,'
        '[10,0,0,0,0,0,0,0,0,5,0,0,0,0],{"feature":"search"},"openai","chat","/chat/completions","api.openai.com",'
        '"gpt-5","gpt-5-mini","gpt-5-mini-2025-08-07","resp_1","req_1","","default",false,1,10,5,"list","v1",100,null,'
        '126,2,"completed","","","","search",3,40,10,0,9]'
    )
    record = load(text)
    assert record.started_at == NOON + timedelta(seconds=61.5)
    assert record.ended_at == NOON + timedelta(seconds=62, microseconds=1)
    assert record.first_chunk_at is None
    assert (record.usd, record.bound_usd, record.bound_tokens) == (Decimal("0.0000015"), Decimal("0.000002"), 126)
    assert record.usage == Usage(uncached_input_tokens=10, visible_output_tokens=5)
    assert (record.model, record.request_model, record.tags) == ("gpt-5-mini", "gpt-5", {"feature": "search"})
    assert (record.attempts, record.outcome, record.scope, record.last_message_bytes) == (2, "completed", "search", 9)
    # What was counted later stands at the end of its usage, as nothing.
    assert FORM.dump(record) == text.replace("5,0,0,0,0]", "5,0,0,0,0" + ",0" * 15 + "]")
    assert FORM.sum_of(record) == Sum(
        "second", 1_795_262_461, Place("openai", "gpt-5-mini", "chat", "completed", (("feature", "search"),)),
        (1_500, 1, 0, 10, 5, 0, 0, 2),
    )  # fmt: skip


def test_a_field_that_is_no_json_does_not_cost_the_row() -> None:
    call = a_call(tier=Decimal("1.5"))
    assert FORM.load(FORM.dump(call)).tier == "1.5"


def test_amounts_are_written_whole_in_any_decimal_context() -> None:
    record = CallRecord.of(a_call(cost_usd_nanos=9_223_372_036_854_775_807))
    with localcontext(prec=3):
        assert FORM.load(FORM.dump(record)) == record


# Places.

places = st.builds(Place, words, words, words, words, tags.map(lambda drawn: tuple(sorted(drawn.items()))))


@given(places, places)
def test_each_place_has_one_text(one: Place, other: Place) -> None:
    assert FORM.load_place(FORM.dump_place(one)) == one
    assert type(FORM.load_place(FORM.dump_place(one))) is Place
    assert (FORM.dump_place(one) == FORM.dump_place(other)) == (one == other)


def test_the_order_of_tags_makes_no_other_place() -> None:
    here, there = a_call(tags={"a": "1", "b": "2"}), a_call(tags={"b": "2", "a": "1"})
    assert (
        FORM.dump_place(place(here))
        == FORM.dump_place(place(there))
        == (f'["openai","{MODEL}","chat","completed",{{"a":"1","b":"2"}}]')
    )


# Less exactly.


def test_a_sum_gets_less_exact_in_time_first_and_then_loses_its_tags() -> None:
    here = Place("openai", MODEL, "chat", "completed", (("feature", "f"),))
    second = int(datetime(2026, 11, 21, 13, 14, 15, tzinfo=UTC).timestamp())
    hour = FORM.coarser("second", second, here)
    assert hour == FORM.coarser("quarter", second - 15, here) == ("hour", second - 14 * 60 - 15, here)
    day = FORM.coarser(*hour)
    assert day == ("day", int(datetime(2026, 11, 21, tzinfo=UTC).timestamp()), here)
    month = FORM.coarser(*day)
    assert month == ("month", int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()), here)
    ever = FORM.coarser(*month)
    assert ever == ("ever", 0, here)
    bare = FORM.coarser(*ever)
    assert bare == ("ever", 0, here._replace(tags=()))
    assert FORM.coarser(*bare) == bare
    assert FORM.coarser("ever", 0, None) == ("ever", 0, None)


@given(st.integers(0, 4_000_000_000), places)
def test_getting_less_exact_ends_and_never_mixes_models(second: int, here: Place) -> None:
    spans, known = [], FORM.coarser("second", second, here)
    for _ in range(6):
        span, starts_at, there = known
        assert isinstance(there, Place)
        assert starts_at <= second
        assert there[:4] == here[:4]
        spans.append(span)
        known = FORM.coarser(*known)
    assert spans == ["hour", "day", "month", "ever", "ever", "ever"]
    assert known == ("ever", 0, here._replace(tags=()))


# What nobody ended, and corrections.


@pytest.mark.parametrize("is_read_back", [False, True])
def test_a_call_that_nobody_ended_is_presumed_to_have_used_all_that_was_held(is_read_back: bool) -> None:
    call: Any = a_call(outcome="open", cost_usd_nanos=None, tags={"feature": "f"}, attempts=2)
    if is_read_back:
        call = FORM.load(FORM.dump(call))
    record = FORM.presumed(call, Grant(84, 250_000, 150, 1))  # an output cap of 84 holds 84 + 16 tokens
    assert (record.outcome, record.cost_source, record.ended_at) == ("unknown", "estimated", None)
    assert (record.usd, record.bound_usd, record.bound_tokens) == (Decimal("0.00025"), Decimal("0.00025"), 150)
    assert (record.charged_input_tokens, record.charged_output_tokens) == (50, 100)
    assert amount(record) == Amount(250_000, 1, 0, 50, 100, 0, 1, 2)
    assert place(record).tags == (("feature", "f"),)


def test_every_choice_of_an_answer_is_presumed_to_be_whole() -> None:
    record = FORM.presumed(a_call(outcome="open", choices=3), Grant(84, 1, 350, 1))
    assert (record.charged_input_tokens, record.charged_output_tokens) == (50, 300)


def test_more_output_is_never_presumed_than_was_held_in_all() -> None:
    record = FORM.presumed(a_call(outcome="open"), Grant(84, 1, 60, 1))
    assert (record.charged_input_tokens, record.charged_output_tokens) == (0, 60)


def test_unknown_is_not_zero_where_a_price_is_unknown_and_nothing_was_held_of_it() -> None:
    assert FORM.presumed(a_call(outcome="open"), Grant(84, 0, 150, 1)).usd is None
    tool = Call(provider_name="", operation_name="execute_tool", endpoint="", request_model="")
    tool.choices = 0
    held = FORM.presumed(tool, Grant(0, 0, 7, 1))
    assert (held.usd, held.charged_input_tokens, held.charged_output_tokens) == (0, 7, 0)


def test_a_correction_is_put_where_the_call_belongs_and_is_no_call() -> None:
    call = a_call(cost_usd_nanos=900, tags={"feature": "f"}, usage=Usage(1), attempts=1)
    later = NOON + timedelta(days=3)
    record = correction_of(CallRecord.of(call), -400, output_tokens=-7, at=later)
    assert (record.started_at, record.ended_at) == (CallRecord.of(call).started_at, later)
    assert place(record) == place(call)._replace(outcome="corrected")
    assert amount(record) == Amount(usd_nanos=-400, output_tokens=-7)
    assert FORM.load(FORM.dump(record)) == record


def test_a_call_says_how_it_stands_before_anybody_has_filled_it_in() -> None:
    call = Call("openai", "chat", "/chat/completions", "gpt-5-mini")
    record = CallRecord.of(call)
    assert (record.cost_source, record.tags, record.usd, record.usage, record.outcome) == (
        "list",
        {},
        None,
        None,
        "open",
    )
    assert (call.bound_usd_nanos, call.timeouts, call.cost_usd_nanos, call.cache_write) == (0, (), None, "known")
    call.bound_usd_nanos += 7
    assert call.bound_usd_nanos == 7
    assert Call("openai", "chat", "/chat/completions", "gpt-5-mini").bound_usd_nanos == 0


def test_a_call_has_nothing_but_what_is_said_of_calls() -> None:
    call = Call("openai", "chat", "/chat/completions", "gpt-4o-mini")
    for name in ("modle", "__name__", "__bases__", "mro"):
        with pytest.raises(AttributeError, match=f"a call has no '{name}'"):
            getattr(call, name)
