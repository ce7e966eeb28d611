"""Early rows: each is what a batch gives of the events up to there, in any cut; closed rows are those of a batch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.flows import aggregate as agg
from millstream.flows.emission import early
from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.report import RunReport
from millstream.flows.windows import Windows, calendar, hopping, session, tumbling
from millstream.primitives.schema import to_arrow_schema
from millstream.testing.flows_suite import LocalWorld, in_order
from tests.flows_kit import CRASHES, EVENTS, LATE_S, SCHEMA, Row, StopAfter, crash_each, rows_of

# event time     0         5         10
# windows        |         |         |
# micro-batches  e e   ╎ e    e ╎  e     e ╎ end         cut anywhere
# rows               r          r R        r    R        r: of what had come by then; R: closed, as in a batch
KINDS = {
    "tumbling": tumbling("5m"),
    "hopping": hopping("10m", every="4m"),
    "calendar": calendar("hour", tz="Asia/Kathmandu"),
    "session": session("3m"),
}
SHAPES: dict[str, Callable[[Flow, Windows, Any], Flow]] = {
    "arrays": lambda flow, windows, emit: (
        flow.window(windows, on="at", late=f"{LATE_S}s", emit=emit)
        .group_by("k")
        .agg(rows=agg.count(), total=agg.sum("n"), least=agg.min("n"))
    ),
    "frames": lambda flow, windows, emit: (
        flow.window(windows, on="at", late=f"{LATE_S}s", emit=emit)
        .group_by("k", parity=col("n") % 2)
        .agg(rows=agg.count(), all=agg.collect("n", by="at"))
    ),
    "no keys": lambda flow, windows, emit: flow.window(
        windows, on="at", late=f"{LATE_S}s", emit=emit
    ).agg(rows=agg.count(), last=agg.last("n", by="at")),
}


def group(row: Row) -> tuple[object, ...]:
    """Return which window and keys a row of the output is of."""
    keys = ("window_start", "window_end", "k", "parity")
    return tuple(str(row.get(name)) for name in keys)


def until(rows: list[Row]) -> datetime:
    """Return the watermark behind rows of one partition."""
    return max(row["at"] for row in rows) - timedelta(seconds=LATE_S)  # type: ignore[type-var, operator, return-value]


def of_batch(world: LocalWorld, rows: list[Row], shape: str, windows: Windows) -> list[Row]:
    """Return what a batch gives of rows: all of its windows count as closed."""
    table = pa.Table.from_pylist(rows, schema=to_arrow_schema(SCHEMA))
    return SHAPES[shape](world.table(table), windows, "update").collect().to_pylist()


def expected_updates(
    world: LocalWorld, rows: list[Row], cut: int, shape: str, windows: Windows
) -> list[Row]:
    """Return what a stream gives of micro-batches of ``cut`` rows, by a batch of each beginning of the stream."""
    given_rows: list[Row] = []
    shown: dict[tuple[object, ...], Row] = {}
    for end in range(cut, len(rows) + cut, cut):
        seen = rows[:end]
        closed_until = until(seen)
        before, shown = shown, {}
        for row in of_batch(world, seen, shape, windows):
            shown[group(row)] = row
            if row["window_end"] <= closed_until:  # type: ignore[operator]
                if not before.get(group(row), {}).get("closed"):
                    given_rows.append(row)
                row = {**row, "closed": True}
                shown[group(row)] = row
            elif _without(before.get(group(row))) != row:
                given_rows.append({**row, "window_closed": False})
    return given_rows


def _without(row: Row | None) -> Row | None:
    return None if row is None else {name: v for name, v in row.items() if name != "closed"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(events=EVENTS, cut=st.integers(1, 40))
def test_an_early_row_is_what_a_batch_gives_of_the_events_until_then(
    kind: str, shape: str, events: list, cut: int
) -> None:
    rows, windows = rows_of(events), KINDS[kind]
    with tempfile.TemporaryDirectory() as folder, LocalWorld(Path(folder) / "s.mill") as world:
        world.topic("events", SCHEMA)
        world.append("events", rows)
        flow = SHAPES[shape](world.read("events"), windows, "update").write("out")
        stop = StopAfter(-(-len(rows) // cut))
        flow.stream(batch_events=cut, stop=stop, progress=stop.progress)
        assert in_order(world.events("out")) == in_order(
            expected_updates(world, rows, cut, shape, windows)
        )


@pytest.mark.parametrize("emit", ["update", early("10s")], ids=["update", "early"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5)
@given(
    events=EVENTS,
    partitions=st.integers(1, 3),
    batch_events=st.integers(1, 40),
    crashes=CRASHES,
)
def test_closed_rows_are_those_of_a_batch(
    kind: str,
    shape: str,
    emit: Any,
    events: list,
    partitions: int,
    batch_events: int,
    crashes: list[tuple[str, int]],
) -> None:
    rows, windows = rows_of(events), KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.mill"
        with LocalWorld(path) as world:
            world.topic("events", SCHEMA, key="k", partitions=partitions)
            world.append("events", rows)

        def stream(world: LocalWorld) -> RunReport:
            flow = SHAPES[shape](world.read("events"), windows, emit).write("out")
            return flow.stream(until="end", batch_events=batch_events)

        crash_each(path, crashes, stream)
        with LocalWorld(path) as world:
            stream(world)
            out = world.events("out")
            closed = [row for row in out if row["window_closed"]]
            whole = SHAPES[shape](world.read("events"), windows, emit).collect().to_pylist()
            assert in_order(closed) == in_order(whole)
            # No early row behind the closed one of its group; and sessions only grow.
            done: set[tuple[object, ...]] = set()
            for row in out:
                assert group(row) not in done
                if row["window_closed"]:
                    done.add(group(row))
