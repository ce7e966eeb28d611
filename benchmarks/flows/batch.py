"""The same aggregation as a flow and as plain Polars, over a Parquet file; and as a flow over a topic."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

import millstream as ms
from benchmarks.flows.clicks import SCHEMA, clicks
from benchmarks.harness import OWN, Contender, Figure, Settings, Values, rate, run_rounds
from benchmarks.peers.contract import PROCESS

_VALUE = "rows/s"
_APPENDED_ROWS = 100_000


def batch(settings: Settings) -> list[Figure]:
    """Return the rates over a file, beside Polars, and over a topic."""
    table = clicks(settings)
    note = f"{table.num_rows:,} rows: filter, group by 1,000 pages, count and sum; out of the page cache"
    contenders = [Contender(OWN, partial(_measure_file, settings, table))]
    if settings.with_peers:
        contenders.append(Contender("polars", partial(_measure_polars, settings, table)))
    outcome = run_rounds(contenders, settings, title="batch over Parquet")
    topic = Contender(OWN, partial(_measure_topic, settings, table))
    over_topic = run_rounds([topic], settings, title="batch over a topic")
    return [
        Figure(
            "batch over a Parquet file",
            outcome.of(OWN, _VALUE),
            _VALUE,
            peers=outcome.peers(_VALUE),
            notes=(note,),
        ),
        Figure("batch over a topic", over_topic.of(OWN, _VALUE), _VALUE, notes=(note,)),
    ]


def aggregated(source: ms.Flow) -> ms.Flow:
    """Return the flow that is measured."""
    return (
        source.filter(ms.col("price") > 0)
        .group_by("page")
        .agg(hits=ms.count(), revenue=ms.sum("price"))
    )


def _measure_file(settings: Settings, table: pa.Table, directory: Path) -> Values:
    path = directory / "clicks.parquet"
    pq.write_table(table, path)
    with _app(directory) as app:
        flow = aggregated(app.read(path))
        return {_VALUE: _rate(settings, table, lambda: flow.collect().num_rows)}


def _measure_polars(settings: Settings, table: pa.Table, directory: Path) -> Values:
    path = directory / "clicks.parquet"
    pq.write_table(table, path)
    query = (
        pl.scan_parquet(path)
        .filter(pl.col("price") > 0)
        .group_by("page")
        .agg(hits=pl.len(), revenue=pl.col("price").sum())
    )
    return {_VALUE: _rate(settings, table, lambda: query.collect(engine="streaming").height)}


def _measure_topic(settings: Settings, table: pa.Table, directory: Path) -> Values:
    with _app(directory) as app:
        topic = app.topic("clicks", schema=SCHEMA)
        for first in range(0, table.num_rows, _APPENDED_ROWS):
            topic.append(table.slice(first, _APPENDED_ROWS))
        flow = aggregated(app.read(topic))
        return {_VALUE: _rate(settings, table, lambda: flow.collect().num_rows)}


def _app(directory: Path) -> ms.App:
    return ms.App("bench", store=directory / "bench.mill", durability=PROCESS)


def _rate(settings: Settings, table: pa.Table, groups: Callable[[], int]) -> float:
    expected = groups()

    def step() -> int:
        if groups() != expected:
            raise RuntimeError(f"not {expected} groups any more")
        return int(table.num_rows)

    return rate(step, settings.seconds)
