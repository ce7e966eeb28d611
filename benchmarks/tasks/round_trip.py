"""From ``.delay`` in this process, through a worker process, until ``.get`` returns."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from benchmarks.harness import OWN, Contender, Figure, Settings, Values, run_rounds
from benchmarks.peers.contract import DISK, PROCESS, Place
from benchmarks.tasks.queues import OWN_QUEUE
from benchmarks.tasks.shop import add, worker

_MEDIAN, _TAIL = "p50", "p99"
_WARM_UP_CALLS = 20
_TIMEOUT_S = 60.0


def round_trip(settings: Settings) -> list[Figure]:
    """Return median and 99th percentile for both durabilities. The peers have no blocking wait for a result."""
    figures = []
    for durability in (PROCESS, DISK):
        contender = Contender(OWN, partial(_measure, settings, durability))
        outcome = run_rounds([contender], settings, title=f"round trip, {durability}")
        figures += [
            Figure(
                f"delay to get, {value}{', disk' if durability == DISK else ''}",
                outcome.of(OWN, value),
                "ms",
                durability,
                better="lower",
                notes=("one call after the other, one worker process",),
            )
            for value in (_MEDIAN, _TAIL)
        ]
    return figures


def _measure(settings: Settings, durability: str, directory: Path) -> Values:
    place = Place(directory, durability)
    with OWN_QUEUE.open(place), worker(place):
        waits_ms = []
        for _ in range(_WARM_UP_CALLS + settings.scaled(1_000, 20)):
            began = time.perf_counter()
            add.delay(1, 2).get(timeout=_TIMEOUT_S)
            waits_ms.append(1000 * (time.perf_counter() - began))
    measured = sorted(waits_ms[_WARM_UP_CALLS:])
    return {
        _MEDIAN: measured[len(measured) // 2],
        _TAIL: measured[min(len(measured) - 1, len(measured) * 99 // 100)],
    }
