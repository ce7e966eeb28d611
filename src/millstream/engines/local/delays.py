"""Recording the four delays in the catalog, in the transaction that publishes the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from millstream.primitives.clock import Clock
from millstream.primitives.histogram import PHASES, Histogram
from millstream.store import Store, Transaction

_MINUTE_US = 60_000_000

STORED_EVERY_S: Final = 0.1
"""How often a stream stores its delays at most: a fifth of a small commit was spent on them."""


class PendingDelays:
    """Delays that no commit has stored yet, by phase. A kill loses them, and nothing else. One thread."""

    def __init__(self, clock: Clock) -> None:
        """The first ones are due at once."""
        self._clock = clock
        self._phases: dict[str, Histogram] = {}
        self._due_s = clock.monotonic_s()

    def add(self, phases: Mapping[str, Histogram]) -> None:
        """Keep delays for the next commit that is due."""
        for phase, histogram in phases.items():
            if not histogram.is_empty:
                self._phases.setdefault(phase, Histogram()).merge(histogram)

    @property
    def is_due(self) -> bool:
        """Whether the next commit shall store them."""
        return self._clock.monotonic_s() >= self._due_s

    @property
    def wait_s(self) -> float | None:
        """After how many seconds they are due though nothing else is committed; None if there are none."""
        return max(0.0, self._due_s - self._clock.monotonic_s()) if self._phases else None

    def taken(self, phases: Mapping[str, Histogram]) -> dict[str, Histogram]:
        """Return all there are with those of now, and keep none of them."""
        self.add(phases)
        taken, self._phases = self._phases, {}
        self._due_s = self._clock.monotonic_s() + STORED_EVERY_S
        return taken


def record_delays(
    tx: Transaction, kind: str, subject: str, phases: Mapping[str, Histogram]
) -> None:
    """Add histograms, by phase, to those of this minute. ``kind`` is ``batch``, ``stream`` or ``task``."""
    minute = tx.now_us // _MINUTE_US
    stored = tx.run("delays/get", (kind, subject, minute))
    merged = []
    for position, phase in enumerate(PHASES):
        histogram = Histogram.from_bytes(stored[0][position]) if stored else Histogram()
        if phase in phases:
            histogram.merge(phases[phase])
        merged.append(histogram.to_bytes())
    tx.run("delays/put", (kind, subject, minute, *merged))


def read_delays(store: Store, *, since_us: int = 0) -> dict[tuple[str, str], dict[str, Histogram]]:
    """Return the merged histograms of each (kind, subject) since a time, by phase."""
    with store.read() as snapshot:
        rows = snapshot.run("delays/since", (since_us // _MINUTE_US,))
    result: dict[tuple[str, str], dict[str, Histogram]] = {}
    for kind, subject, *blobs in rows:
        phases = result.setdefault((kind, subject), {phase: Histogram() for phase in PHASES})
        for phase, blob in zip(PHASES, blobs, strict=True):
            phases[phase].merge(Histogram.from_bytes(blob))
    return result
