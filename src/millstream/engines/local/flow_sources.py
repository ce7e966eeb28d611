"""Where flows read from: topics, files and tables, as Polars frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_expression import compiled
from millstream.engines.local.flow_lakes import lake_frame
from millstream.engines.local.flow_lazy import lazy_frames
from millstream.engines.local.flow_places import FilePlace, place_at, visible
from millstream.engines.local.flow_rows import rows_frame
from millstream.engines.local.flow_scans import (
    first_unreadable,
    inferred_schema,
    reason,
    scanned,
    unreadable_as,
)
from millstream.engines.local.flow_sql import sql_frame
from millstream.engines.local.flow_steps import from_arrow, is_wide, widen
from millstream.engines.local.log import LocalLog
from millstream.flows.branches import sources
from millstream.flows.expression import Column, Expression
from millstream.flows.kinds import widened_schema
from millstream.flows.lakes import LakeSource
from millstream.flows.places import is_remote, plain_path, refuse_options, shown, suffix_in
from millstream.flows.plan import Plan
from millstream.flows.report import Progress, ProgressListener
from millstream.flows.source import (
    FILE_FORMATS,
    FORMAT_OF_SUFFIX,
    ON_DELETED,
    FileSource,
    RowsSource,
    Source,
    TableSource,
    TopicSource,
    format_in,
)
from millstream.flows.sql import SqlSource
from millstream.log.events import EventBatch
from millstream.primitives.errors import PlanError
from millstream.primitives.histogram import Histogram
from millstream.primitives.schema import SchemaLike, to_arrow_schema

BATCH_READ_EVENTS = 100_000
"""How many events of a topic a batch run turns into one frame."""


@dataclass
class ReadFigures:
    """What reading has shown so far. Filled while a frame is computed, by one thread at a time."""

    rows_in: int = 0
    rows_total: int | None = None
    source_wait: Histogram = field(default_factory=Histogram)
    start_wait: Histogram = field(default_factory=Histogram)
    progress: ProgressListener | None = None

    _is_known: bool = True

    def expect(self, rows: int | None) -> None:
        """Count the rows that one of the sources has; None if it does not say."""
        self._is_known &= rows is not None
        self.rows_total = (self.rows_total or 0) + (rows or 0) if self._is_known else None

    def read(self, rows: int) -> None:
        """Count rows and tell the listener."""
        self.rows_in += rows
        if self.progress is not None:
            self.progress(Progress(self.rows_in, self.rows_total))


@dataclass(frozen=True)
class SourceFigures:
    """What reading one source has shown, as a part of what all have."""

    run: ReadFigures
    count: Callable[[int], None]
    """Counts the rows of this source."""

    def expect(self, rows: int | None) -> None:
        """Note how many rows it has; None if it does not say."""
        self.run.expect(rows)

    def read(self, rows: int) -> None:
        """Count rows."""
        self.count(rows)
        self.run.read(rows)

    @property
    def source_wait(self) -> Histogram:
        """How long after they happened events were appended."""
        return self.run.source_wait

    @property
    def start_wait(self) -> Histogram:
        """How long events have waited for the run."""
        return self.run.start_wait


def topic_source(log: LocalLog, topic: str, *, on_deleted: str = "fail") -> TopicSource:
    """Return a topic as a source. Raises UnknownTopic, and PlanError for a policy that there is not."""
    if on_deleted not in ON_DELETED:
        raise PlanError(
            f"on_deleted={on_deleted!r}",
            where=f"read({topic!r})",
            expected=f"one of {', '.join(map(repr, ON_DELETED))}",
            next_step="leave it out to be told of events that are gone",
        )
    info = log.topic(topic)
    return TopicSource(topic, info.schema, widened_schema(info.schema), on_deleted)


def file_source(
    pattern: str | Path,
    *,
    file_format: str | None = None,
    schema: SchemaLike | None = None,
    options: Mapping[str, Any] | None = None,
) -> FileSource:
    """Return files as a source. Raises PlanError if there are none to read the schema from, unless it is given."""
    text = plain_path(str(pattern))
    refuse_options(text, options, where=f"read({shown(text)!r})")
    options = options or {}
    if schema is not None:
        declared = to_arrow_schema(schema)
        chosen = _format_of(text, file_format)
        if is_remote(text):
            place_at(text, options)  # a file system that is not known is refused now
        return FileSource((text,), chosen, declared, widened_schema(declared), options)
    chosen, paths = _located(text, file_format, options)
    try:
        if is_remote(text):
            with place_at(text, options).opened(paths[0]) as local:
                stored = inferred_schema(chosen, [local])
        else:
            stored = inferred_schema(chosen, paths)
    except (pl.exceptions.PolarsError, OSError) as error:
        which = repr(shown(paths[0])) if len(paths) == 1 else f"one of {len(paths)} files"
        raise PlanError(
            f"{which} cannot be read as {chosen}: {reason(str(error))}",
            where=f"read({shown(text)!r})",
            expected=f"{chosen} files of one schema",
            next_step="check the files, pass file_format=, or say the columns that you need: schema=",
        ) from error
    return FileSource((text,), chosen, stored, widened_schema(stored), options)


def table_source(table: object) -> TableSource:
    """Return a table in memory (pyarrow, Polars, pandas, dicts) as a source. Raises PlanError."""
    try:
        if isinstance(table, list):
            arrow = pa.Table.from_pylist(table)
        else:
            arrow = table if isinstance(table, pa.Table) else pa.table(table)
    except (pa.ArrowInvalid, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise PlanError(
            f"a {type(table).__name__} cannot be read as a table: {error}",
            where="read(…)",
            expected="a topic, a path, a pyarrow, Polars or pandas table, or dicts with a schema",
            next_step='dicts of any kind: read(rows, schema={"column": int}); several files: one path with *',
        ) from error
    refuse_names(arrow.schema.names)
    return TableSource(arrow, widened_schema(arrow.schema))


def refuse_names(names: Sequence[str]) -> None:
    """Raise PlanError unless there are columns, each with a name of its own."""
    wrong = sorted({name for name in names if not name or names.count(name) > 1})
    if wrong or not names:
        raise PlanError(
            f"the name {wrong[0]!r} is no name, or that of several columns"
            if wrong
            else "there is no column",
            where="read(…)",
            expected="at least one column, and a name for each",
            next_step="name them before they are read; for no rows at all say read([], schema=…)",
        )


def batch_frame(
    log: LocalLog,
    source: Source,
    figures: SourceFigures,
    *,
    started_us: int,
    time: Expression | None,
) -> pl.LazyFrame:
    """Return all that the source holds now; it is read while the frame is computed.

    ``time`` computes the event time from the source's columns, if there is one.
    """
    match source:
        case TopicSource():
            return _topic_frame(log, source, figures, started_us=started_us, time=time)
        case FileSource():
            return _file_frame(source, figures, started_us=started_us)
        case TableSource(table=table):
            figures.expect(table.num_rows)
            figures.read(table.num_rows)
            frame = from_arrow(table)
            return widen(frame.lazy(), frame.schema)
        case RowsSource():
            figures.expect(None)
            return rows_frame(source, figures.read)
        case SqlSource():
            figures.expect(None)
            return sql_frame(source, figures.read)
        case LakeSource():
            scan, rows, committed_us = lake_frame(source)
            if committed_us is not None:
                figures.start_wait.record(started_us - committed_us)
            figures.expect(rows)
            figures.read(rows)
            return scan


def _topic_frame(
    log: LocalLog,
    source: TopicSource,
    figures: SourceFigures,
    *,
    started_us: int,
    time: Expression | None,
) -> pl.LazyFrame:
    info = log.topic(source.topic)
    ends = log.ends(info)
    figures.expect(sum(next_offset - first for first, next_offset in ends))

    def batches() -> Iterator[EventBatch]:
        for partition, (offset, end) in enumerate(ends):
            while offset < end:
                wanted = min(BATCH_READ_EVENTS, end - offset)
                read = log.read(info, partition, offset, events_max=wanted)
                if read is None:
                    break
                yield read
                offset = read.next_offset

    def frames() -> Iterator[pl.DataFrame]:
        for batch in batches():
            frame = event_frame(batch)
            appended = batch.appended_us()
            figures.start_wait.record_many(started_us - appended)
            if time is not None:
                times, known = event_times(frame, time, source.schema)
                figures.source_wait.record_many(appended[known] - times[known])
            figures.read(frame.height)
            yield frame

    return lazy_frames(frames, source.schema)


def event_frame(batch: EventBatch) -> pl.DataFrame:
    """Return events as a frame of the types that flows compute with."""
    # Of one batch Polars takes the columns over as they are, without its threads.
    frame = pl.DataFrame(batch.data)
    if all(map(is_wide, frame.dtypes)):
        return frame
    return widen(frame.lazy(), frame.schema).collect()


def event_times(
    frame: pl.DataFrame, time: Expression, schema: pa.Schema
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the event time of each row in microseconds, and for which rows it is known."""
    if isinstance(time, Column):
        series = frame[time.name].cast(pl.Int64)
    else:
        series = frame.select(compiled(time, schema).cast(pl.Int64).alias("t"))["t"]
    if series.null_count() == 0:
        return series.to_numpy(), np.ones(len(series), dtype=np.bool_)
    return series.fill_null(0).to_numpy(), series.is_not_null().to_numpy()


def _file_frame(source: FileSource, figures: SourceFigures, *, started_us: int) -> pl.LazyFrame:
    if any(is_remote(pattern) for pattern in source.patterns):
        return _remote_frame(source, figures, started_us=started_us)
    paths = files_of(source)
    for path in paths:
        figures.start_wait.record(started_us - Path(path).stat().st_mtime_ns // 1000)
    scan = scanned(source, paths)
    rows = scan.select(pl.len()).collect(engine="streaming").item()
    figures.expect(rows)
    figures.read(rows)
    return scan


def _remote_frame(source: FileSource, figures: SourceFigures, *, started_us: int) -> pl.LazyFrame:
    """Return the rows of files elsewhere; each is fetched when it is its turn, and dropped behind it."""
    figures.expect(None)
    [pattern] = source.patterns
    place = place_at(pattern, source.options)
    paths = files_in(place, pattern, source.file_format)[1]
    for path in paths:
        mark = place.mark(path)
        if mark is not None and mark.modified_us:
            figures.start_wait.record(max(started_us - mark.modified_us, 0))

    def frames() -> Iterator[pl.DataFrame]:
        for path in paths:
            with place.opened(path) as local, unreadable_as(path):
                scan = scanned(source, [local], told=path)
                for part in scan.collect_batches(maintain_order=True, engine="streaming"):
                    figures.read(part.height)
                    yield part

    return lazy_frames(frames, source.schema)


@contextmanager
def naming_the_file(plan: Plan) -> Iterator[None]:
    """Raise StepError with the name of the file that could not be read: Polars does not say which of many it was."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        for source in sources(plan):
            if isinstance(source, FileSource) and not any(map(is_remote, source.patterns)):
                blamed = first_unreadable(source, files_of(source))
                if blamed is not None:
                    raise blamed from error
        raise


def files_of(source: FileSource) -> list[str]:
    """Return the files that there are now. Raises PlanError if there are none."""
    return [
        path
        for pattern in source.patterns
        for path in _located(pattern, source.file_format, source.options)[1]
    ]


def _format_of(pattern: str, file_format: str | None) -> str:
    chosen = file_format or format_in(pattern)
    if chosen not in FILE_FORMATS:
        raise PlanError(
            f"the format of {shown(pattern)!r} is not known",
            where=f"read({shown(pattern)!r})",
            expected=f"one of {', '.join(FILE_FORMATS)}",
            next_step='pass file_format=, or a pattern that says it, such as "folder/*.csv"',
        )
    return chosen


def _located(
    pattern: str, file_format: str | None, options: Mapping[str, Any]
) -> tuple[str, list[str]]:
    return files_in(place_at(pattern, options), pattern, file_format)


def files_in(place: FilePlace, pattern: str, file_format: str | None) -> tuple[str, list[str]]:
    """Return the format and the files of a path, a pattern or a directory. Raises PlanError."""
    where = f"read({shown(pattern)!r})"
    if place.is_directory():
        known = [path for path in visible(place.listed(), pattern) if format_in(path)]
        formats = {format_in(path) for path in known}
        chosen = file_format or (formats.pop() if len(formats) == 1 else None)
        found = [path for path in known if format_in(path) == chosen]
        unknown = bool(known) and chosen is None
    else:
        chosen = file_format or format_in(pattern)
        found = visible(place.matched(), pattern)
        unknown = chosen is None
    if unknown and not found and not suffix_in(pattern) and "/" not in pattern:
        raise PlanError(
            f"there is no topic and no file {shown(pattern)!r}",
            where=where,
            expected="the name of a topic that has been made, or the path of files",
            next_step="app.topics() lists the topics; declare it with app.topic(…), or write to it first",
        )
    if unknown or (chosen is not None and chosen not in FILE_FORMATS):
        raise PlanError(
            f"the format of {shown(pattern)!r} is not known, or there are several",
            where=where,
            expected=f"files ending in one of {', '.join(sorted(FORMAT_OF_SUFFIX))}",
            next_step=f"pass file_format=, one of {', '.join(FILE_FORMATS)}",
        )
    if chosen is None or not found:
        raise PlanError(
            f"no file matches {shown(pattern)!r}",
            where=where,
            expected="at least one file",
            next_step="check the path; it is taken from the current directory, unless it is a URL",
        )
    return chosen, found
