from __future__ import annotations

from datetime import UTC, datetime

import pytest

from farebox.testing import FixedClock


def test_a_fixed_clock_stands_still_until_it_is_told_to_move() -> None:
    clock = FixedClock(100)
    assert (clock(), clock()) == (100.0, 100.0)
    assert clock.tick(0.5) == 100.5
    assert clock.tick(-1) == clock() == clock.now == 99.5


def test_a_fixed_clock_can_be_set_to_a_date() -> None:
    clock = FixedClock(datetime(2026, 3, 1, tzinfo=UTC))
    assert repr(clock) == "FixedClock(2026-03-01T00:00:00+00:00)"
    clock.now = datetime(1970, 1, 1, 0, 1, tzinfo=UTC)
    assert clock() == 60.0


def test_a_date_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        FixedClock(datetime(2026, 3, 1))  # noqa: DTZ001
