"""Between Arrow and frames: few rows take a short way, and are the same as by the long one."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from millstream.engines.local.flow_few import FEW_ROWS_MAX
from millstream.engines.local.flow_sources import event_frame
from millstream.engines.local.flow_steps import from_arrow, to_arrow, widen
from millstream.log.events import Chunk, EventBatch

NOON = datetime(2026, 2, 3, 12, tzinfo=UTC)
VALUES: list[tuple[pa.DataType, Any]] = [
    (pa.int8(), 3),
    (pa.uint64(), 3),
    (pa.int64(), -3),
    (pa.float32(), 0.5),
    (pa.float64(), float("inf")),
    (pa.bool_(), True),
    (pa.string(), "añ"),
    (pa.large_string(), "b"),
    (pa.binary(), b"\0c"),
    (pa.date32(), date(2026, 2, 3)),
    (pa.timestamp("us", tz="UTC"), NOON),
    (pa.timestamp("ms", tz="Europe/Paris"), NOON),
    (pa.timestamp("ns"), NOON.replace(tzinfo=None)),
    (pa.duration("us"), timedelta(seconds=1)),
    (pa.decimal128(10, 2), Decimal("1.25")),
    (pa.list_(pa.int64()), [1, 2]),
    (pa.list_(pa.string()), []),
    (pa.struct([("x", pa.int64()), ("y", pa.string())]), {"x": 1, "y": None}),
    (pa.dictionary(pa.int32(), pa.string()), "d"),
    (pa.null(), None),
]


def batch_of(kind: pa.DataType, values: list[Any]) -> pa.RecordBatch:
    schema = pa.schema([("n", pa.int64()), ("v", kind)])
    columns = [pa.array(range(len(values)), pa.int64()), pa.array(values, kind)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def events_of(*batches: pa.RecordBatch) -> EventBatch:
    chunks, offset = [], 0
    for batch in batches:
        end = offset + batch.num_rows
        chunks.append(Chunk(batch, offset, end, None, ((1, batch.num_rows),)))
        offset = end
    return EventBatch("events", 0, chunks)


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=lambda value: str(value))
def test_events_are_the_frame_that_polars_makes_of_their_table(kind: pa.DataType, value: Any):
    one, other = batch_of(kind, [value, None]), batch_of(kind, [None, value, value]).slice(1)
    for batches in ([one], [other], [one, other]):
        long_way = from_arrow(pa.Table.from_batches(batches))
        expected = widen(long_way.lazy(), long_way.schema).collect()
        assert_frame_equal(event_frame(events_of(*batches)), expected, check_exact=True)


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=lambda value: str(value))
def test_few_rows_become_the_table_that_many_do(kind: pa.DataType, value: Any):
    frame = from_arrow(batch_of(kind, [value, None]))
    schema = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    many = pl.concat([frame] * (FEW_ROWS_MAX // 2 + 1))
    few_rows, many_rows = to_arrow(frame, schema), to_arrow(many, schema)
    assert few_rows.schema == many_rows.schema == schema
    assert few_rows.equals(many_rows.slice(0, 2))


def test_columns_are_chosen_by_name_whatever_their_order():
    frame = pl.DataFrame({"b": ["x"], "a": [1], "more": [2]})
    schema = pa.schema([("a", pa.int64()), ("b", pa.string())])
    assert to_arrow(frame, schema).to_pylist() == [{"a": 1, "b": "x"}]
