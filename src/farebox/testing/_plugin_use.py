"""How much a test used of a model: sums that travel from worker to controller, and into files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

import attrs


@attrs.define
class Use:
    """Sums over calls.  Prices are those of plain text in and out, in picodollars per token; None: unknown."""

    calls: int = 0
    refused_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd_nanos: int = 0
    reserved_usd_nanos: int = 0
    unpriced_calls: int = 0
    #: Of all of these, what a cassette played: it would have cost that, and cost nothing.
    replayed_calls: int = 0
    replayed_usd_nanos: int = 0
    input_picos: int | None = None
    output_picos: int | None = None

    def add(self, more: Use) -> None:
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(more, name))
        if more.input_picos is not None:
            self.input_picos, self.output_picos = more.input_picos, more.output_picos

    @property
    def real_usd_nanos(self) -> int:
        """What was really spent, or may still be."""
        return self.usd_nanos + self.reserved_usd_nanos - self.replayed_usd_nanos

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


_SUMMED: Final = tuple(field.name for field in attrs.fields(Use) if not field.name.endswith("picos"))

#: Uses by model.
Uses = dict[str, Use]


def total(uses: Iterable[Use]) -> Use:
    summed = Use()
    for use in uses:
        summed.add(use)
    return summed


def joined(all_uses: Iterable[Mapping[str, Use]]) -> Uses:
    """What several come to, by model."""
    found: Uses = {}
    for uses in all_uses:
        for model, use in uses.items():
            found.setdefault(model, Use()).add(use)
    return found


def to_plain(uses: Mapping[str, Use]) -> dict[str, Any]:
    """As numbers and names only, for a report that goes to another process."""
    return {model: attrs.asdict(use) for model, use in uses.items()}


def from_plain(plain: Mapping[str, Any]) -> Uses:
    return {model: Use(**fields) for model, fields in plain.items()}


def show_nanos(usd_nanos: int) -> str:
    """USD without trailing zeros, at least one digit: `0.0018044`."""
    text = f"{Decimal(usd_nanos).scaleb(-9):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
