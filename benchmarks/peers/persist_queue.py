"""persist-queue: its ``SQLiteQueue``.

Disk is SQLite's ``synchronous=FULL`` in WAL mode, its default. Process is OFF, set on its writing connection.
It commits each ``put``, so a batch is as many commits. Reading is ``get``, which deletes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.contract import DISK, Client, Place, Take, installed


@dataclass(frozen=True, slots=True)
class PersistQueuePeer:
    """A queue of persist-queue."""

    name: str = "persist-queue"
    shares_client: bool = True

    @property
    def cannot(self) -> Mapping[str, str]:
        """Its wake-up is an event of one process."""
        return {"follow": "has no wake-up between processes, only within one"}

    @contextmanager
    def running(self, directory: Path, durability: str) -> Iterator[Place]:
        """Nothing to start."""
        installed("persistqueue")
        yield Place(directory, durability)

    def connect(self, place: Place) -> Client:
        """Open the database."""
        return _PersistQueueClient(place)


def open_queue(place: Place, kind: str = "SQLiteQueue") -> Any:
    """Open one of persist-queue's queues with the durability of the place."""
    queue = getattr(installed("persistqueue"), kind)(
        str(place.directory), multithreading=True, timeout=30.0
    )
    level = "FULL" if place.durability == DISK else "OFF"
    queue._putter.execute(f"PRAGMA synchronous={level}")
    return queue


class _PersistQueueClient:
    def __init__(self, place: Place) -> None:
        self._queue = open_queue(place)

    def prepare(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Return them as they are."""
        return list(payloads)

    def append(self, prepared: list[bytes]) -> None:
        """Put, one by one."""
        for payload in prepared:
            self._queue.put(payload)

    def read(self) -> int:
        """Get until it is empty."""
        events = 0
        while self._queue.qsize():
            self._queue.get(block=False)
            events += 1
        return events

    def follow(self, take: Take) -> None:
        """See ``PersistQueuePeer.cannot``."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the database."""
        self._queue.close()
