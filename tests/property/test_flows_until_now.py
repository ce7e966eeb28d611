"""Runs that end with what is there, one after the other: together one stream that never stopped.

appended    ──••───•••────•──•••──▶
runs             now  now    now  end        rows come when the open stream would give them; the end gives the rest
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.flows.report import RunReport
from millstream.testing.flows_suite import EPOCH, LocalWorld, in_order
from tests.flows_kit import CRASHES, crash_each
from tests.property.windowed_events import EVENTS, SCHEMA, flow_of, rows_of

FIRST = {"k": None, "n": 0, "at": EPOCH}
"""Before all others."""


class StopWhenRead:
    """Stops an open stream once it has looked for more and found nothing."""

    def __init__(self, rows: int) -> None:
        self.left = rows
        self.stop = threading.Event()
        if not rows:
            self.stop.set()

    def __call__(self, progress: object) -> None:
        if progress.rows_done == self.left:  # type: ignore[attr-defined]
            self.stop.set()


@settings(max_examples=40)
@given(
    events=EVENTS,
    partitions=st.integers(1, 3),
    appends=st.integers(1, 25),
    batch_events=st.integers(1, 40),
    crashes=CRASHES,
    data=st.data(),
)
def test_any_number_of_runs_with_crashes_between_are_one_stream(
    events: list,
    partitions: int,
    appends: int,
    batch_events: int,
    crashes: list[tuple[str, int]],
    data: st.DataObject,
) -> None:
    rows = rows_of(events)
    parts = [rows[start : start + appends] for start in range(0, len(rows), appends)]
    crash_at = data.draw(st.integers(0, max(len(parts) - 1, 0)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.mill"
        with LocalWorld(path) as world:
            world.topic("events", SCHEMA, key="k", partitions=partitions)
            for partition in range(partitions):
                # One without an event holds nobody up, so what is closed would hang on when its first one comes.
                world.append("events", [FIRST], partition=partition)

        def now(world: LocalWorld) -> RunReport:
            return flow_of(world).write("out").stream(until="now", batch_events=batch_events)

        for number, part in enumerate(parts):
            with LocalWorld(path) as world:
                world.append("events", part)
            if number == crash_at:
                crash_each(path, crashes, now)
            with LocalWorld(path) as world:
                now(world)
                assert now(world).rows_in == 0
        with LocalWorld(path) as world:
            so_far = in_order(world.events("out")) if parts else []
            until = StopWhenRead(len(rows) + partitions)
            flow_of(world).named("whole").write("whole").stream(
                batch_events=batch_events, stop=until.stop, progress=until
            )
            if parts:
                assert so_far == in_order(world.events("whole"))
            report = flow_of(world).write("out").stream(until="end")
            assert report.late == 0
            expected = in_order(flow_of(world).collect().to_pylist())
            assert in_order(world.events("out")) == expected
