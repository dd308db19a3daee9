"""When a limit starts again: the windows of a time zone's minutes, hours, days, weeks and months.

The windows of one period and zone follow each other without a gap and without an overlap, whatever the zone's clock does:
no length is added to a start, and no second is in two of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final, Literal, get_args

import attrs

Period = Literal["call", "minute", "hour", "day", "week", "month", "ever"]

#: How often a limit may start again, the shortest first.
PERIODS: Final[tuple[Period, ...]] = get_args(Period)

_CLOCK_SECONDS: Final = {"minute": 60, "hour": 3_600}
_ONE_DAY: Final = timedelta(days=1)


@attrs.frozen
class Window:
    """The time from `starts_at` to just before `ends_at`, in whole epoch seconds; one that never ends has None there."""

    starts_at: int
    ends_at: int | None


def window_at(period: Period, zone: tzinfo, seconds: float) -> Window:
    """The window of `period` that the instant `seconds` (epoch) lies in: starts_at <= seconds < ends_at.

    Days, weeks (from Monday) and months begin with the first instant of a local date: at midnight, or where the clock
    jumps over midnight, as soon as the date is reached.  Where midnight comes twice, the first one begins the day, and
    what the clock then repeats of the day before belongs to the new one.  A date that a zone left out has no window.

    Minutes and hours begin where the local clock shows a full one, and where the clock is moved: an hour that comes twice
    is two windows, and none is longer than its name says.

    "ever" is one window, from 0 on.

    Raises:
        ValueError: "call": each call has the whole limit to itself, at any time.
    """
    if period == "ever":
        return Window(0, None)
    if period == "call":
        raise ValueError("per='call' has no window: each call has the whole limit to itself")
    instant = int(seconds // 1)
    if period in _CLOCK_SECONDS:
        return _clock_window(_CLOCK_SECONDS[period], zone, instant)
    return _calendar_window(_FIRST_DATE[period], _NEXT_DATE[period], zone, instant)


class WindowFinder:
    """The windows of one period and zone, for who asks often: an instant in the window of the last answer is quick.

    Safe to use from any thread: all it keeps is that window, which never changes.
    """

    __slots__ = ("_last", "_period", "_zone")

    def __init__(self, period: Period, zone: tzinfo) -> None:
        self._period = period
        self._zone = zone
        self._last = Window(0, 0)  # no instant lies in it

    def at(self, seconds: float) -> Window:
        """As `window_at`."""
        last = self._last
        if last.starts_at <= seconds and (last.ends_at is None or seconds < last.ends_at):
            return last
        found = self._last = window_at(self._period, self._zone, seconds)
        return found


def _clock_window(length_seconds: int, zone: tzinfo, instant: int) -> Window:
    """The full minute or hour around `instant`, cut where the zone's offset changes within it."""
    offset = _offset_seconds(zone, instant)
    starts_at = instant - (instant + offset) % length_seconds
    ends_at = starts_at + length_seconds
    if _offset_seconds(zone, starts_at) != offset:
        starts_at = _first(starts_at, instant, lambda second: _offset_seconds(zone, second) == offset)
    if _offset_seconds(zone, ends_at - 1) != offset:
        ends_at = _first(instant, ends_at - 1, lambda second: _offset_seconds(zone, second) != offset)
    return Window(starts_at, ends_at)


def _calendar_window(
    first_date: Callable[[date], date], next_date: Callable[[date], date], zone: tzinfo, instant: int
) -> Window:
    begins_on = first_date(datetime.fromtimestamp(instant, zone).date())
    starts_at = _first_instant(zone, begins_on)
    while True:
        begins_on = next_date(begins_on)
        ends_at = _first_instant(zone, begins_on)
        if instant < ends_at:
            return Window(starts_at, ends_at)
        # The clock went back over midnight and shows the day before once more.
        starts_at = ends_at


def _first_instant(zone: tzinfo, day: date) -> int:
    """The first second whose local date is `day` or later."""
    midnight = datetime.combine(day, time(), zone)
    by_offset_before = int(midnight.timestamp())
    by_offset_after = int(midnight.replace(fold=1).timestamp())
    if by_offset_before <= by_offset_after:
        return by_offset_before  # they differ where midnight comes twice
    # The clock jumps over midnight, between the two.
    return _first(by_offset_after, by_offset_before, lambda second: datetime.fromtimestamp(second, zone).date() >= day)


def _first(low: int, high: int, has_come: Callable[[int], bool]) -> int:
    """The first second from `low` to `high` at which something has come that does not go away; `high` if none before."""
    return low + bisect_left(range(low, high), True, key=has_come)


def _offset_seconds(zone: tzinfo, second: int) -> int:
    offset = datetime.fromtimestamp(second, zone).utcoffset()
    assert offset is not None
    return offset // timedelta(seconds=1)


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def _next_month(day: date) -> date:
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)


_FIRST_DATE: Final[dict[str, Callable[[date], date]]] = {
    "day": lambda day: day,
    "week": _monday,
    "month": lambda day: day.replace(day=1),
}
_NEXT_DATE: Final[dict[str, Callable[[date], date]]] = {
    "day": lambda day: day + _ONE_DAY,
    "week": lambda day: day + 7 * _ONE_DAY,
    "month": _next_month,
}


def read_period(word: str, said: str | None = None) -> Period:
    """The period that a word names; errors call it `said`, or per=.

    Raises:
        ValueError: no period has that name; the message lists them.
        TypeError: no string.
    """
    said = said or f"per={word!r}"
    choices = ", ".join(map(repr, PERIODS))
    if not isinstance(word, str):
        raise TypeError(f"{said} is a {type(word).__name__}; a period is one of {choices}")
    if word not in PERIODS:
        raise ValueError(f"{said} names no period; choose from {choices}")
    return word


def read_zone(name: str) -> tzinfo:
    """The time zone of an IANA name such as "Asia/Tokyo".

    Raises:
        ValueError: no zone of that name is installed; the message has similar names.
        TypeError: no string.
    """
    if not isinstance(name, str):
        raise TypeError(f"tz={name!r} is a {type(name).__name__}; write a zone's name such as tz='Asia/Tokyo'")
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo, available_timezones

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; no name at all, such as a path; the folder of a continent
        zones = available_timezones()
    if not zones:
        raise ValueError(
            f"tz={name!r} is unknown, because no time zones are installed here; "
            "write: pip install tzdata, or leave tz out for UTC"
        )
    similar = ", ".join(map(repr, _similar(name, zones)))
    raise ValueError(
        f"tz={name!r} is no time zone; "
        + (f"similar: {similar}" if similar else "write a name of the IANA list such as tz='Asia/Tokyo'")
    )


def _similar(name: str, zones: set[str]) -> list[str]:
    from difflib import get_close_matches

    # Not those of Etc: "Etc/GMT+9" is nine hours west of Greenwich, and who writes GMT+9 means east.
    spelt = {zone.casefold(): zone for zone in sorted(zones) if not zone.startswith("Etc/")}
    return [spelt[found] for found in get_close_matches(name.strip().replace(" ", "_").casefold(), spelt)]


_SPAN_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def read_span(text: str, said: str) -> int:
    """A length of time such as `"90d"`, in seconds; errors call it `said`.

    Raises:
        ValueError: it is no number and a unit.
    """
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and len(number) <= 6 and unit in _SPAN_SECONDS):
        raise ValueError(f"{said} is no span; write a number and s, m, h, d or w, such as '7d'")
    return int(number) * _SPAN_SECONDS[unit]
