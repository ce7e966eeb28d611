"""Queries as sources and tables as sinks of flows. Databases are in ``flow_sqlite`` and ``flow_postgresql``.

A stream writes to a table exactly once, though the database and the store commit one after the other:

    write      the rows, in a transaction of the database that stays open               flow.sql_written
    commit     the store: place, state, and the rows themselves, as a delivery          flow.committed
    deliver    the delivery's number beside the rows, and the database commits          flow.sql_committed
    forget     the next commit of the store drops the delivery

Killed before the store's commit: the database undoes the rows, and they are computed again. Killed after it: the
delivery is in the catalog, and whoever takes the flow over writes it, unless the table ``millstream_flow`` of the
database, changed in the transaction of the rows, holds its number. What the database refuses is refused before the
store commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import unquote, urlsplit

import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_database import Database, failed, refused
from millstream.engines.local.flow_delivery import Delivery, Packed, packed, unpacked
from millstream.engines.local.flow_lazy import lazy_frames
from millstream.engines.local.flow_postgresql import PostgreSql
from millstream.engines.local.flow_sqlite import Sqlite
from millstream.engines.local.flow_steps import from_arrow, record_batches, widen
from millstream.flows.kinds import widened_schema
from millstream.flows.plan import Plan
from millstream.flows.sql import SqlQuery, SqlSink, SqlSource, database_of
from millstream.primitives.errors import PlanError, StepError
from millstream.primitives.schema import to_arrow_schema
from millstream.primitives.telemetry import reach

_LEDGER: Final = (
    "CREATE TABLE IF NOT EXISTS millstream_flow (store TEXT NOT NULL, flow TEXT NOT NULL, number BIGINT NOT NULL, "
    "crc BIGINT NOT NULL, PRIMARY KEY (store, flow))"
)
_OPEN: Final = "INSERT INTO millstream_flow VALUES ({1}, {2}, 0, 0) ON CONFLICT DO NOTHING"
_LOCK: Final = "UPDATE millstream_flow SET number = number WHERE store = {1} AND flow = {2}"
_LAST: Final = "SELECT number, crc FROM millstream_flow WHERE store = {1} AND flow = {2}"
_NOTE: Final = "UPDATE millstream_flow SET number = {3}, crc = {4} WHERE store = {1} AND flow = {2}"


def sql_source(query: SqlQuery) -> SqlSource:
    """Return a query as a source; the database describes its columns. Raises PlanError, StepError when it is away."""
    where = f"sql({query.query!r})"
    database = _opened(query.url, mode="ro", where=where)
    try:
        with refused(database.errors, where):
            found = database.columns(query.query, query.parameters)
    finally:
        database.close()
    if not found.names or len(set(found.names)) < len(found.names):
        raise PlanError(
            f"the query gives the columns {found.names}",
            where=where,
            expected="at least one column, and different names",
            next_step="name them in the query: SELECT a.id AS order_id, …",
        )
    stored = found if query.schema is None else to_arrow_schema(query.schema)
    if stored.names != found.names:
        raise PlanError(
            f"schema= has the columns {', '.join(stored.names)}",
            where=where,
            expected=f"the query's columns, in its order: {', '.join(found.names)}",
        )
    unknown = [field.name for field in stored if field.type == pa.null()]
    if unknown:
        raise PlanError(
            f"the database does not say what type column {unknown[0]!r} has",
            where=where,
            expected="columns of numbers, texts, booleans, bytes, dates and times",
            next_step="CAST(…) it in the query, or say the types of all columns: sql(…, schema={…})",
        )
    return SqlSource(query.query, query.url, query.parameters, stored, widened_schema(stored))


def sql_frame(source: SqlSource, read: Callable[[int], None]) -> pl.LazyFrame:
    """Return the rows of a query; it runs, and they are taken in pieces, while the frame is computed."""

    def frames() -> Iterator[pl.DataFrame]:
        for table in _pieces(source):
            read(table.num_rows)
            stored = from_arrow(table)
            yield widen(stored.lazy(), stored.schema).collect()

    return lazy_frames(frames, source.schema)


def _pieces(source: SqlSource) -> Iterator[pa.Table]:
    database = _opened(source.url, mode="ro", where=source.text())
    try:
        with failed(database.errors, source.text()):
            yield from database.rows(source.query, source.parameters, source.stored)
    finally:
        database.close()


def write_table(sink: SqlSink, frame: pl.LazyFrame, schema: pa.Schema) -> int:
    """Write the rows of a batch in one transaction, and return how many they are."""
    database = _table(sink, schema)
    rows = 0
    try:
        with failed(database.errors, sink.text()):
            database.begin()
            for batch in record_batches(frame, schema):
                _insert(database, sink, pa.Table.from_batches([batch]))
                rows += batch.num_rows
            reach("flow.sql_written")
            database.commit()
            reach("flow.sql_committed")
    finally:
        database.close()
    return rows


class TableWriter:
    """Where a stream writes to a table, exactly once. Belongs to one thread."""

    owes = False
    """A delivery ends with all of it in the table, or with an error."""
    failed = 0

    def __init__(self, sink: SqlSink, schema: pa.Schema, *, store: str, flow: str) -> None:
        """Connect, and look whether the rows will fit. Raises PlanError, and StepError when the database is away."""
        self._sink = sink
        self._name = (store, flow)
        self.delivered = 0
        """The number of the last delivery that the database is known to have."""
        self._database = _table(sink, schema)
        try:
            with failed(self._database.errors, sink.text()):
                self._database.begin()
                self._database.execute(_LEDGER)
                self._database.execute(_OPEN, *self._name)
                self._database.commit()
        except BaseException:
            self.close()
            raise

    def write(self, rows: pa.Table) -> Packed | None:
        """Add the rows to a transaction of the database, and return them for the catalog; None if there are none."""
        if not rows.num_rows:
            return None
        promised = packed(rows, self._sink.text())
        with failed(self._database.errors, self._sink.text()):
            self._begun()
            _insert(self._database, self._sink, rows)
        reach("flow.sql_written")
        return promised

    def deliver(self, delivery: Delivery) -> None:
        """Commit the rows of the last ``write`` under the number that the store's commit gave them."""
        with failed(self._database.errors, self._sink.text()):
            self._database.execute(_NOTE, *self._name, delivery.number, delivery.packed.crc)
            self._database.commit()
        self.delivered = delivery.number
        reach("flow.sql_committed")

    def resume(self, delivery: Delivery | None) -> None:
        """Deliver what the last commit of the store promised, unless the database has it."""
        if delivery is None:
            return
        rows = unpacked(delivery, self._sink.text())
        with failed(self._database.errors, self._sink.text()):
            number, crc = self._begun()
            if (number, crc) == (delivery.number, delivery.packed.crc):
                self._database.commit()
                self.delivered = number
                return
            if number >= delivery.number:
                raise StepError(
                    f"the database has delivery {number} of the flow, and the store is at {delivery.number}",
                    where=f"{self._sink.text()}, table millstream_flow",
                    expected="a database that is not ahead of the store",
                    next_step="an older copy of the store was put back, or another process goes on with the flow: "
                    "mend that, or remove the flow's row from millstream_flow to write these rows again",
                )
            _insert(self._database, self._sink, rows)
        self.deliver(delivery)

    def _begun(self) -> tuple[int, int]:
        """Begin a transaction that holds the flow's row, and return the last number there and its checksum."""
        self._database.begin()
        self._database.execute(_LOCK, *self._name)
        [(number, crc)] = self._database.execute(_LAST, *self._name)
        return number, crc

    def close(self) -> None:
        """Close the connection; rows that no delivery committed are undone."""
        self._database.close()


def table_writer(plan: Plan, *, store: str, flow: str) -> TableWriter | None:
    """Return the writer of a plan that ends in a table, or None."""
    sink = plan.sink
    return (
        TableWriter(sink, plan.schema, store=store, flow=flow)
        if isinstance(sink, SqlSink)
        else None
    )


def _table(sink: SqlSink, schema: pa.Schema) -> Database:
    """Connect, and make sure that rows of ``schema`` fit the table."""
    database = _opened(sink.url, mode="rwc" if sink.create else "rw", where=sink.text())
    try:
        with refused(database.errors, sink.text()):
            if sink.create:
                database.create(sink, schema)
            database.check(sink, schema)
    except BaseException:
        database.close()
        raise
    return database


def _opened(url: str, *, mode: str, where: str) -> Database:
    if database_of(url) == "sqlite":
        path = unquote(urlsplit(url).path).removeprefix("/")
        with failed(Sqlite.errors, where):
            return Sqlite(path, mode=mode)
    return PostgreSql(url, read_only=mode == "ro", where=where)


def _insert(database: Database, sink: SqlSink, rows: pa.Table) -> None:
    """Add rows to the open transaction; of those with the same key the last one."""
    if sink.key:
        frame = from_arrow(rows)
        if any(frame[name].null_count() for name in sink.key):
            raise StepError(
                f"a row has no key: {', '.join(sink.key)} is null",
                where=sink.text(),
                expected="a key in each row",
                next_step="filter such rows out before write",
            )
        last = frame.unique(subset=list(sink.key), keep="last", maintain_order=True)
        if last.height < frame.height:
            rows = last.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(rows.schema)
    database.insert(sink, rows)
