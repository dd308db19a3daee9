"""The words of a budget that starts again: how they are read, and what an error says to write instead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox import budget
from farebox._budget import Budget, Rung, Term
from farebox._windows import PERIODS
from farebox.ledgers import NO_LIMIT
from tests.strategies import usd_amounts

USD = 10**9

limits_of_usd = st.dictionaries(st.sampled_from(PERIODS), usd_amounts | usd_amounts.map(str), min_size=1)
counts = st.integers(0, 2**63 - 2)
limits_of_counts = st.dictionaries(st.sampled_from(PERIODS), counts, min_size=1)


def made(name: str | None = "org", **words: Any) -> Budget:
    return budget(name, **words)._budget


# What becomes of them.


def test_a_plain_limit_with_a_period_is_one_term() -> None:
    read = made(usd="0.10", tokens=50_000, calls=20, per="day", tz="Asia/Tokyo")
    assert read.terms == (Term("day", USD // 10, 50_000, 20),)
    assert (read.name, read.zone_name, read.is_standing, read.is_per_call) == ("org", "Asia/Tokyo", True, False)
    assert (read.limit_usd_nanos, read.limit_tokens, read.limit_calls) == (USD // 10, 50_000, 20)


def test_a_unit_without_a_limit_has_none_in_the_term() -> None:
    read = made(calls=5, per="ever")
    assert read.terms == (Term("ever", NO_LIMIT, NO_LIMIT, 5),)
    assert (read.limit_usd_nanos, read.limit_tokens, read.limit_calls) == (NO_LIMIT, NO_LIMIT, 5)


def test_a_limit_by_period_is_a_term_for_each_the_shortest_first() -> None:
    read = made(usd={"month": 50, "day": 5, "call": 1})
    assert read.terms == (
        Term("call", 1 * USD, NO_LIMIT, NO_LIMIT),
        Term("day", 5 * USD, NO_LIMIT, NO_LIMIT),
        Term("month", 50 * USD, NO_LIMIT, NO_LIMIT),
    )
    assert read.limit_usd_nanos == 1 * USD


def test_units_that_name_the_same_period_share_its_term() -> None:
    read = made(usd={"day": 5, "month": 50}, tokens={"day": 1_000}, calls=100, per="month")
    assert read.terms == (Term("day", 5 * USD, 1_000, NO_LIMIT), Term("month", 50 * USD, NO_LIMIT, 100))
    assert (read.limit_usd_nanos, read.limit_tokens, read.limit_calls) == (5 * USD, 1_000, 100)


def test_a_period_of_per_may_come_again_in_a_limit_by_period() -> None:
    assert made(usd={"day": 5}, calls=100, per="day").terms == (Term("day", 5 * USD, NO_LIMIT, 100),)


def test_a_scope_budget_has_no_terms() -> None:
    read = made(usd=1)
    assert (read.terms, read.is_standing, read.is_per_call) == ((), False, False)
    assert (read.zone_name, read.each, read.each_missing, read.where) == ("UTC", (), "error", {})


@given(limits_of_usd)
def test_every_spelling_of_an_amount_is_read_exactly_and_rounded_up(limits: dict[str, Any]) -> None:
    read = made(usd=limits)
    expected = {period: math.ceil(Fraction(str(usd)) * USD) for period, usd in limits.items()}
    assert {term.period: term.limit_usd_nanos for term in read.terms} == expected
    assert read.limit_usd_nanos == min(expected.values())


@given(limits_of_usd, limits_of_counts, limits_of_counts)
def test_terms_are_in_the_order_of_periods_and_the_smallest_limit_of_each_unit_stands_for_all(
    usd: dict[str, Any], tokens: dict[str, int], calls: dict[str, int]
) -> None:
    read = made(usd=usd, tokens=tokens, calls=calls)
    assert [term.period for term in read.terms] == [period for period in PERIODS if period in {*usd, *tokens, *calls}]
    assert {term.period: term.limit_tokens for term in read.terms if term.limit_tokens != NO_LIMIT} == tokens
    assert {term.period: term.limit_calls for term in read.terms if term.limit_calls != NO_LIMIT} == calls
    assert (read.limit_tokens, read.limit_calls) == (min(tokens.values()), min(calls.values()))


@given(st.sampled_from(PERIODS), usd_amounts)
def test_a_plain_limit_with_a_period_and_one_by_period_are_the_same(period: str, usd: Any) -> None:
    assert made(usd=usd, per=period).terms == made(usd={period: usd}).terms


def test_a_limit_for_every_single_call_needs_no_name() -> None:
    read = made(None, usd=1, calls=3, per="call")
    assert (read.name, read.is_per_call) == ("1 usd, 3 calls per call", True)
    assert read.terms == (Term("call", 1 * USD, NO_LIMIT, 3),)
    assert made(None, tokens={"call": 900}).name == "900 tokens per call"
    assert made("one-call", usd=1, per="call").name == "one-call"


def test_a_budget_with_another_period_as_well_is_not_one_per_call() -> None:
    assert not made(usd={"call": 1, "ever": 5}).is_per_call


@pytest.mark.parametrize(
    ("each", "names"),
    [
        ("tenant", ("tenant",)),
        (["tenant", "user_id"], ("tenant", "user_id")),
        (("d", "c", "b", "a"), ("d", "c", "b", "a")),
    ],
)
def test_each_names_one_to_four_tags_in_the_order_given(each: Any, names: tuple[str, ...]) -> None:
    assert made(usd=1, per="day", each=each).each == names


def test_a_call_without_the_tag_is_an_error_or_shares_an_account() -> None:
    assert made(usd=1, per="day", each="tenant").each_missing == "error"
    assert made(usd=1, per="day", each="tenant", each_missing="shared").each_missing == "shared"


def test_where_is_kept_and_can_not_be_changed_afterwards() -> None:
    asked = {"model": "claude-opus-*", "provider": "anthropic", "operation": "chat", "tenant": "", "team": "*"}
    read = made(usd=1, per="day", where=asked)
    assert read.where == asked
    asked["model"] = "gpt-5"
    assert read.where["model"] == "claude-opus-*"
    with pytest.raises(TypeError):
        read.where["model"] = "gpt-5"  # type: ignore[index]


def test_an_empty_where_is_every_call() -> None:
    assert made(usd=1, per="day", where={}).where == {}


@pytest.mark.parametrize("period", ["call", "ever"])
def test_a_zone_may_be_named_also_where_nothing_ever_turns(period: str) -> None:
    assert made(usd=1, per=period, tz="Asia/Tokyo").zone_name == "Asia/Tokyo"


def test_a_mode_is_asked_whether_it_can_do_something_about_any_unit_of_any_period() -> None:
    assert made(usd={"day": 5}, calls={"month": 9}, on_exceed="clamp").mode.name == "clamp"
    with pytest.raises(ValueError, match="on_exceed='clamp' can do nothing about a limit in calls; give usd="):
        made(calls={"day": 5, "month": 9}, on_exceed="clamp")


# What can't be.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        # Periods.
        (
            {"usd": 1, "per": "daily"},
            "per='daily' names no period; choose from 'call', 'minute', 'hour', 'day', 'week', 'month', 'ever'",
        ),
        ({"usd": 1, "per": ""}, "per='' names no period; choose from"),
        ({"usd": {"daily": 5}}, "usd={'daily': ...} names no period; choose from 'call', 'minute'"),
        ({"usd": {"day": 5}, "calls": {"year": 5}}, "calls={'year': ...} names no period; choose from"),
        ({"usd": {"day": 5}, "calls": 5, "per": "days"}, "per='days' names no period; choose from"),
        (
            {"usd": {"day": 5}, "calls": 100},
            "calls=100 has no period and another limit of this budget has; write calls=100, per='day', or name the period as well",
        ),
        ({"usd": 1, "tokens": {"day": 5}, "calls": 9}, "usd=1, calls=9 has no period and another limit"),
        (
            {"usd": {"day": 5}, "per": "month"},
            "per='month' is for no limit: each names its own period here; leave per out",
        ),
        ({"usd": {}}, "usd={} holds no limit; write one for each period: usd={'day': 100}"),
        ({"usd": {}, "calls": 1, "per": "day"}, "usd={} holds no limit"),
        ({"per": "day"}, "a budget needs a limit; give usd=, tokens= or calls=, such as budget(usd='0.50')"),
        # Limits of a period.
        ({"usd": {"day": -5}}, "usd['day']=-5 is negative; an amount is 0 or more"),
        ({"usd": {"day": 5, "month": "much"}}, "usd['month']='much' is not a number; write it as usd['month']='0.50'"),
        ({"usd": {"day": math.nan}}, "usd['day']=nan is not finite"),
        ({"usd": {"day": math.inf}}, "usd['day']=inf is not finite"),
        ({"usd": {"day": 1e12}}, "usd['day']=1000000000000.0 is more than the 9223372036 USD an account can hold"),
        ({"tokens": {"day": 1.5}}, "tokens['day']=1.5 is not whole; write tokens['day']=2"),
        ({"calls": {"ever": -1}}, "calls['ever']=-1 is negative; a limit is 0 or more"),
        ({"calls": -1, "per": "day"}, "calls=-1 is negative"),
        # Zones.
        ({"usd": 1, "per": "day", "tz": "Asia/Tokio"}, "tz='Asia/Tokio' is no time zone; similar: 'Asia/Tokyo'"),
        ({"usd": 1, "per": "ever", "tz": "Nowhere"}, "tz='Nowhere' is no time zone; "),
        # What needs a period.
        (
            {"usd": 1, "tz": "Asia/Tokyo"},
            "tz='Asia/Tokyo' needs per=, without which each scope has the whole limit to itself; write budget('org', usd=100, per='day', tz='Asia/Tokyo')",
        ),
        (
            {"usd": 1, "each": "tenant"},
            "each='tenant' needs per=, without which each scope has the whole limit to itself; write budget('org', usd=100, per='day', each='tenant')",
        ),
        ({"usd": 1, "each_missing": "shared"}, "each_missing='shared' needs per="),
        ({"usd": 1, "where": {"model": "gpt-5"}}, "where={'model': 'gpt-5'} needs per=, without which"),
        ({"usd": 1, "where": {}}, "where={} needs per="),
        # Tags.
        ({"each": []}, "each=[] is no list of tags; name 1 to 4 of them: each=['tenant', 'user_id']"),
        ({"each": ""}, "each='' is no list of tags"),
        ({"each": ["tenant", ""]}, "each=['tenant', ''] is no list of tags"),
        ({"each": ["a", "b", "c", "d", "e"]}, "each=['a', 'b', 'c', 'd', 'e'] is no list of tags; name 1 to 4"),
        ({"each": ["tenant", "tenant"]}, "each=['tenant', 'tenant'] names a tag twice; name each once"),
        (
            {"each": ["tenant", "model"]},
            "each=['tenant', 'model'] can't have an account per model, which is no tag; tag the calls with another name, or use where=",
        ),
        ({"each": "day"}, "each='day' can't have an account per day"),
        (
            {"each_missing": "shared"},
            "each_missing='shared' needs each=, the tags that may be missing: each='tenant'",
        ),
        (
            {"each": "tenant", "each_missing": "skip"},
            "each_missing='skip' is unknown; choose from 'error', 'shared'",
        ),
        # Patterns.
        *(
            (
                {"where": {name: "x"}},
                f"where={{{name!r}: 'x'}} can't be asked of a call that starts; choose model, provider, operation or a tag",
            )
            for name in ("outcome", "hour", "day", "week", "month", "")
        ),
        (
            {"where": {"team": "a", "model": "*opus"}},
            "where={'model': '*opus'} has a * before its end, where it stands for nothing; end with it or leave it out",
        ),
        ({"where": {"tenant": "a**"}}, "where={'tenant': 'a**'} has a * before its end"),
        # What was wrong before.
        (
            {"zone": "Asia/Tokyo"},
            "zone='Asia/Tokyo' is no option of a budget with on_exceed='block'; choose from name, usd, tokens, calls, per, tz, each, each_missing, where, on_exceed,",
        ),
    ],
    ids=repr,
)
def test_a_budget_that_cannot_be_is_refused_with_the_value_the_choices_and_the_line(
    words: dict[str, Any], said: str
) -> None:
    if not words.keys() & {"usd", "tokens", "calls", "per"}:
        words = {"usd": 1, "per": "day", **words}
    with pytest.raises(ValueError, match="=") as caught:
        budget("org", **words)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"usd": 100, "per": "day"}, "budget('org', usd=100, per='day')"),
        ({"usd": "0.5", "calls": 9, "per": "ever"}, "budget('org', usd='0.5', calls=9, per='ever')"),
        ({"usd": {"day": 5, "month": 50}}, "budget('org', usd={'day': 5, 'month': 50})"),
        ({"usd": {"call": 1, "day": 5}}, "budget('org', usd={'call': 1, 'day': 5})"),
        ({"tokens": 10, "per": "minute", "name": ""}, "budget('org', tokens=10, per='minute')"),
    ],
    ids=repr,
)
def test_a_budget_that_starts_again_needs_a_name_and_the_error_has_the_line(words: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match="name") as caught:
        budget(**words)
    assert str(caught.value) == (f"a budget with a period needs a name, which its account is kept under; write {line}")
    assert eval(line, {"budget": budget})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"usd": {"day": None}}, "usd['day']=None is a NoneType; pass a number or a string such as usd['day']='0.50'"),
        ({"usd": {"day": True}}, "usd['day']=True is a bool"),
        (
            {"tokens": {"day": "5"}},
            "tokens['day']='5' is a str; pass a whole number such as tokens['day']=1000",
        ),
        ({"usd": {1: 5}}, "usd={1: ...} is a int; a period is one of 'call', 'minute'"),
        ({"usd": [5]}, "usd=[5] is a list"),
        ({"usd": 1, "per": 86_400}, "per=86400 is a int; a period is one of 'call', 'minute'"),
        ({"usd": 1, "per": ["day"]}, "per=['day'] is a list; a period is one of"),
        ({"tz": 9}, "tz=9 is a int; write a zone's name such as tz='Asia/Tokyo'"),
        ({"tz": None}, "tz=None is a NoneType"),
        ({"each": 5}, "each=5 is a int; write a tag or a list of tags: each='tenant'"),
        ({"each": {"tenant"}}, "each={'tenant'} is a set; write a tag or a list"),
        ({"each": b"tenant"}, "each=b'tenant' holds a int; a tag's name is a string"),
        ({"each": ["tenant", None]}, "each=['tenant', None] holds a NoneType"),
        ({"where": "model=gpt-5"}, "where='model=gpt-5' is a str; write where={'model': 'claude-opus-*'}"),
        ({"where": {"tenant": 5}}, "where={'tenant': 5} holds a int; write names and patterns as strings"),
        ({"where": {5: "a"}}, "where={5: 'a'} holds a int; write names and patterns as strings"),
    ],
    ids=repr,
)
def test_a_word_of_the_wrong_type_is_a_type_error_that_says_what_to_pass(words: dict[str, Any], said: str) -> None:
    if not words.keys() & {"usd", "tokens"}:
        words = {"usd": 1, "per": "day", **words}
    with pytest.raises(TypeError, match="=") as caught:
        budget("org", **words)
    assert str(caught.value).startswith(said)


# Rungs of a limit that can change.


def rungs(at: Mapping[float, Any], **words: Any) -> tuple[Rung, ...]:
    return budget("org", at=at, **words)._budget.rungs


def test_a_rung_says_what_spent_must_reach_under_any_limit() -> None:
    (rung,) = rungs({0.8: print}, usd={"day": 5, "month": 50})
    assert [rung.threshold(limit) for limit in (5 * USD, 50 * USD, 1, 9)] == [4 * USD, 40 * USD, 1, 8]  # 7.2 rounded up
    assert (rung.share, rung.exact_share) == (0.8, Decimal("0.8"))


def test_no_limit_and_a_limit_of_nothing_have_no_rungs() -> None:
    (rung,) = rungs({0.5: print}, usd=1)
    assert [rung.threshold(limit) for limit in (NO_LIMIT, 0)] == [None, None]


@given(
    st.decimals(0, 1, allow_nan=False).filter(lambda share: share >= Decimal("1e-30")) | st.floats(1e-9, 1),
    st.integers(1, NO_LIMIT - 1),
)
def test_a_rung_is_the_smallest_amount_that_is_its_share(share: Any, limit: int) -> None:
    (rung,) = rungs({share: print}, usd=1)
    with localcontext(prec=2):  # the program's own, which is none of our business
        threshold = rung.threshold(limit)
    assert threshold is not None
    exact = Fraction(str(share)) * limit
    assert threshold - 1 < exact <= threshold


def test_a_share_too_small_to_work_with_is_refused() -> None:
    with pytest.raises(ValueError, match=r"is no rung; the smallest share is 1E-30"):
        rungs({Decimal("1e-999999999"): print}, usd=1)


def test_shares_are_compared_as_they_were_written() -> None:
    with pytest.raises(ValueError, match="is out of order"):
        rungs({Decimal("0.8"): print, 0.8: print}, usd=1)  # type: ignore[dict-item]
