"""The handle of a topic that users hold: ``clicks.append``, ``clicks.consume``, ``clicks.producer``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import pyarrow as pa

from millstream.log.batching import batching_policy
from millstream.log.contract import (
    Consumer,
    ConsumerOptions,
    LogEngine,
    LogTransaction,
    PartitionLag,
    Producer,
    Start,
)
from millstream.log.definition import TopicInfo, TopicSpec
from millstream.log.events import Appended, EventBatch
from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.limits import (
    PRODUCER_BATCH_EVENTS,
    PRODUCER_BUFFER_BYTES,
    READ_BYTES_MAX,
    READ_EVENTS_MAX,
)

if TYPE_CHECKING:
    import polars as pl

Event: TypeAlias = Mapping[str, Any]
Events: TypeAlias = "Event | Sequence[Event] | pa.RecordBatch | pa.Table | pl.DataFrame"
"""One event as a dict, several, or a batch of columns."""


class Topic:
    """A named, durable sequence of events in partitions. Cheap to make; any thread may use it.

    The topic is made in the store at the first use of the handle, or brought up to date with its declaration.
    """

    def __init__(self, spec: TopicSpec, engine: Callable[[], LogEngine]) -> None:
        """Made by ``App.topic``."""
        self._spec = spec
        self._engine = engine
        self._info: TopicInfo | None = None
        self._owner: LogEngine | None = None

    @property
    def name(self) -> str:
        """The topic's name."""
        return self._spec.name

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return self._spec.schema

    @property
    def info(self) -> TopicInfo:
        """The topic as it is stored. Raises TopicExists if it is stored with another definition."""
        return self._info_of(self._engine())

    def _info_of(self, engine: LogEngine) -> TopicInfo:
        if self._info is None or self._owner is not engine:
            self._info = engine.create_topic(self._spec)
            self._owner = engine
        return self._info

    def append(self, events: Events, *, partition: int | None = None) -> list[Appended]:
        """Store an event (a dict), a list, a pyarrow Table or RecordBatch, or a Polars frame.

        All or nothing. Returns where they lie, an entry for each frame; they are as durable then as the app promises.
        Raises SchemaError or EventTooLarge for data that does not fit, StoreFull when there is no space: nothing is
        stored.
        """
        engine = self._engine()
        return engine.append(self._info_of(engine), events, partition=partition)

    def producer(
        self,
        *,
        name: str | None = None,
        linger: Duration = "5ms",
        batch_events: int = PRODUCER_BATCH_EVENTS,
        buffer_bytes: int = PRODUCER_BUFFER_BYTES,
        block_timeout: Duration = "60s",
    ) -> TopicProducer:
        """Return a producer that gathers single events and stores them in batches, from a thread of its own.

        A batch goes after ``linger`` or ``batch_events``; ``send`` blocks while ``buffer_bytes`` wait. A ``name``
        makes repeated sends recognizable after a restart, see ``TopicProducer.send``.
        """
        policy = batching_policy(
            linger=linger,
            batch_events=batch_events,
            buffer_bytes=buffer_bytes,
            block_timeout=block_timeout,
        )
        return TopicProducer(self.info, self._engine().producer(name, policy))

    def consume(
        self,
        group: str,
        *,
        start: Start = "earliest",
        follow: bool = True,
        auto_commit: bool = True,
        batch_events: int = READ_EVENTS_MAX,
        batch_bytes: int = READ_BYTES_MAX,
        session: Duration = "10s",
        poll_interval_max: Duration = "5m",
    ) -> Consumer:
        """Join a group and iterate over its events: ``for batch in clicks.consume("audit")``, or ``async for``.

        Each group is at its own place; the members of one group share the partitions. ``start`` says where a group
        begins that never read: ``"earliest"``, ``"latest"``, an offset, or the time of an append. ``follow=False``
        ends at the end. Delivery is at least once: the place is stored when the next batch is asked for. Raises
        OffsetOutOfRange for a start that no event has reached yet.
        """
        if not isinstance(start, (int, datetime)) and start not in ("earliest", "latest"):
            raise ConfigurationError(
                f"start={start!r}",
                where=f"consume of topic {self.name!r}",
                expected="'earliest', 'latest', an offset, or an aware datetime",
                next_step="leave it out to begin at the first event",
            )
        if not group or batch_events < 1 or batch_bytes < 1:
            raise ConfigurationError(
                f"group={group!r}, batch_events={batch_events}, batch_bytes={batch_bytes}",
                where=f"consume of topic {self.name!r}",
                expected="a name and positive numbers",
                next_step="name the group; leave the numbers out for the defaults",
            )
        options = ConsumerOptions(
            start,
            follow,
            auto_commit,
            batch_events,
            batch_bytes,
            duration_us(session),
            duration_us(poll_interval_max),
        )
        return self._engine().consumer(self.info, group, options)

    def read(
        self,
        partition: int = 0,
        offset: int = 0,
        *,
        events_max: int = READ_EVENTS_MAX,
        bytes_max: int = READ_BYTES_MAX,
    ) -> EventBatch | None:
        """Return events from an offset on, without a group, or None at the end. Raises OffsetOutOfRange."""
        return self._engine().read(
            self.info, partition, offset, events_max=events_max, bytes_max=bytes_max
        )

    def batches(self) -> Iterator[EventBatch]:
        """Iterate over all that is there now, partition by partition, without a group."""
        for partition, (offset, end) in enumerate(self.ends()):
            while offset < end:
                batch = self.read(partition, offset)
                if batch is None:
                    break
                yield batch
                offset = batch.next_offset

    def to_table(self) -> pa.Table:
        """Return all events that are there now as one table; it must fit in memory."""
        tables = [batch.table for batch in self.batches()]
        return pa.concat_tables(tables) if tables else self.info.schema.empty_table()

    def ends(self) -> list[tuple[int, int]]:
        """Return (first offset, next offset) of each partition."""
        return self._engine().ends(self.info)

    def __len__(self) -> int:
        """Return how many offsets there are; after compaction some are gaps."""
        return sum(end - first for first, end in self.ends())

    def lag(self) -> dict[str, list[PartitionLag]]:
        """Return how far each group is behind, by partition."""
        return self._engine().lag(self.info)

    def delete(self) -> None:
        """Delete the topic with its events and groups."""
        self._engine().delete_topic(self.info.name)
        self._info = None

    def __repr__(self) -> str:
        """Say which topic it is."""
        return f"Topic({self.name!r})"


class TopicProducer:
    """A buffering producer of one topic. Thread-safe; a context manager that flushes at its end."""

    def __init__(self, info: TopicInfo, producer: Producer) -> None:
        """Made by ``Topic.producer``."""
        self._info = info
        self._producer = producer

    def send(self, event: Mapping[str, Any], *, sequence: int | None = None) -> Future[Appended]:
        """Take one event; the future's ``result()`` says where it lies, or raises why it was refused.

        ``sequence`` numbers the events of your own source, ascending. A named producer stores each number once, so
        after a crash the source may simply send again from the start, or from ``sequences()``.
        """
        return self._producer.send(self._info, event, sequence=sequence)

    def flush(self, timeout_s: float | None = None) -> None:
        """Return when all that was sent is stored or refused."""
        self._producer.flush(timeout_s)

    def sequences(self) -> dict[int, int]:
        """Return the last stored sequence of this producer's name in each partition."""
        return self._producer.sequences(self._info)

    def close(self) -> None:
        """Flush, and stop."""
        self._producer.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Flush, and stop."""
        self.close()


class TopicTransaction:
    """Events for several topics and places of consumers, visible together: ``with app.transaction() as tx``."""

    def __init__(self, transaction: LogTransaction) -> None:
        """Made by ``App.transaction``."""
        self._transaction = transaction
        self.appended: list[Appended] = []
        """Where the events lie, once the transaction is finished."""

    def append(self, topic: Topic, events: Events) -> None:
        """Add events to a topic. They are checked now and visible at the end."""
        self._transaction.append(topic.info, events)

    def commit(self, consumer: Consumer) -> None:
        """Add the place of a consumer: what it delivered counts as read if, and only if, the events are stored."""
        self._transaction.commit(consumer)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Make everything visible, or nothing if there was an error."""
        if kind is None:
            self.appended = self._transaction.finish()
