"""Databases of the user as source and sink of flows: ``ms.sql("SELECT …", url)``, ``ms.sql_table("name", url)``.

Only facts of a plan are here; engines connect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import pyarrow as pa

from millstream.flows.kinds import BINARY, BOOLEAN, DATE, FLOAT, INTEGER, TEXT, LiteralValue
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import TIMESTAMP, SchemaLike

DATABASES: Final = ("sqlite", "postgresql")
STORABLE: Final = (INTEGER, FLOAT, TEXT, BOOLEAN, BINARY, DATE, TIMESTAMP)
"""The types of columns that a table of every database can hold."""


@dataclass(frozen=True)
class SqlQuery:
    """A query that was not looked at yet; ``app.read`` takes it."""

    query: str
    url: str = field(repr=False)
    parameters: tuple[LiteralValue, ...] = field(default=(), repr=False)
    schema: SchemaLike | None = None


@dataclass(frozen=True)
class SqlSource:
    """A query on a database. ``stored`` is what it gives, ``schema`` what the flow sees."""

    query: str
    url: str = field(repr=False)
    parameters: tuple[LiteralValue, ...] = field(repr=False)
    stored: pa.Schema
    schema: pa.Schema

    def text(self) -> str:
        """Return the canonical text; parameters and passwords are not in it."""
        return f"query {self.query!r} on {place_of(self.url)}"


@dataclass(frozen=True)
class SqlSink:
    """A table of a database: rows are added, or with ``key`` put in the place of those with the same key."""

    table: str
    url: str = field(repr=False)
    key: tuple[str, ...] = ()
    create: bool = False

    def text(self) -> str:
        """Return the canonical text, without passwords."""
        by = f" by {', '.join(self.key)}" if self.key else ""
        return f"table {self.table!r}{by} on {place_of(self.url)}"

    def check(self, schema: pa.Schema, *, where: str) -> None:
        """Raise PlanError for columns that no table can hold, and for a key that is none of them."""
        for column in schema:
            if column.type not in STORABLE:
                raise PlanError(
                    f"a table cannot hold column {column.name!r}: {column.type}",
                    where=where,
                    expected="numbers, texts, booleans, bytes, dates and times",
                    next_step="cast() it, or select() it away",
                )
        missing = [name for name in self.key if name not in schema.names]
        if missing:
            raise PlanError(
                f"the key {missing[0]!r} is not a column of the output",
                where=where,
                expected=f"one of: {', '.join(schema.names)}",
            )


def sql(
    query: str,
    url: str,
    *,
    parameters: Sequence[LiteralValue] = (),
    schema: SchemaLike | None = None,
) -> SqlQuery:
    """Return a query as a source of batches: ``app.read(ms.sql("SELECT …", "sqlite:///shop.db"))``.

    ``url`` is ``sqlite:///relative/path``, ``sqlite:////absolute/path`` or ``postgresql://user@host/database``. The
    database binds ``parameters``: ``?`` in SQLite, ``$1`` in PostgreSQL. ``schema`` says the types where the database
    does not: SQLite knows no times and no booleans. Raises PlanError for another database.
    """
    database_of(url)
    return SqlQuery(query, url, tuple(parameters), schema)


def sql_table(
    table: str, url: str, *, key: str | Sequence[str] = (), create: bool = False
) -> SqlSink:
    """Return a table as a sink: ``flow.write(ms.sql_table("orders", "postgresql://…"))``; ``url`` as for ``sql``.

    A batch writes its rows in one transaction; a stream each row once, whatever happens to the process. With ``key`` a
    row takes the place of the one with the same key, which the table must hold unique. The table has to exist with
    fitting columns unless ``create`` is true, which makes it if it is missing. Raises PlanError.
    """
    database_of(url)
    keys = (key,) if isinstance(key, str) else tuple(key)
    if not table:
        raise PlanError("the name of a table is empty", where="sql_table", expected="a name")
    return SqlSink(table, url, keys, create)


def database_of(url: str) -> str:
    """Return the database that a URL means. Raises PlanError for one that is not known."""
    scheme = urlsplit(url).scheme
    name = "postgresql" if scheme == "postgres" else scheme
    if name not in DATABASES:
        raise PlanError(
            f"there is no database for {scheme or 'a URL without a scheme'!r}",
            where="sql(…)",
            expected="sqlite:///path or postgresql://user@host/database",
            next_step="for another database, read its rows in Python: app.read(rows, schema=…)",
        )
    return name


def place_of(url: str) -> str:
    """Return the URL without user, password and options, for texts that people see."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
