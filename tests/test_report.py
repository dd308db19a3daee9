"""report(): sums by any label, exact to the nano, also of what is no longer kept one by one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import farebox
from farebox import _config, budget, calls, report, track
from farebox._call import Call, Usage
from farebox._tally import Place, coarsen, fold
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
        ledger = MemoryLedger(keep_rows=keep_rows, keep_totals=keep_totals, fold=fold, coarsen=coarsen)
        state = attrs.evolve(_config.state(), ledger=ledger, scope_ledger=ledger)
        monkeypatch.setattr(_config, "_state", state)
        return ledger

    yield start
    monkeypatch.undo()


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
    ledger = MemoryLedger(keep_rows=keep_rows, keep_totals=keep_totals, fold=fold, coarsen=coarsen)
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
    assert ledger.rows() == []
    assert calls() == []
    assert {(row.feature, row.hour): (row.calls, row.usd) for row in report(by=["feature", "hour"])} == {
        ("search", "2026-11-21T12:00Z"): (3, Decimal("0.003")),
        ("chat", "2026-11-21T13:00Z"): (1, Decimal("0.001")),
    }
    assert report(where={"feature": "search", "outcome": "completed"}).total.calls == 3
    assert report(since=NOON.replace(minute=0)).total.calls == 4
    assert report(since=NOON).total.calls == 1  # the sums of an hour begin with it


def test_an_assertion_still_holds_over_folded_rows(folding: Any) -> None:
    folding(0)
    paid(1_000)
    report().assert_under(usd="0.001", calls=1)
    with pytest.raises(AssertionError, match=r"0.001 USD is more than 0.0001 USD"):
        report().assert_under(usd="0.0001")


# Sums of sums.


def test_a_sum_gets_less_exact_in_time_first_and_then_loses_its_tags() -> None:
    seconds = int(datetime(2026, 11, 21, 13, tzinfo=UTC).timestamp())
    place = Place("hour", seconds, "openai", MODEL, "chat", "completed", (("feature", "f"),))
    day, month, ever, bare = (place := coarsen(place) for _ in range(4))  # type: ignore[assignment]
    assert (day.precision, day.seconds) == ("day", int(datetime(2026, 11, 21, tzinfo=UTC).timestamp()))  # type: ignore[attr-defined]
    assert (month.precision, month.seconds) == ("month", int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()))  # type: ignore[attr-defined]
    assert (ever.precision, ever.seconds, ever.tags) == ("ever", 0, (("feature", "f"),))  # type: ignore[attr-defined]
    assert bare == ever._replace(tags=())  # type: ignore[attr-defined]
    assert coarsen(bare) == bare
    assert coarsen(None) is None


def test_times_that_are_no_longer_known_are_called_earlier(folding: Any) -> None:
    ledger = folding(0, keep_totals=4)
    for days in range(12):
        at(NOON - timedelta(days=days))
    assert len(ledger.snapshot().totals) <= 4
    found = report(by=["hour"])
    assert "earlier" in {row.hour for row in found}
    assert found.total.calls == 12
