"""What flows ask of a database of the user. One class a database: ``flow_sqlite``, ``flow_postgresql``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa

from millstream.flows.sql import SqlSink
from millstream.primitives.errors import PlanError, StepError

LOCK_WAIT_S = 30
"""How long a write waits for others that hold the table or the database."""


class Database(Protocol):
    """A connection. Belongs to one thread at a time; nothing is kept that was not committed."""

    errors: tuple[type[Exception], ...]

    def columns(self, query: str, parameters: Sequence[object]) -> pa.Schema:
        """Return the columns of a query; one whose type is not known is null."""

    def rows(
        self, query: str, parameters: Sequence[object], schema: pa.Schema
    ) -> Iterator[pa.Table]:
        """Run a query and yield its rows in pieces of ``schema``."""

    def create(self, sink: SqlSink, schema: pa.Schema) -> None:
        """Make the table if it is missing."""

    def check(self, sink: SqlSink, schema: pa.Schema) -> None:
        """Raise what the database raises, or PlanError, unless rows of ``schema`` fit the table."""

    def insert(self, sink: SqlSink, rows: pa.Table) -> None:
        """Add the rows to the open transaction."""

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement, with ``{1}`` for the first value, and return its rows."""

    def begin(self) -> None:
        """Begin a transaction that may write."""

    def commit(self) -> None:
        """Commit it."""

    def close(self) -> None:
        """Close the connection, and undo what is not committed."""


def quoted(name: str) -> str:
    """Return the name of a table or a column as SQL; a dot divides schema and table."""
    return ".".join('"{}"'.format(part.replace('"', '""')) for part in name.split("."))


def column(name: str) -> str:
    """Return the name of a column as SQL."""
    return '"{}"'.format(name.replace('"', '""'))


def columns_text(names: Sequence[str]) -> str:
    """Return a list of columns as SQL."""
    return ", ".join(map(column, names))


def on_conflict(sink: SqlSink, names: Sequence[str]) -> str:
    """Return the clause that puts a row in the place of the one with the same key."""
    if not sink.key:
        return ""
    others = [name for name in names if name not in sink.key]
    sets = ", ".join(f"{column(name)} = excluded.{column(name)}" for name in others)
    return f" ON CONFLICT ({columns_text(sink.key)}) DO " + (
        f"UPDATE SET {sets}" if sets else "NOTHING"
    )


def created(sink: SqlSink, schema: pa.Schema, types: dict[pa.DataType, str]) -> str:
    """Return the statement that makes the table."""
    parts = [f"{column(field.name)} {types[field.type]}" for field in schema]
    if sink.key:
        parts.append(f"PRIMARY KEY ({columns_text(sink.key)})")
    return f"CREATE TABLE IF NOT EXISTS {quoted(sink.table)} ({', '.join(parts)})"


@contextmanager
def refused(errors: tuple[type[Exception], ...], where: str) -> Iterator[None]:
    """Turn what a database says while a plan is looked at into PlanError."""
    try:
        yield
    except errors as error:
        raise PlanError(
            f"the database refuses it: {said(error)}",
            where=where,
            expected="a query, a table, columns and a unique key that the database has",
            next_step="mend the name or the type there or here; sql_table(…, create=True) makes a missing table",
        ) from error


@contextmanager
def failed(errors: tuple[type[Exception], ...], where: str) -> Iterator[None]:
    """Turn what a database says while a flow runs into StepError."""
    try:
        yield
    except errors as error:
        raise StepError(
            f"the database failed: {said(error)}",
            where=where,
            expected="a database that can be reached and takes the rows",
            next_step="mend that and run the flow again; a stream has lost nothing, and nothing comes twice",
        ) from error


def said(error: Exception) -> str:
    """Return the first line of what a database says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
