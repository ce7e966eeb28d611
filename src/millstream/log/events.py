"""Events as they come out of a topic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa


class Appended(
    msgspec.Struct, frozen=True
):  # an append makes one; a frozen dataclass takes ten times as long
    """Where events were stored: the offsets from ``first_offset`` up to, not including, ``next_offset``."""

    topic: str
    partition: int
    first_offset: int
    next_offset: int
    repeated: bool = False
    """True if an idempotent producer had stored them before, and nothing was stored now."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Events of one frame: Arrow data, their offsets, and when they were appended."""

    data: pa.RecordBatch
    first_offset: int
    next_offset: int
    listed_offsets: npt.NDArray[np.int64] | None
    runs: tuple[tuple[int, int], ...]

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """The offset of each event."""
        if self.listed_offsets is not None:
            return self.listed_offsets
        return np.arange(self.first_offset, self.first_offset + self.data.num_rows, dtype=np.int64)

    @property
    def appended_us(self) -> npt.NDArray[np.int64]:
        """When each event was appended: UTC microseconds."""
        times = np.array([us for us, _ in self.runs], dtype=np.int64)
        return np.repeat(times, [rows for _, rows in self.runs])

    def after(self, offset: int) -> Chunk:
        """Return the events at ``offset`` and later; no data is copied."""
        if offset <= self.first_offset:
            return self
        skip = int(np.searchsorted(self.offsets, offset))
        listed = None if self.listed_offsets is None else self.listed_offsets[skip:]
        return Chunk(
            self.data.slice(skip), offset, self.next_offset, listed, _runs_after(self.runs, skip)
        )

    def before_row(self, rows: int) -> Chunk:
        """Return the first ``rows`` events; no data is copied."""
        listed = None if self.listed_offsets is None else self.listed_offsets[:rows]
        next_offset = int(self.offsets[rows - 1]) + 1
        return Chunk(
            self.data.slice(0, rows),
            self.first_offset,
            next_offset,
            listed,
            _runs_before(self.runs, rows),
        )


def _runs_before(runs: tuple[tuple[int, int], ...], rows: int) -> tuple[tuple[int, int], ...]:
    kept = []
    for us, count in runs:
        if rows <= 0:
            break
        kept.append((us, min(count, rows)))
        rows -= count
    return tuple(kept)


def _runs_after(runs: tuple[tuple[int, int], ...], skip: int) -> tuple[tuple[int, int], ...]:
    kept = []
    for us, rows in runs:
        if skip < rows:
            kept.append((us, rows - skip))
        skip = max(0, skip - rows)
    return tuple(kept)


class EventBatch:
    """Consecutive events of one partition. Immutable.

    ``table`` is the data without a copy; ``data`` is one RecordBatch (copied together if it came from several frames);
    ``to_pylist`` gives dicts. ``next_offset`` is where reading goes on; after compaction it may be further than the
    last offset plus one.
    """

    __slots__ = ("_data", "chunks", "first_offset", "next_offset", "partition", "topic")

    def __init__(self, topic: str, partition: int, chunks: Sequence[Chunk]) -> None:
        """Join chunks that follow each other; there is at least one."""
        self.topic = topic
        self.partition = partition
        self.chunks = tuple(chunks)
        self.first_offset = chunks[0].first_offset
        self.next_offset = chunks[-1].next_offset
        self._data: pa.RecordBatch | None = None

    @property
    def num_rows(self) -> int:
        """How many events there are."""
        return sum(chunk.data.num_rows for chunk in self.chunks)

    def __len__(self) -> int:
        """Return how many events there are."""
        return self.num_rows

    @property
    def table(self) -> pa.Table:
        """The events as a table of one chunk a frame; zero-copy."""
        return pa.Table.from_batches([chunk.data for chunk in self.chunks])

    @property
    def data(self) -> pa.RecordBatch:
        """The events as one batch."""
        if self._data is None:
            if len(self.chunks) == 1:
                self._data = self.chunks[0].data
            else:
                self._data = pa.concat_batches([chunk.data for chunk in self.chunks])
        return self._data

    def offsets(self) -> npt.NDArray[np.int64]:
        """Return the offset of each event."""
        return np.concatenate([chunk.offsets for chunk in self.chunks])

    def appended_us(self) -> npt.NDArray[np.int64]:
        """Return when each event was appended, UTC microseconds."""
        return np.concatenate([chunk.appended_us for chunk in self.chunks])

    def to_pylist(self) -> list[dict[str, Any]]:
        """Return the events as dicts."""
        rows: list[dict[str, Any]] = self.table.to_pylist()
        return rows

    def __repr__(self) -> str:
        """Say where the events lie."""
        return (
            f"EventBatch({self.topic!r}, partition={self.partition}, "
            f"offsets={self.first_offset}..{self.next_offset}, rows={self.num_rows})"
        )
