"""What flows ask of a table in a lake. One class a format: ``flow_delta``, ``flow_iceberg``.

A table has a name for each flow that writes to it, and beside it the number and the checksum of the last rows that the
flow delivered: its note. Rows and note become visible by one commit of the table. Also here: whether rows fit a table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from millstream.flows.lakes import LakeTable
from millstream.primitives.errors import MillstreamError, PlanError, StepError
from millstream.primitives.schema import describe
from millstream.primitives.telemetry import reach

ATTEMPTS_MAX = 16
"""How often a commit is begun anew when other writers are faster."""


@dataclass(frozen=True)
class Note:
    """What a table knows of the rows of a flow: the last number, and the checksum of its rows."""

    number: int
    crc: int


@dataclass(frozen=True)
class LakeCommit:
    """A version of a table. ``change`` says what it does to rows that were there, None if it does nothing to them."""

    id: int
    at_us: int
    change: str | None = None


@dataclass
class Loaded:
    """The rows of a batch, counted while a library takes them. What their computation raises is kept for us."""

    batches: Iterator[pa.RecordBatch]
    rows: int = 0
    error: Exception | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches; libraries turn exceptions into their own."""
        try:
            for batch in self.batches:
                self.rows += batch.num_rows
                reach("flow.lake_given")
                yield batch
        except Exception as error:
            self.error = error
            raise


class Lake(Protocol):
    """A table that may be missing. Belongs to one thread."""

    errors: tuple[type[Exception], ...]

    def close(self) -> None:
        """Give back what is open. The next call opens it again."""

    def target(self) -> pa.Schema | None:
        """Return the columns that rows are written with, None if there is no table."""

    def refuse_unwritable(self) -> None:
        """Raise PlanError for a table that the library reads and cannot write."""

    def refuse_stream(self) -> None:
        """Raise PlanError for a table that may refuse rows when the store has committed them."""

    def partitions(self) -> tuple[str, ...]:
        """Return what the table is partitioned by."""

    def create(self, schema: pa.Schema) -> None:
        """Make the table, as the declaration says, unless there is one."""

    def noted(self, name: str) -> Note | None:
        """Return the newest note of a flow."""

    def append(self, rows: pa.Table, name: str, note: Note) -> None:
        """Add the rows and the note by one commit, unless the note is there."""

    def load(
        self, rows: Loaded, schema: pa.Schema, *, exists: bool, name: str | None, note: Note
    ) -> bool:
        """Write a batch by one commit; with a ``name`` its note too, and nothing if the note is there.

        Return whether it was written: another one of that name may have been faster.
        """


class LakeReader(Protocol):
    """A table that a stream follows. Belongs to one thread."""

    identity: str
    """The table's own, which a table of the same name does not share."""
    errors: tuple[type[Exception], ...]

    def columns(self) -> list[str]:
        """Return the names of the columns as of the last look."""

    def latest(self) -> LakeCommit | None:
        """Look again, and return the newest commit; None if there is none."""

    def after(self, commit: int) -> list[LakeCommit]:
        """Return the commits behind that one which ``latest`` has seen, oldest first. Raises StepError for a gap."""

    def whole(self, commit: int) -> Iterator[pa.RecordBatch]:
        """Yield all rows as of a commit, always in the same order."""

    def added(self, commit: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows that a commit added, always in the same order."""


def has(noted: Note | None, note: Note, where: str) -> bool:
    """Return whether a table has the rows of a note. Raises StepError if it has others, of that number or later."""
    if noted is None or noted.number < note.number:
        return False
    if noted != note:
        raise StepError(
            f"the table has delivery {noted.number} of the flow, and the store is at {note.number}",
            where=where,
            expected="a table that is not ahead of the store",
            next_step="an older copy of the store was put back, or another process goes on with the flow: "
            "mend that, or give the flow another name with .named(…) to write these rows again",
        )
    return True


def sync_files(paths: Iterable[str | Path], root: Path) -> None:
    """Sync files, and the directories up to the one that holds ``root``: libraries of lakes do not do so."""
    folders: set[Path] = set()
    for path in map(Path, paths):
        _sync(path)
        folders.update(folder for folder in path.parents if folder.is_relative_to(root.parent))
    for folder in folders:
        _sync(folder)


def sync_all() -> None:
    """Sync whatever was written: of rows that another process has delivered it is not known where they are."""
    os.sync()


def local_path(place: str) -> Path | None:
    """Return the path of a place in the local file system, None for another."""
    if "://" not in place:
        return Path(place).absolute()
    parts = urlsplit(place)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def lake_failed(errors: tuple[type[Exception], ...], where: str) -> Iterator[None]:
    """Turn what a library says while a flow runs into StepError."""
    try:
        yield
    except MillstreamError:
        raise
    except errors as error:
        raise StepError(
            f"the table failed: {said(error)}",
            where=where,
            expected="a table that can be reached, with the files it names",
            next_step="mend that and run the flow again; a stream has lost nothing, and nothing comes twice",
        ) from error


@contextmanager
def lake_refused(errors: tuple[type[Exception], ...], where: str) -> Iterator[None]:
    """Turn what a library says while a plan is looked at into PlanError."""
    try:
        yield
    except MillstreamError:
        raise
    except errors as error:
        raise PlanError(
            f"the table cannot be opened: {said(error)}",
            where=where,
            expected="a table, and a version, that are there",
            next_step="check the place and the version",
        ) from error


def unwritable(what: str, where: str) -> PlanError:
    """Return the error of a table that the library cannot write."""
    return PlanError(
        f"the library cannot write a table {what}",
        where=where,
        expected="a table that it can read and write",
        next_step="upgrade the library, or write to another table and copy it with the engine that made this one",
    )


def said(error: Exception) -> str:
    """Return the first line of what a library says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def refuse_misfit(
    given: pa.Schema, there: pa.Schema, partitions: tuple[str, ...], lake: LakeTable
) -> None:
    """Raise PlanError, with the column, unless rows of ``given`` fit a table of the columns ``there``."""
    where = lake.text()
    for field in given:
        if field.name not in there.names:
            raise PlanError(
                f"the table has no column {field.name!r}",
                where=where,
                expected=describe(there),
                next_step="select() what the table has, or add the column to the table",
            )
        kind = there.field(field.name).type
        if not _fits(field.type, kind):
            raise PlanError(
                f"column {field.name!r} of the table is {kind}, and the flow gives {field.type}",
                where=where,
                expected=describe(there),
                next_step="cast() it in the flow, or change the table",
            )
    for field in there:
        if not field.nullable and field.name not in given.names:
            raise PlanError(
                f"the table needs column {field.name!r}, which the flow does not give",
                where=where,
                expected=describe(there),
                next_step="add it with with_columns()",
            )
    if lake.partition_by and lake.partition_by != partitions:
        raise PlanError(
            f"the table is partitioned by {', '.join(partitions) or 'nothing'}",
            where=where,
            expected=f"partition_by={lake.partition_by}",
            next_step="leave partition_by= out: a table keeps the partitions it was made with",
        )


def fitting(there: pa.Schema, where: str) -> Callable[[pa.Table], pa.Table]:
    """Return what makes rows of a flow those of a table: it raises StepError, with the column, for a misfit."""

    def fitted(rows: pa.Table) -> pa.Table:
        columns = []
        for field in there:
            if field.name not in rows.column_names:
                columns.append(pa.nulls(rows.num_rows, field.type))
                continue
            column = rows.column(field.name)
            try:
                column = column.cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise StepError(
                    f"column {field.name!r} holds a value that is not {field.type}: {said(error)}",
                    where=where,
                    expected="values that the table's column can hold",
                    next_step="filter such rows out before write, or widen the table's column",
                ) from error
            if pa.types.is_floating(field.type) and _overflows(rows.column(field.name), column):
                raise StepError(
                    f"column {field.name!r} holds a number that is too large for {field.type}",
                    where=where,
                    expected="values that the table's column can hold",
                    next_step="filter such rows out before write, or widen the table's column",
                )
            if column.null_count and not field.nullable:
                raise StepError(
                    f"column {field.name!r} is null in a row, and may not be in the table",
                    where=where,
                    expected="a value in each row",
                    next_step="filter such rows out before write, or fill_null()",
                )
            columns.append(column)
        return pa.Table.from_arrays(columns, schema=there)

    return fitted


def _overflows(given: pa.ChunkedArray, held: pa.ChunkedArray) -> bool:
    """Return whether a finite number became infinite when it was rounded to fewer bits."""
    if given.type == held.type:
        return False
    infinite = [pc.sum(pc.is_inf(column)).as_py() for column in (given, held)]
    return bool(infinite[0] != infinite[1])


def _fits(given: pa.DataType, there: pa.DataType) -> bool:
    """Return whether values of one type are written to a column of the other, as long as each fits."""
    same_family = (
        pa.types.is_signed_integer,
        pa.types.is_floating,
        pa.types.is_timestamp,
        lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
        lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind),
    )
    if given == there or any(of(given) and of(there) for of in same_family):
        return True
    if pa.types.is_decimal(given) and pa.types.is_decimal(there):
        return bool(given.scale <= there.scale)
    if _is_list(given) and _is_list(there):
        is_open = there.value_field.nullable or not given.value_field.nullable
        return is_open and _fits(given.value_type, there.value_type)
    if pa.types.is_map(given) and pa.types.is_map(there):
        return _fits(given.key_type, there.key_type) and _fits(given.item_type, there.item_type)
    if pa.types.is_struct(given) and pa.types.is_struct(there):
        parts, held = list(given), list(there)
        return [part.name for part in parts] == [part.name for part in held] and all(
            _fits(part.type, of.type) and (of.nullable or not part.nullable)
            for part, of in zip(parts, held, strict=True)
        )
    return False


def plain(schema: pa.Schema) -> pa.Schema:
    """Return the columns without what a library adds to them: numbers, and large types."""
    return pa.schema([pa.field(f.name, _plain(f.type), nullable=f.nullable) for f in schema])


def _plain(kind: pa.DataType) -> pa.DataType:
    if _is_list(kind):
        return pa.list_(
            pa.field("item", _plain(kind.value_type), nullable=kind.value_field.nullable)
        )
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct(list(plain(pa.schema(list(kind)))))
    if pa.types.is_large_string(kind):
        return pa.string()
    return pa.binary() if pa.types.is_large_binary(kind) else kind


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
