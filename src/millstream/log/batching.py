"""When a buffering producer sends: pure decisions."""

from __future__ import annotations

from dataclasses import dataclass

from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.limits import PRODUCER_BATCH_EVENTS, PRODUCER_BUFFER_BYTES


@dataclass(frozen=True, slots=True)
class BatchingPolicy:
    """How long events are gathered, and how many."""

    linger_us: int
    batch_events: int
    buffer_bytes: int
    block_timeout_us: int

    def is_due(self, *, events: int, waited_us: int) -> bool:
        """Return whether a batch of so many events, the oldest waiting so long, shall be sent now."""
        return events >= self.batch_events or (events > 0 and waited_us >= self.linger_us)

    def is_full(self, buffered_bytes: int) -> bool:
        """Return whether the buffer takes nothing more: back-pressure."""
        return buffered_bytes >= self.buffer_bytes


def batching_policy(
    *,
    linger: Duration = "5ms",
    batch_events: int = PRODUCER_BATCH_EVENTS,
    buffer_bytes: int = PRODUCER_BUFFER_BYTES,
    block_timeout: Duration = "60s",
) -> BatchingPolicy:
    """Return the policy, checked. Raises ConfigurationError."""
    if batch_events < 1 or buffer_bytes < 1:
        raise ConfigurationError(
            f"batch_events={batch_events}, buffer_bytes={buffer_bytes}",
            where="producer",
            expected="positive numbers",
            next_step="leave them out for the defaults",
        )
    return BatchingPolicy(
        duration_us(linger), batch_events, buffer_bytes, duration_us(block_timeout)
    )


@dataclass(frozen=True, slots=True)
class Stamp:
    """What makes a batch of one partition recognizable when it is sent again: as in Kafka, KIP-98."""

    producer_id: int
    epoch: int
    first_sequence: int
    gaps_allowed: bool = False
    """The caller numbers the events itself, over all partitions, so numbers may be missing in one."""
    last_sequence: int | None = None
