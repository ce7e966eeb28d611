"""A producer that gathers events and sends them in batches from a thread of its own.

Every batch carries the producer's number, its epoch and a sequence, so a batch that is sent again is stored once. A
named producer survives restarts: a new one of the name continues the numbers and fences the old one.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from millstream.engines.local.append import Overlap, SegmentGone, no_segment_kept, stage
from millstream.engines.local.encoding import TopicEncoder
from millstream.engines.local.part import Part
from millstream.log.batching import BatchingPolicy, Stamp
from millstream.log.definition import TopicInfo
from millstream.log.events import Appended
from millstream.log.partitioner import NO_KEY, partition_of
from millstream.primitives.errors import (
    BufferFull,
    ConfigurationError,
    MillstreamError,
    StoreBusy,
    StoreClosed,
)
from millstream.store import Store

if TYPE_CHECKING:
    from millstream.engines.local.log import LocalLog

_SEND_ATTEMPTS = 5
_EVENT_OVERHEAD_BYTES = 64


@dataclass(slots=True)
class _Pending:
    event: Mapping[str, Any]
    future: Future[Appended]
    sequence: int | None


@dataclass(slots=True)
class _Queue:
    """Events of one topic that wait."""

    info: TopicInfo
    numbered: bool
    pending: list[_Pending] = field(default_factory=list)
    size_bytes: int = 0
    since_s: float = 0.0


class LocalProducer:
    """Thread-safe. ``close`` flushes; a crash loses what was not acknowledged, and nothing else."""

    def __init__(
        self, log: LocalLog, store: Store, name: str | None, policy: BatchingPolicy
    ) -> None:
        """Take a number, or the name's with a new epoch."""
        self._log = log
        self._store = store
        self._policy = policy
        self.name = name
        [[self.producer_id, self.epoch]] = store.write(
            lambda tx: tx.run("log/producer_open", (name,))
        )
        self._sequences: dict[tuple[int, int], int] = {}
        self._turn = 0
        self._queues: dict[int, _Queue] = {}
        self._buffered_bytes = 0
        self._sending = 0
        self._closing = False
        self._flushing = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="millstream-producer", daemon=True)
        self._thread.start()

    def send(
        self, topic: TopicInfo, event: Mapping[str, Any], *, sequence: int | None = None
    ) -> Future[Appended]:
        """Take one event; the future tells where it was stored, or why it was not.

        ``sequence`` numbers the events of the caller's own source, ascending: one that is stored already is not stored
        again, also after a restart of a named producer. Blocks while the buffer is full; raises BufferFull when that
        lasts longer than ``block_timeout``, StoreClosed after ``close``, ConfigurationError for a sequence without a
        name, or on some events of a topic only.
        """
        if sequence is not None and self.name is None:
            raise ConfigurationError(
                "sequences are remembered by the producer's name, and it has none",
                where=f"producer {self.producer_id}",
                expected="a named producer, or events without a sequence",
                next_step="give the producer a name",
            )
        size = _size_of(event)
        pending = _Pending(event, Future(), sequence)
        with self._changed:
            self._wait_for_room()
            queue = self._queues.setdefault(topic.id, _Queue(topic, sequence is not None))
            if queue.numbered != (sequence is not None):
                raise ConfigurationError(
                    "some events have a sequence and others have none",
                    where=f"topic {topic.name!r}, producer {self.name}",
                    expected="a sequence on each event of a topic, or on none",
                    next_step="number them all, or use another producer for the others",
                )
            if not queue.pending:
                queue.since_s = self._store.clock.monotonic_s()
            queue.pending.append(pending)
            queue.size_bytes += size
            self._buffered_bytes += size
            first_or_enough = len(queue.pending) in (1, self._policy.batch_events)
            if first_or_enough or self._policy.is_full(self._buffered_bytes):
                self._changed.notify_all()
        return pending.future

    def _wait_for_room(self) -> None:
        room = self._changed.wait_for(
            lambda: self._closing or not self._policy.is_full(self._buffered_bytes),
            timeout=self._policy.block_timeout_us / 1_000_000,
        )
        if self._closing:
            raise StoreClosed(
                "the producer is closed",
                where=f"producer {self.name or self.producer_id}",
                expected="a producer that is open",
                next_step="make a new one",
            )
        if not room:
            raise BufferFull(
                f"the producer's buffer of {self._policy.buffer_bytes:,} bytes stayed full",
                where=f"producer {self.name or self.producer_id}",
                expected="events that are stored faster than they are sent",
                next_step="send more slowly, or give it a larger buffer_bytes",
            )

    def flush(self, timeout_s: float | None = None) -> None:
        """Return when all that was sent before is stored or refused. Raises BufferFull after ``timeout_s``."""
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            done = self._changed.wait_for(
                lambda: not self._sending and not any(q.pending for q in self._queues.values()),
                timeout=timeout_s,
            )
            self._flushing -= 1
        if not done:
            raise BufferFull(
                f"not everything was stored within {timeout_s} s",
                where=f"producer {self.name or self.producer_id}",
                expected="events that are stored within that time",
                next_step="wait longer; what was sent is still being stored",
            )

    def sequences(self, topic: TopicInfo) -> dict[int, int]:
        """Return the last stored sequence of this producer in each partition that has one."""
        with self._store.read() as snapshot:
            found = {
                number: snapshot.run("log/producer_last", (self.producer_id, partition_id, 1))
                for number, partition_id in enumerate(topic.partition_ids)
            }
        return {number: rows[0][0] for number, rows in found.items() if rows}

    def close(self) -> None:
        """Store what was sent, and stop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Flush and close."""
        self.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                queue = self._next_due()
                if queue is None:
                    return
                pending = queue.pending[: self._policy.batch_events]
                del queue.pending[: len(pending)]
                share = queue.size_bytes * len(pending) // max(1, len(pending) + len(queue.pending))
                queue.since_s = self._store.clock.monotonic_s()
                self._sending += 1
            # From here on a future cannot be cancelled; what was cancelled before is not sent.
            self._send(queue.info, [p for p in pending if p.future.set_running_or_notify_cancel()])
            with self._changed:
                self._sending -= 1
                queue.size_bytes -= share
                self._buffered_bytes -= share
                self._changed.notify_all()

    def _next_due(self) -> _Queue | None:
        """Return a queue to send from, or None when closed and empty. Called with the condition held."""
        while True:
            waiting = [q for q in self._queues.values() if q.pending]
            if not waiting and self._closing:
                return None
            now_s = self._store.clock.monotonic_s()
            for queue in waiting:
                waited_us = int((now_s - queue.since_s) * 1_000_000)
                urgent = (
                    self._closing or self._flushing or self._policy.is_full(self._buffered_bytes)
                )
                if urgent or self._policy.is_due(events=len(queue.pending), waited_us=waited_us):
                    return queue
            timeout = None
            if waiting:
                oldest = min(q.since_s for q in waiting)
                timeout = max(0.0, oldest + self._policy.linger_us / 1_000_000 - now_s)
            self._changed.wait(timeout)

    def _send(self, info: TopicInfo, pending: Sequence[_Pending]) -> None:
        try:
            by_partition = self._route(info, pending)
            for number, events in by_partition.items():
                self._send_partition(info, number, events)
        except Exception as error:  # noqa: BLE001 - every sender must hear of it, and the thread goes on
            for entry in pending:
                if not entry.future.done():
                    entry.future.set_exception(error)

    def _route(self, info: TopicInfo, pending: Sequence[_Pending]) -> dict[int, list[_Pending]]:
        result: dict[int, list[_Pending]] = {}
        self._turn += 1
        for entry in pending:
            try:
                key = entry.event.get(info.key) if info.key is not None else None
                number = partition_of(key, info.partitions)
            except (TypeError, OverflowError, AttributeError, UnicodeEncodeError):
                number = NO_KEY  # the encoder says what is wrong with it
            number = self._turn % info.partitions if number == NO_KEY else number
            result.setdefault(number, []).append(entry)
        return result

    def _send_partition(self, info: TopicInfo, number: int, entries: list[_Pending]) -> None:
        encoder = self._log.encoder(info)
        now_us = self._store.clock.now_us()
        try:
            parts = encoder.encode([e.event for e in entries], now_us, partition=number)
        except MillstreamError:
            if len(entries) == 1:
                raise
            # One bad event must not take the others with it.
            for entry in entries:
                self._send(info, [entry])
            return
        numbered = entries[0].sequence is not None
        try:
            appended = (
                self._store_numbered(info, number, entries, encoder)
                if numbered
                else self._store_counted(info, number, parts)
            )
        except Overlap as overlap:
            fresh = []
            for entry in entries:
                if entry.sequence is None or entry.sequence > overlap.last_sequence:
                    fresh.append(entry)
                else:
                    entry.future.set_result(Appended(info.name, number, -1, -1, True))
            self._send_partition(info, number, fresh)
            return
        _resolve(entries, appended)

    def _store_counted(self, info: TopicInfo, number: int, parts: list[Part]) -> list[Appended]:
        place = (info.id, number)
        if place not in self._sequences:
            self._sequences[place] = self.sequences(info).get(number, -1)
        sequence = self._sequences[place] + 1
        stamps: list[Stamp] = []
        for part in parts:
            stamps.append(Stamp(self.producer_id, self.epoch, sequence))
            sequence += part.frame.rows
        appended = self._commit(info, parts, stamps)
        self._sequences[place] = sequence - 1
        return appended

    def _store_numbered(
        self, info: TopicInfo, number: int, entries: list[_Pending], encoder: TopicEncoder
    ) -> list[Appended]:
        sequences = [e.sequence for e in entries]
        if not _ascend(sequences):
            raise ConfigurationError(
                "sequences of one producer must ascend, and all events have one or none",
                where=f"topic {info.name!r}, partition {number}",
                expected="greater numbers than before, on every event",
                next_step="send the events in the order of their numbers",
            )
        parts = encoder.encode(
            [e.event for e in entries], self._store.clock.now_us(), partition=number
        )
        if len(parts) > 1:
            middle = len(entries) // 2
            return [
                *self._store_numbered(info, number, entries[:middle], encoder),
                *self._store_numbered(info, number, entries[middle:], encoder),
            ]
        first, last = sequences[0], sequences[-1]
        assert first is not None
        stamp = Stamp(self.producer_id, self.epoch, first, gaps_allowed=True, last_sequence=last)
        return self._commit(info, parts, [stamp])

    def _commit(
        self, info: TopicInfo, parts: Sequence[Part], stamps: Sequence[Stamp]
    ) -> list[Appended]:
        """Store the parts; a busy store is asked again, which the stamps make safe."""
        for attempt in range(_SEND_ATTEMPTS):
            try:
                staged = stage(self._store, info, parts, stamps=stamps)
                return self._store.write(staged)
            except SegmentGone:
                continue
            except StoreBusy:
                if attempt == _SEND_ATTEMPTS - 1:
                    raise
        raise no_segment_kept(info.name, _SEND_ATTEMPTS)


def _resolve(entries: Sequence[_Pending], appended: Sequence[Appended]) -> None:
    """Tell each event where it lies: parts are in the order of the events."""
    position = 0
    for part in appended:
        count = (
            len(entries) - position
            if part.first_offset < 0
            else part.next_offset - part.first_offset
        )
        for index, entry in enumerate(entries[position : position + count]):
            offset = -1 if part.first_offset < 0 else part.first_offset + index
            entry.future.set_result(
                Appended(part.topic, part.partition, offset, offset + 1, part.repeated)
            )
        position += count


def _ascend(sequences: Sequence[int | None]) -> bool:
    """Return whether all are numbers, each greater than the one before."""
    numbers = [number for number in sequences if number is not None]
    return len(numbers) == len(sequences) and all(a < b for a, b in pairwise(numbers))


def _size_of(event: Mapping[str, Any]) -> int:
    """Return about how much memory an event holds: its text and bytes, and a little for the rest."""
    try:
        values = event.values()
    except AttributeError:
        return _EVENT_OVERHEAD_BYTES  # no dict: the encoder refuses it, and the future says so
    return _EVENT_OVERHEAD_BYTES + sum(
        len(value) if isinstance(value, (str, bytes)) else 16 for value in values
    )
