"""A loop in plain Python, with a dict for each open window: what people write first.

It promises nothing: a crash loses everything. Events come out of Parquet as lists; results stay in memory. Its result
is what everybody else's must be.
"""

from __future__ import annotations

import time

from benchmarks.harness import Values
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
from benchmarks.stream.events import parts, write_result
from benchmarks.stream.peers.lines import relay_lines

_BATCH_EVENTS = 10_000

Row = tuple[int, int | str, int, int]


def windows(job: Job) -> Values:
    """Count and sum by key and window."""
    began = time.perf_counter()
    rows = aggregate(job.source)
    elapsed = time.perf_counter() - began
    values = {RATE: job.events / elapsed, PEAK: peak_mib()}
    write_result(job.result, rows)
    return values


def aggregate(source: str) -> list[Row]:
    """Return the closed windows of the events in a directory, all of them closed at the end."""
    opened: dict[int, dict[int | str, list[int]]] = {}
    done: list[Row] = []
    latest = 0
    for batch in parts(source, _BATCH_EVENTS):
        keys, values = batch.column("key").to_pylist(), batch.column("value").to_pylist()
        times = batch.column("at").cast("int64").to_pylist()
        for key, value, at in zip(keys, values, times, strict=True):
            start = at - at % WINDOW_US
            window = opened.get(start)
            if window is None:
                window = opened[start] = {}
            state = window.get(key)
            if state is None:
                window[key] = [1, value]
            else:
                state[0] += 1
                state[1] += value
            latest = max(latest, at)
        for start in [start for start in opened if start + WINDOW_US <= latest - LATE_US]:
            done += [(start, key, hits, total) for key, (hits, total) in opened.pop(start).items()]
    for start, window in opened.items():
        done += [(start, key, hits, total) for key, (hits, total) in window.items()]
    return done


def state(job: Job) -> Values:
    """Call a function with each event and the state of its key."""
    began = time.perf_counter()
    states: dict[int | str, list[int]] = {}
    rows: list[Row] = []
    for batch in parts(job.source, _BATCH_EVENTS):
        keys, values = batch.column("key").to_pylist(), batch.column("value").to_pylist()
        for key, value in zip(keys, values, strict=True):
            kept = states.get(key)
            if kept is None:
                kept = states[key] = [0, 0]
            if (row := remember(key, value, kept)) is not None:
                rows.append(row)
    values_found = {RATE: job.events / (time.perf_counter() - began), PEAK: peak_mib()}
    write_result(job.result, rows)
    return values_found


def remember(key: int | str, value: int, kept: list[int]) -> Row | None:
    """Count and sum; tell now and then."""
    kept[0] += 1
    kept[1] += value
    return None if kept[0] % TELL_EVERY else (kept[0], key, kept[0], kept[1])


def relay(job: Job) -> Values:
    """Pass single events on."""
    relay_lines(job.ports)
    return {}


if __name__ == "__main__":
    answer({WINDOWS: windows, STATE: state, RELAY: relay})
