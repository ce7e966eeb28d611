"""``stream(until="now")``: what is there, and no more; open windows stay open.

events   ──12:00──12:02──┊──12:07──┊
runs                    now       now        the first gives nothing, the second the window of 12:00 to 12:05
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from millstream import App, count, early, session
from millstream.engines.local.flow_file_intake import SETTLED_US
from millstream.flows.keyed_context import KeyedContext
from millstream.flows.windows import tumbling
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import Timestamp, datetime_us
from millstream.testing import VirtualClock
from millstream.testing.flows_suite import EPOCH

SCHEMA = {"k": str, "n": int, "at": Timestamp}


def event(k: str, minute: int) -> dict[str, object]:
    return {"k": k, "n": minute, "at": EPOCH + timedelta(minutes=minute)}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(datetime_us(EPOCH))


@pytest.fixture
def app(store_path: Path, clock: VirtualClock) -> Iterator[App]:
    with App("a", store=store_path, clock=clock) as app:
        app.topic("events", schema=SCHEMA, key="k", partitions=2).append([])
        yield app


def rows(app: App, topic: str) -> list[dict[str, object]]:
    return app.read(topic).collect().to_pylist()


@pytest.mark.parametrize("shared", [False, True])
def test_windows_stay_open_until_an_event_closes_them(app: App, shared: bool) -> None:
    #   minute    0    2    5  │ 7     10
    #   window    |         |
    #   run 1     a    a       │              gives nothing
    #   run 2                  │ a            gives the two
    events = app.topic("events", schema=SCHEMA, key="k", partitions=2)
    windowed = app.read(events).window(tumbling("5m"), on="at").group_by("k").agg(n=count())
    flow = windowed.write("out")
    events.append([event("a", 0), event("a", 2)])
    report = flow.stream(until="now", shared=shared)
    assert (report.rows_in, report.rows_out) == (2, 0)
    events.append([event("a", 7)])
    report = flow.stream(until="now", shared=shared)
    assert (report.rows_in, report.rows_out, report.late) == (1, 1, 0)
    assert [row["n"] for row in rows(app, "out")] == [2]
    assert flow.stream(until="now", shared=shared).rows_in == 0
    assert flow.stream(until="end", shared=shared).rows_out == 1


def test_events_that_come_while_it_runs_are_left_for_the_next_run(app: App) -> None:
    events = app.topic("events", schema=SCHEMA, key="k", partitions=2)
    events.append([event("a", 0), event("a", 1)])
    flow = app.read(events).write("out")
    report = flow.stream(
        until="now", batch_events=1, progress=lambda _: events.append([event("a", 9)]) and None
    )
    assert report.rows_in == 2
    assert flow.stream(until="now").rows_in == 2


def remember(event: dict, context: KeyedContext) -> None:
    context.set_clock_timer(timedelta(minutes=10), "bell")


def ring(context: KeyedContext) -> dict[str, object]:
    return {"k": context.key}


def test_timers_of_the_clock_ring_when_they_are_due_and_not_before(
    app: App, clock: VirtualClock
) -> None:
    events = app.topic("events", schema=SCHEMA, key="k", partitions=2)
    flow = app.read(events).key_by("k").process(remember, {"k": str}, on_timer=ring).write("out")
    events.append([event("a", 0)])
    assert flow.stream(until="now").rows_out == 0
    clock.advance("599s")
    assert flow.stream(until="now").rows_out == 0
    clock.advance("2s")
    assert flow.stream(until="now").rows_out == 1
    assert flow.stream(until="now").rows_out == 0


def test_a_file_that_may_still_be_written_is_left_for_the_next_run(
    app: App, clock: VirtualClock, tmp_path: Path
) -> None:
    landing = tmp_path / "landing"
    landing.mkdir()
    young = landing / "young.csv"
    young.write_text("n\n1\n")
    now_s = clock.now_us() / 1e6
    os.utime(young, (now_s, now_s))
    flow = app.read(f"{landing}/*", file_format="csv", schema={"n": int}).write("out")
    assert flow.stream(until="now").rows_in == 0
    clock.advance(timedelta(microseconds=SETTLED_US))
    assert flow.stream(until="now").rows_in == 1
    assert flow.stream(until="now").rows_in == 0


def test_a_stop_ends_it_between_micro_batches(app: App) -> None:
    events = app.topic("events", schema=SCHEMA, key="k", partitions=2)
    events.append([event("a", 0), event("a", 1)])
    flow = app.read(events).write("out")
    stop = threading.Event()
    report = flow.stream(until="now", batch_events=1, stop=stop, progress=lambda _: stop.set())
    assert report.rows_in == 1
    assert flow.stream(until="now").rows_in == 1


def test_rows_that_wait_for_the_clock_are_refused(app: App) -> None:
    flow = app.read("events").window(session("5m"), on="at", emit=early("10s")).group_by("k")
    with pytest.raises(PlanError, match="over before the clock is due") as refused:
        flow.agg(n=count()).write("out").stream(until="now")
    assert "step 1, window" in str(refused.value)
    assert 'emit="update"' in str(refused.value)


@pytest.mark.parametrize(("until", "idle"), [("now", "1m"), ("then", None)])
def test_what_says_nothing_is_refused(app: App, until: str, idle: str | None) -> None:
    with pytest.raises(PlanError, match=f"until='{until}'"):
        app.read("events").write("out").stream(until=until, idle=idle)
