"""Watermarks: how far event time is known to have come, decided by event time alone.

Each source partition has its own watermark: the greatest event time it has shown, less the lateness that the window
allows. The flow's watermark is the least of them, and windows that end at or before it are closed and emitted. The
clock on the wall has no say, so a replay gives what the first run gave.

Which partitions count:

    has events left to read in a bounded run   counts; without any event so far it holds everything back
    read to its end in a bounded run           does not count: nothing can come any more
    has shown an event, in an open run         counts, also while it is quiet
    has never had an event, in an open run     does not count, or one empty partition would hold the flow for ever

An event is **late** when the window it belongs to ends at or before its own partition's watermark
as it stood *before* the event, or at or before ``closed_until``. The first part depends only on
the order inside the partition, not on how the stream was cut into batches or how partitions
interleave. The flow's watermark never passes that of a partition that counts, so the second part
matters only for partitions that did not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

TIME_MIN = -(2**63)
"""No event yet. Also what a window's end can never be at or before."""
TIME_MAX = 2**63 - 1
"""Behind everything."""


@dataclass(frozen=True)
class PartitionTime:
    """The event time of one source partition."""

    seen_us: int = TIME_MIN
    """The greatest event time so far, or TIME_MIN."""

    def observed(self, time_us: int) -> PartitionTime:
        """Return the state after an event."""
        return self if time_us <= self.seen_us else PartitionTime(time_us)

    def watermark_us(self, late_us: int) -> int:
        """Return the partition's watermark, or TIME_MIN."""
        return TIME_MIN if self.seen_us == TIME_MIN else self.seen_us - late_us


@dataclass(frozen=True)
class EventTime:
    """The event time of a flow: per partition, and up to where windows were closed. Immutable."""

    partitions: Mapping[int, PartitionTime]
    late_us: int
    closed_until_us: int = TIME_MIN

    def partition(self, number: int) -> PartitionTime:
        """Return the partition's state, new if it was never seen."""
        return self.partitions.get(number, PartitionTime())

    def observed(self, seen: Mapping[int, int]) -> EventTime:
        """Return the state after a batch: ``seen`` holds the greatest time by partition."""
        changed = {number: self.partition(number).observed(time) for number, time in seen.items()}
        return replace(self, partitions={**self.partitions, **changed})

    def watermark_us(self, counting: frozenset[int]) -> int:
        """Return the least watermark of the partitions that count; never before ``closed_until_us``.

        Without any partition that counts nothing is known, and nothing closes.
        """
        marks = [self.partition(number).watermark_us(self.late_us) for number in counting]
        return max(self.closed_until_us, min(marks, default=TIME_MIN))

    def closed(self, until_us: int) -> EventTime:
        """Return the state after closing every window that ends at or before ``until_us``."""
        return replace(self, closed_until_us=max(self.closed_until_us, until_us))

    def is_late(self, number: int, window_end_us: int) -> bool:
        """Return whether the partition's next event would be late for that window."""
        mark = self.partition(number).watermark_us(self.late_us)
        return window_end_us <= max(mark, self.closed_until_us)


def counting_partitions(
    *, next_offsets: Mapping[int, int], ends: Mapping[int, int], bounded: bool
) -> frozenset[int]:
    """Return which partitions hold the watermark: see the table above.

    ``next_offsets`` is where the flow will read next; ``ends`` one past the last event there is
    (or, in a bounded run, one past the last event of the run).
    """
    if bounded:
        return frozenset(n for n, end in ends.items() if next_offsets.get(n, 0) < end)
    return frozenset(n for n, end in ends.items() if end > 0)
