"""Tables of a lake as sources and sinks of flows. The formats are in ``flow_delta`` and ``flow_iceberg``.

A stream writes to a table exactly once, though the table and the store commit one after the other:

    commit     the store: place, state, and the rows themselves, as a delivery          flow.committed
    stage      files of the rows, which no version of the table names yet               flow.lake_staged
    deliver    ONE commit of the table: the files, and the delivery's number            flow.lake_committed
    forget     the next commit of the store drops the delivery

Killed before the table's commit: the delivery is in the catalog, and whoever takes the flow over writes it; files that
were staged stay as they are, and vacuuming the table removes them. Killed behind it: the table holds the number, so
nothing is written. What does not fit the table is refused before the store commits.

A batch is one commit of the table. With a name, ``run=``, the table remembers that too.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import closing
from typing import Final

import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_delivery import Delivery, Packed, packed, unpacked
from millstream.engines.local.flow_delta import Delta
from millstream.engines.local.flow_expression import polars_schema
from millstream.engines.local.flow_iceberg import Iceberg
from millstream.engines.local.flow_lake import (
    Loaded,
    Note,
    fitting,
    lake_failed,
    lake_refused,
    plain,
    refuse_misfit,
)
from millstream.engines.local.flow_steps import from_arrow, record_batches, widen
from millstream.flows.kinds import widened_schema
from millstream.flows.lakes import LakeSink, LakeSource, LakeTable, check_source
from millstream.flows.plan import Plan
from millstream.primitives.errors import PlanError, StepError
from millstream.primitives.schema import describe

_RUN: Final = Note(1, 1)
"""A batch is all that its name stands for."""


def opened(lake: LakeTable) -> Delta | Iceberg:
    """Look at a table. Raises ConfigurationError when its library is not installed, StepError when it is away."""
    return Delta(lake) if lake.kind == "delta" else Iceberg(lake)


def lake_source(lake: LakeTable) -> LakeSource:
    """Return a table as a source. Raises PlanError when there is no such table or version."""
    check_source(lake)
    with (
        closing(opened(lake)) as table,
        lake_refused((*table.errors, pl.exceptions.PolarsError), lake.pinned_text()),
    ):
        frame, _ = table.scan()
        empty = frame.collect_schema().to_frame()
    stored = plain(empty.to_arrow(compat_level=pl.CompatLevel.oldest()).schema)
    return LakeSource(lake, stored, widened_schema(stored))


def lake_frame(source: LakeSource) -> tuple[pl.LazyFrame, int, int | None]:
    """Return a version's rows, how many they are, and when it was committed; only what is asked for is read."""
    with (
        closing(opened(source.lake)) as table,
        lake_failed((*table.errors, pl.exceptions.PolarsError), source.text()),
    ):
        frame, committed_us = table.scan()
        rows = frame.select(pl.len()).collect(engine="streaming").item()
        there = frame.collect_schema()
    _refuse_changed(source, there)
    asked = polars_schema(source.stored)
    return widen(frame.select(list(asked)), asked), int(rows), committed_us


def widened_rows(source: LakeSource, batch: pa.RecordBatch | pa.Table) -> pl.DataFrame:
    """Return rows of a table's file as flows compute with them. Raises StepError for columns of other types."""
    frame = from_arrow(batch)
    asked = polars_schema(source.stored)
    missing = [
        pl.lit(None, kind).alias(name) for name, kind in asked.items() if name not in frame.columns
    ]
    whole = frame.with_columns(missing) if missing else frame
    _refuse_changed(source, whole.schema)
    return widen(whole.lazy().select(list(asked)), asked).collect()


def refuse_gone(source: LakeSource, names: Collection[str]) -> None:
    """Raise StepError if a column that the flow reads was removed, or has another name now."""
    gone = next((name for name in source.stored.names if name not in names), None)
    if gone is not None:
        raise _changed(source, gone, "is gone")


def _refuse_changed(source: LakeSource, there: pl.Schema) -> None:
    refuse_gone(source, there.names())
    for name, kind in polars_schema(source.stored).items():
        if there[name] != kind:
            raise _changed(source, name, f"is {there[name]} now")


def _changed(source: LakeSource, name: str, found: str) -> StepError:
    return StepError(
        f"column {name!r} {found}",
        where=source.text(),
        expected=describe(source.stored),
        next_step="build the flow again: it has the columns that the table had then",
    )


def write_lake(sink: LakeSink, frame: pl.LazyFrame, schema: pa.Schema, *, owner: str) -> int:
    """Write a batch by one commit, and return how many rows it wrote: none if its run was written before.

    ``owner`` stands for the store and the flow.
    """
    name = None if sink.lake.run is None else _name_of_run(owner, sink.lake.run)
    with closing(opened(sink.lake)) as table:
        return _loaded(table, sink, frame, schema, name=name)


def _name_of_run(owner: str, run: str) -> str:
    """Return who writes a named run: quoted, so that no other owner and run give the same text."""
    return json.dumps(["run of", owner, run])


def _loaded(
    table: Delta | Iceberg,
    sink: LakeSink,
    frame: pl.LazyFrame,
    schema: pa.Schema,
    *,
    name: str | None,
) -> int:
    lake, where = sink.lake, sink.text()
    with lake_failed(table.errors, where):
        if name is not None and table.noted(name) is not None:
            return 0
        there = table.target()
        if there is not None and lake.mode == "error":
            raise PlanError(
                "there is a table already",
                where=where,
                expected='no table, as mode="error" says',
                next_step='mode="append" adds to it, mode="overwrite" replaces its rows',
            )
        if there is not None:
            refuse_misfit(schema, there, table.partitions(), lake)
            table.refuse_unwritable()
    target = schema if there is None else there
    fitted = fitting(target, where)

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in record_batches(frame, schema):
            yield from fitted(pa.Table.from_batches([batch])).to_batches()

    rows = Loaded(batches())
    try:
        with lake_failed(table.errors, where):
            is_new = table.load(rows, target, exists=there is not None, name=name, note=_RUN)
    except StepError:
        if rows.error is not None:
            raise rows.error from None
        raise
    return rows.rows if is_new else 0


class LakeWriter:
    """Where a stream writes to a table of a lake, exactly once. Belongs to one thread."""

    owes = False
    """A delivery ends with all of it in the table, or with an error."""
    failed = 0

    def __init__(self, sink: LakeSink, schema: pa.Schema, *, owner: str) -> None:
        """Make the table if it is missing, and look whether the rows will fit. Raises PlanError, StepError."""
        self._where = sink.text()
        self._owner = owner
        self.delivered = 0
        self._rows: pa.Table | None = None
        self._table = opened(sink.lake)
        try:
            self._fitted = fitting(self._prepared(sink, schema), self._where)
        except BaseException:
            self.close()
            raise

    def _prepared(self, sink: LakeSink, schema: pa.Schema) -> pa.Schema:
        with lake_failed(self._table.errors, self._where):
            there = self._table.target()
            if there is None:
                self._table.create(schema)
                there = self._table.target()
            assert there is not None, "it was just made"
            refuse_misfit(schema, there, self._table.partitions(), sink.lake)
            self._table.refuse_unwritable()
            self._table.refuse_stream()
        return there

    def write(self, rows: pa.Table) -> Packed | None:
        """Make sure that each value fits, and return the rows for the catalog; None if there are none."""
        if not rows.num_rows:
            return None
        self._rows = self._fitted(rows)
        return packed(self._rows, self._where)

    def deliver(self, delivery: Delivery) -> None:
        """Commit the rows of the last ``write`` under the number that the store's commit gave them."""
        assert self._rows is not None, "rows were written"
        self._append(self._rows, delivery)

    def resume(self, delivery: Delivery | None) -> None:
        """Deliver what the last commit of the store promised, unless the table has it."""
        if delivery is None:
            return
        rows = unpacked(delivery, self._where)
        self._append(rows, delivery)

    def _append(self, rows: pa.Table, delivery: Delivery) -> None:
        with lake_failed(self._table.errors, self._where):
            self._table.append(rows, self._owner, Note(delivery.number, delivery.packed.crc))
        self.delivered = delivery.number

    def close(self) -> None:
        """Close the catalog; between two commits nothing else is open."""
        self._table.close()


def lake_writer(plan: Plan, *, store: str, flow: str) -> LakeWriter | None:
    """Return the writer of a plan that ends in a table of a lake, or None."""
    sink = plan.sink
    if not isinstance(sink, LakeSink):
        return None
    return LakeWriter(sink, plan.schema, owner=owner_of(store, flow))


def owner_of(store: str, flow: str) -> str:
    """Return who writes, to a table."""
    return f"millstream {store} {flow}"
