"""What the hours, days, weeks and months of a time zone are called in a report."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Final, Literal, get_args

from farebox._windows import WindowFinder, window_at
from farebox.ledgers._records import Span

Time = Literal["hour", "day", "week", "month"]

TIMES: Final[tuple[Time, ...]] = get_args(Time)


class Bucket:
    """What the hours, days, weeks or months of a zone are called, and which of them a sum belongs to."""

    def __init__(self, time: Time, zone: tzinfo) -> None:
        self._time = time
        self._zone = zone
        self._windows = WindowFinder(time, zone)
        self._names: dict[int | tuple[Span, int], str] = {}

    def name(self, span: Span, starts_at: int) -> str:
        """The one that all of this span lies in; "earlier" where it is in several of them."""
        # No window begins within a quarter of an hour: since 1972 every offset is so many of them.
        key = starts_at // 900 if span in ("second", "quarter") else (span, starts_at)
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = self._find(span, starts_at)
        return name

    def _find(self, span: Span, starts_at: int) -> str:
        if span == "ever":
            return "earlier"
        window = self._windows.at(starts_at)
        is_the_window = span == self._time and window.starts_at == starts_at
        if not is_the_window and window.ends_at is not None and window.ends_at < self._end_of(span, starts_at):
            return "earlier"
        start = datetime.fromtimestamp(window.starts_at, self._zone)
        match self._time:
            case "hour":
                # With the offset: an hour that comes twice is two hours.
                text = start.isoformat(timespec="minutes")
                return text.removesuffix("+00:00") + "Z" if self._zone is UTC else text
            case "day":
                return f"{start:%Y-%m-%d}"
            case "week":
                year, week, _ = start.isocalendar()
                return f"{year}-W{week:02}"
            case "month":
                return f"{start:%Y-%m}"

    def _end_of(self, span: Span, starts_at: int) -> int:
        """The first second after a span: one of this zone where it begins with one, else one of UTC."""
        if span in ("second", "quarter"):
            return starts_at + 1
        assert span in ("hour", "day", "month")
        window = window_at(span, self._zone, starts_at)
        if window.starts_at != starts_at:
            window = window_at(span, UTC, starts_at)
        assert window.ends_at is not None
        return window.ends_at


class Buckets:
    """Those of one zone, made when first asked for."""

    def __init__(self, zone: tzinfo) -> None:
        self.zone = zone
        self._by_time: dict[Time, Bucket] = {}

    def __getitem__(self, time: Time) -> Bucket:
        return self._by_time.get(time) or self._by_time.setdefault(time, Bucket(time, self.zone))
