"""Where a cost comes from: `explain`, `price`, `estimate`."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import attrs
import click

from farebox.cli import _doors
from farebox.cli._exits import BAD_INPUT, NOT_FOUND, Problem
from farebox.cli._output import (
    Column,
    Shown,
    amount,
    harmless,
    say,
    say_json,
    say_table,
    show_instant,
    shows,
)

if TYPE_CHECKING:
    from farebox.prices import Rates
    from farebox.types import CallRecord, Usage

_PICOS_PER_NANO: Final = 1_000
#: A rate in picodollars a token is one in millionths of a dollar for a million of them.
_PICOS_TO_PER_MILLION: Final = Decimal(10) ** -6


class _Line(NamedTuple):
    """One multiplication: so many of something, at so much each (picodollars)."""

    what: str
    units: int
    rate_picos: int

    @property
    def picos(self) -> int:
        return self.units * self.rate_picos

    @property
    def rate(self) -> str:
        if self.what.endswith(" tokens"):
            return f"{amount(_per_million(self.rate_picos))} per million"
        return f"{amount(_usd(self.rate_picos))} each"


def _usd(picos: int) -> Decimal:
    return Decimal(picos).scaleb(-12).normalize() if picos else Decimal(0)


def _per_million(picos: int) -> Decimal:
    usd = picos * _PICOS_TO_PER_MILLION
    return usd.quantize(Decimal("0.01")) if usd == usd.quantize(Decimal("0.01")) else usd.normalize()


# ── explain ──────────────────────────────────────────────────────────────────────────────────────────────────────


@click.command()
@click.argument("call_id", required=False)
@click.option("--last", is_flag=True, help="The call that ended last.")
@shows
def explain(call_id: str | None, last: bool, shown: Shown) -> None:
    """How the cost of one call came about: every multiplication, the rounding, and where each rate is from."""
    if (call_id is None) != last:
        raise click.UsageError("give the id of a call, or --last")
    _doors.use_ledger()
    call, corrections = _find(call_id)
    if shown.as_json:
        rates, lines = _priced(call)
        why, adds_up = _why(call, rates, lines)
        say_json(_as_json(call, corrections, rates, lines, why, adds_up))
        return
    for part in _told(call, corrections, shown):
        if isinstance(part, Table):
            say_table(part.columns, part.rows)
        else:
            say(part)


class Table(NamedTuple):
    """What is shown as a table."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


def told(call_id: str, shown: Shown) -> list[str | Table]:
    """What `explain` says about a call.

    Raises:
        Problem: it is not there, or there is nothing to explain.
    """
    return list(_told(*_find(call_id), shown))


def _told(call: CallRecord, corrections: Sequence[CallRecord], shown: Shown) -> Iterator[str | Table]:
    rates, lines = _priced(call)
    why, adds_up = _why(call, rates, lines)
    yield from _heading(call, shown)
    if lines and adds_up:
        rows = [[line.what, str(line.units), line.rate, amount(_usd(line.picos))] for line in lines]
        yield Table((Column("what"), Column("count", True), Column("usd", True), Column("= usd", True)), rows)
        picos = sum(line.picos for line in lines)
        rounded = -(-picos // _PICOS_PER_NANO)
        yield f"\nsum {amount(_usd(picos))} USD, rounded up to whole nanodollars: {amount(_doors.usd_of(rounded))} USD"
    yield why
    if rates is not None and adds_up:
        yield f"rates: {_source(rates)}"
    for correction in corrections:
        yield harmless(f"corrected by hand {show_instant(correction.ended_at, shown.zone)}: {_by_hand(correction)}")
    if corrections:
        yield f"in all {amount(_in_all(call, corrections))} USD"


def _priced(call: CallRecord) -> tuple[Rates | None, tuple[_Line, ...]]:
    """The rates that are known of it now, and what its usage comes to with them."""
    rates = _doors.served_rates(call)
    return rates, () if call.usage is None or rates is None else _lines_of(rates, call.usage)


def _find(call_id: str | None) -> tuple[CallRecord, list[CallRecord]]:
    """The call, and corrections of it.

    Raises:
        Problem: it is not there.
    """
    found = _doors.newest_calls(1) if call_id is None else _doors.calls_named(call_id)
    sent = [call for call in found if call.outcome not in ("corrected", "refused", "vetoed")]
    if not sent and found:
        raise Problem(
            f"call {found[0].call_id} was {found[0].outcome}: nothing was sent, and it cost nothing", NOT_FOUND
        )
    if not sent:
        what = "no call" if call_id is None else f"no call {call_id!r}"
        raise Problem(f"{what} is kept in this ledger; farebox tail shows those that are", NOT_FOUND)
    newest = datetime.max.replace(tzinfo=UTC)
    call = max(sent, key=lambda one: (one.ended_at is not None, one.ended_at or newest))
    return call, [one for one in found if one.outcome == "corrected" and one.call_id == call.call_id]


def _by_hand(correction: CallRecord) -> str:
    tokens = correction.charged_input_tokens + correction.charged_output_tokens
    by = [f"{correction.usd:+f} USD"] if correction.usd else []
    by += [f"{tokens:+} tokens"] if tokens else []
    return (" and ".join(by) or "0 USD") + (f" ({correction.doubt})" if correction.doubt else "")


def _in_all(call: CallRecord, corrections: Sequence[CallRecord]) -> Decimal:
    """USD of a call with its corrections."""
    return _doors.usd_of(sum(_doors.nanos(row.usd) or 0 for row in (call, *corrections)))


def _lines_of(rates: Rates, usage: Usage) -> tuple[_Line, ...]:
    """Each bucket that was used times its rate, of the step that all input tokens choose."""
    step = rates.steps[0]
    for later in rates.steps[1:]:
        if usage.input_tokens > later.above:
            step = later
    lines = [_Line("request", 1, rates.request_picos)] if rates.request_picos else []
    unit_prices = rates.unit_prices
    for name, count in usage._asdict().items():
        if count and name == "web_searches":
            lines.append(_Line("web searches", count, rates.web_search_picos))
        elif count and name in unit_prices:
            lines.append(_Line(name.replace("_", " "), count, unit_prices[name]))
        elif count:
            bucket = name.removesuffix("_tokens")
            lines.append(_Line(f"{bucket.replace('_', ' ')} tokens", count, getattr(step, bucket)))
    return tuple(lines)


def _why(call: CallRecord, rates: Rates | None, lines: Sequence[_Line]) -> tuple[str, bool]:
    """What the stored cost rests on, in a line; and whether the lines come to it."""
    stored = _doors.nanos(call.usd)
    told = "" if call.usd is None else f"{amount(call.usd)} USD"
    if call.outcome == "open":
        return f"the call is in flight: {amount(call.bound_usd)} USD are reserved for it", False
    if stored is None:
        return f"nobody knew a price of {call.model}; farebox price {call.model} shows what is known now", False
    if call.cost_source == "manual" and not call.price_version:
        return f"charged {told}: the program said so itself, by record() or reserve()", False
    if call.usage is None:
        if call.outcome == "failed" and not stored:
            return "charged 0 USD: it failed with an answer that is not billed", False
        said = f"charged {told}, estimated: it was {call.outcome} and nobody knows what it used, so it was charged for "
        return (
            f"{said}{call.charged_input_tokens} tokens in and {call.charged_output_tokens} out; "
            f"at most {amount(call.bound_usd)} USD were held for it"
        ), False
    if call.cost_source == "estimated":
        return (
            f"charged {told}, estimated: attempts that died without an answer, or a model without a price, are in it "
            f"at their bound ({call.attempts} attempts)"
        ), False
    nanos = -(-sum(line.picos for line in lines) // _PICOS_PER_NANO)
    if rates is not None and nanos == stored:
        return f"charged {told}, which is the same", True
    now = "has no price" if rates is None else f"gives {amount(_doors.usd_of(nanos))} USD by {rates.version}"
    return (
        f"charged {told} by {call.price_version or 'prices'} of the program; what is installed here {now}, so the single "
        "rates are not known any more"
    ), False


def _heading(call: CallRecord, shown: Shown) -> Iterator[str]:
    served = f", served as {call.response_model}" if call.response_model not in ("", call.model) else ""
    tags = ", ".join(f"{name}={value}" for name, value in call.tags.items())
    tier = call.served_tier or call.tier
    yield harmless(f"{call.call_id}: {call.provider_name} {call.model}{served}{f', tier {tier}' if tier else ''}")
    yield harmless(f"{show_instant(call.started_at, shown.zone)}, {call.outcome}{f', {tags}' if tags else ''}") + "\n"


def _as_json(
    call: CallRecord,
    corrections: Sequence[CallRecord],
    rates: Rates | None,
    lines: Sequence[_Line],
    why: str,
    adds_up: bool,
) -> dict[str, Any]:
    return {
        "call_id": call.call_id,
        "provider": call.provider_name,
        "model": call.model,
        "usd": call.usd,
        "adds_up": adds_up,
        "why": why,
        "lines": [
            {"what": line.what, "count": line.units, "usd_each": _usd(line.rate_picos), "usd": _usd(line.picos)}
            for line in lines
            if adds_up
        ],
        "rates": _source(rates) if rates is not None and adds_up else None,
        "corrections": [{"usd": one.usd, "at": one.ended_at, "why": one.doubt} for one in corrections],
        "in_all_usd": _in_all(call, corrections),
    }


def _source(rates: Rates) -> str:
    """Where rates are from and since when they are in force."""
    since = "" if rates.valid_from == -math.inf else f", in force since {_day(rates.valid_from)}"
    until = "" if rates.valid_until == math.inf else f", until {_day(rates.valid_until)}"
    return f"{rates.version or rates.source}, {rates.provider} {rates.matched_model}{since}{until}"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="minutes").replace("+00:00", "Z")


# ── price ────────────────────────────────────────────────────────────────────────────────────────────────────────


@click.command()
@click.argument("model")
@click.option("--provider", metavar="NAME", help="Such as openai; by default all whose calls are metered.")
@click.option("--tier", default="", metavar="NAME", help="Service tier, such as batch or priority.")
@shows
def price(model: str, provider: str | None, tier: str, shown: Shown) -> None:
    """The rates of a model: which entry of the price list it matches, every rate, and where it is from."""
    _doors.use_any_ledger()
    card, now = _doors.card(), time.time()
    names = _doors.providers() if provider is None else (provider,)
    found = [rates for name in names if (rates := card.find(name, model, now, tier)) is not None]
    if not found:
        near = list(dict.fromkeys(other for name in names for other in card.nearest(name, model)))
        advice = f"similar: {', '.join(near)}" if near else 'farebox.set_price() or prices = "prices.toml" gives it one'
        raise Problem(f"no price of {model!r} is known for {' or '.join(names)}; {advice}", NOT_FOUND)
    if shown.as_json:
        say_json([_rates_json(rates) for rates in found])
        return
    for rates in found:
        say(harmless(f"{model}: {_source(rates)}"))
        if rates.is_free:
            say("free\n")
            continue
        say_table(
            (Column("usd per million tokens"), *(Column(_step_title(step.above), True) for step in rates.steps)),
            [
                [bucket.replace("_", " "), *(amount(_per_million(getattr(step, bucket))) for step in rates.steps)]
                for bucket in _buckets(rates)
            ],
        )
        for what, picos in _fees(rates).items():
            if picos:
                say(f"{what}: {amount(_usd(picos))} USD")


def _fees(rates: Rates) -> dict[str, int]:
    """Picodollars of each thing that is no token; of a fee there is no price."""
    units = rates.unit_prices
    del units["fees_nanos"]
    return {"each request": rates.request_picos, "each web search": rates.web_search_picos} | {
        f"each of {name.replace('_', ' ')}": picos for name, picos in units.items()
    }


def _buckets(rates: Rates) -> list[str]:
    """Names of the rates of a step, in their order."""
    bounds = ("above", "input_bounds", "output_bound")
    return [field.name for field in attrs.fields(type(rates.steps[0])) if field.name not in bounds]


def _step_title(above: int) -> str:
    return "usd" if not above else f"above {above} tokens in"


def _rates_json(rates: Rates) -> dict[str, Any]:
    return {
        "provider": rates.provider,
        "matched_model": rates.matched_model,
        "source": rates.source,
        "version": rates.version,
        "in_force_since": None if rates.valid_from == -math.inf else _day(rates.valid_from),
        "in_force_until": None if rates.valid_until == math.inf else _day(rates.valid_until),
        "usd_per_million": [
            {"above_input_tokens": step.above}
            | {bucket: _per_million(getattr(step, bucket)) for bucket in _buckets(rates)}
            for step in rates.steps
        ],
        "usd_per_request": _usd(rates.request_picos),
        "usd_per_web_search": _usd(rates.web_search_picos),
        "usd_per_unit": {name: _usd(picos) for name, picos in rates.unit_prices.items() if name != "fees_nanos"},
    }


# ── estimate ─────────────────────────────────────────────────────────────────────────────────────────────────────


@click.command()
@click.argument("model")
@click.option("--provider", metavar="NAME", help="Such as openai; found by the model's name when left out.")
@click.option("--max-output-tokens", type=int, metavar="N", help="The output cap; by default the model's own maximum.")
@shows
def estimate(model: str, provider: str | None, max_output_tokens: int | None, shown: Shown) -> None:
    """What a prompt on stdin would cost: expected, and at most.  Sends nothing."""
    import farebox

    if sys.stdin.isatty():
        click.echo("farebox: reads the prompt until Ctrl-D; or: farebox estimate MODEL < prompt.txt", err=True)
    text = sys.stdin.buffer.read().decode("utf-8", "replace")
    if not text.strip():
        raise Problem("there is no prompt on stdin; write farebox estimate MODEL < prompt.txt", BAD_INPUT)
    _doors.use_any_ledger()
    found = farebox.estimate(model, text, max_output_tokens=max_output_tokens, provider=provider)
    if shown.as_json:
        say_json(attrs.asdict(found))
        return
    say(f"{found.provider_name} {harmless(found.model)}, {found.price_version}")
    rows = [
        ["expected", str(found.input_tokens), str(found.output_tokens), amount(found.expected_usd)],
        ["at most", str(found.bound_input_tokens), str(found.max_output_tokens), amount(found.bound_usd)],
    ]
    say_table((Column(""), Column("tokens in", True), Column("tokens out", True), Column("usd", True)), rows)
