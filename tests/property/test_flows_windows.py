"""Every kind of window, and aggregations of aggregations: as plain Python counts them, in any cut, after any crash."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.report import RunReport
from millstream.flows.windows import (
    Calendar,
    Hopping,
    Session,
    Sliding,
    Tumbling,
    Windows,
    calendar,
    hopping,
    session,
    sliding,
    tumbling,
)
from millstream.testing.flows_suite import EPOCH, LocalWorld, in_order
from tests.flows_kit import CRASHES, EVENTS, LATE_S, SCHEMA, Row, crash_each, rows_of

# minute       0    3    6    9    12   15         events on full minutes, so on the edges of windows
# events of k  e    e e       e    e
# tumbling     |    5   |         |         |
# hopping      |    10            |                one more every four minutes
# session      |———————+3|    |—————————+3|
# sliding      ———— 6 ——]  ends at each event
KINDS = {
    "tumbling": tumbling("5m"),
    "hopping": hopping("10m", every="4m"),
    "hopping, whole": hopping("15m", every="5m"),
    "calendar": calendar("day", tz="Asia/Kathmandu"),
    "session": session("3m"),
    "sliding": sliding("6m"),
}
spread = agg.aggregator(
    init=list,
    add=lambda state, value: merged_bounds(state, [value, value]),
    merge=lambda one, other: merged_bounds(one, other),
    finish=lambda state: state[1] - state[0] if state else None,
    returns=int,
    name="spread",
)
Bounds = tuple[datetime, datetime]


def merged_bounds(one: list[int], other: list[int]) -> list[int]:
    both = [*one, *other]
    return [min(both), max(both)] if both else []


def flow_of(world: LocalWorld, windows: Windows, **more: agg.Aggregate) -> Flow:
    windowed = world.read("events").window(windows, on="at", late=f"{LATE_S}s", keep_late=True)
    return windowed.group_by("k").agg(
        rows=agg.count(),
        total=agg.sum("n"),
        last=agg.last("n", by="at"),
        mean=agg.mean("n"),
        all=agg.collect("n", by="at"),
        most=agg.top_k("n", 2),
        spread=spread("n"),
        **more,
    )


def sketched(world: LocalWorld, windows: Windows) -> Flow:
    """What plain Python does not count: a sketch is compared with itself, in another cut."""
    about, median = agg.approx_n_unique("n", error=0.25), agg.approx_quantile("n", 0.5)
    return flow_of(world, windows, about=about, median=median)


def chained(world: LocalWorld, windows: Windows) -> Flow:
    """What each key has in windows, by windows of the windows."""
    named = flow_of(world, windows).select(
        "k", "rows", "total", at=col("window_start"), until=col("window_end")
    )
    by_start = named.window(tumbling("20m"), on="at").group_by("k")
    inner = by_start.agg(rows=agg.sum("rows"), windows=agg.count(), most=agg.max("total"))
    outer = inner.select("rows", "windows", at=col("window_end")).window(
        hopping("1h", every="20m"), on="at"
    )
    return outer.agg(rows=agg.sum("rows"), windows=agg.sum("windows"))


def bounds_of(windows: Windows, row: Row, same_key: list[Row]) -> list[Bounds]:
    """Return the windows that a row is in, among the rows of its key; those that touch no row are not asked for."""
    at = row["at"]
    assert isinstance(at, datetime)
    times = sorted({other["at"] for other in same_key})
    match windows:
        case Tumbling(size_us=size_us) | Hopping(size_us=size_us):
            every = timedelta(
                microseconds=windows.every_us if isinstance(windows, Hopping) else size_us
            )
            size = timedelta(microseconds=size_us)
            start = EPOCH + (at - EPOCH) // every * every
            found = []
            while start + size > at:
                found.append((start, start + size))
                start -= every
            return found
        case Calendar(zone=zone):
            local = at.astimezone(ZoneInfo(zone))
            day = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
            after = (day + timedelta(days=1)).replace(fold=0)
            return [(day.astimezone(UTC), after.astimezone(UTC))]
        case Session(gap_us=gap_us):
            gap = timedelta(microseconds=gap_us)
            first = last = at
            for time in reversed([t for t in times if t < at]):
                if first - time >= gap:
                    break
                first = time
            for time in [t for t in times if t > at]:
                if time - last >= gap:
                    break
                last = time
            return [(first, last + gap)]
        case Sliding(size_us=size_us):
            size = timedelta(microseconds=size_us)
            return [(end - size, end) for end in times if end - size < at <= end]
    raise AssertionError(windows)


def counted(windows: Windows, rows: list[Row]) -> list[Row]:
    by_key: dict[object, list[Row]] = defaultdict(list)
    for row in rows:
        by_key[row["k"]].append(row)
    groups: dict[tuple[Bounds, object], list[Row]] = defaultdict(list)
    for key, same in by_key.items():
        for row in same:
            for bounds in bounds_of(windows, row, same):
                groups[bounds, key].append(row)
    return [_group(bounds, key, group) for (bounds, key), group in groups.items()]


def place(row: Row) -> tuple[object, int]:
    return row["at"], -101 if row["n"] is None else row["n"]


def _group(bounds: Bounds, key: object, group: list[Row]) -> Row:
    numbers = [row["n"] for row in group if row["n"] is not None]
    latest = max(row["at"] for row in group)
    lasts = [row["n"] for row in group if row["at"] == latest and row["n"] is not None]
    return {
        "window_start": bounds[0],
        "window_end": bounds[1],
        "k": key,
        "rows": len(group),
        "total": sum(numbers) if numbers else None,
        "last": max(lasts) if lasts else None,
        "mean": sum(numbers) / len(numbers) if numbers else None,
        "all": [row["n"] for row in sorted(group, key=place) if row["n"] is not None],
        "most": sorted(numbers, reverse=True)[:2],
        "spread": max(numbers) - min(numbers) if numbers else None,
    }


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(events=EVENTS)
def test_a_batch_gives_what_plain_python_counts(kind: str, events: list) -> None:
    rows = rows_of(events)
    with tempfile.TemporaryDirectory() as folder, LocalWorld(Path(folder) / "s.mill") as world:
        world.topic("events", SCHEMA, key="k")
        if rows:
            world.append("events", rows)
        given_rows = flow_of(world, KINDS[kind]).collect().to_pylist()
    assert in_order(given_rows) == in_order(counted(KINDS[kind], rows))


def streams_as_a_batch(
    make: Callable[[LocalWorld], Flow],
    rows: list[Row],
    *,
    partitions: int,
    appends: int,
    batch_events: int,
    crashes: list[tuple[str, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.mill"
        with LocalWorld(path) as world:
            world.topic("events", SCHEMA, key="k", partitions=partitions)
            for start in range(0, len(rows), appends):
                world.append("events", rows[start : start + appends])

        def stream(world: LocalWorld) -> RunReport:
            return make(world).write("out").stream(until="end", batch_events=batch_events)

        crash_each(path, crashes, stream)
        with LocalWorld(path) as world:
            report = stream(world)
            assert report.late == 0
            assert in_order(world.events("out")) == in_order(make(world).collect().to_pylist())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(
    events=EVENTS,
    partitions=st.integers(1, 3),
    appends=st.integers(1, 20),
    batch_events=st.integers(1, 40),
    crashes=CRASHES,
)
def test_any_cut_and_any_crash(
    kind: str,
    events: list,
    partitions: int,
    appends: int,
    batch_events: int,
    crashes: list[tuple[str, int]],
) -> None:
    streams_as_a_batch(
        lambda world: sketched(world, KINDS[kind]),
        rows_of(events),
        partitions=partitions,
        appends=appends,
        batch_events=batch_events,
        crashes=crashes,
    )


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(
    events=EVENTS,
    partitions=st.integers(1, 3),
    batch_events=st.integers(1, 40),
    crashes=CRASHES,
)
def test_an_aggregation_of_an_aggregation_of_an_aggregation(
    kind: str, events: list, partitions: int, batch_events: int, crashes: list[tuple[str, int]]
) -> None:
    streams_as_a_batch(
        lambda world: chained(world, KINDS[kind]),
        rows_of(events),
        partitions=partitions,
        appends=7,
        batch_events=batch_events,
        crashes=crashes,
    )


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(
    events=EVENTS,
    cuts=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    late_s=st.sampled_from([0, 60, 120, 300]),
)
def test_which_events_are_late_depends_on_no_cut(
    kind: str, events: list, cuts: tuple[int, int], late_s: int
) -> None:
    rows = rows_of(events)
    results = []
    for batch_events in cuts:
        with tempfile.TemporaryDirectory() as folder, LocalWorld(Path(folder) / "s") as world:
            world.topic("events", SCHEMA)
            if rows:
                world.append("events", rows)
            windowed = world.read("events").window(
                KINDS[kind], on="at", late=f"{late_s}s", keep_late=True
            )
            flow = windowed.group_by("k").agg(rows=agg.count()).write("out")
            report = flow.stream(until="end", batch_events=batch_events)
            assert report.late == len(world.events("out.late"))
            results.append((in_order(world.events("out")), in_order(world.events("out.late"))))
    assert results[0] == results[1]
