"""litequeue: a queue on SQLite.

It sets ``synchronous=NORMAL`` in WAL mode: process. For disk we set FULL on its connection, which is public. A batch is
``put`` in one of its transactions. Messages are text. Reading is ``pop``: there is no reading without taking.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.contract import DISK, Client, Place, Take, installed


@dataclass(frozen=True, slots=True)
class LiteQueuePeer:
    """A queue of litequeue."""

    name: str = "litequeue"
    shares_client: bool = False

    @property
    def cannot(self) -> Mapping[str, str]:
        """A reader has to poll."""
        return {"follow": "has no wake-up between processes, a reader has to poll"}

    @contextmanager
    def running(self, directory: Path, durability: str) -> Iterator[Place]:
        """Make the table, so that the clients do not compete for that."""
        place = Place(directory, durability)
        with closing(self.connect(place)):
            yield place

    def connect(self, place: Place) -> Client:
        """Open the database."""
        return _LiteQueueClient(place)


def open_queue(place: Place) -> Any:
    """Open litequeue's database with the durability of the place."""
    queue = installed("litequeue").LiteQueue(str(place.directory / "lite.db"), timeout=30)
    if place.durability == DISK:
        queue.conn.execute("PRAGMA synchronous=FULL")
    return queue


class _LiteQueueClient:
    def __init__(self, place: Place) -> None:
        self._queue = open_queue(place)

    def prepare(self, payloads: Sequence[bytes]) -> list[str]:
        """Return text."""
        return [payload.decode("ascii") for payload in payloads]

    def append(self, prepared: list[str]) -> None:
        """Put, several in one transaction."""
        if len(prepared) == 1:
            self._queue.put(prepared[0])
            return
        with self._queue.transaction():
            for payload in prepared:
                self._queue.put(payload)

    def read(self) -> int:
        """Pop until it is empty."""
        events = 0
        while self._queue.pop() is not None:
            events += 1
        return events

    def follow(self, take: Take) -> None:
        """See ``LiteQueuePeer.cannot``."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the database."""
        self._queue.close()
