"""A consumer: a member of a group that reads its partitions in turn and sleeps in the kernel when there is nothing.

Delivery is at least once: a position is stored when the next batch is asked for (or by ``commit()``), so a crash in
between delivers the last batch again, to this member or to the one that takes over. Within a transaction it is
exactly once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from millstream.engines.local.groups import Membership
from millstream.engines.local.reading import Reader
from millstream.engines.local.topics import unknown_topic
from millstream.log.contract import ConsumerOptions, PartitionLag
from millstream.log.definition import TopicInfo
from millstream.log.events import EventBatch
from millstream.primitives.errors import Fenced, OffsetOutOfRange, StoreClosed, StoreError
from millstream.primitives.limits import WAIT_FALLBACK_S
from millstream.primitives.schema import datetime_us
from millstream.primitives.telemetry import reach
from millstream.store import Store, Transaction

_LOOK_AT_GROUP_EVERY_S = 0.5


class LocalConsumer:
    """One member. Used by one thread at a time, except for ``stop`` and ``heartbeat``."""

    def __init__(
        self, store: Store, reader: Reader, info: TopicInfo, group: str, options: ConsumerOptions
    ) -> None:
        """Join the group."""
        self._store = store
        self._reader = reader
        self._info = info
        self._options = options
        self._start = self._start_positions()
        self.membership = Membership(store, info, group, options.session_us)
        self._waiter = store.waiter(f"topic:{info.id}", self.membership.channel)
        self._positions: dict[int, int] = {}
        self._epochs: dict[int, int] = {}
        self._delivered: dict[int, int] = {}
        self._turn = 0
        self._next_look_s = 0.0
        self._polled_us = store.clock.now_us()
        self._stopped = threading.Event()
        self._closed = False
        self.skipped = 0
        """Events that retention deleted before this consumer came to them."""
        self.fenced = 0
        """Batches whose position was refused, because another member had taken the partition."""

    def _start_positions(self) -> dict[int, int]:
        start, numbers = self._options.start, range(self._info.partitions)
        if isinstance(start, datetime):
            at_us = datetime_us(start)
            return {n: self._reader.offset_at(self._info, n, at_us) for n in numbers}
        ends = self.ends()
        if isinstance(start, int):
            for number, (_, end) in enumerate(ends):
                if not 0 <= start <= end:
                    raise self._not_there(number, start, end)
            return dict.fromkeys(numbers, start)
        return {n: ends[n][0 if start == "earliest" else 1] for n in numbers}

    def _not_there(self, number: int, start: int, end: int) -> OffsetOutOfRange:
        return OffsetOutOfRange(
            f"offset {start} is not there",
            where=f"topic {self._info.name!r}, partition {number}",
            expected=f"0 to {end}",
            next_step="start at 'earliest' or 'latest'",
        )

    def ends(self) -> list[tuple[int, int]]:
        """Return (first offset, next offset) of each partition. Raises UnknownTopic."""
        with self._store.read() as snapshot:
            rows = snapshot.run("log/partitions", (self._info.id,))
        if not rows:
            raise unknown_topic(self._info.name, str(self._store.path), [])
        return [(first, end) for _, _, first, end, _ in rows]

    @property
    def partitions(self) -> list[int]:
        """The partitions that this member reads now."""
        return sorted(self.membership.owned)

    def poll(self, timeout_s: float | None = None) -> EventBatch | None:
        """Return the next events, waiting up to ``timeout_s`` (None: for ever).

        Returns None when the time is over, after ``stop()``, and at the end if the consumer does not follow. Commits
        what the last call returned, if it commits by itself. Raises StoreClosed, StoreCorrupt, UnknownTopic.
        """
        clock = self._store.clock
        deadline = None if timeout_s is None else clock.monotonic_s() + timeout_s
        self._begin_poll()
        while not self._stopped.is_set():
            batch = self._try_next()
            if batch is not None:
                return batch
            if not self._options.follow and self._is_at_end():
                return None
            self._waiter.arm()
            batch = self._try_next(armed=True)
            if batch is not None:
                return batch
            remaining = WAIT_FALLBACK_S if deadline is None else deadline - clock.monotonic_s()
            if remaining <= 0:
                return None
            self._waiter.wait(min(remaining, _LOOK_AT_GROUP_EVERY_S))
        return None

    def _begin_poll(self) -> None:
        if self._closed:
            raise StoreClosed(
                "the consumer is closed",
                where=f"group {self.membership.group!r} of topic {self._info.name!r}",
                expected="a consumer that is open",
                next_step="make a new one with consume()",
            )
        self._polled_us = self._store.clock.now_us()
        if self._options.auto_commit:
            self._commit_quietly()

    def _try_next(self, *, armed: bool = False) -> EventBatch | None:
        """Return events that are there already, without waiting; ``armed`` before it sleeps."""
        self._look_at_group(armed=armed)
        owned = sorted(self.membership.owned)
        for step in range(len(owned)):
            number = owned[(self._turn + step) % len(owned)]
            batch = self._read(number)
            if batch is not None:
                self._turn = (self._turn + step + 1) % len(owned)
                self._positions[number] = batch.next_offset
                self._delivered[number] = batch.next_offset
                return batch
        return None

    def _read(self, number: int) -> EventBatch | None:
        try:
            return self._reader.read(
                self._info,
                number,
                self._positions[number],
                events_max=self._options.batch_events,
                bytes_max=self._options.batch_bytes,
            )
        except OffsetOutOfRange:
            first, end = self.ends()[number]
            position = self._positions[number]
            if position > end:
                raise
            self.skipped += max(0, first - position)
            self._positions[number] = first
            return None

    def _look_at_group(self, *, armed: bool) -> None:
        now_s = self._store.clock.monotonic_s()
        # Not on a wake-up, which may have been an event. But before it sleeps: a change of the group that was committed
        # before it armed wakes nobody.
        if now_s < self._next_look_s and not (armed and not self.membership.is_settled()):
            return
        self._next_look_s = now_s + _LOOK_AT_GROUP_EVERY_S
        if not self.membership.reconcile(self._start):
            return
        owned = self.membership.owned
        # Another epoch of a partition that was ours before: it was lost and taken again, or ``seek`` moved the group.
        for number in list(self._positions):
            if number not in owned or owned[number].epoch != self._epochs[number]:
                del self._positions[number]
                self._delivered.pop(number, None)
        for number, mine in owned.items():
            if number not in self._positions:
                assert mine.position is not None
                self._positions[number] = mine.position
                self._epochs[number] = mine.epoch

    def _is_at_end(self) -> bool:
        """Return whether the group has read all there is; other members may still hold a part of it."""
        return all(lag.events <= 0 for lag in self.lag())

    def commit(self) -> None:
        """Store that the group has read everything that was delivered. Raises Fenced if a partition was lost.

        When it returns, a restart goes on behind the delivered events, as durable as the store is.
        """
        if not self._delivered:
            return
        positions = dict(self._delivered)
        try:
            self._store.write(lambda tx: self.membership.apply_commit(tx, positions))
        except Fenced:
            self._forget_lost()
            raise
        self._delivered.clear()
        reach("group.position_committed")

    def _commit_quietly(self) -> None:
        try:
            self.commit()
        except Fenced:
            self.fenced += 1

    def _forget_lost(self) -> None:
        self._delivered.clear()
        self.membership.owned = {}
        self._positions = {}
        self._next_look_s = 0.0

    def apply_commit(self, tx: Transaction) -> None:
        """Store the delivered positions inside a transaction: for ``LogTransaction.commit``."""
        self.membership.apply_commit(tx, self._delivered)

    def committed(self) -> None:
        """Note that the transaction of ``apply_commit`` was committed."""
        self._delivered.clear()

    def lag(self) -> list[PartitionLag]:
        """Return how far the group is behind, counting what is delivered but not committed as read."""
        lags = read_lag(self._store, self._info, self.membership.group_id)
        return [
            PartitionLag(
                lag.partition, max(lag.position, self._delivered.get(lag.partition, 0)), lag.end
            )
            for lag in lags
        ]

    def events(self) -> Iterator[dict[str, Any]]:
        """Iterate over single events as dicts; positions are committed batch by batch."""
        for batch in self:
            yield from batch.to_pylist()

    def heartbeat(self) -> None:
        """Prolong the session while the user's code still polls; called by the engine's heartbeat thread."""
        since_us = self._store.clock.now_us() - self._polled_us
        if not self._closed and since_us < self._options.poll_interval_max_us:
            self.membership.renew()

    def stop(self) -> None:
        """End the iteration, from any thread."""
        self._stopped.set()
        self._waiter.interrupt()

    def close(self) -> None:
        """Leave the group; the others take over at once. What was delivered last is not committed."""
        if self._closed:
            return
        self._closed = True
        self._stopped.set()
        try:
            if not self._store.closed:
                self.membership.leave()
        except StoreError:
            # A store that is full or stopped cannot note it; the others see it when the session ends.
            return
        finally:
            self._waiter.close()

    def __iter__(self) -> Iterator[EventBatch]:
        """Iterate until the end (``follow=False``) or ``stop()``."""
        while True:
            batch = self.poll(None)
            if batch is None:
                return
            yield batch

    async def __aiter__(self) -> AsyncIterator[EventBatch]:
        """Iterate in an event loop: reading happens in short steps, waiting in the loop."""
        while True:
            self._begin_poll()
            batch = await self._next_async()
            if batch is None:
                return
            yield batch

    async def _next_async(self) -> EventBatch | None:
        while not self._stopped.is_set():
            batch = self._try_next()
            if batch is not None:
                return batch
            self._waiter.arm()
            batch = self._try_next(armed=True)
            if batch is not None:
                return batch
            if not self._options.follow and self._is_at_end():
                return None
            await self._wait_async()
        return None

    async def _wait_async(self) -> None:
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        try:
            loop.add_reader(self._waiter.fileno(), woken.set)
        except NotImplementedError:  # the proactor loop of Windows
            await loop.run_in_executor(None, self._waiter.wait, _LOOK_AT_GROUP_EVERY_S)
            return
        try:
            await asyncio.wait_for(woken.wait(), _LOOK_AT_GROUP_EVERY_S)
        except TimeoutError:
            return
        finally:
            loop.remove_reader(self._waiter.fileno())
            self._waiter.drain()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit what was delivered if there was no error, and close."""
        if kind is None and self._options.auto_commit and not self._closed:
            self._commit_quietly()
        self.close()


def read_lag(store: Store, info: TopicInfo, group_id: int) -> list[PartitionLag]:
    """Return how far a group is behind in each partition, by what is committed."""
    with store.read() as snapshot:
        ends = snapshot.run("log/partitions", (info.id,))
        positions: Mapping[int, int | None] = {
            row[0]: row[1] for row in snapshot.run("log/group_partitions", (group_id,))
        }
    result = []
    for partition_id, number, first, end, _ in ends:
        position = positions.get(partition_id)
        result.append(
            PartitionLag(number, max(first, position if position is not None else first), end)
        )
    return result
