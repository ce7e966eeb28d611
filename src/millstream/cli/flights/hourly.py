"""Parts 2 and 3: one flow, run as a batch and then, unchanged, as a stream; the results must be equal row for row."""

from __future__ import annotations

import pyarrow as pa

import millstream as ms
from millstream.cli.flights.data import airlines
from millstream.cli.flights.screen import Screen, per_second, require, seconds

LATENESS = "24h"
"""How long a window waits for departures that were scheduled in it: the latest one of 2013 left 21 h 41 min late."""
STREAM_EVENTS = 2_000
_ORDER = [("window_start", "ascending"), ("carrier", "ascending")]


def hourly(app: ms.App, departures: ms.Topic) -> ms.Flow:
    """Return the flow: delays of each carrier by the hour of the schedule, with the name of the airline."""
    return (
        app.read(departures)
        .window(ms.tumbling("1h"), on="scheduled", late=LATENESS)
        .group_by("carrier")
        .agg(
            flights=ms.count(),
            departed=ms.count("dep_delay"),
            mean_delay=ms.mean("dep_delay"),
            p95_delay=ms.quantile("dep_delay", 0.95),
        )
        .join(airlines(), on="carrier")
        .write("delays_by_hour")
    )


def run_batch(app: ms.App, flow: ms.Flow, screen: Screen, *, events: int) -> tuple[pa.Table, str]:
    """Run the flow as a batch; return its rows, and the throughput.

    The rows are removed from the store, so that the stream writes them anew.
    """
    screen.heading("2  Batch: by carrier and hour, joined with the names of the airlines")
    with screen.bars(batch=events) as bars:
        report = flow.run(progress=lambda progress: bars["batch"](progress.rows_done))
    _tell(screen, report)
    topic = _output(app, flow)
    rows = topic.to_table()
    require(report.rows_in == events, f"the batch read {report.rows_in:,} of {events:,} departures")
    require(rows.num_rows == report.rows_out, "the topic holds another number of rows")
    topic.delete()
    return rows, _throughput(report)


def run_stream(app: ms.App, flow: ms.Flow, screen: Screen, *, batch: pa.Table, events: int) -> str:
    """Run the same flow as a stream and compare; return the throughput.

    Fails with exit code 1 unless every row is the batch's.
    """
    screen.heading("3  Stream: the same flow, unchanged, on the topic replayed in small batches")
    with screen.bars(stream=events) as bars:
        report = flow.stream(
            until="end",
            batch_events=STREAM_EVENTS,
            progress=lambda progress: bars["stream"](progress.rows_done),
        )
    _tell(screen, report)
    require(
        report.late == 0 and report.untimed == 0,
        f"the stream left out {report.late:,} late departures and {report.untimed:,} without a time",
    )
    difference = first_difference(batch, _output(app, flow).to_table())
    require(difference is None, f"stream and batch differ: {difference}")
    screen.good(
        f"the stream's result equals the batch's, row for row: {batch.num_rows:,} rows, "
        f"{batch.num_columns} columns"
    )
    return _throughput(report)


def first_difference(batch: pa.Table, stream: pa.Table) -> str | None:
    """Return what differs first between two results, whatever the order of their rows, or None."""
    if batch.schema != stream.schema:
        return f"columns {batch.schema.names} and {stream.schema.names}"
    if batch.num_rows != stream.num_rows:
        return f"{batch.num_rows:,} rows and {stream.num_rows:,}"
    left, right = (table.sort_by(_ORDER).combine_chunks() for table in (batch, stream))
    if left.equals(right):
        return None
    for index, (one, other) in enumerate(zip(left.to_pylist(), right.to_pylist(), strict=True)):
        if one != other:
            return f"row {index:,}: {one} and {other}"
    return "not equal, though each row looks alike"


def _output(app: ms.App, flow: ms.Flow) -> ms.Topic:
    return app.topic(flow.name, schema=flow.schema)


def _tell(screen: Screen, report: ms.RunReport) -> None:
    duration_s = report.duration_us / 1e6
    how = f" in {report.batches:,} micro-batches" if report.mode == "stream" else ""
    screen.fact(
        "read",
        f"{report.rows_in:,} departures{how}, {report.rows_out:,} rows written, in {seconds(duration_s)}: "
        f"{_throughput(report)}",
    )


def _throughput(report: ms.RunReport) -> str:
    return f"{per_second(report.rows_in, report.duration_us / 1e6)} events/s"
