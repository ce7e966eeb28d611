"""Each kind of window, event by event. The timelines show minutes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.report import Progress
from millstream.flows.windows import Windows, calendar, hopping, session, sliding, tumbling
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import LocalWorld, at


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        world.topic("events", {"k": str, "n": int, "at": Timestamp})
        yield world


def append(world: LocalWorld, *minutes: float, key: str = "a") -> None:
    world.append("events", [{"k": key, "n": 1, "at": at(minute)} for minute in minutes])


def counts(world: LocalWorld, windows: Windows, *, late: str = "0s") -> Flow:
    windowed = world.read("events").window(windows, on="at", late=late)
    return windowed.group_by("k").agg(n=agg.count()).write("out")


def minutes_of(rows: list[dict[str, Any]]) -> list[tuple[float, float, int]]:
    """Return the start, the end and the count of windows, in minutes."""
    return sorted(
        (
            (row["window_start"] - at(0)).total_seconds() / 60,
            (row["window_end"] - at(0)).total_seconds() / 60,
            row["n"],
        )
        for row in rows
    )


def streamed(world: LocalWorld, flow: Flow) -> list[tuple[float, float, int]]:
    """Return the windows that are closed, once what is there was read event by event; open ones stay open."""
    stop = AfterEvents(len(world.events("events")))
    flow.stream(stop=stop, progress=stop.progress, batch_events=1)
    return minutes_of(world.events("out"))


class AfterEvents:
    """Stops a stream once it has read so many events."""

    def __init__(self, events: int) -> None:
        self.events = self.left = events

    def is_set(self) -> bool:
        return self.left <= 0

    def progress(self, progress: Progress) -> None:
        self.left = self.events - progress.rows_done


def test_hopping_windows_overlap(world: LocalWorld) -> None:
    #   minute   0         10        20        30
    #            |    first          |
    #                      |     second        |
    #   events      4      12       19     25: closes the first only
    append(world, 4, 12, 19, 25)
    flow = counts(world, hopping("20m", every="10m"))
    assert streamed(world, flow) == [(-10, 10, 1), (0, 20, 3)]
    flow.stream(until="end")
    assert minutes_of(world.events("out")) == [(-10, 10, 1), (0, 20, 3), (10, 30, 3), (20, 40, 1)]


def test_an_event_that_is_late_for_one_window_still_counts_in_the_next(world: LocalWorld) -> None:
    #   minute   0         10        20        30
    #            |    first          |
    #                      |     second        |
    #   events   5              21: closes the first | 15 is too late for it, and in time for the second
    append(world, 5, 21, 15)
    flow = counts(world, hopping("20m", every="10m"))
    report = flow.stream(until="end", batch_events=1)
    assert report.late == 0
    assert minutes_of(world.events("out")) == [(-10, 10, 1), (0, 20, 1), (10, 30, 2), (20, 40, 1)]


def test_hops_that_do_not_divide_the_size(world: LocalWorld) -> None:
    #   minute   0    3    6    9   12
    #            |    7     |              [0, 7)
    #                 |    7     |         [3, 10)
    #   event              6.5             in both, and in no other
    append(world, 6.5)
    counts(world, hopping("7m", every="3m")).stream(until="end")
    assert minutes_of(world.events("out")) == [(0, 7, 1), (3, 10, 1), (6, 13, 1)]


def test_a_session_lasts_as_long_as_no_gap_is_too_long(world: LocalWorld) -> None:
    #   minute   0    5    10   15   20
    #   events   0  3    7           17 18
    #            |—session——|+5      |——|+5
    append(world, 0, 3, 7, 17, 18)
    flow = counts(world, session("5m"))
    assert streamed(world, flow) == [(0, 12, 3)]
    flow.stream(until="end")
    assert minutes_of(world.events("out")) == [(0, 12, 3), (17, 23, 2)]


def test_a_gap_just_as_long_ends_a_session(world: LocalWorld) -> None:
    #   minute   0    5    9    14
    #   events   0    5    9
    #            |——+5|                [0, 5): the event at 5 is just too late for it
    #                 |————|——+5|      [5, 14)
    append(world, 0, 5, 9)
    counts(world, session("5m")).stream(until="end")
    assert minutes_of(world.events("out")) == [(0, 5, 1), (5, 14, 2)]


def test_an_event_in_between_makes_one_session_of_two(world: LocalWorld) -> None:
    #   minute   0    5    10
    #   events   0         8 | 4 comes last: it is less than 5 minutes from both
    append(world, 0, 8, 4)
    flow = counts(world, session("5m"), late="10m")
    flow.stream(until="end", batch_events=1)
    assert minutes_of(world.events("out")) == [(0, 13, 3)]


def test_sessions_of_one_key_know_nothing_of_another(world: LocalWorld) -> None:
    #   minute   0    3    6    8    11
    #   of a     0         6
    #            |——+5|    |——+5————|     two: what b has between them is none of theirs
    #   of b          3
    #                 |——+5——|
    append(world, 0, 6)
    append(world, 3, key="b")
    counts(world, session("5m"), late="5m").stream(until="end")
    assert minutes_of(world.events("out")) == [(0, 5, 1), (3, 8, 1), (6, 11, 1)]


def test_a_sliding_window_looks_back_from_each_time(world: LocalWorld) -> None:
    #   minute   0    5    10   15
    #   events   0  3 (3)    10    15
    #            ]                       1
    #            ———]                    3: both at minute 3 see each other, and the one at 0
    #                ————————]           3: (0, 10] does not hold the one at 0
    append(world, 0, 3, 3, 10, 15)
    flow = counts(world, sliding("10m"))
    assert streamed(world, flow) == [(-10, 0, 1), (-7, 3, 3), (0, 10, 3)]
    flow.stream(until="end")
    assert minutes_of(world.events("out")) == [(-10, 0, 1), (-7, 3, 3), (0, 10, 3), (5, 15, 2)]


def test_a_sliding_window_remembers_what_it_has_given(world: LocalWorld) -> None:
    #   minute   -10      -6  -4        0    4    6
    #   run 1                           0    4            (-10, 0] and (-6, 4]
    #   run 2                                     6       (-4, 6], in which the first two are seen again
    #
    # The events of the first run are still seen from those of the second, and give nothing again.
    flow = counts(world, sliding("10m"))
    append(world, 0, 4)
    flow.stream(until="end")
    append(world, 6)
    flow.stream(until="end")
    assert minutes_of(world.events("out")) == [(-10, 0, 1), (-6, 4, 2), (-4, 6, 3)]


def in_utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("unit", "zone", "event", "start", "end"),
    [
        # Summer time begins on 29 March 2026 in Berlin: that day has 23 hours, and its end is at 22:00 UTC.
        ("day", "Europe/Berlin", "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00"),
        ("day", "Europe/Berlin", "2026-10-25T22:59", "2026-10-24T22:00", "2026-10-25T23:00"),
        # The hour from 2 to 3 comes twice on 25 October: at 0:00 and at 1:00 UTC.
        ("hour", "Europe/Berlin", "2026-10-25T00:30", "2026-10-25T00:00", "2026-10-25T01:00"),
        ("hour", "Europe/Berlin", "2026-10-25T01:30", "2026-10-25T01:00", "2026-10-25T02:00"),
        ("hour", "Asia/Kathmandu", "2026-01-01T00:20", "2026-01-01T00:15", "2026-01-01T01:15"),
        # In Beirut the clocks leap from midnight to 1:00: the day begins then.
        ("day", "Asia/Beirut", "2026-03-29T12:00", "2026-03-28T22:00", "2026-03-29T21:00"),
        ("day", "Asia/Beirut", "2026-03-28T12:00", "2026-03-27T22:00", "2026-03-28T22:00"),
        ("week", "UTC", "2026-01-01T00:00", "2025-12-29T00:00", "2026-01-05T00:00"),
        ("month", "America/New_York", "2026-03-01T04:59", "2026-02-01T05:00", "2026-03-01T05:00"),
        ("quarter", "UTC", "2026-05-31T00:00", "2026-04-01T00:00", "2026-07-01T00:00"),
        ("year", "Europe/Berlin", "2024-12-31T23:00", "2024-12-31T23:00", "2025-12-31T23:00"),
        ("month", "UTC", "1969-12-31T23:59", "1969-12-01T00:00", "1970-01-01T00:00"),
    ],
)
def test_windows_of_the_calendar(
    world: LocalWorld, unit: str, zone: str, event: str, start: str, end: str
) -> None:
    #   clocks in Berlin   0:00  1:00 │ 3:00  4:00 … 23:00  24:00      29 March 2026
    #   UTC               23:00  0:00   1:00  2:00 … 21:00  22:00
    #   day                 |———————— 23 hours ——————————————|
    world.append("events", [{"k": "a", "n": 1, "at": in_utc(event)}])
    counts(world, calendar(unit, tz=zone)).stream(until="end")
    [row] = world.events("out")
    assert (row["window_start"], row["window_end"]) == (in_utc(start), in_utc(end))


def test_a_window_of_windows_waits_for_a_session_that_is_open(world: LocalWorld) -> None:
    #   minute     0         10        20        30        40
    #   sessions     5 8 11 14 17 20 23 26 29 32 |+5        ————50
    #   windows    |  by the start of the session  |
    #
    # The session that begins at 5 is open until 37. The first twenty minutes may not be closed before it.
    append(world, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 50)
    windowed = world.read("events").window(session("5m"), on="at").group_by("k")
    sessions = windowed.agg(n=agg.count()).select("n", at=col("window_start"))
    flow = sessions.window(tumbling("20m"), on="at").agg(n=agg.sum("n")).write("out")
    assert streamed(world, flow) == [(0, 20, 10)]
    report = flow.stream(until="end")
    assert report.late == 0
    assert minutes_of(world.events("out")) == [(0, 20, 10), (40, 60, 1)]


def test_after_an_end_windows_of_windows_are_closed_too(world: LocalWorld) -> None:
    #   minute     0    10   20   30 …… 60
    #   run 1         5                       its end closes [0, 10), and with it the hour
    #   run 2                  25             [20, 30) is counted, and comes too late for that hour
    windowed = world.read("events").window(tumbling("10m"), on="at")
    tens = windowed.agg(n=agg.count()).select("n", at=col("window_end"))
    flow = tens.window(tumbling("1h"), on="at").agg(n=agg.sum("n")).write("out")
    append(world, 5)
    flow.stream(until="end")
    append(world, 25)
    report = flow.stream(until="end")
    assert report.late == 1
    assert minutes_of(world.events("out")) == [(0, 60, 1)]


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (lambda w: hopping("10m", every="20m"), "in none at times"),
        (lambda w: hopping("0s", every="20m"), "holds nothing"),
        (lambda w: session("0s"), "holds nothing"),
        (lambda w: sliding("0s"), "holds nothing"),
        (lambda w: calendar("fortnight"), "no calendar window"),
        (lambda w: calendar("day", tz="Europe/Atlantis"), "no time zone"),
        (
            lambda w: (
                w.read("events")
                .window(tumbling("10m"), on="at")
                .agg(n=agg.count(), last=agg.max("at"))
                .window(tumbling("1h"), on="last")
                .agg(n=agg.sum("n"))
                .write("out")
                .stream(until="end")
            ),
            "already",
        ),
        (
            lambda w: (
                w.read("events")
                .window(tumbling("10m"), on="at")
                .agg(n=agg.count(), last=agg.max("at"))
                .select("n", "last")
                .window(tumbling("1h"), on="last")
                .agg(n=agg.sum("n"))
                .write("out")
                .stream(until="end")
            ),
            "does not say what can still come",
        ),
        (
            lambda w: (
                w.read("events")
                .window(tumbling("10m"), on="at")
                .agg(n=agg.count())
                .select("n", at=col("window_end"))
                .window(tumbling("1h"), on="at", late="5m")
                .agg(n=agg.sum("n"))
                .write("out")
                .stream(until="end")
            ),
            "only events of the source can be late",
        ),
    ],
)
def test_what_cannot_be_is_refused(world: LocalWorld, plan: Any, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        plan(world)
