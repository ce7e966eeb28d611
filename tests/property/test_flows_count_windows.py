"""Count windows: as plain Python counts them, in any cut, on any partitions, after any crash."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.report import RunReport
from millstream.flows.windows import count_window, tumbling
from millstream.testing.flows_suite import LocalWorld, in_order
from tests.flows_kit import CRASHES, EVENTS, LATE_S, SCHEMA, Row, crash_each, rows_of

# event time    e   e e     e e   e e  ▶     size 3
# windows      |e   e e|   |e e   e|e       the last one is given at the end
# arrival       1   4 2     3 6   5 7        up to ten minutes out of order


def counted(flow: Flow, size: int, on: str | None, keys: tuple[str, ...]) -> Flow:
    late = f"{LATE_S}s" if on else "0s"
    grouped = flow.window(count_window(size), on=on, late=late).group_by(*keys)
    return grouped.agg(rows=agg.count(), total=agg.sum("n"), all=agg.collect("n"))


def by_hand(rows: list[Row], size: int, on: str | None, keys: tuple[str, ...]) -> list[Row]:
    """Return what plain Python makes of rows of one partition."""
    ordered = sorted(rows, key=lambda row: row["at"]) if on else rows  # type: ignore[arg-type, return-value]
    of_key: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in ordered:
        of_key[tuple(row[key] for key in keys)].append(row)
    found: list[Row] = []
    for key, same in of_key.items():
        for start in range(0, len(same), size):
            part = same[start : start + size]
            numbers: list[Any] = sorted(row["n"] for row in part if row["n"] is not None)  # type: ignore[type-var]
            bounds: Row = {"start": part[0]["at"], "end": part[-1]["at"]} if on else {}
            found.append(
                {
                    **bounds,
                    **dict(zip(keys, key, strict=True)),
                    "rows": len(part),
                    "total": sum(numbers) if numbers else None,
                    "all": numbers,
                }
            )
    return found


@pytest.mark.parametrize("on", ["at", None])
@settings(max_examples=25)
@given(
    events=EVENTS,
    size=st.integers(1, 6),
    is_keyed=st.booleans(),
    partitions=st.integers(1, 3),
    batch_events=st.integers(1, 40),
    crashes=CRASHES,
)
def test_any_cut_and_any_crash(
    on: str | None,
    events: list,
    size: int,
    is_keyed: bool,
    partitions: int,
    batch_events: int,
    crashes: list[tuple[str, int]],
) -> None:
    rows = rows_of(events)
    keys: tuple[str, ...] = ("k",) if is_keyed else ()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.mill"
        with LocalWorld(path) as world:
            world.topic("events", SCHEMA, key="k", partitions=partitions if is_keyed else 1)
            world.append("events", rows)

        def stream(world: LocalWorld) -> RunReport:
            flow = counted(world.read("events"), size, on, keys).write("out")
            return flow.stream(until="end", batch_events=batch_events)

        crash_each(path, crashes, stream)
        with LocalWorld(path) as world:
            report = stream(world)
            assert report.late == 0
            expected = in_order(by_hand(rows, size, on, keys))
            batch = counted(world.read("events"), size, on, keys).collect().to_pylist()
            assert in_order(batch) == expected
            assert in_order(world.events("out")) == expected


def behind_windows(flow: Flow) -> Flow:
    hits = flow.window(tumbling("5m"), on="at", late=f"{LATE_S}s").group_by("k").agg(n=agg.count())
    named = hits.select("k", "n", at=col("window_end"))
    return named.window(count_window(3), on="at").group_by("k").agg(n=agg.sum("n"))


@settings(max_examples=20)
@given(
    events=EVENTS,
    partitions=st.integers(1, 3),
    batch_events=st.integers(1, 40),
    crashes=CRASHES,
)
def test_behind_other_windows(
    events: list,
    partitions: int,
    batch_events: int,
    crashes: list[tuple[str, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.mill"
        with LocalWorld(path) as world:
            world.topic("events", SCHEMA, key="k", partitions=partitions)
            world.append("events", rows_of(events))

        def stream(world: LocalWorld) -> RunReport:
            return (
                behind_windows(world.read("events"))
                .write("out")
                .stream(until="end", batch_events=batch_events)
            )

        crash_each(path, crashes, stream)
        with LocalWorld(path) as world:
            stream(world)
            batch = behind_windows(world.read("events")).collect().to_pylist()
            assert in_order(world.events("out")) == in_order(batch)
