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
from millstream.flows.windows import count_window, session, sliding, tumbling
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import EPOCH, LocalWorld, in_order
from tests.flows_kit import CRASHES, StopAfter, crash_each
from tests.flows_members import together

SCHEMA = {"k": str, "n": int, "at": Timestamp}
PRICES = {"k": str, "price": int, "since": Timestamp}
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


def prices_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a price of each key for each event, half a minute earlier or later."""
    return [
        {
            "k": row["k"],
            "price": number,
            "since": row["at"] + timedelta(seconds=30 if number % 2 else -30),
        }
        for number, row in enumerate(rows)
    ]


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


def counted(world: LocalWorld) -> Flow:
    """Windows of three rows in the order of their times; those of one time in the order of their coming."""
    windowed = world.read("events").window(count_window(3), on="at", late=LATE)
    return windowed.group_by("k").agg(rows=agg.count(), all=agg.collect("n"), low=agg.min("n"))


def counted_as_they_come(world: LocalWorld) -> Flow:
    windowed = world.read("events").window(count_window(2))
    return windowed.group_by("k").agg(rows=agg.count(), total=agg.sum("n"))


def counts_of_windows(world: LocalWorld) -> Flow:
    return (
        windows(world)
        .select("k", "rows", ended=col("window_end"))
        .window(count_window(2), on="ended")
        .group_by("k")
        .agg(windows=agg.count(), rows=agg.sum("rows"))
    )


def versioned(world: LocalWorld) -> Flow:
    """Each event with the one of its key that held at its time: itself, or of several at that time the last."""
    events = world.read("events")
    return events.select("k", "n", "at").join_asof(
        events.select("k", held=col("n"), since=col("at")),
        on="at",
        right_on="since",
        by="k",
        late=LATE,
    )


def versioned_of_another_topic(world: LocalWorld) -> Flow:
    """Prices are as many as events and lie in a topic of their own, under the same key."""
    joined = world.read("events").join_asof(
        world.read("prices"), on="at", right_on="since", by="k", tolerance="10m", late="6m"
    )
    windowed = joined.window(tumbling("5m"), on="at")
    return windowed.group_by("k").agg(rows=agg.count(), prices=agg.sum("price"))


def single_rows(world: LocalWorld) -> Flow:
    return world.read("events").select("k", double=col("n") * 2)


FLOWS = [
    windows,
    sessions_of_sessions,
    slid,
    remembered,
    joined,
    counted,
    counted_as_they_come,
    counts_of_windows,
    versioned,
    versioned_of_another_topic,
    single_rows,
]


@settings(max_examples=90, deadline=None)
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
            world.topic("prices", PRICES, key="k", partitions=partitions)
            if rows:
                world.append("events", rows)
                world.append("prices", prices_of(rows))

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
