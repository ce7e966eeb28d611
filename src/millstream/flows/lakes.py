"""Tables of a lake as source and sink of flows: ``ms.delta("path")``, ``ms.iceberg("db.name", catalog=…)``.

Only facts of a plan are here; engines open the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePath
from typing import Final

import pyarrow as pa

from millstream.flows.kinds import BINARY, BOOLEAN, DATE, FLOAT, INTEGER, TEXT
from millstream.flows.sql import place_of
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import TIMESTAMP

MODES: Final = ("append", "overwrite", "error")
CHANGES: Final = ("fail", "skip")
TITLES: Final = {"delta": "Delta", "iceberg": "Iceberg"}
PARTITIONS: Final = (INTEGER, TEXT, BOOLEAN, DATE, TIMESTAMP)
"""The types of columns by which a table can be partitioned."""

_PLAIN: Final = (INTEGER, FLOAT, TEXT, BOOLEAN, BINARY, DATE, TIMESTAMP)


@dataclass(frozen=True)
class LakeTable:
    """A table that was not looked at yet; ``app.read`` and ``flow.write`` take it."""

    kind: str
    table: str
    catalog: str | tuple[tuple[str, str], ...] = field(default="", repr=False)
    """Of Iceberg: a name of the configuration, or properties."""
    storage: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    version: int | None = None
    timestamp: datetime | None = None
    on_change: str = "fail"
    mode: str = "append"
    partition_by: tuple[str, ...] = ()
    run: str | None = None

    @property
    def name(self) -> str:
        """The last part of its place."""
        return PurePath(self.table).name if self.kind == "delta" else self.table.split(".")[-1]

    @property
    def identity(self) -> tuple[object, ...]:
        """What is the same for the same table."""
        return self.kind, self.table.rstrip("/"), self.catalog

    @property
    def is_pinned(self) -> bool:
        """Whether it is read as it was once."""
        return self.version is not None or self.timestamp is not None

    def text(self) -> str:
        """Return the canonical text, without passwords."""
        if self.kind == "delta":
            place = place_of(self.table) if "://" in self.table else self.table
            return f"Delta table {place!r}"
        if isinstance(self.catalog, str):
            return f"Iceberg table {self.table!r} of catalog {self.catalog!r}"
        uri = dict(self.catalog).get("uri", "")
        return f"Iceberg table {self.table!r} of {place_of(uri) if '://' in uri else uri}"

    def pinned_text(self) -> str:
        """Return the canonical text with the version that is read."""
        if self.version is not None:
            word = "version" if self.kind == "delta" else "snapshot"
            return f"{self.text()} at {word} {self.version}"
        return (
            self.text()
            if self.timestamp is None
            else f"{self.text()} as of {self.timestamp.isoformat()}"
        )


@dataclass(frozen=True)
class LakeSource:
    """A table to read. ``stored`` is what it holds, ``schema`` what the flow sees."""

    lake: LakeTable
    stored: pa.Schema
    schema: pa.Schema

    def text(self) -> str:
        """Return the canonical text."""
        return self.lake.pinned_text()


@dataclass(frozen=True)
class LakeSink:
    """A table to write: rows are added, or take the place of all others."""

    lake: LakeTable

    def text(self) -> str:
        """Return the canonical text."""
        return self.lake.text()

    def check(self, schema: pa.Schema, *, where: str) -> None:
        """Raise PlanError for columns that no such table can hold, and for partitions that are none of them."""
        title = TITLES[self.lake.kind]
        for column in schema:
            if not _is_storable(column.type, self.lake.kind):
                raise PlanError(
                    f"{title} cannot hold column {column.name!r}: {column.type}",
                    where=where,
                    expected="numbers, decimals, texts, booleans, bytes, dates, times; lists, structs and maps of them",
                    next_step="cast() it, or select() it away",
                )
        for name in self.lake.partition_by:
            if name not in schema.names:
                raise PlanError(
                    f"partition_by: {name!r} is not a column of the output",
                    where=where,
                    expected=f"one of: {', '.join(schema.names)}",
                )
            if schema.field(name).type not in PARTITIONS:
                raise PlanError(
                    f"partition_by: {name!r} is {schema.field(name).type}",
                    where=where,
                    expected="integers, texts, booleans, dates or times",
                    next_step="compute a column to partition by, and name that",
                )
        if schema.names and set(self.lake.partition_by) == set(schema.names):
            raise PlanError(
                "partition_by names every column",
                where=where,
                expected="at least one column that is stored in the files",
            )


def delta(
    path: str | PurePath,
    *,
    version: int | None = None,
    timestamp: datetime | None = None,
    on_change: str = "fail",
    mode: str = "append",
    partition_by: str | Sequence[str] = (),
    run: str | None = None,
    storage: Mapping[str, str] | None = None,
) -> LakeTable:
    """Return a Delta Lake table, to read or to write: a directory, or a URL that ``deltalake`` opens with ``storage``.

    Read (``app.read(ms.delta("shop/orders"))``): a batch reads the newest version, ``version``, or what was the newest
    at ``timestamp``. A stream reads what is there when it starts first, then what each commit adds. A commit that
    removes or changes rows ends it with a StepError; ``on_change="skip"`` passes over such commits.

    Write (``flow.write(ms.delta("shop/orders"))``): a missing table is made, partitioned by the columns
    ``partition_by``. A batch is one commit, and ``mode`` is ``"append"``, ``"overwrite"`` (of all rows), or ``"error"``
    if there is a table already. A batch with the name ``run`` is written once, however often a run of that name is
    begun. A stream appends each row once, whatever happens to the process.

    Needs ``pip install 'millstream[delta]'``. Raises PlanError.
    """
    lake = LakeTable(
        "delta",
        str(path),
        storage=tuple(sorted((storage or {}).items())),
        version=version,
        timestamp=timestamp,
        on_change=on_change,
        mode=mode,
        partition_by=(partition_by,) if isinstance(partition_by, str) else tuple(partition_by),
        run=run,
    )
    _check(lake)
    return lake


def iceberg(
    table: str,
    *,
    catalog: str | Mapping[str, str] = "default",
    snapshot: int | None = None,
    timestamp: datetime | None = None,
    on_change: str = "fail",
    mode: str = "append",
    partition_by: str | Sequence[str] = (),
    run: str | None = None,
) -> LakeTable:
    """Return an Iceberg table, to read or to write: ``"namespace.table"`` in a catalog.

    ``catalog`` is a name of PyIceberg's configuration, or its properties: ``{"type": "sql", "uri": "sqlite:///c.db",
    "warehouse": "file:///…"}``, with ``"name"`` if that is not ``"default"``. The rest is as for ``delta``; a batch can
    read a ``snapshot`` by its number. A stream follows the snapshots of the main branch. The namespace has to exist.

    Needs ``pip install 'millstream[iceberg]'``. Raises PlanError.
    """
    lake = LakeTable(
        "iceberg",
        table,
        catalog=catalog if isinstance(catalog, str) else tuple(sorted(catalog.items())),
        version=snapshot,
        timestamp=timestamp,
        on_change=on_change,
        mode=mode,
        partition_by=(partition_by,) if isinstance(partition_by, str) else tuple(partition_by),
        run=run,
    )
    if "." not in table.strip("."):
        raise PlanError(
            f"{table!r} names no namespace", where="iceberg(…)", expected="namespace.table"
        )
    _check(lake)
    return lake


def lake_sink(lake: LakeTable, schema: pa.Schema, *, other_options: bool, where: str) -> LakeSink:
    """Return the table as a sink of rows of ``schema``. Raises PlanError for what it cannot be."""
    if other_options:
        raise PlanError(
            "a table has its partitions in partition_by=, and neither a key nor a format",
            where=where,
            expected="none of key=, partitions=, file_format= here",
        )
    if lake.is_pinned or lake.on_change != "fail":
        raise PlanError(
            f"{lake.pinned_text()} is for reading",
            where=where,
            expected="a table without version=, snapshot=, timestamp= and on_change=",
            next_step="rows are added to the newest version: leave them out",
        )
    sink = LakeSink(lake)
    sink.check(schema, where=where)
    return sink


def check_source(lake: LakeTable) -> None:
    """Raise PlanError for a table that was declared for writing."""
    if (lake.mode, lake.partition_by, lake.run) != ("append", (), None):
        raise PlanError(
            f"{lake.text()} is declared for writing",
            where="read(…)",
            expected="none of mode=, partition_by=, run= where a table is read",
            next_step="leave them out",
        )


def _check(lake: LakeTable) -> None:
    where = f"{lake.kind}(…)"
    if not lake.table:
        raise PlanError("the place of the table is empty", where=where, expected="a path or a name")
    if lake.mode not in MODES:
        raise PlanError(f"mode={lake.mode!r}", where=where, expected=f"one of {', '.join(MODES)}")
    if lake.on_change not in CHANGES:
        raise PlanError(
            f"on_change={lake.on_change!r}", where=where, expected=f"one of {', '.join(CHANGES)}"
        )
    if lake.version is not None and (lake.timestamp is not None or lake.version < 0):
        raise PlanError(
            f"version {lake.version} and timestamp {lake.timestamp} say no one version",
            where=where,
            expected="one of them, and a version that is not negative",
        )
    if lake.timestamp is not None and lake.timestamp.tzinfo is None:
        raise PlanError(
            f"the timestamp {lake.timestamp} has no time zone",
            where=where,
            expected="an aware datetime: timestamps are points in UTC",
            next_step="add tzinfo=UTC",
        )
    if lake.run == "":
        raise PlanError("the name of the run is empty", where=where, expected="a text, or None")


def _is_storable(kind: pa.DataType, lake: str) -> bool:
    if kind in _PLAIN or pa.types.is_decimal128(kind) or pa.types.is_floating(kind):
        return True
    if pa.types.is_signed_integer(kind) or pa.types.is_timestamp(kind):
        return True  # inside lists and structs, where flows do not widen
    if pa.types.is_time64(kind):
        return lake == "iceberg" and kind.unit == "us"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_storable(kind.value_type, lake)
    if pa.types.is_map(kind):
        return _is_storable(kind.key_type, lake) and _is_storable(kind.item_type, lake)
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_is_storable(part.type, lake) for part in kind)
    return bool(pa.types.is_large_string(kind) or pa.types.is_large_binary(kind))
