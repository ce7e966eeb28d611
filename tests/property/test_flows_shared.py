"""Any number of members, any crashes, a flow that was streamed whole before: the output equals the batch output."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.windows import session, sliding, tumbling
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import EPOCH, LocalWorld, in_order
from tests.flows_kit import CRASHES, StopAfter, crash_each
from tests.flows_members import together

SCHEMA = {"k": str, "n": int, "at": Timestamp}
EVENTS = st.lists(
    st.tuples(st.sampled_from("abcdefg"), st.integers(-9, 9), st.integers(0, 120)), max_size=50
)
LATE = "5m"


def rows_of(events: list[tuple[str, int, int]]) -> list[dict[str, Any]]:
    """Event time goes on, and every third event is up to five minutes behind."""
    rows, second = [], 600
    for at, (k, n, step_s) in enumerate(events):
        second += step_s
        back_s = 299 if at % 3 == 0 else 0
        rows.append({"k": k, "n": n, "at": EPOCH + timedelta(seconds=second - back_s)})
    return rows


def remember(event: dict[str, Any], key: Any) -> Iterator[dict[str, Any]]:
    key.state.append(event["n"])
    yield {"k": event["k"], "all": list(key.state)}


def windows(world: LocalWorld) -> Flow:
    return (
        world.read("events")
        .window(tumbling("5m"), on="at", late=LATE)
        .group_by("k")
        .agg(rows=agg.count(), total=agg.sum("n"), low=agg.min("n"))
    )


def sessions_of_sessions(world: LocalWorld) -> Flow:
    visits = (
        world.read("events")
        .select("n", "at", user=col("k"))
        .window(session("2m"), on="at", late=LATE)
        .group_by("user")
        .agg(rows=agg.count())
    )
    return (
        visits.select("user", "rows", ended=col("window_end"))
        .window(tumbling("1h"), on="ended")
        .group_by("user")
        .agg(visits=agg.count(), longest=agg.max("rows"))
    )


def slid(world: LocalWorld) -> Flow:
    windowed = world.read("events").window(sliding("3m"), on="at", late=LATE)
    return windowed.group_by("k").agg(total=agg.sum("n"))


def remembered(world: LocalWorld) -> Flow:
    keyed = world.read("events").key_by("k", time="at", late=LATE)
    return keyed.process(remember, {"k": str, "all": list[int]}, state=list[int])


def joined(world: LocalWorld) -> Flow:
    events = world.read("events")
    return events.select("k", "n", "at").join_interval(
        events.select("k", other=col("n"), then=col("at")),
        on="k",
        within=("-1m", "1m"),
        time=("at", "then"),
        late=LATE,
    )


def single_rows(world: LocalWorld) -> Flow:
    return world.read("events").select("k", double=col("n") * 2)


FLOWS = [windows, sessions_of_sessions, slid, remembered, joined, single_rows]


@settings(max_examples=60, deadline=None)
@given(
    events=EVENTS,
    which=st.sampled_from(FLOWS),
    partitions=st.integers(1, 4),
    batch_events=st.integers(1, 20),
    whole_batches=st.integers(0, 4),
    crashes=CRASHES,
    members=st.integers(1, 3),
)
def test_any_number_of_members_gives_the_batch_output(
    events: list[tuple[str, int, int]],
    which: Any,
    partitions: int,
    batch_events: int,
    whole_batches: int,
    crashes: list[tuple[str, int]],
    members: int,
) -> None:
    rows = rows_of(events)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.mill"
        with LocalWorld(path) as world:
            world.topic("events", SCHEMA, key="k", partitions=partitions)
            if rows:
                world.append("events", rows)

        def flow(world: LocalWorld) -> Flow:
            return which(world).write("out").named("flow")

        with LocalWorld(path) as world:
            if whole_batches and rows:
                # No more than there are: an open stream would wait for the next one.
                least = max(1, len(rows) // (batch_events + partitions))
                stop = StopAfter(min(whole_batches, least))
                flow(world).stream(batch_events=batch_events, stop=stop, progress=stop.progress)
        # A bounded run that is cut short by a crash has closed nothing: its end is not reached, or is the end of all.
        crash_each(
            path,
            crashes,
            lambda world: flow(world).stream(until="end", shared=True, batch_events=batch_events),
        )
        with LocalWorld(path) as world:
            reports = together(
                members,
                lambda: flow(world).stream(until="end", shared=True, batch_events=batch_events),
            )
            assert sum(report.late for report in reports) == 0
            assert in_order(world.events("out")) == in_order(which(world).collect().to_pylist())
