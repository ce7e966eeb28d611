"""honker: durable streams on SQLite, written in Rust.

It opens SQLite with ``synchronous=NORMAL`` in WAL mode, which survives a kill but not a power loss: process. It offers
no setting for more. For disk we set FULL on its writing connection, between two of its transactions.
A batch is one transaction. Its payload is JSON, so the bytes travel as text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.contract import DISK, Client, Place, Take, installed

_END = "end"


@dataclass(frozen=True, slots=True)
class HonkerStream:
    """A stream of honker."""

    name: str = "honker"
    shares_client: bool = True

    @property
    def cannot(self) -> Mapping[str, str]:
        """It can do all of it."""
        return {}

    @contextmanager
    def running(self, directory: Path, durability: str) -> Iterator[Place]:
        """Nothing to start."""
        installed("honker", group="honker")
        yield Place(directory, durability)

    def connect(self, place: Place) -> Client:
        """Open the database."""
        return _HonkerClient(place)


def open_database(place: Place) -> Any:
    """Open honker's database with the durability of the place."""
    database = installed("honker", group="honker").open(str(place.directory / "honker.db"))
    if place.durability == DISK:
        # The pragma is refused inside a transaction, so it stands between the two halves of one.
        with database.transaction() as transaction:
            transaction.execute("COMMIT")
            transaction.execute("PRAGMA synchronous=FULL")
            transaction.execute("BEGIN IMMEDIATE")
    return database


class _HonkerClient:
    def __init__(self, place: Place) -> None:
        self._database = open_database(place)
        self._stream = self._database.stream("events")

    def prepare(self, payloads: Sequence[bytes]) -> list[str]:
        """Return text."""
        return [payload.decode("ascii") for payload in payloads]

    def append(self, prepared: list[str]) -> None:
        """Publish, several in one transaction."""
        if len(prepared) == 1:
            self._stream.publish(prepared[0])
            return
        with self._database.transaction() as transaction:
            for payload in prepared:
                self._stream.publish(payload, tx=transaction)

    def read(self) -> int:
        """Subscribe from the first event on, up to a mark that is published last."""
        self._stream.publish(_END)
        events = 0

        def take(payload: bytes) -> bool:
            nonlocal events
            events += 1
            return payload != _END.encode()

        self.follow(take)
        return events - 1

    def follow(self, take: Take) -> None:
        """Subscribe, in an event loop."""
        asyncio.run(self._follow(take))

    async def _follow(self, take: Take) -> None:
        async for event in self._stream.subscribe(from_offset=0):
            if not take(event.payload.encode("ascii")):
                return

    def close(self) -> None:
        """Close the database."""
        self._database.close()
