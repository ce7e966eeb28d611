"""Keeping the log in order: small frames are merged, old events deleted, keys compacted, dead segments removed.

Each chore does a little, in whichever process holds the duty, and tells whether there is more. New frames are written
and synced before one short transaction puts them in the place of the old ones; a kill before it leaves bytes that
nobody names, a kill after it leaves old segments that the next look removes. Readers that hold an old row look again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from millstream.engines.local.encoding import encode_arrow
from millstream.engines.local.reading import Reader
from millstream.engines.local.topics import Topics
from millstream.log.definition import TopicInfo
from millstream.log.events import Chunk
from millstream.primitives.durability import Durability
from millstream.primitives.errors import UnknownTopic
from millstream.primitives.limits import (
    COMPACTION_KEYS_MAX,
    MERGE_FRAMES_MAX,
    MERGE_FRAMES_MIN,
    MERGE_OUTPUT_BYTES,
    MERGE_SMALL_BYTES,
)
from millstream.primitives.telemetry import reach
from millstream.store import Store, Transaction
from millstream.store.frame import EncodedFrame
from millstream.store.recovery import seal_dead_segments
from millstream.store.segment import Placement, SegmentWriter

Chore = Callable[[], bool]
_COMPACT_SHARE: Final = 0.5
_COMPACT_EVENTS_MIN: Final = 1_000


class Changed(Exception):
    """Other frames are there than those that were read; look again."""


@dataclass(frozen=True, slots=True)
class _Partition:
    """A row of log/upkeep_partitions."""

    id: int
    topic: str
    retention_us: int | None
    retention_bytes: int | None
    compaction: int
    first_offset: int
    next_offset: int
    size_bytes: int
    merged_to: int
    compacted_to: int


@dataclass(frozen=True, slots=True)
class _Replacement:
    """One new frame for a range of old ones, or none when all their events are gone."""

    first_offset: int
    next_offset: int
    old_frames: int
    frame: EncodedFrame | None


class Upkeep:
    """The chores of one store."""

    urgent: Final = frozenset({"checkpoint"})
    """What is done as soon as commits ask for it, not only at the next look."""

    def __init__(self, store: Store, topics: Topics, reader: Reader) -> None:
        """Nothing runs before the duty calls a chore."""
        self._store = store
        self._topics = topics
        self._reader = reader
        # Merged frames get segments of their own, so that the old ones empty and can be removed.
        self._writers: dict[int, SegmentWriter] = {}

    def chores(self) -> list[tuple[str, Chore]]:
        """Return the chores with their names."""
        return [
            ("retention", self.retain),
            ("merge", self.merge),
            ("compaction", self.compact),
            ("segments", self.sweep),
            ("checkpoint", self.checkpoint),
        ]

    def _partitions(self) -> list[_Partition]:
        with self._store.read() as snapshot:
            return [_Partition(*row) for row in snapshot.run("log/upkeep_partitions")]

    def retain(self) -> bool:
        """Delete events past their retention, whole frames at a time."""
        now_us = self._store.clock.now_us()
        for partition in self._partitions():
            if partition.retention_us is not None:
                self._cut(partition.id, "log/frames_older", now_us - partition.retention_us)
            limit = partition.retention_bytes
            if limit is not None and partition.size_bytes > limit:
                self._cut(partition.id, "log/frames_beyond_size", limit)
        return False

    def _cut(self, partition_id: int, query: str, bound: int) -> None:
        with self._store.read() as snapshot:
            [(offset, _)] = snapshot.run(query, (partition_id, bound))
        if offset is None:
            return

        def work(tx: Transaction) -> None:
            [(end, size)] = tx.run(query, (partition_id, bound))
            if end is not None:
                tx.run("log/frames_delete_before", (partition_id, end))
                tx.run("log/partition_cut", (end, size, partition_id))
            reach("retention.before_commit")

        self._store.write(work, durability=Durability.PROCESS)
        reach("retention.committed")

    def merge(self) -> bool:
        """Put large Arrow frames in the place of many small ones."""
        more = False
        for partition in self._partitions():
            if partition.next_offset - partition.merged_to >= MERGE_FRAMES_MIN:
                more = self._merge_partition(partition) or more
        return more

    def _merge_partition(self, partition: _Partition) -> bool:
        with self._store.read() as snapshot:
            rows = snapshot.run(
                "log/frames_from", (partition.id, partition.merged_to, MERGE_FRAMES_MAX)
            )
        if not rows:
            return False
        info = self._info_of(partition)
        if info is None:
            return False
        runs, settled = _small_runs(rows, full=len(rows) == MERGE_FRAMES_MAX)
        replacements = [self._merged(info, partition, run) for run in runs]
        merged_to = max(settled, partition.merged_to)
        if replacements or merged_to > partition.merged_to:
            self._replace(info, partition.id, replacements, ("log/partition_merged", merged_to))
        return bool(replacements) and len(rows) == MERGE_FRAMES_MAX

    def _merged(
        self, info: TopicInfo, partition: _Partition, rows: Sequence[tuple[Any, ...]]
    ) -> _Replacement:
        number = info.partition_ids.index(partition.id)
        chunks = self._reader.chunks(info, number, rows)
        return self._join(info, partition.id, chunks, len(rows), None)

    def _join(
        self,
        info: TopicInfo,
        partition_id: int,
        chunks: Sequence[Chunk],
        old_frames: int,
        keep: pa.Array | None,
    ) -> _Replacement:
        """Return one frame with the events of the chunks, those at the offsets ``keep`` only, if given."""
        first, end = chunks[0].first_offset, chunks[-1].next_offset
        table = pa.Table.from_batches([c.data for c in chunks])
        offsets = np.concatenate([c.offsets for c in chunks])
        appended = np.concatenate([c.appended_us for c in chunks])
        if keep is not None:
            chosen = np.isin(offsets, keep.to_numpy(zero_copy_only=False))
            mask = pa.array(chosen)
            table, offsets, appended = table.filter(mask), offsets[chosen], appended[chosen]
        if not len(offsets):
            return _Replacement(first, end, old_frames, None)
        consecutive = len(offsets) == end - first
        frame = encode_arrow(
            table.combine_chunks().to_batches()[0],
            schema_id=info.schema_id,
            partition_id=partition_id,
            runs=_runs(appended),
            relative_offsets=None if consecutive else offsets - first,
        )
        return _Replacement(first, end, old_frames, frame)

    def _replace(
        self,
        info: TopicInfo,
        partition_id: int,
        replacements: Sequence[_Replacement],
        progress: tuple[str, int],
    ) -> None:
        """Write the new frames, then swap them in, in one transaction. Gives up if frames or columns changed.

        Synced whatever the durability of this process: another one may have acknowledged the old frames as safe.
        """
        frames = [r.frame for r in replacements if r.frame is not None]
        placements = iter(self._writer(partition_id).append(frames, to_disk=True))
        reach("replace.frames_written")

        def work(tx: Transaction) -> None:
            # A column that was added since may be in the old frames, and would be missing in the new ones.
            if tx.run("log/schemas", (info.id,))[-1][0] != info.schema_id:
                raise Changed
            grown = 0
            for replacement, placement in placed:
                grown += _swap(tx, partition_id, replacement, placement)
            tx.run("log/partition_resize", (grown, partition_id))
            tx.run(progress[0], (progress[1], partition_id))
            reach("replace.before_commit")

        placed = [(r, next(placements) if r.frame is not None else None) for r in replacements]
        try:
            self._store.write(work, durability=Durability.DISK)
        except Changed:
            return
        reach("replace.committed")

    def _writer(self, partition_id: int) -> SegmentWriter:
        if partition_id not in self._writers:
            self._writers[partition_id] = SegmentWriter(self._store, partition_id)
        return self._writers[partition_id]

    def _info_of(self, partition: _Partition) -> TopicInfo | None:
        try:
            info = self._topics.get(partition.topic)
        except UnknownTopic:
            return None
        return info if partition.id in info.partition_ids else None

    def compact(self) -> bool:
        """Keep the last event of each key, where half of the log or more came after the last time."""
        for partition in self._partitions():
            fresh = partition.next_offset - max(partition.compacted_to, partition.first_offset)
            total = partition.next_offset - partition.first_offset
            if partition.compaction and fresh >= max(_COMPACT_EVENTS_MIN, total * _COMPACT_SHARE):
                self.compact_partition(partition)
        return False

    def compact_partition(self, partition: _Partition) -> None:
        """Compact one partition up to its end of now. Offsets stay; gaps are where older events were."""
        info = self._info_of(partition)
        if info is None or info.key is None:
            return
        number = info.partition_ids.index(partition.id)
        with self._store.read() as snapshot:
            rows = [
                row
                for row in snapshot.run("log/frames_from", (partition.id, 0, -1))
                if row[1] <= partition.next_offset
            ]
        keep = self._last_offsets(info, number, rows)
        if keep is None:
            return
        replacements = [
            self._join(
                info, partition.id, self._reader.chunks(info, number, group), len(group), keep
            )
            for group in _groups(rows)
        ]
        self._replace(
            info, partition.id, replacements, ("log/partition_compacted", partition.next_offset)
        )

    def _last_offsets(
        self, info: TopicInfo, number: int, rows: Sequence[tuple[Any, ...]]
    ) -> pa.Array | None:
        """Return the offsets of the last event of each key and of all without a key; None with too many keys."""
        assert info.key is not None
        last: pa.Table | None = None
        keyless: list[pa.Array] = []
        for group in _groups(rows):
            parts = [
                _keys_of(chunk, info.key) for chunk in self._reader.chunks(info, number, group)
            ]
            keyless += [_offsets_without_key(part) for part in parts]
            joined = pa.concat_tables([*([last] if last is not None else []), *parts])
            last = (
                joined.group_by("key", use_threads=False)
                .aggregate([("offset", "max")])
                .rename_columns(["key", "offset"])
            )
            if last.num_rows > COMPACTION_KEYS_MAX:
                return None
        if last is None:
            return None
        return pa.concat_arrays([last.column("offset").combine_chunks(), *keyless])

    def sweep(self) -> bool:
        """Seal the segments of dead processes, and remove the segments that no frame lies in."""
        seal_dead_segments(self._store)
        self._store.sweep()
        with self._store.read() as snapshot:
            dead = snapshot.run("log/segments_dead")
        if not dead:
            return False
        # The rows go first, unless a frame came into the segment since the look: whoever commits a frame checks the
        # row. They go to the disk, or a power loss would bring back rows of frames whose file is gone. A crash in
        # between leaves files that nobody knows; the next process that is alone removes them.
        gone = self._store.write(
            lambda tx: [row for row in dead if tx.run("log/segment_delete", (row[0],))],
            durability=Durability.DISK,
        )
        reach("retention.segments_forgotten")
        for segment_id, partition_id in gone:
            self._store.frames.forget(segment_id)
            self._store.disk.remove(self._store.directory.segment(partition_id, segment_id))
            reach("retention.segment_removed")
        return False

    def checkpoint(self) -> bool:
        """Fold the catalog's write-ahead log back."""
        self._store.checkpoint()
        return False

    def close(self) -> None:
        """Seal the segments of merged frames."""
        for writer in self._writers.values():
            writer.close()


def _swap(
    tx: Transaction, partition_id: int, new: _Replacement, placement: Placement | None
) -> int:
    """Put a frame in the place of others; return by how many bytes the partition grew. Raises Changed."""
    replaced = (partition_id, new.first_offset, new.next_offset)
    [(frames, size_bytes)] = tx.run("log/frames_size_range", replaced)
    if frames != new.old_frames:
        raise Changed
    tx.run("log/frames_delete_range", replaced)
    grown = -int(size_bytes)
    if new.frame is None or placement is None:
        return grown
    frame = new.frame
    tx.run(
        "log/frame_insert",
        (
            partition_id,
            new.first_offset,
            new.next_offset,
            frame.rows,
            frame.size_bytes,
            frame.checksum,
            frame.first_us,
            frame.last_us,
            placement.segment_id,
            placement.position,
            None,
        ),
    )
    return grown + frame.size_bytes


def _small_runs(
    rows: Sequence[tuple[Any, ...]], *, full: bool
) -> tuple[list[list[tuple[Any, ...]]], int]:
    """Return the runs of small frames worth merging, and the offset up to which nothing is left to merge.

    The last run is left alone while it may still grow, unless it is long enough already.
    """
    runs: list[list[tuple[Any, ...]]] = []
    settled = rows[0][0]
    current: list[tuple[Any, ...]] = []
    size = 0
    for row in rows:
        if row[3] > MERGE_SMALL_BYTES or size + row[3] > MERGE_OUTPUT_BYTES:
            if len(current) >= MERGE_FRAMES_MIN:
                runs.append(current)
            settled = row[0]
            current, size = [], 0
        if row[3] > MERGE_SMALL_BYTES:
            settled = row[1]
            continue
        current.append(row)
        size += row[3]
    if len(current) >= MERGE_FRAMES_MIN:
        runs.append(current)
        settled = current[-1][1]
    elif full:
        settled = rows[-1][1]
    return runs, settled


def _groups(rows: Sequence[tuple[Any, ...]]) -> list[list[tuple[Any, ...]]]:
    """Return consecutive rows in groups of about the size of a merged frame."""
    groups: list[list[tuple[Any, ...]]] = []
    size = MERGE_OUTPUT_BYTES
    for row in rows:
        if size >= MERGE_OUTPUT_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(row)
        size += row[3]
    return groups


def _offsets_without_key(keys: pa.Table) -> pa.Array:
    # A null is no key, so no event takes the place of another.
    return keys.filter(keys.column("key").is_null()).column("offset").combine_chunks()


def _keys_of(chunk: Chunk, key: str) -> pa.Table:
    return pa.table({"key": chunk.data.column(key), "offset": pa.array(chunk.offsets)})


def _runs(appended: np.ndarray[Any, np.dtype[np.int64]]) -> list[tuple[int, int]]:
    """Return (time, rows) for each stretch of events of one append."""
    changes = np.flatnonzero(np.diff(appended)) + 1
    starts = [0, *changes.tolist()]
    ends = [*changes.tolist(), len(appended)]
    return [(int(appended[s]), e - s) for s, e in zip(starts, ends, strict=True)]
