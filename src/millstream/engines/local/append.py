"""Appending: frames written and synced first, then one transaction that makes them visible.

``stage`` encodes, and writes large frames to a segment, synced if the durability says so. ``Staged.apply`` belongs
inside the transaction that commits them, with whatever else shall become true in the same moment. A kill between the
two leaves bytes that nobody names.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Final, Self

from millstream.engines.local.part import Part, Rows, join
from millstream.engines.local.topics import unknown_topic
from millstream.log.batching import Stamp
from millstream.log.definition import TopicInfo
from millstream.log.events import Appended
from millstream.primitives.durability import Durability
from millstream.primitives.errors import Fenced, OutOfOrderSequence, StoreBusy
from millstream.primitives.limits import (
    INLINE_BYTES_MAX_DISK,
    INLINE_BYTES_MAX_PROCESS,
    PRODUCER_BATCHES_REMEMBERED,
)
from millstream.primitives.telemetry import reach
from millstream.store import Joinable, Store, Transaction
from millstream.store.segment import Placement

_ONE_INLINE: Final = (None,)
_NO_STAMP: Final = (None,)


class SegmentGone(Exception):
    """The segment was removed between staging and commit; stage again."""


def no_segment_kept(where: str, attempts: int) -> StoreBusy:
    """Return the error for a segment that was removed each time before its frame was committed."""
    return StoreBusy(
        f"no segment could be kept in {attempts} attempts",
        where=where,
        expected="a segment that is still there at the commit",
        next_step="append again; nothing was stored",
    )


class Overlap(Exception):
    """Some events of a numbered batch are stored already, and some are not."""

    def __init__(self, partition: int, last_sequence: int) -> None:
        """Say up to which number they are stored."""
        super().__init__(partition, last_sequence)
        self.partition = partition
        self.last_sequence = last_sequence


@dataclass(slots=True)  # not frozen, which would take longer to make than to encode an event
class Staged(Joinable[list[Appended]]):
    """Events that are written, but not visible yet: a work for a transaction."""

    info: TopicInfo
    parts: tuple[Part, ...]
    placements: tuple[Placement | None, ...]
    stamps: tuple[Stamp | None, ...]
    where: Path

    @property
    def kind(self) -> Hashable:
        """The same for rows that may share a frame; None for all else."""
        rows = self._rows
        return None if rows is None else (rows.partition_id, rows.schema_id)

    @property
    def _rows(self) -> Rows | None:
        if len(self.parts) != 1 or self.placements[0] is not None or self.stamps[0] is not None:
            return None
        return self.parts[0].rows

    def join(self, tx: Transaction, works: Sequence[Self]) -> list[list[Appended]]:
        """Make the rows of several appends visible in one frame, or in few that are small enough for a row."""
        number, results = self.parts[0].partition, []
        for group in _small_enough(works):
            appended = self._apply_part(tx, join(number, group), None, None)
            offset = appended.first_offset
            for rows in group:
                count = sum(each for _, each in rows.runs)
                results.append([Appended(self.info.name, number, offset, offset + count)])
                offset += count
        tx.wake(f"topic:{self.info.id}")
        return results

    def __call__(self, tx: Transaction) -> list[Appended]:
        """``apply``."""
        return self.apply(tx)

    def apply(self, tx: Transaction) -> list[Appended]:
        """Make the events visible when ``tx`` commits. Raises UnknownTopic, Fenced, OutOfOrderSequence."""
        appended = list(map(self._apply_part, repeat(tx), self.parts, self.placements, self.stamps))
        tx.wake(f"topic:{self.info.id}")
        return appended

    def _apply_part(
        self, tx: Transaction, part: Part, placement: Placement | None, stamp: Stamp | None
    ) -> Appended:
        frame, partition_id = part.frame, self.info.partition_ids[part.partition]
        if stamp is not None:
            repeated = self._find_repeated(tx, part, stamp)
            if repeated is not None:
                return repeated
        if placement is not None and not tx.run("log/segment_get", (placement.segment_id,)):
            raise SegmentGone
        advanced = tx.run("log/partition_advance", (frame.rows, frame.size_bytes, partition_id))
        if not advanced:
            raise unknown_topic(self.info.name, str(self.where), [])
        next_offset: int = advanced[0][0]
        first_offset = next_offset - frame.rows
        place = (
            (None, None, frame.to_bytes())
            if placement is None
            else (placement.segment_id, placement.position, None)
        )
        tx.run(
            "log/frame_insert",
            (
                partition_id,
                first_offset,
                next_offset,
                frame.rows,
                frame.size_bytes,
                frame.checksum,
                frame.first_us,
                frame.last_us,
                *place,
            ),
        )
        if stamp is not None:
            _remember(tx, stamp, partition_id, first_offset, next_offset)
        return Appended(self.info.name, part.partition, first_offset, next_offset)

    def _find_repeated(self, tx: Transaction, part: Part, stamp: Stamp) -> Appended | None:
        partition_id = self.info.partition_ids[part.partition]
        where = f"topic {self.info.name!r}, partition {part.partition}"
        [[epoch]] = tx.run("log/producer_epoch", (stamp.producer_id,))
        if epoch != stamp.epoch:
            raise Fenced(
                f"the producer has epoch {stamp.epoch}, and a newer one has {epoch}",
                where=where,
                expected="one producer of a name at a time",
                next_step="stop this one; the newer one goes on from the last stored event",
            )
        known = tx.run(
            "log/producer_last", (stamp.producer_id, partition_id, PRODUCER_BATCHES_REMEMBERED)
        )
        last = known[0][0] if known else -1
        first, end = stamp.first_sequence, _last_sequence(stamp, part.frame.rows)
        if end <= last:
            for last_sequence, first_sequence, first_offset, next_offset in known:
                if (first_sequence, last_sequence) == (first, end):
                    return Appended(self.info.name, part.partition, first_offset, next_offset, True)
            return Appended(self.info.name, part.partition, -1, -1, True)
        if first <= last:
            raise Overlap(part.partition, last)
        if first != last + 1 and not stamp.gaps_allowed:
            raise OutOfOrderSequence(
                f"sequence {first} follows {last}",
                where=where,
                expected=f"sequence {last + 1}",
                next_step="send the missing batch first",
            )
        return None


def _small_enough(works: Iterable[Staged]) -> Iterator[list[Rows]]:
    """Return the rows of the works in groups whose frame is no larger than a row of the catalog may be."""
    group: list[Rows] = []
    size_bytes = 0
    for work in works:
        part = work.parts[0]
        assert part.rows is not None, "only rows are joined"
        if group and size_bytes + part.size_bytes > INLINE_BYTES_MAX_DISK:
            yield group
            group, size_bytes = [], 0
        group.append(part.rows)
        size_bytes += part.size_bytes
    yield group


def _last_sequence(stamp: Stamp, rows: int) -> int:
    if stamp.last_sequence is not None:
        return stamp.last_sequence
    return stamp.first_sequence + rows - 1


def _remember(
    tx: Transaction, stamp: Stamp, partition_id: int, first_offset: int, next_offset: int
) -> None:
    end = _last_sequence(stamp, next_offset - first_offset)
    tx.run(
        "log/producer_batch_insert",
        (
            stamp.producer_id,
            partition_id,
            end,
            stamp.first_sequence,
            stamp.epoch,
            first_offset,
            next_offset,
        ),
    )
    tx.run(
        "log/producer_batch_trim",
        (stamp.producer_id, partition_id, PRODUCER_BATCHES_REMEMBERED - 1),
    )


def stage(
    store: Store,
    info: TopicInfo,
    parts: Sequence[Part],
    *,
    stamps: Sequence[Stamp | None] | None = None,
    durability: Durability | None = None,
) -> Staged:
    """Write the large frames of ``parts`` to segments; small ones travel in the transaction itself."""
    to_disk = (durability or store.durability) is Durability.DISK
    inline_max = INLINE_BYTES_MAX_DISK if to_disk else INLINE_BYTES_MAX_PROCESS
    if stamps is None and len(parts) == 1 and parts[0].size_bytes <= inline_max:
        reach("append.staged")
        return Staged(info, tuple(parts), _ONE_INLINE, _NO_STAMP, store.path)
    placements: list[Placement | None] = [None] * len(parts)
    large: dict[int, list[int]] = {}
    for index, part in enumerate(parts):
        if part.size_bytes > inline_max:
            large.setdefault(part.partition, []).append(index)
    for partition, indices in large.items():
        writer = store.segments.of(info.partition_ids[partition])
        written = writer.append([parts[i].frame for i in indices], to_disk=to_disk)
        for index, placement in zip(indices, written, strict=True):
            placements[index] = placement
    reach("append.staged")
    return Staged(
        info,
        tuple(
            part if placement is None else part.written()
            for part, placement in zip(parts, placements, strict=True)
        ),
        tuple(placements),
        tuple(stamps) if stamps is not None else (None,) * len(parts),
        store.path,
    )
