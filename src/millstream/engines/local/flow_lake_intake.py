"""Reading tables of a lake in micro-batches: all that is there, then what each commit adds, each row once.

A stream begins with the newest version whole, and then follows the commits one after the other; a commit can be larger
than a micro-batch. Compactions pass by, for they change no rows. A commit that removes rows ends the stream when it
comes to it, unless the table was declared with ``on_change="skip"``, which passes over it. A bounded run takes what
is there at its beginning; one without an end looks for new commits each second.

The whole table is one source partition, in the order of its commits and of the names of their files. What was read is
in the catalog (``flow_input``): one row for the whole version at the beginning, one for the last commit behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from millstream.engines.local.flow_file_intake import FILES_ID, FileMark
from millstream.engines.local.flow_intake import Taken
from millstream.engines.local.flow_lake import LakeCommit, LakeReader, lake_failed
from millstream.engines.local.flow_lakes import opened, refuse_gone, widened_rows
from millstream.flows.lakes import LakeSource
from millstream.primitives.errors import PlanError, StepError

_PARTITION = 0


@dataclass(frozen=True)
class _Unit:
    """A commit to read: the version whole, or what it added."""

    commit: LakeCommit
    is_whole: bool


class LakeIntake:
    """Where a stream reads a table of a lake. Belongs to one thread."""

    topic_id = FILES_ID
    partitions = 1
    channel = "files"

    def __init__(
        self, source: LakeSource, marks: Mapping[str, FileMark], *, bounded: bool, next_offset: int
    ) -> None:
        """Go on behind ``marks``. With ``bounded`` the commits are those of now. Raises PlanError, StepError."""
        self._source = source
        self._where = source.text()
        with closing(opened(source.lake)) as table, lake_failed(table.errors, self._where):
            self._reader: LakeReader = table.reader()
        prefix = f"{source.lake.kind} {self._reader.identity}"
        self._path_whole, self._path_added = f"{prefix} whole", f"{prefix} added"
        strange = [path for path in marks if not path.startswith(f"{prefix} ")]
        if strange:
            raise PlanError(
                "the table was deleted and made again since the flow read it",
                where=self._where,
                expected=f"the table {strange[0].split(' ')[1]}",
                next_step="forget the old place with flow.reset(), or rename the flow",
            )
        self._marks = dict(marks)
        self._parts: Iterator[pl.DataFrame] | None = None
        self._ahead: pl.DataFrame | None = None
        self.bounded = bounded
        self.changed: dict[str, FileMark] = {}
        """What was read by the last ``take``."""
        self.next_offsets = {_PARTITION: next_offset}
        self._waiting = self._found()

    def ends(self) -> dict[int, int]:
        """Return how many commits were read and are waiting, as the end of the one partition."""
        if not self.bounded and not self._waiting:
            self._waiting = self._found()
        return {_PARTITION: self.next_offsets[_PARTITION] + len(self._waiting)}

    def backlog(self, ends: Mapping[int, int]) -> None:
        """How many rows are left is not known before they are read."""
        del ends

    def take(self, events_max: int, ends: Mapping[int, int]) -> list[Taken]:
        """Return up to so many rows of the next commits; empty when there are none."""
        del ends
        self.changed = {}
        frames: list[pl.DataFrame] = []
        committed: list[np.ndarray] = []
        rows = 0
        while self._waiting and rows < events_max:
            unit = self._waiting[0]
            try:
                part = self._next_part(unit, events_max - rows)
            except StepError:
                self._parts = None
                if self.changed:
                    break  # What lies before it is done first; the next call raises it again.
                raise
            if part is None:
                self._parts = None
                self._waiting.pop(0)
                self.next_offsets[_PARTITION] += 1
                self._note(unit, 0, is_done=True)
                continue
            frames.append(part)
            committed.append(np.full(part.height, unit.commit.at_us, dtype=np.int64))
            rows += part.height
            self._note(unit, part.height, is_done=False)
        if not self.changed:
            return []
        empty = self._source.stored.empty_table()
        frame = pl.concat(frames) if frames else widened_rows(self._source, empty)
        appended_us = np.concatenate(committed) if committed else np.empty(0, dtype=np.int64)
        return [Taken(_PARTITION, frame, appended_us, self.next_offsets[_PARTITION])]

    def close(self) -> None:
        """Nothing is open: each look at the table opens it anew."""

    def _note(self, unit: _Unit, rows: int, *, is_done: bool) -> None:
        mark = self._mark(unit)
        mark = replace(mark, rows_read=mark.rows_read + rows, is_done=is_done)
        self._marks[mark.path] = self.changed[mark.path] = mark

    def _mark(self, unit: _Unit) -> FileMark:
        """Return how far a commit was read."""
        path = self._path_whole if unit.is_whole else self._path_added
        known = self._marks.get(path)
        if known is not None and known.size_bytes == unit.commit.id:
            return known
        return FileMark(path, unit.commit.id, unit.commit.at_us)

    def _next_part(self, unit: _Unit, rows_max: int) -> pl.DataFrame | None:
        """Return the next rows of a commit, at most so many; None at its end. Raises StepError."""
        if unit.commit.change is not None and not unit.is_whole:
            if self._source.lake.on_change == "skip":
                return None
            raise StepError(
                f"commit {unit.commit.id} changes rows that were there: {unit.commit.change}",
                where=self._where,
                expected="commits that only add rows",
                next_step='declare the table with on_change="skip" to pass over such commits, or flow.reset() to '
                "begin with the whole table again",
            )
        with lake_failed((*self._reader.errors, pl.exceptions.PolarsError), self._where):
            if self._parts is None:
                self._parts = self._read(unit, self._mark(unit).rows_read)
                self._ahead = None
            part = self._ahead if self._ahead is not None else next(self._parts, None)
            while part is not None and not part.height:
                part = next(self._parts, None)
        if part is None:
            return None
        self._ahead = part[rows_max:] if part.height > rows_max else None
        return part[:rows_max]

    def _read(self, unit: _Unit, skipped: int) -> Iterator[pl.DataFrame]:
        reader = self._reader
        found = reader.whole(unit.commit.id) if unit.is_whole else reader.added(unit.commit.id)
        for batch in found:
            if skipped >= batch.num_rows:
                skipped -= batch.num_rows
                continue
            yield widened_rows(self._source, batch.slice(skipped))
            skipped = 0

    def _found(self) -> list[_Unit]:
        """Return what is not read to its end, in order."""
        with lake_failed(self._reader.errors, self._where):
            latest = self._reader.latest()
            # Files of before a column was added do not have it, and give nulls: so would one that is gone.
            refuse_gone(self._source, self._reader.columns())
            if latest is None:
                return []
            whole, added = self._marks.get(self._path_whole), self._marks.get(self._path_added)
            if whole is None:
                return [_Unit(latest, is_whole=True)]
            units = []
            first = LakeCommit(whole.size_bytes, whole.modified_us)
            if not whole.is_done:
                units.append(_Unit(first, is_whole=True))
            if added is not None:
                first = LakeCommit(added.size_bytes, added.modified_us)
                if not added.is_done:
                    units.append(_Unit(first, is_whole=False))
            return units + [
                _Unit(commit, is_whole=False) for commit in self._reader.after(first.id)
            ]
