"""Every single call as a line of CSV or JSON: whole, harmless in a spreadsheet, and one at a time."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import farebox
from farebox import _config, budget, calls, track
from farebox._call import CallRecord, Usage
from farebox._rows import FORM, correction_of
from farebox.export import csv_lines, json_lines
from farebox.ledgers.memory import MemoryLedger
from tests.strategies import admit, finish, new_call, paid, price_the_model

NOON = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
FIELDS = [field.name for field in attrs.fields(CallRecord)]


@pytest.fixture(autouse=True)
def priced() -> None:
    price_the_model()


def use(monkeypatch: pytest.MonkeyPatch, ledger: MemoryLedger) -> None:
    monkeypatch.setattr(_config, "_state", attrs.evolve(_config.state(), ledger=ledger))


def spend() -> None:
    """One call of every kind there is."""
    with track(feature="search", note='=1+1, "quoted"\nand more'):
        paid(1_000, 500, started_at_seconds=NOON.timestamp() + 0.25)
    paid(10, model="unpriced-in-exports")
    finish(admit(new_call(cap=84, tier="+flex", is_stream=True)), outcome="unknown")
    with budget("b", calls=0), pytest.raises(farebox.BudgetExceeded):
        admit(new_call())
    first = calls()[0]
    _config.state().ledger.add_row(correction_of(first, -400, at=NOON))
    admit(new_call(cap=84))


def read_csv(text: str) -> list[CallRecord]:
    """By the field's name and what its docs say, and nothing of the code that wrote it."""
    records = []
    for row in csv.DictReader(io.StringIO(text, newline="")):
        fields: dict[str, Any] = {}
        for name in FIELDS:
            cell = row.get(name, "")
            if name.endswith("_at"):
                fields[name] = datetime.fromisoformat(cell) if cell else None
            elif name in ("usd", "bound_usd"):
                fields[name] = Decimal(cell) if cell else None
            elif name == "usage":
                buckets = [row[bucket] for bucket in Usage._fields]
                fields[name] = Usage(*map(int, buckets)) if any(buckets) else None
            elif name == "tags":
                fields[name] = json.loads(cell)
            elif name == "accounts":
                fields[name] = tuple(json.loads(cell))
            elif name == "is_stream":
                fields[name] = {"true": True, "false": False}[cell]
            elif type(getattr(calls()[0], name)) is str:
                fields[name] = cell.removeprefix("'")
            else:
                fields[name] = int(cell) if cell else None
        records.append(CallRecord(**fields))
    return records


def read_json(text: str) -> list[CallRecord]:
    records = []
    for line in text.splitlines():
        fields = json.loads(line)
        for name, value in fields.items():
            if value is not None and name.endswith("_at"):
                fields[name] = datetime.fromisoformat(value)
            elif value is not None and name in ("usd", "bound_usd"):
                fields[name] = Decimal(value)
        fields["accounts"] = tuple(fields["accounts"])
        fields["usage"] = None if fields["usage"] is None else Usage(**fields["usage"])
        records.append(CallRecord(**fields))
    return records


@pytest.mark.parametrize(("lines", "read"), [(csv_lines, read_csv), (json_lines, read_json)])
def test_what_is_read_back_is_every_call_as_it_is_kept(
    lines: Callable[..., Iterator[str]], read: Callable[[str], list[CallRecord]]
) -> None:
    spend()
    found = read("".join(lines()))
    assert sorted(found, key=lambda call: (call.started_at, call.call_id, call.outcome)) == sorted(
        calls(), key=lambda call: (call.started_at, call.call_id, call.outcome)
    )
    assert [call.outcome for call in found] == ["completed", "completed", "unknown", "refused", "corrected", "open"]


@pytest.mark.parametrize("lines", [csv_lines, json_lines])
def test_only_the_calls_that_were_asked_for_are_told(lines: Callable[..., Iterator[str]]) -> None:
    spend()
    header = 1 if lines is csv_lines else 0
    assert len(list(lines(where={"feature": "sea*"}))) == header + 2  # one, and its correction
    assert len(list(lines(since="1h"))) == header + 4
    assert len(list(lines(since="1h", where={"outcome": "open"}))) == header + 1
    assert len(list(lines(where={"feature": "elsewhere"}))) == header


def test_csv_begins_with_a_header_also_where_there_is_no_call() -> None:
    (header,) = csv_lines()
    columns = header.rstrip("\n").split(",")
    assert header.endswith("\n")
    assert columns[:3] == ["call_id", "started_at", "ended_at"]
    assert set(columns) == {*FIELDS, *Usage._fields} - {"usage"}
    assert list(json_lines()) == []


def test_instants_are_utc_to_the_microsecond_and_money_is_text_without_an_exponent() -> None:
    farebox.set_price("tiny", input_per_million="0.001", output_per_million=0)
    paid(1, model="tiny", started_at_seconds=NOON.timestamp() + 0.25)
    (row,) = csv.DictReader(csv_lines())
    (line,) = json_lines()
    assert row["started_at"] == json.loads(line)["started_at"] == "2026-11-21T12:30:00.250000Z"
    assert row["usd"] == json.loads(line)["usd"] == "0.000000001"


def test_a_call_without_a_price_has_an_empty_cell_and_not_0() -> None:
    paid(1, model="unpriced-in-exports")
    (row,) = csv.DictReader(csv_lines())
    (line,) = json_lines()
    assert row["usd"] == ""
    assert json.loads(line)["usd"] is None


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'quoted"])
def test_text_that_a_spreadsheet_might_run_has_an_apostrophe_before_it(text: str) -> None:
    paid(1, model=text)
    (row,) = csv.DictReader(csv_lines())
    assert row["request_model"] == f"'{text}"
    assert json.loads(next(json_lines()))["request_model"] == text


def test_a_negative_amount_is_a_number_and_stays_one() -> None:
    paid(1)
    _config.state().ledger.add_row(correction_of(calls()[0], -400, output_tokens=-3, at=NOON))
    row = list(csv.DictReader(csv_lines()))[-1]
    assert (row["usd"], row["charged_output_tokens"]) == ("-0.0000004", "-3")


words = st.text(st.characters(exclude_categories=()), max_size=8)  # half surrogate pairs and line ends too


@given(words, words)
def test_whatever_a_program_labels_its_calls_with_can_be_written_to_a_file(tag: str, tier: str) -> None:
    with farebox.configure(ledger="memory://"):
        with track(feature=tag):
            paid(1, tier=tier)
        (row,) = csv.DictReader(io.StringIO("".join(csv_lines()).encode().decode(), newline=""))
        (line,) = json_lines()
        assert json.loads(row["tags"]) == json.loads(line)["tags"] == {"feature": tag}
        assert row["tier"].removeprefix("'") == tier.encode(errors="replace").decode()
        assert json.loads(line)["tier"] == tier
        assert line.encode().count(b"\n") == 1


@pytest.mark.parametrize("lines", [csv_lines, json_lines])
def test_a_ledger_without_an_end_is_told_line_by_line(
    lines: Callable[..., Iterator[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless(MemoryLedger):
        taken = 0

        def rows(self, since_seconds: float | None = None, *, dearest_first: bool = False) -> Iterator[Any]:
            (call,) = super().rows()
            for _ in itertools.count():
                self.taken += 1
                yield FORM.load(FORM.dump(call))

    ledger = Endless(form=FORM)
    use(monkeypatch, ledger)
    paid(1)
    assert len(list(itertools.islice(lines(), 100))) == 100
    assert ledger.taken in (99, 100)


@pytest.mark.parametrize("lines", [csv_lines, json_lines])
def test_a_span_that_cannot_be_read_is_told_at_once(lines: Callable[..., Iterator[str]]) -> None:
    with pytest.raises(ValueError, match="since='soon' is no span"):
        lines(since="soon")
