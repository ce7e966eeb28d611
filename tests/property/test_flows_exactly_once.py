"""Any stream, any cut into batches, any crashes: the output equals the batch output."""

from __future__ import annotations

import math
import tempfile
from datetime import timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.flows import aggregate as agg
from millstream.flows.flow import Flow
from millstream.flows.report import RunReport
from millstream.flows.windows import tumbling
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import EPOCH, LocalWorld, in_order
from tests.flows_kit import CRASHES, crash_each

SCHEMA = {"k": str | None, "n": int | None, "f": float | None, "at": Timestamp}
LATE_S = 600

# Event time goes on by up to two minutes an event, and each comes up to ten minutes out of order.
EVENTS = st.lists(
    st.tuples(
        st.sampled_from([None, "a", "b"]),
        st.none() | st.integers(-(2**40), 2**40),
        st.none() | st.sampled_from([0.0, -0.5, 1.25, 1e6, math.inf, math.nan]),
        st.integers(0, 120),
        st.integers(0, LATE_S),
    ),
    max_size=60,
)


def rows_of(events: list[tuple[str | None, int | None, float | None, int, int]]) -> list[dict]:
    rows, second = [], 0
    for k, n, f, step_s, back_s in events:
        second += step_s
        when = EPOCH + timedelta(seconds=LATE_S + second - back_s)
        rows.append({"k": k, "n": n, "f": f, "at": when})
    return rows


def flow_of(world: LocalWorld) -> Flow:
    windowed = world.read("events").window(tumbling("5m"), on="at", late=f"{LATE_S}s")
    return windowed.group_by("k").agg(
        rows=agg.count(),
        total=agg.sum("n"),
        mean=agg.mean("n"),
        low=agg.min("f"),
        high=agg.max("f"),
        q=agg.quantile("n", 0.75),
        u=agg.n_unique("f"),
        last=agg.last("n", by="at"),
        first=agg.first("f", by="at"),
    )


@settings(max_examples=40)
@given(
    events=EVENTS,
    partitions=st.integers(1, 3),
    appends=st.integers(1, 20),
    batch_events=st.integers(1, 40),
    crashes=CRASHES,
)
def test_any_stream_any_cut_any_crash(
    events: list, partitions: int, appends: int, batch_events: int, crashes: list[tuple[str, int]]
) -> None:
    rows = rows_of(events)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.mill"
        with LocalWorld(path) as world:
            world.topic("events", SCHEMA, key="k", partitions=partitions)
            for start in range(0, len(rows), appends):
                world.append("events", rows[start : start + appends])

        def stream(world: LocalWorld) -> RunReport:
            return flow_of(world).write("out").stream(until="end", batch_events=batch_events)

        crash_each(path, crashes, stream)
        with LocalWorld(path) as world:
            report = stream(world)
            assert report.late == 0
            expected = in_order(flow_of(world).collect().to_pylist())
            assert in_order(world.events("out")) == expected


@settings(max_examples=30)
@given(
    events=EVENTS,
    cuts=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    late_s=st.integers(0, 400),
)
def test_which_events_are_late_does_not_depend_on_the_cut(
    events: list, cuts: tuple[int, int], late_s: int
) -> None:
    rows = rows_of(events)
    results = []
    for batch_events in cuts:
        with tempfile.TemporaryDirectory() as folder, LocalWorld(Path(folder) / "s") as world:
            world.topic("events", SCHEMA)
            if rows:
                world.append("events", rows)
            windowed = world.read("events").window(
                tumbling("5m"), on="at", late=f"{late_s}s", keep_late=True
            )
            flow = windowed.agg(rows=agg.count()).write("out")
            report = flow.stream(until="end", batch_events=batch_events)
            kept = sum(row["rows"] for row in world.events("out"))
            assert kept + report.late == len(rows)
            results.append((in_order(world.events("out")), in_order(world.events("out.late"))))
    assert results[0] == results[1]
