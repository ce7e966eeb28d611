"""A single append to the disk beside the least that it can cost: one fdatasync and one SQLite commit.

The two alternate in slices of a few operations, so that both see the same disk at the same time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import apsw

from benchmarks.harness import OWN, Contender, Figure, Settings, Values, run_rounds
from benchmarks.log.own import Millstream, payloads
from benchmarks.peers.contract import DISK
from benchmarks.report import readable

_SLICE_OPERATIONS = 20
_RATIO, _OWN_US = "× the floor", "µs"
_SYNC_US, _COMMIT_US = "fdatasync µs", "commit µs"
_TARGET = 1.5


class Floor:
    """A file that grows by one event and a sync at a time, and a table that grows by a row and a commit."""

    def __init__(self, directory: Path) -> None:
        """Make both."""
        self._payload = payloads(1)[0]
        self._file = os.open(directory / "floor.log", os.O_CREAT | os.O_RDWR, 0o644)
        self._end = 0
        self._connection = connection = apsw.Connection(str(directory / "floor.db"))
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full")
        connection.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, payload BLOB)")

    def sync(self) -> None:
        """Append to the file and wait for the disk."""
        self._end += os.pwrite(self._file, self._payload, self._end)
        os.fdatasync(self._file)

    def commit(self) -> None:
        """Commit a row, synchronous=FULL."""
        self._connection.execute("INSERT INTO events (payload) VALUES (?)", (self._payload,))

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close both."""
        os.close(self._file)
        self._connection.close()


def singles_against_floor(settings: Settings) -> list[Figure]:
    """Return the ratio; the times it is made of are in its note."""
    contender = Contender(OWN, partial(_measure, settings))
    outcome = run_rounds([contender], settings, title="single append against its floor")
    parts = [
        f"{what}: {readable(outcome.of(OWN, value).median or 0)} µs"
        for what, value in (
            ("an append", _OWN_US),
            ("one fdatasync of 100 bytes more in a file", _SYNC_US),
            ("one SQLite commit of a row, synchronous=FULL", _COMMIT_US),
        )
    ]
    return [
        Figure(
            "single append over (one fdatasync + one SQLite FULL commit)",
            outcome.of(OWN, _RATIO),
            "times the cost",
            DISK,
            _TARGET,
            "lower",
            notes=(f"in turns of {_SLICE_OPERATIONS} operations; {'; '.join(parts)}",),
        )
    ]


def _measure(settings: Settings, directory: Path) -> Values:
    system = Millstream()
    with system.running(directory, DISK) as place, Floor(directory) as floor:
        client = system.connect(place)
        event = client.prepare(payloads(1))
        try:
            steps: dict[str, Callable[[], None]] = {
                _OWN_US: lambda: client.append(event),
                _SYNC_US: floor.sync,
                _COMMIT_US: floor.commit,
            }
            _alternate(steps, settings.warm_up_s)
            spent = _alternate(steps, settings.seconds)
        finally:
            client.close()
    return {**spent, _RATIO: spent[_OWN_US] / (spent[_SYNC_US] + spent[_COMMIT_US])}


def _alternate(steps: dict[str, Callable[[], None]], seconds: float) -> dict[str, float]:
    """Do all steps in turn, in slices, and return the µs of one operation of each."""
    spent = dict.fromkeys(steps, 0.0)
    slices = 0
    while sum(spent.values()) < seconds:
        slices += 1
        for name, step in steps.items():
            began = time.perf_counter()
            for _ in range(_SLICE_OPERATIONS):
                step()
            spent[name] += time.perf_counter() - began
    return {name: 1e6 * total / (slices * _SLICE_OPERATIONS) for name, total in spent.items()}
