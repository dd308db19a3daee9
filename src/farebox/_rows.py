"""What a ledger is told about rows: how they are summed, and how they are written down.

A row is a `Call` that ended in this process, or the `CallRecord` of one that was read back.  As text it is a JSON list of
numbers, names and tags: `[1, call_id, started, ended, first chunk, usd, bound, usage, tags, ...]`, instants in epoch
microseconds, amounts in nanodollars.  The first number is that of the format.  Fields are only ever added at the end, so
that every version reads what every other one wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter
from typing import Any, Final

import attrs

from farebox._call import Call, CallRecord, Usage, from_micros, to_micros
from farebox._money import to_usd
from farebox._tally import Place, amount, part, part_of, place
from farebox.ledgers import Grant, PlaceParts, RowForm, Sum, with_slack
from farebox.ledgers._records import Span

_FORMAT: Final = 1

#: Fields that a text begins with, after its format.
_LEADING: Final = 8

#: The fields after them, as they are called in both classes, and what they are in a text that has none yet.
_PLAIN: Final[dict[str, Any]] = {
    "provider_name": "",
    "operation_name": "",
    "endpoint": "",
    "server_address": "",
    "request_model": "",
    "sent_model": "",
    "response_model": "",
    "response_id": "",
    "request_id": "",
    "tier": "",
    "served_tier": "",
    "is_stream": False,
    "choices": 1,
    "charged_input_tokens": 0,
    "charged_output_tokens": 0,
    "cost_source": "list",
    "price_version": "",
    "declared_cap": None,
    "sent_cap": None,
    "bound_tokens": 0,
    "attempts": 0,
    "outcome": "unknown",
    "error_class": "",
    "doubt": "",
    "decision": "",
    "scope": "",
    "messages": 0,
    "text_bytes": 0,
    "system_bytes": 0,
    "tools_bytes": 0,
    "last_message_bytes": 0,
    "accounts": (),
    "adjustment_id": "",
    "upstream_provider": "",
}
#: The last of them, as most calls have them: left out of the text.
_NO_MORE: Final = ((), "", "")
_plain = attrgetter(*_PLAIN)
_EPOCH: Final = from_micros(0)
#: The name of a tag that stands in a path as it is.
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_\-]+")
_MICRO: Final = timedelta(microseconds=1)
_HOUR_SECONDS, _DAY_SECONDS = 3_600, 86_400


def _encoder() -> Callable[[Any], str]:
    """JSON in ASCII, so that no store chokes on half a surrogate pair in a tag; what is no JSON is text: no row is lost for it."""
    encode = json.JSONEncoder(separators=(",", ":"), check_circular=False, default=str).encode
    probe = (1, None, True, 0.5, "\u00e9", {"a": "b"}, ("c", date.min))
    try:
        # `encode` makes this for each text anew, for as much as half a row costs.  It is no public name: another Python may
        # have another one.
        parts = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
            None, str, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True
        )
        is_same = "".join(parts(probe, 0)) == encode(probe)
    except Exception:
        return encode
    return (lambda value: "".join(parts(value, 0))) if is_same else encode


_encode = _encoder()
# What `json.loads` comes to for text without space around it: a report may read a hundred thousand places.
_scan = json.JSONDecoder().raw_decode


def dump(row: Call | CallRecord) -> str:
    """A row, or a call in flight, as one line of text."""
    if isinstance(row, CallRecord):
        started, ended, first = _micros(row.started_at), _micros(row.ended_at), _micros(row.first_chunk_at)
    else:
        ended_at, first_at = row.ended_at_seconds, row.first_chunk_at_seconds
        started = to_micros(row.started_at_seconds)
        ended = None if ended_at is None else to_micros(ended_at)
        first = None if first_at is None else to_micros(first_at)
    plain = _plain(row)
    return _encode(
        (
            _FORMAT,
            row.call_id,
            started,
            ended,
            first,
            row.cost_usd_nanos,
            row.bound_usd_nanos,
            row.usage,
            dict(row.tags),
            *(plain[:-3] if plain[-3:] == _NO_MORE else plain),
        )
    )


def load(text: str) -> CallRecord:
    """The record that `dump` wrote; of a newer version's text what this one knows, of an older one's what it has.

    Raises:
        ValueError: it is no row at all.
    """
    values = json.loads(text)
    if not isinstance(values, list) or len(values) <= _LEADING:
        raise ValueError(f"a row of a ledger is a list of {_LEADING + 1} values or more; this one is no such text")
    _, call_id, started, ended, first, usd_nanos, bound_usd_nanos, usage, tags = values[: _LEADING + 1]
    plain = dict(_PLAIN)
    plain.update(zip(_PLAIN, values[_LEADING + 1 :], strict=False))
    plain["accounts"] = tuple(plain["accounts"])
    return CallRecord(
        call_id=call_id,
        started_at=from_micros(started),
        ended_at=None if ended is None else from_micros(ended),
        first_chunk_at=None if first is None else from_micros(first),
        usd=None if usd_nanos is None else to_usd(usd_nanos),
        bound_usd=to_usd(bound_usd_nanos),
        usage=None if usage is None else Usage(*usage[: len(Usage._fields)]),
        tags=tags,
        **plain,
    )


def _micros(instant: datetime | None) -> int | None:
    return None if instant is None else (instant - _EPOCH) // _MICRO


def sum_of(row: Call | CallRecord) -> Sum:
    """What a row comes to: its `Amount`, at the second it began in."""
    return Sum("second", int(row.started_at_seconds), place(row), amount(row))


def id_of(row: Call | CallRecord) -> str:
    """The id of its call; a correction has that of the call it corrects."""
    return row.call_id


def coarser(span: Span, starts_at: int, where: Hashable) -> tuple[Span, int, Hashable]:
    """Less exactly: in time first, and once that is gone without tags.  Hours, days and months are those of UTC."""
    match span:
        case "second" | "quarter":
            return "hour", starts_at - starts_at % _HOUR_SECONDS, where
        case "hour":
            return "day", starts_at - starts_at % _DAY_SECONDS, where
        case "day":
            day = datetime.fromtimestamp(starts_at, UTC).replace(day=1, hour=0, minute=0, second=0)
            return "month", int(day.timestamp()), where
        case "month":
            return "ever", 0, where
    return span, starts_at, where._replace(tags=()) if isinstance(where, Place) else where


def dump_place(where: Hashable) -> str:
    """A place as text; equal places give equal texts."""
    assert isinstance(where, Place)
    return _encode((*where[:4], dict(where.tags)))


def load_place(text: str) -> Place:
    """The place that `dump_place` wrote."""
    (provider, model, operation, outcome, tags, *_), _end = _scan(text)
    return Place(provider, model, operation, outcome, tuple(sorted(tags.items())))


def place_path(name: str) -> str | None:
    """Where the text of a place has a dimension or a tag; None for a tag whose name a path may not be able to say."""
    if name in Place._fields and name != "tags":
        return f"$[{Place._fields.index(name)}]"
    return f'$[4]."{name}"' if _PLAIN_NAME.fullmatch(name) else None


def presumed(call: Call | CallRecord, grant: Grant) -> CallRecord:
    """The row of a call in flight that nobody ended: what was held for it is presumed spent.

    Where nothing was held of the price of a model, nobody knows it: `usd` is None, and not 0.
    """
    record = call if isinstance(call, CallRecord) else CallRecord.of(call)
    tokens_out = min(grant.tokens, record.choices * with_slack(grant.cap))
    return attrs.evolve(
        record,
        usd=None if record.model and not grant.usd_nanos else to_usd(grant.usd_nanos),
        bound_usd=to_usd(grant.usd_nanos),
        bound_tokens=grant.tokens,
        charged_input_tokens=grant.tokens - tokens_out,
        charged_output_tokens=tokens_out,
        cost_source="estimated",
        outcome="unknown",
    )


def correction_of(
    record: CallRecord,
    usd_nanos: int,
    *,
    input_tokens: int = 0,
    output_tokens: int = 0,
    at: datetime,
    why: str = "",
    adjustment_id: str = "",
) -> CallRecord:
    """The row of a correction by hand: signed amounts, put where and when the call belongs that they correct."""
    return attrs.evolve(
        record,
        ended_at=at,
        first_chunk_at=None,
        usage=None,
        usd=to_usd(usd_nanos),
        charged_input_tokens=input_tokens,
        charged_output_tokens=output_tokens,
        cost_source="manual",
        doubt=why,
        adjustment_id=adjustment_id,
        bound_usd=to_usd(0),
        bound_tokens=0,
        attempts=0,
        outcome="corrected",
    )


#: How every ledger of this process is told about calls.
FORM: Final = RowForm(
    sum_of=sum_of,
    id_of=id_of,
    coarser=coarser,
    dump=dump,
    load=load,
    dump_place=dump_place,
    load_place=load_place,
    presumed=presumed,
    parts=PlaceParts(of=part_of, make=part, path=place_path),
)
