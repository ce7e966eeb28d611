"""Reading files in micro-batches: those that are there, then those that come, each row once.

A file is taken as it is when it is first seen: it may not change any more. A stream that does not close at its end
leaves a file alone until it has not been changed for two seconds, for somebody may still be writing it; a file that is
written elsewhere and renamed into place is read at once if it is older than that. Names that begin with a dot or an
underscore, or end in ``.partial`` or ``.tmp``, are not read unless they are named outright. A bounded run takes what is
there at its beginning.

All files are one source partition, in the order of their times of change, then of their names. What was read of which
file is in the catalog (``flow_input``), changed by the commit of the micro-batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl

from millstream.engines.local.flow_intake import Taken
from millstream.engines.local.flow_places import FilePlace, place_at
from millstream.engines.local.flow_scans import scanned, unreadable
from millstream.engines.local.flow_sources import files_in
from millstream.flows.source import FileSource
from millstream.primitives.clock import Clock
from millstream.primitives.errors import PlanError

SETTLED_US: Final = 2_000_000
"""So long a file must have been left alone before a stream reads it, unless that closes at its end."""

LISTED_AGAIN_S: Final = 1.0
"""How often, at most, a stream looks for new files where that is a request to somebody."""

FILES_ID: Final = 0
"""What stands for the topic of files; topics are numbered from 1."""

_PARTITION: Final = 0


@dataclass(frozen=True)
class FileMark:
    """How far a file was read."""

    path: str
    size_bytes: int
    modified_us: int
    rows_read: int = 0
    is_done: bool = False


class FileIntake:
    """Where a stream reads files. Belongs to one thread."""

    topic_id = FILES_ID
    partitions = 1
    channel = "files"

    def __init__(
        self,
        source: FileSource,
        marks: Mapping[str, FileMark],
        *,
        bounded: bool,
        takes_unsettled: bool,
        clock: Clock,
    ) -> None:
        """Go on behind ``marks``. With ``bounded`` the files are those of now.

        ``takes_unsettled``: also those that somebody may still be writing.
        """
        self._source = source
        self._clock = clock
        [self._pattern] = source.patterns
        self._place: FilePlace = place_at(self._pattern, source.options)
        self._opened = contextlib.ExitStack()
        self._listed_s: float | None = None
        self._marks = dict(marks)
        self._parts: Iterator[pl.DataFrame] | None = None
        self._ahead: pl.DataFrame | None = None
        self.bounded = bounded
        self._takes_unsettled = takes_unsettled
        self.changed: dict[str, FileMark] = {}
        """What was read by the last ``take``."""
        self._waiting = self._found() if bounded else []
        self.next_offsets = {_PARTITION: sum(mark.is_done for mark in self._marks.values())}

    def ends(self) -> dict[int, int]:
        """Return how many files were read and are waiting, as the end of the one partition."""
        if not self.bounded and self._parts is None and self._is_due():
            self._waiting = self._found()
        return {_PARTITION: self.next_offsets[_PARTITION] + len(self._waiting)}

    def _is_due(self) -> bool:
        """Return whether to look for files again."""
        if not self._place.lists_slowly:
            return True
        now_s = self._clock.monotonic_s()
        if self._listed_s is not None and now_s - self._listed_s < LISTED_AGAIN_S:
            return False
        self._listed_s = now_s
        return True

    def backlog(self, ends: Mapping[int, int]) -> None:
        """How many rows are left is not known before they are read."""
        del ends

    def take(self, events_max: int, ends: Mapping[int, int]) -> list[Taken]:
        """Return up to so many rows of the next files; empty when there are none."""
        del ends
        self.changed = {}
        frames: list[pl.DataFrame] = []
        modified: list[np.ndarray] = []
        rows = 0
        while self._waiting and rows < events_max:
            mark = self._waiting[0]
            part = self._next_part(mark, events_max - rows)
            if part is None:
                self._parts = None
                self._opened.close()
                self._waiting.pop(0)
                self.next_offsets[_PARTITION] += 1
                self._note(replace(self._marks.get(mark.path, mark), is_done=True))
                continue
            frames.append(part)
            modified.append(np.full(part.height, mark.modified_us, dtype=np.int64))
            rows += part.height
            known = self._marks.get(mark.path, mark)
            self._note(replace(known, rows_read=known.rows_read + part.height))
        if not self.changed:
            return []
        frame = pl.concat(frames) if frames else pl.DataFrame(schema=self._schema())
        appended_us = np.concatenate(modified) if modified else np.empty(0, dtype=np.int64)
        return [Taken(_PARTITION, frame, appended_us, self.next_offsets[_PARTITION])]

    def _schema(self) -> pl.Schema:
        return scanned(self._source, []).collect_schema()

    def _note(self, mark: FileMark) -> None:
        self._marks[mark.path] = self.changed[mark.path] = mark

    def _next_part(self, mark: FileMark, rows_max: int) -> pl.DataFrame | None:
        """Return the next rows of a file, at most so many; None at its end. Raises StepError."""
        try:
            if self._parts is None:
                self._refuse_changed(mark)
                local = self._opened.enter_context(self._place.opened(mark.path))
                frame = scanned(self._source, [local], told=mark.path)
                read = self._marks.get(mark.path, mark).rows_read
                frame = frame.slice(read) if read else frame
                self._parts = iter(frame.collect_batches(maintain_order=True, engine="streaming"))
                self._ahead = None
            part = self._ahead if self._ahead is not None else next(self._parts, None)
            while part is not None and not part.height:
                part = next(self._parts, None)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise unreadable(mark.path, str(error)) from error
        if part is None:
            return None
        self._ahead = part[rows_max:] if part.height > rows_max else None
        return part[:rows_max]

    def _refuse_changed(self, mark: FileMark) -> None:
        now = self._place.fresh_mark(mark.path)
        if now is None or now != (mark.size_bytes, mark.modified_us):
            what = "is gone" if now is None else "has changed since it was found"
            raise unreadable(mark.path, f"it {what}")

    def close(self) -> None:
        """Drop what was fetched of a file that is read in part."""
        self._parts = None
        self._opened.close()

    def _found(self) -> list[FileMark]:
        """Return the files that are not read to their end, in order."""
        try:
            paths = files_in(self._place, self._pattern, self._source.file_format)[1]
        except PlanError:
            return []  # the last of them was removed
        settled_us = self._clock.now_us() - SETTLED_US
        found = []
        for path in paths:
            known = self._marks.get(path)
            mark = None if known is not None and known.is_done else self._place.mark(path)
            if mark is None or not mark.size_bytes:
                continue  # a file without a byte is one that somebody is about to write
            if self._takes_unsettled or self._place.is_whole or mark.modified_us <= settled_us:
                # One that was read in part is the one that was found then.
                found.append(known or FileMark(path, mark.size_bytes, mark.modified_us))
        return sorted(found, key=lambda mark: (mark.modified_us, mark.path))
