"""Verifying the frames of one partition: bytes against checksums, rows against heads and each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import apsw
import numpy as np

from millstream.primitives.errors import StoreCorrupt
from millstream.store.catalog import Row, statement
from millstream.store.directory import Directory
from millstream.store.frame import ARROW, ROWS, Frame, decode_frame

# Columns of check/frames.
_FIRST, _NEXT, _ROWS, _SIZE, _CRC, _FIRST_US, _LAST_US, _SEGMENT, _POSITION, _INLINE = range(10)


@dataclass(frozen=True, slots=True)
class PartitionRow:
    """A row of check/partitions."""

    id: int
    topic: str
    number: int
    first_offset: int
    next_offset: int
    size_bytes: int
    merged_to: int
    compacted_to: int

    @property
    def where(self) -> str:
        """The partition, as messages name it."""
        return f"topic {self.topic!r}, partition {self.number}"


@dataclass(slots=True)
class Found:
    """What one partition holds, and what is wrong with it."""

    problems: list[tuple[str, str]] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    missing: list[tuple[int, int, int]] = field(default_factory=list)
    """(partition, first offset, segment) of frames whose segment's file is not there."""


def check_partition(
    connection: apsw.Connection, directory: Directory, row: PartitionRow, schemas: set[int]
) -> Found:
    """Read every frame of a partition, in the transaction that is open on ``connection``."""
    checker = _Checker(directory, row, schemas)
    for frame in connection.execute(statement("check/frames"), (row.id,)):
        checker.take(frame)
    checker.finish()
    return checker.found


class _Checker:
    def __init__(self, directory: Directory, partition: PartitionRow, schemas: set[int]) -> None:
        self._directory = directory
        self._partition = partition
        self._schemas = schemas
        self._expected = partition.first_offset
        self._size_bytes = 0
        self.found = Found()

    def _problem(self, what: str, offset: int | None = None) -> None:
        place = self._partition.where
        self.found.problems.append((what, place if offset is None else f"{place}, offset {offset}"))

    def take(self, row: Row) -> None:
        """Check one frame; they come in the order of their offsets."""
        first, end = row[_FIRST], row[_NEXT]
        self.found.totals.update({"frames": 1, "events": row[_ROWS], "bytes": row[_SIZE]})
        self._size_bytes += row[_SIZE]
        if not 0 < row[_ROWS] <= end - first:
            self._problem(f"{row[_ROWS]} events at offsets up to {end}", first)
        # Events that compaction removed leave gaps, up to where it has come.
        is_gap = first > self._expected and first <= self._partition.compacted_to
        if first != self._expected and not is_gap:
            self._problem(f"a frame where offset {self._expected} should follow", first)
        self._expected = end
        try:
            data = self._bytes_of(row)
        except FileNotFoundError:
            self.found.missing.append((self._partition.id, first, row[_SEGMENT]))
            return
        except StoreCorrupt as error:
            place = f"{self._partition.where}, offset {first}"
            self.found.problems.append((error.what, f"{place}, {error.where}"))
            return
        except OSError as error:
            self._problem(str(error), first)
            return
        self._check_bytes(row, data)

    def _bytes_of(self, row: Row) -> memoryview:
        if row[_SEGMENT] is None:
            if row[_INLINE] is None or len(row[_INLINE]) != row[_SIZE]:
                raise _cut_short(
                    "the frame in the catalog is not as long as its row says", self._partition.where
                )
            return memoryview(row[_INLINE])
        path = self._directory.segment(self._partition.id, row[_SEGMENT])
        with path.open("rb") as file:
            file.seek(row[_POSITION])
            data = file.read(row[_SIZE])
        if len(data) < row[_SIZE]:
            raise _cut_short(
                f"a segment ends {row[_SIZE] - len(data)} bytes early",
                f"{path}, position {row[_POSITION]}",
            )
        return memoryview(data)

    def _check_bytes(self, row: Row, data: memoryview) -> None:
        first = row[_FIRST]
        file = ""
        if row[_SEGMENT] is not None:
            path = self._directory.segment(self._partition.id, row[_SEGMENT])
            file = f", {path}, position {row[_POSITION]}"
        try:
            frame = decode_frame(
                data,
                partition_id=self._partition.id,
                rows=row[_ROWS],
                checksum=row[_CRC],
                where=self._partition.where,
                offset=first,
            )
        except StoreCorrupt as error:
            self.found.problems.append((error.what, f"{error.where}{file}"))
            return
        for problem in _problems_of(row, frame, self._schemas):
            place = f"{self._partition.where}, offset {first}{file}"
            self.found.problems.append((problem, place))

    def finish(self) -> None:
        """Compare what all frames say together with the partition's row."""
        row = self._partition
        if self._expected != row.next_offset and not (
            self._expected < row.next_offset <= row.compacted_to
        ):
            self._problem(
                f"the last frame ends at {self._expected}, the partition at {row.next_offset}"
            )
        if self._size_bytes != row.size_bytes:
            self._problem(
                f"the frames have {self._size_bytes} bytes, and the partition says {row.size_bytes}"
            )
        if not 0 <= row.first_offset <= row.next_offset:
            self._problem(f"offsets from {row.first_offset} to {row.next_offset}")
        if max(row.merged_to, row.compacted_to) > row.next_offset:
            self._problem("merged or compacted beyond the end")


def _cut_short(what: str, where: str) -> StoreCorrupt:
    return StoreCorrupt(
        what,
        where=where,
        expected="the bytes that were committed",
        next_step="keep a copy, and restore a backup",
    )


def _problems_of(row: Row, frame: Frame, schemas: set[int]) -> list[str]:
    problems = []
    times = [us for us, _ in frame.runs]
    if frame.encoding not in (ARROW, ROWS):
        problems.append(f"an unknown encoding {frame.encoding}")
    if frame.schema_id not in schemas:
        problems.append(f"columns {frame.schema_id} that the topic does not have")
    if sum(count for _, count in frame.runs) != frame.rows:
        problems.append("times of append for another number of events")
    elif (min(times), max(times)) != (row[_FIRST_US], row[_LAST_US]):
        problems.append("times of append that its row does not say")
    offsets, span = frame.relative_offsets, row[_NEXT] - row[_FIRST]
    if offsets is None:
        if frame.rows != span:
            problems.append(f"{frame.rows} events for {span} offsets")
    elif (np.diff(offsets) <= 0).any() or offsets[0] < 0 or offsets[-1] >= span:
        problems.append("offsets that do not ascend within its range")
    return problems
