"""The busiest day: which one it is, its flights as the picture needs them, and what there is to say about it."""

from __future__ import annotations

import calendar
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property

import polars as pl
import pyarrow as pa

from millstream.cli.flights.data import NEW_YORK

LATE_MINUTES = 15
"""From so many minutes on a flight counts as late, as in the official statistics."""
HOUR_FLIGHTS_MIN = 10
"""Fewer flights in an hour have no typical one."""
_TITLE_FLIGHTS_MIN = 20
"""An hour with fewer flights does not make the title."""
_TITLE_MINUTES_MIN = 10
_NOON = 12


@dataclass(frozen=True, slots=True)
class Flight:
    """One departure: minute of the day by New York's clocks as scheduled, and minutes late; None if cancelled."""

    minute: int
    delay: int | None
    name: str
    """For example ``UA 1545``."""
    origin: str
    dest: str

    @property
    def hour(self) -> int:
        """The hour of the schedule."""
        return self.minute // 60


@dataclass(frozen=True, slots=True)
class Hour:
    """The flights of an hour that left: how many, their quartiles in minutes, and which share was late."""

    hour: int
    flights: int
    low: float
    median: float
    high: float
    late: float


@dataclass(frozen=True)
class Day:
    """All flights of a day, by the schedule."""

    date: date
    flights: Sequence[Flight]
    of: int
    """Out of how many departures the day was chosen."""

    @cached_property
    def left(self) -> list[Flight]:
        """The flights that left."""
        return [flight for flight in self.flights if flight.delay is not None]

    @cached_property
    def cancelled(self) -> list[Flight]:
        """The flights that did not."""
        return [flight for flight in self.flights if flight.delay is None]

    @cached_property
    def hours(self) -> list[Hour]:
        """The hours with enough flights to speak of a typical one."""
        delays: dict[int, list[int]] = {}
        for flight in self.flights:
            if flight.delay is not None:
                delays.setdefault(flight.hour, []).append(flight.delay)
        return [
            _hour(hour, found)
            for hour, found in sorted(delays.items())
            if len(found) >= HOUR_FLIGHTS_MIN
        ]

    @property
    def finding(self) -> str:
        """What the day has to say, in one sentence that its figures bear out."""
        hours = [hour for hour in self.hours if hour.flights >= _TITLE_FLIGHTS_MIN]
        worst = max(hours, key=lambda hour: hour.median, default=None)
        if worst is not None and worst.median >= _TITLE_MINUTES_MIN:
            late = f"{worst.median:.0f} minutes late at {clock_hour(worst.hour)}"
            good = next((hour for hour in hours if hour.median <= 0), None)
            if good is not None and good.hour < worst.hour:
                return f"The typical flight left on time at {clock_hour(good.hour)} and {late}"
            return f"The typical flight left {late}"
        if not self.left:
            return "Not one flight left on this day"
        prompt = sum((flight.delay or 0) < LATE_MINUTES for flight in self.left) / len(self.left)
        return f"{prompt:.0%} of the flights left less than {LATE_MINUTES} minutes late"

    @property
    def words(self) -> str:
        """The date, with what is special about it."""
        day = self.date
        weekday, month = calendar.day_name[day.weekday()], calendar.month_name[day.month]
        plain = f"{weekday}, {day.day} {month} {day.year}"
        return f"{plain}, the day before Thanksgiving" if _is_thanksgiving_eve(day) else plain


def busiest_day(departures: pa.Table) -> Day:
    """Return the day of New York with the most scheduled departures, the first of equals; there is at least one."""
    frame = pl.DataFrame(pl.from_arrow(departures)).with_columns(
        local=pl.col("scheduled").dt.convert_time_zone(NEW_YORK)
    )
    frame = frame.with_columns(day=pl.col("local").dt.date())
    counted = frame.group_by("day").len().sort(["len", "day"], descending=[True, False])
    day: date = counted["day"][0]
    rows = frame.filter(pl.col("day") == day).sort("scheduled", "carrier", "flight", "origin")
    minute = pl.col("local").dt.hour().cast(pl.Int64) * 60 + pl.col("local").dt.minute()
    columns = rows.select(
        minute.alias("minute"), "dep_delay", "carrier", "flight", "origin", "dest"
    )
    flights = tuple(
        Flight(minute, delay, f"{carrier} {number}", origin, dest)
        for minute, delay, carrier, number, origin, dest in columns.iter_rows()
    )
    return Day(day, flights, frame.height)


def clock_hour(hour: int) -> str:
    """Return an hour as New Yorkers say it: ``6 am``, ``noon``, ``9 pm``."""
    names = {0: "midnight", _NOON: "noon", 24: "midnight"}
    return names.get(hour) or f"{(hour - 1) % _NOON + 1} {'am' if hour < _NOON else 'pm'}"


def _hour(hour: int, delays: list[int]) -> Hour:
    low, median, high = statistics.quantiles(delays, n=4, method="inclusive")
    late = sum(delay >= LATE_MINUTES for delay in delays) / len(delays)
    return Hour(hour, len(delays), low, median, high, late)


def _is_thanksgiving_eve(day: date) -> bool:
    """Thanksgiving is the fourth Thursday of November."""
    feast = day + timedelta(days=1)
    return feast.month == 11 and feast.weekday() == calendar.THURSDAY and 22 <= feast.day <= 28
