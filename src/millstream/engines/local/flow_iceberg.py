"""Iceberg tables, through ``pyiceberg``: the extra ``millstream[iceberg]``, imported when a flow opens one.

The note of a flow is a property of the table, changed by the commit that adds its rows; the summary of the snapshot
holds it too, for people. A property stays when snapshots expire. The library begins a commit anew when another writer
was faster, and looks at the table before it does: there the note is looked for again, so rows are never there twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Final

import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_lake import (
    ATTEMPTS_MAX,
    LakeCommit,
    Loaded,
    Note,
    has,
    lake_failed,
    lake_refused,
    local_path,
    plain,
    sync_all,
    sync_files,
    unwritable,
)
from millstream.flows.lakes import LakeTable
from millstream.primitives.errors import ConfigurationError, PlanError, StepError
from millstream.primitives.schema import datetime_us
from millstream.primitives.telemetry import reach

PIECE_BYTES: Final = 256 * 1024 * 1024
"""How much of a batch becomes one snapshot; all snapshots of a batch are one commit."""

_NOTE: Final = "millstream.flow"
_PLANNER: Final = "POLARS_ICEBERG_PLANNER"


def _library() -> Any:
    try:
        import pyiceberg.catalog
        import pyiceberg.exceptions
        import pyiceberg.io.pyarrow
        import pyiceberg.table.metadata
    except ImportError as error:
        raise ConfigurationError(
            "the library of Iceberg is not installed",
            where="ms.iceberg(…)",
            expected="pyiceberg",
            next_step="pip install 'millstream[iceberg]'",
        ) from error
    if find_spec("polars_iceberg") is None:
        # Polars warns of each scan that it plans without this package, unless it is told to.
        os.environ.setdefault(_PLANNER, "pyiceberg")
    return pyiceberg


class _AlreadyThere(Exception):
    """Another commit has brought the note."""


class Iceberg:
    """A table that may be missing. Belongs to one thread."""

    def __init__(self, lake: LakeTable) -> None:
        """Look. Raises ConfigurationError when the library is not installed, StepError when the catalog is away."""
        self._iceberg = _library()
        self.errors = _errors(self._iceberg)
        self._lake = lake
        self._where = lake.text()
        with lake_failed(self.errors, self._where):
            if isinstance(lake.catalog, str):
                self._catalog = self._iceberg.catalog.load_catalog(lake.catalog)
            else:
                properties = dict(lake.catalog)
                # A catalog of SQL keeps the tables of several names apart.
                name = properties.pop("name", "default")
                self._catalog = self._iceberg.catalog.load_catalog(name, **properties)
            self._table: Any = None
            try:
                self._look()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Close the connections of the catalog."""
        self._catalog.close()

    def _look(self) -> None:
        try:
            self._table = self._catalog.load_table(self._lake.table)
        except self._iceberg.exceptions.NoSuchTableError:
            self._table = None

    # ---- to write ----

    def target(self) -> pa.Schema | None:
        """Return the columns that rows are written with, None if there is no table."""
        if self._table is None:
            return None
        return plain(self._table.schema().as_arrow())

    def refuse_unwritable(self) -> None:
        """Raise PlanError for a table that the library reads and cannot write."""
        version = self._table.format_version
        if version > self._iceberg.table.metadata.SUPPORTED_TABLE_FORMAT_VERSION:
            raise unwritable(f"of format version {version}", self._where)

    def refuse_stream(self) -> None:
        """Raise PlanError for a table that may refuse rows when the store has committed them."""
        for field in self._table.spec().fields:
            if str(field.transform) != "identity" and find_spec("pyiceberg_core") is None:
                raise PlanError(
                    f"the table is partitioned by {field.transform} of a column",
                    where=self._where,
                    expected="columns as they are, or the package pyiceberg-core",
                    next_step="pip install pyiceberg-core",
                )

    def partitions(self) -> tuple[str, ...]:
        """Return what the table is partitioned by: the columns, or the names of what is computed of them."""
        schema = self._table.schema()
        return tuple(
            schema.find_column_name(field.source_id)
            if str(field.transform) == "identity"
            else field.name
            for field in self._table.spec().fields
        )

    def create(self, schema: pa.Schema) -> None:
        """Make the table, as the declaration says, unless there is one."""
        try:
            with self._creating(schema):
                pass
        except self._iceberg.exceptions.TableAlreadyExistsError:
            pass
        self._look()

    def _creating(self, schema: pa.Schema) -> Any:
        try:
            transaction = self._catalog.create_table_transaction(self._lake.table, schema=schema)
        except self._iceberg.exceptions.NoSuchNamespaceError as error:
            raise PlanError(
                "the catalog has no such namespace",
                where=self._where,
                expected="a namespace that is there: only the table is made",
                next_step="make it with catalog.create_namespace(…) of PyIceberg",
            ) from error
        with transaction.update_spec() as spec:
            for name in self._lake.partition_by:
                spec.add_identity(name)
        return transaction

    def noted(self, name: str) -> Note | None:
        """Return the newest note of a flow."""
        if self._table is None:
            return None
        self._table.refresh()
        return self._note(name)

    def _note(self, name: str) -> Note | None:
        text = self._table.properties.get(f"{_NOTE}.{name}")
        if text is None:
            return None
        number, crc = text.split(" ")
        return Note(int(number), int(crc))

    def append(self, rows: pa.Table, name: str, note: Note) -> None:
        """Add the rows and the note by one commit, unless the note is there."""
        for attempt in range(ATTEMPTS_MAX):
            if has(self.noted(name), note, self._where):
                if local_path(self._table.location()) is not None:
                    sync_all()
                return
            try:
                transaction = self._noting(self._table.transaction(), name, note)
                transaction.append(rows, snapshot_properties=_summary(name, note))
                self._commit(transaction, name, note)
            except (
                self._iceberg.exceptions.CommitFailedException,
                self._iceberg.exceptions.CommitStateUnknownException,
            ):
                if attempt == ATTEMPTS_MAX - 1:
                    raise
                self._look()
                continue
            return

    def _noting(self, transaction: Any, name: str, note: Note) -> Any:
        transaction.set_properties({f"{_NOTE}.{name}": f"{note.number} {note.crc}"})
        return transaction

    def _commit(self, transaction: Any, name: str | None, note: Note) -> bool:
        """Commit; the library looks at the table again before each new attempt, and so do we for the note.

        Return whether it was committed, and not found there.
        """
        reach("flow.lake_staged")
        if name is not None and self._table is not None:
            refresh = self._table.refresh

            def looked() -> Any:
                found = refresh()
                if has(self._note(name), note, self._where):
                    raise _AlreadyThere
                return found

            self._table.refresh = looked
        before = {found.snapshot_id for found in self._table.snapshots()} if self._table else set()
        is_new = True
        try:
            transaction.commit_transaction()
        except _AlreadyThere:
            is_new = False
        finally:
            if self._table is not None:
                self._table.__dict__.pop("refresh", None)
        self._look()
        self._sync(before)
        reach("flow.lake_committed")
        return is_new

    def _sync(self, before: set[int]) -> None:
        """Sync what the snapshots that are new have added, if the table is a directory here."""
        root = local_path(self._table.location())
        if root is None:
            return
        places = {self._table.metadata_location}
        for snapshot in self._table.snapshots():
            if snapshot.snapshot_id in before:
                continue
            places.add(snapshot.manifest_list)
            for manifest in snapshot.manifests(self._table.io):
                if manifest.added_snapshot_id == snapshot.snapshot_id:
                    places.add(manifest.manifest_path)
                    entries = manifest.fetch_manifest_entry(self._table.io)
                    places.update(entry.data_file.file_path for entry in entries)
        paths = [local_path(str(place)) for place in places]
        # What another writer has expired by now is none of ours to keep.
        sync_files([path for path in paths if path is not None and path.exists()], root)

    def load(
        self, rows: Loaded, schema: pa.Schema, *, exists: bool, name: str | None, note: Note
    ) -> bool:
        """Write a batch by one commit; with a ``name`` its note too. Return whether nobody else has written it."""
        transaction = self._table.transaction() if exists else self._creating(schema)
        summary = {}
        if name is not None:
            self._noting(transaction, name, note)
            summary = _summary(name, note)
        replaces = exists and self._lake.mode == "overwrite"
        if replaces and self._table.current_snapshot() is not None:
            transaction.delete("True", snapshot_properties=summary)
        written = 0
        for piece in _pieces(iter(rows), schema):
            transaction.append(piece, snapshot_properties=summary)
            written += 1
        if not written:
            transaction.append(schema.empty_table(), snapshot_properties=summary)
        try:
            return self._commit(transaction, name if exists else None, note)
        except (
            self._iceberg.exceptions.CommitFailedException,
            self._iceberg.exceptions.TableAlreadyExistsError,
        ):
            self._look()
            if name is not None and self.noted(name) is not None:
                return False
            raise

    # ---- to read ----

    def scan(self) -> tuple[pl.LazyFrame, int | None]:
        """Return the rows of the declared snapshot, not read yet, and when it was committed."""
        with lake_refused(self.errors, self._lake.pinned_text()):
            if self._table is None:
                raise self._missing()
            snapshot = self._snapshot()
            if snapshot is None:
                return pl.scan_iceberg(self._table), None
            frame = pl.scan_iceberg(self._table, snapshot_id=snapshot.snapshot_id)
            return frame, snapshot.timestamp_ms * 1000

    def _snapshot(self) -> Any:
        lake = self._lake
        if not lake.is_pinned:
            return self._table.current_snapshot()
        found = (
            self._table.snapshot_by_id(lake.version)
            if lake.timestamp is None
            else self._table.snapshot_as_of_timestamp(datetime_us(lake.timestamp) // 1000)
        )
        if found is None:
            raise PlanError(
                "the table has no such snapshot",
                where=lake.pinned_text(),
                expected=f"one of the {len(self._table.snapshots())} that it has",
                next_step="list them with table.snapshots() of PyIceberg; expired ones are gone",
            )
        return found

    def reader(self) -> IcebergReader:
        """Return the table as a stream follows it."""
        if self._table is None:
            raise self._missing()
        return IcebergReader(self._iceberg, self._lake, self._table, self.errors)

    def _missing(self) -> PlanError:
        return PlanError(
            "there is no Iceberg table of that name",
            where=self._where,
            expected="a table of the catalog",
            next_step="check the name and the catalog",
        )


class IcebergReader:
    """A table that a stream follows by its snapshots, each the child of one. Belongs to one thread."""

    def __init__(
        self, library: Any, lake: LakeTable, table: Any, errors: tuple[type[Exception], ...]
    ) -> None:
        """Follow the main branch of ``table``."""
        self.errors = errors
        self._arrow = library.io.pyarrow
        self._table = table
        self._where = lake.text()
        self.identity = str(table.metadata.table_uuid)

    def columns(self) -> list[str]:
        """Return the names of the columns as of the last look."""
        return [str(field.name) for field in self._table.schema().fields]

    def latest(self) -> LakeCommit | None:
        """Look again, and return the newest snapshot; None if there is none."""
        try:
            self._table.refresh()
        finally:
            # Files are read without the catalog, and a look a second later may open it anew.
            self._table.catalog.close()
        if str(self._table.metadata.table_uuid) != self.identity:
            raise StepError(
                "the table was dropped and made again while the flow read it",
                where=self._where,
                expected=f"the table {self.identity}",
                next_step="forget the old place with flow.reset(), or rename the flow",
            )
        snapshot = self._table.current_snapshot()
        return None if snapshot is None else _commit(snapshot)

    def after(self, commit: int) -> list[LakeCommit]:
        """Return the snapshots behind that one, oldest first. Raises StepError if it is no ancestor any more."""
        found = []
        snapshot = self._table.current_snapshot()
        while snapshot is not None and snapshot.snapshot_id != commit:
            found.append(_commit(snapshot))
            parent = snapshot.parent_snapshot_id
            snapshot = None if parent is None else self._table.snapshot_by_id(parent)
        if snapshot is None:
            raise StepError(
                f"snapshot {commit} is no ancestor of the table's newest",
                where=self._where,
                expected="a table that was not rolled back, and keeps snapshots until the stream has read them",
                next_step="flow.reset() begins with the whole table again",
            )
        return found[::-1]

    def whole(self, commit: int) -> Iterator[pa.RecordBatch]:
        """Yield all rows as of a snapshot, file by file in the order of their commits, then of their names."""
        snapshot = self._table.snapshot_by_id(commit)
        order = {}
        for manifest in [] if snapshot is None else snapshot.manifests(self._table.io):
            for entry in manifest.fetch_manifest_entry(self._table.io):
                order[str(entry.data_file.file_path)] = int(entry.sequence_number or 0)
        yield from self._rows(self._table.scan(snapshot_id=commit), order)

    def added(self, commit: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows that a snapshot added, file by file in the order of their names."""
        snapshot = self._table.snapshot_by_id(commit)
        if snapshot is None:
            raise StepError(
                f"snapshot {commit} has expired",
                where=self._where,
                expected="snapshots that are kept until the stream has read them",
                next_step="flow.reset() begins with the whole table again",
            )
        if str(snapshot.summary.operation.value) != "append":
            return
        yield from self._rows(
            self._table.incremental_append_scan(
                from_snapshot_id_exclusive=snapshot.parent_snapshot_id,
                to_snapshot_id_inclusive=commit,
            ),
            {},
        )

    def _rows(self, scan: Any, order: Mapping[str, int]) -> Iterator[pa.RecordBatch]:
        reading = self._arrow.ArrowScan(
            self._table.metadata, self._table.io, scan.projection(), scan.row_filter
        )
        # Manifests are planned by many threads, and come in any order.
        files = {str(task.file.file_path): task for task in scan.plan_files()}
        for path in sorted(files, key=lambda path: (order.get(path, 0), path)):
            yield from reading.to_record_batches([files[path]])


def _commit(snapshot: Any) -> LakeCommit:
    operation = snapshot.summary.operation.value if snapshot.summary is not None else "unknown"
    # A replacement rewrites files, and no row.
    change = None if operation in ("append", "replace") else f"{operation} removes rows"
    return LakeCommit(snapshot.snapshot_id, snapshot.timestamp_ms * 1000, change)


def _summary(name: str, note: Note) -> dict[str, str]:
    return {_NOTE: name, "millstream.number": str(note.number), "millstream.crc": str(note.crc)}


def _pieces(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield tables of some size; the library holds one at a time."""
    held: list[pa.RecordBatch] = []
    held_bytes = 0
    for batch in batches:
        held.append(batch)
        held_bytes += batch.nbytes
        if held_bytes >= PIECE_BYTES:
            yield pa.Table.from_batches(held, schema)
            held, held_bytes = [], 0
    if held:
        yield pa.Table.from_batches(held, schema)


def _errors(library: Any) -> tuple[type[Exception], ...]:
    """Return what the library raises: its own exceptions have nothing in common."""
    own = [
        kind
        for kind in vars(library.exceptions).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    found = [*own, OSError, ValueError, pa.ArrowException]
    if find_spec("sqlalchemy") is not None:
        from sqlalchemy.exc import SQLAlchemyError

        found.append(SQLAlchemyError)
    return tuple(found)
