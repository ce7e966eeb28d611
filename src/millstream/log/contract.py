"""What every engine of the log can do, whatever it runs on: the seam between the vocabulary and the engines.

An engine is finished when ``millstream.testing.log_suite`` passes on it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self

from millstream.log.batching import BatchingPolicy
from millstream.log.definition import TopicInfo, TopicSpec
from millstream.log.events import Appended, EventBatch

Start = str | int | datetime
"""``"earliest"``, ``"latest"``, an offset, or an aware datetime (the time of the append)."""


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """How far a group is behind in one partition."""

    partition: int
    position: int
    end: int

    @property
    def events(self) -> int:
        """The number of offsets that were not read yet."""
        return self.end - self.position


@dataclass(frozen=True, slots=True)
class ConsumerOptions:
    """How a consumer reads."""

    start: Start
    follow: bool
    auto_commit: bool
    batch_events: int
    batch_bytes: int
    session_us: int
    poll_interval_max_us: int


class Consumer(Protocol):
    """A member of a group. One thread at a time, except for ``stop``."""

    skipped: int

    def poll(self, timeout_s: float | None = None) -> EventBatch | None:
        """Return the next events, waiting up to ``timeout_s`` (None: for ever); None when there are none."""

    def commit(self) -> None:
        """Store how far the group has read. Raises Fenced."""

    def lag(self) -> list[PartitionLag]:
        """Return how far the group is behind, by partition."""

    def events(self) -> Iterator[dict[str, Any]]:
        """Iterate over single events as dicts."""

    def stop(self) -> None:
        """End the iteration, from any thread."""

    def close(self) -> None:
        """Leave the group."""

    def __iter__(self) -> Iterator[EventBatch]:
        """Iterate over batches."""

    def __aiter__(self) -> AsyncIterator[EventBatch]:
        """Iterate over batches in an event loop."""

    def __enter__(self) -> Self:
        """Return itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit what was delivered if there was no error, and close."""


class Producer(Protocol):
    """Gathers events and sends them in batches. Thread-safe."""

    def send(
        self, topic: TopicInfo, event: Mapping[str, Any], *, sequence: int | None = None
    ) -> Future[Appended]:
        """Take one event; the future tells where it was stored."""

    def flush(self, timeout_s: float | None = None) -> None:
        """Return when all that was sent is acknowledged."""

    def sequences(self, topic: TopicInfo) -> dict[int, int]:
        """Return the last stored sequence of this producer in each partition."""

    def close(self) -> None:
        """Flush, and stop."""


class LogTransaction(Protocol):
    """Events for several topics and positions of consumers that become visible together."""

    def append(self, topic: TopicInfo, data: Any) -> None:  # noqa: ANN401 - every form of events
        """Add events."""

    def commit(self, consumer: Consumer) -> None:
        """Add the position of a consumer."""

    def finish(self) -> list[Appended]:
        """Make it all visible."""


class LogEngine(Protocol):
    """A log."""

    def create_topic(self, spec: TopicSpec) -> TopicInfo:
        """Return the topic, made if it is new."""

    def topic(self, name: str) -> TopicInfo:
        """Return a topic. Raises UnknownTopic."""

    def topic_names(self) -> list[str]:
        """Return all topics."""

    def delete_topic(self, name: str) -> None:
        """Delete a topic and its events."""

    def append(
        self,
        topic: TopicInfo,
        data: Any,  # noqa: ANN401 - every form of events
        *,
        partition: int | None = None,
    ) -> list[Appended]:
        """Store events; return when they are as durable as promised."""

    def transaction(self) -> LogTransaction:
        """Begin a transaction over topics."""

    def producer(self, name: str | None, policy: BatchingPolicy) -> Producer:
        """Return a producer; a named one is fenced by the next of its name."""

    def consumer(self, topic: TopicInfo, group: str, options: ConsumerOptions) -> Consumer:
        """Join a group."""

    def read(
        self, topic: TopicInfo, partition: int, offset: int, *, events_max: int, bytes_max: int
    ) -> EventBatch | None:
        """Return events from an offset on, without a group."""

    def ends(self, topic: TopicInfo) -> list[tuple[int, int]]:
        """Return (first offset, next offset) of each partition."""

    def lag(self, topic: TopicInfo) -> dict[str, list[PartitionLag]]:
        """Return how far each group is behind."""
