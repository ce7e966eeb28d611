"""Lists that hold nothing can be written and read like all others, whoever made them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from millstream.primitives.hollow import solid
from millstream.tasks.frames import from_extension, to_extension
from millstream.testing.flows_suite import LocalWorld


def hollow() -> pl.DataFrame:
    """Return lists whose values begin behind their end."""
    schema = {"k": pl.Int64, "n": pl.List(pl.Int64)}
    frame = pl.DataFrame({"k": [0, 1], "n": [[1], []]}, schema=schema)
    return frame.slice(1).with_columns(pl.col("n").list.sort())


def exported() -> pa.Table:
    return hollow().to_arrow(compat_level=pl.CompatLevel.oldest())


def read_again(table: pa.Table) -> list[dict[str, object]]:
    [batch] = table.to_batches()
    message = pa.ipc.read_record_batch(batch.serialize(), batch.schema)
    message.validate(full=True)
    rows: list[dict[str, object]] = message.to_pylist()
    return rows


def test_what_it_is_for() -> None:
    # Once this fails, Arrow or Polars has mended it, and the module can go.
    with pytest.raises(OSError, match="too short"):
        read_again(exported())


def test_hollow_lists_become_solid() -> None:
    assert read_again(solid(exported())) == [{"k": 1, "n": []}]
    nested = hollow().select(pl.struct("n", "k").alias("s"), pl.col("n").implode().alias("l"))
    table = solid(nested.to_arrow(compat_level=pl.CompatLevel.oldest()))
    assert read_again(table) == [{"s": {"n": [], "k": 1}, "l": [[]]}]


def test_other_data_is_left_alone() -> None:
    table = pa.table({"n": [[1], []], "s": [{"x": [1]}, None], "m": ["a", "b"]})
    assert solid(table) is table


def test_a_topic_gives_back_what_was_appended(store_path: Path) -> None:
    with LocalWorld(store_path) as world:
        schema = {"k": int, "n": pa.list_(pa.int64())}
        world.topic("lists", schema)
        world.log.append(world.log.topic("lists"), exported())
        world.log.append(world.log.topic("lists"), hollow())
        assert world.events("lists") == [{"k": 1, "n": []}] * 2


def test_a_task_gets_what_it_was_called_with() -> None:
    stored = to_extension(exported())
    assert stored is not None
    given = from_extension(stored.code, memoryview(stored.data))
    assert isinstance(given, pa.Table)
    assert given.to_pylist() == [{"k": 1, "n": []}]
