"""PostgreSQL databases of the user, through ADBC: rows come and go as Arrow, by PostgreSQL's COPY.

The driver is the extra ``millstream[sql]``, imported when a flow connects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

from millstream.engines.local.flow_database import (
    LOCK_WAIT_S,
    columns_text,
    created,
    failed,
    on_conflict,
    quoted,
)
from millstream.flows.kinds import BINARY, BOOLEAN, DATE, FLOAT, INTEGER, TEXT
from millstream.flows.sql import SqlSink
from millstream.primitives.errors import ConfigurationError, StepError
from millstream.primitives.schema import TIMESTAMP

_TYPES: Final = {
    INTEGER: "BIGINT", FLOAT: "DOUBLE PRECISION", TEXT: "TEXT", BOOLEAN: "BOOLEAN", BINARY: "BYTEA", DATE: "DATE",
    TIMESTAMP: "TIMESTAMPTZ",
}  # fmt: skip
_STAGING: Final = "millstream_rows"
_NO_COPY: Final = {"adbc.postgresql.use_copy": "false"}


class PostgreSql:
    """A connection. Belongs to one thread at a time."""

    def __init__(self, url: str, *, read_only: bool, where: str) -> None:
        """Connect. Raises StepError when the server is away, ConfigurationError when the driver is not installed."""
        try:
            from adbc_driver_postgresql import dbapi
        except ImportError as error:
            raise ConfigurationError(
                "the driver of PostgreSQL is not installed",
                where="postgresql://…",
                expected="adbc-driver-postgresql",
                next_step="pip install millstream[sql]",
            ) from error
        self.errors: tuple[type[Exception], ...] = (dbapi.Error,)
        settings = ["TIME ZONE 'UTC'", f"lock_timeout = '{LOCK_WAIT_S}s'"]
        settings += ["default_transaction_read_only = on"] if read_only else []
        with failed(self.errors, where):
            self._connection = dbapi.connect(url)
            for setting in settings:
                self.execute(f"SET {setting}")
            self.commit()

    def columns(self, query: str, parameters: Sequence[object]) -> pa.Schema:
        """Return the columns as the server describes them; types that Arrow does not have are null."""
        with self._connection.cursor() as cursor:
            described = cursor.adbc_execute_schema(query, list(parameters) or None)
        return pa.schema([(field.name, _plain(field.type)) for field in described])

    def rows(
        self, query: str, parameters: Sequence[object], schema: pa.Schema
    ) -> Iterator[pa.Table]:
        """Yield the rows as they arrive."""
        with self._connection.cursor() as cursor:
            cursor.execute(query, list(parameters) or None)
            for batch in cursor.fetch_record_batch():
                yield pa.Table.from_arrays(
                    [
                        _cast(array, field)
                        for array, field in zip(batch.columns, schema, strict=True)
                    ],
                    schema=schema,
                )

    def create(self, sink: SqlSink, schema: pa.Schema) -> None:
        """Make the table if it is missing."""
        self.execute(created(sink, schema, _TYPES))
        self.commit()

    def check(self, sink: SqlSink, schema: pa.Schema) -> None:
        """Raise what the server says unless rows of ``schema`` fit the table: it plans an insert, no more."""
        values = ", ".join(f"CAST(NULL AS {_TYPES[field.type]})" for field in schema)
        self.execute(
            f"EXPLAIN {self._into(sink, schema)} SELECT {values}{self._where(sink, schema)}"
        )

    def insert(self, sink: SqlSink, rows: pa.Table) -> None:
        """Add the rows to the open transaction, by a temporary table, so that the server casts them."""
        with self._connection.cursor() as cursor:
            cursor.adbc_ingest(_STAGING, rows, mode="create", temporary=True)
        staged = f"SELECT {columns_text(rows.schema.names)} FROM pg_temp.{_STAGING}"  # noqa: S608 - quoted
        self.execute(f"{self._into(sink, rows.schema)} {staged}{self._where(sink, rows.schema)}")
        self.execute(f"DROP TABLE pg_temp.{_STAGING}")

    def _into(self, sink: SqlSink, schema: pa.Schema) -> str:
        return f"INSERT INTO {quoted(sink.table)} ({columns_text(schema.names)})"

    def _where(self, sink: SqlSink, schema: pa.Schema) -> str:
        return on_conflict(sink, schema.names)

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement, with ``{1}`` for the first value, and return its rows."""
        with self._connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**_NO_COPY)
            if values:
                statement = statement.format(*(f"${number}" for number in range(len(values) + 1)))
            cursor.execute(statement, list(values) or None)
            return list(cursor.fetchall()) if cursor.description else []

    def begin(self) -> None:
        """Nothing to do: the first statement begins a transaction."""

    def commit(self) -> None:
        """Commit it."""
        self._connection.commit()

    def close(self) -> None:
        """Close the connection, and undo what is not committed."""
        self._connection.close()


def _plain(kind: pa.DataType) -> pa.DataType:
    strange = isinstance(kind, pa.BaseExtensionType) or kind == pa.month_day_nano_interval()
    return pa.null() if strange else kind


def _cast(array: pa.Array, field: pa.Field) -> pa.Array:
    try:
        plain = array.storage if isinstance(array, pa.ExtensionArray) else array
        return plain.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise StepError(
            f"column {field.name!r} holds a value that is not {field.type}: {error}",
            where="sql(…)",
            expected="the type that schema= says",
            next_step="CAST(…) the column in the query",
        ) from error
