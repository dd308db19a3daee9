"""When a limit starts again: windows that follow each other without a gap and without an overlap, in every zone."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import zoneinfo
from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox._windows import PERIODS, Period, Window, WindowFinder, read_period, read_zone, window_at

ZONES = sorted(zoneinfo.available_timezones())
assert ZONES, "these tests need time zones: the tzdata of the system, or the package tzdata"

zones = st.sampled_from(ZONES).map(zoneinfo.ZoneInfo)
with_windows = st.sampled_from([period for period in PERIODS if period != "call"])
turning = st.sampled_from([period for period in PERIODS if period not in ("call", "ever")])

FROM, TO = datetime(1990, 1, 1, tzinfo=UTC), datetime(2037, 12, 1, tzinfo=UTC)
instants = st.integers(int(FROM.timestamp()), int(TO.timestamp()))


def utc(text: str) -> int:
    """Epoch seconds of an instant such as "2024-03-31T01:00Z"."""
    return int(datetime.fromisoformat(text).timestamp())


def clock_changes(zone: tzinfo, year: int) -> list[int]:
    """The seconds of a year at which the zone's offset changes, to within 14 days of each other."""

    def offset(second: int) -> timedelta | None:
        return datetime.fromtimestamp(second, zone).utcoffset()

    changes: list[int] = []
    step = 14 * 86_400
    for begin in range(utc(f"{year}-01-01T00:00Z"), utc(f"{year + 1}-01-01T00:00Z"), step):
        low, high = begin, begin + step
        if offset(low) == offset(high):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
        changes.append(high)
    return changes


@st.composite
def near_a_change(draw: st.DrawFn) -> tuple[tzinfo, int]:
    """A zone, and an instant in the three days around one of its clock's changes, or any where it has none."""
    zone = draw(zones)
    year = draw(st.integers(1990, 2037))
    changes = clock_changes(zone, year) or [utc(f"{year}-07-01T00:00Z")]
    nearby = st.sampled_from([-86_400, -3_600, -1, 0, 1, 1_800, 3_599, 3_600, 86_400]) | st.integers(-90_000, 90_000)
    return zone, draw(st.sampled_from(changes)) + draw(nearby)


# The laws.


@given(with_windows, zones, instants | st.floats(FROM.timestamp(), TO.timestamp()))
def test_an_instant_lies_in_its_window(period: Period, zone: tzinfo, seconds: float) -> None:
    window = window_at(period, zone, seconds)
    assert window.starts_at <= seconds
    assert window.ends_at is None or seconds < window.ends_at


def check_partition(period: Period, zone: tzinfo, seconds: int) -> None:
    window = window_at(period, zone, seconds)
    assert window.ends_at is not None
    assert window.starts_at <= seconds < window.ends_at
    assert window_at(period, zone, window.starts_at) == window
    assert window_at(period, zone, window.ends_at - 1) == window
    assert window_at(period, zone, window.starts_at - 1).ends_at == window.starts_at
    assert window_at(period, zone, window.ends_at).starts_at == window.ends_at


@given(turning, zones, instants)
def test_windows_follow_each_other_without_a_gap_or_an_overlap(period: Period, zone: tzinfo, seconds: int) -> None:
    check_partition(period, zone, seconds)


@given(turning, near_a_change())
def test_they_do_so_where_the_clock_is_moved(period: Period, place: tuple[tzinfo, int]) -> None:
    check_partition(period, *place)


@pytest.mark.parametrize("period", ["minute", "hour", "day", "week", "month"])
def test_windows_of_every_zone_follow_each_other(period: Period) -> None:
    """Each zone once, at an instant of its own."""
    for number, name in enumerate(ZONES):
        check_partition(period, zoneinfo.ZoneInfo(name), utc("2023-10-29T00:30Z") + number * 7_919)


@given(near_a_change())
def test_a_day_is_the_seconds_whose_latest_date_so_far_is_the_same(place: tuple[tzinfo, int]) -> None:
    """Read off the local clock, half hour by half hour, from a week before: the date never goes back."""
    zone, around = place
    start = around - around % 900 - 7 * 86_400
    latest, seen = None, []
    for second in range(start, around + 3 * 86_400, 900):
        local = datetime.fromtimestamp(second, zone).date()
        latest = local if latest is None else max(latest, local)
        seen.append((second, latest))
    for (second, day), (following, next_day) in itertools.pairwise(seen[600:]):
        same_window = window_at("day", zone, second) == window_at("day", zone, following)
        assert same_window == (day == next_day)


@given(zones, instants)
def test_a_week_and_a_month_are_whole_days(zone: tzinfo, seconds: int) -> None:
    for period in ("week", "month"):
        window = window_at(period, zone, seconds)  # type: ignore[arg-type]
        assert window.ends_at is not None
        assert window_at("day", zone, window.starts_at).starts_at == window.starts_at
        assert window_at("day", zone, window.ends_at - 1).ends_at == window.ends_at
        before, after = (datetime.fromtimestamp(second, zone) for second in (window.starts_at, window.ends_at))
        if period == "week":
            assert after.date() > before.date()
            assert {before.isoweekday(), after.isoweekday()} <= {1, 2}  # 2 where a zone left a Monday out
        else:
            assert {before.day, after.day} <= {1, 2}
            assert (after.year * 12 + after.month) - (before.year * 12 + before.month) == 1


@given(near_a_change())
def test_no_minute_or_hour_is_longer_than_its_name_says_and_none_spans_a_change(place: tuple[tzinfo, int]) -> None:
    zone, seconds = place
    for period, most in (("minute", 60), ("hour", 3_600)):
        window = window_at(period, zone, seconds)  # type: ignore[arg-type]
        assert window.ends_at is not None
        assert 0 < window.ends_at - window.starts_at <= most
        first, last = (datetime.fromtimestamp(second, zone) for second in (window.starts_at, window.ends_at - 1))
        assert first.utcoffset() == last.utcoffset()
        assert first.replace(minute=0, second=0) == last.replace(minute=0, second=0)


# By hand.


@pytest.mark.parametrize(
    ("zone", "period", "instant", "starts_at", "ends_at"),
    [
        # Tokyo is nine hours ahead, all year.
        ("Asia/Tokyo", "day", "2026-11-21T14:59:59Z", "2026-11-20T15:00Z", "2026-11-21T15:00Z"),
        ("Asia/Tokyo", "day", "2026-11-21T15:00:00Z", "2026-11-21T15:00Z", "2026-11-22T15:00Z"),
        ("Asia/Tokyo", "month", "2026-11-30T15:00Z", "2026-11-30T15:00Z", "2026-12-31T15:00Z"),
        # Amsterdam: 23 hours on 2024-03-31, 25 on 2024-10-27.
        ("Europe/Amsterdam", "day", "2024-03-31T12:00Z", "2024-03-30T23:00Z", "2024-03-31T22:00Z"),
        ("Europe/Amsterdam", "day", "2024-10-27T12:00Z", "2024-10-26T22:00Z", "2024-10-27T23:00Z"),
        # The hour from two to three comes twice then: two windows.
        ("Europe/Amsterdam", "hour", "2024-10-27T00:30Z", "2024-10-27T00:00Z", "2024-10-27T01:00Z"),
        ("Europe/Amsterdam", "hour", "2024-10-27T01:30Z", "2024-10-27T01:00Z", "2024-10-27T02:00Z"),
        # Cairo had no midnight on 2023-04-28: the day begins at one, 22:00 UTC, and is 23 hours long.
        ("Africa/Cairo", "day", "2023-04-27T21:59:59Z", "2023-04-26T22:00Z", "2023-04-27T22:00Z"),
        ("Africa/Cairo", "day", "2023-04-27T22:00Z", "2023-04-27T22:00Z", "2023-04-28T21:00Z"),
        # ... and went back from midnight to 23:00 as 2023-10-26 ended, which is 25 hours long.
        ("Africa/Cairo", "day", "2023-10-26T21:30Z", "2023-10-25T21:00Z", "2023-10-26T22:00Z"),
        ("Africa/Cairo", "day", "2023-10-26T20:30Z", "2023-10-25T21:00Z", "2023-10-26T22:00Z"),
        # Beirut and Asuncion skipped midnight, too.
        ("Asia/Beirut", "day", "2022-03-26T22:00Z", "2022-03-26T22:00Z", "2022-03-27T21:00Z"),
        ("America/Asuncion", "day", "2022-10-02T04:00Z", "2022-10-02T04:00Z", "2022-10-03T03:00Z"),
        # Havana goes back from one to midnight, which comes twice: the day begins with the first.
        ("America/Havana", "day", "2023-11-05T04:30Z", "2023-11-05T04:00Z", "2023-11-06T05:00Z"),
        ("America/Havana", "day", "2023-11-05T05:30Z", "2023-11-05T04:00Z", "2023-11-06T05:00Z"),
        # St John's went back from 00:01 to 23:01 of the day before: that hour belongs to the day that had begun.
        ("America/St_Johns", "day", "2010-11-07T02:30:30Z", "2010-11-07T02:30Z", "2010-11-08T03:30Z"),
        ("America/St_Johns", "day", "2010-11-07T02:45Z", "2010-11-07T02:30Z", "2010-11-08T03:30Z"),
        # Its hours are cut there: one minute of the new day, then 59 of the old one again.
        ("America/St_Johns", "hour", "2010-11-07T02:30:30Z", "2010-11-07T02:30Z", "2010-11-07T02:31Z"),
        ("America/St_Johns", "hour", "2010-11-07T02:31Z", "2010-11-07T02:31Z", "2010-11-07T03:30Z"),
        # Apia left out 2011-12-30: the 29th, ten hours behind, is followed by the 31st, fourteen ahead.
        ("Pacific/Apia", "day", "2011-12-30T09:59:59Z", "2011-12-29T10:00Z", "2011-12-30T10:00Z"),
        ("Pacific/Apia", "day", "2011-12-30T10:00Z", "2011-12-30T10:00Z", "2011-12-31T10:00Z"),
        ("Pacific/Apia", "week", "2011-12-30T10:00Z", "2011-12-26T10:00Z", "2012-01-01T10:00Z"),
        # Lord Howe moves by half an hour: at two (10:30 ahead) to 2:30, and at two (11 ahead) back to 1:30.
        ("Australia/Lord_Howe", "hour", "2023-09-30T15:45Z", "2023-09-30T15:30Z", "2023-09-30T16:00Z"),
        ("Australia/Lord_Howe", "hour", "2023-09-30T16:00Z", "2023-09-30T16:00Z", "2023-09-30T17:00Z"),
        ("Australia/Lord_Howe", "hour", "2024-04-06T14:59Z", "2024-04-06T14:00Z", "2024-04-06T15:00Z"),
        ("Australia/Lord_Howe", "hour", "2024-04-06T15:00Z", "2024-04-06T15:00Z", "2024-04-06T15:30Z"),
        ("Australia/Lord_Howe", "day", "2024-04-06T15:00Z", "2024-04-06T13:00Z", "2024-04-07T13:30Z"),
        # Offsets of half and three quarter hours: the local clock shows :00.
        ("Asia/Kolkata", "hour", "2026-06-01T12:15Z", "2026-06-01T11:30Z", "2026-06-01T12:30Z"),
        ("Asia/Kolkata", "hour", "2026-06-01T12:30Z", "2026-06-01T12:30Z", "2026-06-01T13:30Z"),
        ("Asia/Kathmandu", "hour", "2026-06-01T12:15Z", "2026-06-01T12:15Z", "2026-06-01T13:15Z"),
        ("Asia/Kolkata", "minute", "2026-06-01T12:15:59Z", "2026-06-01T12:15Z", "2026-06-01T12:16Z"),
        # Toronto jumped over midnight in 1919, from 23:30 to 0:30: the day begins there.
        ("America/Toronto", "day", "1919-03-31T04:30Z", "1919-03-31T04:30Z", "1919-04-01T04:00Z"),
        ("America/Toronto", "day", "1919-03-31T04:29:59Z", "1919-03-30T05:00Z", "1919-03-31T04:30Z"),
        # Weeks begin on Monday, also over the end of a year: 2026-12-28 is one.
        ("Etc/UTC", "week", "2027-01-01T00:00Z", "2026-12-28T00:00Z", "2027-01-04T00:00Z"),
        ("Etc/UTC", "week", "2026-12-28T00:00Z", "2026-12-28T00:00Z", "2027-01-04T00:00Z"),
        ("Etc/UTC", "week", "2026-12-27T23:59:59Z", "2026-12-21T00:00Z", "2026-12-28T00:00Z"),
        ("Europe/Amsterdam", "week", "2024-03-31T12:00Z", "2024-03-24T23:00Z", "2024-03-31T22:00Z"),
        # February, in a leap year, in none, and in 2000.
        ("Etc/UTC", "month", "2024-02-29T12:00Z", "2024-02-01T00:00Z", "2024-03-01T00:00Z"),
        ("Etc/UTC", "month", "2023-02-28T12:00Z", "2023-02-01T00:00Z", "2023-03-01T00:00Z"),
        ("Etc/UTC", "month", "2000-02-29T23:59:59Z", "2000-02-01T00:00Z", "2000-03-01T00:00Z"),
        ("Etc/UTC", "month", "2026-12-31T23:59:59Z", "2026-12-01T00:00Z", "2027-01-01T00:00Z"),
        ("Etc/UTC", "day", "2024-02-29T12:00Z", "2024-02-29T00:00Z", "2024-03-01T00:00Z"),
    ],
)
def test_a_window_by_hand(zone: str, period: Period, instant: str, starts_at: str, ends_at: str) -> None:
    window = window_at(period, zoneinfo.ZoneInfo(zone), utc(instant))
    assert window == Window(utc(starts_at), utc(ends_at))


def test_a_day_of_an_offset_without_a_zone_name() -> None:
    half = timezone(timedelta(hours=-3, minutes=-30))
    assert window_at("day", half, utc("2026-01-02T03:29Z")) == Window(
        utc("2026-01-01T03:30Z"), utc("2026-01-02T03:30Z")
    )
    assert window_at("hour", half, utc("2026-01-02T03:29Z")) == Window(
        utc("2026-01-02T02:30Z"), utc("2026-01-02T03:30Z")
    )


def test_a_fraction_of_a_second_belongs_to_its_second() -> None:
    midnight = utc("2026-01-02T00:00Z")
    assert window_at("day", UTC, midnight - 0.001).ends_at == midnight
    assert window_at("day", UTC, midnight + 0.999).starts_at == midnight


def test_for_ever_is_one_window_from_zero() -> None:
    assert window_at("ever", zoneinfo.ZoneInfo("Asia/Tokyo"), utc("2026-01-02T00:00Z")) == Window(0, None)


def test_a_single_call_has_no_window() -> None:
    with pytest.raises(ValueError, match="per='call' has no window: each call has the whole limit to itself"):
        window_at("call", UTC, 0)


# Finding the window again and again.


@given(with_windows, zones, st.lists(instants, min_size=1, max_size=20))
def test_a_finder_answers_as_if_it_remembered_nothing(period: Period, zone: tzinfo, asked: list[int]) -> None:
    finder = WindowFinder(period, zone)
    for second in [*asked, *(second + 1 for second in asked), *asked]:
        assert finder.at(second) == window_at(period, zone, second)


def test_a_finder_gives_the_same_window_until_it_ends() -> None:
    finder = WindowFinder("day", zoneinfo.ZoneInfo("Asia/Tokyo"))
    noon, evening = finder.at(utc("2026-11-21T03:00Z")), finder.at(utc("2026-11-21T14:59:59Z") + 0.999)
    assert evening is noon
    assert finder.at(utc("2026-11-21T15:00Z")) == Window(utc("2026-11-21T15:00Z"), utc("2026-11-22T15:00Z"))
    assert finder.at(utc("2026-11-21T03:00Z")) == noon
    for_ever = WindowFinder("ever", UTC)
    assert for_ever.at(1) is for_ever.at(10**10)


def test_threads_that_share_a_finder_at_midnight_get_their_own_windows() -> None:
    zone = zoneinfo.ZoneInfo("Asia/Tokyo")
    finder = WindowFinder("day", zone)
    midnight = utc("2026-11-21T15:00Z")
    wrong: list[int] = []

    def ask(offset: int) -> None:
        for step in range(2_000):
            second = midnight + (offset if step % 2 else -1 - offset)
            window = finder.at(second)
            if window.ends_at is None or not window.starts_at <= second < window.ends_at:
                wrong.append(second)

    threads = [threading.Thread(target=ask, args=[offset]) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# The words.


@pytest.mark.parametrize("period", PERIODS)
def test_a_period_is_read_by_its_name(period: str) -> None:
    assert read_period(period) == period


@pytest.mark.parametrize(
    ("word", "said", "message"),
    [
        (
            "daily",
            None,
            "per='daily' names no period; choose from 'call', 'minute', 'hour', 'day', 'week', 'month', 'ever'",
        ),
        ("", None, "per='' names no period; choose from"),
        ("Day", "usd={'Day': ...}", "usd={'Day': ...} names no period; choose from"),
    ],
)
def test_an_unknown_period_is_answered_with_the_choices(word: str, said: str | None, message: str) -> None:
    with pytest.raises(ValueError, match="period") as caught:
        read_period(word, said)
    assert str(caught.value).startswith(message)


def test_a_period_that_is_no_string_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="per=86400 is a int; a period is one of 'call', 'minute'"):
        read_period(86_400)  # type: ignore[arg-type]


def test_utc_is_the_standard_librarys_own() -> None:
    assert read_zone("UTC") is UTC


def test_a_zone_is_read_by_its_name() -> None:
    assert str(read_zone("Asia/Tokyo")) == "Asia/Tokyo"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Asia/Tokio", "tz='Asia/Tokio' is no time zone; similar: 'Asia/Tokyo'"),
        ("Tokyo", "tz='Tokyo' is no time zone; similar: 'Asia/Tokyo'"),
        ("asia/tokyoo", "tz='asia/tokyoo' is no time zone; similar: 'Asia/Tokyo'"),
        ("New York", "tz='New York' is no time zone; similar: 'America/New_York'"),
        ("America", "tz='America' is no time zone; similar: "),
        ("", "tz='' is no time zone; write a name of the IANA list such as tz='Asia/Tokyo'"),
        ("../../etc/hosts", "tz='../../etc/hosts' is no time zone; "),
        ("/etc/localtime", "tz='/etc/localtime' is no time zone; "),
        ("Asia/\0", "tz='Asia/\\x00' is no time zone; "),
        ("qqqq" * 500, "tz='qqqq"),
    ],
    ids=lambda text: text[:20],
)
def test_an_unknown_zone_is_answered_with_similar_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match="is no time zone") as caught:
        read_zone(name)
    assert str(caught.value).startswith(message)


def test_an_offset_that_means_the_opposite_is_not_proposed() -> None:
    with pytest.raises(ValueError, match="tz='GMT\\+9' is no time zone") as caught:
        read_zone("GMT+9")
    assert "Etc/" not in str(caught.value)


def test_a_zone_that_is_no_string_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="tz=9 is a int; write a zone's name such as tz='Asia/Tokyo'"):
        read_zone(9)  # type: ignore[arg-type]


def in_a_fresh_process(script: str, **environ: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environ,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_where_no_zones_are_installed_the_error_says_what_to_install() -> None:
    said = in_a_fresh_process(
        "import sys\n"
        "sys.modules['tzdata'] = None  # as if it were not installed\n"
        "from farebox._windows import read_zone, window_at\n"
        "print(window_at('day', read_zone('UTC'), 0))\n"
        "try:\n"
        "    read_zone('Asia/Tokyo')\n"
        "except ValueError as error:\n"
        "    print(error)\n",
        PYTHONTZPATH="",
    )
    assert said.splitlines() == [
        "Window(starts_at=0, ends_at=86400)",
        (
            "tz='Asia/Tokyo' is unknown, because no time zones are installed here; "
            "write: pip install tzdata, or leave tz out for UTC"
        ),
    ]


def test_zone_tables_are_not_loaded_for_utc() -> None:
    said = in_a_fresh_process(
        "import sys\n"
        "from farebox._windows import WindowFinder, read_zone\n"
        "WindowFinder('month', read_zone('UTC')).at(0)\n"
        "print('zoneinfo' in sys.modules)\n"
    )
    assert said.split() == ["False"]
