"""Delta Lake tables, through ``deltalake``: the extra ``millstream[delta]``, imported when a flow opens one.

The note of a flow are two application transactions of the commit that adds its rows: one holds the number, one the
checksum. The library refuses a commit when another one with the same application came between, so a note, and with it
rows, is never there twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any, Final
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pa_fs

from millstream.engines.local.flow_lake import (
    ATTEMPTS_MAX,
    LakeCommit,
    Loaded,
    Note,
    has,
    lake_failed,
    lake_refused,
    local_path,
    said,
    sync_all,
    sync_files,
    unwritable,
)
from millstream.flows.lakes import LakeTable
from millstream.primitives.errors import ConfigurationError, PlanError, StepError
from millstream.primitives.schema import datetime_us
from millstream.primitives.telemetry import reach

_UNREADABLE: Final = frozenset({"columnMapping", "deletionVectors"})
_INVARIANTS: Final = "delta.invariants"
_CRC: Final = "crc of "
_MAPPING: Final = "delta.columnMapping.mode"
_NO_CONSTRAINT: Final = "millstream looks whether the table can be written"


def _library() -> Any:
    try:
        import deltalake
        import deltalake.exceptions
        import deltalake.fs
    except ImportError as error:
        raise ConfigurationError(
            "the library of Delta Lake is not installed",
            where="ms.delta(…)",
            expected="deltalake",
            next_step="pip install 'millstream[delta]'",
        ) from error
    return deltalake


class Delta:
    """A table that may be missing. Belongs to one thread."""

    def __init__(self, lake: LakeTable) -> None:
        """Look. Raises ConfigurationError when the library is not installed, StepError when the place is away."""
        self._delta = _library()
        self.errors: tuple[type[Exception], ...] = (
            self._delta.exceptions.DeltaError,
            OSError,
            pa.ArrowException,
        )
        self._lake = lake
        self._where = lake.text()
        self._storage = dict(lake.storage) or None
        self._table: Any = None
        with lake_failed(self.errors, self._where):
            self._look()

    def close(self) -> None:
        """Nothing stays open between two calls."""

    def _look(self) -> None:
        try:
            self._table = self._opened(None)
        except self._delta.exceptions.TableNotFoundError:
            self._table = None

    def _opened(self, version: int | None) -> Any:
        return self._delta.DeltaTable(
            self._lake.table, version=version, storage_options=self._storage
        )

    # ---- to write ----

    def target(self) -> pa.Schema | None:
        """Return the columns that rows are written with, None if there is no table."""
        if self._table is None:
            return None
        return pa.schema(self._table.schema())

    def partitions(self) -> tuple[str, ...]:
        """Return the columns that the table is partitioned by."""
        return tuple(self._table.metadata().partition_columns)

    def refuse_unwritable(self) -> None:
        """Raise PlanError for a table that the library reads and cannot write."""
        mode = self._table.metadata().configuration.get(_MAPPING, "none")
        if mode != "none":
            # It would be written with the names that people see, and other readers would find nulls.
            raise unwritable(f"with {_MAPPING}={mode}", self._where)
        try:
            # The library looks whether it can write before it finds that there is nothing to do.
            self._table.alter.drop_constraint(_NO_CONSTRAINT, raise_if_not_exists=False)
        except self._delta.exceptions.CommitFailedError as error:
            raise unwritable(f"as it is ({said(error)})", self._where) from error

    def refuse_stream(self) -> None:
        """Raise PlanError for a table that may refuse rows when the store has committed them."""
        checked = [
            key.removeprefix("delta.constraints.")
            for key in self._table.metadata().configuration
            if key.startswith("delta.constraints.")
        ]
        checked += [
            f"{field.name} {_INVARIANTS}"
            for field in self._table.schema().fields
            if _INVARIANTS in field.metadata
        ]
        if checked:
            raise PlanError(
                f"the table has the constraint {checked[0]!r}",
                where=self._where,
                expected="no CHECK constraints and invariants: what they refuse is known behind the store's commit",
                next_step="filter() the rows in the flow, and drop the constraint",
            )

    def create(self, schema: pa.Schema) -> None:
        """Make the table, as the declaration says, unless there is one."""
        self._delta.DeltaTable.create(
            self._lake.table,
            schema,
            mode="ignore",
            partition_by=list(self._lake.partition_by) or None,
            storage_options=self._storage,
        )
        self._look()

    def noted(self, name: str) -> Note | None:
        """Return the newest note of a flow."""
        if self._table is None:
            return None
        self._table.update_incremental()
        number = self._table.transaction_version(name)
        crc = self._table.transaction_version(_CRC + name)
        return None if number is None else Note(number, -1 if crc is None else crc)

    def append(self, rows: pa.Table, name: str, note: Note) -> None:
        """Add the rows and the note by one commit, unless the note is there."""
        for attempt in range(ATTEMPTS_MAX):
            # The look and the commit are of one version: a note that comes between makes the commit fail.
            if has(self.noted(name), note, self._where):
                if local_path(self._lake.table) is not None:
                    sync_all()
                return
            before = self._table.version()
            try:
                self._delta.write_deltalake(
                    self._table,
                    self._with_new_columns(rows),
                    mode="append",
                    commit_properties=self._noting(name, note),
                )
            except self._delta.exceptions.CommitFailedError:
                if attempt == ATTEMPTS_MAX - 1:
                    raise
                self._look()
                continue
            self._sync(before)
            reach("flow.lake_committed")
            return

    def _with_new_columns(self, rows: pa.Table) -> pa.Table:
        """Return rows with nulls in the columns that others have added since the rows were fitted to the table."""
        for field in pa.schema(self._table.schema()):
            if field.name not in rows.column_names:
                rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
        return rows

    def load(
        self, rows: Loaded, schema: pa.Schema, *, exists: bool, name: str | None, note: Note
    ) -> bool:
        """Write a batch by one commit; with a ``name`` its note too. Return whether nobody else has written it."""
        # If another one makes the table meanwhile, the library would add to that, whatever notes and mode say.
        properties = self._noting(name, note, retries_max=None if exists else 0)
        before = self._table.version() if exists else -1
        try:
            self._delta.write_deltalake(
                self._table if exists else self._lake.table,
                pa.RecordBatchReader.from_batches(schema, iter(rows)),
                mode=self._lake.mode,
                partition_by=None if exists else list(self._lake.partition_by) or None,
                storage_options=None if exists else self._storage,
                commit_properties=properties,
            )
        except self._delta.exceptions.DeltaError as error:
            if rows.error is not None:
                raise
            self._look()
            if name is not None and self.noted(name) is not None:
                return False
            if exists or self._table is None:
                raise
            raise StepError(
                "another writer has made the table meanwhile",
                where=self._where,
                expected="a table that one writer makes",
                next_step="run the flow again; nothing of this run was written",
            ) from error
        self._look()
        self._sync(before)
        reach("flow.lake_committed")
        return True

    def _sync(self, before: int) -> None:
        """Sync what the versions behind ``before`` have added, if the table is a directory here."""
        root = local_path(self._lake.table)
        if root is None:
            return
        log = _Log(self._delta, self._lake, self._table)
        paths = []
        for version in range(before + 1, self._table.version() + 1):
            paths += [root / unquote(file["path"]) for file in _added(log.actions(version))]
            paths.append(root / log.name(version))
        # What another writer has compacted and removed by now is none of ours to keep.
        sync_files([path for path in paths if path.exists()], root)

    def _noting(self, name: str | None, note: Note, *, retries_max: int | None = None) -> Any:
        transaction = self._delta.Transaction
        notes = () if name is None else ((name, note.number), (_CRC + name, note.crc))
        return self._delta.CommitProperties(
            max_commit_retries=retries_max,
            app_transactions=[transaction(*each) for each in notes] or None,
        )

    # ---- to read ----

    def scan(self) -> tuple[pl.LazyFrame, int | None]:
        """Return the rows of the declared version, not read yet, and when it was committed."""
        with lake_refused(self.errors, self._lake.pinned_text()):
            if self._table is None:
                raise self._missing()
            log = _Log(self._delta, self._lake, self._table)
            version = self._lake.version
            if self._lake.timestamp is not None:
                version = log.version_at(self._table.version(), datetime_us(self._lake.timestamp))
            table = self._opened(version)
            found = log.committed_us(table.version())
            return pl.scan_delta(table), found

    def reader(self) -> DeltaReader:
        """Return the table as a stream follows it. Raises PlanError for one that it cannot follow."""
        if self._table is None:
            raise self._missing()
        features = set(self._table.protocol().reader_features or ())
        mode = self._table.metadata().configuration.get(_MAPPING, "none")
        found = sorted(features & _UNREADABLE) + (["columnMapping"] if mode != "none" else [])
        if found:
            raise PlanError(
                f"a stream cannot follow a table with {found[0]}",
                where=self._where,
                expected="a table whose files hold its rows as they are",
                next_step="run() the flow as a batch",
            )
        return DeltaReader(self._delta, self._lake, self._table, self.errors)

    def _missing(self) -> PlanError:
        return PlanError(
            "there is no Delta table",
            where=self._where,
            expected="a directory with a _delta_log",
            next_step="check the path; it is taken from the current directory",
        )


class DeltaReader:
    """A table that a stream follows by its log, version for version. Belongs to one thread."""

    def __init__(
        self, library: Any, lake: LakeTable, table: Any, errors: tuple[type[Exception], ...]
    ) -> None:
        """Follow ``table``."""
        self.errors = errors
        self._delta = library
        self._table = table
        self._lake = lake
        self._where = lake.text()
        self._storage = dict(lake.storage) or None
        self._log = _Log(library, lake, table)
        self.identity = str(table.metadata().id)

    def columns(self) -> list[str]:
        """Return the names of the columns as of the last look."""
        return [str(field.name) for field in self._table.schema().fields]

    def latest(self) -> LakeCommit | None:
        """Look again, and return the newest commit."""
        self._table.update_incremental()
        found = str(self._table.metadata().id)
        if found != self.identity:
            raise StepError(
                "the table was deleted and made again while the flow read it",
                where=self._where,
                expected=f"the table {self.identity}",
                next_step="forget the old place with flow.reset(), or rename the flow",
            )
        version = self._table.version()
        return LakeCommit(version, self._log.committed_us(version) or 0)

    def after(self, commit: int) -> list[LakeCommit]:
        """Return the versions behind that one, oldest first."""
        return [self._commit(version) for version in range(commit + 1, self._table.version() + 1)]

    def _commit(self, version: int) -> LakeCommit:
        actions = self._log.actions(version)
        info: dict[str, Any] = next((a["commitInfo"] for a in actions if "commitInfo" in a), {})
        removed = [a["remove"] for a in actions if "remove" in a and a["remove"].get("dataChange")]
        masked = [a for a in _added(actions) if a.get("deletionVector")]
        change = None
        if removed or masked:
            change = f"{info.get('operation', 'a commit')} removes {len(removed) + len(masked)} files or rows of them"
        elif info.get("operation") == "RESTORE":
            change = "RESTORE brings files back that were removed"
        return LakeCommit(version, _committed_us(info), change)

    def whole(self, commit: int) -> Iterator[pa.RecordBatch]:
        """Yield all rows as of a version, file by file in the order of their times, then of their names."""
        table = self._delta.DeltaTable(
            self._lake.table, version=commit, storage_options=self._storage
        )
        data = table.to_pyarrow_dataset()
        files = pa.table(table.get_add_actions(flatten=True))
        paths = [unquote(path) for path in files["path"].to_pylist()]
        times = dict(zip(paths, files["modification_time"].to_pylist(), strict=True))
        for fragment in sorted(
            data.get_fragments(), key=lambda file: (times.get(file.path, 0), file.path)
        ):
            yield from fragment.to_batches(schema=data.schema)

    def added(self, commit: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows that a version added, file by file in the order of their names."""
        schema = pa.schema(self._table.schema())
        # A compaction adds files too, and says that their rows are none that were not there.
        files = [file for file in _added(self._log.actions(commit)) if file.get("dataChange", True)]
        for file in sorted(files, key=lambda file: str(file["path"])):
            fragment = ds.ParquetFileFormat().make_fragment(
                unquote(file["path"]),
                filesystem=self._log.files,
                partition_expression=_partition(file["partitionValues"], schema),
            )
            yield from fragment.to_batches(schema=schema)


class _Log:
    """The log of a table, read as it is written: a JSON object a line. Belongs to one thread.

    Not ``DeltaTable.history``: of a table at an older version it gives the times of the newest ones.
    """

    def __init__(self, library: Any, lake: LakeTable, table: Any) -> None:
        self._where = lake.text()
        # Paths of the log are below the table, so one file system reads the log and what it names.
        self.files = pa_fs.PyFileSystem(
            library.fs.DeltaStorageHandler(str(table.table_uri), dict(lake.storage) or None)
        )

    def name(self, version: int) -> str:
        """Return the file of a version."""
        return f"_delta_log/{version:020d}.json"

    def actions(self, version: int) -> list[dict[str, Any]]:
        """Return what a version did. Raises StepError when its log is gone."""
        try:
            with self.files.open_input_file(self.name(version)) as file:
                return [json.loads(line) for line in file.read().splitlines() if line.strip()]
        except FileNotFoundError as error:
            raise StepError(
                f"the log of version {version} is gone",
                where=self._where,
                expected="a log that is kept until the stream has read it",
                next_step="raise delta.logRetentionDuration; flow.reset() begins with the whole table again",
            ) from error

    def committed_us(self, version: int) -> int | None:
        """Return when a version was committed, None if that is not known any more."""
        try:
            actions = self.actions(version)
        except StepError:
            return None
        return _committed_us(next((a["commitInfo"] for a in actions if "commitInfo" in a), {}))

    def version_at(self, newest: int, at_us: int) -> int:
        """Return the version that was the newest at a time. Raises PlanError for a time before those that are known."""
        for version in range(newest, -1, -1):
            committed_us = self.committed_us(version)
            if committed_us is None:
                break
            # Commits are timed in milliseconds.
            if committed_us // 1000 <= at_us // 1000:
                return version
        raise PlanError(
            "the table is younger than that, or its log of that time is gone",
            where=self._where,
            expected="a time behind the first commit that the log still has",
        )


def _added(actions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [action["add"] for action in actions if "add" in action]


def _committed_us(info: Mapping[str, Any]) -> int:
    return int(info.get("timestamp") or 0) * 1000


def _partition(values: Mapping[str, str | None], schema: pa.Schema) -> pc.Expression:
    """Return the values of a file's partition as what is true of all its rows."""
    parts = []
    for name, text in values.items():
        column, kind = ds.field(name), schema.field(name).type
        # Delta has one text for each value; an empty one is null too.
        value = pa.array([text or None], pa.string())
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            value = value if text and text.endswith("Z") else value.cast(pa.timestamp("us"))
            value = value.cast(kind)
        elif pa.types.is_boolean(kind):
            value = pa.array([None if not text else text.lower() == "true"])
        else:
            value = value.cast(kind)
        parts.append(column == value[0] if value[0].is_valid else column.is_null())
    whole: pc.Expression = pc.scalar(True)
    return reduce(lambda left, right: left & right, parts, whole)
