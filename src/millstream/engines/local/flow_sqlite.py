"""SQLite databases of the user, through the interpreter's ``sqlite3``.

Not through ``apsw``, which opens the store: two copies of SQLite in one process that open the same file drop each
other's locks, and it is ``sqlite3`` that the user's own code opens it with.

SQLite has no times and no booleans. They are written as ISO 8601 in UTC, which sorts as time does, and as 0 and 1; a
``schema`` reads them back. NaN becomes null there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final
from urllib.parse import quote

import pyarrow as pa

from millstream.engines.local.flow_database import (
    LOCK_WAIT_S,
    columns_text,
    created,
    on_conflict,
    quoted,
)
from millstream.flows.kinds import BINARY, BOOLEAN, DATE, FLOAT, INTEGER, TEXT
from millstream.flows.sql import SqlSink
from millstream.primitives.errors import PlanError, StepError
from millstream.primitives.schema import TIMESTAMP

PIECE_ROWS: Final = 10_000
LOOK_ROWS: Final = 1_000
"""How many rows are looked at for the types of a query's columns."""

_TYPES: Final = {
    INTEGER: "INTEGER", FLOAT: "REAL", TEXT: "TEXT", BOOLEAN: "INTEGER", BINARY: "BLOB", DATE: "TEXT",
    TIMESTAMP: "TEXT",
}  # fmt: skip
_OF_VALUES: Final = {
    frozenset({int}): INTEGER,
    frozenset({float}): FLOAT,
    frozenset({int, float}): FLOAT,
    frozenset({str}): TEXT,
    frozenset({bytes}): BINARY,
}
_OF_AFFINITY: Final = {"INT": INTEGER, "REAL": FLOAT, "TEXT": TEXT}


class Sqlite:
    """A connection to a file. Belongs to one thread at a time."""

    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, path: str, *, mode: str) -> None:
        """``mode`` is ``ro``, ``rw`` or ``rwc``, which makes a missing file."""
        self._connection = sqlite3.connect(
            f"file:{quote(path)}?mode={mode}",
            uri=True,
            timeout=LOCK_WAIT_S,
            isolation_level=None,
            check_same_thread=False,  # a batch reads in Polars' threads, one after the other
        )

    def columns(self, query: str, parameters: Sequence[object]) -> pa.Schema:
        """Return the columns by the values of the first rows, else by how they were declared."""
        cursor = self._connection.execute(query, _stored_values(parameters))
        names = [entry[0] for entry in cursor.description or ()]
        looked = cursor.fetchmany(LOOK_ROWS)
        cursor.close()
        kinds = [_kind_of(name, [row[n] for row in looked]) for n, name in enumerate(names)]
        if any(kind == pa.null() for kind in kinds):
            declared = self._declared(query, parameters)
            kinds = [
                _OF_AFFINITY.get(declared.get(name, ""), kind) if kind == pa.null() else kind
                for name, kind in zip(names, kinds, strict=True)
            ]
        return pa.schema(list(zip(names, kinds, strict=True)))

    def _declared(self, query: str, parameters: Sequence[object]) -> dict[str, str]:
        body = query.strip().rstrip(";")
        # A temporary table is no part of the file, which is opened for reading only.
        self._connection.execute(
            f"CREATE TEMP TABLE millstream_columns AS SELECT * FROM ({body}) LIMIT 0",  # noqa: S608 - the user's query
            _stored_values(parameters),
        )
        described = self._connection.execute("PRAGMA temp.table_info(millstream_columns)")
        return {name: kind for _, name, kind, *_ in described}

    def rows(
        self, query: str, parameters: Sequence[object], schema: pa.Schema
    ) -> Iterator[pa.Table]:
        """Yield the rows in pieces. Raises StepError for a value of another type than its column."""
        cursor = self._connection.execute(query, _stored_values(parameters))
        while piece := cursor.fetchmany(PIECE_ROWS):
            columns = zip(*piece, strict=True)
            arrays = [_array(values, field) for values, field in zip(columns, schema, strict=True)]
            yield pa.Table.from_arrays(arrays, schema=schema)

    def create(self, sink: SqlSink, schema: pa.Schema) -> None:
        """Make the table if it is missing."""
        self._connection.execute(created(sink, schema, _TYPES))

    def check(self, sink: SqlSink, schema: pa.Schema) -> None:
        """Raise what the database raises, or PlanError, unless rows of ``schema`` fit the table."""
        self._connection.execute(f"EXPLAIN {self._insert(sink, schema)}", [None] * len(schema))
        *where, table = sink.table.split(".")
        info = "SELECT name, type FROM pragma_table_info(?, ?)"
        declared = dict(self._connection.execute(info, (table, where[0] if where else "main")))
        folded = {name.casefold(): kind for name, kind in declared.items()}
        for field in schema:
            kind = folded.get(field.name.casefold(), "")
            if not _fits(field.type, kind.upper()):
                raise PlanError(
                    f"column {field.name!r} of the table is {kind}, and the flow gives {field.type}",
                    where=sink.text(),
                    expected=f"a column declared as {_TYPES[field.type]}",
                    next_step="cast() it in the flow, or change the table",
                )

    def insert(self, sink: SqlSink, rows: pa.Table) -> None:
        """Add the rows to the open transaction."""
        columns = [_stored_values(column.to_pylist()) for column in rows.columns]
        self._connection.executemany(self._insert(sink, rows.schema), zip(*columns, strict=True))

    def _insert(self, sink: SqlSink, schema: pa.Schema) -> str:
        marks = ", ".join("?" * len(schema))
        names = columns_text(schema.names)
        into = f"INSERT INTO {quoted(sink.table)} ({names}) VALUES ({marks})"  # noqa: S608 - quoted
        return into + on_conflict(sink, schema.names)

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement, with ``{1}`` for the first value, and return its rows."""
        if values:
            names = [f"v{number}" for number in range(len(values) + 1)]
            statement = statement.format(*(f":{name}" for name in names))
            named = dict(zip(names[1:], values, strict=True))
            return self._connection.execute(statement, named).fetchall()
        return self._connection.execute(statement).fetchall()

    def begin(self) -> None:
        """Begin a transaction that may write; the next one waits for its end."""
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Commit it."""
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the connection, and undo what is not committed."""
        self._connection.close()


def _kind_of(name: str, values: list[object]) -> pa.DataType:
    found = frozenset(type(value) for value in values if value is not None)
    if not found:
        return pa.null()
    if found not in _OF_VALUES:
        kinds = ", ".join(sorted(kind.__name__ for kind in found))
        raise PlanError(
            f"column {name!r} holds values of different types: {kinds}",
            where="sql(…)",
            expected="one type a column",
            next_step="CAST(…) it in the query",
        )
    return _OF_VALUES[found]


def _array(values: Sequence[Any], field: pa.Field) -> pa.Array:
    try:
        kind = field.type
        if pa.types.is_timestamp(kind):
            values = [None if v is None else _utc(datetime.fromisoformat(v)) for v in values]
        elif pa.types.is_date(kind):
            values = [None if v is None else date.fromisoformat(v) for v in values]
        elif pa.types.is_boolean(kind):
            values = [None if v is None else {0: False, 1: True}[v] for v in values]
        return pa.array(values, type=kind)
    except (pa.ArrowException, TypeError, ValueError, KeyError) as error:
        raise StepError(
            f"column {field.name!r} holds a value that is not {field.type}: {error}",
            where="sql(…)",
            expected="the type that the first rows show, or schema= says",
            next_step="CAST(…) the column in the query, or say schema=",
        ) from error


def _utc(when: datetime) -> datetime:
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when


def _stored_values(values: Sequence[Any]) -> list[Any]:
    """Return values as SQLite holds them."""
    return [
        value.astimezone(UTC).isoformat(sep=" ", timespec="microseconds")
        if isinstance(value, datetime)
        else value.isoformat()
        if isinstance(value, date)
        else value
        for value in values
    ]


def _fits(kind: pa.DataType, declared: str) -> bool:
    """Return whether a column that was declared so holds values of the kind as they are: SQLite's rules of affinity."""
    if "INT" in declared:
        return kind in (INTEGER, BOOLEAN)
    if any(word in declared for word in ("CHAR", "CLOB", "TEXT")):
        return kind in (TEXT, DATE, TIMESTAMP)
    if any(word in declared for word in ("REAL", "FLOA", "DOUB")):
        return kind in (FLOAT, INTEGER)
    return True
