"""What the run of a stream notes of itself in each commit: where its time goes, and what its steps have counted.

A commit stores it in the row of the flow that it changes anyway. It is about one run, of the process that has the flow
or had it last; what a commit costs is in the figures of the next one.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from millstream.flows.figures import Counted, Load
from millstream.flows.merging import plan_text
from millstream.flows.plan import Plan
from millstream.primitives.clock import Clock
from millstream.primitives.codec import encode

RECENT_S: Final = 60.0
"""Of how long the recent load is."""
MARK_S: Final = 1.0
"""How often, at most, the load is noted for that."""


class LoadMeter:
    """Where the time of a stream goes. Belongs to one thread."""

    def __init__(self, clock: Clock) -> None:
        """Begin now."""
        self._clock = clock
        self._begun_s = clock.monotonic_s()
        self._spent_s = {"read": 0.0, "process": 0.0, "commit": 0.0}
        self._rows = 0
        self._marks: deque[Load] = deque([self.whole()])

    def add(self, rows: int) -> None:
        """Count rows that were taken in."""
        self._rows += rows

    @contextmanager
    def spending(self, phase: str) -> Iterator[None]:
        """Count the time of ``read``, ``process`` or ``commit``."""
        started_s = self._clock.monotonic_s()
        yield
        self._spent_s[phase] += self._clock.monotonic_s() - started_s

    def whole(self) -> Load:
        """Return the load since the beginning."""
        spent_us = {f"{phase}_us": round(s * 1e6) for phase, s in self._spent_s.items()}
        elapsed_us = round((self._clock.monotonic_s() - self._begun_s) * 1e6)
        return Load(elapsed_us=elapsed_us, rows_in=self._rows, **spent_us)

    def recent(self) -> Load:
        """Return the load of the last minute, or since the beginning if that is shorter ago."""
        now, marks = self.whole(), self._marks
        if now.elapsed_us - marks[-1].elapsed_us >= MARK_S * 1e6:
            marks.append(now)
        while len(marks) > 1 and now.elapsed_us - marks[1].elapsed_us >= RECENT_S * 1e6:
            marks.popleft()
        before = marks[0]
        return Load(
            now.elapsed_us - before.elapsed_us,
            now.read_us - before.read_us,
            now.process_us - before.process_us,
            now.commit_us - before.commit_us,
            now.rows_in - before.rows_in,
        )


@dataclass(frozen=True)
class StoredFigures:
    """What a commit stores of the run that makes it."""

    plan: int
    """A checksum of the steps: figures of other steps are not shown."""
    started_us: int
    committed_us: int
    rows_in: int
    rows_out: int
    late: int
    untimed: int
    failed: int
    batches: int
    full: int
    batch_events: int
    load: Load
    recent: Load
    steps: list[Counted]

    def to_bytes(self) -> bytes:
        """Return it as it is stored."""
        return encode(self)


def plan_checksum(plan: Plan) -> int:
    """Return a checksum of the steps of a plan."""
    return zlib.crc32(plan_text(plan).encode())
