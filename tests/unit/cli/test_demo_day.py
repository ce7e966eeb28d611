"""The busiest day: which one it is, and that what is said about it is true."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest

from millstream.cli.flights.day import Day, Flight, busiest_day, clock_hour

DAY = date(2013, 11, 27)


def flights(hour: int, *delays: int | None) -> list[Flight]:
    return [Flight(hour * 60, delay, f"UA {hour}", "EWR", "SFO") for delay in delays]


def day(*groups: list[Flight]) -> Day:
    return Day(DAY, [flight for group in groups for flight in group], 1_000)


def departures(*scheduled: datetime) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "scheduled": scheduled,
            "dep_delay": [None, *range(1, len(scheduled))],
            "carrier": "B6",
            "flight": range(len(scheduled)),
            "origin": "JFK",
            "dest": "BOS",
        }
    )


def test_a_day_is_a_day_of_new_york() -> None:
    # By UTC the second of July has most; by New York's clocks two of these three left on the first.
    found = busiest_day(
        departures(
            datetime(2013, 7, 2, 3, 59, tzinfo=UTC),
            datetime(2013, 7, 2, 2, 0, tzinfo=UTC),
            datetime(2013, 7, 2, 4, 0, tzinfo=UTC),
        ).to_arrow()
    )
    assert found.date == date(2013, 7, 1)
    assert [(flight.minute, flight.delay) for flight in found.flights] == [
        (22 * 60, 1),
        (23 * 60 + 59, None),
    ]
    assert (len(found.left), len(found.cancelled), found.of) == (1, 1, 3)


def test_the_first_of_equal_days_is_taken() -> None:
    noon = [datetime(2013, 7, number, 16, tzinfo=UTC) for number in (3, 2, 4)]
    assert busiest_day(departures(*noon).to_arrow()).date == date(2013, 7, 2)


def test_an_hour_has_a_typical_flight_when_enough_left() -> None:
    found = day(flights(6, *range(-4, 7), None), flights(7, *[0] * 9)).hours
    assert [(hour.hour, hour.flights, hour.median, hour.late) for hour in found] == [(6, 11, 1, 0)]
    assert (found[0].low, found[0].high) == (-1.5, 3.5)


@pytest.mark.parametrize(
    ("groups", "finding"),
    [
        (
            [flights(6, *[-2] * 20), flights(21, *[27] * 20)],
            "The typical flight left on time at 6 am and 27 minutes late at 9 pm",
        ),
        (
            [flights(6, *[30] * 20), flights(21, *[-5] * 20)],
            "The typical flight left 30 minutes late at 6 am",
        ),
        (
            [flights(6, *[0] * 19, 15), flights(12, *[14] * 5)],
            "96% of the flights left less than 15 minutes late",
        ),
        ([flights(6, None)], "Not one flight left on this day"),
    ],
)
def test_the_title_says_what_the_figures_say(groups: list[list[Flight]], finding: str) -> None:
    assert day(*groups).finding == finding


@pytest.mark.parametrize(
    ("when", "words"),
    [
        (date(2013, 11, 27), "Wednesday, 27 November 2013, the day before Thanksgiving"),
        (date(2012, 11, 21), "Wednesday, 21 November 2012, the day before Thanksgiving"),
        (date(2013, 11, 20), "Wednesday, 20 November 2013"),
        (date(2013, 7, 1), "Monday, 1 July 2013"),
    ],
)
def test_the_date_in_words(when: date, words: str) -> None:
    assert Day(when, [], 0).words == words


def test_hours_in_words() -> None:
    words = [clock_hour(hour) for hour in (0, 1, 11, 12, 13, 23, 24)]
    assert words == ["midnight", "1 am", "11 am", "noon", "1 pm", "11 pm", "midnight"]
