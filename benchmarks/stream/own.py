"""millstream as a program: ``python -m benchmarks.stream.own JOB``, once to fill its log and once to stream it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import millstream as ms
from benchmarks.harness import Values
from benchmarks.stream.contract import PEAK, RATE, STATE, TELL_EVERY, WINDOWS, Job, answer, peak_mib
from benchmarks.stream.events import INTEGER, events, parts
from millstream.cli.flights.data import departures
from millstream.cli.flights.hourly import STREAM_EVENTS, first_difference, hourly
from millstream.cli.flights.reader import declare

FILL, FILL_FLIGHTS, FLIGHTS = "fill", "fill flights", "flights"
APPEND_S, SECONDS = "append, seconds", "seconds"
_WARM_UP_EVENTS = 20_000


def fill(job: Job) -> Values:
    """Append the events in batches, and a few to warm up with."""
    with _app(job) as app:
        _topic(app, job, "warm").append(events(0, _WARM_UP_EVENTS, job.keys))
        topic = _topic(app, job, "events")
        batches = list(parts(job.source, job.batch_events))
        began = time.perf_counter()
        for batch in batches:
            topic.append(batch)
        return {APPEND_S: time.perf_counter() - began}


def windows(job: Job) -> Values:
    """Stream the log to its end: read, count and sum, keep the state, write the results, commit each micro-batch."""
    with _app(job) as app:
        _flow(app, job, "warm").stream(until="end", batch_events=job.batch_events)
        flow = _flow(app, job, "events")
        began = time.perf_counter()
        report = flow.stream(until="end", batch_events=job.batch_events)
        elapsed = time.perf_counter() - began
        values = {RATE: job.events / elapsed, PEAK: peak_mib(), SECONDS: elapsed}
        if report.late or report.rows_in != job.events:
            raise RuntimeError(f"{report.late} of {report.rows_in} events were late")
        result = app.read("windows_events").select(
            "key", "hits", "total", start=ms.col("window_start")
        )
        Path(job.result).mkdir()
        table = result.collect()
        starts = table["start"].cast("int64")
        table = table.drop_columns(["start"]).append_column("start_us", starts)
        pq.write_table(table, Path(job.result) / "result.parquet")
        return values


def state(job: Job) -> Values:
    """Stream the log to its end through a function that remembers, a commit for each micro-batch."""
    with _app(job) as app:
        _remembering(app, job, "warm").stream(until="end", batch_events=job.batch_events)
        flow = _remembering(app, job, "events")
        began = time.perf_counter()
        report = flow.stream(until="end", batch_events=job.batch_events)
        elapsed = time.perf_counter() - began
        if report.rows_in != job.events:
            raise RuntimeError(f"{report.rows_in} events, not {job.events}")
        told = app.read("state_events").select("key", "hits", "total", start_us=ms.col("hits"))
        Path(job.result).mkdir()
        pq.write_table(told.collect(), Path(job.result) / "result.parquet")
        return {RATE: job.events / elapsed, PEAK: peak_mib(), SECONDS: elapsed}


@dataclass(slots=True)
class Kept:
    """What is remembered of a key."""

    hits: int = 0
    total: int = 0


def remember(event: dict[str, Any], context: ms.KeyedContext[Kept]) -> dict[str, Any] | None:
    """Count and sum; tell now and then."""
    kept = context.state
    kept.hits += 1
    kept.total += event["value"]
    if kept.hits % TELL_EVERY:
        return None
    return {"key": context.key, "hits": kept.hits, "total": kept.total}


def _remembering(app: ms.App, job: Job, name: str) -> ms.Flow:
    key = int if job.keys == INTEGER else str
    keyed = app.read(_topic(app, job, name)).select("key", "value").key_by("key")
    told = keyed.process(remember, {"key": key, "hits": int, "total": int}, state=Kept)
    return told.write(f"state_{name}")


def _app(job: Job) -> ms.App:
    return ms.App("bench", store=Path(job.place) / "bench.mill", durability=job.topic_durability)


def _topic(app: ms.App, job: Job, name: str) -> ms.Topic:
    key = int if job.keys == INTEGER else str
    return app.topic(name, schema={"key": key, "value": int, "at": ms.Timestamp})


def _flow(app: ms.App, job: Job, name: str) -> ms.Flow:
    return (
        app.read(_topic(app, job, name))
        .window(ms.tumbling("10s"), on="at", late="1s")
        .group_by("key")
        .agg(hits=ms.count(), total=ms.sum("value"))
        .write(f"windows_{name}")
    )


def fill_flights(job: Job) -> Values:
    """Append a year of departures, or a part of it."""
    data = departures(job.events or None)
    with ms.App("flights", store=Path(job.place) / "bench.mill") as app:
        declare(app).append(data.table)
    return {}


def flights(job: Job) -> Values:
    """Stream the departures as the demo does; the result is that of a batch."""
    with ms.App("flights", store=Path(job.place) / "bench.mill") as app:
        flow = hourly(app, declare(app))
        began = time.perf_counter()
        report = flow.stream(until="end", batch_events=STREAM_EVENTS)
        elapsed = time.perf_counter() - began
        given = app.topic(flow.name, schema=flow.schema).to_table()
        difference = first_difference(flow.collect(), given)
        if difference is not None or report.late:
            raise RuntimeError(f"stream and batch differ: {difference}; {report.late} were late")
        return {SECONDS: elapsed, PEAK: peak_mib()}


if __name__ == "__main__":
    answer(
        {FILL: fill, WINDOWS: windows, STATE: state, FILL_FLIGHTS: fill_flights, FLIGHTS: flights}
    )
