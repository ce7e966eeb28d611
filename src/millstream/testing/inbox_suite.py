"""What every inbox must do: the contract of ``millstream.log.inbox`` as tests, beside the suites of the log."""
# ruff: noqa: D102 - the names of the tests are the promises

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import pytest

from millstream.log.contract import LogEngine
from millstream.log.inbox import Fate, Inbox, MessageKey, Received
from millstream.primitives.durability import Durability
from millstream.primitives.duration import duration_us
from millstream.primitives.errors import SchemaError, UnknownTopic
from millstream.testing.log_suite import LogWorld, events, everything, topic


class InboxWorld(LogWorld, Protocol):
    """A log with a door."""

    def inbox(self, engine: LogEngine) -> Inbox:
        """Return the inbox of a log."""
        ...


def key(name: str = "one", digest: bytes = b"d", remember: str = "1h") -> MessageKey:
    """Return the key of a message."""
    return MessageKey(name, digest, duration_us(remember))


class InboxSuite:
    """Messages from outside: appended once, for as long as their keys are known."""

    @pytest.mark.parametrize("durability", list(Durability))
    def test_a_message_is_stored_once(self, world: InboxWorld, durability: Durability) -> None:
        made = topic(world)
        told = [
            world.inbox(engine).receive(made, events(1, 2), key=key(), durability=durability)
            for engine in (world.engine, world.engine, world.another())
        ]
        assert told == [Received(fate, 2) for fate in (Fate.STORED, Fate.REPEATED, Fate.REPEATED)]
        assert everything(world.engine, made) == [1, 2]

    def test_a_message_without_a_key_is_stored_each_time(self, world: InboxWorld) -> None:
        made, inbox = topic(world), world.inbox(world.engine)
        for _ in range(2):
            told = inbox.receive(made, events(1), key=None, durability=Durability.PROCESS)
            assert told.fate is Fate.STORED
        assert everything(world.engine, made) == [1, 1]

    def test_a_key_of_another_message_is_a_conflict(self, world: InboxWorld) -> None:
        made, inbox = topic(world), world.inbox(world.engine)
        inbox.receive(made, events(1), key=key(), durability=Durability.PROCESS)
        told = inbox.receive(made, events(2), key=key(digest=b"e"), durability=Durability.PROCESS)
        assert told == Received(Fate.CONFLICT, 1)
        assert everything(world.engine, made) == [1]

    def test_each_topic_has_keys_of_its_own(self, world: InboxWorld) -> None:
        inbox = world.inbox(world.engine)
        for name in ("a", "b"):
            made = topic(world, name)
            inbox.receive(made, events(1), key=key(), durability=Durability.PROCESS)
            assert everything(world.engine, made) == [1]

    def test_events_that_do_not_fit_leave_no_key(self, world: InboxWorld) -> None:
        made, inbox = topic(world), world.inbox(world.engine)
        with pytest.raises(SchemaError):
            inbox.receive(made, [{"n": "x"}], key=key(), durability=Durability.PROCESS)
        told = inbox.receive(made, events(1), key=key(), durability=Durability.PROCESS)
        assert told.fate is Fate.STORED

    def test_a_key_is_known_for_as_long_as_it_was_asked(self, world: InboxWorld) -> None:
        made, inbox = topic(world), world.inbox(world.engine)
        fates = []
        for name in ("one", "one", "two", "one"):
            told = inbox.receive(made, events(1), key=key(name), durability=Durability.PROCESS)
            fates.append(told.fate)
            world.advance("40m")
        assert fates == [Fate.STORED, Fate.REPEATED, Fate.STORED, Fate.STORED]

    def test_one_of_many_at_the_same_time_is_stored(self, world: InboxWorld) -> None:
        made = topic(world)
        inboxes = [world.inbox(world.engine), world.inbox(world.another())]

        def receive(number: int) -> Fate:
            inbox = inboxes[number % 2]
            return inbox.receive(made, events(1), key=key(), durability=Durability.PROCESS).fate

        with ThreadPoolExecutor(8) as pool:
            fates = list(pool.map(receive, range(16)))
        assert sorted(fate.value for fate in fates) == ["repeated"] * 15 + ["stored"]
        assert everything(world.engine, made) == [1]

    def test_an_unknown_topic_is_refused(self, world: InboxWorld) -> None:
        made, inbox = topic(world), world.inbox(world.engine)
        assert inbox.topic("events") == made
        with pytest.raises(UnknownTopic):
            inbox.topic("event")
        world.engine.delete_topic("events")
        with pytest.raises(UnknownTopic):
            inbox.receive(made, events(1), key=key(), durability=Durability.PROCESS)
