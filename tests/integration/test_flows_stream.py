"""Streams over a real store: going on, stopping, being alone, and refusing what does not fit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest

import millstream as ms
from millstream.engines.local import delays, flow_dense, flow_state
from millstream.engines.local.delays import read_delays
from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.report import Progress
from millstream.flows.sql import sql_table
from millstream.flows.windows import tumbling
from millstream.primitives.errors import Fenced, PlanError, StepError, StoreCorrupt
from millstream.primitives.schema import Timestamp
from millstream.store import Transaction
from millstream.testing import VirtualClock
from millstream.testing.flows_suite import LocalWorld, at, in_order
from millstream.testing.log_suite import options
from tests.flows_kit import StopAfter
from tests.refusals import refused

SCHEMA = {"n": int, "at": Timestamp}


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        world.topic("events", SCHEMA)
        yield world


def hourly(world: LocalWorld, late: str = "0s", size: str = "1h") -> Flow:
    windowed = world.read("events").window(tumbling(size), on="at", late=late)
    return windowed.agg(n=agg.sum("n")).write("out")


def append(world: LocalWorld, *minutes: int) -> None:
    world.append("events", [{"n": m, "at": at(m)} for m in minutes])


def sums(world: LocalWorld) -> list[int]:
    return [row["n"] for row in world.events("out")]


def test_a_stop_leaves_windows_open_and_an_end_closes_them(world: LocalWorld) -> None:
    #   minute    0          60         120
    #             |  first   |  second  |
    #   events    10 ... 50 .. 70
    #   stop      emits the first (70 has passed its end), the second stays open
    #   then      80 still belongs to the second; the end of the replay closes it
    append(world, 10, 50, 70)
    stop = StopAfter(1)
    hourly(world).stream(stop=stop, progress=stop.progress)
    assert sums(world) == [60]
    append(world, 80)
    hourly(world).stream(until="end")
    assert sums(world) == [60, 150]


def test_after_an_end_events_for_a_closed_window_are_late(world: LocalWorld) -> None:
    #   minute    0          60
    #             |  first   |
    #   events    10 | end of the replay: closed | 20 is late, 70 is not
    append(world, 10)
    hourly(world).stream(until="end")
    append(world, 20, 70)
    report = hourly(world).stream(until="end")
    assert report.late == 1
    assert sums(world) == [10, 70]


def test_a_stream_waits_for_events_and_stops_when_told(world: LocalWorld) -> None:
    seen = threading.Event()
    stop = threading.Event()
    flow = world.read("events").select("n").write("out")
    thread = threading.Thread(
        target=flow.stream, kwargs={"stop": stop, "progress": lambda _: seen.set()}
    )
    thread.start()
    append(world, 5)
    assert seen.wait(30)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert sums(world) == [5]


def test_a_quiet_partition_holds_the_watermark_and_an_empty_one_does_not(
    store_path: Path,
) -> None:
    #   partition 0    10 ........ 200      would close [0,60) and [60,120), [120,180)
    #   partition 1    30                   has shown 30 only: nothing closes
    #   partition 2    (never had an event: does not count)
    with LocalWorld(store_path) as world:
        world.topic("events", SCHEMA, partitions=3)
        for partition, minute in ((0, 10), (1, 30), (0, 200)):
            world.append("events", [{"n": minute, "at": at(minute)}], partition=partition)
        stop = StopAfter(1)
        hourly(world).stream(stop=stop, progress=stop.progress)
        assert sums(world) == []
        world.append("events", [{"n": 100, "at": at(100)}], partition=1)
        stop = StopAfter(1)
        report = hourly(world).stream(stop=stop, progress=stop.progress)
        assert sums(world) == [40]
        assert report.watermark_us == int(at(100).timestamp() * 1e6)


def first_output(world: LocalWorld, flow: Flow, **how: object) -> list[int]:
    """Stream until there is output, and return it: nothing but the quiet can have closed those windows."""
    stop = threading.Event()
    world.topic("out", {"window_start": Timestamp, "window_end": Timestamp, "n": int})
    with world.log.consumer(world.log.topic("out"), "test", options(follow=True)) as consumer:
        thread = threading.Thread(target=flow.stream, kwargs={"stop": stop, **how})
        thread.start()
        batch = next(iter(consumer))
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    return [row["n"] for row in batch.to_pylist()]


def test_an_idle_partition_does_not_hold_windows_open(store_path: Path) -> None:
    #   partition 0    10 ........ 200      closes [0,60) once partition 1 is idle
    #   partition 1    30                   has shown 30 only
    with LocalWorld(store_path) as world:
        world.topic("events", SCHEMA, partitions=2)
        for partition, minute in ((0, 10), (1, 30), (0, 200)):
            world.append("events", [{"n": minute, "at": at(minute)}], partition=partition)
        assert first_output(world, hourly(world), idle="50ms") == [40]


def test_an_idle_stream_goes_on_with_the_clock(world: LocalWorld) -> None:
    #   event time   10:00 |— 200 ms —|
    #   event              ·
    #   clock              20 ms of quiet, then event time goes on with it, and passes the end of the window
    #
    # Windows of 200 ms: the last one can only be closed by 200 ms of quiet.
    append(world, 10)
    assert first_output(world, hourly(world, size="200ms"), idle="20ms") == [10]


@pytest.mark.parametrize("how", [{"until": "end", "idle": "1s"}, {"idle": "0s"}])
def test_an_idle_rule_that_means_nothing_is_refused(world: LocalWorld, how: dict) -> None:
    with pytest.raises(PlanError, match="idle="):
        hourly(world).stream(**how)


def test_a_second_stream_of_a_name_is_refused_while_the_first_lives(world: LocalWorld) -> None:
    append(world, 10)
    refusals: list[Fenced] = []

    def second(_: Progress) -> None:
        with LocalWorld(world.store.path) as other, pytest.raises(Fenced) as refused:
            hourly(other).stream(until="end")
        refusals.append(refused.value)

    hourly(world).stream(until="end", progress=second)
    assert "being streamed already" in refusals[0].what
    assert sums(world) == [10]


def test_a_stream_that_was_taken_over_cannot_commit(world: LocalWorld) -> None:
    append(world, 10, 20, 70)
    other = LocalWorld(world.store.path)

    def take_over(_: Progress) -> None:
        # As a process does that finds the owner dead, for example after a machine was suspended.
        with other.store.read() as snapshot:
            [row] = snapshot.run("flows/get", ("out",))
        taking = {"owner": other.store.process, "fingerprint": row[3], "flow_id": row[0]}
        other.store.write(lambda tx: tx.run("flows/take", taking))

    with pytest.raises(Fenced, match="taken over"):
        hourly(world).stream(until="end", batch_events=1, progress=take_over)
    other.close()
    hourly(world).stream(until="end")
    assert sums(world) == [30, 70]


def test_a_changed_plan_is_refused_with_the_difference(world: LocalWorld) -> None:
    append(world, 10)
    hourly(world).stream(until="end")
    with pytest.raises(PlanError, match=r"step 1 was window\(tumbling\(1h\).*now.*tumbling\(2h\)"):
        hourly(world, size="2h").stream(until="end")


def test_what_comes_after_the_aggregation_may_change(world: LocalWorld) -> None:
    append(world, 10)
    hourly(world).stream(until="end")
    append(world, 70)
    windowed = world.read("events").window(tumbling("1h"), on="at").agg(n=agg.sum("n"))
    changed = windowed.with_columns(n=col("n") + 1).write("out")
    changed.stream(until="end")
    assert sums(world) == [10, 71]


def test_two_ends_of_one_name_are_two_flows(world: LocalWorld, tmp_path: Path) -> None:
    append(world, 1, 2)
    events = world.read("events")
    assert events.write(f"{tmp_path}/lake/orders/").stream(until="end").rows_out == 2
    table = sql_table("orders", f"sqlite:///{tmp_path}/shop.db", create=True)
    for number, end in enumerate((f"{tmp_path}/copies/orders/", "orders", table)):
        with refused(PlanError, "two flows need two names", ".named(", "lake/orders"):
            events.write(end).stream(until="end")
        assert events.write(end).named(f"other{number}").stream(until="end").rows_out == 2
    # How it is written there may change, and so may the place of a flow that is said to be the same.
    again = events.write(f"{tmp_path}/lake/orders/", file_format="jsonl")
    append(world, 3)
    assert again.stream(until="end").rows_out == 1
    append(world, 4)
    moved = events.write(f"{tmp_path}/moved/orders/").named("orders")
    assert moved.stream(until="end").rows_out == 1


@pytest.mark.parametrize("all_gone", [False, True])
def test_events_that_were_deleted_unread_are_told(store_path: Path, all_gone: bool) -> None:
    #   clock      0 s    1 s     12 s     retention: 10 s
    #   events     0      1 2     3
    #   run        0              1 and 2 are gone
    clock = VirtualClock(0)
    with ms.App("shop", store=store_path, clock=clock) as app:
        topic = app.topic("short", schema={"n": int}, retention="10s")
        flow = app.read(topic).write("out")
        topic.append({"n": 0})
        assert flow.stream(until="end").rows_in == 1
        clock.advance("1s")
        topic.append([{"n": 1}, {"n": 2}])
        clock.advance("11s")
        if not all_gone:
            topic.append({"n": 3})
        app.log_engine.upkeep.retain()
        for shared in (False, True):
            with refused(
                StepError, "2 events were deleted", "topic 'short', partition 0, offset 1"
            ):
                flow.stream(until="end", shared=shared)
        report = app.read(topic, on_deleted="skip").write("out").stream(until="end")
        assert report.rows_in == (0 if all_gone else 1)
        topic.append({"n": 4})
        assert flow.stream(until="end").rows_in == 1
        numbers = app.read("out").collect()["n"].to_pylist()
        assert numbers == ([0, 4] if all_gone else [0, 3, 4])
        with refused(PlanError, "on_deleted='warn'", "read('short')"):
            app.read(topic, on_deleted="warn")
        with refused(PlanError, "on_deleted= is for topics"):
            app.read([{"n": 1}], on_deleted="skip")


def test_reset_begins_at_the_beginning(world: LocalWorld) -> None:
    append(world, 10)
    hourly(world).stream(until="end")
    hourly(world).reset()
    assert hourly(world).stream(until="end").rows_in == 1
    assert sums(world) == [10, 10]


def test_a_topic_made_again_is_another_topic(world: LocalWorld) -> None:
    append(world, 10)
    hourly(world).stream(until="end")
    world.log.delete_topic("events")
    world.topic("events", SCHEMA)
    with pytest.raises(PlanError, match="made again"):
        hourly(world).stream(until="end")


def test_damaged_state_is_refused(world: LocalWorld) -> None:
    append(world, 10)
    stop = StopAfter(1)
    hourly(world).stream(stop=stop, progress=stop.progress)
    with world.store.read() as snapshot:
        [[flow_id, *_]] = snapshot.run("flows/get", ("out",))
        [[stage, groups, checksum, data]] = snapshot.run("flows/state", (flow_id,))
    damaged = bytes([data[0] ^ 1]) + data[1:]

    def damage(tx: Transaction) -> None:
        tx.run("flows/state_clear", (flow_id, stage))
        tx.many("flows/state_append", [(flow_id, stage, groups, checksum, damaged)])

    world.store.write(damage)
    with pytest.raises(StoreCorrupt, match="state of a flow is damaged"):
        hourly(world).stream(until="end")


@pytest.mark.parametrize("kernel", [flow_dense, flow_state])
def test_the_changelog_stays_bounded(
    world: LocalWorld, monkeypatch: pytest.MonkeyPatch, kernel: ModuleType
) -> None:
    monkeypatch.setattr(kernel, "PARTIALS_MAX", 4)
    append(world, *range(40))
    stop = StopAfter(40)
    flow = hourly(world)
    if kernel is flow_state:
        # An aggregate that arrays do not hold.
        windowed = world.read("events").window(tumbling("1h"), on="at")
        flow = windowed.agg(n=agg.sum("n"), different=agg.n_unique("n")).write("out")
    flow.stream(stop=stop, progress=stop.progress, batch_events=1)
    with world.store.read() as snapshot:
        [[flow_id, *_]] = snapshot.run("flows/get", ("out",))
        assert 0 < len(snapshot.run("flows/state", (flow_id,))) <= 5
    flow.stream(until="end")
    assert sums(world) == [sum(range(40))]


def test_one_event_far_ahead_does_no_harm(world: LocalWorld) -> None:
    #   minute    0    1    2    ………………    seven thousand years later
    #   windows        |1s  |1s             |1s          none is made for the time between them
    append(world, 1, 2)
    world.append("events", [{"n": 3, "at": datetime(9_000, 1, 1, tzinfo=UTC)}])
    hourly(world, size="1s").stream(until="end")
    assert sums(world) == [1, 2, 3]


@pytest.mark.parametrize("far_us", [2**63 - 1, -(2**63)])
def test_a_time_that_no_window_can_hold_is_refused(world: LocalWorld, far_us: int) -> None:
    # minute   1    2    …   292,000 years before or after: the end of its window does not fit in 64 bits
    append(world, 1, 2)
    far = pa.table({"n": [3], "at": pa.array([far_us]).cast(pa.timestamp("us", "UTC"))})
    world.log.append(world.log.topic("events"), far)
    with refused(StepError, f"{far_us} microseconds", "event time"):
        hourly(world).stream(until="end")
    assert sums(world) == []
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
    known = (col("at") > first) & (col("at") < last)
    timed = world.read("events").with_columns(at=ms.when(known).then(col("at")).otherwise(None))
    windowed = timed.window(tumbling("1h"), on="at").agg(n=agg.sum("n"))
    assert windowed.named("again").write("out").stream(until="end").untimed == 1
    assert sums(world) == [3]


def test_more_windows_than_arrays_hold_go_on_with_polars(world: LocalWorld) -> None:
    world.append("events", [{"n": n, "at": at(60 * n)} for n in range(5_000)])
    append(world, 7)
    windowed = world.read("events").window(tumbling("1h"), on="at", late="9000h")
    flow = windowed.agg(n=agg.sum("n")).write("out")
    flow.stream(until="end", batch_events=1_500)
    assert sums(world) == [7, *range(1, 5_000)]


def test_large_state_is_stored_in_pieces(
    world: LocalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_state, "BLOB_GROUPS_MAX", 3)
    append(world, *range(10))
    windowed = world.read("events").window(tumbling("1h"), on="at").group_by("n")
    flow = windowed.agg(rows=agg.count()).write("out")
    stop = StopAfter(1)
    flow.stream(stop=stop, progress=stop.progress)
    with world.store.read() as snapshot:
        [[flow_id, *_]] = snapshot.run("flows/get", ("out",))
        assert [row[1] for row in snapshot.run("flows/state", (flow_id,))] == [3, 3, 3, 1]
    flow.stream(until="end")
    assert sorted(sums(world)) == list(range(10))


def test_a_failing_step_stores_nothing_and_can_be_run_again(world: LocalWorld) -> None:
    append(world, 1, 2, 3)
    fails = [True]

    def fragile(batches):
        for batch in batches:
            if fails[0] and 3 in batch["n"].to_pylist():
                raise ValueError("three")
            yield batch

    flow = world.read("events").map_batches(fragile, SCHEMA).select("n").write("out")
    with pytest.raises(StepError, match="ValueError: three"):
        flow.stream(until="end", batch_events=1)
    assert sums(world) == [1, 2]
    fails[0] = False
    flow.stream(until="end", batch_events=1)
    assert sums(world) == [1, 2, 3]


def test_an_event_time_that_a_function_makes_is_the_watermark(world: LocalWorld) -> None:
    #   minute    0         60        120       180
    #   events        10        70        130            each shows that the hour before it is over
    append(world, 10, 70, 130)

    def doubled(batches):
        for batch in batches:
            yield batch.set_column(1, "at", batch["at"])

    windowed = world.read("events").map_batches(doubled, SCHEMA).window(tumbling("1h"), on="at")
    report = windowed.agg(n=agg.sum("n")).write("out").stream(until="end", batch_events=1)
    assert sums(world) == [10, 70, 130]
    assert report.batches == 4


def test_a_filter_does_not_stop_time(world: LocalWorld) -> None:
    #   minute    0          60
    #             |  first   |
    #   events    10 ......... 70 is filtered out, but shows that the first hour is over
    append(world, 10, 70)
    flow = world.read("events").filter(col("n") < 60).with_columns(when=col("at"))
    windowed = flow.window(tumbling("1h"), on="when").agg(n=agg.sum("n")).write("out")
    stop = StopAfter(1)
    windowed.stream(stop=stop, progress=stop.progress)
    assert sums(world) == [10]


def test_the_report_and_the_catalog_hold_the_four_delays(world: LocalWorld) -> None:
    append(world, *range(10))
    report = hourly(world).stream(until="end", batch_events=5)
    stored = read_delays(world.store)["stream", "out"]
    for phase in ("source_wait", "start_wait", "process", "publish"):
        assert report.delays[phase].count == 10
        assert stored[phase].count == 10
    assert report.rows_per_s > 0
    assert "10 rows in, 1 out" in str(report)


def test_a_stream_that_waits_has_stored_all_delays(world: LocalWorld) -> None:
    append(world, *range(6))
    told: list[dict[str, int]] = []

    class StopWhenStored:
        def is_set(self) -> bool:
            phases = read_delays(world.store).get(("stream", "out"), {})
            told.append({phase: histogram.count for phase, histogram in phases.items()})
            return told[-1].get("publish") == 6

    flow = world.read("events").select("n").write("out")
    flow.stream(stop=StopWhenStored(), batch_events=2)
    assert told[-1] == {"source_wait": 0, "start_wait": 6, "process": 6, "publish": 6}


def test_delays_that_no_commit_stored_are_stored_at_a_stop(
    world: LocalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delays, "STORED_EVERY_S", 3_600.0)
    append(world, *range(10))
    stop = StopAfter(5)
    flow = world.read("events").select("n").write("out")
    flow.stream(stop=stop, progress=stop.progress, batch_events=2)
    stored = read_delays(world.store)["stream", "out"]
    assert {phase: stored[phase].count for phase in ("start_wait", "process", "publish")} == {
        "start_wait": 10,
        "process": 10,
        "publish": 10,
    }


def test_batch_and_stream_agree_on_out_of_order_windows(world: LocalWorld) -> None:
    #   minute    0            60           120     180     240       late="3h": none is too late
    #   events       10  20      65  70       130     190
    #   came         2nd 4th     6th 3rd      1st     5th
    append(world, 130, 10, 70, 20, 190, 65)
    flow = hourly(world, late="3h")
    flow.stream(until="end", batch_events=2)
    assert in_order(world.events("out")) == in_order(flow.collect().to_pylist())
