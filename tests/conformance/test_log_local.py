"""The log of the local engine passes the suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.engines.local.inbox import LocalInbox
from millstream.engines.local.log import LocalLog
from millstream.primitives.duration import Duration
from millstream.store import Store
from millstream.store.check import check
from millstream.testing.clock import VirtualClock
from millstream.testing.inbox_suite import InboxSuite
from millstream.testing.log_clients_suite import ConsumerSuite, ProducerSuite, TransactionSuite
from millstream.testing.log_suite import AppendSuite, TopicSuite


class World:
    """A store with virtual time; other processes are other stores on the same directory."""

    def __init__(self, path: Path, durability: str) -> None:
        self._path = path
        self._durability = durability
        self._clock = VirtualClock()
        self._opened: list[tuple[Store, LocalLog]] = []
        self.engine = self.another()

    def now_us(self) -> int:
        return self._clock.now_us()

    def advance(self, duration: Duration) -> None:
        self._clock.advance(duration)

    def another(self) -> LocalLog:
        store = Store.open(self._path, durability=self._durability, clock=self._clock)
        log = LocalLog(store)
        store.duty.stop()
        self._opened.append((store, log))
        return log

    def inbox(self, engine: LocalLog) -> LocalInbox:
        return LocalInbox(engine)

    def close(self) -> None:
        for store, log in self._opened:
            log.close()
            store.close()


class TestLocal(
    TopicSuite, AppendSuite, ConsumerSuite, ProducerSuite, TransactionSuite, InboxSuite
):
    @pytest.fixture(params=["disk", "process"])
    def world(self, request: pytest.FixtureRequest, store_path: Path) -> Iterator[World]:
        made = World(store_path, request.param)
        yield made
        made.close()
        assert check(store_path) == []
