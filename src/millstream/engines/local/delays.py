"""Recording the four delays in the catalog, in the transaction that publishes the result."""

from __future__ import annotations

from collections.abc import Mapping

from millstream.primitives.histogram import PHASES, Histogram
from millstream.store import Store, Transaction

_MINUTE_US = 60_000_000


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
