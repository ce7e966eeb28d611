"""A replay of a topic as a stream in micro-batches: windows, groups, and an exactly-once commit for each of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa

import millstream as ms
from benchmarks.flows.clicks import SCHEMA, clicks
from benchmarks.harness import OWN, Contender, Figure, Settings, Values, run_rounds
from benchmarks.peers.contract import DISK, PROCESS, Place

_VALUE = "rows/s"


def stream(settings: Settings) -> list[Figure]:
    """Return the rates by size of the micro-batches."""
    table = clicks(settings)
    cases = [(10_000, PROCESS), (100_000, PROCESS), (10_000, DISK)]
    return [_figure(settings, table, events, durability) for events, durability in cases]


def _figure(settings: Settings, table: pa.Table, batch_events: int, durability: str) -> Figure:
    name = f"stream, micro-batches of {batch_events}{', disk' if durability == DISK else ''}"
    contender = Contender(OWN, partial(_measure, table, batch_events, durability))
    outcome = run_rounds([contender], settings, title=name)
    return Figure(
        name,
        outcome.of(OWN, _VALUE),
        _VALUE,
        durability,
        notes=(f"{table.num_rows:,} rows, windows of 10 s, 1,000 pages, one commit a micro-batch",),
    )


def _measure(table: pa.Table, batch_events: int, durability: str, directory: Path) -> Values:
    place = Place(directory, durability)
    with ms.App("bench", store=place.directory / "bench.mill", durability=durability) as app:
        topic = app.topic("clicks", schema=SCHEMA)
        for first in range(0, table.num_rows, batch_events):
            topic.append(table.slice(first, batch_events))
        flow = (
            app.read(topic)
            .filter(ms.col("price") > 0)
            .window(ms.tumbling("10s"), on="at", late="1s")
            .group_by("page")
            .agg(hits=ms.count(), revenue=ms.sum("price"))
            .write("revenue")
        )
        report = flow.stream(until="end", batch_events=batch_events)
        if report.rows_in != table.num_rows:
            raise RuntimeError(f"{report.rows_in} of {table.num_rows} rows went through")
        return {_VALUE: report.rows_per_s}
