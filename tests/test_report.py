"""report(): sums by any label, exact to the nano, also of what is no longer kept one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import farebox
from farebox import _config, budget, calls, report, track
from farebox._call import Call, CallRecord, Usage
from farebox._rows import FORM, correction_of
from farebox._tally import Place
from farebox.ledgers import Grain, Grant, Sum
from farebox.ledgers.memory import MemoryLedger
from tests.strategies import MODEL, admit, finish, new_call, paid, price_the_model

NOON = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def priced() -> None:
    price_the_model()


@pytest.fixture
def folding(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes a ledger that keeps few rows the one of this process."""

    def start(keep_rows: int, keep_totals: int = 4_096) -> MemoryLedger:
        ledger = MemoryLedger(keep_rows=keep_rows, keep_totals=keep_totals, form=FORM)
        use(monkeypatch, ledger)
        return ledger

    yield start
    monkeypatch.undo()


def use(monkeypatch: pytest.MonkeyPatch, ledger: MemoryLedger) -> None:
    """Make a ledger the one of this process."""
    monkeypatch.setattr(_config, "_state", attrs.evolve(_config.state(), ledger=ledger, scope_ledger=ledger))


def at(moment: datetime, input_tokens: int = 1_000, **fields: Any) -> Call:
    """A paid call that began at that moment."""
    return paid(input_tokens, started_at_seconds=moment.timestamp(), **fields)


# Sums.


def test_a_report_of_nothing_is_empty_and_zero() -> None:
    found = report(by="model")
    assert (list(found), len(found), found.total.usd, found.total.calls) == ([], 0, 0, 0)


def test_totals_are_what_hand_arithmetic_gives() -> None:
    paid(1_000, 500)
    paid(2_000, 0)
    finish(admit(new_call(cap=84)), outcome="unknown")  # charged at its bound, 100 tokens
    finish(admit(new_call(cap=84)), outcome="failed")
    with budget("b", calls=0), pytest.raises(farebox.BudgetExceeded):
        admit(new_call())
    admit(new_call(cap=84))  # in flight
    total = report().total
    assert (total.usd, total.reserved_usd) == (Decimal("0.0042"), Decimal("0.0002"))
    assert (total.calls, total.refused_calls, total.estimated_calls, total.unpriced_calls) == (5, 1, 1, 0)
    assert (total.input_tokens, total.output_tokens, total.reserved_tokens) == (3_000, 600, 100)


def test_rows_come_by_tags_and_dimensions_dearest_first() -> None:
    with track(feature="search"):
        paid(1_000)
        paid(1_000, provider_name="anthropic")
    with track(feature="chat"):
        paid(5_000)
    paid(10)
    rows = list(report(by=["feature", "provider"]))
    assert [dict(row.tags) for row in rows] == [
        {"feature": "chat", "provider": "openai"},
        {"feature": "search", "provider": "anthropic"},
        {"feature": "search", "provider": "openai"},
        {"feature": "", "provider": "openai"},
    ]
    assert [row.usd for row in rows] == [Decimal("0.005"), Decimal("0.001"), Decimal("0.001"), Decimal("0.00001")]
    assert rows[0].feature == "chat"
    with pytest.raises(AttributeError, match="a report row has no 'user_id'; it has feature, provider, tags, usd"):
        rows[0].user_id  # noqa: B018


def test_the_built_in_dimensions_of_a_call() -> None:
    at(NOON, operation_name="rerank")
    names = ["provider", "model", "operation", "outcome", "hour", "day", "week", "month"]
    (row,) = report(by=names)
    assert list(row.tags.values()) == [
        "openai", MODEL, "rerank", "completed", "2026-11-21T12:00Z", "2026-11-21", "2026-W47", "2026-11"
    ]  # fmt: skip


def test_time_is_utc_wherever_the_call_was_made() -> None:
    at(datetime(2026, 1, 1, 0, 30, tzinfo=UTC))
    at(datetime(2025, 12, 31, 23, 30, tzinfo=UTC))
    assert sorted(row.day for row in report(by="day")) == ["2025-12-31", "2026-01-01"]
    assert sorted(row.week for row in report(by="week")) == ["2026-W01"]
    assert sorted(row.month for row in report(by="month")) == ["2025-12", "2026-01"]


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 5_000), st.sampled_from(["a", "b", None]), st.sampled_from(["x", "y"])), max_size=12
    ),
    st.lists(st.sampled_from(["feature", "user_id", "model", "day", "outcome"]), max_size=3, unique=True),
)
def test_the_rows_of_any_grouping_add_up_to_the_total(sent: list[tuple[int, str | None, str]], by: list[str]) -> None:
    with farebox.configure(ledger="memory://"):
        for tokens, feature, user in sent:
            with track(feature=feature, user_id=user):
                paid(tokens)
        found = report(by=by)
        for name in ("usd", "calls", "input_tokens", "output_tokens", "attempts"):
            assert sum(getattr(row, name) for row in found) == getattr(found.total, name)
        assert found.total.usd == Decimal(sum(tokens for tokens, _, _ in sent)) / 1_000_000
        assert found.total.calls == len(sent)


# Which calls.


def test_where_asks_for_tags_and_dimensions_and_a_trailing_star_for_any_ending() -> None:
    farebox.set_price("claude-*", input_per_million=1, output_per_million=1)
    with track(feature="search"):
        paid(1)
        paid(1, model="claude-opus-5")
        paid(1, model="claude-haiku-5")
    paid(1, model="claude-opus-5")

    def count(**where: str) -> int:
        return report(where=where).total.calls

    assert count() == 4
    assert count(feature="search") == 3
    assert count(model="claude-*") == 3
    assert count(model="claude-opus-*", feature="search") == 1
    assert count(feature="") == 1
    assert count(feature="sea") == 0
    assert count(model="*opus*") == 0
    assert count(outcome="completed", provider="openai") == 4


@pytest.mark.parametrize("value", ["a?c", "[a-c]", "a*c", "!", "[]]", "**", "a]"])
def test_only_a_trailing_star_is_special(value: str) -> None:
    with track(feature=value):
        paid(1)
    with track(feature="abc"):
        paid(1)
    expected = 2 if value == "**" else 1
    assert report(where={"feature": value}).total.calls in (1, expected)
    assert calls(where={"feature": value})[0].tags["feature"] == value


def test_since_takes_a_span_a_timedelta_or_an_instant() -> None:
    now = datetime.now(UTC)
    for hours in (0, 2, 30, 24 * 9):
        at(now - timedelta(hours=hours, minutes=1))
    spans: list[Any] = [None, "30m", "3h", "2d", "2w", "600s", timedelta(hours=3), now - timedelta(hours=3)]
    assert [report(since=since).total.calls for since in spans] == [4, 1, 2, 3, 4, 1, 2, 2]
    assert [len(calls(since=since)) for since in spans] == [4, 1, 2, 3, 4, 1, 2, 2]


@pytest.mark.parametrize("since", ["", "7", "d", "7 d", "-7d", "7y", "1.5h", "7D", 7, "9999999d"])
def test_a_span_that_cannot_be_read_names_itself_and_the_line(since: Any) -> None:
    with pytest.raises(
        ValueError, match="is no span; write a number and s, m, h, d or w, such as since='7d'"
    ) as caught:
        report(since=since)
    assert f"since={since!r}" in str(caught.value)


def test_an_instant_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone; write"):
        report(since=datetime(2026, 1, 1))  # noqa: DTZ001


# Single calls.


def test_calls_come_oldest_first_with_those_refused_and_in_flight() -> None:
    first = admit(new_call())
    paid(1)
    with budget("b", calls=0), pytest.raises(farebox.BudgetExceeded):
        admit(new_call())
    finish(first, outcome="failed")
    admit(new_call())
    assert [call.outcome for call in calls()] == ["failed", "completed", "refused", "open"]


def test_a_record_holds_what_is_known_of_a_call_and_nothing_that_was_said() -> None:
    with track(feature="f"), budget("b", usd=1):
        call = admit(new_call(cap=84, text_bytes=11, messages=2, tier="flex"))
        call.response_id, call.response_model = "resp_1", MODEL
        finish(call, usage=Usage(uncached_input_tokens=6, visible_output_tokens=4))
    (record,) = calls()
    assert record.call_id == call.call_id
    assert record.call_id.startswith("call_")
    assert (record.usd, record.bound_usd, record.bound_tokens) == (Decimal("0.000014"), Decimal("0.000206"), 106)
    assert (record.declared_cap, record.sent_cap, record.tier, record.text_bytes, record.messages) == (
        84,
        None,
        "flex",
        11,
        2,
    )
    assert record.started_at.tzinfo is UTC
    assert record.ended_at is not None
    assert record.started_at <= record.ended_at
    assert record.first_chunk_at is None


# assert_under.


def test_what_is_under_passes_and_at_most_means_at_most() -> None:
    with track(feature="search"):
        paid(1_000, 500)
    report().assert_under(usd="0.002", tokens=1_500, calls=1)
    report(by="feature").assert_under(usd=1, feature="search")
    report().assert_under(usd=0, feature="elsewhere", allow_empty=True)
    report().assert_under(calls=1, where={"model": "hand-*"})


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"usd": "0.001999999"}, "0.002 USD is more than 0.001999999 USD"),
        ({"tokens": 1_499}, "1500 tokens are more than 1499"),
        ({"calls": 0}, "1 calls are more than 0"),
    ],
    ids=repr,
)
def test_what_is_over_fails_with_the_rows_and_the_dearest_call(limits: dict[str, Any], said: str) -> None:
    with track(feature="search"):
        call = paid(1_000, 500)
    with pytest.raises(AssertionError) as caught:
        report(by="feature").assert_under(**limits, where={"feature": "search"})
    lines = str(caught.value).splitlines()
    assert lines[0] == f"calls of feature=search: {said}"
    assert lines[1].split() == ["feature", "calls", "refused", "tokens", "in", "tokens", "out", "usd", "reserved"]
    assert lines[2].split() == ["search", "1", "0", "1000", "500", "0.002", "0"]
    assert lines[-1] == f"dearest call: {call.call_id} {MODEL} 0.002 USD, 1000 tokens in, 500 out, completed"


def test_every_fault_is_told_at_once() -> None:
    paid(1_000, 500)
    with pytest.raises(
        AssertionError, match=r"0.002 USD is more than 0 USD; 1500 tokens are more than 10; 1 calls are more than 0"
    ):
        report().assert_under(usd=0, tokens=10, calls=0)


def test_what_is_held_for_calls_in_flight_counts() -> None:
    admit(new_call(cap=84))
    report().assert_under(usd="0.0002", tokens=100, calls=1)
    with pytest.raises(AssertionError, match=r"0.0002 USD is more than 0.0001 USD"):
        report().assert_under(usd="0.0001")
    with pytest.raises(AssertionError, match="100 tokens are more than 99"):
        report().assert_under(tokens=99)


def test_a_call_without_a_price_fails_it_under_usd_and_not_otherwise() -> None:
    paid(10, model="unpriced-in-reports")
    with pytest.raises(AssertionError, match="1 calls have no price, so their cost is unknown"):
        report().assert_under(usd=100)
    report().assert_under(calls=1, tokens=1_000)


@pytest.mark.parametrize("only_refused", [False, True])
def test_measuring_nothing_fails(only_refused: bool) -> None:
    if only_refused:
        with budget("b", calls=0), pytest.raises(farebox.BudgetExceeded):
            admit(new_call())
    with pytest.raises(
        AssertionError, match=r"no call was measured; is it instrumented\? \(allow_empty=True lets this pass\)"
    ):
        report().assert_under(usd=1)
    with pytest.raises(AssertionError, match="no call of feature=serach was measured"):
        report().assert_under(usd=1, feature="serach")
    report().assert_under(usd=1, allow_empty=True)


def test_an_assertion_without_a_limit_is_an_error_of_the_test() -> None:
    with pytest.raises(ValueError, match=r"assert_under needs a limit; give usd=, tokens= or calls=, such as"):
        report().assert_under(feature="search")


@pytest.mark.parametrize(
    "limits",
    [
        {"usd": float("nan")},
        {"usd": -1},
        {"tokens": -1},
        {"calls": -1},
        {"tokens": "10"},
    ],
    ids=repr,
)
def test_a_limit_that_is_none_is_an_error_of_the_test(limits: dict[str, Any]) -> None:
    paid(1)
    with pytest.raises((ValueError, TypeError), match=r"=.*(negative|finite|number|no limit)"):
        report().assert_under(**limits)


def test_a_wrong_limit_speaks_before_an_empty_report() -> None:
    with pytest.raises(ValueError, match="usd=-1 is negative"):
        report().assert_under(usd=-1)


def test_an_assertion_does_not_depend_on_the_ambient_decimal_context() -> None:
    paid(12_345)
    with localcontext(prec=3), pytest.raises(AssertionError, match=r"0.012345 USD is more than 0.01234 USD"):
        report().assert_under(usd="0.01234")


# For people.


def test_a_report_prints_as_a_table_with_a_total() -> None:
    with track(feature="search"):
        paid(1_000, 500)
    paid(10, model="unpriced-table")
    finish(admit(new_call(cap=84)), outcome="unknown")
    lines = [line.split() for line in str(report(by=["feature", "model"])).splitlines()]
    assert lines == [
        ["feature", "model", "calls", "refused", "tokens", "in", "tokens", "out", "usd", "reserved"],
        ["search", MODEL, "1", "0", "1000", "500", "0.002", "0"],
        ["-", MODEL, "1", "0", "0", "100", "0.0002", "0"],
        ["-", "unpriced-table", "1", "0", "10", "0", "0", "0"],
        ["total", "3", "0", "1010", "600", "0.0022", "0"],
        ["of", "which", "1", "unpriced", "calls,", "1", "estimated", "calls"],
    ]
    assert repr(report(by="model")) == "<Report by model: 2 rows, 0.0022 USD>"
    assert len(str(report()).splitlines()) == 3


def test_a_long_table_shows_twenty_rows_and_says_how_many_more() -> None:
    for number in range(25):
        with track(user_id=number):
            paid(number)
    lines = str(report(by="user_id")).splitlines()
    assert len(lines) == 1 + 20 + 1 + 1
    assert lines[-2].strip() == "(5 more)"


def test_a_small_amount_is_never_printed_with_an_exponent() -> None:
    farebox.set_price("tiny", input_per_million="0.001", output_per_million=0)
    paid(1, model="tiny")
    assert "0.000000001" in str(report(by="model"))
    assert "E-" not in str(report(by="model")) + repr(report())


# Old rows.


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=120), st.integers(0, 40), st.integers(1, 12))
def test_folding_old_rows_keeps_every_sum_to_the_nano(sent: list[int], keep_rows: int, keep_totals: int) -> None:
    ledger = MemoryLedger(keep_rows=keep_rows, keep_totals=keep_totals, form=FORM)
    before = _config.state()
    _config._state = attrs.evolve(before, ledger=ledger, scope_ledger=ledger)
    try:
        for number, tokens in enumerate(sent):
            with track(user_id=number % 7):
                at(NOON - timedelta(hours=number * 13), tokens)
        found = report(by=["user_id", "model", "month"])
        assert len(ledger.snapshot().totals) <= keep_totals
        assert found.total.usd == Decimal(sum(sent)) / 1_000_000
        assert (found.total.calls, found.total.input_tokens) == (len(sent), sum(sent))
        assert sum(row.usd for row in found) == found.total.usd
    finally:
        _config._state = before


def test_what_was_folded_is_still_known_by_its_hour_tags_and_outcome(folding: Any) -> None:
    ledger = folding(0)
    for minute in (1, 2, 59):
        with track(feature="search"):
            at(NOON.replace(minute=minute))
    with track(feature="chat"):
        at(NOON + timedelta(hours=1))
    assert list(ledger.rows()) == []
    assert calls() == []
    assert {(row.feature, row.hour): (row.calls, row.usd) for row in report(by=["feature", "hour"])} == {
        ("search", "2026-11-21T12:00Z"): (3, Decimal("0.003")),
        ("chat", "2026-11-21T13:00Z"): (1, Decimal("0.001")),
    }
    assert report(where={"feature": "search", "outcome": "completed"}).total.calls == 3
    assert report(since=NOON.replace(minute=0)).total.calls == 4
    assert report(since=NOON).total.calls == 2  # the sums of a quarter of an hour begin with it


def test_an_assertion_still_holds_over_folded_rows(folding: Any) -> None:
    folding(0)
    paid(1_000)
    report().assert_under(usd="0.001", calls=1)
    with pytest.raises(AssertionError, match=r"0.001 USD is more than 0.0001 USD"):
        report().assert_under(usd="0.0001")


def test_times_that_are_no_longer_known_are_called_earlier(folding: Any) -> None:
    ledger = folding(0, keep_totals=4)
    for days in range(12):
        at(NOON - timedelta(days=days))
    assert len(ledger.snapshot().totals) <= 4
    found = report(by=["hour"])
    assert "earlier" in {row.hour for row in found}
    assert found.total.calls == 12
    assert report(where={"hour": "earlier"}).total.calls == sum(row.calls for row in found if row.hour == "earlier")


# Time zones.

BERLIN, KOLKATA, LORD_HOWE = "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text + "+00:00")


def test_an_hour_that_comes_twice_is_two_hours_of_one_day() -> None:
    # Berlin puts its clock back from 03:00 to 02:00 at 01:00 UTC on 25 October 2026.
    for text in ("2026-10-24T23:59", "2026-10-25T00:30", "2026-10-25T01:30", "2026-10-25T02:30", "2026-10-25T22:59"):
        at(utc(text))
    assert sorted((row.hour, row.calls) for row in report(by="hour", tz=BERLIN)) == [
        ("2026-10-25T01:00+02:00", 1),
        ("2026-10-25T02:00+01:00", 1),
        ("2026-10-25T02:00+02:00", 1),
        ("2026-10-25T03:00+01:00", 1),
        ("2026-10-25T23:00+01:00", 1),
    ]
    assert [(row.day, row.calls) for row in report(by="day", tz=BERLIN)] == [("2026-10-25", 5)]


def test_an_hour_that_is_left_out_is_in_no_report() -> None:
    # Berlin puts its clock on from 02:00 to 03:00 at 01:00 UTC on 29 March 2026.
    for text in ("2026-03-29T00:59", "2026-03-29T01:00", "2026-03-28T23:00", "2026-03-28T22:59", "2026-03-29T22:00"):
        at(utc(text))
    assert sorted((row.hour, row.day, row.week, row.month) for row in report(by=["hour", "day", "week", "month"], tz=BERLIN)) == [
        ("2026-03-28T23:00+01:00", "2026-03-28", "2026-W13", "2026-03"),
        ("2026-03-29T00:00+01:00", "2026-03-29", "2026-W13", "2026-03"),
        ("2026-03-29T01:00+01:00", "2026-03-29", "2026-W13", "2026-03"),
        ("2026-03-29T03:00+02:00", "2026-03-29", "2026-W13", "2026-03"),
        ("2026-03-30T00:00+02:00", "2026-03-30", "2026-W14", "2026-03"),
    ]  # fmt: skip


def test_hours_of_a_zone_half_an_hour_off_are_its_own() -> None:
    at(utc("2026-11-30T18:29"))
    at(utc("2026-11-30T18:30"))
    (before,) = report(by=["hour", "month"], tz=KOLKATA, where={"month": "2026-11"})
    (after,) = report(by=["hour", "month"], tz=KOLKATA, where={"day": "2026-12-01"})
    assert (before.hour, after.hour, after.month) == ("2026-11-30T23:00+05:30", "2026-12-01T00:00+05:30", "2026-12")


def test_a_clock_put_back_by_half_an_hour_makes_a_short_hour_of_its_own() -> None:
    # On Lord Howe 02:00+11:00 becomes 01:30+10:30 at 15:00 UTC on 4 April 2026.
    for text in ("2026-04-04T14:10", "2026-04-04T14:50", "2026-04-04T15:10", "2026-04-04T15:40"):
        at(utc(text))
    assert sorted((row.hour, row.calls) for row in report(by="hour", tz=LORD_HOWE)) == [
        ("2026-04-05T01:00+11:00", 2),
        ("2026-04-05T01:30+10:30", 1),
        ("2026-04-05T02:00+10:30", 1),
    ]


def test_only_utc_itself_is_called_z() -> None:
    at(utc("2026-01-01T00:30"))
    labels = {tz: [row.hour for row in report(by="hour", tz=tz)] for tz in ("UTC", "Europe/London")}
    assert labels == {"UTC": ["2026-01-01T00:00Z"], "Europe/London": ["2026-01-01T00:00+00:00"]}


def test_an_unknown_zone_is_named() -> None:
    with pytest.raises(ValueError, match=r"tz='Mars/Olympus' is no time zone"):
        report(by="day", tz="Mars/Olympus")


@pytest.mark.parametrize(
    ("span", "starts", "tz", "hour", "day", "week", "month"),
    [
        ("quarter", "2026-11-20T18:30", KOLKATA, "2026-11-21T00:00+05:30", "2026-11-21", "2026-W47", "2026-11"),
        ("hour", "2026-11-20T18:00", "UTC", "2026-11-20T18:00Z", "2026-11-20", "2026-W47", "2026-11"),
        ("hour", "2026-11-20T18:00", KOLKATA, "earlier", "earlier", "2026-W47", "2026-11"),
        ("hour", "2026-11-20T18:30", KOLKATA, "2026-11-21T00:00+05:30", "2026-11-21", "2026-W47", "2026-11"),
        ("hour", "2026-11-20T19:00", KOLKATA, "earlier", "2026-11-21", "2026-W47", "2026-11"),
        ("day", "2026-11-20T00:00", "UTC", "earlier", "2026-11-20", "2026-W47", "2026-11"),
        ("day", "2026-11-20T00:00", BERLIN, "earlier", "earlier", "2026-W47", "2026-11"),
        ("day", "2026-11-22T00:00", BERLIN, "earlier", "earlier", "earlier", "2026-11"),
        ("day", "2026-10-24T22:00", BERLIN, "earlier", "2026-10-25", "2026-W43", "2026-10"),  # a day of 25 hours
        ("month", "2026-11-01T00:00", "UTC", "earlier", "earlier", "earlier", "2026-11"),
        ("month", "2026-11-01T00:00", BERLIN, "earlier", "earlier", "earlier", "earlier"),
        ("ever", "1970-01-01T00:00", BERLIN, "earlier", "earlier", "earlier", "earlier"),
    ],
)
def test_sums_belong_to_a_time_that_all_of_them_lie_in(
    monkeypatch: pytest.MonkeyPatch, span: Any, starts: str, tz: str, hour: str, day: str, week: str, month: str
) -> None:
    class Answering(MemoryLedger):
        def tally(self, *asked: Any) -> Iterable[Sum]:
            return [Sum(span, int(utc(starts).timestamp()), Place("p", "m", "chat", "completed", ()), (5, 1))]

    use(monkeypatch, Answering(form=FORM))
    (row,) = report(by=["hour", "day", "week", "month"], tz=tz)
    assert list(row.tags.values()) == [hour, day, week, month]
    assert (row.usd, row.calls, row.attempts) == (Decimal("0.000000005"), 1, 0)


# The same answers from every ledger.


class Rolling(MemoryLedger):
    """Answers as a database does: rows read back from text, sums by the hour or day of a zone, or by nothing at all, and by no
    more of a place than is asked for.
    """

    def rows(self, since_seconds: float | None = None, *, dearest_first: bool = False) -> Iterator[Any]:
        found = super().rows(since_seconds, dearest_first=dearest_first)
        return (FORM.load(FORM.dump(row)) for row in found)

    def in_flight(self) -> list[tuple[Any, Grant]]:
        return [(FORM.load(FORM.dump(call)), grant) for call, grant in super().in_flight()]

    def tally(
        self,
        since_seconds: float | None = None,
        grain: Grain = "ever",
        zone: tzinfo | None = None,
        by: Sequence[str] | None = None,
    ) -> Iterable[Sum]:
        self.asked = (since_seconds, grain, zone, by)
        assert FORM.parts is not None
        totals: dict[tuple[int, str], list[tuple[int, ...]]] = {}
        for found in super().tally(since_seconds, grain, zone):
            local = datetime.fromtimestamp(found.starts_at, zone or UTC)
            start = 0
            if grain == "day":
                start = int(local.replace(hour=0, minute=0, second=0, fold=0).timestamp())
            elif grain == "hour":
                start = found.starts_at - local.minute * 60 - local.second
            totals.setdefault((start, FORM.dump_place(found.place)), []).append(found.sums)
        for (start, text), sums in totals.items():
            place = FORM.load_place(text)
            whole = place if by is None else FORM.parts.of(place, by)
            yield Sum(grain, start, whole, tuple(map(sum, zip(*sums, strict=True))))


names = st.lists(
    st.sampled_from(["feature", "model", "outcome", "hour", "day", "week", "month"]), max_size=3, unique=True
)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 40 * 24 * 60), st.sampled_from(["a", "b", None]), st.integers(0, 999)), max_size=12
    ),
    names,
    st.sampled_from([{}, {"feature": "a"}, {"month": "2026-1*"}, {"day": "2026-10-25", "model": MODEL}]),
    st.sampled_from(["UTC", BERLIN, KOLKATA, "America/New_York"]),
    st.sampled_from([None, utc("2026-10-24T22:00"), utc("2026-11-01T05:00")]),
)
def test_a_ledger_that_keeps_sums_reports_what_one_that_keeps_rows_does(
    sent: list[tuple[int, str | None, int]], by: list[str], where: dict[str, str], tz: str, since: datetime | None
) -> None:
    before, answers = _config.state(), []
    try:
        for kind in (MemoryLedger, Rolling):
            ledger = kind(form=FORM)
            _config._state = attrs.evolve(before, ledger=ledger, scope_ledger=ledger)
            for minutes, feature, tokens in sent:
                with track(feature=feature):
                    at(utc("2026-10-10T00:00") + timedelta(minutes=minutes), tokens)
            with track(feature="a"):
                admit(new_call(cap=84, started_at_seconds=utc("2026-10-25T00:30").timestamp()))
            found = report(by=by, where=where, tz=tz, since=since)
            spent = [attrs.evolve(call, call_id="") for call in calls(where=where, since=since)]
            answers.append((found.rows, found.total, str(found), sorted(spent, key=lambda call: call.started_at)))
    finally:
        _config._state = before
    mine, theirs = answers
    assert mine[:3] == theirs[:3]
    assert [(call.tags, call.usd, call.outcome) for call in mine[3]] == [
        (call.tags, call.usd, call.outcome) for call in theirs[3]
    ]


def test_a_database_reports_what_memory_does(tmp_path: Path) -> None:
    answers = []
    for url in ("memory://", f"sqlite:///{tmp_path / 'ledger.db'}"):
        with farebox.configure(ledger=url):
            for number in range(60):
                with track(feature="abc"[number % 3]):
                    at(utc("2026-10-23T00:10") + timedelta(minutes=97 * number), number)
            (first, *_) = calls()
            _config.state().ledger.add_row(correction_of(first, -7, at=NOON))
            with track(feature="a"):
                admit(new_call(cap=84, started_at_seconds=utc("2026-10-25T00:30").timestamp()))
            found = [
                report(by=by, tz=tz, since=since, where=where)
                for by in ((), "feature", "outcome", ("hour", "feature"), "day", "week", "month")
                for tz in ("UTC", BERLIN, KOLKATA, LORD_HOWE)
                for since in (None, utc("2026-10-24T11:12"))
                for where in ({}, {"feature": "a"}, {"day": "2026-10-25"})
            ]
            answers.append([(rows.rows, rows.total) for rows in found])
            with pytest.raises(AssertionError, match=r"dearest call: call_\w+ hand-priced 0.000059 USD"):
                report(by="feature").assert_under(usd=0)
            _config.state().ledger.close()
    memory, database = answers
    assert memory == database


@settings(max_examples=60)
@given(st.integers(0, 400 * 24 * 60), st.sampled_from([BERLIN, KOLKATA, "America/New_York", "Asia/Tokyo"]))
def test_a_time_is_called_what_the_clock_on_the_wall_shows(minutes: int, tz: str) -> None:
    with farebox.configure(ledger="memory://"):
        moment = utc("2026-01-01T00:00") + timedelta(minutes=minutes)
        at(moment)
        (row,) = report(by=["hour", "day", "week", "month"], tz=tz)
    wall = moment.astimezone(ZoneInfo(tz))
    year, week, _ = wall.date().isocalendar()
    offset = wall.strftime("%z")
    assert row.hour == f"{wall:%Y-%m-%dT%H}:00{offset[:3]}:{offset[3:]}"
    assert (row.day, row.week, row.month) == (f"{wall:%Y-%m-%d}", f"{year}-W{week:02}", f"{wall:%Y-%m}")


def test_no_more_is_asked_of_a_ledger_than_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Rolling(form=FORM)
    use(monkeypatch, ledger)
    asked = []
    for by, where in [
        ("model", {}),
        (["week"], {}),
        ("model", {"month": "2026-11"}),
        (["day", "hour"], {}),
        ((), {"hour": "*"}),
    ]:
        report(by=by, where=where, since=NOON + timedelta(milliseconds=1_500))
        asked.append(ledger.asked)
    since = NOON.timestamp() + 1  # the second that it lies in
    grains, parts = (
        ("ever", "day", "day", "hour", "hour"),
        (("model", "operation"), ("operation",), ("model", "operation"), ("operation",), ("operation",)),
    )
    assert asked == [(since, grain, None, by) for grain, by in zip(grains, parts, strict=True)]
    report(by=["day", "feature"], where={"team": "x"}, tz=BERLIN)
    assert ledger.asked == (None, "day", ZoneInfo(BERLIN), ("feature", "team", "operation"))


@pytest.mark.parametrize("kind", ["sqlite", "rolling"])
def test_a_ledger_is_asked_again_for_a_tag_that_the_report_was_not_about(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if kind == "sqlite":
        farebox.configure(ledger=f"sqlite:///{tmp_path}/ledger.db")
        price_the_model()
    else:
        use(monkeypatch, Rolling(form=FORM))
    with track(feature="a", user_id="alice"):
        paid(1_000)
    with track(feature="b", user_id="bob"):
        paid(4_000)
    whole = report(by="model")
    whole.assert_under(usd="0.001", feature="a")
    whole.assert_under(usd="0.004", user_id="bob", model=MODEL)
    with pytest.raises(AssertionError, match=r"0\.004 USD is more than 0\.003 USD\n(.|\n)*total +1 "):
        whole.assert_under(usd="0.003", feature="b")
    with pytest.raises(AssertionError, match="tags seen: feature=a, feature=b, user_id=alice, user_id=bob"):
        whole.assert_under(usd=1, feature="c")
    assert farebox._report.tag_names() == {"feature", "user_id"}


#: Names and values that a path or a database may stumble over: quotes, marks of a path, half a surrogate pair, nothing.
_ODD = ["feature", "a b", "a.b", 'a"b', "a'b", "ä", "$[0]", "\ud800", ""]


@settings(max_examples=25)
@given(
    sent=st.lists(
        st.tuples(st.dictionaries(st.sampled_from(_ODD), st.sampled_from(_ODD), max_size=3), st.integers(1, 999)),
        max_size=8,
    ),
    by=st.lists(st.sampled_from([*_ODD, "model", "day"]), max_size=3, unique=True),
    where=st.sampled_from([{}, {"feature": "a*"}, {"ä": ""}, {"model": MODEL, "a.b": "a*"}]),
)
def test_a_database_adds_up_whatever_tags_are_called(
    sent: list[tuple[dict[str, str], int]], by: list[str], where: dict[str, str], tmp_path_factory: Any
) -> None:
    answers = []
    folder = tmp_path_factory.mktemp("odd")
    for url in ("memory://", f"sqlite:///{folder}/ledger.db"):
        with farebox.configure(ledger=url):
            price_the_model()
            for tags, tokens in sent:
                with track(**tags):
                    at(NOON, tokens)
            found = report(by=by, where=where)
            answers.append((found.rows, found.total))
            assert found.total.usd == sum((row.usd for row in found), Decimal(0))
    assert answers[0] == answers[1]


def test_sums_of_an_older_or_a_newer_version_are_read_as_far_as_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answering(MemoryLedger):
        def tally(self, *asked: Any) -> Iterable[Sum]:
            here = Place("p", "m", "chat", "completed", ())
            return [
                Sum("ever", 0, here, (5, 1)),
                Sum("ever", 0, here, (7, 1, 0, 30, 20, 0, 0, 1, 999, 999)),
                Sum("ever", 0, None, (1, 1)),
            ]

    use(monkeypatch, Answering(form=FORM))
    found = report(by="model")
    assert [(row.model, row.usd, row.calls, row.input_tokens, row.reserved_usd) for row in found] == [
        ("m", Decimal("0.000000012"), 2, 30, 0),
        ("", Decimal("0.000000001"), 1, 0, 0),
    ]


def test_a_call_that_ends_while_it_is_asked_for_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Meanwhile(MemoryLedger):
        def in_flight(self) -> list[tuple[Any, Grant]]:
            found = super().in_flight()
            for call, _ in found:
                finish(call, usage=Usage(uncached_input_tokens=1))
            return found

    use(monkeypatch, Meanwhile(form=FORM))
    admit(new_call())
    assert [call.outcome for call in calls()] == ["completed"]


def test_a_correction_changes_what_was_spent_and_is_no_call() -> None:
    with track(feature="search"):
        paid(1_000)
    (call,) = calls()
    _config.state().ledger.add_row(correction_of(call, -400_000, input_tokens=-400, at=datetime.now(UTC)))
    (row,) = report(by="feature")
    assert (row.usd, row.calls, row.input_tokens, row.attempts) == (Decimal("0.0006"), 1, 600, 0)
    assert {row.outcome: row.usd for row in report(by="outcome")} == {
        "completed": Decimal("0.001"),
        "corrected": Decimal("-0.0004"),
    }
    assert [found.outcome for found in calls()] == ["completed", "corrected"]
    report().assert_under(usd="0.0006", calls=1)


# The dearest call.


class Endless(MemoryLedger):
    """Has so many single rows that nobody gets through them."""

    seen = 0

    def rows(self, since_seconds: float | None = None, *, dearest_first: bool = False) -> Iterator[Any]:
        (call,) = super().rows()
        for number in itertools.count():
            self.seen += 1
            record = CallRecord.of(call)
            yield attrs.evolve(record, call_id=f"call_{number}", tags={"user_id": str(number)})


@pytest.mark.parametrize(("wanted", "looked_at"), [("7", 8), ("none", 100_000)])
def test_the_dearest_call_is_not_looked_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, wanted: str, looked_at: int
) -> None:
    ledger = Endless(form=FORM)
    use(monkeypatch, ledger)
    with track(user_id=wanted):
        paid(1_000)
    with pytest.raises(AssertionError, match=r"0.001 USD is more than 0 USD") as caught:
        report().assert_under(usd=0, user_id=wanted)
    assert ledger.seen == looked_at
    assert ("dearest call: call_7 " in str(caught.value)) == (wanted == "7")


def test_the_dearest_call_is_one_of_those_that_were_asked_for() -> None:
    with track(feature="search"):
        paid(1_000)
        cheaper = paid(10, model="hand-priced")
        old = at(NOON - timedelta(days=1), 9_000)
    with track(feature="chat"):
        paid(5_000)
    since = datetime.now(UTC) - timedelta(hours=1)
    assert old.cost_usd_nanos == 9_000_000
    with pytest.raises(AssertionError, match=r"dearest call: call_\w+ hand-priced 0.001 USD"):
        report(since=since, where={"feature": "sea*"}).assert_under(calls=1)
    with pytest.raises(AssertionError, match=r"dearest call: call_\w+ hand-priced 0.005 USD"):
        report(since=since).assert_under(calls=1)
    assert cheaper.cost_usd_nanos == 10_000


def test_a_correction_is_no_dearest_call_and_neither_is_a_free_one(folding: Any) -> None:
    folding(keep_rows=2)
    paid(1_000)  # known as a sum only
    paid(0)
    (call,) = [found for found in calls() if not found.usd]
    _config.state().ledger.add_row(correction_of(call, 5_000_000_000, at=NOON))
    with pytest.raises(AssertionError, match=r"5.001 USD is more than 1 USD") as caught:
        report().assert_under(usd=1)
    assert "dearest" not in str(caught.value)


def test_an_assertion_about_a_time_needs_a_report_that_knows_it() -> None:
    at(NOON)
    report(by="hour").assert_under(calls=1, where={"day": "2026-11-21"})
    report(by="month").assert_under(calls=1, where={"day": "2026-11-21"})
    for held, asked in (("model", "day"), ("day", "hour")):
        with pytest.raises(
            ValueError, match=rf"{asked}='2026\*': this report holds no {asked}s; write report\(by='{asked}'\)"
        ):
            report(by=held).assert_under(calls=1, where={asked: "2026*"})
