"""The bill: one line per charged request, in exact integers."""

from __future__ import annotations

import threading
from decimal import Decimal

import attrs

from farebox.testing._fake.prices import Charge, Price


@attrs.frozen(kw_only=True)
class BillLine:
    """One charge. `input_tokens` holds all input, `output_tokens` all output; the other counts are parts of them."""

    number: int  # 1, 2, 3, ... in the order of charging
    path: str
    model: str  # the model that served
    stream: bool
    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    reasoning_tokens: int
    usd_nanos: int
    finished: bool  # the answer was generated in full and handed to the network in full
    request_id: str  # the header `x-request-id` or `request-id`
    response_id: str  # the `id` in the body
    at: float  # epoch seconds
    web_searches: int = 0
    image_tokens: int = 0  # parts of the input
    audio_tokens: int = 0
    charges: tuple[Charge, ...] = ()  # for anything else
    percent: int = 100  # what tokens cost of their usual price

    def count(self, what: str) -> int:
        """How many of something were charged."""
        return sum(charge.count for charge in self.charges if charge.what == what)

    @property
    def usd(self) -> Decimal:
        return Decimal(self.usd_nanos).scaleb(-9)

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@attrs.frozen
class Bill:
    """What was charged up to the moment it was asked for."""

    lines: tuple[BillLine, ...]

    @property
    def usd_nanos(self) -> int:
        return sum(line.usd_nanos for line in self.lines)

    @property
    def usd(self) -> Decimal:
        return Decimal(self.usd_nanos).scaleb(-9)

    @property
    def tokens(self) -> int:
        """All input and all output."""
        return sum(line.tokens for line in self.lines)

    @property
    def calls(self) -> int:
        return len(self.lines)

    def table(self) -> str:
        """The bill for people: a row per line and the total."""
        rows: list[tuple[str, ...]] = [("#", "model", "stream", "input", "cached", "output", "reasoning", "usd", "")]
        for line in self.lines:
            counts = (line.input_tokens, line.cached_tokens, line.output_tokens, line.reasoning_tokens)
            rows.append(
                (
                    str(line.number),
                    line.model,
                    "stream" if line.stream else "",
                    *(f"{count:,}" for count in counts),
                    f"{line.usd:f}",
                    "" if line.finished else "unfinished",
                )
            )
        totals = (
            sum(line.input_tokens for line in self.lines),
            sum(line.cached_tokens for line in self.lines),
            sum(line.output_tokens for line in self.lines),
            sum(line.reasoning_tokens for line in self.lines),
        )
        rows.append(
            (
                "",
                "1 call" if self.calls == 1 else f"{self.calls} calls",
                "",
                *(f"{total:,}" for total in totals),
                f"{self.usd:f}",
                "",
            )
        )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        left = {1, 2, 8}
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column in left else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )

    def __str__(self) -> str:
        return self.table()


class Till:
    """Writes the bill; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: list[BillLine] = []
        self._prices: list[Price] = []

    def charge(self, price: Price, line: BillLine) -> int:
        """Put a line on the bill, its number and amount filled in, and return its number."""
        with self._lock:
            number = len(self._lines) + 1
            self._lines.append(attrs.evolve(line, number=number, usd_nanos=_nanos(price, line)))
            self._prices.append(price)
            return number

    def grow(self, number: int, *, output_tokens: int, reasoning_tokens: int = 0) -> None:
        """More of the answer was generated."""
        with self._lock:
            line = self._lines[number - 1]
            line = attrs.evolve(
                line,
                output_tokens=line.output_tokens + output_tokens,
                reasoning_tokens=line.reasoning_tokens + reasoning_tokens,
            )
            self._lines[number - 1] = attrs.evolve(line, usd_nanos=_nanos(self._prices[number - 1], line))

    def finish(self, number: int, finished: bool = True) -> None:
        with self._lock:
            self._lines[number - 1] = attrs.evolve(self._lines[number - 1], finished=finished)

    def bill(self) -> Bill:
        with self._lock:
            return Bill(tuple(self._lines))


def _nanos(price: Price, line: BillLine) -> int:
    return price.nanos(
        input_tokens=line.input_tokens,
        output_tokens=line.output_tokens,
        cached_tokens=line.cached_tokens,
        cache_write_tokens=line.cache_write_tokens,
        cache_write_1h_tokens=line.cache_write_1h_tokens,
        web_searches=line.web_searches,
        image_tokens=line.image_tokens,
        audio_tokens=line.audio_tokens,
        charges=line.charges,
        percent=line.percent,
    )
