"""What a task queue must do to be measured, and ours and its peers behind that.

A worker takes a task, calls the function, and acknowledges: late, so that a killed worker loses nothing. It does one
task at a time. The peers' worker is a loop in this process; ours is ``millstream worker``, a process of its own, and
the time ends when the last result has come back from it. Only millstream stores results.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.harness import OWN, Settings
from benchmarks.peers.contract import Place
from benchmarks.peers.honker_stream import open_database
from benchmarks.peers.lite_queue import open_queue as open_lite_queue
from benchmarks.peers.persist_queue import open_queue as open_persist_queue
from benchmarks.tasks.shop import add, app, worker
from millstream.primitives.durability import Durability

_CLAIMED_AT_ONCE = 256
_WORKER = "worker"
_TIMEOUT_S = 60.0

Call = Mapping[str, int]
_WARM_UP: Call = {"a": 0, "b": 0}


class Queue(Protocol):
    """A queue of calls of ``add``."""

    def send(self, call: Call) -> None:
        """Store one call; return when it is acknowledged."""

    def send_many(self, calls: list[Call]) -> None:
        """Store several with as few commits as the queue offers."""

    def do(self, calls: list[Call]) -> float:
        """Send them, let a worker do them, and return how many seconds both took together."""

    def close(self) -> None:
        """Let go of it."""


class QueueSystem(Protocol):
    """A way to keep tasks."""

    @property
    def name(self) -> str:
        """How the table calls it."""

    def open(self, place: Place) -> AbstractContextManager[Queue]:
        """Open it in an empty directory. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class System:
    """A queue by the class that wraps it."""

    name: str
    kind: type[Any]

    def open(self, place: Place) -> AbstractContextManager[Queue]:
        """Open it; it is closed with the block."""
        return closing(self.kind(place))


class MillstreamQueue:
    """``.delay``, ``enqueue_many``, and the worker of ``millstream worker`` in burst mode."""

    def __init__(self, place: Place) -> None:
        """Point the app to this store."""
        app.store_path = str(place.directory / "bench.mill")
        app.durability = Durability(place.durability)
        self._place = place

    def send(self, call: Call) -> None:
        """Send one."""
        add.delay(**call)

    def send_many(self, calls: list[Call]) -> None:
        """Send them in one commit."""
        add.enqueue_many(add.s(**call) for call in calls)

    def do(self, calls: list[Call]) -> float:
        """All calls become visible in one commit, to a worker that waits for them."""
        with worker(self._place):
            add.delay(**_WARM_UP).get(timeout=_TIMEOUT_S)
            began = time.perf_counter()
            last = add.enqueue_many(add.s(**call) for call in calls)[-1]
            last.get(timeout=_TIMEOUT_S)
            return time.perf_counter() - began

    def close(self) -> None:
        """Close the store."""
        app.close()


class _InProcess:
    """A peer, whose worker is a loop in this process."""

    def send_many(self, calls: list[Call]) -> None:
        """See ``Queue``."""
        raise NotImplementedError

    def work(self) -> int:
        """Do all that is there, and return how many were done."""
        raise NotImplementedError

    def do(self, calls: list[Call]) -> float:
        """Send, then work until nothing is left."""
        began = time.perf_counter()
        self.send_many(calls)
        done = self.work()
        elapsed = time.perf_counter() - began
        if done != len(calls):
            raise RuntimeError(f"{done} of {len(calls)} tasks were done")
        return elapsed


class HonkerQueue(_InProcess):
    """honker's queue: ``enqueue``, and ``claim_batch`` with ``ack_batch``."""

    def __init__(self, place: Place) -> None:
        """Open the database."""
        self._database = open_database(place)
        self._queue = self._database.queue("default")

    def send(self, call: Call) -> None:
        """Enqueue one."""
        self._queue.enqueue(dict(call))

    def send_many(self, calls: list[Call]) -> None:
        """Enqueue them in one transaction."""
        with self._database.transaction() as transaction:
            for call in calls:
                self._queue.enqueue(dict(call), tx=transaction)

    def work(self) -> int:
        """Claim, do and acknowledge in batches."""
        done = 0
        while jobs := self._queue.claim_batch(_WORKER, _CLAIMED_AT_ONCE):
            for job in jobs:
                add(**job.payload)
            done += self._queue.ack_batch([job.id for job in jobs], _WORKER)
        return done

    def close(self) -> None:
        """Close the database."""
        self._database.close()


class LiteQueueQueue(_InProcess):
    """litequeue: ``put``, and ``pop`` with ``done``. It has no claim of several."""

    def __init__(self, place: Place) -> None:
        """Open the database."""
        self._queue = open_lite_queue(place)

    def send(self, call: Call) -> None:
        """Put one."""
        self._queue.put(f"{call['a']} {call['b']}")

    def send_many(self, calls: list[Call]) -> None:
        """Put them in one transaction."""
        with self._queue.transaction():
            for call in calls:
                self.send(call)

    def work(self) -> int:
        """Pop, do, mark as done."""
        done = 0
        while (message := self._queue.pop()) is not None:
            a, b = message.data.split()
            add(int(a), int(b))
            self._queue.done(message.message_id)
            done += 1
        return done

    def close(self) -> None:
        """Close the database."""
        self._queue.close()


class PersistQueueQueue(_InProcess):
    """persist-queue's ``SQLiteAckQueue``: ``put``, and ``get`` with ``ack``. It has no batches."""

    def __init__(self, place: Place) -> None:
        """Open the database."""
        self._queue = open_persist_queue(place, "SQLiteAckQueue")

    def send(self, call: Call) -> None:
        """Put one."""
        self._queue.put(dict(call))

    def send_many(self, calls: list[Call]) -> None:
        """Put one by one."""
        for call in calls:
            self.send(call)

    def work(self) -> int:
        """Get, do, acknowledge."""
        done = 0
        while self._queue.qsize():
            item = self._queue.get(block=False, raw=True)
            add(**item["data"])
            self._queue.ack(id=item["pqid"])
            done += 1
        return done

    def close(self) -> None:
        """Close the database."""
        self._queue.close()


OWN_QUEUE = System(OWN, MillstreamQueue)


def systems(settings: Settings) -> list[System]:
    """Return ours, and the peers if they are wanted."""
    if not settings.with_peers:
        return [OWN_QUEUE]
    return [
        OWN_QUEUE,
        System("honker", HonkerQueue),
        System("litequeue", LiteQueueQueue),
        System("persist-queue", PersistQueueQueue),
    ]
