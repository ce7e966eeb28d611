"""The events of this benchmark: arithmetic, so that every system can have the same ones, also one that makes its own.

Event ``i`` of ``n`` has one of 10,000 keys, a value below 1,000, and a time up to a second before its place in an
order of 50,000 a second: up to a second of disorder. A directory of events holds ``parts/*.parquet`` in order, and
``end/end.parquet``: one event much later, for who closes a window only when a later event has come.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

INTEGER, STRING = "integer", "string"
KEYS = 10_000
START_US = 1_767_225_600_000_000
"""2026-01-01, 00:00 UTC."""
KEY_FACTOR, KEY_MODULUS = 2_654_435_761, 2**32
VALUES = 1_000
STEP_US = 20
DISORDER_FACTOR, DISORDER_US = 7_919, 1_000_000
PART_EVENTS = 500_000
"""Spark takes one file a micro-batch; more of them cost it more than they give."""
_END_US = 3_600_000_000


def events(first: int, count: int, keys: str) -> pa.Table:
    """Return events as columns ``key``, ``value``, ``at``."""
    number = np.arange(first, first + count, dtype=np.int64)
    key = number * KEY_FACTOR % KEY_MODULUS % KEYS
    at = START_US + number * STEP_US - number * DISORDER_FACTOR % DISORDER_US
    return pa.table(
        {
            "key": pa.array(key) if keys == INTEGER else _names().take(pa.array(key)),
            "value": number % VALUES,
            "at": pa.array(at, pa.timestamp("us", tz="UTC")),
        }
    )


def write_events(directory: Path, count: int, keys: str) -> None:
    """Write so many events into a new directory."""
    for part in ("parts", "end"):
        (directory / part).mkdir(parents=True)
    for number, first in enumerate(range(0, count, PART_EVENTS)):
        part = events(first, min(PART_EVENTS, count - first), keys)
        pq.write_table(part, directory / "parts" / f"{number:04}.parquet")
    pq.write_table(_end(count, keys), directory / "end" / "end.parquet")


def parts(directory: str, batch_events: int) -> Iterator[pa.RecordBatch]:
    """Read the events of a directory in batches."""
    for path in sorted((Path(directory) / "parts").iterdir()):
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_events)


def write_result(directory: str, rows: list[tuple[int, int | str, int, int]]) -> None:
    """Write ``start_us, key, hits, total``."""
    names = ("start_us", "key", "hits", "total")
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    table = pa.table({name: list(column) for name, column in zip(names, columns, strict=True)})
    Path(directory).mkdir(exist_ok=True)
    pq.write_table(table, Path(directory) / "result.parquet")


def _names() -> pa.Array:
    return pa.array([f"user-{number:06}" for number in range(KEYS)])


def _end(count: int, keys: str) -> pa.Table:
    last = events(count, 1, keys)
    at = pa.array([START_US + count * STEP_US + _END_US], pa.timestamp("us", tz="UTC"))
    return last.set_column(2, "at", at)
