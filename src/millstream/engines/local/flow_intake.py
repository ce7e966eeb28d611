"""Reading a topic in micro-batches: as much as has arrived, at most so many events, from all partitions alike.

A partition with a longer backlog gives more, so that partitions of different length come to their
ends together. Frames can be larger than a micro-batch; what was read and not taken yet is kept, so
no frame is read twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from millstream.engines.local.flow_sources import event_frame
from millstream.engines.local.log import LocalLog
from millstream.log.definition import TopicInfo
from millstream.log.events import EventBatch
from millstream.log.partitioner import partitions_of
from millstream.primitives.errors import OffsetOutOfRange, StepError

if TYPE_CHECKING:
    from millstream.engines.local.flow_file_intake import FileMark

READ_AHEAD_EVENTS = 100_000
READ_AHEAD_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Taken:
    """Consecutive events of one partition."""

    partition: int
    frame: pl.DataFrame
    appended_us: npt.NDArray[np.int64]
    next_offset: int
    source: int = 0
    """Which source of the flow it was read from."""


class Intake(Protocol):
    """Where a stream reads one source. Belongs to one thread. Partitions are numbered from 0."""

    topic_id: int
    partitions: int
    """How many the source has; a stream that shares it reads only some of them."""
    channel: str
    next_offsets: dict[int, int]

    @property
    def changed(self) -> Mapping[str, FileMark]:
        """How far files were read by the last ``take``, by their paths."""

    @property
    def bounded(self) -> bool:
        """Whether it ends at what was there at the beginning."""

    def ends(self) -> dict[int, int]:
        """Return one past the last event of each partition."""

    def backlog(self, ends: Mapping[int, int]) -> int | None:
        """Return how many events are left to read; None if that is not known."""

    def take(self, events_max: int, ends: Mapping[int, int]) -> list[Taken]:
        """Return the next events of each partition that has some; empty when there are none."""

    def close(self) -> None:
        """Drop what is open."""


@dataclass(frozen=True)
class Share:
    """The part of a stream's sources that one of its units reads: of each topic the partition of this number."""

    unit: int
    is_keyed: bool
    """Whether each event must lie where its key says."""


@dataclass(frozen=True)
class _Ahead:
    frame: pl.DataFrame
    offsets: npt.NDArray[np.int64]
    appended_us: npt.NDArray[np.int64]
    next_offset: int


class TopicIntake:
    """Where a stream reads a topic. Belongs to one thread."""

    changed: Mapping[str, FileMark] = {}
    """A topic has no files."""

    def __init__(
        self,
        log: LocalLog,
        info: TopicInfo,
        *,
        offsets: Mapping[int, int],
        bounded: bool,
        share: Share | None = None,
        skips_deleted: bool = False,
    ) -> None:
        """Read from ``offsets``, elsewhere from the first event there is.

        With ``bounded`` the ends are those of now, and later events are left for the next run. With a ``share`` only
        that partition is read. Events that are deleted before they were read end the run, unless it skips them.
        """
        self._log = log
        self._skips_deleted = skips_deleted
        self._info = info
        self._share = share
        self.topic_id = info.id
        self.partitions = info.partitions
        self.channel = f"topic:{info.id}"
        ends = self._all_ends()
        self._bounded_ends = {n: end for n, (_, end) in ends.items()} if bounded else None
        self.next_offsets = {n: offsets.get(n, first) for n, (first, _) in ends.items()}
        self._ahead: dict[int, _Ahead] = {}

    @property
    def bounded(self) -> bool:
        """Whether it ends at what was there at the beginning."""
        return self._bounded_ends is not None

    def ends(self) -> dict[int, int]:
        """Return one past the last event of each partition, in a bounded run those of its beginning."""
        if self._bounded_ends is not None:
            return self._bounded_ends
        return {n: end for n, (_, end) in self._all_ends().items()}

    def _all_ends(self) -> dict[int, tuple[int, int]]:
        ends = enumerate(self._log.ends(self._info))
        return {n: both for n, both in ends if self._share is None or n == self._share.unit}

    def backlog(self, ends: Mapping[int, int]) -> int:
        """Return how many offsets are left to read."""
        return sum(max(0, end - self.next_offsets[n]) for n, end in ends.items())

    def take(self, events_max: int, ends: Mapping[int, int]) -> list[Taken]:
        """Return the next events of each partition that has some; empty when there are none."""
        total = self.backlog(ends)
        if total == 0:
            return []
        share = min(1.0, events_max / total)
        taken = []
        for number, end in ends.items():
            left = end - self.next_offsets[number]
            if left > 0:
                wanted = max(1, min(left, round(left * share)))
                taken.append(self._take(number, wanted, end))
        return taken

    def close(self) -> None:
        """Nothing is open."""

    def _take(self, number: int, wanted: int, end: int) -> Taken:
        ahead = self._ahead.pop(number, None) or self._read(number, wanted, end)
        # A compacted partition has gaps: rows are fewer than offsets, and may end before ``end``.
        rows = min(wanted, int(np.searchsorted(ahead.offsets, end)), ahead.frame.height)
        if rows == ahead.frame.height:
            next_offset = max(ahead.next_offset, self.next_offsets[number])
        else:
            next_offset = int(ahead.offsets[rows])
            self._ahead[number] = _Ahead(
                ahead.frame[rows:],
                ahead.offsets[rows:],
                ahead.appended_us[rows:],
                ahead.next_offset,
            )
        self.next_offsets[number] = next_offset
        return Taken(number, ahead.frame[:rows], ahead.appended_us[:rows], next_offset)

    def _read(self, number: int, wanted: int, end: int) -> _Ahead:
        try:
            batch = self._batch(number, wanted)
        except OffsetOutOfRange as error:
            self._pass_deleted(number, error)
            batch = self._batch(number, wanted)
        if batch is None:
            empty = np.empty(0, dtype=np.int64)
            return _Ahead(pl.DataFrame(), empty, empty, end)
        frame = event_frame(batch)
        if self._share is not None and self._share.is_keyed:
            refuse_strangers(self._info, number, frame, batch.offsets())
        return _Ahead(frame, batch.offsets(), batch.appended_us(), batch.next_offset)

    def _batch(self, number: int, wanted: int) -> EventBatch | None:
        return self._log.read(
            self._info,
            number,
            self.next_offsets[number],
            events_max=max(wanted, READ_AHEAD_EVENTS),
            bytes_max=READ_AHEAD_BYTES,
        )

    def _pass_deleted(self, number: int, error: OffsetOutOfRange) -> None:
        """Go on behind events that were there and are gone, or raise StepError."""
        place, (first, _) = self.next_offsets[number], self._log.ends(self._info)[number]
        if first <= place:
            raise error
        if not self._skips_deleted:
            raise StepError(
                f"{first - place} events were deleted before the flow has read them",
                where=f"topic {self._info.name!r}, partition {number}, offset {place}",
                expected="a flow that reads events before the topic's retention deletes them",
                next_step='read(topic, on_deleted="skip") goes on behind them; '
                "a longer retention keeps that from happening again",
            ) from error
        self.next_offsets[number] = first


class Intakes:
    """All sources of a stream, their partitions numbered through. Belongs to one thread."""

    def __init__(self, intakes: Sequence[Intake]) -> None:
        """Read from all of them."""
        self._intakes = intakes
        self._firsts: list[int] = []
        first = 0
        for intake in intakes:
            self._firsts.append(first)
            first += intake.partitions
        self.places = places([(i.topic_id, i.partitions) for i in intakes])
        """The topic and the partition in it by the number of each partition."""
        self.channels = [intake.channel for intake in intakes]
        self.bounded = all(intake.bounded for intake in intakes)

    @property
    def next_offsets(self) -> dict[int, int]:
        """Where each partition is read next."""
        return self._numbered([intake.next_offsets for intake in self._intakes])

    @property
    def changed(self) -> list[FileMark]:
        """How far files were read by the last ``take``."""
        return [mark for intake in self._intakes for mark in intake.changed.values()]

    def ends(self) -> dict[int, int]:
        """Return one past the last event of each partition, in a bounded run those of its beginning."""
        return self._numbered([intake.ends() for intake in self._intakes])

    def backlog(self, ends: Mapping[int, int]) -> int | None:
        """Return how many events are left to read; None if that is not known."""
        lefts = [i.backlog(self._of(n, ends)) for n, i in enumerate(self._intakes)]
        known = [left for left in lefts if left is not None]
        return sum(known) if len(known) == len(lefts) else None

    def take(self, events_max: int, ends: Mapping[int, int]) -> list[Taken]:
        """Return the next events of all sources; one with a longer backlog gives more."""
        lefts = [i.backlog(self._of(n, ends)) for n, i in enumerate(self._intakes)]
        total = sum(left for left in lefts if left is not None)
        taken: list[Taken] = []
        for number, (intake, left) in enumerate(zip(self._intakes, lefts, strict=True)):
            share = 1.0 if left is None or len(lefts) == 1 else left / max(1, total)
            wanted = max(1, round(events_max * share))
            for batch in intake.take(wanted, self._of(number, ends)):
                at = self._firsts[number] + batch.partition
                taken.append(replace(batch, partition=at, source=number))
        return taken

    def _numbered(self, each: Sequence[Mapping[int, int]]) -> dict[int, int]:
        return {
            first + number: value
            for first, values in zip(self._firsts, each, strict=True)
            for number, value in values.items()
        }

    def _of(self, source: int, values: Mapping[int, int]) -> dict[int, int]:
        first = self._firsts[source]
        return {n: values[first + n] for n in self._intakes[source].next_offsets}


def places(partitions: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return (topic, partition) by the number of each partition; given are topics and how many each has."""
    return [(topic_id, number) for topic_id, count in partitions for number in range(count)]


def refuse_strangers(
    info: TopicInfo, number: int, frame: pl.DataFrame, offsets: npt.NDArray[np.int64]
) -> None:
    """Raise StepError for an event that does not lie where its key says: its unit would not meet it."""
    assert info.key is not None, "a flow that is shared by a key reads topics with keys"
    if info.partitions == 1:
        return
    homes = partitions_of(frame[info.key].to_arrow(), info.partitions)
    strangers = np.flatnonzero(homes != number)
    if strangers.size:
        at = int(strangers[0])
        raise StepError(
            f"an event with the key {frame[info.key][at]!r} does not lie in the partition of its key",
            where=f"topic {info.name!r}, partition {number}, offset {offsets[at]}",
            expected="a key that is not null, appended without partition=: a shared flow keeps the state of a key "
            "with its partition",
            next_step="write the events to another topic, and share a flow that reads that; or stream this flow with "
            "one process, under another name",
        )
