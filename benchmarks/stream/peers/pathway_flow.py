"""Pathway with one thread, without persistence: a crash loses everything. Events come from a Python connector out of
Parquet, and results go to a Python function: each window once, when it is closed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from benchmarks.harness import Values
from benchmarks.peers.contract import installed
from benchmarks.stream.contract import (
    LATE_US,
    PEAK,
    RATE,
    RELAY,
    WINDOW_US,
    WINDOWS,
    Job,
    answer,
    peak_mib,
)
from benchmarks.stream.events import INTEGER, parts, write_result
from benchmarks.stream.peers.lines import Lines, connected, put

_BATCH_EVENTS = 10_000
_COMMIT_MS = 1
"""How often the connector hands over what it has: as often as it can be told to."""


def windows(job: Job) -> Values:
    """Count and sum by key and window."""
    pw = installed("pathway")
    columns = {"key": int if job.keys == INTEGER else str, "value": int, "at": int}

    def feed(subject: Any) -> None:
        for batch in parts(job.source, _BATCH_EVENTS):
            keys, values = batch["key"].to_pylist(), batch["value"].to_pylist()
            times = batch["at"].cast("int64").to_pylist()
            for key, value, at in zip(keys, values, times, strict=True):
                subject.next(key=key, value=value, at=at)

    table = _read(pw, feed, columns, autocommit_ms=100)
    closed = table.windowby(
        table.at,
        window=pw.temporal.tumbling(duration=WINDOW_US),
        instance=table.key,
        behavior=pw.temporal.exactly_once_behavior(shift=LATE_US),
    ).reduce(
        start_us=pw.this._pw_window_start,
        key=pw.this._pw_instance,
        hits=pw.reducers.count(),
        total=pw.reducers.sum(pw.this.value),
    )
    found: list[tuple[int, int | str, int, int]] = []

    def keep(key: Any, row: dict[str, Any], time: int, is_addition: bool) -> None:
        assert is_addition, "a window was emitted twice"
        found.append((row["start_us"], row["key"], row["hits"], row["total"]))

    pw.io.subscribe(closed, on_change=keep)
    began = time.perf_counter()
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    values = {RATE: job.events / (time.perf_counter() - began), PEAK: peak_mib()}
    write_result(job.result, found)
    return values


def relay(job: Job) -> Values:
    """Pass single events on."""
    pw = installed("pathway")
    with connected(job.ports[0]) as source, connected(job.ports[1]) as sink:
        lines = Lines(source)

        def feed(subject: Any) -> None:
            while lines.is_open:
                for line in lines.take():
                    stamp, _, value = line.partition(b" ")
                    subject.next(stamp=int(stamp), value=int(value))

        table = _read(pw, feed, {"stamp": int, "value": int}, autocommit_ms=_COMMIT_MS)
        kept = table.filter(pw.this.value != 0).select(pw.this.stamp, double=2 * pw.this.value)
        pw.io.subscribe(
            kept,
            on_change=lambda key, row, time, is_addition: put(
                sink, [b"%d %d" % (row["stamp"], row["double"])]
            ),
        )
        pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    return {}


def _read(pw: Any, feed: Any, columns: Mapping[str, type], *, autocommit_ms: int) -> Any:
    class Subject(pw.io.python.ConnectorSubject):  # type: ignore[misc] # Pathway is not installed here
        def run(self) -> None:
            feed(self)

    schema = pw.schema_from_types(**columns)
    return pw.io.python.read(Subject(), schema=schema, autocommit_duration_ms=autocommit_ms)


if __name__ == "__main__":
    answer({WINDOWS: windows, RELAY: relay})
