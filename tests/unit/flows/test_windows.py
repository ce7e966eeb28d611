"""Tumbling windows: which one an event belongs to."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import pytest

from millstream.flows.windows import Tumbling, calendar, count_window, exact_duration, tumbling
from millstream.primitives.errors import ConfigurationError, PlanError


@pytest.mark.parametrize(
    ("time_us", "start_us"), [(0, 0), (9, 0), (10, 10), (-1, -10), (-10, -10), (-11, -20)]
)
def test_a_window_holds_its_start_and_not_its_end(time_us: int, start_us: int):
    #   time   -20       -10        0        10        20
    #          |  window  |  window |  window |  window |
    #              -11     -10  -1   0     9   10
    windows = Tumbling(10)
    assert windows.start_us(time_us) == start_us
    assert windows.end_us(time_us) == start_us + 10


@pytest.mark.parametrize("size", ["0s", "0ms"])
def test_a_window_without_a_size_is_refused(size: str):
    with pytest.raises(PlanError, match="holds nothing"):
        tumbling(size)


def test_a_size_that_is_no_duration_is_refused():
    with pytest.raises(ConfigurationError):
        tumbling("often")


@pytest.mark.parametrize("size", ["3", None, 2.5, 0, True])
def test_a_count_is_a_whole_number(size: Any):
    with pytest.raises(PlanError, match="whole number"):
        count_window(size)


def test_a_zone_may_be_given_as_such():
    assert calendar("day", tz=ZoneInfo("Europe/Berlin")) == calendar("day", tz="Europe/Berlin")


@pytest.mark.parametrize("zone", [None, 5, "", "Europe/Atlantis"])
def test_a_zone_that_there_is_not_is_refused(zone: Any):
    with pytest.raises(PlanError, match="no time zone"):
        calendar("day", tz=zone)


@pytest.mark.parametrize(
    ("us", "text"),
    [(0, "0h"), (3_600_000_000, "1h"), (5_400_000_000, "90m"), (1_500_000, "1500ms"), (7, "7us")],
)
def test_durations_are_written_exactly(us: int, text: str):
    assert exact_duration(us) == text
