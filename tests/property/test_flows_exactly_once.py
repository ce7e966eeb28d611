"""Any stream, any cut into batches, any crashes: the output equals the batch output."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.flows import aggregate as agg
from millstream.flows.report import RunReport
from millstream.flows.windows import tumbling
from millstream.testing.flows_suite import LocalWorld, in_order
from tests.flows_kit import CRASHES, crash_each
from tests.property.windowed_events import EVENTS, SCHEMA, flow_of, rows_of


# event time    0         5         10        15
# windows       |         |         |         |
# came          1    3      2  5        4  6             up to ten minutes out of order
# micro-batches 1 2 ╎ 3 4 5 ╎ 6                          cut anywhere
# crashes            ╳    ╳                              before or behind any commit
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
