"""Messages from outside, each appended once: what a door asks of the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from millstream.log.definition import TopicInfo
from millstream.primitives.durability import Durability


class Fate(Enum):
    """What became of a message."""

    STORED = "stored"
    REPEATED = "repeated"
    """Its key is known: the events are there already."""
    CONFLICT = "conflict"
    """Its key is known, of another message. Nothing was stored."""


@dataclass(frozen=True)
class MessageKey:
    """What a message is known by when it comes again."""

    key: str
    digest: bytes
    """Of the message as it came: a key that comes with another message is a mistake of the sender."""
    remember_us: int
    """For how long, at least."""


@dataclass(frozen=True)
class Received:
    """What became of a message, and how many events it holds or held."""

    fate: Fate
    events: int


class Inbox(Protocol):
    """Thread-safe."""

    def topic(self, name: str) -> TopicInfo:
        """Return a topic. Raises UnknownTopic."""

    def receive(
        self,
        topic: TopicInfo,
        events: Sequence[Mapping[str, Any]],
        *,
        key: MessageKey | None,
        durability: Durability,
    ) -> Received:
        """Append events, and remember the key, in one transaction; return when they are as durable as is asked.

        Whatever kills the process: either both are stored or nothing is. Raises SchemaError or EventTooLarge (nothing
        is stored), UnknownTopic, StoreBusy, StoreFull, StoreStopped.
        """
