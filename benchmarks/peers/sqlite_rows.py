"""Plain SQLite: one row an event, written as one would without a library.

Disk is ``synchronous=FULL``, process is ``synchronous=OFF``, both in WAL mode. It runs on the same SQLite as ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw

from benchmarks.peers.contract import DISK, Client, Place, Take

_BUSY_TIMEOUT_MS = 30_000
_INSERT = "INSERT INTO events (payload) VALUES (?)"

Row = tuple[bytes]


@dataclass(frozen=True, slots=True)
class SqliteRows:
    """A table of events."""

    name: str = "sqlite rows"
    shares_client: bool = False

    @property
    def cannot(self) -> Mapping[str, str]:
        """Another process has to poll: what one then measures is one's own polling."""
        return {"follow": "has no wake-up between processes, a reader has to poll"}

    @contextmanager
    def running(self, directory: Path, durability: str) -> Iterator[Place]:
        """Make the table."""
        place = Place(directory, durability)
        with closing(self.connect(place)):
            yield place

    def connect(self, place: Place) -> Client:
        """Open the database."""
        return _SqliteClient(place)


class _SqliteClient:
    def __init__(self, place: Place) -> None:
        self._connection = connection = apsw.Connection(str(place.directory / "rows.db"))
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full" if place.durability == DISK else "off")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, payload BLOB NOT NULL)"
        )

    def prepare(self, payloads: Sequence[bytes]) -> list[Row]:
        """Return rows."""
        return [(payload,) for payload in payloads]

    def append(self, prepared: list[Row]) -> None:
        """One transaction."""
        if len(prepared) == 1:
            self._connection.execute(_INSERT, prepared[0])
            return
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(_INSERT, prepared)
        self._connection.execute("COMMIT")

    def read(self) -> int:
        """Fetch every row as Python objects."""
        rows = self._connection.execute("SELECT id, payload FROM events ORDER BY id").fetchall()
        return len(rows)

    def follow(self, take: Take) -> None:
        """See ``SqliteRows.cannot``."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the database."""
        self._connection.close()
