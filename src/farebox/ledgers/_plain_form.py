"""How a stored ledger keeps rows it was told nothing about: as JSON, in one place, each counted once."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any, Final

from farebox.ledgers import Grant, RowForm, Sum
from farebox.ledgers._records import Span


def dump(row: Any) -> str:
    """`row` as JSON that also keeps tuples and dicts with any keys.

    Raises:
        TypeError: made of something else than dicts, lists, tuples, text, numbers, bools and None.
    """
    return json.dumps(_tagged(row), separators=(",", ":"))


def load(text: str) -> Any:
    return _untagged(json.loads(text))


def _tagged(value: Any) -> Any:
    if isinstance(value, tuple):
        return {"tuple": [_tagged(item) for item in value]}
    if isinstance(value, list):
        return [_tagged(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[_tagged(key), _tagged(item)] for key, item in value.items()]}
    return value


def _untagged(value: Any) -> Any:
    if isinstance(value, list):
        return [_untagged(item) for item in value]
    if isinstance(value, dict):
        (tag, items), *_ = value.items()
        if tag == "tuple":
            return tuple(_untagged(item) for item in items)
        return {_untagged(key): _untagged(item) for key, item in items}
    return value


def _one(_row: Any) -> Sum:
    return Sum("second", 0, None, (1,))


def _nobody(_row: Any) -> str:
    return ""


def _nowhere(_span: Span, _starts_at: int, _place: Hashable) -> tuple[Span, int, Hashable]:
    return "ever", 0, None


def _as_it_was(call: Any, _grant: Grant) -> Any:
    return call


PLAIN_FORM: Final = RowForm(
    sum_of=_one,
    id_of=_nobody,
    coarser=_nowhere,
    dump=dump,
    load=load,
    dump_place=dump,
    load_place=load,
    presumed=_as_it_was,
)
