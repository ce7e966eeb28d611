"""The local log: topics, appends, transactions, producers, consumers and reads over one store."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

from millstream.engines.local.append import SegmentGone, Staged, no_segment_kept, stage
from millstream.engines.local.consumer import LocalConsumer, read_lag
from millstream.engines.local.encoding import TopicEncoder
from millstream.engines.local.groups import tell_group
from millstream.engines.local.producer import LocalProducer
from millstream.engines.local.reading import Reader
from millstream.engines.local.topics import Topics, unknown_topic
from millstream.engines.local.upkeep import Upkeep
from millstream.log.batching import BatchingPolicy
from millstream.log.contract import Consumer, ConsumerOptions, PartitionLag
from millstream.log.definition import TopicInfo, TopicSpec
from millstream.log.events import Appended, EventBatch
from millstream.primitives.durability import Durability
from millstream.primitives.errors import (
    ConfigurationError,
    MillstreamError,
)
from millstream.primitives.limits import READ_BYTES_MAX, READ_EVENTS_MAX
from millstream.store import Store, Transaction

_STAGE_ATTEMPTS: Final = 8
_HEARTBEAT_EVERY_S: Final = 2.0


class LocalLog:
    """A log in a directory. Thread-safe; many processes may use one store."""

    def __init__(self, store: Store) -> None:
        """Use an open store, and let its background work keep the log in order."""
        self.store = store
        self._topics = Topics(store)
        self._reader = Reader(store, self._topics)
        self._encoders: dict[int, TopicEncoder] = {}
        self._consumers: weakref.WeakSet[LocalConsumer] = weakref.WeakSet()
        self._heartbeat: threading.Thread | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self.upkeep = Upkeep(store, self._topics, self._reader)
        for name, chore in self.upkeep.chores():
            store.duty.add(name, chore, urgent=name in self.upkeep.urgent)

    def create_topic(self, spec: TopicSpec) -> TopicInfo:
        """Return the topic, made if it is new. Raises TopicExists if it exists and differs."""
        return self._topics.create(spec)

    def topic(self, name: str) -> TopicInfo:
        """Return a topic. Raises UnknownTopic."""
        return self._topics.get(name)

    def topic_names(self) -> list[str]:
        """Return the names of all topics, sorted."""
        return self._topics.names()

    def delete_topic(self, name: str) -> None:
        """Delete a topic, its events and its groups. Raises UnknownTopic."""
        self._topics.delete(name)

    def encoder(self, info: TopicInfo) -> TopicEncoder:
        """Return the encoder of a topic."""
        encoder = self._encoders.get(info.schema_id)
        if encoder is None:
            encoder = self._encoders[info.schema_id] = TopicEncoder(info)
        return encoder

    def stage(
        self,
        info: TopicInfo,
        data: object,
        *,
        partition: int | None = None,
        durability: Durability | None = None,
    ) -> Staged:
        """Encode events, and write and sync what is large; ``Staged.apply`` makes them visible in a transaction."""
        if partition is not None:
            _refuse_other_partition(info, partition)
        parts = self.encoder(info).encode(data, self.store.clock.now_us(), partition=partition)
        return stage(self.store, info, parts, durability=durability)

    def append(
        self,
        topic: TopicInfo,
        data: object,
        *,
        partition: int | None = None,
    ) -> list[Appended]:
        """Store events in one transaction; return when they are as durable as the store promises.

        Raises SchemaError or EventTooLarge (nothing is stored), UnknownTopic, StoreFull, StoreStopped.
        """
        for _ in range(_STAGE_ATTEMPTS):
            staged = self.stage(topic, data, partition=partition)
            if not staged.parts:
                return []
            try:
                return self.store.write(staged)
            except SegmentGone:
                continue
        raise no_segment_kept(topic.name, _STAGE_ATTEMPTS)

    def transaction(self) -> LocalLogTransaction:
        """Begin a transaction over topics and consumers."""
        return LocalLogTransaction(self)

    def producer(self, name: str | None, policy: BatchingPolicy) -> LocalProducer:
        """Return a buffering, idempotent producer; a named one fences the older of its name."""
        return LocalProducer(self, self.store, name, policy)

    def consumer(self, topic: TopicInfo, group: str, options: ConsumerOptions) -> LocalConsumer:
        """Join a group of a topic."""
        consumer = LocalConsumer(self.store, self._reader, topic, group, options)
        with self._lock:
            self._consumers.add(consumer)
            if self._heartbeat is None:
                self._heartbeat = threading.Thread(
                    target=self._beat, name="millstream-heartbeat", daemon=True
                )
                self._heartbeat.start()
        return consumer

    def _beat(self) -> None:
        while not self._closing.wait(_HEARTBEAT_EVERY_S):
            for consumer in list(self._consumers):
                try:
                    consumer.heartbeat()
                except MillstreamError:
                    # The consumer's own next call reports it; a session that ends is the right outcome.
                    continue

    def read(
        self,
        topic: TopicInfo,
        partition: int,
        offset: int,
        *,
        events_max: int = READ_EVENTS_MAX,
        bytes_max: int = READ_BYTES_MAX,
    ) -> EventBatch | None:
        """Return events from an offset on, or None when there are none.

        Raises OffsetOutOfRange, ConfigurationError for a partition that is not there, UnknownTopic, StoreCorrupt.
        """
        _refuse_other_partition(topic, partition)
        return self._reader.read(
            topic, partition, offset, events_max=events_max, bytes_max=bytes_max
        )

    def offset_at(self, topic: TopicInfo, partition: int, at_us: int) -> int:
        """Return the offset of the first event appended at that time or later."""
        return self._reader.offset_at(topic, partition, at_us)

    def ends(self, topic: TopicInfo) -> list[tuple[int, int]]:
        """Return (first offset, next offset) of each partition. Raises UnknownTopic."""
        rows = self.store.look("log/partitions", (topic.id,))
        if not rows:
            raise unknown_topic(topic.name, str(self.store.path), self.topic_names())
        return [(first, end) for _, _, first, end, _ in rows]

    def size_bytes(self, topic: TopicInfo) -> int:
        """Return the bytes of all frames of a topic."""
        with self.store.read() as snapshot:
            return sum(row[4] for row in snapshot.run("log/partitions", (topic.id,)))

    def lag(self, topic: TopicInfo) -> dict[str, list[PartitionLag]]:
        """Return how far each group is behind."""
        with self.store.read() as snapshot:
            groups = snapshot.run("log/groups_of_topic", (topic.id,))
        return {name: read_lag(self.store, topic, group_id) for group_id, name, _ in groups}

    def seek(self, topic: TopicInfo, group: str, offsets: dict[int, int]) -> None:
        """Move a group to other offsets; members that read there are fenced and go on from the new place."""

        def work(tx: Transaction) -> None:
            [[group_id, _]] = tx.run("log/group_open", (group, topic.id))
            for number, offset in offsets.items():
                tx.run("log/group_partition_set", (group_id, topic.partition_ids[number], offset))
            tell_group(tx, group_id)

        self.store.write(work)

    def close(self) -> None:
        """Leave all groups and stop the heartbeat. The store is closed by its owner."""
        self._closing.set()
        self.store.duty.stop()
        self.upkeep.close()
        for consumer in list(self._consumers):
            consumer.close()
        if self._heartbeat is not None:
            self._heartbeat.join()


def _refuse_other_partition(info: TopicInfo, partition: int) -> None:
    if not 0 <= partition < info.partitions:
        raise ConfigurationError(
            f"there is no partition {partition}",
            where=f"topic {info.name!r}",
            expected=f"0 to {info.partitions - 1}",
            next_step="leave it out when appending, and the key chooses",
        )


class LocalLogTransaction:
    """Appends to several topics and positions of consumers, visible together or not at all. One thread."""

    def __init__(self, log: LocalLog) -> None:
        """Begin; nothing is visible before ``finish``."""
        self._log = log
        self._pending: list[tuple[TopicInfo, Any]] = []
        self._staged: list[Staged] = []
        self._consumers: list[LocalConsumer] = []
        self._works: list[Callable[[Transaction], None]] = []

    def add(self, work: Callable[[Transaction], None]) -> None:
        """Add what shall become true in the same moment; it runs in the store's transaction, and may run again."""
        self._works.append(work)

    def append(self, topic: TopicInfo, data: object) -> None:
        """Add events; they are checked, and large ones written, now."""
        self._staged.append(self._log.stage(topic, data))
        self._pending.append((topic, data))

    def commit(self, consumer: Consumer) -> None:
        """Add the position of a consumer of this log."""
        if not isinstance(consumer, LocalConsumer):
            raise ConfigurationError(
                "the consumer belongs to another engine",
                where="commit of a transaction",
                expected="a consumer of a topic in the same store",
                next_step="consume the topic with the app that began the transaction",
            )
        self._consumers.append(consumer)

    def finish(self) -> list[Appended]:
        """Make it all visible in one transaction.

        Raises Fenced if a consumer lost a partition: nothing happened then.
        """
        for _ in range(_STAGE_ATTEMPTS):
            try:
                appended = self._log.store.write(self._apply)
            except SegmentGone:
                self._staged = [self._log.stage(topic, data) for topic, data in self._pending]
                continue
            for consumer in self._consumers:
                consumer.committed()
            return appended
        raise no_segment_kept("a transaction", _STAGE_ATTEMPTS)

    def _apply(self, tx: Transaction) -> list[Appended]:
        for consumer in self._consumers:
            consumer.apply_commit(tx)
        for work in self._works:
            work(tx)
        return [appended for staged in self._staged for appended in staged.apply(tx)]
