"""Bytewax with one worker, without recovery: a crash loses everything. Events are Parquet, results stay in memory.

Its clock adds the time that passes on the wall to the watermark unless it is told otherwise, which makes events of a
replay late that are not: here its clock stands still. It gets 100,000 events at a time, as with 10,000 keys it is many
times slower with few. Its keys are texts.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from benchmarks.harness import Values
from benchmarks.peers.contract import installed
from benchmarks.stream.contract import (
    LATE_US,
    PEAK,
    RATE,
    RELAY,
    STATE,
    TELL_EVERY,
    WINDOW_US,
    WINDOWS,
    Job,
    answer,
    peak_mib,
)
from benchmarks.stream.events import INTEGER, START_US, parts, write_result
from benchmarks.stream.peers.lines import Lines, connected, passed, put

_BATCH_EVENTS = 100_000
_ALIGN = datetime.fromtimestamp(START_US / 1e6, UTC)

_STILL = datetime(2100, 1, 1, tzinfo=UTC)


def windows(job: Job) -> Values:
    """Count and sum by key and window."""
    found: list[tuple[str, tuple[int, tuple[int, int]]]] = []
    flow = _windows_flow(job, found)
    began = time.perf_counter()
    installed("bytewax.testing").run_main(flow)
    values = {RATE: job.events / (time.perf_counter() - began), PEAK: peak_mib()}
    is_integer = job.keys == INTEGER
    write_result(
        job.result,
        [
            (START_US + window * WINDOW_US, int(key) if is_integer else key, *state)
            for key, (window, state) in found
        ],
    )
    return values


def _windows_flow(job: Job, found: list[Any]) -> Any:
    op, windowing = installed("bytewax.operators"), installed("bytewax.operators.windowing")
    flow = installed("bytewax.dataflow").Dataflow("windows")
    batches = map(_items, parts(job.source, _BATCH_EVENTS))
    events = op.input("events", flow, _source(lambda: next(batches, None)))
    clock = windowing.EventClock(
        ts_getter=lambda event: event[0],
        wait_for_system_duration=timedelta(microseconds=LATE_US),
        now_getter=lambda: _STILL,
    )
    out = windowing.fold_window(
        "count and sum",
        events,
        clock,
        windowing.TumblingWindower(length=timedelta(microseconds=WINDOW_US), align_to=_ALIGN),
        lambda: (0, 0),
        lambda state, event: (state[0] + 1, state[1] + event[1]),
        lambda one, other: (one[0] + other[0], one[1] + other[1]),
    )
    op.output("results", out.down, installed("bytewax.testing").TestingSink(found))
    return flow


def state(job: Job) -> Values:
    """Keep a count and a sum of each key."""
    op = installed("bytewax.operators")
    found: list[tuple[str, tuple[int, int]]] = []
    flow = installed("bytewax.dataflow").Dataflow("state")
    batches = map(_items, parts(job.source, _BATCH_EVENTS))
    events = op.input("events", flow, _source(lambda: next(batches, None)))
    told = op.filter_value("tell", op.stateful_map("count", events, _remember), _is_told)
    op.output("results", told, installed("bytewax.testing").TestingSink(found))
    began = time.perf_counter()
    installed("bytewax.testing").run_main(flow)
    values = {RATE: job.events / (time.perf_counter() - began), PEAK: peak_mib()}
    is_integer = job.keys == INTEGER
    rows = [(kept[0], int(key) if is_integer else key, *kept) for key, kept in found]
    write_result(job.result, rows)
    return values


def _remember(
    kept: tuple[int, int] | None, event: tuple[datetime, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    hits, total = kept or (0, 0)
    after = (hits + 1, total + event[1])
    return after, after


def _is_told(kept: tuple[int, int]) -> bool:
    return kept[0] % TELL_EVERY == 0


def _items(batch: pa.RecordBatch) -> list[tuple[str, tuple[datetime, int]]]:
    # It takes no other UTC than that of datetime, and pyarrow gives another one.
    offsets = (at - START_US for at in batch["at"].cast("int64").to_pylist())
    times = (_ALIGN + timedelta(microseconds=offset) for offset in offsets)
    events = zip(times, batch["value"].to_pylist(), strict=True)
    return list(zip(map(str, batch["key"].to_pylist()), events, strict=True))


def relay(job: Job) -> Values:
    """Pass single events on."""
    op = installed("bytewax.operators")
    flow = installed("bytewax.dataflow").Dataflow("relay")
    with connected(job.ports[0]) as source, connected(job.ports[1]) as sink:
        lines = Lines(source)
        arrived = op.input("lines", flow, _source(lambda: lines.take(0) if lines.is_open else None))
        op.output("out", op.filter_map("pass", arrived, passed), _sink(lambda out: put(sink, out)))
        installed("bytewax.testing").run_main(flow)
    return {}


def _source(take: Any) -> Any:
    inputs = installed("bytewax.inputs")

    class Partition(inputs.StatelessSourcePartition):  # type: ignore[misc, name-defined] # Bytewax has no types here
        def next_batch(self) -> list[Any]:
            batch: list[Any] | None = take()
            if batch is None:
                raise StopIteration
            return batch

    class Source(inputs.DynamicSource):  # type: ignore[misc, name-defined] # Bytewax has no types here
        def build(self, step_id: str, worker_index: int, worker_count: int) -> Any:
            return Partition()

    return Source()


def _sink(give: Any) -> Any:
    outputs = installed("bytewax.outputs")

    class Partition(outputs.StatelessSinkPartition):  # type: ignore[misc, name-defined] # Bytewax has no types here
        def write_batch(self, items: list[Any]) -> None:
            give(items)

    class Sink(outputs.DynamicSink):  # type: ignore[misc, name-defined] # Bytewax has no types here
        def build(self, step_id: str, worker_index: int, worker_count: int) -> Any:
            return Partition()

    return Sink()


if __name__ == "__main__":
    answer({WINDOWS: windows, STATE: state, RELAY: relay})
