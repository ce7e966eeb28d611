"""Messages from outside: events and the key of their message in one transaction, so that each is appended once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from millstream.engines.local.append import SegmentGone, Staged, no_segment_kept
from millstream.engines.local.log import LocalLog
from millstream.log.definition import TopicInfo
from millstream.log.inbox import Fate, MessageKey, Received
from millstream.primitives.durability import Durability
from millstream.store import Transaction

_STAGE_ATTEMPTS: Final = 8
FORGOTTEN_AT_ONCE_MAX: Final = 64
"""How many keys whose time is over go with each new one: more than come, and few enough to be quick."""


class LocalInbox:
    """Over one log. Thread-safe."""

    def __init__(self, log: LocalLog) -> None:
        """Append to topics of this log."""
        self._log = log

    def topic(self, name: str) -> TopicInfo:
        """Return a topic. Raises UnknownTopic."""
        return self._log.topic(name)

    def receive(
        self,
        topic: TopicInfo,
        events: Sequence[Mapping[str, Any]],
        *,
        key: MessageKey | None,
        durability: Durability,
    ) -> Received:
        """Append events unless the key of their message is known; see ``Inbox``."""
        if key is not None:
            # A message that comes again must not be written to a segment first. The transaction looks again.
            known = self._log.store.look("log/received_get", (topic.id, key.key))
            if known:
                return _repeated(key, *known[0])
        for _ in range(_STAGE_ATTEMPTS):
            staged = self._log.stage(topic, events, durability=durability)
            work = _Receiving(staged, topic, key, len(events))
            try:
                return self._log.store.write(work, durability=durability)
            except SegmentGone:
                continue
        raise no_segment_kept(topic.name, _STAGE_ATTEMPTS)


class _Receiving:
    """The transaction."""

    def __init__(
        self, staged: Staged, topic: TopicInfo, key: MessageKey | None, events: int
    ) -> None:
        self._staged = staged
        self._topic = topic
        self._key = key
        self._events = events

    def __call__(self, tx: Transaction) -> Received:
        key = self._key
        if key is not None:
            tx.run("log/received_forget", (tx.now_us, FORGOTTEN_AT_ONCE_MAX))
            forget_us = tx.now_us + key.remember_us
            values = (self._topic.id, key.key, key.digest, self._events, forget_us)
            if not tx.run("log/received_insert", values):
                [known] = tx.run("log/received_get", (self._topic.id, key.key))
                return _repeated(key, *known)
        self._staged.apply(tx)
        return Received(Fate.STORED, self._events)


def _repeated(key: MessageKey, digest: bytes, events: int) -> Received:
    return Received(Fate.REPEATED if digest == key.digest else Fate.CONFLICT, events)
